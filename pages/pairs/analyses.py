"""Looking closer, on demand: how to read a map, the bottleneck's curves, sweeps, swaps, sanity check, evaluations."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np
import streamlit as st

from backend.catalog import PAIR_METHODS
from backend.contracts import PairMapRequest, PairRandomisationRequest, Result
from pages.pairs.board import Board
from pages.pairs.evaluation import show_evaluation
from pages.pairs.explained import Explained, axes_of, of_pair
from pages.pairs.explained import shown as heard
from pages.pairs.inputs import PICTURE_TYPES, SOUND_TYPES, take_file
from pages.pairs.material import Picture, example_picture, examples, is_sound, upload_any
from pages.pairs.numbers import bottleneck_curves
from pages.pairs.views import pixels
from pages.pairs.words import Group, Row, Span, spans_of, word_board
from pages.shared.addresses import FIRST_TAB
from pages.shared.answers import Answer, Refusal
from pages.shared.controls import begin, refused
from pages.shared.figures import (
    PLOT_OPTIONS,
    RANDOMISATION_AXES,
    Curve,
    Display,
    Panel,
    colour_limits,
    format_value,
    line_style,
    plot_curves,
)
from pages.shared.map_grid import Arrangement, arranged_maps
from pages.shared.reading import describe
from pages.shared.session import recall, remember
from pages.shared.tabs import draw_tabs

SWEEPS = {"beta": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), "sigma2": (0.01, 0.1, 1.0), "layer": tuple(range(24))}
_SIDES = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}


def show_analyses(board: Board) -> None:
    """Looking closer: tabs below the maps."""
    draws = {
        FIRST_TAB: _show_reading,
        "Fit and compression": _show_curves,
        "Sweeps": _show_sweeps,
        "Swap": _show_swap,
        "Sanity check": _show_sanity,
        "Evaluation": _show_evaluation,
    }
    draw_tabs("pairs", {name: functools.partial(draw, board) for name, draw in draws.items()})


# Measured on assets/examples/radiograph-02.png, with a patch of the mean grey around it over each finding's box; the
# tests of this page measure it anew.
TOO_LITTLE_COMPRESSION = (
    "A bottleneck with little compression also keeps what merely stands out. On the radiograph with a right "
    "consolidation and a left mass, M2IB (β = 0.1) marks the mass for the sentence about the consolidation, and most "
    "strongly. The model does not confuse the two: with the consolidation painted over, the sentence's cosine falls "
    "from 0.18 to −0.14, and with the mass painted over it rises to 0.26. At β = 0.8 the mass is gone from the map."
)


def _read(answer: Answer | None) -> Explained | None:
    """The explanation, if it is there; else its place says what is the matter."""
    if isinstance(answer, Result):
        return of_pair(answer)
    if answer is None:
        st.caption(":material/hourglass_top: computing")
    else:
        refused(answer.sentence)
    return None


def _panel(key: str, title: str, answer: Answer | None, method: str, caption: str = "") -> Panel:
    spec = PAIR_METHODS[method]
    explained = of_pair(answer) if isinstance(answer, Result) else None
    if explained is not None and explained.image_map is not None:
        return Panel(key, title, explained.image_map, explained.signed, answer.unit, caption, origin=spec.origin)
    message = answer.sentence if isinstance(answer, Refusal) else "" if answer is None else "no map of an image"
    return Panel(key, title, None, spec.signed, spec.unit, "", message)


# ----------------------------------------------------------------- how to read this
def _show_reading(board: Board) -> None:
    st.markdown(
        "The model turns image and sentence into two vectors; the closer they are, the larger their **cosine**. A map "
        "of the image is bright where something must pass for the cosine to stay, and a word is coloured by how much "
        "of it must pass; **nats** say how much. A word that is as strong in its **control**, before images that the "
        "sentence does not belong to, tells of the model's habits with words and not of this image: read the "
        "**difference**."
    )
    st.latex(
        r"Z = \lambda h + \sigma(1-\lambda)\varepsilon,\qquad \max_\lambda\ \cos(e, g(Z)) - \beta\,\overline{KL}"
        r"\left(N(\lambda h, \sigma^2(1-\lambda)^2)\,\|\,N(0,1)\right)"
    )
    st.caption(
        "Limits. A map says what this model uses on this pair: not that the model is right, nor what a patient has. A "
        "map exists for every sentence, true or false: look at the cosine, at the thresholds, and at what a swapped "
        "sentence does. Overlap of the largest quarter with a small box cannot be high: read IoU beside its maximum."
    )
    if board.settings.model == "cxr-clip":
        st.caption("cxr-clip has seen one patient's CT, posed and altered by a simulator. " + TOO_LITTLE_COMPRESSION)
    for method in board.settings.methods:
        describe(PAIR_METHODS[method])


# ----------------------------------------------------------------- fit and compression
def _show_curves(board: Board) -> None:
    answer = board.explained(board.chosen)
    st.markdown(
        "While the bottleneck closes, less passes (compression falls) and the cosine should stay (fit). A fit that "
        "falls far below its start means that the map was squeezed too hard: lower β."
    )
    groups = bottleneck_curves(answer) if isinstance(answer, Explained) else []
    if not groups:
        st.caption("Only bottleneck methods have these curves: put M2IB first among the methods.")
        return
    for i, (column, (axes, curves)) in enumerate(zip(st.columns(2), groups, strict=False)):
        column.plotly_chart(plot_curves(curves, axes), key=f"pairs.curves.{i}", config=PLOT_OPTIONS)


# ----------------------------------------------------------------- sweeps
def _show_sweeps(board: Board) -> None:
    names = {"beta": "Compression β", "sigma2": "Noise variance σ²", "layer": "Layer ℓ"}
    methods = {
        method: [name for name in names if any(param.name == name for param in PAIR_METHODS[method].params)]
        for method in board.settings.methods
    }
    methods = {method: found for method, found in methods.items() if found}
    if not methods:
        st.caption("None of the chosen methods has a layer, β or σ²: choose M2IB or Grad-CAM.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = _one_of("pairs.swept_method", "Method", list(methods), lambda key: PAIR_METHODS[key].title)
        name = _one_of("pairs.swept", "Over", methods[method], names.get)
    answers = _sweep(board, method, name)
    panels = [
        _panel(f"{method}.{name}.{value}", f"{names[name].split()[-1]} = {value:g}", answer, method, _kept(answer))
        for value, answer in answers
    ]
    arranged_maps(
        pixels(board),
        panels,
        board.settings.display,
        Arrangement(with_image=False, with_tools=False, axes=axes_of(board.seen)),
        key="pairs.sweep",
        description=board.picture.alt,
    )
    rows = [
        Row(
            str(value), f"{value:g}", spans_of(of_pair(answer), "own", board.sentence), is_signed=of_pair(answer).signed
        )
        for value, answer in answers
        if isinstance(answer, Result) and of_pair(answer).words
    ]
    if rows:
        unit = PAIR_METHODS[method].unit.replace(" per token", "")
        word_board(
            f"Words over {name}",
            [Group(names[name].rsplit(" ", 1)[0], tuple(rows))],
            key="pairs.sweep_words",
            unit=unit,
        )


def _sweep(board: Board, method: str, name: str) -> list[tuple[float, Answer | None]]:
    """An answer for each value; layers up to the first that the model does not have."""
    answers: list[tuple[float, Answer | None]] = []
    for value in SWEEPS[name]:
        request = board.pair_request(method, board.sentence, **{name: value})
        answer = board.answer(request)
        if isinstance(answer, Refusal) and name == "layer" and answers:
            break  # one behind the last
        if answer is None:
            board.extras.append(request)
        answers.append((value, answer))
        if answer is None and name == "layer":
            break  # one at a time: how many there are is not known before
    return answers


def _kept(answer: Answer | None) -> str:
    if not isinstance(answer, Result):
        return ""
    after, total = of_pair(answer).after("image"), of_pair(answer).total("image")
    return "" if after is None else f"cosine kept {format_value(after)} · {format_value(total)} nats pass"


def _one_of(key: str, label: str, options: Sequence[str], say) -> str:
    if recall(key) not in options:
        remember(key, options[0])
    return st.selectbox(label, options, format_func=say, key=key, width=260)


# ----------------------------------------------------------------- swaps
def _show_swap(board: Board) -> None:
    begin("pairs.swapped", "sentence")
    swapped = st.segmented_control(
        "Swap",
        ("sentence", "image"),
        format_func={"sentence": "Another sentence, same image", "image": "Another image, same sentence"}.get,
        key="pairs.swapped",
        required=True,
        label_visibility="collapsed",
    )
    (_swap_sentence if swapped == "sentence" else _swap_image)(board)


def other_side(text: str) -> str:
    """The sentence with left and right exchanged.

    >>> other_side("Small nodule in the right lung.")
    'Small nodule in the left lung.'
    """
    return re.sub(r"\b(left|right)\b", lambda found: _SIDES.get(found.group(), found.group()), text, flags=re.I)


def _swap_sentence(board: Board) -> None:
    method = board.settings.methods[0]
    st.markdown("If the map stays where it was when the sentence says something else, it does not follow the sentence.")
    first = other_side(board.sentence)
    if recall("pairs.swap_of") != board.sentence:
        remember("pairs.swap_of", board.sentence)
        lines = [line.text for line in board.report.lines if line.text != board.sentence]
        remember("pairs.swap_text", first if first != board.sentence or not lines else lines[0])
    text = st.text_input(
        "Sentence B", key="pairs.swap_text", help="Left and right exchanged to begin with; write what you like."
    )
    if not text.strip():
        refused("sentence B is empty; write one")
        return
    own, other = board.explained(board.chosen), board.asked(board.pair_request(method, text))
    panels = [
        _explained_panel("a", f"A: {board.sentence}", own, method),
        _panel("b", f"B: {text}", other, method, _cosine(other)),
    ]
    arranged_maps(
        pixels(board),
        panels,
        board.settings.display,
        Arrangement(with_image=False, with_tools=False, boxes=(), axes=axes_of(board.seen)),
        key="pairs.swap_maps",
        description=board.picture.alt,
    )
    rows = []
    if isinstance(own, Explained):
        rows.append(
            Row("a", "A", spans_of(own, "own", board.sentence), f"cosine {format_value(own.cosine)}", own.signed)
        )
    found = _read(other)
    if found is not None:
        rows.append(Row("b", "B", spans_of(found, "own", text), f"cosine {format_value(found.cosine)}", found.signed))
    _words(rows, "pairs.swap_words", method)


def _cosine(answer: Answer | None) -> str:
    return f"cosine {format_value(of_pair(answer).cosine)}" if isinstance(answer, Result) else ""


def _explained_panel(key: str, title: str, answer: Explained | Refusal | None, method: str) -> Panel:
    spec = PAIR_METHODS[method]
    if isinstance(answer, Explained) and answer.image_map is not None:
        caption = f"cosine {format_value(answer.cosine)}"
        return Panel(key, title, answer.image_map, answer.signed, answer.unit, caption, origin=spec.origin)
    message = "" if answer is None else getattr(answer, "sentence", "no map of an image")
    return Panel(key, title, None, spec.signed, spec.unit, "", message)


def _words(rows: Sequence[Row], key: str, method: str) -> None:
    if rows and any(span.value is not None for row in rows for span in row.spans):
        unit = PAIR_METHODS[method].unit.replace(" per token", "")
        word_board("Words of A and B", [Group("", tuple(rows))], key=key, unit=unit)


def _swap_image(board: Board) -> None:
    method = board.settings.methods[0]
    st.markdown("The same sentence before another image: what stays is the sentence's, what changes is the image's.")
    other = _choose_other(board)
    if other is None:
        return
    board.others.append(other)
    asked = dataclasses.replace(board.pair_request(method, board.sentence), image_id=None, audio_id=None)
    request: PairMapRequest = dataclasses.replace(asked, **other.given)
    own, answer = board.explained(board.chosen), board.asked(request)
    panels = [
        _explained_panel("a", "Image A", own, method),
        _panel("b", "Image B", answer, method, _cosine(answer)),
    ]
    drawn = [panel for panel in panels if panel.values is not None]
    limits = colour_limits(drawn, dataclasses.replace(board.settings.display, scale="shared"))
    limit = max(limits.values()) if len(drawn) == 2 else None
    is_heard = other.is_sound and isinstance(answer, Result)
    shown = heard(answer) if is_heard else other.framed(pixels(board).shape[:2])
    for column, panel, picture, alt in zip(
        st.columns(2), panels, (pixels(board), shown), (board.picture.alt, other.alt), strict=True
    ):
        with column:
            arranged_maps(
                picture,
                [panel],
                board.settings.display,
                Arrangement("large", with_image=False, with_tools=False, limit=limit, axes=axes_of(board.seen)),
                key=f"pairs.swap_image.{panel.key}",
                description=alt,
            )
    if limit is not None:
        st.caption("One scale for both images.")
    found = _read(answer)
    if isinstance(own, Explained) and own.words and found is not None:
        differences = tuple(
            dataclasses.replace(span, value=None if span.value is None else span.value - theirs.value)
            for span, theirs in zip(
                spans_of(own, "own", board.sentence), spans_of(found, "own", board.sentence), strict=True
            )
        )
        rows = [
            Row("a", "Image A", spans_of(own, "own", board.sentence), f"cosine {format_value(own.cosine)}", own.signed),
            Row(
                "b",
                "Image B",
                spans_of(found, "own", board.sentence),
                f"cosine {format_value(found.cosine)}",
                found.signed,
            ),
            Row("d", "A − B", differences, is_signed=True),
        ]
        _words(rows, "pairs.swap_image_words", method)


def _choose_other(board: Board) -> Picture | None:
    """Image B: another example, or the person's own."""
    shown = [example for example in examples(board.settings.model) if is_sound(example) == board.picture.is_sound]
    keys = [example.key for example in shown if example.key != board.picture.example]
    alts = {example.key: example_picture(example.key).alt for example in shown}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = _one_of("pairs.other", "Image B", keys, alts.get) if keys else None
    own = take_file(
        "pairs.other_upload",
        "Or your own image B",
        [*PICTURE_TYPES, *SOUND_TYPES],
        upload_any,
        "Stays in memory, as A.",
    )
    if own is not None:
        remember("pairs.other_own", own)
    if recall("pairs.other_own") is not None:
        if not st.toggle("Image B is my own", value=True, key="pairs.other_is_own"):
            return None if key is None else example_picture(key)
        return recall("pairs.other_own")
    return None if key is None else example_picture(key)


# ----------------------------------------------------------------- sanity check
def _show_sanity(board: Board) -> None:
    st.markdown(
        "The layers of a copy of the tower are replaced by random ones, from the output downwards. A map that hardly "
        "changes (correlation stays near 1) does not depend on what the model learned. "
        "Adebayo et al., Sanity Checks for Saliency Maps, 2018."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        method = _one_of("pairs.sane", "Method", board.settings.methods, lambda key: PAIR_METHODS[key].title)
        seen, says = ("audio", "Sound") if board.picture.is_sound else ("image", "Image")
        modality = _one_of("pairs.sane_modality", "Tower", (seen, "text"), {seen: says, "text": "Words"}.get)
    asked = dataclasses.replace(board.pair_request(method, board.sentence), modality=modality)
    answer = board.asked(PairRandomisationRequest(asked))
    if answer is None:
        st.caption(":material/hourglass_top: randomising layer after layer")
        return
    if isinstance(answer, Refusal):
        refused(answer.sentence)
        return
    st.plotly_chart(
        plot_curves(_sanity_curves(answer), RANDOMISATION_AXES, True), key="pairs.sanity", config=PLOT_OPTIONS
    )
    if modality != "text":
        arranged_maps(
            pixels(board),
            _stage_panels(answer, method, board.picture.is_sound),
            Display(scale="own"),
            Arrangement(with_image=False, with_tools=False, axes=axes_of(board.seen)),
            key="pairs.sanity_maps",
            description=board.picture.alt,
        )
    else:
        _stage_words(board, answer, method)


def _sanity_curves(result: Result) -> list[Curve]:
    stages = result.values["stages"]
    x = np.arange(len(stages) + 1)
    values = [1.0, *(np.nan if stage["spearman"] is None else stage["spearman"] for stage in stages)]
    return [Curve("spearman", "rank correlation", line_style(0), x, np.array(values, dtype=float))]


def _stages(result: Result) -> list[tuple[str, str, np.ndarray]]:
    """Title, caption and values of the trained map and of each stage."""
    found = [("Trained", "correlation 1", result.arrays["original"])]
    for stage, values in zip(result.values["stages"], result.arrays["maps"], strict=True):
        correlation = stage["spearman"]
        caption = (
            "no correlation: a constant map" if correlation is None else f"correlation {format_value(correlation)}"
        )
        found.append((f"+ {', '.join(stage['layers'])}", caption, values))
    return found


def _stage_panels(result: Result, method: str, is_sound: bool) -> list[Panel]:
    spec = PAIR_METHODS[method]
    return [
        Panel(
            f"stage{i}",
            title,
            values[::-1] if is_sound else values,
            spec.signed,
            result.unit,
            caption,
            origin=spec.origin,
        )
        for i, (title, caption, values) in enumerate(_stages(result))
    ]


def _stage_words(board: Board, result: Result, method: str) -> None:
    """Each stage's words on that stage's own scale."""
    words = board.answer(board.pair_request(method, board.sentence))
    answer = of_pair(words) if isinstance(words, Result) else board.compared(method)
    if not isinstance(answer, Explained) or not answer.words:
        return
    rows = []
    for i, (title, caption, values) in enumerate(_stages(result)):
        largest = float(np.abs(values).max()) or 1.0
        numbers = iter(values.ravel() / largest)
        spans = tuple(
            Span(span.text, None if span.value is None else float(next(numbers)), span.is_cut)
            for span in spans_of(answer, "own", board.sentence)
        )
        rows.append(Row(str(i), title, spans, caption, PAIR_METHODS[method].signed))
    word_board(
        "Words, stage by stage", [Group("", tuple(rows))], key="pairs.sanity_words", unit="of the stage's largest"
    )


def _show_evaluation(board: Board) -> None:
    show_evaluation(board.settings.model)
