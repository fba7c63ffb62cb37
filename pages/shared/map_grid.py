"""Maps side by side in the browser: one widget, one zoom, one cross-hair, no server call while looking.

The browser gets the raw values (float16 times a factor per map: three significant digits down to 6e-5 of a map's
largest value) and repeats the formulas of `figures` on them.
"""

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.images import encode_png
from pages.shared.figures import OVERLAY_GAMMA, SIGNED_COLOURS, UNSIGNED_COLOURS, Display, Panel

_CLIENT = Path(__file__).parent / "client"

_component = st.components.v2.component(
    "prism_map_grid",
    html=(_CLIENT / "map_grid.html").read_text(),
    css=(_CLIENT / "map_grid.css").read_text(),
    js=(_CLIENT / "numbers.js").read_text() + (_CLIENT / "map_grid.js").read_text(),
)


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
    state = _component(
        key=key,
        data=pack(image, panels, display, description, mask),
        default={"display": None},
        on_display_change=_noted,
    )
    return Display.from_mapping(state["display"]) if state["display"] else display


def _noted() -> None:
    """The rerun itself is what is wanted."""


def pack(
    image: np.ndarray, panels: Sequence[Panel], display: Display, description: str, mask: np.ndarray | None
) -> bytes:
    """All that the browser needs as one blob: uint32 length of the header, header (JSON), float16 values."""
    rows: list[dict] = [{"key": "image", "title": "Image", "offset": None, "caption": description, "message": ""}]
    described, values = _describe(panels)
    header = {
        "image": "data:image/png;base64," + base64.b64encode(encode_png(image)).decode(),
        "description": description,
        "display": display.as_mapping(),
        "overlay_gamma": OVERLAY_GAMMA,
        "panels": rows + described,
        "mask": None if mask is None else _mask_bits(mask),
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
            "signed": panel.signed,
            "unit": panel.unit,
            "caption": panel.caption,
            "message": panel.message or "computing",
            "busy": not panel.message,
            "ticket": panel.ticket,
            "offset": None,
        }
        if panel.values is not None:
            factor = float(np.abs(panel.values).max()) or 1.0
            height, width = panel.values.shape
            row |= {"offset": offset, "factor": factor, "height": height, "width": width}
            values.append((panel.values / factor).astype("<f2").tobytes())
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
