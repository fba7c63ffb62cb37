"""The real photographs that ship inside scikit-image's wheel: read where they lie, nothing is downloaded."""

import importlib.util
from pathlib import Path

from backend.errors import NotAvailable

# name -> file in skimage/data: pictures that are CC0, in the public domain, or without known restrictions.
PHOTOS: dict[str, str] = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "ihc": "ihc.png",
    "rocket": "rocket.jpg",
}


def photo_bytes(name: str) -> bytes:
    """The file of a photograph. Raises: NotAvailable: scikit-image is not installed, or came without it."""
    found = importlib.util.find_spec("skimage")  # finds the package without importing it
    path = Path(found.origin).parent / "data" / PHOTOS[name] if found and found.origin else None
    if path is None or not path.is_file():
        raise NotAvailable(f"the photograph {name!r} comes with scikit-image, which is not installed here", "image")
    return path.read_bytes()
