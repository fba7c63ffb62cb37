"""A service on a tiny network that counts what it is asked, for tests of everything around the models."""

import threading
import time
from dataclasses import replace

import torch
from torch import nn

from backend.catalog import ModelSpec
from backend.contracts import OnStep, Request, Result, Step
from backend.errors import BadInput, PrismError
from backend.limits import Limits
from backend.models.classifier import Classifier, LoadedClassifier
from backend.runtime import Runtime
from backend.service import InterpretService, LocalService
from tests.waiting import wait_until


class CountingNetwork(nn.Module):
    """Two convolutions that can be slow, or refuse batches as a full device would."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(4, 3),
            )
        self.calls = 0
        self.gradients = 0  # calls that a gradient was asked of
        self.delay_s = 0.0
        self.most_at_once: int | None = None

    @property
    def backward_ready(self) -> int:
        return self.gradients

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.gradients += x.requires_grad
        if self.most_at_once is not None and len(x) > self.most_at_once:
            raise torch.OutOfMemoryError("faked")
        time.sleep(self.delay_s)
        return self.layers(x)


class CountingLibrary:
    """A library whose every model is the same counting network."""

    def __init__(self, keys: tuple[str, ...] = ("tiny",)) -> None:
        self.keys = keys
        self.network = CountingNetwork()
        self.loads = 0
        self.problems: list[str] = []

    @property
    def nbytes(self) -> int:
        return self.load(self.keys[0], "cpu", torch.float32).nbytes

    def spec(self, key: str, task: str = "") -> ModelSpec:
        if key not in self.keys:
            raise BadInput(f"unknown model {key!r}; one of {', '.join(self.keys)}", "model")
        return ModelSpec(key, key, "prism:none", "local", ("a", "b", "c"), (12, 12), channels="L")

    def specs(self) -> dict[str, ModelSpec]:
        return {key: self.spec(key) for key in self.keys}

    def load(self, key: str, device: object, dtype: torch.dtype) -> LoadedClassifier:
        self.loads += 1
        return LoadedClassifier(self.spec(key), Classifier(self.network, channels="L"), f"digest of {key}")


def service_with(library: CountingLibrary, limits: Limits | None = None) -> LocalService:
    limits = limits or Limits(chunk_pixels_cpu=12 * 12 * 8)
    return LocalService(Runtime("cpu", limits=limits), library, limits)


def untimed(result: Result) -> Result:
    return replace(result, provenance=replace(result.provenance, elapsed_s=0.0))


class Asker(threading.Thread):
    """Somebody who asks at once, with what was told on the way and the answer or the error that came."""

    def __init__(
        self, service: InterpretService, request: Request, session: str | None = None, on_step: OnStep = None
    ) -> None:
        super().__init__(daemon=True)
        self.service, self.request, self.session, self.on_step = service, request, session, on_step
        self.messages: list[str] = []
        self.result: Result | None = None
        self.error: PrismError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self.service.run(self.request, self._hear, self.session)
        except PrismError as error:
            self.error = error

    def _hear(self, step: Step) -> None:
        self.messages.append(step.message)
        if self.on_step is not None:
            self.on_step(step)


def ask_at_once(service: LocalService, requests: list, on_steps: dict | None = None) -> list[Asker]:
    """Let requests gather before the device, then give it to them."""
    askers = []
    with service.runtime.lock:
        for n, request in enumerate(requests):
            askers.append(Asker(service, request, f"person{n}.path", (on_steps or {}).get(n)))
            wait_until(lambda n=n: service.runtime.lock.expected_wait()[0] > n)
    for asker in askers:
        asker.join(timeout=60)
        assert not asker.is_alive()
    return askers


def companions(result: Result) -> list[str]:
    return [note for note in result.provenance.notes if "computed together" in note]
