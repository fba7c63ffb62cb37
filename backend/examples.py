"""The bytes of the examples: small files under assets/examples, and photographs from scikit-image's wheel. No torch."""

from pathlib import Path

from backend.catalog import EXAMPLES
from backend.errors import BadInput, NotAvailable
from backend.photos import photo_bytes

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "examples"
_PHOTO = "photo:"


def example_bytes(key: str) -> tuple[bytes, bytes | None]:
    """The picture of an example and, if anybody knows where its object is, the mask: both as files' bytes.

    Raises: BadInput: no such example; NotAvailable: its file is not here.
    """
    if key not in EXAMPLES:
        raise BadInput(f"unknown example {key!r}; one of {', '.join(EXAMPLES)}", "image")
    example = EXAMPLES[key]
    if example.image.startswith(_PHOTO):
        return photo_bytes(example.image.removeprefix(_PHOTO)), None
    return _read(example.image), _read(example.mask) if example.mask else None


def _read(name: str) -> bytes:
    try:
        return (FOLDER / name).read_bytes()
    except OSError:
        raise NotAvailable(f"the example {name} is missing from assets/examples", "image") from None
