"""Bytes of an uploaded picture in, a checked array in [0, 1] out. Nothing here knows a model.

Formats: PNG, JPEG, WebP, TIFF, BMP. EXIF orientation is applied, alpha is laid on white, palettes and
16-bit or float greys are brought to [0, 1]. What cannot be shown truly is refused with one sentence.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from backend.contracts import digest
from backend.errors import BadInput
from backend.limits import LIMITS, MIB, Limits

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
_FIELD = "image"


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A picture as numbers: (H, W, 3) or (H, W, 1), float32 in [0, 1]."""

    id: str  # sha256 of the uploaded bytes
    pixels: np.ndarray
    notes: tuple[str, ...] = ()  # what was done to it that a person should know

    @property
    def height(self) -> int:
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes


def decode(data: bytes, limits: Limits = LIMITS) -> DecodedImage:
    """Decode and check an uploaded picture.

    Args:
        data: the file's bytes.
    Returns: pixels in [0, 1], one channel if the picture is grey, else three.
    Raises: BadInput: empty, too large, truncated, of another format, animated, CMYK, or not all numbers.
    """
    if not data:
        raise BadInput("the file is empty; choose a PNG, JPEG, WebP, TIFF or BMP picture", _FIELD)
    if len(data) > limits.max_upload_bytes:
        raise BadInput(
            f"the file has {len(data) / MIB:.0f} MB; pictures up to {limits.max_upload_bytes / MIB:.0f} MB are read",
            _FIELD,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit follows
            opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise BadInput(
            f"the header announces too many pixels; up to {limits.max_image_pixels / 1e6:.0f} million are read", _FIELD
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError):
        raise BadInput("the file is not a PNG, JPEG, WebP, TIFF or BMP picture that can be read", _FIELD) from None
    with opened:
        width, height = opened.size
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _check_header(opened, limits)
                opened.load()
                upright = ImageOps.exif_transpose(opened)
        except BadInput:
            raise
        except Exception:  # each format's reader meets damage with errors of its own, TypeError among them
            raise BadInput("the picture is truncated or damaged; save it again and retry", _FIELD) from None
        pixels, notes = _to_unit_range(upright)
    if upright.size != (width, height) or upright is not opened and _is_rotated(opened):
        notes.append("turned upright by its EXIF orientation")
    return DecodedImage(id=digest(data), pixels=pixels, notes=tuple(notes))


def _check_header(opened: Image.Image, limits: Limits) -> None:
    """What the header announces, before any pixel is unpacked."""
    width, height = opened.size
    if width * height > limits.max_image_pixels:
        raise BadInput(
            f"the picture is {width} x {height} pixels; up to {limits.max_image_pixels / 1e6:.0f} million are read",
            _FIELD,
        )
    if min(width, height) < limits.min_image_side:
        raise BadInput(
            f"the picture has {width} x {height} pixels; at least {limits.min_image_side} on each side are needed",
            _FIELD,
        )
    if getattr(opened, "n_frames", 1) > 1:
        raise BadInput(f"the picture has {opened.n_frames} frames; save the one you mean as a single picture", _FIELD)
    if opened.mode in ("CMYK", "LAB", "HSV"):
        raise BadInput(
            f"the picture is stored as {opened.mode}; convert it to RGB first, so that colours are yours", _FIELD
        )


def _is_rotated(image: Image.Image) -> bool:
    return image.getexif().get(0x0112, 1) not in (0, 1)


def _to_unit_range(image: Image.Image) -> tuple[np.ndarray, list[str]]:
    """(H, W, C) float32 in [0, 1] from any Pillow mode that `decode` lets through."""
    notes: list[str] = []
    mode = image.mode
    if mode == "F" or mode.startswith("I"):  # 16- and 32-bit greys, float TIFFs
        raw = np.asarray(image, dtype=np.float64)
        if not np.isfinite(raw).all():
            raise BadInput("the picture holds values that are not numbers (NaN or infinity); mend them first", _FIELD)
        if mode.startswith("I;16") or (mode == "I" and raw.min() >= 0 and raw.max() <= 65535):
            grey = raw / 65535.0
            notes.append("16-bit values divided by 65535")
        elif raw.min() >= 0.0 and raw.max() <= 1.0:
            grey = raw
        else:
            low, high = raw.min(), raw.max()
            grey = (raw - low) / max(high - low, np.finfo(np.float64).tiny)
            notes.append(f"values {low:g}..{high:g} stretched to 0..1")
        return grey[:, :, None].astype(np.float32), notes
    has_alpha = mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info
    if has_alpha:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
        notes.append("transparent parts laid on white")
        if mode in ("LA", "La"):
            image = image.convert("L")
    elif mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    pixels = np.asarray(image, dtype=np.float32) / 255.0
    return (pixels[:, :, None] if pixels.ndim == 2 else pixels), notes


def encode_png(pixels: np.ndarray) -> bytes:
    """(H, W, C) or (H, W) values in [0, 1] as PNG bytes, 8 bit."""
    levels = np.clip(np.round(np.asarray(pixels) * 255.0), 0, 255).astype(np.uint8)
    if levels.ndim == 3 and levels.shape[2] == 1:
        levels = levels[:, :, 0]
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()
