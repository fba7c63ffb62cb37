"""SAMP: a path worked out by hand, exact sums, and what must not depend on batch, chunk or luck."""

import pytest
import torch
from torch import Tensor

from backend.contracts import Step
from backend.errors import BadInput, Cancelled
from backend.path_attribution import samp
from tests.helpers import CrampedNet, ScoreNet, make_problem, random_images, relative_difference, tiny_cnn


def product_and_squares(x: Tensor) -> Tensor:
    """f = x1 x2 + x3^2 - x4^2 on 2 x 2 pixels; gradient (x2, x1, 2 x3, -2 x4)."""
    x1, x2, x3, x4 = x.flatten(1).unbind(1)
    return x1 * x2 + x3**2 - x4**2


IMAGE = torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64).view(1, 1, 2, 2)  # f = 2 + 9 - 1 = 10; black: 0


def explain(**params):
    return samp.attribute(make_problem(ScoreNet(product_and_squares), IMAGE), **params)


def values(explanation) -> list[float]:
    return explanation.attribution.flatten().tolist()


def test_deletion_by_hand():
    # s = 1, no bound, left rule, from the image (1, 2, 3, 1) to black; alpha = g * (0 - x), the smallest first.
    #   g = (2, 1, 6, -2), alpha = (-2, -2, -18, 2): pixel 3, da3 = 6 * -3 = -18, x = (1, 2, 0, 1)
    #   g = (2, 1, 0, -2), alpha = (-2, -2, -, 2): a tie; pixels 1 and 2 are alike here:
    #     pixel 1: da1 = 2 * -1 = -2, then g = (2, 0, 0, -2), alpha2 = 0 comes before alpha4 = 2: da2 = 0
    #     pixel 2: da2 = 1 * -2 = -2, then g1 = 0: da1 = 0
    #   then pixel 4: da4 = -2 * -1 = 2.   A_del = -(da)
    a1, a2, a3, a4 = values(explain(s=1, eta=None, lam=0.0, w=1.0, integrator="left"))
    assert sorted((a1, a2)) == [0.0, 2.0]
    assert (a3, a4) == (18.0, -2.0)


def test_insertion_by_hand():
    # From black all gradients are 0 and so is every alpha; the momentum-free walk goes by ties, left gives only what
    # the second of pixels 1 and 2 finds: (0 * 2) or (2 * 1) or (1 * 2), the rest 0 at its own start.
    # The trapezoid is exact for each square and for the product: 1: x1 x2 = 2 to the second, 9 to 3, -1 to 4.
    a1, a2, a3, a4 = values(explain(s=1, eta=None, lam=0.0, w=0.0, integrator="trapezoid"))
    assert sorted((a1, a2)) == [0.0, 2.0]
    assert (a3, a4) == (9.0, -1.0)


def test_both_directions_with_the_bound_by_hand():
    # Image (1, 2, 3, 1) has L1 length 7; eta = 2/7 allows steps of length 2. Deletion, s = 2, left:
    #   g = (2, 1, 6, -2), alpha = (-2, -2, -18, 2): pixel 3 and one of 1, 2. Make it definite: x1 = 1.5, see below.
    # With x = (1.5, 2, 3, .5), length 7:
    #   1. g = (2, 1.5, 6, -1), alpha = (-3, -3, -18, .5). Again a tie, as x1 x2 is symmetric; so give f a linear
    #      term: f = x1 x2 + x3^2 - x4^2 + x1, g1 = x2 + 1.
    #   1. g = (3, 1.5, 6, -1), alpha = (-4.5, -3, -18, .5): pixels 3, 1: way (-1.5, -3), length 4.5, c = 4/9
    #      dx1 = -2/3, dx3 = -4/3; da1 = 3 * -2/3 = -2, da3 = 6 * -4/3 = -8; x = (5/6, 2, 5/3, 1/2)
    #   2. g = (3, 5/6, 10/3, -1), alpha = (-5/2, -5/3, -50/9, 1/2): pixels 3, 1: way (-5/6, -5/3), length 5/2, c = 4/5
    #      dx1 = -2/3, dx3 = -4/3; da1 = -2, da3 = 10/3 * -4/3 = -40/9; x = (1/6, 2, 1/3, 1/2)
    #   3. g = (3, 1/6, 2/3, -1), alpha = (-1/2, -1/3, -2/9, 1/2): pixels 1, 2: way (-1/6, -2), length 13/6, c = 12/13
    #      dx1 = -2/13, dx2 = -24/13; da1 = -6/13, da2 = 1/6 * -24/13 = -4/13; x = (1/78, 2/13, 1/3, 1/2)
    #   4. g = (15/13, 1/78, 2/3, -1), alpha = (-15/1014, -2/1014, -2/9, 1/2): pixels 3, 1: length < 2, c = 1
    #      da1 = -15/1014, da3 = 2/3 * -1/3 = -2/9; x = (0, 2/13, 0, 1/2)
    #   5. g = (15/13, 0, 0, -1), alpha = (-, 0, -, 1/2): pixels 2, 4: c = 1, da2 = 0, da4 = -1 * -1/2 = 1/2
    # A_del = -(da): (2 + 2 + 6/13 + 15/1014, 4/13, 8 + 40/9 + 2/9, -1/2)
    image = torch.tensor([1.5, 2.0, 3.0, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    net = ScoreNet(lambda x: product_and_squares(x) + x.flatten(1)[:, 0])
    deletion = samp.attribute(make_problem(net, image), s=2, eta=2 / 7, lam=0.0, w=1.0, integrator="left")
    expected = [4 + 6 / 13 + 15 / 1014, 4 / 13, 8 + 42 / 9, -0.5]
    assert values(deletion) == pytest.approx(expected, rel=1e-12)
    # Insertion from black, s = 2, left: g(0) = (1, 0, 0, 0), alpha = (1.5, 0, 0, 0).
    # The first choice is pixel 1 and a tie of the three others; with s = 1 the walk is definite:
    #   1. alpha = (1.5, 0, 0, 0): pixel 1, length 1.5 < 2: da1 = 1 * 1.5; x = (1.5, 0, 0, 0)
    #   2. g = (1, 1.5, 0, 0), alpha = (-, 3, 0, 0): pixel 2, c = 1, da2 = 1.5 * 2 = 3; x = (1.5, 2, 0, 0)
    #   3. alpha3 = alpha4 = 0: a tie. Pixel 3: c = 2/3 of its 3, da3 = 0, then g3 = 4, alpha3 = 4: da3 = 4 * 1 = 4,
    #      pixel 4: da4 = 0. In the other order pixel 4 comes first with da4 = 0 and the rest is the same.
    insertion = samp.attribute(make_problem(net, image), s=1, eta=2 / 7, lam=0.0, w=0.0, integrator="left")
    assert values(insertion) == pytest.approx([1.5, 3.0, 4.0, 0.0], rel=1e-12)
    # A = w A_del + (1 - w) A_ins; both at once are both alone.
    both = samp.attribute(make_problem(net, image), s=1, eta=2 / 7, lam=0.0, w=0.25, integrator="left")
    alone = samp.attribute(make_problem(net, image), s=1, eta=2 / 7, lam=0.0, w=1.0, integrator="left")
    assert torch.allclose(both.attribution, 0.25 * alone.attribution + 0.75 * insertion.attribution, atol=1e-12)


def test_momentum_chooses_and_is_not_integrated():
    # f = 2 x1 - 3/2 x1^2 + x2 / 2, g = (2 - 3 x1, 1/2); from black to (1, 1), s = 1, steps of 1/2 (eta = 1/4).
    #   1. g = (2, .5), alpha = (2, .5): pixel 1, da1 = 2 / 2; x = (.5, 0), g = (.5, .5)
    #   2. lam = 0: alpha = (.5 / 2, .5): pixel 2
    #      lam = .9: m = .9 (2, .5) + .1 (.5, .5) = (1.85, .5), alpha = (1.85 / 2, .5): pixel 1; da1 = g1 / 2 = .25
    net = ScoreNet(lambda x: (2 * x - 1.5 * x**2)[:, 0, 0, 0] + x[:, 0, 0, 1] / 2)
    image = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    for lam, third in ((0.0, [0.5, 0.5]), (0.9, [1.0, 0.0])):
        answer = samp.trace(make_problem(net, image), 5, s=1, eta=0.25, lam=lam, w=0.0, integrator="left")
        film = answer.trajectories["insertion"]
        assert film.points[:3, 0].flatten(1).tolist() == [[0.0, 0.0], [0.5, 0.0], third]
    assert values(answer) == pytest.approx([2 / 2 + 0.5 / 2, 0.5])


@pytest.mark.parametrize("eta", [None, 0.1, 0.004])
@pytest.mark.parametrize("coordinates", ["pixels", "values"])
@pytest.mark.parametrize("select", ["signed", "absolute", "random"])
def test_corrected_sums_exactly(eta, coordinates, select):
    images, baselines = random_images(3, 2, 5, 5), random_images(3, 2, 5, 5, seed=1)
    problem = make_problem(tiny_cnn(2), images, baselines, torch.tensor([0, 1, 2]))
    answer = samp.attribute(problem, s=3, eta=eta, select=select, coordinates=coordinates)
    change = problem.score(images, problem.targets) - problem.score(baselines, problem.targets)
    assert torch.allclose(answer.attribution.sum((1, 2, 3)), change, atol=1e-12)
    assert torch.allclose(answer.explained_change, change, atol=1e-12)
    assert (answer.corrected_share >= 0).all() and answer.corrected_share.isfinite().all()


@pytest.mark.parametrize("integrator", ["left", "trapezoid", "corrected"])
@pytest.mark.parametrize("select", ["signed", "absolute", "random"])
def test_linear_model_gives_gradient_times_way_on_any_path(integrator, select):
    weights = random_images(3, 6, 6, seed=5) - 0.5
    images, baselines = random_images(2, 3, 6, 6), random_images(2, 3, 6, 6, seed=1)
    problem = make_problem(ScoreNet(lambda x: (x * weights).sum((1, 2, 3))), images, baselines)
    answer = samp.attribute(problem, s=4, eta=0.05, integrator=integrator, select=select)
    assert torch.allclose(answer.attribution, weights * (images - baselines), atol=1e-12)
    if integrator == "corrected":
        assert (answer.corrected_share < 1e-12).all()


def test_smaller_steps_need_less_correction():
    problem = make_problem(tiny_cnn(), random_images(2, 1, 8, 8))
    shares = [samp.attribute(problem, s=8, eta=eta).corrected_share.mean() for eta in (None, 0.05, 0.005)]
    assert shares[0] > shares[1] > shares[2]


def test_batch_equals_singles_and_chunk_does_not_matter():
    images, baselines = random_images(4, 2, 6, 6), random_images(4, 2, 6, 6, seed=1)
    images[1] = baselines[1]  # has arrived before it starts
    images[2, :, :3] = baselines[2, :, :3]  # arrives early
    targets = torch.tensor([0, 1, 2, 0])
    whole = samp.attribute(make_problem(tiny_cnn(2), images, baselines, targets), s=4)
    small = samp.attribute(make_problem(tiny_cnn(2), images, baselines, targets, chunk=3), s=4)
    assert torch.allclose(whole.attribution, small.attribution, atol=1e-12)
    for i in range(4):
        rows = slice(i, i + 1)
        alone = samp.attribute(make_problem(tiny_cnn(2), images[rows], baselines[rows], targets[rows]), s=4)
        assert torch.allclose(whole.attribution[rows], alone.attribution, atol=1e-12)
        assert torch.allclose(whole.corrected_share[rows], alone.corrected_share, atol=1e-12)
    assert (whole.attribution[1] == 0).all() and whole.corrected_share[1] == 0


def test_seed_repeats_the_random_path():
    def explain(seed: int) -> Tensor:
        problem = make_problem(tiny_cnn(), random_images(2, 1, 6, 6), seed=seed)
        return samp.attribute(problem, s=4, select="random").attribution

    assert torch.equal(explain(1), explain(1))
    assert not torch.equal(explain(1), explain(2))


def test_weight_of_zero_saves_the_direction():
    net = CrampedNet(tiny_cnn(), room=100)
    samp.attribute(make_problem(net, random_images(2, 1, 4, 4)), s=4, w=1.0)
    assert max(net.calls) == 2
    samp.attribute(make_problem(net, random_images(2, 1, 4, 4)), s=4, w=0.5)
    assert max(net.calls) == 4


def test_one_pass_per_step_and_arrived_walkers_leave():
    net = CrampedNet(tiny_cnn(), room=100)
    images = random_images(2, 1, 4, 4) + 0.1
    images[1, :, 2:] = 0.0  # 8 of 16 pixels differ from black
    samp.attribute(make_problem(net, images), s=4, eta=None, w=1.0)
    assert net.calls == [2, 2, 2, 1, 1]  # the start, 4 steps, the second image is home after 2


def test_out_of_memory_halves_the_chunk():
    images = random_images(3, 1, 6, 6)
    problem = make_problem(CrampedNet(tiny_cnn(), room=2), images)
    answer = samp.attribute(problem, s=6)
    assert torch.allclose(answer.attribution, samp.attribute(make_problem(tiny_cnn(), images), s=6).attribution)
    assert problem.chunks.size <= 2 and problem.chunks.notes


def test_cancel_stops_within_one_step():
    seen: list[Step] = []

    def stop_after_three(step: Step) -> None:
        seen.append(step)
        if len(seen) == 3:
            raise Cancelled

    net = CrampedNet(tiny_cnn(), room=100)
    with pytest.raises(Cancelled):
        samp.attribute(make_problem(net, random_images(1, 1, 6, 6), on_step=stop_after_three), s=1)
    assert len(net.calls) <= 3


def test_progress_ends_at_the_total():
    seen: list[Step] = []
    samp.attribute(make_problem(tiny_cnn(), random_images(1, 1, 6, 6), on_step=seen.append), s=4)
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert seen[0].done == 0 and seen[-1].fraction == 1.0


@pytest.mark.parametrize("eta", [None, 0.02])
def test_trace_shows_points_of_the_same_path(eta):
    images, baselines = random_images(2, 3, 8, 8), random_images(2, 3, 8, 8, seed=1)
    problem = make_problem(tiny_cnn(3), images, baselines)
    answer = samp.trace(problem, 9, s=2, eta=eta)
    assert torch.equal(answer.attribution, samp.attribute(problem, s=2, eta=eta).attribution)
    for name, start, end in (("deletion", images, baselines), ("insertion", baselines, images)):
        film = answer.trajectories[name]
        assert film.points.shape == (9, 2, 3, 8, 8) and film.scores.shape == film.fractions.shape == (9, 2)
        assert torch.equal(film.points[0], start) and torch.equal(film.points[-1], end)
        marks = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
        assert (film.fractions >= marks).all() and (film.fractions <= marks + 0.1).all()
        gone = (film.points - start).abs().sum((2, 3, 4)) / (end - start).abs().sum((1, 2, 3))
        assert torch.allclose(film.fractions, gone)
        scores = torch.stack([problem.score(points, problem.targets) for points in film.points])
        assert torch.allclose(film.scores, scores)


def test_tiny_way_in_single_precision_ends():
    """Steps smaller than the spacing of floats would never arrive; the bound is lifted for them."""
    baselines = random_images(1, 1, 8, 8, dtype=torch.float32) + 1
    images = torch.nextafter(baselines, torch.tensor(10.0))
    problem = make_problem(tiny_cnn(), images, baselines)
    assert samp.attribute(problem, s=64, eta=0.01).attribution.isfinite().all()


def test_single_precision_sums_to_the_change():
    images = random_images(8, 1, 28, 28, dtype=torch.float32)
    answer = samp.attribute(make_problem(tiny_cnn(), images))
    gap = (answer.attribution.sum((1, 2, 3)) - answer.explained_change).abs()
    assert (gap / answer.explained_change.abs()).median() < 1e-5
    assert relative_difference(answer.attribution.sum((1, 2, 3)), answer.explained_change) < 1e-5


def test_unknown_choices_are_named():
    problem = make_problem(tiny_cnn(), random_images(1, 1, 4, 4))
    with pytest.raises(BadInput, match="integrator"):
        samp.attribute(problem, integrator="right")
    with pytest.raises(BadInput, match="select"):
        samp.attribute(problem, select="left")
