"""What each page answers and what it compares, drawn from the catalogue."""

import streamlit as st

from backend.catalog import FAMILIES, ROWS_OF

st.title("Prism")
st.markdown(
    "See what each part of an input does to a model. Every number on screen is computed from the input on screen."
)

for family in FAMILIES.values():
    with st.container(border=True):
        st.subheader(family.title)
        st.markdown(family.question)
        st.page_link(family.page, label=f"Open {family.title}", icon=family.icon)
        rows = ROWS_OF[family.key].values()
        with st.expander(f"What it compares ({len(rows)})"):
            for spec in rows:
                st.markdown(f"- **{spec.title}**: {spec.summary} *{spec.source}*")
