"""Findings of lungs, pleura and heart: what fills, collapses or surrounds the lung's air.

Sizes are in mm of the patient. Constants are our own choice by eye, against the two real radiographs.
"""

import numpy as np
from scipy import ndimage

from backend.radiographs.ct import LOBE_NAMES, WATER
from backend.radiographs.pose import Lung, View
from backend.radiographs.shapes import Finding, sigmoid, texture

_SIDES = ("left", "right")
_FEWEST_VOXELS = 400  # of a lobe that a lesion may lie in
_LEAST_LUNG_MM = 50.0  # that the ray through a lesion's centre crosses


# ----------------------------------------------------------------- lesions in the lung
def draw_nodule(view: View, generator: np.random.Generator) -> Finding | None:
    """A round opacity of 16 to 30 mm."""
    radius = generator.uniform(8, 15)
    return _opacity(view, generator, "nodule", radius, (0.85, 1.2), 0.16, (0.95, 1.2), 0.05, 1.5)


def draw_mass(view: View, generator: np.random.Generator) -> Finding | None:
    """A roundish opacity of 34 to 60 mm."""
    radius = generator.uniform(17, 30)
    return _opacity(view, generator, "mass", radius, (0.85, 1.2), 0.16, (0.95, 1.2), 0.12, 0.9)


def draw_consolidation(view: View, generator: np.random.Generator) -> Finding | None:
    """A cloudy opacity that keeps to its lobe."""
    radius = generator.uniform(24, 48)
    return _opacity(view, generator, "consolidation", radius, (0.75, 1.3), 0.28, (0.5, 1.0), 0.35, 0.9)


def _opacity(
    view: View,
    generator: np.random.Generator,
    kind: str,
    radius: float,
    aspect: tuple[float, float],
    softness: float,
    density: tuple[float, float],
    roughness: float,
    texture_scale: float,
) -> Finding | None:
    """Tissue in place of air in a soft-edged, rough ellipsoid around a random place of a random lobe."""
    side = str(generator.choice(_SIDES))
    lung = view.lungs[side]
    lobes = [lobe for lobe in np.unique(lung.lobe) if (lung.lobe == lobe).sum() > _FEWEST_VOXELS]
    if not lobes:
        return None
    lobe = int(generator.choice(lobes))
    # A lesion behind the dome of the diaphragm would hardly be seen: its ray must cross enough lung.
    crossed_mm = np.bincount(lung.pixel, minlength=view.side**2)[lung.pixel] * view.depth_mm
    inside = np.flatnonzero((lung.lobe == lobe) & (lung.lateral > 6) & (crossed_mm > _LEAST_LUNG_MM))
    if len(inside) == 0:
        return None
    centre = inside[generator.integers(len(inside))]
    radii = radius * generator.uniform(*aspect, 3)
    strength = generator.uniform(*density)
    offsets = [axis - axis[centre] for axis in (lung.down, lung.across, lung.forward)]
    distance = np.sqrt(sum((offset / r) ** 2 for offset, r in zip(offsets, radii, strict=True)))
    near = distance < 1.9
    part = lung.subset(near)
    rough = roughness * texture(part, generator, radius * texture_scale)
    filled = sigmoid((1 - distance[near] + rough) / (softness / 2))
    if kind == "consolidation":
        patches = (0.8 + 0.2 * texture(part, generator, 14)).clip(0.1, 1.2)
        filled = filled * np.where(part.lobe == lobe, 1, 0.12) * patches
    change = view.project(part, strength * filled * (1.02 * WATER - part.attenuation).clip(0))
    mask = change > max(0.12 * change.max(), 0.04)
    return Finding(kind, change, mask, side, LOBE_NAMES[lobe], size_mm=2 * radius)


def draw_atelectasis(view: View, generator: np.random.Generator) -> Finding | None:
    """A slightly bent, nearly level plate of collapsed lung above the diaphragm."""
    side = str(generator.choice(_SIDES))
    lung = view.lungs[side]
    height = lung.bottom - generator.uniform(68, 112)
    candidates = np.flatnonzero((np.abs(lung.down - height) < 6) & (lung.lateral > 25))
    if len(candidates) < 10:
        return None
    centre = candidates[generator.integers(len(candidates))]
    thickness = generator.uniform(2.6, 4.5)
    normal = np.array([1, generator.normal(0, 0.22), generator.normal(0, 0.1)])
    normal /= np.linalg.norm(normal)
    down, across, forward = (axis - axis[centre] for axis in (lung.down, lung.across, lung.forward))
    bend = 0.0009 * across**2 * generator.choice([-1, 1])
    distance = np.abs(normal[0] * down + normal[1] * across + normal[2] * forward + bend)
    length = generator.uniform(28, 48)
    filled = np.exp(-((distance / thickness) ** 2)) * sigmoid((length - np.hypot(across, forward)) / 3)
    change = view.project(lung, 0.85 * filled * (WATER - lung.attenuation).clip(0))
    return Finding("atelectasis", change, change > 0.25 * change.max(), side, "lower", size_mm=length)


def draw_oedema(view: View, generator: np.random.Generator) -> Finding | None:
    """Haze in both lungs, densest around the hila, with a fine grain."""
    strength = generator.uniform(0.045, 0.12)
    if not view.heart.any():
        return None
    heart = np.argwhere(view.heart).mean(0)
    change = np.zeros((view.side, view.side))
    for lung in view.lungs.values():
        distance = np.sqrt(
            (lung.down - heart[0] * view.pixel_mm + 20) ** 2
            + (lung.across - heart[1] * view.pixel_mm) ** 2
            + (lung.forward - heart[2] * view.depth_mm) ** 2
        )
        patches = (1 + 0.5 * texture(lung, generator, 22)).clip(0)
        haze = 1.5 * np.exp(-((distance / 105) ** 2)) * patches + 0.3
        change += view.project(lung, strength * WATER * haze)
    grain = ndimage.gaussian_filter(generator.normal(0, 1, change.shape), 0.9 * view.side / 128)
    change *= 1 + 0.18 * grain / grain.std()
    lungs = _outline(view)
    size = "mild" if strength < 0.07 else "moderate" if strength < 0.095 else "severe"
    return Finding("oedema", change, change > 0.35 * np.percentile(change[lungs], 95), "both", size=size)


# ----------------------------------------------------------------- pleura
_EFFUSION_MM = {"small": (26, 48), "moderate": (58, 88), "large": (100, 150)}


def draw_effusion(view: View, generator: np.random.Generator) -> Finding | None:
    """Fluid that fills the lung's base and climbs along its outer and back edge."""
    side = str(generator.choice(_SIDES))
    size = str(generator.choice(list(_EFFUSION_MM), p=(0.45, 0.35, 0.2)))
    height = generator.uniform(*_EFFUSION_MM[size])
    change = fill_base(view, side, height)
    return Finding("effusion", change, change > 0.35, side, size=size, size_mm=height)


def fill_base(view: View, side: str, height_mm: float) -> np.ndarray:
    """What fluid of some height at a lung's base adds to the line integrals, (N, N)."""
    lung = view.lungs[side]
    from_edge = np.minimum(lung.lateral, 1.4 * lung.posterior)
    level = 0.8 * height_mm + (0.55 * height_mm + 8) * np.exp(-from_edge / 22)
    above_base = lung.bottom - lung.down
    fluid = sigmoid((level - above_base) / 2.5)
    change = fluid * (WATER - lung.attenuation).clip(0)
    squeezed = 0.06 * WATER * np.exp(-(above_base - level).clip(0) / 15) * (1 - fluid)  # lung just above the fluid
    return view.project(lung, change + squeezed)


_COLLAPSE = {"small": (0.86, 0.91), "moderate": (0.74, 0.84), "large": (0.5, 0.68)}  # the lung's remaining scale


def draw_pneumothorax(view: View, generator: np.random.Generator) -> Finding | None:
    """Air around a lung that has shrunk towards its hilum, with a thin bright edge."""
    side = str(generator.choice(_SIDES))
    size = str(generator.choice(list(_COLLAPSE), p=(0.4, 0.35, 0.25)))
    lung, scale = view.lungs[side], generator.uniform(*_COLLAPSE[size])
    if len(lung.down) == 0:
        return None
    middle = np.percentile(lung.across, 92 if side == "right" else 8)
    hilum = (lung.top + 0.72 * (lung.bottom - lung.top), middle, float(np.median(lung.forward)))
    shrunk = _inside_shrunken(view, lung, hilum, scale)
    core = _inside_shrunken(view, lung, hilum, scale - 0.022)
    denser = lung.attenuation * (min(1 / scale**2, 2.2) - 1) * 0.45
    change = np.where(shrunk, denser, -0.97 * lung.attenuation)
    change = change + np.where(shrunk & ~core, 0.35 * WATER, 0)  # the visceral pleura
    air = view.project(lung, (~shrunk).astype(float))  # mm along each ray
    whole = view.project(lung, np.ones(len(shrunk)))
    seen = (air > 0.55 * whole) & (air > 8)
    mask = ndimage.binary_opening(seen) | (seen & (air > 14))
    return Finding("pneumothorax", view.project(lung, change), mask, side, size=size)


def _inside_shrunken(view: View, lung: Lung, hilum: tuple[float, float, float], scale: float) -> np.ndarray:
    """Which voxels still hold lung after it shrank towards the hilum by a scale (less from front to back)."""
    scales = (scale, scale, min(1.0, scale + 0.06))
    steps = (view.pixel_mm, view.pixel_mm, view.depth_mm)
    axes = (lung.down, lung.across, lung.forward)
    source = [
        np.rint((h + (axis - h) / s) / step).astype(int)
        for axis, h, s, step in zip(axes, hilum, scales, steps, strict=True)
    ]
    valid = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(source, lung.mask.shape, strict=True)])
    inside = np.zeros(len(valid), bool)
    inside[valid] = lung.mask[source[0][valid], source[1][valid], source[2][valid]]
    return inside


# ----------------------------------------------------------------- heart
def draw_cardiomegaly(view: View, generator: np.random.Generator) -> Finding | None:
    """A heart that has grown, mostly sideways, into the lungs. This patient's own heart is rather large."""
    if not view.heart.any():
        return None
    growth = (generator.uniform(1.1, 1.25), generator.uniform(1.28, 1.55), generator.uniform(1.1, 1.25))
    change = grow_heart(view, growth)
    size = "severe" if growth[1] > 1.46 else "moderate" if growth[1] > 1.36 else "mild"
    mask = _largest(ndimage.binary_opening(view.heart.any(2) | (change > 0.3), iterations=2))
    return None if mask is None else Finding("cardiomegaly", change, mask, size=size)


def grow_heart(view: View, growth: tuple[float, float, float]) -> np.ndarray:
    """What a heart that has grown into the lungs adds to the line integrals, (N, N).

    Args: growth: down, across and from back to front, as shares of its own size.
    """
    voxels = np.argwhere(view.heart)
    low, high = voxels.min(0), voxels.max(0)
    centre = (low[0] + 0.25 * (high[0] - low[0]), low[1] + 0.38 * (high[1] - low[1]), voxels[:, 2].mean())
    change = np.zeros((view.side, view.side))
    for lung in view.lungs.values():
        source = [
            np.rint(c + (axis - c) / g).astype(int).clip(0, n - 1)
            for axis, c, g, n in zip(
                (lung.rows, lung.columns, lung.depths), centre, growth, view.heart.shape, strict=True
            )
        ]
        grown = view.heart[source[0], source[1], source[2]]
        change += view.project(lung, np.where(grown, (1.04 * WATER - lung.attenuation).clip(0), 0))
    return ndimage.gaussian_filter(change, 0.6 * view.side / 128)


def _largest(mask: np.ndarray) -> np.ndarray | None:
    pieces, n = ndimage.label(mask)
    if n == 0:
        return None
    return pieces == 1 + int(np.argmax(ndimage.sum(mask, pieces, range(1, n + 1))))


def _outline(view: View) -> np.ndarray:
    """Where any lung is, (N, N) bool."""
    return (view.lungs["left"].mask | view.lungs["right"].mask).any(2)
