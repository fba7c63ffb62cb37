"""The guard: sizes, slowness, addresses, who may come in, and what every answer says to a browser."""

import asyncio
import base64
import re
import socket
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import pytest
from gradio_client import Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from backend import guard
from backend.entrance import COOKIE, Entrance, Tries
from backend.errors import BadInput
from backend.guard import Guard
from backend.limits import MIB, Limits
from tests.conftest import running_app
from tests.served import served
from tests.visiting import settle

T = TypeVar("T")

LIMITS = Limits(
    max_api_body_bytes=1000, max_body_bytes=100, max_upload_pause_s=0.2, max_upload_s=0.5, max_message_bytes=50
)


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"bytes": len(await request.body())})


async def frame(_: Request) -> HTMLResponse:
    return HTMLResponse("<!doctype html>the frame")


async def fall(request: Request) -> HTMLResponse:
    raise ValueError(request.query_params["name"])


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(str(len(await socket.receive_text())))
    except WebSocketDisconnect:
        pass


def guarded(limits: Limits = LIMITS, **settings) -> Starlette:
    app = Starlette(
        routes=[
            Mount("/api", routes=[Route("/echo", echo, methods=["POST"]), Route("/fall", fall)]),
            Route("/post", echo, methods=["POST"]),
            WebSocketRoute("/talk", talk),
            Route("/{path:path}", frame),
        ]
    )
    app.add_middleware(Guard, limits=limits, pages={"models"}, **settings)
    return app


@pytest.fixture
def visitor_of_all() -> TestClient:
    return TestClient(guarded())


def sentence(response: httpx.Response) -> str:
    assert response.json()["title"] == "Prism"
    return response.json()["error"]


# ----------------------------------------------------------------- limits
def test_a_body_within_its_limit_arrives(visitor_of_all):
    assert visitor_of_all.post("/api/echo", content=b"x" * 1000).json() == {"bytes": 1000}


def test_a_body_that_says_it_is_too_large_is_refused(visitor_of_all):
    response = visitor_of_all.post("/api/echo", content=b"x" * 1001)
    assert response.status_code == 413 and sentence(response) == "the body is too large; up to 1000 bytes are read"
    assert visitor_of_all.post("/post", content=b"x" * 101).status_code == 413


def test_a_body_that_does_not_say_its_size_is_counted(visitor_of_all):
    response = visitor_of_all.post("/api/echo", content=iter([b"x" * 600] * 2))
    assert response.status_code == 413 and "too large" in sentence(response)


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a thread of its own: after a browser test there is a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def ask(path: str, query: str = "", method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
    """The status and headers of an answer to exactly this path, decoded as a server hands it on."""
    answers: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        answers.append(message)

    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
        "client": ("10.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    run_apart(guarded()(scope, receive, send))
    return answers[0]["status"], {name.decode(): value.decode() for name, value in answers[0]["headers"]}


@pytest.mark.parametrize(
    ("status", "path", "others"),
    [
        (414, "/models", {"query": "x" * 8001}),
        (431, "/models", {"x_long": "x" * 32_001}),
        (400, "/models", {"content_length": "ten"}),
        (405, "/models", {"method": "TRACE"}),
        (400, "/models/../secret", {}),
        (400, "/static/..\\..\\secret", {}),
        (400, "/models\0.html", {}),
        (400, "/models\r\nSet-Cookie: a=b", {}),
        (400, "//evil.example/x", {}),
        (404, "/api/gradio_api/upload", {"method": "POST"}),
        (404, "/api/gradio_api/file=/etc/passwd", {}),
        (404, "/api/gradio_api/proxy=https://evil.example", {}),
        (404, "/nothing", {}),
        (200, "/models", {}),
        (200, "/media/a-report.html", {}),  # a file to download, of the same type as the frame
        (200, "/", {}),
    ],
)
def test_addresses_and_headers(status, path, others):
    found, headers = ask(path, **others)
    assert found == status and headers["x-content-type-options"] == "nosniff"


def send_slowly(pieces: list[tuple[float, bytes]]) -> tuple[int, float]:
    """Post pieces after seconds of silence each, the last one left open; status, and seconds until it came."""

    async def post() -> tuple[int, float]:
        waiting = iter(pieces)
        answers: list[dict] = []

        async def receive() -> dict:
            pause_s, body = next(waiting, (60.0, b""))
            await asyncio.sleep(pause_s)
            return {"type": "http.request", "body": body, "more_body": True}

        async def send(message: dict) -> None:
            answers.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/api/echo", "query_string": b"", "headers": [],
            "client": ("10.0.0.1", 1), "scheme": "http",
        }  # fmt: skip
        started = time.perf_counter()
        await guarded()(scope, receive, send)
        return answers[0]["status"], time.perf_counter() - started

    return run_apart(post())


def test_a_body_that_stops_is_given_up():
    status, elapsed_s = send_slowly([(0.0, b"x")])
    assert status == 408 and 0.1 < elapsed_s < 2.0


def test_a_body_that_trickles_is_given_up():
    status, elapsed_s = send_slowly([(0.1, b"x")] * 100)
    assert status == 408 and 0.4 < elapsed_s < 3.0


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """A bare connection to a real server behind the guard."""
    with served(guarded()) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, timeout=10) as opened:
            yield opened


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 10\r\n\r\nx", b"408"),  # and then nothing
        (b"Content-Length: 5000\r\n\r\nx", b"413"),
        (b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n", b"413"),
        (b"Transfer-Encoding: chunked\r\n\r\nno number\r\n", b"400"),
        (b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n", b"400"),
        (b"X: " + b"x" * 200_000 + b"\r\n\r\n", b"4"),  # the server's own limit, or the guard's
    ],
    ids=["stops", "says too much", "sends too much", "no number", "two lengths", "long header"],
)
def test_bodies_over_a_real_connection(connection, head, status):
    connection.sendall(b"POST /api/echo HTTP/1.1\r\nHost: x\r\n" + head)
    answer = connection.recv(100)
    assert answer.startswith(b"HTTP/1.1 " + status), answer


def test_faults_are_one_sentence_and_no_value_is_logged(visitor_of_all, caplog):
    response = visitor_of_all.get("/api/fall?name=Jane")
    assert response.status_code == 500 and re.search(r"fault \w{8}", sentence(response))
    assert "ValueError" in caplog.text and "Jane" not in caplog.text


def test_uploads_never_reach_the_disk():
    seen = []

    async def take(request: Request) -> JSONResponse:
        form = await request.form()
        seen.append(form["file"].file._rolled)
        return JSONResponse({})

    app = Starlette(routes=[Route("/_stcore/upload_file/x", take, methods=["PUT"])])
    guard.protect(app, pages=(), index_html="")
    TestClient(app).put("/_stcore/upload_file/x", files={"file": b"x" * 3 * MIB})
    assert seen == [False]


# ----------------------------------------------------------------- websockets
def test_large_messages_close_a_websocket(visitor_of_all):
    with visitor_of_all.websocket_connect("/talk") as socket:
        socket.send_text("x" * 50)
        assert socket.receive_text() == "50"
        socket.send_text("x" * 51)
        with pytest.raises(WebSocketDisconnect) as caught:
            socket.receive_text()
    assert caught.value.code == 1009


def test_so_many_people_may_be_connected():
    visitor = TestClient(guarded(replace(LIMITS, max_sessions=1)))
    with visitor.websocket_connect("/talk"):
        with pytest.raises(Exception) as caught, visitor.websocket_connect("/talk"):
            pass
        assert caught.value.status_code == 503
    with visitor.websocket_connect("/talk") as socket:  # the first has left
        socket.send_text("x")
        assert socket.receive_text() == "1"


# ----------------------------------------------------------------- who may come in
SESAME = "sésame ouvre-toi"
AS_PERSON = {"accept": "text/html"}


@pytest.fixture
def closed() -> TestClient:
    return TestClient(guarded(entrance=Entrance(SESAME)), follow_redirects=False)


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}


def test_a_browser_is_asked_and_then_carries_a_cookie(closed):
    asked = closed.get("/models?a=1", headers=AS_PERSON)
    assert asked.status_code == 401 and 'value="/models?a=1"' in asked.text and "<script" not in asked.text
    opened = closed.post("/login", data={"password": SESAME, "next": "/models?a=1"})
    assert opened.status_code == 303 and opened.headers["location"] == "/models?a=1"
    cookie = opened.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and SESAME not in cookie
    assert closed.get("/models", headers=AS_PERSON).text.endswith("the frame")
    with closed.websocket_connect("/talk") as socket:
        socket.send_text("x")
        assert socket.receive_text() == "1"


def test_programs_send_the_password(closed):
    refused = closed.post("/api/echo", content=b"x")
    assert refused.status_code == 401 and "Bearer" in refused.headers["www-authenticate"]
    assert "a password is needed" in sentence(refused)
    assert closed.post("/api/echo", content=b"x", headers=basic(SESAME)).status_code == 200
    token = {"authorization": f"Bearer {SESAME}".encode()}
    assert closed.post("/api/echo", content=b"x", headers=token).status_code == 200


def test_a_websocket_without_password_is_not_opened(closed):
    with pytest.raises(Exception) as caught, closed.websocket_connect("/talk"):
        pass
    assert caught.value.status_code == 401


def test_the_health_address_is_open_to_watchdogs(closed):
    assert closed.get("/_stcore/health").status_code in (200, 404)


@pytest.mark.parametrize("value", ["1.x", "99999999999.00", "", "99999999999." + "0" * 64, "é.é"])
def test_forged_cookies_do_not_open(closed, value):
    assert closed.get("/models", headers={"cookie": f"{COOKIE}={value}".encode()}).status_code == 401


def test_a_cookie_ends(closed, monkeypatch):
    closed.post("/login", data={"password": SESAME})
    assert closed.get("/models").status_code == 200
    now = time.time()
    monkeypatch.setattr("backend.entrance.time.time", lambda: now + 13 * 3600)
    cookie = f"{COOKIE}={closed.cookies[COOKIE]}"
    closed.cookies.clear()
    assert closed.get("/models", headers={"cookie": cookie}).status_code == 401


def test_failed_tries_are_slowed_down(closed):
    assert closed.post("/login", data={"password": "open"}).status_code == 401
    again = closed.post("/login", data={"password": SESAME})  # the right one, but too soon
    assert again.status_code == 429 and "wait" in again.text
    refused = closed.post("/api/echo", headers=basic(SESAME))
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1


def test_each_failed_try_doubles_the_wait_up_to_a_minute():
    now = 0.0
    tries = Tries(clock=lambda: now)
    waits = []
    for _ in range(10):
        tries.fail("2001:db8::1")
        waits.append(tries.wait_s("2001:db8::ffff"))  # a neighbour
        now += 60.0
    assert waits == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert tries.wait_s("10.0.0.1") == 0.0


@pytest.mark.parametrize(
    "address", ["//evil.example", "https://evil.example", "/\\evil.example", "/x\r\nSet-Cookie: a=b"]
)
def test_the_form_leads_nowhere_else(closed, address):
    opened = closed.post("/login", data={"password": SESAME, "next": address})
    assert opened.headers["location"] == "/" and "a=b" not in opened.headers["set-cookie"]


def test_html_in_the_address_is_text_in_the_form(closed):
    asked = closed.get('/models?"><script>alert(1)</script>', headers=AS_PERSON)
    assert "<script" not in asked.text


def behind(header: str, proxies: str, peer: tuple[str, int], value: str = "ann") -> int:
    """The status for somebody whom a proxy at `peer` names."""
    environment = {"PRISM_AUTH_HEADER": header, "PRISM_TRUSTED_PROXIES": proxies}
    app = guarded(entrance=Entrance.from_environment(environment))
    return TestClient(app, client=peer).get("/models", headers={"X-Forwarded-User": value} if value else {}).status_code


def test_a_proxys_header_is_believed_from_trusted_addresses_only():
    name = "X-Forwarded-User"
    assert behind(name, "10.0.0.0/8", ("10.1.2.3", 5000)) == 200
    assert behind(name, "10.0.0.0/8", ("10.1.2.3", 5000), value="") == 403
    assert behind(name, "10.0.0.0/8", ("192.168.0.1", 5000)) == 403
    assert behind(name, "127.0.0.1", ("203.0.113.9", 0)) == 200  # the server put the visitor's address in
    assert behind(name, "10.0.0.0/8", ("203.0.113.9", 0)) == 403  # by the word of a proxy that is not trusted here
    assert behind("X-Other", "10.0.0.0/8", ("10.1.2.3", 5000)) == 403


@pytest.mark.parametrize(
    "environment", [{"PRISM_AUTH_HEADER": "X Y"}, {"PRISM_AUTH_HEADER": "X-Y", "PRISM_TRUSTED_PROXIES": "everybody"}]
)
def test_settings_that_cannot_be_meant_are_refused(environment):
    with pytest.raises(BadInput, match=r"expected"):
        Entrance.from_environment(environment)


# ----------------------------------------------------------------- headers
def test_hsts_is_said_behind_https_only():
    assert "strict-transport-security" not in TestClient(guarded()).get("/").headers
    assert "strict-transport-security" in TestClient(guarded(), base_url="https://testserver").get("/").headers


# ----------------------------------------------------------------- the real process
@pytest.fixture(scope="module")
def closed_app(tmp_path_factory) -> Iterator[str]:
    with running_app(tmp_path_factory.mktemp("closed"), PRISM_PASSWORD="sesame") as url:
        yield url


def test_both_doors_are_closed(closed_app):
    for path in ("/", "/models", "/api/", "/api/gradio_api/info", "/api/gradio_api/mcp/schema", "/_stcore/host-config"):
        assert httpx.get(closed_app + path).status_code == 401, path
    for path in ("/_stcore/stream", "/path-attribution/_stcore/stream"):
        with pytest.raises(InvalidStatus) as caught, connect(f"ws{closed_app[4:]}{path}"):
            pass
        assert caught.value.response.status_code == 401
    client = Client(f"{closed_app}/api", verbose=False, headers={"Authorization": "Bearer sesame"})
    assert client.predict(api_name="/status")["loads"] == 0
    tools = httpx.get(f"{closed_app}/api/gradio_api/mcp/schema", auth=("me", "sesame"))
    assert tools.status_code == 200


EVIL_QUERY = "&".join(
    f"{name}=%3Cimg%20src%3Dx%20onerror%3D%22window.hacked%3D1%22%3E"
    for name in ("model", "example", "methods", "baseline")
)


@pytest.mark.browser
def test_a_person_logs_in_and_the_pages_work(visitor, closed_app):
    visitor.goto(f"{closed_app}/models")
    visitor.get_by_label("Password").fill("sesame")
    visitor.get_by_role("button", name="Open").click()
    visitor.get_by_role("heading", name="Models", exact=True).wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("path", ["", f"path-attribution?{EVIL_QUERY}", "api/"], ids=["overview", "evil query", "api"])
def test_pages_break_none_of_their_policies_and_call_nobody(visitor, app_url, path):
    """No message of a refused script, style or address; no request to another machine: no telemetry."""
    said, hosts = [], set()
    visitor.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    visitor.on("request", lambda request: hosts.add(httpx.URL(request.url)))
    visitor.goto(f"{app_url}/{path}")
    if path == "api/":
        visitor.get_by_role("heading", name="Prism API").wait_for()
    else:
        visitor.get_by_role("heading", level=1).wait_for()
        settle(visitor)
    assert visitor.evaluate("window.hacked") is None
    # the front end looks for its server below the page's own address first
    assert not [text for text in said if "404" not in text]
    assert {url.netloc for url in hosts if url.scheme.startswith(("http", "ws"))} == {httpx.URL(app_url).netloc}


def test_answers_of_both_doors_carry_the_headers(app_url):
    for path in ("/", "/api/", "/api/gradio_api/info", "/_stcore/health", "/static/nothing.js"):
        headers = httpx.get(app_url + path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert "unsafe-eval" not in headers["content-security-policy"]
    assert (
        "'unsafe-inline'"
        not in re.search(r"script-src [^;]*", httpx.get(app_url).headers["content-security-policy"])[0]
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/models", 200),
        ("/static/%2e%2e/%2e%2e/app.py", 400),
        ("/static/..%2f..%2fapp.py", 400),
        ("/_stcore/component/x/..%2f..%2fapp.py", 400),
        ("/media/..%2fapp.py", 400),
        ("/api/gradio_api/file=app.py", 404),
        ("/?" + "x" * 9000, 414),
    ],
)
def test_no_address_leads_out(app_url, path, status):
    url = httpx.URL(app_url).copy_with(raw_path=path.encode())
    response = httpx.get(url)
    assert response.status_code == status and "default_queue" not in response.text


def test_malformed_calls_are_refused_with_a_4xx(app_url):
    address = f"{app_url}/api/gradio_api/run/attribute"
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"data": 5}',
        b'{"data": []}',
        b"\xff\xfe",
        b'{"data": [' + b"[" * 10_000,
    ):
        response = httpx.post(address, content=content, headers={"content-type": "application/json"})
        assert 400 <= response.status_code < 500, (content[:20], response.status_code, response.text[:200])
        assert "Traceback" not in response.text


def test_malformed_messages_end_one_session_and_no_other(app_url):
    for message in (b"\xff" * 100, b"", "text"):
        with connect(f"ws{app_url[4:]}/_stcore/stream", subprotocols=["streamlit"]) as socket:
            socket.send(message)
    assert httpx.get(f"{app_url}/_stcore/health").status_code == 200
