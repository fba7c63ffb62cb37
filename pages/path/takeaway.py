"""What can be taken away: figure, data, report, link and lines of Python. Files are made when they are asked for."""

from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st

from backend.contracts import Result
from pages.path.board import Board
from pages.path.numbers import faithfulness_curves, table
from pages.path.settings import UPLOAD, Settings
from pages.shared.exports import Report, changed_params, html_report, metrics_csv, python_lines, results_npz
from pages.shared.figures import Panel, static_figure


def show(board: Board, panels: Sequence[Panel], settings: Settings) -> None:
    """One row of buttons under the maps."""
    if not board.results:
        return
    report, footer = _report(board, panels, settings), _footer(board)
    stem = f"prism-{settings.model}-{board.picture.example or UPLOAD}".replace(":", "-")

    image = report.image

    def figure(file_format: str):
        return lambda: static_figure(image, panels, settings.display, report.title, footer, file_format, report.mask)

    def data() -> bytes:
        return results_npz(image, report.results)

    with st.container(horizontal=True, gap="small"):
        _download("PNG", figure("png"), f"{stem}.png", "image/png", "The figure as it is shown, 200 dots per inch.")
        _download("SVG", figure("svg"), f"{stem}.svg", "image/svg+xml", "The figure as a drawing.")
        _download(
            "CSV", lambda: metrics_csv(report.columns, report.rows), f"{stem}.csv", "text/csv", "The table of metrics."
        )
        _download("NPZ", data, f"{stem}.npz", "application/zip", "All attributions with their provenance.")
        _download("Report", lambda: html_report(report), f"{stem}.html", "text/html", "One file that needs no network.")
        with st.popover("Link", icon=":material/link:"):
            st.code(link(settings), language=None, wrap_lines=True)
            if not board.picture.example:
                st.caption("Your own picture is not in the link.")
        with st.popover("Python", icon=":material/code:"):
            st.code(report.python, language="python")


def _download(label: str, make, name: str, mime: str, text: str) -> None:
    """A button whose file is made on the click, in a thread of its own: `make` must not touch the page."""
    st.download_button(
        label, make, name, mime, key=f"path.save.{label}", help=text, icon=":material/download:", on_click="ignore"
    )


def link(settings: Settings) -> str:
    """The address that shows the same again."""
    parts = urlsplit(st.context.url or "")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(settings.to_query()), ""))


def _footer(board: Board) -> str:
    changed = [
        f"{request.method} {name}={value}"
        for request in board.answered
        for name, value in changed_params(request).items()
    ]
    made, settings = board.results[0].provenance, board.settings
    parts = [
        f"baseline {', '.join(settings.baselines)}",
        f"seed {settings.seed}",
        *changed,
        f"model {made.model_digest[:12]}",
        f"image {board.picture.id[:12]}",
    ]
    return "; ".join(parts)


def _report(board: Board, panels: Sequence[Panel], settings: Settings) -> Report:
    columns, rows = table(board, settings.score)
    sweep = board.answer(board.faithfulness) if board.faithfulness else None
    results = board.results
    made, label = results[0].provenance, results[0].values["label"]
    return Report(
        title=f"{settings.model}: what speaks for “{label}” in “{board.picture.name}”",
        image=board.prediction.arrays["pixels"],
        description=board.picture.alt,
        panels=panels,
        display=settings.display,
        columns=columns,
        rows=rows,
        curves=faithfulness_curves(sweep, settings.score) if isinstance(sweep, Result) else [],
        settings={
            "Model": settings.model,
            "Model digest (sha256)": made.model_digest,
            "Picture": board.picture.name,
            "Picture digest (sha256)": board.picture.id,
            "Class": f"{board.target} ({label})",
            "Baselines": ", ".join(settings.baselines),
            "Deleted pixels become": settings.replacement,
            "Score of deletion and insertion": settings.score,
            "Seed": str(settings.seed),
            "Display": ", ".join(f"{name} {value}" for name, value in settings.display.as_mapping().items()),
            "Device": made.device,
            "Link": link(settings),
        },
        results=results,
        python=python_lines(board.answered, board.picture.example or None, board.picture.name),
        notes=board.picture.notes,
        mask=board.picture.mask(*board.prediction.arrays["pixels"].shape[:2]),
    )
