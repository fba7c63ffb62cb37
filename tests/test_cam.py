"""CAM, Grad-CAM and Grad-CAM++ against captum, pytorch-grad-cam's raw values, and relations that must hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.catalog import METHODS
from backend.errors import BadInput, Cancelled, ModelFault
from backend.models.layers import spatial_layers
from backend.models.networks import build
from backend.path_attribution import cam as module
from backend.path_attribution.cam import cam, grad_cam, grad_cam_plus
from backend.path_attribution.problem import Problem
from tests.helpers import CountingNet, CrampedNet, ScoreNet, make_problem, random_images, relative_difference

SHIPPED = {
    "lenet-gap": (1, 28),
    "lenet-fc": (1, 28),
    "plain-cnn": (3, 64),
    "small-resnet": (3, 64),
    "small-vit": (3, 64),
}
POOLED = ("lenet-gap", "plain-cnn", "small-resnet", "small-vit")
ALL = pytest.mark.parametrize("method", [cam, grad_cam, grad_cam_plus])


def seeded(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = build(name, 4, SHIPPED[name][0]).double().eval()
    with torch.no_grad():
        [part for part in net.modules() if isinstance(part, nn.Linear)][-1].weight.add_(0.05)  # else ReLU may cut all
    return net


def smooth(channels: int, side: int, count: int = 2) -> Tensor:
    return F.interpolate(random_images(count, channels, 6, 6, seed=1), side, mode="bilinear")


def shipped(name: str, **options) -> Problem:
    return make_problem(seeded(name), smooth(*SHIPPED[name]), targets=torch.tensor([3, 1]), **options)


def enlarged(small: Tensor, problem: Problem) -> Tensor:
    return F.interpolate(small, problem.images.shape[-2:], mode="bilinear", align_corners=False)


# ----------------------------------------------------------------- against other libraries
@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("name", ["lenet-gap", "lenet-fc", "plain-cnn", "small-resnet"])
def test_grad_cam_equals_captum(name: str, depth: int) -> None:
    captum = pytest.importorskip("captum.attr")
    problem = shipped(name)
    layer = spatial_layers(problem.model, tuple(problem.images.shape[1:]))[depth]
    theirs = captum.LayerGradCam(problem.model, layer.module).attribute(
        problem.images.clone().requires_grad_(True), target=problem.targets, relu_attributions=True
    )
    theirs = enlarged(theirs.detach(), problem)
    assert theirs.abs().max() > 0
    assert relative_difference(grad_cam(problem, depth=depth).attribution, theirs) < 1e-10


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize(("method", "kind"), [(grad_cam, "GradCAM"), (grad_cam_plus, "GradCAMPlusPlus")])
def test_grad_cam_equals_the_raw_values_of_pytorch_grad_cam(name: str, method, kind: str) -> None:
    """Before that package stretches each map to [0, 1]."""
    package = pytest.importorskip("pytorch_grad_cam")
    problem = shipped(name)
    layer = spatial_layers(problem.model, tuple(problem.images.shape[1:]))[0]
    problem.model.requires_grad_(True)  # the package hooks gradients on outputs that have one
    theirs = getattr(package, kind)(problem.model, [layer.module], reshape_transform=layer.maps)
    logits = theirs.activations_and_grads(problem.images)
    logits.gather(1, problem.targets[:, None]).sum().backward()
    recorded = theirs.activations_and_grads
    maps, gradients = recorded.activations[0].numpy(), recorded.gradients[0].numpy()
    small = np.maximum(theirs.get_cam_image(problem.images, layer.module, None, maps, gradients), 0)
    recorded.release()
    problem.model.requires_grad_(False)
    assert small.max() > 0
    expected = enlarged(torch.from_numpy(small)[:, None], problem)
    assert relative_difference(method(problem).attribution, expected) < 1e-10


# ----------------------------------------------------------------- by hand
class TwoMaps(nn.Module):
    """Two maps, x and its square, and the logits 3 mean(x) - mean(x^2) and 0."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = ScoreMaps()
        self.head = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[3.0, -1.0], [0.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x).mean((2, 3)))


class ScoreMaps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x**2], dim=1)


def test_all_three_by_hand() -> None:
    """A map as large as the image, so that enlarging changes nothing; x = (1, 2, 4, 6) in 2 x 2 cells.

    CAM: 3 x - x^2 = (2, 2, -4, -18). Grad-CAM: gradients are 3/4 and -1/4 everywhere: a fourth of that, cut at 0.
    Grad-CAM++: w_1 = 4 g / (2 + 13 g) with g = 3/4, and w_2 = 0 as its gradient is negative.
    """
    x = torch.tensor([1.0, 2.0, 4.0, 6.0], dtype=torch.float64).view(1, 1, 2, 2)
    problem = make_problem(TwoMaps(), x)
    values = [method(problem).attribution.flatten().tolist() for method in (cam, grad_cam, grad_cam_plus)]
    assert values[0] == pytest.approx([2.0, 2.0, -4.0, -18.0])
    assert values[1] == pytest.approx([0.5, 0.5, 0.0, 0.0])
    weight = 4 * 0.75 / (2 + 13 * 0.75)
    assert values[2] == pytest.approx([weight, 2 * weight, 4 * weight, 6 * weight], rel=1e-5)  # their stabiliser


@pytest.mark.parametrize("name", POOLED)
def test_cam_averages_to_the_logit_without_its_bias(name: str) -> None:
    problem = shipped(name)
    head = [part for part in problem.model.modules() if isinstance(part, nn.Linear)][-1]
    expected = problem.score(problem.images, problem.targets) - head.bias[problem.targets]
    torch.testing.assert_close(cam(problem).attribution.mean((1, 2, 3)), expected)


@pytest.mark.parametrize("name", POOLED)
def test_cam_is_grad_cam_times_the_number_of_cells(name: str) -> None:
    """On globally pooled maps dlogit / dA = w / cells; with nothing to cut off both agree everywhere."""
    problem = shipped(name)
    head = [part for part in problem.model.modules() if isinstance(part, nn.Linear)][-1]
    head.weight.abs_()
    if name == "small-vit":  # tokens may be negative: shift them so that no cell is cut off
        problem.model.network.norm.bias.fill_(5.0)
    layer = spatial_layers(problem.model, tuple(problem.images.shape[1:]))[0]
    ours = cam(problem).attribution
    assert ours.min() >= 0
    assert relative_difference(grad_cam(problem).attribution * np.prod(layer.grid), ours) < 1e-10


# ----------------------------------------------------------------- which layer
def test_depth_walks_from_the_last_layer_and_says_which_it_read() -> None:
    notes = [grad_cam(shipped("plain-cnn"), depth=depth).notes[0] for depth in (0, 1, 2)]
    assert [note.split(", ")[1] for note in notes] == ["8 x 8 cells", "16 x 16 cells", "32 x 32 cells"]
    with pytest.raises(BadInput, match="spatial layers: 0") as caught:
        grad_cam(shipped("small-resnet"), depth=50)
    assert caught.value.field == "depth"


def test_a_class_token_vit_is_read_before_its_last_block() -> None:
    """Behind it only the class token counts, so the patches would get no gradient; prefix tokens are dropped."""
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        net = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=4, reg_tokens=2).double()
        nn.init.normal_(net.head.weight)
    problem = make_problem(net, smooth(3, 64), targets=2)
    for method in (grad_cam, grad_cam_plus):
        explanation = method(problem)
        assert explanation.attribution.abs().max() > 0
        assert explanation.notes[0] == "read from layer blocks.1, 4 x 4 cells, the tokens of the patches"
    assert "signed" in explanation.notes[1]
    caught: list[Tensor] = []
    handle = net.blocks[1].register_forward_hook(lambda _, __, output: caught.append(output))
    score = problem.model(problem.images.clone().requires_grad_(True))[:, 2].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, caught[0])
    weights = gradient[:, 3:].mean(1, keepdim=True)  # without the class token and two registers
    small = (caught[0].detach()[:, 3:] * weights).sum(2).relu().view(2, 1, 4, 4)
    assert relative_difference(grad_cam(problem).attribution, enlarged(small, problem)) < 1e-10


def test_an_empty_map_is_said() -> None:
    x = torch.full((1, 1, 2, 2), 9.0, dtype=torch.float64)  # 3 x - x^2 is negative everywhere
    assert "empty" in grad_cam(make_problem(TwoMaps(), x)).notes[1]
    assert len(grad_cam(make_problem(TwoMaps(), x / 9)).notes) == 1


def test_methods_that_do_not_apply_say_why() -> None:
    with pytest.raises(BadInput, match="globally averaged") as caught:
        cam(shipped("lenet-fc"))
    assert caught.value.field == "method"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    for method in (grad_cam, grad_cam_plus, cam):
        with pytest.raises(BadInput) as caught:
            method(make_problem(flat, random_images(1, 1, 4, 4)))
        assert caught.value.field == "method"


# ----------------------------------------------------------------- all three
@ALL
@pytest.mark.parametrize("name", POOLED)
def test_a_batch_equals_its_images_one_by_one(method, name: str) -> None:
    problem = shipped(name, chunk=2)
    together = method(problem).attribution
    alone = [
        method(make_problem(problem.model, problem.images[i : i + 1], targets=problem.targets[i])).attribution
        for i in range(2)
    ]
    assert together.shape == (2, 1, *problem.images.shape[-2:])
    assert relative_difference(together, torch.cat(alone)) < 1e-10


@ALL
def test_a_cramped_device_changes_nothing(method) -> None:
    images = smooth(1, 28, count=5)
    plain = method(make_problem(seeded("lenet-gap"), images)).attribution
    problem = make_problem(CrampedNet(seeded("lenet-gap"), room=2), images)
    assert relative_difference(method(problem).attribution, plain) < 1e-10
    assert problem.chunks.notes


def test_only_what_follows_the_layer_is_differentiated(monkeypatch) -> None:
    """The first convolution's output must not even ask for a gradient."""
    problem = shipped("plain-cnn")
    found: list[bool] = []
    layers = spatial_layers(problem.model, (3, 64, 64))
    monkeypatch.setattr(module, "spatial_layers", lambda *_: layers)
    problem.model.requires_grad_(True)
    handle = problem.model.network.features[0].register_forward_hook(lambda _, __, out: found.append(out.requires_grad))
    grad_cam(problem)
    handle.remove()
    assert found == [False]


class Breaking(CountingNet):
    """Fails on the given call."""

    def __init__(self, network: nn.Module, call: int) -> None:
        super().__init__(network)
        self.call = call

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        if len(self.calls) == self.call:
            raise RuntimeError("broken on purpose")
        return logits


def condition(model: nn.Module) -> list:
    return [
        (
            name,
            part.training,
            [(key, len(value)) for key, value in vars(part).items() if key.endswith("_hooks")],
            [(key, id(p), p.requires_grad, p.grad is None) for key, p in part.named_parameters()],
        )
        for name, part in model.named_modules()
    ]


@ALL
@pytest.mark.parametrize("fails_at", [None, 1, 2, 3])
def test_the_model_is_left_as_found(method, fails_at: int | None) -> None:
    problem = shipped("small-resnet", chunk=1)
    problem.model.network = Breaking(problem.model.network, fails_at or -1)
    for index, parameter in enumerate(problem.model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before = condition(problem.model)
    if fails_at is None:
        method(problem)
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            method(problem)
    assert condition(problem.model) == before


@ALL
def test_it_can_be_cancelled_between_chunks(method) -> None:
    def stop(step) -> None:
        if step.done == 1:
            raise Cancelled

    problem = shipped("small-resnet", chunk=1, on_step=stop)
    before = condition(problem.model)
    with pytest.raises(Cancelled):
        method(problem)
    assert condition(problem.model) == before


@pytest.mark.parametrize("method", [grad_cam, grad_cam_plus])
def test_scores_that_are_not_numbers_are_a_fault(method) -> None:
    problem = shipped("lenet-gap")
    problem.images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ModelFault):
        method(problem)


def test_the_catalog_rows_fit() -> None:
    for key, method in (("cam", cam), ("grad-cam", grad_cam), ("grad-cam++", grad_cam_plus)):
        problem = make_problem(seeded("lenet-gap"), smooth(1, 28).float())
        attribution = method(problem, **dict(METHODS[key].complete_params({}))).attribution
        assert attribution.dtype == torch.float32 and torch.isfinite(attribution).all()


def test_a_model_without_maps_is_refused_before_anything_runs_on_the_image() -> None:
    with pytest.raises(BadInput, match="spatial"):
        grad_cam(make_problem(ScoreNet(lambda x: x.sum((1, 2, 3))), random_images(1, 1, 8, 8)))
