"""The images that classifiers are trained and judged on: the same for ever, kept apart, with exact masks."""

import dataclasses
import hashlib
import json
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from backend import images as decoding
from backend.catalog import EMBEDDED, EXAMPLES, HUB, examples_for
from backend.errors import BadInput, Cancelled
from backend.examples import example_bytes
from backend.path_attribution import composites, data
from backend.path_attribution.train import RECIPES, Recipe, one_cycle, train

ASSETS = Path(__file__).parent.parent / "assets"
# sha256 of the pixels' bytes; made with: sha256(data.digits(split).images.tobytes())
DIGITS_SHA256 = {"test": "cac0a1e41d82", "train": "b287f4299a55"}


# ----------------------------------------------------------------- digits
@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_the_same_for_ever(split):
    digits = data.digits(split)
    assert hashlib.sha256(digits.images.tobytes()).hexdigest().startswith(DIGITS_SHA256[split])


def test_digit_splits_are_disjoint_and_balanced():
    train_rows, test_rows = data.digits("train"), data.digits("test")
    assert (len(train_rows), len(test_rows)) == (4000, 1000)
    assert np.bincount(test_rows.targets).tolist() == [100] * 10
    _, targets = data._all_digits()
    test_index, train_index = data._digit_split(targets)
    assert not set(test_index) & set(train_index)


# ----------------------------------------------------------------- composites
def test_composites_repeat_by_seed_and_a_prefix_stays_the_same():
    few, more = composites.objects("test", 40), composites.objects("test", 300)
    assert np.array_equal(few.images, more.images[:40])
    assert np.array_equal(few.masks, more.masks[:40])
    assert not np.array_equal(few.images, composites.objects("test", 40, seed=1).images)


def test_composites_have_the_promised_shape():
    made = composites.objects("train", 50)
    assert made.images.shape == (50, 3, 64, 64) and made.images.dtype == np.uint8
    assert made.masks.shape == (50, 64, 64) and made.masks.dtype == bool
    assert set(made.targets) <= set(range(len(composites.OBJECT_LABELS)))
    assert made.masks.any(axis=(1, 2)).all()


def test_train_and_test_use_different_photographs():
    assert not set(composites.BACKGROUNDS["train"]) & set(composites.BACKGROUNDS["test"])


def test_the_mask_is_where_the_object_is_seen(monkeypatch):
    """White instead of black objects change a pixel by the share that the object has in it."""
    photos = [np.full((80, 80, 3), 0.5, np.float32)]

    def with_object_colour(colour):
        return lambda random, canvas, cover=None: np.full((len(canvas), 3), 0.5 if cover is None else colour)

    made = []
    for colour in (0.0, 1.0):
        monkeypatch.setattr(composites, "_colours", with_object_colour(colour))
        made.append(composites._composites(np.random.default_rng(7), photos, data.digits("test").images[:, 0]))
    (dark, _, mask), (bright, _, same_mask) = made
    assert np.array_equal(mask, same_mask)
    change = (bright.astype(int) - dark.astype(int)).min(axis=1)  # how much of the pixel is the object, times 255
    assert (change[mask] >= 120).all()  # half of 255, less what the noise and clipping at both ends take
    assert (change[~mask] <= 135).all()


@pytest.mark.parametrize(
    ("label", "area"),
    [
        ("circle", np.pi * 0.9**2),
        ("square", 1.4**2),
        ("triangle", 3 * np.sqrt(3) / 4),
        ("cross", 4 * 0.95 * 0.6 - 0.6**2),
        ("ring", np.pi * (0.95**2 - 0.45**2)),
        ("heart", 1 + np.pi / 4),
    ],
)
def test_shapes_have_their_areas(label, area):
    axis = (np.arange(400) + 0.5) / 200 - 1  # radius 200 pixels: [-1, 1]
    axis = axis * 1.5
    u, v = np.meshgrid(axis, axis)
    inside = (composites._DISTANCES[label](u, v) < 0).mean() * 9.0
    assert inside == pytest.approx(area, rel=0.01)


def test_unknown_splits_are_refused():
    for load in (data.digits, composites.objects):
        with pytest.raises(ValueError, match="'train' or 'test'"):
            load("valid")


# ----------------------------------------------------------------- examples
@pytest.mark.parametrize("key", EXAMPLES)
def test_every_example_decodes_and_suits_a_model(key):
    picture, mask = example_bytes(key)
    decoded = decoding.decode(picture)
    example = EXAMPLES[key]
    assert example.alt and example.licence
    if mask is not None:
        seen = decoding.decode(mask).pixels
        assert seen.shape[:2] == decoded.pixels.shape[:2]
        assert set(np.unique(seen)) == {0.0, 1.0}
    for model in example.suits:
        assert model == "hub" or example.label in EMBEDDED[model].labels


def test_examples_are_what_the_generators_make(tmp_path):
    composites.write_examples(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        made, shipped = (np.asarray(Image.open(file), int) for file in (path, ASSETS / "examples" / path.name))
        assert np.abs(made - shipped).mean() < 0.5  # other processors round a level up or down


def test_every_model_has_examples():
    for spec in (*EMBEDDED.values(), *HUB.values()):
        assert examples_for(spec), spec.key
    mine = dataclasses.replace(EMBEDDED["digits-gap"], key="mine", source="local")
    assert [example.label for example in examples_for(mine)][0] in mine.labels


def test_an_unknown_example_is_refused():
    with pytest.raises(BadInput, match="unknown example"):
        example_bytes("nope")


def test_everything_shipped_has_a_source_and_a_licence():
    rows = json.loads((ASSETS / "provenance.json").read_text())["shipped"]
    for folder in ("weights", "examples"):
        for path in (ASSETS / folder).iterdir():
            named = [row for row in rows if fnmatch(f"{folder}/{path.name}", row["files"])]
            assert named and all(row["licence"] and row["source"] for row in named), path.name


# ----------------------------------------------------------------- training
TINY = Recipe("lenet-gap", "digits", epochs=3, train_images=300)


def weights_of(folder: Path) -> bytes:
    return (folder / "digits-gap.safetensors").read_bytes()


def test_a_killed_run_continues_to_the_same_weights(tmp_path):
    whole = train("digits-gap", folder=tmp_path / "whole", recipe=TINY)

    def stop_in_the_second_epoch(step):
        if step.done == 5:
            raise Cancelled

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(Cancelled):
        train("digits-gap", 0, stop_in_the_second_epoch, checkpoint, folder=tmp_path / "resumed", recipe=TINY)
    assert checkpoint.exists()
    steps = []
    resumed = train("digits-gap", 0, steps.append, checkpoint, folder=tmp_path / "resumed", recipe=TINY)
    assert weights_of(tmp_path / "resumed") == weights_of(tmp_path / "whole")
    assert resumed["sha256"] == whole["sha256"] == hashlib.sha256(weights_of(tmp_path / "whole")).hexdigest()
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (4, 9, 9)  # the first epoch was not done again
    assert not checkpoint.exists()


def test_rounds_resume_too(tmp_path):
    recipe = dataclasses.replace(TINY, epochs=1, rounds=2)  # three batches each
    whole = train("digits-gap", folder=tmp_path, recipe=recipe)
    for done in (4, 6):  # put down between the rounds, and when all but the writing was done
        checkpoint = tmp_path / "state.pt"
        with pytest.raises(Cancelled):
            train("digits-gap", 0, _stop_at(done), checkpoint, folder=tmp_path, recipe=recipe)
        assert train("digits-gap", 0, None, checkpoint, folder=tmp_path, recipe=recipe)["sha256"] == whole["sha256"]


def test_training_leaves_the_global_random_numbers_alone(tmp_path):
    before = torch.random.get_rng_state()
    train("digits-gap", 3, folder=tmp_path, recipe=dataclasses.replace(TINY, epochs=1, train_images=100))
    assert torch.equal(before, torch.random.get_rng_state())
    assert (tmp_path / "digits-gap-seed3.safetensors").exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoint = tmp_path / "state.pt"
    with pytest.raises(Cancelled):
        train("digits-gap", 0, _stop_at(4), checkpoint, folder=tmp_path, recipe=TINY)
    with pytest.raises(BadInput, match="another run"):
        train("digits-gap", 1, None, checkpoint, folder=tmp_path, recipe=TINY)


def _stop_at(done: int):
    def on_step(step):
        if step.done == done:
            raise Cancelled

    return on_step


def test_composites_train_in_mixed_precision(tmp_path):
    recipe = dataclasses.replace(RECIPES["objects-resnet"], epochs=1, train_images=250)
    card = train("objects-resnet", folder=tmp_path, recipe=recipe)
    assert card["labels"] == list(composites.OBJECT_LABELS) and 0.0 <= card["accuracy"] <= 1.0


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="digits-gap"):
        train("digits-gpa")


def test_the_learning_rate_rises_and_falls():
    rates = [one_cycle(p, 1.0) for p in np.linspace(0, 1, 101)]
    assert max(rates) == rates[30] == pytest.approx(1.0)
    assert rates[-1] < 1e-4
