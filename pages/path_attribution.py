"""Attribution compare: which pixels made the classifier say this class, and do two methods agree?"""

import dataclasses

import streamlit as st

from backend.catalog import FAMILIES, METHODS
from backend.contracts import AttributionRequest, OnStep, Request, Step
from backend.errors import Cancelled
from pages.path import inputs, views
from pages.path.analyses import show_analyses
from pages.path.board import Board, work_off
from pages.path.numbers import running_panel
from pages.shared.map_grid import running_map
from pages.shared.session import recall
from pages.shared.theme import use_theme

DOING = {
    "faithfulness": "Deleting and inserting pixels",
    "sensitivity": "Sensitivity-N",
    "randomisation": "Sanity check",
    "path": "Following the path",
}

family = FAMILIES["path_attribution"]


def choose_board() -> Board:
    """Everything that is set in the sidebar, as one board of questions."""
    settings = inputs.first_settings()
    with st.sidebar:
        scene = inputs.choose_scene(settings)
        target = inputs.choose_target(settings, scene.prediction)
        baselines = inputs.choose_baselines(settings)
        methods = inputs.choose_methods(settings)
        below_methods = st.container()
        params = inputs.tune(settings, methods)
        seed = inputs.choose_seed(settings)
    settings = dataclasses.replace(
        recall("path.settings"),
        model=scene.model,
        example=scene.picture.example or inputs.UPLOAD,
        target=target,
        baselines=baselines,
        methods=methods,
        params=params,
        seed=seed,
    )
    board = Board(settings, scene.picture, scene.prediction)
    with below_methods:
        inputs.say_inapplicable(board.refusals)
    return board


def show_progress(place, running, request: Request) -> OnStep:
    """A progress bar in its place, and the map as far as it is; the first thing drawn after a click ends the work."""
    title = METHODS[request.method].title if isinstance(request, AttributionRequest) else DOING[request.kind]
    bar, shown = place.progress(0.0, text=title), None

    def on_step(step: Step) -> None:
        nonlocal shown
        bar.progress(step.fraction, text=f"{title}: {step.message}" if step.message else title)
        if step.partial is not shown:
            shown = step.partial
            running_map(running, running_panel(request, step))

    return on_step


use_theme()
st.title(family.title)
st.caption(family.question)
board = choose_board()
headline, progress, cancel, running = st.container(), st.empty(), st.empty(), st.empty()
maps, numbers, curves = st.container(), st.container(), st.container()

with numbers:
    replacement, score = views.choose_metrics()
board = dataclasses.replace(board, settings=dataclasses.replace(board.settings, replacement=replacement, score=score))
inputs.note_settings(board.settings)
is_stopped = views.is_stopped(board)

with headline:
    views.show_headline(board)
with maps:
    views.show_maps(board, "stopped" if is_stopped else "")
with numbers:
    views.show_numbers(board)
with curves:
    views.show_curves(board)
show_analyses(board)

if is_stopped:
    with cancel:
        views.continue_button()
elif next(board.missing(), None) is not None:
    with cancel:
        views.stop_button(board)
    try:
        is_new = work_off(board, lambda request: show_progress(progress, running, request))
    except Cancelled:  # a newer request of this visitor took over, in another tab perhaps
        is_new = False
    progress.empty()
    running.empty()
    if is_new:
        st.rerun()
