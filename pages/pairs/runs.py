"""Evaluations of a pair of encoders: runs that ship, runs of this installation, and the button that starts one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from backend.catalog import PAIR_METHODS
from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from backend.limits import LIMITS
from pages.shared.controls import begin, refused
from pages.shared.exports import Cell, Column, Row, Spread, metrics_csv
from pages.shared.session import escape, jobs
from pages.shared.tables import draw_table
from pages.shared.watching import watch

ASSETS = Path(__file__).resolve().parents[2] / "assets"
FAMILY = "image_text"
# Methods as they are offered to a run: the sampling ones with as many samples as in the runs that ship.
OFFERED = (
    "m2ib", "m2ib-contrast", "chefer", "grad-cam", "saliency", "rollout", "rise:samples=256", "kernel-shap:samples=128"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of one preset is offered with."""

    preset: str
    doing: str
    least: int  # pairs
    n: int
    seeds: int | None  # None: it has none
    methods: tuple[str, ...]
    offered: tuple[str, ...] = OFFERED
    about: str = ""


@cache
def stored(model: str, preset: str) -> dict[str, dict[str, Any]]:
    """The runs of a model that ship, by the name of their file."""
    paths = sorted((ASSETS / "evaluations").glob(f"{FAMILY}-{model}*.json"), key=lambda path: path.stem)
    tables = {path.stem: json.loads(path.read_text()) for path in paths}
    return {
        name: table
        for name, table in tables.items()
        if table.get("model") == model and table.get("preset", "table") == preset and {"rows", "tried"} & set(table)
    }


def is_stale(table: dict[str, Any]) -> bool:
    """Was a run made with other weights than those that ship now?"""
    card = ASSETS / "weights" / f"{table['model']}.json"
    return card.exists() and json.loads(card.read_text()).get("sha256") != table.get("digest")


def last_run(model: str, preset: str) -> JobStatus | None:
    """The newest run of this installation, whoever asked for it: so it is found again after a reload.

    Runs on data of somebody's own stay with the command line that started them.
    """
    wanted = {"family": FAMILY, "model": model, "preset": preset, "data": ""}

    def is_wanted(job: JobStatus) -> bool:
        given = {"preset": "table", "data": "", **job.args}
        return job.kind == "evaluate" and all(given.get(name) == value for name, value in wanted.items())

    return next(filter(is_wanted, jobs().list()), None)


def tables_of(model: str, plan: Plan) -> dict[str, dict[str, Any]]:
    """What can be shown: runs that ship, and the last one of here; the button for another stands above them."""
    found = dict(stored(model, plan.preset))
    status = last_run(model, plan.preset)
    offer(model, plan, status)
    if status is not None and status.state == "done":
        try:
            found["here"] = jobs().result(status.id)
        except PrismError as error:
            refused(error.sentence)
    return found


def offer(model: str, plan: Plan, status: JobStatus | None) -> None:
    """The form that starts a run; while one is under way, its progress and a way to cancel it."""
    key = f"pairs.{plan.preset}"
    if status is not None and status.state not in ENDED:
        watch(jobs(), status.id, plan.doing, key=f"{key}.cancel")
        st.caption("It goes on when you leave this page, and is found again when you come back.")
        return
    if status is not None and status.state == "failed":
        refused(status.error)
    if status is not None and status.state == "cancelled":
        st.caption("The last run was cancelled.")
    begin(f"{key}.methods", list(plan.methods))
    begin(f"{key}.n", plan.n)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        methods = st.multiselect("Methods", plan.offered, key=f"{key}.methods", format_func=said, width=360)
        n = st.number_input("Pairs", plan.least, LIMITS.max_evaluation_images, key=f"{key}.n", width=120)
        seeds = 1
        if plan.seeds is not None:
            begin(f"{key}.seeds", plan.seeds)
            seeds = st.number_input("Seeds", 1, 20, key=f"{key}.seeds", width=110)
        asked = st.button("Run it here", icon=":material/play_arrow:", key=f"{key}.run", disabled=not methods)
    st.caption(plan.about)
    if not methods:
        refused("choose at least one method")
    if asked:
        args = {"family": FAMILY, "model": model, "n": int(n), "preset": plan.preset, "methods": list(methods)}
        try:
            jobs().submit("evaluate", args if plan.seeds is None else {**args, "seeds": int(seeds)})
        except PrismError as error:
            refused(error.sentence)
            return
        st.rerun()


def said(row: str) -> str:
    """A method with its settings, as a row of a table is titled.

    >>> said("rise:samples=256")
    'RISE, samples 256'
    """
    method, *settings = row.split(":")
    return ", ".join((PAIR_METHODS[method].title, *(setting.replace("=", " ") for setting in settings)))


def titled(row: Mapping[str, Any]) -> str:
    """A stored row's title; with settings it is said as the form says it."""
    return said(row["name"]) if row["name"].partition(":")[0] in PAIR_METHODS else row["title"]


def draw_made(name: str, table: dict[str, Any], columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """The command that makes a table, the table as CSV, and where and how long it was made."""
    if name != "here" and is_stale(table):
        st.caption(":material/history: Made with earlier weights of this model; the command makes it anew.")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.code(table["command"], language="bash", wrap_lines=True)
        st.download_button(
            "CSV",
            metrics_csv(columns, rows),
            f"{name}.csv",
            "text/csv",
            key=f"pairs.table.{name}.{table.get('preset', 'table')}",
            icon=":material/download:",
            on_click="ignore",
        )
    st.caption(f"Made in {table['seconds']:.0f} s on {escape(table['machine'])}.")


def draw_rows(title: str, name: str, table: dict[str, Any]) -> None:
    """The rows of a run as a table, and how it was made."""
    columns = [Column("name", "Method")]
    columns += [Column(c["key"], c["title"], c.get("better", ""), c.get("help", "")) for c in table["columns"]]
    rows = [
        {"name": titled(row), **{key: cell_of(cell) for key, cell in row["metrics"].items()}} for row in table["rows"]
    ]
    draw_table(title, columns, rows)
    for refusal in table.get("not_applicable", []):
        st.caption(f"{escape(refusal['name'])}, {refusal['modality']}: {escape(refusal['reason'])}")
    draw_made(name, table, columns, rows)


def cell_of(cell: Any) -> Cell:
    if not isinstance(cell, dict):
        return cell
    return None if cell.get("mean") is None else Spread(cell["mean"], cell.get("sd"))
