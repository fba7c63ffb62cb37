"""What is told of a decoder that was trained on a user's own pictures: figures on held-out ones, and a grid."""

from pathlib import Path
from typing import Any

import numpy as np
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
GAP = 4  # pixels between the lent pictures and the grid
_PAPER = 138  # grey between them, on light and dark pages alike


def report(model: Autoencoder, source: StoredPictures, folder: Path, key: str) -> dict[str, Any]:
    """Measure on held-out pictures, and write the grid `KEY-grid.png` beside the weights.

    The grid's first column holds the pictures that lend the first block, its first row those that lend the second.

    Returns: for the card: "figures" with rmse, rmse_of_mean (of the mean picture instead of a decoder) and, where
        latents are known and enough, lms_tree (else None).
    """
    scenes = source.hold_out(10**9, torch.Generator().manual_seed(0))
    codes, square = _encode(model, source, scenes)
    first, second = (codes[:, list(block)] for block in model.blocks[:2])
    n = min(GRID_SIDE, len(codes) // 2)
    images = grid.draw_grid(model.decoder, first[:n], second[n : 2 * n], codes[0])
    folder.mkdir(parents=True, exist_ok=True)
    lent = source.draw(scenes[: 2 * n], source.side)
    Image.fromarray(_sheet(images.cpu(), lent[:n], lent[n:])).save(folder / f"{key}-grid.png")
    return {
        "figures": {
            "rmse": square**0.5,
            "rmse_of_mean": _rmse_of_mean(source, scenes),
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


def _rmse_of_mean(source: StoredPictures, scenes: Tensor) -> float:
    """What answering every held-out picture with their mean would err by."""
    count, total, square = len(scenes), 0.0, 0.0
    for part in scenes.split(_BATCH):
        images = source.draw(part, source.side).double()
        total, square = total + images.sum(0), square + images.square().sum(0)
    return float(((square / count) - (total / count).square()).mean().clamp_min(0).sqrt())


def _sheet(images: Tensor, rows: Tensor, columns: Tensor) -> np.ndarray:
    """(n, m, 3, S, S) with the pictures of rows (n, 3, S, S) and columns (m, 3, S, S) beside it, as one picture."""
    side = images.shape[-1]
    n, m = images.shape[:2]
    sheet = np.full(((n + 1) * side + GAP, (m + 1) * side + GAP, 3), _PAPER, np.uint8)
    sheet[:side, side + GAP :] = np.concatenate(list(_pixels(columns)), axis=1)
    sheet[side + GAP :, :side] = np.concatenate(list(_pixels(rows)), axis=0)
    cells = _pixels(images.flatten(0, 1)).reshape(n, m, side, side, 3)
    sheet[side + GAP :, side + GAP :] = cells.transpose(0, 2, 1, 3, 4).reshape(n * side, m * side, 3)
    return sheet


def _pixels(images: Tensor) -> np.ndarray:
    """(N, 3, S, S) in [0, 1] -> (N, S, S, 3) uint8."""
    return images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
