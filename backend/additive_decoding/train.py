"""Trains autoencoders of scenes: many starts, a choice by training loss alone, then the winner at full size.

Plain reconstruction; true latents are drawn to render images and used for nothing else. The same name, seed, thread
count and kind of machine give the same weights, also when the run was killed and resumed on the way.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from backend.additive_decoding import assumptions, own_images
from backend.additive_decoding.measure import latent_match
from backend.additive_decoding.recipes import PAPER, RECIPES, Recipe, recipe_of
from backend.additive_decoding.sources import StoredPictures
from backend.contracts import OnStep, Step
from backend.errors import BadInput, ModelFault
from backend.models.additive_decoder import Autoencoder, Blocks, count_parameters
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

__all__ = ["RECIPES", "build", "job", "train"]
KEEP_EVERY = 200  # steps between checkpoints, and between previews
VALIDATE_EVERY = 200
_HALVINGS = (0.4, 0.7)  # of the starts' steps: the worse half is given up
_FEWEST = 3  # starts that are never given up before the end
_WARM_UP = 50  # steps
_CODE_DECAY = 1e-3  # of squared latents in the first stage, so that the latent noise keeps its meaning
_JUDGED = 600  # scenes by which each start's latents are judged afterwards, for the report


def build(recipe: Recipe, side: int | None = None, blocks: Blocks | None = None) -> Autoencoder:
    """An untrained autoencoder; its numbers come from the global generator, which the caller forks and seeds."""
    return Autoencoder(**network_of(recipe, side, blocks))


def network_of(recipe: Recipe, side: int | None = None, blocks: Blocks | None = None) -> dict[str, Any]:
    """The arguments of `Autoencoder`, as JSON: what a card needs to say so that the weights can be read again.

    Args: blocks: of the latents; None: those of the recipe's scene.
    """
    return {
        "kind": recipe.kind,
        "blocks": [list(block) for block in blocks or recipe.scene.blocks],
        "side": side or recipe.scene.side,
        "width": recipe.width,
        "rank": recipe.rank,
        "link": recipe.link,
        "encoder": recipe.encoder,
        "first_scale": recipe.first_scale,
        "first_bias": recipe.first_bias,
        "final_side": recipe.scene.side,
        "first": recipe.first,
        **({"background": True} if recipe.images else {}),
    }


def train(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: Recipe | None = None,
    on_preview: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train a model and write its weights (float16) and card.

    Args:
        name: a key of `RECIPES`, with the suffix -paper for the paper's settings.
        on_step: told after every step; it may raise `Cancelled`, and a later call goes on from the checkpoint.
        checkpoint: file that holds the state every few steps; removed when the run is done. None: none is kept.
        folder: gets `KEY.safetensors` and `KEY.json`.
        recipe: instead of the one under the name.
        on_preview: told every few steps: {"step", "steps", "stage", "losses", "true", "decoded"}, images uint8.
    Returns: the card.
    Raises: BadInput: no such name, or the checkpoint belongs to another run; ModelFault: the loss diverged.
    """
    recipe = recipe or recipe_of(name)
    run = _Run(name, seed, recipe, torch.device(device), None if checkpoint is None else Path(checkpoint), on_preview)
    run.fit(on_step)
    key = weights_key(name, seed)
    card = {
        "key": key,
        "architecture": f"prism:{recipe.kind}-decoder",
        "task": "additive_decoding",
        "data": run.source.summary,
        "network": network_of(recipe, blocks=run.source.blocks),
        "recipe": recipe.to_json(),
        "seed": seed,
        "command": f"python -m backend train {name} --seed {seed}" + (" --images PATH" if recipe.images else ""),
        "machine": describe_machine(run.device),
        "training_s": round(run.elapsed_s, 1),
        "parameters": {
            "encoder": count_parameters(run.model.encoder),
            "decoder": count_parameters(run.model.decoder),
        },
        "training_loss": run.loss,
        "validation_loss": run.validation_loss(),
        "steps_done": run.step,
        "starts": run.starts_report,
        "licence": run.source.licence,
    }
    if isinstance(run.source, StoredPictures):
        card |= own_images.report(run.model, run.source, Path(folder), key)
    tensors = {name: tensor.half() for name, tensor in run.model.state_dict().items()}
    card = write_weights(folder, key, tensors, card)
    forget_checkpoint(run.checkpoint)
    return card


class _Reconstruct(nn.Module):
    """An autoencoder's loss as a module, so that it can be vectorised over stacked weights."""

    def __init__(self, model: Autoencoder, hessian_weight: float) -> None:
        super().__init__()
        self.model, self.hessian_weight = model, hessian_weight

    def forward(self, images: Tensor, noise: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        """The mean squared error, and what is added to it to be minimised.

        Args: images: (N, 3, S, S). noise: on the latents, (N, d). signs: of the Hessian penalty, (2, N, d).
        """
        latents = self.model.encode(images)
        error = (self.model.decode(latents + noise) - images).square().mean()
        added = _CODE_DECAY * latents.square().mean()
        if self.hessian_weight:
            added = added + self.hessian_weight * assumptions.hessian_penalty(self.model.decode, latents, signs)
        return error, added


class _Run:
    """A training run's whole state, so that it can be put down and taken up again."""

    def __init__(
        self,
        name: str,
        seed: int,
        recipe: Recipe,
        device: torch.device,
        checkpoint: Path | None,
        on_preview: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.identity = json.dumps({"name": name, "seed": seed, **recipe.to_json()}, sort_keys=True)
        self.recipe, self.device, self.checkpoint, self.on_preview = recipe, device, checkpoint, on_preview
        self.source = recipe.make_source()
        self.generator = torch.Generator().manual_seed(seed)
        self.validation = self.source.hold_out(500, torch.Generator().manual_seed(10_000 + seed))
        self.stage, self.step, self.elapsed_s = "starts", 0, 0.0
        self.loss = 0.0  # running mean of the chosen model's training loss
        self.losses: list[list[float]] = []  # [step, root of the running loss], for the curve
        self.best_validation, self.stalled = math.inf, 0
        self.starts_report: list[dict[str, float]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            small = [
                build(recipe, recipe.start_side, self.source.blocks)
                for _ in range(recipe.starts if recipe.start_steps else 1)
            ]
        if isinstance(self.source, StoredPictures):
            for model in small:
                model.decoder.set_background(*self.source.background())
        self.buffers = {name: buffer.to(device) for name, buffer in small[0].named_buffers()}  # the same for all starts
        self.skeleton = _Reconstruct(copy.deepcopy(small[0]).to("meta"), recipe.hessian_weight)
        self.model = small[0]  # stands in until one is chosen
        weights = {k: v.detach().to(device) for k, v in stack_module_state(small)[0].items()}
        self.running = torch.zeros(len(small), device=device)  # each start's running training loss
        self._set_starts(weights)
        if not recipe.start_steps:
            self._choose()
        self._resume()

    # ------------------------------------------------------------- both stages
    @property
    def total_steps(self) -> int:
        return self.recipe.start_steps + self.recipe.steps

    def fit(self, on_step: OnStep) -> None:
        """Train what is left; the model ends in evaluation mode, on the CPU's side of nothing in particular."""
        while not self._is_done():
            started = time.perf_counter()
            loss = self._start_step() if self.stage == "starts" else self._refine_step()
            if not math.isfinite(loss):
                raise ModelFault("the training loss is no number any more; choose a lower learning rate", "rate")
            self.elapsed_s += time.perf_counter() - started
            if on_step is not None:
                what = f"{len(self.running)} starts" if self.stage == "starts" else f"{self.recipe.scene.side} pixels"
                done = self.step + (self.recipe.start_steps if self.stage == "refine" else 0)
                on_step(Step(done, self.total_steps, f"{what}, root of the loss {math.sqrt(loss):.4f}"))
            if self.step % KEEP_EVERY == 0:
                self._tell_preview()
                self._keep()
        self.model.eval()

    def _is_done(self) -> bool:
        if self.stage != "refine":
            return False
        return self.step >= self.recipe.steps or 0 < self.recipe.patience <= self.stalled

    def _draw(self, small: bool) -> Tensor:
        """A fresh batch of images from the support."""
        side = self.recipe.start_side if small else self.source.side
        return self.source.draw(self.source.sample(self.recipe.batch, self.generator), side).to(self.device)

    # ------------------------------------------------------------- first stage: many starts
    def _set_starts(self, weights: dict[str, Tensor]) -> None:
        self.weights = {name: tensor.clone().requires_grad_() for name, tensor in weights.items()}
        self.optimizer = torch.optim.Adam(self.weights.values(), self.recipe.start_rate)

    def _start_step(self) -> float:
        recipe, progress = self.recipe, self.step / self.recipe.start_steps
        self._set_rate(recipe.start_rate, progress, floor=0.1)
        images = self._draw(small=True)
        noise = torch.randn(len(self.running), len(images), self.model.n_latents, generator=self.generator)
        noise = noise.to(self.device) * (recipe.latent_noise * max(0.0, 1 - 2 * progress))
        signs = self._signs(len(images)).to(images)
        errors, added = vmap(self._loss_of, in_dims=(0, None, 0, None))(self.weights, images, noise, signs)
        self.optimizer.zero_grad()
        (errors + added).sum().backward()  # starts share nothing: each gets its own gradient
        self.optimizer.step()
        share = 0.03 if self.step else 1.0
        self.running += share * (errors.detach() - self.running)
        self.step += 1
        self.losses.append([self.step, float(self.running.min().sqrt())])
        if self.step in {int(h * recipe.start_steps) for h in _HALVINGS} and len(self.running) > _FEWEST:
            self._halve()
        if self.step >= recipe.start_steps:
            self._choose()
        return float(self.running.min())

    def _loss_of(
        self, weights: dict[str, Tensor], images: Tensor, noise: Tensor, signs: Tensor
    ) -> tuple[Tensor, Tensor]:
        named = {f"model.{name}": tensor for name, tensor in (weights | self.buffers).items()}
        return functional_call(self.skeleton, named, (images, noise, signs))

    def _signs(self, n: int) -> Tensor:
        """Two draws of -1 or 1 for each latent, for the Hessian penalty; (2, n, d)."""
        return torch.randint(0, 2, (2, n, self.model.n_latents), generator=self.generator) * 2.0 - 1.0

    def _halve(self) -> None:
        """Go on with the better half of the starts, by training loss."""
        order = self.running.argsort()
        keep = order[: max(_FEWEST, len(order) // 2)]
        self._report(order[len(keep) :].tolist(), chosen=None)
        moments = [self.optimizer.state[tensor] for tensor in self.weights.values()]
        self._set_starts({name: tensor.detach()[keep] for name, tensor in self.weights.items()})
        for tensor, old in zip(self.weights.values(), moments, strict=True):
            self.optimizer.state[tensor] = {k: v[keep] if v.ndim else v for k, v in old.items()}
        self.running = self.running[keep]

    def _choose(self) -> None:
        """Take the start with the lowest training loss to full size."""
        best = int(self.running.argmin())
        if self.recipe.start_steps:
            self._report(list(range(len(self.running))), chosen=best)
        self.model = self._start_model(best)
        with torch.random.fork_rng(devices=[]):
            self.model.decoder.grow(self.source.side)
        self.model.to(self.device)
        self._begin_refinement()

    def _start_model(self, i: int) -> Autoencoder:
        model = copy.deepcopy(self.skeleton.model).to_empty(device=self.device)
        model.load_state_dict({name: tensor.detach()[i] for name, tensor in self.weights.items()} | self.buffers)
        return model

    def _report(self, starts: list[int], chosen: int | None) -> None:
        """Note how well starts have disentangled when they end. For the table only: nothing is chosen by it."""
        scenes = self.source.hold_out(_JUDGED, torch.Generator().manual_seed(20_000))
        images, latents = self.source.draw(scenes, self.recipe.start_side).to(self.device), self.source.latents(scenes)
        for i in starts:
            row = {"loss": float(self.running[i]), "steps": self.step, "chosen": i == chosen}
            if latents is not None and latents.shape[1] == self.model.n_latents:
                with torch.no_grad():
                    learned = self._start_model(i).encode(images).cpu()
                match = latent_match(learned.numpy(), latents.numpy(), self.source.blocks, self.recipe.kind)
                row["lms"] = round(match.score, 2)
            self.starts_report.append(row)

    # ------------------------------------------------------------- second stage: the winner
    def _begin_refinement(self) -> None:
        self.stage, self.step, self.loss = "refine", 0, 0.0
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), self.recipe.rate, weight_decay=self.recipe.weight_decay
        )

    def _refine_step(self) -> float:
        recipe = self.recipe
        self.model.train()
        self._set_rate(recipe.rate, self.step / recipe.steps, floor=0.01)
        images = self._draw(small=False)
        latents = self.model.encode(images)
        error = (self.model.decode(latents) - images).square().mean()
        self.optimizer.zero_grad()
        (error + self._penalty(latents)).backward()
        self.optimizer.step()
        self.loss += (0.02 if self.step else 1.0) * (error.item() - self.loss)
        self.step += 1
        self.losses.append([recipe.start_steps + self.step, math.sqrt(max(self.loss, 0.0))])
        if recipe.patience and self.step % VALIDATE_EVERY == 0:
            self._validate()
        return self.loss

    def _penalty(self, latents: Tensor) -> Tensor | float:
        if not self.recipe.hessian_weight:
            return 0.0
        signs = self._signs(len(latents)).to(latents)
        return self.recipe.hessian_weight * assumptions.hessian_penalty(self.model.decode, latents, signs)

    def _validate(self) -> None:
        loss = self.validation_loss()
        self.stalled = 0 if loss < self.best_validation else self.stalled + 1
        self.best_validation = min(loss, self.best_validation)

    def validation_loss(self) -> float:
        """Mean squared error on images of the support that training does not draw again."""
        total = 0.0
        with torch.no_grad():
            for part in self.validation.split(100):
                images = self.source.draw(part, self.source.side).to(self.device)
                total += float((self.model(images) - images).square().mean()) * len(part)
        return total / len(self.validation)

    def _set_rate(self, peak: float, progress: float, floor: float) -> None:
        rate = peak
        if not self.recipe.constant_rate:
            rate *= min(1.0, (self.step + 1) / _WARM_UP)
            rate *= floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    # ------------------------------------------------------------- previews and checkpoints
    def _tell_preview(self) -> None:
        if self.on_preview is None:
            return
        model, side = self.model, self.source.side
        if self.stage == "starts":
            model, side = self._start_model(int(self.running.argmin())), self.recipe.start_side
        with torch.no_grad():
            images = self.source.draw(self.validation[:8], side).to(self.device)
            decoded = model(images)
        self.on_preview(
            {
                "step": self.step,
                "stage": self.stage,
                "losses": list(self.losses),
                "true": to_pixels(images),
                "decoded": to_pixels(decoded),
            }
        )

    def _keep(self) -> None:
        state = {
            "stage": self.stage,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "weights": {k: v.detach() for k, v in self.weights.items()} if self.stage == "starts" else {},
            "model": self.model.state_dict() if self.stage == "refine" else {},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "running": self.running,
            "loss": self.loss,
            "losses": self.losses,
            "best_validation": self.best_validation,
            "stalled": self.stalled,
            "starts_report": self.starts_report,
        }
        keep_checkpoint(self.checkpoint, self.identity, state)

    def _resume(self) -> None:
        state = find_checkpoint(self.checkpoint, self.identity)
        if state is None:
            return
        if state["stage"] == "starts":
            self._set_starts({name: tensor.to(self.device) for name, tensor in state["weights"].items()})
        else:
            with torch.random.fork_rng(devices=[]):
                self.model = build(self.recipe, blocks=self.source.blocks)
            self.model.load_state_dict(state["model"])
            self.model.to(self.device)
            self._begin_refinement()
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.running = state["running"].to(self.device)
        for name in ("stage", "step", "elapsed_s", "loss", "losses", "best_validation", "stalled", "starts_report"):
            setattr(self, name, state[name])


def to_pixels(images: Tensor) -> np.ndarray:
    """(N, 3, H, W) in [0, 1] -> (N, H, W, 3) uint8, clamped."""
    return images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`train` as a job: goes on from its checkpoint; previews lie in its folder as `preview.npz`.

    Args: args: name and seed; optionally a recipe as JSON, then the weights stay in the job's folder and the model
        can be asked for as `job-ID`. `context` is a `backend.jobs.JobContext`.
    """
    from backend.runtime import choose_device

    recipe = Recipe.from_json(args["recipe"]) if args.get("recipe") else None
    if recipe is None and args["name"].removesuffix(PAPER) not in RECIPES:
        raise BadInput(f"unknown model {args['name']!r}; one of {', '.join(RECIPES)}", "name")

    def on_preview(preview: dict[str, Any]) -> None:
        beside = context.folder / "preview.part.npz"
        np.savez_compressed(
            beside, losses=np.asarray(preview["losses"]), true=preview["true"], decoded=preview["decoded"]
        )
        beside.replace(context.folder / "preview.npz")

    with one_thread():
        return train(
            args["name"],
            args["seed"],
            context.on_step,
            context.folder / "checkpoint.pt",
            choose_device(),
            WEIGHTS if recipe is None else context.folder,
            recipe,
            on_preview,
        )
