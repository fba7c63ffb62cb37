"""The answer on screen: who sees what, the maps, the numbers, the curves."""

import dataclasses
from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

from backend.catalog import METHODS
from backend.contracts import Result
from pages.path import takeaway
from pages.path.board import Board, Refusal
from pages.path.inputs import class_names, note_settings
from pages.path.numbers import faithfulness_curves, panels, score_reason, table
from pages.path.settings import SCORES
from pages.shared.controls import begin, refused
from pages.shared.figures import PLOT_OPTIONS, format_value, plot_curves
from pages.shared.map_grid import map_grid
from pages.shared.session import escape, recall, remember
from pages.shared.tables import draw_table

REPLACEMENTS = ("black", "blur:3", "mean", "white", "grey")
PLOTS_AT_MOST = 12  # kept for a visitor


def show_headline(board: Board) -> None:
    """One sentence: what the model sees, and what is explained."""
    names, top = class_names(board.prediction), board.prediction.values["top"][0]
    logit = float(board.prediction.arrays["logits"][board.target])
    model, label = escape(board.settings.model), escape(top["label"])
    sees = f"**{model}** sees **{label}** in this picture ({top['probability']:.1%})."
    explained = f"Explained: the logit of **{escape(names(board.target))}**, {format_value(logit)}"
    known = next((result for result in board.results if METHODS[result.request.method].uses_baseline), None)
    if known is not None:
        baselines = ", ".join(board.settings.baselines)
        explained += f"; on the baseline ({escape(baselines)}) it is {format_value(known.values['baseline_score'])}"
    st.markdown(f"{sees} {explained}.")


def _notes(board: Board) -> list[str]:
    """What was done to the work that a person should know, each said once."""
    notes = [
        f"{METHODS[result.request.method].title}: {note}"
        for result in board.results
        for note in result.provenance.notes
    ]
    return list(dict.fromkeys(notes))


@st.fragment
def show_maps(board: Board, waiting: str) -> None:
    """The maps and what can be taken away; a change of display redraws nothing else."""
    pixels = board.prediction.arrays["pixels"]
    settings = recall("path.settings")
    shown = panels(board, waiting)
    display = map_grid(
        pixels,
        shown,
        settings.display,
        key="path.maps",
        description=board.picture.alt,
        mask=board.picture.mask(*pixels.shape[:2]),
    )
    if display != settings.display:
        settings = dataclasses.replace(settings, display=display)
        note_settings(settings)
    for note in (*board.picture.notes, *_notes(board)):
        st.caption(f":material/info: {escape(note)}")
    takeaway.show(board, shown, settings)


def show_numbers(board: Board) -> None:
    """The table of metrics, with the choices that only it depends on."""
    columns, rows = table(board, board.settings.score)
    if rows:
        draw_table("How good are these maps?", columns, rows)
        reason = score_reason(board, board.settings.score)
        if reason:
            refused(f"Deletion and insertion are not defined by this score: {reason}. Choose another score.")


def choose_metrics() -> tuple[str, str]:
    """What a deleted pixel becomes, and which score the areas are of."""
    settings = recall("path.settings")
    begin("path.replacement", settings.replacement)
    begin("path.score", settings.score)
    options = (
        REPLACEMENTS if recall("path.replacement") in REPLACEMENTS else (*REPLACEMENTS, recall("path.replacement"))
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        score = st.segmented_control(
            "Score",
            SCORES,
            key="path.score",
            required=True,
            help="ratio: f(xₖ) / f(x) on logits, as in the paper's table; normalised: the baseline's score is 0, the "
            "image's 1; probability: the class's softmax probability.",
        )
        replacement = st.selectbox(
            "Deleted pixels become", options, key="path.replacement", width=200, help="The baseline of the metrics."
        )
    return replacement, score


def show_curves(board: Board) -> None:
    """Deletion and insertion of all methods, drawn together."""
    sweep = board.answer(board.faithfulness) if board.faithfulness else None
    if isinstance(sweep, Refusal):
        refused(sweep.sentence)
    if not isinstance(sweep, Result):
        return
    score = board.settings.score

    def plots() -> list[go.Figure]:
        return [plot_curves(curves, axes) for axes, curves in faithfulness_curves(sweep, score)]

    for i, (column, plot) in enumerate(zip(st.columns(2), kept((board.faithfulness, score), plots), strict=False)):
        column.plotly_chart(plot, key=f"path.curves.{i}", config=PLOT_OPTIONS)


def kept(key: tuple, make: Callable[[], list[go.Figure]]) -> list[go.Figure]:
    """Plots of an answer, made once: plotly takes longer to build them than the rest of the page together."""
    plots = recall("path.plots")
    if plots is None or (key not in plots and len(plots) >= PLOTS_AT_MOST):
        plots = {}
        remember("path.plots", plots)
    if key not in plots:
        plots[key] = make()
    return plots[key]


# ----------------------------------------------------------------- progress
def is_stopped(board: Board) -> bool:
    """Whether the person stopped the work on exactly these settings."""
    return recall("path.stopped") == _what(board)


def _what(board: Board) -> tuple:
    return board.picture.id, dataclasses.replace(board.settings, display=None)


def stop_button(board: Board) -> None:
    """Clicking reruns the page, and with it the engine stops what nobody waits for any more."""
    st.button(
        "Cancel",
        icon=":material/stop_circle:",
        key="path.cancel",
        on_click=remember,
        args=("path.stopped", _what(board)),
    )


def continue_button() -> None:
    st.button(
        "Continue", icon=":material/play_arrow:", key="path.continue", on_click=remember, args=("path.stopped", None)
    )
