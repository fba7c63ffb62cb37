"""Evaluations: every method over many held-out pairs, ROAR+, and the search for settings; stored, and run here."""

from typing import Any

import streamlit as st

from pages.pairs import roar, search
from pages.pairs.orders import draw_orders, draw_paper
from pages.pairs.runs import Plan, draw_rows, tables_of, titled
from pages.pairs.verdict import draw_verdict
from pages.shared.controls import begin
from pages.shared.exports import Column
from pages.shared.session import escape
from pages.shared.tables import draw_table

PRESETS = {"table": "Maps judged", "roar": "ROAR+", "search": "Search for β, σ², ℓ"}
PLAN = Plan(
    "table", "Judging maps of", 2, 40, None, ("m2ib", "chefer", "grad-cam", "saliency"),
    about="Every method on held-out pairs of this model. For a data set of your own give the command --data PATH.",
)  # fmt: skip


def show_evaluation(model: str) -> None:
    """One kind of evaluation at a time."""
    begin("pairs.evaluated", "table")
    preset = st.segmented_control(
        "What is measured",
        list(PRESETS),
        format_func=PRESETS.get,
        key="pairs.evaluated",
        required=True,
        label_visibility="collapsed",
    )
    {"table": _show_table, "roar": roar.show, "search": search.show}[preset](model)


def _show_table(model: str) -> None:
    """Our tables of this model, and the paper's."""
    tables = tables_of(model, PLAN)
    if not tables:
        st.caption(f"No run of {escape(model)} is stored; the button makes one, and so does this command:")
        st.code(
            f"python -m backend evaluate image_text --model {model} --n 200 --json", language="bash", wrap_lines=True
        )
    for name, table in tables.items():
        where = "run here" if name == "here" else "stored"
        about = table.get("about", "held-out pairs")
        draw_rows(f"{table['model']}, {where}: {about}; mean ± standard deviation", name, table)
        draw_verdict(table)
        _draw_paired(table)
        draw_orders(table)
    draw_paper()


def _draw_paired(table: dict[str, Any]) -> None:
    """What a bottleneck gains over every other row on the same pairs, and whether the interval leaves 0 out."""
    titles = {row["name"]: titled(row) for row in table["rows"]}
    metrics = {column["key"]: column for column in table["columns"]}
    for ours in dict.fromkeys(pair["ours"] for pair in table["paired"] if pair["ours"] in titles):
        pairs = [pair for pair in table["paired"] if pair["ours"] == ours and pair["low"] is not None]
        keys = list(dict.fromkeys(pair["metric"] for pair in pairs))
        columns = [Column("name", "Compared with")]
        columns += [Column(key, metrics[key]["title"], help="Mean of the differences, 95 % interval.") for key in keys]
        rows: dict[str, dict[str, Any]] = {}
        for pair in pairs:
            row = rows.setdefault(pair["theirs"], {"name": titles[pair["theirs"]]})
            row[pair["metric"]] = f"{pair['mean']:+.3f} [{pair['low']:.3f}, {pair['high']:.3f}]".replace("-", "−")
        draw_table(f"{titles[ours]}, difference to the others, pair by pair", columns, list(rows.values()))
