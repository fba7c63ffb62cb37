"""Pictures of a user's own on this machine's disk, for the jobs that train decoders on them; no torch here."""

import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

from backend.additive_decoding.own_data import OwnPictures
from backend.contracts import digest
from backend.errors import BadInput
from backend.files import data_folder, draft_of
from backend.jobs import ENDED, Jobs, JobStatus

PREFIX = "own:"  # of a recipe's `images` that names kept pictures instead of a path
RECIPE = "own-images"
FAMILY = "additive_decoding"


def keep(pictures: OwnPictures) -> str:
    """Write pictures to the disk; returns their id. Equal pictures with equal factors have equal ids."""
    header = {"names": pictures.names, "sizes": pictures.sizes, "digest": pictures.digest}
    factors = {} if pictures.factors is None else {"factors": pictures.factors}
    shape = str(pictures.pixels.shape)
    key = digest(json.dumps([header, shape], sort_keys=True).encode() + pictures.pixels.tobytes())
    path = _path(key)
    with draft_of(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), pixels=pictures.pixels, **factors)
    return key


def read(key: str) -> OwnPictures:
    """Raises: BadInput: no such pictures, or they were forgotten."""
    if not key.isalnum():
        raise BadInput("there are no such pictures", "images")
    try:
        return _parse(_path(key))
    except (OSError, ValueError, KeyError):
        raise BadInput("the pictures of this training were forgotten; bring them again", "images") from None


def receive(data: bytes) -> str:
    """Keep pictures as another Prism kept them; returns their id. Raises: BadInput: they are none."""
    try:
        return keep(_parse(io.BytesIO(data)))
    except Exception:  # numpy, zipfile and zlib meet damage with errors of their own
        raise BadInput("these are no pictures that Prism kept", "images") from None


def _parse(source: Path | io.BytesIO) -> OwnPictures:
    with np.load(source, allow_pickle=False) as file:
        header = json.loads(str(file["header"]))
        factors = file["factors"] if "factors" in file.files else None
        return OwnPictures(file["pixels"], factors, tuple(header["names"]), tuple(header["sizes"]), header["digest"])


def _path(key: str) -> Path:
    return data_folder() / f"{key}.npz"


# ----------------------------------------------------------------- jobs
def trainings(queue: Jobs) -> list[JobStatus]:
    """Trainings on a user's own pictures, the newest first."""
    return [job for job in queue.list() if job.args.get("family") == FAMILY and images_of(job)]


def images_of(job: JobStatus) -> str:
    """What a training job reads its pictures from; empty: it draws scenes."""
    return job.args.get("recipe", {}).get("images", "") if job.kind == "train" else ""


def forget(queue: Jobs, job_id: str) -> None:
    """Delete a training and, if no other needs them, its pictures. Raises: BadInput: it is running."""
    status = queue.status(job_id)
    if status.state not in ENDED:
        raise BadInput("the training is still running; cancel it first", "job")
    queue.forget(job_id)
    images = images_of(status)
    if images.startswith(PREFIX) and all(images_of(job) != images for job in trainings(queue)):
        with contextlib.suppress(OSError):
            _path(images.removeprefix(PREFIX)).unlink()


def pack_model(queue: Jobs, job_id: str) -> bytes:
    """Weights, card and grid of a training as a zip archive. Raises: BadInput: no such job."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in queue.files(job_id):
            if name.startswith(RECIPE):
                archive.writestr(name, queue.read_file(job_id, name) or b"")
    return buffer.getvalue()
