"""XRAI against the authors' package: the same regions, the same map, bit by bit."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from backend.catalog import METHODS
from backend.errors import Cancelled
from backend.models.networks import build
from backend.path_attribution import integrated_gradients, segmentation, xrai
from tests.helpers import make_problem, random_images, relative_difference, reseed, tiny_cnn

saliency = pytest.importorskip("saliency.core")
data = pytest.importorskip("skimage.data")


def photo(side: int = 224) -> np.ndarray:
    """A real picture (H, W, 3) in [0, 1], whole or its left upper part."""
    return data.chelsea()[:side, 100 : 100 + side] / 255.0


def theirs(image: np.ndarray, attribution: np.ndarray, min_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Map and ranks of the authors' package, for attributions (H, W, C)."""
    params = saliency.XRAIParameters(algorithm="full", return_xrai_segments=True)
    params.experimental_params["min_pixel_diff"] = min_pixels
    details = saliency.XRAI().GetMaskWithDetails(image, None, base_attribution=attribution, extra_parameters=params)
    return details.attribution_mask, details.segments


def ours(image: np.ndarray, attribution: np.ndarray, min_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    regions = segmentation.xrai_regions(image)
    values, ranks = xrai.rank_regions(attribution.max(axis=2).ravel(), regions, min_pixels)
    return values.reshape(image.shape[:2]), ranks.reshape(image.shape[:2])


def assert_same(image: np.ndarray, attribution: np.ndarray, min_pixels: int) -> None:
    (map_theirs, ranks_theirs), (map_ours, ranks_ours) = (f(image, attribution, min_pixels) for f in (theirs, ours))
    assert np.array_equal(ranks_ours, ranks_theirs)
    assert np.array_equal(map_ours, map_theirs)


@pytest.mark.parametrize("shape", [(224, 224), (150, 200)])
def test_the_same_regions_and_map_as_the_authors_on_a_photograph(shape) -> None:
    image = photo()[: shape[0], : shape[1]]
    assert_same(image, np.random.default_rng(0).normal(size=image.shape), min_pixels=50)


def test_ties_fall_as_the_authors_fall() -> None:
    """A digit-like picture on black: attributions of whole regions are 0, and many means are equal."""
    image = np.zeros((28, 28, 1))
    image[6:22, 12:16] = 0.9
    image[6:9, 8:20] = 0.7
    attribution = np.random.default_rng(1).integers(-2, 3, size=image.shape) * (image > 0).astype(float)
    for min_pixels in (1, 10):
        assert_same(image, attribution, min_pixels)


def test_the_widened_regions_are_the_dilated_masks() -> None:
    from skimage.morphology import dilation, disk

    labels = np.repeat(np.repeat(np.arange(12).reshape(3, 4), 7, axis=0), 6, axis=1)
    labels[5:9, 3:8] = 11  # one label in two places
    masks = segmentation._widen(labels, segmentation._disk_offsets(5))
    for label, mask in enumerate(masks.toarray().reshape(-1, *labels.shape)):
        assert np.array_equal(mask, dilation(labels == label, footprint=disk(5)))


def test_ranking_by_hand() -> None:
    """Regions {0, 1} with mean 2.5, {1, 2, 3} with mean 4/3 and then {2, 3} with mean 1; pixel 4 is nobody's."""
    regions = csr_array(np.array([[1, 1, 0, 0, 0], [0, 1, 1, 1, 0]], dtype=bool))
    values, ranks = xrai.rank_regions(np.array([3.0, 2.0, 2.0, 0.0, -4.0]), regions, min_pixels=2)
    assert values.tolist() == [2.5, 2.5, 1.0, 1.0, -4.0]
    assert ranks.tolist() == [1, 1, 2, 2, 3]


def test_small_regions_are_not_ranked() -> None:
    regions = csr_array(np.array([[1, 0, 0, 0], [0, 1, 1, 1]], dtype=bool))
    values, _ = xrai.rank_regions(np.array([9.0, 1.0, 2.0, 3.0]), regions, min_pixels=2)
    assert values.tolist() == [9.0, 2.0, 2.0, 2.0]  # the first pixel is the rest, with its own mean


# ----------------------------------------------------------------- the method as a whole
def pictures(count: int = 2, side: int = 32) -> Tensor:
    coarse = random_images(count, 3, 4, 4, seed=2)
    return nn.functional.interpolate(coarse, side, mode="bilinear")


def test_it_ranks_the_mean_over_black_and_white_of_integrated_gradients() -> None:
    images = pictures(1)
    attribution = xrai.attribute(make_problem(tiny_cnn(3), images), n_steps=8, min_pixels=5).attribution
    black, white = (
        integrated_gradients.attribute(make_problem(tiny_cnn(3), images, baselines=level), n_steps=8).attribution
        for level in (0.0, 1.0)
    )
    mean = ((black + white) / 2)[0].permute(1, 2, 0).numpy()
    expected, _ = theirs(images[0].permute(1, 2, 0).numpy(), mean, 5)
    assert relative_difference(attribution[0, 0], torch.from_numpy(expected)) < 1e-12
    assert float(attribution.sum()) == pytest.approx(float(mean.max(axis=2).sum()))


def test_the_chosen_baseline_is_used_when_asked() -> None:
    images = pictures(1)
    chosen = xrai.attribute(make_problem(tiny_cnn(3), images, baselines=0.4), n_steps=8, baselines="chosen")
    ig = integrated_gradients.attribute(make_problem(tiny_cnn(3), images, baselines=0.4), n_steps=8)
    assert float(chosen.attribution.sum()) == pytest.approx(float(ig.attribution.amax(1).sum()))


@pytest.mark.parametrize("name", ["small-resnet", "small-vit"])
def test_a_batch_equals_its_images_one_by_one(name) -> None:
    images, net = pictures(2, 64), reseed(build(name, 4, 3))
    together = xrai.attribute(make_problem(net, images, targets=torch.tensor([1, 3])), n_steps=4).attribution
    alone = [
        xrai.attribute(make_problem(net, images[i : i + 1], targets=(1, 3)[i]), n_steps=4).attribution for i in (0, 1)
    ]
    assert together.shape == (2, 1, 64, 64)
    assert relative_difference(together, torch.cat(alone)) < 1e-10


def test_a_flat_picture_is_one_region() -> None:
    attribution = xrai.attribute(make_problem(tiny_cnn(), torch.full((1, 1, 12, 12), 0.5)), n_steps=4).attribution
    assert len(attribution.unique()) == 1 and torch.isfinite(attribution).all()


def test_steps_rise_to_the_total_and_it_can_be_cancelled() -> None:
    steps = []
    xrai.attribute(make_problem(tiny_cnn(3), pictures(), on_step=steps.append), n_steps=6)
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0

    def stop(step) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        xrai.attribute(make_problem(tiny_cnn(3), pictures(), on_step=stop), n_steps=6)


def test_the_catalog_row_fits() -> None:
    params = dict(METHODS["xrai"].complete_params({"n_steps": 3}))
    assert torch.isfinite(xrai.attribute(make_problem(tiny_cnn(3), pictures()), **params).attribution).all()
