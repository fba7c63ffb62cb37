"""What is asked and what is known already: one answer per request, kept for this visitor.

The page draws what is known, then asks for the next thing that is missing and draws again: every map appears as
soon as it is ready, and any click supersedes the rest.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from backend.catalog import METHODS
from backend.contracts import (
    AttributionRequest,
    FaithfulnessRequest,
    OnStep,
    PredictionRequest,
    Request,
    Result,
)
from backend.errors import BadInput, Cancelled, PrismError
from pages.path.pictures import Picture
from pages.path.settings import Settings
from pages.shared.session import recall, remember, service, visitor

log = logging.getLogger("prism")

KNOWN_AT_MOST = 96  # answers kept for a visitor; they are shared with the engine's own store
REDRAW_EVERY_S = 0.35


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer to a request."""

    sentence: str
    field: str = ""


Answer = Result | Refusal


def known() -> dict[Request, Answer]:
    """This visitor's answers, the oldest first."""
    answers = recall("path.known")
    if answers is None:
        answers = {}
        remember("path.known", answers)
    return answers


def forget_refusals() -> None:
    """Ask again what was refused: something was changed since."""
    for request in [request for request, answer in known().items() if isinstance(answer, Refusal)]:
        del known()[request]


def ask(request: Request, picture: Picture, on_step: OnStep = None) -> Answer:
    """The answer to a request, from what is known or from the engine.

    An exception that is no Prism error is a fault of ours: it is logged under an id that the person sees.
    Raises: Cancelled; whatever `on_step` raises.
    """
    answers = known()
    if request not in answers:
        answers[request] = _ask_engine(request, picture, on_step)
        while len(answers) > KNOWN_AT_MOST:
            del answers[next(iter(answers))]
    return answers[request]


def _ask_engine(request: Request, picture: Picture, on_step: OnStep) -> Answer:
    try:
        try:
            return service().run(request, on_step, session=f"{visitor()}.path")
        except BadInput as error:
            if error.field != "image":
                raise
            picture.put()  # the engine's store of pictures is bounded: ours may have made room for others
            return service().run(request, on_step, session=f"{visitor()}.path")
    except Cancelled:
        raise
    except PrismError as error:
        return Refusal(error.sentence, error.field)
    except Exception as error:
        if type(error).__module__.startswith("streamlit"):  # a rerun passes through
            raise
        fault = uuid.uuid4().hex[:8]
        log.error("fault %s", fault, exc_info=error)
        return Refusal(f"Something went wrong on our side (fault {fault}). Your inputs are kept; try again.")


@dataclass(frozen=True)
class Board:
    """One picture, one model, one class, several methods: what is asked, in the order of asking."""

    settings: Settings
    picture: Picture
    prediction: Result
    extras: list[Request] = field(default_factory=list)  # on demand: player, sensitivity-N, sanity check

    @property
    def target(self) -> int:
        """The class that is explained."""
        chosen = self.settings.target
        return self.prediction.values["top"][0]["target"] if chosen is None else chosen

    def attribution(self, method: str) -> AttributionRequest:
        settings = self.settings
        return AttributionRequest(
            image_id=self.picture.id,
            model=settings.model,
            method=method,
            target=self.target,
            baseline=tuple(sorted(settings.baselines)) if METHODS[method].uses_baseline else ("black",),
            params=settings.params_of(method),
            seed=settings.seed,
        )

    @property
    def attributions(self) -> tuple[AttributionRequest, ...]:
        return tuple(self.attribution(method) for method in self.settings.methods)

    def answer(self, request: Request) -> Answer | None:
        return known().get(request)

    @property
    def answered(self) -> tuple[AttributionRequest, ...]:
        """The attributions that are there."""
        return tuple(request for request in self.attributions if isinstance(self.answer(request), Result))

    @property
    def results(self) -> list[Result]:
        return [self.answer(request) for request in self.answered]

    @property
    def refusals(self) -> dict[str, str]:
        """Methods that do not apply, with the reason."""
        answers = {request.method: self.answer(request) for request in self.attributions}
        return {method: answer.sentence for method, answer in answers.items() if isinstance(answer, Refusal)}

    @property
    def is_settled(self) -> bool:
        """Whether every method has answered."""
        return all(self.answer(request) is not None for request in self.attributions)

    @property
    def faithfulness(self) -> FaithfulnessRequest | None:
        """The sweep over all maps that are there; None until every method has answered, or if none did."""
        if not self.is_settled or not self.answered:
            return None
        return FaithfulnessRequest(
            attributions=self.answered,
            baseline=self.settings.replacement,
            mask_id=self.picture.mask_id,
            seed=self.settings.seed,
        )

    def missing(self) -> Iterator[Request]:
        """What has no answer yet, the maps first."""
        for request in self.attributions:
            if self.answer(request) is None:
                yield request
        sweep = self.faithfulness
        if sweep is not None and self.answer(sweep) is None:
            yield sweep
        for request in self.extras:
            if self.answer(request) is None:
                yield request


def look(model: str, picture: Picture, on_step: OnStep = None) -> Answer:
    """What the model sees in the picture."""
    return ask(PredictionRequest(picture.id, model), picture, on_step)


def work_off(board: Board, on_step: Callable[[Request], OnStep]) -> bool:
    """Ask for what is missing, a little at a time; returns whether there is something new to draw."""
    started, is_new = time.monotonic(), False
    for request in board.missing():
        ask(request, board.picture, on_step(request))
        is_new = True
        if time.monotonic() - started > REDRAW_EVERY_S:
            break
    return is_new
