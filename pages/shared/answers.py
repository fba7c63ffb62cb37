"""What a visitor has been answered on a page: one answer per request, kept until there are too many."""

import logging
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from backend.contracts import OnStep, Request, Result
from backend.errors import BadInput, Busy, Cancelled, PrismError
from pages.shared.session import recall, remember, service, visitor

log = logging.getLogger("prism")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why there is no answer to a request."""

    sentence: str
    field: str = ""
    is_passing: bool = False  # asked again when the page is next drawn


Answer = Result | Refusal


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers of one page; its results are shared with the engine's own store."""

    page: str  # prefix of its session keys
    at_most: int  # kept for a visitor
    is_private: bool = False  # health data: no value that a fault mentions is logged, only where it happened

    def known(self) -> dict[Request, Answer]:
        """This visitor's answers, the oldest first."""
        key = f"{self.page}.known"
        answers = recall(key)
        if answers is None:
            answers = {}
            remember(key, answers)
        return answers

    def forget_refusals(self) -> None:
        """Ask again what was refused: something was changed since."""
        known = self.known()
        for request in [request for request, answer in known.items() if isinstance(answer, Refusal)]:
            del known[request]

    def ask(self, request: Request, on_step: OnStep = None, put_again: Callable[[], object] | None = None) -> Answer:
        """The answer to a request, from what is known or from the engine.

        An exception that is no Prism error is a fault of ours: it is logged under an id that the person sees.

        Args:
            put_again: puts the picture in once more. The engine's store of pictures is bounded: the visitor's may
                have made room for others.
        Raises: Cancelled; whatever `on_step` raises.
        """
        answers = self.known()
        answer = answers.get(request)
        if answer is None or (isinstance(answer, Refusal) and answer.is_passing):
            answers[request] = self._ask_engine(request, on_step, put_again)
            while len(answers) > self.at_most:
                del answers[next(iter(answers))]
        return answers[request]

    def _ask_engine(self, request: Request, on_step: OnStep, put_again: Callable[[], object] | None) -> Answer:
        session = f"{visitor()}.{self.page}"
        try:
            try:
                return service().run(request, on_step, session=session)
            except BadInput as error:
                if error.field != "image" or put_again is None:
                    raise
                put_again()
                return service().run(request, on_step, session=session)
        except Cancelled:
            raise
        except PrismError as error:
            return Refusal(error.sentence, error.field, isinstance(error, Busy))
        except Exception as error:
            if type(error).__module__.startswith("streamlit"):  # a rerun passes through
                raise
            fault = uuid.uuid4().hex[:8]
            if self.is_private:
                log.error(
                    "fault %s: %s\n%s", fault, type(error).__name__, "".join(traceback.format_tb(error.__traceback__))
                )
            else:
                log.error("fault %s", fault, exc_info=error)
            return Refusal(f"Something went wrong on our side (fault {fault}). Your inputs are kept; try again.")
