"""What is asked of additive image models: one answer per request, kept for this visitor."""

from collections.abc import Callable

from backend.contracts import (
    AttributeEffectsRequest,
    ImageGalleryRequest,
    ImagePathRequest,
    ModelComparisonRequest,
    OnStep,
    RecordRequest,
    Request,
    Result,
    ShapeFunctionsRequest,
)
from pages.additive.settings import UPLOAD, Settings
from pages.shared.answers import Answer, Answers, Refusal

GALLERY = 24  # pictures to choose the ends from
ANSWERS = Answers("additive", at_most=60)
known = ANSWERS.known

__all__ = ["Refusal", "ask", "known"]


def ask(request: Request, on_step: OnStep = None, put_again: Callable[[], object] | None = None) -> Answer:
    """The answer to a request. Raises: Cancelled; whatever `on_step` raises."""
    return ANSWERS.ask(request, on_step, put_again)


def answered(request: Request) -> Result | None:
    """What is known already."""
    answer = known().get(request)
    return answer if isinstance(answer, Result) else None


def gallery_request(model: str) -> ImageGalleryRequest:
    return ImageGalleryRequest(model, n=GALLERY)


def shapes_request(model: str) -> ShapeFunctionsRequest:
    return ShapeFunctionsRequest(model)


def effects_request(settings: Settings) -> AttributeEffectsRequest:
    return AttributeEffectsRequest(settings.model, settings.seed)


def comparison_request(settings: Settings) -> ModelComparisonRequest:
    return ModelComparisonRequest(settings.model, seed=settings.seed)


def record_request(model: str, row: int) -> RecordRequest:
    return RecordRequest(model, row)


def path_request(settings: Settings, image_ids: tuple[str, str] | None) -> ImagePathRequest:
    """The path that is set.

    Args: image_ids: of both ends, where one of them is no row of the data.
    """
    is_of_rows = UPLOAD not in settings.ends
    return ImagePathRequest(
        settings.model,
        rows=settings.ends if is_of_rows else None,
        image_ids=None if is_of_rows else image_ids,
        frames=settings.frames,
        params=settings.path_params,
        seed=settings.seed,
    )
