"""How good the sum is: test fit beside other models, what pairs would add, and where a good fit hides wrong effects."""

from collections.abc import Mapping

import streamlit as st

from backend.contracts import ModelComparisonRequest, OnStep, Result
from pages.additive.board import Refusal, answered, ask
from pages.additive.settings import Settings, is_here
from pages.shared.controls import refused
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value
from pages.shared.tables import draw_table

TIED = "squares-tied"  # the example whose fit hides wrong effects
PAIRS_SHOWN = 6
INTERACTION = 0.05  # share of what is left over that a pair explains; above it the sum misses something
CONCURVED = 0.25  # share of a term that the others give away
MODELS = {
    "ebm_score": ("Explainable boosting machine, table only", "Boosted step functions, one for each column."),
    "table_score": ("Additive model, table only", "The same networks without the picture."),
    "score": ("Additive model with the picture (NAIM)", "What this page shows."),
    "black_box_score": ("Black box: boosted trees on table and code", "All interactions allowed; explains nothing."),
    "ceiling": ("Noise ceiling", "What the true effects themselves reach: no model can do better."),
}


def comparison_request(settings: Settings) -> ModelComparisonRequest:
    return ModelComparisonRequest(settings.model, seed=settings.seed)


def show_additivity(settings: Settings, on_step: OnStep) -> None:
    answer = answered(comparison_request(settings)) or ask(comparison_request(settings), on_step)
    if isinstance(answer, Refusal):
        refused(answer.sentence)
        return
    columns, rows = scores_table(answer)
    draw_table("Fit on rows that nothing was fitted to", columns, rows, mark_best=False)
    effects = answer.values.get("effects") or {}
    if effects:
        draw_table("Are the effects right?", *effects_table(effects, answer.values["concurvity"]), mark_best=False)
    _say_concurvity(answer, bool(effects))
    _say_interactions(answer)
    _show_tied_case(settings)


def scores_table(result: Result) -> tuple[list[Column], list[Row]]:
    """Held-out fit of all models, in the order of what they see."""
    unit = "Test R²" if result.unit == "R2" else f"Test {result.unit}"
    rows: list[Row] = [
        {"name": title, "score": result.quality[key], "what": words}
        for key, (title, words) in MODELS.items()
        if result.quality.get(key) is not None
    ]
    return [Column("name", "Model"), Column("score", unit, "higher"), Column("what", "What it is")], rows


def effects_table(effects: Mapping[str, Mapping], concurvity: Mapping[str, float]) -> tuple[list[Column], list[Row]]:
    """R² of each recovered effect against its truth, and how much of the term the others give away."""
    columns = [
        Column("name", "Term"),
        Column("r2", "R² against the truth", "higher", "Of the recovered effect, on unseen rows."),
        Column("mse", "Mean squared error", "lower"),
        Column(
            "concurvity", "Concurvity", "lower", "Share of the term that the other columns and the image give away."
        ),
    ]
    rows: list[Row] = [
        {"name": name, "r2": f"{part['r2']:.4f}", "mse": part["mse"], "concurvity": concurvity.get(name)}
        for name, part in effects.items()
    ]
    return columns, rows


def _say_concurvity(result: Result, has_truth: bool) -> None:
    """A term that the others could stand for may be shared out wrongly while the fit stays as good."""
    shares: Mapping[str, float] = result.values["concurvity"]
    found = {name: share for name, share in shares.items() if share > CONCURVED}
    if found:
        names = ", ".join(f"**{name}** ({share:.0%})" for name, share in found.items())
        st.warning(
            f"Concurvity: much of {names} could be told from the other columns and the picture. The model may share "
            "these effects out wrongly, **and test R² would not show it**.",
            icon=":material/warning:",
        )
    elif not has_truth:
        most = max(shares, key=shares.get)
        st.caption(
            f":material/check: Concurvity is low: at most {shares[most]:.0%} of a term ({most}) can be told from the "
            "others, so effects cannot be moved between terms unseen."
        )


def _say_interactions(result: Result) -> None:
    """Would pairs of terms say more than their sum?"""
    pairs = sorted(result.values["interactions"].items(), key=lambda item: -item[1])
    name, share = pairs[0]
    if share > INTERACTION:
        st.warning(
            f"Interaction: together, {name.replace(' x ', ' and ')} explain {share:.1%} of what the sum leaves over. "
            "The curves are averages over what the other column holds.",
            icon=":material/warning:",
        )
    else:
        st.caption(
            f":material/check: Interaction check: the best pair ({name.replace(' x ', ' and ')}) explains "
            f"{max(share, 0):.1%} of what the sum leaves over on unseen rows; up to {INTERACTION:.0%} is nothing."
        )
    with st.expander("All pairs"):
        columns = [Column("name", "Pair"), Column("share", "Share of the residual explained", "", "On unseen rows.")]
        draw_table(
            "Pairs of terms", columns, [{"name": pair, "share": part} for pair, part in pairs[: PAIRS_SHOWN * 4]]
        )


def _show_tied_case(settings: Settings) -> None:
    """The case in which test R² hides wrong effects, where it is here to be looked at."""
    with st.expander("When a good fit hides wrong effects"):
        st.markdown(
            "If a column follows the picture, its effect can be moved into the picture's term and back: the sum, and "
            "with it test R², hardly changes. **Dropping features in training makes it worse**: in our measurements "
            "it brought the recovered effect of such a column from R² .99 to below 0, while test R² hardly moved. So "
            "feature dropout is off here, and concurvity is measured for every term."
        )
        if settings.model != TIED and is_here(TIED):
            st.caption(
                "The data set “Squares, a column tied to the image” shows it: its column “bowl” follows the side."
            )
        st.caption(f"A term is marked from {CONCURVED:.0%} on. {format_value(0.0)} means: it stands for itself.")
