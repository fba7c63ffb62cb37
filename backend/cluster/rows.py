"""Rows of a batch through Ray Data: `python -m backend batch MANIFEST --out DIR --engine ray`.

Each worker is an engine of its own that takes row after row and writes their files itself; what goes through Ray is
JSON. So a batch is as resumable as on one machine: what has a file is answered, whoever died. On a cluster of several
machines all of them must see the table, its inputs and the output under the same paths.
"""

import functools
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.batch import AnswerAll, Place, Row, answer_row
from backend.cluster import environment, head
from backend.cluster.settings import ClusterSettings

BLOCKS_PER_WORKER = 16  # at least, so that workers end at about the same time
MOST_ROWS = 8  # of one block: what a worker does before the progress hears of it


def answer_by_ray(workers: int = 0, join: str = "") -> AnswerAll:
    """What `run_batch` takes to have rows answered by workers of Ray.

    Args:
        workers: processes at once, each on one thread; 0: one for each core of this machine.
        join: address of a Ray that runs, as `serve` prints it; empty: start one for this batch.
    """
    return functools.partial(_answer_all, workers or os.cpu_count() or 1, join)


class Worker:
    """One engine; Ray Data makes it once and gives it rows."""

    def __init__(self, home: str, inputs: str, rows: str, metrics: bool) -> None:
        import torch

        from backend.service import local_service

        os.chdir(home)  # where relative paths begin
        torch.set_num_threads(1)
        self._service = local_service()
        self._place = Place(Path(inputs), Path(rows), metrics)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, int]:
        answer_row(self._service, self._place, Row(**json.loads(row["row"])))
        return {"number": int(row["number"])}


def _answer_all(workers: int, join: str, place: Place, left: list[Row]) -> Iterator[int]:
    """Raises: NotAvailable: Ray is not installed, or not there."""
    head.start(ClusterSettings(max_replicas=max(2, workers)), join, any_port=True)
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        DataContext.get_current().enable_progress_bars = False
        rows = [{"number": row.number, "row": json.dumps(asdict(row))} for row in left]
        blocks = min(len(rows), max(BLOCKS_PER_WORKER * workers, len(rows) // MOST_ROWS))
        where = os.getcwd(), str(place.inputs), str(place.rows), place.metrics
        answered = ray.data.from_items(rows, override_num_blocks=blocks).map(
            Worker,
            fn_constructor_args=where,
            compute=ActorPoolStrategy(size=min(workers, blocks), max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            runtime_env={"env_vars": environment.for_workers()},
        )
        for row in answered.iter_rows():
            yield int(row["number"])
    finally:
        ray.shutdown()
