"""The search of the paper's appendix: which beta, sigma squared and layer suit a model's bottleneck.

Every combination is measured on pairs that no table is made of: by ROAR+, as in the paper, and by what settings are
chosen by here, where a map lies or which words it puts first. Nothing is changed by it: the table says what each
measure would choose.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from backend.catalog import method
from backend.contracts import Step
from backend.errors import BadInput, Cancelled, PrismError
from backend.image_text.evaluate import (
    FAMILY,
    Bench,
    Metric,
    Row,
    Values,
    image_map,
    judge_image,
    judge_text,
    read_row,
    score_of,
    table_cell,
    text_map,
    text_maps,
)
from backend.image_text.roar import FineTuning, Pairs, degrade, loss_after, roar_plus, split_pairs
from backend.image_text.roar_evaluation import MAX_SEEDS, SETTINGS, Clock, head_of, pairs_of
from backend.models.towers import Tower
from backend.runtime import Runtime

BETAS = SIGMA2S = (1.0, 0.1, 0.01)  # the paper's
SWEPT = ("layer", "beta", "sigma2")
_ALL_LAYERS_UP_TO = 6  # blocks; of deeper towers three late ones are tried, as in the paper: 7, 8, 9 of 12
METHODS = ("m2ib",)
_MEASURES = ("score", "roar_plus")  # by which settings can be chosen; higher is better
Tick = Callable[..., None]


def grid_of(row: Row, tower: Tower) -> list[dict[str, Any]]:
    """Layer, beta and sigma squared of every combination, layer by layer; what the row sets is not searched.

    Raises: BadInput: the method has no such settings, or the layer is none of the tower's.
    """
    known = {param.name for param in method(row.method, FAMILY).params}
    if not set(SWEPT) <= known:
        raise BadInput(f"{row.method} has no layer, beta and sigma2 to search; choose m2ib or m2ib-contrast", "methods")
    given, n = dict(row.given), tower.n_layers
    layers = range(tower.first_layer, max(n - 1, 1)) if n <= _ALL_LAYERS_UP_TO else range(n - 5, n - 2)
    tried = {"layer": layers, "beta": BETAS, "sigma2": SIGMA2S}
    tried |= {name: [given[name]] for name in SWEPT if name in given}
    for layer in tried["layer"]:
        tower.check_layer(layer, tower.first_layer)
    return [dict(zip(SWEPT, values, strict=True)) for values in itertools.product(*(tried[name] for name in SWEPT))]


# ----------------------------------------------------------------- measuring
@dataclasses.dataclass(frozen=True)
class _Trial:
    """What every combination is tried on."""

    bench: Bench
    pairs: Pairs
    original: list[float]  # held-out loss of each seed after learning from intact pairs
    runtime: Runtime
    fine_tuning: FineTuning
    tick: Tick

    def measure(self, row: Row, modality: str, settings: Mapping[str, Any]) -> Values:
        """Every sample's score and confidence, and every seed's ROAR+, as cells of a table."""
        maps, judged = [], []
        for number in range(len(self.pairs)):
            self.tick(f"{row.name}, {modality}, {_said(settings)}")
            map_, values = self._map(row, modality, settings, number)
            maps.append(map_)
            judged.append(values)
        corrupted = [
            loss_after(
                self.bench.pair,
                degrade(self.pairs, modality, maps, seed),
                self.pairs,
                self.fine_tuning,
                seed,
                lambda _: self.tick(f"{row.name}, {modality}, {_said(settings)}: learning without it"),
            )
            for seed in range(len(self.original))
        ]
        gains = [roar_plus(c, o) for c, o in zip(corrupted, self.original, strict=True)]
        shown = "text" if modality == "text" else "image"
        return {
            "score": table_cell([values["score"] for values in judged]),
            "drop": table_cell([values[f"{shown}_drop"] for values in judged if f"{shown}_drop" in values]),
            "increase": table_cell([values[f"{shown}_increase"] for values in judged if f"{shown}_drop" in values]),
            "roar_plus": table_cell(gains),
        }

    def _map(self, row: Row, modality: str, settings: Mapping[str, Any], number: int) -> tuple[Tensor, Values]:
        bench, sample, runtime = self.bench, self.bench.choosing[number], self.runtime
        if modality != "text":
            map_ = image_map(bench, sample, row, settings, runtime)
            judged = judge_image(bench, sample, map_, number)
        elif sample.stranger is None:
            return text_map(bench, sample, row, settings, runtime), {"score": None}
        else:
            maps, problem = text_maps(bench, sample, row, settings, runtime)
            map_, judged = maps[0], judge_text(bench, sample, maps, problem)
        return map_, {**judged, "score": score_of(modality, judged)}


def _said(settings: Mapping[str, Any]) -> str:
    return f"layer {settings['layer']}, beta {settings['beta']:g}, sigma2 {settings['sigma2']:g}"


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
    """Try every combination on the samples for choosing; goes on from `state` combination by combination.

    Returns: {"original": [...], "tried": {row: {modality: [{"settings", measure: cell}]}}, "refused"}.
    """
    state = state or {"original": [], "tried": {}, "refused": {}}
    pairs, modalities = pairs_of(bench, bench.choosing), (bench.seen, "text")
    grids = {(row.name, m): grid_of(row, bench.pair.tower(m)) for row in rows for m in modalities}
    learning = seeds * fine_tuning.epochs
    each, done = len(pairs) + learning, 0
    total = learning + each * sum(map(len, grids.values()))

    def tick(message: str, steps: int = 1) -> None:
        nonlocal done
        done += steps
        if on_step is not None:
            on_step(Step(min(done, total), total, message))

    if not state["original"]:
        state["original"] = [
            loss_after(bench.pair, pairs, pairs, fine_tuning, seed, lambda _: tick("learning from intact pairs"))
            for seed in range(seeds)
        ]
        save_state(state)
    else:
        tick("going on", learning)
    trial = _Trial(bench, pairs, state["original"], runtime, fine_tuning, tick)
    for row, modality in itertools.product(rows, modalities):
        tried = state["tried"].setdefault(row.name, {}).setdefault(modality, [])
        held = bench.held.settings_of(row.method, modality)
        grid = grids[row.name, modality]
        tick("going on", each * len(tried)) if tried else None
        for settings in grid[len(tried) :]:
            if modality in state["refused"].get(row.name, {}):
                break
            try:
                tried.append({"settings": settings, **trial.measure(row, modality, {**held, **settings})})
            except (Cancelled, MemoryError):
                raise
            except PrismError as refusal:
                state["refused"].setdefault(row.name, {})[modality] = refusal.sentence
            save_state(state)
    return state


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

    Raises: BadInput: a method without these settings, too few pairs, or seeds out of range.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise BadInput(f"seeds is {seeds}; expected 1..{MAX_SEEDS}", "seeds")
    rows, n = [read_row(text) for text in (methods or METHODS)], len(bench.choosing)
    split_pairs(n, 0)
    clock = Clock(state, save_state)
    measured = measure(bench, rows, seeds, runtime, fine_tuning, on_step, state, clock.save)
    return {
        **head_of(bench, runtime, "search", n, seeds, methods, clock),
        "about": f"beta, sigma2 and layer on {n} {bench.origin or 'pairs'} that no table is made of, {seeds} seeds",
        "fine_tuning": dataclasses.asdict(fine_tuning),
        "measures": [dataclasses.asdict(measure) for measure in MEASURES],
        "tried": measured["tried"],
        "would_choose": {
            name: {m: best_of(tried) for m, tried in by_modality.items()}
            for name, by_modality in measured["tried"].items()
        },
        "held": {
            row.name: {m: held for m in (bench.seen, "text") if (held := bench.held.settings_of(row.method, m))}
            for row in rows
        },
        "not_applicable": [
            {"name": name, "modality": modality, "reason": reason}
            for name, refused in measured["refused"].items()
            for modality, reason in refused.items()
        ],
    }


MEASURES = (
    Metric(
        "score",
        "Score",
        "higher",
        "What settings are chosen by here. Images: mean of box IoU over its attainable maximum and pointing. Texts: "
        "twice how often a key word is first, less how often it is with a stranger.",
    ),
    Metric("roar_plus", "ROAR+, %", "higher", "What the paper chose by; mean over seeds."),
    Metric("drop", "Confidence drop, %", "lower", "max(0, o - s) with the best parts left."),
    Metric("increase", "Confidence increase, %", "higher", "How often the cosine rises by it."),
)


def best_of(tried: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """The settings with the highest mean of each measure that settings can be chosen by; None: it is not defined.

    >>> one = {"settings": {"beta": 1.0}, "score": {"mean": 0.5}, "roar_plus": {"mean": None}}
    >>> best_of([one, {**one, "settings": {"beta": 0.1}, "score": {"mean": 0.7}}])
    {'score': {'beta': 0.1}, 'roar_plus': None}
    """
    found: dict[str, dict[str, Any] | None] = {}
    for name in _MEASURES:
        defined = [one for one in tried if one[name]["mean"] is not None]
        found[name] = max(defined, key=lambda one: one[name]["mean"])["settings"] if defined else None
    return found
