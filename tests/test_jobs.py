"""Jobs: submit, follow, cancel, fail with a sentence, survive the process."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.contracts import Step
from backend.errors import BadInput, Cancelled
from backend.jobs import JobContext, JobQueue
from tests.waiting import wait_until

HERE = "tests.test_jobs"
KINDS = {name: f"{HERE}:{name}" for name in ("count", "refuse", "break_down")}


def count(args: dict, context: JobContext) -> dict:
    """Count to n, one number every `pause` seconds, from the checkpoint on."""
    state = context.load_state() or {"reached": 0, "starts": 0}
    state["starts"] += 1
    while state["reached"] < args["n"]:
        state["reached"] += 1
        context.save_state(state)
        context.on_step(Step(state["reached"], args["n"], "counting"))
        time.sleep(args["pause"])
    return state


def refuse(args: dict, context: JobContext) -> dict:
    raise BadInput("there is nothing to count", "n")


def break_down(args: dict, context: JobContext) -> dict:
    raise ZeroDivisionError("fault of ours")


@pytest.fixture
def queue(tmp_path) -> JobQueue:
    return JobQueue(tmp_path, KINDS)


def test_result_and_progress(queue):
    steps = []
    result = queue.attach(queue.submit("count", {"n": 5, "pause": 0.0}), steps.append)
    assert result == {"reached": 5, "starts": 1}
    assert steps[-1].done == 5


def test_equal_work_is_joined(queue):
    args = {"n": 50, "pause": 0.02}
    assert queue.submit("count", args) == queue.submit("count", args)


def test_the_newest_is_what_was_submitted_last_though_the_clock_was_set_back(queue, monkeypatch):
    first = queue.submit("count", {"n": 1, "pause": 0.0})
    for earlier_s in (1, 2, 3):
        now = time.time() - 60 * earlier_s
        monkeypatch.setattr("backend.jobs.time.time", lambda now=now: now)
        second = queue.submit("count", {"n": 1 + earlier_s, "pause": 0.0})
        assert [status.id for status in queue.list()][:2] == [second, first]
        first = second


def test_a_double_click_is_one_job(queue):
    args, start = {"n": 50, "pause": 0.02}, threading.Barrier(8)

    def click(_: int) -> str:
        start.wait(10)
        return queue.submit("count", args)

    with ThreadPoolExecutor(8) as clicks:
        assert len(set(clicks.map(click, range(8)))) == 1
    assert len(queue.list()) == 1


def test_leaving_does_not_stop_a_job_and_attach_finds_it_again(queue):
    job = queue.submit("count", {"n": 20, "pause": 0.02})

    def leave(_):
        raise Cancelled

    with pytest.raises(Cancelled):
        queue.attach(job, leave)
    assert queue.attach(job)["starts"] == 1


def test_cancel_stops_and_keeps_the_checkpoint(queue):
    job = queue.submit("count", {"n": 10_000, "pause": 0.01})
    while queue.status(job).done < 3:
        time.sleep(0.01)
    queue.cancel(job)
    with pytest.raises(Cancelled):
        queue.attach(job)
    reached = json.loads((queue.folder / job / "state.json").read_text())["reached"]
    assert 3 <= reached < 10_000


def test_jobs_wait_for_their_turn_and_can_be_cancelled_meanwhile(queue):
    first = queue.submit("count", {"n": 20, "pause": 0.02})
    second = queue.submit("count", {"n": 3, "pause": 0.0})
    queue.cancel(second)
    assert queue.attach(first)["reached"] == 20
    assert queue.status(second).state == "cancelled"


def test_failures_are_told_and_do_not_end_the_worker(queue):
    refused = queue.submit("refuse", {})
    with pytest.raises(BadInput, match="nothing to count"):
        queue.attach(refused)
    broken = queue.submit("break_down", {})
    with pytest.raises(BadInput, match="fault: ZeroDivisionError"):
        queue.attach(broken)
    assert queue.attach(queue.submit("count", {"n": 1, "pause": 0}))["reached"] == 1


@pytest.mark.parametrize("job", ["nothing", "../../etc", ""])
def test_unknown_jobs_are_refused(queue, job):
    with pytest.raises(BadInput, match="no job"):
        queue.status(job)


def test_unknown_kinds_are_refused(queue):
    with pytest.raises(BadInput, match="unknown kind"):
        queue.submit("nothing", {})


def test_killed_process_leaves_a_job_that_the_next_one_finishes(tmp_path):
    code = (
        "from pathlib import Path; from backend.jobs import JobQueue; from tests.test_jobs import KINDS\n"
        f"q = JobQueue(Path({str(tmp_path)!r}), KINDS)\n"
        "q.attach(q.submit('count', {'n': 60, 'pause': 0.02}))"
    )
    root = Path(__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
    queue = JobQueue(tmp_path, KINDS)
    wait_until(lambda: process.poll() is not None or any(job.done >= 5 for job in queue.list()), timeout_s=60)
    assert process.poll() is None
    job = queue.list()[0].id
    process.kill()
    process.wait()
    queue.resume()
    assert queue.attach(job) == {"reached": 60, "starts": 2}
