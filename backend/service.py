"""The one interface that pages, API and command line talk to; they cannot tell which engine stands behind it.

`LocalService` computes here. Equal requests under way at once are computed once (single flight); a newer request
of a session takes the older one's place (latest wins); what nobody waits for any more is stopped. Who gets the device
next is decided in `backend.turns`; an answer that is stored waits for nobody.

A session is spelled `owner.what`, for instance `<visitor>.<page>`: a newer request takes the place of the older one of
the same whole name; the device is shared out fairly between owners.
"""

import dataclasses
import functools
import importlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, TypeVar

from backend import audio, images
from backend.catalog import ModelSpec
from backend.company import Answered, Company, Member, joined
from backend.contracts import (
    DecodingRequest,
    OnStep,
    Request,
    Result,
    ShapeFunctionsRequest,
    Step,
    request_key,
)
from backend.errors import (
    BadInput,
    Busy,
    Cancelled,
    ModelFault,
    NotAvailable,
    OutOfMemory,
    PrismError,
    Superseded,
)
from backend.limits import LIMITS, Limits
from backend.models.library import Library
from backend.runtime import Runtime
from backend.store import Store
from backend.turns import GRACE_S, Estimates, Place, Turn

T, R = TypeVar("T"), TypeVar("R")
POLL_S = 0.2  # how often a waiting caller is heard of even if there is no news, so that leaving works at once


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What a person should know of a picture that was put in."""

    id: str
    width: int
    height: int
    channels: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a person should know of a sound that was put in."""

    id: str
    duration_s: float
    sample_rate: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """A row of the model list: what it is, and whether it lies on the device."""

    spec: ModelSpec
    is_loaded: bool
    nbytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """The engine at a glance: device, what lies in memory, what is under way."""

    device: str
    loaded: tuple[str, ...]  # keys of the models on the device
    model_bytes: int
    loads: int  # how often weights were read since the start
    results: int  # results held
    result_bytes: int
    flights: int  # requests under way
    problems: tuple[str, ...]  # sentences on the user's models file
    waiting: int = 0  # requests in the queue for the device
    wait_s: float = 0.0  # until all of them are answered, as far as can be expected


class InterpretService(Protocol):
    """What every engine (local, remote, cluster) offers."""

    def put_image(self, data: bytes) -> ImageInfo: ...
    def put_audio(self, data: bytes) -> AudioInfo: ...
    def run(self, request: Request, on_step: OnStep = None, session: str | None = None) -> Result: ...
    def cancel(self, session: str) -> None: ...
    def models(self) -> list[ModelStatus]: ...
    def add_model(self, fields: Mapping[str, Any], weights: bytes) -> ModelSpec: ...
    def remove_model(self, key: str) -> None: ...
    def status(self) -> EngineStatus: ...


@dataclass
class Context:
    """What the run functions of a method family may use: the engine's parts, and nothing of its callers."""

    runtime: Runtime
    library: Library
    images: Store[images.DecodedImage]
    sounds: Store[audio.DecodedAudio]
    results: Store[Result]
    on_step: Callable[[Step], None]
    is_cancelled: Callable[[], bool]
    # Wait for the device and have it; the callable is asked while waiting, and may raise to leave.
    turn: Callable[[Request, Callable[[], None]], AbstractContextManager[Turn]]
    estimates: Estimates
    company: Company

    def image(self, image_id: str) -> images.DecodedImage:
        image = self.images.get(image_id)
        if image is None:
            raise BadInput("the picture is no longer held; put it in again", "image")
        return image

    def audio(self, audio_id: str) -> audio.DecodedAudio:
        sound = self.sounds.get(audio_id)
        if sound is None:
            raise BadInput("the sound is no longer held; put it in again", "audio")
        return sound

    def model(self, key: str, task: str = "classification"):
        """The model on the device. Raises: BadInput: no such model, or it is made for another task."""
        spec = self.library.spec(key, task)
        if spec.task != task:
            raise BadInput(f"{key} is made for {spec.task.replace('_', ' ')}, not {task.replace('_', ' ')}", "model")
        load = functools.partial(self.library.load, key, self.runtime.device, self.runtime.dtype)
        return self.runtime.model(spec.key, load)

    def sub_run(self, request: Request) -> Result:
        """Run another request as a part of this one; its result is stored under its own key."""
        return _compute(self, request)


def _decoder(data: bytes) -> Callable[[bytes, Limits], images.DecodedImage]:
    """What reads a file of this kind; DICOM's reader is imported when the first such file comes."""
    if data[128:132] != b"DICM":
        return images.decode
    return importlib.import_module("backend.dicom").decode


# The module of each family: `prepare` checks a request and names its model, `run` answers it.
_FAMILIES = {
    "path_attribution": "backend.path_attribution.run",
    "additive_decoding": "backend.additive_decoding.run",
    "image_text": "backend.image_text.run",
    "additive_image": "backend.additive_image.run",
}


def _compute(context: Context, request: Request) -> Result:
    """Answer from the store, or compute when the device's turn has come, and store.

    A request is checked and brought to its canonical form first, so that equal settings are equal keys.
    """
    family = importlib.import_module(_FAMILIES[request.family])
    request, model_digest = family.prepare(context, request)
    key = request_key(request, model_digest)
    stored = context.results.get(key)
    if stored is not None:
        return stored
    group, at_most = family.together(context, request) if hasattr(family, "together") else (None, 1)
    me = Member(request, key, group, at_most, context.on_step, context.is_cancelled)
    with context.company.join(me):
        try:
            with context.turn(request, me.leave_if_answered):
                if context.is_cancelled():
                    raise Cancelled
                stored = me.result or context.results.get(key)  # another flight may have computed it while we waited
                return stored if stored is not None else _answer_all(context, family, context.company.of(me))
        except Answered:
            return me.result


def _answer_all(context: Context, family: ModuleType, members: list[Member]) -> Result:
    """Compute the requests of some who wait, as one; each gets its answer. Returns that of the first, who has the
    device. If they cannot be answered together, only the first is; if the memory does not reach, half of them are.
    """
    started = time.perf_counter()
    results: list[Result] = []
    while len(members) > 1 and not results:
        everybody = dataclasses.replace(context, **joined(members))
        try:
            results = _refuse_to_run_out_of_memory(family.run_together, everybody, [m.request for m in members])
        except OutOfMemory:
            members = members[: len(members) // 2]
        except (BadInput, ModelFault):
            members = members[:1]
    if not results:
        results = [_refuse_to_run_out_of_memory(family.run, context, members[0].request)]
    elapsed_s = (time.perf_counter() - started) / len(members)
    for member, result in zip(members, results, strict=True):
        context.estimates.learn(member.request, elapsed_s)
        provenance = dataclasses.replace(result.provenance, elapsed_s=elapsed_s)
        member.result = dataclasses.replace(result, provenance=provenance)
        context.results.put(member.key, member.result)
    return members[0].result


def _refuse_to_run_out_of_memory(run: Callable[[Context, T], R], context: Context, request: T) -> R:
    """Batches halve by themselves; what a single image or a map cannot get becomes a sentence."""
    import torch

    try:
        return run(context, request)
    except torch.OutOfMemoryError:
        raise OutOfMemory("the device has no memory left for this model; choose a smaller one", "model") from None


# What tries an uploaded model whose weights are read by its family.
_TRIALS: dict[str, Callable[[str], Request]] = {
    "additive_decoding": lambda key: DecodingRequest(key, grid=(2, 2)),
    "additive_image": lambda key: ShapeFunctionsRequest(key, points=2),
}


class _Flight(threading.Thread):
    """One computation under way, with everybody who waits for it."""

    def __init__(
        self, key: str, owner: str, compute: Callable[["_Flight"], Result], on_end: Callable[[str], None]
    ) -> None:
        super().__init__(name=f"flight-{key[:8]}", daemon=True)
        self.key = key
        self.owner = owner  # whose share of the device it takes
        self._compute = compute
        self._on_end = on_end
        self.changed = threading.Condition()
        self.told = 0  # steps so far; only the latest is kept, as it may carry a map
        self.latest = Step(0, 0)
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.is_done = False
        self.waiting = 0
        self.is_cancelled = False
        self.is_over_time: Callable[[float], bool] = lambda grace_s: False  # once it has the device

    def run(self) -> None:
        result, error = None, None
        try:
            result = self._compute(self)
        except BaseException as caught:  # handed to the callers' threads, where it belongs
            error = caught
        self._on_end(self.key)
        with self.changed:
            self.result, self.error, self.is_done = result, error, True
            self.changed.notify_all()

    def tell(self, step: Step) -> None:
        """Called by the computation: pass a step on, and stop here if nobody waits.

        A step without a partial result keeps that of the step before: who looks seldom misses none for good.
        """
        if self.is_cancelled:
            raise Cancelled
        with self.changed:
            if step.partial is None and self.latest.partial is not None:
                step = dataclasses.replace(step, partial=self.latest.partial)
            self.told, self.latest = self.told + 1, step
            self.changed.notify_all()

    def stand_in_line(self, place: Place) -> None:
        """Called while the device is another's: pass the place on, and leave the queue if nobody waits."""
        if self.is_cancelled:
            raise Cancelled
        if str(place) != self.latest.message:
            self.tell(Step(0, 0, str(place)))

    def news_since(self, seen: int) -> tuple[int, Step, bool]:
        """Called by who waits: steps so far (as soon as they are more than `seen`), the latest, whether it ended."""
        with self.changed:
            self.changed.wait_for(lambda: self.is_done or self.told > seen, timeout=POLL_S)
            return self.told, self.latest, self.is_done


@dataclass(eq=False, slots=True)
class _Asker:
    """A session that waits for an answer."""

    stopped: Cancelled | None = None  # why it waits no longer

    def stop(self, why: Cancelled) -> None:
        """The first reason stays."""
        self.stopped = self.stopped or why


class LocalService:
    """The engine in this process: one runtime, one library of models, one store of results."""

    def __init__(self, runtime: Runtime | None = None, library: Library | None = None, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.runtime = runtime or Runtime(limits=limits)
        self.library = library or Library()
        self.image_store: Store[images.DecodedImage] = Store(limits.image_store_bytes)
        self.audio_store: Store[audio.DecodedAudio] = Store(limits.audio_store_bytes)
        self.result_store: Store[Result] = Store(limits.result_store_bytes)
        self._flights: dict[str, _Flight] = {}
        self._sessions: dict[str, _Asker] = {}  # those that wait for an answer
        self.estimates = Estimates()
        self.company = Company()
        self._lock = threading.Lock()

    # ------------------------------------------------------------- inputs
    def put_image(self, data: bytes) -> ImageInfo:
        """Decode, check and keep a picture, DICOM too; equal bytes get the equal id.

        Raises: BadInput: not a picture that can be used (see `backend.images.decode`, `backend.dicom.decode`).
        """
        decoded = _decoder(data)(data, self.limits)
        self.image_store.put(decoded.id, decoded)
        return ImageInfo(decoded.id, decoded.width, decoded.height, decoded.pixels.shape[2], decoded.notes)

    def put_audio(self, data: bytes) -> AudioInfo:
        """Decode, check and keep a sound; equal bytes get the equal id.

        Raises: BadInput: not a sound that can be used (see `backend.audio.decode`).
        """
        decoded = audio.decode(data, self.limits)
        self.audio_store.put(decoded.id, decoded)
        return AudioInfo(decoded.id, decoded.duration_s, decoded.sample_rate, decoded.notes)

    # ------------------------------------------------------------- work
    def run(self, request: Request, on_step: OnStep = None, session: str | None = None) -> Result:
        """Answer a request; `on_step` is called in the caller's own thread.

        An exception that `on_step` raises (a page that reruns) detaches the caller; work without callers stops.
        Raises: PrismError: bad input, cancelled, superseded by a newer request of `session`, out of memory, too many
            requests, out of time.
        """
        asker = self._begin(session)
        try:
            flight = self._join_flight(request, _owner(session))
            try:
                return self._wait(flight, on_step, asker)
            finally:
                self._leave(flight)
        finally:
            self._end(session, asker)

    def cancel(self, session: str) -> None:
        """Stop what this session waits for."""
        with self._lock:
            asker = self._sessions.get(session)
        if asker is not None:
            asker.stop(Cancelled())

    def _begin(self, session: str | None) -> _Asker:
        current = _Asker()
        if session is not None:
            with self._lock:
                waiting = [name for name, asker in self._sessions.items() if asker.stopped is None]
                others = sum(_owner(name) == _owner(session) for name in waiting if name != session)
                if others >= self.limits.max_session_requests:
                    raise Busy(f"{others} of your requests are under way already; wait for one of them")
                previous = self._sessions.get(session)
                self._sessions[session] = current
            if previous is not None:
                previous.stop(Superseded())
        return current

    def _end(self, session: str | None, current: _Asker) -> None:
        with self._lock:
            if session is not None and self._sessions.get(session) is current:
                del self._sessions[session]

    def _join_flight(self, request: Request, owner: str) -> _Flight:
        key = request_key(request)
        with self._lock:
            flight = self._flights.get(key)
            if flight is None or flight.is_cancelled or flight.is_done or flight.is_over_time(0.0):
                flight = _Flight(key, owner, functools.partial(self._fly, request), self._land)
                self._flights[key] = flight
                flight.waiting = 1
                flight.start()
            else:
                flight.waiting += 1
        return flight

    def _fly(self, request: Request, flight: _Flight) -> Result:
        def check_time() -> None:
            if flight.is_over_time(0.0):
                raise self._out_of_time()

        def is_cancelled() -> bool:
            check_time()
            return flight.is_cancelled

        def on_step(step: Step) -> None:
            check_time()
            flight.tell(step)

        @contextmanager
        def turn(part: Request, leave: Callable[[], None]) -> Iterator[Turn]:
            def on_wait(place: Place) -> None:
                leave()
                flight.stand_in_line(place)

            turns = self.runtime.lock
            expected_s = self.estimates.expect(part)
            with turns.turn(flight.owner, expected_s, self.limits.max_request_s, on_wait) as turn:
                flight.is_over_time = functools.partial(turns.is_over_time, turn)
                yield turn

        return _compute(
            Context(
                self.runtime,
                self.library,
                self.image_store,
                self.audio_store,
                self.result_store,
                on_step,
                is_cancelled,
                turn,
                self.estimates,
                self.company,
            ),
            request,
        )

    def _out_of_time(self) -> NotAvailable:
        return NotAvailable(f"stopped after {self.limits.max_request_s:g} s; choose fewer steps or a smaller model")

    def _land(self, key: str) -> None:
        with self._lock:
            if self._flights.get(key) is threading.current_thread():
                del self._flights[key]

    def _wait(self, flight: _Flight, on_step: OnStep, asker: _Asker) -> Result:
        seen = 0
        while True:
            seen, latest, is_done = flight.news_since(seen)
            if asker.stopped is not None:
                raise asker.stopped
            if on_step is not None and not is_done:
                on_step(latest)
            if is_done:
                if flight.error is not None:
                    raise flight.error
                return flight.result
            if flight.is_over_time(GRACE_S):  # it does not hear that it shall stop
                raise self._out_of_time()

    def _leave(self, flight: _Flight) -> None:
        with self._lock:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.is_done:
                flight.is_cancelled = True

    # ------------------------------------------------------------- status
    def models(self) -> list[ModelStatus]:
        loaded = self.runtime.loaded
        return [
            ModelStatus(
                spec,
                key in loaded,
                loaded[key].nbytes if key in loaded else 0,
                loaded[key].digest if key in loaded else "",
            )
            for key, spec in self.library.specs().items()
        ]

    def status(self) -> EngineStatus:
        loaded = self.runtime.loaded
        waiting, wait_s = self.runtime.lock.expected_wait()
        return EngineStatus(
            device=self.runtime.describe(),
            loaded=tuple(loaded),
            model_bytes=sum(model.nbytes for model in loaded.values()),
            loads=self.runtime.loads,
            results=len(self.result_store),
            result_bytes=self.result_store.nbytes,
            flights=len(self._flights),
            problems=tuple(self.library.problems),
            waiting=waiting,
            wait_s=wait_s,
        )

    # ------------------------------------------------------------- models of the user's own
    def add_model(self, fields: Mapping[str, Any], weights: bytes) -> ModelSpec:
        """Add an uploaded model after a dry run; kept in memory until removed or the process ends.

        Raises: BadInput: a field or the weights do not fit; the error's field names which.
        """
        spec = self.library.add_local(fields, weights)
        try:
            if spec.task in _TRIALS:
                self.run(_TRIALS[spec.task](spec.key))
        except PrismError:
            self.remove_model(spec.key)
            raise
        return spec

    def remove_model(self, key: str) -> None:
        """Forget a model of the user's own and free its memory. Raises: BadInput: it is none of those."""
        self.library.remove(key)
        self.runtime.forget(key)


def _owner(session: str | None) -> str:
    """Who is treated fairly: the part of a session's name before the first full stop; all without a name are one."""
    return (session or "").partition(".")[0]


@functools.cache
def local_service() -> LocalService:
    """The process's one engine: pages and API share its models and its store."""
    return LocalService()
