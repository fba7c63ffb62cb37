"""Every model that Prism knows, of every family: those that ship, those on the hub, and the user's own."""

import dataclasses
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend import catalog
from backend.catalog import ModelSpec
from backend.catalog.image_text import named_pair_spec
from backend.errors import BadInput, NotAvailable, PrismError
from backend.limits import LIMITS, Limits
from backend.models import autoencoders, clap, clip, decoders, exported, hub, networks, user_models, weights
from backend.models.classifier import Classifier, LoadedClassifier
from backend.models.decoders import LoadedDecoder

_Weights = tuple[dict[str, torch.Tensor], str]  # tensors by name, sha256 of the file
WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "weights"


class Library:
    """Rows of models by key, and the way from a row to a loaded classifier. Safe for many threads.

    `problems` holds one sentence for every row of the user's models file that could not be used.
    """

    def __init__(
        self,
        models_file: str | Path | None = None,
        weights_folder: str | Path = WEIGHTS,
        limits: Limits = LIMITS,
    ) -> None:
        """`models_file`: the user's models; None: the file that `PRISM_MODELS` names, if it is set."""
        self.weights_folder = Path(weights_folder)
        self.limits = limits
        self.problems: list[str] = []
        self._lock = threading.RLock()
        self._local: dict[str, ModelSpec] = {}
        self._uploads: dict[str, _Weights] = {}
        self._cards: dict[str, dict[str, Any]] = {}  # of uploads
        models_file = models_file or os.environ.get("PRISM_MODELS")
        if models_file:
            self._read_models_file(Path(models_file).expanduser())

    def _read_models_file(self, path: Path) -> None:
        specs, self.problems = user_models.read_models_file(path, self.limits)
        for spec in specs:
            if spec.key in catalog.MODELS:
                self.problems.append(f"{path.name}, model {spec.key}: a model that ships has this key; choose another")
            else:
                self._local[spec.key] = spec

    # ------------------------------------------------------------- rows
    def specs(self) -> dict[str, ModelSpec]:
        """All rows by key: those that ship first, then the user's, then the hub's."""
        shipped = {key: spec for key, spec in catalog.MODELS.items() if spec.source == "embedded"}
        with self._lock:
            return {**shipped, **self._local, **catalog.HUB}

    def spec(self, key: str, task: str = "classification") -> ModelSpec:
        """The row of a model. Any `timm:NAME`, `open_clip:NAME` or `clap:NAME` is one of the hub, listed or not.

        Args: task: what it is wanted for; any model is found, but a refusal lists those for this.
        Raises: BadInput: no such model; the sentence lists the keys.
        """
        if isinstance(key, str) and key.startswith(hub.PREFIX):
            found = hub.hub_spec(key.removeprefix(hub.PREFIX))
            row = catalog.HUB.get(key)
            return found if row is None else dataclasses.replace(
                found, title=row.title, summary=row.summary, licence=row.licence, examples=row.examples
            )  # fmt: skip
        if isinstance(key, str) and key.startswith(decoders.JOB_PREFIX):
            return decoders.job_spec(key)[0]
        if isinstance(key, str) and key.startswith((clip.PREFIX, clap.PREFIX)) and key not in self.specs():
            return named_pair_spec(key)
        specs = self.specs()
        if key not in specs:
            named = [k for k, spec in specs.items() if spec.task == task]
            keys = ", ".join(k for k in named if k.rpartition("-seed")[0] not in named)  # nor its twins of other seeds
            by_name = {
                "classification": ", or timm:NAME",
                clip.TASK: f", or {clip.PREFIX}NAME or {clap.PREFIX}NAME",
            }.get(task, "")
            raise BadInput(f"unknown model {key!r}; one of {keys}{by_name}", "model")
        return specs[key]

    def card(self, key: str) -> dict[str, Any] | None:
        """What is known of a model that ships: data, recipe, measured accuracy, digest. None: it has no card."""
        spec = self.spec(key)
        if not spec.card:
            return None
        try:
            return json.loads((self.weights_folder / spec.card).read_text(encoding="utf-8"))
        except OSError:
            return None

    # ------------------------------------------------------------- loading
    def load(
        self, key: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> LoadedClassifier | LoadedDecoder | clip.ImageTextPair:
        """Read a model's weights, check them against its row and put it on the device.

        Raises: BadInput: the weights, labels or input size do not fit; NotAvailable: no network, or no such file.
        """
        spec = self.spec(key)
        if spec.task == decoders.TASK:
            if key in self._local:
                return decoders.build_decoder(spec, *self.read_carded(spec), torch.device(device), dtype)
            folder = decoders.job_spec(key)[1] if spec.source == "local" else self.weights_folder
            return decoders.load_decoder(spec, folder, torch.device(device), dtype)
        if spec.task == autoencoders.TASK:
            return autoencoders.load_autoencoder(spec, self.weights_folder, torch.device(device), dtype)
        if spec.task == clip.TASK:
            return self._load_pair(spec, device, dtype)
        if spec.source == "hub":
            network = hub.load_network(spec.architecture.removeprefix(hub.PREFIX))
            digest = weights.digest_of(network.state_dict())
        elif spec.architecture == "pt2":
            digest = weights.file_digest(spec.weights, spec.sha256)
            network = exported.load_exported(spec.weights, torch.device(device), (spec.n_channels, *spec.input_size))
        else:
            state, digest = self._read(spec)
            network = build_network(spec, state)
        return _assemble(spec, network, digest, device, dtype)

    def _load_pair(self, spec: ModelSpec, device: torch.device | str, dtype: torch.dtype) -> clip.ImageTextPair:
        if spec.source == "embedded":
            return clip.load_trained(spec.key, self.weights_folder, device, dtype)
        if spec.architecture.startswith(clap.PREFIX):
            if spec.key in self._uploads:
                raise BadInput("a CLAP is a folder, with its tokenizer; name it in models.toml", "architecture")
            if spec.sha256:
                weights.file_digest(Path(spec.weights) / "model.safetensors", spec.sha256)
            folder = spec.weights or None
            return clap.load_clap(spec.architecture.removeprefix(clap.PREFIX), folder, device, dtype, spec.key)
        name = spec.architecture.removeprefix(clip.PREFIX)
        if spec.key in self._uploads:
            return clip.build_open_clip(spec.key, name, *self._read(spec), device, dtype)
        if spec.sha256:
            weights.file_digest(spec.weights, spec.sha256)
        return clip.load_open_clip(name, spec.weights or None, device, dtype, spec.key)

    def read_carded(self, spec: ModelSpec) -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
        """Card, tensors and digest of a user's own model whose network a card describes.

        Raises: BadInput: card and weights are not of one model; NotAvailable: no such file.
        """
        card = self._cards.get(spec.key)
        if card is None:
            card = user_models.read_card_file(Path(spec.weights).parent / spec.card)
            user_models.check_card(card, spec.task, spec.architecture)
        state, digest = self._read(spec)
        if card.get("sha256", digest) != digest:
            raise BadInput(f"the card is of other weights: their sha256 starts {str(card['sha256'])[:12]}", "card")
        return card, state, digest

    def _read(self, spec: ModelSpec) -> _Weights:
        with self._lock:
            if spec.key in self._uploads:
                return self._uploads[spec.key]
        if spec.source != "embedded":
            return weights.read_file(spec.weights, spec.sha256)
        card = self.card(spec.key)
        if card is None:
            name, _, seed = spec.key.partition("-seed")
            command = f"python -m backend train {name}" + (f" --seed {seed}" if seed else "")
            raise NotAvailable(f"{spec.key} has no weights here; `{command}` makes them", "model")
        return weights.read_file(self.weights_folder / spec.weights, card["sha256"])

    # ------------------------------------------------------------- the user's own, for this process
    def add_local(self, fields: Mapping[str, Any] | ModelSpec, data: bytes) -> ModelSpec:
        """Add an uploaded model; it is kept in memory until the process ends or `remove` is called.

        Args:
            fields: the row's fields, as in models.toml but without `weights`, and `card` is the card's content; or a
                checked row of a classifier.
            data: a safetensors file with all the tensors of the architecture.
        Returns: the row. The model was built before it was kept; a classifier answered one dry image.
        Raises: BadInput: a field, the weights or the labels do not fit, or the key is taken.
        """
        spec = fields if isinstance(fields, ModelSpec) else user_models.read_row(fields, None, self.limits)
        if spec.architecture == "pt2":
            raise BadInput(
                "pt2 programs are read from a local path in models.toml only, never uploaded", "architecture"
            )
        spec = dataclasses.replace(spec, source="local", weights="", card="")
        if spec.key in self.specs():
            raise BadInput(f"the key {spec.key!r} is taken; remove that model first or choose another key", "key")
        upload = state, digest = weights.read_upload(data, self.limits)
        if spec.sha256 and spec.sha256 != digest:
            raise BadInput(f"the file's sha256 starts {digest[:12]}, expected {spec.sha256[:12]}", "weights")
        if spec.task == "classification":
            _assemble(spec, build_network(spec, state), digest)
        with self._lock:
            if spec.key in self.specs():
                raise BadInput(f"the key {spec.key!r} is taken; choose another", "key")
            self._local[spec.key], self._uploads[spec.key] = spec, upload
            if spec.task in user_models.CARDED:
                self._cards[spec.key] = dict(fields["card"])
        try:
            if spec.task in (clip.TASK, decoders.TASK):
                self.load(spec.key)
        except PrismError:
            self.remove(spec.key)
            raise
        return spec

    def remove(self, key: str) -> None:
        """Forget one of the user's models (`Runtime.forget` takes it off the device).

        Raises: BadInput: no such model, or it is not the user's.
        """
        with self._lock:
            if key not in self._local:
                mine = ", ".join(self._local) or "there are none"
                raise BadInput(f"{key!r} is not one of your own models ({mine})", "model")
            del self._local[key]
            self._uploads.pop(key, None)
            self._cards.pop(key, None)


def _assemble(
    spec: ModelSpec,
    network: nn.Module,
    digest: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LoadedClassifier:
    """The network behind its normalisation, on its device, after it answered one image."""
    module = Classifier(network, spec.mean, spec.std, spec.channels, spec.value_range)
    loaded = LoadedClassifier(spec, module.to(device, dtype), digest)
    check_outputs(loaded)
    return loaded


def build_network(spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The architecture that a row names, with one output for each label, and with these weights.

    Raises: BadInput: no such architecture, it cannot be built for this input, or the weights do not fit.
    """
    kind, _, name = spec.architecture.partition(":")
    with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away: disturb nobody's random numbers
        try:
            network = _BUILDERS[kind](name, spec)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise BadInput(
                f"{spec.architecture} cannot be built for this row: {_first_line(error)}", "architecture"
            ) from error
    weights.fit_state_dict(network, state, len(spec.labels), spec.architecture)
    return network


def _build_prism(name: str, spec: ModelSpec) -> nn.Module:
    return networks.build(name, len(spec.labels), spec.n_channels)


def _build_torchvision(name: str, spec: ModelSpec) -> nn.Module:
    import torchvision

    if name not in torchvision.models.list_models(module=torchvision.models):
        raise BadInput(f"torchvision has no classifier named {name!r}", "architecture")
    return torchvision.models.get_model(name, weights=None, num_classes=len(spec.labels))


def _build_timm(name: str, spec: ModelSpec) -> nn.Module:
    import timm

    if not timm.is_model(name):
        raise BadInput(f"timm has no classifier named {name!r}", "architecture")
    sizes = {"num_classes": len(spec.labels), "in_chans": spec.n_channels}
    config = timm.get_pretrained_cfg(name)
    if config is not None and tuple(config.input_size[1:]) != spec.input_size:
        try:  # transformers fix their grid when they are built
            return timm.create_model(name, pretrained=False, img_size=spec.input_size, **sizes)
        except TypeError:  # convolutional networks take any size
            pass
    return timm.create_model(name, pretrained=False, **sizes)


_BUILDERS = {"prism": _build_prism, "torchvision": _build_torchvision, "timm": _build_timm}


def check_outputs(loaded: LoadedClassifier) -> None:
    """Push one black image through: there must come one number for each label.

    Raises: BadInput: the network refuses the input size, or has another number of outputs than labels.
    """
    spec, scale = loaded.spec, loaded.module.scale
    image = torch.zeros(1, spec.n_channels, *spec.input_size, device=scale.device, dtype=scale.dtype)
    try:
        with torch.no_grad():
            logits = loaded.module(image)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        size = f"{spec.input_size[0]} x {spec.input_size[1]} with {spec.n_channels} channel(s)"
        raise BadInput(f"the network does not take images of {size}: {_first_line(error)}", "input_size") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1:
        raise BadInput("the network is not a classifier: expected one row of class scores for an image", "architecture")
    if logits.shape[1] != len(spec.labels):
        raise BadInput(f"{len(spec.labels)} labels, but the network has {logits.shape[1]} outputs", "labels")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
