"""What can be taken away: figure, data, report, link and lines of Python. Files are made when they are asked for.

Nothing here names a file or a patient. Of a person's own picture there is the digest of its pixels as the model saw
them, not of the file; the words of a report are in a file only because the person put them there, and can be left out.
"""

import dataclasses
import hashlib
import html
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
import streamlit as st

from backend.catalog import PAIR_METHODS
from backend.contracts import PairMapRequest
from pages.pairs.board import Board
from pages.pairs.boxes import inside
from pages.pairs.explained import Explained, axes_of, shown
from pages.pairs.material import find_example
from pages.pairs.numbers import (
    bottleneck_curves,
    control_rows,
    method_panels,
    method_table,
    relevant_boxes,
    sentence_panels,
    word_table,
)
from pages.pairs.settings import Settings, changed_only
from pages.pairs.words import Row, floor_of, limit_of
from pages.shared.exports import (
    Column,
    document,
    maps_section,
    metrics_csv,
    provenance_section,
    python_section,
    settings_section,
    table_section,
)
from pages.shared.figures import WORD_COLOURS, Panel, TimeAndFrequency, curves_svg, static_figure

NO_DEVICE = "Prism is no medical device. Its maps say what a model uses, not what a patient has."
KNOWS = {  # what models that are not about radiographs know
    "scenes-clip": "scenes-clip knows four drawn shapes in five colours, and which of two is left or above in five "
    "cases of six.",
    "sounds-clip": "sounds-clip knows eight synthesised sounds, no recorded one, and which of two came first.",
}
SIMULATED = "cxr-clip is trained on simulated radiographs and is no medical device."
_LEFT_OUT = "(left out)"


def show(board: Board) -> None:
    """One row of buttons under the methods."""
    files = Files.of(board, is_with_words=True)
    if files is None:
        return
    is_own = not board.report.example
    if is_own or not board.picture.example:
        st.caption(
            ":material/shield: Files carry no name, number or date of a patient unless they stand in your report's "
            "words or are burnt into the picture: look before you share."
        )
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        is_with_words = not is_own or st.checkbox(
            "With the report's words", value=True, key="pairs.with_words", help="Off: files number the sentences only."
        )
        files = Files.of(board, is_with_words)
        _download("PNG", lambda: files.figure("png"), "image/png", "The methods' maps, 200 dots per inch.")
        _download("SVG", lambda: files.figure("svg"), "image/svg+xml", "The methods' maps as a drawing.")
        _download("CSV", files.methods_csv, "text/csv", "The table of methods.")
        _download("Words CSV", files.words_csv, "text/csv", "Every word of the chosen sentence.", "-words")
        _download("NPZ", files.npz, "application/zip", "All maps that are shown, with their provenance.")
        _download("Report", files.report, "text/html", "One file that needs no network.")
        with st.popover("Link", icon=":material/link:"):
            st.code(link(board.settings), language=None, wrap_lines=True)
            if not board.picture.example or is_own:
                st.caption("Your own picture and report are not in the link.")
        with st.popover("Python", icon=":material/code:"):
            st.code(files.python, language="python")


def _download(label: str, make: Callable[[], bytes], mime: str, text: str, suffix: str = "") -> None:
    """A button whose file is made on the click, in a thread of its own: `make` must not touch the page."""
    ending = {"NPZ": "npz", "Report": "html", "Words CSV": "csv"}.get(label, label.lower())
    st.download_button(
        label,
        make,
        f"prism-image-text{suffix}.{ending}",
        mime,
        key=f"pairs.save.{label}",
        help=text,
        icon=":material/download:",
        on_click="ignore",
    )


def link(settings: Settings) -> str:
    """The address that shows the same again."""
    parts = urlsplit(st.context.url or "")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(settings.to_query()), ""))


@dataclass(frozen=True)
class Files:
    """All that the files need, gathered while the page is drawn: their making runs in another thread."""

    image: np.ndarray  # as the model saw it
    description: str
    sentence: str
    number: int  # of the sentence, from 1
    method_panels: Sequence[Panel]
    sentence_panels: Sequence[Panel]
    table: tuple[list[Column], list[dict]]
    explained: Sequence[tuple[int, Explained]]  # number of a sentence, one of its explanations
    chosen: Explained
    mask: np.ndarray | None  # the boxes
    sound: TimeAndFrequency | None  # what the axes of a spectrogram mean
    settings: Settings
    facts: dict[str, str]
    notes: Sequence[str]
    python: str
    is_with_words: bool
    has_file_digest: bool  # of examples only

    @classmethod
    def of(cls, board: Board, is_with_words: bool) -> "Files | None":
        """None: nothing is explained yet."""
        chosen = board.best_known
        if chosen is None:
            return None
        is_with_words = is_with_words and not board.report.lines[board.chosen].is_identity
        explained = [(k + 1, board.explained(k)) for k in board.on_page]
        explained += [(board.chosen + 1, board.compared(method)) for method in board.settings.methods[1:]]
        image = shown(chosen.result)
        masks = [inside(box, image.shape[:2]) for box in relevant_boxes(board)]
        return cls(
            image=image,
            description=board.picture.alt,
            sentence=board.sentence if is_with_words else f"sentence {board.chosen + 1}",
            number=board.chosen + 1,
            method_panels=method_panels(board, ""),
            sentence_panels=[_unworded(p, is_with_words) for p in sentence_panels(board, "")],
            table=_table(board, is_with_words),
            explained=[(number, answer) for number, answer in explained if isinstance(answer, Explained)],
            chosen=chosen,
            mask=np.any(masks, axis=0) if masks else None,
            sound=axes_of(board.seen),
            settings=board.settings,
            facts=_facts(board, image),
            notes=board.picture.notes,
            python=python_lines(board, is_with_words),
            is_with_words=is_with_words,
            has_file_digest=bool(board.picture.example),
        )

    # ------------------------------------------------------------- files
    def figure(self, file_format: str) -> bytes:
        footer = "; ".join(f"{name} {value}" for name, value in self.facts.items() if name in _IN_FOOTER)
        display = self.settings.display
        return static_figure(
            self.image,
            self.method_panels,
            display,
            self.sentence,
            f"{said_of(self.settings)} {footer}",
            file_format,
            self.mask,
            self.sound,
        )

    def methods_csv(self) -> bytes:
        return metrics_csv(*self.table)

    def words_csv(self) -> bytes:
        columns, rows = word_table(self.chosen)
        if not self.is_with_words:
            rows = [row | {"name": f"word {n}"} for n, row in enumerate(rows, 1)]
        return metrics_csv(columns, rows)

    def npz(self) -> bytes:
        """The image, each explanation's arrays under "METHOD.sentence.NAME", and all manifests as one JSON string."""
        arrays, manifests = {"image": self.image}, {}
        for number, answer in self.explained:
            name = f"{answer.method}.{number}"
            manifests[name] = self.manifest(answer)
            arrays |= {f"{name}.{key}": value for key, value in answer.arrays.items() if key != "pixels"}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, manifests=np.array(json.dumps(manifests)), **arrays)
        return buffer.getvalue()

    def manifest(self, answer: Explained) -> dict[str, Any]:
        """How an explanation was made; without the file's digest, and without words that are to be left out."""
        made = dict(answer.result.manifest())
        request = dict(made.get("request", {}))
        if not self.has_file_digest:
            request.pop("image_id", None)
            request.pop("audio_id", None)
        if not self.is_with_words:
            request |= {key: _LEFT_OUT for key in ("text", "sentences") if key in request}
        kept = {key: value for key, value in made.items() if key not in ("request", "values")}
        return {"request": request, "settings": answer.settings, "cosine": answer.cosine, **kept}

    def report(self) -> bytes:
        """Everything on screen as one file: no script, no network, every text escaped."""
        display = self.settings.display
        sections = [f"<p><b>{html.escape(said_of(self.settings))}</b></p>"]
        if self.is_with_words and self.chosen.words:
            sections += ["<h2>Words of the sentence, beside the control</h2>", words_section(self.chosen)]
        sections += [
            f"<h2>Sentence {self.number} by every method</h2>",
            maps_section(self.image, self.method_panels, display, self.description, self.mask, self.sound),
            table_section(*self.table),
            *(f"<p>{html.escape(note)}</p>" for note in self.notes),
            "<h2>A map for each sentence</h2>",
            maps_section(self.image, self.sentence_panels, display, self.description, sound=self.sound),
        ]
        curves = bottleneck_curves(self.chosen)
        if curves:
            sections += ["<h2>How the bottleneck closed</h2>", curves_svg(curves)]
        sections += [settings_section(self.facts), "<h2>Provenance</h2>"]
        sections += [
            provenance_section(f"{PAIR_METHODS[answer.method].title}, sentence {number}", self.manifest(answer))
            for number, answer in self.explained
        ]
        title = f"Where is it seen? {self.sentence}" if self.is_with_words else "Where is it seen?"
        return document(title, [*sections, python_section(self.python)])


_IN_FOOTER = ("Model", "Model digest (sha256)", "Seed")


def said_of(settings: Settings) -> str:
    """What stands on every file."""
    return SIMULATED if settings.model == "cxr-clip" else KNOWS.get(settings.model, NO_DEVICE)


def _unworded(panel: Panel, is_with_words: bool) -> Panel:
    return panel if is_with_words else dataclasses.replace(panel, title=f"Sentence {int(panel.key) + 1}")


def _table(board: Board, is_with_words: bool) -> tuple[list[Column], list[dict]]:
    columns, rows = method_table(board)
    if not is_with_words:
        columns = [column for column in columns if column.key not in ("top", "top_difference")]
    return columns, rows


def _facts(board: Board, image: np.ndarray) -> dict[str, str]:
    settings, made = board.settings, board.best_known.provenance
    changed = [f"{method}: {name} {value}" for method, params in settings.params for name, value in params]
    pixels = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return {
        "Model": settings.model,
        "Model digest (sha256)": made.model_digest,
        "Picture": board.picture.example or "the person's own",
        "Digest of its pixels as the model saw them (sha256)": pixels,
        "Report": board.report.example or "the person's own",
        "Sentence": str(board.chosen + 1),
        "Methods": ", ".join(PAIR_METHODS[method].title for method in settings.methods),
        "Parameters changed": ", ".join(changed) or "none",
        "Seed": str(settings.seed),
        "Display": ", ".join(f"{name} {value}" for name, value in settings.display.as_mapping().items()),
        "Device": made.device,
        "Link": link(settings),
    }


# ----------------------------------------------------------------- words and lines
def words_section(answer: Explained) -> str:
    """The sentence, its control and the difference, words coloured as on a light page."""
    rows = control_rows(answer, "").rows
    limit = max((limit_of(row.spans) for row in rows), default=0.0)
    floor = floor_of(rows, limit)
    coloured = [_coloured(row, 0.0 if row.is_signed else floor, limit - floor) for row in rows]
    lines = "".join(
        f"<tr><th>{html.escape(row.label)}</th><td>{words}</td></tr>" for row, words in zip(rows, coloured, strict=True)
    )
    return f"<div class='settings'><table>{lines}</table></div><p>{html.escape(rows[1].note)}</p>"


def _coloured(row: Row, start: float, extent: float) -> str:
    table = WORD_COLOURS["light"]["signed" if row.is_signed else "unsigned"]
    parts = []
    for span in row.spans:
        text = html.escape(span.text)
        if span.value is None:
            parts.append(text)
            continue
        relative = float(np.clip((span.value - start) / extent, -1, 1)) if extent else 0.0
        share = (relative + 1) / 2 if row.is_signed else max(relative, 0.0)
        colour = "#" + bytes(table[round(share * (len(table) - 1))]).hex()
        parts.append(f"<span style='background:{colour};padding:0 .2em' title='{span.value:.3g}'>{text}</span>")
    return "".join(parts)


def python_lines(board: Board, is_with_words: bool = True) -> str:
    """Python that gives the same maps through `backend`."""
    example, is_sound = board.picture.example, board.picture.is_sound
    source = f"assets/examples/{find_example(example).image}" if example else "sound.wav" if is_sound else "picture.dcm"
    seen, put = ("audio", "put_audio") if is_sound else ("image", "put_image")
    text = board.sentence if is_with_words else _LEFT_OUT
    requests = [board.pair_request(method, text) for method in board.settings.methods]
    lines = [
        "from pathlib import Path",
        "",
        "from backend.contracts import PairMapRequest",
        "from backend.service import local_service",
        "",
        "service = local_service()",
        f"{'sound' if is_sound else 'image'} = service.{put}(Path({source!r}).read_bytes())",
        f"text = {text!r}",
        "requests = [",
        *(f"    {_request_line(request)}," for request in requests),
        "]",
        "for request in requests:",
        "    result = service.run(request)",
        f'    print(request.method, result.arrays["{seen}_map"].shape, result.values["words"])',
    ]
    return "\n".join(lines) + "\n"


def _request_line(request: PairMapRequest) -> str:
    if request.audio_id is None:
        parts = ["image.id", "text", repr(request.method), repr(request.model)]
    else:
        parts = ["audio_id=sound.id", "text=text", f"method={request.method!r}", f"model={request.model!r}"]
    if request.start_s:
        parts.append(f"start_s={request.start_s:g}")
    changed = changed_only(request.method, request.params)
    if changed:
        parts.append(f"params={changed!r}")
    if request.seed:
        parts.append(f"seed={request.seed}")
    return f"PairMapRequest({', '.join(parts)})"
