"""The evaluation on scenes: captions of one thing or of two in a relation, with masks of what the caption names first.

Two in five samples have a repeated thing: a caption of it should light up both.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.image_text.evaluate import Bench, Sample
from backend.image_text.held import Held
from backend.image_text.hold import Material
from backend.models.clip import ImageTextPair
from backend.scenes.captions import RELATIONS, draw_caption, noun, relation, relation_caption
from backend.scenes.data import scenes
from backend.scenes.draw import COLOURS, SHAPES, Scene

# Words that a map of a caption should rest on: what is named, and how it stands to what.
KEY_WORDS = frozenset((*COLOURS, *SHAPES, *(f"{shape}s" for shape in SHAPES), "left", "above", "two"))
TYPES = ("one", "repeated", *RELATIONS)  # of captions: shares of a table are equal
_HELD = 400  # scenes for statistics and strangers
_CHOSEN_ON = 100  # pairs for settings


def bench(pair: ImageTextPair, held: Held, n: int, n_choosing: int) -> Bench:
    """Unseen scenes; settings are chosen on the validation split."""
    choosing = samples(scenes("validation", _HELD + 4 * n_choosing)[_HELD:], n_choosing, pair)
    drawn = scenes("test", max(40, 4 * n))
    prior = torch.from_numpy(np.mean([thing.mask for scene in drawn for thing in scene.things], 0))
    return Bench(
        pair,
        held,
        choosing,
        samples(drawn, n, pair),
        prior,
        "unseen drawn scenes",
        region="mask",
        key_words=KEY_WORDS,
    )


def material(pair: ImageTextPair) -> Material:
    """What statistics, strangers and settings are made from: the validation split."""
    drawn = scenes("validation", _HELD + 4 * _CHOSEN_ON)
    random = np.random.default_rng(0)
    nothing = Held(torch.zeros(0, 1), torch.zeros(0, 1))
    return Material(
        [pixels_of(scene, pair) for scene in drawn[:_HELD]],
        [draw_caption(scene.things, random).text for scene in drawn[:_HELD] for _ in range(2)],
        Bench(pair, nothing, samples(drawn[_HELD:], _CHOSEN_ON, pair), (), region="mask", key_words=KEY_WORDS),
        "drawn scenes of the validation split",
    )


def samples(drawn: Sequence[Scene], n: int, pair: ImageTextPair, seed: int = 0) -> tuple[Sample, ...]:
    """n captions with masks, every type as often as there are scenes for it; strangers lack what is named first."""
    random, made = np.random.default_rng(seed), []
    queues = {kind: list(random.permutation(len(drawn))) for kind in TYPES}
    while len(made) < n and any(queues.values()):
        for kind in TYPES:
            found = None
            while found is None and queues[kind] and len(made) < n:
                found = _sample(drawn, int(queues[kind].pop()), kind, pair, random)
            made += [] if found is None else [found]
    return tuple(made)


def _sample(
    drawn: Sequence[Scene], i: int, kind: str, pair: ImageTextPair, random: np.random.Generator
) -> Sample | None:
    """A scene with a caption of this type; None: the scene has nothing for it."""
    scene = drawn[i]
    kinds = [thing.kind for thing in scene.things]
    single = [name for name in kinds if kinds.count(name) == 1]
    twice = [name for name in dict.fromkeys(kinds) if kinds.count(name) > 1]
    if kind == "one":
        named = single[int(random.integers(len(single)))] if single else None
        text = noun(named) if named else ""
    elif kind == "repeated":
        named, text = (twice[0], f"two {twice[0]}s") if twice else (None, "")
    else:
        named, text = _related(scene, kind, single, random)
    if named is None:
        return None
    mask = torch.from_numpy(scene.mask_of(named))
    return Sample(pixels_of(scene, pair), text, mask, kind, pixels_of(_without(drawn, named, random), pair))


def _related(scene: Scene, name: str, single: Sequence[str], random: np.random.Generator) -> tuple[str | None, str]:
    things = [thing for thing in scene.things if thing.kind in single]
    holding = [(a, b) for a in things for b in things if a is not b and relation(a, name, b)]
    if not holding:
        return None, ""
    one, other = holding[int(random.integers(len(holding)))]
    return one.kind, relation_caption(one.kind, name, other.kind)


def _without(drawn: Sequence[Scene], named: str, random: np.random.Generator) -> Scene:
    while True:
        scene = drawn[int(random.integers(len(drawn)))]
        if all(thing.kind != named for thing in scene.things):
            return scene


def pixels_of(scene: Scene, pair: ImageTextPair) -> Tensor:
    """A scene as the pair takes it, (1, 3, H, W) in [0, 1], on its device."""
    return torch.from_numpy(scene.pixels).permute(2, 0, 1)[None].to(pair.device, pair.dtype) / 255
