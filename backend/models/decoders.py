"""Trained autoencoders of scenes on their device: those that ship, and those that a visitor trained as a job."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backend.catalog import ModelSpec
from backend.errors import BadInput, NotAvailable
from backend.jobs import default_folder
from backend.models import weights
from backend.models.additive_decoder import Autoencoder
from backend.runtime import HasBytes

TASK = "additive_decoding"
JOB_PREFIX = "job-"  # a model that a job trained: its weights lie in the job's folder


class LoadedDecoder(HasBytes):
    """An autoencoder on its device, with the row it came from, its card and the digest of its weights."""

    def __init__(self, spec: ModelSpec, module: Autoencoder, digest: str, card: dict[str, Any]) -> None:
        self.spec = spec
        self.module = module.eval().requires_grad_(False)
        self.digest = digest
        self.card = card
        self.codebook: Any = None  # codes of training scenes, made by the method package when first asked for
        self.nbytes = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def load_decoder(spec: ModelSpec, folder: Path, device: torch.device, dtype: torch.dtype) -> LoadedDecoder:
    """Read weights and card, check the digest, build the network that the card describes.

    Raises: NotAvailable: not trained here yet; BadInput: the file is not the card's, or does not fit its network.
    """
    try:
        card = json.loads((folder / spec.card).read_text(encoding="utf-8"))
    except OSError:
        name, _, seed = spec.key.partition("-seed")
        command = f"python -m backend train {name}" + (f" --seed {seed}" if seed else "")
        raise NotAvailable(f"{spec.key} has no weights here; `{command}` makes them", "model") from None
    state, digest = weights.read_file(folder / spec.weights, card["sha256"])
    return build_decoder(spec, card, state, digest, device, dtype)


def build_decoder(
    spec: ModelSpec,
    card: dict[str, Any],
    state: Mapping[str, torch.Tensor],
    digest: str,
    device: torch.device,
    dtype: torch.dtype,
) -> LoadedDecoder:
    """The network that a card describes, with these weights. Raises: BadInput: they are no card, or do not fit."""
    try:
        with torch.device("meta"):  # sizes first: a card may ask for more than there is
            weights.check_fit(Autoencoder(**card["network"]), state, 0, spec.architecture)
    except (TypeError, KeyError, ValueError, RuntimeError, AttributeError) as error:
        raise BadInput(f"the card's network cannot be built: {str(error).splitlines()[0][:160]}", "card") from error
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away
        module = Autoencoder(**card["network"])
    weights.fit_state_dict(module, state, 0, spec.architecture)
    return LoadedDecoder(spec, module.to(device, dtype), digest, card)


def job_spec(key: str) -> tuple[ModelSpec, Path]:
    """The row of a model that the job `job-ID` trained, and the folder of its files.

    Raises: BadInput: no such job, or it has not made a model.
    """
    job_id = key.removeprefix(JOB_PREFIX)
    folder = default_folder() / job_id
    cards = [] if not job_id.isalnum() else [path for path in folder.glob("*.safetensors")]
    if not cards:
        raise BadInput(f"the job {job_id!r} has trained no model", "model")
    name = cards[0].stem
    card = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    side = card["network"]["side"]
    spec = ModelSpec(
        key=key,
        title=f"Your own training, seed {card['seed']}",
        architecture=card["architecture"],
        source="local",
        labels=(),
        input_size=(side, side),
        weights=f"{name}.safetensors",
        card=f"{name}.json",
        task=TASK,
        licence=card["licence"],
        summary=card["data"],
    )
    return spec, folder
