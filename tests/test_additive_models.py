"""Autoencoders of scenes: nets, training, measures, assumptions, grids and tables."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.additive_decoding import assumptions, grid, metrics
from backend.additive_decoding.measure import held_out, measure, truth_nonlinearity
from backend.additive_decoding.recipes import LIVE, RECIPES, Recipe, recipe_of
from backend.additive_decoding.scenes import Scene
from backend.additive_decoding.supports import make_support
from backend.additive_decoding.train import build, network_of, train
from backend.errors import BadInput, Cancelled, ShapeError
from backend.models.additive_decoder import (
    KINDS,
    LINKS,
    Autoencoder,
    BlockNet,
    check_blocks,
    count_parameters,
)

TINY = Recipe(
    "additive", Scene(side=16), "l", width=12, rank=3, starts=4, start_steps=10, steps=12, batch=8
)  # fmt: skip


def make(kind: str = "additive", blocks=((0,), (1,)), link: str = "identity", **changes) -> Autoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Autoencoder(kind, blocks, 16, width=12, rank=3, link=link, final_side=16, **changes).eval()


def latents(n: int, d: int = 2) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------- nets
@pytest.mark.parametrize("name", RECIPES)
def test_every_kind_has_as_many_parameters_as_the_additive_one(name):
    recipe = RECIPES[name]
    with torch.random.fork_rng():
        decoders = [build(dataclasses.replace(recipe, kind=kind)).decoder for kind in KINDS]
    counts = [count_parameters(decoder) for decoder in decoders]
    assert max(counts) <= 1.02 * min(counts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("encoder", ["perceptron", "position", "convolutional"])
def test_shapes(kind, encoder):
    model = make(kind, ((0, 2), (1,)), encoder=encoder)
    codes = model.encode(torch.rand(5, 3, 16, 16))
    assert codes.shape == (5, 3) and model.decode(codes).shape == (5, 3, 16, 16)


@pytest.mark.parametrize("link", LINKS)
def test_the_additive_decoder_is_the_link_of_a_sum(link):
    decoder = make("additive", ((0, 2), (1,)), link).decoder
    z = latents(4, 3)
    total = decoder.white + decoder.render_block(0, z[:, [0, 2]]) + decoder.render_block(1, z[:, [1]])
    expected = {"identity": total, "sigmoid": total.sigmoid(), "exp": total.exp()}[link]
    torch.testing.assert_close(decoder(z), expected)


def test_with_exp_blocks_multiply():
    decoder = make(link="exp").decoder
    a, b = latents(2)
    mixed = [decoder(torch.stack([p, q])[None])[0] for p, q in ((a[0], a[1]), (b[0], b[1]), (a[0], b[1]), (b[0], a[1]))]
    torch.testing.assert_close(mixed[0] * mixed[1], mixed[2] * mixed[3], rtol=1e-4, atol=1e-5)


def test_masks_add_up_to_one():
    masks, colours = make("masked").decoder.layers(latents(3))
    assert masks.shape == (3, 3, 1, 16, 16) and colours.shape == (3, 2, 3, 16, 16)
    torch.testing.assert_close(masks.sum(1), torch.ones(3, 1, 16, 16))


def test_a_grown_net_draws_the_same_profiles_on_a_finer_grid():
    with torch.random.fork_rng():
        net = BlockNet(1, 8, 12, 3)
        fine = net.grown(32)
    z = latents(3, 1)
    coarse = net.draw_profiles(z)
    expected = torch.nn.functional.interpolate(coarse.flatten(0, 2)[:, None], 32, mode="linear")[:, 0]
    torch.testing.assert_close(fine.draw_profiles(z).flatten(0, 2), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("blocks", "words"),
    [([[0], [2]], "latent 1 is in no block"), ([[0, 1], [1]], "in no block|doubled"), ([[0, 1], []], "empty")],
)
def test_partitions_that_do_not_cover_the_latents_are_refused(blocks, words):
    with pytest.raises(BadInput, match=words):
        check_blocks(blocks, 3 if blocks == [[0], [2]] else 2)


# ----------------------------------------------------------------- metrics
@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4))
def test_lms_finds_the_permutation(order, signs):
    z = np.random.default_rng(0).random((200, 4))
    learned = np.exp(2 * z[:, order]) * np.array(signs)
    match = metrics.lms_spearman(learned, z)
    assert match.score == pytest.approx(100) and list(match.permutation) == list(order)


def test_lms_of_a_mixture_is_low_and_of_a_constant_nothing():
    z = np.random.default_rng(0).random((2000, 2))
    mixed = z @ np.array([[1.0, 1.0], [1.0, -1.0]])
    assert 60 < metrics.lms_spearman(mixed, z).score < 80
    assert metrics.lms_spearman(np.ones((50, 2)), z[:50]).score == 0
    with pytest.raises(ShapeError):
        metrics.lms_spearman(z[:, :1], z)


def test_lms_tree_sees_maps_that_are_not_monotone():
    rng = np.random.default_rng(0)
    z = rng.random((3000, 4))
    angle = 2 * np.pi * z
    learned = np.stack([z[:, 2] + z[:, 3], z[:, 2] - z[:, 3], np.cos(angle[:, 0] / 2), z[:, 1] ** 2], 1)
    blocks = ((0, 1), (2, 3))
    match = metrics.lms_tree(learned[:2000], z[:2000], learned[2000:], z[2000:], blocks)
    assert match.permutation == (1, 0) and match.score > 98


def test_partitions():
    assert len(metrics.all_partitions(4, (2, 2))) == 3
    assert len(metrics.all_partitions(3, (1, 1, 1))) == 1
    assert metrics.rmse(np.array([0.0, 2.0]), np.array([0.6, 1.0])) == pytest.approx(np.sqrt(0.18))


# ----------------------------------------------------------------- assumptions
def test_sufficient_nonlinearity_in_closed_form():
    pixels = torch.linspace(0, 1, 7)
    curved = [lambda z: torch.sin(3 * z * pixels)[None], lambda z: torch.exp(z * pixels.flip(0))[None]]
    linear = [lambda z: (z * pixels)[None], lambda z: (z * pixels.flip(0))[None]]
    points = [latents(5, 1) * 0.3 + 1, latents(5, 1) * 0.3 + 1]
    matrix = assumptions.nonlinearity_matrix(curved, points)
    assert matrix.shape == (5, 7, 4) and float(assumptions.smallest_singular_value(matrix).min()) > 1e-3
    assert float(assumptions.smallest_singular_value(assumptions.nonlinearity_matrix(linear, points)).max()) < 1e-6
    same = assumptions.nonlinearity_matrix([curved[0]] * 2, [points[0]] * 2)  # two equal objects in one place
    assert float(assumptions.smallest_singular_value(same).max()) < 1e-4


def test_off_block_energy_in_closed_form():
    share = assumptions.off_block_energy(
        lambda z: (z[0] * z[1] + z[2] ** 2)[None], latents(4, 3), ((0,), (1,), (2,)), torch.ones(3)
    )
    torch.testing.assert_close(share, torch.full((4,), 2 / 6))  # H has 1, 1 off the blocks and 2 on them
    share = assumptions.off_block_energy(lambda z: (z[0] * z[1])[None], latents(4, 2), ((0, 1),), torch.ones(2))
    assert float(share.max()) == 0


def test_the_hessian_penalty_sees_mixed_derivatives_only():
    signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])
    z = torch.zeros(1, 2, dtype=torch.float64)
    added = assumptions.hessian_penalty(lambda z: z[:, :1] ** 2 + 3 * z[:, 1:] ** 2, z, signs.double())
    mixed = assumptions.hessian_penalty(lambda z: z[:, :1] * z[:, 1:], z, signs.double())
    assert float(added) == pytest.approx(0, abs=1e-12) and float(mixed) == pytest.approx(8)  # values 2 and -2


def test_a_linear_truth_is_not_sufficiently_nonlinear():
    z = make_support("l", Scene()).sample(6, torch.Generator().manual_seed(0))
    assert truth_nonlinearity(Scene(nonlinearity=0.0), z) < 1e-3 < truth_nonlinearity(Scene(), z)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_additive_decoder_has_no_energy_off_its_blocks(kind):
    from backend.additive_decoding.measure import before_link

    model = make(kind)
    z = latents(4)
    share = assumptions.off_block_energy(before_link(model), z, model.blocks, torch.ones(2)).detach()
    assert (float(share.max()) < 1e-10) == (kind == "additive")


# ----------------------------------------------------------------- grids and tables
@pytest.mark.parametrize("link", LINKS)
def test_a_grid_from_block_renders_equals_full_decoding(link):
    decoder = make("additive", ((0,), (1, 3), (2,)), link).decoder
    rows, columns, still = latents(5, 1), latents(4, 2), latents(1, 4)[0]
    with torch.no_grad():
        quick = grid.draw_grid(decoder, rows, columns, still)
        full = grid.decode_grid(decoder, rows, columns, still)
    assert quick.shape == (5, 4, 3, 16, 16)
    torch.testing.assert_close(quick, full, atol=1e-5, rtol=1e-5)


def test_a_grid_runs_each_block_once():
    decoder = make().decoder
    calls = []
    for net in decoder.nets:
        net.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    grid.draw_grid(decoder, latents(7, 1), latents(5, 1), torch.zeros(2))
    assert sum(calls) == 7 + 5


@pytest.mark.parametrize("axes", [(0, 0), (0, 2), (-1, 0)])
def test_impossible_axes_are_refused(axes):
    with pytest.raises(BadInput, match="two different blocks"):
        grid.draw_grid(make().decoder, latents(2, 1), latents(2, 1), torch.zeros(2), axes)


@pytest.mark.parametrize(("d", "size"), [(1, 65), (2, 33)])
def test_tables_give_back_the_images(d, size):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = BlockNet(d, 16, 12, 3)
    low, high = -torch.ones(d), torch.ones(d)
    table = grid.tabulate(net, low, high)
    assert table.profiles.shape == (*(size,) * d, 2, 3, 16) and table.profiles.dtype == torch.float16
    assert table.nbytes == table.profiles.numel() * 2
    at_ends = torch.stack([low, high])
    images = net.paint(grid.interpolate(table.values, table.profiles.float(), at_ends))
    torch.testing.assert_close(images, net(at_ends), atol=2e-2, rtol=1e-2)  # float16
    assert table.interpolation_rmse < 0.02
    with pytest.raises(BadInput, match="one or two"):
        grid.tabulate(BlockNet(3, 16, 12, 3), torch.zeros(3), torch.ones(3))


# ----------------------------------------------------------------- training
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    first, again, other = (
        train("tiny", seed, folder=tmp_path / n, recipe=TINY) for seed, n in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert first["sha256"] == again["sha256"] != other["sha256"]
    assert first["starts"] == again["starts"] and len(first["starts"]) == TINY.starts
    assert sum(start["chosen"] for start in first["starts"]) == 1


def test_training_draws_no_global_number(tmp_path):
    before = torch.random.get_rng_state()
    train("tiny", 0, folder=tmp_path, recipe=TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("stop", [6, 16])  # in the starts, and in the refinement
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, monkeypatch, stop):
    monkeypatch.setattr("backend.additive_decoding.train.KEEP_EVERY", 3)
    whole = train("tiny", 0, folder=tmp_path / "whole", recipe=TINY)

    def interrupt(step):
        if step.done == stop:
            raise Cancelled

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Cancelled):
        train("tiny", 0, interrupt, checkpoint, folder=tmp_path / "parts", recipe=TINY)
    assert checkpoint.exists()
    with pytest.raises(BadInput, match="another run"):
        train("tiny", 1, None, checkpoint, folder=tmp_path / "parts", recipe=TINY)
    resumed = train("tiny", 0, None, checkpoint, folder=tmp_path / "parts", recipe=TINY)
    assert resumed["sha256"] == whole["sha256"] and resumed["starts"] == whole["starts"]
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    "changes",
    [{"kind": "non-additive", "hessian_weight": 0.1}, {"kind": "masked"}, {"link": "sigmoid"}, {"link": "exp"}],
)
def test_every_kind_learns(tmp_path, changes):
    steps = []
    short = dict(starts=2, start_steps=20, start_rate=0.02, steps=20, rate=0.02, constant_rate=True)
    recipe = dataclasses.replace(TINY, **short, **changes)
    train("tiny", 0, steps.append, folder=tmp_path, recipe=recipe)
    losses = [float(step.message.rsplit(" ", 1)[1]) for step in steps]
    assert losses[-1] < losses[0] and steps[-1].done == steps[-1].total


def test_a_training_shows_previews(tmp_path, monkeypatch):
    monkeypatch.setattr("backend.additive_decoding.train.KEEP_EVERY", 5)
    previews = []
    train("tiny", 0, folder=tmp_path, recipe=TINY, on_preview=previews.append)
    assert {preview["stage"] for preview in previews} == {"starts", "refine"}
    assert previews[-1]["true"].shape == previews[-1]["decoded"].shape == (8, 16, 16, 3)
    assert len(previews[-1]["losses"]) > len(previews[0]["losses"])


def test_the_papers_settings_stop_early(tmp_path, monkeypatch):
    monkeypatch.setattr("backend.additive_decoding.train.VALIDATE_EVERY", 2)
    paper = recipe_of("balls-l-additive-paper")
    assert (paper.rate, paper.weight_decay, paper.starts, paper.start_steps) == (5e-4, 5e-4, 1, 0)
    short = dataclasses.replace(TINY, starts=1, start_steps=0, steps=200, rate=0.2, constant_rate=True, patience=2)
    card = train("tiny", 0, folder=tmp_path, recipe=short)
    assert card["steps_done"] < 200 and card["starts"] == []


def test_a_recipe_survives_json():
    for recipe in (*RECIPES.values(), LIVE):
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
        assert check_blocks(network_of(recipe)["blocks"], recipe.scene.n_latents) == recipe.scene.blocks


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**TINY.to_json(), "kind": "nothing"}, "kind"),
        ({**TINY.to_json(), "steps": 0}, "steps"),
        ({**TINY.to_json(), "rate": 5.0}, "rate"),
        ({**TINY.to_json(), "support": "nothing"}, "support"),
        ({**TINY.to_json(), "support": "apart"}, "support"),
        ({**TINY.to_json(), "colour": 1}, "recipe"),
        ({**TINY.to_json(), "start_side": 9}, "start_side"),
        ([], "recipe"),
    ],
)
def test_impossible_recipes_are_refused(body, field):
    with pytest.raises(BadInput) as refusal:
        Recipe.from_json(body)
    assert refusal.value.field == field


def test_unknown_models_are_refused():
    with pytest.raises(BadInput, match="unknown model"):
        recipe_of("balls")


# ----------------------------------------------------------------- measures
@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_of_a_scalar_model(kind):
    model = make(kind).requires_grad_(False)
    scene = Scene(side=16)
    figures = measure(model, scene, make_support("l", scene), n=40)
    for name in ("lms_spearman", "lms_tree", "lms_spearman_out", "lms_tree_out"):
        assert 0 <= figures[name] <= 100
    for name in ("rmse", "rmse_out", "rmse_recombined"):
        assert 0 < figures[name] < 1
    meters = figures["assumptions"]
    assert meters["components"] == 1 and 0 <= meters["off_block_hessian"] <= 1
    assert (meters["nonlinearity_decoder"] is None) == (kind != "additive")
    assert json.dumps(figures)


def test_figures_of_disconnected_and_planar_models():
    scene = Scene(side=16)
    meters = measure(make(), scene, make_support("corners", scene), n=60)["assumptions"]
    assert meters["components"] == 2 and set(meters["permutations"]) == {"0", "1"}
    plane = Scene(free=("x", "y"), side=16)
    model = make("non-additive", ((0, 1), (2, 3)), encoder="position")
    figures = measure(model, plane, make_support("apart-dependent", plane), n=40)
    assert figures["lms_spearman"] is None and figures["rmse_out"] is not None
    assert held_out(make_support("apart", plane), plane) is None
