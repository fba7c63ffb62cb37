"""Recipes: everything but the seed that decides a model's weights."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.additive_decoding import supports
from backend.additive_decoding.scenes import Scene
from backend.additive_decoding.sources import DrawnScenes, Source, read_pictures
from backend.additive_decoding.supports import Support
from backend.errors import BadInput
from backend.models.additive_decoder import ENCODERS, FIRSTS, KINDS, LINKS, First, Kind, Link

PAPER = "-paper"  # suffix of a name: the paper's own settings


@dataclass(frozen=True, slots=True)
class Recipe:
    """Two stages: many small starts side by side, chosen by training loss; the best goes on at full size."""

    kind: Kind
    scene: Scene
    support: str  # a name of `SUPPORTS`, or JSON: {"polygon": [[z1, z2], ...]} or {"mask": ["0110", ...]}
    link: Link = "identity"
    encoder: str = "perceptron"
    width: int = 96  # of the additive decoder's blocks; others get the width that makes parameters equal
    rank: int = 12  # separable terms of each block
    first_scale: float = 4.0  # of the first layer's weights at the start
    first_bias: float = 2.0  # its biases at the start lie in -first_bias..first_bias
    first: First = "silu"  # what its activation is
    starts: int = 12
    start_side: int = 8  # pixels
    start_steps: int = 300
    start_rate: float = 4e-3
    latent_noise: float = 0.0  # falls to 0 in the first half of the starts' steps
    steps: int = 1200
    rate: float = 5e-3
    batch: int = 32
    constant_rate: bool = False  # no warm-up and no cosine
    weight_decay: float = 0.0
    hessian_weight: float = 0.0  # of the Hessian penalty
    patience: int = 0  # stop after so many validations without a better loss; 0: never
    images: str = ""  # a dSprites file, a folder of pictures or own:ID, instead of drawn scenes; scene.side is kept
    block_sizes: tuple[int, ...] = ()  # of the latents of such pictures; none: as their factors are grouped

    def __post_init__(self) -> None:
        _one_of("kind", self.kind, KINDS)
        _one_of("link", self.link, LINKS)
        _one_of("encoder", self.encoder, tuple(ENCODERS))
        _one_of("first", self.first, FIRSTS)
        ranges = {
            "width": (4, 1024),
            "rank": (1, 128),
            "starts": (1, 256),
            "start_side": (8, 64),
            "start_steps": (0, 100_000),
            "steps": (1, 1_000_000),
            "batch": (2, 4096),
            "rate": (1e-6, 1.0),
            "start_rate": (1e-6, 1.0),
            "weight_decay": (0.0, 1.0),
            "hessian_weight": (0.0, 1e3),
            "patience": (0, 10_000),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise BadInput(f"{name} is {value}; expected {low}..{high}", name)
        if self.scene.side % self.start_side:
            raise BadInput(f"start_side {self.start_side} does not divide the side {self.scene.side}", "start_side")
        self.make_support()

    def make_source(self) -> Source:
        """Raises: BadInput: the support or the pictures cannot be used; NotAvailable: there are no such pictures."""
        if self.images:
            return read_pictures(self.images, self.scene.side, self.block_sizes)
        return DrawnScenes(self.scene, self.make_support())

    def make_support(self) -> Support:
        """Raises: BadInput: unknown, empty, outside the frame, or made for other latents."""
        return parse_support(self.support, self.scene)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Recipe":
        """Read a recipe as a card or a job holds it; what is left out takes its default, or what `base` names.

        Args: body: `Recipe`'s fields; beside them "base": a key of `OTHERS` or of `RECIPES`.
        Raises: BadInput: unknown or missing fields, values out of range.
        """
        if not isinstance(body, Mapping):
            raise BadInput("the recipe is not a JSON object", "recipe")
        try:
            base = recipe_of(body["base"]).to_json() if body.get("base") else {}
            scene = {**base.get("scene", {}), **body.get("scene", {})}
            body = {**base, **{name: value for name, value in body.items() if name != "base"}}
            tuples = {name: tuple(scene[name]) for name in ("shapes", "free") if name in scene}
            sizes = tuple(body.get("block_sizes", ()))
            return cls(**{**body, "scene": Scene(**{**scene, **tuples}), "block_sizes": sizes})
        except TypeError as error:
            raise BadInput(f"the recipe cannot be read: {error}", "recipe") from None


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise BadInput(f"unknown {name} {value!r}; one of {', '.join(known)}", name)


def parse_support(text: str, scene: Scene) -> Support:
    """A support by name, or free-hand: {"polygon": [[z1, z2], ...]} or {"mask": ["0110", ...]} as JSON.

    A mask's rows go along the first latent upwards, its columns along the second.
    Raises: BadInput: see `supports`.
    """
    if not isinstance(text, str):
        raise BadInput(f"support is {text!r}; expected a name or JSON", "support")
    if not text.startswith("{"):
        return supports.make_support(text, scene)
    try:
        body = json.loads(text)
    except ValueError:
        raise BadInput("the free-hand support is not JSON", "support") from None
    if set(body) == {"polygon"}:
        try:
            vertices = tuple((float(x), float(y)) for x, y in body["polygon"])
        except (TypeError, ValueError):
            raise BadInput("the polygon is not a list of pairs of numbers", "support") from None
        support: Support = supports.Polygon(vertices)
    elif set(body) == {"mask"}:
        rows = body["mask"]
        if not isinstance(rows, list) or len({len(row) for row in rows}) > 1 or set("".join(rows)) - {"0", "1"}:
            raise BadInput("the mask is not a list of equally long rows of 0 and 1", "support")
        support = supports.from_mask(np.array([[cell == "1" for cell in row] for row in rows], dtype=bool))
    else:
        raise BadInput("a free-hand support has either a polygon or a mask", "support")
    if support.n_latents != scene.n_latents:
        raise BadInput(f"a free-hand support has 2 latents; the scene has {scene.n_latents}", "support")
    return support


# ----------------------------------------------------------------- what ships
_SCALARS = Scene()
_PLANES = Scene(free=("x", "y"))
_NEAR = Scene(radius=0.3)  # so large that the balls meet at like heights
_OCCLUDED = Scene(radius=0.3, occlusion=True)
_FOUR = Scene(shapes=("ball",) * 4, free=("x", "y", "size"), radius=0.1)
_L = Recipe("additive", _SCALARS, "l")
_BLOCKS = Recipe(
    "additive", _PLANES, "apart", encoder="position", width=192, first="sine", first_scale=8.0, first_bias=3.1,
    starts=8, start_steps=1000, start_rate=6e-3, steps=4000, rate=3e-3,
)  # fmt: skip
_FOUR_BLOCKS = dataclasses.replace(
    _BLOCKS, scene=_FOUR, encoder="sharp position", width=128, first_scale=4.0, starts=4, start_steps=1800, steps=20_000
)

RECIPES: dict[str, Recipe] = {
    "balls-l-additive": _L,
    "balls-l-plain": dataclasses.replace(_L, kind="non-additive"),
    "balls-l-masked": dataclasses.replace(_L, kind="masked"),
    "balls-l-hessian": dataclasses.replace(_L, kind="non-additive", hessian_weight=0.01),
    **{
        f"balls-{name}-{title}": dataclasses.replace(_L, kind=kind, scene=scene)
        for name, scene in (("near", _NEAR), ("occluded", _OCCLUDED))
        for title, kind in (("additive", "additive"), ("plain", "non-additive"), ("masked", "masked"))
    },
    "balls-u-additive": dataclasses.replace(_L, support="u"),
    "balls-disconnected-additive": dataclasses.replace(_L, support="bands"),
    "balls-corners-additive": dataclasses.replace(_L, support="corners"),
    "balls-blocks-independent": _BLOCKS,
    "balls-blocks-dependent": dataclasses.replace(_BLOCKS, support="apart-dependent"),
    "balls-blocks-plain": dataclasses.replace(_BLOCKS, kind="non-additive"),
    "balls-four": _FOUR_BLOCKS,
}
# Settings small enough to be trained while a visitor waits.
LIVE = dataclasses.replace(_L, scene=dataclasses.replace(_SCALARS, side=32), width=64, steps=800)
LIVE_PLANE = dataclasses.replace(
    _BLOCKS, scene=dataclasses.replace(_PLANES, side=32), width=128, start_steps=800, steps=1500
)


# Pictures that a user has: decoders add to their mean picture. Where colour does not tell objects apart, encoder
# "convolutional" does better.
OWN_IMAGES = dataclasses.replace(
    _BLOCKS, scene=_SCALARS, support="l", width=128, rank=24, starts=6, start_side=16, start_steps=500, start_rate=4e-3,
    steps=2500,
)  # fmt: skip


OTHERS = {"live": LIVE, "live-plane": LIVE_PLANE, "own-images": OWN_IMAGES}  # of models that do not ship


def recipe_of(name: str) -> Recipe:
    """The recipe under a name: a key of `RECIPES`, or of `OTHERS`.

    With the suffix -paper the paper's settings: one start, Adam 5e-4, weight decay 5e-4, early stopping.
    Raises: BadInput: no such name.
    """
    base = name.removesuffix(PAPER)
    known = RECIPES | OTHERS
    if base not in known:
        raise BadInput(f"unknown model {name!r}; one of {', '.join(RECIPES)}", "name")
    if base == name:
        return known[name]
    return dataclasses.replace(
        known[base], starts=1, start_steps=0, steps=20_000, rate=5e-4, batch=64, constant_rate=True,
        weight_decay=5e-4, patience=10,
    )  # fmt: skip
