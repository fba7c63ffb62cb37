"""What is asked and what is known already: one answer per request, kept for this visitor.

The page draws what is known, then asks for the next thing that is missing and draws again: every map appears as
soon as it is ready, and any click supersedes the rest.
"""

import time
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
from pages.path.pictures import Picture
from pages.path.settings import Settings
from pages.shared.answers import Answer, Answers, Refusal

REDRAW_EVERY_S = 0.35

ANSWERS = Answers("path", at_most=96)
known, forget_refusals = ANSWERS.known, ANSWERS.forget_refusals


def ask(request: Request, picture: Picture, on_step: OnStep = None) -> Answer:
    """The answer to a request about a picture. Raises: Cancelled; whatever `on_step` raises."""
    return ANSWERS.ask(request, on_step, picture.put)


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
