"""What each method answers, drawn from the catalogue."""

import streamlit as st

from backend.catalog import FAMILIES, METHODS

st.title("Prism")
st.markdown(
    "See what each part of an input does to a model. Every number on screen is computed from the input on screen."
)

for family in FAMILIES.values():
    with st.container(border=True):
        st.subheader(family.title)
        st.markdown(family.question)
        st.page_link(family.page, label=f"Open {family.title}", icon=family.icon)

st.subheader("Methods")
groups: dict[str, list] = {}
for spec in METHODS.values():
    groups.setdefault(spec.group, []).append(spec)
for group, specs in groups.items():
    st.markdown(f"**{group.capitalize()}**")
    for spec in specs:
        st.markdown(f"- **{spec.title}**: {spec.summary} *{spec.source}*")
