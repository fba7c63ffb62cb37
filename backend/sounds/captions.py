"""What is true of a clip, as keys, and captions that demand some keys and deny others.

Keys go from coarse to fine: "bell", "bell|t1", "bell|start", "bell|before|dog".
"""

from collections.abc import Sequence

import numpy as np

from backend.image_text.corpus import DrawnText
from backend.models.tokenizers import words_of
from backend.sounds.synthesis import KINDS, Heard

PARTS = {"start": "at the start", "end": "at the end"}
_HALF = 0.42  # of the clip, where start ends and, from behind, end begins
_MARGIN = 0.12  # middles nearer than that have no order
_NOUNS = {kind: "rain" if kind == "rain" else f"an {kind}" if kind[0] in "e" else f"a {kind}" for kind in KINDS}
_DOINGS = {
    "siren": "wails",
    "bell": "rings",
    "dog": "barks",
    "engine": "hums",
    "rain": "falls",
    "bird": "chirps",
    "drum": "beats",
    "telephone": "rings",
}
_STARTS = ("", "", "the sound of ", "there is ")
_N_BINS = 5
BINS = tuple(f"t{k}" for k in range(_N_BINS))  # when a sound is heard, more finely; in no caption
PLACED = tuple(f"{kind}|{part}" for kind in KINDS for part in BINS)  # each token learns to say these of its place
FINER = (
    *PLACED,
    *(f"{kind}|{part}" for kind in KINDS for part in PARTS),
    *(f"{a}|before|{b}" for a in KINDS for b in KINDS if a != b),
)


def keys_of(sounds: Sequence[Heard]) -> list[str]:
    """Everything that is true of a clip, each once."""
    keys = [sound.kind for sound in sounds]
    keys += [placed_key(sound) for sound in sounds]
    keys += [f"{sound.kind}|{part}" for sound in sounds for part in parts_of(sound)]
    keys += [f"{a.kind}|before|{b.kind}" for a in sounds for b in sounds if b.middle - a.middle > _MARGIN]
    return list(dict.fromkeys(keys))


def placed_key(sound: Heard) -> str:
    """In which fifth of the clip its middle lies."""
    return f"{sound.kind}|t{min(_N_BINS - 1, int(_N_BINS * sound.middle))}"


def parts_of(sound: Heard) -> tuple[str, ...]:
    return ("start",) if sound.middle < _HALF else ("end",) if sound.middle > 1 - _HALF else ()


def noun(kind: str) -> str:
    """With its article.

    >>> noun("dog"), noun("engine"), noun("rain")
    ('a dog', 'an engine', 'rain')
    """
    return _NOUNS[kind]


def sentence(kind: str) -> str:
    """What it does.

    >>> sentence("dog")
    'a dog barks'
    """
    return f"{noun(kind)} {_DOINGS[kind]}"


def draw_caption(sounds: Sequence[Heard], generator: np.random.Generator) -> DrawnText:
    """A caption of one sound, of when it is heard, of two and their order, or of what is not heard.

    Every other one ends with a full stop, as sentences of a text do.
    """
    drawn = _draw_plain_caption(sounds, generator)
    return drawn.ended(".") if generator.random() < 0.5 else drawn


def _draw_plain_caption(sounds: Sequence[Heard], generator: np.random.Generator) -> DrawnText:
    chance, sound = generator.random(), sounds[int(generator.integers(len(sounds)))]
    ordered = [(a.kind, b.kind) for a in sounds for b in sounds if b.middle - a.middle > _MARGIN]
    if chance < 0.2 and ordered:
        return _ordered(*ordered[0], generator)
    if chance < 0.35 and len(sounds) > 1:
        kinds = [sounds[k].kind for k in generator.permutation(len(sounds))]
        return DrawnText(" and ".join(noun(kind) for kind in kinds), tuple(kinds))
    if chance < 0.5 and parts_of(sound):
        return _placed(sound, generator)
    if chance < 0.6:
        absent = [kind for kind in KINDS if all(kind != there.kind for there in sounds)]
        kind = absent[int(generator.integers(len(absent)))]
        return DrawnText(f"no {kind}", (), (kind,))
    return DrawnText(_said(sound.kind, generator), (sound.kind,))


def _said(kind: str, generator: np.random.Generator) -> str:
    chance = int(generator.integers(len(_STARTS) + 2))
    return sentence(kind) if chance >= len(_STARTS) else _STARTS[chance] + noun(kind)


def _placed(sound: Heard, generator: np.random.Generator) -> DrawnText:
    (part,), named = parts_of(sound), _said(sound.kind, generator)

    def said(part: str, *unlike: DrawnText) -> DrawnText:
        return DrawnText(f"{named} {PARTS[part]}", (f"{sound.kind}|{part}",), (), unlike)

    return said(part, said("end" if part == "start" else "start"))


def _ordered(first: str, second: str, generator: np.random.Generator) -> DrawnText:
    way = int(generator.integers(3))

    def said(first: str, second: str, *unlike: DrawnText) -> DrawnText:
        sayings = (
            f"{noun(first)} then {noun(second)}",
            f"{noun(first)} before {noun(second)}",
            f"{noun(second)} after {noun(first)}",
        )
        return DrawnText(sayings[way], (f"{first}|before|{second}",), (), unlike)

    return said(first, second, said(second, first))


def vocabulary() -> frozenset[str]:
    """Every word that a caption may have, and a few that people write instead."""
    texts = [*map(sentence, KINDS), *_STARTS, *PARTS.values(), "no and then before after one sound. i hear is heard"]
    return frozenset(words_of(texts))
