"""M2IB as plainly as it can be written: what the fast one is compared with, in numbers and in time."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from backend.models.clip import ImageTextPair


class PlainBottleneck:
    """What the authors' code does in the plainest way: a hook behind a block of the whole, unmodified network.

    Nothing is cached, nothing is trimmed, weights want gradients, both towers run at every step.
    """

    def __init__(self, pair: ImageTextPair, modality: str, layer: int) -> None:
        self.pair, self.modality = pair, modality
        pair.module.requires_grad_(True)
        owner = {"image": pair.module.visual, "text": pair.module}.get(modality) or pair.module.audio
        if hasattr(owner, "layer1"):
            self.block = [owner.layer1, owner.layer1, owner.layer2, owner.layer3, owner.layer4][layer]
        else:
            self.block = owner.transformer.resblocks[layer]

    def explain(
        self,
        image: Tensor,
        ids: Tensor,
        seed: int,
        beta: float,
        sigma2: float,
        steps: int,
        samples: int,
        statistics: tuple[Tensor, Tensor] | None = None,
        smooth: float = 0.0,
        grid: tuple[int, int] = (1, 1),
    ):
        """Capacity of every token, in the order of the hidden state.

        Args: statistics: mean and spread of `hidden`, with one alpha for all channels; None: as the paper has it.
            smooth: in cells of the grid, whose places are the last tokens.
        """
        captured = []
        handle = self.block.register_forward_hook(lambda m, i, output: captured.append(output.detach()))
        self.features(image, ids)
        handle.remove()
        hidden = _as_tokens(captured[0])[:1]
        length = self.length(hidden, ids)
        hidden = hidden[:, :length]
        centre, spread = statistics or (torch.zeros(()), torch.ones(()))
        hidden = (hidden - centre) / spread
        alpha = torch.full_like(hidden if statistics is None else hidden[..., :1], 5.0, requires_grad=True)
        adam = torch.optim.Adam([alpha], lr=1.0)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            gate = alpha.sigmoid()
            if smooth:
                n_places = grid[0] * grid[1]
                gate = torch.cat([gate[:, :-n_places], _blurred(gate[:, -n_places:], grid, smooth)], 1)
            noise = torch.randn(samples, length, hidden.shape[2], generator=generator)
            passed = gate * hidden + sigma2**0.5 * (1 - gate) * noise
            spreads = sigma2**0.5 * (1 - gate).expand_as(hidden)
            divergence = kl_divergence(Normal(gate * hidden, spreads), Normal(0.0, 1.0))
            passed = passed * spread + centre

            def replace(module, inputs, output, passed=passed):
                tokens = _as_tokens(output)
                return _like(torch.cat([passed, tokens[:, length:]], 1), output)

            handle = self.block.register_forward_hook(replace)
            one, other = self.features(image.expand(samples, -1, -1, -1), ids.expand(samples, -1))
            handle.remove()
            loss = beta * divergence.mean() - F.cosine_similarity(one, other).mean()
            adam.zero_grad()
            self.pair.module.zero_grad()
            loss.backward()
            adam.step()
        return divergence.detach()[0].sum(-1)

    def features(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        module = self.pair.module
        if self.modality == "audio":
            return module.audio(module.audio.normalise(image)), module.encode_text(ids)
        return module.encode_image(module.normalise(image)), module.encode_text(ids)

    def length(self, hidden: Tensor, ids: Tensor) -> int:
        return int(ids[0].argmax()) + 1 if self.modality == "text" else hidden.shape[1]


def _blurred(places: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """A Gaussian blur of (1, T, C) over the cells of a grid; what would lie outside of it has no weight."""
    reach = max(grid)
    bell = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    kernel = torch.outer(bell, bell)[None, None]
    maps = places.transpose(1, 2).unflatten(2, grid).transpose(0, 1)
    blurred = F.conv2d(maps, kernel, padding=reach) / F.conv2d(torch.ones_like(maps), kernel, padding=reach)
    return blurred.transpose(0, 1).flatten(2).transpose(1, 2)


def _as_tokens(output: Tensor) -> Tensor:
    return output.flatten(2).transpose(1, 2) if output.ndim == 4 else output


def _like(tokens: Tensor, output: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, output.shape[2:]) if output.ndim == 4 else tokens
