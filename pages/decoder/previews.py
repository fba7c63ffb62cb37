"""What a training shows of itself: its loss so far, and a few pictures as they are decoded now."""

import html
import io
from typing import Any

import numpy as np
import streamlit as st

from backend.errors import PrismError
from pages.shared.figures import format_value
from pages.shared.session import jobs


def strip(pictures: np.ndarray, gap: int = 2) -> np.ndarray:
    """(K, S, S, 3) uint8 side by side on grey."""
    k, side = pictures.shape[:2]
    strip = np.full((side + 2 * gap, k * (side + gap) + gap, 3), 138, np.uint8)
    for i, picture in enumerate(pictures):
        left = gap + i * (side + gap)
        strip[gap : gap + side, left : left + side] = picture
    return strip


def draw_preview(job_id: str) -> None:
    """The loss curve of a job beside true and decoded pictures; nothing before the first preview."""
    preview = _read_preview(job_id)
    if preview is None:
        return
    left, right = st.columns(2)
    with left:
        st.image(_loss_svg(preview["losses"]), alt="Training loss over the steps", width="stretch")
    with right:
        both = np.concatenate([strip(preview["true"]), strip(preview["decoded"])])
        st.image(both, caption="Above: true. Below: as decoded.", width="stretch", output_format="PNG")


def _read_preview(job_id: str) -> dict[str, Any] | None:
    """What the job drew last: losses and pictures, true and decoded."""
    try:
        data = jobs().read_file(job_id, "preview.npz")
        if data is None:
            return None
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (PrismError, OSError, ValueError, KeyError):
        return None


def _loss_svg(losses: np.ndarray) -> str:
    """The root of the training loss over steps, as a line on light and dark alike."""
    steps, values = losses[:, 0], np.log10(np.maximum(losses[:, 1], 1e-6))
    keep = np.unique(np.linspace(0, len(steps) - 1, 160).astype(int))
    x = 44 + (steps[keep] - steps[0]) / max(steps[-1] - steps[0], 1) * 296
    low, high = values.min(), max(values.max(), values.min() + 0.1)
    y = 12 + (high - values[keep]) / (high - low) * 96
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    ends = f"{format_value(10**high)}", f"{format_value(10**low)}"
    label = html.escape(f"Root of the training loss, from {ends[0]} to {format_value(losses[-1, 1])}", quote=True)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 350 140' width='700' height='280' role='img' "
        f"aria-label='{label}'><g fill='#8a8a8a' font-size='10' font-family='sans-serif'>"
        f"<text x='40' y='16' text-anchor='end'>{ends[0]}</text>"
        f"<text x='40' y='111' text-anchor='end'>{ends[1]}</text>"
        f"<text x='340' y='130' text-anchor='end'>step {int(steps[-1])}: {format_value(losses[-1, 1])}</text>"
        "<text x='44' y='130'>root of the training loss (log scale)</text></g>"
        f"<polyline points='{points}' fill='none' stroke='#0A84C6' stroke-width='2'/></svg>"
    )
