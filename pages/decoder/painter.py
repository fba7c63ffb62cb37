"""The painter of training supports: presets, brush, corners, keys; what recombining blocks reaches is drawn at once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from backend.contracts import Result, SupportRequest
from pages.decoder.board import ask
from pages.shared.session import recall, remember

CELLS = 16  # along each latent's range
MAX_CORNERS = 100
_BORDER = 2  # cells of the frame 0..1 on each side that lie outside the latents' range 0.1..0.9
PRESETS = {
    "l": "L",
    "u": "U",
    "bands": "Two bands",
    "corners": "Two corners",
    "dependent-linear": "Dependent",
    "dependent-nonlinear": "Wave",
    "rectangle": "Everything",
}
_CLIENT = Path(__file__).parent / "client"
_SHARED = Path(__file__).parents[1] / "shared" / "client"

_component = st.components.v2.component(
    "prism_support_painter",
    html=(_CLIENT / "painter.html").read_text(),
    css=(_CLIENT / "painter.css").read_text(),
    js=(_SHARED / "numbers.js").read_text() + (_CLIENT / "painter.js").read_text(),
)


@dataclass(frozen=True, slots=True)
class Painted:
    """A support as it stands on the easel; rows go along the first latent upwards."""

    preset: str | None
    mask: tuple[str, ...]  # `CELLS` rows of 0 and 1
    outline: tuple[tuple[float, float], ...] = ()  # corners of a closed line, right and up in 0..1 of the easel

    @property
    def is_empty(self) -> bool:
        return not self.outline and not any("1" in row for row in self.mask)

    @property
    def text(self) -> str:
        """What requests and recipes take: a name, or the polygon or the mask in the frame 0..1 as JSON."""
        if self.preset:
            return self.preset
        free_hand = (
            {"polygon": [[_in_frame(up), _in_frame(right)] for right, up in self.outline]}
            if self.outline
            else {"mask": frame_of(self.mask)}
        )
        return json.dumps(free_hand, separators=(",", ":"))


def _in_frame(place: float) -> float:
    """A place on the easel, 0..1, as a latent in the frame 0..1."""
    return round((_BORDER + CELLS * place) / (CELLS + 2 * _BORDER), 4)


def frame_of(mask: Sequence[str]) -> list[str]:
    """The latents' range with its border, as rows of the frame 0..1."""
    empty = "0" * (CELLS + 2 * _BORDER)
    border = "0" * _BORDER
    return [empty] * _BORDER + [f"{border}{row}{border}" for row in mask] + [empty] * _BORDER


def mask_of(raster: np.ndarray) -> tuple[str, ...]:
    """A square raster of the frame 0..1 as rows of the painter: each cell by its centre."""
    centres = (np.arange(CELLS) + _BORDER + 0.5) / (CELLS + 2 * _BORDER)
    at = (centres * len(raster)).astype(int)
    return tuple("".join("1" if cell else "0" for cell in row) for row in raster[np.ix_(at, at)])


def painter(axes: str, *, key: str) -> Painted:
    """Show the painter; returns what is painted now, kept while the visitor looks elsewhere.

    Args: axes: what up and right mean.
    """
    presets = {}
    for name in PRESETS:
        answer = ask(SupportRequest(name, n=10))
        if isinstance(answer, Result):
            presets[name] = mask_of(answer.arrays["raster"])
    before = recall("decoder.painted") or Painted("l", presets["l"])
    data = {
        "cells": CELLS,
        "axes": axes,
        "preset": before.preset,
        "mask": list(before.mask),
        "outline": [list(corner) for corner in before.outline] or None,
        "presets": [{"key": name, "title": PRESETS[name], "mask": list(mask)} for name, mask in presets.items()],
    }
    state = _component(key=key, data=data, default={"support": None}, on_support_change=_noted)["support"]
    painted = read(state) or before
    remember("decoder.painted", painted)
    return painted


def _noted() -> None:
    """The rerun itself is what is wanted."""


def read(state: object) -> Painted | None:
    """What the browser sent; None where it makes no sense."""
    if not isinstance(state, dict):
        return None
    preset, mask = state.get("preset"), state.get("mask")
    if not isinstance(mask, list) or len(mask) != CELLS:
        return None
    if not all(isinstance(row, str) and len(row) == CELLS and set(row) <= {"0", "1"} for row in mask):
        return None
    return Painted(preset if preset in PRESETS else None, tuple(mask), _outline(state.get("outline")))


def _outline(corners: object) -> tuple[tuple[float, float], ...]:
    """The corners that the browser sent; none where they make no sense."""
    if not isinstance(corners, list) or not 3 <= len(corners) <= MAX_CORNERS:
        return ()
    return tuple((float(x), float(y)) for x, y in corners) if all(map(_is_place, corners)) else ()


def _is_place(corner: object) -> bool:
    return (
        isinstance(corner, list)
        and len(corner) == 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1 for v in corner)
    )
