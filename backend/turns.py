"""Who may use the device next: one at a time, fair to people, short work before long.

Whoever is due first goes first. A turn is due at the moment it was asked for, plus what it is expected to take, plus
what its owner had of the device lately. So short work overtakes long work, owners of equal work take turns, and nobody
starves: who has waited longer than its own work and its owner's share goes before all who come now.

Work that has begun is not set aside for other work. Methods keep hooks, counters and inserted modules on their model
until they end; a second request on that model in between would meet them. What bounds a turn is `max_s`: the work is
asked to stop then, and where it does not even hear that, the device is taken from it and its models are forgotten, so
that the next turn loads them afresh.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from backend.contracts import Request
from backend.errors import Busy

POLL_S = 0.2  # how often somebody who waits is told the place
GRACE_S = 20.0  # how long work may go on past its time before the device is taken from it
HALF_LIFE_S = 60.0  # after which half of what an owner had is forgotten
BACKGROUND = "(background)"  # owner of the turns of jobs
_BACKGROUND_S = 30.0  # how many seconds sooner a person may come and still go before a job


@dataclass(eq=False, slots=True)
class Turn:
    """One use of the device, waited for or under way."""

    owner: str
    estimate_s: float
    max_s: float
    asked: float  # on the turns' clock
    thread: int = field(default_factory=threading.get_ident)
    began: float = math.inf
    depth: int = 1  # a turn may be taken again by the thread that has it


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the queue a turn stands."""

    position: int  # 1: next
    wait_s: float  # expected

    def __str__(self) -> str:
        """
        >>> str(Place(1, 0.2)), str(Place(22, 3.4))
        ('next in the queue, about 1 s', '22nd in the queue, about 4 s')
        """
        which = "next" if self.position == 1 else ordinal(self.position)
        return f"{which} in the queue, about {max(1, math.ceil(self.wait_s))} s"


def ordinal(number: int) -> str:
    """
    >>> [ordinal(n) for n in (2, 3, 11, 101)]
    ['2nd', '3rd', '11th', '101st']
    """
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


class Turns:
    """A lock that is handed on in a fair order. `with turns:` takes a turn in the background, behind people's."""

    def __init__(
        self,
        at_most: int = 64,
        on_lost: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            at_most: turns waited for at once; one more is refused.
            on_lost: called when the device was taken from work that did not stop.
            clock: seconds.
        """
        self._at_most = at_most
        self._on_lost = on_lost
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: list[Turn] = []
        self._holder: Turn | None = None
        self._had: dict[str, tuple[float, float]] = {}  # owner -> seconds of the device, at this time

    # ------------------------------------------------------------- taking turns
    @contextmanager
    def turn(
        self,
        owner: str,
        estimate_s: float,
        max_s: float = math.inf,
        on_wait: Callable[[Place], None] = lambda _: None,
    ) -> Iterator[Turn]:
        """Wait for the device, have it, hand it on; who has it already goes on with the same turn.

        Args:
            on_wait: told the place again and again while waiting; what it raises leaves the queue.
        Raises: Busy: too many wait already.
        """
        turn = self._take(owner, estimate_s, max_s, on_wait)
        try:
            yield turn
        finally:
            self._hand_on(turn)

    def __enter__(self) -> None:
        self._take(BACKGROUND, _BACKGROUND_S, math.inf, lambda _: None)

    def __exit__(self, *_: object) -> None:
        self._hand_on(self._holder)

    def is_over_time(self, turn: Turn, grace_s: float = 0.0) -> bool:
        """Has this turn used up its seconds?"""
        return self._clock() > turn.began + turn.max_s + grace_s

    def expected_wait(self) -> tuple[int, float]:
        """How many turns are waited for, and the seconds until all of them are over."""
        with self._changed:
            return len(self._waiting), self._remaining_s() + sum(turn.estimate_s for turn in self._waiting)

    def _take(self, owner: str, estimate_s: float, max_s: float, on_wait: Callable[[Place], None]) -> Turn:
        turn = Turn(owner, estimate_s, max_s, self._clock())
        with self._changed:
            if self._holder is not None and self._holder.thread == turn.thread:
                self._holder.depth += 1
                return self._holder
            if len(self._waiting) >= self._at_most and owner != BACKGROUND:
                raise Busy("too many requests are waiting; try again in a moment")
            self._waiting.append(turn)
        try:
            while not self._has_come(turn):
                with self._changed:
                    place = self._place(turn)
                on_wait(place)  # outside the lock: it may take others
            return turn
        except BaseException:
            with self._changed:
                self._waiting.remove(turn)
                self._changed.notify_all()
            raise

    def _has_come(self, turn: Turn) -> bool:
        """Wait a little; if the device is free and this turn the first that is due, it has it."""
        with self._changed:
            if not self._is_next(turn):
                self._changed.wait(POLL_S)
                self._take_from_the_deaf()
            if not self._is_next(turn):
                return False
            self._waiting.remove(turn)
            turn.began = self._clock()
            self._holder = turn
            return True

    def _hand_on(self, turn: Turn | None) -> None:
        with self._changed:
            if turn is None or turn is not self._holder:
                return  # it was taken away meanwhile
            turn.depth -= 1
            if turn.depth == 0:
                self._release(turn)

    def _release(self, turn: Turn) -> None:
        now = self._clock()
        self._had[turn.owner] = (self._share_s(turn.owner) + now - turn.began, now)
        for owner in [owner for owner in self._had if self._share_s(owner) < 0.01]:
            del self._had[owner]
        self._holder = None
        self._changed.notify_all()

    def _take_from_the_deaf(self) -> None:
        holder = self._holder
        if holder is not None and self.is_over_time(holder, GRACE_S):
            self._release(holder)
            self._on_lost()

    # ------------------------------------------------------------- the order
    def _is_next(self, turn: Turn) -> bool:
        return self._holder is None and min(self._waiting, key=self._due) is turn

    def _due(self, turn: Turn) -> float:
        return turn.asked + turn.estimate_s + self._share_s(turn.owner)

    def _share_s(self, owner: str) -> float:
        """Seconds of the device that an owner had lately."""
        seconds, at = self._had.get(owner, (0.0, 0.0))
        return seconds * 0.5 ** ((self._clock() - at) / HALF_LIFE_S)

    def _place(self, turn: Turn) -> Place:
        in_order = sorted(self._waiting, key=self._due)
        before = in_order[: in_order.index(turn)]
        return Place(len(before) + 1, self._remaining_s() + sum(other.estimate_s for other in before))

    def _remaining_s(self) -> float:
        holder = self._holder
        return 0.0 if holder is None else max(0.0, holder.began + holder.estimate_s - self._clock())


class Estimates:
    """How many seconds a request will take, learnt from those before it; the latest count most.

    What is learnt is seconds per unit of size (steps x samples x frames ...), of the kind of request with its method
    and model, or, where none was seen yet, of the method on any model, or of the kind.
    """

    def __init__(self) -> None:
        self._per_unit_s: dict[tuple[str, ...], float] = {}
        self._lock = threading.Lock()

    def expect(self, request: Request) -> float:
        """Seconds.

        >>> from backend.contracts import AttributionRequest
        >>> estimates, short = Estimates(), AttributionRequest("id", "m", "ig", None, params=(("n_steps", 50),))
        >>> estimates.learn(short, 0.5)
        >>> estimates.expect(AttributionRequest("id", "other", "ig", None, params=(("n_steps", 500),)))
        5.0
        """
        with self._lock:
            known = (self._per_unit_s.get(name) for name in _names(request))
            per_unit_s = next((seconds for seconds in known if seconds is not None), None)
        return _UNKNOWN_S if per_unit_s is None else per_unit_s * _size(request)

    def learn(self, request: Request, elapsed_s: float) -> None:
        per_unit_s = elapsed_s / _size(request)
        with self._lock:
            for name in _names(request):
                before = self._per_unit_s.get(name, per_unit_s)
                self._per_unit_s[name] = before + _LEARN * (per_unit_s - before)


_UNKNOWN_S = 2.0  # of work of a kind that was never seen
_LEARN = 0.3  # weight of the latest
_SIZES = ("n_steps", "steps", "samples", "subsets", "frames", "n", "max_layers")  # what the work grows with


def _names(request: Request) -> tuple[tuple[str, ...], ...]:
    """What a request may be known by, the most telling first."""
    main = _main(request)
    method, model = getattr(main, "method", ""), getattr(main, "model", "")
    return (request.kind, method, model), (request.kind, method), (request.kind,)


def _size(request: Request) -> float:
    main = _main(request)
    values = {name: getattr(request, name, None) for name in _SIZES} | dict(getattr(main, "params", ()))
    numbers = [values[name] for name in _SIZES if isinstance(values.get(name), (int, float))]
    baselines = getattr(main, "baseline", ())
    times = [len(getattr(request, name, ())) for name in ("attributions", "sentences", "texts")]
    times.append(len(baselines) if isinstance(baselines, tuple) else 1)
    return float(math.prod(max(1, number) for number in (*numbers, *times)))


def _main(request: Request) -> Request:
    """The request whose method and model decide: itself, or the first of those it judges."""
    inner = getattr(request, "attribution", getattr(request, "map", request))
    return getattr(request, "attributions", (inner,))[0]
