"""What others have put into the patient: pacemaker, endotracheal tube, central line, gastric tube.

Devices follow the organs they lie in, projected onto the picture, and lie on top of them.
"""

import numpy as np

from backend.radiographs.ct import (
    HEART,
    LEFT_BRACHIOCEPHALIC,
    OESOPHAGUS,
    RIGHT_BRACHIOCEPHALIC,
    RIGHT_CLAVICLE,
    STOMACH,
    SUPERIOR_VENA_CAVA,
    TRACHEA,
)
from backend.radiographs.pose import View
from backend.radiographs.shapes import Finding, Point, new_canvas, shrink, smooth_curve, stroke


def draw_endotracheal_tube(view: View, generator: np.random.Generator) -> Finding | None:
    """A hollow tube down the windpipe; its tip 18 to 55 mm above where the windpipe ends."""
    windpipe = _centreline(view, TRACHEA, 4)
    if len(windpipe) < 4:
        return None
    tip = windpipe[-1][1] - generator.uniform(18, 55) / view.pixel_mm
    course = [(x, y) for x, y in windpipe if y < tip]
    if len(course) < 2:
        return None
    course = [(course[0][0], 0.0), *course]
    if len(course) > 3:
        course = smooth_curve(course)
    change = _tube(view, course, generator.uniform(7, 10), generator.uniform(0.65, 1.2), is_hollow=True)
    return Finding("endotracheal tube", change, change > 0.1)


def draw_gastric_tube(view: View, generator: np.random.Generator) -> Finding | None:
    """A tube down the gullet into the stomach."""
    gullet = _centreline(view, OESOPHAGUS, 6)
    if len(gullet) < 4:
        return None
    course = [(gullet[0][0], 0.0), *gullet]
    stomach = view.places[STOMACH]
    if len(stomach):
        row, column, _ = stomach.mean(0)
        last = max(row, gullet[-1][1] + 3)
        course.append((column + generator.normal(0, 4) * view.side / 128, min(view.side - 1, last)))
    change = _tube(view, smooth_curve(course), generator.uniform(3.5, 5.5), generator.uniform(0.55, 1.0))
    return Finding("gastric tube", change, change > 0.1)


def draw_central_line(view: View, generator: np.random.Generator) -> Finding | None:
    """A thin catheter into the upper vena cava, from the right side of the neck or from the right arm (PICC)."""
    cava, vein = _centreline(view, SUPERIOR_VENA_CAVA, 4), _centreline(view, RIGHT_BRACHIOCEPHALIC, 3)
    if len(cava) < 3:
        return None
    start = vein[0][0] if vein else cava[0][0]
    place = str(generator.choice(["jugular", "picc"], p=(0.6, 0.4)))
    if place == "jugular":
        neck = start - 2 * generator.uniform(4, 14) / view.pixel_mm
        course = [(neck, 0.0), (start - 2, 0.55 * cava[0][1]), *cava]
    else:
        clavicle = view.places[RIGHT_CLAVICLE]
        if len(clavicle) == 0:
            return None
        row, column, _ = clavicle.mean(0)
        arm = max(2.0, clavicle[:, 1].min() - 10 * view.side / 128)
        course = [(arm, row + 6), (column, row + 3), (start - 3, cava[0][1] - 3), *cava]
    course = course[: len(course) - int(generator.integers(0, max(1, len(cava) // 2)))]
    change = _tube(view, smooth_curve(course), generator.uniform(2.2, 3.4), generator.uniform(0.6, 1.1))
    return Finding("central line", change, change > 0.12, "right", place)


def draw_pacemaker(view: View, generator: np.random.Generator) -> Finding | None:
    """A generator below a clavicle (four in five on the left) with one or two leads into the heart.

    The mask is the generator; leads are thin and run through the whole mediastinum.
    """
    side = str(generator.choice(["left", "right"], p=(0.8, 0.2)))
    outwards = 1 if side == "left" else -1
    lung, cava, heart = view.lungs[side], _centreline(view, SUPERIOR_VENA_CAVA, 6), view.places[HEART]
    if len(heart) == 0 or not cava or len(lung.down) == 0:
        return None
    millimetre = 1 / view.pixel_mm
    centre = (
        np.median(lung.across) * millimetre + outwards * generator.uniform(5, 30) * millimetre,
        (lung.top + generator.uniform(22, 45)) * millimetre,
    )
    half = (generator.uniform(20, 27) * millimetre, generator.uniform(17, 23) * millimetre)
    case = _case(view.side, centre, half, generator) * generator.uniform(3, 5)
    vein = view.places[LEFT_BRACHIOCEPHALIC if side == "left" else RIGHT_BRACHIOCEPHALIC]
    entry = vein.mean(0) if len(vein) else np.array([cava[0][1], cava[0][0] - 6, 0])
    low, size = heart.min(0), np.ptp(heart, axis=0)

    def in_heart(across: float, down: float) -> Point:
        return float(low[1] + across * size[1]), float(low[0] + down * size[0])

    shared = [
        (centre[0] - outwards * 0.6 * half[0], centre[1] - generator.uniform(18, 24) * millimetre),
        (entry[1] + outwards * 4, entry[0] - 1),
        *cava,
    ]
    apex, atrium = in_heart(0.78, 0.85), in_heart(0.2, 0.5)
    leads = _tube(view, smooth_curve([*shared, in_heart(0.3, 0.75), apex]), 2.4, 1.1)
    is_icd = generator.random() < 0.3
    if is_icd:  # the thick shock coil
        leads = np.maximum(leads, _tube(view, [in_heart(0.45, 0.82), apex], 5, 1.6))
    if generator.random() < 0.6:
        second = smooth_curve([*shared, atrium, (atrium[0] + 5, atrium[1] - 4)])
        leads = np.maximum(leads, _tube(view, second, 2.2, 1.0))
    return Finding("pacemaker", np.maximum(case, leads), case > 0.3, side, "icd" if is_icd else "")


def _case(side: int, centre: Point, half: tuple[float, float], generator: np.random.Generator) -> np.ndarray:
    """A rounded case with a brighter battery, turned a little; in [0, 1]."""
    canvas, pen, scale = new_canvas(side)
    x, y, w, h = (value * scale for value in (*centre, *half))
    pen.rounded_rectangle([(x - w, y - h), (x + w, y + h)], radius=int(0.75 * h), fill=190)
    pen.rounded_rectangle([(x - 0.8 * w, y - 0.2 * h), (x + 0.8 * w, y + 0.8 * h)], radius=int(0.3 * h), fill=255)
    return shrink(canvas.rotate(generator.uniform(-25, 25), center=(x, y)), side)


def _tube(view: View, course: list[Point], width_mm: float, strength: float, is_hollow: bool = False) -> np.ndarray:
    return stroke(view.side, course, width_mm / view.pixel_mm, strength, is_hollow)


def _centreline(view: View, label: int, step: int) -> list[Point]:
    """An organ's middle in every few rows, from top to bottom; column, row."""
    voxels = view.places[label]
    rows = np.unique(voxels[:, 0])[:: max(1, round(step * view.side / 128))] if len(voxels) else []
    return [(float(voxels[voxels[:, 0] == row, 1].mean()), float(row)) for row in rows]
