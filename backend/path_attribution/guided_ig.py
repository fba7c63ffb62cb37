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
    high = start + way * highest
    is_behind = (points - start) / torch.where(way == 0, 1, way) < lowest
    points = torch.where(is_behind & (way != 0), start + way * lowest, points)
    goal = way.abs().sum(1) * (1 - alpha)  # (B,) L1 distance to the end
    tolerance = max(1e-9, 8 * torch.finfo(way.dtype).eps)
    rank = math.floor(fraction * (way.shape[1] - 1)) + 1
    magnitude = gradients.abs()
    is_done = torch.zeros_like(goal, dtype=torch.bool)
    while True:
        left = (points - end).abs().sum(1)
        is_done = is_done | ((left - goal).abs() <= torch.clamp(tolerance * torch.maximum(left, goal), min=tolerance))
        magnitude = magnitude.masked_fill(points == high, torch.inf)
        threshold = magnitude.kthvalue(rank, dim=1, keepdim=True).values
        is_chosen = (magnitude <= threshold) & (magnitude < torch.inf)
        reach = torch.where(is_chosen, (high - points).abs(), 0).sum(1)
        needed = left - goal
        is_done = is_done | (reach == 0)  # single precision may leave a rest that nobody can go
        if bool(is_done.all()):
            return points
        gamma = (needed / torch.where(is_done, 1, reach))[:, None]
        there = torch.where(gamma > 1, high, points + (high - points) * gamma.clamp(0, 1))
        points = torch.where(is_chosen & ~is_done[:, None], there, points)
        is_done = is_done | (gamma[:, 0] <= 1)
