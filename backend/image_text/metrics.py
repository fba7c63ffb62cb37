"""How good is a map of a pair? Confidence with only its best parts left, and whether it lies where the finding is."""

import math

import torch
from torch import Tensor

from backend.errors import ShapeError

TOP_SHARE = 0.25  # of the pixels: those above the 75th percentile
_KEPT_TOKENS = 0.5


# ----------------------------------------------------------------- confidence
def lit_by(image: Tensor, map_: Tensor) -> Tensor:
    """The image times its map, which is stretched to [0, 1] first; (1, C, H, W) and (H, W) -> (1, C, H, W).

    A map without contrast shows everything.
    """
    low, high = map_.min(), map_.max()
    return image * ((map_ - low) / (high - low) if high > low else torch.ones_like(map_))


def best_tokens(ids: Tensor, words: tuple[tuple[int, int], ...], values: Tensor, blank_id: int) -> Tensor:
    """A text of which only the better half of the words' sub-tokens is left, the others blank; (1, L) -> (1, L).

    Args: values: (T,) of every token; equal ones count from the left.
    """
    places = [k for first, last in words for k in range(first, last)]
    n_kept = math.ceil(len(places) * _KEPT_TOKENS)
    order = values[places].argsort(descending=True, stable=True)[n_kept:]
    left_out = [places[k] for k in order.tolist()]
    kept = ids.clone()
    kept[:, left_out] = blank_id
    return kept


def confidence_drop(original: float, kept: float) -> float:
    """max(0, o - s) of the cosines before and after. Source: M2IB, section 4.

    >>> confidence_drop(0.5, 0.3), confidence_drop(0.3, 0.5)
    (0.2, 0.0)
    """
    return max(0.0, original - kept)


def confidence_increase(original: float, kept: float) -> float:
    """1 if o < s, else 0."""
    return float(original < kept)


# ----------------------------------------------------------------- localisation
def top_quarter(map_: Tensor, generator: torch.Generator) -> Tensor:
    """The quarter of the pixels with the highest values, (H, W) bool; ties are drawn."""
    flat = map_.flatten().double().cpu()
    order = torch.randperm(flat.numel(), generator=generator)
    best = order[flat[order].argsort(descending=True, stable=True)[: round(TOP_SHARE * flat.numel())]]
    chosen = torch.zeros(flat.numel(), dtype=torch.bool)
    chosen[best] = True
    return chosen.view(map_.shape)


def iou(one: Tensor, other: Tensor) -> float:
    """Pixels that two regions share, over those that either has.

    >>> iou(torch.tensor([[True, True]]), torch.tensor([[True, False]]))
    0.5
    """
    if one.shape != other.shape:
        raise ShapeError(f"regions of {tuple(one.shape)} and {tuple(other.shape)} pixels; expected equal shapes")
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 0.0


def attainable_iou(box: Tensor) -> float:
    """The largest IoU that a quarter of the pixels can have with a box: a small box cannot be matched well.

    >>> attainable_iou(torch.tensor([[True, False, False, False], [False, False, False, False]]))
    0.5
    """
    quarter, area = round(TOP_SHARE * box.numel()), int(box.sum())
    return min(quarter, area) / max(quarter, area)


def span_iou(map_: Tensor, span: Tensor) -> float:
    """IoU in time: of the frames in which something sounds, and as many frames in which the map has most.

    Args: map_, span: (F, T), frequencies down and times across; the span is the same at all frequencies.

    >>> span_iou(torch.tensor([[0.0, 1.0, 3.0, 2.0]]), torch.tensor([[False, True, True, False]]))
    0.3333333333333333
    """
    true = span[0]
    best = torch.zeros_like(true)
    best[map_.sum(0).argsort(descending=True, stable=True)[: int(true.sum())]] = True
    return iou(best, true)


def pointing(map_: Tensor, box: Tensor) -> float:
    """Does the highest value lie in the box? Where several are highest, the share of them that do."""
    highest = map_ == map_.max()
    return float(box[highest].double().mean())


def box_mask(box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """Left, top, right, bottom in pixels, right and bottom just outside -> (H, W) bool."""
    left, top, right, bottom = (round(edge) for edge in box)
    mask = torch.zeros(size, dtype=torch.bool)
    mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
    return mask


# ----------------------------------------------------------------- words
def first_is_key(values: Tensor, is_key: Tensor) -> float:
    """Is the highest word one of those that matter? Ties count by share. (W,) values, (W,) bool."""
    return float(is_key[values == values.max()].double().mean())


def chance_above(values: Tensor, is_key: Tensor) -> float | None:
    """Chance that a word that matters is higher than one that does not; ties half. None without one of the two."""
    if is_key.all() or not is_key.any():
        return None
    difference = values[is_key][:, None] - values[~is_key]
    return float(((difference > 0).double() + 0.5 * (difference == 0)).mean())
