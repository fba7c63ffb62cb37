"""The evaluation: every metric over many test images, as a table of methods; and the presets that repeat the paper.

`measure` runs the methods batch by batch and keeps one value per method, metric and image, so that it can go on
after a kill and so that differences can be paired. `tabulate` turns such values into means and intervals.
"""

import csv
import dataclasses
import functools
import json
import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from backend.catalog import METHODS, ParamSpec, check_baseline, method
from backend.contracts import OnStep, Params, Step
from backend.errors import BadInput, Cancelled, ModelFault, OutOfMemory, PrismError
from backend.limits import LIMITS
from backend.models.classifier import LoadedClassifier
from backend.models.first_layer import quick_first_layer
from backend.path_attribution import metrics
from backend.path_attribution.baselines import make_baseline
from backend.path_attribution.data import LabelledImages
from backend.path_attribution.problem import Explanation, Problem
from backend.path_attribution.run import implementation
from backend.runtime import Chunks, Runtime, watch
from backend.versions import versions

ASSETS = Path(__file__).resolve().parents[2] / "assets"
Half = Literal["", "first", "second"]
Values = dict[str, list[float | None]]  # metric -> one value per image; None: not defined for this image
LoadModel = Callable[[str], LoadedClassifier]


# ----------------------------------------------------------------- what is measured
@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the table."""

    key: str
    title: str
    better: Literal["lower", "higher", ""]
    help: str


def _metrics() -> dict[str, Metric]:
    columns = []
    for kind, reading in {
        "ratio": "f(x_k) / f(x) on logits",
        "normalised": "(f(x_k) - f(x0)) / (f(x) - f(x0)) on logits",
        "probability": "the target's probability",
    }.items():
        text = f"Area under the curve of {reading} while the best pixels"
        columns.append(Metric(f"deletion_{kind}", f"Deletion, {kind}", "lower", f"{text} are replaced."))
        columns.append(Metric(f"insertion_{kind}", f"Insertion, {kind}", "higher", f"{text} are brought in."))
    columns += [
        Metric("completeness_gap", "Completeness gap", "lower", "|sum a - (f(x) - f(x0))|, in logits."),
        Metric("relative_gap", "Relative gap", "lower", "The completeness gap over |f(x) - f(x0)|."),
        Metric("corrected_share", "Corrected share", "lower", "Share of the change that the gradients missed."),
        Metric("variance", "Var(a)", "higher", "Variance over pixels: concentration, where the sums are equal."),
        Metric("gini", "Gini", "higher", "Gini index of |a|: 0 all pixels equal, 1 one pixel has everything."),
        Metric("mass_absolute", "Mass in mask", "higher", "Share of |a| on the object."),
        Metric("mass_positive", "Positive mass in mask", "higher", "Share of the positive part of a on the object."),
        Metric("pointing", "Pointing game", "higher", "How often the largest value lies on the object."),
        Metric("seconds", "Seconds per image", "lower", "Wall time of the attribution, in batches."),
        Metric("forward", "Forward passes per image", "lower", "Images pushed through the model."),
        Metric("backward", "Backward passes per image", "lower", "Of these, with a gradient."),
    ]
    return {column.key: column for column in columns}


METRICS = _metrics()


def metric(key: str) -> Metric:
    """A column's row; sensitivity-N has one for every fraction, as `sensitivity_0.05`."""
    if key.startswith("sensitivity_"):
        fraction = float(key.removeprefix("sensitivity_"))
        text = f"Correlation of summed attribution and drop of the score, for {fraction:.0%} of the pixels."
        return Metric(key, f"Sensitivity-N, {fraction:.0%}", "higher", text)
    return METRICS[key]


# ----------------------------------------------------------------- what is compared
@dataclass(frozen=True, slots=True)
class Row:
    """A method with its settings: a row of the table."""

    name: str
    method: str
    params: Params = ()
    baselines: tuple[str, ...] = ()  # attributions averaged over these; empty: the evaluation's own


@dataclass(frozen=True, slots=True)
class Plan:
    """What an evaluation compares, and by which metrics."""

    rows: tuple[Row, ...]
    steps: int = 28  # of deletion and insertion; 0: not measured
    fractions: tuple[float, ...] = (0.01, 0.05, 0.1, 0.25, 0.5)  # subset sizes of sensitivity-N; empty: not measured
    subsets: int = 50
    ours: str = ""  # row whose paired differences to all others are told; empty: none
    half: Half = ""  # of the test images: settings are chosen on the first, reported on the second
    about: str = ""


def _row(name: str, key: str, *baselines: str, **params: Any) -> Row:
    return Row(name, key, method(key).complete_params(params), baselines)


PRESETS: dict[str, str] = {
    "table": "Every method with its defaults, every metric; the paper's Table 1 on our networks.",
    "figure5": "Sensitivity-N of SAMP with and without the infinitesimal constraint; the paper's Figure 5.",
    "concentration": "Var(a) of SAMP's directions, the straight and a random path; the Concentration Principle.",
    "completeness": "What the path methods' sums miss: Integrated Gradients with 50 midpoints, SAMP and SAMP++.",
    "search": "Settings of SAMP++ on the first half of the test images.",
    "study": "SAMP joint against every peer on the second half of the test images, paired.",
}


def preset(name: str, methods: Sequence[str] = ()) -> Plan:
    """The plan under a preset's name.

    Args: methods: keys of the catalog for "table" and "study", with settings as `read_row` takes them; empty: all.
    Raises: BadInput: unknown preset, method or setting.
    """
    if name not in PRESETS:
        raise BadInput(f"unknown preset {name!r}; one of {', '.join(PRESETS)}", "preset")
    every = tuple(read_row(text) for text in (methods or METHODS))
    plans = {
        "table": Plan(every, ours="samp++"),
        "figure5": Plan(_FIGURE_5, steps=0),
        "concentration": Plan(_CONCENTRATION, steps=0, fractions=()),
        "completeness": Plan(_COMPLETENESS, steps=0, fractions=()),
        "search": Plan(_SEARCH, fractions=(), ours="samp-joint", half="first"),
        "study": Plan(every, fractions=(), ours="samp-joint", half="second"),
    }
    plan = plans[name]
    if plan.ours not in {row.name for row in plan.rows}:
        plan = dataclasses.replace(plan, ours="")
    return dataclasses.replace(plan, about=PRESETS[name])


def read_row(text: str) -> Row:
    """A row from a method's key, with settings behind colons where they are not the defaults.

    Raises: BadInput: unknown method, unknown setting, or a value that it does not take.

    >>> row = read_row("lrp:composite=gamma")
    >>> row.name, row.method, dict(row.params)["composite"]
    ('lrp:composite=gamma', 'lrp', 'gamma')
    """
    key, *settings = text.split(":")
    spec = method(key)
    params = dict(setting.partition("=")[::2] for setting in settings)
    return _row(text, key, **{name: _read_value(spec.param(name), value) for name, value in params.items()})


def _read_value(spec: ParamSpec, text: str) -> Any:
    """What a word on the command line stands for; whether it fits, the parameter's own check says."""
    if spec.kind == "choice":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


_FIGURE_5 = (
    _row("SAMP, no constraint", "samp"),
    _row("SAMP, eta 0.02", "samp", eta=0.02),
    _row("SAMP, eta 0.01", "samp", eta=0.01),
    _row("SAMP++", "samp++"),
    _row("SAMP++, no constraint", "samp++", eta=None),
    _row("Integrated Gradients", "ig"),
)
# Var(a) compares paths only where the sums are equal, so every path here is corrected to f(x) - f(x0).
_CONCENTRATION = (
    _row("image to baseline", "samp", w=1.0, integrator="corrected"),
    _row("baseline to image", "samp", w=0.0, integrator="corrected"),
    _row("both, averaged", "samp", w=0.5, integrator="corrected"),
    _row("image to baseline, eta 0.02", "samp", w=1.0, integrator="corrected", eta=0.02),
    _row("baseline to image, eta 0.02", "samp", w=0.0, integrator="corrected", eta=0.02),
    _row("straight line (IG)", "ig"),
    _row("random path", "samp", w=0.0, integrator="corrected", select="random"),
)
_COMPLETENESS = (
    _row("IG, 50 midpoints", "ig", n_steps=50, rule="midpoint"),
    _row("IG, 200 midpoints", "ig", n_steps=200, rule="midpoint"),
    _row("SAMP", "samp"),
    _row("SAMP, trapezoid", "samp", integrator="trapezoid"),
    *(_row(f"SAMP++, eta {eta:g}", "samp++", eta=eta) for eta in (0.05, 0.02, 0.01, 0.005)),
    # More pixels in a step at the same bound: each moves less far, so the gradients miss less, at the same cost.
    *(_row(f"SAMP++, {s} pixels a step", "samp++", s=s) for s in (20, 40, 80)),
    _row("SAMP joint", "samp-joint"),
)
_SEARCH = (
    _row("samp-joint", "samp-joint"),
    _row("samp++", "samp++"),
    _row("apart, left, w 1/2", "samp++", integrator="left", w=0.5),
    _row("apart, ordered", "samp-joint", walk="apart"),
    _row("together, left, w 1/2", "samp-joint", integrator="left", w=0.5),
    *(_row(f"together, corrected, w {w:g}", "samp-joint", integrator="corrected", w=w) for w in (0.4, 0.5)),
    *(_row(f"together, ordered, w {w:g}", "samp-joint", w=w) for w in (0.4, 0.5, 0.6)),
    _row("together, ordered, eta 0.05", "samp-joint", eta=0.05),
    _row("together, ordered, no constraint", "samp-joint", eta=None, lam=0.0),
    _row("samp", "samp"),
    _row("ig", "ig"),
    _row("grad-cam", "grad-cam"),
    _row("lrp", "lrp"),
)


# ----------------------------------------------------------------- measuring
def measure(
    loaded: LoadedClassifier,
    data: LabelledImages,
    plan: Plan,
    baseline: str,
    seed: int,
    runtime: Runtime,
    on_step: OnStep = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
    batch: int = 20,
) -> dict[str, Any]:
    """Explain the images by every row of the plan and judge the maps; the target is each image's label.

    All rows of a batch share one deletion/insertion sweep and the same subsets of sensitivity-N. A row whose
    method refuses the model is dropped, with its reason.

    Args:
        data: images that are to be explained, with masks where they are known.
        baseline: of the methods (unless a row has its own) and of the metrics.
        state: what an earlier, interrupted call saved; `save_state` is called after every batch.
    Returns: {"done": images, "rows": {name: {metric: [per image]}}, "dropped": {name: reason}, "seconds": wall time}.
    Raises: Cancelled: from `on_step`.
    """
    state = state or {"done": 0, "rows": {row.name: {} for row in plan.rows}, "dropped": {}, "seconds": 0.0}
    progress = _Progress(on_step, len(data), len(plan.rows), loaded.spec.key)
    while state["done"] < len(data):
        started, start = time.perf_counter(), state["done"]
        bench = _Bench(loaded, data[start : start + batch], baseline, f"{seed}/{start}", runtime, progress)
        maps: dict[str, Tensor] = {}
        progress.start_batch(start, len(bench))
        for row in plan.rows:
            if row.name not in state["dropped"]:
                try:
                    maps[row.name], values = bench.explain(row)
                    _extend(state["rows"][row.name], values)
                except (Cancelled, OutOfMemory):
                    raise
                except PrismError as refusal:
                    state["dropped"][row.name] = refusal.sentence
                    del state["rows"][row.name]
            progress.row_done(row.name)
        if maps:
            for name, values in bench.judge(maps, plan).items():
                _extend(state["rows"][name], values)
        state["done"] += len(bench)
        state["seconds"] += time.perf_counter() - started
        save_state(state)
    return state


class _Progress:
    """Steps of a measurement; a step may raise Cancelled, so long work calls `tick` as well."""

    def __init__(self, on_step: OnStep, n_images: int, n_rows: int, what: str) -> None:
        self.on_step, self.what, self.n_rows = on_step, what, n_rows + 1  # the metrics count as a row
        self.total = n_images * self.n_rows
        self.done, self.size, self.message = 0, 0, ""

    def start_batch(self, start: int, size: int) -> None:
        self.done, self.size = start * self.n_rows, size
        self.tick()

    def row_done(self, name: str) -> None:
        self.done += self.size
        self.message = name
        self.tick()

    def tick(self, _: Step | None = None) -> None:
        if self.on_step is not None:
            self.on_step(Step(self.done, self.total, f"{self.what}: {self.message}".rstrip(": ")))


class _Bench:
    """A batch of labelled images on the device, before one model and one baseline."""

    def __init__(
        self,
        loaded: LoadedClassifier,
        data: LabelledImages,
        baseline: str,
        seed: str,
        runtime: Runtime,
        progress: _Progress,
    ) -> None:
        self.loaded, self.runtime, self.baseline, self.seed, self.progress = loaded, runtime, baseline, seed, progress
        self.images = to_device(data.images, runtime)
        self.targets = torch.from_numpy(data.targets).long().to(runtime.device)
        self.masks = None if data.masks is None else torch.from_numpy(data.masks).to(runtime.device)
        self.baselines = self._baselines(baseline)

    def __len__(self) -> int:
        return len(self.images)

    def _generator(self, purpose: str) -> torch.Generator:
        return self.runtime.generator(zlib.crc32(f"{self.seed}/{purpose}".encode()))

    def _baselines(self, name: str) -> Tensor:
        return make_baseline(name, self.images, self._generator("baseline"))

    def _chunks(self) -> Chunks:
        return Chunks(self.runtime.chunk_size(*self.images.shape[-2:]))

    def explain(self, row: Row) -> tuple[Tensor, Values]:
        """A row's maps (B, H, W) and what is known without the model: completeness, concentration, cost."""
        with self.runtime.lock, watch(self.loaded.module) as passes:
            started = time.perf_counter()
            parts = [self._explain(row, name) for name in row.baselines or (self.baseline,)]
            attribution = torch.stack([part.attribution for part in parts]).mean(0)
            map_ = attribution.sum(1)  # (B, H, W)
            if not torch.isfinite(map_).all():
                raise ModelFault("the attribution holds values that are not numbers", "method")
            seconds = time.perf_counter() - started
        size = len(self)
        values: Values = {
            "variance": _plain(metrics.variance(map_)),
            "gini": _plain(metrics.gini(map_)),
            "seconds": [seconds / size] * size,
            "forward": [passes.forward / size] * size,
            "backward": [passes.backward / size] * size,
        }
        if parts[0].explained_change is not None:
            change = torch.stack([part.explained_change for part in parts]).double().mean(0)
            gap = metrics.completeness_gap(map_.double(), change)
            values["completeness_gap"] = _plain(gap)
            values["relative_gap"] = _plain(gap / change.abs())
        if parts[0].corrected_share is not None:
            values["corrected_share"] = _plain(torch.stack([part.corrected_share for part in parts]).mean(0))
        if self.masks is not None:
            values["mass_absolute"] = _plain(metrics.mass_in_mask(map_, self.masks))
            values["mass_positive"] = _plain(metrics.mass_in_mask(map_, self.masks, "positive"))
            values["pointing"] = _plain(metrics.pointing_game(map_, self.masks))
        return map_, values

    def _explain(self, row: Row, baseline: str) -> Explanation:
        problem = Problem(
            model=self.loaded.module,
            images=self.images,
            baselines=self._baselines(baseline),
            targets=self.targets,
            generator=self._generator("method"),
            chunks=self._chunks(),
            on_step=self.progress.tick,
        )
        return implementation(method(row.method))(problem, **dict(row.params))

    def judge(self, maps: Mapping[str, Tensor], plan: Plan) -> dict[str, Values]:
        """Deletion, insertion and sensitivity-N of all rows at once."""
        stack = torch.stack(list(maps.values()))  # (M, B, H, W)
        scene = (self.loaded.module, self.images, self.baselines, self.targets, stack)
        found: dict[str, Values] = {name: {} for name in maps}
        with self.runtime.lock, quick_first_layer(self.loaded.module):
            if plan.steps:
                sweep = metrics.deletion_insertion(
                    *scene, plan.steps, self._generator("ties"), self._chunks(), self.progress.tick
                )
                for kind in metrics.SCORE_KINDS:
                    for mode, areas in zip(("deletion", "insertion"), sweep.scores(kind), strict=True):
                        for name, area in zip(maps, areas, strict=True):
                            found[name][f"{mode}_{kind}"] = _plain(area)
            if plan.fractions:
                n_pixels = stack.shape[-2] * stack.shape[-1]
                sizes = tuple(max(1, round(fraction * n_pixels)) for fraction in plan.fractions)
                correlations = metrics.sensitivity_n(
                    *scene, sizes, plan.subsets, self._generator("subsets"), self._chunks(), self.progress.tick
                )
                for name, per_image in zip(maps, correlations, strict=True):
                    for fraction, column in zip(plan.fractions, per_image.T, strict=True):
                        found[name][f"sensitivity_{fraction:g}"] = _plain(column)
        return found


def to_device(images: np.ndarray, runtime: Runtime) -> Tensor:
    """uint8 (B, C, H, W) -> [0, 1] in the runtime's dtype, on its device."""
    return torch.from_numpy(images).to(runtime.device, runtime.dtype) / 255


def _plain(values: Tensor) -> list[float | None]:
    """Plain floats for JSON, None where a value is not defined; float32 knows no more than eight digits."""
    return [float(f"{value:.8g}") if math.isfinite(value) else None for value in values.double().cpu().tolist()]


def _extend(values: Values, more: Values) -> None:
    for key, column in more.items():
        values.setdefault(key, []).extend(column)


def _tensor(column: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in column], dtype=torch.float64)


# ----------------------------------------------------------------- tabulating
@dataclass(frozen=True)
class Run:
    """The measurement of one model: which test images, and what came of them."""

    model: str
    digest: str
    indices: tuple[int, ...]  # into the test split
    measured: dict[str, Any]


def tabulate(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """Mean, standard deviation, median and 95th percentile of every metric, and paired differences.

    Several runs are the same network trained from several seeds: the table pools them. A paired difference first
    averages an image over the runs that have it, so that its interval is one over images; where there are more
    runs, `over_seeds` has the interval of the runs' means.
    """
    dropped = {name: reason for run in runs for name, reason in run.measured["dropped"].items()}
    rows = [row for row in plan.rows if row.name not in dropped]
    columns = [key for key in runs[0].measured["rows"][rows[0].name]] if rows else []
    for row in rows[1:]:
        columns += [key for key in runs[0].measured["rows"][row.name] if key not in columns]
    columns.sort(key=_column_order)
    return {
        "columns": [dataclasses.asdict(metric(key)) for key in columns],
        "rows": [
            {
                "name": row.name,
                "title": _title(row),
                "method": row.method,
                "params": dict(row.params),
                "baselines": list(row.baselines),
                "metrics": {key: _cell(runs, row.name, key) for key in columns if key in _values(runs[0], row.name)},
            }
            for row in rows
        ],
        "not_applicable": [
            {"name": row.name, "method": row.method, "reason": dropped[row.name]}
            for row in plan.rows
            if row.name in dropped
        ],
        "paired": [
            _paired(runs, plan.ours, row.name, key)
            for row in rows
            if plan.ours and plan.ours not in dropped and row.name != plan.ours
            for key in columns
            if key.startswith(("deletion", "insertion", "sensitivity"))
        ],
    }


def _title(row: Row) -> str:
    """The method's title, with the settings that `read_row` was given; the name of a row that has one of its own."""
    key, _, settings = row.name.partition(":")
    if key != row.method:
        return row.name
    return f"{method(key).title} ({settings.replace(':', ', ')})" if settings else method(key).title


def _column_order(key: str) -> tuple[int, float]:
    order = list(METRICS)
    if key.startswith("sensitivity_"):  # between the areas and completeness
        return order.index("completeness_gap"), float(key.removeprefix("sensitivity_")) - 1.0
    return order.index(key), 0.0


def _values(run: Run, row: str) -> Values:
    return run.measured["rows"][row]


def _cell(runs: Sequence[Run], row: str, key: str) -> dict[str, float | int | None]:
    values = torch.cat([_tensor(_values(run, row)[key]) for run in runs])
    summary = metrics.summarise(values)
    defined = values[~values.isnan()]
    median, p95 = (defined.quantile(q).item() if len(defined) else None for q in (0.5, 0.95))
    return {
        "n": summary.n,
        "mean": _digits(summary.mean),
        "sd": _digits(summary.sd),
        "median": _digits(median),
        "p95": _digits(p95),
    }


def _digits(value: float | None) -> float | None:
    """Six significant digits: more would be noise in a stored table."""
    return None if value is None else float(f"{value:.6g}")


def _paired(runs: Sequence[Run], ours: str, theirs: str, key: str) -> dict[str, Any]:
    per_image: dict[int, list[float]] = {}
    means = []
    for run in runs:
        difference = _tensor(_values(run, ours)[key]) - _tensor(_values(run, theirs)[key])
        means.append(metrics.summarise(difference).mean)
        for index, value in zip(run.indices, difference.tolist(), strict=True):
            if math.isfinite(value):
                per_image.setdefault(index, []).append(value)
    summary = metrics.summarise(_tensor([sum(values) / len(values) for values in per_image.values()]))
    told = {"ours": ours, "theirs": theirs, "metric": key, **_interval(summary)}
    if len(runs) > 1:
        told["over_seeds"] = _interval(metrics.summarise(_tensor(means)))
    return told


def _interval(summary: metrics.Summary) -> dict[str, float | int | None]:
    return {
        "n": summary.n,
        "mean": _digits(summary.mean),
        "low": _digits(summary.low),
        "high": _digits(summary.high),
    }


# ----------------------------------------------------------------- the whole evaluation of a model
def evaluate(
    model: str,
    load: LoadModel,
    runtime: Runtime,
    *,
    n: int = 100,
    seeds: int = 1,
    preset_name: str = "table",
    methods: Sequence[str] = (),
    baseline: str = "black",
    seed: int = 0,
    on_step: OnStep = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate an embedded model on the first n test images that it classifies correctly.

    Args:
        model: key; with `seeds` = K, it and its twins `MODEL-seed1` .. `MODEL-seed<K - 1>` are pooled.
        load: key -> the classifier on its device.
        state: what an interrupted call saved last.
    Returns: a JSON object: command, model, machine, seconds, and what `tabulate` says.
    Raises: BadInput: unknown preset, method, baseline or model, numbers out of range; Cancelled.
    """
    if not 1 <= n <= LIMITS.max_evaluation_images:
        raise BadInput(f"n is {n}; expected 1..{LIMITS.max_evaluation_images}", "n")
    if not 1 <= seeds <= 100:
        raise BadInput(f"seeds is {seeds}; expected 1..100", "seeds")
    plan, baseline = preset(preset_name, methods), check_baseline(baseline)
    data = held_out_images(model)
    half = _half(plan.half, len(data))
    state = state or {}
    runs = []
    for key in _twins(model, seeds):
        loaded = load(key)
        indices = half[is_correct(loaded, data[half], runtime)][:n]

        def save(part: dict[str, Any], key: str = key) -> None:
            state[key] = part
            save_state(state)

        measured = measure(
            loaded, data[indices], plan, baseline, seed, runtime, _part(on_step, len(runs), seeds), state.get(key), save
        )
        runs.append(Run(key, loaded.digest, tuple(indices.tolist()), measured))
    return {
        "family": "path_attribution",
        "preset": preset_name,
        "about": plan.about,
        "command": command_of(model, n, seeds, preset_name, methods, baseline),
        "model": model,
        "models": [{"key": run.model, "digest": run.digest, "images": len(run.indices)} for run in runs],
        "baseline": baseline,
        "seed": seed,
        "test_images": [int(half[0]), int(half[-1])],
        "steps": plan.steps,
        "fractions": list(plan.fractions),
        "subsets": plan.subsets,
        "machine": runtime.describe(),
        "seconds": round(sum(run.measured["seconds"] for run in runs), 1),
        "versions": dict(versions()),
        **tabulate(plan, runs),
    }


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`evaluate` as a job: resumes from its checkpoint. `context` is a `backend.jobs.JobContext`."""
    from backend.service import local_service

    service = local_service()

    def load(key: str) -> LoadedClassifier:
        spec = service.library.spec(key)
        load_now = functools.partial(service.library.load, key, service.runtime.device, service.runtime.dtype)
        return service.runtime.model(spec.key, load_now)

    return evaluate(
        args["model"],
        load,
        service.runtime,
        n=args.get("n", 100),
        seeds=args.get("seeds", 1),
        preset_name=args.get("preset", "table"),
        methods=args.get("methods", ()),
        baseline=args.get("baseline", "black"),
        on_step=context.on_step,
        state=context.load_state(),
        save_state=context.save_state,
    )


def command_of(model: str, n: int, seeds: int, preset_name: str, methods: Sequence[str], baseline: str) -> str:
    """The command line that makes this evaluation.

    >>> command_of("digits-gap", 100, 1, "table", (), "black")
    'python -m backend evaluate path_attribution --model digits-gap --n 100 --json'
    """
    options = [f"--model {model}", f"--n {n}"]
    options += [f"--seeds {seeds}"] * (seeds > 1)
    options += [f"--preset {preset_name}"] * (preset_name != "table")
    options += [f"--methods {','.join(methods)}"] * bool(methods)
    options += [f"--baseline {baseline}"] * (baseline != "black")
    return " ".join(["python -m backend evaluate path_attribution", *options, "--json"])


def held_out_images(model: str) -> LabelledImages:
    """The test split of the data that an embedded model was trained on.

    Raises: BadInput: a model whose data we do not have.
    """
    from backend.path_attribution.train import DATASETS, RECIPES

    name = model.partition("-seed")[0]
    if name not in RECIPES:
        raise BadInput(f"no test images are known for {model!r}; they are for {', '.join(RECIPES)}", "model")
    return DATASETS[RECIPES[name].dataset].load("test", None)


def _half(half: Half, n_images: int) -> np.ndarray:
    """Indices of the test images that a plan may look at."""
    middle = n_images // 2
    start, stop = {"": (0, n_images), "first": (0, middle), "second": (middle, n_images)}[half]
    return np.arange(start, stop)


def _twins(model: str, seeds: int) -> list[str]:
    from backend.training import weights_key

    return [weights_key(model, seed) for seed in range(seeds)]


def is_correct(loaded: LoadedClassifier, data: LabelledImages, runtime: Runtime) -> np.ndarray:
    """Whether the top class of each image is its label, (N,) bool."""

    def top_class(index: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            return (loaded.module(to_device(data.images[index.numpy()], runtime)).argmax(1).cpu(),)

    with runtime.lock:
        chunks = Chunks(runtime.chunk_size(*data.images.shape[-2:]))
        (found,) = chunks.map(top_class, torch.arange(len(data)))
    return found.numpy() == data.targets


def _part(on_step: OnStep, part: int, parts: int) -> OnStep:
    """The steps of one part of several as steps of the whole."""
    if on_step is None or parts == 1:
        return on_step
    return lambda step: on_step(Step(part * step.total + step.done, parts * step.total, step.message))


# ----------------------------------------------------------------- what is stored beside the code
def stored_path(model: str, preset_name: str = "table", baseline: str = "black") -> Path:
    """Where an evaluation that ships lies: `assets/evaluations/path_attribution-MODEL[-PRESET][-BASELINE].json`."""
    parts = ["path_attribution", model]
    parts += [preset_name] * (preset_name != "table") + [baseline.replace(":", "")] * (baseline != "black")
    return ASSETS / "evaluations" / ("-".join(parts) + ".json")


def stored(model: str, preset_name: str = "table", baseline: str = "black") -> dict[str, Any] | None:
    """An evaluation that ships, with its command; None if there is none."""
    path = stored_path(model, preset_name, baseline)
    return json.loads(path.read_text()) if path.exists() else None


def paper_table() -> dict[str, Any]:
    """The paper's Table 1 as published: {"citation", "score", ..., "rows": [{method, dataset, metric, mean, sd}]}."""
    folder = ASSETS / "paper_tables"
    about = json.loads((folder / "samp_table1.json").read_text())
    with (folder / about["file"]).open(newline="") as file:
        rows = [{**row, "mean": float(row["mean"]), "sd": float(row["sd"])} for row in csv.DictReader(file)]
    return {**about, "rows": rows}
