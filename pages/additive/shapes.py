"""What each column does: shape functions with bands, the data's density and, where it is known, the truth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from backend.contracts import Result
from pages.additive.path import signed
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value

_CLIENT = Path(__file__).parent / "client"
_SHARED = Path(__file__).parents[1] / "shared" / "client"

_component = st.components.v2.component(
    "prism_shape_functions",
    html=(_CLIENT / "shapes.html").read_text(),
    css=(_CLIENT / "shapes.css").read_text(),
    js=(_SHARED / "numbers.js").read_text() + (_CLIENT / "shapes.js").read_text(),
)
IMPORTANCE = (
    Column("name", "Term"),
    Column("importance", "Moves the prediction by", "", "Mean size of the term over the rows, on the link's scale."),
    Column("share", "Share", "", "Of the sum over all terms."),
)
DOTTED = 40  # whole numbers at most that are drawn as dots


def draw_shapes(result: Result, record: Mapping[str, float] | None = None, record_title: str = "", *, key: str) -> None:
    """All shape functions side by side, on one scale unless the reader wants their own.

    Args: record: values or codes of one row's columns, marked on the curves; `record_title` says which row.
    """
    panels = [shape_panel(result, column, (record or {}).get(column["name"])) for column in result.values["columns"]]
    draw_panels(panels, record_title, unit=result.unit, key=key)


def draw_panels(panels: Sequence[dict[str, Any]], record_title: str = "", *, unit: str, key: str) -> None:
    """Shape functions of one model or of several, as `shape_panel` describes them; `unit` is the effects'."""
    keys = {"effect": f"effect on {unit}", "band": "band of the ensemble (95%)", "record": record_title}
    _component(key=key, data={"panels": list(panels), **keys})


def axis_title(column: Mapping[str, Any]) -> str:
    """A column's name with its unit."""
    return f"{column['name']}, {column['unit']}" if column["unit"] else column["name"]


def shape_panel(result: Result, column: Mapping[str, Any], at: float | None = None) -> dict[str, Any]:
    """A column's shape function as the browser draws it. Args: at: a row's value or code, to be marked."""
    name, arrays = column["name"], result.arrays
    shape, truth = arrays[f"shape_{name}"], arrays.get(f"truth_{name}")
    importance = result.values["importance"].get(name)
    panel: dict[str, Any] = {
        "kind": column["kind"],
        "title": name,
        "axis": axis_title(column),
        "unit": column["unit"],
        "y": _plain(shape[:, 1]),
        "low": _plain(shape[:, 2]),
        "high": _plain(shape[:, 3]),
        "truth": None if truth is None else _plain(truth),
        "counts": [int(count) for count in arrays[f"density_{name}"]],
        "importance": importance,
        "record": None if at is None else float(at),
        "note": "" if truth is None else _against_truth(result, column),
        "is_dotted": is_dotted(column, shape),
        "alt": _in_words(column, shape, result.unit),
    }
    if column["kind"] == "numeric":
        return panel | {"x": _plain(shape[:, 0])}
    return panel | {"names": column["categories"], "record": None if at is None else int(at)}


def is_dotted(column: Mapping[str, Any], shape: np.ndarray) -> bool:
    """Whether each value of a curve is drawn as a dot: whole numbers, few enough to be told apart."""
    return column["is_whole"] and len(shape) <= DOTTED


def _plain(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _in_words(column: Mapping[str, Any], shape: np.ndarray, unit: str) -> str:
    """The curve for those who do not see it."""
    low, high = int(shape[:, 1].argmin()), int(shape[:, 1].argmax())

    def at(index: int) -> str:
        if column["kind"] == "categorical":
            return column["categories"][index]
        return format_value(float(shape[index, 0]))

    return (
        f"Effect of {axis_title(column)} on {unit}: lowest {signed(shape[low, 1])} at {at(low)}, "
        f"highest {signed(shape[high, 1])} at {at(high)}"
    )


def _against_truth(result: Result, column: Mapping[str, Any]) -> str:
    """How near the curve is to the truth; a share of a variance of nothing would say nothing."""
    error, variance = distance_from_truth(result, column["name"])
    where = ", at whole numbers" if column["is_whole"] else ""
    if variance < 1e-12:
        return f"No true effect; the curve strays by {error**0.5:.3g} on average{where}"
    return f"R² against the truth {1 - error / variance:.4f}{where}"


def distance_from_truth(result: Result, name: str) -> tuple[float, float]:
    """Mean squared error of a column's centred effect, and the true effect's variance, weighted by the rows."""
    shape, truth = result.arrays[f"shape_{name}"], result.arrays[f"truth_{name}"]
    counts, edges = result.arrays[f"density_{name}"].astype(float), result.arrays[f"edges_{name}"]
    bins = np.clip(np.searchsorted(edges, shape[:, 0], side="right") - 1, 0, len(counts) - 1)
    weights = counts[bins] + 1e-9
    truth_mean, learned_mean = np.average(truth, weights=weights), np.average(shape[:, 1], weights=weights)
    error = np.average((shape[:, 1] - learned_mean - truth + truth_mean) ** 2, weights=weights)
    return float(error), float(np.average((truth - truth_mean) ** 2, weights=weights))


def importance_table(result: Result) -> tuple[list[Column], list[Row]]:
    """How much each term moves the prediction, the strongest first."""
    importance: Mapping[str, float] = result.values["importance"]
    total = sum(importance.values()) or 1.0
    ordered = sorted(importance.items(), key=lambda item: -item[1])
    return list(IMPORTANCE), [
        {"name": name, "importance": value, "share": f"{value / total:.0%}"} for name, value in ordered
    ]
