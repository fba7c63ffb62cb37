"""One engine of the cluster. Ray Serve calls it with plain values (JSON, bytes) and nothing else.

Requests of many users meet here, so that equal ones are computed once and those that go together go together; a model
that is loaded draws the requests that need it (multiplexing).
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.handle import DeploymentHandle

from backend import wire
from backend.catalog import MODELS
from backend.contracts import Request, Result, Step, request_from_json
from backend.conversation import Conversation
from backend.errors import PrismError
from backend.service import LocalService, local_service

MODELS_PER_REPLICA = 16  # that Serve knows of; how many are in memory is bounded by bytes, see limits.py
BOARD_S = 3.0  # how long the board is waited for
log = logging.getLogger("prism")

# What users put in, by id: "image" or "audio", and its bytes.
Inputs = Mapping[str, tuple[str, bytes]]


class Replica:
    """The engine of one process, as Serve calls it. Answers are dicts; an error is {"error": [title, sentence]}."""

    def __init__(self, threads: int, board: DeploymentHandle) -> None:
        torch.set_num_threads(threads)
        self.service: LocalService = local_service()
        self._board = board
        self._name = serve.get_replica_context().replica_id.unique_id
        self._epoch, self._heard = "", 0  # changes of the models' list that this replica knows
        self._added: dict[str, dict[str, Any]] = {}  # by key, as they were told: a new board must be told them
        self._hearing = asyncio.Lock()

    # ------------------------------------------------------------- inputs
    async def put(self, kind: str, data: bytes) -> dict[str, Any]:
        """Check a picture or a sound and keep it; what it is."""

        def put() -> dict[str, Any]:
            info = (self.service.put_audio if kind == "audio" else self.service.put_image)(data)
            return dataclasses.asdict(info)

        return await _told(put)

    def _missing(self, names: list[str]) -> list[str]:
        stores = self.service.image_store, self.service.audio_store
        return [name for name in names if not any(name in store for store in stores)]

    # ------------------------------------------------------------- work
    async def run(
        self, body: dict[str, Any], session: str, names: list[str], inputs: Inputs, news: Sequence[Any] = ("", 0)
    ) -> AsyncIterator[dict[str, Any]]:
        """Answer a request, telling its steps; {"missing": ids} and nothing else if inputs must be sent along.

        Args:
            names: ids of inputs that the caller can send.
            inputs: some of these, with their bytes.
            news: epoch and number of the changes of the models' list that the caller knows of.
        """
        for name in self._missing(list(inputs)):
            await self.put(*inputs[name])
        missing = self._missing([name for name in names if name not in inputs])
        if missing:
            yield {"missing": missing}
            return
        left = threading.Event()
        try:
            await self._keep_up(news)
            await self._hold_model()
            work = functools.partial(self._work, request_from_json(body), session or None)
            async for message in Conversation(work, left).messages():
                yield message
        except PrismError as error:
            yield _as_error(error)
        except Exception as error:
            yield _as_fault(error)
        finally:
            left.set()

    def _work(self, request: Request, session: str | None, on_step: Callable[[Step], None]) -> Result:
        return self.service.run(request, on_step, session)

    async def _hold_model(self) -> None:
        """Load the model that the request is sent for, so that Serve knows it to be here."""
        key = serve.get_multiplexed_model_id()
        if key:
            await self.hold(key)

    @serve.multiplexed(max_num_models_per_replica=MODELS_PER_REPLICA)
    async def hold(self, key: str) -> "_Held":
        """A model in this replica's memory. One that cannot be loaded is refused by the request itself."""
        service = self.service

        def load() -> None:
            spec = service.library.spec(key)
            read = functools.partial(service.library.load, key, service.runtime.device, service.runtime.dtype)
            service.runtime.model(spec.key, read)

        try:
            await asyncio.to_thread(load)
        except PrismError as error:
            log.info("model %s is not loaded: %s", key, error.sentence)
        return _Held(functools.partial(service.runtime.forget, key))

    # ------------------------------------------------------------- models of the users' own
    async def add_model(self, fields: dict[str, Any], weights: bytes) -> dict[str, Any]:
        """Try a model here; if it is good, all replicas hear of it."""
        await self._hear_of_models()
        answer = await _told(lambda: wire.spec_to_wire(self.service.add_model(fields, weights)))
        if "error" in answer:
            return answer
        change = self._added[answer["key"]] = {"add": fields, "weights": weights}
        return {"answer": answer, "news": await self._tell_others(change)}

    async def remove_model(self, key: str) -> dict[str, Any]:
        await self._hear_of_models()
        answer = await _told(lambda: self.service.remove_model(key) or {})
        if "error" in answer:
            return answer
        self._added.pop(key, None)
        return {"answer": answer, "news": await self._tell_others({"remove": key})}

    async def _tell_others(self, change: dict[str, Any]) -> list[Any]:
        """Returns: epoch and number of the changes, this one among them."""
        news = await asyncio.wait_for(self._board.record.remote(change), BOARD_S)
        await self.check_health()  # hears of what was recorded meanwhile, and of this, which is done already
        return news

    async def _keep_up(self, news: Sequence[Any]) -> None:
        """Ask the board only where it is known, or likely, to know more: that costs as much as a stored answer."""
        key, (epoch, count) = serve.get_multiplexed_model_id(), news
        is_behind = epoch and (epoch != self._epoch or count > self._heard)
        if is_behind or (key and key not in self.service.library.specs()):
            await self._hear_of_models()

    async def _hear_of_models(self) -> None:
        """Do what was done to the list of models elsewhere; tell a board that was started again what it has lost."""
        async with self._hearing:
            try:
                is_new = await self._hear_once()
                if is_new and self._added:
                    await asyncio.wait_for(self._board.remind.remote(list(self._added.values())), BOARD_S)
                    await self._hear_once()
            except (RayError, TimeoutError):  # it is being started again: what this replica knows is still good
                self._epoch = ""  # and is told to whoever answers next

    async def _hear_once(self) -> bool:
        """Returns: whether this board is not the one that this replica knew."""
        asked = self._board.changes_since.remote(self._epoch, self._heard)
        epoch, changes = await asyncio.wait_for(asked, BOARD_S)
        is_new = epoch != self._epoch
        self._heard = len(changes) + (0 if is_new else self._heard)
        self._epoch = epoch
        for change in changes:
            await asyncio.to_thread(self._repeat, change)
        return is_new

    def _repeat(self, change: Mapping[str, Any]) -> None:
        known = self.service.library.specs()
        try:
            if "remove" in change:
                self._added.pop(change["remove"], None)
                if change["remove"] in known:
                    self.service.remove_model(change["remove"])
            elif change["add"].get("key") not in known:
                self.service.library.add_local(change["add"], change["weights"])
                self._added[change["add"]["key"]] = dict(change)
        except PrismError as error:
            log.info("a change of the models is not repeated here: %s", error.sentence)

    # ------------------------------------------------------------- state
    async def check_health(self) -> None:
        """Called by Serve again and again: does the loop still turn, and is the engine to be asked? Tells the board."""
        await self._hear_of_models()
        state = await asyncio.to_thread(self.state)
        with contextlib.suppress(RayError, TimeoutError):
            await asyncio.wait_for(self._board.report.remote(self._name, self._epoch, state), BOARD_S)

    def state(self) -> dict[str, Any]:
        """Status and rows of the models, as the endpoints of the API have them."""
        return {
            "process": os.getpid(),
            "status": dataclasses.asdict(self.service.status()),
            "rows": [
                {
                    "key": row.spec.key,
                    "spec": None if MODELS.get(row.spec.key) == row.spec else wire.spec_to_wire(row.spec),
                    "is_loaded": row.is_loaded,
                    "nbytes": row.nbytes,
                    "digest": row.digest,
                }
                for row in self.service.models()
            ],
        }

    async def pid(self) -> int:
        """This replica's process, for tests and benchmarks."""
        return os.getpid()


class _Held:
    """Stands for a model that Serve counts; when Serve drops it, the engine forgets the model."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget = forget

    def __del__(self) -> None:
        self._forget()


async def _told(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The answer of work in a thread, or its error as a dict."""
    try:
        return await asyncio.to_thread(work)
    except PrismError as error:
        return _as_error(error)
    except Exception as error:
        return _as_fault(error)


def _as_error(error: PrismError) -> dict[str, Any]:
    return {"error": [wire.error_title(error), error.sentence]}


def _as_fault(error: Exception) -> dict[str, Any]:
    fault = uuid.uuid4().hex[:8]
    log.error("fault %s", fault, exc_info=error)
    return {"error": [wire.error_title(PrismError("")), f"fault {fault} in a replica; Ray's log of it says more"]}
