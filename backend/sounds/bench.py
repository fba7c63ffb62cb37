"""The evaluation on sounds: a caption of one of two sounds, with the span in which that one is heard."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from backend.image_text.evaluate import Bench, Sample
from backend.image_text.held import Held
from backend.image_text.hold import Material
from backend.models.clip import ImageTextPair
from backend.sounds.captions import draw_caption, sentence
from backend.sounds.data import clips, generator_of, picture_of
from backend.sounds.synthesis import KINDS, SPECTROGRAM, Clip

KEY_WORDS = frozenset((*KINDS, *(sentence(kind).split()[-1] for kind in KINDS)))
_HELD = 300  # clips for statistics and strangers
_CHOSEN_ON = 100  # pairs for settings


def bench(pair: ImageTextPair, held: Held, n: int, n_choosing: int) -> Bench:
    """Unseen mixtures of two sounds; settings are chosen on the validation split."""
    choosing = samples(clips("validation", _HELD + 3 * n_choosing)[_HELD:], n_choosing, pair)
    made = clips("test", max(40, 3 * n))
    prior = torch.from_numpy(np.mean([sound.span() for one in made for sound in one.sounds], 0))
    return Bench(
        pair,
        held,
        choosing,
        samples(made, n, pair),
        prior,
        "unseen mixtures of two sounds",
        seen="audio",
        region="span",
        key_words=KEY_WORDS,
    )


def material(pair: ImageTextPair) -> Material:
    """What statistics, strangers and settings are made from: the validation split."""
    made = clips("validation", _HELD + 3 * _CHOSEN_ON)
    random = np.random.default_rng(0)
    nothing = Held(torch.zeros(0, 1), torch.zeros(0, 1))
    choosing = samples(made[_HELD:], _CHOSEN_ON, pair)
    return Material(
        [spectrogram_of(one, pair) for one in made[:_HELD]],
        [draw_caption(one.sounds, random).text for one in made[:_HELD] for _ in range(2)],
        Bench(pair, nothing, choosing, (), seen="audio", region="span", key_words=KEY_WORDS),
        "synthesised clips of the validation split",
        {"image": [picture_for(one, k, pair) for k, one in enumerate(made[:_HELD])]},
    )


def samples(made: Sequence[Clip], n: int, pair: ImageTextPair, seed: int = 0) -> tuple[Sample, ...]:
    """n captions of one of two sounds, every kind as often; strangers lack the kind."""
    random = np.random.default_rng(seed)
    queues: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for i, one in enumerate(made):
        if len(one.sounds) > 1:
            for k, sound in enumerate(one.sounds):
                queues[sound.kind].append((i, k))
    found: list[Sample] = []
    while len(found) < n and any(queues.values()):
        for kind, queue in queues.items():
            if queue and len(found) < n:
                i, k = queue.pop(0)
                span = torch.from_numpy(made[i].sounds[k].span())
                stranger = spectrogram_of(_without(made, kind, random), pair)
                found.append(Sample(spectrogram_of(made[i], pair), sentence(kind), span, kind, stranger))
    return tuple(found)


def _without(made: Sequence[Clip], kind: str, random: np.random.Generator) -> Clip:
    while True:
        one = made[int(random.integers(len(made)))]
        if all(sound.kind != kind for sound in one.sounds):
            return one


def spectrogram_of(one: Clip, pair: ImageTextPair) -> Tensor:
    """A clip as the pair hears it, (1, 1, F, T) in [0, 1], on its device."""
    return torch.from_numpy(SPECTROGRAM(one.samples))[None, None].to(pair.device, pair.dtype)


def picture_for(one: Clip, number: int, pair: ImageTextPair) -> Tensor:
    """A picture of what makes a clip's sounds, (1, 3, S, S) in [0, 1]."""
    drawn = picture_of(one, generator_of("validation", number))
    return torch.from_numpy(drawn).permute(2, 0, 1)[None].to(pair.device, pair.dtype) / 255
