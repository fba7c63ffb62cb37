"""What decoded frames show, measured in their pixels: the picture of Theorem 1, and the check for cross-fades."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from backend.additive_image.chests import measure_chests
from backend.additive_image.data import gradient_energy, measure_squares
from backend.additive_image.portraits import measure_portraits

Measure = Callable[[np.ndarray], dict[str, np.ndarray]]
# What can be measured in images of each drawn data set, by the first part of its name.
MEASURES: dict[str, Measure] = {
    "squares": measure_squares,
    "colours": measure_squares,
    "hosts": measure_portraits,
    "radiographs": measure_chests,
}
_STILL = 0.02  # of an attribute's own size: a path on which it changes less says nothing of correlation


@dataclass(frozen=True, eq=False)
class PathMeasure:
    """Attributes along a path of frames, (n,) each, and its sharpness."""

    alphas: np.ndarray
    attributes: dict[str, np.ndarray]
    sharpness: float  # least gradient energy over what the ends would give by linear interpolation

    def correlation(self, attribute: str | None) -> float | None:
        """Pearson's correlation of a measured attribute with alpha, in size; None: not measured, or it stands still."""
        values = self.attributes.get(attribute or "")
        if values is None or np.ptp(values) <= _STILL * max(float(np.abs(values).max()), 1e-9):
            return None
        return float(abs(np.corrcoef(values, self.alphas)[0, 1]))


def measure_path(name: str, frames: np.ndarray, alphas: np.ndarray) -> PathMeasure:
    """Measure frames, (n, H, W, 3) uint8, of a data set's kind of images."""
    measure = MEASURES.get(name.split("-")[0])
    attributes = {} if measure is None else measure(frames)
    attributes.pop("energy", None)
    energy = gradient_energy(frames / 255.0)
    return PathMeasure(alphas, attributes, _sharpness(energy, alphas))


def _sharpness(energy: np.ndarray, alphas: np.ndarray) -> float:
    """Within 0..1 only: beyond the ends there is nothing to compare with."""
    inside = (alphas >= -1e-6) & (alphas <= 1 + 1e-6)
    first, last = energy[inside][0], energy[inside][-1]
    expected = first + (last - first) * (alphas[inside] - alphas[inside][0]) / max(np.ptp(alphas[inside]), 1e-9)
    return float((energy[inside] / np.maximum(expected, 1e-12)).min())


def to_pixels(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3) uint8."""
    return images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
