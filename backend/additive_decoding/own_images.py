"""What is told of a decoder that was trained on a user's own pictures: figures on held-out ones, and a grid."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from backend.additive_decoding import grid
from backend.additive_decoding.measure import tree_match
from backend.additive_decoding.sources import StoredPictures
from backend.models.additive_decoder import Autoencoder

GRID_SIDE = 7  # pictures that lend a block, along each side of the grid
_FITTED_SHARE = 0.75  # of the held-out pictures: trees are fitted on them and scored on the others
_FEWEST_SCORED = 200  # held-out pictures below which no tree is fitted
_BATCH = 100


def report(model: Autoencoder, source: StoredPictures, folder: Path, key: str) -> dict[str, Any]:
    """Measure on held-out pictures, and write the grid `KEY-grid.png` beside the weights.

    Returns: for the card: "figures" with rmse and, where latents are known and enough, lms_tree (else None).
    """
    scenes = source.hold_out(10**9, torch.Generator().manual_seed(0))
    codes, square = _encode(model, source, scenes)
    first, second = (codes[:, list(block)] for block in model.blocks[:2])
    n = min(GRID_SIDE, len(codes) // 2)
    images = grid.draw_grid(model.decoder, first[:n], second[n : 2 * n], codes[0])
    Image.fromarray(_sheet(images).numpy()).save(folder / f"{key}-grid.png")
    return {
        "figures": {
            "rmse": square**0.5,
            "lms_tree": _lms_tree(model, source, scenes, codes),
            "held_out_pictures": len(scenes),
        },
        "grid": f"{key}-grid.png",
    }


def _encode(model: Autoencoder, source: StoredPictures, scenes: Tensor) -> tuple[Tensor, float]:
    """Codes of pictures, (N, d), and the mean squared error of decoding them."""
    device, codes, total = next(model.parameters()).device, [], 0.0
    with torch.no_grad():
        for part in scenes.split(_BATCH):
            images = source.draw(part, source.side).to(device)
            codes.append(model.encode(images))
            total += float((model.decode(codes[-1]).clamp(0, 1) - images).square().mean()) * len(part)
    return torch.cat(codes), total / len(scenes)


def _lms_tree(model: Autoencoder, source: StoredPictures, scenes: Tensor, codes: Tensor) -> float | None:
    true = source.latents(scenes)
    if true is None or len(scenes) < _FEWEST_SCORED or source.pictures.blocks != model.blocks:
        return None
    learned, true, cut = codes.cpu().numpy(), true.numpy(), int(_FITTED_SHARE * len(scenes))
    return tree_match(learned[:cut], true[:cut], learned[cut:], true[cut:], model.blocks, model.kind).score


def _sheet(images: Tensor) -> Tensor:
    """(n, m, 3, S, S) -> one picture, (n S, m S, 3) uint8."""
    n, m, _, side, _ = images.shape
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()
    return pixels.permute(0, 3, 1, 4, 2).reshape(n * side, m * side, 3)
