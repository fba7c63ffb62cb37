"""Long work by id: training and evaluations. It outlives a slider, a page reload and, by checkpoints, the process.

A job is a folder: `job.json` says what and how far, `state/` is the work's own checkpoint, `result.json` its answer.
A lock file says which process runs it; a job whose process is gone is taken up again from its checkpoint.
Nothing of a health input may become a job's argument.
"""

import functools
import hashlib
import importlib
import json
import math
import re
import shutil
import threading
import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout

from backend.contracts import OnStep, Step
from backend.errors import BadInput, Cancelled, PrismError
from backend.files import home, remove_drafts, write_whole
from backend.limits import LIMITS

State = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")

# What a job may be: "kind" -> "module:function", called as function(args, context) -> JSON-able result.
KINDS = {
    "train": "backend.training:job",
    "evaluate": "backend.training:evaluation_job",
    "fit_own": "backend.additive_image.own_training:job",
}
SAVE_EVERY_S = 0.5  # how often progress is written down
POLL_S = 0.1


def default_folder() -> Path:
    """Where jobs lie: `PRISM_HOME`/jobs, by default under the user's cache."""
    return home() / "jobs"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """What is known of a job at this moment."""

    id: str
    kind: str
    args: dict[str, Any]
    state: State = "queued"
    done: int = 0
    total: int = 0
    message: str = ""
    error: str = ""
    error_field: str = ""  # which input caused it
    submitted: float = field(default_factory=time.time)  # seconds since 1970

    @property
    def step(self) -> Step:
        return Step(self.done, self.total, self.message)


def _read_status(text: str) -> JobStatus:
    """Raises: ValueError, TypeError: it is none, for instance of another version or damaged."""
    status = JobStatus(**json.loads(text))
    for name, kind in typing.get_type_hints(JobStatus).items():
        expected = {State: str, dict[str, Any]: dict, float: (int, float)}.get(kind, kind)
        if not isinstance(getattr(status, name), expected):
            raise TypeError(name)
    if status.state not in typing.get_args(State):
        raise ValueError(status.state)
    return status


@dataclass(frozen=True)
class JobContext:
    """What the work itself is handed: a folder for its checkpoint, a voice, and a way to know it shall stop."""

    folder: Path
    on_step: Callable[[Step], None]  # raises Cancelled when the job shall stop

    def load_state(self) -> dict[str, Any] | None:
        """The JSON checkpoint of an earlier, interrupted run."""
        path = self.folder / "state.json"
        return json.loads(path.read_text()) if path.exists() else None

    def save_state(self, state: dict[str, Any]) -> None:
        write_whole(self.folder / "state.json", json.dumps(state))


_PRODUCT = re.compile(r"[A-Za-z0-9][\w-]*\.(safetensors|json|npz|png)", re.ASCII)


def _is_product(name: str) -> bool:
    return bool(_PRODUCT.fullmatch(name)) and name not in ("job.json", "state.json", "result.json")


class Jobs(Protocol):
    """What pages and API may ask of a queue, here or on another machine."""

    def submit(self, kind: str, args: dict[str, Any]) -> str: ...
    def status(self, job_id: str) -> JobStatus: ...
    def list(self) -> list[JobStatus]: ...
    def result(self, job_id: str) -> dict[str, Any]: ...
    def cancel(self, job_id: str) -> None: ...
    def attach(self, job_id: str, on_step: OnStep = None) -> dict[str, Any]: ...
    def files(self, job_id: str) -> Sequence[str]: ...
    def read_file(self, job_id: str, name: str) -> bytes | None: ...
    def forget(self, job_id: str) -> None: ...


class JobQueue:
    """One worker thread works the jobs off in order; any process may look at them, cancel or take them up."""

    def __init__(self, folder: Path | None = None, kinds: dict[str, str] | None = None) -> None:
        self.folder = folder or default_folder()
        self.kinds = KINDS if kinds is None else kinds
        self._lock = threading.Lock()
        self._submitting = threading.Lock()
        self._has_news = False  # a job came while the worker was looking
        self._worker: threading.Thread | None = None
        self._live: dict[str, JobStatus] = {}  # fresher than the file, for jobs that run here

    # ------------------------------------------------------------- asking
    def submit(self, kind: str, args: dict[str, Any]) -> str:
        """Queue a job; the same work that has not ended yet is joined, not doubled. Returns its id.

        Raises: BadInput: an unknown kind of job.
        """
        if kind not in self.kinds:
            raise BadInput(f"unknown kind of job {kind!r}; one of {', '.join(self.kinds)}", "kind")
        with self._submitting:  # a double click is two threads that ask for the same
            status = self._unended(kind, args) or self._begin(kind, args)
        self._start_worker()
        return status.id

    def _unended(self, kind: str, args: dict[str, Any]) -> JobStatus | None:
        return next((s for s in self.list() if (s.kind, s.args) == (kind, args) and s.state not in ENDED), None)

    def _begin(self, kind: str, args: dict[str, Any]) -> JobStatus:
        text = json.dumps([kind, args, time.time_ns()], sort_keys=True)
        newest = max((status.submitted for status in self.list()), default=0.0)
        submitted = max(time.time(), math.nextafter(newest, math.inf))  # also where the clock was set back
        status = JobStatus(id=hashlib.sha256(text.encode()).hexdigest()[:12], kind=kind, args=args, submitted=submitted)
        self._write(status)
        return status

    def status(self, job_id: str) -> JobStatus:
        """Raises: BadInput: no such job."""
        live = self._live.get(job_id)
        if live is not None:
            return live
        path = self._path(job_id) / "job.json"
        try:
            return _read_status(path.read_text())
        except (OSError, ValueError, TypeError, RecursionError):
            raise BadInput(f"there is no job {job_id!r}", "job") from None

    def list(self) -> list[JobStatus]:
        """All jobs, the newest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.glob("*/job.json"):
            try:
                found.append(self.status(path.parent.name))
            except BadInput:
                continue
        return sorted(found, key=lambda status: -status.submitted)

    def result(self, job_id: str) -> dict[str, Any]:
        """The answer of a job that is done. Raises: BadInput: not done, or failed (with its sentence)."""
        status = self.status(job_id)
        if status.state != "done":
            raise BadInput(status.error or f"job {job_id} is {status.state}", status.error_field or "job")
        return json.loads((self._path(job_id) / "result.json").read_text())

    def cancel(self, job_id: str) -> None:
        """Ask a job to stop, in whichever process it runs; its checkpoint stays."""
        status = self.status(job_id)
        if status.state in ENDED:
            return
        (self._path(job_id) / "cancel").touch()
        if status.state == "queued":
            self._write(replace(status, state="cancelled"))

    def attach(self, job_id: str, on_step: OnStep = None) -> dict[str, Any]:
        """Wait for a job and return its result; leaving (an exception in `on_step`) does not stop the job.

        Raises: Cancelled, or BadInput with the job's own sentence if it failed.
        """
        self._start_worker()
        told = None
        while True:
            status = self.status(job_id)
            if on_step is not None and status.step != told:
                told = status.step
                on_step(told)
            if status.state == "cancelled":
                raise Cancelled
            if status.state in ENDED:
                return self.result(job_id)
            time.sleep(POLL_S)

    def files(self, job_id: str) -> Sequence[str]:
        """Names of what a job made for others to read (previews, weights, cards), not of what it needs itself.

        Raises: BadInput: no such job.
        """
        folder = self._path(self.status(job_id).id)
        return sorted(path.name for path in folder.glob("*") if _is_product(path.name))

    def read_file(self, job_id: str, name: str) -> bytes | None:
        """One of a job's `files`; None: there is none of this name. Raises: BadInput: no such job."""
        folder = self._path(self.status(job_id).id)
        try:
            return (folder / name).read_bytes() if _is_product(name) else None
        except OSError:
            return None

    def forget(self, job_id: str) -> None:
        """Delete a job that has ended, with all that it wrote. Raises: BadInput: no such job, or it is running."""
        status = self.status(job_id)
        if status.state not in ENDED:
            raise BadInput("the job is still running; cancel it first", "job")
        shutil.rmtree(self._path(status.id), ignore_errors=True)

    def resume(self) -> None:
        """Take up jobs that an earlier process left unfinished, and clear away what it had half written.

        Called when the app starts.
        """
        remove_drafts(self.folder)
        if any(status.state not in ENDED for status in self.list()):
            self._start_worker()

    # ------------------------------------------------------------- working
    def _path(self, job_id: str) -> Path:
        if not job_id.isalnum():
            raise BadInput(f"there is no job {job_id!r}", "job")
        return self.folder / job_id

    def _write(self, status: JobStatus) -> None:
        write_whole(self._path(status.id) / "job.json", json.dumps(asdict(status)))

    def _start_worker(self) -> None:
        with self._lock:
            self._has_news = True
            if self._worker is None or not self._worker.is_alive():
                self._worker = threading.Thread(target=self._work, name="prism-jobs", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        """Run unfinished jobs, oldest first, until none is left that is free."""
        while True:
            waiting = [status for status in reversed(self.list()) if status.state not in ENDED]
            ran_one = False
            for status in waiting:
                lock = FileLock(self._path(status.id) / "lock")
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue  # another process runs it
                try:
                    status = self.status(status.id)
                    if status.state not in ENDED:
                        self._run(status)
                        ran_one = True
                finally:
                    lock.release()
            with self._lock:
                if not ran_one and not self._has_news:
                    self._worker = None
                    return
                self._has_news = False

    def _run(self, status: JobStatus) -> None:
        folder = self._path(status.id)
        remove_drafts(folder)
        cancel_marker = folder / "cancel"
        cancel_marker.unlink(missing_ok=True)
        written = 0.0
        deadline = time.monotonic() + LIMITS.max_job_s

        def on_step(step: Step) -> None:
            nonlocal status, written
            status = replace(status, done=step.done, total=step.total, message=step.message)
            self._live[status.id] = status
            now = time.monotonic()
            if now - written > SAVE_EVERY_S:
                written = now
                if cancel_marker.exists():
                    raise Cancelled
                self._write(status)
            if now > deadline:
                raise PrismError(f"stopped after {LIMITS.max_job_s:.0f} s")

        status = replace(status, state="running")
        self._live[status.id] = status
        self._write(status)
        try:
            module, function = self.kinds[status.kind].split(":")
            work = getattr(importlib.import_module(module), function)
            result = work(status.args, JobContext(folder, on_step))
            write_whole(folder / "result.json", json.dumps(result))
            status = replace(status, state="done", done=max(status.total, status.done))
        except Cancelled:
            status = replace(status, state="cancelled")
        except PrismError as error:
            status = replace(status, state="failed", error=error.sentence, error_field=error.field)
        except Exception as error:  # a fault of ours must end the job, not the worker
            status = replace(status, state="failed", error=f"fault: {type(error).__name__}: {error}")
        self._write(status)
        self._live.pop(status.id, None)


@functools.cache
def default_queue() -> JobQueue:
    """The process's one queue of jobs."""
    return JobQueue()
