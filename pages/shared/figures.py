"""Results to pictures: every colour, clip and size of Prism's figures has its name here.

Maps are prepared once (channel sum, signed | absolute | positive, percentile clip, shared or own scale) and drawn
twice: in the browser by `map_grid`, which repeats the few formulas below on raw values, and here for files.
"""

import dataclasses
import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib
import numpy as np
import plotly.graph_objects as go
from matplotlib.axes import Axes as Axes_
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

# Dollars in a label are dollars, and equal settings give equal SVG files.
matplotlib.rcParams.update({"text.parse_math": False, "svg.hashsalt": "prism"})

View = Literal["overlay", "map", "image"]
Values = Literal["signed", "absolute", "positive"]
Scale = Literal["shared", "own"]
Origin = Literal["zero", "lowest"]
Picture = Literal["colour", "grey"]

CLIP_RANGE = (90.0, 100.0)  # percentile of |value| at which the colours end
OVERLAY_GAMMA = 0.7  # in an overlay a pixel is as opaque as |value| / limit to this power: nothing veils the image
# Under a map a picture keeps so much of its colours, and the map so much of its opacity: "red" can be checked by eye
# under the map's highest values, and no colour of the picture is as strong as the map's own.
COLOUR_KEPT, OPACITY_KEPT = 0.7, 0.75
_COLOURED = 0.1, 0.001  # apart between channels, and of so many pixels: less is a grey picture with a tint
PLOT_HEIGHT, LEGEND_ROW = 320, 22  # pixels on screen; a legend's row holds about three names
PLOT_OPTIONS = {"displayModeBar": False}  # of a plot on a page
ZERO_LINE = {"width": 1, "dash": "dot", "color": "#888888"}
OUTLINE_COLOUR = "#22c55e"
PANEL_INCHES, FIGURE_DPI = 2.1, 200
FIGURE_COLUMNS = 4


# ----------------------------------------------------------------- colour maps
def _oklab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """(..., 3) OKLab -> sRGB in [0, 1]. Source: Ottosson, A perceptual color space for image processing, 2020."""
    to_lms = np.array(
        [[1.0, 0.3963377774, 0.2158037573], [1.0, -0.1055613458, -0.0638541728], [1.0, -0.0894841775, -1.2914855480]]
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = (lab @ to_lms.T) ** 3 @ to_rgb.T
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _uniform_ramp(anchors: Sequence[tuple[float, float, float]], n: int) -> np.ndarray:
    """Colours at equal perceptual distances along a polyline of (lightness, chroma, hue in degrees) anchors."""
    lch = np.array(anchors)
    hue = np.deg2rad(lch[:, 2])
    lab = np.stack([lch[:, 0], lch[:, 1] * np.cos(hue), lch[:, 1] * np.sin(hue)], axis=1)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(lab, axis=0), axis=1))])
    at = np.linspace(0.0, way[-1], n)
    return np.stack([np.interp(at, way, lab[:, i]) for i in range(3)], axis=1)


def _signed_colours() -> np.ndarray:
    """(255, 3) uint8: blue (against the class), white (nothing), red (for it).

    Both halves have the same lightness at the same |value|, and blue against red is told apart by all three common
    forms of colour blindness.
    """
    against = _uniform_ramp([(0.975, 0.0, 250.0), (0.66, 0.14, 250.0), (0.36, 0.13, 262.0)], 128)
    in_favour = _uniform_ramp([(0.975, 0.0, 32.0), (0.66, 0.16, 32.0), (0.36, 0.13, 22.0)], 128)
    lab = np.concatenate([against[:0:-1], in_favour])
    return np.round(_oklab_to_srgb(lab) * 255).astype(np.uint8)


def _unsigned_colours() -> np.ndarray:
    """(256, 3) uint8: matplotlib's inferno, whose lightness rises evenly from black."""
    return np.round(matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(np.uint8)


SIGNED_COLOURS = _signed_colours()
UNSIGNED_COLOURS = _unsigned_colours()


def _ramp(anchors: Sequence[tuple[float, float, float]]) -> np.ndarray:
    """(128, 3) uint8 at equal perceptual distances."""
    return np.round(_oklab_to_srgb(_uniform_ramp(anchors, 128)) * 255).astype(np.uint8)


def _ground_colours(ground: float, weak: float, strong: float) -> dict[str, np.ndarray]:
    """Colours behind words: nothing is the page's own ground, as light as that; much stands out from it.

    Args: lightness of the ground, of half the limit and of the limit.
    """
    warm = _ramp([(ground, 0.0, 60.0), (weak, 0.13, 60.0), (strong, 0.16, 40.0)])
    against = _ramp([(ground, 0.0, 250.0), (weak, 0.12, 250.0), (strong, 0.14, 260.0)])
    return {"unsigned": warm, "signed": np.concatenate([against[:0:-1], warm])}


# Behind words, on a light and on a dark page; the words' own colour is black or white, whichever is read better.
WORD_COLOURS = {"light": _ground_colours(0.99, 0.80, 0.58), "dark": _ground_colours(0.19, 0.42, 0.72)}

# Lines: readable on white and on dark; dash and marker tell them apart without colour.
_LINE_COLOURS = ("#D55E00", "#0A84C6", "#009E73", "#CC79A7", "#E69F00", "#8C6BB1", "#4FA8DC", "#8A8A8A")
_DASHES = ("solid", "dash", "dot", "dashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
_MPL_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_MPL_MARKERS = dict(zip(_MARKERS, "osD^xP*v", strict=True))


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How one method's curve looks, the same in every plot."""

    colour: str
    dash: str
    marker: str


def line_style(index: int) -> LineStyle:
    """The style of the n-th method; 16 of them differ in colour and dash, and in dash and marker without colour."""
    return LineStyle(
        _LINE_COLOURS[index % len(_LINE_COLOURS)],
        _DASHES[(index + index // len(_LINE_COLOURS)) % len(_DASHES)],
        _MARKERS[index % len(_MARKERS)],
    )


# ----------------------------------------------------------------- maps
@dataclass(frozen=True, slots=True)
class Display:
    """How maps are shown. Changing any of it computes nothing."""

    view: View = "overlay"
    values: Values = "signed"
    scale: Scale = "shared"
    clip: float = 99.0  # percentile of |value|
    opacity: float = 0.9
    outline: bool = True  # of the object, where a mask is known
    picture: Picture = "colour"  # under an overlay; a grey picture is grey in both

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> "Display":
        """Read what the browser or an address sent; what makes no sense keeps its default."""
        allowed = {"view": View, "values": Values, "scale": Scale, "picture": Picture}
        chosen: dict[str, object] = {
            name: given[name] for name, literal in allowed.items() if given.get(name) in literal.__args__
        }
        for name, (low, high) in {"clip": CLIP_RANGE, "opacity": (0.0, 1.0)}.items():
            try:
                number = float(given[name])  # type: ignore[arg-type]
            except (KeyError, TypeError, ValueError):
                continue
            if low <= number <= high:
                chosen[name] = number
        if str(given.get("outline")).lower() in ("true", "false"):
            chosen["outline"] = str(given["outline"]).lower() == "true"
        return cls(**chosen)  # type: ignore[arg-type]

    def as_mapping(self) -> dict[str, object]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One picture of the grid: a method's map, or why there is none."""

    key: str
    title: str
    values: np.ndarray | None  # (H, W), channels summed; None: see message
    signed: bool = True
    unit: str = "logit"
    caption: str = ""  # numbers that belong to the map
    message: str = ""  # "computing", or why the method does not apply
    ticket: str = ""  # of the question: a map on its way goes only into the panel that waits for it
    origin: Origin = "zero"  # lowest: zero means nothing in particular, and colours count from the lowest value


@dataclass(frozen=True, slots=True)
class TimeAndFrequency:
    """What columns and rows of a spectrogram mean: seconds of its sides, and where its bands meet, lowest first."""

    start_s: float
    end_s: float
    edges_hz: tuple[float, ...]


def axes_sentence(size: tuple[int, int], sound: TimeAndFrequency | None = None) -> str:
    """What lies across a picture and what along its height; `size`: rows and columns."""
    if sound is None:
        rows, columns = size
        return f"Across: x, 0 to {columns} pixels; down: y, 0 to {rows} pixels, as the model saw them."
    across = f"time, {format_value(sound.start_s)} to {format_value(sound.end_s)} s"
    return f"Across: {across}; up: frequency, {sound.edges_hz[0]:.0f} to {sound.edges_hz[-1]:.0f} Hz."


def channel_sum(attribution: np.ndarray) -> np.ndarray:
    """(C or 1, H, W) -> (H, W).

    >>> channel_sum(np.array([[[1.0, -2.0]], [[3.0, 1.0]]]))
    array([[ 4., -1.]], dtype=float32)
    """
    return np.asarray(attribution, dtype=np.float64).sum(axis=0).astype(np.float32)


def is_diverging(panel: Panel, display: Display) -> bool:
    """Whether the map is drawn around zero."""
    return panel.signed and panel.origin == "zero" and display.values == "signed"


def lowest_of(panel: Panel) -> float:
    """The value that the darkest colour stands for, where that is not zero."""
    return float(panel.values.min()) if panel.origin == "lowest" else 0.0


def shown_values(panel: Panel, display: Display) -> np.ndarray:
    """The (H, W) values that the colours stand for, counted from `lowest_of`."""
    if panel.origin == "lowest":
        return panel.values - lowest_of(panel)
    if display.values == "absolute":
        return np.abs(panel.values)
    if display.values == "positive":
        return np.maximum(panel.values, 0.0)
    return panel.values


def colour_limits(panels: Iterable[Panel], display: Display) -> dict[str, float]:
    """The |value|, counted from `lowest_of`, at which colours end: a percentile; with one scale, its unit's largest."""
    own: dict[str, float] = {}
    units: dict[str, str] = {}
    for panel in panels:
        if panel.values is None:
            continue
        sizes = np.abs(shown_values(panel, display)).ravel()
        limit = float(np.percentile(sizes, display.clip))
        own[panel.key] = limit if limit > 0 else float(sizes.max())
        units[panel.key] = panel.unit
    if display.scale == "own":
        return own
    return {key: max(own[other] for other in own if units[other] == units[key]) for key in own}


def scale_sentence(panels: Iterable[Panel], display: Display) -> str:
    """What a reader must know before comparing two colours; stands on every picture."""
    drawn = [panel for panel in panels if panel.values is not None]
    units = list(dict.fromkeys(panel.unit for panel in drawn))
    if display.scale == "own":
        sentence = "Each map on its own scale: compare places, not strengths."
    elif len(units) == 1:
        sentence = f"One scale for all maps in {units[0]}."
    else:
        sentence = "One scale for all maps of a unit: " + ", ".join(units) + "."
    if any(panel.origin == "lowest" for panel in drawn):
        sentence += " Black is zero, or a map's lowest value where its colour bar says so."
    return sentence


def unit_of(panel: Panel) -> str:
    """What stands under a colour bar."""
    return panel.unit + (", black: its lowest value" if panel.origin == "lowest" else "")


def tick_label(panel: Panel, tick: float) -> str:
    """A number at a colour bar; above a lowest value, how much higher: the two may differ in the sixth digit only."""
    if panel.origin == "zero":
        return format_value(tick)
    lowest = format_value(lowest_of(panel))
    return f"{lowest} + {format_value(tick)}" if tick else lowest


def colourise(values: np.ndarray, limit: float, diverging: bool) -> np.ndarray:
    """(H, W) values -> (H, W, 3) uint8; red for, white nothing, blue against, or black to yellow for sizes."""
    relative = np.asarray(values) / limit if limit > 0 else np.zeros_like(values)
    table = SIGNED_COLOURS if diverging else UNSIGNED_COLOURS
    position = (np.clip(relative, -1, 1) + 1) / 2 if diverging else np.clip(relative, 0, 1)
    return table[np.round(position * (len(table) - 1)).astype(np.intp)]


def to_grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3 or 1) in [0, 1] -> (H, W, 3), colours taken out, so that only the map has any."""
    luminance = image @ np.array([0.2126, 0.7152, 0.0722]) if image.shape[2] == 3 else image[:, :, 0]
    return np.repeat(luminance[:, :, None], 3, axis=2)


def is_coloured(image: np.ndarray) -> bool:
    """Whether a picture (H, W, 3 or 1) in [0, 1] has colours worth keeping under a map."""
    apart, share = _COLOURED
    return bool((np.ptp(image, axis=2) > apart).mean() > share)


def under_map(image: np.ndarray, display: Display) -> np.ndarray:
    """(H, W, 3 or 1) in [0, 1] -> (H, W, 3): what lies under a map, grey or in muted colours."""
    grey = to_grey(image)
    return grey if display.picture == "grey" or image.shape[2] == 1 else grey + COLOUR_KEPT * (image - grey)


def draw_map(image: np.ndarray, panel: Panel, display: Display, limit: float) -> np.ndarray:
    """One panel as (H, W, 3) uint8 at the map's own resolution.

    Args:
        image: (H, W, 3 or 1) in [0, 1], of the map's size.
        limit: from `colour_limits`.
    """
    if display.view == "image" or panel.values is None:
        picture = image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)
        return np.round(picture * 255).astype(np.uint8)
    values = shown_values(panel, display)
    colours = colourise(values, limit, is_diverging(panel, display))
    if display.view == "map":
        return colours
    strength = np.clip(np.abs(values) / limit, 0, 1) ** OVERLAY_GAMMA if limit > 0 else np.zeros_like(values)
    opacity = display.opacity * (OPACITY_KEPT if display.picture == "colour" and is_coloured(image) else 1)
    alpha = (opacity * strength)[:, :, None]
    return np.round((1 - alpha) * under_map(image, display) * 255 + alpha * colours).astype(np.uint8)


def outline_path(mask: np.ndarray) -> str:
    """The border between mask and no mask as an SVG path, one unit a pixel; (H, W) bool.

    >>> outline_path(np.array([[False, True]]))
    'M1 0h1M1 1h1M1 0v1M2 0v1'
    """
    inside = np.pad(mask, 1)
    rows, columns = np.nonzero(inside[1:, 1:-1] != inside[:-1, 1:-1])  # edges along a row, above pixel `rows`
    lines = [f"M{x} {y}h1" for y, x in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(inside[1:-1, 1:] != inside[1:-1, :-1])
    return "".join(lines + [f"M{x} {y}v1" for y, x in zip(rows, columns, strict=True)])


def format_value(value: float) -> str:
    """Three significant digits with a true minus sign, as the browser prints them.

    >>> format_value(-0.012345), format_value(0.0), format_value(0.0000123)
    ('−0.0123', '0', '1.23e−5')
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "−")


# ----------------------------------------------------------------- figure files
def static_figure(
    image: np.ndarray,
    panels: Sequence[Panel],
    display: Display,
    title: str,
    footer: str,
    file_format: str = "png",
    mask: np.ndarray | None = None,
    sound: TimeAndFrequency | None = None,
) -> bytes:
    """The image and all maps with axes, colour bars, titles, captions and a settings footer, as PNG or SVG bytes.

    Args:
        image: (H, W, 3 or 1) in [0, 1], as the model saw it.
        footer: what was set, one or two lines.
        mask: (H, W) bool, where the object is, if known; outlined if the display says so.
        sound: what the axes of a spectrogram mean; None: they count pixels.
    """
    drawn = [panel for panel in panels if panel.values is not None]
    n_columns = min(FIGURE_COLUMNS, len(drawn) + 1)
    n_rows = math.ceil((len(drawn) + 1) / n_columns)
    size = (PANEL_INCHES * n_columns, (PANEL_INCHES + 0.7) * n_rows + 0.7)
    figure = Figure(figsize=size, layout="constrained", dpi=FIGURE_DPI)
    cells = figure.subplots(2 * n_rows, n_columns, squeeze=False, height_ratios=[1, 0.04] * n_rows)
    pictures, bars = cells[::2].ravel(), cells[1::2].ravel()
    for axes in (*pictures[len(drawn) + 1 :], *bars[:1], *bars[len(drawn) + 1 :]):
        axes.set_axis_off()
    extent = (0, image.shape[1], image.shape[0], 0)  # the image's pixels, whatever a map's own
    pictures[0].imshow(_as_rgb(image), interpolation="nearest", extent=extent)
    pictures[0].set_title("Image", fontsize=8)
    limits = colour_limits(drawn, display)
    for axes, bar, panel in zip(pictures[1:], bars[1:], drawn, strict=False):
        axes.imshow(
            draw_map(_fit(image, panel.values.shape), panel, display, limits[panel.key]),
            interpolation="nearest",
            extent=extent,
        )
        axes.set_title(panel.title, fontsize=8)
        _draw_bar(figure, bar, panel, display, limits[panel.key])
    if mask is not None and display.outline:
        for axes in pictures[: len(drawn) + 1]:
            axes.contour(mask, levels=[0.5], colors=OUTLINE_COLOUR, linewidths=0.7, extent=extent)
    for k, axes in enumerate(pictures[: len(drawn) + 1]):
        _draw_axes(axes, image.shape[:2], sound, is_first=k % n_columns == 0)
    figure.suptitle(title, fontsize=9)
    figure.supxlabel(f"{scale_sentence(drawn, display)}\n{textwrap.fill(footer, 45 * n_columns)}", fontsize=6)
    return _save(figure, file_format)


_TICKS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)


def _draw_axes(axes: Axes_, size: tuple[int, int], sound: TimeAndFrequency | None, is_first: bool) -> None:
    """Pixels along both sides, or seconds and hertz; the upright axis is named on the first picture of a row."""
    (rows, columns), across, along = size, "x, pixels", "y, pixels"
    axes.set_xticks([0, columns / 2, columns])
    axes.set_yticks([0, rows / 2, rows])
    if sound is not None:
        across, along = "time, s", "frequency, Hz"
        axes.set_xticklabels([format_value(t) for t in np.linspace(sound.start_s, sound.end_s, 3)])
        edges = np.asarray(sound.edges_hz)
        shown = [hertz for hertz in _TICKS_HZ if edges[0] <= hertz <= edges[-1]]
        bands = np.interp(shown, edges, np.linspace(rows, 0, len(edges)))
        axes.set_yticks(bands, [str(hertz) for hertz in shown])
    axes.tick_params(labelsize=5, length=2, width=0.4, pad=1.5)
    axes.spines[:].set_linewidth(0.4)
    axes.set_xlabel(across, fontsize=6, labelpad=1)
    if is_first:
        axes.set_ylabel(along, fontsize=6, labelpad=1)


def _draw_bar(figure: Figure, axes: Axes_, panel: Panel, display: Display, limit: float) -> None:
    """The colours of a panel with the numbers at which they end, its unit and its caption."""
    diverging = is_diverging(panel, display)
    shown = limit if limit > 0 else 1.0
    table = SIGNED_COLOURS if diverging else UNSIGNED_COLOURS
    scale = ScalarMappable(Normalize(-shown if diverging else 0, shown), ListedColormap(table / 255))
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal")
    bar.set_ticks([-shown, 0, shown] if diverging else [0, shown])
    bar.set_ticklabels([tick_label(panel, tick) for tick in bar.get_ticks()])
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_linewidth(0.4)
    bar.set_label("\n".join(filter(None, (unit_of(panel), textwrap.fill(panel.caption, 38)))), fontsize=6)


def _as_rgb(image: np.ndarray) -> np.ndarray:
    return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)


def _fit(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The image at a map's size, nearest pixel, for maps that are coarser or finer than it."""
    rows = (np.arange(shape[0]) * image.shape[0]) // shape[0]
    columns = (np.arange(shape[1]) * image.shape[1]) // shape[1]
    return image[rows][:, columns]


def _save(figure: Figure, file_format: str) -> bytes:
    buffer = io.BytesIO()
    canvas = FigureCanvasSVG(figure) if file_format == "svg" else FigureCanvasAgg(figure)
    # No date in the file: equal settings give equal bytes.
    canvas.figure.savefig(buffer, format=file_format, metadata={"Date": None} if file_format == "svg" else None)
    return buffer.getvalue()


# ----------------------------------------------------------------- curves
@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One method's line in a plot."""

    key: str
    title: str
    style: LineStyle
    x: np.ndarray  # (K,)
    y: np.ndarray  # (K,)
    area: float | None = None  # said in the legend
    error: np.ndarray | None = None  # (K,), half height of the bars


@dataclass(frozen=True, slots=True)
class Axes:
    """What a plot's axes say."""

    title: str
    x: str
    y: str


DELETION_AXES = Axes("Deletion: lower is better", "share of pixels deleted, best first", "score")
INSERTION_AXES = Axes("Insertion: higher is better", "share of pixels brought in, best first", "score")
SENSITIVITY_AXES = Axes(
    "Sensitivity-N: higher is better", "share of pixels in a subset", "correlation of sum and drop in logit"
)
RANDOMISATION_AXES = Axes(
    "Sanity check: should fall", "layers randomised, from the top", "rank correlation with the original map"
)


def _log_axis(curves: Sequence[Curve]) -> dict:
    """A logarithmic axis with a tick at each value that was measured, and no others."""
    values = sorted({float(x) for curve in curves for x in curve.x})
    return {"type": "log", "tickvals": values, "ticktext": [f"{value:g}" for value in values]}


def _whole_axis(curves: Sequence[Curve]) -> dict:
    """Ticks at whole numbers, where nothing lies between them: half a layer is none."""
    values = np.concatenate([np.asarray(curve.x, dtype=float) for curve in curves]) if curves else np.zeros(0)
    span = float(np.ptp(values)) if len(values) else 0.0
    return {"tick0": 0, "dtick": math.ceil(span / 8)} if span >= 1 and (values % 1 == 0).all() else {}


def plot_curves(curves: Sequence[Curve], axes: Axes, markers: bool | None = None, log_x: bool = False) -> go.Figure:
    """Curves of several methods in one interactive plot that takes its colours from the page's theme.

    Args:
        markers: None draws about eight on each line, so that lines differ without colour.
    """
    figure = go.Figure()
    for curve in curves:
        line = {"color": curve.style.colour, "dash": curve.style.dash, "width": 2}
        marker = {"symbol": curve.style.marker, "size": 7, "color": curve.style.colour}
        name = curve.title if curve.area is None else f"{curve.title} {format_value(curve.area)}"
        hover = f"{curve.title}: %{{y:.3g}} at %{{x:.3g}}<extra></extra>"
        shown = slice(None) if markers else slice(0, None, max(1, len(curve.x) // 8))
        error = None if curve.error is None else {"array": curve.error[shown], "thickness": 1}
        group = {"legendgroup": curve.key, "name": name}
        figure.add_scatter(
            x=curve.x, y=curve.y, mode="lines", line=line, showlegend=False, hovertemplate=hover, **group
        )
        figure.add_scatter(
            x=curve.x[shown],
            y=curve.y[shown],
            mode="markers",
            marker=marker,
            error_y=error,
            showlegend=False,
            hovertemplate=hover,
            **group,
        )
        # Nothing but the legend's entry, which then shows dash and marker together.
        figure.add_scatter(x=[None], y=[None], mode="lines+markers", line=line, marker=marker, **group)
    figure.update_layout(
        title={"text": axes.title, "font": {"size": 15}},
        xaxis={"title": axes.x, **(_log_axis(curves) if log_x else _whole_axis(curves))},
        yaxis={"title": axes.y},
        height=PLOT_HEIGHT + LEGEND_ROW * math.ceil(len(curves) / 3),
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "y": -0.32, "yanchor": "top", "title": None},
        hovermode="closest",
        shapes=[{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": ZERO_LINE}],
    )
    return figure


def curves_svg(groups: Sequence[tuple[Axes, Sequence[Curve]]]) -> str:
    """The same curves as one inline SVG, for the report; groups stand side by side."""
    figure = Figure(figsize=(5.0 * len(groups), 3.6), layout="constrained")
    all_axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (names, curves) in zip(all_axes, groups, strict=True):
        for curve in curves:
            axes.plot(
                curve.x,
                curve.y,
                color=curve.style.colour,
                linestyle=_MPL_DASHES[curve.style.dash],
                marker=_MPL_MARKERS[curve.style.marker],
                markevery=max(1, len(curve.x) // 8),
                markersize=4,
                linewidth=1.5,
                label=curve.title if curve.area is None else f"{curve.title} {format_value(curve.area)}",
            )
        axes.axhline(0, color="#888888", linewidth=0.6, linestyle=":")
        axes.set_title(names.title, fontsize=10)
        axes.set_xlabel(names.x, fontsize=8)
        axes.set_ylabel(names.y, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.legend(fontsize=6, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    svg = _save(figure, "svg").decode()
    return svg[svg.index("<svg") :]
