"""A gallery of small pictures, one of which is chosen; every picture says in words what it shows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

_CLIENT = Path(__file__).parent / "client"

_component = st.components.v2.component(
    "prism_gallery",
    html=(_CLIENT / "gallery.html").read_text(),
    css=(_CLIENT / "gallery.css").read_text(),
    js=(_CLIENT / "gallery.js").read_text(),
)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A picture of the gallery."""

    key: str
    title: str
    alt: str
    source: str  # data address


def gallery(label: str, pictures: Sequence[Thumbnail], chosen: str, *, key: str) -> str | None:
    """Show the pictures; returns the key of the one that was pressed just now, else None."""
    data = {"label": label, "chosen": chosen, "pictures": [asdict(picture) for picture in pictures]}
    return _component(key=key, data=data, on_chosen_change=_noted).chosen


def _noted() -> None:
    """The rerun itself is what is wanted."""
