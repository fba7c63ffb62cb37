"""How well a map agrees with a box: numbers that need no model, computed when a box is drawn."""

from dataclasses import dataclass

import numpy as np

from pages.shared.map_grid import Box

PERCENTILE = 75.0  # as in the paper: the quarter of the image with the largest values


@dataclass(frozen=True, slots=True)
class Agreement:
    """Overlap of the largest quarter of a map with a box, and whether its peak lies inside."""

    iou: float
    relative_iou: float  # over the largest that a quarter of the image can reach with this box
    is_hit: bool
    inside: float  # share of the map's positive values that lies in the box


def inside(box: Box, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: pixels whose middle lies in the box, at least the one nearest to its middle.

    >>> inside(Box(0.0, 0.5, 0.5, 1.0), (2, 2)).tolist()
    [[False, False], [True, False]]
    """
    height, width = shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    mask = np.outer((rows >= box.top) & (rows < box.bottom), (columns >= box.left) & (columns < box.right))
    if not mask.any():
        row, column = int((box.top + box.bottom) / 2 * height), int((box.left + box.right) / 2 * width)
        mask[min(row, height - 1), min(column, width - 1)] = True
    return mask


def agreement(values: np.ndarray, box: Box) -> Agreement:
    """Args: values: (H, W).

    >>> found = agreement(np.array([[0.0, 1.0], [2.0, 9.0]]), Box(0.5, 0.5, 1.0, 1.0))
    >>> found.iou, found.relative_iou, found.is_hit, found.inside
    (1.0, 1.0, True, 0.75)
    """
    mask = inside(box, values.shape)
    large = values > np.percentile(values, PERCENTILE)
    iou = _ratio((large & mask).sum(), (large | mask).sum())
    n_large, n_box = int(large.sum()), int(mask.sum())
    best = _ratio(min(n_large, n_box), max(n_large, n_box))
    positive = np.maximum(values, 0.0)
    return Agreement(
        iou=iou,
        relative_iou=_ratio(iou, best),
        is_hit=bool(mask.ravel()[int(values.argmax())]) and bool(values.max() > values.min()),
        inside=_ratio(float(positive[mask].sum()), float(positive.sum())),
    )


def _ratio(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else 0.0
