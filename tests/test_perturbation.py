"""RISE and LIME against naive loops, closed forms and an independent library."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from backend.catalog import METHODS
from backend.errors import Cancelled, ModelFault
from backend.models.networks import build
from backend.path_attribution import lime, rise
from backend.path_attribution.segmentation import superpixels
from tests.helpers import CrampedNet, ScoreNet, make_problem, random_images, relative_difference, reseed, tiny_cnn

RISE = dict(samples=150, grid=5, keep=0.4)
LIME = dict(samples=120, segments=12, alpha=1e-4)  # the tiny net has tiny logits
METHODS_HERE = pytest.mark.parametrize(("method", "params"), [(rise.attribute, RISE), (lime.attribute, LIME)])


def blobs(channels: int = 1, side: int = 20, count: int = 2) -> Tensor:
    """Smooth pictures, so that superpixels have something to hold on to."""
    coarse = random_images(count, channels, 4, 4, seed=3)
    return nn.functional.interpolate(coarse, side, mode="bilinear")


# ----------------------------------------------------------------- RISE
def test_rise_equals_a_naive_loop_over_the_same_masks() -> None:
    problem = make_problem(tiny_cnn(), blobs(), baselines=0.3, targets=torch.tensor([2, 0]))
    masks = torch.cat(list(rise.random_masks(**RISE, size=(20, 20), generator=torch.Generator().manual_seed(0))))
    ours = rise.attribute(problem, **RISE).attribution
    for image, target, one in zip(problem.images, problem.targets, ours, strict=True):
        total = torch.zeros(20, 20, dtype=torch.float64)
        for mask in masks.double():
            behind = image * mask + 0.3 * (1 - mask)
            total += problem.model(behind[None]).softmax(1)[0, target].detach() * mask
        assert relative_difference(one[0], total / (len(masks) * 0.4)) < 1e-12


def test_rise_masks_are_the_enlarged_and_shifted_cells() -> None:
    """Against PyTorch's own enlargement of the same cells, cropped."""
    (masks,) = rise.random_masks(6, 4, 0.5, (10, 13), torch.Generator().manual_seed(5), block=6)
    generator = torch.Generator().manual_seed(5)
    cells = (torch.rand(6, 4, 4, generator=generator) < 0.5).float()
    down, right = (torch.randint(0, size, (6,), generator=generator) for size in (3, 4))
    enlarged = nn.functional.interpolate(cells[:, None], (15, 20), mode="bilinear", align_corners=False)[:, 0]
    for mask, picture, y, x in zip(masks, enlarged, down, right, strict=True):
        torch.testing.assert_close(mask, picture[y : y + 10, x : x + 13], atol=1e-6, rtol=0)


def test_rise_shows_its_running_map() -> None:
    """Every block of masks shows the estimate from the masks so far; the last one is the answer."""
    shown: list[Tensor] = []
    problem = make_problem(tiny_cnn(), blobs(), on_step=lambda step: None)
    problem.show = shown.append
    answer = rise.attribute(problem, **RISE).attribution
    assert len(shown) == 3 and torch.equal(shown[-1], answer)  # 150 masks in blocks of 64
    first = rise.attribute(make_problem(tiny_cnn(), blobs()), **{**RISE, "samples": 64}).attribution
    assert relative_difference(shown[0], first) < 1e-12 < relative_difference(shown[0], answer)


def test_rise_of_a_constant_classifier_is_its_probability() -> None:
    net = ScoreNet(lambda x: x.sum((1, 2, 3)) * 0 + np.log(3.0), lambda x: x.sum((1, 2, 3)) * 0)
    maps = rise.attribute(make_problem(net, blobs()), samples=4000, grid=4, keep=0.5).attribution
    assert (maps - 0.75).abs().max() < 0.75 * 5 / np.sqrt(4000)  # a mask's mean has sd < p; five standard errors


def test_rise_finds_the_only_pixel_that_matters() -> None:
    net = ScoreNet(lambda x: 20 * x[:, 0, 15, 4] - 10, lambda x: x.sum((1, 2, 3)) * 0)
    maps = rise.attribute(make_problem(net, torch.ones(1, 1, 20, 20)), samples=800).attribution[0, 0]
    row, column = divmod(int(maps.argmax()), 20)
    assert abs(row - 15) <= 2 and abs(column - 4) <= 2


def test_rise_shows_its_running_mean() -> None:
    problem = make_problem(tiny_cnn(), blobs())
    states = list(rise.running_maps(problem, **RISE))
    assert [done for done, _ in states] == [64, 128, 150]
    again = rise.attribute(make_problem(tiny_cnn(), blobs()), **RISE).attribution
    assert torch.equal(states[-1][1], again)


# ----------------------------------------------------------------- LIME
def test_lime_recovers_a_model_that_is_linear_in_superpixels() -> None:
    images = torch.ones(1, 1, 20, 20, dtype=torch.float64) * blobs(count=1)
    labels = torch.from_numpy(superpixels(images[0].permute(1, 2, 0).numpy(), 12))
    n = int(labels.max()) + 1
    coefficients = torch.linspace(-2, 3, n, dtype=torch.float64)
    first = torch.stack([(labels == k).flatten().int().argmax() for k in range(n)])  # a pixel of each superpixel

    def score(x: Tensor) -> Tensor:
        seen = x.flatten(1)[:, first] / images.flatten(1)[:, first]  # 1 if the superpixel is shown, else 0
        return seen @ coefficients + 0.7

    problem = make_problem(ScoreNet(score), images)
    attribution = lime.attribute(problem, samples=200, segments=12, alpha=0.0).attribution[0, 0]
    sums = torch.zeros(n, dtype=torch.float64).index_add(0, labels.flatten(), attribution.flatten())
    assert relative_difference(sums, coefficients) < 1e-9
    assert float(attribution.sum()) == pytest.approx(float(coefficients.sum()))


def test_lime_fit_equals_weighted_least_squares_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    patterns = lime.random_patterns(60, 5, generator).double().numpy()
    scores = torch.randn(60, generator=generator).double().numpy()
    ours = lime.fit_surrogate(patterns, scores, alpha=0.0)
    cosine = patterns.sum(1) / np.maximum(np.linalg.norm(patterns, axis=1) * np.sqrt(5), 1e-12)
    root = np.sqrt(np.exp(-((1 - cosine) ** 2) / (2 * 0.25**2)))[:, None]
    design = np.hstack([patterns, np.ones((60, 1))])
    by_hand = np.linalg.lstsq(design * root, scores * root[:, 0], rcond=None)[0]
    np.testing.assert_allclose([*ours.coefficients, ours.intercept], by_hand, atol=1e-10)


def test_lime_agrees_with_captum_on_the_same_superpixels() -> None:
    """Other random patterns and another kernel, the same linear model: both must find its coefficients."""
    captum = pytest.importorskip("captum.attr")
    from captum._utils.models.linear_model import SkLearnLinearRegression

    images = blobs(count=1)
    labels = superpixels(images[0].permute(1, 2, 0).numpy(), 12)
    weights = random_images(1, 1, 20, 20, seed=8) - 0.5
    net = ScoreNet(lambda x: (x * weights).sum((1, 2, 3)), lambda x: x.sum((1, 2, 3)))
    ours = lime.attribute(make_problem(net, images), samples=150, segments=12, alpha=0.0).attribution
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = captum.Lime(net, interpretable_model=SkLearnLinearRegression()).attribute(
            images, 0.0, target=0, feature_mask=torch.from_numpy(labels)[None, None], n_samples=150
        )
    per_pixel = theirs / torch.from_numpy(np.bincount(labels.ravel())[labels])
    assert relative_difference(ours, per_pixel) < 1e-4  # captum fits in single precision


def test_lime_penalty_makes_the_map_sparse() -> None:
    dense, sparse = (
        lime.attribute(make_problem(tiny_cnn(), blobs(count=1)), samples=100, segments=12, alpha=alpha).attribution
        for alpha in (0.0, 10.0)
    )
    assert (dense != 0).all() and (sparse == 0).all()


def test_superpixels_leave_no_label_out_even_on_a_flat_picture() -> None:
    for image in (np.zeros((28, 28, 1)), blobs(3)[0].permute(1, 2, 0).numpy()):
        labels = superpixels(image, 30)
        assert sorted(np.unique(labels)) == list(range(labels.max() + 1))


# ----------------------------------------------------------------- both
@METHODS_HERE
def test_a_batch_equals_its_images_one_by_one(method, params) -> None:
    images, targets = blobs(3, count=3), torch.tensor([0, 2, 1])
    net = tiny_cnn(3)
    together = method(make_problem(net, images, targets=targets, seed=4), **params).attribution
    alone = [
        method(make_problem(net, images[i : i + 1], targets=int(targets[i]), seed=4), **params).attribution
        for i in range(3)
    ]
    assert together.shape == (3, 1, 20, 20)
    assert relative_difference(together, torch.cat(alone)) < 1e-10


@METHODS_HERE
def test_a_seed_repeats_and_another_differs(method, params) -> None:
    first, again, other = (
        method(make_problem(tiny_cnn(), blobs(), seed=seed), **params).attribution for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@METHODS_HERE
def test_the_chunk_and_a_cramped_device_change_nothing(method, params) -> None:
    plain = method(make_problem(tiny_cnn(), blobs()), **params).attribution
    problem = make_problem(CrampedNet(tiny_cnn(), room=5), blobs(), chunk=64)
    assert relative_difference(method(problem, **params).attribution, plain) < 1e-10
    assert problem.chunks.notes


@METHODS_HERE
def test_global_random_numbers_are_left_alone(method, params) -> None:
    problem = make_problem(tiny_cnn(), blobs())
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    method(problem, **params)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@METHODS_HERE
def test_it_can_be_cancelled_half_way(method, params) -> None:
    seen = []

    def on_step(step) -> None:
        seen.append(step)
        raise Cancelled

    with pytest.raises(Cancelled):
        method(make_problem(tiny_cnn(), blobs(), on_step=on_step), **params)
    assert seen[0].done < seen[0].total


@METHODS_HERE
def test_scores_that_are_not_numbers_are_a_fault(method, params) -> None:
    net = ScoreNet(lambda x: x.sum((1, 2, 3)) / 0.0, lambda x: x.sum((1, 2, 3)))
    with pytest.raises(ModelFault):
        method(make_problem(net, blobs()), **params)


@METHODS_HERE
def test_it_runs_on_a_vision_transformer(method, params) -> None:
    images = blobs(3, side=64, count=1).float()
    net = reseed(build("small-vit", 4, 3))
    maps = method(make_problem(net, images), **params).attribution
    assert maps.shape == (1, 1, 64, 64) and torch.isfinite(maps).all() and maps.dtype == torch.float32


def test_the_catalog_rows_fit() -> None:
    for key, method in (("rise", rise.attribute), ("lime", lime.attribute)):
        params = dict(METHODS[key].complete_params({"samples": 20}))
        assert torch.isfinite(method(make_problem(tiny_cnn(), blobs()), **params).attribution).all()
