"""What replicas know of one another: their state, and the models that users have added. One for each cluster.

It is a Serve deployment of a single replica, which Ray starts again when it dies. What it knew is lost then; the
replicas, who remember the models that were added, tell it to the new one (see `Replica._hear_of_models`).
"""

import time
import uuid
from typing import Any

KEPT_S = 15.0  # a replica that has not reported so long is not counted


class Board:
    """Changes of the list of models in order, and each replica's last report."""

    def __init__(self) -> None:
        self._epoch = uuid.uuid4().hex
        self._changes: list[dict[str, Any]] = []  # {"add": fields, "weights": bytes} or {"remove": key}
        self._reports: dict[str, tuple[float, dict[str, Any]]] = {}

    async def record(self, change: dict[str, Any]) -> list[Any]:
        """A model was added or removed at one replica; the others hear of it. Returns: epoch and number of changes."""
        if "remove" in change:  # its weights need not be held any longer
            self._changes = [
                {"remove": change["remove"]} if _added(old) == change["remove"] else old for old in self._changes
            ]
        self._changes.append(change)
        return [self._epoch, len(self._changes)]

    async def remind(self, changes: list[dict[str, Any]]) -> None:
        """A replica tells a board that was started again of models added before; what it knows already is left."""
        known = {_added(old) or old["remove"] for old in self._changes}
        self._changes += [change for change in changes if _added(change) not in known]

    async def changes_since(self, epoch: str, count: int) -> tuple[str, list[dict[str, Any]]]:
        """What a replica that has heard `count` changes of this epoch has not heard yet."""
        return self._epoch, self._changes[count if epoch == self._epoch else 0 :]

    async def report(self, replica: str, epoch: str, state: dict[str, Any]) -> None:
        """A replica that has not heard of this board yet does not count: it may have models to remind it of."""
        if epoch == self._epoch:
            self._reports[replica] = time.monotonic(), state

    async def reports(self) -> list[dict[str, Any]]:
        """The last word of each replica that lives."""
        now = time.monotonic()
        self._reports = {name: said for name, said in self._reports.items() if now - said[0] < KEPT_S}
        return [state for _, state in self._reports.values()]


def _added(change: dict[str, Any]) -> str | None:
    """The key of the model that a change adds."""
    return change["add"].get("key") if "add" in change else None
