"""Plain typed data that crosses every border: requests in, results out. No torch here.

A request is frozen, hashable and printable; it names its inputs by the sha256 of their bytes. A result
carries its request and where it came from; it saves as `.npz` + JSON and comes back equal.
"""

from backend.contracts.additive_decoding import (
    BlockTableRequest,
    DecoderFiguresRequest,
    DecodingRequest,
    LatentScatterRequest,
    SupportRequest,
)
from backend.contracts.additive_image import (
    AttributeEffectsRequest,
    ImageCornersRequest,
    ImageDirectionRequest,
    ImageGalleryRequest,
    ImagePathRequest,
    ModelComparisonRequest,
    RecordRequest,
    ShapeFunctionsRequest,
)
from backend.contracts.image_text import (
    PairMapRequest,
    PairRandomisationRequest,
    PairScoreRequest,
    ReportMapsRequest,
)
from backend.contracts.path_attribution import (
    AttributionRequest,
    FaithfulnessRequest,
    PathRequest,
    PredictionRequest,
    RandomisationRequest,
    SensitivityRequest,
)
from backend.contracts.requests import REQUEST_TYPES, Request, request_from_json, request_key, request_to_json
from backend.contracts.results import OnStep, Provenance, Result, Step
from backend.contracts.values import Params, ParamValue, digest

__all__ = [
    "REQUEST_TYPES",
    "AttributeEffectsRequest",
    "ImageCornersRequest",
    "ImageDirectionRequest",
    "ImageGalleryRequest",
    "ImagePathRequest",
    "ModelComparisonRequest",
    "RecordRequest",
    "ShapeFunctionsRequest",
    "AttributionRequest",
    "BlockTableRequest",
    "DecoderFiguresRequest",
    "DecodingRequest",
    "FaithfulnessRequest",
    "LatentScatterRequest",
    "OnStep",
    "PairMapRequest",
    "PairRandomisationRequest",
    "PairScoreRequest",
    "ParamValue",
    "Params",
    "PathRequest",
    "PredictionRequest",
    "Provenance",
    "RandomisationRequest",
    "ReportMapsRequest",
    "Request",
    "Result",
    "SensitivityRequest",
    "Step",
    "SupportRequest",
    "digest",
    "request_from_json",
    "request_key",
    "request_to_json",
]
