"""A tower that counts what goes through it, for a result's provenance; methods do not notice it."""

from typing import Any

from torch import Tensor

from backend.models.towers import Tower
from backend.runtime import PassCounter


class CountedTower:
    """Passes everything on; inputs that reach the shared space count as forward, their gradients as backward passes."""

    def __init__(self, tower: Tower, counter: PassCounter) -> None:
        self._tower, self._counter = tower, counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tower, name)

    def encode(self, inputs: Tensor) -> Tensor:
        return self._count(self._tower.encode(inputs))

    def suffix(self, hidden: Tensor, layer: int, inputs: Tensor | None = None) -> Tensor:
        return self._count(self._tower.suffix(hidden, layer, inputs))

    def attend(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        features, attentions = self._tower.attend(inputs)
        return self._count(features), attentions

    def _count(self, features: Tensor) -> Tensor:
        self._counter.forward += len(features)
        if features.requires_grad:
            features.register_hook(self._count_gradient)
        return features

    def _count_gradient(self, gradient: Tensor) -> None:
        self._counter.backward += len(gradient)
