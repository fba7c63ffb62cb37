"""Callers of the API are told apart: each has its share and its limit, and nobody reaches another's sessions."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from gradio_client import Client

from backend import wire
from backend.entrance import Entrance
from backend.images import encode_png
from backend.limits import Limits
from backend.service import LocalService
from tests.helpers import random_images
from tests.helpers_service import CountingLibrary, service_with
from tests.served import api_app, served
from tests.waiting import wait_until

ANN, BOB = "203.0.113.1", "203.0.113.2"
PICTURE = wire.encode_bytes(encode_png(random_images(12, 12, 1).numpy()))
MAP = {"kind": "attribution", "model": "tiny", "method": "saliency"}
LIMITS = Limits(chunk_pixels_cpu=12 * 12 * 8, max_session_requests=1)


@dataclass
class Watched:
    """An engine that writes down in whose name it was asked."""

    engine: LocalService
    sessions: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def run(self, request, on_step=None, session=None):
        self.sessions.append(session)
        return self.engine.run(request, on_step, session)

    def cancel(self, session: str) -> None:
        self.cancelled.append(session)
        self.engine.cancel(session)

    def __getattr__(self, name: str):
        return getattr(self.engine, name)


@pytest.fixture(scope="module")
def library() -> CountingLibrary:
    return CountingLibrary()


@pytest.fixture(scope="module")
def engine(library) -> Watched:
    return Watched(service_with(library, LIMITS))


@pytest.fixture(scope="module")
def url(engine) -> Iterator[str]:
    entrance = Entrance.from_environment({"PRISM_PASSWORD": "sesame", "PRISM_AUTH_HEADER": "X-User"})
    with served(api_app(engine, entrance=entrance)) as url:
        yield url


def headers_of(address: str, **others: str) -> dict[str, str]:
    """As a proxy on this machine hands a request on: the server takes its word for the address."""
    return {"X-Forwarded-For": address, "Authorization": "Bearer sesame", **others}


def attribute(url: str, address: str, seed: int = 0, **headers: str) -> httpx.Response:
    arguments = [PICTURE, "tiny", "saliency", None, "black", {}, seed, False]
    return httpx.post(
        f"{url}/api/gradio_api/run/attribute",
        json={"data": arguments},
        headers=headers_of(address, **headers),
        timeout=60,
    )


def owner(session: str) -> str:
    return session.partition(".")[0]


def test_calls_without_a_session_are_owned_by_who_calls(url, engine):
    engine.sessions.clear()
    for address, user in ((ANN, ""), (ANN, ""), (BOB, ""), (ANN, "ann"), (BOB, "ann")):
        assert attribute(url, address, **({"X-User": user} if user else {})).status_code == 200
    first, again, other, named, _ = engine.sessions
    assert owner(first) == owner(again) != owner(other) and first != again
    assert len({owner(session) for session in (first, other, named)}) >= 2
    assert ANN not in first


def test_a_caller_with_too_much_under_way_is_refused_and_others_are_not(url, engine, library):
    library.network.delay_s = 0.4
    answers: dict[str, httpx.Response] = {}
    first = threading.Thread(target=lambda: answers.update(first=attribute(url, ANN, seed=1)))
    before = library.network.calls
    first.start()
    wait_until(lambda: library.network.calls > before)
    refused = attribute(url, ANN, seed=2)
    other = threading.Thread(target=lambda: answers.update(other=attribute(url, BOB, seed=3)))
    other.start()
    library.network.delay_s = 0.0
    first.join(30)
    other.join(30)
    assert refused.status_code == 503 and "1 of your requests" in refused.json()["error"]
    assert answers["first"].status_code == answers["other"].status_code == 200


def test_nobody_cancels_or_supersedes_anothers_session(url, engine, library):
    image = engine.put_image(wire.decode_bytes(PICTURE)).id
    ann, bob = (Client(f"{url}/api", token=False, verbose=False, headers=headers_of(a)) for a in (ANN, BOB))
    library.network.delay_s = 0.05
    before = library.network.calls
    slow = {**MAP, "image_id": image, "method": "rise", "params": {"samples": 2000}}
    job = ann.submit(slow, "me.page", "call-of-mine", api_name="/run_with_progress")
    wait_until(lambda: library.network.calls > before)
    bob.predict("me.page", api_name="/cancel")
    bob.predict("call-of-mine", api_name="/cancel_call")
    quick = bob.submit({**MAP, "image_id": image, "seed": 9}, "me.page", "", api_name="/run_with_progress")
    time.sleep(0.5)
    assert not job.done()
    ann.predict("me.page", api_name="/cancel")
    wait_until(job.done)
    assert job.exception() is not None
    library.network.delay_s = 0.0
    assert quick.result(timeout=30)["answer"]["manifest"]["values"]
