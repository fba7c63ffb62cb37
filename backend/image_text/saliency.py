"""Saliency between two towers: how fast the cosine changes with a pixel, or with a token's embedding."""

import torch

from backend.image_text.problem import Explanation, Problem, places, wants_gradient


def attribute(problem: Problem) -> Explanation:
    """Size of the cosine's gradient: the largest over channels for pixels, the Euclidean norm for tokens.

    Returns: maps (B, H, W) per unit of intensity, or (B, T) per unit of the embedding.
    Raises: NotAvailable: the text tower has no embedding.
    Source: Simonyan et al., arXiv:1312.6034, section 3; the norm for tokens follows Li et al., arXiv:1506.01066.
    """
    n_targets = len(problem.targets)
    if problem.is_text:
        with torch.no_grad():
            embedded = problem.tower.embed(problem.inputs)
        with wants_gradient(embedded.expand(n_targets, -1, -1)) as leaf:
            features = problem.tower.suffix(leaf, -1, problem.inputs)
            gradient = _gradient(problem, features, leaf)
        return Explanation(*places(problem, gradient.norm(dim=-1), 0))
    with wants_gradient(problem.inputs.expand(n_targets, -1, -1, -1)) as leaf:
        gradient = _gradient(problem, problem.tower.encode(leaf), leaf)
    return Explanation(gradient.abs().amax(1))


def _gradient(problem: Problem, features: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    cosines = torch.nn.functional.cosine_similarity(features, problem.targets)
    return torch.autograd.grad(cosines.sum(), leaf)[0]
