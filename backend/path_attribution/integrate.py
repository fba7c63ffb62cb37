"""The path integral: sums of gradient times way, whatever the path.

Every path method is a path and this integral. `integrate` takes the path in pieces, so that memory does not
grow with the number of points; `share_of_step` is the same integral over one step of a path that is found as
it is walked.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from backend.errors import BadInput, ShapeError
from backend.path_attribution.problem import Problem

Gradient = Callable[[Tensor], Tensor]  # points (K, *feature) -> d score / d point, (K, *feature)


def integrate_along_path(gradient: Gradient, path: Tensor) -> Tensor:
    """Share a score's change along a path out among the input features.

    Midpoint rule on each segment. The values sum to score(path[-1]) - score(path[0]),
    exactly if the score is at most quadratic on every segment (completeness).

    Args:
        gradient: d score / d input at a batch of points; (K, *feature) -> (K, *feature).
        path: points from baseline to input, (K + 1, *feature), in model-input units.
    Returns: (*feature), in the score's own units (logits, if the score is a logit).
    Raises: ShapeError: the path has fewer than two points.
    Source: path methods, arXiv:1703.01365; the quadrature is our choice.

    >>> path = torch.tensor([[0.0, 0.0], [1.0, 2.0]])     # one straight segment
    >>> integrate_along_path(lambda x: 2 * x, path)       # score = x1^2 + x2^2
    tensor([1., 4.])
    """
    if len(path) < 2:
        raise ShapeError(f"a path of {len(path)} points; expected at least two")
    return integrate(gradient, [((path[1:] + path[:-1]) / 2, path[1:] - path[:-1])])


def integrate(
    gradient: Gradient, pieces: Iterable[tuple[Tensor, Tensor]], on_sum: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Sum of gradient(points) * moves over the pieces of a path; one piece is alive at a time.

    Args:
        gradient: as in `integrate_along_path`.
        pieces: (points, moves), each (K, *feature) with K of its own: where the gradient is taken, and the
            part of the way that it stands for (or a factor that broadcasts to it).
        on_sum: looks at the sum after every piece.
    Returns: (*feature), in the score's units.
    Raises: ShapeError: there are no pieces.

    >>> line = [(torch.tensor([[0.25]]), torch.tensor([[0.5]])), (torch.tensor([[0.75]]), torch.tensor([[0.5]]))]
    >>> integrate(lambda x: 2 * x, line)                  # x^2 from 0 to 1
    tensor([1.])
    """
    total: Tensor | None = None
    for points, moves in pieces:
        part = (gradient(points) * moves).sum(0)
        total = part if total is None else total.add_(part)
        if on_sum is not None:
            on_sum(total)
    if total is None:
        raise ShapeError("a path without pieces; expected at least one")
    return total


# ----------------------------------------------------------------- quadrature on [0, 1]
def midpoint(n_steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights, each (n_steps,), float64: the middles of equal parts of [0, 1].

    >>> midpoint(2)
    (tensor([0.2500, 0.7500], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))
    """
    nodes = (torch.arange(n_steps, dtype=torch.float64) + 0.5) / n_steps
    return nodes, torch.full_like(nodes, 1 / n_steps)


def gauss_legendre(n_steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights, each (n_steps,), float64: exact for polynomials up to degree 2 n_steps - 1.

    >>> nodes, weights = gauss_legendre(2)
    >>> float((weights * nodes**3).sum())                 # integral of t^3 is 1/4
    0.25
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_steps)  # on [-1, 1]
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


QUADRATURES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "midpoint": midpoint,
    "gauss-legendre": gauss_legendre,
}


# ----------------------------------------------------------------- one step of a path found on the way
def share_of_step(
    moves: Tensor, before: Tensor, after: Tensor, change: Tensor, integrator: str
) -> tuple[Tensor, Tensor]:
    """Share the score's change in one step out among the coordinates that moved.

    Differs from SAMP: the slides know `left` only; `trapezoid` and `corrected` are ours.

    Args:
        moves: way of each coordinate, (N, *feature).
        before, after: gradient at the step's start and end, (N, *feature).
        change: change of the score in the step, (N,).
        integrator: "left" takes the gradient before, "trapezoid" the mean of both; "corrected" spreads what
            the trapezoid misses over the coordinates in proportion to |moves|, so that the sum is the change.
    Returns: values (N, *feature), and what the gradients alone did not explain, (N,).
    Raises: BadInput: unknown integrator.

    >>> ones = torch.ones(1, 2)                           # score = x1^3 + x2^3, from (0, 0) to (1, 1)
    >>> share_of_step(ones, 0 * ones, 3 * ones, torch.tensor([2.0]), "corrected")
    (tensor([[1., 1.]]), tensor([-1.]))
    """
    if integrator == "left":
        values = before * moves
    elif integrator in ("trapezoid", "corrected"):
        values = (before + after) * moves / 2
    else:
        raise BadInput(f"integrator is {integrator!r}; expected one of left, trapezoid, corrected", "integrator")
    residual = change - values.flatten(1).sum(1)
    if integrator == "corrected":
        lengths = moves.abs()
        whole = lengths.flatten(1).sum(1).clamp_min(torch.finfo(moves.dtype).tiny)
        values = values + lengths * _like(residual / whole, lengths)
    return values, residual


# ----------------------------------------------------------------- between a problem and the integral
def gradient_of(problem: Problem) -> Gradient:
    """The gradient of each image's own target score, for points (K, B, C, H, W) on B paths at once."""

    def gradient(points: Tensor) -> Tensor:
        targets = problem.targets.repeat(len(points))
        return problem.score_and_gradient(points.flatten(0, 1), targets)[1].view_as(points)

    return gradient


def steps_that_fit(problem: Problem, n_steps: int, message: str) -> Iterator[slice]:
    """Split n_steps so that the points of all images fit into one chunk of the model; report after each part.

    The chunk may shrink on the way, when the device runs out of memory; the next part then is smaller.
    """
    start = 0
    while start < n_steps:
        problem.step(start, n_steps, message)
        stop = min(n_steps, start + max(1, problem.chunks.size // len(problem.images)))
        yield slice(start, stop)
        start = stop
    problem.step(n_steps, n_steps, message)


def change_of_score(problem: Problem, start: Tensor, end: Tensor) -> Tensor:
    """f(end) - f(start) for each image, (B,): what a complete attribution sums to."""
    scores = problem.score(torch.cat([start, end]), problem.targets.repeat(2))
    return scores[len(start) :] - scores[: len(start)]


def _like(values: Tensor, features: Tensor) -> Tensor:
    """(N,) as (N, 1, ...), to be multiplied with (N, *feature)."""
    return values.view(-1, *(1,) * (features.ndim - 1))
