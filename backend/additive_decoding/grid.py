"""Grids of images from an additive decoder: n + m block renders, added; and tables of block renders for the browser.

With blocks 1 and 2 on the axes, f(a_i, b_j) = link(rest + f_1(a_i) + f_2(b_j)): the decoder runs n + m times instead
of n * m times, and the rest is one addition.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.errors import BadInput
from backend.models.additive_decoder import AdditiveDecoder, BlockNet, Decoder, apply_link
from backend.runtime import Chunks

TABLE_SIZE = 65  # values along each scalar latent
PLANAR_TABLE_SIZE = 33  # along each latent of a block of two
MAX_TABLE_LATENTS = 2  # of a block; larger blocks are sent as networks
MAX_TABLE_SIZE = 257


@dataclass(frozen=True, eq=False)
class BlockRenders:
    """What a grid is added up from; images before the link."""

    rows: Tensor  # (n, 3, S, S)
    columns: Tensor  # (m, 3, S, S)
    rest: Tensor  # (3, S, S): white and the blocks that stand still


def render_blocks(
    decoder: AdditiveDecoder, rows: Tensor, columns: Tensor, still: Tensor, axes: tuple[int, int] = (0, 1)
) -> BlockRenders:
    """Render each block alone.

    Args:
        rows, columns: latents of the two blocks on the axes, (n, size), (m, size).
        still: all latents where the other blocks stand, (d,).
        axes: which blocks vary.
    """
    check_axes(decoder, axes)
    rest = rows.new_zeros(3, decoder.side, decoder.side) + decoder.white
    for i in range(len(decoder.blocks)):
        if i not in axes:
            rest = rest + decoder.render_block(i, decoder.block_latents(still[None], i))[0]
    return BlockRenders(decoder.render_block(axes[0], rows), decoder.render_block(axes[1], columns), rest)


def add_up(decoder: Decoder, renders: BlockRenders) -> Tensor:
    """All combinations in one broadcast addition; (n, m, 3, S, S)."""
    rows, columns = (renders.rows + renders.rest)[:, None], renders.columns[None]
    if renders.rows.requires_grad or renders.rows.device.type != "cpu":
        return apply_link(decoder.link, rows + columns)
    # On the CPU most of the time goes to the pages of a fresh result; numpy asks the system for large ones.
    total = torch.from_numpy(np.empty((len(rows), *renders.columns.shape), np.float32)).to(rows.dtype)
    return apply_link(decoder.link, torch.add(rows, columns, out=total))


def decode_grid(
    decoder: Decoder,
    rows: Tensor,
    columns: Tensor,
    still: Tensor,
    axes: tuple[int, int] = (0, 1),
    chunks: Chunks | None = None,
) -> Tensor:
    """All combinations by decoding every latent: what a decoder that is no sum has to do; (n, m, 3, S, S)."""
    latents = combine(decoder, rows, columns, still, axes)
    (images,) = (chunks or Chunks(256)).map(lambda z: (decoder(z),), latents.flatten(0, 1))
    return images.unflatten(0, latents.shape[:2])


def draw_grid(
    decoder: Decoder,
    rows: Tensor,
    columns: Tensor,
    still: Tensor,
    axes: tuple[int, int] = (0, 1),
    chunks: Chunks | None = None,
) -> Tensor:
    """The grid by the cheapest way that this decoder allows; (n, m, 3, S, S)."""
    if isinstance(decoder, AdditiveDecoder):
        return add_up(decoder, render_blocks(decoder, rows, columns, still, axes))
    return decode_grid(decoder, rows, columns, still, axes, chunks)


def combine(decoder: Decoder, rows: Tensor, columns: Tensor, still: Tensor, axes: tuple[int, int] = (0, 1)) -> Tensor:
    """The latents of each cell, (n, m, d)."""
    check_axes(decoder, axes)
    latents = still.expand(len(rows), len(columns), -1).clone()
    latents[..., list(decoder.blocks[axes[0]])] = rows[:, None]
    latents[..., list(decoder.blocks[axes[1]])] = columns[None]
    return latents


def check_axes(decoder: Decoder, axes: tuple[int, int]) -> None:
    """Raises: BadInput: not two different blocks of the decoder."""
    n = len(decoder.blocks)
    if len(axes) != 2 or axes[0] == axes[1] or not all(0 <= axis < n for axis in axes):
        raise BadInput(f"axes {list(axes)}; expected two different blocks in 0..{n - 1}", "axes")


# ----------------------------------------------------------------- tables for the browser
@dataclass(frozen=True, eq=False)
class BlockTable:
    """One network's separable profiles on a regular grid of its latents.

    The browser interpolates them linearly, multiplies them out, adds the blocks and applies the link.
    """

    values: tuple[Tensor, ...]  # of each latent, ascending
    profiles: Tensor  # (k,) or (k, k) + (2, rank, S), as sent: float16
    interpolation_rmse: float  # of the block's image before the link, at random latents between the grid's

    @property
    def nbytes(self) -> int:
        return self.profiles.numel() * self.profiles.element_size()


def tabulate(net: BlockNet, low: Tensor, high: Tensor, size: int | None = None) -> BlockTable:
    """Profiles of a network over the box low..high of its latents.

    Args: low, high: (latents,). size: values along each latent; by default 65 for one latent, 33 for two.
    Raises: BadInput: a network of more than two latents, or an impossible size.
    """
    d = net.first.in_features
    if d > MAX_TABLE_LATENTS:
        raise BadInput(f"a block of {d} latents; tables are made of blocks of one or two", "blocks")
    size = size or (TABLE_SIZE if d == 1 else PLANAR_TABLE_SIZE)
    if not 2 <= size <= MAX_TABLE_SIZE:
        raise BadInput(f"a table of {size} values along a latent; expected 2..{MAX_TABLE_SIZE}", "size")
    values = tuple(torch.linspace(float(low[k]), float(high[k]), size) for k in range(d))
    latents = torch.cartesian_prod(*values).view(-1, d).to(low)
    with torch.no_grad():
        profiles = torch.cat([net.draw_profiles(part) for part in latents.split(256)]).half().unflatten(0, (size,) * d)
        probes = low + (high - low) * torch.rand(256, d, generator=torch.Generator().manual_seed(0)).to(low)
        error = net.paint(interpolate(values, profiles.to(low), probes)) - net(probes)
    return BlockTable(values, profiles, float(error.square().mean().sqrt()))


@dataclass(frozen=True, eq=False)
class BlockWeights:
    """A network itself, for blocks of so many latents that a table would be larger: the browser runs it."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # weights (out, in) and biases (out,), float16 as they ship
    first: str  # activation of the first layer; the others' is silu, the last layer has none

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for layer in self.layers for t in layer)


def pack_weights(net: BlockNet) -> BlockWeights:
    """The layers of a network, as sent."""
    layers = (net.first, net.second, net.third, net.profiles)
    return BlockWeights(
        tuple((layer.weight.detach().half(), layer.bias.detach().half()) for layer in layers), net.first_kind
    )


def interpolate(values: tuple[Tensor, ...], table: Tensor, latents: Tensor) -> Tensor:
    """Linear (bilinear) interpolation of a table, as the browser does it; (N, d) -> (N, *entry)."""
    index, share = [], []
    for k, axis in enumerate(values):
        step = (latents[:, k] - axis[0]) / (axis[-1] - axis[0]) * (len(axis) - 1)
        start = step.floor().clamp(0, len(axis) - 2)
        index.append(start.long())
        share.append((step - start).clamp(0, 1).view(-1, *[1] * (table.ndim - len(values))))
    if len(values) == 1:
        return torch.lerp(table[index[0]], table[index[0] + 1], share[0])
    lower = torch.lerp(table[index[0], index[1]], table[index[0], index[1] + 1], share[1])
    upper = torch.lerp(table[index[0] + 1, index[1]], table[index[0] + 1, index[1] + 1], share[1])
    return torch.lerp(lower, upper, share[0])


def centred(renders: Tensor, reference: Tensor) -> Tensor:
    """Block images are defined up to a constant image: take off the reference's .9 quantile, where objects are not.

    Args: renders: (..., C, H, W); reference: (N, C, H, W), the block's renders over its latents.
    """
    return renders - reference.quantile(0.9, dim=0)
