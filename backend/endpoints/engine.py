"""Endpoints of the engine itself: what is there, pictures in, any request with its progress, models of one's own."""

import asyncio
import contextlib
import dataclasses
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from backend import wire
from backend.catalog import MODELS
from backend.contracts import Request, Result, Step, request_from_json
from backend.describe import describe_methods, describe_models
from backend.endpoints.door import Door, Endpoint, friendly, read_settings, read_text
from backend.endpoints.uploads import Uploads
from backend.errors import Cancelled

SIGN_OF_LIFE_S = 1.0  # a stream speaks at least so often, so that a caller who is gone is noticed
BETWEEN_STEPS_S = 0.1  # and at most so often


class Calls:
    """Streams under way by an id that their caller chose. A cancel may come before its stream does."""

    def __init__(self, at_most: int = 4096) -> None:
        self._left: OrderedDict[str, threading.Event] = OrderedDict()
        self._lock = threading.Lock()
        self._at_most = at_most

    def event(self, call: str) -> threading.Event:
        """Set as soon as nobody waits for this call any more."""
        with self._lock:
            event = self._left.setdefault(call, threading.Event())
            self._left.move_to_end(call)
            while len(self._left) > self._at_most:
                self._left.popitem(last=False)
            return event


def endpoints(door: Door) -> list[Endpoint]:
    def methods() -> list:
        """List the methods of every family with their typed parameters, ranges, defaults and sources.

        Returns:
            one object for each: family, key, title, summary, params (name, kind, low, high, default, help), source
        """
        return describe_methods()

    def models() -> list:
        """List the models of every family: embedded, hub and local ones, with task, labels, input size, licence.

        Returns:
            one object for each: key, task, title, summary, labels, input_size (height, width), is_loaded and more
        """
        return describe_models(door.service())

    def status() -> dict:
        """Tell the device, the models in memory and the work under way."""
        return dataclasses.asdict(door.service().status())

    def put_image(image: str) -> dict:
        """Check and keep a picture for later requests, which name it by the id that comes back.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text; it stays in memory
        Returns:
            id (sha256 of the bytes), width and height in pixels, channels, notes
        """
        info = door.service().put_image(wire.decode_bytes(image))
        return {**dataclasses.asdict(info), "notes": list(info.notes)}

    def put_audio(audio: str) -> dict:
        """Check and keep a sound for later requests, which name it by the id that comes back.

        Args:
            audio: the sound's bytes (WAV or FLAC) as base64 text; it stays in memory
        Returns:
            id (sha256 of the bytes), duration_s, sample_rate in Hz, notes
        """
        info = door.service().put_audio(wire.decode_bytes(audio, "audio", "a sound's bytes"))
        return {**dataclasses.asdict(info), "notes": list(info.notes)}

    def run(request: dict) -> dict:
        """Run a request of any kind and family on pictures and sounds that were put in.

        Args:
            request: a JSON object with `kind` and that kind's fields, as in a result's manifest
        Returns:
            manifest, and npz: all arrays as base64 of an .npz file
        """
        return door.answer(request)

    return [methods, models, status, put_image, put_audio, run]


def streams(door: Door, calls: Calls) -> list[Endpoint]:
    """Endpoints that speak while they work."""

    async def run_with_progress(request: dict, session: str = "", call: str = "") -> AsyncIterator[dict]:
        """Run a request of any kind, telling its steps on the way; the last message brings the answer.

        Args:
            request: a JSON object with `kind` and that kind's fields, as in a result's manifest
            session: an id of who asks; a newer request of the same session takes the older one's place
            call: an id of this call, by which `cancel_call` stops it
        Returns:
            messages with step (done, total, message, partial: a result on its way, or null) and answer (manifest
            and npz, or null)
        """
        with friendly():
            asked = request_from_json(read_settings(request, "request"))
            session_id = f"api-{session}" if read_text("session", session) else None
            left = calls.event(call) if read_text("call", call) else threading.Event()
            async for message in _steps_and_answer(door, asked, session_id, left):
                yield message

    return [run_with_progress]


def _steps_and_answer(door: Door, request: Request, session: str | None, left: threading.Event):
    """What `run` says and returns, as messages; the work runs in a thread and stops when `left` is set."""

    def work(on_step: Callable[[Step], None]) -> Result:
        return door.service().run(request, on_step, session)

    return _Conversation(work, left).messages()


class _Conversation:
    """Between a thread that works and the loop that sends: the newest step replaces those not yet sent."""

    def __init__(self, work: Callable[[Callable[[Step], None]], Result], left: threading.Event) -> None:
        self._work = work
        self._left = left
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._outcome: Result | BaseException | None = None

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=self._run, args=(loop, news), name="api-call", daemon=True).start()
        told, partial, spoke = None, None, time.monotonic()
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), SIGN_OF_LIFE_S)
                news.clear()
                with self._lock:
                    step, outcome = self._step, self._outcome
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome is not None:
                    yield {"step": None, "answer": await asyncio.to_thread(wire.result_to_wire, outcome)}
                    return
                if step == told and time.monotonic() - spoke < SIGN_OF_LIFE_S:
                    continue
                is_news = step is not None and step.partial is not partial
                body = None if step is None else await asyncio.to_thread(wire.step_to_wire, step, is_news)
                yield {"step": body, "answer": None}
                told, partial, spoke = step, None if step is None else step.partial, time.monotonic()
                await asyncio.sleep(BETWEEN_STEPS_S)
        finally:
            self._left.set()

    def _run(self, loop: asyncio.AbstractEventLoop, news: asyncio.Event) -> None:
        def wake() -> None:
            try:
                loop.call_soon_threadsafe(news.set)
            except RuntimeError:  # the loop is closed: the server stops
                self._left.set()

        def on_step(step: Step) -> None:
            if self._left.is_set():
                raise Cancelled
            with self._lock:
                is_news = step is not self._step
                self._step = step
            if is_news:
                wake()

        try:
            outcome: Result | BaseException = self._work(on_step)
        except BaseException as error:  # handed to the loop, where it belongs
            outcome = error
        with self._lock:
            self._outcome = outcome
        wake()


def controls(door: Door, calls: Calls, uploads: Uploads) -> list[Endpoint]:
    """Endpoints that another Prism needs beside: stopping work, full rows of models, models of a visitor's own."""

    def cancel_call(call: str) -> dict:
        """Stop a call of `run_with_progress`; work that others wait for too goes on.

        Args:
            call: the id that was given to it
        """
        calls.event(read_text("call", call)).set()
        return {}

    def cancel(session: str) -> dict:
        """Stop what a session waits for.

        Args:
            session: the id that was given to `run_with_progress`
        """
        door.service().cancel(f"api-{read_text('session', session)}")
        return {}

    def model_rows() -> list:
        """List the models as the engine's own list has them; rows that ship go by their key alone."""
        return [
            {
                "key": status.spec.key,
                "spec": None if MODELS.get(status.spec.key) == status.spec else wire.spec_to_wire(status.spec),
                "is_loaded": status.is_loaded,
                "nbytes": status.nbytes,
                "digest": status.digest,
            }
            for status in door.service().models()
        ]

    def put_part(upload: str, offset: int, part: str) -> dict:
        """Send a large file part by part; it is kept in memory for ten minutes after the last part.

        Args:
            upload: an id of the caller's choice, at least 16 letters or digits
            offset: bytes that were sent before this part
            part: bytes as base64 text
        Returns:
            nbytes: bytes held so far
        """
        return {"nbytes": uploads.add(upload, offset, wire.decode_bytes(part, "part", "bytes"))}

    def add_model(fields: dict, upload: str = "") -> dict:
        """Add a model of one's own after a dry run; it is kept in memory until it is removed or the server ends.

        Args:
            fields: as in models.toml, without `weights`
            upload: id of a safetensors file sent by `put_part`; empty: no weights
        """
        weights = uploads.take(upload) if read_text("upload", upload) else b""
        return wire.spec_to_wire(door.service().add_model(read_settings(fields, "fields"), weights))

    def remove_model(key: str) -> dict:
        """Forget a model of one's own and free its memory.

        Args:
            key: its key
        """
        door.service().remove_model(read_text("key", key))
        return {}

    return [cancel_call, cancel, model_rows, put_part, add_model, remove_model]
