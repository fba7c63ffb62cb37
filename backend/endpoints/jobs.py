"""Endpoints of long work by id. What would read or write other files of the server is refused."""

import dataclasses
import importlib
import io
import re
import zipfile
from typing import Any

from backend import wire
from backend.additive_decoding.own_store import PREFIX
from backend.additive_decoding.own_store import RECIPE as OWN
from backend.endpoints.door import Door, Endpoint, read_settings, read_text
from backend.endpoints.uploads import Uploads
from backend.errors import BadInput
from backend.files import data_folder
from backend.jobs import JobStatus
from backend.limits import LIMITS, MIB

DECODERS = "additive_decoding"
# What may be said of a job, with the type of each; nothing else travels.
EVALUATE = {"family": str, "model": str, "n": int, "seeds": int, "preset": str, "methods": list, "baseline": str}
TRAIN = {"name": str, "family": str, "seed": int, "recipe": dict, "title": str}
RECIPE = {"base": str, "kind": str, "link": str, "support": str, "scene": dict}
SCENE = {"shapes": list, "free": list, "radius": float, "occlusion": bool, "nonlinearity": float}
BASES = ("live", "live-plane", "live-paper", "live-plane-paper")  # recipes small enough for a visitor
OWN_RECIPE = {"base": str, "kind": str, "images": str, "block_sizes": list, "scene": dict}
OWN_SCENE = {"side": int}
FIT_OWN = {"data": str, "encoder": str, "seed": int, "title": str}


def endpoints(door: Door) -> list[Endpoint]:
    def submit_job(kind: str, args: dict) -> dict:
        """Queue an evaluation or a small training; it goes on when the caller leaves, and after a restart.

        Args:
            kind: evaluate, or train
            args: of evaluate: family, model, n (test inputs), seeds, preset (of image_text "table", "roar" for ROAR+
                by fine-tuning, or "search" for beta, sigma2 and layer), methods, baseline. Of train: name
                "live", family "additive_decoding", seed, recipe with base ("live" or "live-plane"), kind, support
                and scene, which trains a small decoder on a support of one's own
        Returns:
            the job's status: id, state (queued, running, done, failed, cancelled), done, total, message
        """
        queue = door.jobs()
        return _describe(queue.status(queue.submit(kind, check_args(kind, args))))

    def job_status(job: str) -> dict:
        """Tell how far a job is.

        Args:
            job: its id
        Returns:
            id, kind, args, state (queued, running, done, failed, cancelled), done, total, message, error
        """
        return _describe(door.jobs().status(read_text("job", job)))

    def list_jobs() -> list:
        """List all jobs of this server, the newest first, each as `job_status` tells it."""
        return [_describe(status) for status in door.jobs().list()]

    def cancel_job(job: str) -> dict:
        """Ask a job to stop; its checkpoint stays.

        Args:
            job: its id
        Returns:
            the job's status
        """
        queue = door.jobs()
        queue.cancel(read_text("job", job))
        return _describe(queue.status(job))

    def job_result(job: str) -> dict:
        """Give the answer of a job that is done: of an evaluation, the table that the page shows.

        Args:
            job: its id
        """
        return door.jobs().result(read_text("job", job))

    return [submit_job, job_status, list_jobs, cancel_job, job_result]


def controls(door: Door, uploads: Uploads) -> list[Endpoint]:
    """Endpoints that another Prism's pages need beside."""

    def put_data(kind: str, key: str, upload: str = "") -> dict:
        """Keep a data set of a visitor's own on the server's disk for the jobs that train on it.

        Args:
            kind: of those jobs: fit_own, or train
            key: the id that the data have by their content
            upload: id of the data sent by `put_part`; empty only asks whether they are held
        Returns:
            is_held: whether the server has them
        """
        if kind not in _STORES or not isinstance(key, str) or not _KEY.fullmatch(key):
            raise BadInput("there are no such data", "key")
        store = importlib.import_module(_STORES[kind])
        if read_text("upload", upload):
            data = uploads.take(upload)
            _check_archive(data)
            if store.receive(data) != key:
                raise BadInput("these are other data than their id says", "key")
        return {"is_held": (data_folder() / f"{key}.npz").exists()}

    def job_files(job: str) -> list:
        """List what a job made for others to read: previews, weights, cards.

        Args:
            job: its id
        """
        return door.jobs().files(read_text("job", job))

    def job_file(job: str, name: str) -> dict:
        """Give one of a job's files.

        Args:
            job: its id
            name: as listed by `job_files`
        Returns:
            data: its bytes as base64 text, or null
        """
        data = door.jobs().read_file(read_text("job", job), read_text("name", name))
        return {"data": None if data is None else wire.encode_bytes(data)}

    def forget_job(job: str) -> dict:
        """Delete a job that has ended, with all that it wrote, and data that only it needs.

        Args:
            job: its id
        """
        queue = door.jobs()
        status = queue.status(read_text("job", job))
        is_own = status.kind == "fit_own" or status.args.get("recipe", {}).get("images")
        if is_own and status.kind in _STORES:
            importlib.import_module(_STORES[status.kind]).forget(queue, job)
        else:
            queue.forget(job)
        return {}

    return [put_data, job_files, job_file, forget_job]


# What keeps a visitor's own data, by the kind of job that trains on them.
_STORES = {"fit_own": "backend.additive_image.own_store", "train": "backend.additive_decoding.own_store"}
_KEY = re.compile(r"[0-9a-f]{64}")


def _check_archive(data: bytes) -> None:
    """Raises: BadInput: it is no .npz file, or too large when it is unpacked."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        raise BadInput("these are no data that Prism kept", "data") from None
    if unpacked > LIMITS.max_unpacked_bytes:
        raise BadInput(f"{unpacked // MIB} MB unpacked; up to {LIMITS.max_unpacked_bytes // MIB} MB", "data")


def _describe(status: JobStatus) -> dict[str, Any]:
    return dataclasses.asdict(status)


def check_args(kind: Any, args: Any) -> dict[str, Any]:
    """Arguments of a job that may come from outside: none of them a path, none of them without bounds.

    Raises: BadInput: another kind of job, an unknown argument, a wrong type, or what a visitor may not start.
    """
    given = read_settings(args, "args")
    if kind == "evaluate":
        given = _check_fields(given, EVALUATE, "model")
        _check_between(given, "n", 1, LIMITS.max_evaluation_images)
        _check_between(given, "seeds", 1, 20)
        _check_strings(given, "methods")
    elif kind == "train":
        given = _check_fields(given, TRAIN, "name", "family", "seed", "recipe")
        _check_training(given)
    elif kind == "fit_own":
        given = _check_fields(given, FIT_OWN, "data", "encoder")
    else:
        raise BadInput(f"unknown kind of job {kind!r}; one of evaluate, train, fit_own", "kind")
    _check_between(given, "seed", 0, 2**31 - 1)
    return given


def _check_training(given: dict[str, Any]) -> None:
    from backend.additive_decoding.recipes import Recipe

    if given["family"] != DECODERS or given["name"] not in ("live", OWN):
        raise BadInput(f"from outside only decoders named live or {OWN} are trained", "name")
    if given["name"] == OWN:
        recipe = _check_fields(given["recipe"], OWN_RECIPE, "base", "images", "block_sizes")
        if recipe["base"] != OWN:
            raise BadInput(f"base is {recipe['base']!r}; expected {OWN}", "base")
        if not recipe["images"].startswith(PREFIX) or not _KEY.fullmatch(recipe["images"].removeprefix(PREFIX)):
            raise BadInput("images is no id of pictures that were put in", "images")
        sizes, scene = recipe["block_sizes"], _check_fields(recipe.get("scene", {}), OWN_SCENE)
        if not all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 64 for size in sizes):
            raise BadInput("block_sizes is no list of whole numbers in 1..64", "block_sizes")
        _check_between(scene, "side", 8, 64)
    else:
        recipe = _check_fields(given["recipe"], RECIPE, "base", "support")
        if recipe["base"] not in BASES:
            raise BadInput(f"base is {recipe['base']!r}; expected one of {', '.join(BASES)}", "base")
        scene = _check_fields(recipe.get("scene", {}), SCENE)
        _check_strings(scene, "shapes")
        _check_strings(scene, "free")
    Recipe.from_json(given["recipe"])


def _check_fields(given: dict[str, Any], known: dict[str, type], *needed: str) -> dict[str, Any]:
    for name in needed:
        if name not in given:
            raise BadInput(f"the argument {name!r} is missing", name)
    for name, value in given.items():
        if name not in known:
            raise BadInput(f"unknown argument {name!r}; expected {', '.join(known)}", name)
        accepted = (int, float) if known[name] is float else known[name]
        if not isinstance(value, accepted) or (isinstance(value, bool) and known[name] is not bool):
            raise BadInput(f"{name} is {value!r}; expected {_WORDS[known[name]]}", name)
    return given


_WORDS = {
    str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list",
    dict: "a JSON object",
}  # fmt: skip


def _check_between(given: dict[str, Any], name: str, low: int, high: int) -> None:
    if name in given and not low <= given[name] <= high:
        raise BadInput(f"{name} is {given[name]}; expected {low}..{high}", name)


def _check_strings(given: dict[str, Any], name: str) -> None:
    if not all(isinstance(item, str) for item in given.get(name, [])):
        raise BadInput(f"{name} is no list of strings", name)
