"""What can be taken away: figure, numbers, data, report, link and lines of Python. Files are made when asked for."""

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
import streamlit as st

from pages.decoder.bench import axes_sentence
from pages.decoder.board import Drawn
from pages.decoder.figures import static_figure
from pages.decoder.numbers import figures_of, figures_table
from pages.decoder.settings import OWN, Case, Settings
from pages.shared.exports import metrics_csv
from pages.shared.tables import table_html

_CSS = (Path(__file__).parents[1] / "shared" / "client" / "report.css").read_text()
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def show(case: Case, settings: Settings, decoders: Sequence[Drawn]) -> None:
    """One row of buttons under the numbers."""
    stem = f"prism-decoders-{case.key}"
    address = link(settings)

    title, axes = f"Additive decoders: {case.title}", axes_sentence(decoders[0], (settings.down, settings.across))

    def figure(file_format: str):
        return lambda: static_figure(decoders, title, axes, footer(settings, decoders), file_format)

    columns, rows = figures_table(decoders)  # here, not in the thread that makes the file
    measured = {drawn.key: figures_of(drawn) for drawn in decoders}
    manifests = {
        drawn.key: {
            "grid": drawn.grid.manifest(),
            "scatter": drawn.scatter.manifest(),
            **({"figures": measured[drawn.key].manifest()} if measured[drawn.key] else {}),
        }
        for drawn in decoders
    }
    lines = python_lines(settings, decoders)

    def report() -> bytes:
        facts = {"Support": case.title, **dict(settings.to_query()), "Link": address}
        return html_report(case, figure("png")(), table_html("Numbers", columns, rows), facts, manifests, lines)

    with st.container(horizontal=True, gap="small"):
        _download("PNG", figure("png"), f"{stem}.png", "image/png", "The grids, 200 dots per inch.")
        _download("SVG", figure("svg"), f"{stem}.svg", "image/svg+xml", "The grids as a drawing.")
        _download("CSV", lambda: metrics_csv(columns, rows), f"{stem}.csv", "text/csv", "The table of numbers.")
        _download(
            "NPZ", lambda: data_npz(decoders, manifests), f"{stem}.npz", "application/zip", "Grids, truth and latents."
        )
        _download("Report", report, f"{stem}.html", "text/html", "One file that needs no network.")
        with st.popover("Link", icon=":material/link:"):
            st.code(address, language=None, wrap_lines=True)
            if case.key == OWN:
                st.caption("What was trained here is found again in this installation only.")
        with st.popover("Python", icon=":material/code:"):
            st.code(lines, language="python")


def _download(label: str, make, name: str, mime: str, text: str) -> None:
    """A button whose file is made on the click, in a thread of its own: `make` must not touch the page."""
    st.download_button(
        label, make, name, mime, key=f"decoder.save.{label}", help=text, icon=":material/download:", on_click="ignore"
    )


def link(settings: Settings) -> str:
    """The address that shows the same again."""
    parts = urlsplit(st.context.url or "")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(settings.to_query()), ""))


def footer(settings: Settings, decoders: Sequence[Drawn]) -> str:
    """What was set, for the figure's foot."""
    models = ", ".join(f"{drawn.key} {drawn.grid.provenance.model_digest[:12]}" for drawn in decoders)
    return f"grid {settings.rows} x {settings.columns}; seed {settings.seed}; models {models}"


def data_npz(decoders: Sequence[Drawn], manifests: dict) -> bytes:
    """Every decoder's arrays under "KEY.name", and all manifests as one JSON string."""
    arrays = {f"{d.key}.{name}": array for d in decoders for name, array in d.grid.arrays.items()}
    arrays |= {
        f"{d.key}.scatter.{name}": array
        for d in decoders
        for name, array in d.scatter.arrays.items()
        if name != "pictures"
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, manifests=np.array(json.dumps(manifests)), **arrays)
    return buffer.getvalue()


def python_lines(settings: Settings, decoders: Sequence[Drawn]) -> str:
    """Python that gives the same results through `backend`."""
    requests = ",\n".join(f"    {drawn.grid.request!r}" for drawn in decoders)
    return (
        "from backend.contracts import DecoderFiguresRequest, DecodingRequest\n"
        "from backend.service import local_service\n\n"
        "service = local_service()\n"
        f"requests = [\n{requests},\n]\n"
        "for request in requests:\n"
        "    result = service.run(request)\n"
        "    figures = service.run(DecoderFiguresRequest(request.model, n=400))\n"
        '    print(request.model, result.arrays["grid"].shape, dict(figures.quality))\n'
    )


def html_report(case: Case, figure: bytes, table: str, facts: dict[str, str], manifests: dict, lines: str) -> bytes:
    """One HTML file that needs nothing beside it: no script, no network, every text escaped."""
    e = html.escape
    picture = base64.b64encode(figure).decode()
    rows = "".join(f"<tr><td>{e(name)}</td><td>{e(str(value))}</td></tr>" for name, value in facts.items())
    provenance = "".join(
        f"<details><summary>{e(key)}</summary><pre>{e(json.dumps(manifest, indent=1))}</pre></details>"
        for key, manifest in manifests.items()
    )
    title = f"Additive decoders: {case.title}"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{e(title)}</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<meta name='viewport' content='width=device-width'><style>{_CSS}</style><h1>{e(title)}</h1>"
        f"<p>{e(case.sentence.replace('**', ''))}</p>"
        f"<img src='data:image/png;base64,{picture}' style='width:100%' alt='Grids of scenes, truth and decoders'>"
        f"<h2>Numbers</h2>{table}<h2>Settings</h2><div class='settings'><table>{rows}</table></div>"
        f"<h2>Provenance</h2>{provenance}<h2>The same in Python</h2><pre>{e(lines)}</pre></html>\n"
    ).encode()
