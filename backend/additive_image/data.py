"""Tables with an image in each row: the general data set, and drawn ones whose every effect is known.

Squares and colours: a square of some side, hue and place on a grey ground, beside three numeric columns and a
category. The response adds up effects of all columns and one of the image: of the side (squares) or of the hue
(colours). Source of the effects: ours, in the manner of the simulations of arXiv:2405.02295.
"""

import colorsys
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from backend.errors import BadInput

Link = Literal["identity", "logit", "log"]
LINKS: tuple[Link, ...] = ("identity", "logit", "log")
IMAGE = "image"  # the name of the image's term among the columns
SIDES = (6.0, 18.0)  # pixels, of squares in tables
HUES = (0.0, 0.72)  # of 1: red to violet, not round
PIXELS = 32
NOISE_SD = 0.3
N_ROWS, N_TEST = 5000, 2000
HELD_OUT_SEED = 1000  # added to the seed of rows that something was fitted to: rows that nothing was fitted to
_CATEGORY_EFFECTS = np.array([-0.9, -0.2, 0.3, 0.8])
_CATEGORIES = ("north", "east", "south", "west")
Effect = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table; `effect` is its true effect, where somebody knows it (centred or not)."""

    name: str
    kind: Literal["numeric", "categorical"]
    categories: tuple[str, ...] = ()  # of a categorical column: what its codes 0, 1, ... mean
    effect: Effect | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if self.name == IMAGE:
            raise BadInput(f"a column cannot be called {IMAGE!r}: that is the name of the pictures' term", "columns")
        if (self.kind == "categorical") != bool(self.categories):
            raise BadInput(f"column {self.name}: categories go with categorical columns, and only there", "columns")


class Pictures(Protocol):
    """Images by row: an array, or something that draws or reads them when they are asked for."""

    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any) -> np.ndarray: ...  # (n, H, W, 3) uint8 for a list, array or slice of rows


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows of a table with a response and, beside each, an image.

    Attributes:
        columns: the table's columns, in order.
        table: (n, columns) float32; categorical columns hold codes.
        response: (n,) float32: any number (identity), 0 or 1 (logit), a count (log).
        images: n of (H, W, 3) uint8.
        effects: true effect of each term at each row, by column or `IMAGE`, (n,); on the link's scale.
        attributes: what is seen in the images, (n,) each: for evaluation, never for training.
        image_effect: attributes by name -> true effect of such images, not centred; None: nobody knows it.
        shown_attribute: the attribute that a path between two images is measured by.
        least: attributes by name -> what they cannot be less than: there is no fluid of -20 mm.
    """

    name: str
    columns: tuple[Column, ...]
    table: np.ndarray
    response: np.ndarray
    images: Pictures
    link: Link = "identity"
    response_name: str = "response"
    effects: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    noise_sd: float | None = None  # of a Gaussian response, where known
    image_effect: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None
    shown_attribute: str = ""
    least: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.table)
        if self.link not in LINKS:
            raise BadInput(f"unknown link {self.link!r}; one of {', '.join(LINKS)}", "link")
        if self.table.shape != (n, len(self.columns)) or len(self.response) != n or len(self.images) != n:
            raise BadInput(
                f"{n} rows and {len(self.columns)} columns named, but the table is {self.table.shape}, with "
                f"{len(self.response)} responses and {len(self.images)} images",
                "table",
            )
        if not np.isfinite(self.table).all() or not np.isfinite(self.response).all():
            raise BadInput("the table or the response holds a value that is missing or no number", "table")
        if self.link == "logit" and not np.isin(self.response, (0, 1)).all():
            raise BadInput("a logit link needs responses of 0 and 1 only", "link")
        if self.link == "log" and ((self.response < 0).any() or (self.response % 1).any()):
            raise BadInput("a log link needs counts: whole numbers from 0", "link")
        for k, column in enumerate(self.columns):
            codes = self.table[:, k]
            if column.kind == "categorical" and not np.isin(codes, np.arange(len(column.categories))).all():
                raise BadInput(f"column {column.name} holds codes beyond its {len(column.categories)} categories")

    def __len__(self) -> int:
        return len(self.table)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the model's terms: every column, then the image."""
        return (*(column.name for column in self.columns), IMAGE)

    def take(self, rows: np.ndarray) -> "Dataset":
        """The data set of some rows, by index."""
        return dataclasses.replace(
            self,
            table=self.table[rows],
            response=self.response[rows],
            images=self.images[rows],
            effects={name: values[rows] for name, values in self.effects.items()},
            attributes={name: values[rows] for name, values in self.attributes.items()},
        )


# ----------------------------------------------------------------- true effects
def wave(x: np.ndarray) -> np.ndarray:
    return 1.5 * np.sin(np.pi * x)


def bowl(x: np.ndarray) -> np.ndarray:
    return 2 * x**2 - 2 / 3


def step(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0.2, 1.0, -0.6) - 0.04


def category(codes: np.ndarray) -> np.ndarray:
    return _CATEGORY_EFFECTS[codes.astype(int)]


def size_effect(side: np.ndarray) -> np.ndarray:
    """Effect of a square's side, in pixels."""
    u = (side - SIDES[0]) / (SIDES[1] - SIDES[0])
    return 2.4 * u - 0.9 * np.sin(2 * np.pi * u)


def hue_effect(hue: np.ndarray) -> np.ndarray:
    """Effect of a square's hue, 0..0.72."""
    return 1.8 * np.cos(2 * np.pi * hue / HUES[1]) + 0.8 * hue / HUES[1]


# ----------------------------------------------------------------- drawing
@dataclass(frozen=True, eq=False)
class Squares:
    """What squares look like: side and centre in pixels, hue and grey in 0..1; each (n,)."""

    side: np.ndarray
    x: np.ndarray
    y: np.ndarray
    hue: np.ndarray
    grey: np.ndarray

    def draw(self, pixels: int = PIXELS) -> np.ndarray:
        """Images with exact coverage of pixels at the edges, (n, H, W, 3) float32 in [0, 1].

        The ground is grey with 15% more blue.
        """
        left = np.arange(pixels)[None]

        def cover(centre: np.ndarray) -> np.ndarray:  # (n, pixels): share of each pixel inside
            low, high = (centre - self.side / 2)[:, None], (centre + self.side / 2)[:, None]
            return np.clip(np.minimum(left + 1, high) - np.maximum(left, low), 0, 1)

        mask = (cover(self.y)[:, :, None] * cover(self.x)[:, None, :])[..., None]
        colour = hue_colours(self.hue)[:, None, None, :]
        ground = (self.grey[:, None] * np.array([1.0, 1.0, 1.15]))[:, None, None, :]
        return (ground * (1 - mask) + colour * mask).astype(np.float32)

    def take(self, rows: slice | np.ndarray) -> "Squares":
        """Some of them, by index."""
        return Squares(*(getattr(self, f.name)[rows] for f in dataclasses.fields(self)))


@dataclass(frozen=True, eq=False)
class DrawnPictures:
    """`Pictures` of squares, drawn when they are asked for."""

    squares: Squares

    def __len__(self) -> int:
        return len(self.squares.side)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.round(self.squares.take(rows).draw() * 255).astype(np.uint8)


def hue_colours(hue: np.ndarray) -> np.ndarray:
    """RGB of hues at saturation .85 and value .95, (n, 3) in [0, 1]; hues are round."""
    sector = (hue[:, None] * 6 + np.array([5.0, 3.0, 1.0])) % 6  # the usual formula of HSV, for R, G, B
    return 0.95 * (1 - 0.85 * np.clip(np.minimum(sector, 4 - sector), 0, 1))


def draw_squares(n: int, rng: np.random.Generator, margin: float = 0.0, pixels: int = PIXELS) -> Squares:
    """Squares of any side, hue, place and ground, all independent but for the frame they must stay in.

    Args: margin: how far beyond `SIDES` (pixels) and `HUES` (one thirtieth of it) they go; autoencoders are trained
        with 1, so that the ends of the tables' range are no ends to them.
    """
    side = rng.uniform(SIDES[0] - margin, SIDES[1] + margin, n)
    room = pixels / 2 - side / 2 - 1
    return Squares(
        side=side,
        x=pixels / 2 + rng.uniform(-1, 1, n) * room,
        y=pixels / 2 + rng.uniform(-1, 1, n) * room,
        hue=rng.uniform(HUES[0] - margin / 30, HUES[1] + margin / 30, n) % 1.0,
        grey=rng.uniform(0.05, 0.35, n),
    )


def measure_squares(images: np.ndarray) -> dict[str, np.ndarray]:
    """Side, centre, hue and sharpness as seen in images, decoded ones too; nothing of their making is asked.

    Args: images: (n, H, W, 3) in [0, 1] or uint8.
    Returns: "side", "x", "y" in pixels, "hue" (just below 1 counts as just below 0), "grey" of the ground, "energy":
        mean squared step between neighbouring pixels; each (n,).
    """
    pixels = images / 255.0 if images.dtype == np.uint8 else images
    n, height, width, _ = pixels.shape
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    ground = np.median(border, 1)
    away = pixels - ground[:, None, None]
    strength = np.sqrt((away**2).sum(-1)).reshape(n, -1)
    inside = strength > 0.6 * np.quantile(strength, 0.985, axis=1, keepdims=True)
    flat = pixels.reshape(n, -1, 3)
    colour = np.stack([np.median(flat[i][inside[i]], 0) for i in range(n)])
    toward = colour - ground
    share = (away * toward[:, None, None]).sum(-1) / np.maximum((toward**2).sum(-1), 1e-9)[:, None, None]
    share = np.clip(share, 0, 1)
    share[share < 0.08] = 0  # the ground's own texture
    area = np.maximum(share.sum((1, 2)), 1e-9)
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    hue = np.array([colorsys.rgb_to_hsv(*c)[0] for c in colour])
    return {
        "side": np.sqrt(area),
        "x": (share.sum(1) @ columns) / area,
        "y": (share.sum(2) @ rows) / area,
        "hue": np.where(hue > 0.9, hue - 1, hue),
        "grey": ground[:, 0],
        "energy": gradient_energy(pixels),
    }


def gradient_energy(pixels: np.ndarray) -> np.ndarray:
    """Mean squared step between neighbouring pixels, (n, H, W, 3) -> (n,): what a cross-fade loses half-way."""
    across, down = np.diff(pixels, axis=2), np.diff(pixels, axis=1)
    return (across**2).mean((1, 2, 3)) + (down**2).mean((1, 2, 3))


# ----------------------------------------------------------------- tables
_TABLE = (
    Column("wave", "numeric", effect=wave),
    Column("bowl", "numeric", effect=bowl),
    Column("step", "numeric", effect=step),
    Column("region", "categorical", _CATEGORIES, effect=category),
)
_IMAGE_EFFECTS: dict[str, tuple[str, Effect]] = {"squares": ("side", size_effect), "colours": ("hue", hue_effect)}
Variant = Literal["gaussian", "bernoulli", "poisson", "tied"]
VARIANTS: tuple[Variant, ...] = ("gaussian", "bernoulli", "poisson", "tied")
_LINK_OF: dict[Variant, Link] = {"gaussian": "identity", "bernoulli": "logit", "poisson": "log", "tied": "identity"}
# Counts and coin tosses say less of an effect than measurements with little noise: they get more rows.
ROWS_OF: dict[Variant, int] = {"gaussian": N_ROWS, "bernoulli": 40_000, "poisson": 20_000, "tied": N_ROWS}


# A log-rate of standard deviation 2 would make counts in the thousands: the Poisson variant has half the effects.
_SCALES: dict[Variant, float] = {"gaussian": 1.0, "bernoulli": 1.0, "poisson": 0.5, "tied": 1.0}
_INTERCEPTS: dict[Variant, float] = {"gaussian": 10.0, "bernoulli": -1.2, "poisson": 0.2, "tied": 10.0}


def _image_effect(name: str) -> tuple[str, Effect]:
    """What of a square has an effect in a drawn data set, and the effect."""
    base, _, variant = name.partition("-")
    attribute, effect = _IMAGE_EFFECTS[base]
    return attribute, _scaled(effect, _SCALES[variant or "gaussian"])


def _scaled(effect: Effect, scale: float) -> Effect:
    return effect if scale == 1 else lambda x: scale * effect(x)


def make_dataset(name: str, n: int | None = None, seed: int = 0, noise: bool = True) -> Dataset:
    """A drawn data set with known effects.

    Args:
        name: "squares" or "colours", or with a variant: "squares-bernoulli", "squares-poisson", and "squares-tied",
            whose column `bowl` is tied to the image (correlation about .7), so that a model may share out their
            effects wrongly and still predict well; "hosts" and "hosts-biased", see `hosts.make_hosts`;
            "radiographs", see `chests.make_radiographs`.
        n: rows; None: as many as the example has.
        noise: False gives the expected response on the link's scale, for evaluation.
    Raises: BadInput: no such data set.
    """
    base, _, rest = name.partition("-")
    if name in ("hosts", "hosts-biased"):
        from backend.additive_image import hosts  # which builds on this module

        return hosts.make_hosts(n, seed, noise, hosts.PLANTED_BIAS if rest else 0.0)
    if name == "radiographs":
        from backend.additive_image import chests  # as hosts

        return chests.make_radiographs(n, seed, noise)
    variant: Variant = rest or "gaussian"  # type: ignore[assignment]
    if base not in _IMAGE_EFFECTS or variant not in VARIANTS:
        known = ", ".join(
            (*_IMAGE_EFFECTS, *(f"squares-{v}" for v in VARIANTS[1:]), "hosts", "hosts-biased", "radiographs")
        )
        raise BadInput(f"unknown data set {name!r}; one of {known}", "data")
    n = ROWS_OF[variant] if n is None else n
    rng = np.random.default_rng([seed, n, sum(map(ord, base))])
    squares = draw_squares(n, rng)
    table = np.column_stack([rng.uniform(-1, 1, (n, 3)), rng.integers(0, 4, n)])
    if variant == "tied":
        table[:, 1] = _tie(squares.side, rng)
    table = table.astype(np.float32)
    attribute, image_effect = _image_effect(name)
    columns = tuple(dataclasses.replace(c, effect=_scaled(c.effect, _SCALES[variant])) for c in _TABLE)
    effects = {column.name: column.effect(table[:, k]) for k, column in enumerate(columns)}
    effects[IMAGE] = image_effect(getattr(squares, attribute))
    expected = sum(effects.values()) + _INTERCEPTS[variant]
    response = _draw_response(expected, _LINK_OF[variant], rng) if noise else expected
    return Dataset(
        name=name,
        columns=columns,
        table=table,
        response=np.asarray(response, np.float32),
        images=DrawnPictures(squares),
        link=_LINK_OF[variant] if noise else "identity",
        effects={term: values - values.mean() for term, values in effects.items()},
        attributes={f.name: getattr(squares, f.name) for f in dataclasses.fields(squares)},
        image_effect=lambda seen: image_effect(seen[attribute]),
        shown_attribute=attribute,
        noise_sd=NOISE_SD if _LINK_OF[variant] == "identity" else None,
    )


def _tie(side: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column on [-1, 1] that follows the side, but for noise: correlation about .7 with it."""
    u = 2 * (side - SIDES[0]) / (SIDES[1] - SIDES[0]) - 1
    mixed = 0.7 * u + 0.7 * rng.uniform(-1, 1, len(u))
    return mixed / 1.4


def _draw_response(expected: np.ndarray, link: Link, rng: np.random.Generator) -> np.ndarray:
    if link == "identity":
        return expected + rng.normal(0, NOISE_SD, len(expected))
    if link == "logit":
        return (rng.random(len(expected)) < 1 / (1 + np.exp(-expected))).astype(float)
    return rng.poisson(np.exp(expected))
