"""What replicas know of one another: their state, and the models that users have added. One for each cluster.

It is a Serve deployment of a single replica, which Ray starts again when it dies. The list of added models is lost
then for replicas that start later; those that run keep what they have.
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

    async def record(self, change: dict[str, Any]) -> None:
        """A model was added or removed at one replica; the others hear of it before their next request."""
        if "remove" in change:  # its weights need not be held any longer
            self._changes = [
                {"remove": change["remove"]} if old.get("add", {}).get("key") == change["remove"] else old
                for old in self._changes
            ]
        self._changes.append(change)

    async def changes_since(self, epoch: str, count: int) -> tuple[str, list[dict[str, Any]]]:
        """What a replica that has heard `count` changes of this epoch has not heard yet."""
        return self._epoch, self._changes[count if epoch == self._epoch else 0 :]

    async def report(self, replica: str, state: dict[str, Any]) -> None:
        self._reports[replica] = time.monotonic(), state

    async def reports(self) -> list[dict[str, Any]]:
        """The last word of each replica that lives."""
        now = time.monotonic()
        self._reports = {name: said for name, said in self._reports.items() if now - said[0] < KEPT_S}
        return [state for _, state in self._reports.values()]
