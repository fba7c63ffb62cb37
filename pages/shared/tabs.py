"""Looking closer, one tab at a time: only the open one asks for anything, and the address says which it is."""

from collections.abc import Callable, Mapping

import streamlit as st

from pages.shared.addresses import FIRST_TAB, tab_key
from pages.shared.controls import begin


def draw_tabs(page: str, draws: Mapping[str, Callable[[], None]]) -> None:
    """Tabs below a page's answer, by name; the first tells how to read it."""
    asked = st.query_params.get("tab")
    begin(tab_key(page), asked if asked in draws else FIRST_TAB)
    tabs = st.tabs(list(draws), key=tab_key(page), on_change="rerun")
    for draw, tab in zip(draws.values(), tabs, strict=True):
        if tab.open:
            with tab:
                draw()
