"""SAMP's directions walking together: both move the same pixels, chosen by both, checked by hand."""

import pytest
import torch

from backend.errors import BadInput
from backend.path_attribution import samp
from tests.helpers import ScoreNet, make_problem, random_images, tiny_cnn


def product_and_sum() -> ScoreNet:
    """f = 4 x0 x1 + 2 x2 + 3 x3 on 1 x 4 pixels: x0 and x1 matter only where the other is there."""

    def score(x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return 4 * x[:, 0] * x[:, 1] + 2 * x[:, 2] + 3 * x[:, 3]

    return ScoreNet(score, lambda x: 0 * x.flatten(1).sum(1))


def moves(net, weight: float, walk: str, eta=None) -> tuple[list, list]:
    """Which pixels each direction moves, step by step, from deletion and insertion trajectories."""
    image = torch.ones(1, 1, 1, 4, dtype=torch.float64)
    problem = make_problem(net, image)
    answer = samp.trace(problem, 5, s=1, eta=eta, lam=0.0, w=weight, integrator="left", walk=walk)
    return tuple([t.flatten().tolist() for t in answer.trajectories[name].points] for name in ("deletion", "insertion"))


def test_both_directions_move_the_same_pixel_by_the_sum_of_their_promises():
    # At the image the promises of deletion are (4, 4, 2, 3), at black those of insertion (0, 0, 2, 3).
    # Half of each: (2, 2, 2, 3): pixel 3 first. Then (2, 2, 2): the first of three equals may be any of them.
    deletion, insertion = moves(product_and_sum(), 0.5, "together")
    assert deletion[1] == [1, 1, 1, 0] and insertion[1] == [0, 0, 0, 1]
    for gone, come in zip(deletion, insertion, strict=True):
        assert [1 - g for g in gone] == come


def test_apart_each_direction_goes_its_own_way():
    deletion, insertion = moves(product_and_sum(), 0.5, "apart")
    assert deletion[1][3] == 1 and insertion[1] == [0, 0, 0, 1]  # deletion takes 0 or 1 first


@pytest.mark.parametrize("eta", [None, 0.03, 0.4])
@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_walkers_mirror_each_other_and_sums_are_exact(eta, weight):
    images = random_images(3, 2, 6, 6)
    images[1, :, :, :3] = 0.0  # less to move: arrives earlier
    problem = make_problem(tiny_cnn(2), images, targets=torch.tensor([0, 1, 2]))
    answer = samp.trace(problem, 7, s=4, eta=eta, w=weight, walk="together")
    deletion, insertion = answer.trajectories["deletion"].points, answer.trajectories["insertion"].points
    torch.testing.assert_close(deletion + insertion, images.expand_as(deletion), atol=1e-9, rtol=0)
    torch.testing.assert_close(deletion[-1], torch.zeros_like(images), atol=0, rtol=0)
    torch.testing.assert_close(insertion[-1], images, atol=0, rtol=0)
    change = problem.score(images, problem.targets) - problem.score(0 * images, problem.targets)
    torch.testing.assert_close(answer.attribution.sum((1, 2, 3)), change)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_one_direction_alone_has_nobody_to_walk_with(weight):
    images = random_images(2, 1, 5, 5)
    maps = [
        samp.attribute(make_problem(tiny_cnn(), images), w=weight, walk=w).attribution for w in ("together", "apart")
    ]
    assert torch.equal(*maps)


def test_a_linear_score_has_one_answer_however_it_is_walked():
    weights = random_images(1, 4, 4, seed=3) - 0.4
    net = ScoreNet(lambda x: (x * weights).flatten(1).sum(1), lambda x: 0 * x.flatten(1).sum(1))
    images = random_images(2, 1, 4, 4)
    for walk in ("together", "apart"):
        answer = samp.attribute(make_problem(net, images), walk=walk, integrator="corrected")
        torch.testing.assert_close(answer.attribution, images * weights)
        assert answer.corrected_share.max() < 1e-9 and answer.notes == []


def test_values_and_absolute_choice_walk_together_too():
    images = random_images(2, 3, 4, 4)
    for how in ({"coordinates": "values"}, {"select": "absolute"}, {"select": "random"}):
        answer = samp.trace(make_problem(tiny_cnn(3), images), 4, s=3, eta=0.1, walk="together", **how)
        points = answer.trajectories["deletion"].points + answer.trajectories["insertion"].points
        torch.testing.assert_close(points, images.expand_as(points), atol=1e-9, rtol=0)


# ----------------------------------------------------------------- the rule "ordered"
def linear(shape: tuple[int, ...], seed: int = 3) -> tuple[ScoreNet, torch.Tensor]:
    weights = random_images(*shape, seed=seed) - 0.4
    return ScoreNet(lambda x: (x * weights).flatten(1).sum(1), lambda x: 0 * x.flatten(1).sum(1)), weights


@pytest.mark.parametrize("walk", ["together", "apart"])
def test_ordered_values_of_a_linear_score_are_its_terms(walk):
    net, weights = linear((1, 4, 4))
    images = random_images(2, 1, 4, 4)
    answer = samp.attribute(make_problem(net, images), s=1, eta=None, integrator="ordered", walk=walk)
    torch.testing.assert_close(answer.attribution, images * weights, atol=1e-3, rtol=0)  # but for the tilt
    assert answer.notes == ["pooling moved 0% of the score's change between steps of the path"]  # best first


@pytest.mark.parametrize("eta", [None, 0.03, 0.4])
@pytest.mark.parametrize("how", [{}, {"walk": "together"}, {"coordinates": "values"}, {"w": 1.0}, {"select": "random"}])
def test_ordered_values_sum_to_the_change(eta, how):
    images = random_images(3, 2, 6, 6)
    images[1, :, :, :3] = 0.0
    images[2] = 0.0  # nothing to move at all
    problem = make_problem(tiny_cnn(2), images, targets=torch.tensor([0, 1, 2]))
    answer = samp.attribute(problem, s=4, eta=eta, integrator="ordered", **how)
    change = problem.score(images, problem.targets) - problem.score(0 * images, problem.targets)
    torch.testing.assert_close(answer.attribution.sum((1, 2, 3)), change)
    assert (answer.attribution[images == 0] == 0).all()
    assert answer.corrected_share[2] == 0


def test_ordered_values_fall_along_the_path():
    images = random_images(1, 1, 5, 5)
    problem = make_problem(tiny_cnn(), images)
    answer = samp.trace(problem, 4001, s=1, eta=None, integrator="ordered", walk="together")
    came = answer.trajectories["insertion"].points[:, 0] != 0  # (K, 1, 5, 5)
    step = came.long().cumsum(0).eq(0).sum(0)  # the frame in which each pixel came
    values = answer.attribution[0].flatten()[step.flatten().argsort()]
    assert (values[1:] < values[:-1]).all()


def test_channels_share_a_pixels_value_by_their_way():
    images = random_images(1, 3, 4, 4)
    answer = samp.attribute(make_problem(tiny_cnn(3), images), s=2, integrator="ordered").attribution
    shares = answer / answer.sum(1, keepdim=True)
    torch.testing.assert_close(shares, images / images.sum(1, keepdim=True))


def test_falling_sequences_keep_their_sum_and_pool_what_rises():
    values = torch.tensor([5.0, 1.0, 4.0, 3.0, -2.0, -1.0], dtype=torch.float64)
    weights = torch.tensor([1.0, 3.0, 1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    fit = samp.falling(values, weights)
    assert (fit[1:] <= fit[:-1]).all()
    assert float(fit @ weights) == pytest.approx(float(values @ weights))
    assert fit.tolist() == pytest.approx([5.0, 13 / 6, 13 / 6, 13 / 6, -1.5, -1.5])


def test_unknown_choices_are_refused():
    with pytest.raises(BadInput, match="corrected, ordered"):
        samp.attribute(make_problem(tiny_cnn(), random_images(1, 1, 4, 4)), integrator="right")
    with pytest.raises(BadInput, match="together, apart"):
        samp.attribute(make_problem(tiny_cnn(), random_images(1, 1, 4, 4)), walk="alone")
