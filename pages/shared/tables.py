"""Tables of numbers as real HTML tables: read by screen readers, narrow on a phone, the best of a column marked."""

import html
from collections.abc import Sequence

import streamlit as st

from pages.shared.exports import Cell, Column, Row, Spread
from pages.shared.figures import format_value

LONG = 32  # letters from which on a cell may break into lines
_STYLE = """<style>
.prism-table { overflow-x: auto; container-type: inline-size; }
.prism-table table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; width: 100%; }
.prism-table caption { text-align: left; padding-bottom: 0.4rem; font-weight: 600; }
.prism-table caption span { position: sticky; left: 0; display: inline-block; max-width: 100cqw; }
.prism-table th, .prism-table td { text-align: right; padding: 0.3rem 0.55rem; white-space: nowrap;
  border-bottom: 1px solid rgba(128, 128, 128, 0.25); }
.prism-table th { font-weight: 600; }
.prism-table thead th { white-space: normal; vertical-align: bottom; line-height: 1.3; }
.prism-table thead th span { white-space: nowrap; }
.prism-table .long { white-space: normal; min-width: 11rem; }
.prism-table thead th[title] { text-decoration: underline dotted 1px; text-underline-offset: 3px; cursor: help; }
.prism-table th:first-child { text-align: left; }
.prism-table tbody th { font-weight: 500; }
.prism-table .best { font-weight: 700; background: rgba(92, 124, 250, 0.18); border-radius: 3px; }
.prism-table .none { opacity: 0.75; }
</style>"""


def draw_table(caption: str, columns: Sequence[Column], rows: Sequence[Row], mark_best: bool = True) -> None:
    """Show a table; the first column names the rows.

    Args:
        columns: with the direction that is better, as an arrow and for marking the best.
        rows: what is None is not defined, and shown as a dash.
    """
    st.html(_STYLE + table_html(caption, columns, rows, mark_best))


def table_html(caption: str, columns: Sequence[Column], rows: Sequence[Row], mark_best: bool = True) -> str:
    best = {column.key: best_value(column, rows) for column in columns} if mark_best and len(rows) > 1 else {}
    head = "".join(_head(column) for column in columns)
    body = "".join(f"<tr>{''.join(_cell(column, row, best) for column in columns)}</tr>" for row in rows)
    return (
        f"<div class='prism-table' role='region' aria-label='{html.escape(caption, quote=True)}' tabindex='0'><table>"
        f"<caption><span>{html.escape(caption)}</span></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def best_value(column: Column, rows: Sequence[Row]) -> float | None:
    """The best number of a column, or None where no direction is better or there is nothing to compare.

    >>> best_value(Column("gap", "Gap", "lower"), [{"gap": 0.2}, {"gap": None}, {"gap": 0.1}])
    0.1
    """
    numbers = [number for row in rows if (number := _number(row.get(column.key))) is not None]
    if len(numbers) < 2 or not column.better:
        return None
    return min(numbers) if column.better == "lower" else max(numbers)


def _number(value: Cell) -> float | None:
    if isinstance(value, Spread):
        return value.mean
    return value if isinstance(value, (int, float)) else None


def _head(column: Column) -> str:
    title = f" title='{html.escape(column.help, quote=True)}'" if column.help else ""
    words = html.escape(column.heading).split(" ")
    last = f"<span>{' '.join(words[-2:])}</span>"  # unbroken: no arrow stands on a line alone
    return f"<th scope='col'{title}>{' '.join([*words[:-2], last])}</th>"


def _cell(column: Column, row: Row, best: dict[str, float | None]) -> str:
    value = row.get(column.key)
    if isinstance(value, str):
        shape = " class='long'" if len(value) > LONG else ""
        text = html.escape(value)
        return f"<th scope='row'{shape}>{text}</th>" if column.key == "name" else f"<td{shape}>{text}</td>"
    if value is None:
        return "<td class='none'>–</td>"
    text = format_value(value) if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
    is_best = best.get(column.key) is not None and _number(value) == best[column.key]
    return f"<td class='best'>{text}</td>" if is_best else f"<td>{text}</td>"
