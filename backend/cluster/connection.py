"""The pages' end of a cluster: a connection like that to another Prism, over a pipe to a connector process.

`PRISM_CLUSTER=127.0.0.1:6380 streamlit run app.py` makes the pages ask the replicas of `python -m backend serve`.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from backend import wire
from backend.cluster import environment
from backend.errors import Busy, NotAvailable, PrismError
from backend.remote import PAUSES_S, TELL_S, Connection, Lost

START_S = 180.0  # until a connector has found the cluster: on a busy machine Ray takes long to import
POLL_S = TELL_S  # how often a stream is heard of that says nothing


class ClusterConnection(Connection):
    """One connector for all visitors of this process; started when first needed, and anew when it ended."""

    def __init__(self, address: str, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        environment.read_address(address)
        super().__init__(f"http://{address}", pauses_s=pauses_s)
        self.address = address
        self._pipe: _Pipe | None = None

    def stream(self, endpoint: str, *arguments: Any) -> Iterator[Any]:
        """What a speaking endpoint says; None several times a second where it says nothing.

        Raises: Lost: the connector ended; PrismError: as a replica raised it.
        """
        pipe = self._open()
        with pipe.call(endpoint, arguments) as answers:
            while True:
                try:
                    line = answers.get(timeout=POLL_S)
                except queue.Empty:
                    yield None
                    continue
                if _is_over(line):
                    return
                yield line["message"]

    def _call_once(self, endpoint: str, arguments: tuple, timeout_s: float) -> Any:
        deadline = time.monotonic() + timeout_s
        for message in self.stream(endpoint, *arguments):
            if message is not None:
                return message
            if time.monotonic() > deadline:
                raise NotAvailable(f"the cluster {self.name} is too slow: no answer in {timeout_s:.0f} s")
        raise Lost

    def gone(self) -> Busy:
        return Busy(f"the cluster {self.name} does not answer; your inputs are kept, and the next request tries again")

    def other_version(self) -> NotAvailable:
        return NotAvailable(f"the cluster {self.name} runs another version of Prism; update one of the two")

    def close(self) -> None:
        """End the connector."""
        with self._lock:
            if self._pipe is not None:
                self._pipe.end()

    # ------------------------------------------------------------- the connector
    def _open(self) -> "_Pipe":
        """The connector's pipe. Raises: NotAvailable: Ray is not installed; Lost: the cluster is not there."""
        with self._lock:
            if self._pipe is None or self._pipe.is_closed:
                if not environment.is_installed():
                    raise NotAvailable(f"PRISM_CLUSTER is set, but Ray is not installed; run: {environment.INSTALL}")
                self._pipe = _Pipe(self.address)
            pipe = self._pipe
        pipe.await_ready()
        return pipe

    def _drop(self) -> None:
        """A connector that still lives is kept: others use it."""
        with self._lock:
            if self._pipe is not None and self._pipe.is_closed:
                self._pipe = None


def _is_over(line: dict[str, Any]) -> bool:
    """Is this a call's last word? Raises: PrismError: the error that it ended with; Lost: it has no answer."""
    if line.get("is_lost"):
        raise Lost
    if line.get("error"):
        raise wire.error_from_wire(*line["error"]) or PrismError(line["error"][1])
    return bool(line.get("is_over"))


class _Pipe:
    """A connector process, and who waits for its lines."""

    def __init__(self, address: str) -> None:
        command = [sys.executable, "-m", "backend.cluster.connector", address]
        self._process = subprocess.Popen(
            command,
            cwd=environment.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the pages must not end it before them
        )
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue] = {}
        self._calls = 0
        self.is_closed = False
        self._is_refused = False  # the cluster has another token
        threading.Thread(target=self._read, name="prism-cluster", daemon=True).start()

    def await_ready(self) -> None:
        """Raises: Lost: it ended, or the cluster is not found in time; NotAvailable: the cluster asks for its token."""
        if not self._ready.wait(START_S):
            self.end()
        if self._is_refused:
            raise NotAvailable(
                "the cluster asks for its token: copy PRISM_HOME/cluster/token from where it was started, or name it in"
                " RAY_AUTH_TOKEN_PATH",
                "PRISM_CLUSTER",
            )
        if self.is_closed:
            raise Lost

    @contextlib.contextmanager
    def call(self, endpoint: str, arguments: tuple) -> Iterator[queue.SimpleQueue]:
        """Say a call; yields where its lines arrive. Leaving early stops it."""
        answers: queue.SimpleQueue = queue.SimpleQueue()
        with self._lock:
            if self.is_closed:
                raise Lost
            self._calls += 1
            call = self._calls
            self._waiting[call] = answers
        try:
            self._write({"call": call, "endpoint": endpoint, "arguments": list(arguments)})
            yield answers
        finally:
            with self._lock:
                is_under_way = self._waiting.pop(call, None) is not None
            if is_under_way:
                with contextlib.suppress(Lost):
                    self._write({"call": call})

    def _write(self, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        with self._lock:
            try:
                self._process.stdin.write(data)
                self._process.stdin.flush()
            except (OSError, ValueError):
                raise Lost from None

    def _read(self) -> None:
        """Hand lines to who waits for them; at the end tell everybody."""
        for data in self._process.stdout:
            line = json.loads(data)
            if line.get("is_ready"):
                self._ready.set()
                continue
            if line.get("is_refused"):
                self._is_refused = True
                continue
            with self._lock:
                answers = self._waiting.get(line["call"])
                if answers is not None and line.get("is_over"):
                    del self._waiting[line["call"]]
            if answers is not None:
                answers.put(line)
        with self._lock:
            self.is_closed = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for answers in waiting:
            answers.put({"is_lost": True})
        self._ready.set()
        self._process.wait()

    def end(self) -> None:
        with contextlib.suppress(OSError, ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
