"""Batching across people, and a Ray cluster of two replicas against the engine in this process.

    python -m tests.benchmarks.cluster [--rounds 3] [--json]

Ratios are taken within each round, the ways one after the other on the same work, and the median of the rounds is
told. Everything is computed on one thread for each process; nothing is answered from a store, as seeds differ.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backend.catalog import method
from backend.contracts import AttributionRequest, PairMapRequest, ReportMapsRequest, Request, digest
from backend.images import encode_png
from backend.limits import Limits
from backend.models.library import Library
from backend.path_attribution.run import implementation
from backend.remote import RemoteService
from backend.runtime import Runtime
from backend.service import InterpretService, LocalService
from tests.helpers import make_problem

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = 16
SEEDS = count(1)
AUTOENCODER = "squares-dae"
PLACES = ("left upper", "left lower", "right upper", "right lower")
SENTENCES = tuple(f"There is {what} in the {place} lobe." for place in PLACES for what in ("a nodule", "an opacity"))
Work = Callable[[], list[Request]]


def pictures(n: int) -> list[bytes]:
    return [encode_png(np.random.default_rng(seed).random((28, 28, 1))) for seed in range(n)]


def ask_all(service: InterpretService, requests: Sequence[Request]) -> float:
    """Seconds until all of these people, who ask at once, have their answers."""
    with ThreadPoolExecutor(len(requests)) as pool:
        started = time.perf_counter()
        asked = [pool.submit(service.run, request, None, f"p{n}.x") for n, request in enumerate(requests)]
        for answer in asked:
            answer.result()
        return time.perf_counter() - started


def local(**limits: int) -> LocalService:
    limits = Limits(**limits)
    return LocalService(Runtime("cpu", limits=limits), limits=limits)


def maps(ids: Sequence[str], method: str, **params: Any) -> Work:
    """A fresh map of each picture: the seed makes it one that nobody has asked for."""

    def work() -> list[Request]:
        seed = next(SEEDS)
        settings = tuple(sorted(params.items()))
        return [AttributionRequest(i, "digits-gap", method, None, params=settings, seed=seed) for i in ids]

    return work


# ----------------------------------------------------------------- sections
def batching(rounds: int) -> list[dict[str, Any]]:
    """Sixteen people ask for SAMP at once: in company against each by itself, on one service each."""
    data = pictures(PEOPLE)
    together, alone = local(), local(max_together=1)
    for service in (together, alone):
        for picture in data:
            service.put_image(picture)
    ids = [digest(picture) for picture in data]
    rows = []
    for key in ("samp", "samp++"):
        work = maps(ids, key)
        for service in (together, alone):
            ask_all(service, work()[:2])  # loads the model
        seconds = [(ask_all(together, work()), ask_all(alone, work())) for _ in range(rounds)]
        rows.append(_row(f"{key}, {PEOPLE} people", seconds, "together_s", "alone_s"))
    return rows


def cluster(rounds: int) -> list[dict[str, Any]]:
    """The same people before a cluster of two replicas, and before the engine in this process."""
    rows = []
    with tempfile.TemporaryDirectory() as home, running_cluster(Path(home)) as there:
        here = local()
        data = pictures(PEOPLE)
        for service in (there, here):
            for picture in data:
                service.put_image(picture)
        ids = [digest(picture) for picture in data]
        kinds: dict[str, Work] = {
            "samp++": maps(ids, "samp++"),
            "rise, 2000 samples": maps(ids, "rise", samples=2000),
            "ig, 64 steps": maps(ids, "ig", n_steps=64),
        }
        for name, work in kinds.items():
            for service in (there, here):
                ask_all(service, work())  # loads the model, in both replicas
            seconds = [(ask_all(there, work()), ask_all(here, work())) for _ in range(rounds)]
            rows.append(_row(f"{name}, {PEOPLE} people", seconds, "cluster_s", "local_s"))
        work = kinds["ig, 64 steps"]
        one = [(_one(there, work), _one(here, work)) for _ in range(4 * rounds)]
        rows.append(_row("ig, 64 steps, one person", one, "cluster_s", "local_s"))
        kept = work()[0]
        there.run(kept), there.run(kept), here.run(kept)
        hits = [(_seconds(there, kept), _seconds(here, kept)) for _ in range(10 * rounds)]
        rows.append(_row("stored answer, one person", hits, "cluster_s", "local_s"))
    return rows


def _one(service: InterpretService, work: Work) -> float:
    return _seconds(service, work()[0])


def _seconds(service: InterpretService, request: Request) -> float:
    started = time.perf_counter()
    service.run(request)
    return time.perf_counter() - started


def _row(what: str, seconds: list[tuple[float, float]], first: str, second: str) -> dict[str, Any]:
    """Medians, and the median ratio of throughputs within a round: above 1, the first is the faster one."""
    return {
        "what": what,
        first: statistics.median(a for a, _ in seconds),
        second: statistics.median(b for _, b in seconds),
        "speedup": statistics.median(b / a for a, b in seconds),
        "worst": min(b / a for a, b in seconds),
    }


@contextlib.contextmanager
def running_cluster(home: Path) -> Iterator[RemoteService]:
    """`python -m backend serve` with two replicas, and the engine that pages would have."""
    from backend.cluster.connection import ClusterConnection

    port = 6391
    environment = {**os.environ, "PRISM_HOME": str(home), "PRISM_DEVICE": "cpu"}
    command = [sys.executable, "-m", "backend", "serve", "--replicas", "2", "--port", str(port)]
    log = home / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
    os.environ["PRISM_HOME"] = str(home)  # where the token is
    connection = ClusterConnection(f"127.0.0.1:{port}")
    try:
        while "ready; start the pages" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(log.read_text()[-2000:])
            time.sleep(0.2)
        yield RemoteService(connection)
    finally:
        process.terminate()
        process.wait(timeout=60)


# ----------------------------------------------------------------- why only paths gain
def other_families(rounds: int) -> list[dict[str, Any]]:
    """Eight people's work as one batch against eight batches, where the service batches nothing across people."""
    library = Library()
    classifier, autoencoder = library.load("digits-gap").module, library.load(AUTOENCODER).module
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 28, 28, generator=generator)
    strips = torch.randn(8, 33, autoencoder.n_latents, generator=generator)  # (people, frames, latents)

    def explain(name: str) -> Callable[[torch.Tensor], object]:
        spec = method(name)
        chunk = Runtime("cpu").chunk_size(28, 28)
        params = dict(spec.complete_params(()))
        return lambda batch: implementation(spec)(make_problem(classifier, batch, chunk=chunk), **params)

    works = {
        "rise": (explain("rise"), images),
        "ig": (explain("ig"), images),
        "DDIM strips of 33 frames": (lambda some: autoencoder.decode(some.flatten(0, 1)), strips),
    }
    rows = [
        _row(f"{what}, 8 at once", _batches(*work, rounds), "together_s", "alone_s") for what, work in works.items()
    ]
    return [*rows, _row("m2ib, 8 sentences of one image", _sentences(rounds), "together_s", "alone_s")]


def _batches(work: Callable[[torch.Tensor], object], inputs: torch.Tensor, rounds: int) -> list[tuple[float, float]]:
    """Seconds of the processor, as only one thread works."""
    work(inputs[:1])
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work(inputs)
        between = time.process_time()
        for one in inputs:
            work(one[None])
        seconds.append((between - started, time.process_time() - between))
    return seconds


def _sentences(rounds: int) -> list[tuple[float, float]]:
    """M2IB's maps of eight sentences on one image, as one request (they go through the model a few at a time) or eight.

    Images of different people would gain at most as much: the layers before the bottleneck are shared here besides.
    """
    service = local()
    data = (ROOT / "assets" / "examples" / "radiograph-02.png").read_bytes()
    image, seconds = service.put_image(data).id, []
    shared = {"model": "cxr-clip", "params": (("n_steps", 5),), "modality": "image"}
    for repetition in range(rounds + 1):
        seed = next(SEEDS)
        started = time.process_time()
        service.run(ReportMapsRequest(image, SENTENCES, seed=seed, **shared))
        between = time.process_time()
        for text in SENTENCES:
            service.run(PairMapRequest(image, text, seed=seed + 1000, **shared))
        if repetition:  # the first loads the model
            seconds.append((between - started, time.process_time() - between))
    return seconds


# ----------------------------------------------------------------- all of it
SECTIONS = {"batching": batching, "other families": other_families, "cluster": cluster}


def measure(rounds: int = 3, sections: Sequence[str] = tuple(SECTIONS)) -> dict[str, Any]:
    """All figures, with what they were measured on."""
    libraries = {name: version(name) for name in ("torch", "ray", "numpy")}
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    return {"machine": machine | libraries} | {name: SECTIONS[name](rounds) for name in sections}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sections", nargs="*", default=list(SECTIONS), choices=list(SECTIONS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.rounds, arguments.sections)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in found.pop("machine").items()))
    for section, rows in found.items():
        print(f"\n{section}")
        for row in rows:
            (first, a), (second, b) = list(row.items())[1:3]
            times = f"{first[:-2]} {a:.3f} s, {second[:-2]} {b:.3f} s"
            print(f"  {row['what']:36}{times:44}speed-up {row['speedup']:.2f} (worst round {row['worst']:.2f})")


if __name__ == "__main__":
    main()
