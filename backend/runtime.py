"""Device, dtype, random numbers, memory: the one place that chooses any of them."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from backend.errors import Cancelled, OutOfMemory
from backend.limits import LIMITS, Limits
from backend.turns import Turns


def choose_device() -> torch.device:
    """The accelerator if there is one that works, else the CPU. `PRISM_DEVICE` overrides it."""
    import os

    wanted = os.environ.get("PRISM_DEVICE")
    if wanted:
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


class Runtime:
    """One device with its lock, its dtype and the models that lie on it."""

    def __init__(
        self, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32, limits: Limits = LIMITS
    ) -> None:
        self.device = choose_device() if device is None else torch.device(device)
        self.dtype = dtype
        self.limits = limits
        self.lock = Turns(limits.max_flights, self.forget_all)  # one computation at a time on the device
        self._models: OrderedDict[str, HasBytes] = OrderedDict()
        self._models_lock = threading.RLock()
        self._loading: dict[str, threading.RLock] = {}  # a slow load holds up nobody who wants another model
        self.loads = 0  # how often weights were read, for tests and the status line

    def generator(self, seed: int) -> torch.Generator:
        """A fresh generator. It lives on the CPU, so that a seed means the same on every device."""
        return torch.Generator().manual_seed(seed)

    def model(self, key: str, load: Callable[[], "HasBytes"]) -> "HasBytes":
        """The model under this key, loaded at the first call; least recently used ones make room."""
        with self._models_lock:
            loading = self._loading.setdefault(key, threading.RLock())
        with loading:
            with self._models_lock:
                if key in self._models:
                    self._models.move_to_end(key)
                    return self._models[key]
            return self._keep(key, load())

    def _keep(self, key: str, loaded: "HasBytes") -> "HasBytes":
        with self._models_lock:
            self.loads += 1
            self._models[key] = loaded
            while len(self._models) > 1 and self.model_bytes > self.limits.model_bytes:
                self._models.popitem(last=False)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            return loaded

    def forget(self, key: str) -> None:
        with self._models_lock:
            self._models.pop(key, None)

    def forget_all(self) -> None:
        """Every model is loaded afresh when it is next asked for."""
        with self._models_lock:
            self._models.clear()

    @property
    def loaded(self) -> dict[str, "HasBytes"]:
        with self._models_lock:
            return dict(self._models)

    @property
    def model_bytes(self) -> int:
        return sum(model.nbytes for model in self.loaded.values())

    def chunk_size(self, height: int, width: int) -> int:
        """How many images of this size go through a model at once."""
        pixels = self.limits.chunk_pixels_cpu if self.device.type == "cpu" else self.limits.chunk_pixels_gpu
        return max(1, pixels // (height * width))

    def describe(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        threads = torch.get_num_threads()
        cpu = f"CPU, {threads} thread{'s' * (threads != 1)}"
        return {"cpu": cpu, "mps": "Apple GPU"}.get(self.device.type, str(self.device))


class HasBytes:
    """What a runtime holds: anything that knows how much memory it takes."""

    nbytes: int = 0


@dataclass
class Chunks:
    """Splits a batch so that it fits; halves the chunk when the device runs out of memory and goes on."""

    size: int
    notes: list[str] = field(default_factory=list)

    def map(self, function: Callable[..., tuple[Tensor, ...]], *batches: Tensor) -> tuple[Tensor, ...]:
        """Apply a function of aligned batches chunk by chunk and join what it returns along the first axis.

        Raises: OutOfMemory: not even one item fits.
        """
        outputs: list[tuple[Tensor, ...]] = []
        start, total = 0, len(batches[0])
        while start < total:
            stop = min(start + self.size, total)
            try:
                outputs.append(function(*(batch[start:stop] for batch in batches)))
            except torch.OutOfMemoryError:
                if self.size == 1 or stop - start == 1:
                    raise OutOfMemory(
                        "the device has no memory for a single image; choose a smaller model or free the device",
                        "model",
                    ) from None
                self.size = max(1, (stop - start) // 2)
                self.notes.append(f"the device ran out of memory; went on with {self.size} images at a time")
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            start = stop
        if len(outputs) == 1:
            return outputs[0]
        return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))


@dataclass
class PassCounter:
    """How many images went through a model, forward and backward."""

    forward: int = 0
    backward: int = 0


@contextmanager
def watch(module: nn.Module, is_cancelled: Callable[[], bool] = lambda: False) -> Iterator[PassCounter]:
    """Count the passes through a module, and stop at the next one when cancelled.

    Works for foreign code too (captum, zennit): the watch stands on the model, not in the method.
    Raises: Cancelled: from inside the model call, when `is_cancelled` says so.
    """
    counter = PassCounter()

    def before(_: nn.Module, __: tuple) -> None:
        if is_cancelled():
            raise Cancelled

    def after(_: nn.Module, __: tuple, output: Tensor) -> None:
        counter.forward += output.shape[0]
        if output.requires_grad:
            output.register_hook(lambda gradient: _count_backward(counter, gradient))

    handles = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield counter
    finally:
        for handle in handles:
            handle.remove()


def _count_backward(counter: PassCounter, gradient: Tensor) -> None:
    counter.backward += gradient.shape[0]
