"""Autoencoders of scenes: encoders that find latents, and decoders that differ in how blocks of latents combine.

`additive`: f(z) = link(sum of one image for each block). `non-additive`: one network sees all latents.
`masked`: one image and one mask for each block, masks by a softmax over blocks, as object-centric models do.
All take and give images in [0, 1]; every decoder has a separable head, so that weights stay small.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import BadInput

Link = Literal["identity", "sigmoid", "exp"]
LINKS: tuple[Link, ...] = ("identity", "sigmoid", "exp")
Kind = Literal["additive", "non-additive", "masked"]
KINDS: tuple[Kind, ...] = ("additive", "non-additive", "masked")
WHITE = {"identity": 1.0, "sigmoid": 4.0, "exp": 0.0}  # what the link turns into white, or almost
Blocks = tuple[tuple[int, ...], ...]
First = Literal["silu", "sine"]
FIRSTS: tuple[First, ...] = ("silu", "sine")


def apply_link(link: Link, values: Tensor) -> Tensor:
    """sigma of f(z) = sigma(sum of block images): identity, sigmoid or exp (then blocks multiply)."""
    if link == "identity":
        return values
    return torch.sigmoid(values) if link == "sigmoid" else torch.exp(values)


def undo_link(link: Link, images: Tensor) -> Tensor:
    """What the link turns into these images, kept finite; any shape."""
    if link == "identity":
        return images
    return torch.logit(images, 0.02) if link == "sigmoid" else images.clamp_min(0.02).log()


def check_blocks(blocks: Sequence[Sequence[int]], n_latents: int) -> Blocks:
    """A partition of the latents.

    Raises: BadInput: a latent is missing, doubled or out of range, or a block is empty.

    >>> check_blocks([[0], [1]], 2)
    ((0,), (1,))
    """
    found = tuple(tuple(int(k) for k in block) for block in blocks)
    if any(not block for block in found):
        raise BadInput("a block of the partition is empty", "blocks")
    flat = sorted(k for block in found for k in block)
    if flat != list(range(n_latents)):
        missing = sorted(set(range(n_latents)) - set(flat))
        what = f"latent {missing[0]} is in no block" if missing else "a latent is doubled or out of range"
        raise BadInput(f"the blocks do not cover the {n_latents} latents once each: {what}", "blocks")
    return found


# ----------------------------------------------------------------- encoders
class PositionEncoder(nn.Module):
    """Finds where colours are: a network for each pixel's colour, soft arg-max of its maps, a perceptron.

    Beside the expected position of each map the perceptron sees the map's mean activity, so that sizes can be read.
    Small objects need sharp maps: a flat soft arg-max stays near the middle of the white around them, and nothing is
    learned from it.
    """

    def __init__(
        self,
        n_latents: int,
        maps: int = 8,
        width: int = 64,
        grid: int = 16,
        sharpness: float = 3.0,
        activity: float | None = None,
    ) -> None:
        """sharpness: of the maps at the start; activity: weight of what a map has beyond white, None: as it is."""
        super().__init__()
        self.grid, self.activity = grid, activity  # images are averaged down to grid x grid
        self.colour = nn.Linear(3, 16)
        self.maps = nn.Linear(16, maps)
        self.hidden = nn.Linear(3 * maps, width)
        self.deep = nn.Linear(width, width)
        self.out = nn.Linear(width, n_latents)
        with torch.no_grad():  # colours must be told apart from the start
            self.colour.weight *= 2
            self.maps.weight *= sharpness

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, latents)."""
        small = shrink(images, self.grid) - 1.0
        side = small.shape[-1]
        pixels = small.flatten(2).transpose(1, 2)  # (N, side^2, 3)
        scores = self.maps(F.silu(self.colour(pixels)))
        axis = (torch.arange(side, device=images.device, dtype=images.dtype) + 0.5) / side * 2 - 1
        place = torch.stack([axis.repeat(side), axis.repeat_interleave(side)])  # (2, side^2)
        centres = torch.matmul(place, scores.softmax(1)) * 1.5  # (N, 2, maps)
        features = torch.cat([centres.flatten(1), self._activities(scores)], 1)
        return self.out(F.silu(self.deep(F.silu(self.hidden(features)))))

    def _activities(self, scores: Tensor) -> Tensor:
        """Mean activity of each map; (N, pixels, maps) -> (N, maps). Small objects are lost in that of the white."""
        active = torch.sigmoid(scores).mean(1)
        if self.activity is None:
            return active
        white = self.maps(F.silu(self.colour.bias))
        return self.activity * (active - torch.sigmoid(white))


class PerceptronEncoder(nn.Module):
    """A perceptron on the image averaged down to 8 x 8 cells: it knows nothing of objects."""

    def __init__(self, n_latents: int, width: int = 64, grid: int = 8) -> None:
        super().__init__()
        self.grid = grid
        self.first = nn.Linear(3 * grid * grid, width)
        self.second = nn.Linear(width, width)
        self.out = nn.Linear(width, n_latents)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1], S at least the grid -> (N, latents)."""
        cells = (shrink(images, self.grid) - 1.0).flatten(1)
        return self.out(F.silu(self.second(F.silu(self.first(cells)))))


class ConvEncoder(nn.Module):
    """Strided convolutions down to 4 x 4 and a perceptron, for images where colour does not tell objects apart."""

    def __init__(self, n_latents: int, width: int = 64, grid: int = 32, channels: int = 16) -> None:
        super().__init__()
        self.grid = grid
        layers: list[nn.Module] = []
        before, side = 3, grid
        while side > 4:
            layers += [nn.Conv2d(before, channels, 4, 2, 1), nn.SiLU()]
            before, channels, side = channels, min(2 * channels, 64), side // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(before * side * side, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, n_latents),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, latents)."""
        small = shrink(images, self.grid) - 1.0
        if small.shape[-1] != self.grid:
            small = F.interpolate(small, size=(self.grid, self.grid))
        return self.head(self.features(small))


ENCODERS: dict[str, Callable[[int], nn.Module]] = {
    "perceptron": PerceptronEncoder,
    "position": PositionEncoder,
    "sharp position": partial(PositionEncoder, maps=24, width=128, grid=32, sharpness=30.0, activity=16.0),
    "convolutional": ConvEncoder,
}


def shrink(images: Tensor, side: int) -> Tensor:
    """Average images down to side x side; smaller ones stay as they are."""
    factor = images.shape[-1] // side
    return F.avg_pool2d(images, factor) if factor > 1 else images


# ----------------------------------------------------------------- decoders
class BlockNet(nn.Module):
    """Latents of one block -> an image of several channels, as a sum of `rank` separable terms.

    image[c, y, x] = sum over r of colour[r, c] u_r(y; z) v_r(x; z). The first layer starts out far from linear
    (`first_scale`, `first_bias`): from a linear start optimisation ends in rotated mixtures of the latents. With
    `first` "sine" it is a bank of waves whose frequencies are learned: edges that move get sharp in fewer steps.
    """

    def __init__(
        self,
        n_latents: int,
        side: int,
        width: int,
        rank: int,
        channels: int = 3,
        first_scale: float = 4.0,
        first_bias: float = 2.0,
        first: First = "silu",
    ) -> None:
        super().__init__()
        if first not in FIRSTS:
            raise BadInput(f"unknown first layer {first!r}; one of {', '.join(FIRSTS)}", "first")
        self.side, self.rank, self.first_kind = side, rank, first
        self.first = nn.Linear(n_latents, width)
        self.second = nn.Linear(width, width)
        self.third = nn.Linear(width, width)
        self.profiles = nn.Linear(width, 2 * rank * side)
        self.colour = nn.Parameter(torch.randn(rank, channels) * 0.5)
        with torch.no_grad():
            self.first.weight *= first_scale
            self.first.bias.uniform_(-first_bias, first_bias)
            self.profiles.bias.zero_()

    def trunk(self, latents: Tensor) -> Tensor:
        waves = self.first(latents)
        waves = torch.sin(waves) if self.first_kind == "sine" else F.silu(waves)
        hidden = F.silu(self.second(waves))
        return F.silu(self.third(hidden))

    def draw_profiles(self, latents: Tensor) -> Tensor:
        """The separable terms of a block's image: down and across, (N, latents of the block) -> (N, 2, rank, side)."""
        return self.profiles(self.trunk(latents)).unflatten(-1, (2, self.rank, self.side))

    def paint(self, profiles: Tensor) -> Tensor:
        """Sum of coloured outer products; (N, 2, rank, side) -> (N, channels, side, side)."""
        down, across = profiles[..., 0, :, :], profiles[..., 1, :, :]
        coloured = self.colour.T[:, None] * down.transpose(-1, -2)[..., None, :, :]  # (N, channels, side, rank)
        return (coloured.flatten(-3, -2) @ across).unflatten(-2, (-1, self.side))

    def forward(self, latents: Tensor) -> Tensor:
        """(N, latents of the block) -> (N, channels, side, side)."""
        return self.paint(self.draw_profiles(latents))

    def grown(self, side: int) -> "BlockNet":
        """The same function on a finer grid: profiles interpolated along their axis."""
        size, width, channels = self.first.in_features, self.first.out_features, self.colour.shape[1]
        net = BlockNet(size, side, width, self.rank, channels, first=self.first_kind)
        with torch.no_grad():
            for name in ("first", "second", "third"):
                getattr(net, name).load_state_dict(getattr(self, name).state_dict())
            net.colour.copy_(self.colour)
            for target, source in (
                (net.profiles.weight, self.profiles.weight),
                (net.profiles.bias, self.profiles.bias),
            ):
                rows = source.view(2 * self.rank, self.side, -1).transpose(1, 2)
                fine = F.interpolate(rows, size=side, mode="linear", align_corners=False)
                target.copy_(fine.transpose(1, 2).reshape(target.shape))
        return net


class Decoder(nn.Module):
    """Latents -> images; how blocks combine is the subclass's business."""

    kind: Kind

    def __init__(self, blocks: Blocks, side: int, link: Link) -> None:
        super().__init__()
        if link not in LINKS:
            raise BadInput(f"unknown link {link!r}; one of {', '.join(LINKS)}", "link")
        self.blocks, self.side, self.link = blocks, side, link
        self.background: Tensor | None = None  # (3, F, F) in [0, 1]; None: white
        self.contrast: Tensor | None = None  # root mean square of images around it

    @property
    def white(self) -> float | Tensor:
        """What all blocks add to, before the link: white, or a background of its own, (3, S, S)."""
        if self.background is None:
            return WHITE[self.link]
        return undo_link(self.link, shrink(self.background, self.side))

    def set_background(self, background: Tensor, contrast: float) -> None:
        """Add to this picture instead of white, and let the encoder see what differs from it in units of `contrast`.

        Args: background: (3, F, F) in [0, 1], F a multiple of every side that the decoder grows to.
        """
        for name, value in (("background", background), ("contrast", torch.tensor(contrast))):
            delattr(self, name)
            self.register_buffer(name, value)

    def standardise(self, images: Tensor) -> Tensor:
        """Images as the encoder takes them: 1 is the background, or white; (N, 3, S, S)."""
        if self.background is None:
            return images
        return 1.0 + (images - shrink(self.background, images.shape[-1])) / self.contrast

    def block_latents(self, latents: Tensor, i: int) -> Tensor:
        """The latents of block i, in its order; (N, d) -> (N, size of the block)."""
        return latents[..., list(self.blocks[i])]

    def grow(self, side: int) -> None:
        """Go on at another image side."""
        self.nets = nn.ModuleList(net.grown(side) for net in self.nets)
        self.side = side


class AdditiveDecoder(Decoder):
    """f(z) = link(white + sum over blocks of f_B(z_B))."""

    kind: Kind = "additive"

    def __init__(
        self, blocks: Blocks, side: int, width: int, rank: int, link: Link = "identity", **start: float | str
    ) -> None:
        super().__init__(blocks, side, link)
        self.nets = nn.ModuleList(BlockNet(len(block), side, width, rank, **start) for block in blocks)

    def render_block(self, i: int, block: Tensor) -> Tensor:
        """f_B before the link; (N, size of block i) -> (N, 3, S, S)."""
        return self.nets[i](block)

    def forward(self, latents: Tensor) -> Tensor:
        total = self.white
        for i in range(len(self.blocks)):
            total = total + self.render_block(i, self.block_latents(latents, i))
        return apply_link(self.link, total)


class PlainDecoder(Decoder):
    """One network for all latents, with as many separable terms as all blocks of the additive decoder together."""

    kind: Kind = "non-additive"

    def __init__(
        self, blocks: Blocks, side: int, width: int, rank: int, link: Link = "identity", **start: float | str
    ) -> None:
        super().__init__(blocks, side, link)
        n_latents = sum(map(len, blocks))
        self.nets = nn.ModuleList([BlockNet(n_latents, side, width, rank * len(blocks), **start)])

    def forward(self, latents: Tensor) -> Tensor:
        return apply_link(self.link, self.white + self.nets[0](latents))


class MaskedDecoder(Decoder):
    """Each block draws an image and a mask; masks compete by a softmax, with a white background among them."""

    kind: Kind = "masked"

    def __init__(
        self, blocks: Blocks, side: int, width: int, rank: int, link: Link = "identity", **start: float | str
    ) -> None:
        super().__init__(blocks, side, link)
        self.nets = nn.ModuleList(BlockNet(len(block), side, width, rank, channels=4, **start) for block in blocks)

    def render_block(self, i: int, block: Tensor) -> Tensor:
        """Colours and mask score of block i; (N, size of block i) -> (N, 4, S, S)."""
        return self.nets[i](block)

    def layers(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Each block's masks and colours; (N, blocks + 1, 1, S, S) with the background last, (N, blocks, 3, S, S)."""
        parts = torch.stack([self.render_block(i, self.block_latents(latents, i)) for i in range(len(self.blocks))], -4)
        scores = parts[..., 3:, :, :]
        background = torch.zeros_like(scores[..., :1, :, :, :])
        return torch.cat([scores, background], -4).softmax(-4), self.white + parts[..., :3, :, :]

    def forward(self, latents: Tensor) -> Tensor:
        masks, colours = self.layers(latents)
        n = len(self.blocks)
        total = (masks[..., :n, :, :, :] * colours).sum(-4) + masks[..., n, :, :, :] * self.white
        return apply_link(self.link, total)


_DECODERS = {decoder.kind: decoder for decoder in (AdditiveDecoder, PlainDecoder, MaskedDecoder)}


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _block_net_size(n_latents: int, side: int, width: int, rank: int, channels: int) -> int:
    return (n_latents + 1) * width + 2 * (width + 1) * width + (width + 1) * 2 * rank * side + rank * channels


def equal_width(kind: Kind, blocks: Blocks, side: int, width: int, rank: int) -> int:
    """The width at which a decoder of this kind has as many parameters as the additive one of the given width.

    >>> equal_width("additive", ((0,), (1,)), 64, 64, 12)
    64
    """
    if kind != "non-additive":
        return width
    wanted = sum(_block_net_size(len(block), side, width, rank, 3) for block in blocks)
    n_latents, rank = sum(map(len, blocks)), rank * len(blocks)
    return min(range(width, 4 * width), key=lambda w: abs(_block_net_size(n_latents, side, w, rank, 3) - wanted))


class Autoencoder(nn.Module):
    """An encoder and a decoder that share a partition of their latents into blocks."""

    def __init__(
        self,
        kind: Kind,
        blocks: Sequence[Sequence[int]],
        side: int,
        width: int = 64,
        rank: int = 12,
        link: Link = "identity",
        encoder: str = "position",
        first_scale: float = 4.0,
        first_bias: float = 2.0,
        final_side: int = 64,
        first: First = "silu",
        background: bool = False,
    ) -> None:
        """background: the decoder adds to a picture that comes with the weights, not to white."""
        super().__init__()
        if kind not in _DECODERS:
            raise BadInput(f"unknown decoder {kind!r}; one of {', '.join(KINDS)}", "kind")
        n_latents = sum(map(len, blocks))
        checked = check_blocks(blocks, n_latents)
        self.encoder = ENCODERS[encoder](n_latents)
        width = equal_width(kind, checked, final_side, width, rank)  # counted at the side it is to have in the end
        start = {"first_scale": first_scale, "first_bias": first_bias, "first": first}
        self.decoder = _DECODERS[kind](checked, side, width, rank, link, **start)
        if background:
            self.decoder.set_background(torch.ones(3, final_side, final_side), 1.0)

    @property
    def blocks(self) -> Blocks:
        return self.decoder.blocks

    @property
    def n_latents(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def kind(self) -> Kind:
        return self.decoder.kind

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, latents)."""
        return self.encoder(self.decoder.standardise(images))

    def decode(self, latents: Tensor) -> Tensor:
        """(N, latents) -> (N, 3, S, S), in [0, 1] up to the error of the fit."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))
