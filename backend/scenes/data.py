"""Splits of drawn scenes: made when they are asked for, the same for ever; every scene has a generator of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.image_text.corpus import Corpus, make_corpus
from backend.scenes.captions import FINER, PLACED, draw_caption, keys_of, placed_keys, vocabulary
from backend.scenes.draw import KINDS, Scene, draw_scene

VERSION = 1  # raised when the same numbers draw something else
_NUMBERS = {"train": 0, "validation": 1, "test": 2, "examples": 3}  # enter the seeds
_CELL = 8  # pixels along a cell of the corpus' `dense`
_CHANNELS = {key: k for k, key in enumerate((*KINDS, *PLACED))}  # of `dense`, as the first of the corpus' keys
_GAIN = 1.5  # a cell that a shape fills by two thirds counts as full


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """How many scenes each split has."""

    seed: int = 0
    train: int = 4000
    validation: int = 1000
    test: int = 1500


def scene(split: str, number: int, seed: int = 0, kinds: tuple[str, ...] | None = None) -> Scene:
    """One scene of a split."""
    return draw_scene(np.random.default_rng([seed, VERSION, _NUMBERS[split], number]), kinds)


def scenes(split: str, n: int, seed: int = 0, on_scene: Callable[[int], None] = lambda k: None) -> list[Scene]:
    """The first n scenes of a split: a longer list begins with a shorter one."""
    made = []
    for number in range(n):
        made.append(scene(split, number, seed))
        on_scene(number + 1)
    return made


def scene_corpus(drawn: list[Scene]) -> Corpus:
    """Scenes as a corpus; captions are drawn anew whenever one is asked for."""
    things = [one.things for one in drawn]
    return make_corpus(
        np.stack([one.pixels.transpose(2, 0, 1) for one in drawn]),
        KINDS,
        FINER,
        [keys_of(found) for found in things],
        np.stack([_cells(one) for one in drawn]),
        lambda i, generator: draw_caption(things[i], generator),
        vocabulary(),
    )


def _cells(drawn: Scene) -> np.ndarray:
    """How much of each cell each kind fills, and each kind in each part of the picture, times 255.

    So a token learns to say of what it sees where that is: the mean over tokens, which the model pools, carries it.
    Returns: (kinds + placed, S / 8, S / 8) uint8.
    """
    side = len(drawn.pixels) // _CELL
    dense = np.zeros((len(_CHANNELS), side, side), np.uint8)
    for thing in drawn.things:
        share = thing.mask.reshape(side, _CELL, side, _CELL).mean((1, 3))
        cells = (np.minimum(share * _GAIN, 1) * 255).astype(np.uint8)
        for key in (thing.kind, *placed_keys(thing)):
            channel = dense[_CHANNELS[key]]
            np.maximum(channel, cells, out=channel)
    return dense
