"""Weights files in, checked tensors out. Nothing that could run code is ever unpickled.

safetensors hold tensors and nothing else; a state dict that `torch.save` wrote is read with `weights_only=True`.
"""

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from backend.errors import BadInput, NotAvailable
from backend.limits import LIMITS, MIB, Limits

_FIELD = "weights"
_NAMED = 3  # how many keys a sentence names before it counts
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # under which training scripts keep the state dict


def read_file(path: str | Path, sha256: str = "") -> tuple[dict[str, Tensor], str]:
    """The tensors of a weights file and the sha256 of its bytes.

    Args:
        path: a safetensors file, a state dict, or a folder in the hub's layout (`model.safetensors` in it).
        sha256: what the digest must be; empty: anything.
    Raises: NotAvailable: no such file; BadInput: not weights, or not the expected ones.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    data = _checked_bytes(path, sha256)
    state = parse_safetensors(data) if path.suffix == ".safetensors" else parse_state_dict(data)
    return state, hashlib.sha256(data).hexdigest()


def file_digest(path: str | Path, sha256: str = "") -> str:
    """The sha256 of a file's bytes. Raises: NotAvailable: no such file; BadInput: not the expected one."""
    return hashlib.sha256(_checked_bytes(Path(path), sha256)).hexdigest()


def _checked_bytes(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError:
        raise NotAvailable(f"the weights file {path.name} is not there or cannot be read", _FIELD) from None
    digest = hashlib.sha256(data).hexdigest()
    if sha256 and digest != sha256:
        raise BadInput(
            f"{path.name} is not the file it should be: its sha256 starts {digest[:12]}, expected {sha256[:12]}; "
            "fetch or train it again",
            _FIELD,
        )
    return data


def read_upload(data: bytes, limits: Limits = LIMITS) -> tuple[dict[str, Tensor], str]:
    """The tensors of an uploaded safetensors file and its digest.

    Raises: BadInput: empty, too large, a pickle, or not safetensors.
    """
    if len(data) > limits.max_weights_bytes:
        raise BadInput(f"the file has {len(data) / MIB:.0f} MB; weights up to "
                       f"{limits.max_weights_bytes / MIB:.0f} MB are read", _FIELD)  # fmt: skip
    return parse_safetensors(data), hashlib.sha256(data).hexdigest()


def parse_safetensors(data: bytes) -> dict[str, Tensor]:
    """Tensors by name. Raises: BadInput: empty, a pickle, or damaged."""
    if not data:
        raise BadInput("the weights file is empty", _FIELD)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError):
        # Asked only now: the length that begins a sound file may look like a pickle's first byte.
        if data[:1] == b"\x80" or data[:2] == b"PK":  # a bare pickle, or torch.save's zip around one
            raise BadInput(
                "the file is a pickle, which could run code; save the weights as safetensors", _FIELD
            ) from None
        raise BadInput("the file is not safetensors, or it is damaged", _FIELD) from None


def parse_state_dict(data: bytes) -> dict[str, Tensor]:
    """Tensors by name from what `torch.save(module.state_dict(), ...)` wrote.

    Raises: BadInput: it holds more than tensors (a whole module, code), or it is damaged.
    """
    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadInput("the file is a pickle of more than tensors, which could run code; "
                       "save module.state_dict() or safetensors instead", _FIELD) from None  # fmt: skip
    except Exception:  # the unpickler meets damage with errors of many kinds
        raise BadInput("the file is not a state dict that PyTorch can read, or it is damaged", _FIELD) from None
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise BadInput("the file is not a state dict: expected a table of names and tensors", _FIELD)
    return dict(loaded)


def fit_state_dict(network: nn.Module, state: Mapping[str, Tensor], n_labels: int, architecture: str) -> None:
    """Load tensors into a network that has all of them, and no others, in the same shapes.

    Raises: BadInput: missing or extra names or other shapes, the first few named; the field is `labels` if all
        that differs is the number of classes.
    """
    check_fit(network, state, n_labels, architecture)
    network.load_state_dict(dict(state), strict=False)


def check_fit(network: nn.Module, state: Mapping[str, Tensor], n_labels: int, architecture: str) -> None:
    """As `fit_state_dict`, but nothing is loaded: the network may be one without memory (`torch.device("meta")`)."""
    own = network.state_dict()
    # Checkpoints from before PyTorch 1.0 do not count batches; nothing in evaluation reads the count.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if not missing and not extra and not wrong:
        return
    outputs = {state[k].shape[0] for k in wrong if state[k].ndim and own[k].shape[:1] == (n_labels,)}
    same_rest = all(own[k].shape[1:] == state[k].shape[1:] for k in wrong)
    if wrong and not missing and not extra and same_rest and len(outputs) == 1:
        raise BadInput(f"{n_labels} labels, but the weights have {outputs.pop()} outputs", "labels")
    shapes = [f"{k} is {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in wrong]
    parts = [
        f"{word} {_name_few(keys)}" for word, keys in (("missing", missing), ("extra", extra), ("", shapes)) if keys
    ]
    raise BadInput(f"the weights do not fit {architecture}: {'; '.join(part.strip() for part in parts)}", _FIELD)


def _name_few(names: list[str]) -> str:
    few = ", ".join(names[:_NAMED])
    return few if len(names) <= _NAMED else f"{few} and {len(names) - _NAMED} more"


def digest_of(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and bytes, for weights whose file is not at hand."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()
