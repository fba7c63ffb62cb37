"""Trained diffusion autoencoders on their device."""

import json
from pathlib import Path
from typing import Any

import torch

from backend.catalog import ModelSpec
from backend.errors import NotAvailable
from backend.models import weights
from backend.runtime import HasBytes

TASK = "diffusion_autoencoder"


class LoadedAutoencoder(HasBytes):
    """An autoencoder on its device, with the row it came from, its card and the digest of its weights."""

    def __init__(self, spec: ModelSpec, module: torch.nn.Module, digest: str, card: dict[str, Any]) -> None:
        self.spec = spec
        self.module = module.eval().requires_grad_(False)
        self.digest = digest
        self.card = card
        self.nbytes = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def load_autoencoder(spec: ModelSpec, folder: Path, device: torch.device, dtype: torch.dtype) -> LoadedAutoencoder:
    """Read weights and card, check the digest, build the network that the card describes.

    Raises: NotAvailable: not trained here yet; BadInput: the file is not the card's, or does not fit its network.
    """
    from backend.models.diffusion_autoencoder import DiffusionAutoencoder  # diffusers takes seconds to import

    card = read_card(spec, folder)
    state, digest = weights.read_file(folder / spec.weights, card["sha256"])
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away
        module = DiffusionAutoencoder(**card["network"])
    weights.fit_state_dict(module, state, 0, spec.architecture)
    return LoadedAutoencoder(spec, module.to(device, dtype), digest, card)


def read_card(spec: ModelSpec, folder: Path) -> dict[str, Any]:
    """The card of a model that ships. Raises: NotAvailable: it was not trained here; the sentence says how to."""
    try:
        return json.loads((folder / spec.card).read_text(encoding="utf-8"))
    except OSError:
        name, _, seed = spec.key.partition("-seed")
        command = f"python -m backend train {name}" + (f" --seed {seed}" if seed else "")
        raise NotAvailable(f"{spec.key} has no weights here; `{command}` makes them", "model") from None
