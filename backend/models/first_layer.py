"""The layer on the image, past two slow corners of the CPU's convolutions.

The backward pass of a convolution onto one or three channels has no fast kernel there: on a small network it costs
as much as all other layers together. As a matrix product and as many shifted sums as the kernel has taps, it takes a
third to a fifth of the time. And poolings and convolutions are fastest with channels last in memory, an order that
an image of one channel cannot ask for, as both orders are the same to it: here the weight asks for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

FEW_CHANNELS = 4  # of the input; beyond that the usual kernels are the faster ones


@contextmanager
def quick_first_layer(model: nn.Module) -> Iterator[None]:
    """Inside, convolutions on images answer with channels last and have the quick backward pass.

    Only where it is the same function: plain, ungrouped, undilated, zeros around the image, weights that are not
    being trained.
    """
    layers = [layer for layer in model.modules() if _is_on_images(layer)]
    try:
        for layer in layers:
            layer.forward = _quick_forward(layer)
        yield
    finally:
        for layer in layers:
            del layer.forward


def _is_on_images(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Conv2d
        and "forward" not in vars(layer)
        and layer.in_channels <= FEW_CHANNELS
        and layer.groups == 1
        and layer.dilation == (1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.weight.device.type == "cpu"
        and not any(parameter.requires_grad for parameter in layer.parameters())
    )


def _quick_forward(layer: nn.Conv2d):
    weight = layer.weight.clone(memory_format=torch.channels_last)  # a clone is so for one channel too

    def forward(images: Tensor) -> Tensor:
        return _ConvolutionOnImages.apply(images, weight, layer.bias, layer.stride, layer.padding)

    return forward


class _ConvolutionOnImages(torch.autograd.Function):
    """A convolution whose backward pass gives the gradient with respect to the images, and nothing else."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.geometry = images.shape, stride, padding
        return nn.functional.conv2d(images, weight, bias, stride, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return gradient_at_images(gradient, weight, *ctx.geometry), None, None, None, None


def gradient_at_images(
    gradient: Tensor, weight: Tensor, shape: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The gradient at a convolution's input from the one at its output.

    Args:
        gradient: (N, filters, rows, columns). weight: (filters, C, taps down, taps right).
        shape: of the input, (N, C, H, W).
    Returns: (N, C, H, W).
    """
    (n, c, height, width), (rows, columns) = shape, gradient.shape[2:]
    down, right = weight.shape[2:]
    pixels = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))  # (N rows columns, filters), no copy as a rule
    shares = (weight.flatten(1).T @ pixels.T).view(c, down, right, n, rows, columns)
    # Every output pixel hands its shares back to the input pixels under the taps: first along rows, then down.
    wide = gradient.new_zeros(c, down, n, rows, width + 2 * padding[1])
    for j in range(right):
        wide[..., _every(stride[1], columns, j)].add_(shares[:, :, j])
    padded = gradient.new_zeros(n, c, height + 2 * padding[0], width + 2 * padding[1])
    for i in range(down):
        padded[:, :, _every(stride[0], rows, i)].add_(wide[:, i].transpose(0, 1))
    return padded[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def _every(stride: int, count: int, start: int) -> slice:
    """`count` places from `start`, `stride` apart."""
    return slice(start, start + stride * (count - 1) + 1, stride)
