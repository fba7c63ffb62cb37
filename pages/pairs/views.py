"""The answer on screen: the chosen sentence's map, the report's words, a map for each sentence, methods, numbers."""

import dataclasses

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.catalog import PAIR_METHODS
from backend.contracts import Result
from pages.pairs import takeaway
from pages.pairs.board import ON_A_PAGE, Board
from pages.pairs.explained import Explained, axes_of, shown
from pages.pairs.inputs import known_models, note_settings
from pages.pairs.material import Sound
from pages.pairs.numbers import (
    control_rows,
    known_boxes,
    large_panel,
    method_panels,
    method_table,
    report_groups,
    sentence_panels,
    word_table,
)
from pages.pairs.settings import WORD_VIEWS, Settings
from pages.pairs.words import word_board
from pages.shared.controls import begin
from pages.shared.exports import Column
from pages.shared.figures import format_value
from pages.shared.map_grid import Arrangement, arranged_maps
from pages.shared.session import escape, recall, remember
from pages.shared.tables import draw_table

SIMULATED = (
    "**cxr-clip is trained on simulated radiographs and is no medical device.** It has seen one patient's CT, posed "
    "and altered; what it says about a real radiograph is not evidence of anything."
)
OTHERS = "**Prism is no medical device.** Its maps say what a model uses, not what a patient has."


def show_warning(place: DeltaGenerator, model: str | None) -> None:
    """The line that is always there. Args: model: None: not chosen yet."""
    if model in takeaway.KNOWS:
        place.info(takeaway.KNOWS[model], icon=":material/info:")
    else:
        place.warning(OTHERS if model not in (None, "cxr-clip") else SIMULATED, icon=":material/warning:")


# ----------------------------------------------------------------- sentence, words, maps
def show_reading(board: Board, waiting: str) -> None:
    """Map and words of the chosen sentence, then every sentence, then every method."""
    settings = board.settings
    picture, words = st.columns([5, 6], gap="medium")
    with picture:
        settings = _show_large(board, settings, waiting)
    with words:
        settings = _show_words(board, settings, waiting)
    board = dataclasses.replace(board, settings=settings)
    _show_sentences(board, waiting)
    note_settings(settings)
    _show_methods(board, waiting)
    takeaway.show(board)


def _show_large(board: Board, settings: Settings, waiting: str) -> Settings:
    """The chosen sentence's map, as large as there is room, with boxes."""
    if isinstance(board.picture, Sound):
        st.audio(board.picture.data, format=board.picture.mime, start_time=board.picture.start_s)
    panel = large_panel(board, waiting)
    looked = arranged_maps(
        pixels(board),
        [panel],
        settings.display,
        Arrangement(
            "large",
            with_image=False,
            may_draw=True,
            boxes=tuple(known_boxes(board)),
            drawn=settings.box,
            axes=axes_of(board.seen),
        ),
        key="pairs.large",
        description=board.picture.alt,
    )
    for note in _notes(board):
        st.caption(f":material/info: {escape(note)}")
    return dataclasses.replace(settings, display=looked.display, box=looked.drawn)


def pixels(board: Board) -> np.ndarray:
    """What the model sees of the picture, (H, W, C) in [0, 1], sharper than it sees it; cut out once.

    Of a sound it is what the model hears: models differ in their spectrograms and in how long they are.
    """
    if board.picture.is_sound:
        return shown(board.seen)
    answer = board.best_known
    shape = tuple(answer.result.arrays["pixels"].shape[:2]) if answer is not None else _input_size(board.settings.model)
    key, kept = (tuple(board.picture.given.values()), shape), recall("pairs.pixels")
    if kept is None or kept[0] != key:
        kept = (key, board.picture.framed(shape))
        remember("pairs.pixels", kept)
    return kept[1]


def _input_size(model: str) -> tuple[int, int]:
    """As far as it is known before the model has answered."""
    spec = known_models().get(model)
    return (224, 224) if spec is None else spec.input_size


def _notes(board: Board) -> list[str]:
    """What was done to picture and text that a person should know, each said once."""
    answer = board.explained(board.chosen)
    of_answer = answer.provenance.notes if isinstance(answer, Explained) else ()
    return list(dict.fromkeys((*board.picture.notes, *of_answer)))


def _show_words(board: Board, settings: Settings, waiting: str) -> Settings:
    """The report with its words coloured, and the chosen sentence beside its control."""
    begin("pairs.words", settings.words)
    views = st.segmented_control(
        "Words coloured by",
        list(WORD_VIEWS),
        format_func=lambda view: WORD_VIEWS[view].replace("image", "sound" if board.picture.is_sound else "image"),
        key="pairs.words",
        required=True,
        help="What lies on each word before this image; before images that the report does not belong to (control); "
        "and the difference, which is what depends on this image.",
    )
    board = dataclasses.replace(board, settings=dataclasses.replace(settings, words=views))
    unit = PAIR_METHODS[settings.methods[0]].unit.replace(" per token", "")
    picked = word_board(
        "Report, sentence by sentence",
        report_groups(board, waiting),
        key="pairs.report_words",
        unit=unit,
        is_pickable=True,
    )
    _say_page(board)
    answer = board.explained(board.chosen)
    if isinstance(answer, Explained) and answer.words:
        st.markdown(f"**Sentence {board.chosen + 1} beside its control**")
        word_board(
            "The sentence and its control", [control_rows(answer, board.sentence)], key="pairs.control", unit=unit
        )
        st.caption(_counted(answer))
        with st.expander("Every word in numbers", icon=":material/table_rows:"):
            draw_table(f"Sentence {board.chosen + 1}, word by word", *word_table(answer), mark_best=False)
    elif isinstance(answer, Explained):
        st.caption(f"{PAIR_METHODS[answer.method].title} explains no words.")
    if picked is not None and int(picked) != board.chosen:
        choose(int(picked))
    return board.settings


def choose(sentence: int) -> None:
    """Look at another sentence: the whole page follows."""
    remember("pairs.sentence", sentence)
    st.rerun()


def _counted(answer: Explained) -> str:
    """What the coloured words leave out."""
    parts = [f"{answer.n_tokens} sub-tokens in {len(answer.words)} words"]
    hidden = answer.quality.get("text_hidden")
    parts.append(
        "start and end tokens are hidden"
        + ("" if hidden is None else f", {format_value(hidden)} {answer.unit.replace(' per token', '')} lie on them")
    )
    if answer.control_origin:
        parts.append(f"control: {answer.control_images} of {answer.control_origin}")
    return escape(" · ".join(parts))


def _say_page(board: Board) -> None:
    """Which sentences are explained, if not all are."""
    lines, page = board.report.lines, board.on_page
    n_shown = sum(line.is_shown for line in lines)
    if len(page) < len(lines):
        others = len(lines) - n_shown
        st.caption(
            f"{len(page)} of {len(lines):,} sentences are explained: those that speak of what is seen"
            + (f", {ON_A_PAGE} at a time" if n_shown > ON_A_PAGE else "")
            + ". Choose any other to explain it as well"
            + (f" ({others} tell why, how or who)." if others else ".")
        )


def _show_sentences(board: Board, waiting: str) -> None:
    """A map for each sentence; a title chooses its sentence."""
    if len(board.report.lines) < 2:
        return
    st.markdown("#### A map for each sentence")
    looked = arranged_maps(
        pixels(board),
        sentence_panels(board, waiting),
        board.settings.display,
        Arrangement(
            with_image=False, with_tools=False, is_pickable=True, picked=str(board.chosen), axes=axes_of(board.seen)
        ),
        key="pairs.sentences",
        description=board.picture.alt,
    )
    if looked.picked is not None and int(looked.picked) != board.chosen:
        choose(int(looked.picked))


def _show_methods(board: Board, waiting: str) -> None:
    """The chosen sentence by every method, on one scale for each unit, and the numbers."""
    st.markdown(f"#### Sentence {board.chosen + 1} by every method")
    arranged_maps(
        pixels(board),
        method_panels(board, waiting),
        board.settings.display,
        Arrangement(
            with_image=False,
            with_tools=False,
            boxes=tuple(known_boxes(board)),
            drawn=board.settings.box,
            axes=axes_of(board.seen),
        ),
        key="pairs.methods_maps",
        description=board.picture.alt,
    )
    columns, rows = method_table(board)
    if not rows:
        return
    if board.settings.box is None and not known_boxes(board):
        st.caption("Draw a box on the large map (Draw box) to see which method agrees with it.")
    whose = "your box" if board.settings.box is not None else "the shipped box"
    caption = f"Methods in numbers, against {whose}" if "iou0" in rows[0] else "Methods in numbers"
    draw_table(caption, columns, rows)


# ----------------------------------------------------------------- findings
def show_findings(seen: Result) -> None:
    """Present or absent by the model's own calibrated thresholds, where it has any."""
    findings = seen.values.get("findings") or []
    if not findings:
        return
    present = [row["finding"] for row in findings if row["present"]]
    said = ", ".join(f"**{escape(name)}**" for name in present) or "none"
    with st.expander(
        f"By calibrated thresholds the model sees {said} of {len(findings)} findings", icon=":material/fact_check:"
    ):
        columns = [
            Column("name", "Finding"),
            Column("verdict", "Verdict"),
            Column("cosine", "Cosine", help="Of the image and the mean of the finding's prompts."),
            Column("threshold", "Threshold", help="Between present and absent, chosen on validation simulations."),
            Column("auroc", "AUROC", help="On held-out simulations, not on real radiographs."),
            Column("balanced_accuracy", "Balanced accuracy", help="Of the threshold on held-out simulations."),
        ]
        rows = [
            {**row, "name": row["finding"], "verdict": "present" if row["present"] else "absent"} for row in findings
        ]
        draw_table("Present or absent, by the model", columns, rows, mark_best=False)


# ----------------------------------------------------------------- progress
def is_stopped(board: Board) -> bool:
    """Whether the person stopped the work on exactly these settings."""
    return recall("pairs.stopped") == _what(board)


def _what(board: Board) -> tuple:
    asked = dataclasses.replace(board.settings, display=None, box=None, words="own")
    return board.picture.id, board.report.text, asked


def stop_button(board: Board) -> None:
    """Clicking reruns the page, and with it the engine stops what nobody waits for any more."""
    st.button(
        "Cancel",
        icon=":material/stop_circle:",
        key="pairs.cancel",
        on_click=remember,
        args=("pairs.stopped", _what(board)),
    )


def continue_button() -> None:
    st.button(
        "Continue", icon=":material/play_arrow:", key="pairs.continue", on_click=remember, args=("pairs.stopped", None)
    )
