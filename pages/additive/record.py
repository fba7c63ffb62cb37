"""One record explained: what its columns and its picture add to the average, and what would be with other values."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from backend.contracts import Params, RecordRequest, Result
from pages.additive.board import Refusal, ask
from pages.additive.shapes import axis_title
from pages.additive.waterfall import Contribution, waterfall_html
from pages.shared.controls import begin, refused
from pages.shared.figures import format_value
from pages.shared.scrubber import enlarged
from pages.shared.session import escape, remember


def show_record(model: str, ends: tuple[int, int], first: int) -> None:
    """A row, its waterfall, and a row with other values beside it.

    Args: ends: rows at both ends of the path, offered first; negative ones are no rows. first: the row to begin with.
    """
    begin("additive.record", first)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        row = st.number_input(
            "Row of the data", 0, step=1, key="additive.record", width=160, help="Counted from 0, as the links do."
        )
        for name, end in zip("AB", ends, strict=True):
            if end >= 0:
                st.button(
                    f"Row of {name}", key=f"additive.record.{name}", on_click=remember, args=("additive.record", end)
                )
    own = ask(RecordRequest(model, int(row)))
    if isinstance(own, Refusal):
        refused(own.sentence)
        return
    changed = _what_if(own)
    shown = own if not changed else ask(RecordRequest(model, int(row), values=changed))
    if isinstance(shown, Refusal):
        refused(shown.sentence)
        return
    picture, bars = st.columns([1, 5])
    with picture:
        st.image(enlarged(shown.arrays["image"]), caption=f"Row {row}", width=96, output_format="PNG")
    with bars:
        st.html(record_html(shown, int(row), is_changed=bool(changed)))
        st.caption(_in_words(own, shown))
        for note in shown.provenance.notes:
            st.warning(escape(note), icon=":material/warning:")


def record_html(result: Result, row: int, is_changed: bool = False) -> str:
    """The waterfall of a record."""
    arrays, values = result.arrays, result.values
    columns = {column["name"]: column for column in values["columns"]}
    shown = {name: _as_text(columns[name], arrays["table"][k]) for k, name in enumerate(columns)}
    terms = [
        Contribution(
            axis_title(columns[name]) if name in columns else name,
            shown.get(name, "its picture"),
            float(arrays["contributions"][k]),
            float(arrays["high"][k] - arrays["low"][k]) / 2,
        )
        for k, name in enumerate(values["terms"])
    ]
    what = "with other values" if is_changed else "as it is"
    return waterfall_html(
        f"Row {row} {what}: from the average to the prediction",
        values["intercept"],
        terms,
        _prediction_text(result),
        f"adds, {result.unit}",
    )


def _prediction_text(result: Result) -> str:
    link, value = result.values["link"], format_value(result.values["prediction"])
    return {"identity": "", "logit": f"probability {value}", "log": f"expected count {value}"}[link]


def _as_text(column: Mapping[str, Any], value: float) -> str:
    if column["kind"] == "categorical":
        return column["categories"][int(value)]
    number = f"{float(value):.0f}" if column["is_whole"] else format_value(float(value))
    return f"{number} {column['unit']}".strip()


def _in_words(own: Result, shown: Result) -> str:
    observed = own.values.get("observed")
    parts = []
    if observed is not None:
        parts.append(f"Observed in this row: {escape(own.values['response'])} {format_value(observed)}.")
    if shown is not own:
        before = format_value(own.values["prediction"])
        parts.append(f"With its own values the prediction is {before}.")
    parts.append("± is half of the ensemble's band. The bars end at the prediction: nothing is left over.")
    return " ".join(parts)


def _what_if(own: Result) -> Params:
    """Other values of the row's columns, where the reader sets some."""
    if not st.toggle("What if", key="additive.what_if", help="Other values for this row; the picture stays."):
        return ()
    row, changed = own.request.row, []
    with st.container(horizontal=True):
        for k, column in enumerate(own.values["columns"]):
            name, value = column["name"], float(own.arrays["table"][k])
            key = f"additive.what_if.{own.request.model}.{row}.{name}"
            if column["kind"] == "categorical":
                mine = column["categories"][int(value)]
                begin(key, mine)
                chosen = st.selectbox(escape(axis_title(column)), column["categories"], key=key, width=180)
            else:
                mine = float(f"{value:.6g}")
                begin(key, mine)
                chosen = st.number_input(escape(axis_title(column)), key=key, width=150, format="%g")
            if chosen is not None and chosen != mine:
                changed.append((name, chosen))
    return tuple(sorted(changed))


def values_of(record: Result) -> Mapping[str, float]:
    """Values or codes of the record's columns, by column, for marks on the shape functions."""
    names = [column["name"] for column in record.values["columns"]]
    return dict(zip(names, map(float, record.arrays["table"]), strict=True))
