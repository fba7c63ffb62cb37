"""The quick backward pass of a first layer is the usual one's gradient, and leaves the model as it was."""

import pytest
import torch
from torch import nn

from backend.models.first_layer import quick_first_layer
from tests.helpers import make_problem, random_images, relative_difference, tiny_cnn

SHAPES = {  # (channels, filters, kernel, stride, padding, height, width)
    "LeNet's": (1, 4, 5, 1, 2, 12, 9),
    "ResNet's": (3, 8, 7, 2, 3, 23, 30),
    "patches": (3, 8, 4, 4, 0, 17, 16),
    "uneven": (2, 3, (3, 2), (2, 3), (0, 1), 11, 13),
    "gaps between the windows": (1, 2, 2, 3, 0, 10, 11),
}


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_same_gradient(name) -> None:
    channels, filters, kernel, stride, padding, height, width = SHAPES[name]
    layer = nn.Conv2d(channels, filters, kernel, stride, padding).double().requires_grad_(False)
    images = random_images(2, channels, height, width).double().requires_grad_(True)
    weights = torch.randn_like(layer(images))
    (usual,) = torch.autograd.grad((layer(images) * weights).sum(), images)
    with quick_first_layer(layer):
        outputs = layer(images)
        (quick,) = torch.autograd.grad((outputs * weights).sum(), images)
    assert relative_difference(outputs, layer(images)) < 1e-12 and relative_difference(quick, usual) < 1e-12
    assert "forward" not in vars(layer)


def test_the_poolings_behind_it_get_channels_last() -> None:
    """An image of one channel is the same in both orders of memory, so that only the weight can ask for one."""
    layer = nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
    with quick_first_layer(layer):
        outputs = layer(torch.rand(2, 1, 6, 6))
    assert outputs.stride() == (6 * 6 * 4, 1, 6 * 4, 4)


def test_equal_maxima_behind_it_keep_their_order() -> None:
    """A pooling hands its gradient to the first of equal values, in whatever order the memory is."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).double().requires_grad_(False)
    images = random_images(2, 1, 8, 8).double().round().requires_grad_(True)  # black and white: most windows tie
    (usual,) = torch.autograd.grad(model(images).square().sum(), images)
    with quick_first_layer(model):
        (quick,) = torch.autograd.grad(model(images).square().sum(), images)
    assert relative_difference(quick, usual) < 1e-12


@pytest.mark.parametrize(
    ("channels", "how"),
    [
        (8, {}),
        (2, {"groups": 2}),
        (1, {"dilation": 2}),
        (1, {"padding": 1, "padding_mode": "reflect"}),
        (1, {"padding": "same"}),
    ],
)
def test_other_layers_keep_their_own(channels, how) -> None:
    layer = nn.Conv2d(channels, 2, 3, **how).requires_grad_(False)
    with quick_first_layer(layer):
        assert "forward" not in vars(layer)


def test_a_layer_in_training_keeps_its_own() -> None:
    layer = nn.Conv2d(1, 2, 3)
    with quick_first_layer(layer):
        layer(torch.ones(1, 1, 5, 5)).sum().backward()
    assert layer.weight.grad is not None


def test_the_model_is_as_before_after_a_failure_too() -> None:
    model = tiny_cnn().requires_grad_(False)
    with pytest.raises(ZeroDivisionError), quick_first_layer(model):
        assert any("forward" in vars(module) for module in model.modules())
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())


def test_hooks_of_the_layer_are_called() -> None:
    problem = make_problem(tiny_cnn().requires_grad_(False), random_images(3, 1, 8, 8))
    layer = next(module for module in problem.model.modules() if isinstance(module, nn.Conv2d))
    shapes = []
    handle = layer.register_forward_hook(lambda _, __, output: shapes.append(output.shape))
    problem.score_and_gradient(problem.images, problem.targets)
    handle.remove()
    assert len(shapes) == 1
