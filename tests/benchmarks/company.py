"""What batching across people gains: `python -m tests.benchmarks.service --only company`.

Sixteen (or eight) people ask at once, each for something else: on an engine that lets them go together, and on one that
computes each by itself, in turns on the same work, in rounds that begin with one or the other. A ratio above 1 says how
many times less is needed together. Wall time is what people wait for; seconds of the processor are told beside it, as
on a shared machine they are the steadier figure (one thread works).
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.catalog import method
from backend.contracts import AttributionRequest, ImagePathRequest, PairMapRequest, Request
from backend.images import encode_png
from backend.limits import Limits
from backend.models.library import Library
from backend.path_attribution.run import implementation
from backend.runtime import Runtime
from backend.service import InterpretService, LocalService
from tests.helpers import make_problem

SEEDS = count(1)
EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
RADIOGRAPHS = [(EXAMPLES / f"radiograph-0{n}.png").read_bytes() for n in (1, 2, 3, 4)]
SENTENCES = ("There is a nodule in the left upper lobe.", "There is an opacity in the right lower lobe.")
Work = Callable[[], list[Request]]  # fresh requests at each call, one for each person


def pictures(n: int) -> list[bytes]:
    return [encode_png(np.random.default_rng(seed).random((28, 28, 1))) for seed in range(n)]


def local(**limits: int) -> LocalService:
    limits = Limits(**limits)
    return LocalService(Runtime("cpu", limits=limits), limits=limits)


def ask_all(service: InterpretService, requests: Sequence[Request]) -> float:
    """Seconds until all of these people, who ask at once, have their answers."""
    with ThreadPoolExecutor(len(requests)) as pool:
        started = time.perf_counter()
        asked = [pool.submit(service.run, request, None, f"p{n}.x") for n, request in enumerate(requests)]
        for answer in asked:
            answer.result()
        return time.perf_counter() - started


def maps(ids: Sequence[str], name: str, **params: Any) -> Work:
    """A fresh map of each picture: the seed makes it one that nobody has asked for."""

    def work() -> list[Request]:
        seed = next(SEEDS)
        settings = tuple(sorted(params.items()))
        return [AttributionRequest(i, "digits-gap", name, None, params=settings, seed=seed) for i in ids]

    return work


def strips(model: str, people: int) -> Work:
    """Strips of 33 frames between rows that nobody has asked for."""

    def work() -> list[Request]:
        return [ImagePathRequest(model, rows=(next(SEEDS), next(SEEDS))) for _ in range(people)]

    return work


def bottlenecks(ids: Sequence[str], people: int, modality: str) -> Work:
    def work() -> list[Request]:
        return [
            PairMapRequest(ids[n % len(ids)], SENTENCES[n % 2], modality=modality, seed=next(SEEDS))
            for n in range(people)
        ]

    return work


# ----------------------------------------------------------------- measuring
def measure(rounds: int) -> list[dict[str, Any]]:
    """A row for each kind of work that people share, and for what they do not share on a CPU."""
    together, alone = local(), local(max_together=1)
    ids = [[service.put_image(data).id for data in pictures(16)] for service in (together, alone)][0]
    radiographs = [[service.put_image(data).id for data in RADIOGRAPHS] for service in (together, alone)][0]
    kinds: dict[str, Work] = {
        "samp, 16 people": maps(ids, "samp"),
        "samp++, 16 people": maps(ids, "samp++"),
        "strips of squares, 16 people": strips("squares", 16),
        "strips of colours, 8 people": strips("colours", 8),
        "m2ib on images, 8 people": bottlenecks(radiographs, 8, "image"),
        "m2ib on texts, 8 people": bottlenecks(radiographs, 8, "text"),
    }
    rows = [_compare(name, together, alone, work, rounds) for name, work in kinds.items()]
    return [*rows, *_batches(rounds)]


def _compare(name: str, together: LocalService, alone: LocalService, work: Work, rounds: int) -> dict[str, Any]:
    for service in (together, alone):
        ask_all(service, work()[:2])  # loads the model
    seen: list[tuple[tuple[float, float], tuple[float, float]]] = []
    for round_ in range(rounds):
        order = (together, alone) if round_ % 2 else (alone, together)
        found = {service: _timed(service, work()) for service in order}
        seen.append((found[together], found[alone]))
    return row(name, seen)


def _timed(service: LocalService, requests: Sequence[Request]) -> tuple[float, float]:
    """Seconds that people wait, and seconds of the processor."""
    before = time.process_time()
    return ask_all(service, requests), time.process_time() - before


def row(name: str, seen: list[tuple[tuple[float, float], tuple[float, float]]]) -> dict[str, Any]:
    """Medians over rounds of ((wall, CPU) of the first, (wall, CPU) of the second)."""
    walls = [second[0] / first[0] for first, second in seen]
    processors = [second[1] / first[1] for first, second in seen]
    return {
        "what": name,
        "together_s": round(statistics.median(first[0] for first, _ in seen), 3),
        "alone_s": round(statistics.median(second[0] for _, second in seen), 3),
        "gain": round(statistics.median(walls), 2),
        "gain_worst_round": round(min(walls), 2),
        "gain_cpu": round(statistics.median(processors), 2),
        "gain_cpu_worst_round": round(min(processors), 2),
    }


def _batches(rounds: int) -> list[dict[str, Any]]:
    """What is not shared on a CPU: eight people's maps in one call of the method, against eight calls."""
    classifier = Library().load("digits-gap").module
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    chunk = Runtime("cpu").chunk_size(28, 28)

    def explain(name: str, batch: torch.Tensor) -> tuple[float, float]:
        spec = method(name)
        wall, processor = time.perf_counter(), time.process_time()
        implementation(spec)(make_problem(classifier, batch, chunk=chunk), **dict(spec.complete_params(())))
        return time.perf_counter() - wall, time.process_time() - processor

    rows = []
    for name in ("rise", "ig"):
        seen = []
        for _ in range(rounds + 1):
            together = explain(name, images)
            each = [explain(name, image[None]) for image in images]
            seen.append((together, (sum(wall for wall, _ in each), sum(cpu for _, cpu in each))))
        rows.append(row(f"{name}, 8 at once (not shared on a CPU)", seen[1:]))
    return rows
