"""Files and texts that mean harm: each is refused with one sentence, or shown as the text that it is."""

import contextlib
import csv
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from backend import dicom, images
from backend.additive_decoding import own_store as decoder_store
from backend.additive_image import own_store as image_store
from backend.archives import open_archive
from backend.catalog import ModelSpec
from backend.contracts import Result, request_from_json
from backend.errors import MOST_LETTERS, BadInput
from backend.jobs import JobQueue
from backend.limits import LIMITS, MIB
from backend.models.library import Library
from backend.models.user_models import read_row
from backend.models.weights import parse_state_dict, read_upload
from backend.tables import read_table
from pages.shared import exports
from pages.shared.exports import Column
from pages.shared.session import escape
from pages.shared.tables import table_html
from tests.test_dicom import make, ramp, to_bytes

SMALL = replace(LIMITS, max_dicom_bytes=4 * MIB, max_archive_bytes=4 * MIB, max_upload_bytes=1 * MIB)
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def bomb(n_mib: int, window: int = -zlib.MAX_WBITS, begin: bytes = b"") -> bytes:
    """So many zeros, deflated; as gzip with `window` 31, with zlib's header with 15."""
    packer = zlib.compressobj(1, zlib.DEFLATED, window)
    parts = [packer.compress(begin)] + [packer.compress(bytes(MIB)) for _ in range(n_mib)]
    return b"".join(parts) + packer.flush()


@contextlib.contextmanager
def at_most(n_mib: int) -> Iterator[None]:
    """What runs in here holds no more memory than this at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_mib * MIB
    finally:
        tracemalloc.stop()


# ----------------------------------------------------------------- decompression bombs
def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of grey pixels that announces its size, with chunks of one's own before the end."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min(width, 4) + 1) * min(height, 4))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + body


def test_a_picture_that_announces_too_many_pixels():
    for side in (10_000, 100_000, 2**31 - 1):
        with pytest.raises(BadInput, match="million are read|cannot be read"):
            images.decode(png(side, side))


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_picture_with_a_bomb_in_its_text(name):
    middle = b"\0\1\0\0\0" if name == b"iTXt" else b"\0\0"
    data = png(4, 4, (name, b"x" + middle + bomb(64, zlib.MAX_WBITS)))
    with at_most(16), contextlib.suppress(BadInput):  # whether it is shown without its text or refused
        images.decode(data)


def test_a_deflated_dicom_file_is_read_and_a_bomb_in_one_is_not():
    dataset = make(ramp())
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    honest = to_bytes(dataset)
    np.testing.assert_allclose(dicom.decode(honest, SMALL).pixels[:, :, 0], ramp() / 4095, atol=1e-6)
    start = honest.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    meta_end = 144 + int.from_bytes(honest[140:144], "little")
    assert meta_end >= start
    data = honest[:meta_end] + bomb(64)
    with at_most(16), pytest.raises(BadInput, match="unpacks to more than 4 MB"):
        dicom.decode(data, SMALL)


def test_a_gzipped_table_that_is_a_bomb():
    data = bomb(64, 16 + zlib.MAX_WBITS, b"a,b\n")
    with at_most(32), pytest.raises(BadInput) as refusal:
        read_table(data, SMALL)
    assert refusal.value.field == "table"


def test_an_archive_whose_header_lies_about_a_picture():
    """It says that a picture is small; no more than a picture's limit is unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", bytes(16 * MIB))
    data = buffer.getvalue().replace(struct.pack("<I", 16 * MIB), struct.pack("<I", 1000))
    files = open_archive(data, SMALL)
    try:
        assert len(files.read("a.png")) <= SMALL.max_upload_bytes + 1
    except BadInput as refusal:
        assert "damaged" in refusal.sentence


@pytest.mark.parametrize("name", ["a/../../b.png", "\\\\server\\b.png", "..\\b.png", "//b.png", "c:b.png"])
def test_an_archive_that_leads_out(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo(name), b"")
    with pytest.raises(BadInput, match="outside"):
        open_archive(buffer.getvalue())


def test_weights_whose_header_is_a_bomb():
    for data in (struct.pack("<Q", 2**63), struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"[]"):
        with pytest.raises(BadInput, match="safetensors"):
            read_upload(data)


def test_a_tiff_that_points_at_itself():
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    data[end : end + 4] = at.to_bytes(4, "little")  # the next picture is this one again
    try:
        assert images.decode(bytes(data)).pixels.shape == (8, 8, 1)
    except BadInput as refusal:
        assert refusal.field == "image"


# ----------------------------------------------------------------- damage that the fuzz tests found
def test_a_tiff_whose_second_picture_has_no_size():
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "TIFF")
    data = bytearray(buffer.getvalue())
    at = int.from_bytes(data[4:8], "little")
    end = at + 2 + 12 * int.from_bytes(data[at : at + 2], "little")
    data[end : end + 4] = len(data).to_bytes(4, "little")
    data += bytes(6)  # a directory without entries
    with pytest.raises(BadInput) as refusal:
        images.decode(bytes(data))
    assert refusal.value.field == "image"


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"}", b"\x80\x02.", b"."])
def test_no_weights_no_data_and_no_result(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    manifest = {"arrays": ["a"]}
    for read in (
        parse_state_dict,
        decoder_store.receive,
        image_store.receive,
        lambda data: Result.from_parts(manifest, data),
        lambda data: Result.from_parts({}, data),
    ):
        with pytest.raises(BadInput):
            read(data)


def test_a_job_file_of_another_kind_is_passed_over(tmp_path):
    queue = JobQueue(tmp_path / "jobs")
    good = {"id": "abc", "kind": "evaluate", "args": {}}
    for name, changes in {"abc": {}, "abd": {"submitted": None}, "abe": {"args": []}, "abf": {"state": "?"}}.items():
        (queue.folder / name).mkdir(parents=True)
        (queue.folder / name / "job.json").write_text(json.dumps({**good, **changes}))
    assert [status.id for status in queue.list()] == ["abc"]


def test_a_sentence_that_quotes_what_was_sent_is_one_bounded_line():
    for text in ("x" * 10_000, "a\nb\0c\u202ed"):
        with pytest.raises(BadInput) as refusal:
            request_from_json({"kind": "attribution", text: 1})
        assert len(refusal.value.sentence) <= MOST_LETTERS and refusal.value.sentence.isprintable()
        assert len(refusal.value.field) <= 80 and refusal.value.field.isprintable()


# ----------------------------------------------------------------- paths
@pytest.mark.parametrize("key", ["../../etc/passwd", "/etc/passwd", "..", "a/b", "", "x" * 500, "a\0b", SCRIPT])
def test_no_key_of_a_model_is_a_path(key):
    with pytest.raises(BadInput):
        Library().load(key)


def test_an_uploaded_model_names_no_file_of_the_server():
    fields = {
        "key": "mine", "task": "classification", "architecture": "torchvision:resnet18", "labels": ["a", "b"],
        "input_size": [32, 32], "weights": "/etc/passwd",
    }  # fmt: skip
    for changes in ({}, {"labels": "/etc/passwd", "weights": ""}, {"architecture": "pt2"}, {"key": "../x"}):
        with pytest.raises(BadInput):
            spec = read_row({**fields, **changes}, None)
            assert isinstance(spec, ModelSpec) and not spec.weights, "a path was taken from an upload"
            raise BadInput("nothing of the path is kept")


@pytest.mark.parametrize("job", ["../x", "..", "/etc", "a/b", "a\0b", "%2e%2e", "x" * 5000])
def test_no_id_of_a_job_is_a_path(tmp_path, job):
    with pytest.raises(BadInput, match="no job"):
        JobQueue(tmp_path / "jobs").status(job)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"kind": SCRIPT}, {"kind": "attribution"}, {"kind": ["attribution"]}, [], None, 5, "x",
        {"kind": "attribution", "image_id": {"a": 1}, "model": "m", "method": "ig"},
        {"kind": "attribution", "image_id": "i", "model": "m", "method": "ig", "params": {"x": [1]}},
        {"kind": "attribution", "image_id": "i", "model": "m", "method": "ig", "__class__": "x"},
        {"kind": "faithfulness", "attributions": [{"kind": "faithfulness", "attributions": []}]},
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(body):
    with pytest.raises(BadInput):
        request_from_json(body)


# ----------------------------------------------------------------- texts
def test_html_in_tables_is_text():
    shown = table_html(SCRIPT, [Column("a", SCRIPT, help=f"'\"{SCRIPT}")], [{"a": SCRIPT}])
    assert "<script" not in shown and "<img" not in shown


def test_markdown_of_unknown_origin_is_text():
    for text in (SCRIPT, "![x](http://evil.example/a.png)", "[x](javascript:alert(1))", "# head", "$x$", ":red[x]"):
        shown = escape(text)
        for mark in "<>[]()$#:!":
            assert shown.count(mark) == shown.count("\\" + mark)


def test_no_cell_of_an_export_is_a_formula():
    """Whatever a spreadsheet takes for a formula: also behind blanks, and in the full-width signs of an IME."""
    evil = ["=1+1", "+1", "-cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "  =1", "\u00a0=1", "＝1", "－1"]
    data = exports.metrics_csv([Column("a", text) for text in evil[:1]], [{"a": text} for text in evil])
    cells = [row[0] for row in csv.reader(io.StringIO(data.decode(), newline=""))]
    assert all(cell.startswith("'") for cell in cells) and len(cells) == len(evil) + 1
