"""Bytes of a DICOM file in, a checked grey or colour picture in [0, 1] out. Nothing of who it shows is read.

Only the elements that decide the pixels are parsed, so no name, number or date of the patient ever becomes an object
here. The file's own window is applied; MONOCHROME1 is turned so that dense is bright.
"""

import io
import logging
import warnings
import zlib

import numpy as np
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.filereader import _read_file_meta_info, read_preamble
from pydicom.pixels import apply_modality_lut, apply_voi, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from backend.contracts import digest
from backend.errors import BadInput
from backend.images import DecodedImage
from backend.limits import LIMITS, MIB, Limits

_FIELD = "image"
_MAGIC_AT = 128
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_JPEG_SYNTAXES = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless)
# Everything that is read of a file. The group of the patient (0010) is not among it.
_ELEMENTS = [
    "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "ModalityLUTSequence", "VOILUTSequence", "WindowCenter",
    "WindowWidth", "VOILUTFunction", "BurnedInAnnotation", "EncryptedAttributesSequence", "PixelData",
    "FloatPixelData", "DoubleFloatPixelData",
]  # fmt: skip

logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # its warnings quote values


def is_dicom(data: bytes) -> bool:
    """Does the file say that it is DICOM?

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"DICM")
    (True, False)
    """
    return data[_MAGIC_AT : _MAGIC_AT + 4] == b"DICM"


def decode(data: bytes, limits: Limits = LIMITS) -> DecodedImage:
    """Decode and check one DICOM picture.

    Returns: (H, W, 1) or (H, W, 3) in [0, 1]; `notes` tell the window that was applied.
    Raises: BadInput: no picture (a report, a plan), several frames, encrypted, truncated, too large, or compressed in
        a way that cannot be read here.
    """
    if len(data) > limits.max_dicom_bytes:
        raise BadInput(
            f"the file has {len(data) / MIB:.0f} MB; DICOM up to {limits.max_dicom_bytes / MIB:.0f} MB is read", _FIELD
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they may quote values
        _refuse_bomb(data, limits)
        dataset = _parse(data)
        _check(dataset, limits)
        stored = _stored_pixels(dataset)
        pixels, notes = _to_unit_range(stored, dataset)
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        notes.append("the file says that text is burned into the picture; it may name the patient")
    return DecodedImage(id=digest(data), pixels=pixels, notes=tuple(notes))


def _refuse_bomb(data: bytes, limits: Limits) -> None:
    """The parser unpacks a deflated file whole, whatever its size; so it is unpacked up to the limit here first."""
    stream = io.BytesIO(data)
    try:
        read_preamble(stream, force=False)
        syntax = _read_file_meta_info(stream).get("TransferSyntaxUID", "")  # the parser's own reader: the same end
    except Exception:  # not DICOM, or damaged: the parser says so
        return
    if syntax != DeflatedExplicitVRLittleEndian:
        return
    unpacked, rest = 0, data[stream.tell() :]
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        while rest and not inflate.eof and unpacked <= limits.max_dicom_bytes:
            unpacked += len(inflate.decompress(rest, MIB))
            rest = inflate.unconsumed_tail
    except zlib.error:
        raise BadInput("the DICOM file is truncated or damaged; export it again", _FIELD) from None
    if unpacked > limits.max_dicom_bytes:
        raise BadInput(f"the DICOM file unpacks to more than {limits.max_dicom_bytes / MIB:.0f} MB", _FIELD)


def _parse(data: bytes) -> FileDataset:
    try:
        return dcmread(io.BytesIO(data), specific_tags=_ELEMENTS)
    except InvalidDicomError:
        raise BadInput("the file is not DICOM", _FIELD) from None
    except Exception:  # the parser meets damaged lengths and types in many ways
        raise BadInput("the DICOM file is truncated or damaged; export it again", _FIELD) from None


def _check(dataset: FileDataset, limits: Limits) -> None:
    kind = UID(dataset.get("SOPClassUID", "")).name or "DICOM object"
    if "EncryptedAttributesSequence" in dataset and not _has_pixels(dataset):
        raise BadInput("the DICOM file is encrypted; export it without encryption", _FIELD)
    if kind.startswith("RT "):
        raise BadInput(f"the DICOM file is of radiotherapy ({kind}); choose a radiograph", _FIELD)
    if not _has_pixels(dataset):
        raise BadInput(f"the DICOM file has no picture in it ({kind}); choose a radiograph", _FIELD)
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    if frames > 1:
        raise BadInput(f"the DICOM file has {frames} frames; export the one you mean by itself", _FIELD)
    rows, columns = int(dataset.get("Rows", 0) or 0), int(dataset.get("Columns", 0) or 0)
    if min(rows, columns) < limits.min_image_side:
        raise BadInput(f"the picture has {columns} x {rows} pixels; at least {limits.min_image_side} a side", _FIELD)
    if rows * columns > limits.max_image_pixels:
        raise BadInput(
            f"the picture is {columns} x {rows} pixels; up to {limits.max_image_pixels / 1e6:.0f} million are read",
            _FIELD,
        )
    colours = str(dataset.get("PhotometricInterpretation", ""))
    if colours not in (*_GREY, *_COLOUR):
        raise BadInput(f"the picture's colours are stored as {colours or 'nothing'}; grey or RGB is read", _FIELD)


def _has_pixels(dataset: FileDataset) -> bool:
    return any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"))


def _stored_pixels(dataset: FileDataset) -> np.ndarray:
    """The numbers in the file: (H, W), or (H, W, 3) with colours as RGB."""
    syntax = UID(getattr(dataset.file_meta, "TransferSyntaxUID", "") or "")
    if not syntax:
        raise BadInput("the DICOM file does not say how its picture is stored (transfer syntax)", _FIELD)
    if syntax in _JPEG_SYNTAXES and not _is_whole_jpeg(dataset):
        raise BadInput(f"the picture is stored as {syntax.name}, but is truncated or damaged", _FIELD)
    try:
        return pixel_array(dataset)
    except Exception:  # each of the decoders has its own errors
        if syntax.is_transfer_syntax and not syntax.is_compressed:
            raise BadInput("the DICOM file is truncated: there are fewer pixels than it announces", _FIELD) from None
        raise BadInput(
            f"the picture is stored as {syntax.name}, and cannot be read: truncated, or a compression that is not "
            "supported here",
            _FIELD,
        ) from None


def _is_whole_jpeg(dataset: FileDataset) -> bool:
    """Do the segments of the JPEG follow one another up to its scan, and does it end? A decoder may hang if not."""
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except (ValueError, IndexError, RuntimeError):
        return False
    if frame[:2] != b"\xff\xd8" or b"\xff\xd9" not in frame[-4:]:
        return False
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] == 0xDA:  # start of scan
            return True
        at += 2 + max(2, int.from_bytes(frame[at + 2 : at + 4], "big"))
    return False


def _to_unit_range(stored: np.ndarray, dataset: FileDataset) -> tuple[np.ndarray, list[str]]:
    if stored.ndim == 3:
        top = 2 ** int(dataset.BitsStored) - 1
        return np.clip(stored / top, 0, 1).astype(np.float32), ["DICOM in colour"]
    notes = [f"DICOM, {int(dataset.BitsStored)} bits"]
    values = apply_modality_lut(stored, dataset).astype(np.float64)
    grey, note = _window(values, stored, dataset)
    notes.append(note)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 1.0 - grey
        notes.append("MONOCHROME1 turned so that dense is bright")
    if not np.isfinite(grey).all():
        raise BadInput("the DICOM picture holds values that are not numbers", _FIELD)
    return grey[:, :, None].astype(np.float32), notes


def _window(values: np.ndarray, stored: np.ndarray, dataset: FileDataset) -> tuple[np.ndarray, str]:
    """Values in [0, 1] by the file's look-up table or window, or stretched; and what was done."""
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return np.clip(apply_voi(values.round().astype(np.int64), dataset) / (2**bits - 1), 0, 1), "VOI LUT applied"
    centre, width = _first(dataset.get("WindowCenter")), _first(dataset.get("WindowWidth"))
    if centre is not None and width is not None and width >= 1:
        kind = str(dataset.get("VOILUTFunction", None) or "LINEAR").upper()
        return window(values, centre, width, kind), f"window {centre:g} / {width:g} applied"
    shown = values
    padding = dataset.get("PixelPaddingValue")
    if padding is not None and (stored != padding).any():
        shown = values[stored != padding]
    low, high = float(shown.min()), float(shown.max())
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1), f"no window in the file: {low:g}..{high:g} stretched"


def window(values: np.ndarray, centre: float, width: float, kind: str = "LINEAR") -> np.ndarray:
    """A DICOM window, to [0, 1].

    Source: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3.

    >>> window(np.array([0.0, 49.5, 99.0]), 50.0, 100.0).tolist()
    [0.0, 0.5, 1.0]
    """
    if kind == "SIGMOID":
        return 1.0 / (1.0 + np.exp(-4.0 * (values - centre) / width))
    if kind == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0.0, 1.0)
    return np.clip((values - (centre - 0.5)) / max(width - 1.0, 1e-12) + 0.5, 0.0, 1.0)


def _first(value: object) -> float | None:
    """The first of one or several numbers; None if there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, (str, float, int)) or not hasattr(value, "__len__"):
        return float(value)
    return float(value[0]) if len(value) else None
