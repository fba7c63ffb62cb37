"""The table: every method over many test images, from a stored run or one of now, beside the paper's Table 1."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from pages.shared.controls import refused
from pages.shared.exports import Column, Spread, metrics_csv
from pages.shared.session import escape, jobs
from pages.shared.tables import draw_table
from pages.shared.watching import watch

ASSETS = Path(__file__).resolve().parents[2] / "assets"
SHOWN = (
    "deletion_ratio",
    "insertion_ratio",
    "deletion_normalised",
    "insertion_normalised",
    "completeness_gap",
    "corrected_share",
    "variance",
    "mass_absolute",
    "pointing",
    "seconds",
)
DATASETS = ("MNIST", "CIFAR-10", "ImageNet")


def show_evaluation(model: str) -> None:
    """Our table of this model, the button that makes it again, and the paper's beside it."""
    stored, status = _stored(model), _last_job(model)
    if stored is not None:
        _draw_ours(stored, "stored")
    else:
        st.caption(f"No stored run for {model}; the button below makes one.")
    _offer_run(model, status)
    if status is not None and status.state == "done":
        _draw_ours(jobs().result(status.id), "here")
    _draw_paper()


def _last_job(model: str) -> JobStatus | None:
    """The newest evaluation of this model, whoever asked for it: so it is found again after a reload."""
    return next((job for job in jobs().list() if job.kind == "evaluate" and job.args.get("model") == model), None)


def _stored(model: str) -> dict[str, Any] | None:
    path = ASSETS / "evaluations" / f"path_attribution-{model}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _draw_ours(table: dict[str, Any], where: str) -> None:
    """One run as a table, with the command that makes it."""
    known = {column["key"]: column for column in table["columns"]}
    shown = [known[key] for key in SHOWN if key in known]
    columns = [Column("name", "Method")] + [Column(c["key"], c["title"], c["better"], c["help"]) for c in shown]
    rows = [
        {"name": row["title"], **{key: _spread(cell) for key, cell in row["metrics"].items()}} for row in table["rows"]
    ]
    images = sum(model["images"] for model in table["models"])
    baseline = table["baseline"]
    draw_table(f"{table['model']}: mean ± standard deviation, {images} test images, {baseline} baseline", columns, rows)
    for refusal in table.get("not_applicable", []):
        st.caption(f"{escape(refusal['name'])}: {escape(refusal['reason'])}")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.code(table["command"], language="bash")
        name = f"table-{table['model']}.csv"
        st.download_button(
            "CSV",
            metrics_csv(columns, rows),
            name,
            "text/csv",
            key=f"path.table.csv.{where}",
            icon=":material/download:",
            on_click="ignore",
        )
    st.caption(f"Made in {table['seconds']:.0f} s on {escape(table['machine'])}.")


def _spread(cell: dict[str, float | None]) -> Spread | None:
    return None if cell["mean"] is None else Spread(cell["mean"], cell["sd"])


# ----------------------------------------------------------------- a run of now
def _offer_run(model: str, status: JobStatus | None) -> None:
    if status is not None and status.state not in ENDED:
        watch(jobs(), status.id, "Evaluating", key="path.table.cancel")
        return
    if status is not None and status.state == "failed":
        refused(status.error)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        n = st.number_input("Test images", 1, 1000, 100, key="path.table.n", width=160)
        if st.button("Run it here", icon=":material/play_arrow:", key="path.table.run"):
            try:
                jobs().submit("evaluate", {"model": model, "n": int(n)})
            except PrismError as error:
                refused(error.sentence)
                return
            st.rerun()


# ----------------------------------------------------------------- the paper's
@cache
def _paper() -> tuple[dict[str, Any], list[dict[str, str]]]:
    folder = ASSETS / "paper_tables"
    with open(folder / "samp_table1.csv", newline="") as file:
        return json.loads((folder / "samp_table1.json").read_text()), list(csv.DictReader(file))


def _draw_paper() -> None:
    about, cells = _paper()
    columns = [Column("name", "Method")]
    for dataset in DATASETS:
        columns += [Column(f"{dataset} deletion", f"{dataset}, deletion", "lower")]
        columns += [Column(f"{dataset} insertion", f"{dataset}, insertion", "higher")]
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        row = rows.setdefault(cell["method"], {"name": cell["method"]})
        row[f"{cell['dataset']} {cell['metric']}"] = Spread(float(cell["mean"]), float(cell["sd"]), digits=3)
    draw_table("The paper's Table 1", columns, list(rows.values()))
    st.caption(f"{about['citation']}. {about['score']}. {about['note']}")
