"""Grad-CAM between two towers: channels of a hidden state, weighted by what they do for the cosine."""

import torch
from torch import Tensor

from backend.image_text.problem import Explanation, Problem, places, resolve_layer, wants_gradient


def attribute(problem: Problem, layer: int | None = None) -> Explanation:
    """Positive part of the sum over channels of activation times mean gradient, token by token.

    Args: layer: None: the last block whose tokens the pooling still reads.
    Returns: maps of cosine; images are averaged over their places, texts over all their tokens.
    Raises: BadInput: no such block.
    Source: Selvaraju et al., Grad-CAM, arXiv:1610.02391, Eq. 1-2, with the cosine as the score.
    """
    layer = resolve_layer(problem, layer, _last_read(problem))
    with torch.no_grad():
        hidden = problem.tower.prefix(problem.inputs, layer)
    gradients = _gradients(problem, hidden, layer)  # (B, T, C)
    leading = 0 if problem.is_text else problem.tower.leading(layer)
    weights = gradients[:, leading:].mean(1, keepdim=True)
    return Explanation(*places(problem, (weights * hidden).sum(-1).clamp(min=0), layer))


def _last_read(problem: Problem) -> int:
    """Behind the last block a token-pooled tower reads one token only."""
    return max(0, problem.tower.n_layers - (1 if problem.tower.pooling in ("average", "attention") else 2))


def _gradients(problem: Problem, hidden: Tensor, layer: int) -> Tensor:
    """d cosine / d hidden state for every target, (B, T, C)."""
    n_targets = len(problem.targets)
    with wants_gradient(hidden.expand(n_targets, -1, -1)) as leaf:
        features = problem.tower.suffix(leaf, layer, problem.inputs)
        cosines = torch.nn.functional.cosine_similarity(features, problem.targets)
        return torch.autograd.grad(cosines.sum(), leaf)[0]
