"""Paths that are known before they are walked: the straight line and the scale space of an image."""

from torch import Tensor


def straight_line(start: Tensor, end: Tensor, alphas: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Points on the line from start to end, and the part of the way that each stands for.

    Args:
        start, end: (*feature).
        alphas: where on the line, 0 at its start and 1 at its end, (K,).
        weights: of the quadrature; they sum to 1 over the whole line, (K,).
    Returns: points and moves, (K, *feature) each.

    >>> import torch
    >>> straight_line(torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([0.5]), torch.tensor([1.0]))
    (tensor([[0.5000, 1.0000]]), tensor([[1., 2.]]))
    """
    column = (-1,) + (1,) * start.ndim
    way = end - start
    return start + alphas.to(way).view(column) * way, weights.to(way).view(column) * way
