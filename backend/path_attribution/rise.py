"""RISE: random soft masks, each weighted by the probability that the class keeps behind it."""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from backend.errors import ModelFault
from backend.models.first_layer import quick_first_layer
from backend.path_attribution.problem import Explanation, Problem

BLOCK = 64  # masks drawn and held at a time; a constant, so that a seed means the same on every device


def attribute(problem: Problem, samples: int = 500, grid: int = 7, keep: float = 0.5) -> Explanation:
    """Average the masks of RISE, each weighted by the probability it leaves to the target.

    a = 1 / (n p) sum_i P(target | x M_i + x0 (1 - M_i)) M_i, the same masks for all images of the batch.
    Differs from the paper in what stands behind a mask: the chosen baseline (black in the paper).

    Args:
        samples: number of masks n.
        grid: cells per side before a mask is enlarged.
        keep: chance p that a cell stays visible.
    Returns: attribution (B, 1, H, W), a probability: a constant classifier's value is its probability everywhere,
        on average over masks.
    Raises: ModelFault: the model returned logits that are not numbers.
    Source: Petsiuk et al., RISE, arXiv:1806.07421, Eq. 6; masks as in its section 3.2.
    """
    _, attribution = deque(running_maps(problem, samples, grid, keep), maxlen=1).pop()
    return Explanation(attribution)


def running_maps(problem: Problem, samples: int, grid: int, keep: float) -> Iterator[tuple[int, Tensor]]:
    """The estimate after every block of masks: (masks so far, (B, 1, H, W)). The last one is the answer."""
    total = problem.images.new_zeros(len(problem.images), 1, *problem.images.shape[-2:])
    done = 0
    for masks in random_masks(samples, grid, keep, problem.images.shape[-2:], problem.generator):
        masks = masks.to(problem.images)
        probabilities = _probabilities_behind(problem, masks)  # (B, K)
        total += torch.einsum("bk,khw->bhw", probabilities, masks)[:, None]
        done += len(masks)
        estimate = total / (done * keep)
        problem.step(done, samples, "random masks", estimate)
        yield done, estimate


def random_masks(
    samples: int, grid: int, keep: float, size: tuple[int, int], generator: torch.Generator, block: int = BLOCK
) -> Iterator[Tensor]:
    """Smooth random masks in blocks of (K, H, W) in [0, 1], on the CPU.

    A grid of independent cells (1 with chance `keep`) is enlarged bilinearly to a little more than the image and
    shifted by less than a cell, so that its edges fall anywhere. Both steps are linear and separable: rows @ cells
    @ columns, without ever holding the enlarged picture.
    """
    height, width = size
    tall, wide = -(-height // grid), -(-width // grid)  # a cell's size in pixels, rounded up
    rows, columns = _enlarge(grid, tall * (grid + 1)), _enlarge(grid, wide * (grid + 1))
    for start in range(0, samples, block):
        count = min(block, samples - start)
        cells = (torch.rand(block, grid, grid, generator=generator) < keep).float()[:count]
        down = torch.randint(0, tall, (block,), generator=generator)[:count]
        right = torch.randint(0, wide, (block,), generator=generator)[:count]
        row_weights = rows[down[:, None] + torch.arange(height)]  # (K, H, grid)
        column_weights = columns[right[:, None] + torch.arange(width)]  # (K, W, grid)
        yield row_weights @ cells @ column_weights.transpose(1, 2)


def _enlarge(cells: int, length: int) -> Tensor:
    """The matrix (length, cells) of bilinear enlargement with half-pixel centres."""
    return torch.nn.functional.interpolate(torch.eye(cells)[None], size=length, mode="linear", align_corners=False)[0].T


def _probabilities_behind(problem: Problem, masks: Tensor) -> Tensor:
    """P(target | masked image) of every image behind every mask; masks (K, H, W) -> (B, K)."""
    n_images, n_masks = len(problem.images), len(masks)
    pairs = torch.arange(n_images * n_masks, device=masks.device)

    def chunk(pair: Tensor) -> tuple[Tensor]:
        image, mask = pair // n_masks, masks[pair % n_masks, None]
        baseline = problem.baselines[image]
        with torch.no_grad(), quick_first_layer(problem.model):
            logits = problem.model(baseline + mask * (problem.images[image] - baseline))
        if not torch.isfinite(logits).all():
            raise ModelFault("the model returned a score that is not a number for a masked image", "model")
        return (logits.softmax(dim=1).gather(1, problem.targets[image][:, None])[:, 0],)

    return problem.chunks.map(chunk, pairs)[0].view(n_images, n_masks)
