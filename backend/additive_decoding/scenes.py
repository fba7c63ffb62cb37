"""What the latents of a scene mean: which properties of which objects vary, and how a latent becomes an image."""

import dataclasses
import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.additive_decoding.renderer import EDGE_PX, SHAPES, base_colours, draw, turn_hue
from backend.errors import BadInput

PROPERTIES = ("x", "y", "size", "hue")
MAX_OBJECTS = 4
SIZES = (0.65, 1.0)  # of the radius, at size 0 and 1
HUE_TURNS = 0.12  # the whole range of hue, in turns around the object's own colour
LOW, HIGH = 0.1, 0.9  # range of every latent


@dataclass(frozen=True, slots=True)
class Scene:
    """A family of images: n objects, each with the same properties free. Latents lie in [0.1, 0.9].

    `nonlinearity` mixes each object's image with an affine function of its latents (the images of its corners,
    weighted): at 0 the truth is linear, and blocks cannot be told apart by any method that sees images only.
    """

    shapes: tuple[str, ...] = ("ball", "ball")
    free: tuple[str, ...] = ("y",)  # of `PROPERTIES`: the block of each object
    side: int = 64  # pixels
    radius: float = 0.16  # share of the side
    occlusion: bool = False
    nonlinearity: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= len(self.shapes) <= MAX_OBJECTS:
            raise BadInput(f"{len(self.shapes)} objects; a scene has 2..{MAX_OBJECTS}", "shapes")
        for shape in self.shapes:
            if shape not in SHAPES:
                raise BadInput(f"unknown shape {shape!r}; one of {', '.join(SHAPES)}", "shapes")
        if not self.free or any(name not in PROPERTIES for name in self.free) or len(set(self.free)) < len(self.free):
            raise BadInput(f"free is {self.free}; expected some of {', '.join(PROPERTIES)}, each once", "free")
        if not 8 <= self.side <= 256:
            raise BadInput(f"side is {self.side}; expected 8..256 pixels", "side")
        if not 0.02 <= self.radius <= 0.3:
            raise BadInput(f"radius is {self.radius}; expected 0.02..0.3 of the side", "radius")
        if not 0.0 <= self.nonlinearity <= 1.0:
            raise BadInput(f"nonlinearity is {self.nonlinearity}; expected 0..1", "nonlinearity")
        if self.occlusion and self.nonlinearity < 1.0:
            raise BadInput("with occlusion the truth is no sum, so its nonlinearity cannot be lowered", "nonlinearity")

    @property
    def n_objects(self) -> int:
        return len(self.shapes)

    @property
    def block_size(self) -> int:
        return len(self.free)

    @property
    def n_latents(self) -> int:
        return self.n_objects * self.block_size

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """The latents of each object.

        >>> Scene(free=("x", "y")).blocks
        ((0, 1), (2, 3))
        """
        d = self.block_size
        return tuple(tuple(range(i * d, (i + 1) * d)) for i in range(self.n_objects))

    @property
    def latent_names(self) -> tuple[str, ...]:
        return tuple(f"{name} of {i + 1}" for i in range(self.n_objects) for name in self.free)

    def at_side(self, side: int) -> "Scene":
        """The same scenes at another image size."""
        return self if side == self.side else dataclasses.replace(self, side=side)

    def draw(self, latents: Tensor, edge_px: float = EDGE_PX) -> Tensor:
        """(N, d) latents -> (N, 3, side, side) images in [0, 1] (below 0 where additive objects overlap).

        Raises: BadInput: another number of latents, or values that are not numbers.
        """
        self.check(latents)
        blocks = latents.view(len(latents), self.n_objects, self.block_size)
        if self.nonlinearity == 1.0:
            return self._draw(blocks, range(self.n_objects), self.occlusion, edge_px)
        return 1.0 + sum(self.draw_block(i, blocks[:, i]) for i in range(self.n_objects))

    def draw_block(self, i: int, block: Tensor) -> Tensor:
        """One object's image minus white, alone; (N, block size) -> (N, 3, side, side)."""
        share = self.nonlinearity
        curved = self._draw(block[:, None], (i,), False) - 1.0 if share > 0 else 0.0
        if share == 1.0:
            return curved
        corners = _corners(self, i).to(block)  # (1 + block size, 3, side, side)
        along = (block - LOW) / (HIGH - LOW) / self.block_size
        weights = torch.cat([1 - along.sum(1, keepdim=True), along], 1)
        return share * curved + (1 - share) * torch.einsum("nk,kchw->nchw", weights, corners)

    def _draw(
        self, blocks: Tensor, objects: range | tuple[int, ...], occlusion: bool, edge_px: float = EDGE_PX
    ) -> Tensor:
        """Draw some of the objects; blocks (N, len(objects), block size)."""
        n = len(blocks)
        values = {name: blocks[..., k] for k, name in enumerate(self.free)}
        place = torch.tensor([(i + 0.5) / self.n_objects for i in objects], device=blocks.device, dtype=blocks.dtype)
        x = values.get("x", place.expand(n, -1))
        y = values.get("y", torch.full_like(x, 0.5))
        share = (values.get("size", torch.full_like(x, HIGH)) - LOW) / (HIGH - LOW)
        radii = self.radius * (SIZES[0] + (SIZES[1] - SIZES[0]) * share)
        colours = base_colours(self.n_objects).to(blocks)[list(objects)].expand(n, -1, -1)
        if "hue" in values:
            colours = turn_hue(colours, HUE_TURNS * (values["hue"] - 0.5))
        shapes = [self.shapes[i] for i in objects]
        return draw(shapes, torch.stack([x, y], -1), radii, colours, self.side, occlusion, edge_px)

    def check(self, latents: Tensor) -> None:
        """Raises: BadInput: a wrong number of latents, values that are not numbers, or out of the frame."""
        if latents.ndim != 2 or latents.shape[1] != self.n_latents:
            raise BadInput(f"latents of shape {tuple(latents.shape)}; expected (N, {self.n_latents})", "latents")
        if not torch.isfinite(latents).all():
            raise BadInput("a latent is not a number", "latents")
        if len(latents) and not (latents.min() >= -1e-6 and latents.max() <= 1 + 1e-6):
            raise BadInput("a latent lies outside the frame; expected 0..1", "latents")


@functools.lru_cache(maxsize=64)
def _corners(scene: Scene, i: int) -> Tensor:
    """An object's images minus white at the low corner of its block and one step along each of its latents."""
    corners = torch.full((1 + scene.block_size, scene.block_size), LOW)
    corners[1:] += torch.eye(scene.block_size) * (HIGH - LOW)
    return scene._draw(corners[:, None], (i,), False) - 1.0
