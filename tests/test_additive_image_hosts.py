"""Drawn portraits, the table of hosts and their true effects."""

import numpy as np
import pytest
import torch

from backend.additive_image import portraits
from backend.additive_image.data import IMAGE
from backend.additive_image.hosts import COLUMNS, INTERCEPT, PLANTED_BIAS, make_hosts
from backend.additive_image.principal import PrincipalStage, RegionalStage
from backend.errors import BadInput
from backend.models.diffusion_autoencoder import DiffusionAutoencoder


def ramp(name: str, n: int = 5) -> torch.Tensor:
    of = portraits.ATTRIBUTES[portraits.attribute_index(name)]
    return portraits.draw(portraits.make_attributes(n, **{name: torch.linspace(of.low, of.high, n)}))


# ------------------------------------------------------------- portraits
def test_portraits_repeat_by_seed_and_do_not_depend_on_their_neighbours():
    first, again = (portraits.sample_attributes(70, torch.Generator().manual_seed(3)) for _ in range(2))
    images = portraits.draw(first)
    assert torch.equal(images, portraits.draw(again))
    assert torch.equal(images[69:], portraits.draw(first[69:]))
    assert images.shape == (70, 3, 64, 64) and images.min() >= 0 and images.max() <= 1


def test_a_smile_changes_the_mouth_only():
    images = ramp("smile")
    changed = (images - images[:1]).abs().amax((0, 1)) > 0
    rows, columns = portraits.region(portraits._MOUTH_BOX, 64)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[rows.start - 2 : rows.stop + 2, columns.start - 2 : columns.stop + 2] = True
    assert changed[rows, columns].any() and not changed[~inside].any()


@pytest.mark.parametrize("name", portraits.NAMES)
def test_every_attribute_is_seen_over_its_whole_range(name):
    images = ramp(name)
    steps = (images[1:] - images[:-1]).square().sum((1, 2, 3))
    from_start = (images - images[:1]).square().sum((1, 2, 3))
    assert steps.min() > 0.5, "some part of the range changes nothing"
    assert (from_start.diff() > 0).all(), "further away must look more different"


@pytest.mark.parametrize(("name", "sign"), [("skin", -1), ("hair", 1)])
def test_skin_darkens_and_hair_lightens_monotonically(name, sign):
    box = {"skin": (-3, 0, 3, 2), "hair": (-4, -20, 4, -16)}[name]
    brightness = ramp(name)[(slice(None), slice(None), *portraits.region(box, 64))].mean((1, 2, 3))
    assert (sign * brightness.diff() > 0).all()


def test_a_portrait_is_the_same_picture_at_every_size():
    attributes = portraits.sample_attributes(6, torch.Generator().manual_seed(0))
    small = portraits.draw(attributes, 32)
    pooled = torch.nn.functional.avg_pool2d(portraits.draw(attributes, 128), 4)
    assert (small - pooled).square().mean() < 5e-4


def test_attributes_that_make_no_portrait_are_refused():
    with pytest.raises(BadInput, match="expected \\(N, 9\\)"):
        portraits.draw(torch.zeros(2, 3))
    with pytest.raises(BadInput, match="not numbers"):
        portraits.draw(torch.full((1, 9), float("nan")))
    with pytest.raises(BadInput, match="unknown attribute 'beard'"):
        portraits.make_attributes(beard=1.0)


def test_attributes_are_measured_in_pixels():
    attributes = portraits.sample_attributes(6, torch.Generator().manual_seed(11))
    found, _ = portraits.fit_attributes(portraits.draw(attributes))
    off = (found - attributes).abs()
    for name, tolerance in {"smile": 0.25, "age": 0.1, "glasses": 0.15, "skin": 0.1, "hair": 0.1}.items():
        assert off[:, portraits.attribute_index(name)].max() < tolerance, name


def test_a_cross_fade_ghosts_and_a_portrait_does_not():
    row = portraits.make_attributes(3, smile=torch.tensor([-0.9, 0.05, 0.9]))
    frown, between, smile = portraits.draw(row)
    assert portraits.ghosting(between, row[0]) < 1e-4
    assert portraits.ghosting((frown + smile) / 2, row[0]) > 1e-3


# ------------------------------------------------------------- table and effects
@pytest.mark.parametrize("bias", [0.0, PLANTED_BIAS])
def test_true_effects_add_up_to_the_expected_price(bias):
    hosts = make_hosts(300, seed=2, noise=False, bias=bias)
    effects = [column.effect(hosts.table[:, k]) for k, column in enumerate(COLUMNS)]
    expected = INTERCEPT + sum(effects) + hosts.image_effect(hosts.attributes)
    np.testing.assert_allclose(hosts.response, expected, atol=1e-5)
    for k, column in enumerate(COLUMNS):
        np.testing.assert_allclose(hosts.effects[column.name], effects[k] - effects[k].mean(), atol=1e-5)
    assert set(hosts.effects) == set(hosts.terms)


def test_skin_has_no_effect_unless_a_bias_is_planted():
    plain, biased = make_hosts(2000, noise=False), make_hosts(2000, noise=False, bias=PLANTED_BIAS)
    np.testing.assert_array_equal(plain.images.attributes, biased.images.attributes)
    change = biased.response - plain.response
    skin = plain.attributes["skin"]
    np.testing.assert_allclose(np.polyfit(skin, change, 1)[0], PLANTED_BIAS, atol=1e-4)
    assert abs(np.corrcoef(skin, plain.effects[IMAGE])[0, 1]) < 0.05


def test_reviews_follow_the_host_and_seem_to_matter_to_whoever_sees_the_table_only():
    hosts = make_hosts()
    reviews, age = hosts.table[:, 5], hosts.attributes["age"]
    assert 0.6 < np.corrcoef(reviews, age)[0, 1] < 0.8
    seemingly = np.polyfit(reviews / 150, hosts.effects[IMAGE], 1)[0]
    assert seemingly < -0.1, "confounded with age, whose effect falls"
    assert not hosts.effects["reviews"].any()


def test_pictures_are_drawn_by_row():
    hosts = make_hosts(20)
    assert hosts.images[slice(3, 5)].shape == (2, 64, 64, 3) and hosts.images[[0]].dtype == np.uint8
    np.testing.assert_array_equal(hosts.images[[4]], hosts.images[slice(3, 5)][1:])
    np.testing.assert_array_equal(hosts.take(np.array([7])).images[[0]], hosts.images[[7]])


# ------------------------------------------------------------- first stage
PRINCIPAL = {"components": 16, "hidden": 16}
REGIONAL = {**PRINCIPAL, "regions": [[4, 6, 2, 14], [9, 13, 4, 12]], "region_components": 8, "plain": 1}


@pytest.mark.parametrize(
    ("kind", "options", "stage_of"),
    [("principal", PRINCIPAL, PrincipalStage), ("regional", REGIONAL, RegionalStage)],
)
def test_the_first_stage_learns_codes_of_components(kind, options, stage_of):
    torch.manual_seed(0)
    model = DiffusionAutoencoder(side=16, n_latents=4, encoder=kind, encoder_options=options, widths=(16, 16))
    stage = stage_of(model, flatness=0.1, width=16)

    def draw(n: int, rng: np.random.Generator) -> torch.Tensor:
        seed = int(rng.integers(2**31))
        return portraits.draw(portraits.sample_attributes(min(n, 400), torch.Generator().manual_seed(seed)), 16)

    stage.prepare(model.encoder, draw, 0, 800, portraits.region_weight(16))
    optimizer = torch.optim.Adam([*model.encoder.parameters(), *stage.parameters()], 1e-2)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(60):
        loss = stage.loss(model, 64, 0.1, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0] < 1.2 * len(model.encoder.sizes)
