"""Where training gets its images: scenes drawn from a support as they are needed, or pictures that a user has."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.additive_decoding import own_store
from backend.additive_decoding.data import LatentImages, load_clevr, load_dsprites, to_latent_images
from backend.additive_decoding.own_data import FEWEST_PICTURES, MOST_PICTURES, check_sizes
from backend.additive_decoding.scenes import Scene
from backend.additive_decoding.supports import Support
from backend.errors import BadInput
from backend.models.additive_decoder import Blocks, check_blocks, shrink

_LEAST_CONTRAST = 1e-3  # of pictures that hardly differ
HELD_OUT = 0.1  # share of a user's pictures that training never sees


class Source(Protocol):
    """Scenes as a training run asks for them. A scene is a row of a tensor that only its source can read."""

    blocks: Blocks
    side: int  # pixels
    summary: str  # what it is, for a model's card
    licence: str  # of the weights that are trained on it

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n scenes to train on."""

    def hold_out(self, n: int, generator: torch.Generator) -> Tensor:
        """At most n scenes for validation."""

    def draw(self, scenes: Tensor, side: int) -> Tensor:
        """Their images, (n, 3, side, side)."""

    def latents(self, scenes: Tensor) -> Tensor | None:
        """What is true of them, (n, d), for reports only; None: nobody knows."""


@dataclass(frozen=True, eq=False)
class DrawnScenes:
    """Scenes of Prism: every batch is fresh, and a scene is its latents."""

    scene: Scene
    support: Support
    summary: str = "scenes drawn by Prism, fresh ones in every step"
    licence: str = "code and weights: as Prism; scenes: drawn by Prism"

    @property
    def blocks(self) -> Blocks:
        return self.scene.blocks

    @property
    def side(self) -> int:
        return self.scene.side

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.support.sample(n, generator)

    hold_out = sample

    def draw(self, scenes: Tensor, side: int) -> Tensor:
        return self.scene.at_side(side).draw(scenes)

    def latents(self, scenes: Tensor) -> Tensor | None:
        return scenes


class StoredPictures:
    """A user's pictures: most are trained on, the others validate; a scene is the number of its picture."""

    licence = "the pictures' owner decides; code: as Prism"

    def __init__(self, pictures: LatentImages, blocks: Blocks) -> None:
        n, self.side = len(pictures), pictures.pixels.shape[-1]
        if n < FEWEST_PICTURES:
            raise BadInput(f"there are {n} pictures; training needs at least {FEWEST_PICTURES}", "images")
        self.pictures, self.blocks = pictures, blocks
        self.summary = f"{n} pictures of the user's, sha256 {pictures.digest[:12]}; {HELD_OUT:.0%} held out"
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        cut = max(1, int(HELD_OUT * n))
        self._held, self._trained = order[:cut], order[cut:]

    def background(self) -> tuple[Tensor, float]:
        """The mean of the pictures that are trained on, (3, side, side), and the root mean square around it."""
        count, total, square = len(self._trained), 0.0, 0.0
        for part in self._trained.split(500):
            images = self.draw(part, self.side).double()
            total, square = total + images.sum(0), square + images.square().sum(0)
        mean = total / count
        spread = (square / count - mean.square()).mean().clamp_min(0).sqrt()
        return mean.float(), max(float(spread), _LEAST_CONTRAST)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self._trained[torch.randint(len(self._trained), (n,), generator=generator)]

    def hold_out(self, n: int, generator: torch.Generator) -> Tensor:
        return self._held[torch.randperm(len(self._held), generator=generator)[:n]]

    def draw(self, scenes: Tensor, side: int) -> Tensor:
        return shrink(self.pictures.pixels[scenes].float() / 255, side)

    def latents(self, scenes: Tensor) -> Tensor | None:
        return None if self.pictures.latents is None else self.pictures.latents[scenes]


def read_pictures(path: str, side: int, sizes: Sequence[int] = ()) -> StoredPictures:
    """A user's dSprites file (.npz), folder of pictures, or pictures kept as own:ID, with blocks of the given sizes.

    Args: sizes: of the blocks; none: as the data's own factors are grouped.
    Raises: BadInput: unreadable, too few pictures, or no blocks; NotAvailable: no such path.
    """
    if path.startswith(own_store.PREFIX):
        found = to_latent_images(own_store.read(path.removeprefix(own_store.PREFIX)))
    elif Path(path).suffix == ".npz":
        found = load_dsprites(path, MOST_PICTURES)
    else:
        found = load_clevr(path, side, MOST_PICTURES)
    return StoredPictures(_at_side(found, side), _blocks_of(found, sizes))


def _at_side(found: LatentImages, side: int) -> LatentImages:
    """Means over areas, a few hundred pictures at a time."""
    if found.pixels.shape[-1] == side:
        return found
    parts = [F.interpolate(part.float(), (side, side), mode="area").round() for part in found.pixels.split(500)]
    return dataclasses.replace(found, pixels=torch.cat([part.to(torch.uint8) for part in parts]))


def _blocks_of(found: LatentImages, sizes: Sequence[int]) -> Blocks:
    if not sizes:
        if len(found.blocks) < 2:
            raise BadInput("nothing says which latents these pictures have; name the sizes of the blocks", "blocks")
        return found.blocks
    sizes = check_sizes(sizes)
    starts = [sum(sizes[:k]) for k in range(len(sizes))]
    blocks = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return check_blocks(blocks, sum(sizes))
