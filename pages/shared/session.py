"""What a visitor has on the table: the only module that writes to `st.session_state`.

Keys are "<page>.<name>". Streamlit drops the state of widgets that a page does not draw; what must outlive a change
of page (an upload, the last result) is kept here under keys of its own.
"""

import logging
import uuid
from typing import Any

import streamlit as st

from backend.contracts import Request, Result, Step
from backend.errors import Cancelled, PrismError
from backend.jobs import JobQueue, default_queue
from backend.service import InterpretService, local_service

log = logging.getLogger("prism")


def service() -> InterpretService:
    """The engine that answers the pages' requests."""
    return local_service()


def jobs() -> JobQueue:
    return default_queue()


def remember(key: str, value: Any) -> None:
    st.session_state[key] = value


def recall(key: str, default: Any = None) -> Any:
    return st.session_state.get(key, default)


def forget(key: str) -> None:
    st.session_state.pop(key, None)


def keep(key: str) -> None:
    """Keep a widget's value while its page is not shown (Streamlit would drop it)."""
    if key in st.session_state:
        st.session_state[key] = st.session_state[key]


def visitor() -> str:
    """An id of this browser session, for "latest wins"."""
    if "prism.visitor" not in st.session_state:
        st.session_state["prism.visitor"] = uuid.uuid4().hex
    return st.session_state["prism.visitor"]


def run_with_progress(request: Request, label: str) -> Result | None:
    """Run a request behind a progress bar and a cancel button; None when it was cancelled or refused.

    Clicking anything reruns the script: Streamlit then raises inside `on_step`, the engine sees its caller leave
    and stops the work.
    """
    bar = st.empty()

    def on_step(step: Step) -> None:
        bar.progress(step.fraction, text=f"{label}: {step.message}" if step.message else label)

    try:
        return service().run(request, on_step, session=f"{visitor()}.{request.kind}")
    except Cancelled:
        return None
    except PrismError as error:
        say(error)
        return None
    except Exception as error:
        say_fault(error)
        return None
    finally:
        bar.empty()


def say(error: PrismError) -> None:
    """One sentence, where the caller stands."""
    st.error(escape(error.sentence), icon=":material/error:")


def say_fault(error: Exception) -> None:
    """A fault of ours: an id for the person, the traceback for the log."""
    fault = uuid.uuid4().hex[:8]
    log.error("fault %s", fault, exc_info=error)
    st.error(f"Something went wrong on our side (fault {fault}). Your inputs are kept; try again.")


def escape(text: str) -> str:
    """Text of unknown origin as Markdown that shows it as it is."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()#+-!|<>~$:&" else c for c in text)


def draw_status() -> None:
    """Device and models in memory, at the foot of the sidebar."""
    status = service().status()
    with st.sidebar:
        st.caption(f":material/memory: {status.device}")
        if status.loaded:
            megabytes = status.model_bytes / 2**20
            names = escape(", ".join(status.loaded))
            st.caption(f":material/deployed_code: {len(status.loaded)} in memory ({megabytes:.1f} MB): {names}")
        else:
            st.caption(":material/deployed_code: no model in memory yet")
