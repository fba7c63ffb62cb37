"""A Ray cluster of two replicas on this machine against the engine in this process.

    python -m tests.benchmarks.cluster [--rounds 5] [--only KIND] [--json]

Each process computes on one thread, so the cluster has two threads at work and the engine one. Rounds begin with one or
the other; nothing is answered from a store, as seeds differ. Beside the wall time stand the seconds of the processor
that each round took, by process: on a machine that does other things too they are the steadier figure. `bound` is what
they allow: if two cores were free and the replicas' work halved exactly, the cluster would be as many times as fast
(the engine's seconds over half of the cluster's).
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
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from backend.contracts import digest
from backend.remote import RemoteService
from backend.service import InterpretService
from tests.benchmarks.company import Work, ask_all, local, maps, pictures

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = 16
HITS = 40
PARTS = {  # of a cluster, by what stands in the command line of the process
    "replicas": "ServeReplica:prism:replica",
    "board": "ServeReplica:prism:board",
    "connector": "backend.cluster.connector",
}


# ----------------------------------------------------------------- work
def kinds(ids: list[str]) -> dict[str, Callable[[InterpretService], object]]:
    """What is asked in a round, of one engine or the other."""

    def all_at_once(work: Work) -> Callable[[InterpretService], object]:
        return lambda service: ask_all(service, work())

    ig = maps(ids, "ig", n_steps=64)
    kept = ig()[0]

    def hits(service: InterpretService) -> None:
        for _ in range(HITS):
            service.run(kept)

    return {
        f"samp++, {PEOPLE} people": all_at_once(maps(ids, "samp++")),
        f"rise, 2000 samples, {PEOPLE} people": all_at_once(maps(ids, "rise", samples=2000)),
        f"ig, 64 steps, {PEOPLE} people": all_at_once(ig),
        "ig, 64 steps, one person": lambda service: service.run(ig()[0]),
        f"{HITS} stored answers, one person": hits,
    }


def measure(rounds: int, only: str = "") -> list[dict[str, Any]]:
    """A row for each kind of work."""
    rows = []
    with tempfile.TemporaryDirectory() as home, running_cluster(Path(home)) as (there, processes):
        here = local()
        data = pictures(PEOPLE)
        for service in (there, here):
            for picture in data:
                service.put_image(picture)
        for name, ask in kinds([digest(picture) for picture in data]).items():
            if only not in name:
                continue
            for service in (there, here, there):
                ask(service)  # loads the model, in both replicas
            seen = [_round(ask, there, here, processes, is_odd=bool(n % 2)) for n in range(rounds)]
            rows.append(_row(name, seen))
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def _round(
    ask: Callable[[InterpretService], object],
    there: InterpretService,
    here: InterpretService,
    processes: Callable[[], list[psutil.Process]],
    is_odd: bool,
) -> dict[str, float]:
    found: dict[str, float] = {}
    for service in (there, here) if is_odd else (here, there):
        before, own, started = _processor_s(processes()), time.process_time(), time.perf_counter()
        ask(service)
        name = "cluster" if service is there else "local"
        found[f"{name}_s"] = time.perf_counter() - started
        own = time.process_time() - own
        if service is here:
            found["local_cpu_s"] = own
            continue
        after = _processor_s(processes())
        parts = {part: after[part] - before.get(part, 0.0) for part in after}
        found |= {f"cpu_{part}_s": seconds for part, seconds in parts.items()} | {"cpu_pages_s": own}
        found["cluster_cpu_s"] = own + sum(parts.values())
    return found


def _processor_s(processes: list[psutil.Process]) -> dict[str, float]:
    """Seconds of the processor that a cluster's processes had so far, by what they are for."""
    found = dict.fromkeys((*PARTS, "ray"), 0.0)
    for process in processes:
        with contextlib.suppress(psutil.Error):
            command, times = " ".join(process.cmdline()), process.cpu_times()
            part = next((part for part, mark in PARTS.items() if mark in command), "ray")
            found[part] += times.user + times.system
    return found


def _row(name: str, seen: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and ratios within a round: above 1, the cluster is the faster one."""
    speedups = [found["local_s"] / found["cluster_s"] for found in seen]
    bounds = [found["local_cpu_s"] / (found["cluster_cpu_s"] / 2) for found in seen]
    medians = {key: round(statistics.median(found[key] for found in seen), 4) for key in seen[0]}
    ratios = {"speedup": statistics.median(speedups), "worst": min(speedups), "bound": statistics.median(bounds)}
    return {"what": name, **medians, **{key: round(ratio, 2) for key, ratio in ratios.items()}}


@contextlib.contextmanager
def running_cluster(home: Path) -> Iterator[tuple[RemoteService, Callable[[], list[psutil.Process]]]]:
    """`python -m backend serve` with two replicas; the engine that pages would have, and the cluster's processes."""
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
        yield RemoteService(connection), lambda: _family(process.pid)
    finally:
        connection.close()
        process.terminate()
        process.wait(timeout=60)


def _family(head: int) -> list[psutil.Process]:
    """Processes of the cluster, and the connector."""
    children = psutil.Process().children()
    return [*children, *psutil.Process(head).children(recursive=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of the name of a kind of work")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(arguments.rounds, arguments.only)
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    machine |= {name: version(name) for name in ("torch", "ray", "numpy")}
    if arguments.json:
        print(json.dumps({"machine": machine, "cluster": rows}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for row in rows:
        ratios = f"speed-up {row['speedup']:.2f} (worst round {row['worst']:.2f}, bound {row['bound']:.2f})"
        print(f"{row['what']:36}{ratios}")
        print("".join(f"    {key} {value:g}" for key, value in row.items() if key.endswith("_s")))


if __name__ == "__main__":
    main()
