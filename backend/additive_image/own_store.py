"""Data sets of a user's own on this machine's disk, for the jobs that fit models to them; no torch here.

A data set is one file under the id of its content. A job's folder holds what was fitted to it.
"""

import contextlib
import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.additive_image.data import Column, Dataset
from backend.contracts import digest
from backend.errors import BadInput
from backend.files import data_folder, write_whole
from backend.jobs import ENDED, Jobs, JobStatus

JOB_KIND = "fit_own"  # of `backend.jobs.KINDS`
MODEL = "own"  # names of the files in a job's folder
AUTOENCODER = "own-dae"
EVALUATION = "evaluation.json"
HUB = "timm:"  # begins the key of an encoder that is any network of the hub


@dataclass(frozen=True, slots=True)
class OwnEncoder:
    """A way to code a user's pictures, with what it can and cannot show."""

    key: str
    title: str
    can: str
    cannot: str
    side: int = 32  # pixels that pictures are brought to
    can_draw: bool = True  # whether there is a film strip
    network: str = ""  # of the hub


ENCODERS: dict[str, OwnEncoder] = {
    encoder.key: encoder
    for encoder in (
        OwnEncoder(
            "short",
            "Diffusion autoencoder, short training",
            "Learned from your pictures alone, brought to 32 × 32 pixels: their coarse layout, colours and brightness "
            "get an effect and can be dragged.",
            "What is small or rare in the pictures is not in its code, so it has no effect here, whatever it does in "
            "truth; frames are soft.",
        ),
        OwnEncoder(
            "long",
            "Diffusion autoencoder, eight times longer",
            "As the short one, with sharper frames and finer differences.",
            "It still sees 32 × 32 pixels and no labels: a detail that matters to you may matter little to it.",
        ),
        OwnEncoder(
            "pca",
            "Principal components, no training",
            "In a second or two, at 64 × 64 pixels: brightness, colours and layout that many pictures share get an "
            "effect and can be dragged.",
            "Decoding is linear: between two pictures you see a mixture of both, one fading into the other, never a "
            "thing that moves or grows. What the sixteen components leave out has no effect.",
            side=64,
        ),
        OwnEncoder(
            "dinov2",
            "DINOv2 from the hub, no film strip",
            "What a network that has seen millions of photographs tells apart, at 112 × 112 pixels: things and their "
            "parts get an effect, also where there are few pictures.",
            "It cannot draw: there is no film strip, and nobody sees what a code stands for. Its weights (88 MB) come "
            "from the hub once; without network and cache it fails.",
            side=112,
            can_draw=False,
            network="vit_small_patch14_dinov2.lvd142m",
        ),
    )
}


def find_encoder(key: str) -> OwnEncoder:
    """The encoder of a key; `timm:NAME` is any network of the hub. Raises: BadInput: no such encoder."""
    if key.startswith(HUB):
        name = key.removeprefix(HUB)
        return dataclasses.replace(ENCODERS["dinov2"], key=key, title=f"{name} from the hub", network=name)
    if key not in ENCODERS:
        raise BadInput(f"unknown encoder {key!r}; one of {', '.join(ENCODERS)}, {HUB}NAME", "encoder")
    return ENCODERS[key]


def keep(dataset: Dataset) -> str:
    """Write a data set; returns its id. Equal data have equal ids."""
    header = {
        "name": dataset.name,
        "link": dataset.link,
        "response_name": dataset.response_name,
        "columns": [
            {"name": c.name, "kind": c.kind, "categories": list(c.categories), "unit": c.unit} for c in dataset.columns
        ],
    }
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.array(json.dumps(header)),
        table=dataset.table,
        response=dataset.response,
        images=dataset.images[slice(None)],
    )
    return _write(buffer.getvalue())


def receive(data: bytes) -> str:
    """Keep a data set as another Prism kept it; returns its id. Raises: BadInput: it is none."""
    try:
        _parse(io.BytesIO(data))
    except Exception:  # numpy, zipfile and zlib meet damage with errors of their own
        raise BadInput("this is no data set of Prism's", "data") from None
    return _write(data)


def _write(data: bytes) -> str:
    key = digest(data)
    path = data_folder() / f"{key}.npz"
    write_whole(path, data)
    return key


def read(key: str) -> Dataset:
    """Raises: BadInput: no such data set, or it was forgotten."""
    if not key.isalnum():
        raise BadInput("there are no such data", "data")
    try:
        return _parse(data_folder() / f"{key}.npz")
    except OSError:
        raise BadInput("the data of this model were forgotten; bring them again", "data") from None


def _parse(source: Path | io.BytesIO) -> Dataset:
    with np.load(source, allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        arrays = {name: file[name] for name in ("table", "response", "images")}
    columns = tuple(Column(**{**column, "categories": tuple(column["categories"])}) for column in header.pop("columns"))
    return Dataset(columns=columns, **header, **arrays)


def split(dataset: Dataset, seed: int, share: float = 0.2) -> tuple[Dataset, Dataset]:
    """Rows to fit to, and rows that nothing is fitted to; drawn by lot, at least ten of them held out."""
    order = np.random.default_rng([seed, len(dataset)]).permutation(len(dataset))
    n_held = max(10, round(share * len(dataset)))
    return dataset.take(np.sort(order[n_held:])), dataset.take(np.sort(order[:n_held]))


# ----------------------------------------------------------------- jobs
def fits(queue: Jobs) -> list[JobStatus]:
    """Models of own data that were fitted here or are being fitted, the newest first."""
    return [job for job in queue.list() if job.kind == JOB_KIND]


def forget(queue: Jobs, job_id: str) -> None:
    """Delete a model of own data and, if no other job needs them, the data. Raises: BadInput: it is running."""
    status = queue.status(job_id)
    if status.state not in ENDED:
        raise BadInput("the training is still running; cancel it first", "job")
    queue.forget(job_id)
    if all(job.args.get("data") != status.args.get("data") for job in fits(queue)):
        with contextlib.suppress(OSError):
            (data_folder() / f"{status.args['data']}.npz").unlink()


def evaluation(queue: Jobs, job_id: str) -> dict[str, Any] | None:
    """What the training measured of its model on the rows that it held out; None: nothing, or there is no such job."""
    try:
        text = queue.read_file(job_id, EVALUATION)
    except BadInput:
        return None
    return None if text is None else json.loads(text)


def pack_model(queue: Jobs, job_id: str) -> bytes:
    """Weights, cards and evaluation of a model as a zip archive. Raises: BadInput: no such job."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        files = [f"{name}{ending}" for name in (MODEL, AUTOENCODER) for ending in (".safetensors", ".json")]
        for name in (*files, EVALUATION):
            data = queue.read_file(job_id, name)
            if data is not None:
                archive.writestr(name, data)
    return buffer.getvalue()
