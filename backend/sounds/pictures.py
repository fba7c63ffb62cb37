"""Drawn pictures of what makes the sounds: one for each sound of a clip, side by side, in varied colour and size."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64  # pixels
_FINER = 4
_SIDE = SIDE * _FINER


def draw_picture(kinds: Sequence[str], generator: np.random.Generator) -> np.ndarray:
    """(S, S, 3) uint8 with one or two things."""
    ground = tuple(int(v) for v in generator.uniform(205, 250) + generator.uniform(-8, 8, 3))
    picture = Image.new("RGB", (_SIDE, _SIDE), ground)
    room = 0.46 if len(kinds) > 1 else 0.8
    for k, kind in enumerate(kinds):
        size = int(_SIDE * room * generator.uniform(0.8, 1.0))
        middle = (2 * k + 1) / (2 * len(kinds))
        x = int(_SIDE * middle - size / 2 + generator.uniform(-0.04, 0.04) * _SIDE)
        y = int((_SIDE - size) * generator.uniform(0.2, 0.8))
        ink = tuple(int(v) for v in generator.uniform(20, 150, 3))
        thing = Image.new("L", (size, size), 0)
        _DRAWN[kind](ImageDraw.Draw(thing), size)
        turned = thing.rotate(generator.uniform(-10, 10), Image.Resampling.BILINEAR)
        picture.paste(Image.new("RGB", turned.size, ink), (x, y), turned)
    noisy = np.asarray(picture.reduce(_FINER), np.float64) + generator.normal(0, 2.5, (SIDE, SIDE, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _box(size: int, *corners: float) -> list[float]:
    return [size * corner for corner in corners]


def _siren(pen: ImageDraw.ImageDraw, s: int) -> None:
    """A lamp on its foot, with rays."""
    pen.pieslice(_box(s, 0.28, 0.35, 0.72, 0.95), 180, 360, fill=255)
    pen.rectangle(_box(s, 0.2, 0.68, 0.8, 0.85), fill=255)
    for corners in ((0.5, 0.05, 0.5, 0.25), (0.1, 0.2, 0.24, 0.34), (0.9, 0.2, 0.76, 0.34)):
        pen.line(_box(s, *corners), fill=255, width=max(1, s // 16))


def _bell(pen: ImageDraw.ImageDraw, s: int) -> None:
    pen.pieslice(_box(s, 0.25, 0.1, 0.75, 0.7), 180, 360, fill=255)
    pen.polygon(_box(s, 0.25, 0.4, 0.75, 0.4, 0.9, 0.78, 0.1, 0.78), fill=255)
    pen.ellipse(_box(s, 0.42, 0.76, 0.58, 0.92), fill=255)


def _dog(pen: ImageDraw.ImageDraw, s: int) -> None:
    """A head with hanging ears."""
    pen.ellipse(_box(s, 0.25, 0.2, 0.75, 0.85), fill=255)
    pen.ellipse(_box(s, 0.08, 0.22, 0.3, 0.72), fill=255)
    pen.ellipse(_box(s, 0.7, 0.22, 0.92, 0.72), fill=255)
    for left in (0.36, 0.56):
        pen.ellipse(_box(s, left, 0.38, left + 0.09, 0.47), fill=0)
    pen.ellipse(_box(s, 0.42, 0.6, 0.58, 0.7), fill=0)


def _engine(pen: ImageDraw.ImageDraw, s: int) -> None:
    """A toothed wheel."""
    for k in range(8):
        angle = 2 * np.pi * k / 8
        x, y = 0.5 + 0.36 * np.cos(angle), 0.5 + 0.36 * np.sin(angle)
        pen.rectangle(_box(s, x - 0.09, y - 0.09, x + 0.09, y + 0.09), fill=255)
    pen.ellipse(_box(s, 0.18, 0.18, 0.82, 0.82), fill=255)
    pen.ellipse(_box(s, 0.36, 0.36, 0.64, 0.64), fill=0)


def _rain(pen: ImageDraw.ImageDraw, s: int) -> None:
    """A cloud and drops."""
    for corners in ((0.1, 0.25, 0.5, 0.55), (0.3, 0.1, 0.72, 0.52), (0.5, 0.22, 0.92, 0.55)):
        pen.ellipse(_box(s, *corners), fill=255)
    for x in (0.25, 0.45, 0.65, 0.82):
        pen.line(_box(s, x, 0.62, x - 0.08, 0.9), fill=255, width=max(1, s // 22))


def _bird(pen: ImageDraw.ImageDraw, s: int) -> None:
    """Body, head, beak, tail."""
    pen.ellipse(_box(s, 0.25, 0.4, 0.75, 0.75), fill=255)
    pen.ellipse(_box(s, 0.6, 0.22, 0.85, 0.48), fill=255)
    pen.polygon(_box(s, 0.83, 0.3, 0.99, 0.36, 0.83, 0.41), fill=255)
    pen.polygon(_box(s, 0.3, 0.5, 0.02, 0.38, 0.06, 0.62), fill=255)
    pen.line(_box(s, 0.5, 0.74, 0.5, 0.92), fill=255, width=max(1, s // 24))


def _drum(pen: ImageDraw.ImageDraw, s: int) -> None:
    """Skin, barrel with laces, sticks."""
    pen.rectangle(_box(s, 0.15, 0.45, 0.85, 0.8), fill=255)
    pen.ellipse(_box(s, 0.15, 0.68, 0.85, 0.92), fill=255)
    pen.ellipse(_box(s, 0.15, 0.33, 0.85, 0.57), fill=255)
    pen.ellipse(_box(s, 0.22, 0.37, 0.78, 0.53), fill=0)
    pen.line(_box(s, 0.1, 0.05, 0.45, 0.42), fill=255, width=max(1, s // 20))
    pen.line(_box(s, 0.9, 0.05, 0.58, 0.42), fill=255, width=max(1, s // 20))


def _telephone(pen: ImageDraw.ImageDraw, s: int) -> None:
    """A handset on its stand, with a dial."""
    pen.arc(_box(s, 0.08, 0.12, 0.92, 0.75), 200, 340, fill=255, width=max(1, s // 8))
    pen.rectangle(_box(s, 0.05, 0.28, 0.27, 0.45), fill=255)
    pen.rectangle(_box(s, 0.73, 0.28, 0.95, 0.45), fill=255)
    pen.polygon(_box(s, 0.35, 0.4, 0.65, 0.4, 0.85, 0.88, 0.15, 0.88), fill=255)
    pen.ellipse(_box(s, 0.38, 0.52, 0.62, 0.76), fill=0)


_DRAWN: dict[str, Callable[[ImageDraw.ImageDraw, int], None]] = {
    "siren": _siren,
    "bell": _bell,
    "dog": _dog,
    "engine": _engine,
    "rain": _rain,
    "bird": _bird,
    "drum": _drum,
    "telephone": _telephone,
}
