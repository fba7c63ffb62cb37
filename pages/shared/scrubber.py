"""Frames under one finger: a slider in the browser over pictures and a curve, with no server call while it moves."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

_CLIENT = Path(__file__).parent / "client"
_COARSE_SIDE = 128  # pixels: smaller frames are sent without loss and shown as cells

_component = st.components.v2.component(
    "prism_scrubber",
    html=(_CLIENT / "scrubber.html").read_text(),
    css=(_CLIENT / "scrubber.css").read_text(),
    js=(_CLIENT / "numbers.js").read_text() + (_CLIENT / "scrubber.js").read_text(),
)


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One run of frames with the number that belongs to each."""

    title: str
    frames: np.ndarray  # (K, H, W, 3 or 1) in [0, 1], or uint8
    x: np.ndarray  # (K,) where each frame stands, rising or falling
    y: np.ndarray  # (K,) the curve
    labels: Sequence[str]  # K sentences


def scrubber(tracks: Sequence[Track], *, x_title: str, y_title: str, key: str, start: int = 0) -> None:
    """Show the frames of one track at a time, its curve and the others' behind it.

    Args:
        tracks: at least one; with more, the reader chooses.
        start: index of the first frame shown.
    """
    side = max(tracks[0].frames.shape[1:3])
    data = {
        "x_title": x_title,
        "y_title": y_title,
        "start": start,
        "coarse": side < _COARSE_SIDE,
        "tracks": [
            {
                "title": track.title,
                "x": [float(value) for value in track.x],
                "y": [float(value) for value in track.y],
                "labels": list(track.labels),
                "frames": [data_address(frame) for frame in track.frames],
            }
            for track in tracks
        ],
    }
    _component(key=key, data=data)


def data_address(frame: np.ndarray) -> str:
    """(H, W, 3 or 1) in [0, 1] or uint8 -> a data address: PNG for small frames, WebP for photographs."""
    pixels = frame if frame.dtype == np.uint8 else np.clip(np.round(frame * 255), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    kind = "png" if max(picture.size) < _COARSE_SIDE else "webp"
    picture.save(buffer, kind, **({"quality": 88} if kind == "webp" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
