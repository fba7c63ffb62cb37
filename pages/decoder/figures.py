"""Grids of scenes as pictures for files and galleries: in-support and extrapolated cells framed differently."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pages.decoder.bench import grid_note
from pages.decoder.board import Drawn

SEEN_FRAME, UNSEEN_FRAME = (138, 138, 138), (213, 94, 0)  # grey and vermilion, told apart by all
FRAME_PX, GAP_PX, DASH_PX = 2, 3, 6
PANEL_INCHES, FIGURE_DPI = 2.6, 200


def framed_sheet(images: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A grid as one picture, the first row at the bottom: thin grey frames where seen, dashed where never seen.

    Args: images: (n, m, S, S, 3) uint8. seen: (n, m) bool.
    Returns: (H, W, 3) uint8.
    """
    n, m, side = images.shape[:3]
    tile = side + 2 * FRAME_PX
    step = tile + GAP_PX
    sheet = np.full((n * step - GAP_PX, m * step - GAP_PX, 3), 255, np.uint8)
    for row in range(n):
        for column in range(m):
            framed = _frame(images[row, column], bool(seen[row, column]))
            top, left = (n - 1 - row) * step, column * step
            sheet[top : top + tile, left : left + tile] = framed
    return sheet


def _frame(image: np.ndarray, is_seen: bool) -> np.ndarray:
    side = image.shape[0] + 2 * FRAME_PX
    framed = np.full((side, side, 3), 255, np.uint8)
    width = 1 if is_seen else FRAME_PX
    colour = np.array(SEEN_FRAME if is_seen else UNSEEN_FRAME, np.uint8)
    dashes = np.ones(side, bool) if is_seen else (np.arange(side) // DASH_PX) % 2 == 0
    for edge in (framed[:width], framed[-width:]):
        edge[:, dashes] = colour
    for edge in (framed[:, :width], framed[:, -width:]):
        edge[dashes] = colour
    framed[FRAME_PX:-FRAME_PX, FRAME_PX:-FRAME_PX] = image
    return framed


def static_figure(decoders: Sequence[Drawn], title: str, axes: str, footer: str, file_format: str) -> bytes:
    """Truth and decoders side by side with their errors and a settings footer, as PNG or SVG bytes."""
    seen = decoders[0].grid.arrays["in_support"]
    panels = [("Truth", decoders[0].grid.arrays["truth"], f"{int(seen.sum())} of {seen.size} cells seen together")]
    panels += [(drawn.title, drawn.grid.arrays["grid"], grid_note(drawn.grid)) for drawn in decoders]
    n, m = seen.shape
    height = PANEL_INCHES * n / m + 1.1
    figure = Figure(figsize=(PANEL_INCHES * len(panels), height), layout="constrained", dpi=FIGURE_DPI)
    for place, (name, images, note) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        place.imshow(framed_sheet(images, seen), interpolation="nearest")
        place.set_title(name, fontsize=9)
        place.set_xlabel(textwrap.fill(note, 40), fontsize=6.5)
        place.set_xticks([])
        place.set_yticks([])
        place.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    legend = f"Thin grey: seen together in training. Dashed orange: never seen together. {axes}"
    figure.supxlabel(f"{legend}\n{textwrap.fill(footer, 45 * len(panels))}", fontsize=6)
    buffer = io.BytesIO()
    canvas = FigureCanvasSVG(figure) if file_format == "svg" else FigureCanvasAgg(figure)
    # No date in the file: equal settings give equal bytes.
    canvas.figure.savefig(buffer, format=file_format, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()
