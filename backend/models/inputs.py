"""From a decoded picture to what a model takes, still in [0, 1]: channels and size, nothing else."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.catalog import ModelSpec
from backend.images import DecodedImage

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's convert("L") uses


def to_model_input(image: DecodedImage, spec: ModelSpec) -> Tensor:
    """(1, C, H, W) float32 in [0, 1] of the model's channels and input size."""
    pixels = torch.from_numpy(np.ascontiguousarray(image.pixels)).permute(2, 0, 1)[None]
    return fit(match_channels(pixels, spec.n_channels), spec.input_size, spec.fit)


def match_channels(pixels: Tensor, channels: int) -> Tensor:
    """Grey becomes three equal channels, colour becomes luma; (1, 1 or 3, H, W) -> (1, channels, H, W)."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return pixels.expand(-1, 3, -1, -1)
    return (pixels * pixels.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def fit(pixels: Tensor, size: tuple[int, int], how: str = "crop") -> Tensor:
    """Bring (1, C, h, w) to (1, C, *size).

    `crop` fills the frame and cuts the middle out, `pad` shows everything on black, `stretch` deforms.
    """
    height, width = pixels.shape[-2:]
    if (height, width) == tuple(size):
        return pixels.contiguous()
    if how == "stretch":
        return _resize(pixels, size)
    ratios = (size[0] / height, size[1] / width)
    ratio = max(ratios) if how == "crop" else min(ratios)
    resized = _resize(pixels, (max(1, round(height * ratio)), max(1, round(width * ratio))))
    rows, columns = size[0] - resized.shape[-2], size[1] - resized.shape[-1]
    # negative padding cuts, positive padding adds black; the odd pixel goes right and below
    return F.pad(resized, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)).contiguous()


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0.0, 1.0)
