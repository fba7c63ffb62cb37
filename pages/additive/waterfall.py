"""One record, term by term: bars that begin where the one before ended, and end at the prediction."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from pages.shared.figures import format_value

_UP, _DOWN, _ENDS = "#D55E00", "#0A84C6", "#8A8A8A"
_STYLE = f"""<style>
.prism-waterfall {{ overflow-x: auto; }}
.prism-waterfall table {{ border-collapse: collapse; width: 100%; font-size: 0.85rem;
  font-variant-numeric: tabular-nums; }}
.prism-waterfall caption {{ text-align: left; padding-bottom: 0.4rem; font-weight: 600; }}
.prism-waterfall th, .prism-waterfall td {{ padding: 0.28rem 0.5rem; text-align: left; font-weight: 400;
  border-bottom: 1px solid rgba(128, 128, 128, 0.2); overflow-wrap: break-word; }}
.prism-waterfall td.number {{ text-align: right; white-space: nowrap; }}
.prism-waterfall td.bars {{ width: 50%; min-width: 130px; padding-left: 0; padding-right: 0; }}
.prism-waterfall .lane {{ position: relative; height: 1.15rem; }}
.prism-waterfall .lane span {{ position: absolute; top: 0; bottom: 0; border-radius: 2px; min-width: 2px; }}
.prism-waterfall .lane .up {{ background: {_UP}; }}
.prism-waterfall .lane .down {{ background: {_DOWN}; }}
.prism-waterfall .lane .total {{ background: {_ENDS}; }}
@media (max-width: 640px) {{ /* the bar lies under its numbers, else words break letter by letter */
  .prism-waterfall thead {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }}
  .prism-waterfall tbody tr {{ display: grid; grid-template-columns: 1fr auto auto; padding: 0.25rem 0;
    border-bottom: 1px solid rgba(128, 128, 128, 0.2); }}
  .prism-waterfall th, .prism-waterfall td {{ border: 0; padding: 0.1rem 0.4rem; }}
  .prism-waterfall td.bars {{ grid-column: 1 / -1; width: auto; }}
}}
.prism-waterfall tr.total th, .prism-waterfall tr.total td {{ font-weight: 600; }}
</style>"""


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one term adds."""

    name: str
    value: str  # of the column in this record, as text
    effect: float
    reach: float = 0.0  # half width of its band


def waterfall_html(caption: str, intercept: float, terms: Sequence[Contribution], prediction: str, unit: str) -> str:
    """The bars as a table that is read as well as seen; the strongest terms first.

    Args:
        intercept: where the first bar begins, on the link's scale.
        prediction: what the sum means, in words; stands in the last row.
        unit: of the link's scale.
    """
    ordered = sorted(terms, key=lambda term: -abs(term.effect))
    ends = [intercept]
    for term in ordered:
        ends.append(ends[-1] + term.effect)
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 1.0

    def share(value: float) -> float:
        return 100 * (value - low + room) / (high - low + 2 * room)

    def lane(first: float, last: float, kind: str) -> str:
        left, right = sorted((share(first), share(last)))
        return (
            f"<div class='lane'><span class='{kind}' style='left:{left:.2f}%;width:{right - left:.2f}%'></span></div>"
        )

    rows = [_row("Average of all rows", "", format_value(intercept), lane(low - room, intercept, "total"), "total")]
    for term, first, last in zip(ordered, ends, ends[1:], strict=False):
        number = _signed(term.effect) + (f" ± {format_value(term.reach)}" if term.reach else "")
        rows.append(_row(term.name, term.value, number, lane(first, last, "up" if term.effect > 0 else "down")))
    rows.append(_row("Prediction", prediction, format_value(ends[-1]), lane(low - room, ends[-1], "total"), "total"))
    head = (
        f"<tr><th scope='col'>Term</th><th scope='col'>Value</th><th scope='col'>{html.escape(unit)}</th><th></th></tr>"
    )
    return (
        f"{_STYLE}<div class='prism-waterfall' role='region' aria-label='{html.escape(caption, quote=True)}' "
        f"tabindex='0'><table><caption>{html.escape(caption)}</caption><thead>{head}</thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(name: str, value: str, number: str, lane: str, kind: str = "") -> str:
    return (
        f"<tr class='{kind}'><th scope='row'>{html.escape(name)}</th><td>{html.escape(value)}</td>"
        f"<td class='number'>{number}</td><td class='bars'>{lane}</td></tr>"
    )


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + format_value(value)
