"""What a radiograph model knows: finding by finding, asked in words, on pictures that it has not seen.

A finding's score is the cosine of the picture with the mean of its prompts. Prompts are phrasings that training never
saw. The threshold between present and absent is chosen on validation pictures and applied to test pictures: the best
balanced accuracy of those that call at most one picture in ten without the finding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from torch import Tensor

from backend.errors import BadInput
from backend.image_text.data import Radiographs
from backend.models.clip import ImageTextPair
from backend.radiographs import reports
from backend.radiographs.findings import KINDS, SIDED

PHRASING = "held_out"
LEAST_SPECIFICITY = 0.9  # on validation pictures
_RETRIEVED = 100  # reports that a picture's own must be found among


def judge_radiographs(pair: ImageTextPair, validation: Radiographs, test: Radiographs) -> dict[str, Any]:
    """The card's figures.

    Returns: "findings": for each kind its positives, AUROC (of the prompts' mean, of single prompts, against the
        denial), threshold with balanced accuracy, sensitivity and specificity, side right; "mean": over kinds;
        "retrieval": how often a picture's own report is first of 100 (or one that says the same).
    """
    known, unseen = embed_pixels(pair, validation.pixels), embed_pixels(pair, test.pixels)
    findings = {kind: _judge_kind(pair, kind, (validation, known), (test, unseen)) for kind in KINDS}
    return {
        "pictures": {"validation": len(validation), "test": len(test)},
        "thresholds": f"best balanced accuracy on validation pictures at a specificity of {LEAST_SPECIFICITY} or more",
        "findings": findings,
        "mean": {
            name: _round(np.mean([row[name] for row in findings.values() if row.get(name) is not None]))
            for name in ("auroc", "auroc_single_prompt", "auroc_against_denial", "balanced_accuracy", "side_accuracy")
        },
        "retrieval": retrieval(pair, test, unseen),
    }


def _judge_kind(
    pair: ImageTextPair, kind: str, validation: tuple[Radiographs, Tensor], test: tuple[Radiographs, Tensor]
) -> dict[str, Any]:
    prompts = embed_prompts(pair, reports.statements(kind, PHRASING))
    prompt, denial = mean_prompt(prompts), mean_prompt(embed_prompts(pair, reports.denials(kind, PHRASING)))
    threshold = best_threshold((validation[1] @ prompt).numpy(), has_kind(validation[0], kind), LEAST_SPECIFICITY)
    present, scores = has_kind(test[0], kind), (test[1] @ prompt).numpy()
    sensitivity, specificity = (scores[present] > threshold).mean(), (scores[~present] <= threshold).mean()
    singles = [auroc(row, present) for row in (prompts @ test[1].T).numpy()]
    return {
        "positives": int(present.sum()),
        "auroc": _round(auroc(scores, present)),
        "auroc_single_prompt": _round(np.mean(singles)),
        "auroc_against_denial": _round(auroc(scores - (test[1] @ denial).numpy(), present)),
        "threshold": _round(threshold, 5),
        "balanced_accuracy": _round((sensitivity + specificity) / 2),
        "sensitivity": _round(sensitivity),
        "specificity": _round(specificity),
        "side_accuracy": side_accuracy(pair, kind, *test),
    }


def side_accuracy(pair: ImageTextPair, kind: str, pictures: Radiographs, embedded: Tensor) -> float | None:
    """How often "left X" or "right X" is the nearer one of the true side; None: the kind has no side."""
    if kind not in SIDED:
        return None
    left, right = (
        mean_prompt(embed_prompts(pair, reports.statements(kind, PHRASING, side))) for side in ("left", "right")
    )
    sides = [[f.side for f in record.findings if f.kind == kind] for record in pictures.records]
    rows = [i for i, found in enumerate(sides) if found]
    is_left = np.array([sides[i][0] == "left" for i in rows])
    said_left = (embedded[rows] @ (left - right)).numpy() > 0
    return _round((said_left == is_left).mean())


def retrieval(pair: ImageTextPair, pictures: Radiographs, embedded: Tensor) -> dict[str, float]:
    """Of groups of 100 pictures and their reports: is the first report one's own, or one of the same findings?"""
    texts = [record.text for record in pictures.records]
    said = torch.cat([embed_prompts(pair, texts[k : k + 128]) for k in range(0, len(texts), 128)])
    same = [sorted((f.kind, f.side, f.place) for f in record.findings) for record in pictures.records]
    order = np.random.default_rng(0).permutation(len(texts))  # variants of one pose lie side by side
    own, alike = [], []
    for k in range(0, len(order) - _RETRIEVED + 1, _RETRIEVED):
        rows = order[k : k + _RETRIEVED]
        first = rows[(embedded[rows] @ said[rows].T).argmax(1).numpy()]
        own.append((first == rows).mean())
        alike.append(np.mean([same[a] == same[b] for a, b in zip(first, rows, strict=True)]))
    if not own:
        return {}
    return {"own_report_first": _round(np.mean(own)), "same_findings_first": _round(np.mean(alike))}


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a picture has a finding: cosine and threshold, and how often such an answer was right in the test."""

    kind: str
    score: float
    threshold: float
    balanced_accuracy: float

    @property
    def is_present(self) -> bool:
        return self.score > self.threshold


def answer(pair: ImageTextPair, picture: Tensor) -> list[Answer]:
    """Every finding that the model's card has a threshold for, in the card's order.

    Args: picture: its unit vector, (E,) on the CPU.
    Raises: BadInput: the model's card holds no thresholds.
    """
    judged = pair.card.get("judged", {}).get("findings")
    if not judged:
        raise BadInput(f"{pair.key} has no calibrated thresholds", "model")
    found = []
    for kind, row in judged.items():
        prompt = mean_prompt(embed_prompts(pair, reports.statements(kind, PHRASING)))
        found.append(Answer(kind, float(picture @ prompt), row["threshold"], row["balanced_accuracy"]))
    return found


# ----------------------------------------------------------------- parts
@torch.no_grad()
def embed_pixels(pair: ImageTextPair, pixels: np.ndarray, batch: int = 128) -> Tensor:
    """Unit vectors of grey pictures, (N, S, S) uint8 -> (N, E) on the CPU."""
    parts = [
        torch.from_numpy(np.array(pixels[k : k + batch, None])).float() / 255 for k in range(0, len(pixels), batch)
    ]
    return torch.cat([pair.embed_images(part).float().cpu() for part in parts])


@torch.no_grad()
def embed_prompts(pair: ImageTextPair, texts: Sequence[str]) -> Tensor:
    """Unit vectors, (N, E) on the CPU."""
    return pair.embed_texts(list(texts)).float().cpu()


def mean_prompt(prompts: Tensor) -> Tensor:
    """The unit vector in the middle of several."""
    return F.normalize(prompts.mean(0), dim=0)


def has_kind(pictures: Radiographs, kind: str) -> np.ndarray:
    return np.array([any(f.kind == kind for f in record.findings) for record in pictures.records])


def auroc(scores: np.ndarray, present: np.ndarray) -> float:
    """Chance that a positive scores above a negative; ties count half. NaN without one of the two.

    >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True]))
    0.875
    """
    n_present, n = int(present.sum()), len(present)
    if n_present in (0, n):
        return float("nan")
    ranks = rankdata(scores)[present].sum() - n_present * (n_present + 1) / 2
    return float(ranks / (n_present * (n - n_present)))


def best_threshold(scores: np.ndarray, present: np.ndarray, least_specificity: float = 0.0) -> float:
    """The threshold with the best balanced accuracy, half-way between the neighbouring scores.

    Args: least_specificity: share of the negatives that must lie below it, if that can be had.

    >>> best_threshold(np.array([0.0, 0.2, 0.6, 0.8]), np.array([False, False, True, True]))
    0.4
    """
    order = np.argsort(scores)
    scores, present = scores[order], present[order]
    missed = np.cumsum(present) / max(1, present.sum())  # positives at or below each score
    passed = np.cumsum(~present) / max(1, (~present).sum())
    gain = passed - missed - 2 * (passed < least_specificity)  # 2: more than a gain can be
    k = int(np.argmax(gain[:-1]))
    return float((scores[k] + scores[k + 1]) / 2)


def _round(value: float, digits: int = 4) -> float:
    return round(float(value), digits)
