"""Endpoints of the engine itself: what is there, pictures in, any request with its progress, models of one's own."""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from backend import wire
from backend.catalog import MODELS
from backend.contracts import Request, Result, Step, request_from_json
from backend.conversation import Conversation
from backend.describe import describe_methods, describe_models
from backend.endpoints.door import Door, Endpoint, friendly, read_settings, read_text, session_of
from backend.endpoints.uploads import Uploads


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
            session: an id of who asks; a newer request of the same caller's session takes the older one's place
            call: an id of this call, by which `cancel_call` stops it
        Returns:
            messages with step (done, total, message, partial: a result on its way, or null) and answer (manifest
            and npz, or null)
        """
        with friendly():
            asked = request_from_json(read_settings(request, "request"))
            session_id = session_of(read_text("session", session))
            left = calls.event(session_of(call)) if read_text("call", call) else threading.Event()
            async for message in _steps_and_answer(door, asked, session_id, left):
                yield message

    return [run_with_progress]


def _steps_and_answer(door: Door, request: Request, session: str | None, left: threading.Event):
    """What `run` says and returns, as messages; the work runs in a thread and stops when `left` is set."""

    def work(on_step: Callable[[Step], None]) -> Result:
        return door.service().run(request, on_step, session)

    return Conversation(work, left).messages()


def controls(door: Door, calls: Calls, uploads: Uploads) -> list[Endpoint]:
    """Endpoints that another Prism needs beside: stopping work, full rows of models, models of a visitor's own."""

    def cancel_call(call: str) -> dict:
        """Stop a call of `run_with_progress`; work that others wait for too goes on.

        Args:
            call: the id that was given to it
        """
        calls.event(session_of(read_text("call", call))).set()
        return {}

    def cancel(session: str) -> dict:
        """Stop what a session waits for.

        Args:
            session: the id that was given to `run_with_progress`
        """
        door.service().cancel(session_of(read_text("session", session)))
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
