"""A model of the visitor's own data: fitted as a job, watched, found again, shown, taken away, forgotten."""

import time

import streamlit as st

from backend.additive_image import own_store
from backend.additive_image.own_store import ENCODERS, JOB_KIND
from backend.catalog.additive_image import FAMILY
from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from pages.additive.own_data import Own, ask_for_data
from pages.additive.settings import OWN
from pages.shared.controls import begin, refused
from pages.shared.session import brought, escape, forget, jobs, recall, remember

EVERY_S = 1.0  # how often a running job is looked at
ON_DISK = (
    "For the training, the rows and pictures that can be used are written to this machine's disk; “Forget” deletes "
    "them with the model. Whoever can open this page sees what was trained here. **Do not bring health data here.**"
)


def own_models() -> dict[str, str]:
    """Keys and titles of the models that were fitted here, the newest first, then of those that were brought."""
    fitted = {f"{OWN}{job.id}": _title(job) for job in own_store.fits(jobs()) if job.state == "done"}
    return fitted | {key: f"Yours: {spec.title}" for key, spec in brought(FAMILY).items()}


def _title(job: JobStatus) -> str:
    return f"Yours: {job.args['title']}, {time.strftime('%d %b %H:%M', time.localtime(job.submitted))}"


def show_own_data() -> None:
    """From two files to a fitted model; what was fitted before is listed below."""
    st.subheader("Your own table and pictures")
    st.markdown(
        "A table with one row for each picture, a column that names the pictures, a column to be explained. You get "
        "what every page of the examples has: a curve for each column, and the picture's effect under your finger."
    )
    own = ask_for_data()
    if own is not None:
        _offer_training(own)
    _show_jobs()


def _offer_training(own: Own) -> None:
    begin("additive.own.encoder", "short")
    begin("additive.own.seed", 0)
    with st.container(border=True):
        encoder = st.radio(
            "How the pictures are seen", list(ENCODERS), format_func=lambda key: ENCODERS[key].title,
            key="additive.own.encoder",
        )  # fmt: skip
        st.caption(f"**It can show:** {ENCODERS[encoder].can}  \n**It cannot:** {ENCODERS[encoder].cannot}")
        _say_why_not(encoder)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            seed = st.number_input("Seed", 0, 10_000, key="additive.own.seed", width=140)
            is_wanted = st.button(
                "Train",
                icon=":material/model_training:",
                key="additive.own.train",
                type="primary",
                disabled=own.dataset is None,
            )
        st.caption(ON_DISK)
    if is_wanted and own.dataset is not None:
        try:
            data = own_store.keep(own.dataset)
            title = f"{own.choices.target} of {own.dataset.name}"
            args = {"data": data, "encoder": encoder, "seed": int(seed), "title": title}
            remember("additive.own.job", jobs().submit(JOB_KIND, args))
        except PrismError as error:
            refused(error.sentence)


def _say_why_not(encoder: str) -> None:
    """Why the training that was asked for here last failed, beside the choice that it failed for."""
    failed = next((job for job in own_store.fits(jobs()) if job.id == recall("additive.own.job")), None)
    if failed is not None and failed.error_field == "encoder" and failed.args["encoder"] == encoder:
        refused(failed.error)


# ----------------------------------------------------------------- jobs
def _show_jobs() -> None:
    """The trainings of this installation, the newest first."""
    found = own_store.fits(jobs())
    if not found:
        return
    st.subheader("Trained here")
    for job in found:
        if job.state in ENDED:
            _draw_job(job)
        else:
            _watch(job.id)


@st.fragment(run_every=EVERY_S)
def _watch(job_id: str) -> None:
    """Progress of a running job; it goes on when the page is left, and is found again when it is opened."""
    status = jobs().status(job_id)
    if status.state in ENDED:
        st.rerun()
    with st.container(border=True):
        st.progress(status.step.fraction, text=f"{escape(status.args['title'])}: {status.message or status.state}")
        if st.button("Cancel", icon=":material/stop_circle:", key=f"additive.own.cancel.{job_id}"):
            jobs().cancel(job_id)


def _draw_job(job: JobStatus) -> None:
    """One training that has ended, with what can be done with it."""
    encoder = own_store.find_encoder(job.args["encoder"])
    name = escape(f"{_title(job).removeprefix('Yours: ')}, {encoder.title}, seed {job.args['seed']}")
    with st.container(border=True):
        if job.state == "done":
            score = jobs().result(job.id)["held_out_score"]
            st.markdown(
                f":material/check_circle: **{name}** · share of the deviance explained on unseen rows {score:.3f}"
            )
        elif job.state == "failed":
            refused(f"{_title(job)}: {job.error}")
        else:
            st.caption(f"Cancelled: {name}.")
        with st.container(horizontal=True):
            if job.state == "done":
                st.button(
                    "Show it", icon=":material/arrow_upward:", key=f"additive.own.show.{job.id}", on_click=_show,
                    args=(f"{OWN}{job.id}",), type="primary",
                )  # fmt: skip
                queue = jobs()
                st.download_button(
                    "Model", lambda: own_store.pack_model(queue, job.id), "model.zip", "application/zip",
                    key=f"additive.own.pack.{job.id}", icon=":material/download:", on_click="ignore",
                    help="Weights and cards. Curves, frames and the report are on its page.",
                )  # fmt: skip
            elif st.button("Train again", icon=":material/play_arrow:", key=f"additive.own.again.{job.id}"):
                jobs().submit(JOB_KIND, job.args)
                st.rerun()
            key = f"additive.own.forget.{job.id}"
            st.button("Forget", icon=":material/delete:", key=key, on_click=_forget, args=(job.id,))


def _show(key: str) -> None:
    remember("additive.model", key)
    forget("additive.ends")


def _forget(job_id: str) -> None:
    own_store.forget(jobs(), job_id)
    if recall("additive.model") == f"{OWN}{job_id}":
        forget("additive.model")
