"""Frames under one finger: a slider in the browser over pictures and curves, with no server call while it moves."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.delta_generator import DeltaGenerator

_CLIENT = Path(__file__).parent / "client"
_COARSE_SIDE = 128  # pixels: smaller frames are sent without loss and shown as cells

_component = st.components.v2.component(
    "prism_scrubber",
    html=(_CLIENT / "scrubber.html").read_text(),
    css=(_CLIENT / "scrubber.css").read_text(),
    js=(_CLIENT / "numbers.js").read_text() + (_CLIENT / "scrubber.js").read_text(),
)


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """One more curve over the same path, in a plot of its own."""

    title: str
    y: np.ndarray  # (K,); NaN: not known there
    reference: np.ndarray | None = None  # (K,), dashed


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One run of frames with the number that belongs to each."""

    title: str
    frames: np.ndarray  # (K, H, W, 3 or 1) in [0, 1], or uint8
    x: np.ndarray  # (K,) where each frame stands, rising or falling
    y: np.ndarray  # (K,) the curve
    labels: Sequence[str]  # K sentences
    low: np.ndarray | None = None  # (K,) the band around the curve
    high: np.ndarray | None = None
    inner: tuple[float, float] | None = None  # what lies beyond is extrapolated, and marked so
    lanes: Sequence[Lane] = ()  # as many in every track
    is_here: np.ndarray | None = None  # (K,) bool: frames that are decoded already; None: all


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """The picture that a path begins or ends at."""

    title: str
    alt: str
    picture: np.ndarray  # (H, W, 3 or 1) in [0, 1], or uint8


def scrubber(
    tracks: Sequence[Track],
    *,
    x_title: str,
    y_title: str,
    key: str,
    start: int = 0,
    ends: tuple[End, End] | None = None,
    strip: bool = False,
    ticket: str = "",
) -> None:
    """Show the frames of one track at a time, its curves and the others' behind them.

    Args:
        tracks: at least one; with more, the reader chooses.
        start: index of the first frame shown.
        ends: the pictures at both ends, shown beside the frame.
        strip: also all frames side by side.
        ticket: of the path; frames that `running_frames` sends under it are taken in while the server works.
    """
    height, width = tracks[0].frames.shape[1:3]
    data = {
        "x_title": x_title,
        "y_title": y_title,
        "start": start,
        "coarse": max(height, width) < _COARSE_SIDE,
        "ratio": width / height,
        "strip": strip,
        "ticket": ticket,
        "ends": None
        if ends is None
        else [{"title": end.title, "alt": end.alt, "source": data_address(end.picture)} for end in ends],
        "tracks": [_describe(track) for track in tracks],
    }
    _component(key=key, data=data)


def _describe(track: Track) -> dict:
    is_here = np.ones(len(track.frames), bool) if track.is_here is None else track.is_here
    return {
        "title": track.title,
        "x": _numbers(track.x),
        "y": _numbers(track.y),
        "low": None if track.low is None else _numbers(track.low),
        "high": None if track.high is None else _numbers(track.high),
        "inner": None if track.inner is None else list(track.inner),
        "lanes": [
            {
                "title": lane.title,
                "y": _numbers(lane.y),
                "reference": None if lane.reference is None else _numbers(lane.reference),
            }
            for lane in track.lanes
        ],
        "labels": list(track.labels),
        "frames": [data_address(frame) if here else None for frame, here in zip(track.frames, is_here, strict=True)],
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """As JSON has them: what is no number is null."""
    return [float(value) if np.isfinite(value) else None for value in values]


def running_frames(place: DeltaGenerator, ticket: str, frames: Mapping[int, np.ndarray]) -> None:
    """Hand frames that were decoded just now to the scrubber on the page, while the script goes on.

    A component is drawn once in a run of the script; a plain element may be drawn again and again. So the frames
    travel in an element that nobody sees, and the scrubber with this ticket takes them from there.

    Args: frames: by their place in the path; all that are known so far, since a browser may miss a message.
    """
    sent = json.dumps({"ticket": ticket, "frames": {index: data_address(frame) for index, frame in frames.items()}})
    place.html(f'<span hidden data-prism-frames="{html.escape(sent, quote=True)}"></span>')


def data_address(frame: np.ndarray) -> str:
    """(H, W, 3 or 1) in [0, 1] or uint8 -> a data address: PNG for small frames, WebP for photographs."""
    pixels = frame if frame.dtype == np.uint8 else np.clip(np.round(frame * 255), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    kind = "png" if max(picture.size) < _COARSE_SIDE else "webp"
    picture.save(buffer, kind, **({"quality": 88} if kind == "webp" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """(H, W, C) -> a whole number of times larger, so that small pictures are shown as cells and not smoothed."""
    times = max(1, _COARSE_SIDE // max(pixels.shape[:2]))
    return np.repeat(np.repeat(pixels, times, 0), times, 1)
