"""Requests that lie in files: paths of inputs instead of the ids of what was put in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.errors import BadInput


def read_json_object(path: str | Path, field: str = "request") -> dict[str, Any]:
    """Raises: BadInput: no such file, not JSON, or no object."""
    try:
        body = json.loads(Path(path).read_text())
    except OSError:
        raise BadInput(f"cannot read {path}", field) from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}", field) from None
    if not isinstance(body, dict):
        raise BadInput(f"{path} is not a JSON object", field)
    return body


def with_ids(body: Any, folder: Path, put_image: Callable[[bytes], Any], put_audio: Callable[[bytes], Any]) -> Any:
    """Replace every path by an id: `image: path`, `images: [path, ...]` and `audio: path`.

    Paths are absolute, relative to the working folder, or relative to the request's folder.
    Raises: BadInput: no such file, or not an input that can be used.
    """
    if isinstance(body, list):
        return [with_ids(item, folder, put_image, put_audio) for item in body]
    if not isinstance(body, dict):
        return body
    given = {name: with_ids(item, folder, put_image, put_audio) for name, item in body.items()}
    if isinstance(given.get("images"), list):
        given["image_ids"] = [put_image(read_input(path, folder, "image")).id for path in given.pop("images")]
    for name, put in (("image", put_image), ("audio", put_audio)):
        if name in given:
            given[f"{name}_id"] = put(read_input(given.pop(name), folder, name)).id
    return given


def read_input(path: Any, folder: Path, field: str) -> bytes:
    """The bytes of a file that a request names. Raises: BadInput: there is none."""
    if not isinstance(path, str):
        raise BadInput(f"{field} is {path!r}; expected a path", field)
    for candidate in (Path(path), folder / path):
        if candidate.is_file():
            return candidate.read_bytes()
    raise BadInput(f"there is no file {path}", field)
