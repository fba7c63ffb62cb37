"""Requests that wait for the device and can be computed as one: whoever gets it first takes the others along.

Nobody waits for company: while one request is computed others come, and those of one group among them are the next
batch. So a device that is idle answers at once, and one that is asked by many does more of it in a second. What a
group is, and whether a method gains by it, its family says (`together` and `run_together` of its `run` module).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from backend.contracts import Request, Result, Step
from backend.errors import Cancelled


class Answered(Exception):
    """Somebody else has computed this request's answer: it need not wait for the device any longer."""


@dataclass(eq=False)
class Member:
    """One request that waits; `result` comes from whoever takes it along."""

    request: Request
    key: str  # of its result in the store
    group: str | None  # equal for those that can be computed as one; None: it is computed alone
    at_most: int  # of its group at once
    on_step: Callable[[Step], None]
    is_cancelled: Callable[[], bool]
    result: Result | None = field(default=None)

    def leave_if_answered(self) -> None:
        """Raises: Answered: there is a result."""
        if self.result is not None:
            raise Answered

    def hear(self, step: Step) -> bool:
        """Pass a step on; whether anybody still waits for it."""
        try:
            self.on_step(step)
        except Cancelled:
            return False
        return True


class Company:
    """All who wait for one device. Safe for many threads."""

    def __init__(self) -> None:
        self._waiting: list[Member] = []
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def join(self, member: Member) -> Iterator[Member]:
        """Be found by others while inside."""
        with self._lock:
            self._waiting.append(member)
        try:
            yield member
        finally:
            with self._lock:
                self._waiting.remove(member)

    def of(self, leader: Member) -> list[Member]:
        """The leader, who has the device, and those who go along: no request twice, those that came first first."""
        if leader.group is None:
            return [leader]
        with self._lock:
            found = {leader.key: leader}
            for member in self._waiting:
                if member.group == leader.group and member.result is None and len(found) < leader.at_most:
                    found.setdefault(member.key, member)
        return list(found.values())


def company_note(n: int) -> str:
    """What stands beside an answer that was computed as one of n."""
    return f"computed together with {n - 1} more: last digits may differ"


def joined(members: list[Member]) -> dict[str, Any]:
    """`on_step` and `is_cancelled` of work that is done for several: it goes on as long as one of them waits.

    A step is heard by all; one that brings a partial result, only by who asked for that.
    """
    left: set[str] = set()

    def on_step(step: Step) -> None:
        for member in members:
            is_mine = step.partial is None or step.partial.request == member.request
            if is_mine and member.key not in left and not member.hear(step):
                left.add(member.key)
        if len(left) == len(members):
            raise Cancelled

    def is_cancelled() -> bool:
        return all(member.is_cancelled() for member in members)

    return {"on_step": on_step, "is_cancelled": is_cancelled}
