"""Splits of synthesised clips: made when they are asked for, the same for ever; every clip has its own generator."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from backend.image_text.corpus import Corpus, make_corpus
from backend.sounds.captions import FINER, PLACED, draw_caption, keys_of, placed_key, vocabulary
from backend.sounds.pictures import draw_picture
from backend.sounds.synthesis import KINDS, SPECTROGRAM, Clip, make_clip

VERSION = 1  # raised when the same numbers make something else
_NUMBERS = {"train": 0, "validation": 1, "test": 2, "examples": 3}  # enter the seeds
_CELL = 8  # bands and frames along a cell of the corpus' `dense`
_CHANNELS = {key: k for k, key in enumerate((*KINDS, *PLACED))}  # of `dense`, as the first of the corpus' keys
_GAIN = 3.0  # tones are thin: a cell that a sound fills by a third counts as full


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """How many clips each split has."""

    seed: int = 0
    train: int = 4000
    validation: int = 600
    test: int = 800


def generator_of(split: str, number: int, seed: int = 0, kinds: tuple[str, ...] | None = None) -> np.random.Generator:
    """Of one clip; clips of kinds that were asked for have other ones than those of a split."""
    asked = [KINDS.index(kind) + 1 for kind in kinds or ()]
    return np.random.default_rng([seed, VERSION, _NUMBERS[split], number, *asked])


def clip(split: str, number: int, seed: int = 0, kinds: tuple[str, ...] | None = None) -> Clip:
    """One clip of a split, or one of certain kinds."""
    return make_clip(generator_of(split, number, seed, kinds), kinds)


def clips(split: str, n: int, seed: int = 0, on_clip: Callable[[int], None] = lambda k: None) -> list[Clip]:
    """The first n clips of a split: a longer list begins with a shorter one."""
    made = []
    for number in range(n):
        made.append(clip(split, number, seed))
        on_clip(number + 1)
    return made


def picture_of(made: Clip, generator: np.random.Generator) -> np.ndarray:
    """What makes its sounds, side by side in no order, (S, S, 3) uint8."""
    kinds = [made.sounds[k].kind for k in generator.permutation(len(made.sounds))]
    return draw_picture(kinds, generator)


def spectrogram(made: Clip) -> np.ndarray:
    """(1, F, T) uint8."""
    return (SPECTROGRAM(made.samples)[None] * 255).round().astype(np.uint8)


def sound_corpus(made: list[Clip]) -> Corpus:
    """Clips as a corpus of spectrograms; captions are drawn anew whenever one is asked for."""
    sounds = [one.sounds for one in made]
    return make_corpus(
        np.stack([spectrogram(one) for one in made]),
        KINDS,
        FINER,
        [keys_of(found) for found in sounds],
        np.stack([_cells(one) for one in made]),
        lambda i, generator: draw_caption(sounds[i], generator),
        vocabulary(),
    )


def _cells(made: Clip) -> np.ndarray:
    """How much of each cell each kind fills, and each kind in each fifth of the clip, times 255.

    So a token learns to say of what it hears when that is: the mean over tokens, which the model pools, carries it.
    Returns: (kinds + placed, F / 8, T / 8) uint8.
    """
    rows, columns = SPECTROGRAM.n_mels // _CELL, SPECTROGRAM.n_frames // _CELL
    dense = np.zeros((len(_CHANNELS), rows, columns), np.uint8)
    for sound in made.sounds:
        share = sound.mask.reshape(rows, _CELL, columns, _CELL).mean((1, 3))
        cells = (np.minimum(share * _GAIN, 1) * 255).astype(np.uint8)
        for key in (sound.kind, placed_key(sound)):
            dense[_CHANNELS[key]] = cells
    return dense
