"""Does the map depend on what the model has learned? Cascading randomisation of its layers.

A map that stays the same while the weights are replaced by random ones shows the image, not the model.
"""

import copy
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from backend.contracts import OnStep, Step
from backend.errors import BadInput


@dataclass(frozen=True)
class Stage:
    """The map after the layers from the output down to this one have been randomised."""

    layers: tuple[str, ...]  # newly randomised at this stage, from the output towards the input
    map: Tensor  # (H, W)
    spearman: float | None  # with the original map; None if a map is constant
    spearman_absolute: float | None  # the same of the absolute values


def cascading_randomisation(
    module: nn.Module,
    explain: Callable[[nn.Module], Tensor],
    seed: int = 0,
    max_layers: int = 8,
    on_step: OnStep = None,
    takes_part: Callable[[str], bool] = lambda name: True,
) -> tuple[Tensor, list[Stage]]:
    """Randomise a copy of the model layer by layer from the output and explain it again at each stage.

    The live model is never touched. With more layers than stages the output layer has the first stage to itself and
    the others share the rest evenly, so that the last stage has nothing learned left in it.

    Args:
        explain: a module like the given one -> its map (H, W).
        seed: of the new weights.
        max_layers: the largest number of stages.
        takes_part: which modules are randomised, by their names.
    Returns: the original map and the stages.
    Raises: BadInput: max_layers below 1, or a module without parameters.
    Source: Adebayo et al., Sanity Checks for Saliency Maps, arXiv:1810.03292. Differs from the paper: rank
        correlation only, and groups of layers where there are many.
    """
    if max_layers < 1:
        raise BadInput(f"max_layers is {max_layers}; expected at least 1", "max_layers")
    altered = copy.deepcopy(module)
    with order_of_use(altered) as used:
        original = explain(altered)
    groups = _stages([name for name in layers_from_output(altered, used) if takes_part(name)], max_layers)
    if not groups:
        raise BadInput("the model has no parameters to randomise", "model")
    stages = []
    for i, names in enumerate(groups):
        if on_step is not None:
            on_step(Step(i, len(groups), f"randomising {names[-1]}"))
        for name in names:
            randomise(altered.get_submodule(name), _layer_seed(seed, name))
        map_ = explain(altered)
        stages.append(Stage(names, map_, spearman(original, map_), spearman(original.abs(), map_.abs())))
    if on_step is not None:
        on_step(Step(len(groups), len(groups), "randomisation check"))
    return original, stages


# ----------------------------------------------------------------- which layers, in which order
@contextmanager
def order_of_use(module: nn.Module) -> Iterator[list[str]]:
    """Names of the modules with parameters of their own, in the order in which a forward pass first enters them."""
    used: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            if name not in used:
                used.append(name)

        return hook

    handles = [m.register_forward_pre_hook(note(name)) for name, m in module.named_modules() if _has_parameters(m)]
    try:
        yield used
    finally:
        for handle in handles:
            handle.remove()


def layers_from_output(module: nn.Module, used: list[str]) -> list[str]:
    """All modules with parameters of their own, last used first.

    A layer whose weights are used without a call (the output projection of `nn.MultiheadAttention`) stands with the
    nearest module around it that is called.
    """

    def position(name: str) -> int:
        while name and name not in used:
            name = name.rpartition(".")[0]
        return used.index(name) if name in used else -1

    names = [name for name, m in module.named_modules() if _has_parameters(m)]
    return sorted(names, key=lambda name: (position(name), names.index(name)), reverse=True)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _stages(layers: list[str], max_stages: int) -> list[tuple[str, ...]]:
    """Contiguous groups: the first layer alone, the rest in even parts.

    >>> _stages(["e", "d", "c", "b", "a"], 3)
    [('e',), ('d', 'c'), ('b', 'a')]
    >>> _stages(["b", "a"], 8)
    [('b',), ('a',)]
    """
    if max_stages == 1 or len(layers) < 2:
        return [tuple(layers)] if layers else []
    rest, parts = layers[1:], min(max_stages - 1, len(layers) - 1)
    cuts = [round(i * len(rest) / parts) for i in range(parts + 1)]
    return [(layers[0],), *(tuple(rest[a:b]) for a, b in zip(cuts, cuts[1:], strict=False))]


# ----------------------------------------------------------------- new weights
def randomise(layer: nn.Module, seed: int) -> None:
    """Give a layer the weights it might have had before training.

    `reset_parameters` where the layer has it; otherwise normal numbers with each parameter's own mean and standard
    deviation. Drawn on the CPU, so that a seed means the same on every device; the global generator is as before.
    """
    device = next(layer.parameters(recurse=False)).device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if hasattr(layer, "reset_parameters"):
            layer.cpu()
            layer.reset_parameters()
            layer.to(device)
        else:
            for parameter in layer.parameters(recurse=False):
                noise = torch.randn(parameter.shape, dtype=parameter.dtype)
                spread = parameter.std(unbiased=False)
                parameter.copy_(parameter.mean() + spread * noise.to(device))


def _layer_seed(seed: int, name: str) -> int:
    """A seed of its own for every layer: equal layers must not get equal weights."""
    return zlib.crc32(f"{seed}/{name}".encode())


# ----------------------------------------------------------------- likeness of maps
def spearman(one: Tensor, other: Tensor) -> float | None:
    """Rank correlation of two maps, ties with their mean rank; None if either is constant or not finite.

    >>> spearman(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 90.0]]))
    1.0
    """
    a, b = (t.detach().flatten().double().cpu() for t in (one, other))
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        return None
    a, b = (torch.from_numpy(rankdata(t.numpy())) for t in (a, b))
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return round(float(a @ b) / size, 12) if size > 0 else None
