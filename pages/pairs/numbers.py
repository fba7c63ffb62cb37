"""Answers as panels, rows and curves: what the page shows and what its files hold."""

import hashlib

import numpy as np

from backend.catalog import PAIR_METHODS
from pages.pairs.board import Board
from pages.pairs.boxes import agreement
from pages.pairs.explained import Explained
from pages.pairs.words import Group, Row, Span, spans_of
from pages.shared.answers import Refusal
from pages.shared.exports import Column
from pages.shared.exports import Row as TableRow
from pages.shared.figures import Axes, Curve, Panel, format_value, line_style
from pages.shared.map_grid import Box

FIT_AXES = Axes("Fit: what is kept", "step", "mean cosine through the bottleneck")
COMPRESSION_AXES = Axes("Compression: what passes", "step", "nats per element")
NO_PLACES = "this method explains no image"
TITLE_LENGTH = 70  # characters of a sentence over its map


# ----------------------------------------------------------------- panels
def sentence_title(k: int, text: str) -> str:
    short = text if len(text) <= TITLE_LENGTH else text[: TITLE_LENGTH - 1].rstrip() + "…"
    return f"{k + 1}. {short}"


def large_panel(board: Board, waiting: str) -> Panel:
    """The chosen sentence by the first method."""
    method = board.settings.methods[0]
    answer = board.explained(board.chosen)
    caption = "" if not isinstance(answer, Explained) else image_caption(answer)
    return _panel(f"{PAIR_METHODS[method].title}: {board.sentence}", "large", method, answer, caption, waiting)


def sentence_panels(board: Board, waiting: str) -> list[Panel]:
    """A map for each sentence of the page, all by the first method."""
    method, panels = board.settings.methods[0], []
    for k in board.on_page:
        answer = board.explained(k)
        caption = f"cosine {format_value(answer.cosine)}" if isinstance(answer, Explained) else ""
        title = sentence_title(k, board.report.lines[k].text)
        panels.append(_panel(title, str(k), method, answer, caption, waiting))
    return panels


def method_panels(board: Board, waiting: str) -> list[Panel]:
    """A map for each method, all of the chosen sentence."""
    panels = []
    for method in board.settings.methods:
        answer = board.compared(method)
        caption = method_caption(answer, board) if isinstance(answer, Explained) else ""
        panels.append(_panel(PAIR_METHODS[method].title, method, method, answer, caption, waiting))
    return panels


def _panel(title: str, key: str, method: str, answer: Explained | Refusal | None, caption: str, waiting: str) -> Panel:
    spec = PAIR_METHODS[method]
    if isinstance(answer, Explained) and answer.image_map is not None:
        return Panel(key, title, answer.image_map, answer.signed, answer.unit, caption, origin=spec.origin)
    message = waiting if answer is None else NO_PLACES if isinstance(answer, Explained) else answer.sentence
    ticket = hashlib.sha256(f"{key} {method}".encode()).hexdigest()[:16]
    return Panel(key, title, None, spec.signed, spec.unit, "", message, ticket)


def image_caption(answer: Explained) -> str:
    """What passed, and what it kept."""
    total, after = answer.total("image"), answer.after("image")
    parts = [f"cosine of {answer.noun} and sentence {format_value(answer.cosine)}"]
    if after is not None:
        parts.append(f"{format_value(after)} through the bottleneck")
    if total is not None and "nats" in answer.unit:
        parts.append(f"{format_value(total)} nats pass")
    return " · ".join(parts)


def method_caption(answer: Explained, board: Board) -> str:
    made = answer.provenance
    parts = []
    if answer.result.request.kind == "pair_map":
        parts = [f"{made.elapsed_s:.2g} s"]
        if made.forward_passes or made.backward_passes:
            parts.append(f"{made.forward_passes} + {made.backward_passes} passes")
    for box in relevant_boxes(board)[:1]:
        parts.append(f"IoU {agreement(answer.image_map, box).iou:.2f}" if answer.image_map is not None else "")
    return " · ".join(filter(None, parts))


# ----------------------------------------------------------------- words
def report_groups(board: Board, waiting: str) -> list[Group]:
    """The report as written, section by section; words that are explained carry their values."""
    groups: list[Group] = []
    page, lines = board.on_page, board.report.lines
    for k, line in enumerate(lines):
        row = _report_row(board, k, waiting) if k in page else _plain_row(board, k)
        if not groups or groups[-1].heading != line.heading:
            groups.append(Group(line.heading, (row,)))
        else:
            groups[-1] = Group(line.heading, (*groups[-1].rows, row))
    return groups


def _plain_row(board: Board, k: int, **more: object) -> Row:
    text = board.report.lines[k].text
    return Row(str(k), str(k + 1), (Span(text),), is_chosen=k == board.chosen, **more)


def _report_row(board: Board, k: int, waiting: str) -> Row:
    answer = board.explained(k)
    if isinstance(answer, Refusal):
        return _plain_row(board, k, note=answer.sentence, is_refused=True)
    if answer is None:
        return _plain_row(board, k, is_busy=not waiting)
    view, text = board.settings.words, board.report.lines[k].text
    note = f"{answer.n_cut} sub-tokens do not fit and are not read" if answer.n_cut else ""
    return Row(
        str(k),
        str(k + 1),
        spans_of(answer, view, text),
        note,
        is_signed=view == "difference" or answer.signed,
        is_chosen=k == board.chosen,
    )


def control_rows(answer: Explained, original: str) -> Group:
    """The sentence before this image, before images it does not belong to, and the difference of both."""
    n, noun = answer.control_images, answer.noun
    averaged = f"{n} {noun}s that it does not belong to, averaged"
    strangers = averaged if n > 1 else f"one {noun} that it does not belong to"
    rows = (
        Row("own", f"This {answer.noun}", spans_of(answer, "own", original), is_signed=answer.signed),
        Row(
            "control",
            "Control",
            spans_of(answer, "control", original),
            f"the same sentence before {strangers}",
            is_signed=answer.signed,
        ),
        Row(
            "difference",
            "Difference",
            spans_of(answer, "difference", original),
            f"what depends on this {answer.noun}",
            is_signed=True,
        ),
    )
    return Group("", rows)


def word_table(answer: Explained) -> tuple[list[Column], list[TableRow]]:
    """Every word with its numbers."""
    unit = answer.unit.replace(" per token", "")
    columns = [
        Column("name", "Word"),
        Column("tokens", "Tokens", help="Sub-tokens of the model that the word became; their values are summed."),
        Column("own", f"This {answer.noun}, {unit}"),
        Column("control", f"Control, {unit}", help=f"The same sentence before {answer.noun}s it does not belong to."),
        Column("difference", f"Difference, {unit}"),
    ]
    rows = [
        {
            "name": word.text,
            "tokens": word.n_tokens,
            "own": word.own,
            "control": word.control,
            "difference": word.difference,
        }
        for word in answer.words
    ]
    return columns, rows


# ----------------------------------------------------------------- methods and boxes
def relevant_boxes(board: Board) -> list[Box]:
    """The person's own box if there is one, else those known of the chosen sentence's findings."""
    if board.settings.box is not None:
        return [board.settings.box]
    return known_boxes(board)


def known_boxes(board: Board) -> list[Box]:
    """Boxes of the findings that the chosen sentence states; only of an example's own report."""
    if not board.picture.example or board.report.example != board.picture.example:
        return []
    pairs = zip(board.picture.boxes, board.picture.box_sentences, strict=True)
    return [box for box, sentence in pairs if sentence == board.chosen]


def method_table(board: Board) -> tuple[list[Column], list[TableRow]]:
    """What every method found, in numbers; agreement with a box where there is one."""
    boxes = relevant_boxes(board)
    rows = []
    for method in board.settings.methods:
        answer = board.compared(method)
        if isinstance(answer, Explained):
            rows.append(_method_row(answer, boxes))
    columns = [Column("name", "Method")]
    for number, box in enumerate(boxes):
        name = f" ({box.label})" if box.label and len(boxes) > 1 else ""
        columns += [
            Column(f"iou{number}", f"IoU{name}", "higher", "Of the box with the quarter of the largest values."),
            Column(
                f"relative{number}", f"IoU / maximum{name}", "higher", "Over the most a quarter of the image can reach."
            ),
            Column(f"hit{number}", f"Peak inside{name}", "higher", "Pointing game: 1 if the largest value is inside."),
            Column(f"inside{number}", f"Share inside{name}", "higher", "Of the map's positive values."),
        ]
    columns += [
        Column("cosine", "Cosine", help="Of the image's and the sentence's vectors."),
        Column("kept", "Kept", help="Cosine through the bottleneck at the last step, image tower."),
        Column("kept_words", "Kept, words", help="Cosine through the bottleneck at the last step, text tower."),
        Column("top", "First word", help="The word with the largest value before this image."),
        Column("top_difference", "First by difference", help="The word that gains most over the control."),
        Column("seconds", "Seconds", "lower", "Wall time of the answer that this is part of."),
    ]
    return columns, rows


def _method_row(answer: Explained, boxes: list[Box]) -> TableRow:
    row: dict = {
        "name": PAIR_METHODS[answer.method].title,
        "cosine": answer.cosine,
        "kept": answer.after("image"),
        "kept_words": answer.after("text"),
        "top": max(answer.words, key=lambda word: word.own).text if answer.words else None,
        "top_difference": max(answer.words, key=lambda word: word.difference).text if answer.words else None,
        "seconds": answer.provenance.elapsed_s,
    }
    if answer.image_map is not None:
        for number, box in enumerate(boxes):
            found = agreement(answer.image_map, box)
            row |= {
                f"iou{number}": found.iou,
                f"relative{number}": found.relative_iou,
                f"hit{number}": int(found.is_hit),
                f"inside{number}": found.inside,
            }
    return row


# ----------------------------------------------------------------- curves
def bottleneck_curves(answer: Explained) -> list[tuple[Axes, list[Curve]]]:
    """Fit and compression over the steps, of the image, the words and the words' control."""
    names = {"image": "image", "audio": "sound", "text": "words", "control_text": "words, control"}
    groups = []
    for curve, axes in (("fit", FIT_AXES), ("compression", COMPRESSION_AXES)):
        lines = []
        for i, (prefix, title) in enumerate(names.items()):
            y = answer.arrays.get(f"{prefix}_{curve}")
            if y is not None:
                lines.append(Curve(prefix, title, line_style(i), np.arange(1, len(y) + 1), np.asarray(y)))
        if lines:
            groups.append((axes, lines))
    return groups
