"""Everything that may go wrong and be told to a person, as one family of errors.

Pages, the API and the command line catch `PrismError` and show its sentence; anything else is a fault.
"""

MOST_LETTERS = 600  # of a sentence; it may quote what somebody sent, which may be anything
_MOST_FIELD_LETTERS = 80


class PrismError(Exception):
    """A failure with one sentence that names what is wrong and what to do.

    `field` names the input or parameter that caused it, so that the sentence can stand beside its control.
    """

    def __init__(self, sentence: str, field: str = "") -> None:
        sentence = _one_line(sentence, MOST_LETTERS)
        super().__init__(sentence)
        self.sentence = sentence
        self.field = _one_line(field, _MOST_FIELD_LETTERS)


def _one_line(text: str, most: int) -> str:
    """Bounded, and without control characters, whatever is quoted in it.

    >>> _one_line("unknown field a\\nb", 20), _one_line("x" * 9, 5)
    ('unknown field a b', 'xxxx…')
    """
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


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
