"""What every training run shares: keys and cards of weights, checkpoints, schedules, and which package trains what."""

import contextlib
import hashlib
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from backend.errors import BadInput
from backend.files import draft_of, write_whole

WEIGHTS = Path(__file__).resolve().parents[1] / "assets" / "weights"
# Each has `train.RECIPES` and `train.job`.
PACKAGES = ("path_attribution", "additive_decoding", "image_text", "additive_image")
# These too, for models of a family that has a package already.
TRAINED_BESIDE = ("scenes", "sounds")
_MAPS = "-maps"  # KEY-maps is no model: statistics and settings for the maps of the pair KEY


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """A training job: the package that has a recipe of this name does it, or the one that `args["family"]` names.

    Raises: BadInput: nobody has such a recipe; the sentence lists the names.
    """
    if args["name"].endswith(_MAPS):
        return importlib.import_module("backend.image_text.hold").job(args, context)
    known: list[str] = []
    for package in (*PACKAGES, *TRAINED_BESIDE):
        module = importlib.import_module(f"backend.{package}.train")
        name = args["name"].removesuffix(getattr(module, "PAPER", ""))
        if name in module.RECIPES or args.get("family") == package:
            return module.job(args, context)
        known += module.RECIPES
    raise BadInput(f"unknown model {args['name']!r}; one of {', '.join(known)}", "name")


def evaluation_job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """An evaluation job: done by the package of its family. The command line has checked the family."""
    return importlib.import_module(f"backend.{args.get('family', PACKAGES[0])}.evaluate").job(args, context)


def weights_key(name: str, seed: int) -> str:
    """The model's key: seed 0 has the plain name.

    >>> weights_key("digits-gap", 0), weights_key("digits-gap", 3)
    ('digits-gap', 'digits-gap-seed3')
    """
    return name if seed == 0 else f"{name}-seed{seed}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, so that equal seeds give equal weights.

    Small networks are also slower on several threads, and beside other work many times so (nine times, measured).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, {torch.get_num_threads()} thread(s)"


def write_weights(folder: str | Path, key: str, tensors: dict[str, Tensor], card: dict[str, Any]) -> dict[str, Any]:
    """Write `KEY.safetensors` and beside it the card `KEY.json`, completed with the digest; returns the card."""
    folder = Path(folder)
    weights = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    card = {**card, "sha256": hashlib.sha256(weights).hexdigest(), "torch": torch.__version__.split("+")[0]}
    write_whole(folder / f"{key}.safetensors", weights)
    write_whole(folder / f"{key}.json", json.dumps(card, indent=2) + "\n")
    return card


def keep_checkpoint(path: Path | None, identity: str, state: dict[str, Any]) -> None:
    """Keep a run's state; a kill in the middle leaves the last whole one. None: nothing is kept."""
    if path is None:
        return
    with draft_of(path) as draft:
        torch.save({"identity": identity, **state}, draft)


def find_checkpoint(path: Path | None, identity: str) -> dict[str, Any] | None:
    """The state that a run of this identity kept; None: there is none.

    Raises: BadInput: it belongs to another run.
    """
    if path is None or not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["identity"] != identity:
        raise BadInput("the checkpoint belongs to another run (name, seed or recipe differ)", "checkpoint")
    return state


def forget_checkpoint(path: Path | None) -> None:
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
