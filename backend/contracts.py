"""Plain typed data that crosses every border: requests in, results out. No torch here.

A request is frozen, hashable and printable; it names its inputs by the sha256 of their bytes. A result
carries its request and where it came from; it saves as `.npz` + JSON and comes back equal.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from backend.errors import BadInput

ParamValue = float | int | str | bool | None
Params = tuple[tuple[str, ParamValue], ...]


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


# ----------------------------------------------------------------- requests: path attribution
@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """Which classes does the model see in the image, and what exactly did it look at?"""

    kind: ClassVar[str] = "prediction"
    family: ClassVar[str] = "path_attribution"
    image_id: str
    model: str


@dataclass(frozen=True, slots=True)
class AttributionRequest:
    """What did each pixel do to the target's score, by one method?"""

    kind: ClassVar[str] = "attribution"
    family: ClassVar[str] = "path_attribution"
    image_id: str  # sha256 of the bytes
    model: str  # ModelSpec.key
    method: str  # MethodSpec.key
    target: int | None = None  # None: the top class; 0 is a class, so test `is None`
    baseline: tuple[str, ...] = ("black",)  # more than one: their attributions are averaged
    params: Params = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class FaithfulnessRequest:
    """Deletion and insertion curves of several attributions of one image, in one batched sweep."""

    kind: ClassVar[str] = "faithfulness"
    family: ClassVar[str] = "path_attribution"
    attributions: tuple[AttributionRequest, ...]
    baseline: str = "black"  # what replaces a deleted pixel
    steps: int = 56
    mask_id: str | None = None  # where the object is, if anybody knows
    seed: int = 0  # order of ties


@dataclass(frozen=True, slots=True)
class SensitivityRequest:
    """Sensitivity-N: does the sum over random pixel subsets predict the drop of the score?"""

    kind: ClassVar[str] = "sensitivity"
    family: ClassVar[str] = "path_attribution"
    attributions: tuple[AttributionRequest, ...]
    baseline: str = "black"
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5)  # subset size over number of pixels
    subsets: int = 100
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RandomisationRequest:
    """Sanity check: does the map change when the model's layers are randomised from the top?"""

    kind: ClassVar[str] = "randomisation"
    family: ClassVar[str] = "path_attribution"
    attribution: AttributionRequest
    max_layers: int = 8


@dataclass(frozen=True, slots=True)
class PathRequest:
    """The pictures along a path method's path, with the score at each of them."""

    kind: ClassVar[str] = "path"
    family: ClassVar[str] = "path_attribution"
    attribution: AttributionRequest
    frames: int = 33


# ----------------------------------------------------------------- requests: additive decoding
@dataclass(frozen=True, slots=True)
class DecodingRequest:
    """All combinations of two blocks' values, as one grid of images."""

    kind: ClassVar[str] = "decoding"
    family: ClassVar[str] = "additive_decoding"
    model: str
    method: str = ""  # kind of decoder; empty: the model's own
    grid: tuple[int, ...] = (9, 9)
    params: Params = ()
    seed: int = 0  # which training scenes lend their blocks, where a block has more than one latent


@dataclass(frozen=True, slots=True)
class BlockTableRequest:
    """Renders of every block on a grid of its latents, to be interpolated and added in the browser."""

    kind: ClassVar[str] = "block_table"
    family: ClassVar[str] = "additive_decoding"
    model: str
    size: int = 0  # values along each latent; 0: 65 for one latent, 33 for two


@dataclass(frozen=True, slots=True)
class LatentScatterRequest:
    """True and learned latents of scenes, in the training support and beyond it, with their pictures."""

    kind: ClassVar[str] = "latent_scatter"
    family: ClassVar[str] = "additive_decoding"
    model: str
    n: int = 200  # scenes from each
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DecoderFiguresRequest:
    """Latent matching, errors in and out of support, and the assumption meters of one model."""

    kind: ClassVar[str] = "decoder_figures"
    family: ClassVar[str] = "additive_decoding"
    model: str
    n: int = 500  # test scenes
    seed: int = 0


@dataclass(frozen=True, slots=True)
class SupportRequest:
    """A training support and a truth, before any training: raster, extension, components, scenes, nonlinearity."""

    kind: ClassVar[str] = "support"
    family: ClassVar[str] = "additive_decoding"
    support: str = "l"  # a name, or {"polygon": ...} or {"mask": ...} as JSON
    shapes: tuple[str, ...] = ("ball", "ball")
    free: tuple[str, ...] = ("y",)
    occlusion: bool = False
    nonlinearity: float = 1.0
    n: int = 200  # latents drawn
    seed: int = 0


Request = (
    PredictionRequest
    | AttributionRequest
    | FaithfulnessRequest
    | SensitivityRequest
    | RandomisationRequest
    | PathRequest
    | DecodingRequest
    | BlockTableRequest
    | LatentScatterRequest
    | DecoderFiguresRequest
    | SupportRequest
)
REQUEST_TYPES: dict[str, type] = {
    kind.kind: kind
    for kind in (
        PredictionRequest,
        AttributionRequest,
        FaithfulnessRequest,
        SensitivityRequest,
        RandomisationRequest,
        PathRequest,
        DecodingRequest,
        BlockTableRequest,
        LatentScatterRequest,
        DecoderFiguresRequest,
        SupportRequest,
    )
}
_DEFAULT_KINDS = {"additive_decoding": "decoding"}  # of requests that name their family only


def request_to_json(request: Request) -> dict[str, Any]:
    """The request as a JSON object that `request_from_json` reads back to an equal request."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return request_to_json(value)
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return value

    body = {f.name: plain(getattr(request, f.name)) for f in dataclasses.fields(request)}
    if "params" in body:
        body["params"] = dict(request.params)
    return {"kind": request.kind, "family": request.family, **body}


def request_from_json(body: Mapping[str, Any]) -> Request:
    """Read a request of any kind.

    Raises: BadInput: unknown kind or field, a missing field, or a field of the wrong type.
    """
    if not isinstance(body, Mapping):
        raise BadInput("the request is not a JSON object", "request")
    family = body.get("family")
    kind = body.get("kind", _DEFAULT_KINDS.get(family, "attribution") if isinstance(family, str) else "attribution")
    if kind not in REQUEST_TYPES:
        raise BadInput(f"unknown kind {kind!r}; one of {', '.join(REQUEST_TYPES)}", "kind")
    request_type = REQUEST_TYPES[kind]
    known = {f.name: f for f in dataclasses.fields(request_type)}
    given = {name: value for name, value in body.items() if name not in ("kind", "family")}
    if body.get("family", request_type.family) != request_type.family:
        raise BadInput(f"unknown family {body['family']!r}; expected {request_type.family!r}", "family")
    for name in given:
        if name not in known:
            raise BadInput(f"unknown field {name!r}; {kind} has {', '.join(known)}", name)
    for name, f in known.items():
        if name not in given and f.default is dataclasses.MISSING:
            raise BadInput(f"the field {name!r} is missing", name)
    return request_type(**{name: _read_field(name, value) for name, value in given.items()})


def _read_field(name: str, value: Any) -> Any:
    """Check one field of a JSON request and bring it to its Python type."""
    integers = {"target", "seed", "steps", "subsets", "max_layers", "frames", "n", "size"}
    if name in integers:
        if value is None and name == "target":
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadInput(f"{name} is {value!r}; expected a whole number", name)
        if name == "seed" and not 0 <= value < 2**63:
            raise BadInput(f"seed {value}; expected 0..2^63 - 1", name)
        return value
    if name == "params":
        if not isinstance(value, Mapping):
            raise BadInput("params is not a JSON object", name)
        for key, item in value.items():
            if item is not None and not isinstance(item, (bool, int, float, str)):
                raise BadInput(f"parameter {key} is {item!r}; expected a number, a string or null", str(key))
        return tuple(sorted((str(key), item) for key, item in value.items()))
    if name == "attribution":
        return _read_attribution(value)
    if name == "attributions":
        if not isinstance(value, (list, tuple)) or not value:
            raise BadInput("attributions is not a list with at least one request", name)
        return tuple(_read_attribution(item) for item in value)
    if name == "fractions":
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, (int, float)) for v in value):
            raise BadInput("fractions is not a list of numbers", name)
        return tuple(float(v) for v in value)
    if name == "grid":
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(v, int) and not isinstance(v, bool) for v in value
        ):
            raise BadInput(f"grid is {value!r}; expected two whole numbers", name)
        return tuple(value)
    if name in ("shapes", "free"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise BadInput(f"{name} is {value!r}; expected a list of names", name)
        return tuple(value)
    if name == "occlusion":
        if not isinstance(value, bool):
            raise BadInput(f"occlusion is {value!r}; expected true or false", name)
        return value
    if name == "nonlinearity":
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadInput(f"nonlinearity is {value!r}; expected a number", name)
        return float(value)
    if name == "baseline" and isinstance(value, (list, tuple)):
        if not value or not all(isinstance(item, str) for item in value):
            raise BadInput("baseline is not a list of names", name)
        return tuple(value)
    if name == "mask_id" and value is None:
        return None
    if not isinstance(value, str):
        raise BadInput(f"{name} is {value!r}; expected a string", name)
    return value


def _read_attribution(value: Any) -> AttributionRequest:
    if isinstance(value, AttributionRequest):
        return value
    request = request_from_json(value)
    if not isinstance(request, AttributionRequest):
        raise BadInput("expected an attribution request", "attribution")
    return request


def request_key(request: Request, model_digest: str = "") -> str:
    """sha256 over everything that the answer depends on: the request and the weights."""
    text = json.dumps(request_to_json(request), sort_keys=True) + model_digest
    return hashlib.sha256(text.encode()).hexdigest()


# ----------------------------------------------------------------- results
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
        """Put a result together again from its manifest and the bytes of its .npz file."""
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


def digest(data: bytes) -> str:
    """The id of an input: sha256 of its bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
