"""DeepLIFT and LRP against nets worked by hand, captum, zennit's own canonizers, and identities that must hold."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.catalog import METHODS
from backend.errors import BadInput, Cancelled, ModelFault
from backend.models.classifier import Classifier
from backend.models.networks import build
from backend.path_attribution.problem import Explanation, Problem
from backend.path_attribution.propagation import deeplift
from backend.path_attribution.relevance import lrp
from backend.runtime import watch
from tests.helpers import CrampedNet, ScoreNet, make_problem, random_images, relative_difference, tiny_cnn

COMPOSITES = tuple(METHODS["lrp"].param("composite").choices)
BOTH = pytest.mark.parametrize("method", [deeplift, lrp])


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network with PyTorch's own initialisation, and batch norms that have something to merge."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = make().double().eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        return net


def smooth(channels: int, side: int, count: int = 2) -> Tensor:
    return F.interpolate(random_images(count, channels, 6, 6, seed=1), side, mode="bilinear")


SHIPPED = {"lenet-gap": (1, 28), "lenet-fc": (1, 28), "plain-cnn": (3, 32), "small-resnet": (3, 32)}


def shipped(name: str, **options) -> Problem:
    channels, side = SHIPPED.get(name, (3, 64))
    net = seeded(lambda: build(name, 4, channels))
    return make_problem(net, smooth(channels, side), targets=torch.tensor([3, 1]), **options)


def gap(explanation: Explanation) -> float:
    """|sum of the values - change of the score| over |change|, the worst of the batch."""
    change = explanation.explained_change
    return float(((explanation.attribution.flatten(1).sum(1) - change) / change).abs().max())


class Wrapped(nn.Module):
    """A convolution, something between, and a linear head."""

    def __init__(self, between: Callable[[Tensor], Tensor], features: int = 8 * 12 * 12) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.between = between
        self.head = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.conv(x)).flatten(1))


# ----------------------------------------------------------------- DeepLIFT
def test_deeplift_of_a_linear_model_is_weight_times_distance() -> None:
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    images = random_images(2, 1, 4, 4)
    explanation = deeplift(make_problem(net, images, baselines=0.2, targets=2))
    expected = (images - 0.2) * net[1].weight[2].detach().view(1, 1, 4, 4)
    assert relative_difference(explanation.attribution, expected) < 1e-14


def test_deeplift_of_a_relu_net_worked_by_hand() -> None:
    """h = relu(x1 - 2 x2 + .5), f = 3 h; x = (1, .5), x0 = (0, 1): before relu .5 and -1.5, after it .5 and 0.

    The rescale multiplier is .5 / 2 = 1/4, so a = 3 * 1/4 * (1, -2) * (1, -.5) = (.75, .75); the sum is 1.5 = 3 * .5.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 1)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, -2.0]]))
        net[1].bias.fill_(0.5)
        net[3].weight.fill_(3.0)
        net[3].bias.fill_(7.0)
    images = torch.tensor([1.0, 0.5], dtype=torch.float64).view(1, 1, 1, 2)
    baseline = torch.tensor([0.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    explanation = deeplift(make_problem(net, images, baselines=baseline))
    torch.testing.assert_close(explanation.attribution.flatten(), torch.tensor([0.75, 0.75], dtype=torch.float64))
    assert float(explanation.explained_change) == pytest.approx(1.5)


def pooled() -> nn.Module:
    """Max pooling without ReLUs beside it: behind or before one, captum's own convergence delta is not 0."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(64, 4),
    )


@pytest.mark.parametrize("name", ["small-resnet", "tiny", "pooled"])
def test_deeplift_equals_captum(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    makers = {"small-resnet": lambda: build(name, 4, 3), "tiny": lambda: tiny_cnn(3), "pooled": pooled}
    problem = make_problem(seeded(makers[name]), smooth(3, 32), baselines=0.1, targets=torch.tensor([2, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, delta = captum.DeepLift(problem.model).attribute(
            problem.images, problem.baselines, target=problem.targets, return_convergence_delta=True
        )
    assert delta.abs().max() < 1e-12
    assert relative_difference(deeplift(problem).attribution, theirs.detach()) < 1e-9


class ReusedReLU(nn.Module):
    """One ReLU in three places, once in place, and a residual sum: captum refuses this one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        y = self.conv2(x)
        y += x
        return self.head(self.relu(y).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.norm = kind, nn.LayerNorm(16)
        self.mha, self.qkv = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 48)
        self.embed, self.head = nn.Conv2d(1, 16, 3, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        y = self.norm(tokens)
        if self.kind == "multi-head module":
            mixed, _ = self.mha(y, y, y, need_weights=False)
        else:
            mixed = F.scaled_dot_product_attention(*self.qkv(y).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 1, 4))
            mixed = mixed.transpose(1, 2).flatten(2)
        return self.head(F.gelu(tokens + mixed).mean(1))


def relu_statement(x: Tensor) -> Tensor:
    x.relu_()  # its result is not used: the tensor itself must change
    return x


OPERATIONS: dict[str, Callable[[], nn.Module]] = {
    "functional relu": lambda: Wrapped(F.relu),
    "relu in place": lambda: Wrapped(lambda x: F.relu(x, inplace=True)),
    "relu as a statement": lambda: Wrapped(relu_statement),
    "lenet": lambda: build("lenet-fc", 3, 1),
    "clamp": lambda: Wrapped(lambda x: x.clamp(-0.1, 0.3)),
    "gelu": lambda: Wrapped(F.gelu),
    "silu spelled out": lambda: Wrapped(lambda x: x * x.sigmoid()),
    "overlapping max pool": lambda: Wrapped(lambda x: F.max_pool2d(x, 3, 2, 1), 8 * 36),
    "adaptive max pool": lambda: Wrapped(lambda x: F.adaptive_max_pool2d(x, 3), 8 * 9),
    "gate": lambda: Wrapped(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
    "quotient": lambda: Wrapped(lambda x: x / (1 + x.square().mean(1, keepdim=True))),
    "softmax": lambda: Wrapped(lambda x: x.softmax(1)),
    "group norm": lambda: Wrapped(nn.GroupNorm(4, 8)),
    "reused relu": ReusedReLU,
    "attention function": lambda: Attention("function"),
    "multi-head module": lambda: Attention("multi-head module"),
    "vision transformer": lambda: build("small-vit", 3, 1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_deeplift_is_complete(name: str) -> None:
    side = {"vision transformer": 64, "lenet": 28}.get(name, 12)
    problem = make_problem(seeded(OPERATIONS[name]), smooth(1, side), baselines=0.1, targets=1)
    explanation = deeplift(problem)
    expected = problem.score(problem.images, problem.targets) - problem.score(problem.baselines, problem.targets)
    torch.testing.assert_close(explanation.explained_change, expected, rtol=1e-10, atol=1e-12)
    assert gap(explanation) < 1e-9 and explanation.notes == []


def test_deeplift_says_when_it_is_not_complete() -> None:
    problem = make_problem(ScoreNet(lambda x: (3 * x).sin().sum((1, 2, 3))), random_images(2, 1, 4, 4))
    explanation = deeplift(problem)
    assert gap(explanation) > 0.1 and "misses" in explanation.notes[0]


def test_deeplift_gives_the_gradient_where_nothing_changes() -> None:
    """An image that is its own baseline: the values are 0, not 0 / 0."""
    problem = make_problem(tiny_cnn(), smooth(1, 12), baselines=smooth(1, 12))
    assert torch.equal(deeplift(problem).attribution, torch.zeros(2, 1, 12, 12, dtype=torch.float64))


def test_deeplift_refuses_a_model_that_takes_two_ways() -> None:
    class Fork(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.relu() if x.sum() > 0 else x).flatten(1)

    with pytest.raises(ModelFault, match="another way"):
        deeplift(make_problem(Fork(), random_images(1, 1, 2, 2)))


def test_deeplift_works_on_an_exported_program() -> None:
    net = seeded(lambda: build("lenet-gap", 4, 1))
    images = smooth(1, 28)
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (images,), dynamic_shapes=({0: batch},)).module()

    class Holder(nn.Module):  # exported programs refuse `eval`
        def forward(self, x: Tensor) -> Tensor:
            return program(x)

    ours = deeplift(make_problem(Holder(), images, targets=1)).attribution
    assert relative_difference(ours, deeplift(make_problem(net, images, targets=1)).attribution) < 1e-10
    with pytest.raises(BadInput, match="modules"):
        lrp(make_problem(Holder(), images))


# ----------------------------------------------------------------- LRP
def test_lrp_of_a_small_net_worked_by_hand() -> None:
    """z = (x1 + x2, x1 - x2) = (3, 1) at x = (2, 1); f = z1 + 2 z2 = 5.

    R_z = (3, 2); x1 gets 2/3 * 3 + 2/1 * 2 = 6, x2 gets 1/3 * 3 - 1/1 * 2 = -1.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        net[3].weight.copy_(torch.tensor([[1.0, 2.0]]))
        net[1].bias.zero_()
        net[3].bias.zero_()
    images = torch.tensor([2.0, 1.0], dtype=torch.float64).view(1, 1, 1, 2)
    attribution = lrp(make_problem(net, images), composite="epsilon", epsilon=1e-9).attribution
    torch.testing.assert_close(attribution.flatten(), torch.tensor([6.0, -1.0], dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["lenet-gap", "lenet-fc", "plain-cnn"])
def test_lrp_equals_captum_on_the_epsilon_rule(name: str) -> None:
    captum = pytest.importorskip("captum.attr")
    from captum.attr._utils.lrp_rules import EpsilonRule

    problem = shipped(name)
    ours = lrp(problem, composite="epsilon", epsilon=1e-12).attribution
    network = problem.model.network  # without the adapter's scaling, which captum's hooks do not see
    for module in network.modules():
        if not list(module.children()) and not isinstance(module, nn.ReLU):
            module.rule = EpsilonRule(epsilon=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = captum.LRP(network).attribute(problem.images, target=problem.targets).detach()
    assert relative_difference(ours, theirs) < 1e-5


@pytest.mark.parametrize("name", [*SHIPPED, "reused relu"])
def test_lrp_with_a_vanishing_epsilon_is_input_times_gradient(name: str) -> None:
    """Holds for every net of linear layers and ReLUs; with residual sums and merged batch norms too."""
    problem = shipped(name) if name in SHIPPED else make_problem(seeded(ReusedReLU), smooth(1, 12))
    ours = lrp(problem, composite="epsilon", epsilon=1e-12).attribution
    _, gradient = problem.score_and_gradient(problem.images, problem.targets)
    assert relative_difference(ours, problem.images * gradient) < 1e-6


@pytest.mark.parametrize("composite", ["EpsilonPlus", "EpsilonAlpha2Beta1"])
def test_lrp_equals_zennit_with_its_own_canonizer_of_resnets(composite: str) -> None:
    """Their canonizer rewrites torchvision's residual blocks; our rules see the same sums from outside."""
    torchvision = pytest.importorskip("torchvision")
    import zennit.composites
    from zennit.attribution import Gradient
    from zennit.torchvision import ResNetCanonizer

    net = seeded(lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3))
    problem = make_problem(net, smooth(3, 48), targets=2)
    ours = lrp(problem, composite={"EpsilonPlus": "epsilon-plus"}.get(composite, "epsilon-alpha2-beta1")).attribution
    theirs_composite = getattr(zennit.composites, composite)(canonizers=[ResNetCanonizer()])
    scores = problem.score(problem.images, problem.targets)
    with Gradient(model=net, composite=theirs_composite) as attributor:
        _, theirs = attributor(problem.images.clone(), torch.eye(3, dtype=torch.float64)[[2, 2]] * scores[:, None])
    assert relative_difference(ours, theirs.detach()) < 1e-4  # their merged batch norms keep a factor of 1 - eps / 2


@pytest.mark.parametrize("composite", COMPOSITES)
@pytest.mark.parametrize("name", ["lenet-gap", "small-vit", "multi-head module"])
def test_lrp_without_biases_hands_on_the_whole_score(name: str, composite: str) -> None:
    def without_biases() -> nn.Module:
        net = Attention(name) if name == "multi-head module" else build(name, 4, 1)
        for key, parameter in net.named_parameters():
            if "bias" in key:
                nn.init.zeros_(parameter)
        return net

    net = seeded(without_biases)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.bias)
            module.running_mean.zero_()
    side = {"lenet-gap": 28, "small-vit": 64}.get(name, 12)
    problem = make_problem(net, smooth(1, side), targets=1)
    sums = lrp(problem, composite=composite, epsilon=1e-12).attribution.flatten(1).sum(1)
    torch.testing.assert_close(sums, problem.score(problem.images, problem.targets), rtol=1e-4, atol=1e-8)


def test_lrp_does_not_mind_the_normalisation_of_the_classifier() -> None:
    """The relevance of a normalised pixel is the pixel's own."""
    net, images = seeded(lambda: build("plain-cnn", 4, 3)), smooth(3, 32)
    normalised = Classifier(net, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1), channels="BGR").double()
    inside = (images.flip(1) * normalised.scale + normalised.shift).detach()
    ours = lrp(make_problem(normalised, images)).attribution
    assert relative_difference(ours, lrp(make_problem(net, inside)).attribution.flip(1)) < 1e-9


def test_lrp_merges_only_batch_norms_that_follow_a_layer() -> None:
    """Listed right after a convolution, but run before it: merging would change the logits."""

    class NormFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 3)
            self.stem = nn.Conv2d(1, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(F.relu(self.norm(F.relu(self.stem(x))))).mean((2, 3)))

    problem = make_problem(seeded(NormFirst), smooth(1, 12))
    assert torch.isfinite(lrp(problem).attribution).all()


def test_lrp_says_that_it_approximates_transformers() -> None:
    assert "approximation" in lrp(shipped("small-vit")).notes[0]
    assert lrp(shipped("small-resnet")).notes == []


def test_lrp_refuses_an_unknown_composite_by_name() -> None:
    with pytest.raises(BadInput, match="epsilon-plus"):
        lrp(shipped("lenet-gap"), composite="beta")


# ----------------------------------------------------------------- both
@BOTH
@pytest.mark.parametrize("name", ["lenet-fc", "small-resnet", "small-vit"])
def test_a_batch_equals_its_images_one_by_one(method, name: str) -> None:
    problem = shipped(name, chunk=2)
    together = method(problem).attribution
    alone = [
        method(make_problem(problem.model, problem.images[i : i + 1], targets=problem.targets[i])).attribution
        for i in range(2)
    ]
    assert together.shape == problem.images.shape
    assert relative_difference(together, torch.cat(alone)) < 1e-7


@BOTH
def test_a_cramped_device_changes_nothing(method) -> None:
    plain = method(make_problem(tiny_cnn(), smooth(1, 12, count=5))).attribution
    problem = make_problem(CrampedNet(tiny_cnn(), room=2), smooth(1, 12, count=5))
    assert relative_difference(method(problem).attribution, plain) < 1e-10
    assert problem.chunks.notes


class Breaking(nn.Module):
    """Fails on the given call."""

    def __init__(self, network: nn.Module, call: int) -> None:
        super().__init__()
        self.network, self.left = network, call

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        logits = self.network(x)
        if self.left == 0:
            raise RuntimeError("broken on purpose")
        return logits


def condition(model: nn.Module) -> list:
    """Everything about a model that a method could leave altered, by identity where it is an object."""
    return [
        (
            name,
            module.training,
            sorted(vars(module)),
            [(len(value), key) for key, value in vars(module).items() if key.endswith("_hooks")],
            [(key, id(p), p.requires_grad, p.grad is None, p.sum().item()) for key, p in module.named_parameters()],
            [(key, b.sum().item()) for key, b in module.named_buffers()],
        )
        for name, module in model.named_modules()
    ]


@BOTH
@pytest.mark.parametrize("name", ["small-resnet", "small-vit"])
@pytest.mark.parametrize("fails_at", [None, 1, 2])
def test_the_model_is_left_as_found(method, name: str, fails_at: int | None) -> None:
    problem = shipped(name)
    problem.model.network = Breaking(problem.model.network, fails_at or -1)
    problem.chunks.size = 1
    for index, parameter in enumerate(problem.model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    before = condition(problem.model)
    if fails_at is None:
        method(problem)
    else:
        with pytest.raises(RuntimeError, match="on purpose"):
            method(problem)
    assert condition(problem.model) == before


@BOTH
def test_cancelling_between_chunks_leaves_the_model_as_found(method) -> None:
    def stop(step) -> None:
        if step.done == 1:
            raise Cancelled

    problem = shipped("small-resnet", chunk=1, on_step=stop)
    before = condition(problem.model)
    with pytest.raises(Cancelled):
        method(problem)
    assert condition(problem.model) == before


@pytest.mark.parametrize(
    ("method", "name", "forward"),
    [(deeplift, "lenet-gap", 4), (lrp, "lenet-gap", 2), (lrp, "small-resnet", 4)],  # two to find what may be merged
)
def test_passes_are_as_few_as_they_can_be(method, name: str, forward: int) -> None:
    problem = shipped(name)
    with watch(problem.model) as passes:
        method(problem)
    assert (passes.forward, passes.backward) == (forward, 2)


@BOTH
def test_scores_that_are_not_numbers_are_a_fault(method) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        net[1].weight.fill_(torch.inf)
    with pytest.raises(ModelFault):
        method(make_problem(net, random_images(1, 1, 2, 2)))


@BOTH
def test_global_random_numbers_are_left_alone_and_results_repeat(method) -> None:
    problem = shipped("small-resnet")
    before = torch.random.get_rng_state()
    assert torch.equal(method(problem).attribution, method(problem).attribution)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_catalog_rows_fit() -> None:
    for key, method in (("deeplift", deeplift), ("lrp", lrp)):
        problem = make_problem(tiny_cnn(), smooth(1, 12).float())
        attribution = method(problem, **dict(METHODS[key].complete_params({}))).attribution
        assert attribution.dtype == torch.float32 and torch.isfinite(attribution).all()
