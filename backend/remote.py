"""Another Prism as engine: the same calls as `LocalService` and `JobQueue`, over the wire through `gradio_client`.

`PRISM_BACKEND_URL=http://server:8501/api streamlit run app.py` makes a laptop's pages use a GPU server. Every call that
may be repeated is, with growing pauses; what the server has forgotten (a restart) is put in again. While the server is
away, what was known of it last is told, and every request ends in one sentence.
"""

import concurrent.futures
import contextlib
import importlib
import os
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio_client is imported

import httpx
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.exceptions import AppError, AuthenticationError
from gradio_client.utils import QueueError, TooManyRequestsError

from backend import images, wire
from backend.catalog import MODELS, ModelSpec
from backend.contracts import OnStep, Request, Result, Step, digest, request_to_json
from backend.errors import BadInput, Busy, Cancelled, NotAvailable, PrismError
from backend.files import data_folder
from backend.jobs import ENDED, JobStatus
from backend.limits import LIMITS, MIB
from backend.service import AudioInfo, EngineStatus, ImageInfo, ModelStatus
from backend.store import Store

PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # before each repetition
TIMEOUT = httpx.Timeout(60.0, connect=5.0, pool=5.0)  # a stream gives a sign of life every 15 s
ANSWER_S = 60.0  # how long a call that only asks or says something may take
LONG_ANSWER_S = 600.0  # a picture or a model that is checked first
POLL_S = 0.05
TELL_S = 0.2  # how often a waiting caller is heard of even if there is no news, as with `LocalService`
FRESH_S = 1.0  # how long an answer about the engine's state is good for
AGAIN_S = 3.0  # after the server was found gone, so long nobody but one asks it
PART_BYTES = 4 * MIB  # of a large file

T = TypeVar("T")


class Lost(Exception):
    """The connection broke, or nobody listens there: worth another try."""


class Connection:
    """One Gradio client for all visitors of this process; made when first needed, and anew when it broke."""

    def __init__(self, url: str, token: str = "", pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(f"PRISM_BACKEND_URL is {url!r}; expected http://HOST:PORT/api", "PRISM_BACKEND_URL")
        self.url = url
        self.pauses_s = pauses_s
        self.name = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname  # no password in it
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._failed_at: float | None = None  # the last call found nobody there
        self._gave_up_at: float | None = None  # nor did any of its repetitions
        self._is_turned_away = False  # by the server's entrance, at the last call

    # ------------------------------------------------------------- calls
    def call(self, endpoint: str, *arguments: Any, timeout_s: float = ANSWER_S, is_patient: bool = True) -> Any:
        """What an endpoint answers. It is asked again when the connection breaks, so it must bear being asked twice.

        Raises: PrismError: as the server raised it; NotAvailable: the server is gone, or too slow.
        """
        return self.repeat(lambda: self._call_once(endpoint, arguments, timeout_s), is_patient)

    def repeat(
        self, ask: Callable[[], T], is_patient: bool = True, on_wait: Callable[[int, int], None] | None = None
    ) -> T:
        """Try, and if patient try again after each pause; nobody waits long for a server that is known to be gone.

        Args: on_wait: told number and total of tries several times a second; may raise to give up.
        """
        pauses_s = self.pauses_s if is_patient else ()
        for attempt in range(len(pauses_s) + 1):
            if self._is_known_to_be_gone(is_patient):
                raise self.gone()
            try:
                found = ask()
                self._is_turned_away = False
                self._failed_at = self._gave_up_at = None
                return found
            except Lost:
                self._drop()
                self._failed_at = time.monotonic()
                if attempt == len(pauses_s) or self._gave_up_at is not None:
                    if is_patient:
                        self._gave_up_at = self._failed_at
                    raise self.gone() from None
                _pause(pauses_s[attempt], lambda n=attempt: on_wait and on_wait(n + 2, len(pauses_s) + 1))
        raise self.gone()

    def stream(self, endpoint: str, *arguments: Any) -> Iterator[Any]:
        """What a speaking endpoint says; None several times a second where it says nothing.

        Raises: Lost: the connection broke; PrismError: as the server raised it.
        """
        with self._translated():
            job = self._connect().submit(*arguments, api_name=endpoint)
            seen = 0
            while True:
                is_done, outputs = job.done(), job.outputs()
                while seen < len(outputs):
                    message, outputs[seen] = outputs[seen], None  # large ones need not be kept
                    seen += 1
                    yield message
                if is_done:
                    job.result(timeout=0)
                    return
                yield None
                time.sleep(POLL_S)

    def say(self, endpoint: str, *arguments: Any) -> None:
        """Tell the server something and do not wait; if it is gone, it need not know."""

        def tell() -> None:
            with contextlib.suppress(Exception):
                self._call_once(endpoint, arguments, ANSWER_S)

        threading.Thread(target=tell, name="prism-say", daemon=True).start()

    def upload(self, data: bytes) -> str:
        """Send a large file in parts; returns the id that the server keeps it under for a while."""
        key = uuid.uuid4().hex
        for offset in range(0, len(data), PART_BYTES):
            part = wire.encode_bytes(data[offset : offset + PART_BYTES])
            self.call("/put_part", key, offset, part, timeout_s=LONG_ANSWER_S)
        return key

    @property
    def is_gone(self) -> bool:
        """Whether the last call found nobody there."""
        return self._failed_at is not None

    def gone(self) -> Busy:
        """The sentence for a server that is away: it passes, so pages ask again when they are next drawn."""
        return Busy(
            f"the Prism server {self.name} does not answer; your inputs are kept, and the next request tries again"
        )

    def other_version(self) -> NotAvailable:
        return NotAvailable(f"the server {self.name} is no Prism of this version; update one of the two")

    # ------------------------------------------------------------- the client
    def _connect(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = Client(
                    self.url,
                    token=False,  # else a token of another service that lies on this machine would be sent along
                    verbose=False,
                    headers=self._headers,
                    download_files=False,
                    analytics_enabled=False,
                    httpx_kwargs={"timeout": TIMEOUT},
                )
            return self._client

    def _drop(self) -> None:
        with self._lock:
            self._client = None

    def _is_known_to_be_gone(self, is_patient: bool) -> bool:
        """Whether nobody answered a moment ago: those who wait for no repetition need not ask then, nor those who do
        if all repetitions were in vain. After `AGAIN_S` one caller looks again.
        """
        with self._lock:
            since = self._gave_up_at if is_patient else self._failed_at
            if since is None or time.monotonic() - since > AGAIN_S:
                if since is not None:
                    self._failed_at = time.monotonic()
                    self._gave_up_at = self._gave_up_at and self._failed_at
                return False
            return True

    def _call_once(self, endpoint: str, arguments: tuple, timeout_s: float) -> Any:
        with self._translated():
            job: Job = self._connect().submit(*arguments, api_name=endpoint)
            try:
                return job.result(timeout=timeout_s)
            except concurrent.futures.TimeoutError:
                raise NotAvailable(
                    f"the Prism server {self.name} is too slow: no answer in {timeout_s:.0f} s"
                ) from None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """What may go wrong on the way, as Prism's own errors, or as `Lost`."""
        try:
            yield
        except (PrismError, GeneratorExit, Lost):
            raise
        except AppError as error:
            raise self._error_of(error) from None
        except AuthenticationError:
            raise self._not_let_in() from None
        except httpx.HTTPStatusError as error:
            raise self._refusal_of(error.response.status_code) from None
        except (QueueError, TooManyRequestsError):
            if self._is_turned_away:
                raise self._not_let_in() from None
            raise Busy(f"the Prism server {self.name} has too much to do; try again in a moment") from None
        except (httpx.TransportError, concurrent.futures.CancelledError, ConnectionError, OSError):
            raise Lost from None
        except (ValueError, KeyError) as error:  # no Gradio there, or it stopped in the middle of a word
            if "No API found" in str(error) or "Cannot find a function" in str(error):
                raise self.other_version() from None
            raise Lost from None

    def _error_of(self, error: AppError) -> PrismError:
        found = wire.error_from_wire(getattr(error, "title", None), str(error))
        if found is not None:
            return found
        return PrismError(
            f"the Prism server {self.name} failed: {str(error).splitlines()[0][:200] or 'its log says more'}"
        )

    def _not_let_in(self) -> NotAvailable:
        self._is_turned_away = True
        if self._headers:
            return NotAvailable(
                f"the Prism server {self.name} does not take the token in PRISM_BACKEND_TOKEN; it is its PRISM_PASSWORD"
            )
        return NotAvailable(f"the Prism server {self.name} asks for a token; name it in PRISM_BACKEND_TOKEN")

    def _refusal_of(self, status: int) -> Exception:
        if status in (401, 403) or (status == 429 and self._is_turned_away):  # it slows down who tries in vain
            return self._not_let_in()
        if status == 413:
            return BadInput(f"this is more than the Prism server {self.name} takes at once")
        if status == 429:
            return Busy(f"the Prism server {self.name} has too much to do; try again in a moment")
        return Lost()


def _pause(seconds: float, tell: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        tell()
        time.sleep(min(TELL_S, left))


# ----------------------------------------------------------------- the service
@dataclass(frozen=True, slots=True)
class _Put:
    """A picture or a sound that was put in, with its bytes, so that it can be put in again."""

    info: ImageInfo | AudioInfo
    data: bytes

    @property
    def nbytes(self) -> int:
        return len(self.data)


class _Known:
    """The last answer to a question about the server's state: good for a moment, and as long as nobody answers."""

    def __init__(self, ask: Callable[[bool], Any]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answer: Any = None
        self._asked = float("-inf")

    def get(self) -> Any:
        """Raises: NotAvailable: the server is gone, and never answered."""
        with self._lock:
            if time.monotonic() - self._asked > FRESH_S:
                try:
                    self._answer = self._ask(self._answer is None)
                except NotAvailable:
                    if self._answer is None:
                        raise
                self._asked = time.monotonic()
            return self._answer

    def forget(self) -> None:
        """Something was changed: ask anew."""
        self._asked = float("-inf")


class RemoteService:
    """The engine of another Prism. Results are equal to those computed there: arrays, dtypes and manifest."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._put: Store[_Put] = Store(LIMITS.image_store_bytes)
        self._models = _Known(lambda is_patient: connection.call("/model_rows", is_patient=is_patient))
        self._status = _Known(lambda is_patient: connection.call("/status", is_patient=is_patient))

    # ------------------------------------------------------------- inputs
    def put_image(self, data: bytes) -> ImageInfo:
        """As `LocalService.put_image`. What was put in before is not sent again until a request misses it.

        While the server is gone the picture is checked here; the first request that names it sends it.
        """
        try:
            return self._put_in("/put_image", ImageInfo, data)
        except NotAvailable:
            if not self.connection.is_gone:
                raise
        info = _look_at(data)
        self._put.put(info.id, _Put(info, data))
        return info

    def put_audio(self, data: bytes) -> AudioInfo:
        """As `LocalService.put_audio`; see `put_image`."""
        return self._put_in("/put_audio", AudioInfo, data)

    def _put_in(self, endpoint: str, kind: type[ImageInfo] | type[AudioInfo], data: bytes) -> Any:
        kept = self._put.get(digest(data))
        return kept.info if kept is not None and isinstance(kept.info, kind) else self._send(endpoint, kind, data)

    def _send(self, endpoint: str, kind: type[ImageInfo] | type[AudioInfo], data: bytes) -> Any:
        body = self.connection.call(endpoint, wire.encode_bytes(data), timeout_s=LONG_ANSWER_S, is_patient=False)
        info = wire.fill(kind, body)
        self._put.put(info.id, _Put(info, data))
        return info

    def _send_again(self, request: Request) -> bool:
        """Put in again what a request names and the server has forgotten; whether there was anything."""
        kept = [put for name in wire.strings_of(request_to_json(request)) if (put := self._put.get(name)) is not None]
        for put in kept:
            is_sound = isinstance(put.info, AudioInfo)
            self._send("/put_audio" if is_sound else "/put_image", type(put.info), put.data)
        return bool(kept)

    # ------------------------------------------------------------- work
    def run(self, request: Request, on_step: OnStep = None, session: str | None = None) -> Result:
        """As `LocalService.run`: `on_step` is called in the caller's own thread, and may raise to leave."""

        def on_wait(attempt: int, attempts: int) -> None:
            if on_step is not None:
                on_step(Step(0, 0, f"{self.connection.name} does not answer; try {attempt} of {attempts}"))

        def ask() -> Result:
            return self._run_once(request, on_step, session)

        try:
            return self.connection.repeat(ask, on_wait=on_wait)
        except BadInput:
            if not self._send_again(request):
                raise
        return self.connection.repeat(ask, on_wait=on_wait)

    def _run_once(self, request: Request, on_step: OnStep, session: str | None) -> Result:
        call, step, told, is_over = uuid.uuid4().hex, Step(0, 0), 0.0, False
        try:
            messages = self.connection.stream("/run_with_progress", request_to_json(request), session or "", call)
            for message in messages:
                if message is not None and message["answer"] is not None:
                    is_over = True
                    return self._read(message["answer"])
                is_news = message is not None and message["step"] is not None
                if is_news:
                    step = wire.step_from_wire(message["step"], step.partial)
                if on_step is not None and (is_news or time.monotonic() - told > TELL_S):
                    told = time.monotonic()
                    on_step(step)
            raise Lost
        finally:
            if not is_over:
                self.connection.say("/cancel_call", call)

    def _read(self, answer: Mapping[str, Any]) -> Result:
        try:
            return wire.result_from_wire(answer)
        except (PrismError, KeyError, TypeError, ValueError):
            raise self.connection.other_version() from None

    def cancel(self, session: str) -> None:
        """Stop what this session waits for."""
        self.connection.say("/cancel", session)

    # ------------------------------------------------------------- status
    def models(self) -> list[ModelStatus]:
        """The server's list; while it is gone, as it was last."""
        found = []
        for row in self._models.get():
            spec = MODELS.get(row["key"]) if row["spec"] is None else wire.fill(ModelSpec, row["spec"])
            if spec is not None:  # else a row of another version, which this one's pages cannot show
                found.append(ModelStatus(spec, row["is_loaded"], row["nbytes"], row["digest"]))
        return found

    def status(self) -> EngineStatus:
        """The server's state; while it is gone, the sentence that says so."""
        try:
            status = wire.fill(EngineStatus, self._status.get())
        except NotAvailable as error:
            return EngineStatus(f"{self.connection.name} (no answer)", (), 0, 0, 0, 0, 0, (error.sentence,))
        if self.connection.is_gone:
            return replace(status, problems=(self.connection.gone().sentence, *status.problems))
        return status

    # ------------------------------------------------------------- models of the user's own
    def add_model(self, fields: Mapping[str, Any], weights: bytes) -> ModelSpec:
        """As `LocalService.add_model`; the weights go in parts."""
        upload = self.connection.upload(weights) if weights else ""
        try:
            row = self.connection.call("/add_model", dict(fields), upload, timeout_s=LONG_ANSWER_S, is_patient=False)
        finally:
            self._models.forget()
        return wire.fill(ModelSpec, row)

    def remove_model(self, key: str) -> None:
        try:
            self.connection.call("/remove_model", key, is_patient=False)
        finally:
            self._models.forget()


def _look_at(data: bytes) -> ImageInfo:
    """What the server would say of a picture. Raises: BadInput: it cannot be used."""
    decode = importlib.import_module("backend.dicom").decode if data[128:132] == b"DICM" else images.decode
    found = decode(data)
    return ImageInfo(found.id, found.width, found.height, found.pixels.shape[2], found.notes)


# ----------------------------------------------------------------- jobs
class RemoteJobs:
    """The queue of long work of another Prism, as `JobQueue` offers it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._list = _Known(lambda is_patient: connection.call("/list_jobs", is_patient=is_patient))
        self._results: dict[str, dict[str, Any]] = {}

    def submit(self, kind: str, args: dict[str, Any]) -> str:
        """As `JobQueue.submit`; the same work that has not ended is joined, so it may be asked twice.

        Data of the visitor's own that were kept on this machine go along.
        """
        try:
            self._send_data(kind, args)
            return self.connection.call("/submit_job", kind, args)["id"]
        finally:
            self._list.forget()

    def status(self, job_id: str) -> JobStatus:
        """While the server is gone: as it was last. Raises: BadInput: no such job."""
        try:
            return _status(self.connection.call("/job_status", job_id, is_patient=False))
        except NotAvailable:
            for status in self.list():
                if status.id == job_id:
                    return status
            raise

    def list(self) -> list[JobStatus]:
        """All jobs, the newest first; while the server is gone, as they were last."""
        return [_status(body) for body in self._list.get()]

    def result(self, job_id: str) -> dict[str, Any]:
        """As `JobQueue.result`; a job that is done answers the same for ever."""
        if job_id not in self._results:
            self._results[job_id] = self.connection.call("/job_result", job_id)
            while len(self._results) > 64:
                del self._results[next(iter(self._results))]
        return self._results[job_id]

    def cancel(self, job_id: str) -> None:
        try:
            self.connection.call("/cancel_job", job_id)
        finally:
            self._list.forget()

    def attach(self, job_id: str, on_step: OnStep = None) -> dict[str, Any]:
        """As `JobQueue.attach`."""
        told = None
        while True:
            status = self.status(job_id)
            if on_step is not None and status.step != told:
                told = status.step
                on_step(told)
            if status.state == "cancelled":
                raise Cancelled
            if status.state in ENDED:
                return self.result(job_id)
            time.sleep(FRESH_S / 2)

    def _send_data(self, kind: str, args: dict[str, Any]) -> None:
        """Send what the job is to be trained on, unless the server has it."""
        key = args.get("data") or args.get("recipe", {}).get("images", "").rpartition(":")[2]
        path = data_folder() / f"{key}.npz"
        if not key.isalnum() or not path.exists() or self.connection.call("/put_data", kind, key)["is_held"]:
            return
        upload = self.connection.upload(path.read_bytes())
        self.connection.call("/put_data", kind, key, upload, timeout_s=LONG_ANSWER_S, is_patient=False)

    def files(self, job_id: str) -> Sequence[str]:
        return self.connection.call("/job_files", job_id)

    def read_file(self, job_id: str, name: str) -> bytes | None:
        data = self.connection.call("/job_file", job_id, name, timeout_s=LONG_ANSWER_S)["data"]
        return None if data is None else wire.decode_bytes(data, "data", "a file")

    def forget(self, job_id: str) -> None:
        try:
            self.connection.call("/forget_job", job_id)
        finally:
            self._list.forget()
            self._results.pop(job_id, None)


def _status(body: Mapping[str, Any]) -> JobStatus:
    return JobStatus(**{**body, "args": dict(body["args"])})
