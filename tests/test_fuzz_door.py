"""Addresses, headers, forms, calls of the API and messages of pages, of any content: a right status, one sentence."""

import asyncio
import functools
import json
import string
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import strategies as st
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from backend.entrance import COOKIE, Entrance, own_address, read_form
from backend.jobs import JobQueue
from backend.limits import LIMITS, Limits
from backend.runtime import Runtime
from backend.service import LocalService
from tests.benchmarks.visitors import PAGES, page_visitor
from tests.fuzzing import EVIL_TEXTS, altered, assert_sentence, damaged, fuzz, json_values, texts
from tests.served import api_app, served
from tests.test_api_endpoints import CASES
from tests.test_guard import guarded

KNOWN = {200, 303, 400, 401, 403, 404, 405, 408, 413, 414, 429, 431}  # of the guard and what stands behind it here
REFUSED = {400, 404, 405, 409, 413, 415, 422, 503}  # of the API

# ----------------------------------------------------------------- the guard by itself
_loop = asyncio.new_event_loop()


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    """A loop in a thread of its own: in this one there may be another already."""
    thread = threading.Thread(target=_loop.run_forever, daemon=True)
    thread.start()
    yield
    _loop.call_soon_threadsafe(_loop.stop)
    thread.join(timeout=10)


def run(work: Coroutine) -> Any:
    return asyncio.run_coroutine_threadsafe(work, _loop).result(timeout=60)


@functools.cache
def app(password: str) -> Any:
    return guarded(Limits(), entrance=Entrance(password))


def ask(
    path: str, query: bytes, method: str, headers: list[tuple[bytes, bytes]], body: bytes = b"", password: str = ""
) -> tuple[int, dict[str, str], bytes]:
    """What the guard and a small app behind it answer to exactly this."""
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode("utf-8", "surrogatepass"),
        "scheme": "http", "query_string": query, "headers": headers, "client": ("10.0.0.1", 1),
    }  # fmt: skip
    run(app(password)(scope, receive, send))
    start, *rest = answers
    found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in start["headers"]}
    return start["status"], found, b"".join(part.get("body", b"") for part in rest)


def check(status: int, headers: dict[str, str], body: bytes) -> None:
    assert status in KNOWN, (status, body[:200])
    assert headers["x-content-type-options"] == "nosniff" and "content-security-policy" in headers
    assert not any("\r" in value or "\n" in value for value in headers.values())
    assert b"Traceback" not in body
    if headers.get("content-type") == "application/json" and body and status >= 400:
        assert_sentence(json.loads(body)["error"])


_parts = st.sampled_from(
    [
        "models",
        "api",
        "gradio_api",
        "..",
        ".",
        "",
        "file=",
        "upload",
        "static",
        "_stcore",
        "login",
        "%2e%2e",
        "a\0b",
        "\\",
        "//",
    ]
) | st.text(max_size=8)
paths = st.lists(_parts, max_size=5).map(lambda parts: "/" + "/".join(parts))
names = st.sampled_from(
    [
        b"content-length",
        b"content-type",
        b"cookie",
        b"authorization",
        b"accept",
        b"x-forwarded-user",
        b"transfer-encoding",
        b"x",
    ]
)
values = st.binary(max_size=40) | st.sampled_from(
    [
        b"",
        b"-1",
        b"1e9",
        b"9" * 400,
        b"text/html",
        b"Bearer ",
        b"Basic AAAA",
        b"Basic \xff",
        b"prism_session=1.2; a",
        b"chunked",
    ]
)
headers_ = st.lists(st.tuples(names, values), max_size=5)
queries = st.text(string.printable, max_size=60).map(lambda text: text.encode()) | st.binary(max_size=60)
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "", "get", "G\0T"])


@fuzz(400, path=paths, query=queries, method=methods, headers=headers_, password=st.sampled_from(["", "sesame"]))
def test_any_address_has_a_right_status(path, query, method, headers, password):
    check(*ask(path, query, method, headers, b"", password))


@fuzz(
    150,
    body=st.binary(max_size=200)
    | st.text(max_size=80).map(lambda t: f"password=sesame&next={t}".encode("utf-8", "replace")),
)
def test_any_form_opens_or_asks_again(body):
    password, address = read_form(body)
    assert (
        address.startswith("/") and not address.startswith("//") and "\n" not in address and isinstance(password, str)
    )
    status, headers, answer = ask(
        "/login", b"", "POST", [(b"content-type", b"application/x-www-form-urlencoded")], body, "sesame"
    )
    check(status, headers, answer)
    assert status != 303 or (password == "sesame" and headers["location"] == address)


@fuzz(100, value=st.text(max_size=60) | st.sampled_from(["1.x", "9" * 20 + ".0", "é.é", "٣.0", "99999999999.\ud800"]))
def test_no_cookie_that_was_not_given_opens(value):
    cookie = f"{COOKIE}={value}".encode("utf-8", "surrogatepass")
    status, headers, body = ask("/models", b"", "GET", [(b"cookie", cookie)], b"", "sesame")
    check(status, headers, body)
    assert status != 200


@fuzz(100, address=texts | st.text(max_size=30).map(lambda text: f"/{text}"))
def test_no_address_of_a_form_leads_elsewhere(address):
    found = own_address(address)
    assert found.startswith("/") and not found.startswith(("//", "/\\")) and found.isprintable() and found.isascii()


# ----------------------------------------------------------------- the API, by its own description
@pytest.fixture(scope="module")
def service() -> LocalService:
    limits = replace(LIMITS, max_request_s=3.0)
    return LocalService(Runtime("cpu", limits=limits), limits=limits)


@pytest.fixture(scope="module")
def client(service, tmp_path_factory) -> Iterator[httpx.Client]:
    queue = JobQueue(tmp_path_factory.mktemp("jobs"), kinds={})
    with served(api_app(service, queue)) as url, httpx.Client(base_url=f"{url}/api/gradio_api", timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def described(client) -> dict[str, list[dict[str, Any]]]:
    """Parameters of every endpoint, as the API itself lists them."""
    return {
        name.removeprefix("/"): endpoint["parameters"]
        for name, endpoint in client.get("/info").json()["named_endpoints"].items()
    }


def check_answer(response: httpx.Response) -> None:
    assert response.status_code in (200, *REFUSED), (response.status_code, response.text[:400])
    assert "Traceback" not in response.text
    if response.status_code != 200:
        told = response.json()
        assert_sentence(told["error"] if "error" in told else str(told["detail"])[:500])


OTHERS: dict[str, dict[str, Any]] = {
    "put_image": {"image": "AAAA"},
    "put_audio": {"audio": "AAAA"},
    "run": {"request": {"kind": "support", "n": 4}},
    "job_status": {"job": "0123456789ab"},
    "job_result": {"job": "0123456789ab"},
    "cancel_job": {"job": "0123456789ab"},
    "submit_job": {"kind": "evaluate", "args": {"model": "digits-gap", "n": 1}},
}
CALLS = {**{name: arguments for name, (arguments, _) in CASES.items()}, **OTHERS}
calls = st.sampled_from(list(CALLS)).flatmap(lambda name: st.tuples(st.just(name), altered(CALLS[name], 2)))


@fuzz(150, call=calls)
def test_any_arguments_of_any_endpoint(client, described, call):
    name, given = call
    arguments = [given.get(p["parameter_name"], p.get("parameter_default")) for p in described[name]]
    check_answer(client.post(f"/run/{name}", content=_json({"data": arguments}), headers=_AS_JSON))


@fuzz(40, call=calls)
def test_named_arguments_as_openapi_describes_them(client, call):
    name, given = call
    response = client.post(f"/call/v2/{name}", content=_json(given), headers=_AS_JSON)
    check_answer(response)
    if response.status_code == 200:
        answer = client.get(f"/call/{name}/{response.json()['event_id']}")
        assert answer.status_code == 200 and "Traceback" not in answer.text
        assert answer.text.startswith(("event: complete", "event: error", "event: heartbeat", "event: generating"))
        assert "fault" not in answer.text


_bodies = json_values | st.fixed_dictionaries(
    {"data": json_values}, optional={"session_hash": json_values, "fn_index": json_values}
)


@fuzz(
    80,
    name=st.sampled_from([*CALLS, "nothing", "../x"]),
    body=_bodies.map(lambda value: _json(value)) | st.binary(max_size=60),
)
def test_any_body_of_a_call(client, name, body):
    check_answer(client.post(f"/run/{name}", content=body, headers=_AS_JSON))


_AS_JSON = {"content-type": "application/json"}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


# ----------------------------------------------------------------- pages of the real process
KEYS = (
    "model",
    "example",
    "methods",
    "baseline",
    "method",
    "seed",
    "target",
    "n_steps",
    "data",
    "rows",
    "grid",
    "text",
    "tab",
)
page_queries = st.dictionaries(
    st.sampled_from(KEYS) | texts,
    st.sampled_from(("digits-fc", "ig,rise", "0", *EVIL_TEXTS)) | st.text(max_size=10),
    max_size=4,
)


@fuzz(12, page=st.sampled_from([*PAGES, "nothing"]), query=page_queries)
def test_any_query_of_a_page_is_drawn_without_a_fault(app_url, page, query):
    text = "&".join(f"{quote(k, errors='replace')}={quote(v, errors='replace')}" for k, v in query.items())[:4000]
    with page_visitor(app_url) as visitor:
        visitor.open(page, text)
        assert not visitor.faults, (page, query, visitor.faults)


@functools.cache
def a_message() -> bytes:
    message = BackMsg()
    message.rerun_script.page_name, message.rerun_script.query_string = "models", "a=b"
    widget = message.rerun_script.widget_states.widgets.add()
    widget.id, widget.string_value = "$$ID-0-models.key", "x"
    return message.SerializeToString()


@fuzz(20, messages=st.lists(damaged(a_message()) | st.binary(max_size=40), min_size=1, max_size=3))
def test_any_message_ends_one_session_at_most(app_url, messages):
    with connect(f"ws{app_url[4:]}/_stcore/stream", subprotocols=["streamlit"], max_size=None) as socket:
        try:
            for message in messages:
                socket.send(message)
            ForwardMsg.FromString(socket.recv(timeout=0.05))
        except (TimeoutError, ConnectionClosed):
            pass
    assert httpx.get(f"{app_url}/_stcore/health", timeout=60).status_code == 200
