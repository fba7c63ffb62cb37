"""First training stage of an encoder by principal components: a small autoencoder of the components' coefficients."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from backend.models.diffusion_autoencoder import DiffusionAutoencoder, PrincipalEncoder

_FITTED = 6000  # images from which the components are taken
_CHUNK = 2000  # images drawn at a time


class PrincipalStage(nn.Module):
    """Decoder of coefficients, thrown away after the stage, with the coefficients of a pool of training images.

    The decoder is affine plus a perceptron. What the perceptron adds is penalised by `flatness` times its squared
    size: of all codes from which the images can be drawn, those are preferred along which they change most evenly, so
    that half-way codes show half-way images and no cross-fades. No label is used.
    Differs from the paper, which trains encoder and diffusion together: the smile, few pixels large, was left out.
    """

    def __init__(self, autoencoder: DiffusionAutoencoder, flatness: float, width: int = 256) -> None:
        super().__init__()
        encoder = autoencoder.encoder
        if not isinstance(encoder, PrincipalEncoder):
            raise TypeError("this stage trains a PrincipalEncoder")
        components = encoder.basis.shape[1]
        self.flatness = flatness
        self.affine = nn.Linear(autoencoder.n_latents, components)
        self.bend = nn.Sequential(
            nn.Linear(autoencoder.n_latents, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, components),
        )
        self.pool = torch.empty(0, components)

    @torch.no_grad()
    def prepare(
        self,
        encoder: PrincipalEncoder,
        draw: Callable[[int, np.random.Generator], Tensor],
        seed: int,
        n_images: int,
        weight: Tensor | None,
    ) -> None:
        """Fit the components and fill the pool.

        Args: draw: images of this kind, (n, 3, S, S) in [0, 1]. weight: of each pixel, (S, S); None: 1.
        """
        place = functools.partial(torch.Tensor.to, device=encoder.basis.device)
        drawn = place(draw(_FITTED, np.random.default_rng([seed, 7]))) * 2 - 1
        encoder.fit_components(drawn, torch.Generator().manual_seed(seed), weight)
        parts = [encoder.coefficients(drawn)]
        for k in range(-(-max(0, n_images - _FITTED) // _CHUNK)):
            parts.append(encoder.coefficients(place(draw(_CHUNK, np.random.default_rng([seed, 8, k]))) * 2 - 1))
        self.pool = torch.cat(parts)
        self.size = float(self.pool.var(0).sum())

    def loss(self, model: DiffusionAutoencoder, batch: int, noise: float, generator: torch.Generator) -> Tensor:
        """Squared error of coefficients drawn from noisy codes, as a share of their variance, plus the penalty."""
        chosen = self.pool[torch.randint(len(self.pool), (batch,), generator=generator).to(self.pool.device)]
        codes = model.standard(model.encoder.encode_coefficients(chosen))
        codes = codes + noise * torch.randn(codes.shape, generator=generator).to(codes)
        bend = self.bend(codes)
        error = (self.affine(codes) + bend - chosen).square().sum(1).mean()
        return (error + self.flatness * bend.square().sum(1).mean()) / self.size
