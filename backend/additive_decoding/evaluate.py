"""The evaluation: every figure of a model over its training seeds, and what choosing by training loss saves."""

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from backend.additive_decoding.measure import measure
from backend.additive_decoding.recipes import Recipe
from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.models.decoders import LoadedDecoder
from backend.training import describe_machine, weights_key
from backend.versions import versions

EVALUATIONS = Path(__file__).resolve().parents[2] / "assets" / "evaluations"
FIGURES = (
    "lms_spearman",
    "lms_spearman_out",
    "lms_tree",
    "lms_tree_out",
    "rmse",
    "rmse_out",
    "rmse_recombined",
)
METERS = ("off_block_hessian", "nonlinearity_truth", "nonlinearity_decoder", "components")
DISENTANGLED = 95.0  # LMS below this counts as a failed start or seed
MAX_SEEDS = 20


def evaluate(
    model: str,
    load: Callable[[str], LoadedDecoder],
    seeds: int = 1,
    n: int = 1000,
    on_step: OnStep = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a model and its twins of other training seeds.

    Args:
        model: key; with `seeds` = K, it and `MODEL-seed1` .. `MODEL-seed<K - 1>`.
        n: test scenes for each.
        state: what an interrupted call saved last, one entry for each seed that is done.
    Returns: a JSON object: the median of every figure under its own name, and each seed's row.
    Raises: BadInput: numbers out of range, or no such model; Cancelled.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise BadInput(f"seeds is {seeds}; expected 1..{MAX_SEEDS}", "seeds")
    if not 20 <= n <= 10_000:
        raise BadInput(f"n is {n}; expected 20..10000 test scenes", "n")
    state = state or {}
    machine = ""
    for seed in range(seeds):
        key = weights_key(model, seed)
        loaded = load(key)
        machine = describe_machine(next(loaded.module.parameters()).device)
        if key not in state:
            state[key] = _measure_seed(loaded, seed, n, _say(on_step, key, seed, seeds))
            save_state(state)
    rows = [state[weights_key(model, seed)] for seed in range(seeds)]
    return {
        "family": "additive_decoding",
        "command": f"python -m backend evaluate additive_decoding --model {model} --n {n} --seeds {seeds} --json",
        "model": model,
        "n": n,
        "seeds": seeds,
        "machine": machine,
        "versions": dict(versions()),
        **tabulate(rows),
        "rows": rows,
    }


def _say(on_step: OnStep, key: str, seed: int, seeds: int) -> Callable[[str], None]:
    def say(what: str) -> None:
        if on_step is not None:
            on_step(Step(seed, seeds, f"{key}: {what}"))

    return say


def _measure_seed(loaded: LoadedDecoder, seed: int, n: int, say: Callable[[str], None]) -> dict[str, Any]:
    recipe = Recipe.from_json(loaded.card["recipe"])
    figures = measure(loaded.module, recipe.scene, recipe.make_support(), seed, n, say)
    return {
        "key": loaded.spec.key,
        "digest": loaded.digest,
        "validation_loss": loaded.card["validation_loss"],
        "training_s": loaded.card["training_s"],
        "parameters": loaded.card["parameters"],
        **figures,
        "starts": start_summary(loaded.card["starts"]),
    }


def start_summary(starts: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """How often a start ends in a mixture, and what the choice by training loss makes of it. None: one start only.

    >>> start_summary([{"loss": 0.1, "lms": 60.0, "chosen": False}, {"loss": 0.01, "lms": 99.0, "chosen": True}])
    {'starts': 2, 'share_failed': 0.5, 'chosen_lms': 99.0, 'median_lms': 79.5}
    """
    if len(starts) < 2:
        return None
    return {
        "starts": len(starts),
        "share_failed": sum(start["lms"] < DISENTANGLED for start in starts) / len(starts),
        "chosen_lms": next(start["lms"] for start in starts if start["chosen"]),
        "median_lms": statistics.median(start["lms"] for start in starts),
    }


def tabulate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over seeds, the spread, the share of seeds that failed, and the best seed by validation loss."""
    table: dict[str, Any] = {name: _median(row[name] for row in rows) for name in FIGURES}
    table |= {name: _median(row["assumptions"][name] for row in rows) for name in METERS}
    ratio = [row["rmse_out"] / row["rmse"] for row in rows if row["rmse_out"] is not None]
    summaries = [row["starts"] for row in rows if row["starts"]]
    return {
        **table,
        "rmse_out_over_in": _median(ratio),
        "range": {name: _range(row[name] for row in rows) for name in FIGURES},
        "share_of_seeds_failed": sum(_identified(row) < DISENTANGLED for row in rows) / len(rows),
        "share_of_starts_failed": _mean([summary["share_failed"] for summary in summaries]),
        "median_lms_of_starts": _median(summary["median_lms"] for summary in summaries),
        "chosen_lms_of_starts": _median(summary["chosen_lms"] for summary in summaries),
        "parameters": rows[0]["parameters"],
        "training_s": _median(row["training_s"] for row in rows),
        "best": min(rows, key=lambda row: row["validation_loss"])["key"],
    }


def _identified(row: Mapping[str, Any]) -> float:
    return row["lms_tree"] if row["lms_spearman"] is None else row["lms_spearman"]


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _median(values: Any) -> float | None:
    known = _known(values)
    return statistics.median(known) if known else None


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _range(values: Any) -> list[float] | None:
    known = _known(values)
    return [min(known), max(known)] if known else None


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`evaluate` as a job: resumes after the last seed that is done. `context` is a `backend.jobs.JobContext`."""
    from backend.models.decoders import TASK
    from backend.service import local_service

    service = local_service()

    def load(key: str) -> LoadedDecoder:
        spec = service.library.spec(key)
        if spec.task != TASK:
            raise BadInput(f"{key} is no decoder of scenes", "model")
        runtime = service.runtime
        return runtime.model(spec.key, lambda: service.library.load(key, runtime.device, torch.float32))

    return evaluate(
        args["model"],
        load,
        args.get("seeds", 1),
        args.get("n", 1000),
        context.on_step,
        context.load_state(),
        context.save_state,
    )


def stored_path(model: str) -> Path:
    """Where an evaluation that ships lies."""
    return EVALUATIONS / f"additive_decoding-{model}.json"


def stored(model: str) -> dict[str, Any] | None:
    """An evaluation that ships, with its command; None if there is none."""
    path = stored_path(model)
    return json.loads(path.read_text()) if path.exists() else None
