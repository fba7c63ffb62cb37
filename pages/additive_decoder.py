"""Additive decoders: recombine what was never seen together, and see when theory breaks."""

import dataclasses

import streamlit as st

from backend.catalog import FAMILIES
from backend.contracts import OnStep, Request, Step
from backend.errors import Cancelled
from pages.decoder import inputs
from pages.decoder.bench import bench
from pages.decoder.board import Drawn, Refusal, draw, figures_request, known, work_off
from pages.decoder.numbers import figures_table
from pages.decoder.settings import Case, Settings, seeded
from pages.shared.controls import refused
from pages.shared.tables import draw_table
from pages.shared.theme import use_theme

family = FAMILIES["additive_decoding"]


def show_progress(place, title: str) -> OnStep:
    """A progress bar in its place; the first thing drawn after a click ends the work."""
    bar = place.progress(0.0, text=title)

    def on_step(step: Step) -> None:
        bar.progress(step.fraction, text=f"{title}: {step.message}" if step.message else title)

    return on_step


def choose() -> tuple[Settings, Case]:
    """What the sidebar says."""
    settings = inputs.first_settings()
    with st.sidebar:
        case = inputs.choose_case(settings, None)
        titles = {key: inputs.decoder_title(key) for key in case.decoders}
        kinds = inputs.choose_decoders(settings, case, titles)
        training_seed = inputs.choose_training_seed(settings, kinds)
        settings = dataclasses.replace(settings, case=case.key, kinds=kinds, training_seed=training_seed)
        return inputs.choose_grid(settings, 4 if case.key == "four" else 2, case.key not in PLANES), case


PLANES = ("plane", "dependent", "four")

use_theme()
st.title(family.title)
st.caption(family.question)
settings, case = choose()
inputs.note_settings(settings)
headline, progress = st.container(), st.empty()

decoders: list[Drawn] = []
for key in settings.kinds:
    title = inputs.decoder_title(key)
    drawn = draw(
        seeded(key, settings.training_seed),
        title,
        (settings.rows, settings.columns),
        (settings.down, settings.across),
        settings.seed,
        show_progress(progress, f"Drawing {title}"),
    )
    if isinstance(drawn, Refusal):
        refused(f"{title}: {drawn.sentence}")
    else:
        decoders.append(drawn)
progress.empty()
with headline:
    st.markdown(case.sentence)
if decoders:
    bench(decoders, (settings.down, settings.across), key="decoder.bench")
    columns, rows = figures_table(decoders)
    draw_table("How well are unseen combinations drawn?", columns, rows)
    missing: list[Request] = [figures_request(drawn.key) for drawn in decoders]
    if any(request not in known() for request in missing):
        try:
            is_new = work_off(missing, lambda request: show_progress(progress, f"Measuring {request.model}"))
        except Cancelled:  # a newer request of this visitor took over, in another tab perhaps
            is_new = False
        progress.empty()
        if is_new:
            st.rerun()
