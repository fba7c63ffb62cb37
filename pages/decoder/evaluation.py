"""The table over training seeds: stored evaluations with the command that made them, or one of now."""

import json
from pathlib import Path
from typing import Any

import streamlit as st

from backend.errors import PrismError
from backend.jobs import ENDED, JobStatus
from pages.decoder.settings import SEEDS, Case, cases_here, is_here, seeded, title_of
from pages.shared.controls import refused
from pages.shared.exports import Column, metrics_csv
from pages.shared.figures import format_value
from pages.shared.session import jobs
from pages.shared.tables import draw_table
from pages.shared.watching import watch

EVALUATIONS = Path(__file__).resolve().parents[2] / "assets" / "evaluations"
FAMILY = "additive_decoding"
COLUMNS = (
    Column("name", "Decoder"),
    Column("lms_spearman", "LMS, seen", "higher", "Median over seeds of the latent matching score."),
    Column("lms_spearman_out", "LMS, never seen", "higher", "The same on scenes that training left out."),
    Column("lms_tree", "LMS by trees", "higher", "Median over seeds, by regression trees."),
    Column("rmse", "RMSE, seen", "lower", "Median over seeds."),
    Column("rmse_out", "RMSE, never seen", "lower", "Median over seeds."),
    Column("rmse_recombined", "RMSE, recombined", "lower", "Blocks of different scenes decoded together."),
    Column("seeds", "Seeds", help="Training seeds that the medians are over."),
)
SAVINGS = (
    COLUMNS[0],
    COLUMNS[-1],
    Column("share_of_seeds_failed", "Seeds that failed", "lower", "Share of training seeds with LMS below 95."),
    Column(
        "share_of_starts_failed",
        "Starts that failed",
        "lower",
        "Share of single starts with LMS below 95: training chooses among them by training loss alone.",
    ),
    Column("median_lms_of_starts", "LMS of a start", "higher", "Median over all starts, chosen or not."),
    Column("chosen_lms_of_starts", "LMS of the chosen", "higher", "Of the starts with the lowest training loss."),
)
SPREAD = ("lms_spearman", "lms_spearman_out", "lms_tree", "rmse", "rmse_out", "rmse_recombined")


def show_evaluation(case: Case) -> None:
    """Our table of this case's decoders, and the button that makes it again."""
    keys = [key for key in case.decoders if not key.startswith("job-")]
    if not keys:
        st.caption("A table over seeds is kept for the models that ship; choose one of their supports.")
        return
    tables = {title_of(case, key): table for key in keys if (table := _table_of(key)) is not None}
    twin = cases_here().get(case.twin)
    if twin is not None:
        beside = {f"{title_of(twin, key)}, {twin.title}": _table_of(key) for key in twin.decoders}
        tables |= {title: table for title, table in beside.items() if table is not None}
    if tables:
        _draw(case, tables)
    else:
        st.caption("No evaluation is stored for this support. The button below makes one.")
    _offer_run(case, keys)


def _table_of(model: str) -> dict[str, Any] | None:
    """An evaluation of now if there is one, else the stored one."""
    status = next((job for job in _runs() if job.args.get("model") == model and job.state == "done"), None)
    if status is not None:
        try:
            return jobs().result(status.id)
        except PrismError:
            pass
    path = EVALUATIONS / f"additive_decoding-{model}.json"
    return json.loads(path.read_text()) if path.exists() else None


def _runs() -> list[JobStatus]:
    return [job for job in jobs().list() if job.kind == "evaluate" and job.args.get("family") == FAMILY]


def _draw(case: Case, tables: dict[str, dict[str, Any]]) -> None:
    rows = [
        {"name": title, **{column.key: table.get(column.key) for column in (*COLUMNS[1:], *SAVINGS[2:])}}
        for title, table in tables.items()
    ]
    columns = [c for c in COLUMNS if c.key == "name" or any(row[c.key] is not None for row in rows)]
    draw_table("Median over training seeds", columns, rows)
    _draw_savings(tables)
    with st.expander("From the lowest to the highest seed"):
        shown = [column for column in columns if column.key in SPREAD]
        spread = [
            {"name": title, **{column.key: _spread(table["range"][column.key]) for column in shown}}
            for title, table in tables.items()
        ]
        draw_table("Range over seeds", [COLUMNS[0], *shown], spread, mark_best=False)
        st.download_button(
            "CSV", metrics_csv((*columns, *SAVINGS[2:]), rows), f"decoders-{case.key}.csv", "text/csv",
            key="decoder.table.csv", on_click="ignore",
        )  # fmt: skip
    parameters = {f"{sum(table['parameters'].values()):,}" for table in tables.values()}
    st.caption(f"Parameters: {', '.join(sorted(parameters))}. Made by")
    st.code("\n".join(table["command"] for table in tables.values()), language="bash", wrap_lines=True)


def _draw_savings(tables: dict[str, dict[str, Any]]) -> None:
    """How often one start ends in a mixture, and what choosing among several by training loss makes of it."""
    rows = [
        {"name": title, **{column.key: table.get(column.key) for column in SAVINGS[1:]}}
        for title, table in tables.items()
    ]
    draw_table("What choosing among starts by training loss saves", SAVINGS, rows)


def _spread(ends: list[float] | None) -> str | None:
    return None if ends is None else f"{format_value(ends[0])} … {format_value(ends[1])}"


def _offer_run(case: Case, keys: list[str]) -> None:
    running = next((job for job in _runs() if job.state not in ENDED), None)
    if running is not None:
        watch(jobs(), running.id, "Measuring", key="decoder.table.cancel")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        key = st.selectbox(
            "Decoder", keys, format_func=lambda key: title_of(case, key), key=f"decoder.table.{case.key}", width=220
        )
        if st.button("Measure it here", icon=":material/play_arrow:", key="decoder.table.run"):
            seeds = next((s for s in range(SEEDS) if not is_here(seeded(key, s))), SEEDS)
            try:
                jobs().submit("evaluate", {"family": FAMILY, "model": key, "seeds": seeds, "n": 500})
            except PrismError as error:
                refused(error.sentence)
                return
            st.rerun()
