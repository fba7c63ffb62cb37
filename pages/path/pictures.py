"""The picture on the table: an example that ships, or the person's own."""

import functools
from dataclasses import dataclass

import numpy as np

from backend import images
from backend.examples import EXAMPLES, example_bytes
from pages.shared.session import service


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that the engine took, with its bytes, so that it can be put in again."""

    id: str  # sha256 of the bytes
    data: bytes
    name: str
    alt: str  # in words
    example: str = ""  # key; empty: the person's own
    mask_id: str | None = None
    mask_data: bytes | None = None
    notes: tuple[str, ...] = ()

    def put(self) -> None:
        """Hand the picture (and its mask) to the engine again."""
        service().put_image(self.data)
        if self.mask_data is not None:
            service().put_image(self.mask_data)

    def mask(self, height: int, width: int) -> np.ndarray | None:
        """Where the object is, (H, W) bool, if known at the size of the model's input."""
        if self.mask_data is None:
            return None
        pixels = images.decode(self.mask_data).pixels[:, :, 0]
        return pixels > 0.5 if pixels.shape == (height, width) else None


def upload_picture(name: str, data: bytes) -> Picture:
    """A person's own picture. Raises: BadInput: it cannot be used."""
    info = service().put_image(data)
    return Picture(info.id, data, name, f"Your picture {name}, {info.width} × {info.height} pixels", notes=info.notes)


def example_picture(key: str) -> Picture:
    """An example that ships. Raises: BadInput: no such example."""
    data, mask_data = example_bytes(key)
    info = service().put_image(data)
    mask_id = None if mask_data is None else service().put_image(mask_data).id
    spec = EXAMPLES[key]
    return Picture(info.id, data, spec.title, spec.alt, key, mask_id, mask_data, info.notes)


@functools.cache
def thumbnail(key: str) -> str:
    """A small picture of an example as a data address."""
    import base64
    import io

    from PIL import Image

    picture = Image.open(io.BytesIO(example_bytes(key)[0]))
    if max(picture.size) > 96:
        picture = picture.convert("RGB")
        picture.thumbnail((96, 96))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
