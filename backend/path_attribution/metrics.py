"""How good is an attribution? Faithfulness, sensitivity, completeness, concentration, ground truth.

Pure functions on tensors. A map is an attribution summed over channels, (H, W); several methods' maps of
the same images are stacked as (M, B, H, W) and judged in one sweep through the model.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from scipy import stats
from torch import Tensor

from backend.contracts import OnStep, Step
from backend.errors import BadInput, ModelFault, ShapeError
from backend.runtime import Chunks

Model = Callable[[Tensor], Tensor]  # images (N, C, H, W) -> logits (N, classes)
ScoreKind = Literal["ratio", "normalised", "probability"]
SCORE_KINDS: tuple[ScoreKind, ...] = ("ratio", "normalised", "probability")

# Below this share of the score's size a float32 model's answers differ by rounding only.
_ROUNDING = 1e-6


# ----------------------------------------------------------------- deletion and insertion
@dataclass(frozen=True)
class Curve:
    """The target's score while pixels are replaced, best first."""

    logit: Tensor  # (M, B, K + 1)
    probability: Tensor  # (M, B, K + 1)


@dataclass(frozen=True)
class Sweep:
    """Deletion and insertion curves of M maps of B images."""

    fractions: Tensor  # (K + 1,): share of the pixels changed, 0..1
    deletion: Curve
    insertion: Curve
    score: Tensor  # (B,): f(x), the target's logit of the image
    baseline_score: Tensor  # (B,): f(x0)
    evaluated: int  # images that went through the model

    def scores(self, kind: ScoreKind) -> tuple[Tensor, Tensor]:
        """Areas under both curves; NaN where `score_reason` has something to say.

        ratio: f(x_k) / f(x) on logits; normalised: (f(x_k) - f(x0)) / (f(x) - f(x0)) on logits;
        probability: the target's softmax probability as it is. Trapezoid rule over the fraction.
        Returns: deletion (lower is better) and insertion (higher is better), each (M, B).
        """
        return self._area(self.deletion, kind), self._area(self.insertion, kind)

    def _area(self, curve: Curve, kind: ScoreKind) -> Tensor:
        if kind == "probability":
            return torch.trapezoid(curve.probability, self.fractions)
        area = torch.trapezoid(curve.logit, self.fractions)
        undefined = torch.tensor(
            [
                bool(score_reason(kind, f, f0))
                for f, f0 in zip(self.score.tolist(), self.baseline_score.tolist(), strict=True)
            ],
            device=area.device,
        )
        if kind == "ratio":
            area = area / self.score
        else:
            area = (area - self.baseline_score) / (self.score - self.baseline_score)
        return area.masked_fill(undefined, math.nan)


def score_reason(kind: ScoreKind, score: float, baseline_score: float) -> str:
    """Why this kind of score says nothing about an image with f(x) and f(x0); empty if it does.

    >>> score_reason("ratio", -1.5, 0.0)
    'f(x) = -1.5 is not positive, so a ratio to it means nothing'
    >>> score_reason("ratio", 7.0, 0.0)
    ''
    """
    if kind == "ratio" and score <= 0:
        return f"f(x) = {score:.4g} is not positive, so a ratio to it means nothing"
    if kind == "normalised" and abs(score - baseline_score) <= _ROUNDING * max(abs(score), abs(baseline_score)):
        return f"f(x) = f(x0) = {score:.4g}: there is no change to share out"
    return ""


def rank_pixels(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Rank of every pixel by its attribution, 0 for the largest; (M, B, H, W) -> (M, B, HW).

    Ties are broken at random, in the same order for all methods of an image.
    Raises: ModelFault: a map holds values that are not numbers.
    """
    if not torch.isfinite(maps).all():
        raise ModelFault("an attribution holds values that are not numbers, so its pixels cannot be ranked", "method")
    values = maps.flatten(2)
    n_images, n_pixels = values.shape[1:]
    shuffle = torch.rand(n_images, n_pixels, generator=generator).argsort(1).to(maps.device).expand_as(values)
    order = shuffle.gather(2, values.gather(2, shuffle).argsort(dim=2, descending=True, stable=True))
    return order.argsort(2)


def deletion_insertion(
    model: Model,
    images: Tensor,
    baselines: Tensor,
    targets: Tensor,
    maps: Tensor,
    steps: int,
    generator: torch.Generator,
    chunks: Chunks,
    on_step: OnStep = None,
) -> Sweep:
    """Replace the pixels of images by the baseline (deletion) or the other way round (insertion), best first.

    All methods, images, steps and both modes go through the model in one sweep, chunk by chunk. Pictures that are
    equal are computed once: both ends, and steps on which only pixels move that equal the baseline anyway.

    Args:
        model: images in [0, 1] -> logits.
        images, baselines: (B, C, H, W).  targets: (B,) long.
        maps: (M, B, H, W), one map per method and image.
        steps: K; after step k, round(k HW / K) pixels have changed.
        generator: on the CPU; orders ties.
    Raises: ShapeError: maps that do not fit the images; BadInput: steps below 1.
    Source: Petsiuk et al., RISE, arXiv:1806.07421; on logits as in Zhang et al., SAMP, ICLR 2024.
    """
    n_methods, n_images = _check_maps(maps, images, baselines, targets)
    if steps < 1:
        raise BadInput(f"steps is {steps}; expected at least 1", "steps")
    height, width = images.shape[2:]
    rank = rank_pixels(maps.to(images.device), generator)  # (M, B, HW)
    changed = (torch.arange(steps + 1, dtype=torch.float64) * (height * width) / steps).round().long()
    changed = changed.to(images.device)  # (K + 1,)

    # How many pixels really differ after each step: where that number stays, the picture stays.
    moves = (images != baselines).any(1).flatten(1).expand_as(rank)
    moved = torch.zeros_like(rank).scatter_(2, rank, moves.long()).cumsum(2)  # in order of rank
    moved = torch.cat([moved.new_zeros(n_methods, n_images, 1), moved], 2)[..., changed]  # (M, B, K + 1)
    all_moved = moves.sum(2, keepdim=True)
    is_new = (moved != moved.roll(1, 2)) & (moved > 0) & (moved < all_moved)  # step 0 has moved 0
    method, image, step = is_new.nonzero(as_tuple=True)  # (J,) each, in the order of the steps

    n_pictures = 2 * n_images + 2 * len(method)
    done = 0

    def evaluate(points: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal done
        with torch.no_grad():
            logits = model(points)
        if not torch.isfinite(logits).all():
            raise ModelFault("the model returned a score that is not a number for a masked image", "model")
        done += len(points)
        if on_step is not None:
            on_step(Step(done, n_pictures, "deletion and insertion"))
        column = target[:, None]
        return logits.gather(1, column)[:, 0], logits.softmax(1).gather(1, column)[:, 0]

    def masked(m: Tensor, b: Tensor, n: Tensor, inserting: Tensor) -> tuple[Tensor, Tensor]:
        is_best = rank[m, b] < n[:, None]
        shown = (is_best == inserting[:, None]).view(-1, 1, height, width)
        return evaluate(torch.where(shown, images[b], baselines[b]), targets[b])

    ends = chunks.map(evaluate, torch.cat([images, baselines]), targets.repeat(2))  # x, then x0
    if len(method):
        inserting = torch.tensor([False, True], device=images.device).repeat_interleave(len(method))
        jobs = (method.repeat(2), image.repeat(2), changed[step].repeat(2), inserting)
        between = chunks.map(masked, *jobs)
    else:
        between = tuple(end[:0] for end in ends)

    # The pictures of one curve: its start, its new ones in order, its end. Each step points at one of them.
    newest = is_new.flatten().long().cumsum(0).view_as(is_new) - 1  # (M, B, K + 1), into the J jobs
    at_end = (moved == all_moved) & (all_moved > 0)

    def curve(values: Tensor, jobs: Tensor, start: Tensor, end: Tensor) -> Tensor:
        middle = jobs[newest.clamp_min(0)] if len(jobs) else values.new_zeros(newest.shape)
        out = torch.where(moved == 0, start[None, :, None], middle)
        return torch.where(at_end, end[None, :, None], out)

    def both(values: Tensor, jobs: Tensor) -> tuple[Tensor, Tensor]:
        full, empty = values[:n_images], values[n_images:]
        deleted, inserted = jobs[: len(method)], jobs[len(method) :]
        return curve(values, deleted, full, empty), curve(values, inserted, empty, full)

    logit_deletion, logit_insertion = both(ends[0], between[0])
    probability_deletion, probability_insertion = both(ends[1], between[1])
    return Sweep(
        fractions=changed.to(images.dtype) / (height * width),
        deletion=Curve(logit_deletion, probability_deletion),
        insertion=Curve(logit_insertion, probability_insertion),
        score=ends[0][:n_images],
        baseline_score=ends[0][n_images:],
        evaluated=n_pictures,
    )


def _check_maps(maps: Tensor, images: Tensor, baselines: Tensor, targets: Tensor) -> tuple[int, int]:
    n_images, _, height, width = images.shape
    if maps.dim() != 4 or maps.shape[1:] != (n_images, height, width):
        raise ShapeError(f"maps {tuple(maps.shape)}; expected (methods, {n_images}, {height}, {width})", "attributions")
    if baselines.shape != images.shape:
        raise ShapeError(f"baselines {tuple(baselines.shape)}; expected {tuple(images.shape)}", "baseline")
    if targets.shape != (n_images,):
        raise ShapeError(f"targets {tuple(targets.shape)}; expected ({n_images},)", "target")
    return len(maps), n_images


# ----------------------------------------------------------------- sensitivity-N
def sensitivity_n(
    model: Model,
    images: Tensor,
    baselines: Tensor,
    targets: Tensor,
    maps: Tensor,
    sizes: tuple[int, ...],
    subsets: int,
    generator: torch.Generator,
    chunks: Chunks,
    on_step: OnStep = None,
) -> Tensor:
    """Does the attribution of a set of pixels predict how far the score drops without them?

    For every size N, random sets of N pixels are replaced by the baseline; the sums of attribution over the sets
    are correlated (Pearson) with the drops of the score. All methods share the sets, so the model runs once per set.

    Args: as for `deletion_insertion`; sizes: subset sizes N in pixels, 1..HW; subsets: random sets per image and N.
    Returns: (M, B, len(sizes)) correlations, 1 is best; NaN where the sums or the drops do not vary.
    Raises: ShapeError: maps that do not fit the images; BadInput: a size out of range or fewer than 3 subsets.
    Source: Ancona et al., Towards Better Understanding of Gradient-Based Attribution, arXiv:1711.06104.
    """
    n_methods, n_images = _check_maps(maps, images, baselines, targets)
    height, width = images.shape[2:]
    n_pixels = height * width
    for size in sizes:
        if not 1 <= size <= n_pixels:
            raise BadInput(f"a subset of {size} pixels; expected 1..{n_pixels}", "fractions")
    if subsets < 3:
        raise BadInput(f"subsets is {subsets}; expected at least 3", "subsets")

    def logit(points: Tensor, target: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            return (model(points).gather(1, target[:, None])[:, 0],)

    scores = chunks.map(logit, images, targets)[0].double()
    correlations = torch.empty(n_methods, n_images, len(sizes), dtype=torch.float64)
    for b in range(n_images):
        values = maps[:, b].flatten(1).double().to(images.device)  # (M, HW)

        def without(chosen: Tensor, b: int = b) -> tuple[Tensor]:
            points = torch.where(chosen.view(-1, 1, height, width), baselines[b], images[b])
            return logit(points, targets[b].expand(len(points)))

        for i, size in enumerate(sizes):
            chosen = random_subsets(n_pixels, size, subsets, generator).to(images.device)
            drops = scores[b] - chunks.map(without, chosen)[0].double()  # (R,)
            sums = values @ chosen.double().T  # (M, R)
            correlations[:, b, i] = correlation(sums, drops, noise=_ROUNDING * scores[b].abs().item()).cpu()
        if on_step is not None:
            on_step(Step(b + 1, n_images, "sensitivity-N"))
    return correlations


def random_subsets(n_pixels: int, size: int, subsets: int, generator: torch.Generator) -> Tensor:
    """Uniformly random sets of `size` pixels as masks, (subsets, n_pixels) bool, drawn on the CPU."""
    chosen = torch.rand(subsets, n_pixels, generator=generator).topk(size, dim=1).indices
    return torch.zeros(subsets, n_pixels, dtype=torch.bool).scatter_(1, chosen, True)


def correlation(rows: Tensor, values: Tensor, noise: float = 0.0) -> Tensor:
    """Pearson correlation of each row (..., R) with values (R,); NaN where either does not vary.

    `noise` is the spread of `values` that rounding alone can make.

    >>> correlation(torch.tensor([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]]), torch.tensor([2.0, 4.0, 6.0]))
    tensor([1., nan])
    """
    rows_0, values_0 = rows - rows.mean(-1, keepdim=True), values - values.mean()
    spread_rows, spread_values = rows_0.norm(dim=-1), values_0.norm()
    root = math.sqrt(values.numel())
    varies = (spread_rows > 1e-9 * rows.norm(dim=-1)) & (spread_values > max(noise * root, 1e-9 * values.norm().item()))
    cosine = (rows_0 @ values_0) / (spread_rows * spread_values)
    return torch.where(varies, cosine.clamp(-1.0, 1.0), math.nan)


# ----------------------------------------------------------------- completeness and concentration
def completeness_gap(maps: Tensor, change: Tensor) -> Tensor:
    """|sum of the attribution - (f(x) - f(x0))| in the score's unit; (..., H, W), (...) -> (...).

    >>> completeness_gap(torch.tensor([[1.0, 2.0]]), torch.tensor(3.5))
    tensor(0.5000)
    """
    return (maps.flatten(-2).sum(-1) - change).abs()


def variance(maps: Tensor) -> Tensor:
    """Var(a): population variance over the pixels; (..., H, W) -> (...).

    Larger is more concentrated when the sums are equal (the Concentration Principle of SAMP).

    >>> variance(torch.tensor([[0.0, 0.0, 0.0, 4.0]]))
    tensor(3.)
    """
    return maps.flatten(-2).var(-1, unbiased=False)


def gini(maps: Tensor) -> Tensor:
    """Gini index of |a|: 0 if all pixels are equal, (n - 1) / n if one of n has everything; NaN for an empty map.

    >>> gini(torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[0.0, 0.0, -3.0, 0.0]]]))
    tensor([0.0000, 0.7500])
    """
    values = maps.flatten(-2).abs().sort(-1).values
    n = values.shape[-1]
    weights = (2 * torch.arange(1, n + 1, device=values.device) - n - 1).to(values.dtype)
    total = values.sum(-1)
    return torch.where(total > 0, (values @ weights) / (n * total), math.nan)


# ----------------------------------------------------------------- ground truth
def mass_in_mask(maps: Tensor, masks: Tensor, sign: Literal["absolute", "positive"] = "absolute") -> Tensor:
    """Share of |a| (or of a's positive part) inside the mask; NaN for a map without any.

    (..., H, W), masks broadcastable and bool -> (...).

    >>> mass_in_mask(torch.tensor([[3.0, -1.0]]), torch.tensor([[True, False]]))
    tensor(0.7500)
    """
    values = maps.abs() if sign == "absolute" else maps.clamp_min(0)
    total = values.flatten(-2).sum(-1)
    inside = (values * masks).flatten(-2).sum(-1)
    return torch.where(total > 0, inside / total, math.nan)


def pointing_game(maps: Tensor, masks: Tensor) -> Tensor:
    """1 if the largest value lies in the mask, else 0; (..., H, W), masks broadcastable and bool -> (...).

    Differs from arXiv:1608.00507: no tolerance in pixels, and pixels that share the largest value share the point
    (the chance of a hit if one of them is drawn).

    >>> pointing_game(torch.tensor([[2.0, 1.0, 2.0]]), torch.tensor([[True, True, False]]))
    tensor(0.5000)
    """
    is_top = maps == maps.amax((-2, -1), keepdim=True)
    return (is_top & masks).flatten(-2).sum(-1) / is_top.flatten(-2).sum(-1)


# ----------------------------------------------------------------- summaries over images
@dataclass(frozen=True)
class Summary:
    """A mean over images with its 95 % interval (Student's t); None where there are too few values."""

    n: int
    mean: float | None
    sd: float | None
    low: float | None = None
    high: float | None = None


def summarise(values: Tensor) -> Summary:
    """Mean, standard deviation and 95 % interval of the mean over the values that are defined (not NaN).

    >>> summarise(torch.tensor([1.0, 3.0, float("nan")])).mean
    2.0
    """
    defined = values.flatten().double()
    defined = defined[~defined.isnan()]
    n = len(defined)
    if n == 0:
        return Summary(0, None, None)
    mean = defined.mean().item()
    if n == 1:
        return Summary(1, mean, None)
    sd = defined.std().item()
    half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, mean - half, mean + half)


def paired_difference(ours: Tensor, theirs: Tensor) -> Summary:
    """Mean of ours - theirs over images that both have, with its 95 % interval (paired t).

    >>> paired_difference(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 1.0, 3.0])).mean
    1.0
    """
    if ours.shape != theirs.shape:
        raise ShapeError(f"paired values {tuple(ours.shape)} and {tuple(theirs.shape)}; expected equal shapes")
    return summarise(ours.double() - theirs.double())
