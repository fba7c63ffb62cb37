"""Memory that was freed goes back to the machine.

Every request runs in a thread of its own. glibc gives threads heaps of their own and keeps what was freed in them, in
pieces between those that are held: after minutes of mixed traffic as much as all that is in use. Where there is no
glibc there is nothing to do.
"""

import ctypes
import threading
import time
from collections.abc import Callable

EVERY_S = 20.0


def find_trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None: this machine has another allocator."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


def give_back_regularly(every_s: float = EVERY_S) -> threading.Thread | None:
    """Hand free pages back from now on until the process ends; a call takes milliseconds and stops no computation.

    None: there is nothing to do.
    """
    trim = find_trim()
    if trim is None:
        return None

    def work() -> None:
        while True:
            time.sleep(every_s)
            trim(0)

    thread = threading.Thread(target=work, name="prism-memory", daemon=True)
    thread.start()
    return thread
