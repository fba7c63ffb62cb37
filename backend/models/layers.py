"""What a classifier's network looks like inside, found by running it once: spatial layers, pooled head, reused ReLUs.

Nothing is read off class names of whole networks, so that CNNs, ResNets and vision transformers of any library work.
"""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from backend.errors import BadInput
from backend.models.classifier import Classifier

_MAX_PREFIX = 16  # class, distillation and register tokens before the patches
_ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.PReLU, nn.Softmax,
)  # fmt: skip
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
_POOLS = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd)
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten)
# The operations behind those modules, as PyTorch dispatches them.
_NONLINEAR_OPERATIONS = (
    "relu", "relu_", "hardtanh", "hardtanh_", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "silu_", "mish",
    "sigmoid", "tanh", "softplus", "hardswish", "hardswish_", "hardsigmoid", "_softmax", "_prelu_kernel",
    "_safe_softmax", "clamp_min",
)  # fmt: skip
_FUSED_ATTENTION = "_scaled_dot_product"  # what the fused kernels' names begin with; a softmax is in them


@dataclass(frozen=True, slots=True)
class SpatialLayer:
    """A module whose output still has a place for everything: a map, or tokens on a grid."""

    name: str  # as in `module.named_modules()`
    module: nn.Module
    grid: tuple[int, int]  # height, width of its map
    prefix: int | None = None  # tokens before the patches; None: the output is a map
    is_channels_last: bool = False  # (B, h, w, C), as in Swin

    def maps(self, output: Tensor) -> Tensor:
        """The module's output as (B, C, h, w)."""
        if self.prefix is not None:
            tokens = output[:, self.prefix :]  # (B, h w, C)
            return tokens.transpose(1, 2).reshape(len(output), -1, *self.grid)
        return output.permute(0, 3, 1, 2) if self.is_channels_last else output


@dataclass(slots=True, eq=False)
class _Seen:
    """One output of one module in the dry forward."""

    name: str
    module: nn.Module
    output: Tensor
    node: torch.autograd.graph.Node
    maker: nn.Module | None = None  # the innermost module with this very output


# Found once per classifier; an entry goes when its classifier goes.
_found: "weakref.WeakKeyDictionary[Classifier, dict]" = weakref.WeakKeyDictionary()


def spatial_layers(module: Classifier, input_shape: tuple[int, int, int], first: str = "") -> list[SpatialLayer]:
    """The layers that a CAM may be read from, last first.

    A layer counts if everything that the logits know of the image went through its output (so the end of a residual
    block does, its inside does not), if its output is a map or a grid of tokens, and if the patches' part of it still
    matters to the logits (after the last attention block only the class token does). Of a convolution, its norm and
    its activation the last one counts; pooling does not.

    Args:
        input_shape: (C, H, W) of one image.
        first: a module's name to be put first, for instance the row's `layers = { cam = "layer4" }`; names count
            from the network, that is without the classifier's own "network.".
    Returns: an empty list if there is none (exported programs, networks on flat vectors).
    Raises: BadInput: `first` names no module with a spatial output.
    """
    known = _found.setdefault(module, {})
    if (input_shape, first) not in known:
        known[input_shape, first] = _find_layers(module, input_shape, first)
    return list(known[input_shape, first])


def _find_layers(module: Classifier, input_shape: tuple[int, int, int], first: str) -> list[SpatialLayer]:
    seen, logits, image = _run_once(module, input_shape)
    if logits.grad_fn is None:
        return []
    through = _passed_by_everything(logits.grad_fn, image)
    aspect = input_shape[1] / input_shape[2]
    chain: list[_Seen] = []
    for item in seen:  # in the order of execution
        if item.node not in through:
            continue
        item.maker = item.module
        if chain and chain[-1].node is item.node:  # the same output again: a container's, or one passed through
            if not chain[-1].name.startswith(item.name + "."):
                continue
            item.maker = chain.pop().maker  # a container gives the better name
        chain.append(item)
    following = [*chain[1:], None][: len(chain)]
    found = [
        (item, layer)
        for item, after in zip(chain, following, strict=True)
        if not isinstance(item.maker, _POOLS + _PASSING)
        and not (after is not None and isinstance(after.maker, _ACTIVATIONS + _NORMS) and _follows(after, item))
        and (layer := _spatial(item, aspect)) is not None
    ]
    matters = _do_patches_matter(found, logits)
    layers = [layer for (_, layer), does in zip(found, matters, strict=True) if does]
    layers.reverse()
    return _put_first(layers, seen, aspect, first) if first else layers


def gap_head(module: Classifier, input_shape: tuple[int, int, int]) -> Tensor | None:
    """The classifier's weights (classes, C), if it is linear on the plain mean of the last spatial layer's maps.

    This is what the original CAM needs. It is found out by numbers: the last linear layer's input must equal the
    spatial mean of the last map. None: it does not.
    """
    known = _found.setdefault(module, {})
    if (input_shape, "head") not in known:
        known[input_shape, "head"] = _find_gap_head(module, input_shape)
    head = known[input_shape, "head"]
    return None if head is None else head.weight.detach()


def _find_gap_head(module: Classifier, input_shape: tuple[int, int, int]) -> nn.Linear | None:
    layers = spatial_layers(module, input_shape)
    heads = [child for child in module.network.modules() if isinstance(child, nn.Linear)]
    if not layers or not heads:
        return None
    caught: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def catch(child: nn.Module, inputs: tuple, output: Tensor) -> None:
        caught[child] = (inputs[0].detach().clone(), output.detach().clone())

    handles = [child.register_forward_hook(catch) for child in {*heads, layers[0].module}]
    try:
        with torch.no_grad():
            logits = module(_dry_image(module, input_shape))
    finally:
        for handle in handles:
            handle.remove()
    means = layers[0].maps(caught[layers[0].module][1]).mean(dim=(2, 3))
    for head in heads:
        pooled, output = caught.get(head, (means[:0], means[:0]))
        if output.shape == logits.shape and torch.equal(output, logits) and pooled.shape == means.shape:
            tolerance = 1e-4 * max(1e-6, float(means.abs().max()))
            return head if float((means - pooled).abs().max()) <= tolerance else None
    return None


def nonlinearity_problems(module: Classifier, input_shape: tuple[int, int, int]) -> list[str]:
    """Why methods that hook each nonlinearity (DeepLIFT, LRP) cannot be exact here; empty: nothing stands against it.

    Finds nonlinear functions that run outside a module of their own, and modules that run more than once.
    """
    watch = _NonlinearityWatch()
    handles = []
    for name, child in module.network.named_modules():
        if isinstance(child, _ACTIVATIONS):
            handles.append(child.register_forward_pre_hook(watch.enter(name)))
            handles.append(child.register_forward_hook(watch.leave))
    try:
        with torch.enable_grad(), watch:  # with gradients on, attention takes the path that attributions take
            module(_dry_image(module, input_shape).requires_grad_(True))
    finally:
        for handle in handles:
            handle.remove()
    problems = []
    if watch.functional:
        kinds = ", ".join(sorted({name.strip("_") for name in watch.functional}))
        problems.append(f"{len(watch.functional)} nonlinear function(s) are not modules of their own ({kinds})")
    reused = [name for name, count in watch.calls.items() if count > 1]
    if reused:
        problems.append(f"{len(reused)} activation module(s) are used more than once ({', '.join(reused[:3])})")
    return problems


def has_functional_relu(module: Classifier, input_shape: tuple[int, int, int]) -> bool:
    """Is any nonlinearity applied as a function, or by a module that is used more than once?"""
    return bool(nonlinearity_problems(module, input_shape))


# ----------------------------------------------------------------- the dry forward
def _dry_image(module: Classifier, input_shape: tuple[int, int, int]) -> Tensor:
    """One noise image, the same every time: on a constant one too many things would be equal by chance."""
    image = torch.rand(1, *input_shape, generator=torch.Generator().manual_seed(0))
    return image.to(module.scale.device, module.scale.dtype)


@contextmanager
def _recording(network: nn.Module) -> Iterator[list[_Seen]]:
    seen: list[_Seen] = []

    def record(name: str):
        def hook(child: nn.Module, _: tuple, output: object) -> None:
            if isinstance(output, Tensor) and output.grad_fn is not None:
                seen.append(_Seen(name, child, output, output.grad_fn))

        return hook

    handles = [child.register_forward_hook(record(name)) for name, child in network.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _run_once(module: Classifier, input_shape: tuple[int, int, int]) -> tuple[list[_Seen], Tensor, Tensor]:
    """All module outputs in order of execution, the logits (1, classes) and the image they came from."""
    image = _dry_image(module, input_shape).requires_grad_(True)
    with torch.enable_grad(), _recording(module.network) as seen:
        logits = module(image)
    return seen, logits, image


def _passed_by_everything(end: torch.autograd.graph.Node, image: Tensor) -> set[torch.autograd.graph.Node]:
    """The operations that lie on every way from the image to the logits.

    A node lies on all of them if (ways from the image to it) x (ways from it to the end) is the number of all ways.
    """
    order = _topological(end)
    from_image = dict.fromkeys(order, 0)
    for node in order:  # inputs before outputs
        if getattr(node, "variable", None) is image:
            from_image[node] = 1
        else:
            from_image[node] = sum(from_image[before] for before in _inputs(node))
    to_end = dict.fromkeys(order, 0)
    to_end[end] = 1
    for node in reversed(order):
        for before in _inputs(node):
            to_end[before] += to_end[node]
    total = from_image[end]
    return {node for node in order if total and from_image[node] * to_end[node] == total}


def _inputs(node: torch.autograd.graph.Node) -> list[torch.autograd.graph.Node]:
    return [before for before, _ in node.next_functions if before is not None]


def _topological(end: torch.autograd.graph.Node) -> list[torch.autograd.graph.Node]:
    """Every node after its inputs; without recursion, for deep networks."""
    order: list[torch.autograd.graph.Node] = []
    visited = {end}
    stack = [(end, iter(_inputs(end)))]
    while stack:
        node, rest = stack[-1]
        before = next(rest, None)
        if before is None:
            order.append(node)
            stack.pop()
        elif before not in visited:
            visited.add(before)
            stack.append((before, iter(_inputs(before))))
    return order


# ----------------------------------------------------------------- what counts as a layer
def _follows(after: _Seen, item: _Seen) -> bool:
    """Is one output made from the other alone, with nothing branching or joining between them?"""
    node = after.node
    while node is not item.node:
        inputs = [before for before in _inputs(node) if not isinstance(getattr(before, "variable", None), nn.Parameter)]
        if len(inputs) != 1:
            return False
        node = inputs[0]
    return True


def _spatial(item: _Seen, aspect: float) -> SpatialLayer | None:
    """How to read an output as a map, or None: it is a vector, a single place, or something else."""
    shape = tuple(item.output.shape)
    if len(shape) == 4:
        for grid, is_last in ((shape[2:4], False), (shape[1:3], True)):
            if math.prod(grid) > 1 and _fits(grid, aspect):
                return SpatialLayer(item.name, item.module, (grid[0], grid[1]), None, is_last)
    if len(shape) == 3:
        for prefix in range(min(_MAX_PREFIX, shape[1] - 1) + 1):
            height = round(math.sqrt((shape[1] - prefix) * aspect))
            if height > 1 and (shape[1] - prefix) % height == 0:
                grid = (height, (shape[1] - prefix) // height)
                if grid[1] > 1 and _fits(grid, aspect):
                    return SpatialLayer(item.name, item.module, grid, prefix)
    return None


def _fits(grid: tuple[int, ...], aspect: float) -> bool:
    """Has the grid the image's proportions, up to the rounding of a cell?"""
    height, width = grid
    return abs(height - width * aspect) <= max(1.0, aspect) and (aspect != 1.0 or height == width)


def _do_patches_matter(found: list[tuple[_Seen, SpatialLayer]], logits: Tensor) -> list[bool]:
    """Does any place of each map move any logit? One backward pass for all of them."""
    if not found:
        return []
    weights = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
    outputs = [item.output for item, _ in found]
    gradients = torch.autograd.grad((logits * weights).sum(), outputs, allow_unused=True)
    return [
        gradient is not None and bool((layer.maps(gradient) != 0).any())
        for (_, layer), gradient in zip(found, gradients, strict=True)
    ]


def _put_first(layers: list[SpatialLayer], seen: list[_Seen], aspect: float, name: str) -> list[SpatialLayer]:
    wanted = [layer for item in seen if item.name == name and (layer := _spatial(item, aspect)) is not None]
    if not wanted:
        names = ", ".join(layer.name for layer in layers[:8]) or "none"
        raise BadInput(f"the layer {name!r} has no spatial output; layers that have: {names}", "layers")
    return [wanted[-1], *(layer for layer in layers if layer.module is not wanted[-1].module)]


class _NonlinearityWatch(TorchDispatchMode):
    """Counts calls of activation modules, and nonlinear operations outside all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.functional: list[str] = []
        self._inside = 0

    def enter(self, name: str):
        def hook(*_: object) -> None:
            self._inside += 1
            self.calls[name] = self.calls.get(name, 0) + 1

        return hook

    def leave(self, *_: object) -> None:
        self._inside -= 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if self._inside == 0 and (name in _NONLINEAR_OPERATIONS or name.startswith(_FUSED_ATTENTION)):
            self.functional.append(name)
        return function(*args, **(kwargs or {}))
