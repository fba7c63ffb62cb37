"""The little that the theme's file cannot say."""

import streamlit as st

_STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding-top: 2.6rem; padding-bottom: 4rem; }
[data-testid="stMainBlockContainer"] h1 { padding-top: 0; padding-bottom: 0.2rem; font-size: 2rem; }
[data-testid="stCaptionContainer"] { opacity: 0.78; }
[data-testid="stImageCaption"] { opacity: 1; }
[data-testid="stApp"] :is(button[kind^="primary"], [data-testid="stMultiSelectTagsContainer"] > [role="group"] *) {
  color: light-dark(#fff, #16150f);
}
.js-plotly-plot :is(.xtitle, .ytitle, .xtick text, .ytick text) { fill: currentColor !important; fill-opacity: 0.85; }
.katex-display { overflow-x: auto; overflow-y: hidden; padding: 0.2rem 0; }
@media (max-width: 640px) {
  [data-testid="stMainBlockContainer"] { padding: 4rem 1rem; }
  .katex-display > .katex { font-size: 1em; }
}
</style>"""


def use_theme() -> None:
    """Bring the first picture up to where it is seen without scrolling, and small print to a contrast of 4.5 at least.

    Called once by every page.
    """
    st.html(_STYLE)
