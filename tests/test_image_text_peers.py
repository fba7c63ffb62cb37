"""The peers of M2IB: closed forms, hand-computed relevance, refusals in a sentence, and every row on every tower."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.catalog import PAIR_METHODS
from backend.contracts import PairMapRequest
from backend.errors import NotAvailable, PrismError
from backend.image_text import attention, grad_cam, kernel_shap, rise, saliency
from backend.image_text.occlusion import words_of
from backend.image_text.problem import Problem
from backend.image_text.run import implementation
from backend.models.library import Library
from backend.runtime import Chunks, Runtime
from backend.service import LocalService
from tests.helpers import random_images, relative_difference
from tests.pairs import KINDS, REPORT, SIDE, tiny_pair, write_pair
from tests.test_catalog import assert_as_found, state_of
from tests.test_image_text_bottleneck import image_problem, text_problem


# ----------------------------------------------------------------- towers with known scores
class LinearWords:
    """A text tower whose feature's cosine with the target is linear in which words are there."""

    modality, pooling, n_layers = "text", "average", 1

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def encode(self, ids: Tensor) -> Tensor:
        score = ((ids != 0) * self.weights).sum(-1)
        return torch.stack([score, (1 - score.square()).sqrt()], -1)  # a unit vector

    def prefix(self, inputs: Tensor, layer: int) -> Tensor:
        return torch.zeros(len(inputs), inputs.shape[1], 1, dtype=self.weights.dtype)


WEIGHTS = torch.tensor([0.0, 0.05, -0.1, 0.2, 0.1, 0.0], dtype=torch.float64)  # start, three words of 1, 2, 1, end
WORDS = ((1, 2), (2, 4), (4, 5))
OF_WORDS = torch.tensor([0.05, 0.1, 0.1], dtype=torch.float64)


def linear_problem(**fields) -> Problem:
    target = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return Problem(LinearWords(WEIGHTS), torch.arange(1, 7)[None], target, words=WORDS, chunks=Chunks(16), **fields)


class LinearPixels:
    """An image tower whose cosine with the target is linear in the pixels."""

    modality, pooling, n_layers = "image", "average", 1

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def encode(self, images: Tensor) -> Tensor:
        score = (images * self.weights).sum((1, 2, 3))
        return torch.stack([score, (1 - score.square()).sqrt()], -1)


def pixel_problem(**fields) -> tuple[Problem, Tensor]:
    weights = (random_images(1, 1, 16, 16, seed=4) - 0.5) / 256
    image = random_images(1, 1, 16, 16, seed=5)
    target = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    return Problem(LinearPixels(weights), image, target, chunks=Chunks(64), **fields), (weights * image)[0, 0]


# ----------------------------------------------------------------- KernelSHAP
@pytest.mark.parametrize("samples", [6, 512])
def test_kernel_shap_is_exact_for_a_linear_score(samples):
    found = kernel_shap.attribute(linear_problem(), samples=samples)
    torch.testing.assert_close(found.maps[0], torch.tensor([0, 0.05, 0.05, 0.05, 0.1, 0], dtype=torch.float64))
    assert float(found.figures["sum"][0]) == pytest.approx(0.25)


def test_kernel_shap_of_superpixels_shares_a_linear_score():
    problem, shares = pixel_problem()
    found = kernel_shap.attribute(problem, samples=300, segments=9).maps[0]
    assert float(found.sum()) == pytest.approx(float(shares.sum()), abs=1e-9)
    for value in found.unique():
        region = (found - value).abs() < 1e-12
        assert float(found[region].sum()) == pytest.approx(float(shares[region].sum()), abs=1e-6)


def test_kernel_shap_of_all_coalitions_is_the_shapley_value():
    """Three players, v({1,2}) = v({1,2,3}) = 1, others 0: the first two share it."""
    coalitions, weights = kernel_shap.draw_coalitions(3, 100, torch.Generator())
    worth = (coalitions[:, 0] * coalitions[:, 1])[:, None].double()
    values = kernel_shap.fit_shapley(
        coalitions.double(), weights.double(), worth, torch.zeros(1).double(), torch.ones(1).double()
    )
    torch.testing.assert_close(values[:, 0], torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_single_word_gets_everything():
    problem = dataclasses.replace(linear_problem(), words=((1, 5),))
    assert float(kernel_shap.attribute(problem).maps[0].sum()) == pytest.approx(0.25)


# ----------------------------------------------------------------- RISE
def test_rise_of_a_linear_score_is_its_closed_form():
    """E[score | word shown] = w + p (sum of the others), which is what the weighted mean estimates."""
    parts = words_of(linear_problem())
    found = torch.stack([rise.attribute(linear_problem(seed=seed), samples=2000).maps[0] for seed in range(4)]).mean(0)
    expected = OF_WORDS + 0.5 * (OF_WORDS.sum() - OF_WORDS)
    torch.testing.assert_close(found, parts.spread(expected[None])[0], atol=5e-3, rtol=0)


def test_rise_of_a_constant_score_is_that_score_everywhere():
    problem, _ = pixel_problem()
    constant = dataclasses.replace(problem, tower=LinearPixels(torch.zeros(1, 1, 16, 16, dtype=torch.float64)))
    constant.targets = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    found = rise.attribute(constant, samples=4000, grid=4).maps[0]
    torch.testing.assert_close(found, torch.ones_like(found), atol=0.06, rtol=0)


# ----------------------------------------------------------------- attention
def test_relevance_of_two_layers_by_hand():
    """R = I; R <- R + (grad * A)+ R, twice, with negative products cut off; two heads averaged."""
    first = torch.tensor([[[[0.6, 0.4], [0.5, 0.5]], [[0.2, 0.8], [1.0, 0.0]]]])
    second = torch.tensor([[[[0.5, 0.5], [0.3, 0.7]], [[0.1, 0.9], [0.6, 0.4]]]])
    up = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]], [[1.0, 1.0], [0.0, -3.0]]]])
    # block 1: head 1 [.6, 0; 1, 0], head 2 [.2, .8; 0, 0]; mean [.4, .4; .5, 0]; R = [1.4, .4; .5, 1]
    # block 2: head 1 [.5, 0; .6, 0], head 2 [.1, .9; 0, 0]; mean [.3, .45; .3, 0]
    # R + mean R = [1.4 + .42 + .225, .4 + .12 + .45; .5 + .42, 1 + .12]
    found = attention.carry_relevance([first, second], [up, up])
    torch.testing.assert_close(found, torch.tensor([[[2.045, 0.97], [0.92, 1.12]]]))


@pytest.mark.parametrize("kind", ["vit", "average"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_relevance_of_a_tower_is_that_of_its_attentions(kind, modality):
    pair = tiny_pair(kind)
    problem = (image_problem if modality == "image" else text_problem)(pair)
    found = attention.relevance(problem)
    with torch.enable_grad():
        features, attentions = problem.tower.attend(problem.inputs)
        cosine = F.cosine_similarity(features, problem.targets).sum()
        carried = torch.eye(attentions[0].shape[-1])[None]
        for a, g in zip(attentions, torch.autograd.grad(cosine, attentions), strict=True):
            carried = carried + (a * g).clamp(min=0).mean(1) @ carried
    pooled = carried[0, 0, 1:] if kind == "vit" else carried[0, 1:, 1:].mean(0)
    row = carried[0, -1] if modality == "text" else pooled
    torch.testing.assert_close(found.maps[0].flatten(), row.detach())


@pytest.mark.parametrize("make", [image_problem, text_problem])
def test_smoothing_spreads_relevance_over_an_image_only(make):
    problem = make(tiny_pair("average"))
    plain, smooth = attention.relevance(problem).maps, attention.relevance(problem, smooth=1.0).maps
    if problem.is_text:
        torch.testing.assert_close(smooth, plain)
    else:
        assert smooth.shape == plain.shape and 0 < smooth.std() < plain.std()
        assert plain.min() <= smooth.min() and smooth.max() <= plain.max()


@pytest.mark.parametrize("kind", ["vit", "average"])
def test_attend_gives_the_tower_s_own_features(kind):
    pair = tiny_pair(kind)
    for problem in (image_problem(pair), text_problem(pair)):
        with torch.no_grad():
            features, attentions = problem.tower.attend(problem.inputs)
            torch.testing.assert_close(features, problem.tower.encode(problem.inputs), atol=1e-5, rtol=1e-4)
        for weights in attentions:
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


def test_rollout_of_even_attention_is_even():
    even = torch.full((1, 2, 4, 4), 0.25)
    torch.testing.assert_close(attention.roll_out([even, even]), (torch.eye(4) / 4 + torch.full((4, 4), 0.1875))[None])


def test_rollout_is_the_same_for_every_text():
    maps = attention.rollout(image_problem(tiny_pair(), (REPORT, "clear lungs"))).maps
    assert torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("method", [attention.relevance, attention.rollout])
def test_a_tower_without_attention_is_refused(method):
    with pytest.raises(NotAvailable, match="no self-attention") as refusal:
        method(image_problem(tiny_pair("resnet")))
    assert refusal.value.field == "method"


# ----------------------------------------------------------------- gradients
def test_grad_cam_is_its_formula():
    pair = tiny_pair("average")
    problem = image_problem(pair)
    hidden = pair.image.prefix(problem.inputs, 3).detach().requires_grad_(True)
    with torch.enable_grad():
        cosine = F.cosine_similarity(pair.image.suffix(hidden, 3), problem.targets).sum()
    (gradient,) = torch.autograd.grad(cosine, hidden)
    expected = (gradient[:, 1:].mean(1, keepdim=True) * hidden[:, 1:]).sum(-1).clamp(min=0)
    torch.testing.assert_close(grad_cam.attribute(problem).maps.flatten(1), expected.detach())


def test_saliency_is_the_slope_of_the_cosine():
    problem = image_problem(tiny_pair(dtype=torch.float64))
    problem.inputs = random_images(1, 3, SIDE, SIDE, seed=3)
    found = saliency.attribute(problem).maps[0]
    y, x = divmod(int(found.argmax()), SIDE)
    slopes = []
    for channel in range(3):
        ends = []
        for sign in (1, -1):
            moved = problem.inputs.clone()
            moved[0, channel, y, x] += sign * 1e-5
            ends.append(float(problem.cosines(moved)[0, 0]))
        slopes.append(abs(ends[0] - ends[1]) / 2e-5)
    assert float(found[y, x]) == pytest.approx(max(slopes), rel=1e-4)


# ----------------------------------------------------------------- every row on every tower
@pytest.fixture(scope="module", params=KINDS)
def service(request, tmp_path_factory) -> LocalService:
    folder = write_pair(tmp_path_factory.mktemp(request.param), kind=request.param)
    return LocalService(Runtime("cpu"), Library(weights_folder=folder))


CHEAP = {"rise": {"samples": 64}, "kernel-shap": {"samples": 64, "segments": 9}}


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("key", PAIR_METHODS)
def test_every_method_on_every_tower(service, key, modality):
    from backend.images import encode_png

    image_id = service.put_image(encode_png(np.random.default_rng(0).random((SIDE, SIDE)))).id
    pair = service.runtime.model("cxr-clip", lambda: service.library.load("cxr-clip"))
    before, numbers = state_of(pair.module), torch.random.get_rng_state()
    params = tuple(sorted(CHEAP.get(key, {}).items()))
    request = PairMapRequest(image_id, REPORT, key, modality=modality, params=params, seed=3)
    try:
        result = service.run(request)
    except PrismError as refusal:
        assert key in ("chefer", "rollout") and modality == "image" and not pair.image.has_attention
        assert refusal.field == "method" and refusal.sentence
        return
    finally:
        assert_as_found(pair.module, before)
        assert torch.equal(torch.random.get_rng_state(), numbers), "drew from the global generator"
    name = "image_map" if modality == "image" else "word_map"
    assert np.isfinite(result.arrays[name]).all()
    assert result.unit == PAIR_METHODS[key].unit
    assert PAIR_METHODS[key].signed or result.arrays[name].min() >= -1e-6
    service.result_store.clear()
    np.testing.assert_array_equal(service.run(request).arrays[name], result.arrays[name])


@pytest.mark.parametrize("key", PAIR_METHODS)
def test_a_batch_of_texts_equals_its_items(key):
    pair, texts = tiny_pair(), (REPORT, "clear lungs")
    params = dict(PAIR_METHODS[key].complete_params(CHEAP.get(key, {})))
    explain = implementation(PAIR_METHODS[key])
    negatives = F.normalize(random_images(5, 16, seed=9, dtype=torch.float32) - 0.5, dim=-1)
    together = explain(image_problem(pair, texts, negatives=negatives), **params)
    for k, text in enumerate(texts):
        alone = explain(image_problem(pair, (text,), negatives=negatives), **params)
        assert relative_difference(together.maps[k], alone.maps[0]) < 1e-3


@pytest.mark.parametrize("key", PAIR_METHODS)
def test_rows_resolve_and_have_valid_defaults(key):
    spec = PAIR_METHODS[key]
    assert callable(implementation(spec)) and spec.family == "image_text"
    assert spec.summary.endswith(".") and spec.limits.endswith(".") and spec.source and spec.equation and spec.unit
    for param in spec.params:
        assert param.help and (param.default is not None or param.auto_help)
    assert spec.complete_params({}) == spec.complete_params(dict(spec.complete_params({})))
