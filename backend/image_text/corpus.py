"""What a small image-text model learns from: pictures, what is known to be in them, and texts drawn for them.

What is in a picture is a set of keys, from coarse to fine: "effusion", "effusion|left". A text requires some keys and
forbids others, so that it fits every picture that has the ones and lacks the others, not only the one it was drawn for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from backend.image_text.data import Radiographs, Record
from backend.models.tokenizers import words_of
from backend.radiographs import reports
from backend.radiographs.findings import KINDS
from backend.radiographs.shapes import Finding

_PLACED = ("nodule", "mass", "consolidation")  # whose lobe is a key, too
_SIDES = ("left", "right")
_NEUTRAL = tuple(reports.NEUTRAL.split())
# Thin or small findings fill little of a cell: their share of it is raised, up to 1.
_GAIN = {
    "nodule": 4.0,
    "mass": 2.5,
    "consolidation": 2.0,
    "atelectasis": 4.0,
    "pacemaker": 3.0,
    "endotracheal tube": 5.0,
    "gastric tube": 6.0,
    "central line": 8.0,
}


@dataclass(frozen=True, slots=True)
class DrawnText:
    """A text, the keys that a picture must have for it to fit, and the keys that it must lack.

    `unlike`: texts of the same words that say another thing, which do not fit the picture that this one was drawn for.
    """

    text: str
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    unlike: tuple["DrawnText", ...] = ()

    def ended(self, stop: str) -> "DrawnText":
        """With an end to it and to what it is told from."""
        return replace(self, text=self.text + stop, unlike=tuple(other.ended(stop) for other in self.unlike))


def roles_of(text: DrawnText) -> tuple[str, ...]:
    """What a text says of each thing by itself: a key of two things is a role of the one and a role of the other.

    >>> roles_of(DrawnText("a bell before a dog", ("bell|before|dog",)))
    ('bell|before|', '|before|dog')
    """
    roles: list[str] = []
    for key in text.required:
        one, *rest = key.split("|")
        roles += [f"{one}|{rest[0]}|", f"|{rest[0]}|{rest[1]}"] if len(rest) == 2 else [key]
    return (*roles, *(f"no {key}" for key in text.forbidden))


@dataclass(frozen=True)
class Corpus:
    """Pictures with their keys and places.

    Attributes:
        pixels: (N, C, S, S) uint8.
        keys: names of the columns of `attributes`; the first ones are `kinds`.
        kinds: the coarse keys.
        attributes: (N, keys) bool.
        dense: how much of each cell each of the first keys fills, times 255, (N, kinds or more, S / 8, S / 8) uint8.
        draw_text: picture, generator -> a text for it.
        vocabulary: words that texts may have.
    """

    pixels: np.ndarray
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    attributes: np.ndarray
    dense: np.ndarray
    draw_text: Callable[[int, np.random.Generator], DrawnText]
    vocabulary: frozenset[str]
    rows: dict[str, int] = field(default_factory=dict)  # column of each key

    def __len__(self) -> int:
        return len(self.pixels)

    def columns(self, keys: Sequence[str]) -> list[int]:
        return [self.rows[key] for key in keys]


def make_corpus(
    pixels: np.ndarray,
    kinds: tuple[str, ...],
    finer: tuple[str, ...],
    present: Sequence[Sequence[str]],
    dense: np.ndarray,
    draw_text: Callable[[int, np.random.Generator], DrawnText],
    vocabulary: frozenset[str],
) -> Corpus:
    """Put a corpus together; `present` holds the keys of each picture, `finer` the keys beside `kinds`."""
    keys = (*kinds, *finer)
    rows = {key: k for k, key in enumerate(keys)}
    attributes = np.zeros((len(pixels), len(keys)), bool)
    for i, found in enumerate(present):
        attributes[i, [rows[key] for key in found]] = True
    return Corpus(pixels, keys, kinds, attributes, dense, draw_text, vocabulary, rows)


# ----------------------------------------------------------------- radiographs
_ON_A_SIDE = tuple(f"{kind}|{side}" for kind in KINDS for side in _SIDES)
FINER = _ON_A_SIDE + tuple(
    f"{kind}|{side}|{place}" for kind in _PLACED for side in _SIDES for place in ("upper", "middle", "lower")
)


def radiograph_corpus(radiographs: Radiographs) -> Corpus:
    """Simulated radiographs as a corpus; texts are drawn in the phrasings for training."""
    records = radiographs.records
    return make_corpus(
        radiographs.pixels[:, None],
        KINDS,
        FINER,
        [[key for finding in record.findings for key in keys_of(finding)] for record in records],
        _cells(radiographs),
        lambda i, generator: draw_radiograph_text(records[i], generator),
        radiograph_vocabulary(),
    )


def keys_of(finding: Finding) -> tuple[str, ...]:
    """From coarse to fine; the side of a central line is always right and no key.

    >>> empty = np.empty((0, 0))
    >>> keys_of(Finding("mass", empty, empty, "left", "upper"))
    ('mass', 'mass|left', 'mass|left|upper')
    """
    kind, side = finding.kind, finding.side
    if side not in _SIDES or kind == "central line":
        return (kind,)
    placed = (f"{kind}|{side}|{finding.place}",) if kind in _PLACED else ()
    return (kind, f"{kind}|{side}", *placed)


def _cells(radiographs: Radiographs) -> np.ndarray:
    """Share of each cell of 8 x 8 pixels of each kind and of each kind on each side, raised by its gain.

    A token that knows its side puts it into the mean over the tokens, which is all that the texts are held against.
    Returns: (N, kinds + kinds and sides, S / 8, S / 8) uint8.
    """
    n, side = radiographs.pixels.shape[:2]
    cells = side // 8
    placed = [*KINDS, *_ON_A_SIDE]
    dense = np.zeros((n, len(placed), cells, cells), np.uint8)
    for i, record in enumerate(radiographs.records):
        for finding, row in zip(record.findings, record.masks, strict=True):
            share = radiographs.mask(row).reshape(cells, 8, cells, 8).mean((1, 3))
            raised = np.minimum(share * _GAIN.get(finding.kind, 1.8), 1) * 255
            for key in keys_of(finding)[:2]:
                channel = dense[i, placed.index(key)]
                np.maximum(channel, raised.astype(np.uint8), out=channel)
    return dense


def draw_radiograph_text(record: Record, generator: np.random.Generator) -> DrawnText:
    """A whole report, a sentence, a prompt with or without a side, or a denial; neutral words strewn into some."""
    drawn = _draw_plain_text(record, generator)
    if generator.random() >= 0.2:
        return drawn
    words = drawn.text.split(" ")
    for _ in range(int(generator.integers(1, 4))):
        words.insert(int(generator.integers(len(words) + 1)), _choose(_NEUTRAL, generator))
    return replace(drawn, text=" ".join(words))


def _draw_plain_text(record: Record, generator: np.random.Generator) -> DrawnText:
    findings, chance = record.findings, generator.random()
    present = {finding.kind for finding in findings}
    if chance < 0.36:
        sentences = reports.write_report(findings, record.volume, generator)
        required = tuple(key for finding in findings for key in keys_of(finding))
        text = " ".join(sentence.text for sentence in sentences)
        return DrawnText(text, required, tuple(kind for kind in KINDS if kind not in present))
    if findings and chance < 0.84:
        finding = findings[generator.integers(len(findings))]
        keys = keys_of(finding)
        if chance < 0.6:
            return DrawnText(reports.sentence_for(finding, generator), keys)
        prompts = reports.statements(finding.kind)
        if chance < 0.72 and len(keys) > 1:
            prompts = reports.statements(finding.kind, side=finding.side)
            return DrawnText(_choose(prompts, generator), keys[:2])
        return DrawnText(_choose(prompts, generator), keys[:1])
    absent = [kind for kind in KINDS if kind not in present]
    kind = _choose(absent, generator)
    return DrawnText(_choose(reports.denials(kind), generator), (), (kind,))


def _choose(options: Sequence[str], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]


def radiograph_vocabulary() -> frozenset[str]:
    """Every word of every phrasing, and some that real reports have."""
    texts = [reports.OTHER_TEXT, *reports.all_phrasings()]
    return frozenset(words_of(texts))
