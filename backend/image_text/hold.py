"""Makes what is held for a pair beside its weights: `python -m backend train KEY-maps`.

Statistics of the activations and strangers come from training pictures; the settings of every method are chosen on the
validation pictures, so that the test pictures stay unseen.
"""

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.contracts import Step
from backend.image_text import evaluate, search
from backend.image_text.data import DataRecipe, Radiographs, load, make
from backend.image_text.held import SUFFIX, Held
from backend.image_text.problem import Statistics
from backend.models.clip import ImageTextPair
from backend.models.towers import Tower
from backend.runtime import Runtime
from backend.training import write_weights

STRANGERS = 64  # of each modality
MEASURED = 400  # pictures whose activations are averaged
MEASURED_SENTENCES = 1200
_TOGETHER = 50  # pictures in a batch
CHOOSING = 200  # pairs that settings are chosen on
SEARCHES = Path(__file__).resolve().parents[2] / "assets" / "evaluations"
_NOTHING_HELD = Held(torch.zeros(0, 1), torch.zeros(0, 1))
_FLOOR = 0.05  # of the spread over all places: a place that hardly varies does not count without bound


@dataclass(frozen=True)
class Material:
    """What is measured: pictures (or spectrograms), sentences about them, and pairs that settings are chosen on.

    `seen`: (1, C, H, W) each; `bench` holds the pairs, under `choosing`; `others`: of a third modality, if any.
    """

    seen: Sequence[Tensor]
    sentences: Sequence[str]
    bench: evaluate.Bench
    about: str  # what the pictures are
    others: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """A training job named KEY-maps. `context` is a `backend.jobs.JobContext`."""
    from backend.service import local_service

    service = local_service()
    key = args["name"].removesuffix(SUFFIX)
    spec = service.library.spec(key)
    pair = service.runtime.model(
        spec.key, functools.partial(service.library.load, key, service.runtime.device, service.runtime.dtype)
    )
    material = material_of(pair, context.on_step)
    return hold_material(pair, material, service.library.weights_folder, service.runtime, context.on_step)


def choosing_bench(pair: ImageTextPair, n: int, on_step: Callable[[Step], None] | None = None) -> evaluate.Bench:
    """What a search is made on: the first n pairs that the shipped settings are chosen on, statistics measured anew."""
    material = material_of(pair, on_step)
    held, _ = measure_held(pair, material)
    bench = material.bench
    return dataclasses.replace(bench, held=held, choosing=bench.choosing[:n], origin=material.about)


def material_of(pair: ImageTextPair, on_step: Callable[[Step], None] | None = None) -> Material:
    """Pictures of the pair's own kind, of the validation split; simulated radiographs for pairs of no kind of ours."""
    if pair.key in evaluate.BENCHES:
        return importlib.import_module(evaluate.BENCHES[pair.key]).material(pair)
    recipe = DataRecipe()
    return radiograph_material(pair, load("validation", recipe, make(recipe, ("validation",), on_step=on_step)))


def radiograph_material(pair: ImageTextPair, pictures: Radiographs) -> Material:
    """The first poses give statistics and strangers, the last ones the pairs that settings are chosen on."""
    half = len(pictures) // 2
    early, late = part(pictures, slice(0, half)), part(pictures, slice(half, None))
    samples = tuple(evaluate.radiograph_samples(late, CHOOSING, pair))
    return Material(
        [evaluate.pixels_of(early, i, pair) for i in range(half)],
        [text for record in early.records for text, _ in record.report],
        evaluate.Bench(pair, _NOTHING_HELD, samples, ()),
        "simulated radiographs of the validation split",
    )


def hold_material(
    pair: ImageTextPair,
    material: Material,
    folder: Path,
    runtime: Runtime,
    on_step: Callable[[Step], None] | None = None,
) -> dict[str, Any]:
    """Measure, choose, and write `KEY-maps.safetensors` with its card. Returns: the card."""
    held, tensors = measure_held(pair, material)
    chosen = choose_settings(dataclasses.replace(material.bench, held=held), runtime, on_step)
    card = {
        "key": pair.key + SUFFIX,
        "weights_sha256": pair.digest,
        "strangers": f"{min(STRANGERS, len(material.seen))} {material.about} and sentences about them",
        "statistics": f"{min(MEASURED, len(material.seen))} {material.about}",
        **chosen,
        "chosen_on": f"{len(material.bench.choosing)} findings on others of the {material.about}",
        "command": f"python -m backend train {pair.key}{SUFFIX}",
        "machine": runtime.describe(),
    }
    return write_weights(folder, pair.key + SUFFIX, tensors, card)


def measure_held(pair: ImageTextPair, material: Material) -> tuple[Held, dict[str, Tensor]]:
    """Statistics and strangers, and both as the tensors of a file."""
    statistics = measure_statistics(pair, material)
    tensors = {
        **{f"{modality}.{layer}.mean": s.mean for (modality, layer), s in statistics.items()},
        **{f"{modality}.{layer}.std": s.std for (modality, layer), s in statistics.items()},
        **strangers(pair, material),
    }
    return Held(tensors["images"], tensors["texts"], statistics, sounds=tensors.get("sounds")), tensors


def part(pictures: Radiographs, rows: slice) -> Radiographs:
    """Some pictures of a split; their records still name rows of all its masks."""
    return Radiographs(pictures.pixels[rows], pictures.masks, pictures.records[rows])


# ----------------------------------------------------------------- activations
@torch.no_grad()
def measure_statistics(pair: ImageTextPair, material: Material) -> dict[tuple[str, int], Statistics]:
    """Of every block of every tower: place by place for images and sounds, over all tokens for texts."""
    found = {}
    for modality, inputs in ((material.bench.seen, material.seen), *material.others.items()):
        tower, measured = pair.tower(modality), torch.cat(list(inputs[:MEASURED])).split(_TOGETHER)
        for layer in range(tower.first_layer, tower.n_layers):
            states = torch.cat([tower.prefix(some, layer) for some in measured])  # (N, T, C)
            found[modality, layer] = statistics_of(states)
    for layer in range(pair.text.first_layer, pair.text.n_layers):
        sentences = list(dict.fromkeys(material.sentences))[:MEASURED_SENTENCES]
        tokens = torch.cat([_word_states(pair.text, pair.tokens(text), layer) for text in sentences])
        found["text", layer] = statistics_of(tokens[:, None])
    return found


def _word_states(tower: Tower, ids: Tensor, layer: int) -> Tensor:
    """The hidden states of a text's words, (T', C)."""
    states = tower.prefix(ids, layer)[0]
    special = torch.tensor(tower.is_special(ids), device=states.device)
    return states[~special[: len(states)]]


def statistics_of(states: Tensor) -> Statistics:
    """Mean and spread of (N, T, C) over N; the spread has a floor.

    >>> found = statistics_of(torch.tensor([[[0.0]], [[2.0]]]))
    >>> found.mean.tolist(), round(float(found.std), 4)
    ([[1.0]], 1.05)
    """
    spread = states.std(0, unbiased=False)
    return Statistics(states.mean(0), spread + _FLOOR * spread.square().mean().sqrt())


@torch.no_grad()
def strangers(pair: ImageTextPair, material: Material) -> dict[str, Tensor]:
    """Unit vectors of pictures, sounds and sentences, spread over the material."""
    found = {"texts": pair.embed_texts(_spread(list(dict.fromkeys(material.sentences))))}
    for modality, inputs in ((material.bench.seen, material.seen), *material.others.items()):
        name = "sounds" if modality == "audio" else "images"
        found[name] = torch.cat([evaluate.embed(pair, modality, one) for one in _spread(inputs)])
    return found


def _spread(rows: Sequence[Any]) -> Sequence[Any]:
    return rows[:: max(1, len(rows) // STRANGERS)][:STRANGERS]


# ----------------------------------------------------------------- settings
def choose_settings(
    bench: evaluate.Bench,
    runtime: Runtime,
    on_step: Callable[[Step], None] | None = None,
    methods: Iterable[str] = search.METHODS,
) -> dict[str, Any]:
    """Settings of every method that has any to choose, for what is seen and texts apart.

    What a stored search of the same weights has is taken from it; other methods are searched now.

    Returns: {"settings", "searched": the stored table and its methods, "tried": what was tried now, without what fell
        out in the first round}.
    """
    path = SEARCHES / f"image_text-{bench.pair.key}-search.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = search.chosen_of(table) if table.get("digest") == bench.pair.digest else {}
    stored = {key: found[key] for key in methods if key in found}
    missing = search.rows_of(key for key in methods if key not in stored)
    measured = search.measure(bench, missing, 0, runtime, on_step=on_step)
    searched = {
        name: {modality: tried[0]["settings"] for modality, tried in by_modality.items()}
        for name, by_modality in measured["tried"].items()
    }
    tried = {
        name: {modality: _beyond_first_round(rows) for modality, rows in by_modality.items()}
        for name, by_modality in measured["tried"].items()
    }
    settings = {key: (stored | searched)[key] for key in methods if key in stored | searched}
    source = {"searched": f"assets/evaluations/{path.name}: {', '.join(stored)}"} if stored else {}
    return {"settings": settings, **source, "tried": tried}


def _beyond_first_round(tried: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of a search that were tried again, best first; all where there was one round only. A card stays short."""
    return [row for row in tried if len(row["rounds"]) > 1] or list(tried)
