"""Waiting for what another thread or process does, bounded."""

import time
from collections.abc import Callable

PAUSE_S = 0.01  # between two looks


def wait_until(condition: Callable[[], object], what: str = "", timeout_s: float = 30.0) -> None:
    """Raises: AssertionError: the condition did not come true in time; `what` says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain{f' for {what}' if what else ''}"
        time.sleep(PAUSE_S)
