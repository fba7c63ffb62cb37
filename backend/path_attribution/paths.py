"""Paths that are known before they are walked: the straight line and the scale space of an image."""

import torch
from torch import Tensor

from backend.path_attribution.blur import TRUNCATE

SCALE_STEP = 0.01  # pixels of sigma; the difference quotient of the authors' package


def straight_line(start: Tensor, end: Tensor, alphas: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Points on the line from start to end, and the part of the way that each stands for.

    Args:
        start, end: (*feature).
        alphas: where on the line, 0 at its start and 1 at its end, (K,).
        weights: of the quadrature; they sum to 1 over the whole line, (K,).
    Returns: points and moves, (K, *feature) each.

    >>> straight_line(torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([0.5]), torch.tensor([1.0]))
    (tensor([[0.5000, 1.0000]]), tensor([[1., 2.]]))
    """
    column = (-1,) + (1,) * start.ndim
    way = end - start
    return start + alphas.to(way).view(column) * way, weights.to(way).view(column) * way


def scale_space(images: Tensor, sigmas: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Blurred images, and the part of the way out of the blur that each stands for.

    Args:
        images: (B, C, H, W), zero outside (`mode="constant"` of scipy, as in the authors' package).
        sigmas: standard deviations of the blur in pixels, (K,), float64.
        lengths: how much of sigma each stands for, in pixels, (K,).
    Returns: points L(sigma) and moves -length * dL/dsigma, (K, B, C, H, W) each; the derivative is the forward
        difference quotient over `SCALE_STEP`.
    Source: Xu et al., Attribution in Scale and Space, arXiv:2004.03383, section 3.
    """
    points = blur_at_scales(images, sigmas)
    further = blur_at_scales(images, sigmas + SCALE_STEP)
    slope = further.sub_(points).div_(SCALE_STEP)
    return points, slope.mul_(-lengths.to(slope).view(-1, 1, 1, 1, 1))


def blur_at_scales(images: Tensor, sigmas: Tensor) -> Tensor:
    """Each image at each scale, (B, C, H, W) and (K,) -> (K, B, C, H, W); zero outside the image.

    >>> blur_at_scales(torch.ones(1, 1, 1, 3), torch.tensor([0.0, 1.0])).flatten(1)
    tensor([[1.0000, 1.0000, 1.0000],
            [0.2772, 0.3522, 0.2772]])
    """
    batch, channels, height, width = images.shape
    rows, columns = zero_blur_matrices(height, sigmas), zero_blur_matrices(width, sigmas)
    # two products per scale instead of long convolutions: the sigmas reach the size of the image
    sideways = images.reshape(-1, width) @ columns.transpose(1, 2).to(images)  # (K, B C H, W)
    blurred = rows[:, None].to(images) @ sideways.view(len(sigmas), -1, height, width)  # (K, B C, H, W)
    return blurred.view(len(sigmas), batch, channels, height, width)


def zero_blur_matrices(length: int, sigmas: Tensor) -> Tensor:
    """Gaussian blurs of a line of pixels as matrices, (K, length, length) float64: out = matrix @ line.

    The kernel ends at round(4 sigma), as scipy's does, and sums to 1; the line is zero beyond its ends.
    """
    sigmas = sigmas[:, None].double()
    radius = (TRUNCATE * sigmas + 0.5).floor()
    offsets = torch.arange(max(length, int(radius.max()) + 1), dtype=torch.float64)
    kernels = torch.exp(-0.5 * (offsets / sigmas.clamp_min(1e-12)) ** 2) * (offsets <= radius)
    kernels = kernels / (2 * kernels.sum(1, keepdim=True) - kernels[:, :1])  # both sides, the middle once
    position = torch.arange(length)
    return kernels[:, (position[:, None] - position).abs()]
