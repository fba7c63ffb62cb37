"""What every request passes before it reaches a door: limits on all that it brings, who may come in, safe headers.

Pure ASGI around the whole app, HTTP and websockets alike. What is refused is answered with the right status and one
sentence; what goes out says what a browser may do with it.
"""

import asyncio
import base64
import hashlib
import html
import json
import logging
import re
import traceback
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.formparsers import MultiPartParser

from backend.entrance import CALLER, LOGIN, Entrance, Verdict, client, header, login_page, own_address, read_form
from backend.errors import BadInput
from backend.limits import LIMITS, MIB, Limits

log = logging.getLogger("prism")

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
_HEALTH = "/_stcore/health"  # tells nothing, so that a watchdog needs no password
_UPLOADS = "/_stcore/upload_file/"
_FILES = ("/media/", "/static/", "/_stcore/", "/component/")  # addresses of files, not of pages
_MAX_FORM_BYTES = 4096  # of the login form
# Doors of Gradio that this API has no use for: they write a visitor's bytes to the disk, or fetch from elsewhere.
_CLOSED = re.compile(r"^/api(/gradio_api)?/(upload|upload_progress|proxy=|file[=/]|stream/|component_server|deep_link)")

_SHARED_POLICY = {
    "default-src": "'self'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'self'",
}
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), "
    "microphone=(), payment=(), usb=(), browsing-topics=()",
}
_HSTS = "max-age=31536000"


def policy(**directives: str) -> str:
    """A Content-Security-Policy: what all doors share, and the directives of one (`script_src="'self'"`)."""
    own = {name.replace("_", "-"): value for name, value in directives.items()}
    return "; ".join(f"{name} {value}" for name, value in (_SHARED_POLICY | own).items())


def script_hashes(page: str) -> str:
    """The sources that allow exactly the scripts that stand in an HTML page.

    >>> script_hashes("<script>1</script>")
    "'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='"
    """
    texts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{value}'" for value in hashes)


# Streamlit draws with styles of its own making, loads components from blobs, and plots in workers.
PAGES_POLICY = policy(script_src="'self' blob: {hashes}", style_src="'self' 'unsafe-inline'", worker_src="'self' blob:")
# Gradio's page carries its configuration as scripts in it, which change with every version.
API_POLICY = policy(script_src="'self' 'unsafe-inline'", style_src="'self' 'unsafe-inline'")
_OWN_POLICY = policy(default_src="'none'", style_src="'unsafe-inline'")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    sentence: str
    headers: tuple[tuple[str, str], ...] = ()


class Guard:
    """The middleware: `app.add_middleware(Guard, ...)`, added last, stands before all others."""

    def __init__(
        self,
        app: App,
        limits: Limits = LIMITS,
        entrance: Entrance | None = None,
        pages: Collection[str] = (),
        index_html: str = "",
    ) -> None:
        """
        Args:
            pages: addresses of the pages, as "models"; another that would get the frame is answered 404. Empty: all.
            index_html: the page that the front end is served in, for the scripts that stand in it.
        """
        self.app = app
        self.limits = limits
        self.entrance = entrance or Entrance()
        self.pages = frozenset(pages)
        self.pages_policy = PAGES_POLICY.replace("{hashes}", script_hashes(index_html))
        self.n_sessions = 0  # websockets open now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._connect(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # ------------------------------------------------------------- HTTP
    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(self, scope, receive, send)
        refusal = self._look_at(scope)
        if refusal is not None:
            return await exchange.refuse(refusal)
        if scope["path"] == LOGIN and self.entrance.password:
            return await self._log_in(scope, exchange)
        if scope["path"] != _HEALTH:
            verdict = self.entrance.judge(scope)
            if not verdict.is_admitted:
                return await self._turn_away(scope, exchange, verdict)
        try:
            await self.app({**scope, CALLER: self.entrance.name_of(scope)}, exchange.receive, exchange.send)
        except Exception as error:
            if not exchange.is_refused:
                await exchange.fail(error)

    def _look_at(self, scope: Scope) -> Refusal | None:
        """What can be refused before a byte of the body is read."""
        limits, path = self.limits, scope["path"]
        if scope["method"] not in _METHODS:
            return Refusal(405, f"the method is not known here; expected one of {', '.join(_METHODS)}")
        if len(scope["query_string"]) > limits.max_query_characters:
            return Refusal(414, f"the address is too long; up to {limits.max_query_characters} characters are read")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > limits.max_header_bytes:
            return Refusal(431, f"the headers are too long; up to {limits.max_header_bytes} bytes are read")
        if not path.isprintable() or "\\" in path or path.startswith("//") or ".." in path.split("/"):
            return Refusal(400, "the address is none of Prism's")
        if _CLOSED.match(path):
            return Refusal(404, "there is no such address; pictures are sent as base64 text")
        length = header(scope, "content-length")
        if length and not (length.isascii() and length.isdigit()):
            return Refusal(400, "Content-Length is not a number")
        if length and int(length[:20]) > self.most_bytes(path):
            return self.too_large(path)
        return None

    def most_bytes(self, path: str) -> int:
        """How large a body may be that is sent to this address."""
        if _is_api(path):
            return self.limits.max_api_body_bytes
        if path == LOGIN:
            return _MAX_FORM_BYTES
        return self.limits.max_page_body_bytes if _UPLOADS in path else self.limits.max_body_bytes

    def too_large(self, path: str) -> Refusal:
        most = self.most_bytes(path)
        words = f"{most / MIB:.0f} MB" if most >= MIB else f"{most} bytes"
        return Refusal(413, f"the body is too large; up to {words} are read", (("connection", "close"),))

    async def _turn_away(self, scope: Scope, exchange: "_Exchange", verdict: Verdict) -> None:
        if verdict.wait_s > 0:
            wait = str(int(verdict.wait_s) + 1)
            return await exchange.refuse(Refusal(429, verdict.sentence, (("retry-after", wait),)))
        if self.entrance.password and scope["method"] == "GET" and "text/html" in header(scope, "accept"):
            return await exchange.respond(401, login_page(_address(scope)))
        wanted = (("www-authenticate", 'Bearer realm="Prism"'),) if self.entrance.password else ()
        await exchange.refuse(Refusal(401 if self.entrance.password else 403, verdict.sentence, wanted))

    async def _log_in(self, scope: Scope, exchange: "_Exchange") -> None:
        """The form's own address: GET shows it, POST with the password opens."""
        if scope["method"] != "POST":
            return await exchange.respond(200, login_page("/"))
        body = await exchange.read()
        if body is None:
            return None
        password, next_address = read_form(body)
        verdict = self.entrance.try_password(password, client(scope))
        if verdict.is_admitted:
            cookie = self.entrance.cookie(_is_https(scope))
            return await exchange.respond(303, "", (("location", next_address), ("set-cookie", cookie)))
        status = 429 if verdict.wait_s > 0 else 401
        await exchange.respond(status, login_page(next_address, f"{verdict.sentence.capitalize()}."))

    def headers_for(self, scope: Scope) -> Iterable[tuple[str, str]]:
        """What every answer says to the browser."""
        yield from _HEADERS.items()
        yield "content-security-policy", API_POLICY if _is_api(scope["path"]) else self.pages_policy
        if _is_https(scope):
            yield "strict-transport-security", _HSTS

    def is_unknown_page(self, scope: Scope) -> bool:
        """Would the front end answer this address with its frame, although there is no such page?"""
        path = scope["path"]
        is_page = not _is_api(path) and not path.startswith(_FILES)
        return bool(self.pages) and is_page and path.strip("/") not in ("", *self.pages)

    # ------------------------------------------------------------- websockets
    async def _connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._look_at({**scope, "method": "GET"})
        if refusal is None and not (verdict := self.entrance.judge(scope)).is_admitted:
            refusal = Refusal(429 if verdict.wait_s > 0 else 401, verdict.sentence)
        if refusal is None and self.n_sessions >= self.limits.max_sessions:
            refusal = Refusal(503, "too many people are connected; try again later", (("retry-after", "30"),))
        if refusal is not None:
            return await _refuse_socket(scope, receive, send, refusal)
        self.n_sessions += 1
        try:
            await self.app(scope, *self._bounded(receive, send))
        finally:
            self.n_sessions -= 1

    def _bounded(self, receive: Receive, send: Send) -> tuple[Receive, Send]:
        """The two ends of a websocket; a message that is too large closes it."""
        is_closed = False

        async def bounded_receive() -> Message:
            nonlocal is_closed
            message = await receive()
            if message["type"] != "websocket.receive":
                return message
            n_bytes = len(message.get("bytes") or b"") or len((message.get("text") or "").encode())
            if n_bytes <= self.limits.max_message_bytes:
                return message
            is_closed = True
            reason = f"messages up to {self.limits.max_message_bytes / MIB:.0f} MB are read"
            await send({"type": "websocket.close", "code": 1009, "reason": reason})
            return {"type": "websocket.disconnect", "code": 1009}

        async def bounded_send(message: Message) -> None:
            if not is_closed:
                await send(message)

        return bounded_receive, bounded_send


def protect(app: Any, pages: Collection[str], index_html: str) -> None:
    """Put the guard before all of an app (Starlette's or FastAPI's), as the environment says who may come in.

    Settings that cannot be meant end the process at its start, with one sentence. Uploads are held in memory whole:
    Starlette's parser would put larger ones on the disk, where nothing of a patient may lie.
    """
    MultiPartParser.spool_max_size = LIMITS.max_page_body_bytes
    try:
        entrance = Entrance.from_environment()
    except BadInput as error:
        raise SystemExit(f"prism: {error.sentence}") from None
    app.add_middleware(Guard, entrance=entrance, pages=pages, index_html=index_html)


class _Exchange:
    """One HTTP request and its answer: counts what comes in, adds headers to what goes out."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._scope, self._receive, self._send = guard, scope, receive, send
        self._n_bytes = 0
        self._is_whole = False
        self._deadline: float | None = None
        self._has_begun = False  # the answer
        self.is_refused = False

    # ------------------------------------------------------------- in
    async def receive(self) -> Message:
        """The next piece of the body. One too many, or one too late, ends the exchange."""
        if self.is_refused:
            return {"type": "http.disconnect"}
        if self._is_whole:
            return await self._receive()
        limits, now = self._guard.limits, asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + limits.max_upload_s
        try:
            patience_s = max(0.0, min(limits.max_upload_pause_s, self._deadline - now))
            message = await asyncio.wait_for(self._receive(), patience_s)
        except TimeoutError:
            return await self._end(Refusal(408, "the body came too slowly; send it again", (("connection", "close"),)))
        if message["type"] == "http.request":
            self._n_bytes += len(message.get("body", b""))
            self._is_whole = not message.get("more_body", False)
            if self._n_bytes > self._guard.most_bytes(self._scope["path"]):
                return await self._end(self._guard.too_large(self._scope["path"]))
        return message

    async def read(self) -> bytes | None:
        """The whole body; None: it was refused, or the sender left."""
        parts = []
        while not self._is_whole:
            message = await self.receive()
            if message["type"] != "http.request":
                return None
            parts.append(message.get("body", b""))
        return b"".join(parts)

    async def _end(self, refusal: Refusal) -> Message:
        await self.refuse(refusal)
        return {"type": "http.disconnect"}

    # ------------------------------------------------------------- out
    async def send(self, message: Message) -> None:
        """Pass the app's answer on, unless the guard has answered already."""
        if self.is_refused:
            return
        if message["type"] == "http.response.start":
            self._has_begun = True
            given = {name.lower() for name, _ in message["headers"]}
            added = [
                (n.encode(), v.encode()) for n, v in self._guard.headers_for(self._scope) if n.encode() not in given
            ]
            message = {**message, "headers": [*message["headers"], *added]}
            is_frame = (
                message["status"] == 200 and dict(message["headers"]).get(b"content-type", b"")[:9] == b"text/html"
            )
            if is_frame and self._guard.is_unknown_page(self._scope):
                message["status"] = 404  # the frame itself says that there is no such page
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a sentence, as JSON to programs and as a small page to people."""
        self.is_refused = True
        if self._has_begun:
            return  # too late for a status; the connection ends
        if "text/html" in header(self._scope, "accept") and not _is_api(self._scope["path"]):
            text = f"<!doctype html><meta charset='utf-8'><title>Prism</title><p>{html.escape(refusal.sentence)}</p>"
            await self.respond(refusal.status, text, refusal.headers)
        else:
            body = json.dumps({"error": refusal.sentence, "title": "Prism"})
            await self.respond(refusal.status, body, refusal.headers, "application/json")

    async def respond(
        self, status: int, body: str, headers: Iterable[tuple[str, str]] = (), kind: str = "text/html; charset=utf-8"
    ) -> None:
        data = body.encode()
        own = {
            **dict(self._guard.headers_for(self._scope)),
            "content-security-policy": _OWN_POLICY,
            "content-type": kind,
            "content-length": str(len(data)),
            "cache-control": "no-store",
            **dict(headers),
        }
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in own.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})
        await self._send({"type": "http.response.body", "body": b"" if self._scope["method"] == "HEAD" else data})

    async def fail(self, error: Exception) -> None:
        """A fault of ours: an id for the log, which tells where it happened but none of the values."""
        fault = uuid.uuid4().hex[:8]
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("fault %s: %s\n%s", fault, type(error).__name__, where)
        await self.refuse(Refusal(500, f"something went wrong on the server's side (fault {fault})"))


async def _refuse_socket(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer the handshake itself, where the server can; else close before it is accepted, which answers 403."""
    await receive()  # websocket.connect
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        return await send({"type": "websocket.close", "code": 1008, "reason": refusal.sentence})
    body = json.dumps({"error": refusal.sentence, "title": "Prism"}).encode()
    pairs = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    pairs += [(name.encode(), value.encode()) for name, value in refusal.headers]
    await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "websocket.http.response.body", "body": body})


def _is_api(path: str) -> bool:
    return path == "/api" or path.startswith("/api/")


def _is_https(scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss")


def _address(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return own_address(scope["path"] + (f"?{query}" if query else ""))
