"""Freed memory goes back to the machine."""

import ctypes
import threading

import psutil
import pytest

from backend import memory


def test_freed_pages_leave_the_process():
    thread = memory.keep_flat(every_s=0.05)
    if thread is None:
        pytest.skip("this machine has no glibc")
    assert thread.daemon
    held: list[list[ctypes.Array]] = []

    def fill() -> None:
        pieces = [ctypes.create_string_buffer(b"x" * 9_000, 10_000) for _ in range(20_000)]
        held.append(pieces[::50])  # what stays lies between what goes

    worker = threading.Thread(target=fill)
    process = psutil.Process()
    before = process.memory_info().rss
    worker.start()
    worker.join()
    for _ in range(100):
        if process.memory_info().rss - before < 60 * 2**20:
            break
        threading.Event().wait(0.1)
    assert process.memory_info().rss - before < 60 * 2**20  # of 200 MB
