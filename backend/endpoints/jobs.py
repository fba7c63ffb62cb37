"""Endpoints of long work by id. What would read or write other files of the server is refused."""

import dataclasses
from typing import Any

from backend import wire
from backend.endpoints.door import Door, Endpoint, read_settings, read_text
from backend.errors import BadInput
from backend.jobs import JobStatus
from backend.limits import LIMITS

DECODERS = "additive_decoding"
# What may be said of a job, with the type of each; nothing else travels.
EVALUATE = {"family": str, "model": str, "n": int, "seeds": int, "preset": str, "methods": list, "baseline": str}
TRAIN = {"name": str, "family": str, "seed": int, "recipe": dict}
RECIPE = {"base": str, "kind": str, "support": str, "scene": dict}
SCENE = {"shapes": list, "free": list, "radius": float, "occlusion": bool, "nonlinearity": float}
BASES = ("live", "live-plane")  # recipes small enough for a visitor
FIT_OWN = {"data": str, "encoder": str, "seed": int, "title": str}
FILES = ("preview.npz", "own.safetensors", "own.json", "own-dae.safetensors", "own-dae.json")


def endpoints(door: Door) -> list[Endpoint]:
    def submit_job(kind: str, args: dict) -> dict:
        """Queue an evaluation or a small training; it goes on when the caller leaves, and after a restart.

        Args:
            kind: evaluate, or train
            args: of evaluate: family, model, n (test inputs), seeds, preset, methods, baseline. Of train: name
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


def controls(door: Door) -> list[Endpoint]:
    """Endpoints that another Prism's pages need beside."""

    def job_file(job: str, name: str) -> dict:
        """Give a preview or the weights that a job wrote.

        Args:
            job: its id
            name: one of preview.npz, own.safetensors, own.json, own-dae.safetensors, own-dae.json
        Returns:
            data: its bytes as base64 text, or null
        """
        if name not in FILES:
            raise BadInput(f"name is {name!r}; expected one of {', '.join(FILES)}", "name")
        data = door.jobs().read_file(read_text("job", job), name)
        return {"data": None if data is None else wire.encode_bytes(data)}

    def forget_job(job: str) -> dict:
        """Delete a job that has ended, with all that it wrote.

        Args:
            job: its id
        """
        door.jobs().forget(read_text("job", job))
        return {}

    return [job_file, forget_job]


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
    if given["family"] != DECODERS or given["name"] != "live":
        raise BadInput("only decoders named live are trained from outside; others by the command line", "name")
    recipe = _check_fields(given["recipe"], RECIPE, "base", "support")
    if recipe["base"] not in BASES:
        raise BadInput(f"base is {recipe['base']!r}; expected one of {', '.join(BASES)}", "base")
    scene = _check_fields(recipe.get("scene", {}), SCENE)
    _check_strings(scene, "shapes")
    _check_strings(scene, "free")
    from backend.additive_decoding.recipes import Recipe

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
