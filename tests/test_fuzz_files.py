"""Every file that can be uploaded or named, damaged in many ways: it is read, or refused in one sentence."""

import functools
import gzip
import io
import json
import resource
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from backend import archives, audio, batch, dicom, images, reports, tables, wire
from backend.additive_decoding import own_data, own_store
from backend.additive_image import own_store as image_store
from backend.additive_image.data import Column, Dataset
from backend.contracts import Provenance, Result, SupportRequest
from backend.jobs import JobQueue
from backend.limits import LIMITS, MIB, Limits
from backend.models import user_models, weights
from tests.fuzzing import altered, answer, assert_sentence, damaged, fuzz, mend_png, mend_zip, npz
from tests.test_dicom import make, ramp, to_bytes

SMALL = replace(
    LIMITS,
    max_upload_bytes=MIB,
    max_dicom_bytes=MIB,
    max_audio_bytes=MIB,
    max_archive_bytes=MIB,
    max_unpacked_bytes=8 * MIB,
    max_sprite_bytes=8 * MIB,
    max_image_pixels=200_000,
    max_audio_s=20.0,
    max_rows=500,
)
GROWTH_MIB = 600  # of the process at its largest, over all cases of a kind


def grown_mib(since: int = 0) -> int:
    """Memory of this process at its largest so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit - since


# ----------------------------------------------------------------- good files
def picture(kind: str, mode: str, side: int = 12) -> bytes:
    levels = np.random.default_rng(0).integers(0, 256, (side, side, 4), np.uint8)
    image = Image.fromarray(levels, "RGBA")
    image = Image.fromarray(levels[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(buffer, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    return buffer.getvalue()


def sound() -> np.ndarray:
    return np.sin(np.arange(1200) / 5).astype(np.float32) * 0.5


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


CSV = (
    "name;price;rooms;date;picture\n"
    + "".join(f'"a{i}, b";1.{i:03},5;{i % 3};2024-01-{i + 1:02};p{i}.png\n' for i in range(12))
).encode()
PLAIN_CSV = b"name,value,other\n" + b"".join(b"x%d,%d.5,$%d00\n" % (i, i, i) for i in range(8))


def parquet() -> bytes:
    frame = pd.DataFrame({"a": range(6), "b": list("xyzxyz"), "c": pd.date_range("2024-01-01", periods=6)})
    return frame.to_parquet(index=False)


def sprites() -> bytes:
    values = np.random.default_rng(0).random((60, 6))
    return npz(imgs=np.random.default_rng(0).integers(0, 2, (60, 8, 8), np.uint8), latents_values=values)


def kept_pictures() -> bytes:
    header = {"names": ["x", "y"], "sizes": [1, 1], "digest": "0" * 64}
    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    return npz(header=np.array(json.dumps(header)), pixels=pixels, factors=np.zeros((4, 2), np.float32))


def kept_dataset() -> bytes:
    columns = [{"name": "rooms", "kind": "numeric", "categories": [], "unit": ""}]
    header = {"name": "own", "link": "identity", "response_name": "price", "columns": columns}
    arrays = {"table": np.zeros((6, 1)), "response": np.zeros(6), "images": np.zeros((6, 8, 8, 3), np.uint8)}
    return npz(header=np.array(json.dumps(header)), **arrays)


RESULT = Result(SupportRequest(), {"a": np.arange(6.0)}, {"x": 1}, {"y": None}, "", Provenance(notes=("a",)))
REPORT = (
    b"EXAM: chest, 2 views.\nFINDINGS: The heart is enlarged (1.5 cm vs. 1.2 cm). No effusion.\n1. Nodule, dr. Doe\n"
    b"2. Scar\n\nIMPRESSION:\nNo. 3 is old. Unchanged!\n"
)
MODELS = b"""
[[model]]
key = "mine"
architecture = "torchvision:resnet18"
weights = "w.safetensors"
labels = ["cat", "dog"]
input_size = [224, 224]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
channels = "RGB"
layers = { cam = "layer4" }

[[model]]
key = "balls"
task = "additive_decoding"
architecture = "prism:additive-decoder"
weights = "w.safetensors"
"""
CARD = {
    "architecture": "prism:additive-decoder",
    "network": {"side": 64, "channels": [32, 16], "block_sizes": [1, 1], "width": 64},
    "recipe": {"base": "balls-l", "scene": {"shapes": ["ball", "ball"]}},
}
LIMITS_FILE = b"max_rows = 50_000\nmax_audio_s = 3.5\nmax_upload_bytes = 1_000_000\n"
JOB = {
    "id": "0123456789ab", "kind": "evaluate", "args": {"model": "digits-gap"}, "state": "running", "done": 3,
    "total": 9, "message": "on it", "error": "", "error_field": "", "submitted": 1.0,
}  # fmt: skip
TENSORS = {"layer.weight": torch.zeros(4, 3), "layer.bias": torch.ones(4, dtype=torch.float16)}


def state_dict() -> bytes:
    buffer = io.BytesIO()
    torch.save(TENSORS, buffer)
    return buffer.getvalue()


# ----------------------------------------------------------------- how each is read, and what must hold of it then
def check_pixels(found: Any) -> None:
    assert found.pixels.ndim == 3 and found.pixels.dtype == np.float32
    assert np.isfinite(found.pixels).all() and found.pixels.min() >= 0 and found.pixels.max() <= 1


def read_picture(data: bytes, _: Path) -> None:
    check_pixels(images.decode(data, SMALL))


def read_dicom(data: bytes, _: Path) -> None:
    check_pixels(dicom.decode(data, SMALL))


def read_sound(data: bytes, _: Path) -> None:
    found = audio.decode(data, SMALL)
    assert np.isfinite(found.samples).all() and np.abs(found.samples).max() <= 1
    drawn = audio.draw(found)
    assert np.isfinite(drawn).all()


def read_cells(data: bytes, _: Path) -> None:
    table = tables.read_table(data, SMALL)
    assert len(table) <= SMALL.max_rows and len({c.name for c in table.columns}) == len(table.columns)
    for column in table.columns:
        if column.kind in ("number", "date"):
            assert table.numbers(column.name).shape == (len(table),)
    tables.missing_rows(table, [c.name for c in table.columns if c.is_feature])


def read_zip(data: bytes, _: Path) -> None:
    files = archives.open_archive(data, SMALL)
    *_, (_, _, found) = own_data.read_archive(files, 16)
    assert found.pixels.dtype == np.uint8


def read_safetensors(data: bytes, _: Path) -> None:
    state, digest = weights.read_upload(data, SMALL)
    assert len(digest) == 64 and all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def read_state_dict(data: bytes, _: Path) -> None:
    weights.parse_state_dict(data)


def read_sprites(data: bytes, _: Path) -> None:
    found = own_data.read_sprites(data, limits=SMALL)
    assert len(found.pixels) == len(found.factors) and np.isfinite(found.factors).all()


def read_kept(data: bytes, _: Path) -> None:
    assert own_store.receive(data).isalnum()


def read_dataset(data: bytes, _: Path) -> None:
    assert image_store.receive(data).isalnum()


def read_result(data: bytes, _: Path) -> None:
    wire.result_from_wire({"manifest": RESULT.manifest(), "npz": wire.encode_bytes(data)})


def read_models(data: bytes, folder: Path) -> None:
    (folder / "w.safetensors").write_bytes(b"")
    (folder / "w.json").write_text(json.dumps(CARD))
    (folder / "models.toml").write_bytes(data)
    specs, problems = user_models.read_models_file(folder / "models.toml")
    for problem in problems:
        assert_sentence(problem)
    assert len({spec.key for spec in specs}) == len(specs)


def read_limits(data: bytes, folder: Path) -> None:
    (folder / "limits.toml").write_bytes(data)
    found = Limits.read({"PRISM_LIMITS": str(folder / "limits.toml")})
    assert found.max_rows > 0


def read_card(data: bytes, _: Path) -> None:
    assert user_models.check_card(user_models.parse_card(data), "additive_decoding", "prism:additive-decoder") >= 8


def read_text(data: bytes, _: Path) -> None:
    report = reports.read_report(data)
    assert all(report.text[s.start : s.end] == s.text for s in report.sentences)


def read_manifest(data: bytes, folder: Path) -> None:
    (folder / "rows.csv").write_bytes(data)
    rows = batch.read_rows(folder / "rows.csv", {"method": "ig", "params": {"n_steps": 3}})
    assert all(isinstance(row, dict) for row in rows)


def read_job(data: bytes, folder: Path) -> None:
    queue = JobQueue(folder / "jobs")
    path = queue.folder / JOB["id"] / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    assert len(queue.list()) <= 1
    queue.status(JOB["id"])


def read_scenes(data: bytes, _: Path) -> None:
    own_data.stack_places(list(own_data.parse_scenes(data, "scenes.json").values()))


SCENES = json.dumps(
    {"scenes": [{"image_filename": f"{i}.png", "objects": [{"3d_coords": [1.0, 2.0, i]}]} for i in range(50)]}
).encode()
BATCH = b'image,method,target,params.n_steps,rows\na.png,ig,3,20,\nb.png,saliency,,,"[0, 1]"\n'
ZIP = {**{f"p/{i}.png": picture("PNG", "L", 8) for i in range(50)}, "p/scenes.json": SCENES, "p/readme.txt": b"hello"}

PNG_MODES = ("L", "RGBA", "P", "I;16")
Read = Callable[[bytes, Path], None]
FILES: dict[str, tuple[Callable[[], bytes], Read, Callable[[bytes], bytes]]] = {
    **{f"png {mode}": (functools.partial(picture, "PNG", mode), read_picture, mend_png) for mode in PNG_MODES},
    **{f"jpeg {mode}": (functools.partial(picture, "JPEG", mode), read_picture, bytes) for mode in ("L", "RGB")},
    "webp": (functools.partial(picture, "WEBP", "RGB"), read_picture, bytes),
    "tiff": (functools.partial(picture, "TIFF", "I;16"), read_picture, bytes),
    "bmp": (functools.partial(picture, "BMP", "RGB"), read_picture, bytes),
    "dicom": (lambda: to_bytes(make(ramp())), read_dicom, bytes),
    "wav": (lambda: audio.encode_wav(sound(), 8000), read_sound, bytes),
    "flac": (lambda: audio.encode_flac(sound(), 8000), read_sound, bytes),
    "csv": (lambda: CSV, read_cells, bytes),
    "plain csv": (lambda: PLAIN_CSV, read_cells, bytes),
    "utf-16 csv": (lambda: CSV.decode().encode("utf-16"), read_cells, bytes),
    "gzipped csv": (lambda: gzip.compress(CSV), read_cells, bytes),
    "parquet": (parquet, read_cells, bytes),
    "zip": (lambda: zipped(ZIP), read_zip, mend_zip),
    "safetensors": (lambda: save(TENSORS), read_safetensors, bytes),
    "state dict": (state_dict, read_state_dict, mend_zip),
    "dsprites npz": (sprites, read_sprites, mend_zip),
    "kept pictures npz": (kept_pictures, read_kept, mend_zip),
    "kept table npz": (kept_dataset, read_dataset, mend_zip),
    "result npz": (lambda: RESULT.to_npz(), read_result, mend_zip),
    "models.toml": (lambda: MODELS, read_models, bytes),
    "limits.toml": (lambda: LIMITS_FILE, read_limits, bytes),
    "card": (lambda: json.dumps(CARD).encode(), read_card, bytes),
    "report": (lambda: REPORT, read_text, bytes),
    "scenes": (lambda: SCENES, read_scenes, bytes),
    "batch manifest": (lambda: BATCH, read_manifest, bytes),
    "job": (lambda: json.dumps(JOB).encode(), read_job, bytes),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PRISM_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_read_or_refused(kind, folder):
    make_file, read, mend = FILES[kind]
    whole = make_file()
    read(whole, folder)  # the good one is read, else nothing is tried
    before = grown_mib()

    @fuzz(75, data=damaged(whole, mend))
    def try_it(data: bytes) -> None:
        answer(lambda: read(data, folder))

    try_it()
    assert grown_mib(before) < GROWTH_MIB


@fuzz(150, data=st.binary(max_size=200), kind=st.sampled_from(list(FILES)))
def test_noise_is_refused_by_every_reader(data, kind):
    if FILES[kind][1] not in (read_models, read_limits, read_manifest, read_job, read_kept, read_dataset):
        answer(lambda: FILES[kind][1](data, Path()))


def test_a_dataset_of_the_right_layout_is_kept(folder):
    """The good file of the fuzz test is what the pages keep, not one that only the reader of today takes."""
    columns = (Column("rooms", "numeric"),)
    dataset = Dataset(
        "own", columns, np.zeros((6, 1)), np.zeros(6), np.zeros((6, 8, 8, 3), np.uint8), "identity", "price"
    )
    assert image_store.read(image_store.keep(dataset)).columns == columns


# ----------------------------------------------------------------- parsed files whose values are wrong
@fuzz(100, card=altered(CARD))
def test_a_card_with_wrong_values_is_checked(card):
    answer(lambda: user_models.check_card(card, "additive_decoding", "prism:additive-decoder"))


@fuzz(60, job=altered(JOB))
def test_a_job_file_with_wrong_values_is_passed_over(tmp_path_factory, job):
    folder = tmp_path_factory.mktemp("job")
    answer(lambda: read_job(json.dumps(job).encode(), folder))


@fuzz(60, manifest=altered(RESULT.manifest()))
def test_a_manifest_with_wrong_values_is_refused(manifest):
    answer(lambda: wire.result_from_wire({"manifest": manifest, "npz": wire.encode_bytes(RESULT.to_npz())}))
