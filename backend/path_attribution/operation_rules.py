"""Backward rules for single operations: what DeepLIFT and LRP put in the place of the gradient.

Hooks on modules see neither `x + shortcut(x)` nor `F.relu(x)`, nor the products inside attention, and a module that is
used twice confuses them. Here every call of a PyTorch function is seen (`TorchFunctionMode`), whoever makes it, and
the model itself is not touched at all.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from backend.errors import ModelFault

_aten = torch.ops.aten  # what exported programs call

_ACTIVATIONS = (
    F.relu, torch.relu, Tensor.relu, _aten.relu.default, F.relu6, _aten.relu6.default,
    F.hardtanh, _aten.hardtanh.default, F.leaky_relu, _aten.leaky_relu.default, torch.prelu, _aten.prelu.default,
    F.elu, _aten.elu.default, F.selu, F.celu, F.gelu, _aten.gelu.default, F.silu, _aten.silu.default,
    F.mish, _aten.mish.default, F.softplus, _aten.softplus.default, F.hardswish, _aten.hardswish.default,
    F.hardsigmoid, _aten.hardsigmoid.default, F.softsign, F.logsigmoid,
    F.sigmoid, torch.sigmoid, Tensor.sigmoid, _aten.sigmoid.default,
    F.tanh, torch.tanh, Tensor.tanh, _aten.tanh.default,
    torch.clamp, Tensor.clamp, _aten.clamp.default, torch.clamp_min, Tensor.clamp_min, _aten.clamp_min.default,
)  # fmt: skip
_CURVES = (  # elementwise, but no activations: nobody would let relevance pass through them unchanged
    torch.exp, Tensor.exp, torch.log, Tensor.log, torch.sqrt, Tensor.sqrt, torch.rsqrt, Tensor.rsqrt,
    torch.square, Tensor.square, torch.reciprocal, Tensor.reciprocal, torch.abs, Tensor.abs,
)  # fmt: skip
_IN_PLACE = {
    torch.relu_: torch.relu, Tensor.relu_: torch.relu, _aten.relu_.default: torch.relu,
    _aten.hardtanh_.default: F.hardtanh, _aten.silu_.default: F.silu, _aten.hardswish_.default: F.hardswish,
    Tensor.clamp_: torch.clamp, Tensor.sigmoid_: torch.sigmoid,
    Tensor.add_: torch.add, _aten.add_.Tensor: torch.add, Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul, _aten.mul_.Tensor: torch.mul, Tensor.div_: torch.div,
}  # fmt: skip
_ADDITIONS = (torch.add, Tensor.add, _aten.add.Tensor, torch.sub, Tensor.sub, _aten.sub.Tensor)
_PRODUCTS = (torch.mul, Tensor.mul, _aten.mul.Tensor)
_QUOTIENTS = (torch.div, Tensor.div, Tensor.__truediv__, _aten.div.Tensor)
_MATRIX_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, _aten.matmul.default, torch.bmm, Tensor.bmm)
_MEANS = (
    torch.mean, Tensor.mean, _aten.mean.dim, torch.sum, Tensor.sum, F.avg_pool2d, _aten.avg_pool2d.default,
    F.adaptive_avg_pool2d, _aten.adaptive_avg_pool2d.default,
)  # fmt: skip
_SOFTMAX = (F.softmax, torch.softmax, Tensor.softmax, _aten.softmax.int)
_LAYER_NORM = (F.layer_norm, torch.layer_norm, _aten.layer_norm.default)
_GROUP_NORM = (F.group_norm, torch.group_norm, _aten.group_norm.default)
_ATTENTION = (F.scaled_dot_product_attention, _aten.scaled_dot_product_attention.default)

Rule = Callable[..., Any]  # the function that was called, then its own arguments


class OperationRules(TorchFunctionMode):
    """Runs a model with other backward rules for some functions; the values stay the same.

    In-place functions are carried out on a copy and written back, so that a rule always finds its input as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rules: dict[Callable, Rule] = {F.multi_head_attention_forward: self._multi_head_attention}

    def add(self, functions: tuple[Callable, ...], rule: Rule) -> None:
        self.rules.update(dict.fromkeys(functions, rule))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        is_in_place = kwargs.get("inplace", False) or function in _IN_PLACE
        function = _IN_PLACE.get(function, function)
        rule = self.rules.get(function)
        if rule is None or not args:
            return function(*args, **kwargs)
        if not is_in_place:
            return rule(function, *args, **kwargs)
        kwargs.pop("inplace", None)
        return args[0].copy_(rule(function, args[0].clone(), *args[1:], **kwargs))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The linear layers inside a multi-head attention, which runs as one function."""
        return F.linear(x, weight, bias)

    def attention(self, function: Callable, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        raise NotImplementedError

    def _multi_head_attention(
        self, function: Callable, query, key, value, width, heads, in_weight, in_bias, bias_k, bias_v, add_zero,
        dropout, out_weight, out_bias, **options: Any,
    ):  # fmt: skip
        """`F.multi_head_attention_forward` taken apart, in its plain case; other cases keep their gradients.

        query, key, value: (tokens, N, width).
        """
        is_plain = in_weight is not None and bias_k is None and bias_v is None and not add_zero
        unusual = ("need_weights", "attn_mask", "key_padding_mask", "is_causal", "use_separate_proj_weight", "training")
        if not is_plain or any(options.get(name) not in (None, False) for name in unusual):
            return function(
                query, key, value, width, heads, in_weight, in_bias, bias_k, bias_v, add_zero, dropout, out_weight,
                out_bias, **options,
            )  # fmt: skip
        biases = in_bias.chunk(3) if in_bias is not None else (None, None, None)
        q, k, v = (
            self.linear(x, weight, bias).unflatten(2, (heads, -1)).permute(1, 2, 0, 3)  # (N, heads, tokens, width)
            for x, weight, bias in zip((query, key, value), in_weight.chunk(3), biases, strict=True)
        )
        mixed = self.attention(F.scaled_dot_product_attention, q, k, v)
        return self.linear(mixed.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None


# ----------------------------------------------------------------- DeepLIFT: differences instead of derivatives
class DifferenceRules(OperationRules):
    """DeepLIFT's rules: every nonlinear operation hands on multipliers m with sum m dx = dy, dx = x - x0.

    The baseline goes through the model first, under rules of its own that remember the operations' inputs (`seen`);
    then the image goes through under `DifferenceRules(seen)`, operation by operation beside them.

    Elementwise functions: the slope of the secant ("rescale"). Max pooling: the change goes to the places of both
    maxima. Products: each factor's change times the mean of the other's two values. Softmax and normalisation are
    made of these pieces.
    """

    def __init__(self, seen: list[tuple[Tensor, ...]] | None = None) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, ...]] = []
        self._reference: Iterator[tuple[Tensor, ...]] | None = None if seen is None else iter(seen)
        self.add(_ACTIVATIONS + _CURVES, self._elementwise)
        self.add((F.max_pool2d, _aten.max_pool2d.default), self._pooling(F.max_pool2d))
        self.add((F.adaptive_max_pool2d,), self._pooling(F.adaptive_max_pool2d))
        self.add(_PRODUCTS + _MATRIX_PRODUCTS, self._product)
        self.add(_QUOTIENTS, self._quotient)
        self.add(_SOFTMAX, self._softmax)
        self.add(_LAYER_NORM, self._layer_norm)
        self.add(_GROUP_NORM, self._group_norm)
        self.add(_ATTENTION, self.attention)

    def _apply(self, rule: type[torch.autograd.Function], call: Callable, *inputs: Tensor) -> Tensor:
        """Call; in the image's pass with the rule and the inputs that the baseline had here."""
        if self._reference is None:
            self.seen.append(tuple(tensor.detach() for tensor in inputs))
            return call(*inputs)
        reference = next(self._reference, ())
        if [tensor.shape for tensor in reference] != [tensor.shape for tensor in inputs]:
            raise ModelFault("the model takes another way for the baseline than for the image", "model")
        return rule.apply(call, reference, *inputs)

    def _elementwise(self, function: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._apply(_Secant, lambda value: function(value, *args, **kwargs), x)

    def _pooling(self, function: Callable) -> Rule:
        def rule(called: Callable, x: Tensor, *args: Any, return_indices: bool = False, **kwargs: Any):
            if return_indices or x.ndim != 4:
                return called(x, *args, return_indices=return_indices, **kwargs)
            return self._apply(_MaxPool, lambda value: _pool(function, value, args, kwargs), x)[0]

        return rule

    def _product(self, function: Callable, *factors: Any, **kwargs: Any) -> Tensor:
        if len(factors) == 2 and all(isinstance(factor, Tensor) for factor in factors) and not kwargs:
            return self._apply(_Product, function, *factors)
        return function(*factors, **kwargs)

    def _quotient(self, function: Callable, a: Any, *divisor: Any, **kwargs: Any) -> Tensor:
        if divisor and isinstance(divisor[0], Tensor) and not kwargs:
            return self._product(torch.mul, a, self._elementwise(torch.reciprocal, divisor[0]))
        return function(a, *divisor, **kwargs)

    def _softmax(self, function: Callable, x: Tensor, dim: int, *_: Any, **__: Any) -> Tensor:
        def call(value: Tensor) -> Tensor:
            return value.softmax(dim=-1)

        return self._apply(_Softmax, call, x.movedim(dim, -1)).movedim(-1, dim)

    def _layer_norm(
        self, function: Callable, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5, *_: Any,
    ) -> Tensor:  # fmt: skip
        flat = x.flatten(-len(shape))
        y = self._apply(_Standardise, partial(_standardise, eps=eps), flat).view(x.shape)
        return _affine(y, weight, bias)

    def _group_norm(
        self, function: Callable, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
        eps: float = 1e-5, *_: Any,
    ) -> Tensor:  # fmt: skip
        flat = x.reshape(len(x), groups, -1)
        y = self._apply(_Standardise, partial(_standardise, eps=eps), flat).view(x.shape)
        places = (-1, *(1,) * (x.ndim - 2))
        return _affine(y, *(None if p is None else p.view(places) for p in (weight, bias)))

    def attention(
        self, function: Callable, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None,
        dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if attn_mask is not None or is_causal or enable_gqa:
            return function(q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        weights = self._softmax(F.softmax, self._product(torch.matmul, q * scale, k.transpose(-2, -1)), -1)
        return self._product(torch.matmul, weights, v)


def _pool(function: Callable, x: Tensor, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor]:
    return function(x, *args, **kwargs, return_indices=True)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Mean 0 and variance 1 over the last axis."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def _is_still(change: Tensor) -> Tensor:
    """Where a change is rounding, so that dividing by it would make noise."""
    return change.abs() <= 10 * torch.finfo(change.dtype).eps


class _Secant(torch.autograd.Function):
    """y = f(x) value by value: m = dy / dx, and f'(x) where the input does not change."""

    @staticmethod
    def forward(ctx, call, reference, x):
        ctx.call, ctx.reference = call, reference
        ctx.save_for_backward(x)
        return call(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,), (x0,) = ctx.saved_tensors, ctx.reference
        change, still = x - x0, _is_still(x - x0)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            y = ctx.call(x)
            (slope,) = torch.autograd.grad(y.sum(), x)
        secant = (y.detach() - ctx.call(x0)) / torch.where(still, torch.ones_like(change), change)
        return None, None, gradient * torch.where(still, slope, secant)


class _MaxPool(torch.autograd.Function):
    """y = max over windows: the rise from y0 to max(y, y0) goes to the image's maximum, the rest to the baseline's.

    Both places really change by at least as much, so the multipliers are bounded.
    Source: captum's rule for max pooling.
    Differs from captum: windows may overlap.
    """

    @staticmethod
    def forward(ctx, call, reference, x):
        y, place = call(x)
        ctx.call, ctx.reference = call, reference
        ctx.save_for_backward(x, y, place)
        ctx.mark_non_differentiable(place)
        return y, place

    @staticmethod
    def backward(ctx, gradient, _):
        (x, y, place), (x0,) = ctx.saved_tensors, ctx.reference
        y0, place0 = ctx.call(x0)
        higher = torch.maximum(y, y0)
        share = torch.zeros_like(x).flatten(2)  # (N, C, H W)
        plain = share.clone()
        share.scatter_add_(2, place.flatten(2), (gradient * (higher - y0)).flatten(2))
        share.scatter_add_(2, place0.flatten(2), (gradient * (y - higher)).flatten(2))
        plain.scatter_add_(2, place.flatten(2), gradient.flatten(2))
        change = (x - x0).flatten(2)
        still = _is_still(change)
        multiplier = torch.where(still, plain, share / torch.where(still, torch.ones_like(change), change))
        return None, None, multiplier.view_as(x)


class _Product(torch.autograd.Function):
    """y = a b, also of matrices: dy = da (b + b0) / 2 + (a + a0) / 2 db, exactly."""

    @staticmethod
    def forward(ctx, call, reference, a, b):
        ctx.call, ctx.reference = call, reference
        ctx.save_for_backward(a, b)
        return call(a, b)

    @staticmethod
    def backward(ctx, gradient):
        a, b = ((now + before) / 2 for now, before in zip(ctx.saved_tensors, ctx.reference, strict=True))
        with torch.enable_grad():
            a.requires_grad_(ctx.needs_input_grad[2])
            b.requires_grad_(ctx.needs_input_grad[3])
            found = iter(torch.autograd.grad(ctx.call(a, b), [x for x in (a, b) if x.requires_grad], gradient))
        return None, None, *(next(found) if x.requires_grad else None for x in (a, b))


class _Softmax(torch.autograd.Function):
    """y = e / s with e = exp(x - c), s = sum e: the secant of exp, the product rule, and d(1/s) = -ds / (s s0)."""

    @staticmethod
    def forward(ctx, call, reference, x):
        ctx.reference = reference
        ctx.save_for_backward(x)
        return call(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,), (x0,) = ctx.saved_tensors, ctx.reference
        top = torch.maximum(x, x0).amax(dim=-1, keepdim=True)  # one constant for both, or their difference would count
        e, e0 = (x - top).exp(), (x0 - top).exp()
        s, s0 = e.sum(-1, keepdim=True), e0.sum(-1, keepdim=True)
        through_sum = (gradient * (e + e0) / 2).sum(-1, keepdim=True) * (-1 / (s * s0))
        through_e = gradient * (1 / s + 1 / s0) / 2 + through_sum
        change, still = x - x0, _is_still(x - x0)
        secant = torch.where(still, e, (e - e0) / torch.where(still, torch.ones_like(change), change))
        return None, None, through_e * secant


class _Standardise(torch.autograd.Function):
    """y = z q with z = x - mean(x), q = (var + eps)^(-1/2), over the last axis.

    dq / dvar = -q^2 q0^2 / (q + q0), and dvar = mean((z + z0) dz): all exact, nothing to divide by.
    """

    @staticmethod
    def forward(ctx, call, reference, x):
        ctx.call, ctx.reference = call, reference
        ctx.save_for_backward(x)
        return call(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,), (x0,) = ctx.saved_tensors, ctx.reference
        z, z0 = (value - value.mean(-1, keepdim=True) for value in (x, x0))
        q, q0 = (((value**2).mean(-1, keepdim=True) + ctx.call.keywords["eps"]).rsqrt() for value in (z, z0))
        through_q = (gradient * (z + z0) / 2).sum(-1, keepdim=True) * (-(q**2) * q0**2 / (q + q0))
        through_z = gradient * (q + q0) / 2 + through_q * (z + z0) / x.shape[-1]
        return None, None, through_z - through_z.mean(-1, keepdim=True)


# ----------------------------------------------------------------- LRP: relevance instead of gradients
class RelevanceRules(OperationRules):
    """LRP's rules for what happens between modules; the "gradient" that they hand on is relevance.

    Sums, means and matrix products: in proportion to what each input contributed (epsilon rule). Activations,
    normalisation and scaling by a constant: relevance passes as it is. Attention: its weights are held constant.
    Source: Ali et al., XAI for Transformers, arXiv:2202.07304 (constant attention weights and normalisation);
    Achtibat et al., AttnLRP, arXiv:2402.05602 (a product of two activations gives half to each); Arras et al.,
    Explaining and Interpreting LSTMs, 2019 (a gate that scales a whole map takes none).
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.has_constants = False  # was anything that depends on the image held constant?
        self.add(_ACTIVATIONS, self._pass)
        self.add(_ADDITIONS, self._sum)
        self.add(_PRODUCTS, self._product)
        self.add(_QUOTIENTS, self._product)
        self.add(_MATRIX_PRODUCTS + _MEANS, self._proportional)
        self.add(_SOFTMAX, self._softmax)
        self.add(_LAYER_NORM + _GROUP_NORM, self._normalise)
        self.add(_ATTENTION, self.attention)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._proportional(F.linear, x, weight, bias)

    def _pass(self, function: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _Pass.apply(lambda value: function(value, *args, **kwargs), 1.0, x)

    def _normalise(self, function: Callable, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.has_constants = True
        return self._pass(function, x, *args, **kwargs)

    def _proportional(self, function: Callable, *args: Any, **kwargs: Any) -> Tensor:
        carriers = [i for i, value in enumerate(args) if isinstance(value, Tensor) and value.requires_grad]
        if not carriers:
            return function(*args, **kwargs)

        def call(*inputs: Tensor) -> Tensor:
            filled = list(args)
            for place, value in zip(carriers, inputs, strict=True):
                filled[place] = value
            return function(*filled, **kwargs)

        return _Proportional.apply(call, self.epsilon, *(args[place] for place in carriers))

    def _sum(self, function: Callable, *terms: Any, **kwargs: Any) -> Tensor:
        if all(isinstance(value, Tensor) and value.requires_grad for value in terms):
            return self._proportional(function, *terms, **kwargs)
        return function(*terms, **kwargs)  # a constant shift takes no relevance

    def _product(self, function: Callable, *factors: Any, **kwargs: Any) -> Tensor:
        """A factor of the product's own shape takes the relevance; two of them share it; constants and gates do not."""
        if len(factors) != 2:
            return self._proportional(function, *factors, **kwargs)
        a, b = factors
        shape = torch.broadcast_shapes(*(value.shape if isinstance(value, Tensor) else () for value in (a, b)))
        takes = [isinstance(value, Tensor) and value.requires_grad and value.shape == shape for value in (a, b)]
        if takes == [True, True]:
            return _Pass.apply(partial(function, **kwargs), 0.5, a, b)
        if takes == [True, False]:
            gate = b.detach() if isinstance(b, Tensor) else b
            return _Pass.apply(lambda value: function(value, gate, **kwargs), 1.0, a)
        if takes == [False, True]:
            gate = a.detach() if isinstance(a, Tensor) else a
            return _Pass.apply(lambda value: function(gate, value, **kwargs), 1.0, b)
        return self._proportional(function, a, b, **kwargs)

    def _softmax(self, function: Callable, *args: Any, **kwargs: Any) -> Tensor:
        self.has_constants = True
        return function(*args, **kwargs).detach()

    def attention(self, function: Callable, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.has_constants = True
        return self._proportional(function, q.detach(), k.detach(), v, *args, **kwargs)


class _Pass(torch.autograd.Function):
    """Whatever the values do, each input gets this share of the relevance."""

    @staticmethod
    def forward(ctx, call, share, *inputs):
        ctx.share, ctx.count = share, len(inputs)
        return call(*inputs)

    @staticmethod
    def backward(ctx, relevance):
        return None, None, *(relevance * ctx.share,) * ctx.count


class _Proportional(torch.autograd.Function):
    """R_j = x_j sum_k (dz_k / dx_j) R_k / (z_k + eps sign z_k): the epsilon rule for any linear z(x)."""

    @staticmethod
    def forward(ctx, call, epsilon, *inputs):
        ctx.call, ctx.epsilon = call, epsilon
        ctx.save_for_backward(*inputs)
        return call(*inputs)

    @staticmethod
    def backward(ctx, relevance):
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_(True) for tensor in ctx.saved_tensors]
            z = ctx.call(*inputs)
            sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
            gradients = torch.autograd.grad(z, inputs, (relevance / (z + ctx.epsilon * sign)).detach())
        return None, None, *(x.detach() * gradient for x, gradient in zip(inputs, gradients, strict=True))
