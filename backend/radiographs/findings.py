"""What a finding is, how well it can be seen, and the list of those that the simulator knows.

A finding changes the line integrals; since these add up, a picture with several findings is one sum.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from backend.radiographs import devices, lesions
from backend.radiographs.pose import View
from backend.radiographs.shapes import Finding

Drawer = Callable[[View, np.random.Generator], Finding | None]

DRAWERS: dict[str, Drawer] = {
    "nodule": lesions.draw_nodule,
    "mass": lesions.draw_mass,
    "consolidation": lesions.draw_consolidation,
    "effusion": lesions.draw_effusion,
    "pneumothorax": lesions.draw_pneumothorax,
    "cardiomegaly": lesions.draw_cardiomegaly,
    "oedema": lesions.draw_oedema,
    "atelectasis": lesions.draw_atelectasis,
    "pacemaker": devices.draw_pacemaker,
    "endotracheal tube": devices.draw_endotracheal_tube,
    "central line": devices.draw_central_line,
    "gastric tube": devices.draw_gastric_tube,
}
KINDS = tuple(DRAWERS)
SIDED = ("nodule", "mass", "consolidation", "effusion", "pneumothorax", "atelectasis", "pacemaker")
THIN = ("endotracheal tube", "central line", "gastric tube")

# Contrast to noise below which a finding is drawn again. Fixed before the first training.
LEAST_CONTRAST = {
    "nodule": 1.5,
    "mass": 1.3,
    "consolidation": 0.9,
    "effusion": 0.8,
    "pneumothorax": 0.3,
    "oedema": 0.3,
    "atelectasis": 1.2,
    "endotracheal tube": 2.2,
    "central line": 2.5,
    "gastric tube": 2.5,
}
TRIES = 8
_LEAST_PIXELS = 6


@dataclass(frozen=True)
class Background:
    """A view's picture without findings, in the log domain that the display is linear in: once per view."""

    intensity: np.ndarray
    scatter: np.ndarray
    log: np.ndarray
    noise: np.ndarray  # standard deviation of the photon noise
    detail: dict[str, np.ndarray]  # fine structure in which a thin or a broad finding must be seen


def background_of(view: View) -> Background:
    """What findings must stand out from, with average scatter and exposure."""
    scale = view.side / 128
    intensity = np.exp(-view.integrals)
    scatter = 0.063 * ndimage.gaussian_filter(intensity, 0.09 * view.side) + 0.001
    log = -np.log(intensity + scatter)
    detail = {name: log - ndimage.gaussian_filter(log, s * scale) for name, s in (("thin", 2.0), ("broad", 7.0))}
    return Background(intensity, scatter, log, np.sqrt(intensity / 10**4.6) / (intensity + scatter), detail)


def contrast_to_noise(ground: Background, finding: Finding) -> float:
    """How far a finding stands out: mean change inside its mask against a ring around it, over structure and noise.

    Measured on the logarithm of the intensity with average scatter and exposure; no unit.
    """
    is_thin = finding.kind in THIN
    scale = max(1, round(len(ground.log) / 128))
    rows, columns = np.where(finding.mask)
    margin = 5 * scale
    box = (
        slice(max(0, rows.min() - margin), rows.max() + margin + 1),
        slice(max(0, columns.min() - margin), columns.max() + margin + 1),
    )
    inside = finding.mask[box]
    ring = ndimage.binary_dilation(inside, iterations=(3 if is_thin else 4) * scale) & ~inside
    ring = ring if ring.any() else ~inside
    if not ring.any():
        return 9.0  # it fills the whole box: nothing beside it to be mistaken for
    change = -np.log(ground.intensity[box] * np.exp(-finding.change[box]) + ground.scatter[box]) - ground.log[box]
    both = inside | ring
    structure = ground.detail["thin" if is_thin else "broad"][box][both].std()
    noise = ground.noise[box][both]
    difference = abs(change[inside].mean() - change[ring].mean())
    return float(difference / np.sqrt(structure**2 + (noise**2).mean()))


def draw(kind: str, view: View, ground: Background, generator: np.random.Generator) -> Finding | None:
    """Draw a finding until it can be seen; None: not within `TRIES`, or its organ is not in the picture."""
    for _ in range(TRIES):
        found = DRAWERS[kind](view, generator)
        if found is None or found.mask.sum() < _LEAST_PIXELS:
            continue
        found = replace(found, contrast=contrast_to_noise(ground, found))
        if found.contrast >= LEAST_CONTRAST.get(kind, 0.0):
            return found
    return None
