"""Scenes: two to four coloured shapes on a light ground, with the mask of each."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96  # pixels
SHAPES = ("circle", "square", "triangle", "star")
COLOURS = {  # in sRGB; each object's own is a little off
    "red": (0.84, 0.16, 0.16),
    "green": (0.16, 0.62, 0.24),
    "blue": (0.17, 0.33, 0.86),
    "yellow": (0.95, 0.80, 0.13),
    "purple": (0.56, 0.22, 0.72),
}
KINDS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
_RADIUS = (8.0, 13.0)  # of the circle around a shape, pixels
_GAP = 3.0  # between two of these circles
_FINER = 4  # masks are drawn so many times larger first
_REPEATS = 0.3  # share of scenes with one kind twice
_HALF = 0.5  # of a pixel that a shape must cover to have it


@dataclass(frozen=True, slots=True, eq=False)
class Thing:
    """A shape in a scene. `x`, `y`: its centre from the top left, in shares of the side; `mask`: (S, S) bool."""

    colour: str
    shape: str
    x: float
    y: float
    mask: np.ndarray

    @property
    def kind(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture, (S, S, 3) uint8, and what is in it."""

    pixels: np.ndarray
    things: tuple[Thing, ...]

    def mask_of(self, kind: str) -> np.ndarray:
        """Where things of a kind, a shape or a colour are seen, (S, S) bool."""
        named = [thing.mask for thing in self.things if kind in (thing.kind, thing.shape, thing.colour)]
        return np.any(named, axis=0) if named else np.zeros(self.pixels.shape[:2], bool)


def draw_scene(generator: np.random.Generator, kinds: tuple[str, ...] | None = None) -> Scene:
    """A scene with these kinds of things, or with two to four drawn ones, of which one may stand twice."""
    kinds = _draw_kinds(generator) if kinds is None else kinds
    canvas, things = _ground(generator), []
    for kind, (x, y, radius) in zip(kinds, _places(generator, len(kinds)), strict=True):
        colour, shape = kind.split()
        cover = _cover(shape, x, y, radius, generator.uniform(-0.2, 0.2))
        tint = np.clip(np.array(COLOURS[colour]) * generator.uniform(0.88, 1.1) + generator.normal(0, 0.025, 3), 0, 1)
        canvas += cover[..., None] * (tint - canvas)
        things.append(Thing(colour, shape, x / SIDE, y / SIDE, cover >= _HALF))
    noisy = canvas + generator.normal(0, 0.012, canvas.shape)
    return Scene((np.clip(noisy, 0, 1) * 255).round().astype(np.uint8), tuple(things))


def _draw_kinds(generator: np.random.Generator) -> tuple[str, ...]:
    n = int(generator.integers(2, 5))
    kinds = [KINDS[k] for k in generator.permutation(len(KINDS))[:n]]
    if n > 2 and generator.random() < _REPEATS / (2 / 3):  # scenes of two are two different things
        kinds[1] = kinds[0]
    return tuple(kinds)


def _places(generator: np.random.Generator, n: int) -> list[tuple[float, float, float]]:
    """Centres and radii in pixels of circles that do not touch."""
    while True:
        placed: list[tuple[float, float, float]] = []
        for _ in range(60):
            radius = generator.uniform(*_RADIUS)
            x, y = generator.uniform(radius + 3, SIDE - radius - 3, 2)
            if all(math.hypot(x - u, y - v) > radius + r + _GAP for u, v, r in placed):
                placed.append((float(x), float(y), float(radius)))
            if len(placed) == n:
                return placed


def _ground(generator: np.random.Generator) -> np.ndarray:
    """A light grey or tint that changes slowly over the picture, (S, S, 3)."""
    tint = generator.uniform(0.78, 0.98) + generator.uniform(-0.03, 0.03, 3)
    angle, slope = generator.uniform(0, 2 * math.pi), generator.uniform(0, 0.1)
    ramp = np.linspace(-0.5, 0.5, SIDE)
    shade = slope * (math.cos(angle) * ramp[None, :] + math.sin(angle) * ramp[:, None])
    return np.clip(tint + shade[..., None], 0, 1)


def _cover(shape: str, x: float, y: float, radius: float, turn: float) -> np.ndarray:
    """How much of each pixel a shape covers, (S, S) in [0, 1]. `turn` in radians."""
    left, top, side = int(x - radius) - 1, int(y - radius) - 1, int(2 * radius) + 4
    drawn = Image.new("L", (side * _FINER, side * _FINER))
    pen, (x, y, radius) = ImageDraw.Draw(drawn), ((x - left) * _FINER, (y - top) * _FINER, radius * _FINER)
    if shape == "circle":
        pen.ellipse((x - 0.88 * radius, y - 0.88 * radius, x + 0.88 * radius, y + 0.88 * radius), fill=255)
    else:
        pen.polygon([(x + radius * u, y + radius * v) for u, v in _corners(shape, turn)], fill=255)
    cover = np.zeros((SIDE, SIDE))
    drawn = drawn.reduce(_FINER)  # shapes keep off the edges, so that the patch lies within the picture
    cover[top : top + side, left : left + side] = np.asarray(drawn, np.float64)[: SIDE - top, : SIDE - left]
    return cover / 255


def _corners(shape: str, turn: float) -> list[tuple[float, float]]:
    """On circles of radius 1 and less, the first one up."""
    n = {"square": 4, "triangle": 3, "star": 10}[shape]
    first = turn - math.pi / 2 + (math.pi / 4 if shape == "square" else 0)
    reach = [0.45 if shape == "star" and k % 2 else 1.0 for k in range(n)]
    angles = [first + 2 * math.pi * k / n for k in range(n)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(reach, angles, strict=True)]
