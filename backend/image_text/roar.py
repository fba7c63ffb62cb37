"""ROAR+: how much worse does a pair learn when what a map calls best is taken out of the pictures or texts it learns?

A pair is fine-tuned afresh on pairs whose best quarter of the pixels, or better half of the words, is gone, and then
tried on intact pairs that it has not seen. A map that finds what the pair learns from costs it much; a random one
costs little, and what it costs is the price of any hole.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import BadInput, ModelFault, ShapeError
from backend.image_text import metrics
from backend.models.clip import ImageTextPair

HELD_OUT = 0.2  # share of the pairs that are tried on, never trained on
LEAST_PAIRS = 20
_CAPPED_SCALE = 100.0  # of cosines in the contrastive loss, as CLIP caps it
_TOGETHER = 64  # inputs in a forward pass without gradients


@dataclass(frozen=True, slots=True)
class FineTuning:
    """How a pair is fine-tuned. The paper does not say how; these are ours."""

    epochs: int = 5
    batch: int = 32
    rate: float = 2e-4  # of AdamW
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Pairs:
    """Matched inputs and texts of a pair of encoders.

    `inputs` (N, C, H, W) in [0, 1], pictures or spectrograms; `ids` (N, context_length); `words`: of each text, first
    and last + 1 sub-token of every word.
    """

    modality: str  # of the inputs, "image" or "audio"
    inputs: Tensor
    ids: Tensor
    words: tuple[tuple[tuple[int, int], ...], ...]
    blank_id: int

    def __len__(self) -> int:
        return len(self.inputs)


# ----------------------------------------------------------------- taking out
def degrade(pairs: Pairs, modality: str, maps: Sequence[Tensor], seed: int = 0) -> Pairs:
    """The pairs without what the maps of one modality put highest; the other modality stays whole.

    Args: maps: one for each pair, (H, W) of inputs or (T,) of texts. seed: draws ties.
    """
    if len(maps) != len(pairs):
        raise ShapeError(f"{len(maps)} maps of {len(pairs)} pairs; expected one for each")
    if modality == "text":
        texts = zip(pairs.ids.split(1), pairs.words, maps, strict=True)
        return replace(pairs, ids=torch.cat([without_words(ids, w, map_, pairs.blank_id) for ids, w, map_ in texts]))
    fill, generator = channel_means(pairs.inputs), torch.Generator().manual_seed(seed)
    holed = [without_pixels(one, map_, fill, generator) for one, map_ in zip(pairs.inputs, maps, strict=True)]
    return replace(pairs, inputs=torch.stack(holed))


def channel_means(images: Tensor) -> Tensor:
    """What stands where pixels are taken out: each channel's mean over all pictures, (N, C, H, W) -> (C,)."""
    return images.mean((0, 2, 3))


def without_pixels(image: Tensor, map_: Tensor, fill: Tensor, generator: torch.Generator) -> Tensor:
    """A picture without the quarter of its pixels that a map puts highest; ties are drawn.

    Args: image: (C, H, W). map_: (H, W). fill: (C,), what stands there instead.
    Returns: (C, H, W), the input left as it was.
    """
    gone = metrics.top_quarter(map_, generator).to(image.device)
    return torch.where(gone, fill.to(image)[:, None, None], image)


def without_words(ids: Tensor, words: tuple[tuple[int, int], ...], values: Tensor, blank_id: int) -> Tensor:
    """A text without the half of its words' sub-tokens that a map puts highest; (1, L) -> (1, L).

    Args: words: first and last + 1 sub-token of each. values: (T,) of every token. Start and end stay.

    >>> without_words(torch.tensor([[8, 5, 6, 9]]), ((1, 2), (2, 3)), torch.tensor([0.0, 1.0, 0.2, 0.0]), 0).tolist()
    [[8, 0, 6, 9]]
    """
    return metrics.best_tokens(ids, words, -values, blank_id)


# ----------------------------------------------------------------- learning and trying
def split_pairs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Which pairs are trained on and which are tried on, four to one.

    >>> [len(part) for part in split_pairs(20, 0)]
    [16, 4]
    """
    if n < LEAST_PAIRS:
        raise BadInput(f"{n} pairs; ROAR+ needs {LEAST_PAIRS} at least, four in five of them to train on", "n")
    order = torch.from_numpy(np.random.default_rng([seed, n]).permutation(n))
    n_held = round(HELD_OUT * n)
    return order[n_held:], order[:n_held]


def contrastive_loss(seen: Tensor, texts: Tensor, scale: Tensor | float) -> Tensor:
    """CLIP's symmetric cross-entropy: each input should be nearest to its own text, and the other way round.

    Args: seen, texts: unit vectors, (N, E).

    >>> round(contrastive_loss(torch.eye(2), torch.eye(2), 100.0).item(), 6)
    0.0
    """
    if seen.shape != texts.shape:
        raise ShapeError(f"vectors {tuple(seen.shape)} and {tuple(texts.shape)}; expected one of each kind per pair")
    logits, own = scale * seen @ texts.T, torch.arange(len(seen), device=seen.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def loss_after(
    pair: ImageTextPair,
    learnt: Pairs,
    intact: Pairs,
    settings: FineTuning = FineTuning(),
    seed: int = 0,
    on_epoch: Callable[[int], None] = lambda done: None,
) -> float:
    """Held-out contrastive loss on intact pairs after fine-tuning on four in five of those to learn, nats.

    Args: learnt, intact: the same pairs, with and without holes. seed: of the split and of the order.
    """
    trained, tried = split_pairs(len(intact), seed)
    trained, tried = trained.to(intact.inputs.device), tried.to(intact.inputs.device)
    learner = fine_tune(pair, learnt.modality, learnt.inputs[trained], learnt.ids[trained], settings, seed, on_epoch)
    return held_out_loss(learner, intact.modality, intact.inputs[tried], intact.ids[tried])


def fine_tune(
    pair: ImageTextPair,
    modality: str,
    inputs: Tensor,
    ids: Tensor,
    settings: FineTuning = FineTuning(),
    seed: int = 0,
    on_epoch: Callable[[int], None] = lambda done: None,
) -> ImageTextPair:
    """A copy of the pair, trained further on matched inputs and texts by the contrastive loss; the pair stays as it is.

    Args:
        modality: of the inputs, "image" or "audio". inputs: (N, C, H, W) in [0, 1]. ids: (N, context_length).
        seed: of the order of the pairs, and of nothing else: two runs of one seed see the same batches.
    Raises: ModelFault: the loss became no number.
    """
    learner = pair.with_module(copy.deepcopy(pair.module).float())
    # Differs from training as such: batch normalisation keeps its statistics, for with those of holed pictures the
    # intact ones would score badly whatever was learnt. (The paper's towers have none.)
    learner.module.eval().requires_grad_(True)
    weights = [parameter for parameter in learner.module.parameters() if parameter.is_floating_point()]
    optimizer = torch.optim.AdamW(weights, settings.rate, weight_decay=settings.weight_decay)
    random = np.random.default_rng([seed, 1])
    with torch.enable_grad():
        for epoch in range(settings.epochs):
            for rows in _batches(random.permutation(len(inputs)), settings.batch):
                rows = torch.from_numpy(rows).to(inputs.device)
                loss = _loss(learner, modality, inputs[rows], ids[rows])
                if not torch.isfinite(loss):
                    raise ModelFault("the loss of the fine-tuning is no number any more", "model")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            on_epoch(epoch + 1)
    learner.module.requires_grad_(False)
    return learner


def _batches(order: np.ndarray, size: int) -> Sequence[np.ndarray]:
    """Batches of about one size: a loss over few pairs is lower than one over many, so none may be small."""
    return np.array_split(order, max(1, round(len(order) / size)))


def _loss(pair: ImageTextPair, modality: str, inputs: Tensor, ids: Tensor) -> Tensor:
    """Contrastive loss of one batch, in the graph of the pair's weights."""
    seen = F.normalize(pair.tower(modality).encode(inputs.float()), dim=-1)
    texts = F.normalize(pair.text.encode(ids), dim=-1)
    return contrastive_loss(seen, texts, pair.module.logit_scale.exp().clamp(max=_CAPPED_SCALE))


@torch.no_grad()
def held_out_loss(pair: ImageTextPair, modality: str, inputs: Tensor, ids: Tensor) -> float:
    """Contrastive loss on intact pairs, all of them told from one another at once."""
    dtype = pair.dtype
    seen = [pair.tower(modality).encode(some.to(dtype)) for some in inputs.split(_TOGETHER)]
    texts = [pair.text.encode(some) for some in ids.split(_TOGETHER)]
    vectors = (F.normalize(torch.cat(parts).float(), dim=-1) for parts in (seen, texts))
    return float(contrastive_loss(*vectors, pair.module.logit_scale.float().exp().clamp(max=_CAPPED_SCALE)))


def roar_plus(corrupted: float, original: float) -> float:
    """(l_c - l_o) / l_o in percent, of the held-out losses after training with and without holes. Higher is better.

    Source: Wang et al., Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
        Attribution, NeurIPS 2023, section 4.

    >>> roar_plus(1.5, 1.0)
    50.0
    """
    return 100.0 * (corrupted - original) / original
