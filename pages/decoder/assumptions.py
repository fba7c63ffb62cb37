"""Which assumption of the theory holds: one row for each, one column for each decoder, each verdict with its number."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from backend.contracts import Result
from pages.decoder.board import Drawn
from pages.decoder.numbers import figures_of
from pages.shared.figures import format_value

FLAT = 0.02  # a smallest singular value below it counts as not sufficiently nonlinear
MIXED = 0.01  # a share of Hessian energy between blocks above it counts as not additive
LIKE_TRUTH = 1.5  # recombined RMSE over RMSE in support, up to which the decoder equals the truth on the extension

_STYLE = """<style>
.assumptions { overflow-x: auto; }
.assumptions table { border-collapse: collapse; font-size: 0.87rem; width: 100%; }
.assumptions th, .assumptions td { text-align: left; vertical-align: top; padding: 0.4rem 0.7rem;
  border-bottom: 1px solid rgba(128, 128, 128, 0.25); min-width: 8rem; }
.assumptions tbody th { font-weight: 500; min-width: 13rem; }
.assumptions small { display: block; opacity: 0.8; font-weight: 400; }
.assumptions b { font-weight: 700; }
@media (max-width: 640px) {
  .assumptions th, .assumptions td { padding: 0.4rem; min-width: 5.2rem; }
  .assumptions tbody th { min-width: 8.5rem; }
}
.assumptions .fails { color: #D55E00; }
.assumptions .holds { color: #009E73; }
</style>"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an assumption holds for a decoder, with its number; None: not defined or not measured."""

    holds: bool | None
    number: str


def show_assumptions(decoders: Sequence[Drawn]) -> None:
    """The meters, each with what it asks."""
    st.markdown(
        "Reconstruction alone proves nothing. The theory promises more, if all of this holds; every number is measured "
        "on the decoders above."
    )
    rows = [
        ("The decoder is additive", "share of its Hessian's energy between blocks, before σ: 0 for a sum", _additive),
        (
            "The truth is sufficiently nonlinear",
            "smallest singular value of W(z) of the true blocks, columns of length one: above 0",
            _truth_nonlinear,
        ),
        ("So is the decoder", "the same for the learned blocks", _decoder_nonlinear),
        ("The support is connected", "pieces of the training support: 1", _connected),
        ("Blocks keep their order", "which true block each learned one is, in each piece", _ordered),
        (
            "The decoder equals the truth on the extension",
            f"RMSE of recombined scenes over RMSE in the support: up to {LIKE_TRUTH:g}",
            _extends,
        ),
    ]
    head = "".join(f"<th scope='col'>{html.escape(drawn.title)}</th>" for drawn in decoders)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(title)}<small>{html.escape(what)}</small></th>"
        + "".join(_cell(_judge(drawn, judge)) for drawn in decoders)
        + "</tr>"
        for title, what, judge in rows
    )
    st.html(
        f"{_STYLE}<div class='assumptions' role='region' aria-label='Assumptions' tabindex='0'><table>"
        f"<thead><tr><th scope='col'>Assumption</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _judge(drawn: Drawn, judge) -> Verdict:
    figures = figures_of(drawn)
    return Verdict(None, "measuring") if figures is None else judge(figures)


def _cell(verdict: Verdict) -> str:
    mark = {True: "<b class='holds'>✓ holds</b>", False: "<b class='fails'>✗ fails</b>", None: "–"}[verdict.holds]
    return f"<td>{mark}<small>{html.escape(verdict.number)}</small></td>"


def _meters(figures: Result) -> dict:
    return figures.values["assumptions"]


def _additive(figures: Result) -> Verdict:
    share = _meters(figures)["off_block_hessian"]
    words = ", by construction" if share == 0 else ", nearly a sum" if share <= MIXED else ""
    return Verdict(share <= MIXED, format_value(share) + words)


def _truth_nonlinear(figures: Result) -> Verdict:
    value = _meters(figures)["nonlinearity_truth"]
    return Verdict(value > FLAT, format_value(value))


def _decoder_nonlinear(figures: Result) -> Verdict:
    value = _meters(figures)["nonlinearity_decoder"]
    return Verdict(None, "it has no additive blocks") if value is None else Verdict(value > FLAT, format_value(value))


def _connected(figures: Result) -> Verdict:
    pieces = _meters(figures)["components"]
    if pieces is None:
        return Verdict(None, "not counted in so many latents")
    return Verdict(pieces == 1, f"{pieces} {'piece' if pieces == 1 else 'pieces'}")


def _ordered(figures: Result) -> Verdict:
    found = _meters(figures)["permutations"]
    if not found:
        return Verdict(None, "one piece: nothing to compare")
    orders = [tuple(piece["permutation"]) for piece in found.values()]
    words = "; ".join(
        f"piece {int(k) + 1}: {', '.join(str(block + 1) for block in piece['permutation'])}"
        for k, piece in found.items()
    )
    return Verdict(len(set(orders)) == 1, words)


def _extends(figures: Result) -> Verdict:
    inside, recombined = figures.quality["rmse"], figures.quality["rmse_recombined"]
    if recombined is None:
        return Verdict(None, "no recombination is a scene")
    ratio = recombined / inside
    return Verdict(ratio <= LIKE_TRUTH, f"{format_value(recombined)} over {format_value(inside)}: {ratio:.2f}")
