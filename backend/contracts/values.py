"""Small things that requests and results share."""

import hashlib

ParamValue = float | int | str | bool | None
Params = tuple[tuple[str, ParamValue], ...]


def digest(data: bytes) -> str:
    """The id of an input: sha256 of its bytes, in hex."""
    return hashlib.sha256(data).hexdigest()
