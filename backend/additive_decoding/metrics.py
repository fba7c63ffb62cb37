"""How well learned latents match true ones, and how far decoded images are from true ones. numpy in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.errors import ShapeError

TREE_DEPTH = 10


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The best pairing of learned blocks with true ones."""

    score: float  # 0..100, mean over pairs
    permutation: tuple[int, ...]  # true block of each learned one
    similarity: np.ndarray  # (learned, true), each in 0..1


def best_match(similarity: np.ndarray) -> Match:
    """Pair learned with true blocks one to one so that the mean similarity is largest.

    Source: the Hungarian method, as in scipy's `linear_sum_assignment`.

    >>> best_match(np.array([[0.1, 0.9], [0.7, 0.2]])).permutation
    (1, 0)
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-similarity)
    score = 100.0 * float(similarity[rows, columns].mean())
    return Match(score, tuple(int(c) for c in columns), similarity)


def lms_spearman(learned: np.ndarray, true: np.ndarray) -> Match:
    """Latent matching score by |rank correlation|, for blocks of one latent each; (N, d), (N, d).

    Source: LMS_Spearman of arXiv:2307.02598. A constant latent correlates with nothing.
    Raises: ShapeError: shapes differ.

    >>> z = np.random.default_rng(0).random((50, 2))
    >>> round(lms_spearman(-z[:, ::-1] ** 3, z).score, 6)      # any monotone map of each, in any order
    100.0
    """
    if learned.shape != true.shape or learned.ndim != 2:
        raise ShapeError(f"learned {learned.shape} and true {true.shape} latents do not go together", "latents")
    return best_match(np.abs(_correlation(_ranks(learned), _ranks(true))))


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values, axis=0)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of every column of a with every column of b."""
    a, b = a - a.mean(0), b - b.mean(0)
    lengths = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)[None]
    return np.divide(a.T @ b, lengths, out=np.zeros((a.shape[1], b.shape[1])), where=lengths > 1e-12)


def lms_tree(
    learned_train: np.ndarray,
    true_train: np.ndarray,
    learned_test: np.ndarray,
    true_test: np.ndarray,
    blocks: Sequence[Sequence[int]],
    true_blocks: Sequence[Sequence[int]] | None = None,
    depth: int = TREE_DEPTH,
) -> Match:
    """Latent matching score by R2 of regression trees from each learned block to each true one.

    Trees are fitted on one set and scored on another; R2 is clipped at 0.
    Source: LMS_tree of arXiv:2307.02598, depth 10.
    """
    from sklearn.metrics import r2_score
    from sklearn.tree import DecisionTreeRegressor

    true_blocks = blocks if true_blocks is None else true_blocks
    similarity = np.zeros((len(blocks), len(true_blocks)))
    for i, block in enumerate(blocks):
        for j, target in enumerate(true_blocks):
            tree = DecisionTreeRegressor(max_depth=depth, random_state=0)
            tree.fit(learned_train[:, list(block)], true_train[:, list(target)])
            predicted = tree.predict(learned_test[:, list(block)])
            similarity[i, j] = max(0.0, r2_score(true_test[:, list(target)], predicted))
    return best_match(similarity)


def all_partitions(n_latents: int, sizes: Sequence[int]) -> list[tuple[tuple[int, ...], ...]]:
    """All ways to split the latents into blocks of these sizes, for decoders that know no blocks.

    >>> len(all_partitions(4, (2, 2)))
    3
    """
    from itertools import combinations

    def split(rest: tuple[int, ...], sizes: tuple[int, ...]) -> list[tuple[tuple[int, ...], ...]]:
        if not sizes:
            return [()]
        found = []
        for block in combinations(rest, sizes[0]):
            left = tuple(k for k in rest if k not in block)
            found += [(block, *others) for others in split(left, sizes[1:])]
        return found

    seen: dict[frozenset, tuple[tuple[int, ...], ...]] = {}
    for partition in split(tuple(range(n_latents)), tuple(sizes)):
        seen.setdefault(frozenset(partition), partition)
    return list(seen.values())


def rmse(decoded: np.ndarray, images: np.ndarray) -> float:
    """Root of the mean squared distance over everything, both clamped to [0, 1].

    >>> rmse(np.array([1.5, 0.0]), np.array([1.0, 0.0]))
    0.0
    """
    return float(np.sqrt(np.mean((np.clip(decoded, 0, 1) - np.clip(images, 0, 1)) ** 2, dtype=np.float64)))


def permutation_by_component(learned: np.ndarray, true: np.ndarray, component: np.ndarray) -> dict[int, Match]:
    """The learned order of scalar blocks in each component of a disconnected support.

    The theory allows another order in each component, and training loss cannot tell.
    """
    return {
        int(number): lms_spearman(learned[component == number], true[component == number])
        for number in np.unique(component[component >= 0])
        if (component == number).sum() > 2
    }
