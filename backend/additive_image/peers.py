"""What an additive image model is compared with, and checks of what it takes for granted.

The table alone, an explainable boosting machine, a black box; whether pairs of terms say more than their sum
(interaction), and whether a term could be guessed from the others (concurvity).
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from interpret.glassbox import ExplainableBoostingClassifier, ExplainableBoostingRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor

from backend.additive_image.data import IMAGE, Dataset
from backend.additive_image.fitted import FittedModel, encode_rows
from backend.additive_image.nam import AdditiveHead, fit_head
from backend.models.diffusion_autoencoder import DiffusionAutoencoder

CONCURVITY_WARNING = 0.25  # share of a term that the others give away; above it effects may be shared out wrongly
PAIRED_TERMS = 9  # the strongest, whose pairs are tried
OnPart = Callable[[int, int, str], None]


# ----------------------------------------------------------------- scores
def score(link: str, response: np.ndarray, linear: np.ndarray) -> float:
    """Share of the deviance that predictions on the link's scale explain; R2 for a Gaussian response.

    >>> score("identity", np.array([0.0, 2.0]), np.array([0.0, 2.0]))
    1.0
    """
    mean = float(response.mean())
    start = {"identity": lambda: mean, "logit": lambda: np.log(mean / (1 - mean)), "log": lambda: np.log(mean)}[link]()
    return float(1 - _deviance(link, response, linear) / _deviance(link, response, np.full(len(response), start)))


def _deviance(link: str, response: np.ndarray, linear: np.ndarray) -> float:
    if link == "identity":
        return float(((response - linear) ** 2).sum())
    if link == "logit":
        return float(2 * (np.logaddexp(0, linear) - response * linear).sum())
    with np.errstate(divide="ignore", invalid="ignore"):
        log_counts = np.where(response > 0, np.log(response), 0.0)
    return float(2 * (response * (log_counts - linear) - response + np.exp(linear)).sum())


def effect_r2(learned: np.ndarray, truth: np.ndarray) -> float:
    """R2 of a learned effect against the truth, both centred: only differences of effects mean anything."""
    learned, truth = learned - learned.mean(), truth - truth.mean()
    return float(1 - ((learned - truth) ** 2).sum() / (truth**2).sum())


def effect_figures(head: AdditiveHead, dataset: Dataset, codes: Tensor) -> dict[str, dict[str, float | None]]:
    """R2 and mean squared error of each term against its true effect on rows, by term; {} where nobody knows it."""
    found = head.terms(torch.from_numpy(dataset.table).to(codes.device), codes).value.cpu().numpy()
    figures = {}
    for k, name in enumerate(dataset.terms):
        if name not in dataset.effects:
            continue
        truth = dataset.effects[name] - dataset.effects[name].mean()
        learned = found[:, k] - found[:, k].mean()
        is_still = np.ptp(truth) < 1e-9  # a column without effect: there is no share of it to find
        r2 = None if is_still else effect_r2(learned, truth)
        figures[name] = {"r2": r2, "mse": float(((learned - truth) ** 2).mean())}
    return figures


# ----------------------------------------------------------------- peers
def fit_ebm(dataset: Dataset, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """An explainable boosting machine on the table, without pairs; returns table -> linear predictions."""
    types = ["continuous" if column.kind == "numeric" else "nominal" for column in dataset.columns]
    settings: dict[str, Any] = {
        "feature_names": [column.name for column in dataset.columns],
        "feature_types": types,
        "interactions": 0,
        "random_state": seed,
        "n_jobs": 1,
    }
    if dataset.link == "logit":
        machine = ExplainableBoostingClassifier(**settings).fit(dataset.table, dataset.response)
        return lambda table: machine.decision_function(table)
    if dataset.link == "log":
        settings["objective"] = "poisson_deviance"
    machine = ExplainableBoostingRegressor(**settings).fit(dataset.table, dataset.response)
    if dataset.link == "log":
        return lambda table: np.log(np.maximum(machine.predict(table), 1e-9))
    return lambda table: machine.predict(table)


def fit_black_box(dataset: Dataset, codes: np.ndarray, seed: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Gradient boosting on table and codes, every interaction allowed; returns (table, codes) -> linear predictions."""
    categorical = [column.kind == "categorical" for column in dataset.columns] + [False] * codes.shape[1]
    settings: dict[str, Any] = {"categorical_features": categorical, "random_state": seed, "max_iter": 400}
    settings |= {"learning_rate": 0.06, "early_stopping": True}
    inputs = np.column_stack([dataset.table, codes])
    if dataset.link == "logit":
        box = HistGradientBoostingClassifier(**settings).fit(inputs, dataset.response)
        return lambda table, z: box.decision_function(np.column_stack([table, z]))
    if dataset.link == "log":
        settings["loss"] = "poisson"
    box = HistGradientBoostingRegressor(**settings).fit(inputs, dataset.response)
    if dataset.link == "log":
        return lambda table, z: np.log(np.maximum(box.predict(np.column_stack([table, z])), 1e-9))
    return lambda table, z: box.predict(np.column_stack([table, z]))


# ----------------------------------------------------------------- checks
def interactions(
    inputs: dict[str, np.ndarray], residual: np.ndarray, test_inputs: dict[str, np.ndarray], test_residual: np.ndarray
) -> dict[str, float]:
    """Share of what the additive model leaves over that each pair of terms explains on held-out rows.

    Args: inputs: of each term, (n, width); test_inputs: the same for rows that nothing was fitted to.
    Returns: by "first x second", at most 1; 0 or less means that the pair says nothing more.
    """
    found = {}
    for first, second in itertools.combinations(inputs, 2):
        box = HistGradientBoostingRegressor(max_iter=60, learning_rate=0.1, max_leaf_nodes=16, random_state=0)
        box.fit(np.column_stack([inputs[first], inputs[second]]), residual)
        guess = box.predict(np.column_stack([test_inputs[first], test_inputs[second]]))
        found[f"{first} x {second}"] = float(1 - ((test_residual - guess) ** 2).sum() / (test_residual**2).sum())
    return found


def strongest_terms(contributions: np.ndarray, names: Sequence[str], at_most: int = PAIRED_TERMS) -> list[str]:
    """The terms that move predictions most, in their own order: pairs of all columns of a wide table are too many.

    Args: contributions: (n, terms), in the order of `names`.
    """
    strong = set(np.argsort(-contributions.std(0), kind="stable")[:at_most].tolist())
    return [name for k, name in enumerate(names) if k in strong]


def concurvity(contributions: np.ndarray, inputs: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of each term that the other columns and the image give away, on rows that the guess was not fitted to.

    0: the term stands for itself. Near 1: the term could be moved to others and the predictions would stay.

    Args: contributions: (n, terms), in the order of `inputs`. inputs: of each term, (n, width).
    Source: the idea is that of Ramsay et al. 2003 and arXiv:2305.11475; boosted trees stand for their regression.
    """
    half = len(contributions) // 2
    found = {}
    for k, name in enumerate(inputs):
        others = np.column_stack([values for other, values in inputs.items() if other != name])
        target = contributions[:, k]
        spread = ((target[half:] - target[half:].mean()) ** 2).sum()
        if spread < 1e-12 * half:
            found[name] = 0.0
            continue
        box = HistGradientBoostingRegressor(max_iter=60, learning_rate=0.1, random_state=0)
        box.fit(others[:half], target[:half])
        left = ((target[half:] - box.predict(others[half:])) ** 2).sum()
        found[name] = float(max(0.0, 1 - left / spread))
    return found


# ----------------------------------------------------------------- all together
def compare(
    model: FittedModel, autoencoder: DiffusionAutoencoder, n: int, seed: int = 0, on_part: OnPart | None = None
) -> dict[str, Any]:
    """Held-out scores of the model and its peers, effects against the truth, interactions and concurvity.

    Args: n: held-out rows. Scores are shares of the deviance explained (R2 for a Gaussian response).
    """
    told = iter(range(1, 7))

    def tell(what: str) -> None:
        if on_part is not None:
            on_part(next(told), 7, what)

    held, expected = model.held_out(n, seed)
    link, head, own = held.link, model.head, model.dataset.take(np.arange(len(model.codes)))
    codes = encode_rows(autoencoder, held, slice(None))
    tell("images coded")
    table = torch.from_numpy(held.table).to(codes.device)
    linear = head.predict(table, codes).cpu().numpy()
    figures: dict[str, Any] = {
        "effects": effect_figures(head, held, codes),
        "score": score(link, held.response, linear),
        "ceiling": None if expected is None else score(link, held.response, expected),
    }
    kinds = [len(column.categories) for column in own.columns]
    own_table, own_response = torch.from_numpy(own.table), torch.from_numpy(own.response)
    alone = fit_head(own_table.to(codes.device), None, own_response.to(codes.device), kinds, link, head.settings, seed)
    figures["table_score"] = score(link, held.response, alone.predict(table).cpu().numpy())
    tell("table alone fitted")
    figures["ebm_score"] = score(link, held.response, fit_ebm(own, seed)(held.table))
    tell("explainable boosting machine fitted")
    known_codes, z = model.codes.cpu().numpy(), codes.cpu().numpy()
    figures["black_box_score"] = score(link, held.response, fit_black_box(own, known_codes, seed)(held.table, z))
    tell("black box fitted")
    inputs, test_inputs = _inputs_of(own, known_codes), _inputs_of(held, z)
    own_terms = head.terms(own_table.to(codes.device), model.codes)
    own_linear = head.intercept + own_terms.value.sum(1)
    residual = own.response - head.respond(own_linear).cpu().numpy()
    test_residual = held.response - head.respond(torch.from_numpy(linear)).numpy()
    tried = strongest_terms(own_terms.value.cpu().numpy(), list(inputs))
    figures["interactions"] = interactions(
        {name: inputs[name] for name in tried}, residual, {name: test_inputs[name] for name in tried}, test_residual
    )
    figures["interaction"] = max(figures["interactions"].values())
    tell("pairs tried")
    figures["concurvity"] = concurvity(own_terms.value.cpu().numpy(), inputs)
    figures["is_concurved"] = [name for name, share in figures["concurvity"].items() if share > CONCURVITY_WARNING]
    tell("concurvity measured")
    return figures


def _inputs_of(dataset: Dataset, codes: np.ndarray) -> dict[str, np.ndarray]:
    """What each term sees, (n, width) by term."""
    columns = {column.name: dataset.table[:, k : k + 1] for k, column in enumerate(dataset.columns)}
    return {**columns, IMAGE: codes}
