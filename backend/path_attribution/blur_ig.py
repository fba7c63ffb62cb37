"""Blur IG: the gradient integrated while the image comes out of a blur."""

from collections.abc import Iterator

import torch
from torch import Tensor

from backend.path_attribution.integrate import change_of_score, gradient_of, integrate, steps_that_fit
from backend.path_attribution.paths import blur_at_scales, scale_space
from backend.path_attribution.problem import Explanation, Problem

SMALL_IMAGE_PIXELS = 64 * 64
SMALL_IMAGE_SIGMA = 10.0  # pixels
LARGE_IMAGE_SIGMA = 50.0  # pixels; the authors' default


def attribute(problem: Problem, *, n_steps: int = 50, max_sigma: float | None = None) -> Explanation:
    """Attribute f(image) - f(most blurred image) along the scale space of the image.

    Args:
        n_steps: equal steps in sigma; the gradient is taken at the sharper end of each, as the authors do.
        max_sigma: standard deviation of the strongest blur, in pixels; None: 10 up to 64 x 64 pixels, else 50.
    Returns: attribution (B, C, H, W) in logits. The problem's baselines play no part.
    Source: Xu et al., Attribution in Scale and Space, arXiv:2004.03383; discretised as in the saliency package.
    """
    height, width = problem.images.shape[-2:]
    if max_sigma is None:
        max_sigma = SMALL_IMAGE_SIGMA if height * width <= SMALL_IMAGE_PIXELS else LARGE_IMAGE_SIGMA
    sigmas = torch.arange(n_steps, dtype=torch.float64) * max_sigma / n_steps
    lengths = torch.full_like(sigmas, max_sigma / n_steps)

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        for part in steps_that_fit(problem, n_steps, "Blur IG"):
            yield scale_space(problem.images, sigmas[part], lengths[part])

    most_blurred = blur_at_scales(problem.images, torch.tensor([max_sigma]))[0]
    return Explanation(
        attribution=integrate(gradient_of(problem), pieces()),
        explained_change=change_of_score(problem, most_blurred, problem.images),
    )
