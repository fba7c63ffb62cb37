"""The evaluation: every method on many held-out pairs, settings chosen on other pairs, beside maps that know nothing.

For each pair an image map of the sentence is judged by where it lies, and a text map by which words it puts first,
with the pair's own image and with one that lacks the finding.
"""

import dataclasses
import functools
import importlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.catalog import PAIR_METHODS, method
from backend.contracts import Step
from backend.errors import BadInput, Cancelled, PrismError
from backend.image_text import metrics
from backend.image_text.choosing import Trial, Values, grid_of, narrow
from backend.image_text.data import DataRecipe, Radiographs
from backend.image_text.data import load as load_radiographs
from backend.image_text.held import Held, held_for
from backend.image_text.problem import Explanation, Problem
from backend.image_text.run import FAMILY, all_at_once, embed, enlarge, implementation
from backend.limits import LIMITS
from backend.models.clip import TASK, ImageTextPair
from backend.path_attribution.metrics import Summary, summarise
from backend.runtime import Chunks, Runtime
from backend.versions import versions

PRIOR, UNIFORM = "centre-prior", "uniform"  # rows that are no methods
# Words that say what is found and on which side. The others could stand in any sentence.
KEY_WORDS = frozenset(
    (
        "effusion", "pneumothorax", "consolidation", "opacity", "opacities", "opacification", "pneumonia", "infiltrate",
        "cardiomegaly", "enlarged", "heart", "silhouette", "edema", "oedema", "congestion", "nodule", "nodular", "mass",
        "malignancy", "atelectasis", "pacemaker", "icd", "leads", "tube", "enteric", "nasogastric", "endotracheal",
        "et", "picc", "catheter", "line", "blunting", "collapse", "collapsed", "left", "right", "bilateral",
    )
)  # fmt: skip
_STOPS = frozenset(".,;:")


# ----------------------------------------------------------------- what is measured
@dataclass(frozen=True, slots=True)
class Metric:
    """A column of the table."""

    key: str
    title: str
    better: str
    help: str


METRICS = {
    column.key: column
    for column in (
        Metric("iou", "Box IoU", "higher", "Of the best quarter of the pixels with the finding's box."),
        Metric("iou_attainable", "IoU over attainable", "higher", "Box IoU over the largest that a quarter can have."),
        Metric("span_iou", "Time IoU", "higher", "Of as many frames as the sound has, those with most, with its span."),
        Metric("pointing", "Pointing game", "higher", "How often the highest value lies in the box."),
        Metric("image_drop", "Image confidence drop, %", "lower", "max(0, o - s) with the image times its map."),
        Metric("image_increase", "Image confidence increase, %", "higher", "How often the cosine rises by it."),
        Metric("words_first", "Key word first", "higher", "How often the highest word names the finding or its side."),
        Metric("words_first_control", "… with a stranger", "", "The same with an image that lacks the finding."),
        Metric("words_first_difference", "… by the difference", "higher", "The highest word of map minus control."),
        Metric("words_above", "Key over other words", "higher", "Chance that a key word is higher than another."),
        Metric("words_above_control", "… with a stranger", "", "The same with an image that lacks the finding."),
        Metric("words_above_difference", "… by the difference", "higher", "The same for map minus control."),
        Metric("words_chance", "Share of key words", "", "How often a word drawn blindly would be one."),
        Metric("text_drop", "Text confidence drop, %", "lower", "max(0, o - s) with the better half of the tokens."),
        Metric("text_increase", "Text confidence increase, %", "higher", "How often the cosine rises by it."),
        Metric("seconds", "Seconds per pair", "lower", "Wall time of both maps and the control."),
    )
}
_PAIRED_IMAGE = ("iou", "iou_attainable", "span_iou", "pointing")
_PAIRED_TEXT = (
    ("words_first", "words_chance"),
    ("words_first", "words_first_control"),
    ("words_first_difference", "words_chance"),
    ("words_above", "words_above_control"),
    ("words_first_difference", "words_first_control"),
)


@dataclass(frozen=True)
class Sample:
    """A pair with what is known of it.

    `pixels` (1, C, H, W) in [0, 1], of a sound its spectrogram; `box` (H, W) bool or None, or a mask or span
    where one is known; `kind`: what is found; `stranger`: another image or sound.
    """

    pixels: Tensor
    text: str
    box: Tensor | None = None
    kind: str = ""
    stranger: Tensor | None = None


@dataclass(frozen=True)
class Bench:
    """A pair of encoders with the samples that settings are chosen on, and those that count."""

    pair: ImageTextPair
    held: Held
    choosing: tuple[Sample, ...]
    counting: tuple[Sample, ...]
    prior: Tensor | None = None  # (H, W): where findings lie on other pictures
    origin: str = ""
    is_users: bool = False  # pairs of the user's own
    seen: str = "image"  # modality of the samples' pixels
    region: str = "box"  # what `Sample.box` is: "box", "mask" or "span"
    key_words: frozenset[str] = KEY_WORDS


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: a method with settings that are its own for images and for texts."""

    name: str
    method: str
    given: tuple[tuple[str, Any], ...] = ()  # set by who asks: not chosen


def read_row(text: str) -> Row:
    """A method's key, with settings behind colons. Raises: BadInput: unknown method, setting or value.

    >>> read_row("m2ib:beta=0.1")
    Row(name='m2ib:beta=0.1', method='m2ib', given=(('beta', 0.1),))
    """
    key, *settings = text.split(":")
    spec = method(key, FAMILY)
    given = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            read = value if spec.param(name).kind == "choice" else json.loads(value)
        except ValueError:
            read = value
        given[name] = spec.param(name).check(read)
    return Row(text, key, tuple(given.items()))


# ----------------------------------------------------------------- one map
def _problem(bench: Bench, sample: Sample, modality: str, targets: Tensor, runtime: Runtime, **fields: Any) -> Problem:
    pair = bench.pair
    return Problem(
        tower=pair.tower(modality),
        inputs=pair.tokens(sample.text) if modality == "text" else sample.pixels,
        targets=targets,
        negatives=bench.held.of(bench.seen if modality == "text" else "text"),
        scale=pair.logit_scale,
        statistics=lambda layer: bench.held.statistics.get((modality, layer)),
        blank_id=pair.tokenizer.pad_id,
        chunks=Chunks(runtime.chunk_size(*sample.pixels.shape[-2:])),
        **fields,
    )


def image_map(bench: Bench, sample: Sample, row: Row, settings: Mapping[str, Any], runtime: Runtime) -> Tensor:
    """(H, W) of the sample's sentence."""
    return image_maps(bench, [sample], row, settings, runtime)[0]


def image_maps(
    bench: Bench, samples: Sequence[Sample], row: Row, settings: Mapping[str, Any], runtime: Runtime
) -> list[Tensor]:
    """(H, W) of each sample's sentence; all samples at once, where the method can."""
    with torch.no_grad():
        targets = [bench.pair.embed_texts([sample.text]) for sample in samples]
    problems = [
        _problem(bench, sample, bench.seen, target, runtime) for sample, target in zip(samples, targets, strict=True)
    ]
    explained = _explain(row, settings, problems)
    return [
        enlarge(one.maps, tuple(sample.pixels.shape[-2:]))[0] for one, sample in zip(explained, samples, strict=True)
    ]


def text_maps(
    bench: Bench, sample: Sample, row: Row, settings: Mapping[str, Any], runtime: Runtime
) -> tuple[Tensor, Problem]:
    """(2, T): of the sample's own image and of the stranger; and the problem that was asked."""
    return text_maps_of(bench, [sample], row, settings, runtime)[0]


def text_maps_of(
    bench: Bench, samples: Sequence[Sample], row: Row, settings: Mapping[str, Any], runtime: Runtime
) -> list[tuple[Tensor, Problem]]:
    """`text_maps` of each sample; all at once, where the method can. Without a stranger: (1, T)."""
    problems = []
    for sample in samples:
        seen = sample.pixels if sample.stranger is None else torch.cat([sample.pixels, sample.stranger])
        tokenized = bench.pair.tokenizer.tokenize(sample.text)
        words = tuple((word.first, word.last) for word in tokenized.words)
        problems.append(_problem(bench, sample, "text", embed(bench.pair, bench.seen, seen), runtime, words=words))
    return [(one.maps, problem) for one, problem in zip(_explain(row, settings, problems), problems, strict=True)]


def text_map(bench: Bench, sample: Sample, row: Row, settings: Mapping[str, Any], runtime: Runtime) -> Tensor:
    """(T,) of the sample's own image."""
    return text_maps(bench, dataclasses.replace(sample, stranger=None), row, settings, runtime)[0][0]


def _explain(row: Row, settings: Mapping[str, Any], problems: Sequence[Problem]) -> list[Explanation]:
    spec, params = method(row.method, FAMILY), _complete(row, settings)
    together = all_at_once(spec)
    return together(problems, **params) if together else [implementation(spec)(one, **params) for one in problems]


def _complete(row: Row, settings: Mapping[str, Any]) -> dict[str, Any]:
    return dict(method(row.method, FAMILY).complete_params({**settings, **dict(row.given)}))


# ----------------------------------------------------------------- judging
def judge_image(bench: Bench, sample: Sample, map_: Tensor, number: int) -> Values:
    values: Values = {}
    if sample.box is not None:
        best = metrics.top_quarter(map_, torch.Generator().manual_seed(number))
        found = metrics.iou(best, sample.box)
        values |= {
            "iou": found,
            "iou_attainable": found / metrics.attainable_iou(sample.box),
            "pointing": metrics.pointing(map_.cpu(), sample.box),
        }
        if bench.region == "span":
            values["span_iou"] = metrics.span_iou(map_.cpu(), sample.box)
    with torch.no_grad():
        text = bench.pair.embed_texts([sample.text])[0]
        lit = metrics.lit_by(sample.pixels, map_.to(sample.pixels))
        both = embed(bench.pair, bench.seen, torch.cat([sample.pixels, lit]))
    return values | _confidence("image", *(both @ text).tolist())


def _confidence(modality: str, original: float, kept: float) -> Values:
    """In percent, as the paper's table."""
    return {
        f"{modality}_drop": 100 * metrics.confidence_drop(original, kept),
        f"{modality}_increase": 100 * metrics.confidence_increase(original, kept),
    }


def judge_text(bench: Bench, sample: Sample, maps: Tensor, problem: Problem) -> Values:
    """Which words are high, with the own image, with the stranger, and in the difference."""
    tokenized = bench.pair.tokenizer.tokenize(sample.text)
    shown = [k for k in range(len(tokenized.words)) if tokenized.word(k) not in _STOPS]
    is_key = torch.tensor([tokenized.word(k).lower() in bench.key_words for k in shown])
    sums = torch.stack([maps[:, w.first : w.last].sum(1) for w in tokenized.words], 1)[:, shown].cpu().double()
    values: Values = {"words_chance": float(is_key.double().mean())}
    for name, row in (("", sums[0]), ("_control", sums[1]), ("_difference", sums[0] - sums[1])):
        values[f"words_first{name}"] = metrics.first_is_key(row, is_key)
        values[f"words_above{name}"] = metrics.chance_above(row, is_key)
    kept = metrics.best_tokens(problem.inputs, problem.words, maps[0], problem.blank_id)
    with torch.no_grad():
        original, after = problem.cosines(torch.cat([problem.inputs, kept]))[:, 0].tolist()
    return values | _confidence("text", original, after)


# ----------------------------------------------------------------- choosing
_ROWS = 40  # altered hidden states that go through the layers behind a bottleneck at once


def choose(
    bench: Bench,
    row: Row,
    modality: str,
    runtime: Runtime,
    tick: Callable[[str], None],
    memory: MutableMapping[str, list[Values]] | None = None,
    on_trial: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """What was tried on the samples for choosing, the best settings first (see `choosing.narrow`).

    Images: by the mean of box IoU over its attainable maximum and pointing. Texts: by how much more often a key word is
    first with the own image than with the stranger, plus how often it is first.

    Args: memory: what an interrupted search has scored in the rounds before the last, and gets what this one scores.
    Returns: trials with scores and maps of all pairs, then those that were dropped.
    Raises: NotAvailable, BadInput: the method refuses the model.
    """
    memory = {} if memory is None else memory

    def try_on(settings: Mapping[str, Any], n: int, draws: int | None) -> Trial:
        key = json.dumps([row.name, modality, settings, n, draws], sort_keys=True)
        if key in memory:
            return Trial(dict(settings), memory[key])
        trial = Trial(dict(settings))
        used = settings if draws is None or not _draws(row) else {**settings, "samples": draws}
        samples = _complete(row, used).get("samples") or _ROWS  # of RISE, None: as many as it takes by itself
        for first in range(0, n, together := max(1, _ROWS // samples)):
            tick(f"choosing settings of {row.name}, {modality}: {n} pairs")
            maps, values = _try(bench, row, modality, used, range(first, min(first + together, n)), runtime)
            trial.maps += maps
            trial.values += values
        if n < len(bench.choosing):
            memory[key], trial.maps = trial.values, []
            on_trial()
        return trial

    grid = grid_of(row.method, dict(row.given), bench.pair.tower(modality), _has_statistics(bench, modality))
    return narrow(grid, len(bench.choosing), try_on)


def _draws(row: Row) -> bool:
    """Does the method draw noise, so many of which nobody has set?"""
    return method(row.method, FAMILY).group == "bottleneck" and "samples" not in dict(row.given)


def _has_statistics(bench: Bench, modality: str) -> bool:
    return any(m == modality for m, _ in bench.held.statistics)


def _try(
    bench: Bench, row: Row, modality: str, settings: Mapping[str, Any], numbers: range, runtime: Runtime
) -> tuple[list[Tensor], list[Values]]:
    """The maps that settings give of samples for choosing, their scores, and confidence drop and increase with them."""
    samples = [bench.choosing[number] for number in numbers]
    if modality == "text":
        found = text_maps_of(bench, samples, row, settings, runtime)
        judged = [
            {} if sample.stranger is None else judge_text(bench, sample, *one)
            for sample, one in zip(samples, found, strict=True)
        ]
        maps = [both[0] for both, _ in found]
    else:
        maps = image_maps(bench, samples, row, settings, runtime)
        judged = [judge_image(bench, *one) for one in zip(samples, maps, numbers, strict=True)]
    shown = "text" if modality == "text" else "image"
    return maps, [
        {
            "score": score_of(modality, one) if one else None,
            "drop": one.get(f"{shown}_drop"),
            "increase": one.get(f"{shown}_increase"),
        }
        for one in judged
    ]


def tried_table(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Settings with their cells, as a table keeps them."""
    return [
        {
            "settings": trial.settings,
            "rounds": [[n, digits(score)] for n, score in trial.rounds],
            **{key: table_cell([v[key] for v in trial.values]) for key in ("score", "drop", "increase")},
        }
        for trial in trials
    ]


def score_of(modality: str, judged: Values) -> float:
    """What settings are chosen by, of one judged map. Images without a region that is known score 0."""
    if modality == "text":
        return 2 * judged["words_first"] - judged["words_first_control"]
    return (judged.get("iou_attainable", 0.0) + judged.get("pointing", 0.0)) / 2


def _held_or_chosen(
    bench: Bench, row: Row, modality: str, runtime: Runtime, tick: Callable[[str], None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings that are held for the model, which were chosen on other pairs too; without them, see `choose`."""
    held = bench.held.settings_of(row.method, modality)
    if held and not row.given:
        return held, []
    trials = choose(bench, row, modality, runtime, tick)
    return trials[0].settings, tried_table(trials)


# ----------------------------------------------------------------- measuring
def measure(
    bench: Bench,
    rows: Sequence[Row],
    runtime: Runtime,
    on_step: Callable[[Step], None] | None = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Choose the settings of every row, then judge every row on every counting sample; goes on from `state`.

    Returns: {"chosen": {row: {modality: settings}}, "tried", "values": {row: {metric: [per sample]}}, "refused"}.
    """
    state = state or {"chosen": {}, "tried": {}, "refused": {}, "values": {}, "done": 0}
    total = len(bench.counting) + len(rows)

    def tick(message: str) -> None:
        if on_step is not None:
            on_step(Step(len(state["chosen"]) + state["done"], total, message))

    for row in rows:
        if row.name not in state["chosen"]:
            state["chosen"][row.name], state["tried"][row.name], state["refused"][row.name] = {}, {}, {}
            for modality in (bench.seen, "text"):
                try:
                    found, tried = _held_or_chosen(bench, row, modality, runtime, tick)
                    state["chosen"][row.name][modality], state["tried"][row.name][modality] = found, tried
                except (Cancelled, MemoryError):
                    raise
                except PrismError as refusal:
                    state["refused"][row.name][modality] = refusal.sentence
            save_state(state)
    while state["done"] < len(bench.counting):
        number = state["done"]
        for name, values in _judge_sample(bench, rows, state["chosen"], number, runtime, tick):
            for key, value in values.items():
                state["values"].setdefault(name, {}).setdefault(key, []).append(value)
        state["done"] += 1
        save_state(state)
    return state


def _judge_sample(
    bench: Bench,
    rows: Sequence[Row],
    chosen: dict[str, Any],
    number: int,
    runtime: Runtime,
    tick: Callable[[str], None],
) -> Iterator[tuple[str, Values]]:
    sample = bench.counting[number]
    for row in rows:
        tick(row.name)
        started, values = time.perf_counter(), {}
        settings = chosen[row.name]
        if bench.seen in settings:
            map_ = image_map(bench, sample, row, settings[bench.seen], runtime)
            values |= judge_image(bench, sample, map_, number)
        if "text" in settings and sample.stranger is not None:
            values |= judge_text(bench, sample, *text_maps(bench, sample, row, settings["text"], runtime))
        yield row.name, {**values, "seconds": time.perf_counter() - started}
    size = tuple(sample.pixels.shape[-2:])
    if sample.box is not None:
        if bench.prior is not None:
            yield PRIOR, judge_image(bench, sample, bench.prior, number)
        yield UNIFORM, judge_image(bench, sample, torch.ones(size), number)


# ----------------------------------------------------------------- tabulating
def tabulate(bench: Bench, rows: Sequence[Row], measured: dict[str, Any]) -> dict[str, Any]:
    """Means with their spread, paired differences with 95 % intervals, and localisation finding by finding."""
    values = measured["values"]
    columns = [key for key in METRICS if any(key in found for found in values.values())]
    titles = {row.name: method(row.method, FAMILY).title + row.name.removeprefix(row.method) for row in rows}
    titles |= {PRIOR: "Centre prior", UNIFORM: "Uniform"}
    ours = [row.name for row in rows if row is rows[0] or method(row.method, FAMILY).group == "bottleneck"]
    return {
        "columns": [dataclasses.asdict(_titled(METRICS[key], bench)) for key in columns],
        "rows": [
            {
                "name": name,
                "title": titles[name],
                "method": name.partition(":")[0],
                "params": measured["chosen"].get(name, {}),
                "metrics": {key: table_cell(found[key]) for key in columns if key in found},
            }
            for name, found in values.items()
        ],
        "not_applicable": [
            {"name": name, "method": name.partition(":")[0], "modality": modality, "reason": reason}
            for name, refused in measured["refused"].items()
            for modality, reason in refused.items()
        ],
        "paired": [
            *(
                {"ours": own, "theirs": name, "metric": key, **table_difference(values[own][key], found[key])}
                for own in ours
                for name, found in values.items()
                for key in _PAIRED_IMAGE
                if name != own and key in found and key in values.get(own, {})
            ),
            *(
                {"ours": f"{name}: {key}", "theirs": other, "metric": key, **table_difference(found[key], found[other])}
                for name, found in values.items()
                for key, other in _PAIRED_TEXT
                if key in found
            ),
        ],
        "findings": _by_finding(bench, values),
        "chosen": measured["chosen"],
        "tried": measured["tried"],
    }


_REGIONS = {"box": "the finding's box", "mask": "the mask of what is named", "span": "the time in which it sounds"}


def _titled(column: Metric, bench: Bench) -> Metric:
    """A column in the words of the bench: masks and spans are no boxes, sounds no images."""
    title, told = column.title.replace("Box", bench.region.capitalize()), column.help
    told = told.replace("the finding's box", _REGIONS[bench.region]).replace("the box", _REGIONS[bench.region])
    if bench.seen == "audio":
        title, told = title.replace("Image", "Sound"), told.replace("the image", "the spectrogram")
        told = told.replace("an image", "a sound")
    return dataclasses.replace(column, title=title, help=told.replace("Box", bench.region.capitalize()))


def _tensor(column: Sequence[float | None]) -> Tensor:
    return torch.tensor([float("nan") if value is None else value for value in column], dtype=torch.float64)


def table_cell(column: Sequence[float | None]) -> dict[str, float | int | None]:
    """How many values are defined, their mean and standard deviation."""
    summary = summarise(_tensor(column))
    return {"n": summary.n, "mean": digits(summary.mean), "sd": digits(summary.sd)}


def table_difference(ours: Sequence[float | None], theirs: Sequence[float | None]) -> dict[str, float | int | None]:
    """Mean of the differences, value by value, and its 95 % interval."""
    summary: Summary = summarise(_tensor(ours) - _tensor(theirs))
    return {
        "n": summary.n,
        "mean": digits(summary.mean),
        "low": digits(summary.low),
        "high": digits(summary.high),
    }


def digits(value: float | None) -> float | None:
    """Six of them: what a table keeps."""
    return None if value is None else float(f"{value:.6g}")


def _by_finding(bench: Bench, values: dict[str, dict[str, list[float | None]]]) -> dict[str, dict[str, Any]]:
    kinds = [sample.kind for sample in bench.counting]
    return {
        kind: {
            name: {
                key: digits(summarise(_tensor([v for v, k in zip(found[key], kinds, strict=True) if k == kind])).mean)
                for key in _PAIRED_IMAGE
                if key in found
            }
            for name, found in values.items()
        }
        for kind in dict.fromkeys(kinds)
        if kind
    }


# ----------------------------------------------------------------- the shipped model's pairs
def radiograph_samples(pictures: Radiographs, n: int, pair: ImageTextPair, seed: int = 0) -> list[Sample]:
    """n findings with their sentences and boxes, every kind as often; strangers lack the kind."""
    random = np.random.default_rng(seed)
    by_kind: dict[str, list[tuple[int, int, str]]] = {}
    for i, record in enumerate(pictures.records):
        for k, finding in enumerate(record.findings):
            said = next((text for text, about in record.report if about == k), None)
            if said is not None:
                by_kind.setdefault(finding.kind, []).append((i, k, said))
    queues = [list(random.permutation(len(found))) for found in by_kind.values()]
    kinds = list(by_kind)
    samples: list[Sample] = []
    while len(samples) < n and any(queues):
        for kind, queue in zip(kinds, queues, strict=True):
            if queue and len(samples) < n:
                i, k, said = by_kind[kind][queue.pop(0)]
                samples.append(_sample(pictures, i, k, said, kind, pair, random))
    return samples


def _sample(
    pictures: Radiographs, i: int, k: int, said: str, kind: str, pair: ImageTextPair, random: np.random.Generator
) -> Sample:
    while True:
        other = int(random.integers(len(pictures)))
        if all(finding.kind != kind for finding in pictures.records[other].findings):
            break
    pixels = pixels_of(pictures, i, pair)
    size = tuple(pixels.shape[-2:])
    return Sample(
        pixels, said, metrics.box_mask(pictures.records[i].boxes[k], size), kind, pixels_of(pictures, other, pair)
    )


def pixels_of(pictures: Radiographs, i: int, pair: ImageTextPair) -> Tensor:
    """A picture as the pair takes it, (1, C, H, W) in [0, 1], on its device."""
    grey = torch.from_numpy(pictures.pixels[i].copy())[None, None].to(pair.device, pair.dtype) / 255
    return grey.expand(-1, pair.n_channels, -1, -1)


def centre_prior(pictures: Radiographs) -> Tensor:
    """How often a finding lies at each pixel of other pictures, (H, W)."""
    return torch.from_numpy(np.mean([pictures.mask(row) for row in range(len(pictures.masks))], 0))


def radiograph_bench(pair: ImageTextPair, held: Held, n: int, n_choosing: int, folder: Any = None) -> Bench:
    """Held-out simulated radiographs; settings are chosen on the validation split.

    Raises: NotAvailable: the pictures were not made here, and the CT that they are made of is not installed.
    """
    from backend.image_text.data import make

    recipe = DataRecipe()
    folder = make(recipe, ("validation", "test"), folder=folder)
    validation, test = (load_radiographs(name, recipe, folder) for name in ("validation", "test"))
    return Bench(
        pair,
        held,
        tuple(radiograph_samples(validation, n_choosing, pair)),
        tuple(radiograph_samples(test, n, pair)),
        centre_prior(validation),
        "held-out simulated radiographs",
    )


BENCHES = {"scenes-clip": "backend.scenes.bench", "sounds-clip": "backend.sounds.bench"}
# What an evaluation measures, by its preset: the table of methods, ROAR+, or the bottleneck's settings.
PRESETS = {"table": "", "roar": "backend.image_text.roar_evaluation", "search": "backend.image_text.search"}


def shipped_bench(pair: ImageTextPair, held: Held, n: int, n_choosing: int | None = None) -> Bench:
    """The pairs that a shipped model is judged on: those of its own kind; simulated radiographs for all others."""
    if pair.key in BENCHES:
        n_choosing = min(n, 40) if n_choosing is None else n_choosing
        return importlib.import_module(BENCHES[pair.key]).bench(pair, held, n, n_choosing)
    return radiograph_bench(pair, held, n, n if n_choosing is None else n_choosing)


# ----------------------------------------------------------------- the door
def evaluate(
    bench: Bench,
    runtime: Runtime,
    methods: Sequence[str] = (),
    on_step: Callable[[Step], None] | None = None,
    state: dict[str, Any] | None = None,
    save_state: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """The table of some methods; the first row is compared with all others. Raises: BadInput: unknown method."""
    rows = [read_row(text) for text in (methods or PAIR_METHODS)]
    started = time.perf_counter()
    measured = measure(bench, rows, runtime, on_step, state, save_state)
    n = len(bench.counting)
    names = (f" --methods {','.join(methods)}" if methods else "") + (" --data PATH" if bench.is_users else "")
    return {
        "family": FAMILY,
        "about": f"{n} {bench.origin}; settings chosen on {len(bench.choosing)} others",
        "command": f"python -m backend evaluate image_text --model {bench.pair.key} --n {n}{names} --json",
        "model": bench.pair.key,
        "digest": bench.pair.digest,
        "n": n,
        "n_choosing": len(bench.choosing),
        "machine": runtime.describe(),
        "seconds": round(time.perf_counter() - started, 1),
        "versions": dict(versions()),
        **tabulate(bench, rows, measured),
    }


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`evaluate` as a job: resumes from its checkpoint. `context` is a `backend.jobs.JobContext`."""
    from backend.service import local_service

    n, preset = args.get("n", 200), args.get("preset", "table")
    if not 2 <= n <= LIMITS.max_evaluation_images:
        raise BadInput(f"n is {n}; expected 2..{LIMITS.max_evaluation_images}", "n")
    if preset not in PRESETS:
        raise BadInput(f"unknown preset {preset!r}; one of {', '.join(PRESETS)}", "preset")
    service = local_service()
    spec = service.library.spec(args["model"])
    if spec.task != TASK:
        raise BadInput(f"{spec.key} is made for {spec.task.replace('_', ' ')}, not image and text", "model")
    load = functools.partial(service.library.load, spec.key, service.runtime.device, service.runtime.dtype)
    pair: ImageTextPair = service.runtime.model(spec.key, load)
    held = held_for(pair, service.library.weights_folder)
    if args.get("data"):
        from backend.image_text.loaders import user_bench

        bench = user_bench(pair, held, Path(args["data"]), n)
    elif preset == "search":
        from backend.image_text import hold, search

        search.rows_of(args.get("methods", ()))  # what cannot be searched is refused before anything is measured
        bench = hold.choosing_bench(pair, n, context.on_step)
    else:
        bench = shipped_bench(pair, held, n)
    about = bench, service.runtime, args.get("methods", ())
    checkpoint = context.on_step, context.load_state(), context.save_state
    if preset == "table":
        return evaluate(*about, *checkpoint)
    return importlib.import_module(PRESETS[preset]).evaluate(*about, args.get("seeds", 1), *checkpoint)
