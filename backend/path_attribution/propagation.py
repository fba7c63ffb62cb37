"""DeepLIFT: differences from the baseline, handed back operation by operation."""

from collections.abc import Callable

import torch
from torch import Tensor

from backend.models.surgery import frozen
from backend.path_attribution.operation_rules import DifferenceRules
from backend.path_attribution.problem import Explanation, Problem, target_scores

_VISIBLE_GAP = 0.01  # of the score's change: from here on an incomplete sum is told


def deeplift(problem: Problem) -> Explanation:
    """Share f(x) - f(x0) out by DeepLIFT's rescale rule.

    Baseline and image go through the network one after the other; on the way back every nonlinear operation hands on
    difference quotients instead of derivatives. The rules stand on operations, not on modules, so activations that
    are functions or used twice are no obstacle, and the model is not touched.
    Differs from the paper: products (attention, gates), softmax and layer normalisation have difference rules too, so
    that transformers are complete as well; and there is no separation of positive and negative parts (RevealCancel).

    Returns: attribution (B, C, H, W) in logits; it sums to f(x) - f(x0) wherever all nonlinear operations have a
        rule. Where they have not, their gradients are used and a note gives the gap.
    Raises: ModelFault: a score that is not a number, or a model that runs other operations for the baseline.
    Source: Shrikumar et al., Learning Important Features, arXiv:1704.02685, rescale rule; max pooling as in captum.
    """
    advance = counter(problem, "DeepLIFT")

    def chunk(image: Tensor, baseline: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), DifferenceRules() as reference:
            baseline_logits = problem.model(baseline)
        image = image.detach().requires_grad_(True)
        with torch.enable_grad():
            with DifferenceRules(reference.seen):
                logits = problem.model(image)
            scores = target_scores(logits, target)
            (multipliers,) = torch.autograd.grad(scores.sum(), image)
        change = scores.detach() - target_scores(baseline_logits, target)
        advance(len(image))
        return multipliers * (image.detach() - baseline), change

    with frozen(problem.model):
        attribution, change = problem.chunks.map(chunk, problem.images, problem.baselines, problem.targets)
    return Explanation(attribution, explained_change=change, notes=_gap_notes(attribution, change))


def _gap_notes(attribution: Tensor, change: Tensor) -> list[str]:
    """A note if a sum misses the score's change; where hardly anything changes, rounding is not counted as a miss."""
    values = attribution.flatten(1)
    size = torch.maximum(change.abs(), 1e-3 * values.abs().sum(1)).clamp_min(torch.finfo(values.dtype).tiny)
    gap = ((values.sum(1) - change).abs() / size).max()
    if not gap > _VISIBLE_GAP:
        return []
    return [f"DeepLIFT has no rule for some operation of this model; its sum misses the score's change by {gap:.0%}"]


def counter(problem: Problem, message: str) -> Callable[[int], None]:
    """Counts images and tells; the first sign of life comes before the first image."""
    done, total = 0, len(problem.images)
    problem.step(done, total, message)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        problem.step(done, total, message)

    return advance
