"""`python -m backend serve`: starts Ray on this machine, or joins a Ray that runs, and keeps the replicas running."""

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable

from backend.cluster import environment
from backend.cluster.settings import APP, ClusterSettings
from backend.errors import NotAvailable


def serve(settings: ClusterSettings, join: str = "", on_ready: Callable[[str], None] = print) -> None:
    """Deploy the replicas and stay until SIGTERM or Ctrl-C, which stop them (and Ray, if it was started here).

    Args:
        join: address of a Ray that runs already; empty: start one.
        on_ready: told the address that pages need, when the replicas answer.
    Raises: NotAvailable: Ray is not installed, does not start, or its port is taken.
    """
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    address = start(settings, join)
    try:
        deploy(settings)
        on_ready(address)
        stopped.wait()
    finally:
        stop(keep_ray=bool(join))


def start(settings: ClusterSettings, join: str = "", any_port: bool = False) -> str:
    """Start Ray's head with this process as its driver, or join one; returns its address.

    Args: any_port: one that is free, in place of that of the settings.
    """
    host, port = environment.read_address(join) if join else (settings.host, settings.port)
    if any_port and not join:
        port = _free_port(host)
    environment.prepare(environment.is_loopback(host))
    os.environ["RAY_GCS_SERVER_PORT"] = str(port)
    import ray

    address = f"{host}:{port}"
    # "local": a cluster of its own, whatever else of Ray runs on this machine
    arguments = {"address": address} if join else {"address": "local", **_head(settings)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            ray.init(namespace=APP, log_to_driver=False, logging_level=logging.WARNING, **arguments)
    except Exception as error:  # Ray raises plain ones here; what it had started ends with this process
        if "timed out during startup" in str(error):
            raise NotAvailable("Ray was not up within its 30 s: this machine has too much to do; try again") from None
        raise NotAvailable(f"Ray does not start at {address}: {str(error).splitlines()[0]}", "port") from None
    return address


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _head(settings: ClusterSettings) -> dict:
    """Arguments of a head that nobody outside sees, and that writes nothing of a request to the disk.

    What is sent travels within the messages and not through shared memory: that would be moved to the disk when it
    is full, and radiographs and reports must never lie there.
    """
    return {
        "_node_ip_address": settings.host,
        "include_dashboard": False,
        "num_cpus": _cores_to_claim(settings, os.cpu_count() or 1),
        "object_store_memory": settings.store_mib * 2**20,
        "_system_config": {
            "max_direct_call_object_size": environment.MESSAGE_BYTES,
            "task_rpc_inlined_bytes_limit": 2 * environment.MESSAGE_BYTES,
            "automatic_object_spilling_enabled": False,
        },
    }


def _cores_to_claim(settings: ClusterSettings, cores: int) -> int:
    """How many cores Ray is told this machine has: enough for all replicas, unless others are to take some of them.

    >>> _cores_to_claim(ClusterSettings(max_replicas=8), 4), _cores_to_claim(ClusterSettings("10.0.0.5"), 4)
    (9, 4)
    """
    return max(cores, int(settings.max_replicas * settings.cpus) + 1) if settings.is_loopback else cores


def deploy(settings: ClusterSettings) -> None:
    """Put the replicas and their board into service; returns when they answer."""
    from ray import serve
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import LoggingConfig

    from backend.cluster.board import Board
    from backend.cluster.replica import Replica

    health = {
        "health_check_period_s": settings.health_period_s,
        "health_check_timeout_s": settings.health_timeout_s,
    }
    resources = {
        "num_cpus": settings.cpus,
        "num_gpus": settings.gpus,
        "runtime_env": {"env_vars": environment.for_workers()},
    }
    count = (
        {"num_replicas": settings.min_replicas}
        if settings.is_fixed
        else {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=settings.min_replicas,
                max_replicas=settings.max_replicas,
                target_ongoing_requests=settings.requests_per_replica,
                upscale_delay_s=settings.upscale_delay_s,
                downscale_delay_s=settings.downscale_delay_s,
            )
        }
    )
    board = serve.deployment(Board, name="board", ray_actor_options={"num_cpus": 0}, **health).bind()
    replicas = serve.deployment(
        Replica,
        name="replica",
        max_ongoing_requests=settings.max_requests_per_replica,
        ray_actor_options=resources,
        graceful_shutdown_timeout_s=20.0,
        **health,
        **count,
    ).bind(settings.threads, board)
    logs = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.start(proxy_location="Disabled", logging_config=logs)  # no port for HTTP: only handles reach the replicas
    serve.run(replicas, name=APP, route_prefix=None, logging_config=logs)


def stop(keep_ray: bool = False) -> None:
    """Take the replicas out of service, and leave or end Ray."""
    import ray
    from ray import serve

    if ray.is_initialized():
        if keep_ray:
            serve.delete(APP)
        else:
            serve.shutdown()
        ray.shutdown()
