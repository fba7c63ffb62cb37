"""Integrals along known paths: closed forms, axioms, and other people's libraries."""

import captum.attr
import numpy as np
import pytest
import saliency.core
import scipy.ndimage
import timm
import torch
from torch import Tensor, nn

from backend.contracts import Step
from backend.errors import Cancelled, ShapeError
from backend.path_attribution import blur_ig, gradients, guided_ig, integrated_gradients
from backend.path_attribution.integrate import QUADRATURES, integrate, integrate_along_path, share_of_step
from backend.path_attribution.paths import blur_at_scales
from backend.path_attribution.problem import Problem
from tests.helpers import (
    CountingNet,
    CrampedNet,
    ScoreNet,
    make_problem,
    random_images,
    relative_difference,
    reseed,
    tiny_cnn,
)


def tiny_vit() -> nn.Module:
    """A vision transformer of two blocks for 3 x 16 x 16 images."""
    network = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3, num_classes=4
    )
    return reseed(network)


# ----------------------------------------------------------------- the integral itself
def test_a_path_needs_two_points_and_a_piece():
    with pytest.raises(ShapeError, match="1 points"):
        integrate_along_path(lambda x: x, torch.zeros(1, 3))
    with pytest.raises(ShapeError, match="without pieces"):
        integrate(lambda x: x, [])


@pytest.mark.parametrize("rule", QUADRATURES)
@pytest.mark.parametrize("n_steps", [1, 2, 7, 200])
def test_quadrature_weights_sum_to_one(rule, n_steps):
    nodes, weights = QUADRATURES[rule](n_steps)
    assert nodes.shape == weights.shape == (n_steps,)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-13)
    assert float((weights * nodes).sum()) == pytest.approx(0.5, abs=1e-13)


def test_midpoint_is_exact_for_a_quadratic_on_a_bent_path():
    path = random_images(5, 3)
    symmetric = torch.tensor([[2.0, 1, 0], [1, -1, 3], [0, 3, 1]], dtype=torch.float64)
    shares = integrate_along_path(lambda x: x @ symmetric, path)
    score = lambda x: 0.5 * x @ symmetric @ x  # noqa: E731
    assert float(shares.sum()) == pytest.approx(float(score(path[-1]) - score(path[0])))


def test_one_step_of_each_integrator():
    # f = x^3 from 1 to 2 in one coordinate, beside it one that does not matter; change 7
    moves = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    before, after = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[12.0, 0.0]]).double()
    change = torch.tensor([7.0]).double()
    for integrator, values, residual in (
        ("left", [3.0, 0.0], 4.0),
        ("trapezoid", [7.5, 0.0], -0.5),
        ("corrected", [7.25, -0.25], -0.5),
    ):
        shares, missed = share_of_step(moves, before, after, change, integrator)
        assert shares[0].tolist() == values and missed.item() == residual


# ----------------------------------------------------------------- Integrated Gradients
@pytest.mark.parametrize("rule, peer", [("midpoint", "riemann_middle"), ("gauss-legendre", "gausslegendre")])
@pytest.mark.parametrize("make", [lambda: tiny_cnn(3, classes=4), tiny_vit], ids=["cnn", "vit"])
def test_ig_equals_captum(rule, peer, make):
    images, baselines = random_images(3, 3, 16, 16), random_images(3, 3, 16, 16, seed=1)
    targets = torch.tensor([2, 0, 3])
    problem = make_problem(make(), images, baselines, targets, chunk=7)
    ours = integrated_gradients.attribute(problem, n_steps=20, rule=rule).attribution
    theirs = captum.attr.IntegratedGradients(problem.model).attribute(
        images, baselines, targets, n_steps=20, method=peer
    )
    assert relative_difference(ours, theirs) <= 1e-5


def test_ig_of_a_quadratic_in_closed_form():
    # f = sum_j c_j x_j^2 + x_1 x_2: a_j = c_j (x_j^2 - b_j^2) + (mean of the other one) * (way of this one)
    c = random_images(1, 3, 3, seed=2)
    images, baselines = random_images(2, 1, 3, 3), random_images(2, 1, 3, 3, seed=1)
    net = ScoreNet(lambda x: (c * x**2).sum((1, 2, 3)) + x[:, 0, 0, 0] * x[:, 0, 0, 1])
    ours = integrated_gradients.attribute(make_problem(net, images, baselines), n_steps=3).attribution
    expected = c * (images**2 - baselines**2)
    middle, way = (images + baselines) / 2, images - baselines
    expected[:, 0, 0, 0] += middle[:, 0, 0, 1] * way[:, 0, 0, 0]
    expected[:, 0, 0, 1] += middle[:, 0, 0, 0] * way[:, 0, 0, 1]
    assert torch.allclose(ours, expected, atol=1e-14)


def ig(net: nn.Module, images: Tensor, baselines: Tensor | float = 0.0, target: int = 0, n_steps: int = 50) -> Tensor:
    problem = make_problem(net, images, baselines, target)
    return integrated_gradients.attribute(problem, n_steps=n_steps).attribution


def test_axiom_completeness():
    images, baselines = random_images(3, 3, 16, 16), random_images(3, 3, 16, 16, seed=1)
    for make, rule, tolerance in ((tiny_vit, "gauss-legendre", 1e-9), (lambda: tiny_cnn(3), "midpoint", 1e-2)):
        problem = make_problem(make(), images, baselines)
        answer = integrated_gradients.attribute(problem, n_steps=100, rule=rule)
        change = problem.score(images, problem.targets) - problem.score(baselines, problem.targets)
        assert relative_difference(answer.attribution.sum((1, 2, 3)), change) < tolerance
        assert torch.allclose(answer.explained_change, change)


def test_axiom_sensitivity_and_dummy():
    images = random_images(1, 1, 1, 3) + 0.5
    values = ig(ScoreNet(lambda x: torch.relu(x[:, 0, 0, 0] - 0.2) * x[:, 0, 0, 1]), images).flatten()
    assert values[0] > 0 and values[1] > 0  # they differ from the baseline and matter
    assert values[2] == 0  # does not enter the score


def test_axiom_symmetry():
    image = torch.tensor([0.7, 0.7, 0.2], dtype=torch.float64).view(1, 1, 1, 3)
    values = ig(ScoreNet(lambda x: torch.sigmoid(3 * x[:, 0, 0, 0] * x[:, 0, 0, 1] - x[:, 0, 0, 2])), image).flatten()
    assert values[0] == pytest.approx(values[1].item(), abs=1e-15)


def test_axiom_linearity():
    f, g, images = tiny_cnn(seed=1), tiny_cnn(seed=2), random_images(2, 1, 8, 8)
    both = ScoreNet(lambda x: 2 * f(x)[:, 0] - 3 * g(x)[:, 0])
    f, g = f.double(), g.double()
    assert torch.allclose(ig(both, images), 2 * ig(f, images) - 3 * ig(g, images), atol=1e-13)


# ----------------------------------------------------------------- Blur IG
def saliency_model(problem: Problem, target: int):
    """The problem's model as the saliency package calls it: (N, H, W, C) arrays in, gradients out."""

    def call(x_value_batch, call_model_args=None, expected_keys=None):
        points = torch.from_numpy(np.asarray(x_value_batch)).permute(0, 3, 1, 2).to(problem.images)
        gradient = problem.score_and_gradient(points, torch.full((len(points),), target))[1]
        return {saliency.core.INPUT_OUTPUT_GRADIENTS: gradient.permute(0, 2, 3, 1).numpy()}

    return call


def as_array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.7, 3.0, 12.0])
def test_blur_equals_scipy(sigma):
    images = random_images(2, 3, 9, 14)
    ours = blur_at_scales(images, torch.tensor([sigma, 1.0], dtype=torch.float64))[0]
    theirs = scipy.ndimage.gaussian_filter(images.numpy(), sigma, mode="constant", axes=(2, 3)) if sigma else images
    assert np.abs(ours.numpy() - np.asarray(theirs)).max() < 1e-14


@pytest.mark.parametrize("make", [lambda: tiny_cnn(3, classes=4), tiny_vit], ids=["cnn", "vit"])
def test_blur_ig_equals_saliency(make):
    problem = make_problem(make(), random_images(2, 3, 16, 16), targets=torch.tensor([3, 1]))
    ours = blur_ig.attribute(problem, n_steps=12, max_sigma=6.0).attribution
    for i, target in enumerate((3, 1)):
        theirs = saliency.core.BlurIG().GetMask(
            as_array(problem.images[i]), saliency_model(problem, target), max_sigma=6.0, steps=12
        )
        assert np.abs(as_array(ours[i]) - theirs).max() <= 1e-9 * np.abs(theirs).max()


def test_blur_ig_explains_the_change_from_the_blurred_image():
    problem = make_problem(ScoreNet(lambda x: x[:, 0, 3, 3] - x[:, 0, 5, 2]), random_images(2, 1, 8, 8))
    answer = blur_ig.attribute(problem, n_steps=400, max_sigma=4.0)
    blurred = scipy.ndimage.gaussian_filter(problem.images.numpy(), 4.0, mode="constant", axes=(2, 3))
    change = problem.score(problem.images, problem.targets) - problem.score(torch.from_numpy(blurred), problem.targets)
    assert torch.allclose(answer.explained_change, change)
    # not closer: the kernel's radius grows by whole pixels, and the difference quotient sees the jumps
    assert torch.allclose(answer.attribution.sum((1, 2, 3)), change, rtol=0.05, atol=0.02)


# ----------------------------------------------------------------- Guided IG
@pytest.fixture
def saliency_on_numpy_2(monkeypatch):
    """saliency 0.2.1 calls np.quantile(interpolation=), which NumPy 2 calls method=."""
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation))


@pytest.mark.parametrize("fraction, max_dist", [(0.25, 0.02), (0.1, 0.3), (0.5, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize("make", [lambda: tiny_cnn(3, classes=4), tiny_vit], ids=["cnn", "vit"])
def test_guided_ig_equals_saliency(saliency_on_numpy_2, make, fraction, max_dist):
    images, baselines = random_images(2, 3, 16, 16), random_images(2, 3, 16, 16, seed=1)
    images[0, :, :4] = baselines[0, :, :4]  # some values have no way to go
    problem = make_problem(make(), images, baselines, torch.tensor([3, 1]))
    ours = guided_ig.attribute(problem, n_steps=15, fraction=fraction, max_dist=max_dist).attribution
    for i, target in enumerate((3, 1)):
        theirs = saliency.core.GuidedIG().GetMask(
            as_array(images[i]),
            saliency_model(problem, target),
            x_baseline=as_array(baselines[i]),
            x_steps=15,
            fraction=fraction,
            max_dist=max_dist,
        )
        assert np.abs(as_array(ours[i]) - theirs).max() <= 1e-9 * np.abs(theirs).max()


def test_guided_ig_on_the_straight_line_is_ig_with_the_left_rule():
    images = random_images(1, 1, 6, 6)
    net = ScoreNet(lambda x: (x**2).sum((1, 2, 3)))
    ours = guided_ig.attribute(make_problem(net, images), n_steps=10, max_dist=0.0).attribution
    # gradients 2 k x / 10 for k = 0..9, steps x / 10: the sum is .9 x^2
    assert torch.allclose(ours, 0.9 * images**2, atol=1e-12)


@pytest.mark.parametrize("max_dist", [0.0, 0.02, 1.0])
def test_guided_ig_in_single_precision_arrives(max_dist):
    images = random_images(2, 1, 28, 28, dtype=torch.float32)
    images[0, :, :14] = 0.0
    weights = random_images(28, 28, seed=2, dtype=torch.float32)
    problem = make_problem(ScoreNet(lambda x: (x * weights).sum((1, 2, 3))), images)
    ours = guided_ig.attribute(problem, n_steps=50, max_dist=max_dist).attribution
    assert torch.allclose(ours, weights * images, atol=1e-5)  # linear: any path that arrives gives this


# ----------------------------------------------------------------- gradients
def test_saliency_and_input_x_gradient_equal_captum():
    images, baselines = random_images(2, 3, 8, 8), random_images(2, 3, 8, 8, seed=1)
    targets = torch.tensor([2, 1])
    problem = make_problem(tiny_cnn(3), images, baselines, targets)
    theirs = captum.attr.Saliency(problem.model).attribute(images.clone().requires_grad_(True), targets, abs=False)
    assert torch.allclose(gradients.saliency(problem).attribution, theirs, atol=1e-14)
    ours = gradients.input_x_gradient(problem).attribution
    assert torch.allclose(ours, theirs * (images - baselines), atol=1e-14)


def test_smoothgrad_equals_captum_under_the_same_noise(monkeypatch):
    images = random_images(1, 3, 8, 8)
    problem = make_problem(tiny_cnn(3), images, targets=2, seed=7, chunk=4)
    ours = gradients.smoothgrad(problem, samples=10, noise=0.2).attribution
    generator = torch.Generator().manual_seed(7)
    noise = torch.stack([gradients.unit_noise(images, generator) for _ in range(10)])
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise * std)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(problem.model))
    theirs = tunnel.attribute(
        images,
        target=2,
        nt_type="smoothgrad",
        nt_samples=10,
        stdevs=float(0.2 * (images.max() - images.min())),
        abs=False,
    )
    assert relative_difference(ours, theirs) <= 1e-12


def test_smoothgrad_of_a_quadratic_in_closed_form():
    # gradient 2 (x + spread e): the mean is 2 x + 2 spread * mean(e)
    images = random_images(2, 1, 4, 4)
    problem = make_problem(ScoreNet(lambda x: (x**2).sum((1, 2, 3))), images, seed=3)
    ours = gradients.smoothgrad(problem, samples=6, noise=0.5).attribution
    generator = torch.Generator().manual_seed(3)
    mean = torch.stack([gradients.unit_noise(images, generator) for _ in range(6)]).mean(0)
    spread = 0.5 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).view(-1, 1, 1, 1)
    assert torch.allclose(ours, 2 * images + 2 * spread * mean, atol=1e-14)


def test_smoothgrad_without_noise_is_the_gradient():
    problem = make_problem(tiny_cnn(3), random_images(2, 3, 8, 8))
    ours = gradients.smoothgrad(problem, samples=3, noise=0.0).attribution
    assert torch.allclose(ours, gradients.saliency(problem).attribution, atol=1e-15)


# ----------------------------------------------------------------- what holds for every method here
METHODS = {
    "ig": lambda problem: integrated_gradients.attribute(problem, n_steps=9),
    "ig-gauss": lambda problem: integrated_gradients.attribute(problem, n_steps=9, rule="gauss-legendre"),
    "blur-ig": lambda problem: blur_ig.attribute(problem, n_steps=5),
    "guided-ig": lambda problem: guided_ig.attribute(problem, n_steps=5, max_dist=0.3),
    "smoothgrad": lambda problem: gradients.smoothgrad(problem, samples=5),
    "saliency": gradients.saliency,
    "input-x-gradient": gradients.input_x_gradient,
}
every_method = pytest.mark.parametrize("attribute", METHODS.values(), ids=METHODS.keys())
IMAGES, BASELINES = random_images(3, 3, 8, 8), random_images(3, 3, 8, 8, seed=1)
TARGETS = torch.tensor([0, 2, 1])


@every_method
def test_batch_equals_singles(attribute):
    whole = attribute(make_problem(tiny_cnn(3), IMAGES, BASELINES, TARGETS))
    assert whole.attribution.shape == IMAGES.shape
    for i in range(3):
        rows = slice(i, i + 1)
        alone = attribute(make_problem(tiny_cnn(3), IMAGES[rows], BASELINES[rows], TARGETS[rows]))
        assert torch.allclose(whole.attribution[rows], alone.attribution, atol=1e-12)
        if whole.explained_change is not None:
            assert torch.allclose(whole.explained_change[rows], alone.explained_change, atol=1e-12)


@every_method
@pytest.mark.parametrize("chunk", [1, 5])
def test_chunk_size_does_not_change_values(attribute, chunk):
    whole = attribute(make_problem(tiny_cnn(3), IMAGES, BASELINES, TARGETS))
    small = attribute(make_problem(tiny_cnn(3), IMAGES, BASELINES, TARGETS, chunk=chunk))
    assert torch.allclose(whole.attribution, small.attribution, atol=1e-12)


@every_method
def test_never_more_points_than_a_chunk(attribute):
    net = CountingNet(tiny_cnn(3))
    attribute(make_problem(net, IMAGES, BASELINES, TARGETS, chunk=6))
    assert max(net.calls) <= 6


@every_method
def test_out_of_memory_halves_the_chunk(attribute):
    problem = make_problem(CrampedNet(tiny_cnn(3), room=4), IMAGES, BASELINES, TARGETS)
    answer = attribute(problem)
    whole = attribute(make_problem(tiny_cnn(3), IMAGES, BASELINES, TARGETS))
    assert torch.allclose(answer.attribution, whole.attribution, atol=1e-12)


@every_method
def test_seed_repeats(attribute):
    first, second = (attribute(make_problem(tiny_cnn(3), IMAGES, BASELINES, TARGETS, seed=3)) for _ in range(2))
    assert torch.equal(first.attribution, second.attribution)


@every_method
def test_cancel_stops_within_one_step(attribute):
    seen: list[Step] = []

    def stop_at_second(step: Step) -> None:
        seen.append(step)
        if len(seen) == 2:
            raise Cancelled

    net = CountingNet(tiny_cnn(3))
    with pytest.raises(Cancelled):
        attribute(make_problem(net, IMAGES, BASELINES, TARGETS, chunk=3, on_step=stop_at_second))
    assert len(net.calls) <= 2


@every_method
def test_model_is_left_as_found(attribute):
    network = tiny_cnn(3)
    problem = make_problem(network, IMAGES, BASELINES, TARGETS)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    generator_state = torch.get_rng_state()
    attribute(problem)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training and not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert torch.equal(torch.get_rng_state(), generator_state)


@every_method
def test_image_equal_to_its_baseline_is_finite(attribute):
    flat = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    assert attribute(make_problem(tiny_cnn(3), flat, flat)).attribution.isfinite().all()
