"""LRP: the score, handed back layer by layer. A module of its own, as zennit takes seconds to import."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from zennit.canonizers import MergeBatchNorm
from zennit.composites import EpsilonAlpha2Beta1, EpsilonPlus, LayerMapComposite, layer_map_base
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma
from zennit.types import BatchNorm, Convolution, ConvolutionTranspose, Linear

from backend.errors import BadInput
from backend.models.surgery import frozen
from backend.path_attribution.operation_rules import RelevanceRules
from backend.path_attribution.problem import Explanation, Problem, target_scores
from backend.path_attribution.propagation import counter


def lrp(problem: Problem, composite: str = "epsilon-plus", epsilon: float = 1e-6) -> Explanation:
    """Hand the score back layer by layer in proportion to each input's part in it.

    Convolutions and linear layers follow zennit's rules; batch normalisation is merged into the layer right before
    it, elsewhere it lets relevance pass; what happens between modules (residual sums, attention, functional pooling)
    follows `RelevanceRules`. On transformers this is an approximation that holds attention weights and normalisation
    constant, and says so.

    Args:
        composite: "epsilon-plus" (z+ rule on convolutions, epsilon on linear layers), "epsilon" (on all),
            "epsilon-alpha2-beta1", "gamma" (gamma 1/4 on convolutions).
        epsilon: stabiliser of every denominator.
    Returns: attribution (B, C, H, W) in logits. It starts from the score itself; what biases took is missing in its
        sum.
    Raises: BadInput: the model has no layer that a rule could stand on (an exported program).
    Source: Bach et al., PLoS ONE 10(7), 2015; Montavon et al., LRP: an overview, 2019 (composites); zennit.
    """
    if not any(isinstance(module, Linear) for module in problem.model.modules()):
        raise BadInput("LRP needs convolutions and linear layers as modules; this model has none", "method")
    with frozen(problem.model):
        canonizers = _batch_norms_to_merge(problem.model, problem.images[:1])
        return _relevance(problem, _composite(composite, epsilon, canonizers), epsilon)


def _relevance(problem: Problem, composite: Composite, epsilon: float) -> Explanation:
    notes: set[str] = set()
    advance = counter(problem, "relevance propagation")

    def chunk(image: Tensor, target: Tensor) -> tuple[Tensor]:
        image = image.detach().requires_grad_(True)
        with torch.enable_grad(), _registered(composite, problem.model):
            with RelevanceRules(epsilon) as rules:
                logits = problem.model(image)
            scores = target_scores(logits, target)
            (relevance,) = torch.autograd.grad(scores, image, grad_outputs=scores.detach())
        if rules.has_constants:
            notes.add("LRP held attention weights and normalisation constant: an approximation for this model")
        advance(len(image))
        return (relevance,)

    (attribution,) = problem.chunks.map(chunk, problem.images, problem.targets)
    return Explanation(attribution, notes=sorted(notes))


def _composite(name: str, epsilon: float, canonizers: list[MergeBatchNorm]) -> Composite:
    """zennit's composite by name, with one stabiliser for all its rules."""
    layered: dict[str, Callable[[], Composite]] = {
        "epsilon-plus": lambda: EpsilonPlus(epsilon=epsilon, stabilizer=epsilon, canonizers=canonizers),
        "epsilon-alpha2-beta1": lambda: EpsilonAlpha2Beta1(epsilon=epsilon, stabilizer=epsilon, canonizers=canonizers),
        "epsilon": lambda: LayerMapComposite(
            layer_map_base(epsilon) + [(Linear, Epsilon(epsilon=epsilon))], canonizers=canonizers
        ),
        "gamma": lambda: LayerMapComposite(
            layer_map_base(epsilon)
            + [(Convolution, Gamma(gamma=0.25, stabilizer=epsilon)), (nn.Linear, Epsilon(epsilon=epsilon))],
            canonizers=canonizers,
        ),
    }
    if name not in layered:
        raise BadInput(f"composite is {name!r}; expected one of {', '.join(layered)}", "composite")
    composite = layered[name]()
    choose = composite.module_map

    def without_attention(context: dict, module_name: str, module: nn.Module):
        """zennit lets relevance pass a multi-head attention as if it mixed no tokens; our rules take it apart."""
        return None if isinstance(module, nn.MultiheadAttention) else choose(context, module_name, module)

    composite.module_map = without_attention
    return composite


@contextmanager
def _registered(composite: Composite, model: nn.Module) -> Iterator[None]:
    """The composite's hooks and merged weights, removed again even if putting them on fails half-way."""
    try:
        composite.register(model)
        yield
    finally:
        composite.remove()


class _MergePairs(MergeBatchNorm):
    """zennit's merge of batch norms, for given pairs of a linear layer and the batch norm behind it."""

    def __init__(self, pairs: Sequence[tuple[nn.Module, nn.Module]] = ()) -> None:
        super().__init__()
        self.pairs = pairs

    def apply(self, root_module: nn.Module) -> list[MergeBatchNorm]:
        merged = []
        for layer, batch_norm in self.pairs:
            instance = _MergePairs()
            instance.register((layer,), batch_norm)
            batch_norm.running_var.data -= batch_norm.eps  # of 1: else what is left still divides by sqrt(1 + eps)
            merged.append(instance)
        return merged


def _batch_norms_to_merge(model: nn.Module, image: Tensor) -> list[MergeBatchNorm]:
    """Batch norms whose input is, in one forward pass, exactly the output of a linear layer.

    zennit's own canonizer goes by the order in which modules are listed, which is wrong for networks that normalise
    before they convolve. A last look at the logits drops the merge if a layer's output also went elsewhere.
    """
    if not any(isinstance(module, BatchNorm) for module in model.modules()):
        return []
    with torch.no_grad(), _watching(model) as pairs:
        before = model(image)
    canonizers = [_MergePairs(pairs)]
    with torch.no_grad(), _registered(Composite(canonizers=canonizers), model):
        after = model(image)
    return canonizers if torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())) else []


@contextmanager
def _watching(model: nn.Module) -> Iterator[list[tuple[nn.Module, nn.Module]]]:
    """Collects (linear layer, batch norm) pairs that follow each other while the model runs."""
    outputs: dict[int, tuple[nn.Module, Tensor]] = {}  # holds the tensors, so that no id is given out twice
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def note_output(layer: nn.Module, _: tuple, output: Tensor) -> None:
        outputs[id(output)] = (layer, output)

    def note_input(batch_norm: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], batch_norm))

    handles = []
    try:
        for module in model.modules():
            if isinstance(module, Linear) and not isinstance(module, ConvolutionTranspose):
                handles.append(module.register_forward_hook(note_output))
            elif isinstance(module, BatchNorm) and module.affine and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(note_input))
        yield pairs
    finally:
        for handle in handles:
            handle.remove()
