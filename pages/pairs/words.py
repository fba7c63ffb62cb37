"""Words coloured in place by what lies on them; sentences to choose from. One widget, no server call while looking."""

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

from pages.pairs.explained import Explained
from pages.shared.figures import WORD_COLOURS, format_value

_CLIENT = Path(__file__).parent / "client"
_SHARED = Path(__file__).parents[1] / "shared" / "client"

_component = st.components.v2.component(
    "prism_words",
    html=(_CLIENT / "words.html").read_text(),
    css=(_CLIENT / "words.css").read_text(),
    js=(_SHARED / "numbers.js").read_text() + (_CLIENT / "words.js").read_text(),
)


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text: a word with its value, or what stands between words."""

    text: str
    value: float | None = None
    is_cut: bool = False  # behind the end of what the model reads


@dataclass(frozen=True, slots=True)
class Row:
    """A sentence, or one colouring of it."""

    key: str
    label: str  # before it: its number, or what colours it
    spans: tuple[Span, ...]
    note: str = ""  # after it, small: a cosine, why there is nothing
    is_signed: bool = False
    is_chosen: bool = False
    is_busy: bool = False
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under one heading."""

    heading: str
    rows: tuple[Row, ...]


def spans_of(explained: Explained, view: str, original: str = "") -> tuple[Span, ...]:
    """A sentence's words with their values, and what stands between them as it is.

    Args:
        view: "own", "control" or "difference".
        original: the sentence as written; used where the model's reading has the same length, so that capitals stay.
    """
    text = original if len(original) == len(explained.text) else explained.text
    spans, at = [], 0
    for word in explained.words:
        if word.start > at:
            spans.append(Span(text[at : word.start]))
        spans.append(Span(text[word.start : word.end], word.value(view)))
        at = word.end
    if at < len(text):
        spans.append(Span(text[at:], is_cut=explained.n_cut > 0))
    return tuple(spans)


def limit_of(spans: Sequence[Span]) -> float:
    """The |value| at which the colours end: the largest there is."""
    return max((abs(span.value) for span in spans if span.value is not None), default=0.0)


def floor_of(rows: Sequence[Row], limit: float) -> float:
    """Where the colours of unsigned rows begin: 0, or the least value where all lie in the upper half.

    With sigma^2 other than 1 a token through which nothing passes still has .5 (sigma^2 - 1 - ln sigma^2) nats an
    element: from 0 on all words would look alike.
    """
    values = [span.value for row in rows if not row.is_signed for span in row.spans if span.value is not None]
    least = min(values, default=0.0)
    return least if limit / 2 < least < limit else 0.0


def word_board(
    label: str, groups: Sequence[Group], *, key: str, unit: str, is_pickable: bool = False, limit: float | None = None
) -> str | None:
    """Show rows of words; returns the key of the row that was chosen just now.

    Args:
        limit: the value at which the colours end; None: the largest that is shown. One for all rows, signed or not.
    """
    if limit is None:
        limit = max((limit_of(row.spans) for group in groups for row in group.rows), default=0.0)
    floor = floor_of([row for group in groups for row in group.rows], limit)
    data = {
        "label": label,
        "unit": unit,
        "limit": limit,
        "floor": floor,
        "scale": f"{format_value(floor)} to {format_value(limit)} {unit}" if limit else "",
        "pickable": is_pickable,
        "groups": [asdict(group) for group in groups],
        "colours": {
            ground: {name: base64.b64encode(table.tobytes()).decode() for name, table in tables.items()}
            for ground, tables in WORD_COLOURS.items()
        },
    }
    return _component(key=key, data=data, on_picked_change=_noted).picked


def _noted() -> None:
    """The rerun itself is what is wanted."""
