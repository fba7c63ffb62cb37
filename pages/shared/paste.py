"""Pictures from the clipboard: Streamlit's uploader takes files that are chosen or dropped, but not pasted."""

import re
from pathlib import Path

import streamlit as st

_component = st.components.v2.component(
    "prism_paste", html="<span hidden></span>", js=(Path(__file__).parent / "client" / "paste.js").read_text()
)


def paste_into(uploader: str) -> None:
    """A picture that is pasted anywhere on the page goes into the uploader with this key."""
    as_class = re.sub(r"[^a-zA-Z0-9_-]", "-", uploader)  # as Streamlit names the element of a key
    _component(key=f"{uploader}.paste", data={"uploader": as_class})
