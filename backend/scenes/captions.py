"""What is true of a scene, as keys, and captions that demand some keys and deny others.

Keys go from coarse to fine: "red", "circle", "red circle", "red circle|left", "red circle|two",
"red circle|left of|blue square".
"""

from collections.abc import Iterator, Sequence

import numpy as np

from backend.image_text.corpus import DrawnText
from backend.models.tokenizers import words_of
from backend.scenes.draw import COLOURS, KINDS, SHAPES, Thing

HALVES = ("left", "right", "top", "bottom")
RELATIONS = ("left of", "above")  # "right of" and "below" are these, turned round
_N_BINS = 4
BINS = tuple(f"{axis}{k}" for axis in "xy" for k in range(_N_BINS))  # where a thing is, more finely; in no caption
_MARGIN = 0.08  # of the side: centres nearer than that stand in no relation
_HALF = 0.42  # of the side, where left and top end
_SAYINGS = {
    "left of": (("left of", "to the left of"), ("right of", "to the right of")),
    "above": (("above", "over"), ("below", "under")),
}
_STARTS = ("", "", "a picture of ", "there is ")
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_ORDER = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


def names_of(thing: Thing) -> tuple[str, ...]:
    """What a thing may be called, from coarse to fine."""
    return (thing.colour, thing.shape, thing.kind)


def relation(one: Thing, name: str, other: Thing) -> bool:
    """Does the relation hold, clearly?"""
    return (other.x - one.x if name == "left of" else other.y - one.y) > _MARGIN


PLACED = tuple(f"{kind}|{part}" for kind in KINDS for part in BINS)  # each token learns to say these of its place
FINER = (
    *PLACED,
    *COLOURS,
    *SHAPES,
    *(f"{kind}|two" for kind in KINDS),
    *(f"{kind}|{half}" for kind in KINDS for half in HALVES),
    *(
        f"{a}|{name}|{b}"
        for names in (KINDS, SHAPES, tuple(COLOURS))
        for name in RELATIONS
        for a in names
        for b in names
    ),
)


def keys_of(things: Sequence[Thing]) -> list[str]:
    """Everything that is true of a scene, each once."""
    return list(dict.fromkeys(_keys(things)))


def _keys(things: Sequence[Thing]) -> Iterator[str]:
    kinds = [thing.kind for thing in things]
    for thing in things:
        yield from names_of(thing)
        yield from (f"{thing.kind}|{half}" for half in halves_of(thing))
        yield from placed_keys(thing)
        if kinds.count(thing.kind) > 1:
            yield f"{thing.kind}|two"
    for one in things:
        for other in things:
            for name in RELATIONS:
                if one is not other and relation(one, name, other):
                    yield from (f"{a}|{name}|{b}" for a, b in zip(names_of(one), names_of(other), strict=True))


def placed_keys(thing: Thing) -> tuple[str, str]:
    """In which quarter of the width and of the height it lies."""
    x, y = (min(_N_BINS - 1, int(_N_BINS * at)) for at in (thing.x, thing.y))
    return f"{thing.kind}|x{x}", f"{thing.kind}|y{y}"


def halves_of(thing: Thing) -> tuple[str, ...]:
    """In which halves a thing clearly lies."""
    across = ("left",) if thing.x < _HALF else ("right",) if thing.x > 1 - _HALF else ()
    return across + (("top",) if thing.y < _HALF else ("bottom",) if thing.y > 1 - _HALF else ())


# ----------------------------------------------------------------- captions
def draw_caption(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText:
    """A caption of one thing, of where it is, of two that stand in a relation, of all, of a pair, or of what lacks.

    Every other one ends with a full stop, as sentences of a text do.
    """
    drawn = _draw_plain_caption(things, generator)
    return drawn.ended(".") if generator.random() < 0.5 else drawn


def _draw_plain_caption(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText:
    chance = generator.random()
    if chance < 0.34:
        found = _related(things, generator)
        if found is not None:
            return found
    if chance < 0.46:
        return _one_of_all(things, generator)
    if chance < 0.62:
        return _placed(things, generator)
    if chance < 0.72:
        return _repeated(things, generator)
    if chance < 0.82:
        return _absent(things, generator)
    thing = _choose(things, generator)
    name = _choose(names_of(thing), generator)
    return DrawnText(_choose(_STARTS, generator) + noun(name), (name,))


def noun(name: str) -> str:
    """With its article; a colour alone needs a word to stand before.

    >>> noun("red"), noun("red circle")
    ('a red shape', 'a red circle')
    """
    return f"a {name} shape" if name in COLOURS else f"a {name}"


def relation_caption(one: str, name: str, other: str, saying: str | None = None) -> str:
    """ "a red circle left of a blue square"; sayings that turn the relation round are told the other way round.

    >>> relation_caption("red circle", "above", "star"), relation_caption("red circle", "above", "star", "below")
    ('a red circle above a star', 'a star below a red circle')
    """
    saying = saying or _SAYINGS[name][0][0]
    if saying in _SAYINGS[name][1]:
        one, other = other, one
    return f"{noun(one)} {saying} {noun(other)}"


def _related(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText | None:
    holding = [
        (one, name, other)
        for one in things
        for other in things
        for name in RELATIONS
        if one.kind != other.kind and relation(one, name, other)
    ]
    if not holding:
        return None
    one, name, other = holding[int(generator.integers(len(holding)))]
    level = 2 if generator.random() < 0.7 else int(generator.integers(2))
    a, b = names_of(one)[level], names_of(other)[level]
    saying, start = _choose([*_SAYINGS[name][0], *_SAYINGS[name][1]], generator), _choose(_STARTS, generator)

    def said(one: str, other: str, *unlike: DrawnText) -> DrawnText:
        return DrawnText(start + relation_caption(one, name, other, saying), (f"{one}|{name}|{other}",), (), unlike)

    turned_holds = any(  # too: with names shared by several things, or a thing that stands there twice
        names_of(c)[level] == b and names_of(d)[level] == a and relation(c, name, d) for c in things for d in things
    )
    return said(a, b) if turned_holds else said(a, b, said(b, a))


def _one_of_all(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText:
    kinds = list(dict.fromkeys(things[k].kind for k in generator.permutation(len(things))))
    text = " and ".join(noun(kind) for kind in kinds)
    return DrawnText(text, tuple(kinds))


def _placed(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText:
    placed = [(thing.kind, half) for thing in things for half in halves_of(thing)]
    if not placed:
        return DrawnText(noun(things[0].kind), (things[0].kind,))
    kind, half = placed[int(generator.integers(len(placed)))]

    def said(half: str, *unlike: DrawnText) -> DrawnText:
        return DrawnText(f"{noun(kind)} {_ORDER[half]}", (f"{kind}|{half}",), (), unlike)

    opposite = _OPPOSITE[half]
    both = any(thing.kind == kind and opposite in halves_of(thing) for thing in things)  # it stands there twice
    return said(half) if both else said(half, said(opposite))


def _repeated(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText:
    kinds = [thing.kind for thing in things]
    twice = [kind for kind in kinds if kinds.count(kind) > 1]
    if not twice:
        return DrawnText(f"one {kinds[0]}", (kinds[0],), (f"{kinds[0]}|two",))
    return DrawnText(f"two {twice[0]}s", (f"{twice[0]}|two",))


def _absent(things: Sequence[Thing], generator: np.random.Generator) -> DrawnText:
    level = int(generator.integers(3))
    there = {names_of(thing)[level] for thing in things}
    names = [name for name in (tuple(COLOURS), SHAPES, KINDS)[level] if name not in there]
    if not names:
        return DrawnText("a picture of shapes")
    name = _choose(names, generator)
    return DrawnText(f"no {name}" + (" shape" if name in COLOURS else ""), (), (name,))


def _choose(options: Sequence[str], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]


def vocabulary() -> frozenset[str]:
    """Every word that a caption may have, and a few that people write instead."""
    sayings = [saying for both in _SAYINGS.values() for side in both for saying in side]
    texts = [*KINDS, *(f"{shape}s" for shape in SHAPES), *_STARTS, *_ORDER.values(), *sayings]
    return frozenset(words_of([*texts, "a picture of shapes.", "one two no and the is are in an shape"]))
