"""Image and text: where in the image does the model find each sentence, and which words carry it?"""

import dataclasses

import streamlit as st

from backend.catalog import FAMILIES, PAIR_METHODS
from backend.contracts import OnStep, PairMapRequest, ReportMapsRequest, Request, Step
from backend.errors import Cancelled
from pages.pairs import inputs, views
from pages.pairs.analyses import show_analyses
from pages.pairs.board import Board, work_off
from pages.pairs.heard_and_seen import show_heard_and_seen
from pages.shared.session import recall
from pages.shared.theme import use_theme

family = FAMILIES["image_text"]


def choose_board() -> Board:
    """Everything that is set in the sidebar, as one board of questions."""
    settings = inputs.first_settings()
    with st.sidebar:
        scene = inputs.choose_scene(settings)
        report = inputs.choose_report(settings, scene.picture)
        methods = inputs.choose_methods(settings)
        below_methods = st.container()
        params = inputs.tune(settings, methods)
        seed = inputs.choose_seed(settings)
    settings = dataclasses.replace(
        recall("pairs.settings"),
        model=scene.model,
        example=scene.picture.example or inputs.OWN,
        report="" if report.example else inputs.OWN,
        sentence=min(recall("pairs.sentence", settings.sentence), len(report.lines) - 1),
        methods=methods,
        params=params,
        seed=seed,
    )
    board = Board(settings, scene.picture, report, scene.seen)
    with below_methods:
        inputs.say_inapplicable(board.refusals)
    return board


def show_progress(place, request: Request) -> OnStep:
    """A progress bar in its place; the first thing drawn after a click ends the work."""
    title = doing(request)
    bar = place.progress(0.0, text=title)

    def on_step(step: Step) -> None:
        bar.progress(step.fraction, text=f"{title}: {step.message}" if step.message else title)

    return on_step


def doing(request: Request) -> str:
    if isinstance(request, ReportMapsRequest):
        n = len(request.sentences)
        return f"{PAIR_METHODS[request.method].title}, " + (f"{n} sentences" if n > 1 else "one sentence")
    if isinstance(request, PairMapRequest):
        return PAIR_METHODS[request.method].title
    return "Sanity check"


use_theme()
st.title(family.title)
st.caption(family.question)
warning = st.empty()
views.show_warning(warning, recall("pairs.good_model"))  # before anything can go wrong
board = choose_board()
views.show_warning(warning, board.settings.model)
is_stopped = views.is_stopped(board)
progress, cancel = st.empty(), st.empty()

views.show_findings(board.seen)
views.show_reading(board, "stopped" if is_stopped else "")
show_heard_and_seen(board)
show_analyses(board)

if is_stopped:
    with cancel:
        views.continue_button()
elif next(board.missing(), None) is not None:
    with cancel:
        views.stop_button(board)
    try:
        is_new = work_off(board, lambda request: show_progress(progress, request))
    except Cancelled:  # a newer request of this visitor took over, in another tab perhaps
        is_new = False
    progress.empty()
    if is_new:
        st.rerun()
