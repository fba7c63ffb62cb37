"""What can be asked of decoders that add blocks, and of the supports they are trained on."""

from dataclasses import dataclass
from typing import ClassVar

from backend.contracts.values import Params


@dataclass(frozen=True, slots=True)
class DecodingRequest:
    """All combinations of two blocks' values, as one grid of images."""

    kind: ClassVar[str] = "decoding"
    family: ClassVar[str] = "additive_decoding"
    model: str
    method: str = ""  # kind of decoder; empty: the model's own
    grid: tuple[int, ...] = (9, 9)
    params: Params = ()
    seed: int = 0  # which training scenes lend their blocks, where a block has more than one latent


@dataclass(frozen=True, slots=True)
class BlockTableRequest:
    """What a browser needs to draw any scene: block renders on a grid of latents, or the network of a block."""

    kind: ClassVar[str] = "block_table"
    family: ClassVar[str] = "additive_decoding"
    model: str
    size: int = 0  # values along each latent of a block of one or two; 0: 65 for one, the network for more


@dataclass(frozen=True, slots=True)
class LatentScatterRequest:
    """True and learned latents of scenes, in the training support and beyond it, with their pictures."""

    kind: ClassVar[str] = "latent_scatter"
    family: ClassVar[str] = "additive_decoding"
    model: str
    n: int = 200  # scenes from each
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DecoderFiguresRequest:
    """Latent matching, errors in and out of support, and the assumption meters of one model."""

    kind: ClassVar[str] = "decoder_figures"
    family: ClassVar[str] = "additive_decoding"
    model: str
    n: int = 500  # test scenes
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SupportRequest:
    """A training support and a truth, before any training: raster, extension, components, scenes, nonlinearity."""

    kind: ClassVar[str] = "support"
    family: ClassVar[str] = "additive_decoding"
    support: str = "l"  # a name, or {"polygon": ...} or {"mask": ...} as JSON
    shapes: tuple[str, ...] = ("ball", "ball")
    free: tuple[str, ...] = ("y",)
    radius: float = 0.16  # of an object, as a share of the image's side
    occlusion: bool = False
    nonlinearity: float = 1.0
    n: int = 200  # latents drawn
    seed: int = 0
