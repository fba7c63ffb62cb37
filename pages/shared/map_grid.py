"""Maps side by side in the browser: one widget, one zoom, one cross-hair, no server call while looking.

The browser gets the raw values (float16 times a factor per map, above the map's base: three significant digits down to
6e-5 of its largest value) and repeats the formulas of `figures` on them.
"""

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.images import encode_png
from pages.shared.figures import (
    COLOUR_KEPT,
    OPACITY_KEPT,
    OVERLAY_GAMMA,
    SIGNED_COLOURS,
    UNSIGNED_COLOURS,
    Display,
    Panel,
    TimeAndFrequency,
    is_coloured,
    lowest_of,
    unit_of,
)

_CLIENT = Path(__file__).parent / "client"

_component = st.components.v2.component(
    "prism_map_grid",
    html=(_CLIENT / "map_grid.html").read_text(),
    css=(_CLIENT / "map_grid.css").read_text(),
    js="".join((_CLIENT / name).read_text() for name in ("numbers.js", "pictures.js", "map_grid.js")),
)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in shares of the picture's width and height, with 0 <= left < right <= 1 and so downwards."""

    left: float
    top: float
    right: float
    bottom: float
    label: str = ""  # what is in it; empty: the person's own

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> "Box | None":
        """Read what the browser sent; None if it makes no sense."""
        try:
            left, top, right, bottom = (float(given[name]) for name in ("left", "top", "right", "bottom"))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError):
            return None
        makes_sense = 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        return cls(left, top, right, bottom) if makes_sense else None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What stands around the maps."""

    layout: Literal["grid", "large"] = "grid"  # large: one map below the other, as wide as there is room
    with_image: bool = True  # the image by itself as the first picture
    with_tools: bool = True  # False: shown as `display` says, which another grid on the page decides
    is_pickable: bool = False  # a map's title chooses it
    picked: str = ""  # key of the map that is chosen now
    limit: float | None = None  # where the colours end, given by another grid; None: as the display says
    may_draw: bool = False  # a box can be drawn, with the pointer or the keyboard
    boxes: tuple[Box, ...] = ()  # that are known
    drawn: Box | None = None  # the person's, to begin with
    axes: TimeAndFrequency | None = None  # of a spectrogram, drawn on the map


@dataclass(frozen=True, slots=True)
class Looked:
    """What the person did with a grid of maps."""

    display: Display
    drawn: Box | None = None  # the box drawn last
    picked: str | None = None  # key of the map whose title was pressed just now


def map_grid(
    image: np.ndarray,
    panels: Sequence[Panel],
    display: Display,
    *,
    key: str,
    description: str,
    mask: np.ndarray | None = None,
) -> Display:
    """Show the image and its maps; return how they are shown now.

    Args:
        image: (H, W, 3 or 1) in [0, 1], as the model saw it.
        display: how they are shown at first; later the choice made in the browser holds.
        description: the image in words, for those who do not see it.
        mask: (H, W) bool, where the object is, if known.
    """
    return arranged_maps(image, panels, display, Arrangement(), key=key, description=description, mask=mask).display


def arranged_maps(
    image: np.ndarray,
    panels: Sequence[Panel],
    display: Display,
    arrangement: Arrangement,
    *,
    key: str,
    description: str,
    mask: np.ndarray | None = None,
) -> Looked:
    """Maps as `map_grid` shows them, arranged as wanted: large, with boxes, or to choose from."""
    state = _component(
        key=key,
        data=pack(image, panels, display, description, mask, arrangement),
        default={"display": None, "box": None},
        on_display_change=_noted,
        on_box_change=_noted,
        on_picked_change=_noted,
    )
    shown = Display.from_mapping(state["display"]) if state["display"] and arrangement.with_tools else display
    box = state["box"]
    drawn = arrangement.drawn if box is None else Box.from_mapping(box)
    return Looked(shown, drawn, state.picked)


def _noted() -> None:
    """The rerun itself is what is wanted."""


def pack(
    image: np.ndarray,
    panels: Sequence[Panel],
    display: Display,
    description: str,
    mask: np.ndarray | None,
    arrangement: Arrangement = Arrangement(),
) -> bytes:
    """All that the browser needs as one blob: uint32 length of the header, header (JSON), float16 values."""
    rows: list[dict] = []
    if arrangement.with_image:
        rows = [{"key": "image", "title": "Image", "offset": None, "caption": description, "message": ""}]
    described, values = _describe(panels)
    header = {
        "image": "data:image/png;base64," + base64.b64encode(encode_png(image)).decode(),
        "description": description,
        "display": display.as_mapping(),
        "overlay_gamma": OVERLAY_GAMMA,
        "coloured": {"colour": COLOUR_KEPT, "opacity": OPACITY_KEPT} if is_coloured(image) else None,
        "panels": rows + described,
        "mask": None if mask is None else _mask_bits(mask),
        "arrangement": asdict(arrangement),
        "colours": {
            "signed": base64.b64encode(SIGNED_COLOURS.tobytes()).decode(),
            "unsigned": base64.b64encode(UNSIGNED_COLOURS.tobytes()).decode(),
        },
    }
    return _blob(header, values)


def _describe(panels: Sequence[Panel]) -> tuple[list[dict], bytes]:
    """Panels as rows of the header, and the values that these point into."""
    rows, values, offset = [], [], 0
    for panel in panels:
        row = {
            "key": panel.key,
            "title": panel.title,
            "signed": panel.signed and panel.origin == "zero",
            "origin": panel.origin,
            "unit": panel.unit,
            "said_unit": unit_of(panel),
            "caption": panel.caption,
            "message": panel.message or "computing",
            "busy": not panel.message,
            "ticket": panel.ticket,
            "offset": None,
        }
        if panel.values is not None:
            base = lowest_of(panel)
            factor = float(np.abs(panel.values - base).max()) or 1.0
            height, width = panel.values.shape
            row |= {"offset": offset, "base": base, "factor": factor, "height": height, "width": width}
            values.append(((panel.values - base) / factor).astype("<f2").tobytes())
            offset += height * width
        rows.append(row)
    return rows, b"".join(values)


def _blob(header: dict, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (len(text) % 2)  # float16 values start at an even byte
    return struct.pack("<I", len(text)) + text + values


def running_map(place: DeltaGenerator, panel: Panel) -> None:
    """Show a map that is on its way in the panel of the grid that waits for it, while the script goes on.

    A component is drawn once in a run of the script; a plain element may be drawn again and again. So the map
    travels in an element that nobody sees, and the grid on the page takes it from there.
    """
    rows, values = _describe([panel])
    blob = base64.b64encode(_blob({"panels": rows}, values)).decode()
    place.html(f'<span hidden data-prism-running="{blob}"></span>')


def _mask_bits(mask: np.ndarray) -> dict:
    height, width = mask.shape
    return {"rows": height, "columns": width, "bits": "".join("1" if bit else "0" for bit in mask.ravel())}
