"""kill -9 of the real server in the middle of a job: what goes on, what is cleared away, what never was on disk."""

import base64
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client

from backend.images import encode_png
from backend.jobs import ENDED, JobQueue
from tests.conftest import await_app, free_port, running_app, start_app
from tests.test_dicom import NAME, make, ramp, to_bytes
from tests.waiting import wait_until

JOB_S = 150.0  # until a job is where a test wants it
ARGS = {"family": "path_attribution", "model": "digits-gap", "n": 80, "methods": ["ig", "saliency"]}
TEXT = "There is a nodule in the left upper lobe of Jane Doe."


def measured(folder: Path) -> dict:
    """What the job's checkpoint holds."""
    try:
        return json.loads((folder / "state.json").read_text())["digits-gap"]
    except (OSError, KeyError):
        return {"done": 0}


@pytest.fixture
def health_inputs() -> dict[str, bytes]:
    """Things that must never be on disk, as somebody sends them."""
    pixels = np.random.default_rng(7).random((28, 28, 1))
    return {"picture": encode_png(pixels), "radiograph": to_bytes(make(ramp())), "report": TEXT.encode()}


@pytest.mark.timeout(480)
def test_a_killed_server_goes_on_where_it_was(tmp_path, health_inputs):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(), temporary.mkdir()
    environment = {"TMPDIR": str(temporary), "GRADIO_TEMP_DIR": str(temporary / "gradio"), "OMP_NUM_THREADS": "1"}
    queue = JobQueue(home / "jobs")

    port = free_port()
    process = start_app(home, port, **environment)
    try:
        job = send(await_app(process, home, port), health_inputs)
        folder = queue.folder / job
        wait_until(lambda: measured(folder)["done"] >= 20, "the first checkpoint", JOB_S)
    finally:
        process.kill()
        process.wait()
    kept = measured(folder)
    assert kept["done"] < ARGS["n"] and queue.status(job).state == "running"
    (folder / f".job.json.{process.pid}.1.part").write_text('{"half": ')
    (folder / f".weights.safetensors.{process.pid}.1.part").write_bytes(b"half")
    assert on_disk(tmp_path, health_inputs) == []

    with running_app(home, **environment):
        wait_until(lambda: queue.status(job).state in ENDED, "the end of the job", JOB_S)
    assert queue.status(job).state == "done", queue.status(job)
    whole = measured(folder)
    assert whole["done"] == ARGS["n"]
    for name, row in kept["rows"].items():  # seconds never repeat: nothing was measured again
        assert whole["rows"][name]["seconds"][: len(row["seconds"])] == row["seconds"]
    assert not [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
    assert on_disk(tmp_path, health_inputs) == []


def send(url: str, inputs: dict[str, bytes]) -> str:
    """Explain a picture, keep a radiograph, offer a file, start an evaluation; returns the job's id."""
    client = Client(f"{url}/api", verbose=False)
    for name in ("picture", "radiograph"):
        assert client.predict(base64.b64encode(inputs[name]).decode(), api_name="/put_image")["id"]
    client.predict(base64.b64encode(inputs["picture"]).decode(), "digits-gap", "saliency", api_name="/attribute")
    refused = httpx.post(f"{url}/api/gradio_api/upload", files={"files": inputs["report"]})
    assert refused.status_code == 404
    return client.predict("evaluate", ARGS, api_name="/submit_job")["id"]


def on_disk(folder: Path, inputs: dict[str, bytes]) -> list[str]:
    """Files below a folder that hold a health input, its base64 text, or the patient's name."""
    traces = [NAME.encode(), b"Jane Doe"]
    for data in inputs.values():
        traces += [data[:200], base64.b64encode(data)[:200]]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path.name for path in files if any(trace in path.read_bytes() for trace in traces)]
