"""Diffusion autoencoders: DDIM both ways against diffusers, encoders, training that repeats and resumes."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor

from backend.additive_image import train
from backend.additive_image.data import draw_squares, hue_colours
from backend.additive_image.recipes import SOURCES, Recipe
from backend.errors import BadInput, Cancelled, ShapeError
from backend.models.diffusion_autoencoder import (
    PREDICTIONS,
    SPACINGS,
    DiffusionAutoencoder,
    PrincipalEncoder,
    RegionalEncoder,
    SalientEncoder,
    interpolate_linearly,
    interpolate_spherically,
)

TINY = {"side": 8, "n_latents": 2, "encoder_options": {"widths": [8, 16], "hidden": 16}, "widths": [8, 16]} | {
    "unshuffle": 2,
    "condition": 16,
}


def tiny(**changes) -> DiffusionAutoencoder:
    """A net with weights drawn by seed; its last layer too, which training begins at 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DiffusionAutoencoder(**{**TINY, **changes}).eval().requires_grad_(False)
        torch.nn.init.normal_(model.unet.conv_out.weight, std=0.05)
    return model


def images(n: int = 3, side: int = 8) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_decoding_is_the_loop_of_diffusers(prediction, spacing):
    model = tiny(prediction=prediction, spacing=spacing)
    codes = model.encode(images())
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    scheduler = DDIMScheduler(
        beta_schedule="linear", prediction_type=prediction, clip_sample=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(10)
    state = noise
    for timestep in scheduler.timesteps:
        state = scheduler.step(model.predict(state, timestep, codes), timestep, state, eta=0.0).prev_sample
    torch.testing.assert_close(model.decode(codes, noise, 10), ((state + 1) / 2).clamp(0, 1), atol=2e-4, rtol=1e-3)


def test_inversion_finds_the_noise_that_decodes_to_the_image():
    model = tiny(prediction="v_prediction", spacing="leading")
    pictures = images() * 0.6 + 0.2  # away from 0 and 1, where decoding clamps
    codes = model.encode(pictures)
    back = model.decode(codes, model.invert(pictures, codes, 20, n_iterations=8), 20)
    assert (back - pictures).square().mean() < 1e-6
    rough = model.decode(codes, model.invert(pictures, codes, 20, n_iterations=0), 20)
    assert (back - pictures).square().mean() < (rough - pictures).square().mean()


def test_a_strip_in_one_batch_is_its_frames_one_by_one():
    model = tiny()
    codes = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    together = model.decode(codes)
    alone = torch.cat([model.decode(code[None]) for code in codes])
    torch.testing.assert_close(together, alone, atol=3e-4, rtol=0)  # sums in another order, ten steps on


def test_steps_are_told_and_may_stop_the_work():
    model, seen = tiny(), []
    model.decode(torch.zeros(1, 2), n_steps=4, on_step=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done: int, total: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        model.decode(torch.zeros(1, 2), on_step=stop)


@pytest.mark.parametrize("encoder", ["flat", "pooled", "principal"])
def test_codes_have_mean_0_and_variance_1_over_the_training_images(encoder):
    options = {"components": 12, "hidden": 8} if encoder == "principal" else TINY["encoder_options"]
    model = tiny(encoder=encoder, encoder_options=options)
    pictures = images(200) * torch.rand(200, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    if encoder == "principal":
        model.encoder.fit_components(pictures * 2 - 1, torch.Generator().manual_seed(0))
    elif encoder == "pooled":  # untrained, the mean over all positions hardly varies
        model.encoder.head[-1].weight.mul_(100)
    model.set_standard(pictures)
    codes = model.encode(pictures)
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.ones(2), atol=0.05, rtol=0)


def test_components_are_those_of_a_singular_value_decomposition():
    encoder = PrincipalEncoder(8, 2, components=5, hidden=4)
    pictures = images(100) * torch.linspace(0.1, 2, 64).view(1, 1, 8, 8)
    encoder.fit_components(pictures, torch.Generator().manual_seed(0))
    rows = pictures.flatten(1) - pictures.flatten(1).mean(0)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:5].T
    overlap = torch.linalg.svdvals(encoder.basis.T @ directions)
    assert overlap.min() > 0.9  # the same subspace, but for the weakest of nearly equal components
    coefficients = encoder.coefficients(pictures)
    best = (rows @ encoder.basis @ encoder.basis.T + pictures.flatten(1).mean(0)).view_as(pictures)
    torch.testing.assert_close(encoder.compose(coefficients), best, atol=1e-4, rtol=1e-4)


def test_a_regions_pixels_move_its_own_latent_and_no_other():
    encoder = RegionalEncoder(8, 4, regions=((0, 2, 0, 8), (4, 8, 2, 6)), components=5, region_components=3, hidden=4)
    pictures = images(100)
    encoder.fit_components(pictures, torch.Generator().manual_seed(0))
    code = encoder(pictures)
    assert code.shape == (100, 4)
    for region, moved in ((encoder.regions[0], [2]), (encoder.regions[1], [3])):
        other = pictures.clone()
        other[(..., *region)] += 0.5
        change = (encoder(other) - code).abs().amax(0)
        assert [k for k in range(4) if change[k] > 1e-4] == moved
    elsewhere = pictures.clone()
    elsewhere[..., 3, :] += 0.5
    assert ((encoder(elsewhere) - code).abs().amax(0) > 1e-4).all(), "what surrounds a region may change what it means"


def test_regions_take_a_latent_each():
    with pytest.raises(BadInput, match="2 latents; each of 2 regions takes one"):
        RegionalEncoder(8, 2, regions=((0, 2, 0, 8), (4, 8, 2, 6)), components=5)


def test_a_salient_code_says_place_size_colour_and_ground_each_by_itself():
    squares = draw_squares(200, np.random.default_rng(0))
    pictures = torch.from_numpy(squares.draw()).permute(0, 3, 1, 2)
    code = SalientEncoder(32, 7)(pictures * 2 - 1).numpy()
    np.testing.assert_allclose((code[:, 0] + 1) * 16, squares.x, atol=0.02)
    np.testing.assert_allclose((code[:, 1] + 1) * 16, squares.y, atol=0.02)
    assert abs(np.corrcoef(code[:, 2], squares.side)[0, 1]) > 0.9999
    np.testing.assert_allclose((code[:, 6] + 1) / 2, squares.grey * 1.05, atol=1e-3)
    recoloured = dataclasses.replace(squares, hue=np.roll(squares.hue, 1))
    other = SalientEncoder(32, 7)(torch.from_numpy(recoloured.draw()).permute(0, 3, 1, 2) * 2 - 1).numpy()
    np.testing.assert_allclose(other[:, [0, 1, 2, 6]], code[:, [0, 1, 2, 6]], atol=0.02)
    blurred, pure = (
        (SalientEncoder(32, 3, says=("colour",), focus=power)(pictures * 2 - 1) + 1) / 2 for power in (1, 8)
    )
    wanted = torch.from_numpy(hue_colours(squares.hue)).float()
    assert (pure - wanted).square().mean() < 0.02 * (blurred - wanted).square().mean()
    by_hue = SalientEncoder(32, 1, says=("colour",), hidden=4)
    assert by_hue(pictures).shape == (200, 1)
    assert torch.isfinite(by_hue(torch.zeros(1, 3, 32, 32))).all()  # nothing stands out
    beside = SalientEncoder(32, 4, says=("colour",), hidden=4, beside=("where", "spread"))(pictures * 2 - 1)
    np.testing.assert_array_equal(beside[:, 1:].detach().numpy(), code[:, :3])
    with pytest.raises(BadInput, match="beside them 3"):
        SalientEncoder(32, 3, says=("colour",), hidden=4, beside=("where", "spread"))
    with pytest.raises(BadInput, match="what it says are 3 numbers"):
        SalientEncoder(32, 7, says=("colour",))
    with pytest.raises(BadInput, match="cannot say 'smell'"):
        SalientEncoder(32, 7, says=("smell",))


def test_a_circle_keeps_the_length_of_noise():
    first, last = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    alphas = torch.linspace(0, 1, 5)
    between = interpolate_spherically(first, last, alphas)
    torch.testing.assert_close(between[0], first)
    torch.testing.assert_close(between[-1], last)
    norms = between.flatten(1).norm(dim=1)
    assert norms.min() > 0.98 * min(first.norm(), last.norm())
    straight = interpolate_linearly(first.flatten(), last.flatten(), alphas)
    assert straight.norm(dim=1).min() < 0.8 * first.norm()  # what is avoided
    assert torch.equal(interpolate_spherically(first, first, alphas)[2], first)


def test_wrong_shapes_and_names_are_refused():
    model = tiny()
    with pytest.raises(ShapeError, match=r"expected \(N, 3, 8, 8\)"):
        model.encode(torch.zeros(1, 3, 9, 9))
    with pytest.raises(ShapeError, match="for 2 images"):  # diffusers would broadcast one code over both
        model.predict(torch.zeros(2, 3, 8, 8), torch.tensor(3), torch.zeros(1, 2))
    with pytest.raises(BadInput, match="0 steps; expected 1..1000"):
        model.timesteps(0)
    with pytest.raises(BadInput, match="unknown encoder"):
        tiny(encoder="deep")
    with pytest.raises(BadInput, match="cannot be unshuffled by 3"):
        tiny(unshuffle=3)


# ----------------------------------------------------------------- training
@pytest.fixture
def recipe(monkeypatch):
    """Images of one grey each: learned in a few steps."""

    def draw(n, rng):
        return torch.from_numpy(rng.random((n, 1, 1, 1), "float32")).expand(-1, 3, 8, 8).contiguous()

    monkeypatch.setitem(SOURCES, "greys", draw)
    return Recipe(
        source="greys", network=TINY, encoder_steps=20, encoder_batch=8, steps=20, batch=4, half=False, code_noise=0.05
    )


def weights(folder) -> bytes:
    return (folder / "greys-dae.safetensors").read_bytes()


def test_training_repeats_by_seed_and_goes_on_where_it_stopped(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "KEEP_EVERY", 5)
    card = train.train_autoencoder("greys-dae", recipe=recipe, folder=tmp_path / "whole")
    assert card["network"] == TINY and card["parameters"]["all"] > card["parameters"]["encoder"]

    class Stop(Exception):
        pass

    for stop_at in (7, 32):  # in the first stage, then in the second

        def on_step(step, stop_at=stop_at):
            if step.done == stop_at:
                raise Stop

        with pytest.raises(Stop):
            train.train_autoencoder(
                "greys-dae", recipe=recipe, folder=tmp_path, on_step=on_step, checkpoint=tmp_path / "state.pt"
            )
    train.train_autoencoder("greys-dae", recipe=recipe, folder=tmp_path, checkpoint=tmp_path / "state.pt")
    assert weights(tmp_path) == weights(tmp_path / "whole")
    assert not (tmp_path / "state.pt").exists()


def test_an_encoder_that_learns_nothing_needs_no_first_stage(recipe, tmp_path):
    network = {**recipe.network, "encoder": "salient", "encoder_options": {"says": ["ground"]}, "n_latents": 1}
    plain = dataclasses.replace(recipe, network=network, encoder_steps=0, spare_latents=0, steps=3, batch=4)
    card = train.train_autoencoder("greys-dae", recipe=plain, folder=tmp_path)
    assert card["parameters"]["encoder"] == 0
    state = load_file(tmp_path / "greys-dae.safetensors")
    assert abs(float(state["standard.running_var"]) - 1) > 1e-3  # taken on training images


def test_training_learns_end_to_end_too(recipe, tmp_path):
    both = dataclasses.replace(recipe, encoder_steps=0, steps=80, batch=8, rate=4e-3)
    run = train._Run("greys-dae", 0, both, torch.device("cpu"), None)
    losses = []
    run.fit(lambda step: losses.append(run.loss))
    assert losses[-1] < 0.8 * losses[0]  # a slow running mean
    assert not run.model.training


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(BadInput, match="unknown model 'nobody'"):
        train.train_autoencoder("nobody", folder=tmp_path)
    with pytest.raises(BadInput, match="unknown source"):
        Recipe(source="nowhere")
    with pytest.raises(BadInput, match="cannot be read"):
        Recipe.from_json({"source": "squares", "speed": 3})
