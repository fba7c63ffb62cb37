"""What can be set of a cluster, with defaults for one machine: `python -m backend serve --settings cluster.toml`."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.cluster.environment import is_loopback
from backend.errors import BadInput
from backend.files import read_toml

APP = "prism"  # the application's name within Ray Serve, and the namespace of its actors


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """One field is one line of the file.

    >>> ClusterSettings(min_replicas=2, max_replicas=2).is_fixed
    True
    """

    host: str = "127.0.0.1"  # where Ray listens; any other address opens Ray to whoever reaches it and has the token
    port: int = 6380
    min_replicas: int = 2
    max_replicas: int = 2  # above min_replicas: Ray starts and stops replicas by the load
    requests_per_replica: float = 4.0  # waiting or under way, that the autoscaler aims at
    max_requests_per_replica: int = 8  # with more, a model spreads to another replica; then requests wait
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 300.0
    threads: int = 1  # of one replica, on a CPU
    cpus: float = 1.0  # that Ray sets aside for one replica
    gpus: float = 0.0
    health_period_s: float = 2.0
    health_timeout_s: float = 30.0  # a replica that does not answer so long is started again
    store_mib: int = 256  # Ray's shared memory; requests, inputs and answers do not lie there

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
            if not fits or (kind is not str and value < 0) or (kind is int and value < 1):
                raise BadInput(f"{field.name} is {value!r}; expected {_EXPECTED[kind]}", field.name)
        if self.max_replicas < self.min_replicas:
            raise BadInput(f"max_replicas {self.max_replicas} is less than min_replicas", "max_replicas")

    @property
    def is_fixed(self) -> bool:
        """Whether the number of replicas does not follow the load."""
        return self.min_replicas == self.max_replicas

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @classmethod
    def read(cls, path: str = "", given: Mapping[str, Any] | None = None) -> "ClusterSettings":
        """The defaults, changed by a TOML file, changed by what is given (None: it is not).

        Raises: BadInput: the file cannot be read, a name is unknown, or a value does not fit.
        """
        values = read_toml(path, "settings") if path else {}
        values |= {name: value for name, value in (given or {}).items() if value is not None}
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise BadInput(f"there is no setting {name!r}; one of {', '.join(sorted(known))}", "settings")
        return cls(**values)


_EXPECTED = {str: "a string", int: "a whole number above zero", float: "a number, zero or more"}
