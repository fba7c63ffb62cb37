"""Baselines by name: the picture that stands for "nothing there"."""

import torch
from torch import Tensor

from backend.catalog import check_baseline
from backend.path_attribution.blur import gaussian_blur


def make_baseline(name: str, images: Tensor, generator: torch.Generator) -> Tensor:
    """The baseline of each image; (B, C, H, W) in [0, 1] -> the same shape.

    black, white, grey: constant 0, 1, 1/2. mean: each image's own mean colour. noise: uniform in [0, 1], the same
    for every image of the batch. blur:SIGMA: the image behind a Gaussian of SIGMA pixels.
    Raises: BadInput: unknown name.
    """
    name = check_baseline(name)
    if name == "noise":
        noise = torch.rand(images.shape[1:], generator=generator)
        return noise.to(images).expand_as(images).contiguous()
    if name == "mean":
        return images.mean(dim=(2, 3), keepdim=True).expand_as(images).contiguous()
    if name.startswith("blur:"):
        return gaussian_blur(images, float(name.removeprefix("blur:")))
    return torch.full_like(images, {"black": 0.0, "white": 1.0, "grey": 0.5}[name])
