"""XRAI: whole regions instead of pixels, ranked by how dense Integrated Gradients is in them."""

from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from backend.contracts import Step
from backend.path_attribution import integrated_gradients
from backend.path_attribution.problem import Explanation, Problem
from backend.path_attribution.segmentation import xrai_regions

_ROUNDING = 1e-9  # densities closer than this share of the largest attribution are compared exactly


def attribute(
    problem: Problem, n_steps: int = 50, baselines: str = "black+white", min_pixels: int | None = None
) -> Explanation:
    """Give every pixel the density of Integrated Gradients in the region that brought it in.

    Args:
        n_steps: points of Integrated Gradients for each baseline.
        baselines: "black+white", averaged as in the paper, or "chosen": the problem's own.
        min_pixels: regions that add fewer pixels are not ranked; None: a 1000th of the image, at least 1.
    Returns: attribution (B, 1, H, W) in logits per pixel, constant on each region; the pixels that no region brought
        in share their own mean. Per image it sums to what its Integrated Gradients, largest channel, sums to.
    Raises: BadInput, ModelFault: as Integrated Gradients.
    Source: Kapishnikov et al., XRAI, arXiv:1906.02825, algorithm 1 ("full" in the authors' package).
    """
    height, width = problem.images.shape[-2:]
    if min_pixels is None:
        min_pixels = max(1, height * width // 1000)
    densities = _pixel_attribution(problem, n_steps, baselines).cpu().double().numpy()  # (B, H, W)
    maps = []
    for done, (image, density) in enumerate(zip(problem.images, densities, strict=True), start=1):
        regions = xrai_regions(image.permute(1, 2, 0).cpu().double().numpy())
        values, _ = rank_regions(density.ravel(), regions, min_pixels)
        maps.append(values.reshape(height, width))
        problem.step(n_steps + done, n_steps + len(densities), "regions")
    return Explanation(torch.from_numpy(np.stack(maps)[:, None]).to(problem.images))


def _pixel_attribution(problem: Problem, n_steps: int, baselines: str) -> Tensor:
    """Integrated Gradients, averaged over baselines, the largest of the channels; (B, H, W)."""
    starts = [problem.baselines]
    if baselines == "black+white":
        starts = [torch.zeros_like(problem.images), torch.ones_like(problem.images)]
    total = torch.zeros_like(problem.images)
    for index, start in enumerate(starts):

        def on_step(step: Step, index: int = index) -> None:
            done = n_steps * (index + step.fraction) / len(starts)
            problem.step(int(done), n_steps + len(problem.images), "integrated gradients")

        total += integrated_gradients.attribute(
            replace(problem, baselines=start, on_step=on_step), n_steps=n_steps, rule="midpoint"
        ).attribution
    return (total / len(starts)).amax(dim=1)


def rank_regions(attribution: np.ndarray, regions: csr_array, min_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Take regions greedily: always the one whose new pixels have the largest mean attribution.

    Every pixel leaves the sums of its regions once, when it is taken, so that all updates together cost as much as
    the regions have pixels. Sums kept this way are off by rounding; regions within rounding of the best are compared
    by the mean over their own pixels, so that ties fall as if every mean had been computed afresh: the first wins.

    Args:
        attribution: (P,), float64.
        regions: membership (K, P); regions may overlap.
        min_pixels: a region with fewer new pixels than this is dropped; at least 1.
    Returns: the mean with which each pixel was taken (P,), and its rank (P,): 1 for the region with the largest
        mean; the pixels never taken get their own mean and the last rank.
    Source: Kapishnikov et al., XRAI, arXiv:1906.02825, algorithm 1.

    >>> pixels = np.array([3.0, 1.0, 2.0, 0.0])
    >>> rank_regions(pixels, csr_array(np.array([[1, 1, 0, 0], [0, 1, 1, 1]], dtype=bool)), min_pixels=1)
    (array([2., 2., 1., 1.]), array([1, 1, 2, 2]))
    """
    pixel_of, regions_of = regions.indices, csr_array(regions.T)
    counts = np.diff(regions.indptr)
    sums = regions @ attribution
    means = np.full(len(counts), np.nan)  # exact ones, where known
    tolerance = _ROUNDING * np.abs(attribution).max(initial=0.0)
    is_open = np.ones(len(attribution), dtype=bool)
    is_candidate = np.ones(len(counts), dtype=bool)
    taken: list[tuple[float, np.ndarray]] = []

    def new_pixels(region: int) -> np.ndarray:
        pixels = pixel_of[regions.indptr[region] : regions.indptr[region + 1]]
        return pixels[is_open[pixels]]

    while True:
        is_candidate &= counts >= min_pixels
        candidates = np.flatnonzero(is_candidate)
        if not len(candidates):
            break
        rough = sums[candidates] / counts[candidates]
        best = candidates[rough >= rough.max() - tolerance]
        for region in best[np.isnan(means[best])]:
            means[region] = attribution[new_pixels(region)].mean()
        region = best[np.argmax(means[best])]
        pixels = new_pixels(region)
        taken.append((means[region], pixels))
        is_open[pixels] = False
        is_candidate[region] = False
        touched, lengths = _gather(regions_of, pixels)
        counts = counts - np.bincount(touched, minlength=len(counts))
        sums -= np.bincount(touched, weights=np.repeat(attribution[pixels], lengths), minlength=len(counts))
        means[touched] = np.nan
    return _paint(attribution, taken, is_open)


def _gather(rows: csr_array, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The column indices of the wanted rows, one row after the other, and how many each row has."""
    part = rows[wanted]
    return part.indices, np.diff(part.indptr)


def _paint(
    attribution: np.ndarray, taken: list[tuple[float, np.ndarray]], rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values and ranks per pixel; the rest, never taken, gets its own mean and the last rank."""
    values, ranks = np.zeros(len(attribution)), np.zeros(len(attribution), dtype=int)
    ordered = sorted(taken, key=lambda step: -step[0])
    for rank, (mean, pixels) in enumerate(ordered, start=1):
        values[pixels], ranks[pixels] = mean, rank
    if rest.any():
        values[rest], ranks[rest] = attribution[rest].mean(), len(ordered) + 1
    return values, ranks
