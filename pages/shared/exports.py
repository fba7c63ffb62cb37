"""What a person takes away: tables, arrays, one self-contained report, an address, the lines that repeat it."""

import base64
import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.catalog import method
from backend.contracts import AttributionRequest, Result
from backend.images import encode_png
from pages.shared.figures import (
    OUTLINE_COLOUR,
    SIGNED_COLOURS,
    UNSIGNED_COLOURS,
    Axes,
    Curve,
    Display,
    Panel,
    TimeAndFrequency,
    axes_sentence,
    colour_limits,
    curves_svg,
    draw_map,
    format_value,
    is_diverging,
    outline_path,
    scale_sentence,
    tick_label,
    unit_of,
)

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # the last four are full-width


# ----------------------------------------------------------------- tables and arrays
@dataclass(frozen=True, slots=True)
class Column:
    """A column of a metrics table."""

    key: str
    title: str
    better: str = ""  # "lower", "higher" or nothing
    help: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow towards the better direction."""
        return self.title + {"lower": " ↓", "higher": " ↑", "": ""}[self.better]


@dataclass(frozen=True, slots=True)
class Spread:
    """A mean with its standard deviation, as one cell."""

    mean: float
    sd: float | None
    digits: int | None = None  # after the point, as published; None: three significant ones

    def __str__(self) -> str:
        def text(value: float) -> str:
            return format_value(value) if self.digits is None else f"{value:.{self.digits}f}".replace("-", "−")

        return text(self.mean) + ("" if self.sd is None else f" ± {text(self.sd)}")


Cell = str | float | int | Spread | None
Row = Mapping[str, Cell]


def guard_cell(value: Cell) -> str | float | int | None:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers.

    >>> guard_cell("=HYPERLINK(1)"), guard_cell(-0.5), guard_cell("SAMP++")
    ("'=HYPERLINK(1)", -0.5, 'SAMP++')
    """
    if isinstance(value, str) and (value.startswith(_FORMULA_STARTS) or value.lstrip().startswith(_FORMULA_STARTS)):
        return "'" + value
    return value.mean if isinstance(value, Spread) else value


def _csv_cell(value: Cell) -> str | float | int | None:
    """A guarded cell. The writer quotes a line feed but no carriage return, behind which a formula could begin."""
    cell = guard_cell(value)
    return cell.replace("\r", "\n") if isinstance(cell, str) else cell


def metrics_csv(columns: Sequence[Column], rows: Sequence[Row]) -> bytes:
    """The table as CSV (UTF-8); what is not defined is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_csv_cell(column.title) for column in columns])
    for row in rows:
        writer.writerow([_csv_cell(row.get(column.key)) for column in columns])
    return buffer.getvalue().encode()


def results_npz(image: np.ndarray, results: Sequence[Result]) -> bytes:
    """The image, every attribution under its method's key, and all manifests as one JSON string."""
    arrays = {result.request.method: result.arrays["attribution"] for result in results}
    manifests = json.dumps({result.request.method: result.manifest() for result in results})
    buffer = io.BytesIO()
    np.savez_compressed(buffer, image=image, manifests=np.array(manifests), **arrays)
    return buffer.getvalue()


# ----------------------------------------------------------------- the lines that repeat it
def python_lines(requests: Sequence[AttributionRequest], example: str | None, file_name: str = "picture.png") -> str:
    """Python that gives the same results through `backend`; only what differs from the defaults is spelled out.

    Args:
        example: key of the example on screen; None: the person's own file.
    """
    source = f"example_bytes({example!r})[0]" if example else f"open({file_name!r}, 'rb').read()"
    lines = ["from backend.contracts import AttributionRequest"]
    lines += ["from backend.examples import example_bytes"] * bool(example)
    lines += [
        "from backend.service import local_service",
        "",
        "service = local_service()",
        f"image = service.put_image({source})",
        "requests = [",
        *(f"    {_request_line(request)}," for request in requests),
        "]",
        "for request in requests:",
        "    result = service.run(request)",
        '    print(request.method, result.arrays["attribution"].shape, dict(result.quality))',
    ]
    return "\n".join(lines) + "\n"


def _request_line(request: AttributionRequest) -> str:
    spec = method(request.method)
    parts = ["image.id", repr(request.model), repr(request.method)]
    if request.target is not None:
        parts.append(f"target={request.target}")
    if request.baseline != ("black",) and spec.uses_baseline:
        parts.append(f"baseline={request.baseline!r}")
    changed = changed_params(request)
    if changed:
        parts.append(f"params={tuple(changed.items())!r}")
    if request.seed:
        parts.append(f"seed={request.seed}")
    return f"AttributionRequest({', '.join(parts)})"


def changed_params(request: AttributionRequest) -> dict:
    """The parameters that differ from the method's defaults."""
    defaults = {param.name: param.default for param in method(request.method).params}
    return {name: value for name, value in request.params if value != defaults[name]}


# ----------------------------------------------------------------- the report
@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Everything that the report file says."""

    title: str
    image: np.ndarray  # (H, W, 3 or 1) in [0, 1]
    description: str  # the image in words
    panels: Sequence[Panel]
    display: Display
    columns: Sequence[Column]
    rows: Sequence[Row]
    curves: Sequence[tuple[Axes, Sequence[Curve]]]  # drawn side by side; may be empty
    settings: Mapping[str, str]
    results: Sequence[Result]
    python: str
    notes: Sequence[str] = field(default_factory=tuple)
    mask: np.ndarray | None = None  # (H, W) bool, where the object is, if known


_REPORT_CSS = (Path(__file__).parent / "client" / "report.css").read_text()
_REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_report(report: Report) -> bytes:
    """What an attribution says, as one file."""
    return document(
        report.title,
        [
            maps_section(report.image, report.panels, report.display, report.description, report.mask),
            "<h2>Numbers</h2>",
            table_section(report.columns, report.rows),
            *(f"<p>{html.escape(note)}</p>" for note in report.notes),
            f"<h2>Deletion and insertion</h2>{curves_svg(report.curves)}" if report.curves else "",
            settings_section(report.settings),
            "<h2>Provenance</h2>",
            *(provenance_section(method(r.request.method).title, r.manifest()) for r in report.results),
            python_section(report.python),
        ],
    )


def document(title: str, sections: Sequence[str]) -> bytes:
    """One HTML file that needs nothing beside it: no script, no network; sections are HTML with every text escaped."""
    e = html.escape
    head = (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{e(title)}</title>",
        f'<meta http-equiv="Content-Security-Policy" content="{_REPORT_POLICY}">',
        f"<meta name='viewport' content='width=device-width'><style>{_REPORT_CSS}</style><h1>{e(title)}</h1>",
    )
    return "\n".join((*head, *sections, "</html>\n")).encode()


def settings_section(settings: Mapping[str, str]) -> str:
    rows = [{"name": name, "value": value} for name, value in settings.items()]
    table = table_section([Column("name", "Setting"), Column("value", "Value")], rows)
    return f"<h2>Settings</h2><div class='settings'>{table}</div>"


def python_section(lines: str) -> str:
    return f"<h2>The same in Python</h2><pre>{html.escape(lines)}</pre>"


def _png_tag(pixels: np.ndarray, alt: str) -> str:
    address = base64.b64encode(encode_png(pixels)).decode()
    return f"<img src='data:image/png;base64,{address}' alt='{html.escape(alt, quote=True)}'>"


def maps_section(
    image: np.ndarray,
    panels: Sequence[Panel],
    display: Display,
    description: str,
    mask: np.ndarray | None = None,
    sound: TimeAndFrequency | None = None,
) -> str:
    """The image, (H, W, 3 or 1) in [0, 1], and its maps of the same size, as pictures with their colour bars.

    Args: sound: what the axes of a spectrogram mean; None: they count pixels.
    """
    e = html.escape
    drawn = [panel for panel in panels if panel.values is not None]
    limits = colour_limits(drawn, display)
    outline = "" if mask is None or not display.outline else _outline_tag(mask)

    def picture(pixels: np.ndarray, alt: str) -> str:
        return f"<div class='picture'>{_png_tag(pixels, alt)}{outline}</div>"

    figures = [f"<figure>{picture(image, description)}<figcaption><b>Image</b></figcaption></figure>"]
    for panel in drawn:
        pixels = draw_map(image, panel, display, limits[panel.key]) / 255
        figures.append(
            f"<figure>{picture(pixels, f'{panel.title} map')}{_colour_bar(panel, display, limits[panel.key])}"
            f"<figcaption><b>{e(panel.title)}</b><br>{e(panel.caption)}</figcaption></figure>"
        )
    said = f"{scale_sentence(drawn, display)} {axes_sentence(image.shape[:2], sound)}"
    return f"<p>{e(said)}</p><div class='maps'>{''.join(figures)}</div>"


def _outline_tag(mask: np.ndarray) -> str:
    """The object's outline, laid over a picture."""
    height, width = mask.shape
    return (
        f"<svg viewBox='0 0 {width} {height}' preserveAspectRatio='none' role='img' aria-label='outline of the object'>"
        f"<path d='{outline_path(mask)}' fill='none' stroke='{OUTLINE_COLOUR}' vector-effect='non-scaling-stroke'/>"
        "</svg>"
    )


def _colour_bar(panel: Panel, display: Display, limit: float) -> str:
    diverging = is_diverging(panel, display)
    table = SIGNED_COLOURS if diverging else UNSIGNED_COLOURS
    stops = ", ".join("#" + bytes(table[i]).hex() for i in np.linspace(0, len(table) - 1, 17).astype(int))
    ticks = [-limit, 0.0, limit] if diverging else [0.0, limit]
    numbers = "".join(f"<span>{tick_label(panel, tick)}</span>" for tick in ticks)
    return (
        f"<div class='bar' style='background:linear-gradient(90deg, {stops})'></div><div class='ticks'>{numbers}</div>"
        f"<div class='ticks'><span></span><span>{html.escape(unit_of(panel))}</span><span></span></div>"
    )


def table_section(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    def cell(value: Cell) -> str:
        if value is None:
            return "–"
        return html.escape(format_value(value) if isinstance(value, float) else str(value))

    head = "".join(f"<th title='{html.escape(c.help, quote=True)}'>{html.escape(c.heading)}</th>" for c in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell(row.get(c.key))}</td>' for c in columns)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def provenance_section(title: str, manifest: Mapping[str, Any]) -> str:
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
