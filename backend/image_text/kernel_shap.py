"""KernelSHAP between two towers: Shapley values of superpixels or words for the cosine."""

import itertools
import math

import torch
from torch import Tensor

from backend.image_text.occlusion import Parts, superpixels_of, words_of
from backend.image_text.problem import Explanation, Problem

_RIDGE = 1e-9  # keeps the normal equations solvable when fewer patterns than parts were drawn


def attribute(problem: Problem, samples: int = 512, segments: int = 50, behind: str = "black") -> Explanation:
    """Shapley values of the parts of an input, by weighted least squares over random coalitions.

    The values sum to the cosine's change from everything hidden to everything shown. Exact where 2^parts - 2 is not
    more than `samples`, and for a score that is linear in the parts.

    Args:
        samples: coalitions.
        segments: superpixels that SLIC is asked for; images only.
        behind: what stands in a hidden superpixel, "black" or "mean"; images only.
    Returns: maps of cosine, a part's value shared evenly by its pixels or sub-tokens; figure "sum", what it sums to.
    Source: Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, arXiv:1705.07874, Theorem 2; drawn
        in pairs of a coalition and its complement (Covert and Lee, arXiv:2012.01536).
    """
    parts = words_of(problem) if problem.is_text else superpixels_of(problem, segments, behind)
    values = shapley_values(problem, parts, samples)
    return Explanation(parts.spread(values), figures={"sum": values.sum(1)})


def shapley_values(problem: Problem, parts: Parts, samples: int) -> Tensor:
    """(B, n) of every part for every target."""
    coalitions, weights = draw_coalitions(parts.n, samples, problem.generator())
    ends = torch.stack([torch.zeros(parts.n), torch.ones(parts.n)])
    patterns = torch.cat([ends, coalitions])
    shown = patterns.to(problem.inputs.device)
    scores = problem.sampled_cosines(len(shown), lambda a, b: parts.show(shown[a:b]), "coalitions")  # (n, B)
    scores = scores.double().cpu()
    fitted = fit_shapley(coalitions.double(), weights.double(), scores[2:], scores[0], scores[1])
    return fitted.T.to(problem.targets)


def draw_coalitions(n: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coalitions (N, n) of 0 and 1 with their weights (N,): all of them, or drawn as often as the kernel weighs them.

    >>> coalitions, weights = draw_coalitions(3, 10, torch.Generator())
    >>> len(coalitions), weights.tolist()
    (6, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    """
    if n < 2:
        return torch.zeros(0, n), torch.zeros(0)
    if n <= 20 and 2**n - 2 <= samples:
        rows = [row for row in itertools.product((0.0, 1.0), repeat=n) if 0 < sum(row) < n]
        weights = [(n - 1) / (math.comb(n, int(sum(row))) * sum(row) * (n - sum(row))) for row in rows]
        return torch.tensor(rows), torch.tensor(weights) * n
    sizes = torch.arange(1, n)
    kernel = 1.0 / (sizes * (n - sizes)).double()
    drawn = sizes[torch.multinomial(kernel, (samples + 1) // 2, replacement=True, generator=generator)]
    order = torch.rand(len(drawn), n, generator=generator).argsort(1).argsort(1)
    half = (order < drawn[:, None]).float()
    return torch.stack([half, 1.0 - half], 1).flatten(0, 1)[:samples], torch.ones(samples)


def fit_shapley(coalitions: Tensor, weights: Tensor, scores: Tensor, none: Tensor, everything: Tensor) -> Tensor:
    """Least squares of scores on coalitions under the condition that the values sum to `everything` - `none`.

    Args: coalitions (N, n), weights (N,), scores (N, B), none and everything (B,), all double.
    Returns: (n, B).
    """
    n, change = coalitions.shape[1], everything - none
    if n == 1:
        return change[None]
    design = coalitions[:, :-1] - coalitions[:, -1:]  # the last part's value follows from the sum
    wanted = scores - none - coalitions[:, -1:] * change
    normal = design.T @ (weights[:, None] * design)
    normal = normal + _RIDGE * normal.diagonal().mean() * torch.eye(n - 1, dtype=normal.dtype)
    first = torch.linalg.solve(normal, design.T @ (weights[:, None] * wanted))
    return torch.cat([first, change[None] - first.sum(0, keepdim=True)])
