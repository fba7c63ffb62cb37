"""How to read an answer: what gave it, as its row in the catalog says it."""

import streamlit as st

from backend.catalog import MethodSpec


def describe(spec: MethodSpec) -> None:
    """What it does, its equation, its limits and its source, in a frame."""
    with st.container(border=True):
        st.markdown(f"**{spec.title}** · {spec.summary}")
        st.latex(spec.equation)
        st.caption(f"Limits: {spec.limits}  \nSource: {spec.source}")
