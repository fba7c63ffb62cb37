"""When it breaks: models and truths that violate one assumption each, drawn beside the truth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import streamlit as st

from backend.contracts import Result, SupportRequest
from pages.decoder.board import Drawn, Refusal, ask, draw, figures_request
from pages.decoder.figures import framed_sheet
from pages.decoder.previews import strip
from pages.decoder.settings import is_here
from pages.shared.figures import format_value

SIDE = 5  # scenes along each side of a card's grid


@dataclass(frozen=True, slots=True)
class Failure:
    """One way to break the theory."""

    key: str  # model, drawn only where its weights are here
    title: str
    assumption: str  # that fails
    say: Callable[[Drawn, Result], str]  # what was measured


def _say_plain(drawn: Drawn, figures: Result) -> str:
    share = figures.values["assumptions"]["off_block_hessian"]
    return (
        f"It reconstructs what it saw (RMSE {format_value(figures.quality['rmse'])}), but its latents are mixtures "
        f"(LMS {figures.quality['lms_spearman']:.1f}), and {share:.0%} of its Hessian's energy lies between blocks. "
        f"Recombined: RMSE {format_value(figures.quality['rmse_recombined'])}."
    )


def _say_corners(drawn: Drawn, figures: Result) -> str:
    pieces = figures.values["assumptions"]["permutations"] or {}
    orders = {tuple(piece["permutation"]) for piece in pieces.values()}
    verdict = (
        "this seed learned the blocks in **another order** in each"
        if len(orders) > 1
        else "this seed happened to learn the blocks in the same order in both; the loss could not have told"
    )
    within = ", ".join(f"{piece['lms']:.1f}" for piece in pieces.values())
    if len(orders) == 1 and figures.quality["lms_spearman"] < 95:
        verdict += ", and yet a latent does not run on from one to the other"
    return (
        f"Two pieces, and nothing between them: {verdict}. LMS {figures.quality['lms_spearman']:.1f} over both, "
        f"{within} within each."
    )


def _say_bands(drawn: Drawn, figures: Result) -> str:
    rank, tree = figures.quality["lms_spearman"], figures.quality["lms_tree"]
    verdict = (
        "across the gap the learned latent is **not monotone** in the true one"
        if rank < 99
        else "this seed happened to stay monotone across the gap; nothing made it"
    )
    return (
        f"The blocks are found (LMS by trees {tree:.1f}, by rank correlation {rank:.1f}): {verdict}. Between the bands "
        "lies nothing that recombining reaches, so nothing is promised there."
    )


def _say_overlap(drawn: Drawn, figures: Result) -> str:
    seen = drawn.grid.arrays["in_support"]
    return (
        f"{int((~seen).sum())} of {seen.size} recombinations make the balls overlap, as no training scene did: the "
        "product leaves the reasonable images. This truth adds colours there, so the sum still fits it (RMSE "
        f"{_or_dash(drawn.grid.quality['rmse_in'])} apart, {_or_dash(drawn.grid.quality['rmse_out'])} overlapping); "
        "objects that hide each other would be no sum."
    )


def _say_hidden(drawn: Drawn, figures: Result) -> str:
    quality = figures.quality
    return (
        f"The blocks are found all the same (LMS {quality['lms_spearman']:.1f}), but where one ball hides the other a "
        f"sum shows both: RMSE {format_value(quality['rmse'])} on what it saw, {format_value(quality['rmse_out'])} on "
        "what it never saw. Masks that compete can draw it: see *L with occlusion*."
    )


def _or_dash(value: float | None) -> str:
    return "–" if value is None else format_value(value)


FAILURES = (
    Failure("balls-l-plain", "One network for everything", "The decoder is not additive", _say_plain),
    Failure("balls-corners-additive", "Two opposite corners", "The support is not connected", _say_corners),
    Failure("balls-disconnected-additive", "Two bands", "The support is not connected", _say_bands),
    Failure("balls-occluded-additive", "Objects that hide each other", "The truth is not additive", _say_hidden),
    Failure("balls-blocks-independent", "Recombined balls collide", "The product is not all scenes", _say_overlap),
)


def show_failures() -> None:
    """A card for each failure whose model is here, and the linear truth."""
    st.markdown("Each card breaks **one** assumption. Left the truth, right what the decoder makes of the same blocks.")
    cards = [failure for failure in FAILURES if is_here(failure.key)]
    columns = st.columns(2)
    for i, failure in enumerate(cards):
        with columns[i % 2], st.container(border=True):
            _show_card(failure)
    with columns[len(cards) % 2], st.container(border=True):
        _show_linear()


def _head(title: str, assumption: str) -> None:
    st.markdown(f"**{title}**  \n:orange[:material/close: {assumption}]")


def _show_card(failure: Failure) -> None:
    _head(failure.title, failure.assumption)
    drawn = draw(failure.key, failure.title, (SIDE, SIDE), (0, 1), 0, with_table=False)
    figures = ask(figures_request(failure.key))
    if isinstance(drawn, Refusal) or isinstance(figures, Refusal):
        st.caption((drawn if isinstance(drawn, Refusal) else figures).sentence)
        return
    seen = drawn.grid.arrays["in_support"]
    truth, decoded = (framed_sheet(drawn.grid.arrays[name], seen) for name in ("truth", "grid"))
    gap = np.full((truth.shape[0], 16, 3), 255, np.uint8)
    said = f"{failure.title}: left the true scenes, right the decoded ones; dashed were never seen together"
    st.image(np.concatenate([truth, gap, decoded], 1), alt=said, width="stretch", output_format="PNG")
    st.markdown(failure.say(drawn, figures))


def _show_linear() -> None:
    _head("A linear truth", "The truth is not sufficiently nonlinear")
    rows, values = [], []
    for share in (1.0, 0.5, 0.0):
        answer = ask(SupportRequest("l", nonlinearity=share, n=12))
        if isinstance(answer, Result):
            rows.append(strip(answer.arrays["pictures"][:12]))
            values.append(f"{share:g}: **{format_value(answer.quality['nonlinearity_truth'])}**")
    if rows:
        said = "Scenes of a truth that is fully, half and not at all nonlinear, one row each"
        st.image(np.concatenate(rows), alt=said, width="stretch", output_format="PNG")
    st.markdown(
        f"The same scenes from moving (above) to fading (below). Smallest singular value of W(z) by share of "
        f"nonlinearity: {', '.join(values)}. At 0 every mixture of the blocks reconstructs as well, and chance "
        "decides which one a start ends in, sometimes one near the blocks: lower the nonlinearity under *Train your "
        "own* and train from several seeds."
    )
