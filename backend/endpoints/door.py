"""What every endpoint does alike: pictures in, a checked request, an answer out, errors as one sentence."""

import functools
import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from backend import wire
from backend.contracts import Request, Step, request_from_json
from backend.entrance import CALLER
from backend.errors import BadInput, PrismError
from backend.jobs import Jobs
from backend.service import InterpretService

log = logging.getLogger("prism")

Endpoint = Callable[..., Any]


@contextmanager
def friendly() -> Iterator[None]:
    """A PrismError becomes Gradio's error with the same sentence; a fault of ours becomes an id for the log."""
    try:
        yield
    except PrismError as error:
        raise gr.Error(error.sentence, title=wire.error_title(error), print_exception=False) from None
    except gr.Error:
        raise
    except Exception as error:
        fault = uuid.uuid4().hex[:8]
        log.error("fault %s", fault, exc_info=error)
        raise gr.Error(f"fault {fault} on the server's side; its log says more", print_exception=False) from None


def guarded(endpoint: Endpoint) -> Endpoint:
    """The same endpoint, with errors as sentences."""

    @functools.wraps(endpoint)
    def call(*arguments: Any, **named: Any) -> Any:
        with friendly():
            return endpoint(*arguments, **named)

    return call


@dataclass(frozen=True)
class Door:
    """The engine as the endpoints see it; both are called when they are needed, so that building loads no model."""

    service: Callable[[], InterpretService]
    jobs: Callable[[], Jobs]

    def put(self, image: Any, name: str = "image") -> str:
        """Put a picture in; returns its id. Raises: BadInput: no base64 text, or no picture that can be used."""
        return self.service().put_image(wire.decode_bytes(image, name)).id

    def put_all(self, images: Any, name: str = "images") -> list[str] | None:
        """Put several in. Raises: BadInput: no list, or one of them cannot be used."""
        if images is None:
            return None
        if not isinstance(images, list):
            raise BadInput(f"{name} is no list of base64 texts", name)
        return [self.put(image, name) for image in images]

    def put_sound(self, audio: Any, name: str = "audio") -> str:
        """Put a sound in; returns its id. Raises: BadInput: no base64 text, or no sound that can be used."""
        return self.service().put_audio(wire.decode_bytes(audio, name, "a sound's bytes")).id

    def answer(self, body: Mapping[str, Any], arrays: Any = True) -> dict[str, Any]:
        """Check a request, run it with Gradio's progress, and make its result ready to travel."""
        if not isinstance(arrays, bool):
            raise BadInput(f"arrays is {arrays!r}; expected true or false", "arrays")
        return wire.result_to_wire(self.run(request_from_json(body)), arrays)

    def run(self, request: Request):
        progress = gr.Progress()

        def on_step(step: Step) -> None:
            progress((step.done, step.total), desc=step.message)

        return self.service().run(request, on_step, session_of())


def session_of(name: str = "") -> str:
    """A session of the engine for a call of the API; sessions are spelled `owner.what`.

    Callers are told apart, so nobody can cancel or supersede another's work by its session's name. A caller who names
    no session is one owner, with a session for each call; another Prism's visitors are an owner each, by their names.
    """
    return f"{_caller()}-{name}" if name else f"{_caller()}.{uuid.uuid4().hex}"


def _caller() -> str:
    """Who calls, as the guard found: a digest, since addresses and names may hold a full stop."""
    request = getattr(LocalContext.request.get(None), "request", None)
    scope = getattr(request, "scope", None) or {}
    name = scope.get(CALLER) or (scope.get("client") or ("",))[0]
    return f"api-{hashlib.sha256(str(name).encode()).hexdigest()[:16]}"


def read_text(name: str, value: Any) -> str:
    """Raises: BadInput: it is no string."""
    if not isinstance(value, str):
        raise BadInput(f"{name} is {value!r}; expected a string", name)
    return value


def read_texts(name: str, value: Any) -> list[str]:
    """A list of strings; one string stands for a list of one. Raises: BadInput: it is neither, or it is empty."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values or not all(isinstance(item, str) for item in values):
        raise BadInput(f"{name} is no list of at least one string", name)
    return values


def read_settings(value: Any, name: str = "params") -> dict[str, Any]:
    """A JSON object, or nothing. Raises: BadInput: it is something else."""
    if value is None or value == []:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{name} is not a JSON object", name)
    return value
