"""Composites with ground truth: simple shapes on real photographs, each with a mask of where its object is.

They exist to hold attributions against the truth. numpy only; every array follows from its seed.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from backend.catalog import EXAMPLES
from backend.images import encode_png
from backend.path_attribution.data import LabelledImages, digits
from backend.photos import photo_bytes

OBJECT_LABELS = ("circle", "square", "triangle", "star", "cross", "crescent", "heart", "ring")
OBJECT_SIDE = 64  # pixels
BACKGROUNDS = {"train": ("astronaut", "brick", "camera", "grass", "ihc", "rocket"), "test": ("cat", "coffee", "gravel")}
_SPLIT_SEEDS = {"train": 1, "test": 2}
_DEFAULT_SIZES = {"train": 20_000, "test": 1_000}
_CHUNK = 250  # images made at once; image i of a split is the same however many are asked for
_RADIUS = (10.0, 16.0)  # of the object, in pixels


def objects(split: str = "test", n: int | None = None, seed: int = 0) -> LabelledImages:
    """Composites: one simple shape on a photograph, among digits and strokes that say nothing of its class.

    The class is the shape. Colour, size, turn and place are drawn at random; a stroke may lie over the object, and
    the mask is where the object is seen (its own colour makes up at least half of the pixel). Train and test images
    use different photographs and different handwritten digits.

    Args:
        n: how many; None: 20,000 to train, 1,000 to test. The first n are the same for every n.
        seed: another seed gives another set of the same kind.
    Returns: (n, 3, 64, 64) images with masks.
    Raises: ValueError: the split is neither "train" nor "test".
    """
    if split not in BACKGROUNDS:
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    n = _DEFAULT_SIZES[split] if n is None else n
    photos = [pyramid for name in BACKGROUNDS[split] for pyramid in _photo_pyramid(name)]
    distractors = digits(split).images[:, 0]
    images = np.empty((n, 3, OBJECT_SIDE, OBJECT_SIDE), np.uint8)
    targets, masks = np.empty(n, np.int64), np.empty((n, OBJECT_SIDE, OBJECT_SIDE), bool)
    for number, start in enumerate(range(0, n, _CHUNK)):
        random = np.random.default_rng([_SPLIT_SEEDS[split], seed, number])
        chunk = _composites(random, photos, distractors)
        part = slice(start, min(start + _CHUNK, n))
        for whole, made in zip((images, targets, masks), chunk, strict=True):
            whole[part] = made[: part.stop - start]
    return LabelledImages(images, targets, masks)


def _photo_pyramid(name: str) -> list[np.ndarray]:
    """A photograph at full, half and quarter size, as (H, W, 3) float32 in [0, 1]; too small ones are left out."""
    with Image.open(io.BytesIO(photo_bytes(name))) as opened:
        photo = opened.convert("RGB")
    sizes = [(photo.width // factor, photo.height // factor) for factor in (1, 2, 4)]
    return [
        np.asarray(photo.resize(size, Image.Resampling.BOX), np.float32) / 255.0
        for size in sizes
        if min(size) > OBJECT_SIDE
    ]


def _composites(
    random: np.random.Generator, photos: list[np.ndarray], distractors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A chunk of images (N, 3, 64, 64) uint8, targets (N,) and masks (N, 64, 64)."""
    n = _CHUNK
    canvas = _backgrounds(random, photos)
    for _ in range(2):  # up to two digits
        canvas = _over(canvas, _digit_cover(random, distractors), _colours(random, canvas))
    canvas = _over(canvas, _stroke_cover(random, chance=0.7), _colours(random, canvas))
    targets = random.integers(len(OBJECT_LABELS), size=n)
    cover = _object_cover(random, targets)
    canvas = _over(canvas, cover, _colours(random, canvas, cover))
    hidden = _stroke_cover(random, chance=0.4)  # in front of the object
    canvas = _over(canvas, hidden, _colours(random, canvas))
    canvas = canvas + random.normal(0.0, 0.01, canvas.shape).astype(np.float32)  # a camera's noise
    images = np.round(np.clip(canvas, 0.0, 1.0) * 255.0).astype(np.uint8)
    return images.transpose(0, 3, 1, 2), targets, cover * (1.0 - hidden) >= 0.5


def _over(canvas: np.ndarray, cover: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Paint: canvas (N, H, W, 3), cover (N, H, W) in [0, 1], colours (N, 3)."""
    return canvas + cover[..., None] * (colours[:, None, None] - canvas)


def _backgrounds(random: np.random.Generator, photos: list[np.ndarray]) -> np.ndarray:
    """Crops of photographs (N, 64, 64, 3), mirrored, turned by quarters, with other brightness and tint."""
    crops = []
    for which in random.integers(len(photos), size=_CHUNK):
        photo = photos[which]
        top, left = (int(random.integers(length - OBJECT_SIDE + 1)) for length in photo.shape[:2])
        crop = photo[top : top + OBJECT_SIDE, left : left + OBJECT_SIDE]
        crop = np.rot90(crop, int(random.integers(4)))
        crops.append(crop[:, ::-1] if random.random() < 0.5 else crop)
    gain = random.uniform(0.6, 1.2, (_CHUNK, 1, 1, 1)) * random.uniform(0.8, 1.2, (_CHUNK, 1, 1, 3))
    return np.clip(np.stack(crops) * gain.astype(np.float32), 0.0, 1.0)


def _colours(random: np.random.Generator, canvas: np.ndarray, cover: np.ndarray | None = None) -> np.ndarray:
    """One colour for each image (N, 3): of six drawn, the one farthest from what it will lie on."""
    if cover is None:
        behind = canvas.mean(axis=(1, 2))
    else:
        behind = np.einsum("nhw,nhwc->nc", cover, canvas) / cover.sum(axis=(1, 2))[:, None]
    drawn = random.random((len(canvas), 6 if cover is not None else 2, 3), dtype=np.float32)
    farthest = np.linalg.norm(drawn - behind[:, None], axis=2).argmax(axis=1)
    return drawn[np.arange(len(canvas)), farthest]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Pixel centres: x (1, 1, W) to the right, y (1, H, 1) down, in pixels."""
    centres = np.arange(OBJECT_SIDE, dtype=np.float32) + 0.5
    return centres[None, None, :], centres[None, :, None]


def _object_cover(random: np.random.Generator, targets: np.ndarray) -> np.ndarray:
    """How much of each pixel the object covers, (N, H, W) in [0, 1]; it lies wholly inside the image."""
    n = len(targets)
    radius = random.uniform(*_RADIUS, n).astype(np.float32)
    margin = radius + 1.0
    centre = margin + random.random((2, n), dtype=np.float32) * (OBJECT_SIDE - 2 * margin)
    angle = random.uniform(0, 2 * np.pi, n).astype(np.float32)
    x, y = _grid()
    dx, dy = x - centre[0][:, None, None], y - centre[1][:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    scale = radius[:, None, None]
    u, v = (cos * dx + sin * dy) / scale, (cos * dy - sin * dx) / scale  # the object's own axes, radius 1
    cover = np.empty((n, OBJECT_SIDE, OBJECT_SIDE), np.float32)
    for target, label in enumerate(OBJECT_LABELS):
        of_class = targets == target
        distance = _DISTANCES[label](u[of_class], v[of_class]) * scale[of_class]  # pixels, negative inside
        cover[of_class] = np.clip(0.5 - distance, 0.0, 1.0)
    return cover


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    sides = [np.cos(a) * u + np.sin(a) * v - 0.5 for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    return np.maximum(np.maximum(sides[0], sides[1]), sides[2])


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five points at radius 1, the notches between them at radius 0.42."""
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(v, u) + fifth / 2) % fifth - fifth / 2)  # 0 at a point, fifth / 2 at a notch
    r = np.hypot(u, v)
    notch = 0.42 * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    normal = np.array([notch[1], 1 - notch[0]]) / np.hypot(notch[1], 1 - notch[0])
    return ((r * np.cos(angle) - 1) * normal[0] + r * np.sin(angle) * normal[1]).astype(np.float32)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(u - 0.95, v - 0.3), np.maximum(v - 0.95, u - 0.3))


def _crescent(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u, v) - 0.95, 0.72 - np.hypot(u - 0.45, v))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A square on its corner with a half disc on each of two sides."""
    half = 0.5
    s, t = (u + v) * np.float32(np.sqrt(0.5)), (v - u) * np.float32(np.sqrt(0.5))
    square = np.maximum(np.abs(s), np.abs(t)) - half
    return np.minimum(square, np.minimum(np.hypot(s - half, t), np.hypot(s, t - half)) - half)


# Distance to the edge in units of the radius, negative inside (exact near the edge, which is all that is used).
_DISTANCES = {
    "circle": lambda u, v: np.hypot(u, v) - 0.9,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.7,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "crescent": _crescent,
    "heart": _heart,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.7) - 0.25,
}


def _digit_cover(random: np.random.Generator, digit_images: np.ndarray, chance: float = 0.7) -> np.ndarray:
    """A handwritten digit somewhere, turned and 16 to 28 pixels high; (N, H, W) in [0, 1], empty for some."""
    n = _CHUNK
    ink = digit_images[random.integers(len(digit_images), size=n)].astype(np.float32) / 255.0
    ink *= (random.random(n) < chance)[:, None, None]
    ink = np.pad(ink, ((0, 0), (1, 1), (1, 1)))  # what lies outside is empty
    step = (28.0 / random.uniform(16.0, 28.0, n)).astype(np.float32)[:, None, None]  # digit pixels per image pixel
    angle = random.uniform(-0.5, 0.5, n).astype(np.float32)[:, None, None]
    centre = random.uniform(6.0, OBJECT_SIDE - 6.0, (2, n)).astype(np.float32)[:, :, None, None]
    x, y = _grid()
    dx, dy = step * (x - centre[0]), step * (y - centre[1])
    column = np.clip(np.cos(angle) * dx + np.sin(angle) * dy + 14.5, 0.0, 28.999)
    row = np.clip(np.cos(angle) * dy - np.sin(angle) * dx + 14.5, 0.0, 28.999)
    left, top = column.astype(np.intp), row.astype(np.intp)
    right, below = column - left, row - top
    which = np.arange(n)[:, None, None]
    upper = ink[which, top, left] * (1 - right) + ink[which, top, left + 1] * right
    lower = ink[which, top + 1, left] * (1 - right) + ink[which, top + 1, left + 1] * right
    return upper * (1 - below) + lower * below


def _stroke_cover(random: np.random.Generator, chance: float) -> np.ndarray:
    """A bent stroke of two segments, 1.5 to 4 pixels wide; (N, H, W) in [0, 1], empty for some."""
    n = _CHUNK
    corners = random.uniform(0, OBJECT_SIDE, (n, 1, 2)) + np.cumsum(random.normal(0, 14.0, (n, 3, 2)), axis=1)
    half_width = random.uniform(0.75, 2.0, n).astype(np.float32)[:, None, None]
    x, y = _grid()
    distance = np.full((n, OBJECT_SIDE, OBJECT_SIDE), np.inf, np.float32)
    for start, end in ((0, 1), (1, 2)):
        ax, ay, bx, by = (
            corners[:, which, axis].astype(np.float32)[:, None, None] for which in (start, end) for axis in (0, 1)
        )
        lx, ly = bx - ax, by - ay
        along = np.clip(((x - ax) * lx + (y - ay) * ly) / np.maximum(lx * lx + ly * ly, 1e-6), 0.0, 1.0)
        distance = np.minimum(distance, np.hypot(x - ax - along * lx, y - ay - along * ly))
    is_drawn = (random.random(n) < chance)[:, None, None]
    return np.clip(0.5 + half_width - distance, 0.0, 1.0) * is_drawn


# ----------------------------------------------------------------- examples that ship
_EXAMPLE_SEED = 1  # composites that are in no training or test set


def write_examples(folder: Path) -> None:
    """Write the digits and composites that `catalog.EXAMPLES` names, each with its mask, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    composites, test_digits = objects("test", _CHUNK, _EXAMPLE_SEED), digits("test")
    for example in EXAMPLES.values():
        kind, _, index = example.origin.partition(":")
        if kind == "digits":
            (folder / example.image).write_bytes(encode_png(test_digits.images[int(index), 0] / 255.0))
        elif kind == "objects":
            pixels = composites.images[int(index)].transpose(1, 2, 0)
            (folder / example.image).write_bytes(encode_png(pixels / 255.0))
            (folder / example.mask).write_bytes(encode_png(composites.masks[int(index)].astype(float)))
