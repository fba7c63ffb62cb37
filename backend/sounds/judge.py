"""What a model of sounds knows: kinds and order asked in captions, and finding each other among eight, unseen."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.image_text.judge import auroc, embed_prompts
from backend.models.clip import ImageTextPair
from backend.sounds.captions import keys_of, noun, sentence
from backend.sounds.data import DataRecipe, clip, clips, generator_of, spectrogram
from backend.sounds.pictures import draw_picture
from backend.sounds.synthesis import KINDS, Clip

_GROUPS = 50  # of one clip, one picture and one caption of each kind


def judge_sounds(pair: ImageTextPair, material: DataRecipe) -> dict[str, Any]:
    """The card's figures, on the test split and on clips and pictures of single sounds that are in no split.

    Returns: "kinds": AUROC of each kind's caption; "order": how often "a before b" is nearer than "b before a" where a
        comes first; "retrieval": how often the partner is first among eight, from each modality to each other.
    """
    made = clips("test", material.test, material.seed)
    embedded = embed_clips(pair, made).float().cpu()
    return {
        "clips": {"test": len(made)},
        "kinds": {kind: _kind(pair, kind, made, embedded) for kind in KINDS},
        "order": judge_order(pair, made, embedded),
        "retrieval": retrieval(pair, material.seed),
    }


@torch.no_grad()
def embed_clips(pair: ImageTextPair, made: Sequence[Clip], batch: int = 64) -> Tensor:
    """Unit vectors, (N, E)."""
    found = []
    for k in range(0, len(made), batch):
        spectrograms = np.stack([spectrogram(one) for one in made[k : k + batch]])
        found.append(pair.embed_audio(torch.from_numpy(spectrograms).float() / 255))
    return torch.cat(found)


def _kind(pair: ImageTextPair, kind: str, made: Sequence[Clip], embedded: Tensor) -> dict[str, Any]:
    present = np.array([any(sound.kind == kind for sound in one.sounds) for one in made])
    scores = (embedded @ embed_prompts(pair, [sentence(kind)])[0]).numpy()
    return {"positives": int(present.sum()), "auroc": round(auroc(scores, present), 4)}


def judge_order(pair: ImageTextPair, made: Sequence[Clip], embedded: Tensor) -> dict[str, Any]:
    """How often "a before b" is nearer to a clip in which a comes first than "b before a" is; `embedded`: (N, E)."""
    right = []
    for one, vector in zip(made, embedded, strict=True):
        for key in keys_of(one.sounds):
            first, _, last = key.partition("|before|")
            if last:
                said = (f"{noun(first)} before {noun(last)}", f"{noun(last)} before {noun(first)}")
                true, false = embed_prompts(pair, said) @ vector
                right.append(bool(true > false))
    return {"pairs": len(right), "right_way_round": round(float(np.mean(right)), 4)}


def retrieval(pair: ImageTextPair, seed: int = 0, groups: int = _GROUPS) -> Mapping[str, float]:
    """Share of partners that are first among eight; one clip, picture and caption of each kind in every group."""
    captions = embed_prompts(pair, [sentence(kind) for kind in KINDS])
    hits: dict[str, list[float]] = {}
    for group in range(groups):
        vectors = {"text": captions, **_group(pair, group, seed)}
        for one, ours in vectors.items():
            for other, theirs in vectors.items():
                if one != other:
                    first = (ours @ theirs.T).argmax(1)
                    hits.setdefault(f"{one} to {other}", []).append(
                        float((first == torch.arange(len(KINDS))).float().mean())
                    )
    return {name: round(float(np.mean(found)), 4) for name, found in hits.items()}


@torch.no_grad()
def _group(pair: ImageTextPair, group: int, seed: int) -> dict[str, Tensor]:
    """Embedded clips and pictures of single sounds, (8, E) each on the CPU."""
    made = [clip("test", group, seed, (kind,)) for kind in KINDS]
    drawn = [draw_picture((kind,), generator_of("examples", group, seed, (kind,))) for kind in KINDS]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    return {"audio": embed_clips(pair, made).float().cpu(), "image": pair.embed_images(pixels).float().cpu()}
