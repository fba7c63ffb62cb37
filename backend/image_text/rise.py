"""RISE between two towers: random masks, each weighted by the cosine that it leaves."""

import torch
from torch import Tensor

from backend.image_text.occlusion import background_of, words_of
from backend.image_text.problem import Explanation, Problem
from backend.path_attribution.rise import random_masks


def attribute(
    problem: Problem, samples: int | None = None, grid: int = 7, keep: float = 0.5, behind: str = "black"
) -> Explanation:
    """Mean of random masks, each weighted by the cosine behind it: a = 1 / (n p) sum_i cos(x M_i) M_i.

    Args:
        samples: masks; None: 2,048 for images and 256 for texts, as in the M2IB paper.
        grid: cells per side before a mask is enlarged; images only.
        keep: chance p that a cell or a word stays.
        behind: what stands behind a mask, "black" or "mean"; images only.
    Returns: maps of cosine: what the pair still has, on average, when the place or word is shown.
    Source: Petsiuk et al., RISE, arXiv:1806.07421, Eq. 6.
    """
    if problem.is_text:
        return _of_words(problem, 256 if samples is None else samples, keep)
    return _of_pixels(problem, 2048 if samples is None else samples, grid, keep, behind)


def _of_pixels(problem: Problem, samples: int, grid: int, keep: float, behind: str) -> Explanation:
    image = problem.inputs
    background = background_of(image, behind)
    total = image.new_zeros(len(problem.targets), *image.shape[-2:])
    done = 0
    for masks in random_masks(samples, grid, keep, image.shape[-2:], problem.generator()):
        masks = masks.to(image)
        with torch.no_grad():
            scores = problem.chunks.map(
                lambda part: (problem.cosines(background + part[:, None] * (image - background)),), masks
            )[0]  # (K, B)
        total += torch.einsum("kb,khw->bhw", scores, masks)
        done += len(masks)
        problem.step(done, samples, "random masks")
    return Explanation(total / (done * keep))


def _of_words(problem: Problem, samples: int, keep: float) -> Explanation:
    parts = words_of(problem)
    shown = (torch.rand(samples, parts.n, generator=problem.generator()) < keep).float().to(problem.inputs.device)
    scores = problem.sampled_cosines(samples, lambda a, b: parts.show(shown[a:b]), "random masks")  # (n, B)
    return Explanation(parts.spread(_weighted_mean(scores, shown.to(scores), keep)))


def _weighted_mean(scores: Tensor, shown: Tensor, keep: float) -> Tensor:
    """(n, B) and (n, parts) -> (B, parts)."""
    return scores.T @ shown / (len(shown) * keep)
