"""How Ray is started: everything that must stand in the environment before Ray is imported. Imports no Ray."""

import contextlib
import importlib.util
import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path

from backend.errors import BadInput, NotAvailable
from backend.files import home

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "pip install -r requirements-cluster.txt"
MESSAGE_BYTES = 128 * 2**20  # up to here, what is sent lies in the message itself


def prepare(is_loopback: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """No usage statistics, a token for every connection, and, if asked for, loopback only.

    Raises: NotAvailable: Ray is not installed.
    """
    if not is_installed():
        raise NotAvailable(f"Ray is not installed; run: {INSTALL}", "ray")
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment["RAY_AUTH_MODE"] = "token"
    environment.setdefault("RAY_SERVE_MULTIPLEXED_MODEL_ID_MATCHING_TIMEOUT_S", "0.2")  # then any replica will do
    if not environment.get("RAY_AUTH_TOKEN"):
        environment.setdefault("RAY_AUTH_TOKEN_PATH", str(_token_file()))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    if is_loopback:
        # Ray's own name for it; elsewhere than on Linux it is the default. Without it Ray takes 127.0.0.1 for "the
        # address by which others reach this machine".
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"


def for_workers() -> dict[str, str]:
    """What processes that Ray starts must know of this one's environment: Prism's own settings, and where it lies."""
    names = {name for name in os.environ if name.startswith("PRISM_")} - {"PRISM_CLUSTER", "PRISM_BACKEND_URL"}
    return {name: os.environ[name] for name in (*sorted(names), "PYTHONPATH")}


def is_installed() -> bool:
    return importlib.util.find_spec("ray") is not None


def read_address(address: str) -> tuple[str, int]:
    """Host and port of a cluster. Raises: BadInput: it is no HOST:PORT.

    >>> read_address("127.0.0.1:6380")
    ('127.0.0.1', 6380)
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise BadInput(f"PRISM_CLUSTER is {address!r}; expected HOST:PORT, as `serve` prints it", "PRISM_CLUSTER")
    return host, int(port)


def is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "localhost", "::1")


def _token_file() -> Path:
    """The file that holds the cluster's token, readable by its owner only; made at the first use."""
    path = home() / "cluster" / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError), open(path, "x", opener=_private) as file:
        file.write(secrets.token_hex(32))
    return path


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
