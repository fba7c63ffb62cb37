"""A finding as data, and what several of them are drawn with: random texture, curves and strokes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import interpolate

from backend.radiographs.pose import Lung

_OVERSAMPLED = 4  # strokes are drawn this much larger and averaged down
Point = tuple[float, float]  # column, row, in pixels


@dataclass(frozen=True)
class Finding:
    """Something on a radiograph, and where it is.

    Attributes:
        kind: a key of `findings.DRAWERS`.
        side: of the patient, "left" or "right"; "both" or "" where it does not apply.
        place: lobe of a lesion ("upper", "middle", "lower") or kind of a device ("jugular", "picc", "icd").
        size: "small", "moderate", "large" or "mild", "moderate", "severe"; "" where it does not apply.
        size_mm: diameter or height; 0 where it does not apply.
        change: of the line integrals, (N, N), no unit.
        mask: where it can be seen, (N, N) bool.
        contrast: see `findings.contrast_to_noise`.
    """

    kind: str
    change: np.ndarray
    mask: np.ndarray
    side: str = ""
    place: str = ""
    size: str = ""
    size_mm: float = 0.0
    contrast: float = 0.0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels; right and bottom are just outside."""
        rows, columns = np.where(self.mask)
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def texture(lung: Lung, generator: np.random.Generator, scale_mm: float, n_waves: int = 10) -> np.ndarray:
    """A smooth random field of unit variance at a lung's voxels: a sum of plane waves."""
    directions = generator.normal(0, 1, (n_waves, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    waves = directions * generator.uniform(0.6, 1.8, (n_waves, 1)) * 2 * np.pi / scale_mm
    field = np.zeros(len(lung.down))
    for wave in waves:
        phase = generator.uniform(0, 2 * np.pi)
        field += np.cos(wave[0] * lung.down + wave[1] * lung.across + wave[2] * lung.forward + phase)
    return field / np.sqrt(n_waves / 2)


def smooth_curve(points: Sequence[Point], n: int = 60) -> list[Point]:
    """A spline near the given points, which may be noisy; repeated points are dropped."""
    given = np.array(points, float)
    moved = np.abs(np.diff(given, axis=0)).sum(1) > 0.5
    given = given[np.r_[True, moved]]
    if len(given) < 2:
        return [tuple(point) for point in given]
    smoothing = 0.0 if len(given) < 6 else 0.6 * len(given)
    curve, _ = interpolate.splprep(given.T, s=smoothing, k=min(3, len(given) - 1))
    return list(zip(*interpolate.splev(np.linspace(0, 1, n), curve), strict=True))


def stroke(side: int, points: Sequence[Point], width_px: float, strength: float, is_hollow: bool = False) -> np.ndarray:
    """A line of some width as a change of the integrals, (side, side); a hollow one is fainter between its walls."""
    canvas = Image.new("L", (side * _OVERSAMPLED,) * 2)
    pen = ImageDraw.Draw(canvas)
    width = max(1, round(width_px * _OVERSAMPLED))
    path = [(float(x) * _OVERSAMPLED, float(y) * _OVERSAMPLED) for x, y in points]
    pen.line(path, fill=255, width=width, joint="curve")
    if is_hollow:
        pen.line(path, fill=110, width=max(1, width - 3 * side // 128), joint="curve")
    return shrink(canvas, side) * strength


def shrink(canvas: Image.Image, side: int) -> np.ndarray:
    """An oversampled drawing averaged down, in [0, 1]."""
    return np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255


def new_canvas(side: int) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """An empty drawing, its pen, and how many of its pixels make one of the picture."""
    canvas = Image.new("L", (side * _OVERSAMPLED,) * 2)
    return canvas, ImageDraw.Draw(canvas), _OVERSAMPLED
