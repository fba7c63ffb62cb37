"""Coders of pictures beside the diffusion autoencoder: principal components, and networks from the hub.

Both answer to what a diffusion autoencoder does (`encode`, and `decode` if `can_decode`), so that whatever works on
codes need not ask which kind it has.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.catalog import ModelSpec
from backend.errors import BadInput, NotAvailable
from backend.models import weights
from backend.models.autoencoders import LoadedAutoencoder, load_autoencoder, read_card
from backend.models.hub import PREFIX, fetch

HUB_SIDE = 112  # pixels that hub networks see: patches of 14 and of 16 divide it
_CHUNK = 64  # pictures that a hub network sees at a time


class PrincipalCoder(nn.Module):
    """Leading principal components of pictures as their code; decoding is linear and draws a mixture of pictures.

    Codes have mean 0 and variance 1 on the pictures that it was fitted to. There is no stochastic code: what the
    components leave out is lost.
    """

    can_decode = True
    prediction = "sample"  # x_T says nothing, as with autoencoders that predict the picture

    def __init__(self, side: int, n_latents: int) -> None:
        super().__init__()
        self.side, self.n_latents, self.steps = side, n_latents, 1
        self.reading = nn.Linear(3 * side**2, n_latents)
        self.drawing = nn.Linear(n_latents, 3 * side**2)

    @property
    def last_layer(self) -> nn.Module:
        """Whose passes are counted."""
        return self.drawing

    @torch.no_grad()
    def fit(self, images: Tensor, seed: int) -> float:
        """Take the components of pictures, (N, 3, S, S) in [0, 1]; returns the share of the variance they hold.

        Raises: BadInput: no more pictures than components.
        """
        from sklearn.decomposition import PCA  # takes a second to import

        if len(images) <= self.n_latents:
            raise BadInput(f"{len(images)} pictures; more than {self.n_latents} are needed", "images")
        found = PCA(self.n_latents, svd_solver="randomized", random_state=seed).fit(images.flatten(1).cpu().numpy())
        spread = np.sqrt(np.maximum(found.explained_variance_, 1e-8))
        reading = found.components_ / spread[:, None]
        for layer, matrix, shift in (
            (self.reading, reading, -reading @ found.mean_),
            (self.drawing, found.components_.T * spread, found.mean_),
        ):
            layer.weight.copy_(torch.from_numpy(matrix))
            layer.bias.copy_(torch.from_numpy(shift))
        return float(found.explained_variance_ratio_.sum())

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, latents)."""
        return self.reading(images.flatten(1))

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        x_T: Tensor | None = None,
        n_steps: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """(N, latents) -> (N, 3, S, S) in [0, 1]. x_T and steps are those of diffusion: they change nothing here."""
        del x_T, n_steps
        images = self.drawing(codes).unflatten(1, (3, self.side, self.side)).clamp(0, 1)
        if on_step is not None:
            on_step(1, 1)
        return images

    def invert(self, images: Tensor, codes: Tensor, n_steps: int | None = None) -> Tensor:
        """Zeros: there is no stochastic code."""
        del codes, n_steps
        return torch.zeros_like(images)


class HubCoder(nn.Module):
    """A network from the hub whose features, brought to a few components, are the code; it cannot draw.

    Args:
        name: of timm. side: pixels of the pictures that it is given. n_latents: components that are kept.
    """

    can_decode = False
    prediction = "sample"

    def __init__(self, name: str, side: int, n_latents: int, file: str | None = None) -> None:
        """file: weights in the hub's layout; None: random ones, which `load_state_dict` overwrites."""
        super().__init__()
        import timm

        config = timm.get_pretrained_cfg(name)
        if config is None:
            raise BadInput(f"timm knows no network named {name!r}", "encoder")
        options = {"img_size": side} if config.fixed_input_size else {}
        if file is not None:
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": file}}
        self.network = timm.create_model(name, num_classes=0, **options)
        self.side, self.n_latents, self.steps = side, n_latents, 1
        self.project = nn.Linear(self.network.num_features, n_latents)
        for buffer, values in (("mean", config.mean), ("std", config.std)):
            self.register_buffer(buffer, torch.tensor(values).view(1, 3, 1, 1))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, features)."""
        if images.shape[-1] != self.side:
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)
        parts = [self.network((part - self.mean) / self.std) for part in images.split(_CHUNK)]
        return torch.cat(parts)

    @torch.no_grad()
    def fit(self, images: Tensor, seed: int, on_part: Callable[[int, int], None] | None = None) -> float:
        """Keep the leading components of the features of pictures; returns the share of their variance.

        Raises: BadInput: no more pictures than components.
        """
        from sklearn.decomposition import PCA

        if len(images) <= self.n_latents:
            raise BadInput(f"{len(images)} pictures; more than {self.n_latents} are needed", "images")
        parts = []
        for k in range(0, len(images), _CHUNK):
            parts.append(self.features(images[k : k + _CHUNK]).float().cpu())
            if on_part is not None:
                on_part(min(k + _CHUNK, len(images)), len(images))
        found = PCA(self.n_latents, svd_solver="randomized", random_state=seed).fit(torch.cat(parts).numpy())
        reading = found.components_ / np.sqrt(np.maximum(found.explained_variance_, 1e-12))[:, None]
        self.project.weight.copy_(torch.from_numpy(reading))
        self.project.bias.copy_(torch.from_numpy(-reading @ found.mean_))
        return float(found.explained_variance_ratio_.sum())

    def encode(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> (N, latents)."""
        return self.project(self.features(images))


def fetch_hub_coder(name: str, n_latents: int, side: int = HUB_SIDE) -> HubCoder:
    """A hub network with its weights, from the local cache or the hub; its projection is still to be fitted.

    Raises: BadInput: timm has no such network with weights; NotAvailable: the hub does not answer, or the file is bad.
    """
    import timm

    if not timm.is_model(name) or not timm.is_model_pretrained(name):
        raise BadInput(f"timm has no network with weights named {name!r}; see timm.list_pretrained()", "encoder")
    try:
        file = fetch(timm.get_pretrained_cfg(name).hf_hub_id, name)
    except NotAvailable as error:
        raise NotAvailable(
            f"{name} needs weights from the hub, which does not answer; connect once, or see the pictures another way",
            "encoder",
        ) from error
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights are thrown away
            torch.manual_seed(0)
            return HubCoder(name, side, n_latents, file).eval().requires_grad_(False)
    except Exception as error:  # whatever timm's many loaders raise on a damaged download
        raise NotAvailable(
            f"the weights of {name} in the hub cache cannot be used ({type(error).__name__}); delete them and retry",
            "encoder",
        ) from error


_KINDS: dict[str, type[nn.Module]] = {"prism:principal-components": PrincipalCoder, "prism:hub-encoder": HubCoder}
ARCHITECTURES = {kind: name for name, kind in _KINDS.items()}


def load_coder(spec: ModelSpec, folder: Path, device: torch.device) -> LoadedAutoencoder:
    """Any coder, as its card says. Raises: as `load_autoencoder`."""
    card: dict[str, Any] = read_card(spec, folder)
    kind = _KINDS.get(card["architecture"])
    if kind is None:
        return load_autoencoder(spec, folder, device, torch.float32)
    state, digest = weights.read_file(folder / spec.weights, card["sha256"])
    with torch.random.fork_rng(devices=[]):
        module = kind(**card["network"])
    weights.fit_state_dict(module, state, 0, card["architecture"])
    return LoadedAutoencoder(spec, module.to(device, torch.float32), digest, card)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's tensors are."""
    return next(itertools.chain(module.parameters(), module.buffers())).device


def hub_name(encoder: str) -> str | None:
    """The network that `timm:NAME` means; None: it is no such key."""
    return encoder.removeprefix(PREFIX) if encoder.startswith(PREFIX) else None
