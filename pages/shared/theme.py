"""The little that the theme's file cannot say."""

import streamlit as st

_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 2.6rem; padding-bottom: 4rem; }
[data-testid="stMainBlockContainer"] h1 { padding-top: 0; padding-bottom: 0.2rem; font-size: 2rem; }
@media (max-width: 640px) { [data-testid="stMainBlockContainer"] { padding: 4rem 1rem; } }
</style>"""


def use_theme() -> None:
    """Bring the first picture up to where it is seen without scrolling. Called once by every page."""
    st.html(_STYLE)
