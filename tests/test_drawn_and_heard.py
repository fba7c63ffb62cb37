"""What scenes-clip and sounds-clip learn from: masks, spans, keys and captions agree; small runs train."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from backend import audio, images
from backend.image_text.evaluate import Bench
from backend.image_text.examples import FOLDER, shipped_examples
from backend.image_text.held import Held
from backend.image_text.hold import hold_material
from backend.models.clip import load_trained
from backend.models.tokenizers import words_of
from backend.runtime import Runtime
from backend.scenes import bench as scene_bench
from backend.scenes import captions as scene_captions
from backend.scenes import data as scene_data
from backend.scenes import examples as scene_examples
from backend.scenes import train as scene_train
from backend.scenes.draw import COLOURS, draw_scene
from backend.sounds import bench as sound_bench
from backend.sounds import captions as sound_captions
from backend.sounds import data as sound_data
from backend.sounds import examples as sound_examples
from backend.sounds import train as sound_train
from backend.sounds.judge import embed_clips, judge_order
from backend.sounds.pictures import SIDE, draw_picture
from backend.sounds.synthesis import KINDS, RATE, SPECTROGRAM
from backend.training import WEIGHTS

TINY = {"width": 32, "heads": 2, "embed_dim": 16, "stem": (8, 16), "image_layers": 2, "text_layers": 1}
STEPS = {"looking_steps": 2, "looking_batch": 8, "reading_steps": 2, "reading_batch": 16}


# ----------------------------------------------------------------- scenes
@pytest.fixture(scope="module")
def drawn():
    return scene_data.scenes("test", 40)


def test_scenes_repeat_and_a_longer_list_begins_with_a_shorter_one(drawn):
    few = scene_data.scenes("test", 3)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(few, drawn, strict=False))
    assert not np.array_equal(scene_data.scene("train", 0).pixels, drawn[0].pixels)


def test_masks_are_where_the_colour_is(drawn):
    for scene in drawn:
        for thing in scene.things:
            inside = scene.pixels[thing.mask].astype(float).mean(0) / 255
            assert np.abs(inside - COLOURS[thing.colour]).max() < 0.2, thing.kind
            ys, xs = np.nonzero(thing.mask)
            assert abs(xs.mean() + 0.5 - thing.x * len(thing.mask)) < 2 and thing.mask.sum() > 60
        assert sum(thing.mask.sum() for thing in scene.things) == np.any([t.mask for t in scene.things], 0).sum()


def test_every_caption_is_true_of_its_scene(drawn):
    random, vocabulary, seen = np.random.default_rng(0), scene_captions.vocabulary(), set()
    for scene in drawn * 5:
        keys, caption = set(scene_captions.keys_of(scene.things)), scene_captions.draw_caption(scene.things, random)
        assert set(caption.required) <= keys and not set(caption.forbidden) & keys
        assert words_of([caption.text]) <= vocabulary
        seen |= {key.split("|")[1] if "|" in key else "" for key in caption.required}
    assert {"left of", "above", "left", "top", "two", ""} <= seen


def test_captions_turned_round_have_the_same_words_and_are_false(drawn, heard):
    random, seen = np.random.default_rng(1), set()
    told = [(scene_captions.draw_caption(s.things, random), scene_captions.keys_of(s.things)) for s in drawn * 4]
    told += [(sound_captions.draw_caption(c.sounds, random), sound_captions.keys_of(c.sounds)) for c in heard * 4]
    for caption, keys in told:
        for other in caption.unlike:
            assert not set(other.required) <= set(keys) and other.text != caption.text
            assert other.text.endswith(".") == caption.text.endswith(".")
            seen.add(other.required[0].split("|")[1])
    assert {"left of", "above", "left", "top", "before", "start"} <= seen


def test_relations_are_told_the_right_way_round():
    scene = draw_scene(np.random.default_rng(2), ("red circle", "blue square"))
    red, blue = scene.things
    key = "red circle|left of|blue square"
    assert (key in scene_captions.keys_of(scene.things)) == (blue.x - red.x > 0.08)
    said = scene_captions.relation_caption("red circle", "left of", "blue square", "to the right of")
    assert said == "a blue square to the right of a red circle"


def test_the_first_keys_of_a_corpus_are_its_channels(drawn):
    corpus = scene_data.scene_corpus(drawn[:4])
    for i, scene in enumerate(drawn[:4]):
        there = {corpus.keys[k] for k in np.flatnonzero(corpus.dense[i].max((1, 2)))}
        assert there == {t.kind for t in scene.things} | {
            k for t in scene.things for k in scene_captions.placed_keys(t)
        }
        assert there <= {corpus.keys[k] for k in np.flatnonzero(corpus.attributes[i])}


# ----------------------------------------------------------------- sounds
@pytest.fixture(scope="module")
def heard():
    return sound_data.clips("test", 24)


def test_clips_repeat(heard):
    assert np.array_equal(sound_data.clip("test", 1).samples, heard[1].samples)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_is_heard_in_its_span_and_nowhere_else(kind):
    made = sound_data.clip("test", 0, kinds=(kind,))
    (sound,) = made.sounds
    frames = np.flatnonzero(sound.mask.any(0)) * SPECTROGRAM.hop / RATE
    reach = SPECTROGRAM.n_fft / RATE  # a frame's window reaches beyond its middle
    assert sound.start_s - reach <= frames.min() and frames.max() <= sound.end_s + reach
    loudness, span = SPECTROGRAM(made.samples).mean(0), sound.span()[0]
    assert loudness[span].mean() > loudness[~span].mean()


def test_every_caption_is_true_of_its_clip(heard):
    random, vocabulary = np.random.default_rng(0), sound_captions.vocabulary()
    for clip in heard * 6:
        keys, caption = set(sound_captions.keys_of(clip.sounds)), sound_captions.draw_caption(clip.sounds, random)
        assert set(caption.required) <= keys and not set(caption.forbidden) & keys
        assert words_of([caption.text]) <= vocabulary


def test_pictures_of_kinds_differ():
    random = np.random.default_rng(0)
    drawn = np.stack([draw_picture((kind,), random) for kind in KINDS])
    assert drawn.shape == (len(KINDS), SIDE, SIDE, 3) and len({one.tobytes() for one in drawn}) == len(KINDS)


def test_tokens_are_asked_when_their_sound_is_heard(heard):
    corpus = sound_data.sound_corpus(heard[:6])
    for i, clip in enumerate(heard[:6]):
        there = {corpus.keys[k] for k in np.flatnonzero(corpus.dense[i].max((1, 2)))}
        assert there == {s.kind for s in clip.sounds} | {sound_captions.placed_key(s) for s in clip.sounds}
        assert there <= {corpus.keys[k] for k in np.flatnonzero(corpus.attributes[i])}


def test_the_shipped_model_tells_which_sound_came_first():
    told = json.loads((WEIGHTS / "sounds-clip.json").read_text())["judged"]["order"]
    assert told["right_way_round"] >= 0.9 and told["pairs"] > 400
    pair, fresh = load_trained("sounds-clip", WEIGHTS), sound_data.clips("examples", 24)
    found = judge_order(pair, fresh, embed_clips(pair, fresh))
    assert found["right_way_round"] >= 0.85, found


# ----------------------------------------------------------------- training
def test_a_small_run_of_scenes_makes_a_model_that_is_judged(tmp_path):
    recipe = dataclasses.replace(scene_train.RECIPES["scenes-clip"], **TINY, **STEPS)
    pictures = scene_data.DataRecipe(train=24, test=60)
    card = scene_train.train("scenes-clip", folder=tmp_path, recipe=recipe, pictures=pictures)
    assert set(card["judged"]["relations"]) == {"left of", "above"} and len(card["judged"]["attributes"]) == 29
    json.dumps(card["judged"])
    pair = load_trained("scenes-clip", tmp_path)
    bench = scene_bench.bench(pair, Held(torch.zeros(0, 1), torch.zeros(0, 1)), 8, 4)
    assert isinstance(bench, Bench) and {s.kind for s in bench.counting} == set(scene_bench.TYPES)
    assert all(sample.box.any() and sample.stranger is not None for sample in bench.counting)


def test_a_small_run_of_sounds_makes_three_towers_and_what_is_held(tmp_path, monkeypatch):
    recipe = dataclasses.replace(sound_train.RECIPES["sounds-clip"], **TINY, **STEPS, picture_steps=2, picture_batch=8)
    monkeypatch.setattr("backend.sounds.judge._GROUPS", 1)
    material = sound_data.DataRecipe(train=16, test=16)
    card = sound_train.train("sounds-clip", folder=tmp_path, recipe=recipe, material=material)
    assert set(card["judged"]["retrieval"]) == {
        f"{a} to {b}" for a in ("text", "audio", "image") for b in ("text", "audio", "image") if a != b
    }
    pair = load_trained("sounds-clip", tmp_path)
    assert pair.tower("audio").grid(0) == (6, 16) and pair.spectrogram == SPECTROGRAM
    monkeypatch.setattr(sound_bench, "_HELD", 4)
    monkeypatch.setattr(sound_bench, "_CHOSEN_ON", 2)
    monkeypatch.setattr("backend.image_text.hold.choose_settings", lambda *_: {"settings": {}})
    held = hold_material(pair, sound_bench.material(pair), tmp_path, Runtime("cpu"))
    assert held["weights_sha256"] == pair.digest


# ----------------------------------------------------------------- examples
def test_examples_are_what_the_generators_make(tmp_path):
    for key in scene_examples.write_examples(tmp_path):
        made, shipped = (images.decode((folder / f"{key}.png").read_bytes()).pixels for folder in (tmp_path, FOLDER))
        assert np.abs(made - shipped).mean() < 0.01
    for key in sound_examples.write_examples(tmp_path):
        made, shipped = (audio.decode((folder / f"{key}.flac").read_bytes()).samples for folder in (tmp_path, FOLDER))
        assert np.abs(made - shipped).mean() < 1e-3


def test_examples_have_what_their_texts_say():
    shown = {example.model for example in shipped_examples()}
    assert shown == {"cxr-clip", "scenes-clip", "sounds-clip"}
    repeated = [e for e in shipped_examples() if len({f.kind for f in e.findings}) < len(e.findings)]
    assert any(example.model == "scenes-clip" for example in repeated)
    for example in shipped_examples():
        for found in example.findings:
            left, top, right, bottom = found.box
            assert 0 <= left < right <= example.size[0] and 0 <= top < bottom <= example.size[1]
            assert found.sentence < len(example.report)
