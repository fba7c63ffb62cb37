"""What can be asked about two of an image, a text and a sound before one model that knows both.

A sound takes the image's place (`audio_id` in that of `image_id`), or the text's: it is then explained by an image.
"""

from dataclasses import dataclass
from typing import ClassVar

from backend.contracts.values import Params


@dataclass(frozen=True, slots=True)
class PairMapRequest:
    """Where in the image or sound does the model find the text, and which words carry it?"""

    kind: ClassVar[str] = "pair_map"
    family: ClassVar[str] = "image_text"
    image_id: str | None = None  # sha256 of the bytes
    text: str | None = None
    method: str = "m2ib"  # MethodSpec.key
    model: str = "cxr-clip"  # ModelSpec.key
    modality: str = "both"  # "image", "text" or "audio", as far as they are given, or "both"
    params: Params = ()
    seed: int = 0
    control_id: str | None = None  # the picture that the text does not belong to; None: held by the model, or shipped
    audio_id: str | None = None  # sha256 of the bytes of a sound
    start_s: float = 0.0  # where in the sound the model begins to hear


@dataclass(frozen=True, slots=True)
class ReportMapsRequest:
    """The maps of several sentences of a report on one image, asked together."""

    kind: ClassVar[str] = "report_maps"
    family: ClassVar[str] = "image_text"
    image_id: str | None = None
    sentences: tuple[str, ...] = ()
    method: str = "m2ib"
    model: str = "cxr-clip"
    modality: str = "both"
    params: Params = ()
    seed: int = 0
    control_id: str | None = None
    audio_id: str | None = None
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PairScoreRequest:
    """How near are the image and each text, and which findings are present, if the model has thresholds for any?"""

    kind: ClassVar[str] = "pair_score"
    family: ClassVar[str] = "image_text"
    image_id: str | None = None
    texts: tuple[str, ...] = ()
    model: str = "cxr-clip"
    audio_id: str | None = None
    start_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PairRandomisationRequest:
    """Sanity check: does the map change when the explained tower's layers are randomised from the top?"""

    kind: ClassVar[str] = "pair_randomisation"
    family: ClassVar[str] = "image_text"
    map: PairMapRequest  # of modality "image" or "text"
    max_layers: int = 8
