"""What travels between two Prisms, or between Prism and a program: JSON, and bytes as base64. Nothing is pickled.

Both doors read and write through here: `backend.api` on the server, `backend.remote` on who calls it.
"""

import base64
import binascii
import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from backend import errors
from backend.catalog import ModelSpec
from backend.contracts import Result, Step
from backend.errors import BadInput, PrismError

ERROR_TITLE = "Prism"
T = TypeVar("T")


# ----------------------------------------------------------------- bytes
def encode_bytes(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decode_bytes(text: Any, name: str = "image", what: str = "a picture's bytes") -> bytes:
    """Bytes of base64 text, with or without a `data:` address before it.

    Raises: BadInput: no string, or no base64.
    """
    if not isinstance(text, str):
        raise BadInput(f"{name} is {_short(text)}; expected a string", name)
    try:
        return base64.b64decode(text.rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(f"{name} is not base64 text of {what}", name) from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


# ----------------------------------------------------------------- results and steps
def result_to_wire(result: Result, arrays: bool = True) -> dict[str, Any]:
    """A result as `manifest` (JSON) and `npz` (its arrays, base64); without arrays the manifest alone.

    The manifest goes through JSON text once, so that what cannot travel is noticed here.
    """
    manifest = json.loads(json.dumps(result.manifest()))
    return {"manifest": manifest, "npz": encode_bytes(result.to_npz())} if arrays else {"manifest": manifest}


def result_from_wire(body: Mapping[str, Any]) -> Result:
    return Result.from_parts(body["manifest"], decode_bytes(body["npz"], "npz", "an .npz file"))


def step_to_wire(step: Step, with_partial: bool) -> dict[str, Any]:
    """A step; its partial result goes along only where it is news."""
    plain = {f.name: getattr(step, f.name) for f in dataclasses.fields(step) if f.name != "partial"}
    return {**plain, "partial": result_to_wire(step.partial) if with_partial and step.partial is not None else None}


def step_from_wire(body: Mapping[str, Any], partial: Result | None = None) -> Step:
    """A step, with the partial result of the step before it where it brings none of its own."""
    if body.get("partial") is not None:
        partial = result_from_wire(body["partial"])
    return fill(Step, {**body, "partial": partial})


# ----------------------------------------------------------------- rows
def spec_to_wire(spec: ModelSpec) -> dict[str, Any]:
    """A model's row; no path of this machine is told."""
    row = dataclasses.asdict(spec)
    return row if spec.source == "embedded" else {**row, "weights": ""}


def fill(kind: type[T], body: Mapping[str, Any]) -> T:
    """A frozen dataclass of a JSON object: lists become tuples, fields that this side does not know are left out."""
    known = {f.name for f in dataclasses.fields(kind)}
    return kind(**{name: _as_tuples(value) for name, value in body.items() if name in known})


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def strings_of(value: Any) -> set[str]:
    """Every string in a JSON value, but no key.

    >>> sorted(strings_of({"image": "a", "more": [{"image": "b"}, 3]}))
    ['a', 'b']
    """
    if isinstance(value, str):
        return {value}
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {found for item in items for found in strings_of(item)}


# ----------------------------------------------------------------- errors
def error_title(error: PrismError) -> str:
    """Class and field of an error in the one line that travels beside its sentence.

    >>> error_title(BadInput("target 1000; classes are 0..999", "target"))
    'Prism BadInput target'
    """
    return " ".join(filter(None, (ERROR_TITLE, type(error).__name__, error.field)))


def read_title(title: Any) -> tuple[str, str] | None:
    """Class and field of an error's title; None: it is no error that Prism raised.

    >>> read_title("Prism BadInput target")
    ('BadInput', 'target')
    """
    words = title.split(" ", 2) if isinstance(title, str) else []
    if len(words) < 2 or words[0] != ERROR_TITLE:
        return None
    return words[1], words[2] if len(words) > 2 else ""


def error_from_wire(title: Any, sentence: str) -> PrismError | None:
    """The error that was raised at the other end, of the same class; None: it was none of Prism's."""
    found = read_title(title)
    if found is None:
        return None
    kind = getattr(errors, found[0], PrismError)
    if not (isinstance(kind, type) and issubclass(kind, PrismError)):
        kind = PrismError
    error = kind.__new__(kind)  # some classes have sentences of their own
    PrismError.__init__(error, sentence, found[1])
    return error
