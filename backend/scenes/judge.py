"""What a model of scenes knows: attributes and relations one by one, asked in captions, on unseen scenes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from backend.image_text.judge import auroc, embed_prompts
from backend.models.clip import ImageTextPair
from backend.scenes.captions import HALVES, RELATIONS, halves_of, noun, relation, relation_caption
from backend.scenes.draw import COLOURS, KINDS, SHAPES, Scene

_AT = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
_BATCH = 128


def judge_scenes(pair: ImageTextPair, drawn: Sequence[Scene]) -> dict[str, Any]:
    """The card's figures.

    Returns: "attributes": AUROC of "a red circle" and so on, for each colour, shape and kind; "places" and "two": mean
        over kinds; "relations": of every two things of which the relation holds one way round, how well the caption
        tells this way from the other.
    """
    embedded = embed_scenes(pair, drawn)
    attributes = {name: _attribute(pair, name, drawn, embedded) for name in (*COLOURS, *SHAPES, *KINDS)}
    return {
        "pictures": {"test": len(drawn)},
        "attributes": attributes,
        "mean": {
            "colour": _mean(attributes[name] for name in COLOURS),
            "shape": _mean(attributes[name] for name in SHAPES),
            "kind": _mean(attributes[name] for name in KINDS),
        },
        "places": {half: _place(pair, half, drawn, embedded) for half in HALVES},
        "two": _two(pair, drawn, embedded),
        "relations": {name: _relation(pair, name, drawn, embedded) for name in RELATIONS},
    }


@torch.no_grad()
def embed_scenes(pair: ImageTextPair, drawn: Sequence[Scene]) -> torch.Tensor:
    """Unit vectors, (N, E) on the CPU."""
    found = []
    for k in range(0, len(drawn), _BATCH):
        pixels = np.stack([scene.pixels.transpose(2, 0, 1) for scene in drawn[k : k + _BATCH]])
        found.append(pair.embed_images(torch.from_numpy(pixels).float() / 255).float().cpu())
    return torch.cat(found)


def _scores(pair: ImageTextPair, caption: str, embedded: torch.Tensor) -> np.ndarray:
    return (embedded @ embed_prompts(pair, [caption])[0]).numpy()


def _attribute(pair: ImageTextPair, name: str, drawn: Sequence[Scene], embedded: torch.Tensor) -> dict[str, Any]:
    present = np.array([any(name in (t.kind, t.shape, t.colour) for t in scene.things) for scene in drawn])
    return {
        "positives": int(present.sum()),
        "auroc": _round(auroc(_scores(pair, noun(name), embedded), present)),
    }


def _place(pair: ImageTextPair, half: str, drawn: Sequence[Scene], embedded: torch.Tensor) -> dict[str, Any]:
    """Among scenes with the kind: is it in this half? Mean over kinds."""
    found = []
    for kind in KINDS:
        rows = [i for i, scene in enumerate(drawn) if any(t.kind == kind for t in scene.things)]
        there = [any(t.kind == kind and half in halves_of(t) for t in drawn[i].things) for i in rows]
        found.append(auroc(_scores(pair, f"{noun(kind)} {_AT[half]}", embedded[rows]), np.array(there)))
    return {"auroc": _round(np.nanmean(found))}


def _two(pair: ImageTextPair, drawn: Sequence[Scene], embedded: torch.Tensor) -> dict[str, Any]:
    """Among scenes with the kind: is it there twice? Mean over kinds."""
    found = []
    for kind in KINDS:
        counts = np.array([sum(t.kind == kind for t in scene.things) for scene in drawn])
        rows = np.flatnonzero(counts)
        found.append(auroc(_scores(pair, f"two {kind}s", embedded[rows]), counts[rows] > 1))
    return {"auroc": _round(np.nanmean(found))}


def _relation(pair: ImageTextPair, name: str, drawn: Sequence[Scene], embedded: torch.Tensor) -> dict[str, Any]:
    """Both things are there; negatives are the same captions with the two exchanged."""
    rows, true, false = [], [], []
    for i, scene in enumerate(drawn):
        kinds = [thing.kind for thing in scene.things]
        for one in scene.things:
            for other in scene.things:
                if kinds.count(one.kind) == kinds.count(other.kind) == 1 and relation(one, name, other):
                    rows.append(i)
                    true.append(relation_caption(one.kind, name, other.kind))
                    false.append(relation_caption(other.kind, name, one.kind))
    captions = sorted({*true, *false})
    at = {caption: k for k, caption in enumerate(captions)}
    prompts = torch.cat([embed_prompts(pair, captions[k : k + _BATCH]) for k in range(0, len(captions), _BATCH)])
    right, wrong = (
        (embedded[rows] * prompts[[at[caption] for caption in said]]).sum(1).numpy() for said in (true, false)
    )
    scores, holds = np.concatenate([right, wrong]), np.repeat([True, False], len(rows))
    return {
        "pairs": len(rows),
        "auroc": _round(auroc(scores, holds)),
        "right_way_round": _round((right > wrong).mean()),
    }


def _mean(rows: Any) -> float:
    return _round(np.mean([row["auroc"] for row in rows]))


def _round(value: float) -> float:
    return round(float(value), 4)
