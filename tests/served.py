"""The API behind the guard on an engine of the test's own, in this process, over real connections."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from backend import api, guard
from tests.conftest import free_port
from tests.waiting import wait_until


def api_app(service: Any, queue: Any = None, **settings: Any) -> FastAPI:
    """As app.py composes it, without the pages.

    Args: settings: of `guard.Guard`.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    api.mount(app, blocks=api.build(lambda: service, lambda: queue))
    app.add_middleware(guard.Guard, **settings)
    return app


@contextlib.contextmanager
def served(app: Any) -> Iterator[str]:
    """The app on a port of its own, in a thread; yields its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive(), "the server", timeout_s=60)
    assert thread.is_alive()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
