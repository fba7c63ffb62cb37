"""Simulated radiographs: drawn from a bank of poses without any CT, with effects of heart and fluid only."""

import numpy as np
import pytest
import torch

from backend.additive_image import chest_poses, chests, recipes
from backend.additive_image.data import HELD_OUT_SEED, make_dataset
from backend.additive_image.measure import measure_path
from backend.contracts import AttributeEffectsRequest, ImageGalleryRequest, ImagePathRequest, ShapeFunctionsRequest
from backend.errors import NotAvailable
from backend.service import LocalService
from pages.additive import settings
from tests import phantoms


def alike(**changed: np.ndarray) -> chests.Chests:
    """One chest with some properties varied."""
    n = len(next(iter(changed.values())))
    plain = {"pose": np.full(n, 3), "growth": np.ones(n), "left": np.zeros(n), "right": np.zeros(n)}
    return chests.Chests(**{**plain, "exposure": np.zeros(n), **changed})


def test_rows_repeat_by_seed_and_held_out_rows_show_other_poses():
    first, again = make_dataset("radiographs", 40), make_dataset("radiographs", 40)
    np.testing.assert_array_equal(first.images[[0, 7]], again.images[[0, 7]])
    np.testing.assert_array_equal(first.response, again.response)
    held = make_dataset("radiographs", 40, HELD_OUT_SEED)
    cut = chests.N_POSES - chests.N_POSES // 5
    assert (first.images.chests.pose < cut).all() and (held.images.chests.pose >= cut).all()
    assert first.images[[0]].shape == (1, 64, 64, 3) and first.images[[0]].dtype == np.uint8


def test_the_effect_is_of_heart_and_fluid_and_of_nothing_else():
    data = make_dataset("radiographs", 3000)
    seen = data.attributes
    for name in ("breath", "rotation", "exposure"):
        moved = {**seen, name: seen[name] + 1}
        np.testing.assert_array_equal(data.image_effect(moved), data.image_effect(seen))
    assert (data.image_effect({**seen, "heart": seen["heart"] + 0.02}) > data.image_effect(seen)).all()
    assert (data.image_effect({**seen, "effusion": seen["effusion"] + 5}) > data.image_effect(seen)).all()
    assert np.ptp(data.effects["ward"]) == 0
    ward = data.table[:, [c.name for c in data.columns].index("ward")]
    assert data.effects["image"][ward == 0].mean() > data.effects["image"][ward > 0].mean() + 0.4  # confounded
    expected = make_dataset("radiographs", 3000, noise=False).response
    assert np.std(data.response - expected) == pytest.approx(chests.NOISE_SD, rel=0.05)


def test_the_heart_grows_sideways_and_fluid_fills_the_base():
    grown = alike(growth=np.array([1.0, 1.3, 1.6])).draw()
    brighter = [float((later - earlier)[20:50].clip(0).sum()) for earlier, later in zip(grown, grown[1:], strict=False)]
    assert min(brighter) > 3
    left = alike(left=np.array([0.0, 40.0, 80.0])).draw()
    change = np.diff(left, axis=0)
    for step in change:  # the patient's left is the picture's right
        assert step[:, 34:].clip(0).sum() > 3 * step[:, :30].clip(0).sum()
    heights = [np.average(np.arange(64), weights=step[:, 34:].clip(0).sum(1)) for step in change]
    assert heights[1] < heights[0], "more fluid reaches higher"


def test_attributes_are_read_from_pictures_of_unseen_poses():
    held = chests.draw_chests(200, np.random.default_rng(5), is_held_out=True)
    read, seen = chests.measure_chests(np.repeat(held.draw()[..., None], 3, -1)), held.seen()
    for name, least in (("heart", 0.85), ("effusion", 0.9), ("exposure", 0.95)):
        assert np.corrcoef(read[name], seen[name])[0, 1] ** 2 > least, name
    ends = chests.draw_ends("heart", np.random.default_rng(0))
    assert ends.pose[0] == ends.pose[1] and ends.growth[1] - ends.growth[0] > 0.5 and ends.left[0] == ends.left[1]
    ends = chests.draw_ends("effusion", np.random.default_rng(0))
    assert ends.growth[0] == ends.growth[1] and ends.left[1] - ends.left[0] == 80 and ends.right[0] == ends.right[1]
    frames = np.round(np.repeat(alike(growth=np.linspace(1, 1.6, 9)).draw()[..., None], 3, -1) * 255).astype(np.uint8)
    measured = measure_path("radiographs", frames, np.linspace(0, 1, 9))
    assert measured.correlation("heart") > 0.98 and measured.sharpness > 0.9


def test_a_bank_is_made_from_a_ct_and_repeats(tmp_path, monkeypatch):
    monkeypatch.setattr(chest_poses, "_READ", 40)
    seen = []
    made = chest_poses.make_bank(5, on_step=seen.append, path=tmp_path / "a.npz", chest=phantoms.chest())
    chest_poses.make_bank(5, path=tmp_path / "b.npz", chest=phantoms.chest())
    assert made["poses"] == 5 and [step.done for step in seen] == [1, 2, 3, 4, 5]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored:
        assert stored["hearts"].shape == (5, 5, 64, 64) and stored["fluids"].shape == (5, 2, 5, 64, 64)
        assert (np.diff(stored["ratios"], axis=1) > 0).all()


def test_a_missing_bank_says_how_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(chests, "BANK", tmp_path / "nothing.npz")
    chests.load_bank.cache_clear()
    with pytest.raises(NotAvailable, match="train radiographs-poses"):
        chests.load_bank()
    chests.load_bank.cache_clear()


def test_training_sees_poses_that_are_not_held_out():
    pictures = recipes.SOURCES["chests"](4, np.random.default_rng(0))
    assert pictures.shape == (4, 3, 64, 64) and pictures.dtype == torch.float32
    assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1


@pytest.mark.skipif(not settings.is_here("radiographs"), reason="no trained model here")
def test_fluid_is_raised_only_where_there_is_some_to_take_away():
    report = LocalService().run(AttributeEffectsRequest("radiographs"))
    effects, truth = (
        dict(zip(report.values["attributes"], report.arrays[key], strict=True)) for key in ("effect", "truth")
    )
    for name in ("heart", "effusion"):
        assert effects[name] == pytest.approx(truth[name], rel=0.1), name


@pytest.mark.skipif(not settings.is_here("radiographs"), reason="no trained model here")
def test_what_ships_shows_a_growing_heart():
    service = LocalService()
    gallery = service.run(ImageGalleryRequest("radiographs", n=4))
    assert gallery.arrays["images"].shape == (4, 64, 64, 3)
    assert "truth_age" in service.run(ShapeFunctionsRequest("radiographs", points=21)).arrays
    data = make_dataset("radiographs")  # the rows that the model was fitted to
    heart, none = data.attributes["heart"], data.attributes["effusion"] == 0
    small, large = (int(np.flatnonzero(none)[pick(heart[none])]) for pick in (np.argmin, np.argmax))
    path = service.run(ImagePathRequest("radiographs", rows=(small, large), frames=9))
    assert path.quality["path_correlation"] > 0.9
    assert path.arrays["effect"][-1] > path.arrays["effect"][0]
