"""What every attribution method is asked, and what it answers: tensors and callables only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backend.contracts import OnStep, Result, Step
from backend.errors import ModelFault
from backend.models.classifier import Classifier
from backend.models.first_layer import quick_first_layer
from backend.runtime import Chunks

Score = Callable[[Tensor, Tensor], Tensor]  # points (N, C, H, W), targets (N,) -> (N,)


def target_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """The targets' logits; (N, classes), (N,) -> (N,). Raises: ModelFault: one of them is not a number."""
    scores = logits.gather(1, targets[:, None])[:, 0]
    if not torch.isfinite(scores).all():
        raise ModelFault("the model returned a score that is not a number for this input", "model")
    return scores


def _laid_out(points: Tensor) -> Tensor:
    """The same points in the order of memory that convolutions are fastest in: on a CPU, channels last."""
    return points.contiguous(memory_format=torch.channels_last) if points.device.type == "cpu" else points


@dataclass
class Problem:
    """A batch of images, each with a baseline and a target class, and the model that scores them.

    Everything lies on one device in one dtype. The score f is the target's logit, never its probability.
    """

    model: Classifier  # images (N, C, H, W) in [0, 1] -> logits (N, classes)
    images: Tensor  # (B, C, H, W)
    baselines: Tensor  # (B, C, H, W)
    targets: Tensor  # (B,) long
    generator: torch.Generator  # on the CPU
    chunks: Chunks
    on_step: OnStep = None
    # An estimate so far, (B, C or 1, H, W), as people see it: a result for each of them.
    show: Callable[[Tensor], Sequence[Result]] | None = None

    def score(self, points: Tensor, targets: Tensor) -> Tensor:
        """The target's logit at each point, without gradients; (N, C, H, W), (N,) -> (N,)."""

        def chunk(x: Tensor, t: Tensor) -> tuple[Tensor]:
            with torch.no_grad():
                return (self._logit(x, t),)

        return self.chunks.map(chunk, points, targets)[0]

    def score_and_gradient(self, points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The target's logit and its gradient with respect to the input; (N,), (N, C, H, W)."""

        def chunk(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x = _laid_out(x.detach()).requires_grad_(True)
            with torch.enable_grad():
                scores = self._logit(x, t)
                (gradient,) = torch.autograd.grad(scores.sum(), x)
            return scores.detach(), gradient

        return self.chunks.map(chunk, points, targets)

    def _logit(self, x: Tensor, t: Tensor) -> Tensor:
        with quick_first_layer(self.model):
            logits = self.model(x)
        return target_scores(logits, t)

    def step(self, done: int, total: int, message: str = "", so_far: Tensor | None = None) -> None:
        """Tell whoever waits how far it is, and what the attribution looks like by now. May raise Cancelled."""
        if self.on_step is not None:
            shown = None if so_far is None or self.show is None else self.show(so_far)
            for partial in shown or (None,):
                self.on_step(Step(done, total, message, partial))


@dataclass
class Trajectory:
    """The pictures along a path of one direction, for the path player: few of them, evenly chosen."""

    points: Tensor  # (K, B, C, H, W)
    scores: Tensor  # (K, B)
    fractions: Tensor  # (K, B): share of the L1 way gone


@dataclass
class Explanation:
    """A batch of attributions with what is needed to judge them."""

    attribution: Tensor  # (B, C or 1, H, W)
    # The values' sum is compared with this difference; None: the method makes no such promise.
    explained_change: Tensor | None = None  # (B,), f(x) - f(x0) of the path's own ends
    corrected_share: Tensor | None = None  # (B,), sum |residual| / |f(x) - f(x0)|
    passes: Tensor | None = None  # (B,), points of each image that the model scored; None: not counted apart
    trajectories: dict[str, Trajectory] = field(default_factory=dict)  # "deletion", "insertion"
    notes: list[str] = field(default_factory=list)

    def of(self, i: int) -> "Explanation":
        """The explanation of one image of the batch, with the notes of all; without trajectories."""

        def row(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[i : i + 1]

        return Explanation(
            attribution=row(self.attribution),
            explained_change=row(self.explained_change),
            corrected_share=row(self.corrected_share),
            passes=row(self.passes),
            notes=self.notes,
        )
