"""Pictures as people have them, and things that are none: each refused with one sentence."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from backend.errors import BadInput
from backend.images import decode, encode_png
from backend.limits import Limits

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_give_the_exact_pixels(format):
    image = decode(encoded(Image.fromarray(COLOUR), format))
    np.testing.assert_array_equal(image.pixels, COLOUR.astype(np.float32) / 255)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_close(format):
    smooth = np.tile(np.linspace(0, 255, 30, dtype=np.uint8)[None, :, None], (20, 1, 3))
    image = decode(encoded(Image.fromarray(smooth), format, quality=95))
    assert np.abs(image.pixels * 255 - smooth).max() < 8


def test_equal_bytes_have_the_equal_id():
    data = encoded(Image.fromarray(COLOUR), "PNG")
    assert decode(data).id == decode(data).id != decode(encoded(Image.fromarray(COLOUR), "BMP")).id


def test_exif_orientation_turns_the_picture_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image = decode(encoded(Image.fromarray(COLOUR), "PNG", exif=exif))
    np.testing.assert_array_equal(image.pixels, np.rot90(COLOUR, -1).astype(np.float32) / 255)
    assert any("upright" in note for note in image.notes)


def test_transparent_parts_lie_on_white():
    rgba = np.zeros((4, 4, 4), dtype=np.uint8)
    rgba[:, :2, 3] = 255
    image = decode(encoded(Image.fromarray(rgba, "RGBA"), "PNG"))
    assert image.pixels[:, :2].max() == 0.0 and image.pixels[:, 2:].min() == 1.0
    assert image.notes


def test_palette_pictures_have_their_colours():
    image = decode(encoded(Image.fromarray(COLOUR).quantize(8), "PNG"))
    assert image.pixels.shape == (20, 30, 3) and len(np.unique(image.pixels.reshape(-1, 3), axis=0)) <= 8


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_greys_keep_their_range(format):
    values = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    image = decode(encoded(Image.fromarray(values), format))
    np.testing.assert_allclose(image.pixels[:, :, 0], values / 65535, atol=1e-6)


def test_float_tiffs_in_the_unit_range_stay_as_they_are():
    values = RNG.random((8, 8), dtype=np.float32)
    np.testing.assert_allclose(decode(encoded(Image.fromarray(values), "TIFF")).pixels[:, :, 0], values)


def test_png_round_trip():
    pixels = RNG.integers(0, 256, (5, 7, 1)) / 255
    np.testing.assert_allclose(decode(encode_png(pixels)).pixels, pixels, atol=1e-6)


NAN_TIFF = encoded(Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32)), "TIFF")
PHOTO = encoded(Image.fromarray(COLOUR), "JPEG")
LARGE_PHOTO = encoded(Image.fromarray(RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)), "JPEG")
FRAMES = encoded(Image.new("RGB", (8, 8)), "TIFF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
ANIMATED = encoded(
    Image.new("RGB", (8, 8)), "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")], duration=50
)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"hello, I am a text", "not a PNG"),
        (b"%PDF-1.4 ...", "not a PNG"),
        (encoded(Image.fromarray(COLOUR), "GIF"), "not a PNG"),  # a real picture of a format we do not read
        (b"\x80\x04\x95pickle", "not a PNG"),
        (LARGE_PHOTO[: len(LARGE_PHOTO) // 2], "truncated"),
        (encoded(Image.fromarray(COLOUR), "PNG")[:-200], "truncated"),
        (png_header(50_000, 50_000), "too many pixels|million"),
        (png_header(20_000, 20_000), "too many pixels|million"),
        (png_header(9_000, 9_000), "million"),
        (png_header(0, 5), "not a PNG|at least"),
        (encoded(Image.new("RGB", (1, 1)), "PNG"), "at least 2"),
        (FRAMES, "2 frames"),
        (ANIMATED, "2 frames"),
        (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "CMYK"),
        (NAN_TIFF, "not numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_shown_is_refused_with_one_sentence(data, sentence):
    with pytest.raises(BadInput, match=sentence) as caught:
        decode(data)
    assert caught.value.field == "image"
    assert "\n" not in caught.value.sentence


def test_too_many_bytes_are_refused_before_decoding():
    with pytest.raises(BadInput, match="pictures up to"):
        decode(b"\x89PNG" + b"\0" * 200, Limits(max_upload_bytes=100))


def test_the_extension_does_not_matter():
    # uploads carry no trustworthy name: a JPEG called .png is a JPEG
    assert decode(PHOTO).pixels.shape == (20, 30, 3)
