"""What can be asked about one image and one class of a classifier."""

from dataclasses import dataclass
from typing import ClassVar

from backend.contracts.values import Params


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
