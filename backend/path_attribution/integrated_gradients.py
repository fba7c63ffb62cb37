"""Integrated Gradients: the gradient averaged on the straight line from baseline to image."""

from collections.abc import Iterator

from torch import Tensor

from backend.path_attribution.integrate import (
    QUADRATURES,
    change_of_score,
    gradient_of,
    integrate,
    steps_that_fit,
)
from backend.path_attribution.paths import straight_line
from backend.path_attribution.problem import Explanation, Problem


def attribute(problem: Problem, *, n_steps: int = 50, rule: str = "midpoint") -> Explanation:
    """Attribute f(image) - f(baseline) along the straight line between them.

    Args:
        n_steps: points at which the gradient is taken.
        rule: "midpoint" or "gauss-legendre"; the weights of both sum to 1.
    Returns: attribution (B, C, H, W) in logits; peak memory does not depend on n_steps.
    Source: Sundararajan et al., arXiv:1703.01365, equation 1.
    """
    alphas, weights = QUADRATURES[rule](n_steps)

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        for part in steps_that_fit(problem, n_steps, "Integrated Gradients"):
            yield straight_line(problem.baselines, problem.images, alphas[part], weights[part])

    return Explanation(
        attribution=integrate(gradient_of(problem), pieces()),
        explained_change=change_of_score(problem, problem.baselines, problem.images),
    )
