"""The process between the pages and a cluster: `python -m backend.cluster.connector HOST:PORT`, started by the pages.

Its endpoints are those of another Prism (`backend.endpoints.engine`). One line of JSON on stdin is a call, lines on
stdout are what it says: {"call": n, "endpoint": name, "arguments": [...]} gets {"call": n, "message": ...} again and
again, and at last {"call": n, "is_over": true}, with "error": [title, sentence] if it failed. The pages' end or death
closes stdin, and this process ends; if the cluster is gone this process ends too, and the pages start another.

A replica that dies with a request is no loss: the request goes to another one.
"""

import asyncio
import contextlib
import json
import logging
import os
import queue
import socket
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, BinaryIO

from backend import wire
from backend.catalog import MODELS
from backend.cluster import environment
from backend.cluster.settings import APP
from backend.contracts import digest
from backend.endpoints.uploads import Uploads
from backend.errors import Busy, Cancelled, PrismError, Superseded
from backend.limits import LIMITS
from backend.store import Store

WATCH_S = 1.0  # how often the cluster is looked for
MISSES = 3  # in vain, and it is gone
ATTEMPTS = 6  # replicas that may die with one request
PAUSE_S = 0.5  # before the next of them
GONE = 3  # exit status: the cluster is gone


class _Put:
    """An input with its kind and bytes, so that any replica can be given it."""

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind, self.data, self.nbytes = kind, data, len(data)


class _Answer:
    """A replica's answer as it travels, for who asks the same again."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message, self.nbytes = message, len(message["answer"]["npz"]) + len(str(message["answer"]["manifest"]))


class Connector:
    """Answers calls by asking replicas; knows what was put in, and who waits for what."""

    def __init__(self, handle: Any, say: Callable[[dict[str, Any]], None]) -> None:
        """
        Args:
            handle: Serve's handle of the replicas.
            say: sends a message to the pages.
        """
        from ray import serve

        self._handle = handle
        self._board = serve.get_deployment_handle("board", APP)
        self._say = say
        self._inputs: Store[_Put] = Store(LIMITS.image_store_bytes)
        self._answers: Store[_Answer] = Store(LIMITS.result_store_bytes // 4)
        self._uploads = Uploads()
        self._news: list[Any] = ["", 0]  # epoch and number of the changes of the models' list that went through here
        self._calls: dict[int, asyncio.Task] = {}
        self._named: dict[str, asyncio.Task] = {}  # by the id that the caller gave
        self._sessions: dict[str, asyncio.Task] = {}
        self._superseded: weakref.WeakSet[asyncio.Task] = weakref.WeakSet()  # their session asked for something else
        self._endpoints: dict[str, Callable[..., Awaitable[Any]]] = {
            "/put_image": lambda image: self._put("image", wire.decode_bytes(image)),
            "/put_audio": lambda audio: self._put("audio", wire.decode_bytes(audio, "audio", "a sound's bytes")),
            "/put_part": self._put_part,
            "/status": self._status,
            "/model_rows": self._model_rows,
            "/add_model": self._add_model,
            "/remove_model": lambda key: self._change("remove_model", key),
            "/cancel": self._cancel,
            "/cancel_call": self._cancel_call,
        }

    # ------------------------------------------------------------- calls
    def hear(self, line: dict[str, Any]) -> None:
        """A call came, or its caller left."""
        call = line["call"]
        if "endpoint" not in line:
            if call in self._calls:
                self._calls[call].cancel()
            return
        task = asyncio.get_running_loop().create_task(self._answer(call, line["endpoint"], line["arguments"]))
        self._calls[call] = task
        task.add_done_callback(lambda _: self._calls.pop(call, None))

    async def _answer(self, call: int, endpoint: str, arguments: list[Any]) -> None:
        end: dict[str, Any] = {"call": call, "is_over": True}
        try:
            if endpoint == "/run_with_progress":
                async for message in self._run(*arguments):
                    self._say({"call": call, "message": message})
            elif endpoint in self._endpoints:
                self._say({"call": call, "message": await self._endpoints[endpoint](*arguments)})
            else:
                raise PrismError(f"a cluster has no {endpoint}")
        except PrismError as error:
            end["error"] = [wire.error_title(error), error.sentence]
        except asyncio.CancelledError:
            reason = Superseded() if asyncio.current_task() in self._superseded else Cancelled()
            end["error"] = [wire.error_title(reason), reason.sentence]
        except Exception as error:
            logging.getLogger("prism").error("a call of the cluster failed", exc_info=error)
            end["is_lost"] = True
        self._say(end)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """What any replica answers. Raises: PrismError: as the replica raised it."""
        return _checked(await getattr(self._handle, method).remote(*arguments))

    # ------------------------------------------------------------- inputs
    async def _put(self, kind: str, data: bytes) -> dict[str, Any]:
        info = await self._ask("put", kind, data)
        self._inputs.put(info["id"], _Put(kind, data))
        return info

    async def _put_part(self, upload: str, offset: int, part: str) -> dict[str, Any]:
        return {"nbytes": self._uploads.add(upload, offset, wire.decode_bytes(part, "part", "bytes"))}

    # ------------------------------------------------------------- work
    async def _run(self, body: dict[str, Any], session: str, name: str) -> AsyncIterator[dict[str, Any]]:
        """What a replica says to a request; of a session's requests only the newest goes on."""
        me = asyncio.current_task()
        if session in self._sessions:
            self._superseded.add(self._sessions[session])
            self._sessions[session].cancel()
        self._named[name] = me
        if session:
            self._sessions[session] = me
        try:
            async for message in self._run_or_recall(body, session):
                yield message
        finally:
            self._named.pop(name, None)
            if self._sessions.get(session) is me:
                del self._sessions[session]

    async def _run_or_recall(self, body: dict[str, Any], session: str) -> AsyncIterator[dict[str, Any]]:
        """A stored answer needs no replica. Those of models that ship are kept; others may change under their key."""
        key = digest(json.dumps(body, sort_keys=True).encode())
        kept = self._answers.get(key)
        if kept is not None:
            yield kept.message
            return
        async for message in self._run_somewhere(body, session):
            if message["answer"] is not None and MODELS.keys() >= set(_models_of(body)):
                self._answers.put(key, _Answer(message))
            yield message

    async def _run_somewhere(self, body: dict[str, Any], session: str) -> AsyncIterator[dict[str, Any]]:
        """Ask replicas until one has answered."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        names = [name for name in wire.strings_of(body) if name in self._inputs]
        inputs: dict[str, tuple[str, bytes]] = {}
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async for message in self._run_once(body, session, names, inputs):
                    yield message
                    if message["answer"] is not None:
                        return
            except _Missing as missing:
                inputs = {name: (put.kind, put.data) for name in missing.names if (put := self._inputs.get(name))}
                names = list(inputs)
            except (RayError, RayServeException):  # none of ours comes so: the replica is gone
                yield {"step": _step(f"a replica stopped; asking another one (try {attempt + 1})"), "answer": None}
                await asyncio.sleep(PAUSE_S)
        raise Busy("the cluster's replicas stop again and again with this request; try again in a moment")

    async def _run_once(
        self, body: dict[str, Any], session: str, names: list[str], inputs: dict[str, tuple[str, bytes]]
    ) -> AsyncIterator[dict[str, Any]]:
        handle = self._handle.options(stream=True, multiplexed_model_id=_model_of(body))
        messages = handle.run.remote(body, session, names, inputs, self._news)
        try:
            async for message in messages:
                if "missing" in message:
                    raise _Missing(message["missing"])
                yield _checked(message)
        finally:
            messages.cancel()

    async def _cancel(self, session: str) -> dict[str, Any]:
        return _stop(self._sessions.get(session))

    async def _cancel_call(self, name: str) -> dict[str, Any]:
        return _stop(self._named.get(name))

    # ------------------------------------------------------------- models and state
    async def _add_model(self, fields: dict[str, Any], upload: str = "") -> dict[str, Any]:
        return await self._change("add_model", fields, self._uploads.take(upload) if upload else b"")

    async def _change(self, method: str, *arguments: Any) -> dict[str, Any]:
        """Change the list of models; whatever is asked from now on, replicas answer with this change made."""
        found = await self._ask(method, *arguments)
        self._news = found["news"]
        return found["answer"]

    async def _states(self) -> list[dict[str, Any]]:
        """What each replica said last; of one that is asked now, if none has spoken yet."""
        return await self._board.reports.remote() or [await self._ask("state")]

    async def _status(self) -> dict[str, Any]:
        return join_status([state["status"] for state in await self._states()])

    async def _model_rows(self) -> list[dict[str, Any]]:
        return join_rows([state["rows"] for state in await self._states()])


class _Missing(Exception):
    """A replica does not hold some inputs of the request."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names


def _checked(answer: Any) -> Any:
    """Raises: PrismError: the replica says that it raised one."""
    if isinstance(answer, dict) and answer.get("error"):
        raise wire.error_from_wire(*answer["error"]) or PrismError(answer["error"][1])
    return answer


def _stop(task: asyncio.Task | None) -> dict[str, Any]:
    if task is not None:
        task.cancel()
    return {}


def _step(message: str) -> dict[str, Any]:
    return {"done": 0, "total": 0, "message": message, "partial": None}


def _model_of(body: Any) -> str:
    """The model that decides where a request goes: its own, or that of the first request in it."""
    return next(_models_of(body), "")


def _models_of(body: Any) -> Iterator[str]:
    """All models that a request names, its own first.

    >>> list(_models_of({"attributions": [{"model": "a"}, {"model": "b"}]}))
    ['a', 'b']
    """
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        yield body["model"]
    for value in body.values() if isinstance(body, dict) else body if isinstance(body, list) else ():
        yield from _models_of(value)


def join_status(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The cluster at a glance, from the status of each replica.

    >>> one = {"device": "CPU", "loaded": ("a",), "waiting": 1, "wait_s": 2.0, "problems": ()}
    >>> join_status([one, {**one, "loaded": ("b",), "wait_s": 4.0}])
    {'device': '2 replicas: CPU', 'loaded': ['a', 'b'], 'waiting': 2, 'wait_s': 3.0, 'problems': []}
    """
    joined: dict[str, Any] = {}
    for name in states[0]:
        values = [state[name] for state in states]
        if name == "device":
            joined[name] = f"{len(states)} replica{'s' * (len(states) != 1)}: {', '.join(dict.fromkeys(values))}"
        elif name == "wait_s":  # who comes now waits for one of them
            joined[name] = sum(values) / len(values)
        elif isinstance(values[0], (tuple, list)):
            joined[name] = list(dict.fromkeys(item for value in values for item in value))
        else:
            joined[name] = sum(values)
    return joined


def join_rows(lists: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The list of models: one is loaded if any replica has it, and takes the bytes of all of them."""
    rows: dict[str, dict[str, Any]] = {}
    for row in (row for rows_of_one in lists for row in rows_of_one):
        seen = rows.get(row["key"])
        rows[row["key"]] = row if seen is None else {
            **seen,
            "is_loaded": seen["is_loaded"] or row["is_loaded"],
            "nbytes": seen["nbytes"] + row["nbytes"],
            "digest": seen["digest"] or row["digest"],
        }  # fmt: skip
    return list(rows.values())


# ----------------------------------------------------------------- the process
def _watch(host: str, port: int) -> None:
    """End this process when the cluster is gone: Ray does so a minute later, and not while it is connecting."""
    missed = 0
    while missed < MISSES:
        time.sleep(WATCH_S)
        missed = 0 if _is_there(host, port) else missed + 1
    os._exit(GONE)


def _is_there(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), WATCH_S).close()
    except OSError:
        return False
    return True


def _read(stdin: BinaryIO, lines: queue.SimpleQueue) -> None:
    """Keep what the pages say; at their end this process ends too, whatever it waits for."""
    for line in stdin:
        lines.put(line)
    os._exit(0)


async def _talk(lines: queue.SimpleQueue, out: BinaryIO) -> None:
    from ray import serve

    lock = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(message).encode() + b"\n")
            out.flush()

    connector = Connector(serve.get_app_handle(APP), say)
    say({"is_ready": True})
    while True:
        connector.hear(json.loads(await asyncio.to_thread(lines.get)))


def main(address: str) -> int:
    host, port = environment.read_address(address)
    if not _is_there(host, port):  # Ray would look for it for more than a minute
        print(f"prism: nobody listens at {address}", file=sys.stderr)
        return GONE
    environment.prepare(environment.is_loopback(host))
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for work, given in ((_watch, (host, port)), (_read, (sys.stdin.buffer, lines))):
        threading.Thread(target=work, args=given, daemon=True).start()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Ray prints must not come between the messages
    import ray

    try:
        ray.init(address=address, namespace=APP, log_to_driver=False, logging_level=logging.ERROR)
        asyncio.run(_talk(lines, out))
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        print(f"prism: {str(error).splitlines()[0]}", file=sys.stderr)
        if _is_about_the_token(error):
            out.write(json.dumps({"is_refused": True}).encode() + b"\n")
            out.flush()
        return GONE
    return 0


def _is_about_the_token(error: BaseException | None) -> bool:
    """Whether this error, or what caused it, is that the cluster has another token."""
    return error is not None and (
        "uthenticat" in f"{type(error).__name__} {error}" or _is_about_the_token(error.__cause__ or error.__context__)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
