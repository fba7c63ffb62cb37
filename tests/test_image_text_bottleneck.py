"""M2IB against a plain implementation that runs both towers whole at every step, and its parts against closed forms."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from backend.errors import BadInput, ModelFault
from backend.image_text import bottleneck
from backend.image_text.problem import Problem, Statistics
from backend.models.clip import ImageTextPair
from tests.helpers import random_images, relative_difference
from tests.pairs import KINDS, REPORT, SIDE, tiny_pair
from tests.plain_m2ib import PlainBottleneck

LAYER = {"vit": 1, "average": 2, "resnet": 2}
TOLERANCE = 1e-4


def image_problem(pair: ImageTextPair, texts: tuple[str, ...] = (REPORT,), **fields) -> Problem:
    with torch.no_grad():
        targets = pair.embed_texts(list(texts))
    pixels = random_images(1, pair.n_channels, SIDE, SIDE, seed=3, dtype=targets.dtype)
    return Problem(tower=pair.image, inputs=pixels, targets=targets, **fields)


def text_problem(pair: ImageTextPair, text: str = REPORT, **fields) -> Problem:
    tokenized = pair.tokenizer.tokenize(text)
    with torch.no_grad():
        targets = pair.embed_images(random_images(1, pair.n_channels, SIDE, SIDE, seed=3, dtype=torch.float32))
    words = tuple((word.first, word.last) for word in tokenized.words)
    return Problem(tower=pair.text, inputs=pair.tokens(text), targets=targets, words=words, **fields)


# ----------------------------------------------------------------- the plain implementation
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("sigma2", [1.0, 0.1])
def test_the_fast_map_equals_the_plain_one(kind, modality, sigma2):
    pair, layer = tiny_pair(kind), LAYER[kind] if modality == "image" else 2
    problem = (image_problem if modality == "image" else text_problem)(pair, seed=7)
    ours = bottleneck.attribute(problem, layer=layer, beta=0.1, sigma2=sigma2, samples=4)
    image = random_images(1, pair.n_channels, SIDE, SIDE, seed=3, dtype=torch.float32)
    plain = PlainBottleneck(tiny_pair(kind), modality, layer).explain(
        image, pair.tokens(REPORT), seed=7, beta=0.1, sigma2=sigma2, steps=10, samples=4
    )
    shown = plain[-ours.maps[0].numel() :] if modality == "image" else plain
    assert relative_difference(ours.maps[0].flatten(), shown) < TOLERANCE
    if modality == "image":
        assert float(ours.special[0]) == pytest.approx(float(plain[: len(plain) - len(shown)].sum()), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_the_normalised_and_smoothed_map_equals_the_plain_one(kind, smooth):
    pair, layer = tiny_pair(kind), LAYER[kind]
    problem = image_problem(pair, seed=7)
    hidden = pair.image.prefix(random_images(20, pair.n_channels, SIDE, SIDE, seed=5, dtype=torch.float32), layer)
    measured = Statistics(hidden.mean(0), hidden.std(0) + 0.1)
    problem = dataclasses.replace(problem, statistics=lambda _: measured)
    ours = bottleneck.attribute(problem, layer=layer, beta=0.4, mode="normalised", samples=4, smooth=smooth)
    plain = PlainBottleneck(tiny_pair(kind), "image", layer).explain(
        problem.inputs, pair.tokens(REPORT), seed=7, beta=0.4, sigma2=1.0, steps=10, samples=4,
        statistics=(measured.mean, measured.std), smooth=smooth, grid=ours.maps[0].shape,
    )  # fmt: skip
    assert relative_difference(ours.maps[0].flatten(), plain[-ours.maps[0].numel() :]) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_the_pair_is_left_as_it_was(kind):
    pair = tiny_pair(kind)
    before = {name: tensor.clone() for name, tensor in pair.module.state_dict().items()}
    numbers = torch.random.get_rng_state()
    for problem in (image_problem(pair), text_problem(pair)):
        bottleneck.attribute(problem)
    assert torch.equal(numbers, torch.random.get_rng_state())
    assert not any(p.requires_grad or p.grad is not None for p in pair.module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pair.module.modules())


# ----------------------------------------------------------------- what runs how often
class CountingTower:
    """Passes calls on and remembers how many rows went through which part."""

    def __init__(self, tower) -> None:
        self.tower, self.prefixes, self.suffixes = tower, [], []

    def __getattr__(self, name):
        return getattr(self.tower, name)

    def prefix(self, inputs, layer):
        assert not torch.is_grad_enabled()
        self.prefixes.append(len(inputs))
        return self.tower.prefix(inputs, layer)

    def suffix(self, hidden, layer, inputs=None):
        self.suffixes.append(len(hidden))
        return self.tower.suffix(hidden, layer, inputs)


def test_the_prefix_runs_once_for_all_sentences():
    pair = tiny_pair()
    problem = image_problem(pair, (REPORT, "clear lungs", "no effusion"))
    tower = CountingTower(pair.image)
    bottleneck.attribute(dataclasses.replace(problem, tower=tower), n_steps=5, samples=4)
    assert tower.prefixes == [1]
    assert tower.suffixes == [1] + [3 * 4] * 5  # once intact, then all sentences and samples together


# ----------------------------------------------------------------- batches and seeds
def test_a_batch_equals_its_items():
    pair = tiny_pair()
    texts = (REPORT, "clear lungs", "no effusion in the left lung")
    together = bottleneck.attribute(image_problem(pair, texts, seed=1))
    for k, text in enumerate(texts):
        alone = bottleneck.attribute(image_problem(pair, (text,), seed=1))
        assert relative_difference(together.maps[k], alone.maps[0]) < TOLERANCE
    problems = [text_problem(pair, text, seed=1) for text in texts]
    for one, problem in zip(bottleneck.attribute_all(problems), problems, strict=True):
        assert relative_difference(one.maps, bottleneck.attribute(problem).maps) < TOLERANCE


def test_seeds_repeat_and_differ():
    pair = tiny_pair()
    first, same, other = (bottleneck.attribute(image_problem(pair, seed=seed)).maps for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


# ----------------------------------------------------------------- modes
def statistics_of(pair: ImageTextPair, layer: int) -> Statistics:
    with torch.no_grad():
        hidden = pair.image.prefix(random_images(64, pair.n_channels, SIDE, SIDE, dtype=torch.float32), layer)
    return Statistics(hidden.mean(0), hidden.std(0) + 0.05 * hidden.std())


@pytest.mark.parametrize("kind", KINDS)
def test_the_normalised_mode_has_one_gate_for_all_channels_of_a_token(kind):
    pair, layer = tiny_pair(kind), LAYER[kind]
    statistics = statistics_of(pair, layer)
    problem = image_problem(pair, seed=2, statistics=lambda asked: statistics if asked == layer else None)
    found = bottleneck.attribute(problem, layer=layer, mode="normalised", n_steps=3, samples=2)
    # the same with the standardisation moved into the tower: there the hidden state is already standard
    with torch.no_grad():
        standard = (pair.image.prefix(problem.inputs, layer) - statistics.mean) / statistics.std
    generator, alpha = torch.Generator().manual_seed(2), torch.full((1, standard.shape[1], 1), 5.0, requires_grad=True)
    adam = torch.optim.Adam([alpha], lr=1.0)
    for _ in range(3):
        gate = alpha.sigmoid().expand_as(standard)
        noise = torch.randn(2, *standard.shape[1:], generator=generator)
        behind = (gate * standard + (1 - gate) * noise) * statistics.std + statistics.mean
        divergence = kl_divergence(Normal(gate * standard, 1 - gate), Normal(0.0, 1.0))
        cosine = F.cosine_similarity(pair.image.suffix(behind, layer), problem.targets).mean()
        adam.zero_grad()
        (0.1 * divergence.mean() - cosine).backward()
        adam.step()
    plain = divergence.detach()[0].sum(-1)[-found.maps[0].numel() :]
    assert relative_difference(found.maps[0].flatten(), plain) < TOLERANCE


def test_the_mode_is_paper_where_no_statistics_are_held():
    pair = tiny_pair()
    chosen, paper = (bottleneck.attribute(image_problem(pair), mode=mode).maps for mode in (None, "paper"))
    assert torch.equal(chosen, paper)
    with pytest.raises(BadInput, match="choose the mode paper"):
        bottleneck.attribute(image_problem(pair), mode="normalised")


# ----------------------------------------------------------------- parts
def test_the_divergence_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    mean, alpha = torch.randn(2, 500, generator=generator, dtype=torch.float64) * 4
    for sigma2 in (1.0, 0.1, 0.01):
        log_variance = torch.log(torch.tensor(sigma2)) + 2 * F.logsigmoid(-alpha)
        plain = kl_divergence(Normal(mean, sigma2**0.5 * (1 - alpha.sigmoid())), Normal(0.0, 1.0))
        torch.testing.assert_close(bottleneck.gaussian_kl(mean, log_variance), plain, rtol=1e-5, atol=1e-6)


def test_the_divergence_stays_a_number_where_a_naive_one_does_not():
    alpha = torch.tensor([200.0])  # 1 - sigmoid(200) is 0 in single precision, its logarithm -inf
    log_variance = 2 * F.logsigmoid(-alpha)
    assert torch.isfinite(bottleneck.gaussian_kl(torch.tensor([1.0]), log_variance)).all()


def test_capacity_is_the_compression_of_the_last_step():
    pair = tiny_pair()
    problem = image_problem(pair)
    found = bottleneck.attribute(problem, layer=1)
    total = float(found.maps.sum() + found.special.sum())
    elements = pair.image.prefix(problem.inputs, 1).numel()
    assert total / elements == pytest.approx(float(found.curves["compression"][0, -1]), rel=1e-5)
    assert float(found.figures["fit_before"][0]) == pytest.approx(
        float(problem.cosines(problem.inputs)[0, 0]), abs=1e-5
    )


def test_more_compression_leaves_less_on_the_map():
    pair = tiny_pair()
    loose, tight = (
        bottleneck.attribute(image_problem(pair), beta=beta, n_steps=30).maps.sum() for beta in (0.01, 10.0)
    )
    assert float(tight) < float(loose)


def test_broken_activations_are_a_fault_and_not_a_map():
    pair = tiny_pair()
    with torch.no_grad():
        pair.module.visual.positional_embedding[3] = float("nan")
    with pytest.raises(ModelFault, match="not numbers"):
        bottleneck.attribute(image_problem(pair))


@pytest.mark.parametrize("layer", [-1, 4, 99])
def test_a_layer_out_of_range_is_refused(layer):
    with pytest.raises(BadInput, match="0..3"):
        bottleneck.attribute(image_problem(tiny_pair()), layer=layer)


# ----------------------------------------------------------------- contrast
class PassThrough:
    """A tower without blocks behind the bottleneck: its feature is the sum of its tokens."""

    modality, pooling, n_layers, first_layer = "text", "average", 1, 0

    def check_layer(self, layer, least=0):
        return layer

    def prefix(self, inputs, layer):
        return torch.tensor([[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]]])

    def suffix(self, hidden, layer, inputs=None):
        return hidden.sum(1)

    def grid(self, layer):
        return None


def test_the_contrast_lets_go_what_fits_everything():
    """Token 0 points where only the right partner lies, token 1 where all partners lie, token 2 nowhere."""
    unit = F.normalize(torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.1]]), dim=-1)
    problem = Problem(PassThrough(), torch.zeros(1, 3), unit[:1], negatives=unit[1:], words=((0, 1), (1, 2), (2, 3)))
    settings = {"layer": 0, "beta": 0.05, "sigma2": 1.0, "n_steps": 20, "samples": 50}
    plain = bottleneck.attribute(problem, **settings).maps[0]
    contrast = bottleneck.attribute_contrast(problem, **settings).maps[0]
    assert plain[1] > 0.5 * plain[0] and plain[2] < plain[1]
    assert contrast[0] > 4 * contrast[1]


def test_the_contrast_needs_strangers():
    with pytest.raises(BadInput, match="do not belong"):
        bottleneck.attribute_contrast(image_problem(tiny_pair()))


# ----------------------------------------------------------------- smoothing
def test_smoothing_keeps_constants_and_leading_tokens():
    matrix = bottleneck.smoothing((3, 4), 1, 1.0)
    assert torch.allclose(matrix.sum(1), torch.ones(13))
    assert matrix[0, 0] == 1 and not matrix[1:, 0].any()
    assert matrix[1, 2] > matrix[1, 3] > 0  # nearer places count more


def test_a_place_that_must_pass_opens_its_neighbours():
    """Only the middle of five cells is read; by itself it alone stays open, smoothed its neighbours do as well."""
    hidden = torch.full((1, 5, 1), 3.0)
    settings = bottleneck.Settings(beta=0.1, n_steps=20, samples=20)

    def score(features):
        return -(features[..., 0] - 3.0).square()

    def capacity(neighbours):
        generators = [torch.Generator().manual_seed(0)]
        found = bottleneck.squeeze(hidden, lambda z: z[:, 2], score, generators, settings, neighbours=neighbours)
        return found.capacity[0]

    alone = capacity(None)
    assert torch.equal(capacity(torch.eye(5)).argsort(), alone.argsort())
    assert torch.allclose(capacity(torch.eye(5)), alone, rtol=1e-3)
    smooth = capacity(bottleneck.smoothing((1, 5), 0, 1.0))
    assert smooth[2] > smooth[1] > smooth[0] and smooth[1] / smooth[2] > 2 * alone[1] / alone[2]
