"""The search of the paper's appendix, over beta, sigma squared and layer, as small multiples and as a table."""

import csv
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import streamlit as st

from pages.pairs.orders import PAPER_TABLES
from pages.pairs.runs import ASSETS, Plan, cell_of, draw_made, said, tables_of
from pages.shared.exports import Column
from pages.shared.figures import PLOT_OPTIONS, Axes, Curve, line_style, plot_curves
from pages.shared.session import escape
from pages.shared.tables import draw_table

PLAN = Plan(
    "search", "Searching settings of", 20, 20, 1, ("m2ib",), ("m2ib", "m2ib-contrast", "m2ib:mode=paper", "grad-cam"),
    about="Layer, mode, β and σ² in three rounds, on pairs that no table is made of, with a fine-tuning for each of "
    "the last. A search here changes nothing; the models that ship have their settings from the stored one.",
)  # fmt: skip
SAYS = {"image": "Images", "text": "Texts", "audio": "Sounds"}
SETTINGS = {"layer": "Layer ℓ", "mode": "Mode", "beta": "β", "sigma2": "σ²", "smooth": "Smoothing, cells"}
FEW = 100  # pairs, below which the page warns of chance
Tried = Sequence[dict[str, Any]]  # settings with a cell for each measure


def show(model: str) -> None:
    tables = tables_of(model, PLAN)
    if not tables:
        st.caption(f"No search for {escape(model)} is stored; the button makes one.")
    for name, table in tables.items():
        where = "run here" if name == "here" else "stored"
        st.markdown(f"**{escape(table['model'])}, {where}**: {escape(table['about'])}")
        st.caption(escape(table["economy"]))
        _draw_last(table)
        st.caption(
            f"ROAR+ was tried on a fifth of the {table['n']} pairs, seeds: {table['seeds']}"
            + (": on so few neighbouring settings differ by chance." if table["n"] < FEW else ".")
        )
        for row, by_modality in table["tried"].items():
            for modality, tried in by_modality.items():
                _draw_first_round(f"{name}.{row}.{modality}", f"{said(row)}, {SAYS[modality]}", tried)
        _draw_all(name, table)
    _draw_paper()


def _draw_last(table: dict[str, Any]) -> None:
    """Those that were tried on most pairs, what the score and ROAR+ choose of them, and what the model has."""
    columns = [Column("name", "Map"), Column("held", "The model's default"), Column("chosen", "Chosen by")]
    columns += [Column(key, title) for key, title in SETTINGS.items()]
    columns += [Column(m["key"], m["title"], m["better"], m["help"]) for m in table["measures"]]
    rows = []
    for row, by_modality in table["tried"].items():
        held = held_settings(table["model"]).get(row, {})
        for modality, tried in by_modality.items():
            choices, most = table["would_choose"][row][modality], max(one["score"]["n"] for one in tried)
            for one in tried:
                if one["score"]["n"] == most:
                    chosen = [said_by for by, said_by in _BY.items() if choices[by] == one["settings"]]
                    is_held = "yes" if held.get(modality) == one["settings"] else ""
                    rows.append({**_cells(row, modality, one, table), "chosen": ", ".join(chosen), "held": is_held})
    draw_table("The last round: those that were tried on all pairs", columns, rows, mark_best=False)


_BY = {"score": "score", "roar_plus": "ROAR+"}


@cache
def held_settings(model: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The settings that ship with a model, by method and modality."""
    card = ASSETS / "weights" / f"{model}-maps.json"
    return json.loads(card.read_text()).get("settings", {}) if card.exists() else {}


def _cells(row: str, modality: str, one: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    settings = one["settings"]
    shown = {key: settings[key] if key == "mode" else f"{settings[key]:g}" for key in SETTINGS if key in settings}
    measured = {m["key"]: cell_of(one[m["key"]]) if m["key"] in one else None for m in table["measures"]}
    return {"name": f"{said(row)}, {SAYS[modality]}", **shown, **measured}


def _draw_first_round(key: str, title: str, tried: Tried) -> None:
    """The score on the first pairs, on which every combination was tried: small multiples for each mode."""
    first = [{**one, "first": {"mean": one["rounds"][0][1]}} for one in tried if one["rounds"]]
    swept = [one for one in first if "beta" in one["settings"]]
    if not swept:
        return
    pairs = swept[0]["rounds"][0][0]
    for variant in dict.fromkeys(_variant(one["settings"]) for one in swept):
        shown = [one for one in swept if _variant(one["settings"]) == variant]
        measure = {"key": "first", "title": f"Score, {pairs} pairs"}
        _draw_multiples(f"{key}.{variant}", f"{title}: {variant}", shown, measure)


def _variant(settings: dict[str, Any]) -> str:
    """How a bottleneck is closed, apart from what the plots' axes and lines say.

    >>> _variant({"mode": "normalised", "beta": 1.0, "smooth": 1.0})
    'mode normalised, smoothed over 1 cell'
    """
    smooth = settings.get("smooth") or 0
    return f"mode {settings['mode']}" + (f", smoothed over {smooth:g} cell{'s' * (smooth != 1)}" if smooth else "")


def _draw_multiples(key: str, title: str, tried: Tried, measure: dict[str, str]) -> None:
    """A plot for each layer, all of one height: the measure over beta, a line for each sigma squared."""
    st.markdown(f"**{title}**")
    values = [one[measure["key"]]["mean"] for one in tried if one[measure["key"]]["mean"] is not None]
    if not values:
        st.caption("This measure is not defined for these pairs.")
        return
    low, high = min(*values, 0.0), max(values)
    layers = sorted(dict.fromkeys(one["settings"]["layer"] for one in tried))
    for k, layer in enumerate(layers):
        if k % 2 == 0:  # four in a row leave their ticks and legends no room
            columns = st.columns(2)
        figure = plot_curves(
            _curves([one for one in tried if one["settings"]["layer"] == layer], measure["key"]),
            Axes(f"ℓ = {layer}", "β", measure["title"]),
            markers=True,
            log_x=True,
        )
        figure.update_yaxes(range=[low - 0.05 * (high - low), high + 0.05 * (high - low)])
        columns[k % 2].plotly_chart(figure, key=f"pairs.search.{key}.{layer}", config=PLOT_OPTIONS)


def _curves(tried: Tried, measure: str) -> list[Curve]:
    """One for each sigma squared, over beta."""
    curves = []
    for k, sigma2 in enumerate(sorted({one["settings"]["sigma2"] for one in tried}, reverse=True)):
        line = sorted(
            (one for one in tried if one["settings"]["sigma2"] == sigma2), key=lambda o: o["settings"]["beta"]
        )
        x = np.array([one["settings"]["beta"] for one in line])
        y = np.array([np.nan if one[measure]["mean"] is None else one[measure]["mean"] for one in line], dtype=float)
        curves.append(Curve(f"sigma2 {sigma2:g}", f"σ² = {sigma2:g}", line_style(k), x, y))
    return curves


def _draw_all(name: str, table: dict[str, Any]) -> None:
    columns = [Column("name", "Map"), *(Column(key, title) for key, title in SETTINGS.items()), Column("n", "Pairs")]
    columns += [Column(m["key"], m["title"], m["better"], m["help"]) for m in table["measures"]]
    rows = [
        {**_cells(row, modality, one, table), "n": one["score"]["n"]}
        for row, by_modality in table["tried"].items()
        for modality, tried in by_modality.items()
        for one in tried
    ]
    with st.expander("All combinations"):
        draw_table("On the most pairs that each was tried on; ± standard deviation", columns, rows, mark_best=False)
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
