"""Which engine answers: this process, another Prism (`PRISM_BACKEND_URL`), or a Ray cluster (`PRISM_CLUSTER`).

Pages and API ask here, and cannot tell which one they have.
"""

import functools
import os
from typing import TYPE_CHECKING

from backend.errors import BadInput
from backend.jobs import Jobs, default_queue
from backend.service import InterpretService, local_service

if TYPE_CHECKING:
    from backend.remote import Connection, RemoteJobs, RemoteService

URL = "PRISM_BACKEND_URL"
TOKEN = "PRISM_BACKEND_TOKEN"
CLUSTER = "PRISM_CLUSTER"


def service() -> InterpretService:
    """The engine behind pages and API."""
    return local_service() if is_local() else _elsewhere()


def jobs() -> Jobs:
    """The queue of long work, beside the engine; a cluster has none, so jobs stay with this process then."""
    return default_queue() if keeps_jobs() else _remote(os.environ[URL], os.environ.get(TOKEN, ""))[1]


def is_local() -> bool:
    """Whether this process computes itself."""
    return not os.environ.get(URL) and not os.environ.get(CLUSTER)


def keeps_jobs() -> bool:
    """Whether long work is done by this process."""
    return not os.environ.get(URL)


def trouble() -> str:
    """Why no answers can be had now, in one sentence; empty: they can, as far as is known."""
    if is_local():
        return ""
    connection: Connection = _elsewhere().connection
    return connection.gone().sentence if connection.is_gone else ""


def _elsewhere() -> "RemoteService":
    """The engine that the environment names. Raises: BadInput: it names two."""
    url, cluster = os.environ.get(URL), os.environ.get(CLUSTER)
    if url and cluster:
        raise BadInput(f"{URL} and {CLUSTER} are both set; only one engine can answer", CLUSTER)
    return _cluster(cluster) if cluster else _remote(url, os.environ.get(TOKEN, ""))[0]


@functools.cache
def _remote(url: str, token: str) -> "tuple[RemoteService, RemoteJobs]":
    from backend.remote import Connection, RemoteJobs, RemoteService

    connection = Connection(url, token)
    return RemoteService(connection), RemoteJobs(connection)


@functools.cache
def _cluster(address: str) -> "RemoteService":
    from backend.cluster.connection import ClusterConnection
    from backend.remote import RemoteService

    return RemoteService(ClusterConnection(address))
