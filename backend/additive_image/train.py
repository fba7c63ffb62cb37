"""Trains diffusion autoencoders on images alone, and additive image models on their codes.

The same name, seed, thread count and kind of machine give the same weights, also when the run was killed and resumed.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backend.additive_image import chest_poses, recipes
from backend.additive_image.data import make_dataset
from backend.additive_image.fitted import encode_rows, pack
from backend.additive_image.nam import fit_head
from backend.additive_image.principal import PrincipalStage, RegionalStage
from backend.additive_image.recipes import HEADS, SOURCES, HeadRecipe, Recipe
from backend.catalog import AUTOENCODERS
from backend.contracts import OnStep, Step
from backend.errors import BadInput, ModelFault
from backend.models.autoencoders import load_autoencoder
from backend.models.diffusion_autoencoder import (
    N_TIMESTEPS,
    DiffusionAutoencoder,
    FlatEncoder,
    PrincipalEncoder,
    RegionalEncoder,
    silhouette,
)
from backend.training import (
    WEIGHTS,
    describe_machine,
    find_checkpoint,
    forget_checkpoint,
    keep_checkpoint,
    one_thread,
    weights_key,
    write_weights,
)

RECIPES: dict[str, Recipe | HeadRecipe | None] = {**recipes.RECIPES, **HEADS, chest_poses.NAME: None}
KEEP_EVERY = 250  # steps between checkpoints
_WARM_UP = 50  # steps
_STANDARD_IMAGES = 4096  # on which the codes' mean and variance are taken
LICENCE = "code and weights: as Prism; images: drawn by Prism"


def train_autoencoder(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: Recipe | None = None,
) -> dict[str, Any]:
    """Train a diffusion autoencoder and write its weights (float16) and card.

    Args:
        name: a key of `recipes.RECIPES`, or any name with a recipe of its own.
        on_step: told after every step; it may raise `Cancelled`, and a later call goes on from the checkpoint.
        checkpoint: file that holds the state every few steps; removed when the run is done. None: none is kept.
        folder: gets `KEY.safetensors` and `KEY.json`.
    Returns: the card.
    Raises: BadInput: no such name, or the checkpoint belongs to another run; ModelFault: the loss diverged.
    """
    if recipe is None and name not in recipes.RECIPES:
        raise BadInput(f"unknown model {name!r}; one of {', '.join(recipes.RECIPES)}", "name")
    recipe = recipe or recipes.RECIPES[name]
    run = _Run(name, seed, recipe, torch.device(device), None if checkpoint is None else Path(checkpoint))
    run.fit(on_step)
    card = write_weights(folder, weights_key(name, seed), half_precision(run.average_state()), _card(run, name, seed))
    forget_checkpoint(run.checkpoint)
    return card


def _card(run: "_Run", name: str, seed: int) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "key": weights_key(name, seed),
        "architecture": "prism:diffusion-autoencoder",
        "task": "diffusion_autoencoder",
        "data": f"{recipe.source} drawn by Prism, fresh ones in every step; no labels",
        "network": recipe.network,
        "recipe": recipe.to_json(),
        "seed": seed,
        "command": f"python -m backend train {name}" + (f" --seed {seed}" if seed else ""),
        "machine": describe_machine(run.device),
        "training_cpu_s": round(run.elapsed_s, 1),
        "parameters": {
            "encoder": sum(p.numel() for p in run.model.encoder.parameters()),
            "all": sum(p.numel() for p in run.model.parameters()),
        },
        "training_loss": run.loss,
        "licence": LICENCE,
    }


def train_head(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: HeadRecipe | None = None,
) -> dict[str, Any]:
    """Fit an additive image model to its data and write its head, the codes of its first rows, and its card.

    Args: name: a key of `HEADS`, or any name with a recipe of its own. The autoencoder's weights lie in `folder`.
    Returns: the card.
    Raises: NotAvailable: the autoencoder has no weights there; ModelFault: the fit diverged.
    """
    recipe = recipe or HEADS[name]
    device, started = torch.device(device), time.process_time()
    dataset = make_dataset(recipe.data, seed=seed)
    loaded = load_autoencoder(AUTOENCODERS[recipe.autoencoder], Path(folder), device, torch.float32)
    codes = encode_rows(loaded.module, dataset, slice(None))

    def on_epoch(done: int, total: int, loss: float) -> None:
        if on_step is not None:
            on_step(Step(done, total, f"held-out loss {loss:.4f}"))

    kinds = [len(column.categories) for column in dataset.columns]
    table, response = (torch.from_numpy(values).to(device) for values in (dataset.table, dataset.response))
    head = fit_head(table, codes, response, kinds, dataset.link, recipe.settings, seed, on_epoch)
    card = {
        "key": weights_key(name, seed),
        "architecture": "prism:additive-image-model",
        "task": "additive_image",
        "data": {"name": recipe.data, "rows": len(dataset), "seed": seed},
        "autoencoder": recipe.autoencoder,
        "autoencoder_sha256": loaded.digest,
        "head": head.describe(),
        "recipe": recipe.to_json(),
        "seed": seed,
        "command": f"python -m backend train {name}" + (f" --seed {seed}" if seed else ""),
        "machine": describe_machine(device),
        "training_cpu_s": round(time.process_time() - started, 1),
        "parameters": sum(p.numel() for p in head.parameters()),
        "licence": LICENCE,
    }
    return write_weights(folder, weights_key(name, seed), pack(head, codes), card)


def half_precision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors as float16, for files; counters stay."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


class _Sketcher(nn.Module):
    """The first stage's decoder, thrown away afterwards: a perceptron, since convolutions at full size cost more.

    With spare latents it has an encoder of its own beside the one that is trained. A pooled encoder then learns
    everything but places, which the spare code tells the decoder, and x_T does once this stage is over.
    """

    def __init__(
        self, autoencoder: DiffusionAutoencoder, spare: int = 0, view: str = "image", width: int = 384
    ) -> None:
        super().__init__()
        self.side, self.view = autoencoder.side, view
        self.spare = (
            nn.Sequential(FlatEncoder(self.side, spare), nn.BatchNorm1d(spare, affine=False)) if spare else None
        )
        self.layers = nn.Sequential(
            nn.Linear(autoencoder.n_latents + spare, width // 2),
            nn.SiLU(),
            nn.Linear(width // 2, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 3 * self.side**2),
        )

    def full_code(self, codes: Tensor, images: Tensor) -> Tensor:
        """z_sem with the spare code beside it: (N, latents), (N, 3, S, S) in [0, 1] -> (N, latents + spare)."""
        return codes if self.spare is None else torch.cat([codes, self.spare(_VIEWS[self.view](images) * 2 - 1)], 1)

    def forward(self, codes: Tensor) -> Tensor:
        """(N, latents + spare) -> (N, 3, S, S), in [0, 1] or almost."""
        return self.layers(codes).unflatten(1, (3, self.side, self.side))


def _without_colour(images: Tensor) -> Tensor:
    """(N, 3, S, S) in [0, 1] -> the same shape: the silhouette, the border's brightness, 0."""
    shape, border = silhouette(images)
    level = border.mean(1)[:, None, None].expand_as(shape)
    return torch.stack([shape, level, torch.zeros_like(shape)], 1)


_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {"image": lambda images: images, "silhouette": _without_colour}


class _Run:
    """A training run's whole state, so that it can be put down and taken up again."""

    def __init__(self, name: str, seed: int, recipe: Recipe, device: torch.device, checkpoint: Path | None) -> None:
        self.identity = json.dumps({"name": name, "seed": seed, **recipe.to_json()}, sort_keys=True)
        self.recipe, self.device, self.checkpoint, self.seed = recipe, device, checkpoint, seed
        self.draw = SOURCES[recipe.source]
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = DiffusionAutoencoder(**recipe.network).to(device)
            self.sketcher = self._make_sketcher().to(device)
        self.stage = "encoder" if recipe.encoder_steps else "decoder"
        learns = any(p.requires_grad for p in self.model.encoder.parameters())
        self.is_frozen = bool(recipe.encoder_steps) or not learns  # in the second stage
        if not learns:
            self._set_standard()
        self.step, self.elapsed_s, self.loss = 0, 0.0, 0.0
        self.weight = recipes.pixel_weight(recipe, recipe.regions, self.model.side).to(device)
        self._set_optimizer()
        self._resume()
        if self.stage == "encoder" and isinstance(self.sketcher, PrincipalStage):
            weight = recipes.pixel_weight(recipe, recipe.encoder_regions, self.model.side)
            self.sketcher.prepare(self.model.encoder, self.draw, seed, recipe.pool, weight)

    def _make_sketcher(self) -> nn.Module:
        if isinstance(self.model.encoder, PrincipalEncoder):
            return PrincipalStage(self.model, self.recipe.flatness)
        if isinstance(self.model.encoder, RegionalEncoder):
            return RegionalStage(self.model, self.recipe.flatness)
        return _Sketcher(self.model, self.recipe.spare_latents, self.recipe.spare_view)

    # ------------------------------------------------------------- steps
    def fit(self, on_step: OnStep) -> None:
        """Train what is left."""
        total = self.recipe.encoder_steps + self.recipe.steps
        while self.stage != "done":
            started = time.process_time()
            error = self._encoder_loss() if self.stage == "encoder" else self._decoder_loss()
            value = self._descend(error)
            if not math.isfinite(value):
                raise ModelFault("the training loss is no number any more; choose a lower learning rate", "rate")
            self.loss += (0.01 if self.step else 1.0) * (value - self.loss)
            self.step += 1
            if self.step >= self._stage_steps():
                self._next_stage()
            self.elapsed_s += time.process_time() - started
            if on_step is not None:
                done = self.step + (self.recipe.encoder_steps if self.stage == "decoder" else 0)
                on_step(Step(total if self.stage == "done" else done, total, f"{self.stage}, loss {self.loss:.5f}"))
            if self.step % KEEP_EVERY == 0:
                self._keep()

    def _stage_steps(self) -> int:
        return self.recipe.encoder_steps if self.stage == "encoder" else self.recipe.steps

    def _batch(self, n: int) -> Tensor:
        """Images of this step: what is drawn depends on seed, stage and step only, so a resumed run draws the same."""
        rng = np.random.default_rng([self.seed, ("encoder", "decoder").index(self.stage), self.step])
        return self.draw(n, rng).to(self.device)

    def _noise_like(self, tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=self.generator).to(tensor)

    def _half(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.half)

    def _encoder_loss(self) -> Tensor:
        if isinstance(self.sketcher, PrincipalStage):
            return self.sketcher.loss(self.model, self.recipe.encoder_batch, self.recipe.code_noise, self.generator)
        images = self._batch(self.recipe.encoder_batch)
        codes = self.sketcher.full_code(self.model.encode(images), images)
        return (self.sketcher(codes + self.recipe.code_noise * self._noise_like(codes)) - images).square().mean()

    def _decoder_loss(self) -> Tensor:
        images = self._batch(self.recipe.batch)
        levels = torch.rand(len(images), generator=self.generator) ** (1 / (1 + self.recipe.level_power))
        levels = (levels * N_TIMESTEPS).long().clamp_max(N_TIMESTEPS - 1).to(self.device)
        noise = self._noise_like(images)
        with self._half():
            with torch.autocast(self.device.type, enabled=self.recipe.half and not self.is_frozen):
                codes = self.model.encode(images).float()  # a frozen encoder is cheap enough for full precision
            codes = codes + self.recipe.noise_under_decoder * self._noise_like(codes)
            return (self.weight * self.model.denoising_error(images, codes, levels, noise)).mean()

    def _descend(self, loss: Tensor) -> float:
        peak = self.recipe.encoder_rate if self.stage == "encoder" else self.recipe.rate
        progress = (self.step / self._stage_steps() - self.recipe.hold) / (1 - self.recipe.hold)
        rate = peak * min(1.0, (self.step + 1) / _WARM_UP) * (0.01 + 0.99 * _fall(progress))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimizer.step()
        share = 1 - min(self.recipe.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.learned, share)
        return float(loss.detach())

    # ------------------------------------------------------------- stages
    def _set_optimizer(self) -> None:
        """What this stage trains: encoder and sketcher; then all but the frozen encoder, or all if end to end."""
        model = self.model.train()
        if self.stage == "encoder":
            self.learned = [*model.encoder.parameters(), *self.sketcher.parameters()]
        elif self.is_frozen:
            model.encoder.requires_grad_(False)
            model.standard.eval()
            self.learned = [p for p in model.parameters() if p.requires_grad]
        else:
            self.learned = list(model.parameters())
        self.average = [p.detach().clone() for p in self.learned]
        self.optimizer = torch.optim.AdamW(self.learned, self.recipe.rate, betas=(0.9, 0.99), weight_decay=1e-4)

    def _next_stage(self) -> None:
        """Take the averaged weights over, fix the codes' scale, go on with the next stage."""
        with torch.no_grad():
            for parameter, mean in zip(self.learned, self.average, strict=True):
                parameter.copy_(mean)
        if self.stage == "encoder" or not self.is_frozen:
            self._set_standard()
        if self.stage == "encoder":
            self.stage, self.step, self.loss = "decoder", 0, 0.0
            self._set_optimizer()
        else:
            self.stage = "done"
            self.model.eval()

    def _set_standard(self) -> None:
        self.model.set_standard(self.draw(_STANDARD_IMAGES, np.random.default_rng([self.seed, 9])).to(self.device))

    def average_state(self) -> dict[str, Tensor]:
        """The averaged weights, once done."""
        return self.model.state_dict()

    # ------------------------------------------------------------- checkpoints
    def _keep(self) -> None:
        state = {
            "stage": self.stage,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "loss": self.loss,
            "model": self.model.state_dict(),
            "sketcher": self.sketcher.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        keep_checkpoint(self.checkpoint, self.identity, state)

    def _resume(self) -> None:
        state = find_checkpoint(self.checkpoint, self.identity)
        if state is None:
            return
        for name in ("stage", "step", "elapsed_s", "loss"):
            setattr(self, name, state[name])
        self.model.load_state_dict(state["model"])
        self.sketcher.load_state_dict(state["sketcher"])
        self._set_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = [mean.to(self.device) for mean in state["average"]]
        self.generator.set_state(state["generator"])


def _fall(progress: float) -> float:
    """1 until progress 0, then a half cosine down to 0 at 1."""
    return (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0))) / 2


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """Training as a job: goes on from its checkpoint. `context` is a `backend.jobs.JobContext`.

    Args: args: name and seed.
    """
    from backend.runtime import choose_device

    name, seed, device = args["name"], args.get("seed", 0), choose_device()
    with one_thread():
        if name == chest_poses.NAME:  # no weights, but pictures are drawn from it
            return chest_poses.job(args, context)
        if name in HEADS:
            return train_head(name, seed, context.on_step, device)
        return train_autoencoder(name, seed, context.on_step, context.folder / "checkpoint.pt", device)
