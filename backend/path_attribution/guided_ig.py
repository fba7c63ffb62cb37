"""Guided IG: a path from baseline to image that first moves the values whose gradient is small."""

import math

import torch
from torch import Tensor

from backend.path_attribution.integrate import change_of_score
from backend.path_attribution.problem import Explanation, Problem


def attribute(problem: Problem, *, n_steps: int = 50, fraction: float = 0.25, max_dist: float = 0.02) -> Explanation:
    """Attribute f(image) - f(baseline) along a path that avoids large gradients while it may.

    Args:
        n_steps: gradients on the path; each step shortens the L1 distance to the image by 1 / n_steps of the whole.
        fraction: share of the values, those with the smallest gradients, that are moved at a time.
        max_dist: how far a value may stray from the straight line, as a fraction of its way; 0 is plain IG.
    Returns: attribution (B, C, H, W) in logits.
    Source: Kapishnikov et al., arXiv:2106.09788, algorithm 1; the anchors and ties as in the saliency package.
    """
    start, end = problem.baselines.flatten(1), problem.images.flatten(1)
    points, values = start.clone(), torch.zeros_like(start)
    for taken in range(n_steps):
        problem.step(taken, n_steps, "Guided IG")
        gradients = problem.score_and_gradient(points.view_as(problem.images), problem.targets)[1].flatten(1)
        there = guided_step(points, gradients, start, end, (taken + 1) / n_steps, fraction, max_dist)
        values.addcmul_(gradients, there - points)
        points = there
    problem.step(n_steps, n_steps, "Guided IG")
    return Explanation(
        attribution=values.view_as(problem.images),
        explained_change=change_of_score(problem, problem.baselines, problem.images),
    )


def guided_step(
    points: Tensor, gradients: Tensor, start: Tensor, end: Tensor, alpha: float, fraction: float, max_dist: float
) -> Tensor:
    """Where the path stands when alpha of the way is gone.

    Values behind the straight line at alpha - max_dist are brought up to it. Then the `fraction` of values with the
    smallest gradients goes to the line at alpha + max_dist, and the next fraction, until the L1 way is gone; the
    last fraction goes only as far as needed.

    Args:
        points, gradients: (B, F). start, end: of the whole path, (B, F).
        alpha: share of the L1 way that must be gone, in (0, 1].
    Returns: (B, F); values that have no way to go stay.
    """
    way = end - start
    lowest, highest = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
    length = way.abs()
    is_behind = (points - start).abs_() < length * lowest  # never where there is no way to go
    points = torch.where(is_behind, torch.add(start, way, alpha=lowest), points)
    high = torch.add(start, way, alpha=highest)
    missing = (end - points).abs_().sum(1) - length.sum(1) * (1 - alpha)  # (B,) L1 way to go in this step

    # In order of their gradients: how far the first values can bring us together.
    magnitude = gradients.abs().masked_fill_(points == high, torch.inf)  # these cannot move
    ranked, order = magnitude.sort(1)
    reach = (high - points).abs_().gather(1, order).cumsum_(1)  # (B, F)
    first, last = _last_group(ranked, reach, missing, math.floor(fraction * (way.shape[1] - 1)) + 1)
    before = torch.where(first > 0, _at(reach, first - 1), 0)  # (B,)
    within = _at(reach, last - 1) - before
    gamma = torch.where(within > 0, (missing - before) / within, 0).clamp_(0, 1)[:, None]
    partly = magnitude <= _at(ranked, last - 1)[:, None]
    wholly = magnitude < _at(ranked, first)[:, None]  # equal gradients are never in different groups
    return torch.where(wholly, high, torch.where(partly, torch.lerp(points, high, gamma), points))


def _last_group(ranked: Tensor, reach: Tensor, missing: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The group of values that closes the step: from which rank and up to which, (B,) each, in 0..F.

    A group is the next `size` values and all that equal its last one.
    """
    n_values = ranked.shape[1]
    first = torch.zeros_like(missing, dtype=torch.long)
    while True:
        threshold = _at(ranked, (first + size).clamp_max(n_values) - 1)
        last = torch.searchsorted(ranked, threshold[:, None], right=True)[:, 0]
        is_enough = (last == n_values) | (_at(reach, last - 1) >= missing)
        if bool(is_enough.all()):
            return first, last
        first = torch.where(is_enough, first, last)


def _at(rows: Tensor, index: Tensor) -> Tensor:
    """rows[b, index[b]], (B,); an index below 0 reads the first."""
    return rows.gather(1, index.clamp_min(0)[:, None])[:, 0]
