"""LIME: a sparse linear model of the score, fitted to superpixels switched on and off."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import Lasso, LinearRegression
from torch import Tensor

from backend.path_attribution.problem import Explanation, Problem
from backend.path_attribution.segmentation import superpixels

_KERNEL_WIDTH = 0.25  # of the authors' image explainer
_BLOCK = 64  # patterns between two signs of life


def attribute(problem: Problem, samples: int = 300, segments: int = 50, alpha: float = 0.01) -> Explanation:
    """Fit a sparse linear model to the target's logit over superpixels that are shown or hidden.

    A hidden superpixel shows the baseline. A superpixel's coefficient is divided by its number of pixels, so that a
    map sums to the sum of the coefficients. All images of a batch see the same random patterns.
    Differs from the paper: Lasso instead of K-Lasso (a penalty instead of a number of features), the logit instead
    of the probability, SLIC instead of quick shift.

    Args:
        samples: number of patterns; the first one shows everything.
        segments: how many superpixels SLIC is asked for.
        alpha: Lasso penalty, in logits; 0 is plain weighted least squares.
    Returns: attribution (B, 1, H, W) in logits.
    Raises: ModelFault: the model returned a score that is not a number.
    Source: Ribeiro et al., Why Should I Trust You?, arXiv:1602.04938.
    """
    labels = [superpixels(_to_numpy(image), segments) for image in problem.images]
    patterns = random_patterns(samples, max(label.max() for label in labels) + 1, problem.generator)
    shown = torch.stack([torch.from_numpy(label) for label in labels]).to(problem.images.device)  # (B, H, W)
    scores = _scores(problem, patterns.to(problem.images), shown).cpu().double().numpy()  # (B, samples)
    maps = []
    for label, score in zip(labels, scores, strict=True):
        surrogate = fit_surrogate(patterns[:, : label.max() + 1].double().numpy(), score, alpha)
        maps.append((surrogate.coefficients / np.bincount(label.ravel()))[label])
    return Explanation(torch.from_numpy(np.stack(maps)[:, None]).to(problem.images))


def random_patterns(samples: int, n_superpixels: int, generator: torch.Generator) -> Tensor:
    """Which superpixels each sample shows, (samples, n_superpixels) of 0 and 1; the first row is all ones.

    Drawn superpixel by superpixel, so that an image with fewer of them gets the same first columns.
    """
    columns = [torch.rand(samples, generator=generator) < 0.5 for _ in range(n_superpixels)]
    patterns = torch.stack(columns, dim=1).float()
    patterns[0] = 1.0
    return patterns


@dataclass(frozen=True)
class Surrogate:
    """The linear model that stands in for the network around one image."""

    coefficients: np.ndarray  # (superpixels,), in units of the score
    intercept: float


def fit_surrogate(patterns: np.ndarray, scores: np.ndarray, alpha: float) -> Surrogate:
    """Weighted Lasso of scores (n,) on patterns (n, superpixels).

    A pattern counts the less, the further it is from the whole image: pi = exp(-d^2 / (2 width^2)) with d the cosine
    distance to the pattern that shows everything and width 0.25.
    """
    shown = patterns.mean(axis=1)  # cosine of a 0/1 pattern with all ones: sqrt(share of ones)
    weights = np.exp(-((1.0 - np.sqrt(shown)) ** 2) / (2 * _KERNEL_WIDTH**2))
    model = Lasso(alpha=alpha, max_iter=10_000) if alpha > 0 else LinearRegression()
    model.fit(patterns, scores, sample_weight=weights)
    return Surrogate(model.coef_, float(model.intercept_))


def _scores(problem: Problem, patterns: Tensor, labels: Tensor) -> Tensor:
    """The target's logit of every image under every pattern; (n, K), (B, H, W) -> (B, n)."""
    parts = []
    for start in range(0, len(patterns), _BLOCK):
        parts.append(_masked_scores(problem, patterns[start : start + _BLOCK], labels))
        problem.step(min(start + _BLOCK, len(patterns)), len(patterns), "superpixel patterns")
    return torch.cat(parts, dim=1)


def _masked_scores(problem: Problem, patterns: Tensor, labels: Tensor) -> Tensor:
    """As `_scores`; the masked images of all pairs (image, pattern) are made chunk by chunk."""

    def chunk(pair: Tensor) -> tuple[Tensor]:
        image, pattern = pair // len(patterns), pair % len(patterns)
        is_shown = patterns[pattern[:, None, None], labels[image]][:, None] > 0  # (N, 1, H, W)
        points = torch.where(is_shown, problem.images[image], problem.baselines[image])
        return (problem.score(points, problem.targets[image]),)

    pairs = torch.arange(len(labels) * len(patterns), device=labels.device)
    return problem.chunks.map(chunk, pairs)[0].view(len(labels), len(patterns))


def _to_numpy(image: Tensor) -> np.ndarray:
    """(C, H, W) -> (H, W, C), float64."""
    return image.permute(1, 2, 0).cpu().double().numpy()
