"""What an address says, read back: the same checks and the same sentences on every page."""

from collections.abc import Mapping

from backend.catalog import MethodSpec
from backend.errors import BadInput
from backend.limits import LIMITS


def read_whole(name: str, text: str, low: int, high: int) -> int:
    """Raises: BadInput: no whole number in low..high."""
    if not text.isdecimal() or not low <= int(text) <= high:
        raise BadInput(f"{name} is {text!r}; expected a whole number in {low}..{high}", name)
    return int(text)


def read_methods(text: str, rows: Mapping[str, MethodSpec]) -> tuple[str, ...]:
    """Keys separated by commas, each once. Raises: BadInput: an unknown one, or too many."""
    keys = tuple(dict.fromkeys(text.split(",")))
    unknown = [key for key in keys if key not in rows]
    if unknown:
        raise BadInput(f"unknown method {unknown[0]!r}; one of {', '.join(rows)}", "methods")
    if len(keys) > LIMITS.max_methods:
        raise BadInput(f"{len(keys)} methods; up to {LIMITS.max_methods} stand side by side", "methods")
    return keys
