"""Every kind of request in one table, and requests as JSON."""

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from backend.contracts import additive_decoding, additive_image, image_text, path_attribution
from backend.contracts.values import Params
from backend.errors import BadInput

Request = (
    path_attribution.PredictionRequest
    | path_attribution.AttributionRequest
    | path_attribution.FaithfulnessRequest
    | path_attribution.SensitivityRequest
    | path_attribution.RandomisationRequest
    | path_attribution.PathRequest
    | additive_decoding.DecodingRequest
    | additive_decoding.BlockTableRequest
    | additive_decoding.LatentScatterRequest
    | additive_decoding.DecoderFiguresRequest
    | additive_decoding.SupportRequest
    | image_text.PairMapRequest
    | image_text.ReportMapsRequest
    | image_text.PairScoreRequest
    | image_text.PairRandomisationRequest
    | additive_image.ImagePathRequest
    | additive_image.ImageCornersRequest
    | additive_image.ImageDirectionRequest
    | additive_image.ShapeFunctionsRequest
    | additive_image.ImageGalleryRequest
    | additive_image.RecordRequest
    | additive_image.AttributeEffectsRequest
    | additive_image.ModelComparisonRequest
)
REQUEST_TYPES: dict[str, type] = {kind.kind: kind for kind in typing.get_args(Request)}
# Of requests that name their family only: the first kind of each family that a script would mean.
_DEFAULT_KINDS = {
    "path_attribution": "attribution",
    "additive_decoding": "decoding",
    "image_text": "pair_map",
    "additive_image": "image_path",
}


def request_to_json(request: Request) -> dict[str, Any]:
    """The request as a JSON object that `request_from_json` reads back to an equal request."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return request_to_json(value)
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        return value

    body = {f.name: plain(getattr(request, f.name)) for f in dataclasses.fields(request)}
    for f in dataclasses.fields(request):
        if f.type == Params:
            body[f.name] = dict(body[f.name])
    return {"kind": request.kind, "family": request.family, **body}


def request_from_json(body: Mapping[str, Any]) -> Request:
    """Read a request of any kind.

    Raises: BadInput: unknown kind or field, a missing field, or a field of the wrong type.
    """
    if not isinstance(body, Mapping):
        raise BadInput("the request is not a JSON object", "request")
    family = body.get("family")
    kind = body.get("kind", _DEFAULT_KINDS.get(family, "attribution") if isinstance(family, str) else "attribution")
    if not isinstance(kind, str) or kind not in REQUEST_TYPES:
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
    read = {
        name: _read(name, known[name].type, value)
        for name, value in given.items()
        if not _is_left_out(known[name], value)
    }
    return request_type(**read)


def _is_left_out(field: dataclasses.Field, value: Any) -> bool:
    """An empty list where leaving the field out means one: `request_to_json` writes it so."""
    return value == [] and field.default == () and field.type != Params


def _read(name: str, expected: Any, value: Any) -> Any:
    """Check one field of a JSON request against its annotation and bring it to that Python type."""
    if expected == Params:
        return _read_params(value)
    if isinstance(expected, types.UnionType):  # X | None
        return None if value is None else _read(name, typing.get_args(expected)[0], value)
    if typing.get_origin(expected) is tuple:
        return _read_items(name, typing.get_args(expected)[0], value)
    if dataclasses.is_dataclass(expected):
        request = value if isinstance(value, expected) else request_from_json(value)
        if not isinstance(request, expected):
            raise BadInput(f"{name} is a {request.kind} request; expected {expected.kind}", name)
        return request
    if not isinstance(value, _ACCEPTED[expected]) or (isinstance(value, bool) and expected is not bool):
        raise BadInput(f"{name} is {value!r}; expected {_WORDS[expected]}", name)
    if name == "seed" and not 0 <= value < 2**63:
        raise BadInput(f"seed {value}; expected 0..2^63 - 1", name)
    return expected(value)


_ACCEPTED = {bool: bool, int: int, float: (int, float), str: str}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _read_items(name: str, expected: Any, value: Any) -> tuple:
    """A list, as a tuple; one string stands for a list of one."""
    if expected is str and isinstance(value, str):
        return (value,)
    if not isinstance(value, (list, tuple)) or not value:
        raise BadInput(f"{name} is {value!r}; expected a list of at least one", name)
    return tuple(_read(name, expected, item) for item in value)


def _read_params(value: Any) -> Params:
    if not isinstance(value, Mapping):
        raise BadInput("params is not a JSON object", "params")
    for key, item in value.items():
        if item is not None and not isinstance(item, (bool, int, float, str)):
            raise BadInput(f"parameter {key} is {item!r}; expected a number, a string or null", str(key))
    return tuple(sorted((str(key), item) for key, item in value.items()))


def request_key(request: Request, model_digest: str = "") -> str:
    """sha256 over everything that the answer depends on: the request and the weights."""
    text = json.dumps(request_to_json(request), sort_keys=True) + model_digest
    return hashlib.sha256(text.encode()).hexdigest()
