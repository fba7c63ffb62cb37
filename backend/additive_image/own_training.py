"""Fits an additive image model to data of a user's own: a small diffusion autoencoder first, then the head.

Both stages go on after a kill where they were; the same data and seed give the same weights.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.additive_image import own_store
from backend.additive_image.data import Dataset
from backend.additive_image.fitted import CODED_ROWS, FittedModel, encode_rows, pack, read_head, to_images
from backend.additive_image.nam import AdditiveHead, HeadSettings, fit_head
from backend.additive_image.own_store import AUTOENCODER, MODEL
from backend.additive_image.recipes import SOURCES, Recipe
from backend.additive_image.train import half_precision, train_autoencoder
from backend.catalog import ModelSpec
from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.files import write_whole
from backend.jobs import default_folder
from backend.models.autoencoders import TASK, LoadedAutoencoder
from backend.models.coders import ARCHITECTURES, HUB_SIDE, PrincipalCoder, fetch_hub_coder, load_coder
from backend.training import describe_machine, one_thread, write_weights

JOB_PREFIX = "job-"  # of a model that a job fitted: its weights lie in the job's folder
LICENCE = "as the data"
_SOURCE = "own"
_UPDATES = 4000  # of the head, about; small tables get more epochs
_EPOCHS = (30, 300)
_COMPONENTS = 16
_COMPONENT_ROWS = 4000  # at most, from which components are taken


def autoencoder_recipe(encoder: str) -> Recipe:
    """How pictures of a user's own are coded. Only inside `_drawing`, which brings the pictures."""
    factor = {"short": 1, "long": 8}[encoder]
    return Recipe(
        source=_SOURCE,
        network={
            "side": 32,
            "n_latents": 8,
            "encoder": "flat",
            "widths": [32, 64],
            "unshuffle": 4,
            "code_map": 16,
            "prediction": "sample",
            "spacing": "trailing",
            "steps": 5,
        },
        encoder_steps=600 * factor,
        steps=300 * factor,
        level_power=1.0,
    )


@contextlib.contextmanager
def _drawing(dataset: Dataset) -> Iterator[None]:
    """While this holds, recipes may draw from the pictures of a data set."""
    images = to_images(dataset.images[slice(None)])

    def draw(n: int, rng: np.random.Generator) -> torch.Tensor:
        return images[rng.integers(0, len(images), n)]

    SOURCES[_SOURCE] = draw
    try:
        yield
    finally:
        del SOURCES[_SOURCE]


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """Fit a model to kept data. `context` is a `backend.jobs.JobContext`.

    Args: args: data (an id of `own_store`), encoder, seed, title.
    """
    from backend.runtime import choose_device

    with one_thread():
        return fit_own(
            own_store.read(args["data"]),
            args["encoder"],
            args.get("seed", 0),
            context.folder,
            context.on_step,
            choose_device(),
            {"data": args["data"], "title": args.get("title", "")},
        )


def fit_own(
    dataset: Dataset,
    encoder: str,
    seed: int,
    folder: Path,
    on_step: OnStep = None,
    device: torch.device | str = "cpu",
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train the autoencoder on all pictures, fit the head to the rows that are not held out; returns the head's card.

    Args:
        encoder: a key of `own_store.ENCODERS`, or `timm:NAME`.
        folder: gets weights and cards, and the autoencoder's checkpoint on the way.
        about: written into the card as it is.
    Raises: BadInput: no such encoder; NotAvailable: the hub does not answer; ModelFault: it diverged; Cancelled:
        `on_step` said so.
    """
    own_store.find_encoder(encoder)
    device, started = torch.device(device), time.perf_counter()
    settings = head_settings(len(dataset))
    told = _Told(encoder, settings, on_step)
    if not (folder / f"{AUTOENCODER}.json").exists():  # a killed job may have come so far
        _train_coder(dataset, encoder, seed, folder, told.coding, device)
    loaded = _load_coder(folder, device)
    rows, held = own_store.split(dataset, seed)
    codes, held_codes = (encode_rows(loaded.module, part, slice(None)) for part in (rows, held))
    kinds = [len(column.categories) for column in rows.columns]
    table, response = (torch.from_numpy(values).to(device) for values in (rows.table, rows.response))
    head = fit_head(table, codes, response, kinds, rows.link, settings, seed, told.fitting)
    linear = head.predict(torch.from_numpy(held.table).to(device), held_codes).cpu().numpy()
    card = {
        "key": MODEL,
        "architecture": "prism:additive-image-model",
        "task": "additive_image",
        "data": {"rows": len(rows), "held_out": len(held)},
        "own": about or {},
        "autoencoder": AUTOENCODER,
        "autoencoder_sha256": loaded.digest,
        "encoder": encoder,
        "head": head.describe(),
        "seed": seed,
        "held_out_score": _score(held, linear),
        "machine": describe_machine(device),
        "training_s": round(time.perf_counter() - started, 1),
        "parameters": sum(p.numel() for p in head.parameters()),
        "licence": LICENCE,
    }
    card = write_weights(folder, MODEL, pack(head, codes), card)
    _evaluate(_own_model(MODEL, card, head, (rows, held), codes, card["sha256"], loaded), folder, seed, told)
    return card


def _evaluate(model: "OwnModel", folder: Path, seed: int, told: "_Told") -> None:
    """Write down how the model does beside others on the rows held out, and what its fit may hide.

    Where all of the rows held out, or all others, have one response, nothing can be compared.
    """
    from backend.additive_image import peers

    if np.ptp(model.held.response) == 0 or np.ptp(model.dataset.response) == 0:
        return
    figures = peers.compare(model, model.loaded.module, len(model.held), seed, told.comparing)
    body = {"family": "additive_image", "n": len(model.held), "seed": seed, **figures}
    write_whole(folder / own_store.EVALUATION, json.dumps(body, indent=2) + "\n")


def _score(held: Dataset, linear: np.ndarray) -> float:
    from backend.additive_image.peers import score  # scikit-learn and interpret take seconds to import

    return score(held.link, held.response, linear)


def head_settings(n: int) -> HeadSettings:
    """As for the examples, with as many epochs as a table of n rows needs."""
    batch = min(256, max(16, n // 8))
    epochs = round(_UPDATES * batch / max(n, 1))
    return HeadSettings(batch=batch, epochs=int(np.clip(epochs, *_EPOCHS)))


@dataclasses.dataclass(frozen=True)
class _Told:
    """Progress of both stages as one; steps of the autoencoder count ten times as long as epochs."""

    encoder: str
    settings: HeadSettings
    on_step: OnStep

    @property
    def coder_share(self) -> float:
        return {"short": 0.65, "long": 0.92}.get(self.encoder, 0.3)

    @property
    def head_share(self) -> float:
        return (1 - self.coder_share) / 2

    def coding(self, step: Step) -> None:
        self._tell(self.coder_share * step.fraction, f"learning to see the pictures, {step.message}")

    def fitting(self, done: int, total: int, loss: float) -> None:
        share = self.coder_share + self.head_share * done / total
        self._tell(share, f"fitting the effects, epoch {done} of {total}, held-out loss {loss:.4f}")

    def comparing(self, done: int, total: int, what: str) -> None:
        share = self.coder_share + self.head_share * (1 + done / total)
        self._tell(share, f"comparing with other models: {what}")

    def _tell(self, share: float, message: str) -> None:
        if self.on_step is not None:
            self.on_step(Step(round(1000 * share), 1000, message))


def _train_coder(
    dataset: Dataset, encoder: str, seed: int, folder: Path, on_step: OnStep, device: torch.device
) -> None:
    if own_store.find_encoder(encoder).network or encoder == "pca":
        _fit_coder(dataset, encoder, seed, folder, on_step, device)
        return
    with _drawing(dataset):
        recipe = autoencoder_recipe(encoder)
        card = train_autoencoder(AUTOENCODER, 0, on_step, folder / "checkpoint.pt", device, folder, recipe)
    card |= {"data": f"{len(dataset)} pictures of the user's own", "command": "", "licence": LICENCE, "seed": seed}
    write_whole(folder / f"{AUTOENCODER}.json", json.dumps(card, indent=2) + "\n")


def _fit_coder(dataset: Dataset, encoder: str, seed: int, folder: Path, on_step: OnStep, device: torch.device) -> None:
    """A coder that is not trained: components are taken of the pictures, or of what a hub network makes of them."""
    network = own_store.find_encoder(encoder).network
    images = dataset.images[slice(None)]
    n_latents = min(_COMPONENTS, len(images) - 1)
    if network:
        about = {"name": network, "side": HUB_SIDE, "n_latents": n_latents}
        coder = fetch_hub_coder(network, n_latents).to(device)
    else:
        about = {"side": images.shape[1], "n_latents": n_latents}
        coder = PrincipalCoder(**about).to(device)

    def tell(done: int, total: int) -> None:
        if on_step is not None:
            on_step(Step(done, total, f"{done:,} of {total:,} pictures seen"))

    tell(0, len(images))
    drawn = to_images(images[_by_lot(len(images), seed)], device)
    share = coder.fit(drawn, seed, tell) if network else coder.fit(drawn, seed)
    tell(len(images), len(images))
    card = {
        "key": AUTOENCODER,
        "architecture": ARCHITECTURES[type(coder)],
        "task": TASK,
        "data": f"{len(images)} pictures of the user's own",
        "network": about,
        "variance_kept": share,
        "seed": seed,
        "machine": describe_machine(device),
        "licence": LICENCE,
    }
    write_weights(folder, AUTOENCODER, half_precision(coder.state_dict()), card)


def _by_lot(n: int, seed: int) -> np.ndarray:
    """Rows on which components are taken, in order; all of them up to a limit."""
    return np.sort(np.random.default_rng([seed, n, 3]).permutation(n)[:_COMPONENT_ROWS])


# ----------------------------------------------------------------- reading back
class OwnModel(FittedModel):
    """A model of a user's own data, with its autoencoder and the rows that were held out."""

    loaded: LoadedAutoencoder
    held: Dataset

    def held_out(self, n: int, seed: int) -> tuple[Dataset, None]:
        """At most n rows that nothing was fitted to; what was expected of them nobody knows."""
        del seed  # they are what they are
        return self.held.take(np.arange(min(n, len(self.held)))), None


def load_own(key: str, device: torch.device) -> OwnModel:
    """The model that the job `job-ID` fitted.

    Raises: BadInput: no such job, it made no model, or its data were forgotten.
    """
    job_id = key.removeprefix(JOB_PREFIX)
    folder = default_folder() / job_id
    if not job_id.isalnum() or not (folder / f"{MODEL}.json").exists():
        raise BadInput(f"the job {job_id!r} has fitted no model", "model")
    card = json.loads((folder / f"{MODEL}.json").read_text(encoding="utf-8"))
    loaded = _load_coder(folder, device)
    spec = _spec(key, "", MODEL, "additive_image", loaded.module.side)
    head, codes, digest = read_head(spec, card, folder, device)
    parts = own_store.split(own_store.read(card["own"]["data"]), card["seed"])
    return _own_model(key, card, head, parts, codes, digest, loaded)


def _own_model(
    key: str,
    card: dict[str, Any],
    head: AdditiveHead,
    parts: tuple[Dataset, Dataset],
    codes: torch.Tensor,
    digest: str,
    loaded: LoadedAutoencoder,
) -> OwnModel:
    """Args: parts: the rows that it was fitted to, and those that were held out. codes: of the first."""
    title = card["own"].get("title") or "Your own data"
    spec = _spec(key, title, MODEL, "additive_image", loaded.module.side)
    model = OwnModel(spec, card, head, parts[0], codes[:CODED_ROWS], digest)
    model.loaded, model.held = loaded, parts[1]
    return model


def _load_coder(folder: Path, device: torch.device) -> LoadedAutoencoder:
    side = json.loads((folder / f"{AUTOENCODER}.json").read_text(encoding="utf-8"))["network"]["side"]
    return load_coder(_spec(AUTOENCODER, "Your own", AUTOENCODER, TASK, side), folder, device)


def _spec(key: str, title: str, name: str, task: str, side: int) -> ModelSpec:
    return ModelSpec(
        key=key,
        title=title,
        architecture="prism:additive-image-model",
        source="local",
        labels=(),
        input_size=(side, side),
        weights=f"{name}.safetensors",
        card=f"{name}.json",
        task=task,
        licence=LICENCE,
    )
