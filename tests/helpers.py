"""Small things that tests share: a problem in one line, tiny nets with known weights, scores in closed form."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from backend.contracts import OnStep
from backend.models.classifier import Classifier
from backend.path_attribution.problem import Problem
from backend.runtime import Chunks


def make_problem(
    network: nn.Module,
    images: Tensor,
    baselines: Tensor | float = 0.0,
    targets: Tensor | int = 0,
    seed: int = 0,
    chunk: int = 64,
    on_step: OnStep = None,
) -> Problem:
    """A problem over images (B, C, H, W), in their dtype and on their device.

    Args:
        network: images -> logits; wrapped into a `Classifier` without normalisation if it is not one.
        baselines: like the images, or one value for all of them.
        targets: (B,) long, or one class for all of them.
    """
    model = network if isinstance(network, Classifier) else Classifier(network)
    model = model.to(images).eval().requires_grad_(False)
    return Problem(
        model=model,
        images=images,
        baselines=torch.as_tensor(baselines, dtype=images.dtype, device=images.device).expand_as(images).clone(),
        targets=torch.as_tensor(targets, device=images.device).expand(len(images)).clone(),
        generator=torch.Generator().manual_seed(seed),
        chunks=Chunks(chunk),
        on_step=on_step,
    )


def random_images(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Images of the given shape, uniform in [0, 1], the same for a seed."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def reseed(network: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights again from a generator of their own: normal, scaled by the fan-in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = max(1, parameter[0].numel()) ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network.eval()


def tiny_cnn(channels: int = 1, classes: int = 3, seed: int = 0) -> nn.Module:
    """Two convolutions with ReLU modules and a linear head on pooled features; any image size."""
    return reseed(
        nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32, classes),
        ),
        seed,
    )


class ScoreNet(nn.Module):
    """A network whose logits are given functions of the image: closed forms as models."""

    def __init__(self, *scores: Callable[[Tensor], Tensor]) -> None:
        """scores: one per class, images (N, C, H, W) -> (N,)."""
        super().__init__()
        self.scores = scores

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([score(images) for score in self.scores], dim=1)


class CountingNet(nn.Module):
    """Passes calls on and remembers how many images each of them had."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        return self.network(images)


class CrampedNet(CountingNet):
    """A network on a device with room for a few images only."""

    def __init__(self, network: nn.Module, room: int) -> None:
        super().__init__(network)
        self.room = room

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError(f"{len(images)} images, room for {self.room}")
        return super().forward(images)


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """max |ours - theirs| / max |theirs|."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
