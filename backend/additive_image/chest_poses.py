"""Makes the bank of posed chests from the CT: `python -m backend train radiographs-poses`."""

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backend.additive_image.chests import (
    ATTRIBUTES,
    BANK,
    DEPTH,
    GROWTHS,
    HEIGHTS_MM,
    N_POSES,
    SIDE,
    Bank,
    draw_chests,
    fit_reading,
)
from backend.contracts import OnStep, Step
from backend.files import write_whole
from backend.radiographs.ct import Chest, load_chest
from backend.radiographs.lesions import fill_base, grow_heart
from backend.radiographs.pose import Pose, View, cast, sample_pose

NAME = "radiographs-poses"
_OVERSAMPLED = 2
_READ = 2000  # pictures on which attributes are learned to be read
# Much narrower than the simulator's own: patients turn, breathe and are built differently, and are alike in all else.
# With more, 5,000 patients and twelve latents told the heart from the pose with R2 .8 only.
_RANGES = {
    "field_mm": (299, 301),
    "yaw": (-5, 5),
    "pitch": (-0.5, 0.5),
    "roll": (-0.3, 0.3),
    "scale_x": (0.96, 1.04),
    "scale_y": (0.99, 1.01),
    "scale_z": (0.99, 1.01),
    "inflation_mm": (-12, 18),
    "shift_x_mm": (-1, 1),
    "shift_z_mm": (-1, 1),
    "lung_density": (0.98, 1.02),
    "bone_density": (0.78, 0.86),
    "fat_mm": (4, 8),
    "deformation_mm": (0.3, 0.6),
}
_WIDEST = 5  # rows whose mean is a width: it moves by less than whole pixels
_EDGE = 0.3  # of the integrals: where a grown heart ends


def make_bank(
    n: int = N_POSES, seed: int = 0, on_step: OnStep = None, path: Path = BANK, chest: Chest | None = None
) -> dict[str, Any]:
    """Pose a CT n times and keep what `chests.Bank` holds; half a second a pose.

    Returns: what was made, for the command line. Raises: NotAvailable: the CT is not installed.
    """
    chest, started = chest or load_chest(), time.process_time()
    rows = []
    for k in range(n):
        rows.append(_posed(cast(chest, _pose(np.random.default_rng([seed, 5, k])), SIDE * _OVERSAMPLED)))
        if on_step is not None:
            on_step(Step(k + 1, n, f"chest {k + 1} of {n} posed"))
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    bank = Bank(**arrays, reading=np.zeros(0), offset=np.zeros(0))
    arrays["reading"], arrays["offset"] = fit_reading(*_pictures(bank, _READ, seed))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getvalue())
    return {
        "poses": n,
        "seed": seed,
        "bytes": buffer.tell(),
        "cpu_s": round(time.process_time() - started, 1),
        "reading_r2": _judge_reading(Bank(**arrays), seed),
    }


def _pictures(bank: Bank, n: int, seed: int, is_held_out: bool = False) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    chests = draw_chests(n, np.random.default_rng([seed, 6, is_held_out]), is_held_out, len(bank))
    return chests.draw(bank), chests.seen(bank)


def _judge_reading(bank: Bank, seed: int) -> dict[str, float]:
    """R2 of each attribute as it is read from pictures of other poses."""
    grey, seen = _pictures(bank, _READ // 4, seed, is_held_out=True)
    read = grey.reshape(len(grey), -1) @ bank.reading.T + bank.offset
    return {
        name: round(float(1 - ((read[:, k] - seen[name]) ** 2).mean() / max(seen[name].var(), 1e-12)), 4)
        for k, name in enumerate(ATTRIBUTES)
    }


def _pose(generator: np.random.Generator) -> Pose:
    drawn = {name: float(generator.uniform(*limits)) for name, limits in _RANGES.items()}
    return replace(sample_pose(generator), is_ap=False, **drawn)


def _posed(view: View) -> dict[str, np.ndarray]:
    """One row of the bank."""
    hearts = [grow_heart(view, (1 + 0.4 * (g - 1), g, 1 + 0.4 * (g - 1))) for g in GROWTHS]
    fluids = [[fill_base(view, side, height) for height in HEIGHTS_MM] for side in ("left", "right")]
    silhouettes = [view.heart.any(2), *(view.heart.any(2) | (change > _EDGE) for change in hearts)]
    chest = (view.lungs["left"].mask | view.lungs["right"].mask).any(2)
    widths = np.array([_width(silhouette) for silhouette in silhouettes])
    return {
        "base": _shrink(view.integrals).astype(np.float16),
        "hearts": _steps(np.stack(hearts)),
        "fluids": _steps(np.array(fluids)),
        "ratios": _straightened(widths / _width(chest)).astype(np.float32),
        "rotation": np.float32(view.pose.yaw),
        "breath": np.float32(view.pose.inflation_mm),
    }


def _width(silhouette: np.ndarray) -> float:
    """From the first to the last column, in the rows where that is most; (rows, columns) bool -> pixels."""
    rows = silhouette[silhouette.any(1)]
    spans = rows.shape[1] - rows.argmax(1) - rows[:, ::-1].argmax(1)
    return float(np.sort(spans)[-_WIDEST:].mean())


def _straightened(ratios: np.ndarray) -> np.ndarray:
    """Widths are whole pixels; the heart grows evenly, so a line through them knows them better."""
    growths = np.array((1.0, *GROWTHS))
    return np.polyval(np.polyfit(growths, ratios, 1), growths)


def _shrink(maps: np.ndarray) -> np.ndarray:
    """(..., 2 S, 2 S) -> (..., S, S), averaged."""
    *front, side, _ = maps.shape
    half = side // _OVERSAMPLED
    return maps.reshape(*front, half, _OVERSAMPLED, half, _OVERSAMPLED).mean((-3, -1))


def _steps(change: np.ndarray) -> np.ndarray:
    return np.round(_shrink(change) / DEPTH).clip(0, 255).astype(np.uint8)


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`make_bank` as a job. `context` is a `backend.jobs.JobContext`."""
    return make_bank(seed=args.get("seed", 0), on_step=context.on_step)
