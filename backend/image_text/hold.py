"""Makes what is held for a pair beside its weights: `python -m backend train KEY-maps`.

Statistics of the activations and strangers come from training pictures; the settings of every method are chosen on the
validation pictures, so that the test pictures stay unseen.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend.catalog import PAIR_METHODS, method
from backend.contracts import Step
from backend.image_text import evaluate
from backend.image_text.data import DataRecipe, Radiographs, load, make
from backend.image_text.held import SUFFIX, Held
from backend.image_text.problem import Statistics
from backend.models.clip import ImageTextPair
from backend.models.towers import Tower
from backend.runtime import Runtime
from backend.training import write_weights

STRANGERS = 64  # of each modality
MEASURED = 400  # pictures whose activations are averaged
CHOOSING = 80  # pairs that settings are chosen on
_FLOOR = 0.05  # of the spread over all places: a place that hardly varies does not count without bound


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """A training job named KEY-maps. `context` is a `backend.jobs.JobContext`."""
    from backend.service import local_service

    service = local_service()
    key = args["name"].removesuffix(SUFFIX)
    spec = service.library.spec(key)
    pair = service.runtime.model(
        spec.key, functools.partial(service.library.load, key, service.runtime.device, service.runtime.dtype)
    )
    recipe = DataRecipe()
    folder = make(recipe, ("validation",), on_step=context.on_step)
    return hold(
        pair, load("validation", recipe, folder), service.library.weights_folder, service.runtime, context.on_step
    )


def hold(
    pair: ImageTextPair,
    pictures: Radiographs,
    folder: Path,
    runtime: Runtime,
    on_step: Callable[[Step], None] | None = None,
) -> dict[str, Any]:
    """Measure, choose, and write `KEY-maps.safetensors` with its card.

    Args: pictures: of the validation split. The first poses give statistics and strangers, the last ones the pairs
        that settings are chosen on.
    Returns: the card.
    """
    half = len(pictures) // 2
    early, late = part(pictures, slice(0, half)), part(pictures, slice(half, None))
    statistics = measure_statistics(pair, early)
    tensors = {
        **{f"{modality}.{layer}.mean": s.mean for (modality, layer), s in statistics.items()},
        **{f"{modality}.{layer}.std": s.std for (modality, layer), s in statistics.items()},
        **strangers(pair, early),
    }
    held = Held(tensors["images"], tensors["texts"], statistics)
    settings, tried = choose_settings(pair, held, late, runtime, on_step)
    card = {
        "key": pair.key + SUFFIX,
        "weights_sha256": pair.digest,
        "strangers": f"{len(tensors['images'])} simulated radiographs of the validation split and sentences about them",
        "statistics": f"{min(MEASURED, half)} radiographs of the validation split",
        "settings": settings,
        "tried": tried,
        "chosen_on": f"{CHOOSING} findings on other radiographs of the validation split",
        "command": f"python -m backend train {pair.key}{SUFFIX}",
        "machine": runtime.describe(),
    }
    return write_weights(folder, pair.key + SUFFIX, tensors, card)


def part(pictures: Radiographs, rows: slice) -> Radiographs:
    """Some pictures of a split; their records still name rows of all its masks."""
    return Radiographs(pictures.pixels[rows], pictures.masks, pictures.records[rows])


# ----------------------------------------------------------------- activations
@torch.no_grad()
def measure_statistics(pair: ImageTextPair, pictures: Radiographs) -> dict[tuple[str, int], Statistics]:
    """Of every block of both towers: place by place for images, over all tokens for texts."""
    pixels = [evaluate.pixels_of(pictures, i, pair) for i in range(min(MEASURED, len(pictures)))]
    sentences = [text for record in pictures.records[:MEASURED] for text, _ in record.report]
    found = {}
    for layer in range(pair.image.n_layers):
        states = torch.cat([pair.image.prefix(one, layer) for one in pixels])  # (N, T, C)
        found["image", layer] = statistics_of(states)
    for layer in range(pair.text.first_layer, pair.text.n_layers):
        tokens = torch.cat([_word_states(pair.text, pair.tokens(text), layer) for text in dict.fromkeys(sentences)])
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
def strangers(pair: ImageTextPair, pictures: Radiographs) -> dict[str, Tensor]:
    """Unit vectors of pictures and of sentences, spread over the poses."""
    step = max(1, len(pictures) // STRANGERS)
    rows = list(range(0, len(pictures), step))[:STRANGERS]
    sentences = list(dict.fromkeys(text for row in rows for text, _ in pictures.records[row].report))[:STRANGERS]
    return {
        "images": torch.cat([pair.embed_images(evaluate.pixels_of(pictures, i, pair)) for i in rows]),
        "texts": pair.embed_texts(sentences),
    }


# ----------------------------------------------------------------- settings
def choose_settings(
    pair: ImageTextPair,
    held: Held,
    pictures: Radiographs,
    runtime: Runtime,
    on_step: Callable[[Step], None] | None = None,
    methods: Iterable[str] = PAIR_METHODS,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of every method that has any to choose, for images and texts apart; and all that were tried."""
    samples = tuple(evaluate.radiograph_samples(pictures, CHOOSING, pair))
    bench = evaluate.Bench(pair, held, samples, ())
    rows = [evaluate.Row(key, key) for key in methods if _has_layers(key)]
    measured = evaluate.measure(bench, rows, runtime, on_step)
    return measured["chosen"], measured["tried"]


def _has_layers(key: str) -> bool:
    return any(param.name == "layer" for param in method(key, evaluate.FAMILY).params)
