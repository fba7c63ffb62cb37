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
from pages.shared.exports import Column, metrics_csv
from pages.shared.figures import format_value
from pages.shared.session import jobs
from pages.shared.tables import draw_table

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
EVERY_S = 1.0  # how often a running job is looked at
DATASETS = ("MNIST", "CIFAR-10", "ImageNet")


def show_evaluation(model: str) -> None:
    """Our table of this model, the paper's beside it, and the button that makes ours again."""
    status = _last_job(model)
    table = _table_of(model, status)
    if table is None:
        st.caption(f"No stored run for {model}. The button below makes one.")
    else:
        _draw_ours(table)
    _offer_run(model, status)
    _draw_paper()


def _last_job(model: str) -> JobStatus | None:
    """The newest evaluation of this model, whoever asked for it: so it is found again after a reload."""
    return next((job for job in jobs().list() if job.kind == "evaluate" and job.args.get("model") == model), None)


def _table_of(model: str, status: JobStatus | None) -> dict[str, Any] | None:
    if status is not None and status.state == "done":
        try:
            return jobs().result(status.id)
        except PrismError:
            pass
    path = ASSETS / "evaluations" / f"path_attribution-{model}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _draw_ours(table: dict[str, Any]) -> None:
    known = {column["key"]: column for column in table["columns"]}
    shown = [known[key] for key in SHOWN if key in known]
    columns = [Column("name", "Method")] + [Column(c["key"], c["title"], c["better"], c["help"]) for c in shown]
    rows = [
        {"name": row["title"], **{key: cell["mean"] for key, cell in row["metrics"].items() if key in known}}
        for row in table["rows"]
    ]
    images = table["models"][0]["images"]
    draw_table(f"{table['model']}: mean over {images} test images, {table['baseline']} baseline", columns, rows)
    with st.expander("Mean ± standard deviation"):
        spread = [
            {"name": row["title"], **{key: _spread(cell) for key, cell in row["metrics"].items()}}
            for row in table["rows"]
        ]
        draw_table("Mean ± standard deviation over images", columns, spread, mark_best=False)
        st.download_button(
            "CSV", metrics_csv(columns, rows), f"table-{table['model']}.csv", "text/csv", on_click="ignore"
        )
    for refusal in table.get("not_applicable", []):
        st.caption(f"{refusal['name']}: {refusal['reason']}")
    st.caption(f"Made in {table['seconds']:.0f} s on {table['machine']} by")
    st.code(table["command"], language="bash")


def _spread(cell: dict[str, float | None]) -> str | None:
    if cell["mean"] is None:
        return None
    return format_value(cell["mean"]) + ("" if cell["sd"] is None else f" ± {format_value(cell['sd'])}")


# ----------------------------------------------------------------- a run of now
def _offer_run(model: str, status: JobStatus | None) -> None:
    if status is not None and status.state not in ENDED:
        _watch(status.id)
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


@st.fragment(run_every=EVERY_S)
def _watch(job_id: str) -> None:
    """Progress of a running job; it goes on when this page is left, and is found again when it is opened."""
    status = jobs().status(job_id)
    if status.state in ENDED:
        st.rerun()
    st.progress(status.step.fraction, text=f"Evaluating {status.args['model']}: {status.message or status.state}")
    if st.button("Cancel", icon=":material/stop_circle:", key="path.table.cancel"):
        jobs().cancel(job_id)


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
        row[f"{cell['dataset']} {cell['metric']}"] = float(cell["mean"])
    draw_table("The paper's Table 1", columns, list(rows.values()))
    st.caption(f"{about['citation']}. {about['score']}. {about['note']}")
