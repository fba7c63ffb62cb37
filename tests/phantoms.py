"""A chest made of ellipsoids and cylinders, so that radiographs can be simulated without the real CT."""

import functools

import numpy as np

from backend.radiographs import ct
from backend.radiographs.ct import WATER, Chest

_EXTENT = (332.5, 360.0, 360.0)  # mm, as the real one's


@functools.lru_cache(maxsize=1)
def chest(steps: int = 72) -> Chest:
    """Organs where the simulator looks for them, at 5 mm."""
    z, y, x = (
        (np.arange(steps) + 0.5).reshape([-1 if k == axis else 1 for k in range(3)]) * size / steps
        for axis, size in enumerate(_EXTENT)
    )
    labels = np.zeros((steps, steps, steps), np.uint8)

    def ellipsoid(centre, radii):
        return sum(((a - c) / r) ** 2 for a, c, r in zip((z, y, x), centre, radii, strict=True)) < 1

    def pipe(label, at_y, at_x, low, high, radius=9.0):
        labels[((y - at_y) ** 2 + (x - at_x) ** 2 < radius**2) & (z > low) & (z < high)] = label

    body = ((y - 172) / 105) ** 2 + ((x - 181) / 150) ** 2 + 0 * z < 1
    right, left = ellipsoid((215, 165, 115), (95, 75, 52)), ellipsoid((215, 165, 247), (95, 75, 52))
    for lung, lobes, heights in (
        (right, (14, 13, 12), (195, 225)),
        (left, (11, 10), (210,)),
    ):
        for k, lobe in enumerate(lobes):
            low = heights[k - 1] if k else -1
            high = heights[k] if k < len(heights) else 1e3
            labels[lung & (z >= low) & (z < high)] = lobe
    labels[ellipsoid((175, 200, 200), (45, 40, 48))] = ct.HEART
    pipe(ct.TRACHEA, 165, 181, 225, 330)
    pipe(ct.OESOPHAGUS, 145, 185, 120, 330)
    pipe(ct.SUPERIOR_VENA_CAVA, 180, 165, 195, 260)
    pipe(ct.RIGHT_BRACHIOCEPHALIC, 185, 158, 260, 290)
    pipe(ct.LEFT_BRACHIOCEPHALIC, 185, 195, 260, 285)
    pipe(27, 110, 181, 0, 340, 14.0)  # a spine
    labels[ellipsoid((105, 170, 235), (22, 30, 30))] = ct.STOMACH
    labels[ellipsoid((298, 200, 110), (6, 8, 45))] = ct.RIGHT_CLAVICLE
    is_lung = np.isin(labels, ct.LEFT_LOBES + ct.RIGHT_LOBES)
    attenuation = np.where(body, WATER, 0.0)
    attenuation[is_lung] = 0.25 * WATER
    attenuation[labels == ct.TRACHEA] = 0.0
    attenuation[np.isin(labels, ct.BONES)] = 1.8 * WATER
    return Chest(attenuation.astype(np.float32), labels, _EXTENT)
