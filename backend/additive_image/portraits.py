"""Drawn portraits of hosts whose every attribute is known: smile, age, glasses, skin, hair, background and pose.

Shapes are signed distances on the pixel grid, so edges are anti-aliased at any size; each is evaluated only inside its
own box. Lengths are in units of 1/60 of the side, y downwards, seen from the face's centre unless said otherwise.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.errors import BadInput

UNITS = 60.0  # of length, along the side
_CHUNK = 64  # portraits drawn at a time, so that what is worked on stays in the processor's cache
_SWAY = (1.1, 0.95)  # units by which pose moves the face's centre
_CENTRE = (30.0, 30.6)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One property of a portrait, uniform on [low, high], or 0 and 1 with probability `share` of a 1."""

    name: str
    low: float
    high: float
    help: str
    share: float | None = None

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2 if self.share is None else self.share

    @property
    def sd(self) -> float:
        return (self.high - self.low) / 12**0.5 if self.share is None else (self.share * (1 - self.share)) ** 0.5


ATTRIBUTES = (
    Attribute("smile", -1.0, 1.0, "-1 corners of the mouth down, 1 a broad smile with teeth"),
    Attribute("age", 0.0, 1.0, "lines around eyes and mouth, hair turning grey, a hairline that recedes"),
    Attribute("glasses", 0.0, 1.0, "a frame with tinted lenses", share=0.4),
    Attribute("skin", 0.0, 1.0, "from light to dark"),
    Attribute("hair", 0.0, 1.0, "black, brown, auburn, blond"),
    Attribute("background", 0.0, 1.0, "mint, sky, lavender, rose; the clothes go with it"),
    Attribute("x", -1.0, 1.0, "place of the face, to the right"),
    Attribute("y", -1.0, 1.0, "place of the face, downwards"),
    Attribute("width", -1.0, 1.0, "of the face"),
)
NAMES = tuple(attribute.name for attribute in ATTRIBUTES)

_SKIN = ((255, 221, 198), (240, 191, 155), (206, 148, 110), (152, 101, 72), (101, 66, 51))
_HAIR = ((34, 27, 31), (98, 62, 42), (162, 104, 58), (228, 184, 108))
_GREY = (214, 215, 222)
_BACKGROUND = ((178, 226, 216), (176, 211, 240), (200, 198, 243), (246, 205, 219))
_CLOTHES = ((42, 105, 112), (52, 84, 148), (92, 72, 150), (163, 72, 108))
_INK, _BLUSH, _WINE, _FRAME = (58, 30, 32), (226, 84, 88), (112, 24, 42), (34, 36, 52)
_LINES, _LIPS, _TEETH, _TONGUE, _LENS = (74, 34, 28), (196, 62, 76), (253, 251, 247), (214, 96, 104), (206, 226, 255)
_MOUTH_BOX, _EYES_BOX = (-12.0, 5.5, 12.0, 22.0), (-16.0, -10.5, 16.0, 4.5)


def sample_attributes(n: int, generator: torch.Generator) -> Tensor:
    """Independent attributes of n hosts, (n, 9) in the order of `NAMES`."""
    uniform = torch.rand(n, len(ATTRIBUTES), generator=generator)
    columns = [
        a.low + (a.high - a.low) * u if a.share is None else (u < a.share).float()
        for a, u in zip(ATTRIBUTES, uniform.unbind(1), strict=True)
    ]
    return torch.stack(columns, 1)


def make_attributes(n: int = 1, **values: float | Tensor) -> Tensor:
    """(n, 9) attributes of an average host without glasses, with some values set.

    Raises: BadInput: no attribute of that name.

    >>> make_attributes(smile=1.0)[0, :3]
    tensor([1.0000, 0.5000, 0.0000])
    """
    rows = torch.tensor([0.0 if a.share is not None else a.mean for a in ATTRIBUTES]).repeat(n, 1)
    for name, value in values.items():
        rows[:, attribute_index(name)] = torch.as_tensor(value, dtype=rows.dtype)
    return rows


def attribute_index(name: str) -> int:
    """Raises: BadInput: no attribute of that name."""
    if name not in NAMES:
        raise BadInput(f"unknown attribute {name!r}; one of {', '.join(NAMES)}", "attribute")
    return NAMES.index(name)


def draw(attributes: Tensor, side: int = 64) -> Tensor:
    """Portraits; (N, 9) attributes -> (N, 3, side, side) in [0, 1].

    Values a little out of range are drawn as what lies beyond; glasses between 0 and 1 are half transparent.

    Raises: BadInput: another number of attributes, or values that are not numbers.
    """
    if attributes.ndim != 2 or attributes.shape[1] != len(ATTRIBUTES):
        raise BadInput(f"attributes of shape {tuple(attributes.shape)}; expected (N, {len(ATTRIBUTES)})", "attributes")
    if not torch.isfinite(attributes).all():
        raise BadInput("attributes that are not numbers", "attributes")
    images = attributes.new_empty(len(attributes), 3, side, side)
    for k in range(0, len(attributes), _CHUNK):
        images[k : k + _CHUNK] = _draw(attributes[k : k + _CHUNK], side)
    return images.clamp_(0, 1)


# ------------------------------------------------------------- the canvas
class _Canvas:
    """Pictures under the brush: shapes are painted one over the other, each within its box."""

    def __init__(self, images: Tensor, centre: tuple[Tensor, Tensor]) -> None:
        """images: (N, 3, S, S), painted in place. centre: of the faces, x and y, each (N, 1, 1)."""
        self.images, self.centre = images, centre
        self.pixel = UNITS / images.shape[-1]
        self.grid = (torch.arange(images.shape[-1]).to(images) + 0.5) * self.pixel

    def paint(
        self,
        box: tuple[float, float, float, float],
        shape: Callable[[Tensor, Tensor], Tensor],
        colour: Tensor,
        opacity: Tensor | float = 1.0,
        blur: float = 0.0,
    ) -> None:
        """Cover what lies inside a shape with a colour.

        Args:
            box: left, top, right, bottom from the face's usual centre; pose is allowed for.
            shape: x (N, 1, w), y (N, h, 1) -> signed distance (N, h, w), negative inside.
            colour: (N, 3). opacity: (N, 1, 1) or a number. blur: width of the edge in units; 0: one pixel.
        """
        columns = self._span(box[0] + _CENTRE[0] - _SWAY[0] - 1, box[2] + _CENTRE[0] + _SWAY[0] + 1)
        rows = self._span(box[1] + _CENTRE[1] - _SWAY[1] - 1, box[3] + _CENTRE[1] + _SWAY[1] + 1)
        x = self.grid[columns] - self.centre[0]
        y = self.grid[rows, None] - self.centre[1]
        coverage = shape(x, y).div_(-max(self.pixel, blur)).add_(0.5).clamp_(0, 1)
        if blur:
            coverage = coverage * coverage * (3 - 2 * coverage)
        part = self.images[:, :, rows, columns]
        part += (colour[:, :, None, None] - part) * (coverage * opacity)[:, None]

    def _span(self, low: float, high: float) -> slice:
        side = self.images.shape[-1]
        return slice(max(0, int(low / self.pixel)), min(side, int(high / self.pixel) + 1))


def _ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """Distance to an ellipse around the origin, to first order near its edge."""
    u, v = x / rx, y / ry
    q = (u * u + v * v).sqrt_()
    return (q - 1) * q / ((u / rx) ** 2 + (v / ry) ** 2 + 1e-6).sqrt_()


def _box(x: Tensor, y: Tensor, half_width: Tensor | float, half_height: Tensor | float, radius: float) -> Tensor:
    """Distance to a rectangle around the origin whose corners are rounded."""
    return _round_both(x.abs() - half_width, y.abs() - half_height, radius)


def _round_both(first: Tensor, second: Tensor, radius: float) -> Tensor:
    """Distance to what lies inside both of two shapes, with the corner between them rounded."""
    u, v = first + radius, second + radius
    outside = (u.clamp(min=0) ** 2 + v.clamp(min=0) ** 2).sqrt_()
    return outside + torch.maximum(u, v).clamp(max=0) - radius


def _line(x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float], width: float) -> Tensor:
    """Distance to a line with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    u, v = x - start[0], y - start[1]
    along = ((u * dx + v * dy) / (dx * dx + dy * dy)).clamp_(0, 1)
    return ((u - along * dx) ** 2 + (v - along * dy) ** 2).sqrt_() - width / 2


def _bow(
    x: Tensor, y: Tensor, half_width: Tensor | float, sag: Tensor | float, width: float, taper: float = 0.0
) -> Tensor:
    """Distance to the stroke along y = sag (1 - (x / half_width)^2), thinner by `taper` of its width at its ends."""
    u = (x / half_width).clamp(-1, 1)
    beyond = (x.abs() - half_width).clamp(min=0)
    slope = 2 * sag * u / half_width
    across = (y - sag * (1 - u * u)) / (1 + slope * slope).sqrt()
    return (across * across + beyond * beyond).sqrt_() - width / 2 * (1 - taper * u * u)


# ------------------------------------------------------------- colours
def _ramp(stops: tuple[tuple[int, int, int], ...], share: Tensor) -> Tensor:
    """Colours along a ramp; share (N,) in [0, 1] -> (N, 3)."""
    colours = torch.tensor(stops).to(share) / 255
    place = share.clamp(0, 1) * (len(stops) - 1)
    k = place.floor().long().clamp(max=len(stops) - 2)
    return torch.lerp(colours[k], colours[k + 1], (place - k)[:, None])


def _towards(colour: Tensor, other: tuple[int, int, int] | Tensor, share: Tensor | float) -> Tensor:
    """(N, 3) mixed with another colour; share: (N,) or a number."""
    if not isinstance(other, Tensor):
        other = torch.tensor(other).to(colour) / 255
    return colour + (other - colour) * (share[:, None] if isinstance(share, Tensor) else share)


# ------------------------------------------------------------- the portrait
@dataclass(frozen=True, slots=True)
class _Host:
    """Attributes as the brushes want them: numbers (N, 1, 1), colours (N, 3)."""

    smile: Tensor
    age: Tensor
    glasses: Tensor
    half_width: Tensor  # of the face, units
    skin: Tensor
    shade: Tensor  # skin in the shadow
    lines: Tensor  # skin where age has drawn a line
    hair: Tensor  # a little grey with age, so that its own colour can still be seen
    temples: Tensor  # greyer
    hair_light: Tensor
    brows: Tensor
    clothes: Tensor


_HALF_HEIGHT = 20.4  # of the face, units


def _draw(attributes: Tensor, side: int) -> Tensor:
    smile, age, glasses, skin, hair, background, dx, dy, width = attributes.unbind(1)
    of_pixels = lambda value: value[:, None, None]  # noqa: E731
    skin_colour = _ramp(_SKIN, skin)
    own_hair = _ramp(_HAIR, hair)
    hair_colour = _towards(own_hair, _GREY, 0.3 * age)
    host = _Host(
        of_pixels(smile),
        of_pixels(age),
        of_pixels(glasses),
        of_pixels(17.2 + 1.0 * width),
        skin_colour,
        _towards(skin_colour, _LINES, 0.26),
        _towards(skin_colour, _LINES, 0.75 * age),
        hair_colour,
        _towards(own_hair, _GREY, 0.85 * age),
        _towards(hair_colour, (255, 255, 255), 0.16),
        _towards(own_hair, _INK, 0.45),
        _ramp(_CLOTHES, background),
    )
    centre = (of_pixels(_CENTRE[0] + _SWAY[0] * dx), of_pixels(_CENTRE[1] + _SWAY[1] * dy))
    canvas = _Canvas(_wall(background, side), centre)
    _paint_back(canvas, host)
    _paint_face(canvas, host)
    _paint_lines(canvas, host)
    _paint_eyes(canvas, host)
    _paint_nose(canvas, host)
    _paint_mouth(canvas, host)
    _paint_fringe(canvas, host)
    _paint_frame(canvas, host)
    return canvas.images


def _wall(background: Tensor, side: int) -> Tensor:
    """The background, a little darker towards the bottom; (N, 3, side, side)."""
    top = _towards(_ramp(_BACKGROUND, background), (255, 255, 255), 0.18)
    bottom = _towards(_ramp(_BACKGROUND, background), _ramp(_CLOTHES, background), 0.16)
    down = torch.linspace(0, 1, side).to(top)[:, None]
    wall = top[:, :, None, None] + (bottom - top)[:, :, None, None] * down
    return wall.repeat(1, 1, 1, side)


def _paint_back(canvas: _Canvas, host: _Host) -> None:
    """Hair behind the head, neck and shoulders."""
    spread = host.half_width + 2.6

    def mane(x: Tensor, y: Tensor) -> Tensor:
        return _round_both(_crown(x, y, spread), y - 9.0, 6.0)

    canvas.paint((-24, -26, 24, 30), mane, host.hair)
    canvas.paint((-30, 18, 30, 40), lambda x, y: _box(x, y - 44, 26.5, 20.5, 13.0), host.clothes)
    canvas.paint((-11, 17, 11, 33), lambda x, y: _ellipse(x, y - 22.5, 9.6, 7.4), host.shade)
    canvas.paint((-8, 10, 8, 28), lambda x, y: _box(x, y - 16, 6.6, 10, 4.0), host.shade)


def _paint_face(canvas: _Canvas, host: _Host) -> None:
    """Ears and the face with its cheeks."""
    ear = lambda x, y: _ellipse(x.abs() - host.half_width, y - 0.5, 2.6, 4.0)  # noqa: E731
    canvas.paint((-22, -4, 22, 5), ear, host.shade)

    def face(x: Tensor, y: Tensor) -> Tensor:
        narrow = 1 - 0.13 * (y / _HALF_HEIGHT).clamp(min=0) ** 2  # towards the chin
        return _ellipse(x / narrow, y, host.half_width, _HALF_HEIGHT)

    canvas.paint((-20, -22, 20, 22), face, host.skin)
    blush = lambda x, y: _ellipse(x.abs() - 10.6, y - 6.0, 3.4, 2.6)  # noqa: E731
    canvas.paint((-18, 0, 18, 12), blush, _towards(host.skin, _BLUSH, 0.3), 0.6, blur=5.0)


def _paint_lines(canvas: _Canvas, host: _Host) -> None:
    """What age draws: forehead, crow's feet, under the eyes, from nose to mouth. On young skin they have its colour."""
    both = [  # on the right, mirrored
        ((12.3, -2.2), (14.6, -3.9), 1.1),
        ((12.3, -0.4), (14.6, 0.8), 1.1),
        ((5.2, 4.6), (9.4, 9.6), 1.25),
    ]
    for start, end, width in both:
        box = (-end[0] - 1, min(start[1], end[1]) - 1, end[0] + 1, max(start[1], end[1]) + 1)
        canvas.paint(box, lambda x, y, a=start, b=end, w=width: _line(x.abs(), y, a, b, w), host.lines)
    canvas.paint((-11, 0, 11, 4), lambda x, y: _bow(x.abs() - 7.4, y - 1.2, 3.0, 1.0, 0.95), host.lines, 0.8)
    canvas.paint((-9, -13, 9, -9), lambda x, y: _bow(x, y + 11.0, 7.0, -0.6, 1.0), host.lines, 0.85)
    canvas.paint((-8, -11, 8, -7), lambda x, y: _bow(x, y + 9.0, 5.6, -0.5, 0.9), host.lines, 0.6)


def _paint_eyes(canvas: _Canvas, host: _Host) -> None:
    eye = lambda x, y: (x.abs() - 7.4, y + 2.6)  # noqa: E731
    lens = lambda x, y: _box(*eye(x, y), 5.9, 5.0, 4.2)  # noqa: E731
    canvas.paint((-14, -8, 14, 3), lens, _towards(host.skin, _LENS, 0.46), host.glasses)
    plain = torch.ones_like(host.skin)
    paint = lambda colour: _towards(plain, colour, 1.0)  # noqa: E731
    canvas.paint((-12, -6, 12, 1), lambda x, y: _ellipse(*eye(x, y), 3.5, 2.55), paint((254, 253, 252)))
    canvas.paint((-10, -6, 10, 1), lambda x, y: _ellipse(*eye(x, y), 2.1, 2.3), paint((62, 42, 36)))
    canvas.paint((-8, -5, 10, -1), lambda x, y: _ellipse((x + 0.8).abs() - 7.4, y + 3.5, 0.75, 0.75), plain)
    lid = lambda x, y: _bow(x.abs() - 7.4, y + 3.4, 3.8, -2.0, 1.0, 0.4)  # noqa: E731
    canvas.paint((-12, -7, 12, -2), lid, _towards(host.skin, _INK, 0.85))
    brow = lambda x, y: _bow(x.abs() - 7.6, y + 8.0, 4.3, -1.3, 1.7, 0.45)  # noqa: E731
    canvas.paint((-13, -11, 13, -6), brow, host.brows)


def _paint_nose(canvas: _Canvas, host: _Host) -> None:
    shade = _towards(host.skin, _LINES, 0.34)
    canvas.paint((-4, 2, 4, 7), lambda x, y: _bow(x, y - 3.4, 2.1, 1.1, 1.1, 0.3), shade)
    canvas.paint((-1, -2, 4, 5), lambda x, y: _line(x, y, (0.8, -0.6), (1.6, 2.8), 0.8), shade, 0.5)


def _paint_mouth(canvas: _Canvas, host: _Host) -> None:
    """A smile lifts the corners, widens the mouth and opens it, each in proportion."""
    half_width = 7.9 + 1.5 * host.smile
    sag = 0.6 + 2.9 * host.smile  # of the upper lip's middle below the corners
    opening = 0.4 + 2.4 * (host.smile + 1.0)
    top = 11.8 - 0.5 * sag - 0.3 * opening  # height of the corners

    def between(upper: Tensor | float, lower: Tensor | float) -> Callable[[Tensor, Tensor], Tensor]:
        """Between the bows of two sags."""

        def distance(x: Tensor, y: Tensor) -> Tensor:
            bend = 1 - (x / half_width) ** 2
            inside = torch.maximum(upper * bend - (y - top), (y - top) - lower * bend)
            return torch.maximum(inside, x.abs() - half_width)

        return distance

    plain = torch.ones_like(host.skin)
    inside = lambda share: between(sag, sag + share * opening)  # noqa: E731
    canvas.paint(_MOUTH_BOX, inside(1.0), _towards(plain, _WINE, 1.0))
    canvas.paint(_MOUTH_BOX, between(sag + 0.68 * opening, sag + opening), _towards(plain, _TONGUE, 1.0))
    canvas.paint(_MOUTH_BOX, inside(0.5), _towards(plain, _TEETH, 1.0))
    lips = _towards(_towards(plain, _LIPS, 1.0), host.skin, 0.3)
    canvas.paint(_MOUTH_BOX, lambda x, y: _bow(x, y - top, half_width, sag + opening, 2.0, 0.45), lips)
    canvas.paint(_MOUTH_BOX, lambda x, y: _bow(x, y - top, half_width, sag, 1.6, 0.3), lips)


def _paint_fringe(canvas: _Canvas, host: _Host) -> None:
    """Hair over the forehead, parted at the side, and locks at the temples."""
    hairline = -13.2 - 1.8 * host.age

    def cap(x: Tensor, y: Tensor) -> Tensor:
        head = _crown(x, y, host.half_width + 1.8)
        below = (hairline + 0.028 * (x - 4.0) ** 2) - y  # the fringe's lower edge
        return torch.maximum(head, -below * 0.8)

    canvas.paint((-22, -26, 22, 0), cap, host.hair)
    shine = lambda x, y: _bow(x + 3.0, y + 19.6, 9.0, -2.0, 1.6, 0.6)  # noqa: E731
    canvas.paint((-14, -24, 8, -16), shine, host.hair_light, 0.8, blur=1.6)
    lock = lambda x, y: _ellipse(x.abs() - host.half_width - 0.6, y + 3.4, 2.9, 9.5)  # noqa: E731
    canvas.paint((-23, -15, 23, 8), lock, host.temples)


def _crown(x: Tensor, y: Tensor, half_width: Tensor) -> Tensor:
    """Distance to the hair's outline: round above the temples, straight down below them."""
    return _ellipse(x, (y + 7.5).clamp(max=0), half_width, _HALF_HEIGHT - 4.3)


def _paint_frame(canvas: _Canvas, host: _Host) -> None:
    frame = _towards(torch.ones_like(host.skin), _FRAME, 1.0)
    rim = lambda x, y: _box(x.abs() - 7.4, y + 2.6, 5.9, 5.0, 4.2).abs_() - 0.65  # noqa: E731
    canvas.paint((-15, -9, 15, 4), rim, frame, host.glasses)
    canvas.paint((-3, -5, 3, -2), lambda x, y: _bow(x, y + 3.2, 1.6, -0.5, 1.3), frame, host.glasses)
    arm = lambda x, y: _line(x.abs(), y, (13.2, -3.6), (16.4, -4.2), 1.2)  # noqa: E731
    canvas.paint((-18, -6, 18, -2), arm, frame, host.glasses)


# ------------------------------------------------------------- regions and measures
def region_weight(side: int, mouth: float = 12.0, eyes: float = 3.0) -> Tensor:
    """Weight of each pixel's squared error, (side, side) with mean 1: mouth and eyes are few pixels and matter."""
    weight = torch.ones(side, side)
    for box, value in ((_EYES_BOX, eyes), (_MOUTH_BOX, mouth)):
        weight[region(box, side)] = value
    return weight / weight.mean()


def region(box: tuple[float, float, float, float], side: int) -> tuple[slice, slice]:
    """Rows and columns of a box around the face's usual centre."""
    place = [(value + _CENTRE[k % 2]) * side / UNITS for k, value in enumerate(box)]
    return slice(int(place[1]), int(place[3]) + 1), slice(int(place[0]), int(place[2]) + 1)


_BANK = 2048  # portraits among which a fit begins
_MOUTHS = torch.linspace(-0.9, 0.9, 7)  # smiles with which it begins: a mouth is caught by one of its own shape only


@functools.lru_cache(maxsize=1)
def _bank(side: int) -> tuple[Tensor, Tensor]:
    """Attributes of portraits and their weighted pixels; (2048, 9), (2048, 3 side^2)."""
    attributes = sample_attributes(_BANK, torch.Generator().manual_seed(1))
    return attributes, (draw(attributes, side) * region_weight(side).sqrt()).flatten(1)


def fit_attributes(images: Tensor, n_steps: int = 6) -> tuple[Tensor, Tensor]:
    """The attributes of the drawn portraits that are nearest to images, and how near they are.

    Nearest in region-weighted squared error at 32 pixels, by Levenberg-Marquardt steps with numerical derivatives from
    the nearest portrait of a bank; each attribute may go a tenth of its range beyond it.

    Args: images: (N, 3, S, S) in [0, 1]; S a multiple of 32.
    Returns: attributes (N, 9); mean weighted squared error left, (N,).
    Source: Marquardt 1963, doi:10.1137/0111030.
    """
    side, n = 32, len(images)
    weight = region_weight(side).sqrt()
    targets = (torch.nn.functional.avg_pool2d(images, images.shape[-1] // side) * weight).flatten(1)
    low = torch.tensor([a.low for a in ATTRIBUTES])
    width = torch.tensor([a.high - a.low for a in ATTRIBUTES])
    attributes, drawn = _bank(side)

    def residual(attributes: Tensor, targets: Tensor = targets) -> Tensor:
        return (draw(attributes, side) * weight).flatten(1) - targets

    starts = attributes[torch.cdist(targets, drawn).argmin(1)].repeat_interleave(len(_MOUTHS), 0)
    starts[:, attribute_index("smile")] = _MOUTHS.repeat(n)
    errors = residual(starts, targets.repeat_interleave(len(_MOUTHS), 0)).square().mean(1).view(n, -1)
    at = starts.view(n, len(_MOUTHS), -1)[torch.arange(n), errors.argmin(1)]
    here, damping = residual(at), torch.full((n, 1), 1e-2)
    steps = 0.02 * torch.diag(width)
    for _ in range(n_steps):
        slopes = torch.stack([residual(at + step) - residual(at - step) for step in steps], -1) / 0.04  # of the range
        gram = slopes.mT @ slopes
        lift = damping[..., None] * torch.diag_embed(gram.diagonal(dim1=1, dim2=2) + 1e-6)
        change = torch.linalg.solve(gram + lift, -(slopes.mT @ here[..., None]))[..., 0] * width
        tried = torch.maximum(torch.minimum(at + change, low + 1.1 * width), low - 0.1 * width)
        there = residual(tried)
        is_better = (there.square().sum(1) < here.square().sum(1))[:, None]
        at, here = torch.where(is_better, tried, at), torch.where(is_better, there, here)
        damping = torch.where(is_better, damping / 5, damping * 8).clamp(1e-5, 1e3)
    return at, here.square().mean(1)


def measure_portraits(images: np.ndarray) -> dict[str, np.ndarray]:
    """What the nearest drawn portraits show, by attribute; (n,) each.

    Args: images: (n, H, W, 3), uint8 or in [0, 1]; decoded ones too.
    """
    pixels = images / np.float32(255) if images.dtype == np.uint8 else images
    fitted, _ = fit_attributes(torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).permute(0, 3, 1, 2))
    return {name: fitted[:, k].numpy() for k, name in enumerate(NAMES)}


def ghosting(image: Tensor, attributes: Tensor, varied: str = "smile", n: int = 41) -> float:
    """Mean squared distance, in the mouth's box, to the nearest of n portraits that differ in one attribute only.

    Args: image: (3, S, S) in [0, 1]. attributes: of all else, (9,).
    """
    of = ATTRIBUTES[attribute_index(varied)]
    rows = attributes.repeat(n, 1)
    rows[:, attribute_index(varied)] = torch.linspace(of.low, of.high, n)
    box = (slice(None), slice(None), *region(_MOUTH_BOX, image.shape[-1]))
    return float((draw(rows, image.shape[-1])[box] - image[None][box]).square().mean((1, 2, 3)).min())
