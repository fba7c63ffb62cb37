"""What stands in an address: written alike on every page, and read back with the same checks and sentences."""

from collections.abc import Mapping

import streamlit as st

from backend.catalog import MethodSpec
from backend.errors import BadInput
from backend.limits import LIMITS
from pages.shared.session import recall, remember

FIRST_TAB = "How to read this"  # of every page
Refusals = dict[str, str]  # control -> the sentence that stands beside it


def note_address(page: str, query: Mapping[str, str]) -> None:
    """Write what is set on a page to the address, and its open tab: a reload or a new server finds both again.

    The browser says what its address is when it asks for a run. Of two changes in quick succession the second says what
    stood there before the first one's answer came: what was written last counts as well.
    """
    tab = recall(tab_key(page), st.query_params.get("tab", FIRST_TAB))  # before the tabs are drawn: the address's
    wanted = dict(query) if tab == FIRST_TAB else {**query, "tab": tab}
    if st.query_params.to_dict() != wanted or recall(f"{page}.address", wanted) != wanted:
        st.query_params.from_dict(wanted)
    remember(f"{page}.address", wanted)


def tab_key(page: str) -> str:
    return f"{page}.tab"


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
