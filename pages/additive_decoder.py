"""Additive decoders: recombine what was never seen together, and see when theory breaks."""

import dataclasses

import streamlit as st

from backend.catalog import FAMILIES
from backend.contracts import OnStep, Step
from backend.errors import Cancelled
from pages.decoder import inputs, takeaway
from pages.decoder.assumptions import show_assumptions
from pages.decoder.bench import bench, tables_sentence
from pages.decoder.board import Drawn, Refusal, draw, figures_request, known, work_off
from pages.decoder.evaluation import show_evaluation
from pages.decoder.failures import show_failures
from pages.decoder.numbers import figures_table
from pages.decoder.reading import show_reading
from pages.decoder.settings import PLANAR, Case, Settings, cases_here, seeded, title_of
from pages.decoder.training import own_case, show_training
from pages.shared.addresses import FIRST_TAB
from pages.shared.controls import refused
from pages.shared.tables import draw_table
from pages.shared.tabs import draw_tabs
from pages.shared.theme import use_theme

family = FAMILIES["additive_decoding"]


def show_progress(place, title: str) -> OnStep:
    """A progress bar in its place; the first thing drawn after a click ends the work."""
    bar = place.progress(0.0, text=title)

    def on_step(step: Step) -> None:
        bar.progress(step.fraction, text=f"{title}: {step.message}" if step.message else title)

    return on_step


def choose() -> tuple[Settings, Case] | None:
    """What the sidebar says; None: there is no trained decoder at all."""
    settings, own = inputs.first_settings(), own_case()
    if not own and not cases_here():
        return None
    with st.sidebar:
        case = inputs.choose_case(settings, own)
        kinds = inputs.choose_decoders(settings, case)
        training_seed = inputs.choose_training_seed(settings, kinds)
        settings = dataclasses.replace(settings, case=case.key, kinds=kinds, training_seed=training_seed)
        settings = inputs.choose_grid(settings, 4 if case.key == "four" else 2, case.key not in PLANAR)
    return settings, case


def draw_decoders(settings: Settings, case: Case, progress) -> list[Drawn]:
    """Everything that is drawn of the chosen decoders; one that cannot be had says why."""
    decoders = []
    for key in settings.kinds:
        title = title_of(case, key)
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
    return decoders


def show_more(case: Case, decoders: list[Drawn]) -> None:
    """Looking closer: tabs below the grids."""
    draws = {
        FIRST_TAB: lambda: show_reading(decoders),
        "Which assumption holds?": lambda: show_assumptions(decoders),
        "Train your own": show_training,
        "When it breaks": show_failures,
        "The table": lambda: show_evaluation(case),
    }
    draw_tabs("decoder", draws)


use_theme()
st.title(family.title)
st.caption(family.question)
chosen = choose()
if chosen is None:
    st.info(
        "No trained decoders lie here: `python -m backend train balls-l-additive` makes the first. Or train one now."
    )
    show_training()
    st.stop()
settings, case = chosen
inputs.note_settings(settings)
st.markdown(case.sentence)
progress = st.empty()
decoders = draw_decoders(settings, case, progress)
if decoders:
    bench(decoders, (settings.down, settings.across), key="decoder.bench")
    if sentence := tables_sentence(decoders):
        st.caption(sentence)
    measuring = st.empty()
    draw_table("How well are unseen combinations drawn?", *figures_table(decoders))
    takeaway.show(case, settings, decoders)
show_more(case, decoders)

missing = [request for drawn in decoders if (request := figures_request(drawn.key)) not in known()]
if missing:
    try:
        is_new = work_off(missing, lambda request: show_progress(measuring, f"Measuring {request.model}"))
    except Cancelled:  # a newer request of this visitor took over, in another tab perhaps
        is_new = False
    measuring.empty()
    if is_new:
        st.rerun()
