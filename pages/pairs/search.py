"""The search of the paper's appendix, over beta, sigma squared and layer, as small multiples and as a table."""

import csv
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import streamlit as st

from pages.pairs.orders import PAPER_TABLES
from pages.pairs.runs import Plan, cell_of, draw_made, said, tables_of
from pages.shared.controls import begin
from pages.shared.exports import Column
from pages.shared.figures import Axes, Curve, line_style, plot_curves
from pages.shared.session import escape
from pages.shared.tables import draw_table

PLAN = Plan(
    "search", "Searching settings of", 20, 20, 1, ("m2ib",), ("m2ib", "m2ib-contrast", "m2ib:mode=paper"),
    about="β and σ² in 1, 0.1, 0.01 at every layer, on pairs that no table is made of, with a fine-tuning for each "
    "combination. With 20 pairs cxr-clip took about ten seconds of one processor core for each of 63. Nothing is "
    "changed by it.",
)  # fmt: skip
SAYS = {"image": "Images", "text": "Texts", "audio": "Sounds"}
SETTINGS = {"layer": "Layer ℓ", "beta": "β", "sigma2": "σ²"}
PLOT_OPTIONS = {"displayModeBar": False}
FEW = 100  # pairs, below which the page warns of chance
Tried = Sequence[dict[str, Any]]  # settings with a cell for each measure


def show(model: str) -> None:
    tables = tables_of(model, PLAN)
    if not tables:
        st.caption(f"No search for {escape(model)} is stored; the button makes one.")
    for name, table in tables.items():
        where = "run here" if name == "here" else "stored"
        st.markdown(f"**{escape(table['model'])}, {where}**: {escape(table['about'])}")
        measure = _choose_measure(name, table)
        for row, by_modality in table["tried"].items():
            for modality, tried in by_modality.items():
                _draw_multiples(f"{name}.{row}.{modality}", f"{said(row)}, {SAYS[modality]}", tried, measure)
        _draw_choices(table)
        st.caption(
            f"ROAR+ was tried on a fifth of the {table['n']} pairs, with {table['seeds']} seed(s): on so few "
            "neighbouring settings differ by chance."
            if table["n"] < FEW
            else "ROAR+ was tried on a fifth of the pairs."
        )
        _draw_all(name, table)
    _draw_paper()


def _choose_measure(name: str, table: dict[str, Any]) -> dict[str, str]:
    measures = {measure["key"]: measure for measure in table["measures"]}
    key = f"pairs.search.measure.{name}"
    begin(key, "score")
    chosen = st.segmented_control(
        "Measure", list(measures), format_func=lambda one: measures[one]["title"], key=key, required=True
    )
    st.caption(f"{measures[chosen]['better'].capitalize()} is better. {escape(measures[chosen]['help'])}")
    return measures[chosen]


def _draw_multiples(key: str, title: str, tried: Tried, measure: dict[str, str]) -> None:
    """A plot for each layer, all of one height: the measure over beta, a line for each sigma squared."""
    st.markdown(f"**{title}**")
    values = [one[measure["key"]]["mean"] for one in tried if one[measure["key"]]["mean"] is not None]
    if not values:
        st.caption("This measure is not defined for these pairs.")
        return
    low, high = min(*values, 0.0), max(values)
    layers = list(dict.fromkeys(one["settings"]["layer"] for one in tried))
    for layer, column in zip(layers, st.columns(len(layers)), strict=True):
        figure = plot_curves(
            _curves([one for one in tried if one["settings"]["layer"] == layer], measure["key"]),
            Axes(f"ℓ = {layer}", "β", measure["title"]),
            markers=True,
            log_x=True,
        )
        figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
        column.plotly_chart(figure, key=f"pairs.search.{key}.{layer}", config=PLOT_OPTIONS)


def _curves(tried: Tried, measure: str) -> list[Curve]:
    """One for each sigma squared, over beta."""
    curves = []
    for k, sigma2 in enumerate(dict.fromkeys(one["settings"]["sigma2"] for one in tried)):
        line = sorted(
            (one for one in tried if one["settings"]["sigma2"] == sigma2), key=lambda o: o["settings"]["beta"]
        )
        x = np.array([one["settings"]["beta"] for one in line])
        y = np.array([np.nan if one[measure]["mean"] is None else one[measure]["mean"] for one in line], dtype=float)
        curves.append(Curve(f"sigma2 {sigma2:g}", f"σ² = {sigma2:g}", line_style(k), x, y))
    return curves


def _draw_choices(table: dict[str, Any]) -> None:
    """What each measure would choose, and what the model has."""
    columns = [Column("name", "Map"), Column("by", "Chosen by")]
    columns += [Column(name, title) for name, title in SETTINGS.items()]
    rows = []
    for row, by_modality in table["would_choose"].items():
        for modality, choices in by_modality.items():
            held = table["held"].get(row, {}).get(modality, {})
            chosen = {"our score": choices["score"], "ROAR+, as the paper": choices["roar_plus"]}
            for by, settings in {**chosen, "what the model has": held}.items():
                if settings:
                    shown = {name: f"{settings[name]:g}" if name in settings else "default" for name in SETTINGS}
                    rows.append({"name": f"{said(row)}, {SAYS[modality]}", "by": by, **shown})
    draw_table("What the search would choose", columns, rows, mark_best=False)


def _draw_all(name: str, table: dict[str, Any]) -> None:
    columns = [Column("name", "Map")]
    columns += [Column(key, title) for key, title in SETTINGS.items()]
    columns += [Column(m["key"], m["title"], m["better"], m["help"]) for m in table["measures"]]
    rows = [
        {
            "name": f"{said(row)}, {SAYS[modality]}",
            **{key: f"{one['settings'][key]:g}" for key in SETTINGS},
            **{m["key"]: cell_of(one[m["key"]]) for m in table["measures"]},
        }
        for row, by_modality in table["tried"].items()
        for modality, tried in by_modality.items()
        for one in tried
    ]
    with st.expander("All combinations"):
        draw_table("± standard deviation, over pairs, of ROAR+ over seeds", columns, rows, mark_best=False)
        for refusal in table["not_applicable"]:
            st.caption(f"{escape(refusal['name'])}, {refusal['modality']}: {escape(refusal['reason'])}")
    draw_made(name, table, columns, rows)


# ----------------------------------------------------------------- the paper's
@cache
def _paper() -> tuple[dict[str, Any], dict[tuple[str, str], list[dict[str, Any]]]]:
    """What the paper's Table 2 is, and its combinations by data set and modality."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with open(PAPER_TABLES / "m2ib_table2.csv", newline="") as file:
        for cell in csv.DictReader(file):
            settings = {"layer": int(cell["layer"]), "beta": float(cell["beta"]), "sigma2": float(cell["sigma2"])}
            one = {"settings": settings, "roar_plus": {"mean": float(cell["roar_plus_percent"])}}
            found.setdefault((cell["dataset"], cell["modality"]), []).append(one)
    return json.loads((PAPER_TABLES / "m2ib_table2.json").read_text()), found


def _draw_paper() -> None:
    about, found = _paper()
    with st.expander("The paper's search"):
        measure = {"key": "roar_plus", "title": "ROAR+, %"}
        for (dataset, modality), tried in found.items():
            _draw_multiples(f"paper.{dataset}.{modality}", f"{dataset}, {SAYS[modality]}", tried, measure)
        st.caption(f"{about['citation']}. {about['score']}. {about['note']}")
