"""Which engine answers: this process, or another Prism that `PRISM_BACKEND_URL` names. Pages and API ask here."""

import functools
import os
from typing import TYPE_CHECKING

from backend.jobs import Jobs, default_queue
from backend.service import InterpretService, local_service

if TYPE_CHECKING:
    from backend.remote import RemoteJobs, RemoteService

URL = "PRISM_BACKEND_URL"
TOKEN = "PRISM_BACKEND_TOKEN"


def service() -> InterpretService:
    """The engine behind pages and API."""
    url = os.environ.get(URL)
    return local_service() if not url else _remote(url, os.environ.get(TOKEN, ""))[0]


def jobs() -> Jobs:
    """The queue of long work, beside the engine."""
    url = os.environ.get(URL)
    return default_queue() if not url else _remote(url, os.environ.get(TOKEN, ""))[1]


def is_local() -> bool:
    """Whether this process computes itself."""
    return not os.environ.get(URL)


def trouble() -> str:
    """Why no answers can be had now, in one sentence; empty: they can, as far as is known."""
    if is_local():
        return ""
    connection = _remote(os.environ[URL], os.environ.get(TOKEN, ""))[0].connection
    return connection.gone().sentence if connection.is_gone else ""


@functools.cache
def _remote(url: str, token: str) -> "tuple[RemoteService, RemoteJobs]":
    from backend.remote import Connection, RemoteJobs, RemoteService

    connection = Connection(url, token)
    return RemoteService(connection), RemoteJobs(connection)
