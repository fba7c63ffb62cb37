"""Towers of the hub's `transformers`: text encoders of the BERT family (BiomedCLIP, CLAP), and CLAP's audio encoder.

`transformers` is imported by whoever builds such a model; here its modules are called part by part.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from backend.models.towers import Pooling, Tower


class BertTower(Tower):
    """A bidirectional text encoder: embeddings, blocks, one pooled token or the mean of all, a projection.

    Padding is hidden from the attention, as in the model's own forward pass, and cut off where a batch has no more.
    """

    modality = "text"
    first_layer = -1
    has_attention = True

    def __init__(self, model: nn.Module, pooling: Pooling, project: Callable[[Tensor], Tensor], pad_id: int) -> None:
        """
        Args:
            model: has `embeddings` and `encoder.layer`, with attention written out (`eager`), so that it can be read.
            pooling: "token" or "average".
            project: pooled (N, C) -> (N, E).
        """
        self.model, self.pooling, self.project, self.pad_id = model, pooling, project, pad_id
        self.blocks = list(model.encoder.layer)
        self.names = tuple(f"block {k}" for k in range(len(self.blocks)))

    def is_special(self, inputs: Tensor | None = None) -> tuple[bool, ...]:
        """First and last token and padding."""
        ids = self._cut(inputs)[0]
        end = int((ids != self.pad_id).sum()) - 1
        return tuple(k == 0 or k >= end for k in range(len(ids)))

    def _cut(self, ids: Tensor) -> Tensor:
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return ids[:, : int(((ids != self.pad_id) * places).max())]

    def embed(self, inputs: Tensor) -> Tensor:
        return self.model.embeddings(input_ids=self._cut(inputs))

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        return self._run(self.embed(inputs), self.blocks[: self.check_layer(layer, -1) + 1], inputs)

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        return self._pool(self._run(hidden, self.blocks[self.check_layer(layer, -1) + 1 :], inputs), inputs)

    def _run(self, hidden: Tensor, blocks: Sequence[nn.Module], inputs: Tensor | None) -> Tensor:
        mask = self._mask(hidden, inputs)
        for block in blocks:
            hidden = block(hidden, mask)
        return hidden

    def _mask(self, hidden: Tensor, inputs: Tensor | None) -> Tensor | None:
        """What is added to the attention's scores, (N or 1, 1, 1, T); None: there is no padding."""
        if inputs is None:
            return None
        is_padding = inputs[:, : hidden.shape[1]] == self.pad_id
        if not is_padding.any():
            return None
        return (is_padding.to(hidden.dtype) * torch.finfo(hidden.dtype).min)[:, None, None]

    def _pool(self, hidden: Tensor, inputs: Tensor | None) -> Tensor:
        if self.pooling == "token":
            return self.project(hidden[:, 0])
        if inputs is None:
            return self.project(hidden.mean(1))
        is_word = (inputs[:, : hidden.shape[1]] != self.pad_id).to(hidden.dtype)[..., None]
        return self.project((hidden * is_word).sum(1) / is_word.sum(1))

    def attend(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden = self.embed(inputs).detach().requires_grad_(torch.is_grad_enabled())
        with _kept_attention(self.blocks) as attentions:
            features = self._pool(self._run(hidden, self.blocks, inputs), inputs)
        return features, attentions


@contextmanager
def _kept_attention(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """The attentions of blocks that are called inside, (N, heads, T, T) each."""
    kept: list[Tensor] = []
    hooks = [block.attention.self.register_forward_hook(lambda _, __, given: kept.append(given[1])) for block in blocks]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def four_views(encoder: nn.Module, decibels: Tensor) -> Tensor:
    """What a ClapAudioEncoder takes: (N, 1, T, F), or for a fused one the whole and three parts, (N, 4, T, F).

    Of a sound that is not longer than it hears at once all four are the same, and the hub's extractor has them fused.
    """
    return decibels.expand(-1, 4, -1, -1) if encoder.enable_fusion else decibels


class ClapAudioTower(Tower):
    """CLAP's audio encoder (HTSAT, a Swin transformer): blocks in four stages, the mean of the cells, a projection.

    The encoder folds a spectrogram into a square: pieces of time one below the other. Hidden states are given unfolded,
    frequency by time, so that a map lies on the spectrogram as it is seen.
    """

    modality, pooling = "audio", "average"

    def __init__(self, encoder: nn.Module, project: Callable[[Tensor], Tensor], normalise: nn.Module) -> None:
        """
        Args:
            encoder: a ClapAudioEncoder.
            project: pooled (N, C) -> (N, E).
            normalise: (N, 1, F, T) in [0, 1] -> decibels, as the encoder takes them.
        """
        self.encoder, self.project, self.normalise = encoder, project, normalise
        self._blocks = [(s, b) for s, stage in enumerate(encoder.layers) for b in range(len(stage.blocks))]
        self.names = tuple(f"stage {s}, block {b}" for s, b in self._blocks)

    def grid(self, layer: int) -> tuple[int, int]:
        rows, columns = self.encoder.input_resolutions[self._blocks[self.check_layer(layer)][0]]
        return rows // self.encoder.freq_ratio, columns * self.encoder.freq_ratio

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        encoder = self.encoder
        decibels = self.normalise(inputs).transpose(2, 3)  # (N, 1, T, F)
        standard = encoder.batch_norm(four_views(encoder, decibels).transpose(1, 3)).transpose(1, 3)
        fused = torch.arange(len(inputs), device=inputs.device)
        hidden = encoder.patch_embed(encoder.reshape_mel2img(standard), fused)
        for k in range(self.check_layer(layer) + 1):
            hidden = self._block(k, hidden if k == 0 else self._merged(k - 1, hidden))
        return self._unfolded(hidden, layer)

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        hidden = self._folded(hidden, self.check_layer(layer))
        for k in range(layer + 1, self.n_layers):
            hidden = self._block(k, self._merged(k - 1, hidden))
        return self.project(self.encoder.norm(hidden).mean(1))

    def _block(self, k: int, hidden: Tensor) -> Tensor:
        stage, block = self._blocks[k]
        return self.encoder.layers[stage].blocks[block](hidden, self.encoder.input_resolutions[stage])[0]

    def _merged(self, k: int, hidden: Tensor) -> Tensor:
        """What the block after block k gets: behind the last of a stage, four cells made one."""
        stage, block = self._blocks[k]
        whole = self.encoder.layers[stage]
        if block < len(whole.blocks) - 1 or whole.downsample is None:
            return hidden
        return whole.downsample(hidden, self.encoder.input_resolutions[stage])

    def _unfolded(self, hidden: Tensor, layer: int) -> Tensor:
        """(N, pieces x F x time within, C) -> (N, F x T, C)."""
        frequencies, times = self.grid(layer)
        pieces = self.encoder.freq_ratio
        return hidden.unflatten(1, (pieces, frequencies, times // pieces)).transpose(1, 2).flatten(1, 3)

    def _folded(self, hidden: Tensor, layer: int) -> Tensor:
        frequencies, times = self.grid(layer)
        pieces = self.encoder.freq_ratio
        return hidden.unflatten(1, (frequencies, pieces, times // pieces)).transpose(1, 2).flatten(1, 3)
