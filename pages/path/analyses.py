"""Looking closer, on demand: how to read a map, the path player, sensitivity-N, the sanity check."""

import functools

import streamlit as st

from backend.catalog import METHODS
from backend.contracts import PathRequest, RandomisationRequest, Request, Result, SensitivityRequest
from pages.path.board import Answer, Board
from pages.path.evaluation import show_evaluation
from pages.path.numbers import randomisation_curves, sensitivity_curves, stage_panels
from pages.path.views import kept
from pages.shared.addresses import FIRST_TAB
from pages.shared.controls import refused
from pages.shared.figures import PLOT_OPTIONS, RANDOMISATION_AXES, SENSITIVITY_AXES, Display, plot_curves
from pages.shared.map_grid import map_grid
from pages.shared.path_player import path_player
from pages.shared.reading import describe
from pages.shared.session import recall, remember
from pages.shared.tabs import draw_tabs

PATH_METHODS = tuple(key for key, spec in METHODS.items() if spec.has_path)


def show_analyses(board: Board) -> None:
    """Looking closer: tabs below the maps."""
    draws = {
        FIRST_TAB: _show_reading,
        "Path player": _show_player,
        "Sensitivity-N": _show_sensitivity,
        "Sanity check": _show_sanity,
        "The table": _show_table,
    }
    draw_tabs("path", {name: functools.partial(draw, board) for name, draw in draws.items()})


def _asked(board: Board, request: Request, doing: str) -> Result | None:
    """The answer if it is there; else it is put on the board's list and its place says what is being done."""
    answer: Answer | None = board.answer(request)
    if isinstance(answer, Result):
        return answer
    if answer is None:
        board.extras.append(request)
        st.caption(f":material/hourglass_top: {doing}")
    else:
        refused(answer.sentence)
    return None


# ----------------------------------------------------------------- how to read this
def _show_reading(board: Board) -> None:
    st.markdown(
        "A map shares the class's score out among the pixels: **red** pixels raise it, **blue** ones lower it, white "
        "ones do nothing. Where a method promises **completeness**, its values sum to the change of the score from the "
        "baseline to the image, and the gap beside the map says how far the sum is off. Two maps may disagree and both "
        "be right about different questions; **deletion** (lower is better) and **insertion** (higher is better) "
        "check each against the model itself."
    )
    st.latex(r"\sum_j a_j = f(x) - f(x^0), \qquad f\ \text{the logit of the class},\ x^0\ \text{the baseline}")
    st.caption(
        "A map speaks of this model on this picture; it does not say that the model is right, nor why the world is so. "
        "Deleted pixels make pictures that the model never saw, and the areas depend on what they become."
    )
    for method in board.settings.methods:
        describe(METHODS[method])


# ----------------------------------------------------------------- path player
def _show_player(board: Board) -> None:
    methods = [method for method in PATH_METHODS if method in board.settings.methods]
    if not methods:
        st.caption("Choose SAMP++, SAMP or SAMP joint among the methods: theirs is the path that can be played.")
        return
    method = _choose_method("path.played", methods)
    st.markdown(
        "SAMP moves pixels one handful after the other, those first that change the score most. Drag, press play, or "
        "use the arrow keys; the other direction is drawn behind."
    )
    result = _asked(board, PathRequest(board.attribution(method)), "following the path")
    if result is not None:
        path_player(result, key="path.player")
        if len(board.settings.baselines) > 1:
            st.caption(f"Shown on the first baseline, {result.values['baseline']}.")


def _choose_method(key: str, methods: list[str]) -> str:
    if recall(key) not in methods:
        remember(key, methods[0])
    if len(methods) == 1:
        return methods[0]
    return st.selectbox("Method", methods, format_func=lambda method: METHODS[method].title, key=key, width=260)


# ----------------------------------------------------------------- sensitivity-N
def _show_sensitivity(board: Board) -> None:
    st.markdown(
        "Random sets of pixels are deleted. A faithful map's sum over the set predicts how far the score drops: the "
        "curve is the correlation between both, over 100 sets of each size."
    )
    if not board.is_settled or not board.answered:
        return
    settings = board.settings
    request = SensitivityRequest(board.answered, baseline=settings.replacement, seed=settings.seed)
    result = _asked(board, request, "deleting random sets of pixels")
    if result is not None:
        plots = kept((request,), lambda: [plot_curves(sensitivity_curves(result), SENSITIVITY_AXES, True, log_x=True)])
        st.plotly_chart(plots[0], key="path.sensitivity", config=PLOT_OPTIONS)


# ----------------------------------------------------------------- sanity check
def _show_sanity(board: Board) -> None:
    st.markdown(
        "The layers of a copy of the model are replaced by random ones, from the output downwards. A map that hardly "
        "changes (correlation stays near 1) does not depend on what the model learned. "
        "Adebayo et al., Sanity Checks for Saliency Maps, 2018."
    )
    methods = [request.method for request in board.answered]
    if not methods:
        return
    method = _choose_method("path.sane", methods)
    request = RandomisationRequest(board.attribution(method))
    result = _asked(board, request, "randomising layer after layer")
    if result is None:
        return
    plots = kept((request,), lambda: [plot_curves(randomisation_curves(result), RANDOMISATION_AXES, True)])
    st.plotly_chart(plots[0], key="path.sanity.curve", config=PLOT_OPTIONS)
    map_grid(
        board.prediction.arrays["pixels"],
        stage_panels(result),
        Display(scale="own"),
        key="path.sanity.maps",
        description=board.picture.alt,
    )


def _show_table(board: Board) -> None:
    show_evaluation(board.settings.model)
