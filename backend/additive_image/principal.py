"""First training stage of an encoder by principal components: a small autoencoder of the components' coefficients."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from backend.models.coders import device_of
from backend.models.diffusion_autoencoder import DiffusionAutoencoder, PrincipalEncoder, RegionalEncoder

_FITTED = 6000  # images from which the components are taken
_CHUNK = 2000  # images drawn at a time
_LOUDER = 2.0  # noise on a region's latent: only one, it has to be spread evenly over all that it says


class PrincipalStage(nn.Module):
    """Decoder of coefficients, thrown away after the stage, with the coefficients of a pool of training images.

    The decoder is affine plus a perceptron. What the perceptron adds is penalised by `flatness` times its squared
    size: of all codes from which the images can be drawn, those are preferred along which they change most evenly, so
    that half-way codes show half-way images and no cross-fades. No label is used.
    Differs from the paper, which trains encoder and diffusion together: the smile, few pixels large, was left out.
    """

    def __init__(self, autoencoder: DiffusionAutoencoder, flatness: float, width: int = 256) -> None:
        super().__init__()
        self.flatness = flatness
        n_latents, components = self._sizes(autoencoder)
        self.affine = nn.Linear(n_latents, components)
        self.bend = _perceptron(n_latents, width, components)
        self.pool = torch.empty(0, components)

    def _sizes(self, autoencoder: DiffusionAutoencoder) -> tuple[int, int]:
        """Latents and components between which `affine` and `bend` lead."""
        if not isinstance(autoencoder.encoder, PrincipalEncoder):
            raise TypeError("this stage trains a PrincipalEncoder")
        return autoencoder.n_latents, autoencoder.encoder.basis.shape[1]

    @torch.no_grad()
    def prepare(
        self,
        encoder: PrincipalEncoder | RegionalEncoder,
        draw: Callable[[int, np.random.Generator], Tensor],
        seed: int,
        n_images: int,
        weight: Tensor | None,
    ) -> None:
        """Fit the components and fill the pool.

        Args: draw: images of this kind, (n, 3, S, S) in [0, 1]. weight: of each pixel, (S, S); None: 1.
        """
        place = functools.partial(torch.Tensor.to, device=device_of(encoder))
        drawn = place(draw(_FITTED, np.random.default_rng([seed, 7]))) * 2 - 1
        encoder.fit_components(drawn, torch.Generator().manual_seed(seed), weight)
        parts = [encoder.coefficients(drawn)]
        for k in range(-(-max(0, n_images - _FITTED) // _CHUNK)):
            parts.append(encoder.coefficients(place(draw(_CHUNK, np.random.default_rng([seed, 8, k]))) * 2 - 1))
        self.pool = torch.cat(parts)
        self.variances = [float(part.var(0).sum()) for part in self.pool.split(encoder.sizes, 1)]

    def loss(self, model: DiffusionAutoencoder, batch: int, noise: float, generator: torch.Generator) -> Tensor:
        """Squared error of coefficients drawn from noisy codes, as a share of their variance, plus the penalty."""
        chosen, codes = self._draw_codes(model, batch, noise, generator)
        return self._error(codes, chosen) / self.variances[0]

    def _draw_codes(
        self, model: DiffusionAutoencoder, batch: int, noise: float | Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Coefficients of a batch from the pool, and their noisy codes."""
        chosen = self.pool[torch.randint(len(self.pool), (batch,), generator=generator).to(self.pool.device)]
        codes = model.standard(model.encoder.encode_coefficients(chosen))
        return chosen, codes + noise * torch.randn(codes.shape, generator=generator).to(codes)

    def _error(self, codes: Tensor, coefficients: Tensor) -> Tensor:
        """Squared error with the penalty, neither as a share of anything."""
        bend = self.bend(codes)
        error = (self.affine(codes) + bend - coefficients).square().sum(1).mean()
        return error + self.flatness * bend.square().sum(1).mean()


class RegionalStage(PrincipalStage):
    """As `PrincipalStage`, for a `RegionalEncoder`: the surroundings, then one region after the other.

    Each region is drawn from the codes of the surroundings and of the regions up to itself. Its own latent has then
    to say what it adds to them and nothing else: whether a mouth smiles, not where it is. No label is used.
    """

    def __init__(self, autoencoder: DiffusionAutoencoder, flatness: float, width: int = 256) -> None:
        super().__init__(autoencoder, flatness, width)
        n_around, *_ = self._sizes(autoencoder)
        self.parts = nn.ModuleList(
            _perceptron(n_around + 1 + k, width, size) for k, size in enumerate(autoencoder.encoder.sizes[1:])
        )

    def _sizes(self, autoencoder: DiffusionAutoencoder) -> tuple[int, int]:
        encoder = autoencoder.encoder
        if not isinstance(encoder, RegionalEncoder):
            raise TypeError("this stage trains a RegionalEncoder")
        return autoencoder.n_latents - len(encoder.regions), encoder.sizes[0]

    def loss(self, model: DiffusionAutoencoder, batch: int, noise: float, generator: torch.Generator) -> Tensor:
        """Squared errors of the surroundings' and of each region's coefficients, each as a share of their variance."""
        sizes, n_around = model.encoder.sizes, self.affine.in_features
        spread = self.pool.new_tensor([noise] * n_around + [_LOUDER * noise] * len(self.parts))
        chosen, codes = self._draw_codes(model, batch, spread, generator)
        around, *regions = chosen.split(sizes, 1)
        total = self._error(codes[:, :n_around], around) / self.variances[0]
        for k, (draw, region) in enumerate(zip(self.parts, regions, strict=True)):
            error = (draw(codes[:, : n_around + 1 + k]) - region).square().sum(1).mean()
            total = total + error / self.variances[1 + k]
        return total


def _perceptron(n_inputs: int, width: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, n_outputs)
    )
