"""ROAR+: what a fresh copy of the model fails to learn when the maps' best parts are taken out of its pairs."""

from typing import Any

import streamlit as st

from pages.pairs.orders import draw_orders, draw_paper
from pages.pairs.runs import Plan, draw_rows, tables_of, titled
from pages.shared.exports import Column
from pages.shared.session import escape
from pages.shared.tables import draw_table

PLAN = Plan(
    "roar", "Learning without the best, with", 20, 60, 3, ("m2ib", "chefer", "saliency"),
    about="A fine-tuning for each method, modality and seed: 200 pairs with five methods and three seeds took cxr-clip "
    "about a quarter of an hour of one processor core.",
)  # fmt: skip


def show(model: str) -> None:
    st.markdown(
        "The quarter of the pixels, or the half of the words, that a map puts highest is taken out of the pairs that a "
        "fresh copy of the model learns from. **ROAR+** says how much larger its loss on intact, unseen pairs is than "
        "after learning from intact ones. A map that is no better than **random maps** found nothing that the model "
        "needs."
    )
    tables = tables_of(model, PLAN)
    if not tables:
        st.caption(f"No run of {escape(model)} is stored; the button makes one.")
    for name, table in tables.items():
        where = "run here" if name == "here" else "stored"
        draw_rows(f"{table['model']}, {where}: {table['about']} (± standard deviation over seeds)", name, table)
        _draw_over_random(table)
        draw_orders(table)
        st.caption(escape(table["definition"]))
        st.caption("Differs from the paper: " + escape(" ".join(table["differs"])))
    draw_paper(("roar_plus",))


def _draw_over_random(table: dict[str, Any]) -> None:
    """How far each method is above random maps, seed by seed."""
    titles = {row["name"]: titled(row) for row in table["rows"]}
    columns = [Column("name", "Method")]
    columns += [
        Column(c["key"], f"{c['title']} over random", help="Mean over seeds, 95 % interval.") for c in table["columns"]
    ]
    rows: dict[str, dict[str, Any]] = {}
    for pair in table["paired"]:
        row = rows.setdefault(pair["ours"], {"name": titles[pair["ours"]]})
        span = "" if pair["low"] is None else f" [{pair['low']:.1f}, {pair['high']:.1f}]"
        row[pair["metric"]] = f"{pair['mean']:+.1f}{span}".replace("-", "−")
    draw_table("Difference to random maps, seed by seed", columns, list(rows.values()), mark_best=False)
