"""SAMP and SAMP++: the gradient integrated along the path that changes the score as early as possible.

A walker starts at the image or at its baseline and goes to the other; in each step it moves the few pixels that
promise to change the score most. Both directions of all images walk as one batch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from backend.errors import BadInput
from backend.path_attribution.integrate import share_of_step
from backend.path_attribution.problem import Explanation, Problem, Trajectory

# points (N, C, P), which walkers they are (N,) -> scores (N,), gradients (N, C, P)
Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

SMALL_IMAGE_PIXELS = 32 * 32
SMALL_IMAGE_STEP = 10  # pixels; the paper's choice for digits
LARGE_IMAGE_STEPS = 49  # 1024 pixels a step at 224 x 224


def attribute(
    problem: Problem,
    *,
    s: int | None = None,
    eta: float | None = 0.02,
    lam: float = 0.5,
    w: float = 1 / 3,
    integrator: str = "corrected",
    select: str = "signed",
    coordinates: str = "pixels",
    walk: str = "apart",
) -> Explanation:
    """Attribute f(image) - f(baseline) along greedy paths in both directions. The defaults are those of SAMP++.

    Args:
        s: coordinates moved in a step; None: 10 up to 32 x 32 pixels, else one in 49.
        eta: largest L1 length of a step as a fraction of the whole way; None: no bound.
        lam: momentum of the gradient that chooses the coordinates.
        w: weight of the way image -> baseline; baseline -> image has 1 - w. A weight of 0 saves its passes.
        integrator: "left", "trapezoid" or "corrected", see `share_of_step`; "ordered", see `_Ledger`.
        select: "signed", "absolute" or "random", see `greedy_walk`.
        coordinates: "pixels" move with all their channels, "values" one by one.
        walk: "apart": each direction chooses its own coordinates. "together": both move the same ones, those with the
            largest mean promise, weighted with w and 1 - w. Differs from the slides, where they walk apart. Deletion
            and insertion judge one ranking from both ends, and so does this choice.
    Returns: attribution (B, C, H, W) in logits. `corrected_share` is the share of the score's change that the
        trapezoid of the gradients did not explain, a weighted mean of both directions; None for "left" and
        "trapezoid", which leave it out. With "ordered" a note says how much of the change was pooled between steps.
    Source: Zhang et al., ICLR 2024, equation 11 of the slides.
    """
    return _explain(problem, 0, s, eta, lam, w, integrator, select, coordinates, walk)


def trace(
    problem: Problem,
    frames: int,
    *,
    s: int | None = None,
    eta: float | None = 0.02,
    lam: float = 0.5,
    w: float = 1 / 3,
    integrator: str = "corrected",
    select: str = "signed",
    coordinates: str = "pixels",
    walk: str = "apart",
) -> Explanation:
    """The same as `attribute`, and the pictures that were passed on the way.

    Args:
        frames: pictures of each direction, at least 2. They are points of the path itself: frame j is the first
            one with at least j / (frames - 1) of the way behind it, so long steps show the same picture again.
    Returns: trajectories "deletion" (image -> baseline) and "insertion" (baseline -> image) beside the attribution;
        a direction whose weight is 0 is not walked.
    """
    if frames < 2:
        raise BadInput(f"frames is {frames}; expected at least 2", "frames")
    return _explain(problem, frames, s, eta, lam, w, integrator, select, coordinates, walk)


# ----------------------------------------------------------------- the path
@dataclass(frozen=True, slots=True)
class Move:
    """One step of the N walkers that are still on their way; S coordinates of P moved."""

    walkers: Tensor  # (N,) which of all walkers these are
    points: Tensor  # (N, C, P) where they stand now; overwritten by the next step
    scores: Tensor  # (N,) there
    changes: Tensor  # (N,) of the score in this step
    chosen: Tensor  # (N, C, S) indices of what moved, into the last axis
    moves: Tensor  # (N, C, S) how far
    before: Tensor  # (N, C, S) gradients at the step's start, of what moved
    after: Tensor  # (N, C, S) gradients at its end


def greedy_walk(
    evaluate: Evaluate,
    start: Tensor,
    end: Tensor,
    scores: Tensor,
    gradients: Tensor,
    signs: Tensor,
    *,
    s: int,
    eta: float | None = None,
    lam: float = 0.0,
    select: str = "signed",
    order: Tensor | None = None,
    weights: Tensor | None = None,
) -> Iterator[Move]:
    """Walk from start to end, first those coordinates that promise to change the score most.

    A coordinate has C values that move together. With gradient g, its promise is alpha = sum over C of
    g * (end - point). Walkers that have arrived take no more passes; one forward and backward pass per step.

    Differs from the slides in the sign rule (they take |alpha|: `select="absolute"`), in eta as a fraction of the
    whole way, and in the momentum.

    Args:
        evaluate: scores and gradients of some walkers at points.
        start, end: (N, C, P). scores, gradients: at the start, (N,) and (N, C, P).
        signs: +1 to raise the score first, -1 to lower it first, (N,).
        s, eta, lam: as in `attribute`.
        select: "signed" takes the largest sign * alpha, "absolute" the largest |alpha|, "random" goes by `order`.
        order: (N, P), largest first; for "random" only.
        weights: (D,), if the walkers are D directions of N / D images, direction by direction, and those of one image
            go together: they move the same coordinates, by the weighted sum of their promises. None: each for itself.
    Yields: a `Move` per step. The last point of every walker is exactly its end.
    """
    points, is_pending = start.clone(), (start != end).any(1)
    budget = None if eta is None else eta * (end - start).abs().sum((1, 2))
    walkers = torch.arange(len(start), device=start.device)
    momentum, s = gradients, min(s, start.shape[2])
    taken, next_check, at_most = 0, 0, most_steps(start.shape[2], s, eta)
    while True:
        if taken == next_check:
            on_way = is_pending.any(1).nonzero()[:, 0]
            if len(on_way) == 0:
                return
            if len(on_way) < len(walkers):
                walkers, points, end, is_pending = (t[on_way] for t in (walkers, points, end, is_pending))
                scores, gradients, momentum, signs = (t[on_way] for t in (scores, gradients, momentum, signs))
                budget = None if budget is None else budget[on_way]
                order = None if order is None else order[on_way]
            next_check += _fewest_steps(points, end, is_pending, s, budget)
        way = end - points
        chosen = _rank(momentum * way, signs, select, order)
        if weights is not None:
            chosen = _agree(chosen, lambda promises: torch.tensordot(weights, promises, 1), len(weights))
        chosen = chosen.masked_fill_(~is_pending, -torch.inf)
        chosen = chosen.topk(s, dim=1, sorted=False).indices  # (N, S)
        is_pending_then = is_pending.gather(1, chosen)
        index = chosen[:, None].expand(-1, start.shape[1], -1)  # (N, C, S)
        way, here = way.gather(2, index), points.gather(2, index)
        if budget is None or taken >= at_most:  # the latter only if rounding ate the small steps
            there = end.gather(2, index)
            is_pending.scatter_(1, chosen, False)
        else:
            fraction = budget / way.abs().sum((1, 2))  # infinitesimal constraint
            if weights is not None:  # the same but for rounding, and they must arrive in the same step
                fraction = _agree(fraction, lambda fractions: fractions.amax(0), len(weights))
            fraction = fraction[:, None, None]
            there = torch.where(fraction >= 1, end.gather(2, index), here + fraction * way)
            is_pending.scatter_(1, chosen, is_pending_then & (fraction < 1)[:, 0])
        points.scatter_(2, index, there)
        before, scores_before = gradients.gather(2, index), scores
        scores, gradients = evaluate(points, walkers)
        momentum = gradients if lam == 0 else torch.lerp(gradients, momentum, lam)
        taken += 1
        yield Move(
            walkers=walkers,
            points=points,
            scores=scores,
            changes=scores - scores_before,
            chosen=index,
            moves=there - here,
            before=before,
            after=gradients.gather(2, index),
        )


def most_steps(coordinates: int, s: int, eta: float | None) -> int:
    """No walk takes more steps: each one either brings s coordinates home or goes eta of the way."""
    return math.ceil(coordinates / s) + (0 if eta is None else math.ceil(1 / eta) + 1)


def _fewest_steps(points: Tensor, end: Tensor, is_pending: Tensor, s: int, budget: Tensor | None) -> int:
    """No walker arrives before so many more steps: until then nobody has to ask the device."""
    fewest = (is_pending.sum(1) + (s - 1)) // s
    if budget is not None:
        fewest = torch.maximum(fewest, ((end - points).abs().sum((1, 2)) / budget).long())
    return max(1, int(fewest.min()))


def _rank(promises: Tensor, signs: Tensor, select: str, order: Tensor | None) -> Tensor:
    """What to move first, (N, P), from the promise of each value, (N, C, P). A fresh tensor."""
    if select == "random":
        return order.clone()
    alpha = promises.sum(1)
    if select == "absolute":
        return alpha.abs_()
    if select == "signed":
        return alpha.mul_(signs[:, None])
    raise BadInput(f"select is {select!r}; expected one of signed, absolute, random", "select")


def _agree(each: Tensor, join: Callable[[Tensor], Tensor], directions: int) -> Tensor:
    """Join what the directions of one image say, and tell it to all of them; (D n, *rest) -> (D n, *rest)."""
    joined = join(each.view(directions, -1, *each.shape[1:]))
    return joined.repeat(directions, *(1,) * (each.ndim - 1))


# ----------------------------------------------------------------- the integral along it
def _explain(
    problem: Problem,
    frames: int,
    s: int | None,
    eta: float | None,
    lam: float,
    w: float,
    integrator: str,
    select: str,
    coordinates: str,
    walk: str,
) -> Explanation:
    if integrator not in ("left", "trapezoid", "corrected", "ordered"):
        raise BadInput(
            f"integrator is {integrator!r}; expected one of left, trapezoid, corrected, ordered", "integrator"
        )
    if walk not in ("together", "apart"):
        raise BadInput(f"walk is {walk!r}; expected one of together, apart", "walk")
    batch, channels, height, width = problem.images.shape
    shape = (channels, height * width) if coordinates == "pixels" else (1, channels * height * width)
    if s is None:
        s = SMALL_IMAGE_STEP if height * width <= SMALL_IMAGE_PIXELS else shape[1] // LARGE_IMAGE_STEPS
    images, baselines = problem.images.reshape(batch, *shape), problem.baselines.reshape(batch, *shape)
    # (name, start, end, sign of the change looked for, weight in the attribution)
    directions = [
        direction
        for direction in (("deletion", images, baselines, -1.0, w), ("insertion", baselines, images, 1.0, 1.0 - w))
        if direction[4] > 0
    ]
    names, starts, ends, signs, weights = zip(*directions, strict=True)
    start, end = torch.cat(starts), torch.cat(ends)
    sign = start.new_tensor(signs).repeat_interleave(batch)
    targets = problem.targets.repeat(len(directions))

    asked: list[Tensor] = []  # walkers of each evaluation

    def evaluate(points: Tensor, walkers: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(walkers)
        scores, gradients = problem.score_and_gradient(points.view(-1, channels, height, width), targets[walkers])
        return scores, gradients.view_as(points)

    order = None
    if select == "random":  # one order per direction, the same for every image of the batch
        order = torch.rand(2, shape[1], generator=problem.generator).to(start)
        order = order[[int(name == "insertion") for name in names]].repeat_interleave(batch, 0)

    total = most_steps(shape[1], min(s, shape[1]), eta)
    problem.step(0, total + 1, "SAMP")
    scores, gradients = evaluate(start, torch.arange(len(start), device=start.device))
    first, last = scores, scores.clone()
    values, residuals = torch.zeros_like(start), torch.zeros_like(scores)
    ledger = _Ledger(start, end, sign) if integrator == "ordered" else None
    film = _Film(frames, start, end, scores) if frames else None
    together = start.new_tensor(weights) if walk == "together" else None
    how = dict(s=s, eta=eta, lam=lam, select=select, order=order, weights=together)
    for taken, move in enumerate(greedy_walk(evaluate, start, end, scores, gradients, sign, **how), 1):
        rule = integrator if ledger is None else "trapezoid"  # what gradients alone say is told either way
        shares, residual = share_of_step(move.moves, move.before, move.after, move.changes, rule)
        residuals[move.walkers] += residual.abs()
        if ledger is None:
            _add_at(values, move.walkers, move.chosen, shares)
        else:
            ledger.take(move)
        last[move.walkers] = move.scores
        if film is not None:
            film.take(move)
        problem.step(min(taken, total), total + 1, "SAMP")
    notes = []
    if ledger is not None:
        values, pooled = ledger.share_out()
        pooled = torch.nan_to_num(pooled / (last - first).abs(), nan=0.0)
        notes.append(f"pooling moved {float(pooled.median()):.0%} of the score's change between steps of the path")
    problem.step(total + 1, total + 1, "SAMP")

    # sum over directions of weight * (value from the baseline to the image)
    def mix(each: Tensor, factors: tuple[float, ...]) -> Tensor:
        parts = each.view(len(directions), batch, *each.shape[1:])
        return sum(factor * part for factor, part in zip(factors, parts, strict=True))

    towards_image = tuple(a * b for a, b in zip(signs, weights, strict=True))
    shares = torch.nan_to_num(residuals / (last - first).abs(), nan=0.0, posinf=torch.inf)  # 0/0: nothing to correct
    return Explanation(
        attribution=mix(values, towards_image).view_as(problem.images),
        explained_change=mix(last - first, towards_image),
        corrected_share=mix(shares, weights) if integrator in ("corrected", "ordered") else None,
        passes=torch.cat(asked).remainder(batch).bincount(minlength=batch),
        trajectories=film.trajectories(names, problem.images.shape) if film is not None else {},
        notes=notes,
    )


def _add_at(total: Tensor, rows: Tensor, index: Tensor, values: Tensor) -> None:
    """total[row, c, index[n, c, i]] += values[n, c, i] for the n-th of the rows; no index occurs twice."""
    _, channels, coordinates = total.shape
    offsets = (rows[:, None] * channels + torch.arange(channels, device=rows.device)) * coordinates  # (N, C)
    total.view(-1).scatter_add_(0, (offsets[:, :, None] + index).flatten(), values.flatten())


class _Ledger:
    """The rule "ordered": a coordinate gets its part of what the score really did when it moved, in order.

    The score's change in a step, per coordinate brought home, is that step's price; coordinates that move in several
    steps pay each by their part. A greedy path takes the best first, so prices should fall along the way: where they
    rise, neighbouring steps are pooled to their mean (isotonic regression, which keeps the sum). A small tilt of sum
    zero keeps pooled steps in the order of the path. Gradients choose the path and value nothing, so what they miss
    between two steps does no harm.

    Differs from SAMP, whose values are gradient times move.
    """

    TILT = 1e-4  # between neighbouring steps, of the mean absolute price

    def __init__(self, start: Tensor, end: Tensor, signs: Tensor) -> None:
        self.lengths = (end - start).abs()  # (N, C, P)
        self.whole = self.lengths.sum(1)  # (N, P)
        self.signs = signs.double().cpu()  # +1: the largest rise of the score comes first, -1: its deepest fall
        # of each step: walkers (n,), what they moved and the part of its way (n, S), changes of the score (n,)
        self.steps: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def take(self, move: Move) -> None:
        chosen = move.chosen[:, 0]
        whole = self.whole[move.walkers].gather(1, chosen)
        parts = torch.where(whole > 0, move.moves.abs().sum(1) / whole, 0.0)  # of each coordinate's way
        self.steps.append((move.walkers, chosen, parts, move.changes))

    def share_out(self) -> tuple[Tensor, Tensor]:
        """Values (N, C, P), and how much of the score's change each walker's pooling moved between steps, (N,)."""
        shape = (len(self.whole), len(self.steps))
        changes, sizes = self.whole.new_zeros(shape), self.whole.new_zeros(shape)
        for k, (walkers, _, parts, change) in enumerate(self.steps):
            changes[walkers, k], sizes[walkers, k] = change, parts.sum(1)
        changes, sizes = changes.double().cpu(), sizes.double().cpu()
        prices, moved = torch.zeros_like(changes), torch.zeros(shape[0], dtype=torch.float64)
        for n, sign in enumerate(self.signs.tolist()):
            taken = sizes[n] > 0
            if taken.any():
                price = sign * falling(sign * changes[n, taken] / sizes[n, taken], sizes[n, taken])
                moved[n] = (price * sizes[n, taken] - changes[n, taken]).abs().sum()
                prices[n, taken] = price - sign * self.TILT * price.abs().mean() * centred_order(sizes[n, taken])
        prices = prices.to(self.whole)
        values = torch.zeros_like(self.whole)
        for k, (walkers, chosen, parts, _) in enumerate(self.steps):
            _add_at(values[:, None], walkers, chosen[:, None], (prices[walkers, k, None] * parts)[:, None])
        per_channel = self.lengths / torch.where(self.whole > 0, self.whole, 1.0)[:, None]
        return values[:, None] * per_channel, moved.to(self.whole)


def falling(values: Tensor, weights: Tensor) -> Tensor:
    """The closest sequence that never rises, in weighted least squares; its weighted sum is that of the values.

    >>> falling(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 1.0])).tolist()
    [3.0, 1.5, 1.5]
    """
    fit = isotonic_regression(values.double().numpy(), weights=weights.double().numpy(), increasing=False)
    return torch.from_numpy(fit.x.copy())


def centred_order(weights: Tensor) -> Tensor:
    """0, 1, 2, ... less their weighted mean.

    >>> centred_order(torch.tensor([1.0, 1.0, 2.0])).tolist()
    [-1.25, -0.25, 0.75]
    """
    order = torch.arange(len(weights), dtype=weights.dtype)
    return order - (weights @ order) / weights.sum()


class _Film:
    """Collects evenly spaced points of every walker's path."""

    def __init__(self, frames: int, start: Tensor, end: Tensor, scores: Tensor) -> None:
        self.end = end
        self.length = (end - start).abs().sum((1, 2))  # (N,)
        self.gone = (self.length == 0).to(scores)  # (N,) who starts at the goal has arrived
        self.marks = torch.linspace(0, 1, frames, dtype=scores.dtype, device=scores.device)  # (K,)
        self.points = start.repeat(frames, 1, 1, 1)  # (K, N, C, P)
        self.scores = scores.repeat(frames, 1)  # (K, N)
        self.fractions = self.gone.repeat(frames, 1)  # (K, N)

    def take(self, move: Move) -> None:
        """Put the newest points into the frames whose marks were passed in this step."""
        walkers = move.walkers
        gone = 1 - (self.end[walkers] - move.points).abs().sum((1, 2)) / self.length[walkers]
        is_passed = (self.marks[:, None] > self.gone[walkers]) & (self.marks[:, None] <= gone)
        frames, rows = is_passed.nonzero(as_tuple=True)
        self.points[frames, walkers[rows]] = move.points[rows]
        self.scores[frames, walkers[rows]] = move.scores[rows]
        self.fractions[frames, walkers[rows]] = gone[rows]
        self.gone[walkers] = gone

    def trajectories(self, names: tuple[str, ...], shape: torch.Size) -> dict[str, Trajectory]:
        points = self.points.view(len(self.points), len(names), *shape)
        scores, fractions = (t.view(len(t), len(names), -1) for t in (self.scores, self.fractions))
        return {name: Trajectory(points[:, i], scores[:, i], fractions[:, i]) for i, name in enumerate(names)}
