"""Figures of the hosts that other drawn data sets have no use for: ghosting, paths of several attributes, probes."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_image import portraits
from backend.additive_image.directions import AttributeEffect, fit_probes
from backend.additive_image.fitted import FittedModel, encode_rows
from backend.additive_image.measure import measure_path, to_pixels
from backend.additive_image.peers import effect_r2
from backend.models.diffusion_autoencoder import DiffusionAutoencoder, interpolate_linearly

PROBED = ("smile", "age", "glasses", "hair", "skin")
BARS: dict[str, tuple[str, float]] = {
    "effects.image.r2": (">=", 0.97),
    "below_ceiling": ("<=", 0.01),
    "reconstruction.zero": ("<=", 0.0004),
    "ghosting": ("<=", 0.0015),
    "paths.sharpness": (">=", 0.8),
    "paths.smile": (">=", 0.95),
    "paths.age": (">=", 0.95),
    **{f"probes.{name}": (">=", 0.93) for name in PROBED},
    "directions.glasses_relative_error": ("<=", 0.10),
    "directions.age_relative_error": ("<=", 0.10),
    "directions.smile_relative_error": ("<=", 0.15),
    "directions.largest_without_effect": ("<=", 0.02),
    "directions.widest_without_effect": ("<=", 0.02),
}
_PATHS = 6  # of each attribute
_FRAMES = 9  # fitting a portrait to a frame takes as long as decoding several


def host_figures(
    autoencoder: DiffusionAutoencoder, model: FittedModel, effects: list[AttributeEffect], n: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """What `BARS` asks for beside the figures that every model has.

    Args: effects: of `attribute_effects`. n: unseen hosts for the probes.
    Returns: "probes" by attribute, R2 on unseen hosts; "ghosting" half-way between two smiles, over all else;
        "paths": correlation of measured smile and age with alpha, least sharpness; "directions": errors of effects.
    """
    ends = _hosts_like_each_other(seed)
    found = {name: _paths(autoencoder, model, name, ends) for name in ("smile", "age")}
    return {
        "probes": _probe(autoencoder, model, n, seed),
        "ghosting": float(np.mean([_ghosting(autoencoder, row) for row in ends])),
        "paths": {
            **{name: correlation for name, (correlation, _, _) in found.items()},
            "sharpness": min(sharpness for _, sharpness, _ in found.values()),
            "effect_r2": found["smile"][2],
        },
        "directions": judge_directions(effects),
    }


def _hosts_like_each_other(seed: int) -> Tensor:
    """Hosts between whose variants paths lead, (6, 9)."""
    return portraits.sample_attributes(_PATHS, torch.Generator().manual_seed(77 + seed))


def _variants(row: Tensor, name: str, low: float = 0.05, high: float = 0.95) -> Tensor:
    """A host with an attribute near the low and near the high end of its range, (2, 9)."""
    of = portraits.ATTRIBUTES[portraits.attribute_index(name)]
    rows = row.repeat(2, 1)
    rows[:, portraits.attribute_index(name)] = torch.tensor([low, high]) * (of.high - of.low) + of.low
    return rows


@torch.no_grad()
def _decode_between(autoencoder: DiffusionAutoencoder, rows: Tensor, alphas: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and images on the way between two portraits."""
    codes = autoencoder.encode(portraits.draw(rows).to(autoencoder.alphas_cumprod.device))
    path = interpolate_linearly(codes[0], codes[1], alphas)
    return path, autoencoder.decode(path)


def _ghosting(autoencoder: DiffusionAutoencoder, row: Tensor) -> float:
    _, images = _decode_between(autoencoder, _variants(row, "smile"), torch.tensor([0.5]))
    return portraits.ghosting(images[0].cpu(), row)


def _paths(
    autoencoder: DiffusionAutoencoder, model: FittedModel, name: str, ends: Tensor
) -> tuple[float, float, float]:
    """Mean correlation of an attribute with alpha, mean sharpness, R2 of the effect along the path."""
    alphas, rows = torch.linspace(0, 1, _FRAMES), []
    for row in ends:
        path, images = _decode_between(autoencoder, _variants(row, name), alphas)
        measured = measure_path(model.dataset.name, to_pixels(images), alphas.numpy())
        learned = model.head.image_effect(path).value.cpu().numpy()
        truth = model.dataset.image_effect(measured.attributes)
        rows.append((measured.correlation(name) or 0.0, measured.sharpness, effect_r2(learned, truth)))
    correlation, sharpness, r2 = np.mean(rows, 0)
    return float(correlation), float(sharpness), float(r2)


def _probe(autoencoder: DiffusionAutoencoder, model: FittedModel, n: int, seed: int) -> dict[str, float]:
    """R2 of linear probes on hosts that nothing was fitted to."""
    unseen, _ = model.held_out(n, seed)
    codes = torch.cat([model.codes, encode_rows(autoencoder, unseen, slice(None))])
    first = {name: values[: len(model.codes)] for name, values in model.dataset.attributes.items()}
    both = {name: np.concatenate([first[name], unseen.attributes[name]]) for name in first}
    return fit_probes(codes[-2 * n :], {name: values[-2 * n :] for name, values in both.items()}).r2


def judge_directions(effects: list[AttributeEffect]) -> dict[str, float]:
    """Relative errors of what has an effect; the largest effect and half interval of what has none."""
    still = [row for row in effects if not row.truth]
    found = {
        f"{row.attribute}_relative_error": abs(row.effect - row.truth) / abs(row.truth) for row in effects if row.truth
    }
    return {
        **found,
        "largest_without_effect": max(abs(row.effect) for row in still),
        "widest_without_effect": max((row.high - row.low) / 2 for row in still),
    }
