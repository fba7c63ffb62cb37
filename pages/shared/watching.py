"""A running job as a person sees it."""

import streamlit as st

from backend.jobs import ENDED, JobQueue

EVERY_S = 1.0  # how often a running job is looked at


@st.fragment(run_every=EVERY_S)
def watch(queue: JobQueue, job_id: str, doing: str, *, key: str) -> None:
    """Progress of a running evaluation; it goes on when the page is left, and is found again when it is opened.

    Args:
        doing: what is done to the model, "Evaluating".
        key: of the button that cancels.
    """
    status = queue.status(job_id)
    if status.state in ENDED:
        st.rerun()
    st.progress(status.step.fraction, text=f"{doing} {status.args['model']}: {status.message or status.state}")
    if st.button("Cancel", icon=":material/stop_circle:", key=key):
        queue.cancel(job_id)
