"""What each page answers and what it compares, drawn from the catalogue."""

import streamlit as st

from backend.catalog import FAMILIES, ROWS_OF, FamilySpec
from pages.shared.previews import preview_of
from pages.shared.theme import use_theme

COLUMNS = 2


def main() -> None:
    use_theme()
    st.title("Prism")
    st.markdown(
        "See what each part of an input does to a model. Every number about an input is computed from it; stored "
        "tables name the command that made them."
    )
    families = list(FAMILIES.values())
    for start in range(0, len(families), COLUMNS):
        row = families[start : start + COLUMNS]
        for column, family in zip(st.columns(COLUMNS), row, strict=True):
            with column, st.container(border=True):
                draw_family(family)


def draw_family(family: FamilySpec) -> None:
    st.image(preview_of(family.key), caption=family.preview, alt=family.preview, width="stretch", output_format="PNG")
    st.subheader(family.title)
    st.markdown(family.question)
    st.page_link(family.page, label=f"Open {family.title}", icon=family.icon)
    rows = ROWS_OF[family.key].values()
    with st.expander(f"What it compares ({len(rows)})"):
        for spec in rows:
            st.markdown(f"- **{spec.title}**: {spec.summary} *{spec.source}*")


main()
