"""Memory that was freed goes back to the machine.

Every request runs in a thread of its own. glibc gives threads heaps of their own, up to eight for each core, and keeps
what was freed in them: after minutes of mixed traffic more than all that is in use. So there are two heaps, and free
pages are handed back from time to time. Where there is no glibc there is nothing to do.
"""

import ctypes
import threading
import time

EVERY_S = 20.0
HEAPS = 2
_M_ARENA_MAX = -8  # of glibc's mallopt


def keep_flat(every_s: float = EVERY_S, heaps: int = HEAPS) -> threading.Thread | None:
    """Bound the heaps of this process, and hand free pages back from now on until it ends.

    Returns: the thread that does so, a daemon; None: this machine has another allocator.
    """
    try:
        library = ctypes.CDLL(None)
        bound, trim = library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    bound(_M_ARENA_MAX, heaps)

    def work() -> None:
        while True:
            time.sleep(every_s)
            trim(0)

    thread = threading.Thread(target=work, name="prism-memory", daemon=True)
    thread.start()
    return thread
