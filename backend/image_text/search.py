"""The search of the paper's appendix: which beta, sigma squared and layer suit a model's bottleneck.

What is tried, and on how many pairs, says `choosing`. Settings are chosen by where a map lies or which words it puts
first; beside that stands ROAR+, which the paper chose by, for those that were tried on all pairs. A model that ships
has its defaults from here: `train KEY-maps` takes the first of each table.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from backend.catalog import PAIR_METHODS
from backend.contracts import Step
from backend.errors import BadInput, Cancelled, PrismError
from backend.image_text.choosing import BETAS, PAPERS, ROUNDS, SMOOTH, Trial
from backend.image_text.evaluate import Bench, Metric, Row, choose, read_row, table_cell, tried_table
from backend.image_text.roar import FineTuning, Pairs, degrade, loss_after, roar_plus, split_pairs
from backend.image_text.roar_evaluation import MAX_SEEDS, SETTINGS, Clock, head_of, pairs_of
from backend.runtime import Runtime

METHODS = tuple(key for key, spec in PAIR_METHODS.items() if any(param.name == "layer" for param in spec.params))
ECONOMY = (
    f"Every combination is tried on {ROUNDS[0].pairs} pairs with {ROUNDS[0].draws} draws of the noise instead of 10; "
    f"the best {ROUNDS[0].kept} of each map on {ROUNDS[1].pairs} pairs; the best {ROUNDS[1].kept} of these on all. "
    f"Activations as they are: beta {', '.join(f'{b:g}' for b in PAPERS)}, as the paper's; standardised: beta "
    f"{', '.join(f'{b:g}' for b in BETAS)}, on images also with lambda smoothed over "
    f"{', '.join(f'{s:g}' for s in SMOOTH[1:])} cells; sigma squared {', '.join(f'{s:g}' for s in PAPERS)}. One "
    "seed of the noise."
)


# ----------------------------------------------------------------- measuring
def measure(
    bench: Bench,
    rows: Sequence[Row],
    seeds: int,
    runtime: Runtime,
    fine_tuning: FineTuning = SETTINGS,
    on_step: Callable[[Step], None] | None = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Search the settings of every row on the samples for choosing; goes on from `state`.

    Args: seeds: of ROAR+; 0: without it.
    Returns: {"original": [...], "tried": {row: {modality: [{"settings", measure: cell}]}}, "refused"}, the best first.
    """
    state = state or {"original": [], "tried": {}, "refused": {}, "memory": {}}
    parts = list(itertools.product(rows, (bench.seen, "text")))

    def tick(message: str) -> None:
        if on_step is not None:
            done = sum(len(found) for kept in ("tried", "refused") for found in state[kept].values())
            on_step(Step(done, len(parts), message))

    pairs = pairs_of(bench, bench.choosing) if seeds else None
    if pairs is not None and not state["original"]:
        state["original"] = [
            loss_after(bench.pair, pairs, pairs, fine_tuning, seed, lambda _: tick("learning from intact pairs"))
            for seed in range(seeds)
        ]
        save_state(state)
    for row, modality in parts:
        if any(modality in state[kept].get(row.name, {}) for kept in ("tried", "refused")):
            continue
        try:
            trials = choose(bench, row, modality, runtime, tick, state["memory"], lambda: save_state(state))
            table = tried_table(trials)
            if pairs is not None:
                _add_roar(bench, pairs, modality, trials, table, state["original"], fine_tuning, tick)
            state["tried"].setdefault(row.name, {})[modality] = table
        except (Cancelled, MemoryError):
            raise
        except PrismError as refusal:
            state["refused"].setdefault(row.name, {})[modality] = refusal.sentence
        save_state(state)
    return state


def _add_roar(
    bench: Bench,
    pairs: Pairs,
    modality: str,
    trials: Sequence[Trial],
    table: Sequence[dict[str, Any]],
    original: Sequence[float],
    fine_tuning: FineTuning,
    tick: Callable[[str], None],
) -> None:
    """Put ROAR+ over seeds into the rows of those that were tried on all pairs."""
    for trial, shown in zip(trials, table, strict=True):
        if len(trial.maps) == len(pairs):
            holed = (degrade(pairs, modality, trial.maps, seed) for seed in range(len(original)))
            corrupted = [
                loss_after(bench.pair, one, pairs, fine_tuning, seed, lambda _: tick("learning without the best"))
                for seed, one in enumerate(holed)
            ]
            shown["roar_plus"] = table_cell([roar_plus(c, o) for c, o in zip(corrupted, original, strict=True)])


# ----------------------------------------------------------------- the table
def evaluate(
    bench: Bench,
    runtime: Runtime,
    methods: Sequence[str] = (),
    seeds: int = 1,
    on_step: Callable[[Step], None] | None = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
    fine_tuning: FineTuning = SETTINGS,
) -> dict[str, Any]:
    """All combinations with their measures, and what each measure would choose.

    Raises: BadInput: a method without a layer to choose, too few pairs, or seeds out of range.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise BadInput(f"seeds is {seeds}; expected 1..{MAX_SEEDS}", "seeds")
    rows, n = rows_of(methods or METHODS), len(bench.choosing)
    split_pairs(n, 0)
    clock = Clock(state, save_state)
    measured = measure(bench, rows, seeds, runtime, fine_tuning, on_step, state, clock.save)
    return {
        **head_of(bench, runtime, "search", n, seeds, methods, clock),
        "about": f"beta, sigma2, layer and mode on {n} {bench.origin or 'pairs'} that no table is made of",
        "economy": ECONOMY,
        "fine_tuning": dataclasses.asdict(fine_tuning),
        "measures": [dataclasses.asdict(measure) for measure in MEASURES],
        "tried": measured["tried"],
        "would_choose": {
            name: {m: best_of(tried) for m, tried in by_modality.items()}
            for name, by_modality in measured["tried"].items()
        },
        "not_applicable": [
            {"name": name, "modality": modality, "reason": reason}
            for name, refused in measured["refused"].items()
            for modality, reason in refused.items()
        ],
    }


def rows_of(methods: Iterable[str]) -> list[Row]:
    """Raises: BadInput: an unknown method, or one that has no layer."""
    rows = [read_row(text) for text in methods]
    for row in rows:
        if row.method not in METHODS:
            raise BadInput(f"{row.method} has no settings to search; choose of {', '.join(METHODS)}", "methods")
    return rows


MEASURES = (
    Metric(
        "score",
        "Score",
        "higher",
        "What settings are chosen by here. Images: mean of box IoU over its attainable maximum and pointing. Texts: "
        "twice how often a key word is first, less how often it is with a stranger.",
    ),
    Metric("roar_plus", "ROAR+, %", "higher", "What the paper chose by; of those that were tried on all pairs."),
    Metric("drop", "Confidence drop, %", "lower", "max(0, o - s) with the best parts left."),
    Metric("increase", "Confidence increase, %", "higher", "How often the cosine rises by it."),
)


def best_of(tried: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """The settings that the score and ROAR+ choose of those that were tried on most pairs; None: it is not defined.

    >>> one = {"settings": {"beta": 1.0}, "score": {"n": 9, "mean": 0.5}}
    >>> best_of([{**one, "settings": {"beta": 0.1}, "score": {"n": 9, "mean": 0.7}}, one])
    {'score': {'beta': 0.1}, 'roar_plus': None}
    """
    by_roar = [one for one in tried if one.get("roar_plus", {}).get("mean") is not None]
    return {
        "score": tried[0]["settings"],
        "roar_plus": max(by_roar, key=lambda one: one["roar_plus"]["mean"])["settings"] if by_roar else None,
    }


def chosen_of(table: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """The settings of each method and modality that a search's table puts first."""
    return {
        name: {modality: choices["score"] for modality, choices in by_modality.items()}
        for name, by_modality in table["would_choose"].items()
    }
