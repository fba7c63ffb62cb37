"""Encoders that can be cut open: what comes before a block runs once, what comes after it as often as asked.

A tower's hidden state is always tokens x channels, (N, T, C): patches of a transformer, cells of a convolution, or
sub-tokens of a text. Layers are counted from 0 and name the block whose output the hidden state is.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import BadInput, NotAvailable

Modality = Literal["image", "text", "audio"]
# How a tower makes one vector of its tokens: the first token, their mean, the end-of-text token, the last position,
# or an attention layer with a query of its own.
Pooling = Literal["token", "average", "argmax", "last", "attention"]


class Tower(ABC):
    """One encoder into the shared space.

    `encode(inputs)` equals `suffix(prefix(inputs, layer), layer, inputs)` at every layer. Features are not normalised.
    `inputs` are images (N, C, H, W) or spectrograms (N, 1, F, T) in [0, 1], or token ids (N, L).
    """

    modality: Modality
    pooling: Pooling
    names: tuple[str, ...]  # of the blocks
    has_attention: bool = False  # can `attend` be asked?

    @property
    def n_layers(self) -> int:
        return len(self.names)

    def check_layer(self, layer: int, least: int = 0) -> int:
        """Raises: BadInput: no such block."""
        if not least <= layer < self.n_layers:
            raise BadInput(f"layer {layer}; the {self.modality} tower has {least}..{self.n_layers - 1}", "layer")
        return layer

    def encode(self, inputs: Tensor) -> Tensor:
        """Features in the shared space, (N, E)."""
        return self.suffix(self.prefix(inputs, 0), 0, inputs)

    @abstractmethod
    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        """The hidden state after block `layer`, (N, T, C)."""

    @abstractmethod
    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        """What the blocks after `layer` make of a hidden state; (N, T, C) -> (N, E).

        In the last block only what the pooling reads is computed. `inputs` are needed by texts (where they end); one
        row of them serves all rows of `hidden`. Layer -1, where there is one, goes on from what its `prefix` gives.
        """

    first_layer: int = 0  # -1: a bottleneck may stand before block 0 too, where no token has read another yet

    def embed(self, inputs: Tensor) -> Tensor:
        """The hidden state before block 0, (N, T, C). Raises: NotAvailable: this tower has none."""
        raise NotAvailable(f"the {self.modality} tower has no embedding of its tokens", "method")

    def grid(self, layer: int) -> tuple[int, int] | None:
        """Rows and columns of the tokens that are places; None: the tokens are no places (text)."""
        return None

    def is_special(self, inputs: Tensor | None = None) -> tuple[bool, ...]:
        """Which of the leading or other tokens of a hidden state are neither places nor words.

        Images: only the leading ones are listed, places follow. Texts: all tokens of one text, (1, L) ids.
        """
        return ()

    def leading(self, layer: int) -> int:
        """How many tokens of an image's hidden state stand before its places."""
        return len(self.is_special())

    def attend(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features, and the attention of every block, (N, heads, T, T), that they were computed from.

        The attentions are in the graph of the features, so that their gradients can be asked for.
        Raises: NotAvailable: this tower has no such attention.
        """
        raise NotAvailable(f"the {self.modality} tower has no self-attention that can be read", "method")


# ----------------------------------------------------------------- transformer blocks of open_clip
def attention_of(block: nn.Module, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A block's output and its attention, written out so that the attention lies on the way to the output.

    (N, T, C) -> (N, T, C) and (N, heads, T, T). `mask` is added to the scores before the softmax.
    """
    query, key, value = _heads(block, hidden)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    attention = (scores if mask is None else scores + mask).softmax(-1)
    return _mixed_in(block, hidden, attention @ value), attention


def plain_block(block: nn.Module, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """`block(hidden, attn_mask=mask)`: (N, T, C) -> (N, T, C).

    Its own attention module turns the batch around and projects token by token, which costs a sixth of the time of all.
    """
    query, key, value = _heads(block, hidden)
    return _mixed_in(block, hidden, F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


def _heads(block: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, (N, heads, T, C / heads) each."""
    attn, x = block.attn, block.ln_1(hidden)
    projected = F.linear(x, attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = projected.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _mixed_in(block: nn.Module, hidden: Tensor, values: Tensor) -> Tensor:
    """The rest of a block, from what its attention read: (N, heads, T, C / heads)."""
    hidden = hidden + block.ls_1(block.attn.out_proj(values.transpose(1, 2).flatten(2)))
    return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))


def pooled_block(block: nn.Module, hidden: Tensor, at: Tensor | int, mask: Tensor | None = None) -> Tensor:
    """A block's output at one token of each row only: its query, its output projection, its perceptron.

    Args: hidden: (N, T, C). at: the token, one for all or (N,). mask: (T, T).
    Returns: (N, C), equal to `block(hidden)[:, at]`.
    """
    rows = torch.arange(len(hidden), device=hidden.device)
    x, attn = block.ln_1(hidden), block.attn
    n, length, width = x.shape
    weights, biases = attn.in_proj_weight.split([width, 2 * width]), attn.in_proj_bias.split([width, 2 * width])
    query = F.linear(x[rows, at], weights[0], biases[0]).view(n, attn.num_heads, 1, -1)
    key, value = F.linear(x, weights[1], biases[1]).view(n, length, 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    seen = None if mask is None else mask[at].view(-1, 1, 1, length).to(x.dtype)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    out = hidden[rows, at] + block.ls_1(attn.out_proj(mixed.reshape(n, width)))
    return out + block.ls_2(block.mlp(block.ln_2(out)))


def _begin_graph(embedded: Tensor) -> Tensor:
    """The same values as a leaf that wants a gradient, where gradients are on: weights and token ids want none."""
    return embedded.detach().requires_grad_(torch.is_grad_enabled())


def _is_plain(blocks: Sequence[nn.Module]) -> bool:
    """Are these open_clip's default blocks, whose parts we may call one by one?"""
    return all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks) and all(
        hasattr(block, "ls_1") and not hasattr(block, "ln_1_kv") for block in blocks
    )


def _project(features: Tensor, projection: nn.Module | Tensor | None) -> Tensor:
    if projection is None:
        return features
    return projection(features) if isinstance(projection, nn.Module) else features @ projection


class VisionTower(Tower):
    """open_clip's VisionTransformer behind its normalisation; pools its class token or the mean of the patches.

    One with a `ConvStem` can be cut at layer -1 too: inside the stem, where a cell is half as wide as a token.
    """

    modality = "image"

    def __init__(self, visual: nn.Module, normalise: nn.Module) -> None:
        if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
            raise NotAvailable("image towers with an attention pool on top (CoCa) are not supported", "model")
        self.visual, self.normalise = visual, normalise
        self.blocks = list(visual.transformer.resblocks)
        self.names = tuple(f"block {k}" for k in range(len(self.blocks)))
        self.pooling = "token" if visual.pool_type == "tok" else "average"
        self.has_attention = _is_plain(self.blocks)
        self.first_layer = -1 if hasattr(visual.conv1, "coarse") else 0

    def grid(self, layer: int) -> tuple[int, int]:
        rows, columns = self.visual.grid_size
        return (rows, columns) if layer >= 0 else (2 * rows, 2 * columns)

    def is_special(self, inputs: Tensor | None = None) -> tuple[bool, ...]:
        return (True,)  # the class token; the average pooling does not read it, later blocks do

    def leading(self, layer: int) -> int:
        return 1 if layer >= 0 else 0

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        if self.check_layer(layer, self.first_layer) < 0:
            return self.visual.conv1.features(self.normalise(inputs)).flatten(2).transpose(1, 2)  # (N, cells, C)
        hidden = self.embed(inputs)
        for block in self.blocks[: layer + 1]:
            hidden = block(hidden)
        return hidden

    def embed(self, inputs: Tensor) -> Tensor:
        return self.visual._embeds(self.normalise(inputs))

    def _embed_features(self, features: Tensor) -> Tensor:
        """What `visual._embeds` does behind the finer half of its stem; (N, cells, C) -> (N, T, width)."""
        visual = self.visual
        patches = visual.conv1.coarse(features.transpose(1, 2).unflatten(2, self.grid(-1))).flatten(2).transpose(1, 2)
        tokens = torch.cat([visual.class_embedding.expand(len(patches), 1, -1), patches], 1)
        return visual.ln_pre(tokens + visual.positional_embedding)

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        rest = self.blocks[self.check_layer(layer, self.first_layer) + 1 :]
        if layer < 0:
            hidden = self._embed_features(hidden)
        if rest and self.pooling == "token" and self.has_attention:
            for block in rest[:-1]:
                hidden = plain_block(block, hidden)
            pooled = self.visual.ln_post(pooled_block(rest[-1], hidden, 0))
            return _project(pooled, self.visual.proj)
        for block in rest:
            hidden = block(hidden)
        return self._pool(hidden)

    def _pool(self, hidden: Tensor) -> Tensor:
        return _project(self.visual._pool(hidden)[0], self.visual.proj)

    def attend(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not self.has_attention:
            return super().attend(inputs)
        hidden, attentions = _begin_graph(self.embed(inputs)), []
        for block in self.blocks:
            hidden, attention = attention_of(block, hidden)
            attentions.append(attention)
        return self._pool(hidden), attentions


class AudioTower(VisionTower):
    """open_clip's VisionTransformer over a spectrogram: its places are bands of frequency and times.

    `inputs` are (N, 1, F, T) in [0, 1], lowest frequency first.
    """

    modality = "audio"


class ResNetTower(Tower):
    """open_clip's ModifiedResNet: stages of convolutions, then attention pooling over their cells."""

    modality, pooling = "image", "attention"
    names = ("stem", "layer1", "layer2", "layer3", "layer4")
    _STRIDE = (4, 4, 8, 16, 32)

    def __init__(self, visual: nn.Module, normalise: nn.Module) -> None:
        self.visual, self.normalise = visual, normalise
        size = visual.image_size
        self._size = (size, size) if isinstance(size, int) else tuple(size)
        self._stages = [getattr(visual, name) for name in self.names]

    def grid(self, layer: int) -> tuple[int, int]:
        stride = self._STRIDE[self.check_layer(layer)]
        return self._size[0] // stride, self._size[1] // stride

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        x = self.normalise(inputs)
        for stage in self._stages[: self.check_layer(layer) + 1]:
            x = stage(x)
        return x.flatten(2).transpose(1, 2)  # (N, cells, C)

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        x = hidden.transpose(1, 2).unflatten(2, self.grid(layer))
        for stage in self._stages[layer + 1 :]:
            x = stage(x)
        return self.visual.attnpool(x)


class TimmTower(Tower):
    """A transformer of timm inside open_clip (SigLIP, BiomedCLIP): its blocks, then its own pooling and projection."""

    modality = "image"

    def __init__(self, visual: nn.Module, normalise: nn.Module) -> None:
        trunk = visual.trunk
        if not all(hasattr(trunk, part) for part in ("patch_embed", "blocks", "norm", "_pos_embed", "forward_head")):
            raise NotAvailable(f"the image tower {type(trunk).__name__} has no transformer blocks to cut at", "model")
        self.visual, self.trunk, self.normalise = visual, trunk, normalise
        self.names = tuple(f"block {k}" for k in range(len(trunk.blocks)))
        self.pooling = {"token": "token", "map": "attention"}.get(trunk.global_pool, "average")

    def grid(self, layer: int) -> tuple[int, int]:
        return tuple(self.trunk.patch_embed.grid_size)

    def is_special(self, inputs: Tensor | None = None) -> tuple[bool, ...]:
        return (True,) * self.trunk.num_prefix_tokens

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        trunk = self.trunk
        hidden = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(self.normalise(inputs)))))
        for block in trunk.blocks[: self.check_layer(layer) + 1]:
            hidden = block(hidden)
        return hidden

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        for block in self.trunk.blocks[self.check_layer(layer) + 1 :]:
            hidden = block(hidden)
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(hidden)))


class TextTower(Tower):
    """open_clip's text transformer, whether it lies in a CLIP itself or in a module of its own.

    Behind a causal mask nothing depends on the padding, so it is cut off: the hidden state ends with the end token.
    """

    modality = "text"
    first_layer = -1

    def __init__(self, owner: nn.Module) -> None:
        """`owner`: the module that has `token_embedding`, `transformer` and so on."""
        if (
            not hasattr(owner, "token_embedding")
            or getattr(owner, "cls_emb", None) is not None
            or _masks_padding(owner)
        ):
            raise NotAvailable(f"the text tower {type(owner).__name__} has no blocks that Prism can cut at", "model")
        self.owner = owner
        self.blocks = list(owner.transformer.resblocks)
        self.names = tuple(f"block {k}" for k in range(len(self.blocks)))
        kind = getattr(owner, "text_pool_type", None) or getattr(owner, "pool_type", "argmax")
        kinds: dict[str, Pooling] = {"argmax": "argmax", "eos": "argmax", "first": "token", "last": "last"}
        if kind not in kinds:
            raise NotAvailable(f"the text tower pools by {kind!r}, which is not supported", "model")
        self.pooling = kinds[kind]
        self.end_id = getattr(owner, "text_eos_id", getattr(owner, "eos_id", 2)) if kind == "eos" else None
        self.has_attention = _is_plain(self.blocks)

    def is_special(self, inputs: Tensor | None = None) -> tuple[bool, ...]:
        """Start, end and padding. Which tokens are words the tokenizer knows better; this one needs only ids."""
        ids = self._cut(inputs)[0]
        end = int(self._pooled_at(ids[None], 1)[0]) if self.pooling == "argmax" else len(ids)
        return tuple(k == 0 or k >= end for k in range(len(ids)))

    def _cut(self, ids: Tensor) -> Tensor:
        if self.owner.attn_mask is None or self.pooling != "argmax":
            return ids
        return ids[:, : int(self._pooled_at(ids, len(ids)).max()) + 1]

    def _pooled_at(self, ids: Tensor, n: int) -> Tensor:
        """Which token each row is pooled at, (n,)."""
        if self.pooling == "token":
            return ids.new_zeros(n)
        if self.pooling == "last":
            return ids.new_full((n,), ids.shape[1] - 1)
        found = ids.argmax(-1) if self.end_id is None else (ids == self.end_id).int().argmax(-1)
        return found.expand(n)

    def _mask(self, length: int, hidden: Tensor) -> Tensor | None:
        mask = self.owner.attn_mask
        return None if mask is None else mask[:length, :length].to(hidden)

    def embed(self, inputs: Tensor) -> Tensor:
        ids = self._cut(inputs)
        return self.owner.token_embedding(ids) + self.owner.positional_embedding[: ids.shape[1]]

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        hidden = self.embed(inputs)
        mask = self._mask(hidden.shape[1], hidden)
        for block in self.blocks[: self.check_layer(layer, -1) + 1]:
            hidden = block(hidden, attn_mask=mask)
        return hidden

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        return _project(self.pooled(hidden, layer, inputs), self.owner.text_projection)

    def pooled(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        """As `suffix`, before the projection; (N, T, C) -> (N, C)."""
        if inputs is None:
            raise BadInput("the text tower needs the token ids to know where a text ends", "text")
        rest, mask = self.blocks[self.check_layer(layer, -1) + 1 :], self._mask(hidden.shape[1], hidden)
        at = self._pooled_at(self._cut(inputs), len(hidden))
        whole = rest[:-1] if self.has_attention else rest
        for block in whole:
            hidden = plain_block(block, hidden, mask) if self.has_attention else block(hidden, attn_mask=mask)
        if rest and self.has_attention:
            pooled = pooled_block(rest[-1], hidden, at, mask)
        else:
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), at]
        return self.owner.ln_final(pooled)

    def attend(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        if not self.has_attention:
            return super().attend(inputs)
        hidden, attentions = _begin_graph(self.embed(inputs)), []
        mask = self._mask(hidden.shape[1], hidden)
        for block in self.blocks:
            hidden, attention = attention_of(block, hidden, mask)
            attentions.append(attention)
        at = self._pooled_at(self._cut(inputs), len(hidden))
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), at]
        return _project(self.owner.ln_final(pooled), self.owner.text_projection), attentions


def _masks_padding(owner: nn.Module) -> bool:
    return bool(getattr(owner, "use_pad_mask", False))
