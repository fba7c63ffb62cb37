"""The Gradio door: the same engine as the pages, for `gradio_client`, plain HTTP (OpenAPI) and MCP.

Pictures travel as base64 text and stay in memory: no upload folder, no path that a caller could choose.
The endpoints stand in `backend.endpoints`.
"""

import inspect
import json
import os
import re
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from backend import engines, wire
from backend.endpoints import additive_decoding, additive_image, engine, image_text, jobs, path_attribution
from backend.endpoints.door import Door, Endpoint, guarded
from backend.endpoints.uploads import Uploads
from backend.errors import BadInput
from backend.jobs import Jobs
from backend.service import InterpretService

QUEUE_SIZE = 64
CONCURRENT_CALLS = 24  # that wait for the device, in the engine's fair order; one caller has no more than 8 of them
CONCURRENT_STREAMS = 64  # each costs one sleeping thread
CONCURRENT_WORDS = 16  # calls that only look or say something, so that a cancel never waits for work
STATUS_OF = {"NotAvailable": 503, "Busy": 503, "OutOfMemory": 503, "Cancelled": 409, "Superseded": 409}  # others: 400


def build(
    service: Callable[[], InterpretService] = engines.service, queue: Callable[[], Jobs] = engines.jobs
) -> gr.Blocks:
    """The API as Gradio blocks. Both are called at the first request, so that building loads no model."""
    door, calls, uploads = Door(service, queue), engine.Calls(), Uploads()
    with gr.Blocks(title="Prism API", analytics_enabled=False) as blocks:
        gr.Markdown("# Prism API\nThe same engine as the pages. See *Use via API* below.")
        for family in (path_attribution, image_text, additive_image, additive_decoding):
            _offer(family.endpoints(door), "device", CONCURRENT_CALLS)
        _offer(engine.endpoints(door), "device", CONCURRENT_CALLS)
        _offer(engine.streams(door, calls), "streams", CONCURRENT_STREAMS)
        _offer(jobs.endpoints(door), "words", CONCURRENT_WORDS)
        _offer(engine.controls(door, calls, uploads), "words", CONCURRENT_WORDS, "undocumented")
        _offer(jobs.controls(door, uploads), "words", CONCURRENT_WORDS, "undocumented")
    return blocks.queue(max_size=QUEUE_SIZE)


def _offer(endpoints: list[Endpoint], group: str, at_once: int, visibility: str = "public") -> None:
    for endpoint in endpoints:
        gr.api(
            endpoint if inspect.isasyncgenfunction(endpoint) else guarded(endpoint),
            api_name=endpoint.__name__,
            concurrency_id=group,
            concurrency_limit=at_once,
            api_visibility=visibility,
        )


def mount(app: FastAPI, path: str = "/api", blocks: gr.Blocks | None = None) -> FastAPI:
    """Mount the API with OpenAPI and MCP; bad input answers 400 with its sentence instead of a bare 500.

    Args: blocks: of `build`; None: on the process's own engine.
    """

    @app.middleware("http")
    async def say_bad_request(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response = await call_next(request)
        if response.status_code != 500 or not request.url.path.startswith(path):
            return response
        body = b"".join([part async for part in response.body_iterator])
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        body, status = _refusal(body)
        return Response(body, status, headers)

    app = gr.mount_gradio_app(
        app,
        blocks or build(),
        path=path,
        mcp_server=True,
        footer_links=["api"],
        enable_monitoring=False,
        blocked_paths=["."],
    )
    inner = next(route.app for route in app.routes if getattr(route, "path", None) == path)
    inner.add_exception_handler(RequestValidationError, _refuse_body)
    for kind in (TypeError, KeyError):
        inner.add_exception_handler(kind, _refuse_names)
    return app


def _refuse_body(request: Request, error: Exception) -> Response:
    """A body that is no call. FastAPI's own answer repeats what was sent, and fails where that is no JSON (NaN)."""
    return _bad_request("the body is not what this address expects; /api/gradio_api/openapi.json describes it", "data")


def _refuse_names(request: Request, error: Exception) -> Response:
    """Arguments by name that an endpoint has not, or an endpoint that is not there: Gradio only raises.

    Endpoints' own faults never come here; see `door.guarded`.
    """
    if "/call/" not in request.url.path:
        raise error
    known = isinstance(error, TypeError)
    what = "an argument is missing or unknown" if known else "there is no such endpoint"
    return _bad_request(f"{what}; /api/gradio_api/openapi.json describes them", "data" if known else "endpoint")


def _bad_request(sentence: str, field: str) -> Response:
    body = {"error": sentence, "title": wire.error_title(BadInput(sentence, field))}
    return Response(json.dumps(body), 400, media_type="application/json")


_COUNT = re.compile(r"receive enough input values \(needed: (\d+), got: (\d+)\)")


def _refusal(body: bytes) -> tuple[bytes, int]:
    """An error's body and HTTP status: one of Prism's by its class; what Gradio refuses itself gets our words."""
    try:
        told = json.loads(body)
        found, count = wire.read_title(told.get("title")), _COUNT.search(str(told.get("error")))
    except (ValueError, AttributeError):
        return body, 500
    if count is not None:
        told = {"error": f"{count[2]} arguments; expected {count[1]}", "title": wire.error_title(BadInput("", "data"))}
        return json.dumps(told).encode(), 400
    return body, 500 if found is None else STATUS_OF.get(found[0], 400)
