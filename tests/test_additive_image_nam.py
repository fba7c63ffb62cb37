"""Additive heads: what adds up, what is centred, what has no effect; closed forms, links, determinism."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from backend.additive_image.data import Column, Dataset, make_dataset, measure_squares
from backend.additive_image.nam import AdditiveHead, HeadSettings, fit_head, negative_log_likelihood
from backend.additive_image.peers import concurvity, effect_r2, score
from backend.errors import BadInput, ShapeError

QUICK = HeadSettings(hidden=16, image_widths=(16, 8), members=2, epochs=8, batch=64)


def rows(n: int = 400, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A table of two numbers and a category, codes, and a response that adds up effects of all but the first column."""
    generator = torch.Generator().manual_seed(seed)
    numbers = 2 * torch.rand(n, 2, generator=generator) - 1
    codes = torch.randn(n, 3, generator=generator)
    category = torch.randint(0, 3, (n, 1), generator=generator).float()
    response = 2 * numbers[:, 1] + category[:, 0] - 1.5 * codes[:, 0]
    return torch.cat([numbers, category], 1), codes, response


@pytest.fixture(scope="module")
def head() -> AdditiveHead:
    table, codes, response = rows()
    return fit_head(table, codes, response, [0, 0, 3], settings=QUICK, seed=1)


def test_the_prediction_is_the_intercept_plus_the_terms(head):
    table, codes, _ = rows(50, seed=2)
    added = head.intercept + head.terms(table, codes).value.sum(1)
    assert torch.equal(head.predict(table, codes), added)
    members = head.members_terms(table, codes)
    raw = head.raw_terms(table.expand(2, -1, -1), codes.expand(2, -1, -1)).sum(-1) + head.bias[:, None]
    torch.testing.assert_close(members.sum(-1).mean(0) + head.intercept, raw.mean(0) * head.unit)


def test_each_term_depends_on_its_own_column_only(head):
    table, codes, _ = rows(20, seed=3)
    before = head.terms(table, codes).value
    changed = table.clone()
    changed[:, 1] += 0.3
    after = head.terms(changed, codes).value
    assert torch.equal(before[:, [0, 2, 3]], after[:, [0, 2, 3]])
    assert not torch.equal(before[:, 1], after[:, 1])


def test_every_term_has_mean_zero_over_the_training_rows(head):
    table, codes, _ = rows()
    assert head.terms(table, codes).value.mean(0).abs().max() < 1e-5


def test_one_direction_sees_one_combination_of_the_code_only():
    table, codes, response = rows()
    settings = dataclasses.replace(QUICK, directions=1, epochs=40)
    narrow = fit_head(table, codes, response, [0, 0, 3], settings=settings, seed=1)
    member = narrow.image.weights[0][0]  # (latents, 1)
    along = torch.linalg.svd(member.T).Vh[1:]  # what it cannot see
    moved = narrow.image(codes.expand(2, -1, -1))[0] - narrow.image((codes + along[0]).expand(2, -1, -1))[0]
    assert moved.abs().max() < 1e-4
    assert effect_r2(narrow.image_effect(codes).value.numpy(), -1.5 * codes[:, 0].numpy()) > 0.97


def test_a_column_without_effect_gets_none():
    """Within .06 of a response with standard deviation 2: what is left is the noise of 1,000 rows."""
    table, codes, response = rows(1000)
    noisy = response + 0.3 * torch.randn(1000, generator=torch.Generator().manual_seed(5))
    fitted = fit_head(table, codes, noisy, [0, 0, 3], settings=HeadSettings(members=3, epochs=25, hidden=32))
    assert fitted.terms(table, codes).value[:, 0].square().mean().sqrt() < 0.06


def test_an_output_penalty_pushes_it_further_down(head):
    table, codes, response = rows()
    settings = dataclasses.replace(QUICK, output_penalty=0.3)
    pushed = fit_head(table, codes, response, [0, 0, 3], settings=settings, seed=1)
    size = [h.terms(table, codes).value.abs().mean() for h in (pushed, head)]
    assert size[0] < size[1]


def test_a_linear_problem_is_solved_as_least_squares_solve_it():
    table, codes, response = rows(2000)
    table, kinds = table[:, :2], [0, 0]
    noisy = response + 0.2 * torch.randn(2000, generator=torch.Generator().manual_seed(1))
    inputs = torch.cat([table, codes], 1).numpy()
    line = LinearRegression().fit(inputs, noisy)
    settings = HeadSettings(activation="gelu", slopes=(0.5, 2.0), members=3, epochs=30, hidden=32)
    fitted = fit_head(table, codes, noisy, kinds, settings=settings)
    new_table, new_codes, _ = rows(500, seed=9)
    found = fitted.predict(new_table[:, :2], new_codes).numpy()
    wanted = line.predict(torch.cat([new_table[:, :2], new_codes], 1).numpy())
    assert effect_r2(found, wanted) > 0.995
    shape = fitted.shape_function(1, torch.tensor([-0.8, 0.8]))
    assert float(shape.value[1] - shape.value[0]) == pytest.approx(1.6 * line.coef_[1], rel=0.05)


def test_the_same_seed_gives_the_same_numbers(head):
    table, codes, response = rows()
    again = fit_head(table, codes, response, [0, 0, 3], settings=QUICK, seed=1)
    other = fit_head(table, codes, response, [0, 0, 3], settings=QUICK, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(head.predict(table, codes), other.predict(table, codes))


def test_global_random_numbers_are_left_alone():
    table, codes, response = rows(100)
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    fit_head(table, codes, response, [0, 0, 3], settings=HeadSettings(members=1, epochs=1, hidden=4))
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("activation", ["relu", "gelu", "exu"])
@pytest.mark.parametrize("link", ["identity", "logit", "log"])
def test_links_and_activations_fit_what_they_are_made_for(link, activation):
    table, codes, linear = rows(3000)
    linear = linear / 2
    generator = torch.Generator().manual_seed(3)
    response = {
        "identity": lambda: linear,
        "logit": lambda: torch.bernoulli(torch.sigmoid(linear), generator=generator),
        "log": lambda: torch.poisson(linear.exp(), generator=generator),
    }[link]()
    settings = HeadSettings(activation=activation, hidden=16, image_widths=(16, 8), members=2, epochs=12)
    fitted = fit_head(table, codes, response, [0, 0, 3], link, settings)
    assert effect_r2(fitted.predict(table, codes).numpy(), linear.numpy()) > (0.97 if link == "identity" else 0.85)
    assert fitted.respond(fitted.predict(table, codes)).mean() == pytest.approx(float(response.mean()), rel=0.1)


def test_likelihoods_are_those_of_torch():
    linear, counts = torch.tensor([0.3, -1.0]), torch.tensor([1.0, 0.0])
    wanted = torch.nn.PoissonNLLLoss(reduction="none")(linear, counts)
    torch.testing.assert_close(negative_log_likelihood("log", linear, counts), wanted)


def test_a_head_comes_back_from_its_card(head):
    again = AdditiveHead.from_card(head.describe())
    again.load_state_dict(head.state_dict())
    table, codes, _ = rows(10)
    assert torch.equal(again.predict(table, codes), head.predict(table, codes))


def test_the_band_is_the_members_spread(head):
    table, codes, _ = rows(10)
    members, terms = head.members_terms(table, codes), head.terms(table, codes)
    torch.testing.assert_close(terms.high - terms.value, 1.96 * members.std(0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t, z, y: (t[:10], z[:10], y[:10]), "10 rows; at least 20"),
        (lambda t, z, y: (t, z, torch.ones_like(y)), "the same in every row"),
    ],
)
def test_what_cannot_be_fitted_is_said(change, sentence):
    with pytest.raises(BadInput, match=sentence):
        fit_head(*change(*rows(50)), [0, 0, 3], settings=QUICK)


def test_rows_of_another_shape_are_refused(head):
    table, codes, _ = rows(5)
    with pytest.raises(ShapeError, match=r"expected \(n, 3\)"):
        head.terms(table[:, :2], codes)
    with pytest.raises(ShapeError, match=r"expected \(5, 3\)"):
        head.terms(table, codes[:, :2])
    with pytest.raises(BadInput, match="members is 0; expected 1..100"):
        HeadSettings(members=0)
    with pytest.raises(BadInput, match="unknown activation"):
        HeadSettings(activation="tanh")


# ----------------------------------------------------------------- data
def test_drawn_data_repeat_by_seed_and_add_up():
    first, again, other = (make_dataset("squares", 200, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.table, again.table) and np.array_equal(first.images[:3], again.images[:3])
    assert not np.array_equal(first.table, other.table)
    clean = make_dataset("squares", 200, 0, noise=False)
    added = sum(clean.effects.values())
    np.testing.assert_allclose(clean.response - clean.response.mean(), added, atol=1e-5)
    assert (first.response - clean.response).std() == pytest.approx(0.3, rel=0.2)


def test_the_meter_reads_what_was_drawn():
    drawn = make_dataset("colours", 300)
    seen = measure_squares(drawn.images[:])
    for name, within in (("side", 0.1), ("x", 0.1), ("y", 0.1), ("hue", 0.005), ("grey", 0.003)):
        assert np.abs(seen[name] - drawn.attributes[name]).max() < within, name


def test_variants_have_their_responses():
    assert set(np.unique(make_dataset("squares-bernoulli", 300).response)) == {0, 1}
    counts = make_dataset("squares-poisson", 300).response
    assert (counts % 1 == 0).all() and counts.min() >= 0
    tied = make_dataset("squares-tied", 2000)
    assert np.corrcoef(tied.table[:, 1], tied.attributes["side"])[0, 1] == pytest.approx(0.7, abs=0.03)


def test_bad_data_are_refused():
    good = make_dataset("squares", 30)
    with pytest.raises(BadInput, match="unknown data set"):
        make_dataset("circles")
    with pytest.raises(BadInput, match="0 and 1 only"):
        Dataset("x", good.columns, good.table, good.response, good.images, link="logit")
    with pytest.raises(BadInput, match="whole numbers"):
        Dataset("x", good.columns, good.table, good.response, good.images, link="log")
    with pytest.raises(BadInput, match="29 responses"):
        Dataset("x", good.columns, good.table, good.response[1:], good.images)
    with pytest.raises(BadInput, match="missing or no number"):
        Dataset("x", good.columns, good.table * np.nan, good.response, good.images)
    with pytest.raises(BadInput, match="cannot be called"):
        Column("image", "numeric")


# ----------------------------------------------------------------- peers
def test_scores_are_shares_of_the_deviance():
    response = np.array([0.0, 1.0, 3.0])
    assert score("identity", response, np.full(3, response.mean())) == pytest.approx(0)
    assert score("log", response, np.log(np.full(3, response.mean()))) == pytest.approx(0)
    assert score("log", response, np.log(np.maximum(response, 1e-12))) == pytest.approx(1, abs=1e-6)


def test_concurvity_tells_a_term_that_others_give_away():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 1000))
    third = first + 0.1 * rng.normal(size=1000)
    found = concurvity(
        np.column_stack([first, second, third]), {"a": first[:, None], "b": second[:, None], "c": third[:, None]}
    )
    assert found["a"] > 0.8 and found["c"] > 0.8 and found["b"] < 0.1
