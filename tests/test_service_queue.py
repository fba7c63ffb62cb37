"""The queue for the device: who is next, what a waiting person is told, and that nobody holds up the rest."""

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from backend.contracts import AttributionRequest, PredictionRequest, Result
from backend.errors import Busy, Cancelled, NotAvailable
from backend.images import encode_png
from backend.limits import Limits
from backend.service import LocalService
from backend.turns import BACKGROUND, GRACE_S, Turns
from pages.shared.answers import Answers, Refusal
from tests.helpers_service import CountingLibrary, service_with
from tests.waiting import wait_until

LIMITS = Limits(chunk_pixels_cpu=12 * 12 * 8)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class People:
    """Threads that want the device while the test has it; who got it is written down in order."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self._threads: list[threading.Thread] = []

    def ask(self, owner: str, estimate_s: float, takes: Callable[[], None] = lambda: None) -> None:
        def wait() -> None:
            with self.turns.turn(owner, estimate_s):
                self.served.append(owner)
                takes()

        before = self.turns.expected_wait()[0]
        self._threads.append(threading.Thread(target=wait, daemon=True))
        self._threads[-1].start()
        wait_until(lambda: self.turns.expected_wait()[0] > before)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ----------------------------------------------------------------- the order
def test_short_work_goes_before_long(clock):
    people = People(Turns(clock=clock))
    with people.turns.turn("first", 1.0):
        people.ask("long", 60.0)
        people.ask("short", 1.0)
    people.join()
    assert people.served == ["short", "long"]


def test_long_work_that_has_waited_goes_before_short_work_that_comes(clock):
    people = People(Turns(clock=clock))
    with people.turns.turn("first", 1.0):
        people.ask("long", 60.0)
        clock.now_s += 60.0
        people.ask("short", 1.0)
    people.join()
    assert people.served == ["long", "short"]


def test_equal_work_of_two_owners_takes_turns(clock):
    people = People(Turns(clock=clock))

    def second() -> None:
        clock.now_s += 1.0

    with people.turns.turn("first", 1.0):
        for _ in range(3):
            people.ask("greedy", 1.0, second)
        people.ask("modest", 1.0, second)
        people.ask("modest", 1.0, second)
    people.join()
    assert people.served == ["greedy", "modest", "greedy", "modest", "greedy"]


def test_jobs_let_people_pass_but_not_forever(clock):
    people = People(Turns(clock=clock))
    with people.turns.turn("first", 1.0):
        people.ask(BACKGROUND, 30.0)
        people.ask("early", 1.0)
        clock.now_s += 31.0
        people.ask("late", 1.0)
    people.join()
    assert people.served == ["early", BACKGROUND, "late"]


def test_who_has_the_device_may_take_it_again(clock):
    turns = Turns(clock=clock)
    with turns, turns.turn("anybody", 1.0), turns:
        pass
    assert turns.expected_wait() == (0, 0.0)


def test_one_more_than_the_queue_holds_is_refused(clock):
    people = People(Turns(at_most=1, clock=clock))
    with people.turns.turn("first", 1.0):
        people.ask("second", 1.0)
        refused = threading.Thread(target=_expect_refusal, args=(people.turns,))
        refused.start()
        refused.join()
    people.join()


def _expect_refusal(turns: Turns) -> None:
    with pytest.raises(Busy, match="too many requests"), turns.turn("third", 1.0):
        pass


def test_the_device_is_taken_from_work_that_does_not_stop(clock):
    lost = []
    people = People(Turns(on_lost=lambda: lost.append(True), clock=clock))
    with people.turns.turn("deaf", 1.0, max_s=10.0):
        people.ask("next", 1.0)
        clock.now_s += 10.0 + GRACE_S + 1.0
        people.join()  # while the first has not ended
    assert people.served == ["next"] and lost == [True]
    with people.turns.turn("later", 1.0):
        people.served.append("later")
    assert people.served[-1] == "later"


# ----------------------------------------------------------------- the service
@pytest.fixture
def library() -> CountingLibrary:
    return CountingLibrary()


@pytest.fixture
def service(library) -> LocalService:
    return service_with(library, LIMITS)


def picture(seed: int) -> bytes:
    return encode_png(np.random.default_rng(seed).random((12, 12, 1)))


def ask(service: LocalService, number: int = 0, /, **changes) -> AttributionRequest:
    return replace(AttributionRequest(service.put_image(picture(number)).id, "tiny", "ig"), **changes)


def long_work(service: LocalService, **changes) -> AttributionRequest:
    return ask(service, method="rise", params=(("samples", 20000),), **changes)


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_twenty_sessions_get_their_own_answers(library):
    """Distinct pictures, methods and seeds, asked three times each in other orders; checked against a service alone."""
    methods = ("ig", "saliency", "samp++", "grad-cam")

    def requests(service: LocalService, session: int) -> list[AttributionRequest]:
        chosen = [ask(service, session, method=methods[(session + k) % 4], seed=session) for k in range(2)]
        return [*chosen, PredictionRequest(chosen[0].image_id, "tiny")]

    alone = service_with(CountingLibrary(), LIMITS)
    expected = {request: alone.run(request) for session in range(20) for request in requests(alone, session)}
    together = service_with(library, LIMITS)
    library.network.delay_s = 0.001
    start = threading.Barrier(20)
    got: dict[int, list[Result]] = {}

    def visit(session: int) -> None:
        mine = requests(together, session)
        start.wait()
        got[session] = [
            together.run(mine[(session + k) % 3], lambda _: None, session=f"visitor{session}.page") for k in range(6)
        ]

    threads = [in_background(lambda session=session: visit(session)) for session in range(20)]
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(got) == list(range(20))
    for session, results in got.items():
        assert {result.request.image_id for result in results} == {together.put_image(picture(session)).id}
        for result in results:
            reference = next(other for other in expected.values() if other.request == result.request)
            for name, array in reference.arrays.items():
                np.testing.assert_array_equal(result.arrays[name], array)
            assert result.values == reference.values
    assert not together._sessions and together.status().waiting == 0


def test_a_waiting_person_is_told_the_place(service, library):
    library.network.delay_s = 0.05
    blocking = in_background(lambda: _until_cancelled(service, long_work(service), "first.page"))
    wait_until(lambda: library.network.calls > 0)
    told: list[str] = []

    def on_step(step):
        told.append(step.message)
        if "queue" in step.message:
            service.cancel("first.page")

    assert service.run(ask(service, 1), on_step, session="second.page").arrays
    assert any(message.startswith("next in the queue, about") for message in told)
    blocking.join(timeout=10)


def test_who_leaves_the_queue_is_not_computed(service, library):
    library.network.delay_s = 0.05
    blocking = in_background(lambda: _until_cancelled(service, long_work(service), "first.page"))
    wait_until(lambda: library.network.calls > 0)
    waiting = in_background(lambda: _until_cancelled(service, long_work(service, seed=1), "second.page"))
    wait_until(lambda: service.status().waiting == 1)
    assert service.status().wait_s > 0
    service.cancel("second.page")
    waiting.join(timeout=10)
    wait_until(lambda: service.status().waiting == 0)
    service.cancel("first.page")
    blocking.join(timeout=10)


def test_stored_answers_wait_for_nobody(service, library):
    stored = service.run(ask(service))
    library.network.delay_s = 0.05
    blocking = in_background(lambda: _until_cancelled(service, long_work(service), "first.page"))
    wait_until(lambda: service.status().flights == 1)
    started = time.perf_counter()
    assert service.run(ask(service), session="second.page") is stored
    assert time.perf_counter() - started < 0.2
    service.cancel("first.page")
    blocking.join(timeout=10)


def test_work_over_its_time_is_stopped_and_the_next_is_answered(library):
    service = service_with(library, replace(LIMITS, max_request_s=0.5))
    library.network.delay_s = 0.02
    refused: list[str] = []

    def too_long() -> None:
        with pytest.raises(NotAvailable) as caught:
            service.run(long_work(service), session="first.page")
        refused.append(caught.value.sentence)

    blocking = in_background(too_long)
    wait_until(lambda: library.network.calls > 0)
    assert service.run(PredictionRequest(service.put_image(picture(0)).id, "tiny"), session="second.page").values
    blocking.join(timeout=10)
    assert refused == ["stopped after 0.5 s; choose fewer steps or a smaller model"]


def test_work_that_hears_nothing_loses_the_device_and_its_models(library, monkeypatch):
    for module in ("service", "turns"):
        monkeypatch.setattr(f"backend.{module}.GRACE_S", 0.1)
    service = service_with(library, replace(LIMITS, max_request_s=0.2))
    library.network.delay_s = 2.0  # one long call, in which nobody asks whether it shall stop
    refused: list[float] = []

    def deaf() -> None:
        started = time.perf_counter()
        with pytest.raises(NotAvailable, match="stopped after"):
            service.run(ask(service), session="first.page")
        refused.append(time.perf_counter() - started)

    blocking = in_background(deaf)
    wait_until(lambda: library.network.calls > 0)
    library.network.delay_s = 0.0
    loads = service.runtime.loads
    assert service.run(ask(service, 1), session="second.page").arrays
    assert service.runtime.loads == loads + 1, "the model that the first still uses was used again"
    blocking.join(timeout=10)
    assert refused[0] < 2.0


def test_time_in_the_queue_is_not_counted(library):
    service = service_with(library, replace(LIMITS, max_request_s=1.0))
    with service.runtime.lock:  # as a job would
        waiting = in_background(lambda: service.run(ask(service), session="me.page"))
        wait_until(lambda: service.status().waiting == 1)
        time.sleep(1.2)
    waiting.join(timeout=10)
    assert service.status().results == 1


def test_a_visitor_may_have_so_many_requests_under_way(library):
    service = service_with(library, replace(LIMITS, max_session_requests=1))
    library.network.delay_s = 0.05
    blocking = in_background(lambda: _until_cancelled(service, long_work(service), "me.one"))
    wait_until(lambda: library.network.calls > 0)
    with pytest.raises(NotAvailable, match="1 of your requests"):
        service.run(ask(service), session="me.two")
    library.network.delay_s = 0.0
    assert service.run(ask(service), session="me.one").arrays  # takes the other's place
    assert service.run(ask(service, 1), session="you.one").arrays
    blocking.join(timeout=10)


def test_a_page_asks_again_after_it_was_refused_for_being_one_too_many(service, monkeypatch):
    answers = Answers("test", at_most=4)
    kept: dict = {}
    refusals = [Busy("too many requests are waiting; try again in a moment")]

    class Engine:
        def run(self, *arguments, **named) -> Result:
            if refusals:
                raise refusals.pop()
            return service.run(*arguments, **named)

    monkeypatch.setattr("pages.shared.answers.recall", kept.get)
    monkeypatch.setattr("pages.shared.answers.remember", kept.__setitem__)
    monkeypatch.setattr("pages.shared.answers.visitor", lambda: "me")
    monkeypatch.setattr("pages.shared.answers.service", Engine)
    assert answers.ask(ask(service)) == Refusal("too many requests are waiting; try again in a moment", "", True)
    assert isinstance(answers.ask(ask(service)), Result)


def _until_cancelled(service: LocalService, request: AttributionRequest, session: str) -> None:
    """Ask; that it is cancelled, or that its place is taken, is expected."""
    with contextlib.suppress(Cancelled):
        service.run(request, session=session)
