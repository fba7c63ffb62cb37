"""What can be asked about an image and a text before one image-text model."""

from dataclasses import dataclass
from typing import ClassVar

from backend.contracts.values import Params


@dataclass(frozen=True, slots=True)
class PairMapRequest:
    """Where in the image does the model find the text, and which words carry it?"""

    kind: ClassVar[str] = "pair_map"
    family: ClassVar[str] = "image_text"
    image_id: str  # sha256 of the bytes
    text: str
    method: str = "m2ib"  # MethodSpec.key
    model: str = "cxr-clip"  # ModelSpec.key
    modality: str = "both"  # "image", "text" or "both"
    params: Params = ()
    seed: int = 0
    control_id: str | None = None  # the picture that the text does not belong to; None: held by the model, or shipped


@dataclass(frozen=True, slots=True)
class ReportMapsRequest:
    """The maps of several sentences of a report on one image, asked together."""

    kind: ClassVar[str] = "report_maps"
    family: ClassVar[str] = "image_text"
    image_id: str
    sentences: tuple[str, ...]
    method: str = "m2ib"
    model: str = "cxr-clip"
    modality: str = "both"
    params: Params = ()
    seed: int = 0
    control_id: str | None = None


@dataclass(frozen=True, slots=True)
class PairScoreRequest:
    """How near are the image and each text, and which findings are present, if the model has thresholds for any?"""

    kind: ClassVar[str] = "pair_score"
    family: ClassVar[str] = "image_text"
    image_id: str
    texts: tuple[str, ...]
    model: str = "cxr-clip"


@dataclass(frozen=True, slots=True)
class PairRandomisationRequest:
    """Sanity check: does the map change when the explained tower's layers are randomised from the top?"""

    kind: ClassVar[str] = "pair_randomisation"
    family: ClassVar[str] = "image_text"
    map: PairMapRequest  # of modality "image" or "text"
    max_layers: int = 8
