"""Work in a thread, told as messages to a loop: how steps and answer leave this process, whichever door they take."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from backend import wire
from backend.contracts import Result, Step
from backend.errors import Cancelled

SIGN_OF_LIFE_S = 1.0  # a stream speaks at least so often, so that a caller who is gone is noticed
BETWEEN_STEPS_S = 0.1, 0.5  # and steps at most so often: first, and of work that takes long
_PACE = 0.1  # of the time that it took so far: a bar moves as smoothly to the eye


class Conversation:
    """Between a thread that works and the loop that sends: the newest step replaces those not yet sent."""

    def __init__(self, work: Callable[[Callable[[Step], None]], Result], left: threading.Event) -> None:
        self._work = work
        self._left = left
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._outcome: Result | BaseException | None = None

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Steps, spaced so that they cost little beside the work, and the answer as soon as it is there."""
        loop, news, over = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        threading.Thread(target=self._run, args=(loop, news, over), name="api-call", daemon=True).start()
        told, partial, began = None, None, time.monotonic()
        spoke = began
        try:
            while True:
                first, most = BETWEEN_STEPS_S
                await _wait(over, min(most, max(first, _PACE * (time.monotonic() - began))))
                await _wait(news, SIGN_OF_LIFE_S)
                news.clear()
                with self._lock:
                    step, outcome = self._step, self._outcome
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome is not None:
                    yield {"step": None, "answer": await asyncio.to_thread(wire.result_to_wire, outcome)}
                    return
                if step == told and time.monotonic() - spoke < SIGN_OF_LIFE_S:
                    continue
                is_news = step is not None and step.partial is not partial
                body = None if step is None else await asyncio.to_thread(wire.step_to_wire, step, is_news)
                yield {"step": body, "answer": None}
                told, partial, spoke = step, None if step is None else step.partial, time.monotonic()
        finally:
            self._left.set()

    def _run(self, loop: asyncio.AbstractEventLoop, news: asyncio.Event, over: asyncio.Event) -> None:
        def wake(*events: asyncio.Event) -> None:
            try:
                for event in events:
                    loop.call_soon_threadsafe(event.set)
            except RuntimeError:  # the loop is closed: the server stops
                self._left.set()

        def on_step(step: Step) -> None:
            if self._left.is_set():
                raise Cancelled
            with self._lock:
                is_news = step is not self._step
                self._step = step
            if is_news:
                wake(news)

        try:
            outcome: Result | BaseException = self._work(on_step)
        except BaseException as error:  # handed to the loop, where it belongs
            outcome = error
        with self._lock:
            self._outcome = outcome
        wake(news, over)


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), at_most_s)
