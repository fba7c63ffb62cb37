"""Batches: one request a row, resumable at any moment, refused row by row."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from backend.batch import read_rows, run_batch
from backend.contracts import Result, request_from_json
from backend.errors import BadInput
from backend.service import LocalService
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "assets" / "examples"
DEFAULTS = {"family": "path_attribution", "model": "digits-gap", "method": "ig", "params": {"n_steps": 4}}


@pytest.fixture(scope="module")
def service() -> LocalService:
    return LocalService()


def write_manifest(folder: Path, *rows: str, header: str = "image,method,target,params.n_steps") -> Path:
    path = folder / "manifest.csv"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def counting(service: LocalService, monkeypatch) -> list:
    """Requests that the engine is asked from now on."""
    asked, run = [], service.run
    monkeypatch.setattr(service, "run", lambda request, *rest: asked.append(request) or run(request, *rest))
    return asked


def test_a_row_is_what_a_single_request_answers(service, tmp_path):
    manifest = write_manifest(tmp_path, f"{DIGITS}/digit-3.png,,,", f"{DIGITS}/digit-8.png,guided-ig,5,")
    found = run_batch(service, manifest, tmp_path / "out", DEFAULTS, metrics=True)
    assert (found.answered, found.refused, found.reused) == (2, 0, 0)
    table = pd.read_parquet(found.table)
    assert list(table["method"]) == ["ig", "guided-ig"] and list(table["target"]) == [3, 5]
    assert table["deletion_probability"].between(0, 1).all()
    image_id = service.put_image((DIGITS / "digit-3.png").read_bytes()).id
    alone = service.run(request_from_json({**DEFAULTS, "image_id": image_id}))
    record = json.loads((tmp_path / "out" / "rows" / "000001.json").read_text())
    again = Result.from_parts(record["manifest"], (tmp_path / "out" / "rows" / "000001.npz").read_bytes())
    assert np.array_equal(again.arrays["attribution"], alone.arrays["attribution"])


def test_a_second_run_answers_only_what_is_new(service, tmp_path, monkeypatch):
    manifest = write_manifest(tmp_path, f"{DIGITS}/digit-3.png,,,", f"{DIGITS}/digit-8.png,,,")
    run_batch(service, manifest, tmp_path / "out", DEFAULTS)
    asked = counting(service, monkeypatch)
    assert run_batch(service, manifest, tmp_path / "out", DEFAULTS).reused == 2 and not asked
    write_manifest(tmp_path, f"{DIGITS}/digit-3.png,,,", f"{DIGITS}/digit-8.png,,,5")
    assert run_batch(service, manifest, tmp_path / "out", DEFAULTS).reused == 1
    assert [dict(request.params)["n_steps"] for request in asked] == [5]


def test_a_row_that_cannot_be_answered_keeps_its_sentence(service, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    manifest = write_manifest(
        tmp_path, "broken.png,,,", "missing.png,,,", f"{DIGITS}/digit-3.png,,77,", f"{DIGITS}/digit-3.png,,,"
    )
    found = run_batch(service, manifest, tmp_path / "out", DEFAULTS)
    assert (found.answered, found.refused) == (1, 3)
    table = pd.read_parquet(found.table)
    assert list(table["error_field"]) == ["image", "image", "target", ""]
    assert "no file missing.png" in table["error"][1]


def test_cells_are_read_as_a_request_has_them(tmp_path):
    manifest = write_manifest(
        tmp_path, 'a.png,"A nodule, left.",2,1e-3,grey,', header="image,text,seed,params.beta,baseline,target"
    )
    (row,) = read_rows(manifest, {"params": {"samples": 3}, "target": 4})
    assert row == {
        "image": "a.png",
        "text": "A nodule, left.",
        "seed": 2,
        "baseline": "grey",
        "target": 4,
        "params": {"samples": 3, "beta": 0.001},
    }
    with pytest.raises(BadInput, match="row 1: target is 'three'"):
        read_rows(write_manifest(tmp_path, "a.png,,three,"), {})


def test_two_processes_do_not_fill_one_folder(service, tmp_path):
    from filelock import FileLock

    manifest = write_manifest(tmp_path, f"{DIGITS}/digit-3.png,,,")
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / "lock"), pytest.raises(BadInput, match="another process fills"):
        run_batch(service, manifest, tmp_path / "out", DEFAULTS)


def test_a_killed_batch_goes_on_where_it_stopped(service, tmp_path, monkeypatch):
    """A real process, killed without warning in the middle; no row twice, none lost, no half file left."""
    rows = [f"{DIGITS}/digit-{digit}.png,,,{steps}" for steps in range(2, 42) for digit in (2, 3, 4, 5, 7, 8)]
    manifest = write_manifest(tmp_path, *rows)
    (tmp_path / "request.json").write_text(json.dumps(DEFAULTS))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "backend", "batch", str(manifest), "--out", str(out)]
    process = subprocess.Popen([*command, "--request", str(tmp_path / "request.json")], cwd=ROOT)
    wait_until(lambda: process.poll() is not None or len(list(out.glob("rows/*.json"))) >= 5, timeout_s=120)
    assert process.poll() is None
    process.kill()
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("rows/[0-9]*.json")}
    (out / "rows" / ".000240.npz.1").write_bytes(b"half")
    assert 5 <= len(finished) < len(rows)
    asked = counting(service, monkeypatch)
    found = run_batch(service, manifest, out, DEFAULTS)
    assert (found.answered, found.refused, found.reused) == (len(rows), 0, len(finished))
    assert len(asked) == len(rows) - len(finished)
    assert all((out / "rows" / name).stat().st_mtime_ns == written for name, written in finished.items())
    assert len(pd.read_parquet(found.table)) == len(rows) == len(list(out.glob("rows/[0-9]*.npz")))
    assert not list(out.glob("rows/.*"))


def test_progress_tells_what_is_left(service, tmp_path):
    manifest = write_manifest(tmp_path, *(f"{DIGITS}/digit-{digit}.png,,,3" for digit in (2, 4, 5)))
    told = []
    run_batch(service, manifest, tmp_path / "out", DEFAULTS, on_step=told.append)
    assert [(step.done, step.total) for step in told] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert told[0].message == "row 1 of 3" and told[1].message.startswith("row 2 of 3, about ")
