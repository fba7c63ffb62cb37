"""What is asked and what is known already: the report a few sentences at a time, the chosen sentence by every method.

The page draws what is known, then asks for the next thing that is missing and draws again: maps fill in while the
rest is computed, and any click supersedes what is under way.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from backend.contracts import (
    OnStep,
    PairMapRequest,
    PairScoreRequest,
    ParamValue,
    ReportMapsRequest,
    Request,
    Result,
)
from pages.pairs.explained import Explained, of_pair, of_report
from pages.pairs.material import Picture, ReportText
from pages.pairs.settings import Settings
from pages.shared.answers import Answer, Answers, Refusal

REDRAW_EVERY_S = 0.35
TOGETHER = 4  # sentences asked for at once, after the first of a page
ON_A_PAGE = 21  # sentences explained: the first by itself and five times four
PROBE = "a picture"  # what a model is asked first, to see whether it answers at all

ANSWERS = Answers("pairs", at_most=192, is_private=True)
known, forget_refusals = ANSWERS.known, ANSWERS.forget_refusals


def look(model: str, picture: Picture, on_step: OnStep = None) -> Answer:
    """Whether the model can look at the picture, and which findings it sees, if it has thresholds for any."""
    return ANSWERS.ask(PairScoreRequest(texts=(PROBE,), model=model, **picture.given), on_step, picture.put)


@dataclass(frozen=True)
class Board:
    """One picture, one report, one model, several methods: what is asked, in the order of asking."""

    settings: Settings
    picture: Picture
    report: ReportText
    seen: Result  # what `look` answered
    extras: list[Request] = field(default_factory=list)  # on demand: sweeps, swaps, sanity check
    others: list[Picture] = field(default_factory=list)  # that extras are about

    def put(self) -> None:
        """Hand all pictures to the engine again."""
        for picture in (self.picture, *self.others):
            picture.put()

    # ------------------------------------------------------------- sentences
    @property
    def chosen(self) -> int:
        """The sentence that is looked at closely."""
        return min(self.settings.sentence, len(self.report.lines) - 1)

    @property
    def sentence(self) -> str:
        return self.report.lines[self.chosen].text

    @property
    def on_page(self) -> tuple[int, ...]:
        """The sentences that are explained: those that speak of what is seen, page by page, and the chosen one."""
        shown = [k for k, line in enumerate(self.report.lines) if line.is_shown]
        before = sum(k < self.chosen for k in shown)
        first = min(before, max(len(shown) - 1, 0)) // ON_A_PAGE * ON_A_PAGE
        return tuple(sorted({*shown[first : first + ON_A_PAGE], self.chosen}))

    @property
    def handfuls(self) -> list[tuple[int, ...]]:
        """The page's sentences as they are asked for, those with the chosen one first."""
        page = tuple(k for k in self.on_page if self.report.lines[k].is_shown)
        starts = [0, *range(1, len(page), TOGETHER)] if page else []
        parts = [page[a:b] for a, b in zip(starts, [*starts[1:], len(page)], strict=True)]
        if self.chosen not in page:
            parts.append((self.chosen,))
        return sorted(parts, key=lambda part: self.chosen not in part)

    def report_request(self, part: tuple[int, ...]) -> ReportMapsRequest:
        settings = self.settings
        return ReportMapsRequest(
            sentences=tuple(self.report.lines[k].text for k in part),
            method=settings.methods[0],
            model=settings.model,
            params=settings.params_of(settings.methods[0]),
            seed=settings.seed,
            **self.picture.given,
        )

    def pair_request(self, method: str, text: str, **changed: ParamValue) -> PairMapRequest:
        """One sentence by one method. Args: changed: parameters other than those that are set."""
        settings = self.settings
        params = tuple(sorted((dict(settings.params_of(method)) | changed).items()))
        about = {"text": text, "method": method, "model": settings.model, "params": params, "seed": settings.seed}
        return PairMapRequest(**about, **self.picture.given)

    def asked(self, request: Request) -> Answer | None:
        """An answer on demand; what is not there yet is put on the list."""
        answer = self.answer(request)
        if answer is None:
            self.extras.append(request)
        return answer

    def answer(self, request: Request) -> Answer | None:
        return known().get(request)

    # ------------------------------------------------------------- what is known
    def explained(self, k: int) -> Explained | Refusal | None:
        """The k-th sentence by the first method; None: not yet.

        A handful that is refused is asked for one by one: one sentence that cannot be read takes none with it.
        """
        part = next(part for part in self.handfuls if k in part)
        answer = self.answer(self.report_request(part))
        if isinstance(answer, Result):
            return of_report(answer, part.index(k))
        if isinstance(answer, Refusal):
            if len(part) == 1:
                return answer
            return self._explained_alone(self.settings.methods[0], self.report.lines[k].text)
        return None

    def _explained_alone(self, method: str, text: str) -> Explained | Refusal | None:
        answer = self.answer(self.pair_request(method, text))
        return of_pair(answer) if isinstance(answer, Result) else answer

    def compared(self, method: str) -> Explained | Refusal | None:
        """The chosen sentence by one of the methods; None: not yet."""
        if method == self.settings.methods[0]:
            return self.explained(self.chosen)
        return self._explained_alone(method, self.sentence)

    @property
    def best_known(self) -> Explained | None:
        """The chosen sentence, explained, by the first method that has answered."""
        answers = (self.compared(method) for method in self.settings.methods)
        return next((answer for answer in answers if isinstance(answer, Explained)), None)

    @property
    def refusals(self) -> dict[str, str]:
        """Methods that have no map of the chosen sentence, with the reason."""
        answers = {method: self.compared(method) for method in self.settings.methods}
        return {method: answer.sentence for method, answer in answers.items() if isinstance(answer, Refusal)}

    # ------------------------------------------------------------- what is missing
    def missing(self) -> Iterator[Request]:
        """What has no answer yet: the chosen sentence, its other methods, the rest of the report."""
        handfuls = self.handfuls
        yield from self._missing_of(handfuls[0])
        for method in self.settings.methods[1:]:
            yield from self._unknown(self.pair_request(method, self.sentence))
        for request in self.extras:
            yield from self._unknown(request)
        for part in handfuls[1:]:
            yield from self._missing_of(part)

    def _missing_of(self, part: tuple[int, ...]) -> Iterator[Request]:
        yield from self._unknown(self.report_request(part))
        if isinstance(self.answer(self.report_request(part)), Refusal) and len(part) > 1:
            for k in part:
                yield from self._unknown(self.pair_request(self.settings.methods[0], self.report.lines[k].text))

    def _unknown(self, request: Request) -> Iterator[Request]:
        if self.answer(request) is None:
            yield request


def work_off(board: Board, on_step: Callable[[Request], OnStep]) -> bool:
    """Ask for what is missing, a little at a time; returns whether there is something new to draw."""
    started, is_new = time.monotonic(), False
    for request in board.missing():
        ANSWERS.ask(request, on_step(request), board.put)
        is_new = True
        if time.monotonic() - started > REDRAW_EVERY_S:
            break
    return is_new
