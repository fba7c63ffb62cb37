"""The page's answer as one figure for files: strip, effect curve, measured attribute, shape functions."""

import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from backend.contracts import Result
from pages.additive.path import measured_lane
from pages.additive.shapes import axis_title, is_dotted
from pages.shared.figures import FIGURE_DPI

STRIP = 17  # frames of the printed strip
ACROSS = 4  # shape functions beside each other
_LINE, _TRUTH, _EFFECT, _MEASURED = "#0A84C6", "#333333", "#D55E00", "#009E73"


def static_figure(path: Result, shapes: Result | None, title: str, footer: str, file_format: str = "png") -> bytes:
    """Everything that is on screen without a click, as PNG or SVG bytes.

    Args: footer: what was set, one or two lines.
    """
    columns: Sequence[dict] = [] if shapes is None else shapes.values["columns"]
    n_rows = math.ceil(len(columns) / ACROSS)
    figure = Figure(figsize=(10, 4.6 + 2.3 * n_rows), layout="constrained", dpi=FIGURE_DPI)
    grid = figure.add_gridspec(2 + n_rows, ACROSS, height_ratios=[0.9, 2.4] + [2.0] * n_rows)
    _draw_strip(figure.add_subplot(grid[0, :]), path)
    lane = measured_lane(path)
    half = ACROSS if lane is None else ACROSS // 2
    _draw_effect(figure.add_subplot(grid[1, :half]), path)
    if lane is not None:
        _draw_lane(figure.add_subplot(grid[1, half:]), path, lane)
    first: Axes | None = None
    for k, column in enumerate(columns):
        axes = figure.add_subplot(grid[2 + k // ACROSS, k % ACROSS], sharey=first)
        first = first or axes
        _draw_shape(axes, shapes, column)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(textwrap.fill(footer, 170), fontsize=6)
    buffer = io.BytesIO()
    canvas = FigureCanvasSVG(figure) if file_format == "svg" else FigureCanvasAgg(figure)
    # No date in the file: equal settings give equal bytes.
    canvas.figure.savefig(buffer, format=file_format, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


def _plain(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_strip(axes: Axes, path: Result) -> None:
    frames, alphas = path.arrays["frames"], path.arrays["alphas"]
    shown = np.unique(np.round(np.linspace(0, len(frames) - 1, min(STRIP, len(frames)))).astype(int))
    axes.imshow(np.concatenate(list(frames[shown]), axis=1), interpolation="nearest")
    side = frames.shape[2]
    axes.set_xticks([(k + 0.5) * side for k in range(len(shown))], [f"{alphas[i]:.2f}" for i in shown], fontsize=6)
    axes.set_yticks([])
    axes.set_xlabel("α: 0 is A, 1 is B; beyond, extrapolated", fontsize=7)


def _draw_effect(axes: Axes, path: Result) -> None:
    arrays = path.arrays
    _shade_beyond(axes, arrays["alphas"])
    axes.fill_between(arrays["alphas"], arrays["effect_low"], arrays["effect_high"], color=_EFFECT, alpha=0.2, lw=0)
    axes.plot(arrays["alphas"], arrays["effect"], color=_EFFECT, lw=1.6)
    axes.axhline(0, color="#888888", lw=0.6, ls=":")
    _plain(axes, "α", f"effect of the image on {path.unit}")


def _draw_lane(axes: Axes, path: Result, lane) -> None:
    alphas = path.arrays["alphas"]
    _shade_beyond(axes, alphas)
    axes.plot(alphas, lane.reference, color=_TRUTH, lw=1, ls="--", label="straight line")
    axes.plot(alphas, lane.y, color=_MEASURED, lw=1.6, label="measured")
    axes.legend(fontsize=6, frameon=False)
    _plain(axes, "α", lane.title)


def _shade_beyond(axes: Axes, alphas: np.ndarray) -> None:
    for low, high in ((float(alphas.min()), 0.0), (1.0, float(alphas.max()))):
        if high > low:
            axes.axvspan(low, high, color=_EFFECT, alpha=0.06, lw=0)


def _draw_shape(axes: Axes, shapes: Result, column: dict) -> None:
    name = column["name"]
    shape, truth = shapes.arrays[f"shape_{name}"], shapes.arrays.get(f"truth_{name}")
    value, effect, low, high = shape.T
    if column["kind"] == "categorical":
        axes.bar(value, effect, color=_LINE, alpha=0.75, yerr=[effect - low, high - effect], error_kw={"lw": 1})
        if truth is not None:
            axes.hlines(truth, value - 0.45, value + 0.45, color=_TRUTH, lw=1.2, ls="--")
        axes.set_xticks(value, column["categories"], fontsize=6)
    else:
        axes.fill_between(value, low, high, color=_LINE, alpha=0.2, lw=0)
        if truth is not None:
            axes.plot(value, truth, color=_TRUTH, lw=1, ls="--")
        axes.plot(value, effect, color=_LINE, lw=1.5, marker="." if is_dotted(column, shape) else None)
    axes.axhline(0, color="#888888", lw=0.6, ls=":")
    _plain(axes, axis_title(column), "")
