"""What a visitor has on the table: the only module that writes to `st.session_state`.

Keys are "<page>.<name>". Streamlit drops the state of widgets that a page does not draw; what must outlive a change
of page (an upload, the last result) is kept here under keys of its own.
"""

import uuid
from typing import Any

import streamlit as st

from backend import engines
from backend.catalog import ModelSpec
from backend.errors import PrismError
from backend.jobs import Jobs
from backend.service import InterpretService


def service() -> InterpretService:
    """The engine that answers the pages' requests, here or on another machine."""
    return engines.service()


def brought(task: str) -> dict[str, ModelSpec]:
    """The user's own models for a task, by key: from models.toml or the Models page."""
    specs = (status.spec for status in service().models())
    return {spec.key: spec for spec in specs if spec.source == "local" and spec.task == task}


def jobs() -> Jobs:
    """The queue of long work, beside that engine."""
    return engines.jobs()


def remember(key: str, value: Any) -> None:
    st.session_state[key] = value


def recall(key: str, default: Any = None) -> Any:
    return st.session_state.get(key, default)


def forget(key: str) -> None:
    st.session_state.pop(key, None)


def visitor() -> str:
    """An id of this browser session, for "latest wins"."""
    if "prism.visitor" not in st.session_state:
        st.session_state["prism.visitor"] = uuid.uuid4().hex
    return st.session_state["prism.visitor"]


def say(error: PrismError) -> None:
    """One sentence, where the caller stands."""
    st.error(escape(error.sentence), icon=":material/error:")


def escape(text: str) -> str:
    """Text of unknown origin as Markdown that shows it as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-!|<>~$:&" else c for c in text)


def draw_status() -> None:
    """Device and models in memory, at the foot of the sidebar."""
    status = service().status()
    with st.sidebar:
        st.caption(f":material/memory: {escape(status.device)}")
        if sentence := engines.trouble():
            st.warning(escape(sentence), icon=":material/cloud_off:")
        if status.loaded:
            megabytes = status.model_bytes / 2**20
            names = escape(", ".join(status.loaded))
            st.caption(f":material/deployed_code: {len(status.loaded)} in memory ({megabytes:.1f} MB): {names}")
        else:
            st.caption(":material/deployed_code: no model in memory yet")
        if status.waiting:
            st.caption(f":material/hourglass_top: {status.waiting} waiting, about {max(1, round(status.wait_s))} s")
