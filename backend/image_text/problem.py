"""What every method is asked: one tower with its input, and vectors of the other modality that it is held against."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.models.towers import Tower
from backend.runtime import Chunks

_SAMPLED_ROWS = 64  # masked inputs between two signs of life


@dataclass(frozen=True)
class Statistics:
    """Mean and spread of a tower's hidden state over many inputs.

    (T, C), place by place, for images; (1, C), the same at every token, for texts.
    """

    mean: Tensor
    std: Tensor


@dataclass
class Problem:
    """One input of one tower, and one map wanted for each vector of the other modality.

    A method reads nothing else. Cosines are taken with every target by itself, so that a batch equals its items.
    """

    tower: Tower
    inputs: Tensor  # (1, C, H, W) in [0, 1], or ids (1, context_length)
    targets: Tensor  # (B, E), unit vectors of the other modality
    seed: int = 0
    negatives: Tensor | None = None  # (K, E), unit vectors that do not belong to the input
    scale: float = 100.0  # what cosines were multiplied by in training
    statistics: Callable[[int], Statistics | None] = lambda layer: None  # of a layer, where the model has them
    words: tuple[tuple[int, int], ...] = ()  # first and last + 1 sub-token of every word of a text
    blank_id: int = 0  # stands where a word is left out
    chunks: Chunks = field(default_factory=lambda: Chunks(64))
    on_step: OnStep = None

    @property
    def is_text(self) -> bool:
        return self.tower.modality == "text"

    def is_special(self, n_tokens: int) -> Tensor:
        """Which of a text's tokens belong to no word, (T,) bool."""
        special = torch.ones(n_tokens, dtype=torch.bool)
        for first, last in self.words:
            special[first:last] = False
        return special

    def generator(self) -> torch.Generator:
        """A fresh generator on the CPU: each map of a batch has the numbers that it would have by itself."""
        return torch.Generator().manual_seed(self.seed)

    def cosines(self, inputs: Tensor) -> Tensor:
        """Cosine of every input with every target; (N, ...) -> (N, B). Gradients pass."""
        return F.normalize(self.tower.encode(inputs), dim=-1) @ self.targets.T

    def step(self, done: int, total: int, message: str) -> None:
        if self.on_step is not None:
            self.on_step(Step(done, total, message))

    def sampled_cosines(self, n: int, make: Callable[[int, int], Tensor], message: str) -> Tensor:
        """Cosines of many altered inputs, made and scored in blocks without gradients; (n, B).

        Args: make: numbers of the first and last + 1 input -> these inputs.
        """
        rows = []
        for start in range(0, n, _SAMPLED_ROWS):
            stop = min(start + _SAMPLED_ROWS, n)
            with torch.no_grad():
                rows.append(self.chunks.map(lambda batch: (self.cosines(batch),), make(start, stop))[0])
            self.step(stop, n, message)
        return torch.cat(rows)


@dataclass
class Explanation:
    """Maps of one problem, one for each target.

    An image has `maps` (B, rows, columns), of tokens or of pixels; a text (B, T), special tokens included, which
    whoever shows the map leaves out.
    """

    maps: Tensor
    special: Tensor | None = None  # (B,), what lies on tokens that are no places or words, in the map's unit
    curves: dict[str, Tensor] = field(default_factory=dict)  # (B, n_steps) each
    figures: dict[str, Tensor] = field(default_factory=dict)  # (B,) each
    notes: list[str] = field(default_factory=list)


def places(problem: Problem, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Values of tokens as a map: (B, T) -> (B, rows, columns) for images, (B, T) for texts; and the special ones' sum.

    Raises: BadInput: the tokens are neither.
    """
    grid = problem.tower.grid(layer)
    if grid is None:
        return values, values[:, problem.is_special(values.shape[1]).to(values.device)].sum(1)
    leading = problem.tower.leading(layer)
    if values.shape[1] != leading + grid[0] * grid[1]:
        raise BadInput(f"{values.shape[1]} tokens do not fill a grid of {grid[0]} x {grid[1]}", "layer")
    return values[:, leading:].unflatten(1, grid), values[:, :leading].sum(1)


def resolve_layer(problem: Problem, layer: int | None, default: int) -> int:
    """The layer asked for, or the default. Raises: BadInput: no such block."""
    return problem.tower.check_layer(default if layer is None else layer)


@contextmanager
def wants_gradient(tensor: Tensor) -> Iterator[Tensor]:
    """A leaf with the tensor's values of which gradients can be asked; the tensor itself stays as it is."""
    with torch.enable_grad():
        yield tensor.detach().clone().requires_grad_(True)
