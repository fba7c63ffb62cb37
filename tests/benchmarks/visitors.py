"""Visitors of a running Prism without a browser: pages over their websocket, and questions over the API.

The server cannot tell them from people: the same script runs, the same messages go out, the same state is kept. They
cost this side next to nothing, so that a benchmark measures the server.
"""

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import ClientConnection, connect

from backend.catalog import FAMILIES
from backend.images import encode_png

PAGES = ("", *(family.url_path for family in FAMILIES.values()), "models")
ANSWER_S = 180.0


@dataclass
class PageVisitor:
    """One browser session: a websocket, on which pages are asked for as the front end asks."""

    socket: ClientConnection
    faults: list[str] = field(default_factory=list)  # what pages said of faults of their own

    def open(self, page: str, query: str = "") -> int:
        """Go to a page and wait until its script has run to its end; returns the bytes that came."""
        asked = BackMsg()
        asked.rerun_script.page_name, asked.rerun_script.query_string = page, query
        self.socket.send(asked.SerializeToString())
        n_bytes = 0
        while True:
            data = self.socket.recv(timeout=ANSWER_S)
            n_bytes += len(data)
            message = ForwardMsg.FromString(data)
            self._look_for_faults(message)
            if message.WhichOneof("type") != "script_finished":
                continue
            if message.script_finished == ForwardMsg.ScriptFinishedStatus.FINISHED_SUCCESSFULLY:
                return n_bytes
            if message.script_finished == ForwardMsg.ScriptFinishedStatus.FINISHED_WITH_COMPILE_ERROR:
                raise RuntimeError(f"the script of page {page!r} did not run")

    def _look_for_faults(self, message: ForwardMsg) -> None:
        element = message.delta.new_element
        if element.WhichOneof("type") == "exception":
            self.faults.append(f"{element.exception.type}: {element.exception.message}")
        elif "went wrong on our side" in element.alert.body:
            self.faults.append(element.alert.body)


@contextlib.contextmanager
def page_visitor(url: str) -> Iterator[PageVisitor]:
    """Somebody comes, and leaves at the end."""
    address = f"ws{url.removeprefix('http')}/_stcore/stream"
    with connect(address, subprotocols=["streamlit"], max_size=None, open_timeout=60) as socket:
        yield PageVisitor(socket)


def post(client: httpx.Client, endpoint: str, *arguments: object) -> httpx.Response:
    """One call of the API over plain HTTP."""
    return client.post(f"/api/gradio_api/run/{endpoint}", json={"data": list(arguments)}, timeout=ANSWER_S)


def picture(seed: int, side: int = 28) -> bytes:
    """A picture that nobody has sent before, as PNG: a bright stroke on noise."""
    generator = np.random.default_rng(seed)
    pixels = generator.random((side, side, 1)) * 0.2
    at = int(generator.integers(side // 4, side // 2))
    pixels[side // 6 : -side // 6, at : at + side // 7] = 1.0
    return encode_png(pixels)


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def server_process(url: str) -> psutil.Process:
    """The process that listens at this address, among those that this one started."""
    port = httpx.URL(url).port
    for process in psutil.Process().children(recursive=True):
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections()):
            return process
    raise RuntimeError("the server's process was not found")


def resident_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20
