"""The table of ROAR+: every method's maps of a model's pairs, taken out of what a fresh copy of it learns from."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from backend.catalog import method
from backend.contracts import Step
from backend.errors import BadInput, Cancelled, PrismError
from backend.image_text.evaluate import (
    FAMILY,
    Bench,
    Metric,
    Row,
    Sample,
    digits,
    image_map,
    read_row,
    table_cell,
    table_difference,
    text_map,
)
from backend.image_text.roar import FineTuning, Pairs, degrade, loss_after, roar_plus, split_pairs
from backend.image_text.run import enlarge
from backend.models.clip import ImageTextPair
from backend.runtime import Runtime
from backend.versions import versions

METHODS = ("m2ib", "chefer", "grad-cam", "saliency", "rise:samples=256", "kernel-shap:samples=128")  # as the paper's
RANDOM = "random"  # the row of maps that know nothing
MAX_SEEDS = 20
SETTINGS = FineTuning()
DEFINITION = (
    "ROAR+ = (l_c - l_o) / l_o in percent. l_c: contrastive loss on intact held-out pairs (one in five) after "
    "fine-tuning on the others without the quarter of their pixels (set to the channel's mean), or without the half of "
    "their words' sub-tokens (set to padding), that a method's maps put highest; l_o: the same after fine-tuning on "
    "them intact. Mean over seeds, each with a split and an order of its own. Source: Wang et al., NeurIPS 2023, "
    "section 4."
)
DIFFERS = (
    "The paper does not say how it fine-tunes: ours is {epochs} epochs of AdamW at {rate:g}, batches of {batch}.",
    "Batch normalisation, which the paper's towers do not have, keeps its statistics.",
    "Random maps, as coarse as the tower's tokens, are added as a control.",
    "The pairs are those of this model's own evaluation, hundreds of them and not hundreds of thousands.",
)
Tick = Callable[[str], None]


# ----------------------------------------------------------------- pairs and their maps
def pairs_of(bench: Bench, samples: Sequence[Sample]) -> Pairs:
    """Samples as tensors."""
    tokenizer, texts = bench.pair.tokenizer, [sample.text for sample in samples]
    return Pairs(
        modality=bench.seen,
        inputs=torch.cat([sample.pixels for sample in samples]),
        ids=bench.pair.tokens(texts),
        words=tuple(tuple((word.first, word.last) for word in tokenizer.tokenize(text).words) for text in texts),
        blank_id=tokenizer.pad_id,
    )


def maps_of(
    bench: Bench, samples: Sequence[Sample], row: Row, modality: str, runtime: Runtime, tick: Tick = lambda _: None
) -> list[Tensor]:
    """A method's map of every sample by the model as it is, with the settings that are held for it.

    Raises: NotAvailable, BadInput: the method refuses the model.
    """
    settings, found = bench.held.settings_of(row.method, modality), []
    draw = text_map if modality == "text" else image_map
    for sample in samples:
        tick(f"maps of {row.name}")
        found.append(draw(bench, sample, row, settings, runtime))
    return found


def random_maps(pair: ImageTextPair, pairs: Pairs, modality: str, seed: int) -> list[Tensor]:
    """Maps that know nothing: uniform numbers over cells as large as the tower's tokens, or over the tokens."""
    generator = torch.Generator().manual_seed(seed)
    if modality == "text":
        return list(torch.rand(pairs.ids.shape, generator=generator))
    tower = pair.tower(modality)
    grid = tower.grid(tower.n_layers - 1)
    return list(enlarge(torch.rand(len(pairs), *grid, generator=generator), tuple(pairs.inputs.shape[-2:])))


# ----------------------------------------------------------------- measuring
def measure(
    bench: Bench,
    rows: Sequence[Row],
    seeds: int,
    runtime: Runtime,
    settings: FineTuning = SETTINGS,
    on_step: Callable[[Step], None] | None = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Held-out losses of every row, modality and seed; goes on from `state` row by row.

    Returns: {"original": [loss of each seed], "losses": {row: {modality: [loss of each seed]}}, "refused"}.
    """
    state = state or {"original": [], "losses": {}, "refused": {}}
    samples = bench.counting
    pairs, modalities = pairs_of(bench, samples), (bench.seen, "text")
    per_training, named = settings.epochs * seeds, [*(row.name for row in rows), RANDOM]
    total = per_training + len(modalities) * (len(named) * per_training + len(rows) * len(samples))
    done = 0

    def tick(message: str, steps: int = 1) -> None:
        nonlocal done
        done += steps
        if on_step is not None:
            on_step(Step(min(done, total), total, message))

    def losses(holed: Callable[[int], Pairs], what: str) -> list[float]:
        return [
            loss_after(bench.pair, holed(seed), pairs, settings, seed, lambda _: tick(f"learning {what}"))
            for seed in range(seeds)
        ]

    if not state["original"]:
        state["original"] = losses(lambda _: pairs, "from intact pairs")
        save_state(state)
    else:
        tick("going on", per_training)
    for row in (*rows, None):
        name = RANDOM if row is None else row.name
        for modality in modalities:
            begun = done
            planned = per_training + (0 if row is None else len(samples))
            if modality not in state["losses"].get(name, {}) and modality not in state["refused"].get(name, {}):
                what = f"without the best of {name}, {'words' if modality == 'text' else modality}"
                try:
                    found = None if row is None else maps_of(bench, samples, row, modality, runtime, tick)
                    drawn = [
                        degrade(pairs, modality, found or random_maps(bench.pair, pairs, modality, seed), seed)
                        for seed in range(seeds)
                    ]
                    state["losses"].setdefault(name, {})[modality] = losses(drawn.__getitem__, what)
                except (Cancelled, MemoryError):
                    raise
                except PrismError as refusal:
                    state["refused"].setdefault(name, {})[modality] = refusal.sentence
                save_state(state)
            tick(name, begun + planned - done)
    return state


# ----------------------------------------------------------------- the table
class Clock:
    """Seconds of a run, those before it was interrupted among them; the run keeps its state through this."""

    def __init__(self, state: dict[str, Any] | None, save_state: Callable[[dict[str, Any]], None]) -> None:
        self._began = time.perf_counter() - (state or {}).get("elapsed_s", 0.0)
        self._save_state = save_state

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._began

    def save(self, state: dict[str, Any]) -> None:
        self._save_state({**state, "elapsed_s": self.elapsed_s})


def head_of(
    bench: Bench, runtime: Runtime, preset: str, n: int, seeds: int, methods: Sequence[str], clock: Clock
) -> dict[str, Any]:
    """What a stored run says of itself: of which model, by which command, where and for how long."""
    names = (f" --methods {','.join(methods)}" if methods else "") + (" --data PATH" if bench.is_users else "")
    command = f"evaluate {FAMILY} --model {bench.pair.key} --preset {preset} --n {n} --seeds {seeds}{names}"
    return {
        "family": FAMILY,
        "preset": preset,
        "command": f"python -m backend {command} --json",
        "model": bench.pair.key,
        "digest": bench.pair.digest,
        "n": n,
        "seeds": seeds,
        "machine": runtime.describe(),
        "seconds": round(clock.elapsed_s, 1),
        "versions": dict(versions()),
    }


def evaluate(
    bench: Bench,
    runtime: Runtime,
    methods: Sequence[str] = (),
    seeds: int = 1,
    on_step: Callable[[Step], None] | None = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
    settings: FineTuning = SETTINGS,
) -> dict[str, Any]:
    """ROAR+ of some methods, and whether each is above random maps.

    Raises: BadInput: unknown method, too few pairs, or seeds out of range.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise BadInput(f"seeds is {seeds}; expected 1..{MAX_SEEDS}", "seeds")
    rows = [read_row(text) for text in (methods or METHODS)]
    n = len(bench.counting)
    trained, tried = split_pairs(n, 0)
    clock = Clock(state, save_state)
    measured = measure(bench, rows, seeds, runtime, settings, on_step, state, clock.save)
    return {
        **head_of(bench, runtime, "roar", n, seeds, methods, clock),
        "about": f"ROAR+ on {n} {bench.origin}: {len(trained)} learnt from, {len(tried)} held out, {seeds} seeds",
        "definition": DEFINITION,
        "differs": [line.format(**dataclasses.asdict(settings)) for line in DIFFERS],
        "fine_tuning": dataclasses.asdict(settings),
        **tabulate(bench, rows, measured),
    }


def tabulate(bench: Bench, rows: Sequence[Row], measured: dict[str, Any]) -> dict[str, Any]:
    """ROAR+ of each row over seeds, and each row's paired difference to random maps."""
    original = measured["original"]
    values = {
        name: {
            f"{modality}_roar_plus": [roar_plus(c, o) for c, o in zip(found, original, strict=True)]
            for modality, found in by_modality.items()
        }
        for name, by_modality in measured["losses"].items()
    }
    says = {"image": "Image", "audio": "Sound", "text": "Text"}
    columns = [
        Metric(
            f"{modality}_roar_plus",
            f"{says[modality]} ROAR+, %",
            "higher",
            "How much larger the held-out loss is after learning without what the maps put highest.",
        )
        for modality in (bench.seen, "text")
    ]
    titles = {row.name: method(row.method, FAMILY).title + row.name.removeprefix(row.method) for row in rows}
    params = {
        row.name: {m: bench.held.settings_of(row.method, m) | dict(row.given) for m in (bench.seen, "text")}
        for row in rows
    }
    return {
        "columns": [dataclasses.asdict(column) for column in columns],
        "rows": [
            {
                "name": name,
                "title": titles.get(name, "Random maps"),
                "method": name.partition(":")[0],
                "params": params.get(name, {}),
                "metrics": {key: table_cell(column) for key, column in found.items()},
            }
            for name, found in values.items()
        ],
        "paired": [
            {"ours": name, "theirs": RANDOM, "metric": key, **table_difference(column, values[RANDOM][key])}
            for name, found in values.items()
            for key, column in found.items()
            if name != RANDOM and key in values.get(RANDOM, {})
        ],
        "not_applicable": [
            {"name": name, "method": name.partition(":")[0], "modality": modality, "reason": reason}
            for name, refused in measured["refused"].items()
            for modality, reason in refused.items()
        ],
        "losses": {
            "original": [digits(loss) for loss in original],
            **{
                name: {modality: [digits(loss) for loss in found] for modality, found in by_modality.items()}
                for name, by_modality in measured["losses"].items()
            },
        },
    }
