"""Everything that may go wrong and be told to a person, as one family of errors.

Pages, the API and the command line catch `PrismError` and show its sentence; anything else is a fault.
"""


class PrismError(Exception):
    """A failure with one sentence that names what is wrong and what to do.

    `field` names the input or parameter that caused it, so that the sentence can stand beside its control.
    """

    def __init__(self, sentence: str, field: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.field = field


class BadInput(PrismError):
    """An input, parameter or file that cannot be used as given."""


class ShapeError(BadInput):
    """A tensor whose shape does not fit what the function was asked to do."""


class NotAvailable(PrismError):
    """Something real that cannot be had now: no network, no such device, no optional package."""


class Busy(NotAvailable):
    """Too much is under way; the same request may be answered in a moment."""


class OutOfMemory(PrismError):
    """The device had no room even for a single item."""


class ModelFault(PrismError):
    """The model returned something that no number on screen may be computed from (NaN, a wrong shape)."""


class Cancelled(PrismError):
    """The person asked to stop, or nobody waits for the answer any more."""

    def __init__(self, sentence: str = "Cancelled.") -> None:
        super().__init__(sentence)


class Superseded(Cancelled):
    """A newer request of the same session took this one's place."""

    def __init__(self) -> None:
        super().__init__("A newer request took this one's place.")
