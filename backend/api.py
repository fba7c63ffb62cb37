"""The Gradio door: the same engine as the pages, for `gradio_client`, plain HTTP (OpenAPI) and MCP.

Pictures travel as base64 text and stay in memory: no upload folder, no path that a caller could choose.
`gr.api` checks no types, so every argument is checked here or in the backend.
"""

import base64
import binascii
import dataclasses
import json
import logging
import os
import uuid
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported

import gradio as gr
from fastapi import FastAPI, Request, Response

from backend import service as engine
from backend.catalog import METHODS
from backend.contracts import AttributionRequest, PredictionRequest, Result, Step, request_from_json
from backend.describe import describe_method, describe_model
from backend.errors import BadInput, PrismError
from backend.service import InterpretService

log = logging.getLogger("prism")

QUEUE_SIZE = 64
CONCURRENT_CALLS = 8  # the engine itself lets one computation at a time onto the device
ERROR_TITLE = "Prism"


def build(service: Callable[[], InterpretService] = engine.local_service) -> gr.Blocks:
    """The API as Gradio blocks. `service` is called at the first request, so that building loads no model."""

    def methods() -> list:
        """List the attribution methods with their typed parameters, ranges, defaults and sources."""
        return [describe_method(spec) for spec in METHODS.values()]

    def models() -> list:
        """List the models that can be explained: embedded, hub and local ones, with labels and input size."""
        return [describe_model(status) for status in service().models()]

    def status() -> dict:
        """Tell the device, the models in memory and the work under way."""
        return dataclasses.asdict(service().status())

    def predict(image: str, model: str = "digits-gap") -> dict:
        """Classify a picture: the five top classes with logits and probabilities.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF or BMP) as base64 text
            model: key of a model, as listed by `models`
        """
        with _friendly():
            info = service().put_image(_decode_base64(image))
            result = _run(service(), PredictionRequest(image_id=info.id, model=_text("model", model)))
            return {"image_id": info.id, **result.manifest()}

    def attribute(
        image: str,
        model: str = "digits-gap",
        method: str = "samp++",
        target: int | None = None,
        baseline: str = "black",
        params: dict | None = None,
        seed: int = 0,
    ) -> dict:
        """Attribute a classifier's score to the pixels of a picture.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF or BMP) as base64 text
            model: key of a model, as listed by `models`
            method: key of a method, as listed by `methods`, for instance samp++, ig or grad-cam
            target: class number to explain; null takes the top class
            baseline: black, white, grey, mean, noise or blur:SIGMA; several separated by commas are averaged
            params: the method's own parameters by name; those left out take their defaults
            seed: seed of everything random
        Returns:
            the manifest (target, score, quality, cost) and the attribution as base64 of an .npz file
        """
        with _friendly():
            info = service().put_image(_decode_base64(image))
            request = request_from_json(
                {
                    "kind": AttributionRequest.kind,
                    "image_id": info.id,
                    "model": model,
                    "method": method,
                    "target": target,
                    "baseline": [name.strip() for name in _text("baseline", baseline).split(",")],
                    "params": params or {},
                    "seed": seed,
                }
            )
            return _answer(_run(service(), request))

    def put_image(image: str) -> dict:
        """Check and keep a picture for later requests, which name it by the id that comes back.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF or BMP) as base64 text
        """
        with _friendly():
            info = service().put_image(_decode_base64(image))
            return {"id": info.id, "width": info.width, "height": info.height, "notes": list(info.notes)}

    def run(request: dict) -> dict:
        """Run any request (attribution, faithfulness, sensitivity, randomisation, path, prediction) on kept pictures.

        Args:
            request: a JSON object with `kind` and that kind's fields, as in a result's manifest
        Returns:
            the manifest and all arrays as base64 of an .npz file
        """
        with _friendly():
            return _answer(_run(service(), request_from_json(request)))

    with gr.Blocks(title="Prism API", analytics_enabled=False) as blocks:
        gr.Markdown("# Prism API\nThe same engine as the pages. See *Use via API* below.")
        for endpoint in (methods, models, status, predict, attribute, put_image, run):
            gr.api(
                endpoint,
                api_name=endpoint.__name__,
                concurrency_id="device",
                concurrency_limit=CONCURRENT_CALLS,
            )
    return blocks.queue(max_size=QUEUE_SIZE)


def mount(app: FastAPI, path: str = "/api") -> FastAPI:
    """Mount the API with OpenAPI and MCP; bad input answers 400 with its sentence instead of a bare 500."""

    @app.middleware("http")
    async def say_bad_request(request: Request, call_next: Callable[[Request], Any]) -> Response:
        response = await call_next(request)
        if response.status_code != 500 or not request.url.path.startswith(path):
            return response
        body = b"".join([part async for part in response.body_iterator])
        headers = {name: value for name, value in response.headers.items() if name != "content-length"}
        return Response(body, 400 if _is_ours(body) else 500, headers)

    return gr.mount_gradio_app(
        app,
        build(),
        path=path,
        mcp_server=True,
        footer_links=["api"],
        enable_monitoring=False,
        blocked_paths=["."],
    )


def _is_ours(body: bytes) -> bool:
    try:
        return json.loads(body).get("title") == ERROR_TITLE
    except (ValueError, AttributeError):
        return False


class _friendly:
    """Turn a PrismError into Gradio's error with the same sentence, and a fault of ours into an id for the log."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, PrismError):
            raise gr.Error(error.sentence, title=ERROR_TITLE, print_exception=False) from None
        if isinstance(error, Exception):
            fault = uuid.uuid4().hex[:8]
            log.error("fault %s", fault, exc_info=error)
            raise gr.Error(f"fault {fault} on the server's side; its log says more", print_exception=False) from None


def _run(service: InterpretService, request: Any) -> Result:
    progress = gr.Progress()

    def on_step(step: Step) -> None:
        progress((step.done, step.total), desc=step.message)

    return service.run(request, on_step)


def _answer(result: Result) -> dict:
    return {"manifest": result.manifest(), "npz": base64.b64encode(result.to_npz()).decode()}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{name} is {value!r}; expected a string", name)
    return value


def _decode_base64(text: Any) -> bytes:
    try:
        return base64.b64decode(_text("image", text).rpartition("base64,")[2], validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("image is not base64 text of a picture's bytes", "image") from None
