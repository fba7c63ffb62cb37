"""What can be taken away: figure, tables, data, report, link and lines of Python. Files are made when asked for."""

import base64
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
import streamlit as st

from backend.contracts import Result
from pages.additive.figures import static_figure
from pages.additive.path import path_table
from pages.additive.settings import NOTES, OWN, UPLOAD, Settings
from pages.additive.shapes import importance_table
from pages.shared.exports import (
    Column,
    Row,
    document,
    metrics_csv,
    provenance_section,
    python_section,
    settings_section,
    table_section,
)


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Everything on screen that goes into files."""

    settings: Settings
    title: str  # of the data set
    titles: tuple[str, str]  # of both ends
    path: Result
    shapes: Result | None
    comparison: Result | None = None
    report: Result | None = None  # of the attributes
    record: Result | None = None  # of the row that is explained

    def results(self) -> dict[str, Result]:
        parts = {
            "path": self.path,
            "shapes": self.shapes,
            "record": self.record,
            "comparison": self.comparison,
            "attributes": self.report,
        }
        return {name: result for name, result in parts.items() if result is not None}


def show(answered: Answered) -> None:
    """One row of buttons under the strip."""
    settings = answered.settings
    stem = f"prism-additive-{settings.model}"
    address, foot = link(settings), footer(answered)
    lines = python_lines(answered)
    title = f"{answered.title}: {' → '.join(answered.titles)}"

    def figure(file_format: str):
        return lambda: static_figure(answered.path, answered.shapes, title, foot, file_format)

    with st.container(horizontal=True, gap="small"):
        _download(
            "PNG", figure("png"), f"{stem}.png", "image/png", "Strip, effect and shape functions, 200 dots per inch."
        )
        _download("SVG", figure("svg"), f"{stem}.svg", "image/svg+xml", "The same as a drawing.")
        _download(
            "CSV", lambda: curves_csv(answered), f"{stem}.csv", "text/csv", "Every curve on screen, point by point."
        )
        _download("NPZ", lambda: data_npz(answered), f"{stem}.npz", "application/zip", "Frames, curves and provenance.")
        _download(
            "Report", lambda: report_html(answered, title, address, lines), f"{stem}.html", "text/html",
            "One file that needs no network.",
        )  # fmt: skip
        with st.popover("Link", icon=":material/link:"):
            st.code(address, language=None, wrap_lines=True)
            if UPLOAD in (settings.ends or ()):
                st.caption("Your own picture is not in the link.")
            if settings.model.startswith(OWN):
                st.caption("What was fitted here is found again in this installation only.")
        with st.popover("Python", icon=":material/code:"):
            st.code(lines, language="python")


def _download(label: str, make, name: str, mime: str, text: str) -> None:
    """A button whose file is made on the click, in a thread of its own: `make` must not touch the page."""
    st.download_button(
        label, make, name, mime, key=f"additive.save.{label}", help=text, icon=":material/download:", on_click="ignore"
    )


def link(settings: Settings) -> str:
    """The address that shows the same again."""
    parts = urlsplit(st.context.url or "")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(settings.to_query()), ""))


def footer(answered: Answered) -> str:
    """What was set, for the figure's foot."""
    settings = answered.settings
    params = ", ".join(f"{name} {value}" for name, value in settings.path_params if value is not None)
    digest = answered.path.provenance.model_digest[:12]
    return f"{settings.frames} frames; {params}; seed {settings.seed}; model {settings.model} {digest}"


# ----------------------------------------------------------------- files
def curves_csv(answered: Answered) -> bytes:
    """Path and shape functions as one long table: curve, place on it, effect, band, truth."""
    columns = [Column(key, key) for key in ("curve", "at", "effect", "low", "high", "truth")]
    arrays = answered.path.arrays
    rows: list[Row] = [
        {"curve": "image, alpha", "at": float(a), "effect": float(e), "low": float(low), "high": float(high)}
        for a, e, low, high in zip(
            arrays["alphas"], arrays["effect"], arrays["effect_low"], arrays["effect_high"], strict=True
        )
    ]
    shapes = answered.shapes
    for column in [] if shapes is None else shapes.values["columns"]:
        shape, truth = shapes.arrays[f"shape_{column['name']}"], shapes.arrays.get(f"truth_{column['name']}")
        for k, (value, effect, low, high) in enumerate(shape.tolist()):
            at = column["categories"][int(value)] if column["kind"] == "categorical" else value
            row: Row = {"curve": column["name"], "at": at, "effect": effect, "low": low, "high": high}
            rows.append(row if truth is None else {**row, "truth": float(truth[k])})
    return metrics_csv(columns, rows)


def data_npz(answered: Answered) -> bytes:
    """All arrays under "part.name", and all manifests as one JSON string."""
    results = answered.results()
    arrays = {f"{part}.{name}": array for part, result in results.items() for name, array in result.arrays.items()}
    manifests = json.dumps({part: result.manifest() for part, result in results.items()})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, manifests=np.array(manifests), **arrays)
    return buffer.getvalue()


def python_lines(answered: Answered) -> str:
    """Python that gives the same results through `backend`."""
    request = answered.path.request
    names = sorted({type(result.request).__name__ for result in answered.results().values()})
    own = UPLOAD in (answered.settings.ends or ())
    requests = ",\n".join(f"    {_written(result.request)}" for result in answered.results().values())
    images = (
        ["images = [service.put_image(open(name, 'rb').read()).id for name in ('a.png', 'b.png')]"]
        if own and request.image_ids
        else []
    )
    return "\n".join(
        [
            f"from backend.contracts import {', '.join(names)}",
            "from backend.service import local_service",
            "",
            "service = local_service()",
            *images,
            f"requests = [\n{requests},\n]",
            "for request in requests:",
            "    result = service.run(request)",
            "    shapes = {name: array.shape for name, array in result.arrays.items()}",
            "    print(request.kind, shapes, dict(result.quality))",
            "",
        ]
    )


def _written(request: Any) -> str:
    """A request as code; pictures of the visitor's own by the names that the lines above give them."""
    text = repr(request)
    ids = getattr(request, "image_ids", None)
    return text if ids is None else text.replace(repr(ids), "tuple(images)")


def report_html(answered: Answered, title: str, address: str, lines: str) -> bytes:
    """What was seen, as one file."""
    note = NOTES.get(answered.settings.model)
    figure = base64.b64encode(static_figure(answered.path, answered.shapes, title, footer(answered))).decode()
    alt = html.escape("Strip of frames, effect of the image along it, shape functions of all columns", quote=True)
    path_columns, path_rows = path_table(answered.path, answered.titles)
    sections = [
        *([f"<p>{html.escape(note)}</p>"] if note else []),
        f"<img src='data:image/png;base64,{figure}' style='width:100%' alt='{alt}'>",
        "<h2>This path</h2>",
        table_section(path_columns, path_rows),
        *(f"<p>{html.escape(note)}</p>" for note in answered.path.provenance.notes),
    ]
    if answered.shapes is not None:
        sections += ["<h2>Importance</h2>", table_section(*importance_table(answered.shapes))]
    sections += _extra_sections(answered)
    sections += [
        settings_section(_facts(answered, address)),
        "<h2>Provenance</h2>",
        *(provenance_section(part, result.manifest()) for part, result in answered.results().items()),
        python_section(lines),
    ]
    return document(f"Additive image model: {title}", sections)


def _extra_sections(answered: Answered) -> list[str]:
    from pages.additive.additivity import scores_table
    from pages.additive.attributes import effects_table
    from pages.additive.evaluation import evaluation_of, scores_html
    from pages.additive.record import record_html

    sections = []
    if answered.record is not None:
        sections += ["<h2>One record</h2>", record_html(answered.record, answered.record.request.row)]
    if answered.comparison is not None:
        sections += ["<h2>Fit on unseen rows</h2>", table_section(*scores_table(answered.comparison))]
    if answered.report is not None and answered.report.values["attributes"]:
        sections += ["<h2>Attributes of the picture</h2>", table_section(*effects_table(answered.report))]
    found = evaluation_of(answered.settings.model)
    if found is not None:
        sections += ["<h2>Evaluation</h2>", scores_html(found, answered.path.values["link"])]
    return sections


def _facts(answered: Answered, address: str) -> Mapping[str, str]:
    settings = answered.settings
    return {
        "Data set": answered.title,
        "A": answered.titles[0],
        "B": answered.titles[1],
        "Frames": str(settings.frames),
        **{name: str(value) for name, value in settings.path_params},
        "Seed": str(settings.seed),
        "Link": address,
    }
