"""The table: every method over many held-out pairs, from a stored run, beside the paper's Table 1."""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from pages.shared.exports import Column, Spread, metrics_csv
from pages.shared.session import escape
from pages.shared.tables import draw_table

ASSETS = Path(__file__).resolve().parents[2] / "assets"
METRICS = {  # of the paper, in percent: title and the better direction
    "confidence_drop": ("Confidence drop, %", "lower"),
    "confidence_increase": ("Confidence increase, %", "higher"),
    "roar_plus": ("ROAR+, %", "higher"),
    "localisation_iou": ("Localisation IoU, %", "higher"),
}


def show_evaluation(model: str) -> None:
    """Our tables of this model, and the paper's."""
    tables = _stored(model)
    if not tables:
        st.caption(f"No stored run for {escape(model)}. This command makes one:")
        st.code(f"python -m backend evaluate image_text --model {model} --n 200 --json", language="bash")
    for name, table in tables.items():
        _draw_ours(name, table)
        _draw_paired(table)
    _draw_paper()


@cache
def _stored(model: str) -> dict[str, dict[str, Any]]:
    """The runs of this model that ship, by the name of their file."""
    paths = sorted((ASSETS / "evaluations").glob(f"image_text-{model}*.json"), key=lambda path: path.stem)
    tables = {path.stem: json.loads(path.read_text()) for path in paths}
    return {name: table for name, table in tables.items() if table.get("model") == model and "rows" in table}


def _draw_ours(name: str, table: dict[str, Any]) -> None:
    """One run as a table, with the command that makes it."""
    columns = [Column("name", "Method")]
    columns += [Column(c["key"], c["title"], c.get("better", ""), c.get("help", "")) for c in table["columns"]]
    rows = [
        {"name": row["title"], **{key: _cell(cell) for key, cell in row["metrics"].items()}} for row in table["rows"]
    ]
    draw_table(f"{table['model']}: {table.get('about', 'held-out pairs')}", columns, rows)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.code(table["command"], language="bash")
        st.download_button(
            "CSV",
            metrics_csv(columns, rows),
            f"{name}.csv",
            "text/csv",
            key=f"pairs.table.{name}",
            icon=":material/download:",
            on_click="ignore",
        )


def _draw_paired(table: dict[str, Any]) -> None:
    """What a bottleneck gains over every other row on the same pairs, and whether the interval leaves 0 out."""
    titles = {row["name"]: row["title"] for row in table["rows"]}
    metrics = {column["key"]: column for column in table["columns"]}
    for ours in dict.fromkeys(pair["ours"] for pair in table["paired"] if pair["ours"] in titles):
        pairs = [pair for pair in table["paired"] if pair["ours"] == ours and pair["low"] is not None]
        keys = list(dict.fromkeys(pair["metric"] for pair in pairs))
        columns = [Column("name", "Compared with")]
        columns += [Column(key, metrics[key]["title"], help="Mean of the differences, 95 % interval.") for key in keys]
        rows: dict[str, dict[str, Any]] = {}
        for pair in pairs:
            row = rows.setdefault(pair["theirs"], {"name": titles[pair["theirs"]]})
            row[pair["metric"]] = f"{pair['mean']:+.3f} [{pair['low']:.3f}, {pair['high']:.3f}]"
        draw_table(f"{titles[ours]}, difference to the others, pair by pair", columns, list(rows.values()))


def _cell(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    return None if cell.get("mean") is None else Spread(cell["mean"], cell.get("sd"))


# ----------------------------------------------------------------- the paper's
@cache
def _paper() -> tuple[dict[str, Any], list[dict[str, str]]]:
    folder = ASSETS / "paper_tables"
    with open(folder / "m2ib_table1.csv", newline="") as file:
        return json.loads((folder / "m2ib_table1.json").read_text()), list(csv.DictReader(file))


def _draw_paper() -> None:
    about, cells = _paper()
    for modality, title in (("image", "images"), ("text", "texts")):
        shown = [cell for cell in cells if cell["modality"] == modality]
        keys = list(dict.fromkeys((cell["dataset"], cell["metric"]) for cell in shown))
        columns = [Column("name", "Method")]
        for dataset, metric in keys:
            name, better = METRICS[metric]
            columns.append(Column(f"{dataset} {metric}", f"{dataset}, {name}", better))
        rows: dict[str, dict[str, Any]] = {}
        for cell in shown:
            row = rows.setdefault(cell["method"], {"name": cell["method"]})
            spread = Spread(float(cell["percent"]), float(cell["standard_error"]), digits=2)
            row[f"{cell['dataset']} {cell['metric']}"] = spread
        draw_table(f"The paper's Table 1, {title} (± standard error)", columns, list(rows.values()))
    st.caption(f"{about['citation']}. {about['score']}. {about['note']}")
