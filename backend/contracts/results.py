"""Results: what came out, where it came from, what it cost; and the signs of life on the way."""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.contracts.requests import Request, request_from_json, request_to_json
from backend.errors import BadInput


@dataclass(frozen=True, slots=True)
class Step:
    """One sign of life of long work: how far it is, and what there is to show already."""

    done: int
    total: int
    message: str = ""
    partial: "Result | None" = None

    @property
    def fraction(self) -> float:
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0


OnStep = Callable[[Step], None] | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a result came from and what it cost."""

    model_digest: str = ""  # sha256 of the weights
    device: str = "cpu"
    dtype: str = "float32"
    elapsed_s: float = 0.0
    forward_passes: int = 0  # images pushed through the model
    backward_passes: int = 0
    versions: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()  # what a person should know: "the chunk was halved: out of memory"


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """An answer: arrays, plain values and a quality figure, with its request and provenance."""

    request: Request
    arrays: Mapping[str, np.ndarray]
    values: Mapping[str, Any] = field(default_factory=dict)  # JSON: target, label, score, ...
    quality: Mapping[str, float | None] = field(default_factory=dict)  # completeness_gap, ...
    unit: str = ""
    provenance: Provenance = field(default_factory=Provenance)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Result)
            and self.manifest() == other.manifest()
            and self.arrays.keys() == other.arrays.keys()
            and all(
                self.arrays[name].dtype == other.arrays[name].dtype
                and np.array_equal(self.arrays[name], other.arrays[name], equal_nan=self.arrays[name].dtype.kind == "f")
                for name in self.arrays
            )
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays (the rest is small)."""
        return sum(array.nbytes for array in self.arrays.values()) + 4096

    def manifest(self) -> dict[str, Any]:
        """Everything but the arrays, as a JSON object."""
        provenance = dataclasses.asdict(self.provenance)
        provenance["versions"] = dict(self.provenance.versions)
        provenance["notes"] = list(self.provenance.notes)
        return {
            "request": request_to_json(self.request),
            "unit": self.unit,
            "values": dict(self.values),
            "quality": dict(self.quality),
            **provenance,
            "arrays": {name: list(array.shape) for name, array in self.arrays.items()},
        }

    def to_npz(self) -> bytes:
        """The arrays as the bytes of an .npz file (no pickles in it)."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **self.arrays)
        return buffer.getvalue()

    def save(self, folder: str | Path) -> Path:
        """Write `result.npz` and `manifest.json` into the folder, made if missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "result.npz").write_bytes(self.to_npz())
        (folder / "manifest.json").write_text(json.dumps(self.manifest(), indent=2) + "\n")
        return folder

    @classmethod
    def from_parts(cls, manifest: Mapping[str, Any], npz: bytes) -> "Result":
        """Put a result together again from its manifest and the bytes of its .npz file.

        Raises: BadInput: they are no parts of a result, or damaged.
        """
        try:
            return cls._from_parts(manifest, npz)
        except BadInput:
            raise
        except Exception:  # numpy, zipfile and zlib meet damage with errors of their own, a manifest with many more
            raise BadInput("this is no result that Prism wrote, or it is damaged", "manifest") from None

    @classmethod
    def _from_parts(cls, manifest: Mapping[str, Any], npz: bytes) -> "Result":
        with np.load(io.BytesIO(npz), allow_pickle=False) as file:
            arrays = {name: file[name] for name in manifest["arrays"]}
        provenance = Provenance(
            **{f.name: manifest[f.name] for f in dataclasses.fields(Provenance) if f.name not in ("versions", "notes")},
            versions=tuple(manifest["versions"].items()),
            notes=tuple(manifest["notes"]),
        )
        return cls(
            request=request_from_json(manifest["request"]),
            arrays=arrays,
            values=manifest["values"],
            quality=manifest["quality"],
            unit=manifest["unit"],
            provenance=provenance,
        )

    @classmethod
    def load(cls, folder: str | Path) -> "Result":
        """Read back what `save` wrote."""
        folder = Path(folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        return cls.from_parts(manifest, (folder / "result.npz").read_bytes())
