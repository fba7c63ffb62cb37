"""Our order of methods beside the paper's: who is ahead of whom, measure by measure, and where the two differ."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from backend.catalog import PAIR_METHODS
from pages.shared.exports import Column, Spread
from pages.shared.tables import draw_table

PAPER_TABLES = Path(__file__).resolve().parents[2] / "assets" / "paper_tables"
METRICS = {  # of the paper, in percent: title and the better direction
    "confidence_drop": ("Confidence drop, %", "lower"),
    "confidence_increase": ("Confidence increase, %", "higher"),
    "roar_plus": ("ROAR+, %", "higher"),
    "localisation_iou": ("Localisation IoU, %", "higher"),
}
# What our columns are in the paper's table: modality and metric.
OURS = {
    "image_drop": ("image", "confidence_drop"),
    "image_increase": ("image", "confidence_increase"),
    "image_roar_plus": ("image", "roar_plus"),
    "iou": ("image", "localisation_iou"),
    "text_drop": ("text", "confidence_drop"),
    "text_increase": ("text", "confidence_increase"),
    "text_roar_plus": ("text", "roar_plus"),
}


@cache
def paper() -> tuple[dict[str, Any], list[dict[str, str]]]:
    """What the paper's Table 1 is, and its cells."""
    with open(PAPER_TABLES / "m2ib_table1.csv", newline="") as file:
        return json.loads((PAPER_TABLES / "m2ib_table1.json").read_text()), list(csv.DictReader(file))


def draw_paper(metrics: Sequence[str] = tuple(METRICS)) -> None:
    """The paper's Table 1, as far as it has these metrics."""
    about, cells = paper()
    for modality, title in (("image", "images"), ("text", "texts")):
        shown = [cell for cell in cells if cell["modality"] == modality and cell["metric"] in metrics]
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
    score = about["score"]
    st.caption(f"{about['citation']}. {score[0].upper()}{score[1:]}. {about['note']}")


# ----------------------------------------------------------------- orders
@dataclass(frozen=True, slots=True)
class Order:
    """One measure: the methods that both have, the best first, in the paper and here."""

    modality: str
    metric: str
    dataset: str  # of the paper
    paper: tuple[str, ...]
    here: tuple[str, ...]

    @property
    def swapped(self) -> list[tuple[str, str]]:
        """Pairs of which the first is ahead here and behind in the paper."""
        place = {name: k for k, name in enumerate(self.paper)}
        return [(a, b) for k, a in enumerate(self.here) for b in self.here[k + 1 :] if place[a] > place[b]]

    @property
    def agreement(self) -> float:
        """Kendall's tau: 1 if all pairs stand in one order, -1 if all are swapped."""
        n = len(self.here)
        return 1 - 4 * len(self.swapped) / (n * (n - 1))


def order_of(values: Mapping[str, float], better: str) -> tuple[str, ...]:
    """Names, the best first.

    >>> order_of({"RISE": 1.1, "M2IB": 2.2}, "higher")
    ('M2IB', 'RISE')
    """
    return tuple(sorted(values, key=lambda name: values[name] * (1 if better == "lower" else -1)))


def orders(table: Mapping[str, Any]) -> list[Order]:
    """Every measure that a run shares with the paper's table, for each of its data sets."""
    found, cells = [], paper()[1]
    for key, (modality, metric) in OURS.items():
        ours = _values(table, key)
        theirs: dict[str, dict[str, float]] = {}
        for cell in cells:
            if (cell["modality"], cell["metric"]) == (modality, metric) and cell["method"] in ours:
                theirs.setdefault(cell["dataset"], {})[cell["method"]] = float(cell["percent"])
        better = METRICS[metric][1]
        found += [
            Order(
                modality,
                metric,
                dataset,
                order_of(values, better),
                order_of({name: ours[name] for name in values}, better),
            )
            for dataset, values in theirs.items()
            if len(values) > 1
        ]
    return found


def _values(table: Mapping[str, Any], key: str) -> dict[str, float]:
    """A column's means by the methods' titles; of several rows of one method the first."""
    values: dict[str, float] = {}
    for row in table["rows"]:
        spec, cell = PAIR_METHODS.get(row["method"]), row["metrics"].get(key)
        if spec is not None and cell is not None and cell["mean"] is not None:
            values.setdefault(spec.title, cell["mean"])
    return values


def draw_orders(table: Mapping[str, Any]) -> None:
    """The paper's order and ours, and in words where they differ."""
    found = orders(table)
    if not found:
        return
    columns = [
        Column("name", "Measure"),
        Column("paper", "The paper's order, best first"),
        Column("here", "Here"),
        Column("agreement", "Agreement", "", "Kendall's tau: 1, one order; 0, no relation; −1, the other way round."),
        Column("differs", "Where it differs"),
    ]
    rows = [
        {
            "name": f"{one.modality.capitalize()}: {METRICS[one.metric][0].removesuffix(', %')} ({one.dataset})",
            "paper": " › ".join(one.paper),
            "here": " › ".join(one.here),
            "agreement": one.agreement,
            "differs": _said(one),
        }
        for one in found
    ]
    draw_table("Our order beside the paper's", columns, rows, mark_best=False)
    first = [one for one in found if "M2IB" in one.paper]
    same = [one for one in first if one.here[0] == one.paper[0]]
    st.caption(
        f"The same method is first in {len(same)} of {len(first)} measures. Orders are of means: where two methods "
        "differ by less than their spread, their order is chance."
    )


def _said(order: Order) -> str:
    """The methods that stand elsewhere, in words; first whether another one leads."""
    if not order.swapped:
        return "one order"
    parts = [f"{order.here[0]} leads, not {order.paper[0]}"] * (order.here[0] != order.paper[0])
    behind: dict[str, list[str]] = {}
    for ahead, late in order.swapped:
        behind.setdefault(ahead, []).append(late)
    parts += [f"{ahead} ahead of {', '.join(late)}" for ahead, late in behind.items()]
    return "; ".join(parts)
