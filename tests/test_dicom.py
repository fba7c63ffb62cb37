"""DICOM in: windows, look-up tables, turned greys, compressed syntaxes; what is refused; and that no identity stays."""

import io
import logging
import pickle

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
    RTDoseStorage,
    RTPlanStorage,
    generate_uid,
)

from backend import dicom
from backend.errors import BadInput
from backend.limits import Limits
from backend.service import LocalService

NAME, NUMBER = "Doe^Jane^Secret", "PID-4711-XYZ"


def make(pixels: np.ndarray | None, sop: UID = ComputedRadiographyImageStorage, bits: int = 12, **elements) -> Dataset:
    """A DICOM file with a patient's name in it and these pixels, uncompressed."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, NUMBER, "19700101"
    dataset.InstitutionName, dataset.AccessionNumber = "Secret Hospital", "ACC-99"
    if pixels is not None:
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        dataset.BitsAllocated = 8 if pixels.dtype.itemsize == 1 else 16
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def to_bytes(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def ramp(top: int = 4095, dtype: type = np.uint16) -> np.ndarray:
    return np.linspace(0, top, 64 * 48).reshape(64, 48).round().astype(dtype)


# ----------------------------------------------------------------- pixels
@pytest.mark.parametrize("bits, top", [(8, 255), (12, 4095), (16, 65535)])
def test_depths_without_a_window_are_stretched(bits, top):
    pixels = ramp(top, np.uint8 if bits == 8 else np.uint16)
    decoded = dicom.decode(to_bytes(make(pixels, bits=bits)))
    np.testing.assert_allclose(decoded.pixels[:, :, 0], pixels / top, atol=1e-6)
    assert any("no window" in note for note in decoded.notes)


def test_rescale_and_window_are_applied():
    dataset = make(ramp(), RescaleSlope="2", RescaleIntercept="-1000", WindowCenter="500", WindowWidth="401")
    decoded = dicom.decode(to_bytes(dataset))
    expected = np.clip((ramp() * 2.0 - 1000 - 499.5) / 400 + 0.5, 0, 1)  # PS3.3 C.11.2.1.2, in units of the rescale
    np.testing.assert_allclose(decoded.pixels[:, :, 0], expected, atol=1e-6)


def test_the_first_of_several_windows_counts():
    one = dicom.decode(to_bytes(make(ramp(), WindowCenter=["2000", "100"], WindowWidth=["1000", "50"])))
    other = dicom.decode(to_bytes(make(ramp(), WindowCenter="2000", WindowWidth="1000")))
    np.testing.assert_array_equal(one.pixels, other.pixels)


def test_window_functions():
    values = np.array([0.0, 100.0, 200.0])
    np.testing.assert_allclose(dicom.window(values, 100, 200, "LINEAR_EXACT"), [0, 0.5, 1])
    np.testing.assert_allclose(dicom.window(values, 100, 200, "SIGMOID"), 1 / (1 + np.exp([2.0, 0.0, -2.0])))


def test_a_look_up_table_is_applied():
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 12])
    table.add_new("LUTData", "US", list(range(4095, -1, -1)))
    decoded = dicom.decode(to_bytes(make(ramp(), VOILUTSequence=[table])))
    np.testing.assert_allclose(decoded.pixels[:, :, 0], 1 - ramp() / 4095, atol=1e-6)


def test_monochrome1_is_turned():
    dark, bright = (
        dicom.decode(to_bytes(make(ramp(), PhotometricInterpretation=kind))).pixels
        for kind in ("MONOCHROME2", "MONOCHROME1")
    )
    np.testing.assert_allclose(dark + bright, 1.0, atol=1e-6)


def test_signed_values_and_padding():
    pixels = ramp(2000, np.int16) - 1000
    pixels[0, 0] = -32768
    decoded = dicom.decode(to_bytes(make(pixels, bits=16, PixelPaddingValue=-32768)))
    assert decoded.pixels[0, 1, 0] == pytest.approx(0.0, abs=1e-2)  # the padding does not stretch the range


def test_colour():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_allclose(dicom.decode(to_bytes(make(pixels, bits=8))).pixels, pixels / 255, atol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLosslessSV1])
def test_lossless_syntaxes(syntax):
    data = to_bytes(_compressed(make(ramp()), syntax))
    np.testing.assert_allclose(dicom.decode(data).pixels[:, :, 0], ramp() / 4095, atol=1e-6)


def _compressed(dataset: Dataset, syntax: UID) -> Dataset:
    """The same picture in another transfer syntax, by GDCM where pydicom cannot write it."""
    if syntax == RLELossless:
        dataset.compress(syntax)
        return dataset
    gdcm = pytest.importorskip("gdcm")
    import tempfile

    import pydicom

    with tempfile.TemporaryDirectory() as folder:
        dataset.save_as(f"{folder}/in.dcm", enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(f"{folder}/in.dcm")
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        kinds = {JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless}
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds.get(syntax, gdcm.TransferSyntax.JPEGLosslessProcess14_1)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(f"{folder}/out.dcm")
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return pydicom.dcmread(f"{folder}/out.dcm")


# ----------------------------------------------------------------- refused
def _frames() -> Dataset:
    dataset = make(ramp())
    dataset.NumberOfFrames, dataset.PixelData = 3, ramp().tobytes() * 3
    return dataset


def _broken_jpeg() -> Dataset:
    dataset = make(ramp(255, np.uint8), bits=8)
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xe0 no jpeg at all"])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _encrypted() -> Dataset:
    item = Dataset()
    item.EncryptedContentTransferSyntaxUID, item.EncryptedContent = ExplicitVRLittleEndian, b"\x00" * 64
    return make(None, EncryptedAttributesSequence=[item])


@pytest.mark.parametrize(
    "dataset, sentence",
    [
        (_frames(), "3 frames"),
        (make(None, BasicTextSRStorage), "no picture in it"),
        (make(None, DigitalXRayImageStorageForPresentation), "no picture in it"),
        (make(None, RTPlanStorage), "radiotherapy"),
        (make(ramp(), RTDoseStorage), "radiotherapy"),
        (_broken_jpeg(), "damaged"),
        (_encrypted(), "encrypted"),
        (make(ramp()[:1, :1]), "at least 2"),
        (make(ramp(), PhotometricInterpretation="PALETTE COLOR"), "colours"),
    ],
)
def test_what_is_no_single_picture_is_refused_by_name(dataset, sentence):
    with pytest.raises(BadInput, match=sentence) as refusal:
        dicom.decode(to_bytes(dataset))
    assert refusal.value.field == "image" and NAME not in refusal.value.sentence


def _said_to_be(syntax: str, pixels: np.ndarray) -> bytes:
    """Uncompressed pixels under the name of another transfer syntax."""
    dataset = make(pixels)
    data = to_bytes(dataset)
    own = str(dataset.file_meta.TransferSyntaxUID).encode()
    return data.replace(own + b"\0" * (len(own) % 2), syntax.encode().ljust(len(own) + len(own) % 2, b"\0"), 1)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.9", "1.2.840.10008.1.1"])
def test_a_wrong_transfer_syntax_is_refused_by_name(syntax):
    with pytest.raises(BadInput) as refusal:
        dicom.decode(_said_to_be(syntax, ramp()))
    assert (
        refusal.value.field == "image" and "stored as" in refusal.value.sentence and NAME not in refusal.value.sentence
    )


@pytest.mark.parametrize("length", [133, 300, 900, 3000, 6000])
def test_a_truncated_file_is_refused(length):
    data = to_bytes(make(ramp()))[:length]
    with pytest.raises(BadInput, match="truncated|no picture|damaged|transfer syntax"):
        dicom.decode(data)


def test_limits_are_asked_before_pixels_are_read():
    with pytest.raises(BadInput, match="million"):
        dicom.decode(to_bytes(make(ramp())), Limits(max_image_pixels=1000))
    with pytest.raises(BadInput, match="MB"):
        dicom.decode(to_bytes(make(ramp())), Limits(max_dicom_bytes=1000))


# ----------------------------------------------------------------- identity
def test_the_service_takes_dicom_and_keeps_no_identity(caplog):
    service = LocalService()
    with caplog.at_level(logging.DEBUG):
        info = service.put_image(to_bytes(make(ramp())))
    held = service.image_store.get(info.id)
    kept = pickle.dumps((info.notes, info.id, held.notes, held.pixels)) + caplog.text.encode()
    for secret in (NAME, NUMBER, "Secret", "19700101", "ACC-99"):
        assert secret.encode() not in kept
    assert (info.width, info.height, info.channels) == (48, 64, 1)


def test_burned_in_text_is_told():
    decoded = dicom.decode(to_bytes(make(ramp(), BurnedInAnnotation="YES")))
    assert any("burned" in note for note in decoded.notes)
