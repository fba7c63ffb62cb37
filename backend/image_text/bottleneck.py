"""M2IB: as little of a hidden state as keeps an image and a text close, found by noise in a bottleneck.

The hidden state h after block `layer` is replaced by Z = lambda h + sigma (1 - lambda) noise with
lambda = sigmoid(alpha). What comes before it runs once, what comes after it only for alpha.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import BadInput, ModelFault
from backend.image_text.problem import Explanation, Problem, Statistics, places

Mode = Literal["paper", "normalised"]
ALPHA_AT_START = 5.0  # lambda = .993: nearly everything passes
Suffix = Callable[[Tensor], Tensor]  # hidden states (N, T, C) -> features (N, E)
Score = Callable[[Tensor], Tensor]  # features (B, samples, E) -> (B, samples), to be kept high


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers of the bottleneck; defaults as in the paper."""

    beta: float = 0.1  # weight of the compression
    sigma2: float = 1.0  # variance of the noise
    n_steps: int = 10
    lr: float = 1.0  # of Adam
    samples: int = 10  # of the noise, in each step


@dataclass(frozen=True)
class Bottleneck:
    """What was found: how much of every token has to pass, and how it was found."""

    capacity: Tensor  # (B, T), nats, summed over channels
    fit: Tensor  # (B, n_steps), mean score through the bottleneck
    compression: Tensor  # (B, n_steps), mean KL divergence of an element, nats


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of every element, in nats.

    >>> gaussian_kl(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0]))
    tensor([0., 2.])
    """
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1.0)


def squeeze(
    hidden: Tensor,
    suffix: Suffix,
    score: Score,
    generators: Sequence[torch.Generator],
    settings: Settings = Settings(),
    statistics: Statistics | None = None,
    lengths: Sequence[int] | None = None,
    on_step: Callable[[int], None] = lambda done: None,
    neighbours: Tensor | None = None,
) -> Bottleneck:
    """Close a bottleneck on hidden states until only what the score needs passes.

    Maximises score(suffix(Z)) - beta mean KL over alpha by Adam. Items of the batch do not touch one another. With
    statistics, h is standardised before the noise and brought back behind it, and one alpha serves all channels of a
    token.
    Differs from Eq. 15, which has the whole KL: its mean over elements is what the published beta were found with.
    Differs from the authors' code, which ignores sigma.
    Differs from the paper where `neighbours` are given: it smooths nothing, the bottleneck that it descends from does.

    Args:
        hidden: (B, T, C), outside any graph.
        suffix: rows of item b are b * samples .. (b + 1) * samples - 1.
        score: of features (B, samples, E).
        generators: one for each item, on the CPU.
        statistics: None: the paper's mode.
        lengths: how many tokens of each item are its own; the others are padding. None: all.
        neighbours: (T, T), rows of sum 1: each token's lambda is a mean over its neighbours' (see `smoothing`).
    Returns: capacity and curves as the last step found them.
    Raises: ModelFault: something became not a number.
    Source: Wang et al., Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck
        Attribution, NeurIPS 2023, Eq. 13-15.
    """
    n_items, n_tokens, n_channels = hidden.shape
    lengths = list(lengths or [n_tokens] * n_items)
    own = torch.arange(n_tokens, device=hidden.device) < torch.tensor(lengths, device=hidden.device)[:, None]
    plain = hidden if statistics is None else (hidden - statistics.mean) / statistics.std
    elements = hidden.new_tensor(lengths) * n_channels
    log_sigma2 = torch.log(hidden.new_tensor(settings.sigma2))
    alpha = torch.full_like(plain if statistics is None else plain[..., :1], ALPHA_AT_START).requires_grad_(True)
    adam = torch.optim.Adam([alpha], lr=settings.lr)
    fit, compression = [], []
    with torch.enable_grad():
        for done in range(settings.n_steps):
            passing, log_lost = _lambda(alpha, neighbours)
            mean = passing * plain
            log_variance = (log_sigma2 + 2.0 * log_lost).expand_as(plain)
            nats = (gaussian_kl(mean, log_variance) * own[..., None]).sum(-1)  # (B, T)
            noise = _noise(generators, settings.samples, lengths, n_tokens, n_channels).to(hidden)
            passed = mean[:, None] + (0.5 * log_variance).exp()[:, None] * noise  # (B, samples, T, C)
            if statistics is not None:
                passed = passed * statistics.std + statistics.mean
            features = suffix(passed.flatten(0, 1)).unflatten(0, (n_items, settings.samples))
            scores, rates = score(features).mean(1), nats.sum(1) / elements
            (gradient,) = torch.autograd.grad((settings.beta * rates - scores).sum(), alpha)
            alpha.grad = gradient
            adam.step()
            fit.append(scores.detach())
            compression.append(rates.detach())
            on_step(done + 1)
    found = Bottleneck(nats.detach(), torch.stack(fit, 1), torch.stack(compression, 1))
    if not all(torch.isfinite(part).all() for part in (found.capacity, found.fit, found.compression)):
        raise ModelFault("the bottleneck met values that are not numbers; the model's activations are broken", "model")
    return found


def _lambda(alpha: Tensor, neighbours: Tensor | None) -> tuple[Tensor, Tensor]:
    """lambda and log(1 - lambda), without cancellation."""
    if neighbours is None:
        return torch.sigmoid(alpha), F.logsigmoid(-alpha)
    return neighbours @ torch.sigmoid(alpha), (neighbours @ torch.sigmoid(-alpha)).log()


def smoothing(grid: tuple[int, int], leading: int, sigma: float) -> Tensor:
    """A Gaussian over the cells of a grid as a matrix (T, T) with rows of sum 1; leading tokens stay as they are.

    Source: Schulz et al., Restricting the Flow: Information Bottlenecks for Attribution, ICLR 2020, section 3.2, who
        smooth the mask so that neighbouring places share what they let pass.

    >>> smoothing((1, 2), 1, 1e-3)
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    cells = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
    weights = (-torch.cdist(cells, cells).square() / (2 * sigma**2)).exp()
    return torch.block_diag(torch.eye(leading), weights / weights.sum(1, keepdim=True))


def _noise(
    generators: Sequence[torch.Generator], samples: int, lengths: Sequence[int], n_tokens: int, n_channels: int
) -> Tensor:
    """Normal numbers (B, samples, T, C) on the CPU; each item draws its own tokens' only."""
    drawn = [
        torch.randn(samples, length, n_channels, generator=generator)
        for generator, length in zip(generators, lengths, strict=True)
    ]
    return torch.stack([F.pad(numbers, (0, 0, 0, n_tokens - numbers.shape[1])) for numbers in drawn])


# ----------------------------------------------------------------- the method, for towers
def attribute(problem: Problem, **params: object) -> Explanation:
    """Maps of one input; see `attribute_all`."""
    return attribute_all([problem], **params)[0]


def attribute_all(
    problems: Sequence[Problem],
    layer: int | None = None,
    beta: float | None = None,
    sigma2: float | None = None,
    mode: Mode | None = None,
    n_steps: int = 10,
    lr: float = 1.0,
    samples: int = 10,
    smooth: float | None = None,
) -> list[Explanation]:
    """M2IB of several inputs of one tower at once.

    Args:
        layer, beta, sigma2, mode: None: the paper's, see `defaults`; a model's own are filled in by who asks. Layer
            -1 of a text stands before block 0: later, the last words have read all others, and carry them.
        smooth: standard deviation, in cells, of a Gaussian over lambda; images only. None: 0, as in the paper.
    Returns: maps in nats per token; curves "fit" (mean cosine) and "compression" (nats per element); figures
        "fit_before" and "fit_after".
    Raises: BadInput: no such block, or `normalised` for a model without statistics.
    """
    return _attribute_all(problems, _cosine_score, layer, beta, sigma2, mode, n_steps, lr, samples, smooth)


def attribute_contrast(problem: Problem, **params: object) -> Explanation:
    """Contrastive M2IB of one input; see `attribute_contrast_all`."""
    return attribute_contrast_all([problem], **params)[0]


def attribute_contrast_all(
    problems: Sequence[Problem],
    layer: int | None = None,
    beta: float | None = None,
    sigma2: float | None = None,
    mode: Mode | None = None,
    n_steps: int = 10,
    lr: float = 1.0,
    samples: int = 10,
    smooth: float | None = None,
    sharpness: float = 10.0,
) -> list[Explanation]:
    """M2IB that keeps what tells the right partner from others, instead of what is near to anything.

    The score is cos(z, target) - 1/s log mean_k exp(s cos(z, negative_k)): a word that fits every image, or a place
    that fits every text, does not raise it. Ours, not the paper's.

    Args:
        sharpness: s; small: the mean of the negatives, large: the nearest of them.
    Raises: BadInput: there are no negatives.
    """

    def score(problem: Problem) -> Score:
        return _contrast_score(problem, sharpness)

    return _attribute_all(problems, score, layer, beta, sigma2, mode, n_steps, lr, samples, smooth)


def _cosine_score(problem: Problem) -> Score:
    targets = problem.targets[:, None]
    return lambda features: F.cosine_similarity(features, targets, dim=-1)


def _contrast_score(problem: Problem, sharpness: float) -> Score:
    if problem.negatives is None or len(problem.negatives) == 0:
        raise BadInput("the contrast needs partners that do not belong to the input; this model has none", "method")
    targets, negatives = problem.targets[:, None], problem.negatives
    log_n = torch.log(negatives.new_tensor(float(len(negatives))))

    def score(features: Tensor) -> Tensor:
        unit = F.normalize(features, dim=-1)
        others = torch.logsumexp(sharpness * unit @ negatives.T, -1) - log_n
        return (unit * targets).sum(-1) - others / sharpness

    return score


def defaults(problem: Problem) -> tuple[int, float, float]:
    """The paper's layer, beta and sigma^2: block 9 of 12, which is the third from the end, .1 and 1.

    A convolutional tower has five stages; the one before its last is taken.
    """
    n_layers = problem.tower.n_layers
    is_convolutional = not problem.is_text and n_layers <= 5 and not problem.tower.is_special(problem.inputs)
    return max(0, n_layers - (2 if is_convolutional else 3)), 0.1, 1.0


def _attribute_all(
    problems: Sequence[Problem],
    make_score: Callable[[Problem], Score],
    layer: int | None,
    beta: float | None,
    sigma2: float | None,
    mode: Mode | None,
    n_steps: int,
    lr: float,
    samples: int,
    smooth: float | None,
) -> list[Explanation]:
    first, tower = problems[0], problems[0].tower
    usual = defaults(first)
    layer = tower.check_layer(usual[0] if layer is None else layer, tower.first_layer)
    settings = Settings(
        usual[1] if beta is None else beta, usual[2] if sigma2 is None else sigma2, n_steps, lr, samples
    )
    statistics = _statistics(first, layer, mode)
    sizes = [len(problem.targets) for problem in problems]
    with torch.no_grad():
        hidden = [tower.prefix(problem.inputs, layer) for problem in problems]  # (1, T, C) each
        clean = [_clean_score(p, h, layer, make_score(p)) for p, h in zip(problems, hidden, strict=True)]
    lengths = [h.shape[1] for h in hidden]
    padded = [F.pad(h, (0, 0, 0, max(lengths) - h.shape[1])) for h in hidden]
    rows = torch.cat([h.expand(size, -1, -1) for h, size in zip(padded, sizes, strict=True)])
    scores = [make_score(problem) for problem in problems]
    found = squeeze(
        rows,
        _batched_suffix(problems, sizes, samples, layer),
        lambda features: torch.cat([s(part) for s, part in zip(scores, features.split(sizes), strict=True)]),
        [problem.generator() for problem, size in zip(problems, sizes, strict=True) for _ in range(size)],
        settings,
        statistics,
        [length for length, size in zip(lengths, sizes, strict=True) for _ in range(size)],
        lambda done: first.step(done, n_steps, "closing the bottleneck"),
        _neighbours(first, layer, smooth),
    )
    parts = (found.capacity, found.fit, found.compression)
    split = zip(*(part.split(sizes) for part in parts), strict=True)
    return [
        _explain(problem, layer, capacity[:, :length], fit, compression, before)
        for problem, length, before, (capacity, fit, compression) in zip(problems, lengths, clean, split, strict=True)
    ]


def _statistics(problem: Problem, layer: int, mode: Mode | None) -> Statistics | None:
    found = problem.statistics(layer) if mode != "paper" else None
    if mode == "normalised" and found is None:
        raise BadInput(
            f"no statistics of the {problem.tower.modality} tower's activations after block {layer} are held for this "
            "model; choose the mode paper",
            "mode",
        )
    return found


def _neighbours(problem: Problem, layer: int, smooth: float | None) -> Tensor | None:
    grid = problem.tower.grid(layer)
    if not smooth or grid is None:
        return None
    return smoothing(grid, problem.tower.leading(layer), smooth).to(problem.targets)


def _clean_score(problem: Problem, hidden: Tensor, layer: int, score: Score) -> Tensor:
    """What the intact hidden state scores with every target, (B,)."""
    features = problem.tower.suffix(hidden, layer, problem.inputs)
    return score(features.expand(len(problem.targets), -1)[:, None])[:, 0]


def _batched_suffix(problems: Sequence[Problem], sizes: Sequence[int], samples: int, layer: int) -> Suffix:
    """The tower behind the bottleneck for the rows of all problems; texts say where each row ends."""
    tower = problems[0].tower
    if not problems[0].is_text:
        return lambda hidden: tower.suffix(hidden, layer)
    ids = torch.cat([p.inputs.expand(size * samples, -1) for p, size in zip(problems, sizes, strict=True)])
    return lambda hidden: tower.suffix(hidden, layer, ids)


def _explain(
    problem: Problem, layer: int, capacity: Tensor, fit: Tensor, compression: Tensor, before: Tensor
) -> Explanation:
    maps, special = places(problem, capacity, layer)
    notes = []
    if layer == problem.tower.n_layers - 1 and problem.tower.pooling != "average":
        notes.append("after the last block only the pooled token is read: choose an earlier layer to see places")
    return Explanation(
        maps,
        special,
        {"fit": fit, "compression": compression},
        {"fit_before": before, "fit_after": fit[:, -1]},
        notes,
    )
