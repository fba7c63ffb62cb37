"""Every classifier that Prism knows: those that ship, timm's on the hub, and the user's own."""

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
from backend.errors import BadInput, NotAvailable
from backend.limits import LIMITS, Limits
from backend.models import exported, hub, networks, user_models, weights
from backend.models.classifier import Classifier, LoadedClassifier

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
        self._uploads: dict[str, dict[str, torch.Tensor]] = {}  # by key, with `_digests`
        self._digests: dict[str, str] = {}
        models_file = models_file or os.environ.get("PRISM_MODELS")
        if models_file:
            self._read_models_file(Path(models_file).expanduser())

    def _read_models_file(self, path: Path) -> None:
        specs, self.problems = user_models.read_models_file(path, self.limits)
        for spec in specs:
            if spec.key in catalog.EMBEDDED or spec.key in catalog.HUB:
                self.problems.append(f"{path.name}, model {spec.key}: a model that ships has this key; choose another")
            else:
                self._local[spec.key] = spec

    # ------------------------------------------------------------- rows
    def specs(self) -> dict[str, ModelSpec]:
        """All rows by key: those that ship first, then the user's, then the hub's."""
        with self._lock:
            return {**catalog.EMBEDDED, **self._local, **catalog.HUB}

    def spec(self, key: str) -> ModelSpec:
        """The row of a model. Any `timm:NAME` is a model of the hub, listed or not.

        Raises: BadInput: no such model; the sentence lists the keys.
        """
        if isinstance(key, str) and key.startswith(hub.PREFIX):
            found = hub.hub_spec(key.removeprefix(hub.PREFIX))
            row = catalog.HUB.get(key)
            return found if row is None else dataclasses.replace(
                found, title=row.title, summary=row.summary, licence=row.licence, examples=row.examples
            )  # fmt: skip
        spec = self.specs().get(key)
        if spec is None:
            raise BadInput(f"unknown model {key!r}; one of {', '.join(self.specs())}, or timm:NAME", "model")
        return spec

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
    ) -> LoadedClassifier:
        """Read a model's weights, check them against its row and put it on the device.

        Raises: BadInput: the weights, labels or input size do not fit; NotAvailable: no network, or no such file.
        """
        spec = self.spec(key)
        device = torch.device(device)
        with self._lock:
            upload = self._uploads.get(key)
        if spec.source == "hub":
            network = hub.load_network(spec.architecture.removeprefix(hub.PREFIX))
            digest = weights.digest_of(network.state_dict())
        elif spec.architecture == "pt2":
            _, digest = _bytes_digest(spec)
            network = exported.load_exported(spec.weights, device, (spec.n_channels, *spec.input_size))
        else:
            state, digest = (upload, self._digests[key]) if upload is not None else self._read(spec)
            network = build_network(spec)
            weights.fit_state_dict(network, state, len(spec.labels), spec.architecture)
        module = Classifier(network, spec.mean, spec.std, spec.channels, spec.value_range)
        loaded = LoadedClassifier(spec, module.to(device, dtype), digest)
        check_outputs(loaded)
        return loaded

    def _read(self, spec: ModelSpec) -> tuple[dict[str, torch.Tensor], str]:
        if spec.source != "embedded":
            return weights.read_file(spec.weights, spec.sha256)
        card = self.card(spec.key)
        if card is None:
            raise NotAvailable(
                f"{spec.key} has no weights here; `python -m backend train {spec.key}` makes them", "model"
            )
        return weights.read_file(self.weights_folder / spec.weights, card["sha256"])

    # ------------------------------------------------------------- the user's own, for this process
    def add_local(self, fields: Mapping[str, Any] | ModelSpec, data: bytes) -> ModelSpec:
        """Add an uploaded model; it is kept in memory until the process ends or `remove` is called.

        Args:
            fields: the row's fields, as in models.toml but without `weights`; or a checked row.
            data: a safetensors file with all the tensors of the architecture.
        Returns: the row. The model was built and answered one dry image before it was kept.
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
        state, digest = weights.read_upload(data, self.limits)
        if spec.sha256 and spec.sha256 != digest:
            raise BadInput(f"the file's sha256 starts {digest[:12]}, expected {spec.sha256[:12]}", "weights")
        network = build_network(spec)
        weights.fit_state_dict(network, state, len(spec.labels), spec.architecture)
        check_outputs(
            LoadedClassifier(spec, Classifier(network, spec.mean, spec.std, spec.channels, spec.value_range), digest)
        )
        with self._lock:
            if spec.key in self.specs():
                raise BadInput(f"the key {spec.key!r} is taken; choose another", "key")
            self._local[spec.key], self._uploads[spec.key], self._digests[spec.key] = spec, state, digest
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
            self._digests.pop(key, None)


def _bytes_digest(spec: ModelSpec) -> tuple[int, str]:
    import hashlib

    try:
        data = Path(spec.weights).read_bytes()
    except OSError:
        raise NotAvailable(f"the file {Path(spec.weights).name} is not there or cannot be read", "weights") from None
    digest = hashlib.sha256(data).hexdigest()
    if spec.sha256 and digest != spec.sha256:
        raise BadInput(f"the file's sha256 starts {digest[:12]}, expected {spec.sha256[:12]}", "weights")
    return len(data), digest


def build_network(spec: ModelSpec) -> nn.Module:
    """The architecture that a row names, with one output for each label; its weights are yet to come.

    Raises: BadInput: no such architecture, or it cannot be built for this input.
    """
    kind, _, name = spec.architecture.partition(":")
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away: disturb nobody's random numbers
        if kind == "prism":
            return networks.build(name, len(spec.labels), spec.n_channels)
        try:
            return _build_torchvision(name, spec) if kind == "torchvision" else _build_timm(name, spec)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            raise BadInput(
                f"{spec.architecture} cannot be built for this row: {_first_line(error)}", "architecture"
            ) from error


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
