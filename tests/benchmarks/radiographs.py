"""How like real radiographs the simulated ones look: intensities, radial power spectrum, lung against mediastinum.

    python -m tests.benchmarks.radiographs REAL.png REAL.png ... [--n 60] [--json]

Real pictures are the user's own; all are brought to the simulated ones' side. Needs the CT (see `radiographs.ct`).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from backend.radiographs.ct import load_chest
from backend.radiographs.simulate import simulate

SIDE = 128
_VARIANTS = 4
# Middle of the chest, as shares of height and width: the same places on every picture.
_ROWS, _LUNGS, _MEDIASTINUM = (0.35, 0.6), ((0.2, 0.36), (0.64, 0.8)), (0.47, 0.58)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("real", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=60)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    real = np.stack([read(path) for path in arguments.real])
    made = simulated(arguments.n, arguments.seed)
    figures = compare(real, made)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:40} {value}")


def read(path: Path) -> np.ndarray:
    """A grey picture in [0, 1], averaged down to the simulated ones' side."""
    return np.asarray(Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), float) / 255


def simulated(n: int, seed: int) -> np.ndarray:
    """(n, S, S) in [0, 1], four to a pose."""
    generator, made = np.random.default_rng(seed), []
    while len(made) < n:
        made += [radiograph.pixels for radiograph in simulate(load_chest(), generator, _VARIANTS, SIDE)]
    return np.stack(made[:n]) / 255


def compare(real: np.ndarray, made: np.ndarray) -> dict[str, object]:
    """Figures of the real pictures, and the 10th, 50th and 90th percentile of the simulated ones."""
    pooled = histogram(made)
    return {
        "percentiles 5 25 50 75 95, real": [_percentiles(picture) for picture in real],
        "percentiles 5 25 50 75 95, simulated": _percentiles(made),
        "histogram overlap, simulated pool": [round(float(overlap(histogram(x), pooled)), 3) for x in real],
        "histogram overlap, single pictures": [
            _spread([overlap(histogram(x), histogram(picture)) for picture in made]) for x in real
        ],
        "histogram overlap, real with real": [
            round(float(overlap(histogram(a), histogram(b))), 3) for k, a in enumerate(real) for b in real[:k]
        ],
        "spectral slope, real": [round(spectral_slope(x), 2) for x in real],
        "spectral slope, simulated": _spread([spectral_slope(picture) for picture in made]),
        "mediastinum less lung, real": [round(chest_contrast(x), 3) for x in real],
        "mediastinum less lung, simulated": _spread([chest_contrast(picture) for picture in made]),
    }


def histogram(pictures: np.ndarray) -> np.ndarray:
    """Shares of 32 grey levels."""
    counts, _ = np.histogram(pictures, 32, (0, 1))
    return counts / counts.sum()


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """1: the same histogram; 0: nothing in common."""
    return float(np.minimum(a, b).sum())


def spectral_slope(picture: np.ndarray) -> float:
    """Exponent of the radial power spectrum between 3 and 45 cycles per picture, under a Hann window."""
    side = len(picture)
    window = np.hanning(side)
    power = np.abs(np.fft.fftshift(np.fft.fft2((picture - picture.mean()) * window[:, None] * window))) ** 2
    rows, columns = np.indices(power.shape) - side // 2
    radius = np.hypot(rows, columns).astype(int)
    radial = np.bincount(radius.ravel(), power.ravel()) / np.bincount(radius.ravel())
    cycles = np.arange(3, 46)
    return float(np.polyfit(np.log(cycles), np.log(radial[cycles]), 1)[0])


def chest_contrast(picture: np.ndarray) -> float:
    """Grey of the mediastinum less that of the lungs, between fixed places."""
    side = len(picture)
    rows = slice(*(int(share * side) for share in _ROWS))
    means = [picture[rows, int(a * side) : int(b * side)].mean() for a, b in (*_LUNGS, _MEDIASTINUM)]
    return float(means[2] - (means[0] + means[1]) / 2)


def _percentiles(pictures: np.ndarray) -> list[float]:
    return [round(float(x), 2) for x in np.percentile(pictures, (5, 25, 50, 75, 95))]


def _spread(values: list[float]) -> list[float]:
    return [round(float(x), 3) for x in np.percentile(values, (10, 50, 90))]


if __name__ == "__main__":
    main()
