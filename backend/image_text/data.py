"""Simulated radiographs for training and judging `cxr-clip`: made once, in shards, the same for ever.

Each pose has its own generator, seeded by split and number, so that shards may be made in any order and by any number
of processes. Poses of different splits are different patients as far as one CT allows: other pose, build, breathing and
deformation. The test split is also written in phrasings that training never sees.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.contracts import OnStep, Step
from backend.files import data_folder, draft_of
from backend.radiographs.ct import Chest, load_chest
from backend.radiographs.findings import LEAST_CONTRAST
from backend.radiographs.shapes import Finding
from backend.radiographs.simulate import HOW_MANY, WEIGHTS, Radiograph, simulate

VERSION = 1  # raised when the simulator draws something else from the same numbers
POSES_PER_SHARD = 25


@dataclass(frozen=True, slots=True)
class Split:
    name: str
    number: int  # enters the seeds
    poses: int
    variants: int  # of each pose
    phrasing: str = "training"

    @property
    def n_shards(self) -> int:
        return -(-self.poses // POSES_PER_SHARD)


@dataclass(frozen=True, slots=True)
class DataRecipe:
    """Everything that decides the pictures."""

    side: int = 128  # pixels
    seed: int = 0
    train_poses: int = 800
    train_variants: int = 16
    validation_poses: int = 100
    test_poses: int = 260
    test_variants: int = 10

    @property
    def splits(self) -> tuple[Split, ...]:
        return (
            Split("train", 0, self.train_poses, self.train_variants),
            Split("validation", 1, self.validation_poses, self.test_variants),
            Split("test", 2, self.test_poses, self.test_variants, "held_out"),
        )

    def split(self, name: str) -> Split:
        return next(split for split in self.splits if split.name == name)

    @property
    def digest(self) -> str:
        """Names the folder: other settings never meet these pictures."""
        about = [VERSION, asdict(self), LEAST_CONTRAST, WEIGHTS, HOW_MANY, POSES_PER_SHARD]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Record:
    """One picture without its pixels: findings whose masks lie elsewhere, its report, its pose."""

    findings: tuple[Finding, ...]
    masks: tuple[int, ...]  # rows of `Radiographs.masks`, one for each finding
    boxes: tuple[tuple[int, int, int, int], ...]
    report: tuple[tuple[str, int | None], ...]  # sentences and the finding that each is about
    volume: str
    pose: int

    @property
    def text(self) -> str:
        return " ".join(sentence for sentence, _ in self.report)


@dataclass(frozen=True)
class Radiographs:
    """A split in memory: pixels (N, S, S) uint8, packed masks (M, S * S / 8) uint8, one record for each picture."""

    pixels: np.ndarray
    masks: np.ndarray
    records: tuple[Record, ...]

    def __len__(self) -> int:
        return len(self.records)

    def mask(self, row: int) -> np.ndarray:
        """(S, S) bool."""
        side = self.pixels.shape[1]
        return np.unpackbits(self.masks[row], count=side * side).reshape(side, side).astype(bool)


def radiographs_folder(recipe: DataRecipe) -> Path:
    """Under `PRISM_HOME`/data."""
    return data_folder() / f"radiographs-{recipe.digest}"


def load(name: str, recipe: DataRecipe, folder: Path | None = None) -> Radiographs:
    """A split that lies in the folder, whole. `make` makes what is missing."""
    folder = folder or radiographs_folder(recipe)
    parts = [_read_shard(folder / _shard_name(name, k)) for k in range(recipe.split(name).n_shards)]
    records, offset = [], 0
    for part in parts:
        for record in part.records:
            moved = tuple(row + offset for row in record.masks)
            records.append(Record(record.findings, moved, record.boxes, record.report, record.volume, record.pose))
        offset += len(part.masks)
    pixels, masks = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pixels", "masks"))
    return Radiographs(pixels, masks, tuple(records))


def make(
    recipe: DataRecipe,
    names: Sequence[str] = ("validation", "test", "train"),
    on_step: OnStep = None,
    folder: Path | None = None,
    chest: Callable[[], Chest] = load_chest,
    part: tuple[int, int] = (0, 1),
) -> Path:
    """Make the shards that are missing. Interrupted, it goes on where it was.

    Args:
        part: (k, n): only every n-th shard from the k-th on, so that n processes share the work.
        chest: read only if something is missing.
    Returns: the folder. Raises: NotAvailable: the CT is not installed.
    """
    folder = folder or radiographs_folder(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(split, k) for split in recipe.splits if split.name in names for k in range(split.n_shards)]
    jobs = jobs[part[0] :: part[1]]
    for done, (split, k) in enumerate(jobs):
        path = folder / _shard_name(split.name, k)
        if not path.exists():
            _write_shard(path, _radiographs(chest(), recipe, split, k))
        if on_step is not None:
            on_step(Step(done + 1, len(jobs), f"simulating radiographs, {split.name} {k + 1} of {split.n_shards}"))
    return folder


def _radiographs(chest: Chest, recipe: DataRecipe, split: Split, k: int) -> Iterator[tuple[int, Radiograph]]:
    """The pictures of a shard, each with the number of its pose."""
    for pose in range(k * POSES_PER_SHARD, min((k + 1) * POSES_PER_SHARD, split.poses)):
        generator = np.random.default_rng([recipe.seed, split.number, pose])
        for radiograph in simulate(chest, generator, split.variants, recipe.side, split.phrasing):
            yield pose, radiograph


def _shard_name(split: str, k: int) -> str:
    return f"{split}-{k:03}.npz"


_SCALARS = ("kind", "side", "place", "size", "size_mm", "contrast")  # of a finding, as JSON


def _write_shard(path: Path, made: Iterator[tuple[int, Radiograph]]) -> None:
    pixels, masks, records = [], [], []
    for pose, radiograph in made:
        pixels.append(radiograph.pixels)
        rows = []
        for finding in radiograph.findings:
            rows.append(len(masks))
            masks.append(np.packbits(finding.mask))
        records.append(
            {
                "findings": [{name: getattr(f, name) for name in _SCALARS} for f in radiograph.findings],
                "boxes": [f.box for f in radiograph.findings],
                "masks": rows,
                "report": [(sentence.text, sentence.finding) for sentence in radiograph.report],
                "volume": radiograph.volume,
                "pose": pose,
            }
        )
    text = np.frombuffer(json.dumps(records).encode(), np.uint8)
    width = pixels[0].size // 8
    packed = np.stack(masks) if masks else np.zeros((0, width), np.uint8)
    with draft_of(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, pixels=np.stack(pixels), masks=packed, records=text)


def _read_shard(path: Path) -> Radiographs:
    with np.load(path) as stored:
        records = tuple(_record(row) for row in json.loads(stored["records"].tobytes()))
        return Radiographs(stored["pixels"], stored["masks"], records)


_NOTHING = np.empty((0, 0))


def _record(row: dict[str, Any]) -> Record:
    found = tuple(Finding(change=_NOTHING, mask=_NOTHING, **finding) for finding in row["findings"])
    return Record(
        found,
        tuple(row["masks"]),
        tuple(tuple(box) for box in row["boxes"]),
        tuple((text, about) for text, about in row["report"]),
        row["volume"],
        row["pose"],
    )
