"""Methods that read a tower's attention: Chefer et al.'s relevance, and rollout without gradients."""

import dataclasses

import torch
from torch import Tensor

from backend.errors import NotAvailable
from backend.image_text.bottleneck import smoothing
from backend.image_text.problem import Explanation, Problem, places


def relevance(problem: Problem, smooth: float = 0.0) -> Explanation:
    """Relevance of every token for the pooled one, carried through the blocks by attention and its gradient.

    R = I; block by block R <- R + A R with A the mean over heads of (d cosine / d attention * attention)+.
    Differs from the source where `smooth` is given: our bottleneck may smooth, so that its peer may too.

    Args: smooth: standard deviation, in cells, of a Gaussian over the finished map; images only.
    Raises: NotAvailable: the tower has no attention between its tokens.
    Source: Chefer et al., Generic Attention-model Explainability, arXiv:2103.15679, Eq. 5-6, for one modality's
        self-attention.
    """
    inputs = problem.inputs.expand(len(problem.targets), *problem.inputs.shape[1:])
    with torch.enable_grad():
        features, attentions = problem.tower.attend(inputs)
        cosines = torch.nn.functional.cosine_similarity(features, problem.targets)
        gradients = torch.autograd.grad(cosines.sum(), attentions)
    carried = carry_relevance([a.detach() for a in attentions], list(gradients))
    found = _read(problem, carried)
    return _smoothed(found, smooth) if smooth and not problem.is_text else found


def _smoothed(found: Explanation, smooth: float) -> Explanation:
    grid = tuple(found.maps.shape[1:])
    maps = found.maps.flatten(1) @ smoothing(grid, 0, smooth).to(found.maps).T
    return dataclasses.replace(found, maps=maps.unflatten(1, grid))


def rollout(problem: Problem) -> Explanation:
    """How attention alone, averaged over heads and mixed with the residual, brings tokens to the pooled one.

    The same map for every target: it does not know what it is held against.
    Raises: NotAvailable: the tower has no attention between its tokens.
    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv:2005.00928, section 3.
    """
    with torch.no_grad():
        _, attentions = problem.tower.attend(problem.inputs)
    flow = roll_out(attentions)
    return _read(problem, flow.expand(len(problem.targets), -1, -1))


def carry_relevance(attentions: list[Tensor], gradients: list[Tensor]) -> Tensor:
    """Relevance (N, T, T) from the attentions of all blocks and their gradients, (N, heads, T, T) each.

    >>> ones = torch.ones(1, 1, 2, 2)
    >>> carry_relevance([ones], [ones])
    tensor([[[2., 1.],
             [1., 2.]]])
    """
    carried = _identity(attentions[0])
    for attention, gradient in zip(attentions, gradients, strict=True):
        carried = carried + (gradient * attention).clamp(min=0).mean(1) @ carried
    return carried


def roll_out(attentions: list[Tensor]) -> Tensor:
    """Product over blocks of (mean attention + identity) / 2; (N, heads, T, T) each -> (N, T, T).

    >>> roll_out([torch.full((1, 1, 2, 2), 0.5)])
    tensor([[[0.7500, 0.2500],
             [0.2500, 0.7500]]])
    """
    flow = _identity(attentions[0])
    for attention in attentions:
        flow = (attention.mean(1) + _identity(attention)) / 2 @ flow
    return flow


def _identity(attention: Tensor) -> Tensor:
    n, _, length, _ = attention.shape
    return torch.eye(length, dtype=attention.dtype, device=attention.device).expand(n, -1, -1)


def _read(problem: Problem, carried: Tensor) -> Explanation:
    """The rows of what the tower pools, as a map."""
    weights = pooled_share(problem, carried.shape[-1]).to(carried)
    return Explanation(*places(problem, weights @ carried, problem.tower.n_layers - 1))


def pooled_share(problem: Problem, n_tokens: int) -> Tensor:
    """How much every token's last state counts in the pooled vector, (T,), sum 1.

    Raises: NotAvailable: the pooling is an attention of its own.
    """
    tower, share = problem.tower, torch.zeros(n_tokens)
    special = tower.is_special(problem.inputs)
    if tower.pooling == "attention":
        raise NotAvailable(f"the {tower.modality} tower pools by an attention of its own, which is not read", "method")
    if tower.pooling == "average":
        share[len(special) :] = 1.0 / (n_tokens - len(special))
    elif tower.pooling == "argmax":
        share[special.index(True, 1)] = 1.0  # the end token
    else:
        share[0 if tower.pooling == "token" else -1] = 1.0
    return share
