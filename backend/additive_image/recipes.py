"""Recipes of diffusion autoencoders: everything but the seed that decides their weights."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_image import chests, data, portraits
from backend.additive_image.nam import HeadSettings
from backend.errors import BadInput

Draw = Callable[[int, np.random.Generator], Tensor]


def _draw_squares(n: int, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(data.draw_squares(n, rng, margin=1.0).draw()).permute(0, 3, 1, 2).contiguous()


def _draw_portraits(n: int, rng: np.random.Generator) -> Tensor:
    return portraits.draw(portraits.sample_attributes(n, torch.Generator().manual_seed(int(rng.integers(2**31)))))


def _draw_chests(n: int, rng: np.random.Generator) -> Tensor:
    grey = torch.from_numpy(chests.draw_chests(n, rng).draw())
    return grey[:, None].repeat(1, 3, 1, 1)


# Where training images come from: drawn afresh in every step, (n, 3, S, S) in [0, 1].
SOURCES: dict[str, Draw] = {"squares": _draw_squares, "portraits": _draw_portraits, "chests": _draw_chests}
# What counts more than its pixels, by source: (side, weight of each region, ...) -> (side, side) with mean 1.
REGIONS: dict[str, Callable[..., Tensor]] = {"portraits": portraits.region_weight, "chests": chests.region_weight}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a diffusion autoencoder is trained: in two stages, or end to end if the first has no steps."""

    source: str
    network: dict[str, Any] = field(default_factory=dict)  # arguments of `DiffusionAutoencoder`
    code_noise: float = 0.1  # on standardised codes: neighbours in z_sem must look alike
    decoder_noise: float | None = None  # the same under the U-Net; None: as much. What it hides, x_T has to carry
    encoder_steps: int = 0  # first stage: encoder and a plain decoder, thrown away afterwards
    spare_latents: int = 0  # first stage: a second code, thrown away too, for what the encoder cannot say (places)
    spare_view: str = "image"  # what the spare code sees: all, or the "silhouette" without colour
    encoder_regions: tuple[float, ...] = ()  # first stage: weights of the source's regions; none: plain
    pool: int = 40_000  # first stage of a principal encoder: images that are drawn once
    flatness: float = 0.0  # and how much a bent decoder costs, see `PrincipalStage`
    encoder_batch: int = 64
    encoder_rate: float = 2e-3
    steps: int = 4000  # of the U-Net; of all, if end to end
    batch: int = 32
    rate: float = 1e-3
    ema: float = 0.998
    level_power: float = 0.0  # density of time steps proportional to t^power
    hold: float = 0.4  # share of the steps before the learning rate falls
    regions: tuple[float, ...] = ()  # weights of the source's regions in the U-Net's loss
    half: bool = True  # bfloat16 where that is safe

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise BadInput(f"unknown source {self.source!r}; one of {', '.join(SOURCES)}", "source")
        if self.spare_view not in ("image", "silhouette"):
            raise BadInput(f"unknown spare_view {self.spare_view!r}; one of image, silhouette", "spare_view")
        if self.steps < 1 or self.batch < 2 or self.encoder_batch < 2:
            raise BadInput("a recipe needs at least one step and two images in a batch", "steps")

    @property
    def noise_under_decoder(self) -> float:
        return self.code_noise if self.decoder_noise is None else self.decoder_noise

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> "Recipe":
        """Raises: BadInput: unknown or missing fields."""
        try:
            return cls(**body)
        except TypeError as error:
            raise BadInput(f"the recipe cannot be read: {error}", "recipe") from None


def pixel_weight(recipe: Recipe, regions: tuple[float, ...], side: int) -> Tensor:
    """Weight of each pixel's squared error, (side, side); 1 where no region counts more."""
    return REGIONS[recipe.source](side, *regions) if regions else torch.ones(side, side)


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """An additive model: the rows it is fitted to, the autoencoder that codes their images, how it is fitted."""

    data: str  # of `data.make_dataset`
    autoencoder: str  # key
    settings: HeadSettings = HeadSettings()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# A code whose numbers mean something by themselves: one direction of it has the least held-out loss (.0116; two .0121,
# all of it .0130), and the effect of the side R2 .999 instead of .996.
_ONE_DIRECTION = HeadSettings(image_widths=(64, 32), directions=1)
# Each thing that is read by itself has about a direction of its own: on 5,000 noisy rows six directions of thirteen
# found the image's effect with R2 .972 and a deep network on all of them .966; on 10,000 rows six .976, eight .982.
# Of radiographs' codes on 10,000 rows of other poses: four .974, eight .976, a deep network .962.
_EIGHT_DIRECTIONS = HeadSettings(image_widths=(64, 64), directions=8, epochs=30, batch=128, weight_decay=0.1)
HEADS: dict[str, HeadRecipe] = {
    "hosts": HeadRecipe("hosts", "hosts-dae", _EIGHT_DIRECTIONS),
    "hosts-biased": HeadRecipe("hosts-biased", "hosts-dae", _EIGHT_DIRECTIONS),
    "radiographs": HeadRecipe("radiographs", "radiographs-dae", _EIGHT_DIRECTIONS),
    "squares": HeadRecipe("squares", "squares-dae", _ONE_DIRECTION),
    "colours": HeadRecipe("colours", "colours-dae", _ONE_DIRECTION),
    "squares-bernoulli": HeadRecipe(
        "squares-bernoulli", "squares-dae", dataclasses.replace(_ONE_DIRECTION, epochs=15, members=3)
    ),
    "squares-poisson": HeadRecipe(
        "squares-poisson", "squares-dae", dataclasses.replace(_ONE_DIRECTION, epochs=25, members=3)
    ),
    "squares-tied": HeadRecipe("squares-tied", "squares-dae", _ONE_DIRECTION),
    "squares-tied-dropout": HeadRecipe(
        "squares-tied", "squares-dae", dataclasses.replace(_ONE_DIRECTION, feature_dropout=0.1)
    ),
}
RECIPES: dict[str, Recipe] = {
    # Eight plain components say in straight lines what is large; forehead, eyes and mouth are read apart, each by what
    # it adds to what surrounds it, or a small smile shares its latents with all else (linear probes .86 of smile and
    # .87 of glasses, when three latents were left to whatever the plain ones do not say).
    "hosts-dae": Recipe(
        source="portraits",
        network={
            "side": 64,
            "n_latents": 13,
            "encoder": "regional",
            "encoder_options": {
                "regions": [[15, 24, 8, 56], [24, 38, 8, 56], [38, 54, 19, 45]],
                "components": 160,
                "region_components": 64,
                "hidden": 256,
                "plain": 8,
            },
            "widths": [64, 128],
            "unshuffle": 4,
            "code_map": 48,
            "prediction": "sample",
            "spacing": "trailing",
            "steps": 5,
        },
        code_noise=0.08,
        decoder_noise=0.03,
        encoder_steps=2500,
        encoder_batch=128,
        flatness=0.05,
        steps=4500,
        pool=14_000,
        batch=16,
        rate=1.2e-3,
        level_power=1.0,
        regions=(3.0, 2.0),
    ),
    # The lungs' bases, the left and the right one, and the heart between them are read apart: fluid that rises is no
    # straight line in components of the whole picture, and is one in what a base adds to its surroundings.
    "radiographs-dae": Recipe(
        source="chests",
        network={
            "side": 64,
            "n_latents": 10,
            "encoder": "regional",
            "encoder_options": {
                "regions": [[20, 56, 46, 64], [20, 56, 0, 26], [20, 56, 26, 46]],
                "components": 96,
                "region_components": 48,
                "hidden": 192,
            },
            "widths": [64, 96],
            "unshuffle": 4,
            "code_map": 32,
            "prediction": "sample",
            "spacing": "trailing",
            "steps": 5,
        },
        code_noise=0.05,
        encoder_steps=2000,
        encoder_batch=128,
        flatness=0.05,
        steps=600,
        pool=10_000,
        batch=16,
        rate=1.2e-3,
        level_power=1.0,
        regions=(3.0, 2.0),
    ),
    # A network that finds six latents by itself ("flat") mixes side, place and hue: with 5,000 noisy rows the best
    # smoother of such codes found the effect of the side with R2 .99.
    "squares-dae": Recipe(
        source="squares",
        network={
            "side": 32,
            "n_latents": 7,
            "encoder": "salient",
            "widths": [32, 64],
            "unshuffle": 4,
            "code_map": 16,
            "prediction": "sample",
            "spacing": "trailing",
            "steps": 5,
        },
        code_noise=0.05,
        steps=1500,
        level_power=1.0,
        half=False,  # slower here: the net is small
    ),
    # One latent says what the colour adds to a silhouette: the hue, read where the silhouette is. Place and size stand
    # beside it, and the ground's brightness is left to x_T. With place and size left to x_T as well, noise that means
    # a red square here means a blue one elsewhere: between two hues x_T then leads the square off its place, and
    # sharpness along paths was .79 (.53 after twice the training); so it is .985.
    "colours-dae": Recipe(
        source="squares",
        network={
            "side": 32,
            "n_latents": 4,
            "encoder": "salient",
            "encoder_options": {"says": ["colour"], "hidden": 32, "focus": 8, "beside": ["where", "spread"]},
            "widths": [64, 96],
            "unshuffle": 4,
            "code_map": 16,
            "prediction": "v_prediction",
            "spacing": "leading",
            "steps": 20,
        },
        code_noise=0.05,
        encoder_steps=800,
        decoder_noise=0.02,
        spare_latents=3,
        spare_view="silhouette",
        steps=2000,
    ),
}
