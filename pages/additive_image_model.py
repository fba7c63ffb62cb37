"""Additive image models: what each column of a table does, and, between two pictures, what the picture does."""

import dataclasses
import functools

import streamlit as st

from backend.catalog import FAMILIES
from backend.contracts import OnStep, Result, Step
from backend.errors import Cancelled
from pages.additive import inputs, takeaway
from pages.additive.additivity import DROPPED, TIED, show_additivity, show_tied_case
from pages.additive.attributes import show_attributes
from pages.additive.board import (
    Refusal,
    answered,
    ask,
    comparison_request,
    effects_request,
    gallery_request,
    path_request,
    record_request,
    shapes_request,
)
from pages.additive.corners import show_corners
from pages.additive.evaluation import show_evaluation
from pages.additive.inputs import Ends
from pages.additive.path import Running, draw_numbers, draw_path, ticket_of
from pages.additive.reading import show_reading
from pages.additive.record import show_record, values_of
from pages.additive.settings import NOTES, OWN_DATA, Settings
from pages.additive.shapes import draw_shapes, importance_table
from pages.additive.stochastic import show_stochastic
from pages.additive.training import own_models, show_own_data
from pages.shared.addresses import FIRST_TAB
from pages.shared.controls import refused
from pages.shared.session import recall
from pages.shared.tables import draw_table
from pages.shared.tabs import draw_tabs
from pages.shared.theme import use_theme

family = FAMILIES["additive_image"]


def choose() -> tuple[Settings, Result, Ends] | None:
    """What the sidebar says; None: own data are brought, or there is nothing to show, and it was said why."""
    settings = inputs.first_settings()
    with st.sidebar:
        model = inputs.choose_model(settings)
    if model != settings.model and settings.model:
        settings = dataclasses.replace(settings, ends=None)  # rows of another table
    settings = dataclasses.replace(settings, model=model)
    if model == OWN_DATA:
        inputs.note_settings(dataclasses.replace(settings, ends=None))
        show_own_data()
        return None
    pictures = ask(gallery_request(model))
    if isinstance(pictures, Refusal):
        refused(pictures.sentence)
        return None
    with st.sidebar:
        ends = inputs.choose_ends(settings, pictures)
        settings = inputs.choose_path(settings)
    if ends is None:
        return None
    record = recall("additive.record", settings.record)
    settings = dataclasses.replace(settings, ends=ends.rows, record=None if record is None else int(record))
    inputs.note_settings(settings)
    return settings, pictures, ends


def show_progress(place, title: str) -> OnStep:
    """A progress bar in its place; the first thing drawn after a click ends the work."""
    bar = place.progress(0.0, text=title)

    def on_step(step: Step) -> None:
        bar.progress(step.fraction, text=f"{title}: {step.message}" if step.message else title)

    return on_step


def show_more(settings: Settings, pictures: Result, ends: Ends) -> None:
    """Looking closer: tabs below the strip."""
    row = next((row for row in ends.rows if row >= 0), 0)

    def attributes(place) -> None:
        show_attributes(settings, row, has_attributes(pictures), show_progress(place, "Following attributes"))

    def codes(place) -> None:
        show_stochastic(path_request(settings, ends.image_ids), ends, show_progress(place, "Decoding both ends"))

    draws = {
        FIRST_TAB: lambda _: show_reading(),
        "One record": lambda _: show_record(settings.model, ends.rows, explained_row(settings, ends)),
        "What in the picture?": attributes,
        "How good is the sum?": lambda place: show_additivity(settings, show_progress(place, "Fitting other models")),
        "Four corners": lambda place: show_corners(settings, pictures, show_progress(place, "Decoding the square")),
        "Two codes": codes,
    }

    def with_progress(draw) -> None:
        place = st.empty()
        draw(place)
        place.empty()

    draw_tabs("additive", {name: functools.partial(with_progress, draw) for name, draw in draws.items()})


def explained_row(settings: Settings, ends: Ends) -> int:
    """The row that is explained: the one that was chosen, else that of an end."""
    first = next((row for row in ends.rows if row >= 0), 0)
    return int(recall("additive.record", first if settings.record is None else settings.record))


def has_attributes(pictures: Result) -> bool:
    """Whether somebody said what is seen in the pictures."""
    return any(name.startswith("attribute_") for name in pictures.arrays)


def show_page(settings: Settings, pictures: Result, ends: Ends) -> None:
    if note := NOTES.get(settings.model):
        st.info(note, icon=":material/info:")
    frames, progress, home, numbers = st.empty(), st.empty(), st.container(), st.container()
    request = path_request(settings, ends.image_ids)
    path, shapes = answered(request), ask(shapes_request(settings.model))
    explained = ask(record_request(settings.model, explained_row(settings, ends)))
    record = explained if isinstance(explained, Result) else None
    if path is not None:
        with home:
            draw_path(path, ends.shown, ticket=ticket_of(request))
        with numbers:
            draw_numbers(path, ends.shown.titles)
            takeaway.show(
                takeaway.Answered(
                    settings,
                    inputs.title_of(settings.model, own_models()),
                    ends.shown.titles,
                    path,
                    shapes if isinstance(shapes, Result) else None,
                    answered(comparison_request(settings)),
                    answered(effects_request(settings)),
                    record,
                )
            )
    if isinstance(shapes, Result):
        st.subheader("What the columns do")
        is_marked = record is not None and recall("additive.tab") == "One record"
        marks = values_of(record) if is_marked else None
        draw_shapes(shapes, marks, f"row {explained_row(settings, ends)}", key="additive.shapes")
        draw_table("Importance", *importance_table(shapes))
        show_evaluation(settings.model, shapes.values["link"])
        if settings.model in (TIED, DROPPED):
            show_tied_case(is_open=True)
    else:
        refused(shapes.sentence)
    if path is None:
        decode(request, ends, Running(home, frames, progress, ends.shown, ticket_of(request)))
    show_more(settings, pictures, ends)


def decode(request, ends: Ends, running: Running) -> None:
    """Ask for the path that is missing, and draw it while it comes."""
    try:
        answer = ask(request, running.on_step, ends.put)
    except Cancelled:  # a newer request of this visitor took over, in another tab perhaps
        st.stop()
    running.progress.empty()
    if isinstance(answer, Refusal):
        refused(answer.sentence)
    else:
        st.rerun()


use_theme()
st.title(family.title)
st.caption(family.question)
chosen = choose()
if chosen is not None:
    show_page(*chosen)
