"""The row's own layer for CAM-like methods, `layers = { cam = "layer3" }`, is the one that is read."""

import dataclasses

import pytest
import torch
from torchvision.models import resnet18

from backend.catalog import ModelSpec
from backend.errors import BadInput
from backend.models.classifier import Classifier, LoadedClassifier
from backend.path_attribution.cam import grad_cam
from tests.helpers import make_problem, random_images, reseed

SPEC = ModelSpec("mine", "Mine", "torchvision:resnet18", "local", ("a", "b"), (64, 64))


def explain(layers: dict[str, str]):
    spec = dataclasses.replace(SPEC, layers=tuple(layers.items()))
    loaded = LoadedClassifier(spec, Classifier(resnet18(num_classes=2), (0.0,) * 3, (1.0,) * 3), "")
    reseed(loaded.module.network)
    images = random_images(1, 3, 64, 64, dtype=torch.float32)
    return grad_cam(make_problem(loaded.module, images))


def test_the_named_layer_is_read():
    assert "layer4" in explain({}).notes[0]
    assert "layer2" in explain({"cam": "layer2"}).notes[0]


def test_a_name_that_is_no_layer_is_told():
    with pytest.raises(BadInput, match="nothing"):
        explain({"cam": "nothing"})
