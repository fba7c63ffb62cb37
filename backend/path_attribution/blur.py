"""Gaussian blur on the device, with the boundary and truncation of `scipy.ndimage.gaussian_filter`."""

import torch
from torch import Tensor

TRUNCATE = 4.0  # standard deviations; scipy's default


def gaussian_kernel(sigma: float, like: Tensor) -> Tensor:
    """A normalised Gaussian, (2 r + 1,), with r = round(4 sigma) pixels."""
    radius = int(TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).to(like)


def blur_matrix(length: int, sigma: float, like: Tensor) -> Tensor:
    """The blur of a line of `length` pixels as a matrix (length, length): out = matrix @ line.

    The line is continued by reflection about its edges (d c b a | a b c d | d c b a), as scipy does, also when the
    kernel is longer than the line. A matrix product is faster than a long convolution for sigmas up to the image.
    """
    if sigma <= 0:
        return torch.eye(length, dtype=like.dtype, device=like.device)
    kernel = gaussian_kernel(sigma, like)
    radius = len(kernel) // 2
    position = torch.arange(length)[:, None] + torch.arange(-radius, radius + 1)[None, :]
    folded = position.remainder(2 * length)
    source = torch.where(folded < length, folded, 2 * length - 1 - folded).to(like.device)
    matrix = like.new_zeros(length, length)
    return matrix.scatter_add_(1, source, kernel.expand(length, -1).contiguous())


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur each channel; (..., H, W), sigma in pixels -> (..., H, W).

    >>> gaussian_blur(torch.ones(1, 1, 3, 3), 1.0).round(decimals=4).unique()
    tensor([1.])
    """
    rows = blur_matrix(images.shape[-2], sigma, images)
    columns = blur_matrix(images.shape[-1], sigma, images)
    return rows @ images @ columns.T
