"""How good the sum is: recovered effects, pairs, other models fitted now, and where a fit hides wrong effects."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from backend.contracts import OnStep, Result
from pages.additive.board import Refusal, answered, ask, comparison_request, shapes_request
from pages.additive.evaluation import (
    CONCURVED,
    MODELS,
    command_of,
    evaluation_of,
    say_concurvity,
    say_interaction,
    stored,
)
from pages.additive.settings import Settings, is_here
from pages.additive.shapes import draw_panels, shape_panel
from pages.shared.controls import refused
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value
from pages.shared.tables import draw_table

# The example whose fit hides wrong effects: without and with feature dropout; the column that follows the picture.
TIED, DROPPED, TIED_COLUMN = "squares-tied", "squares-tied-dropout", "bowl"
PAIRS_SHOWN = 24


def show_additivity(settings: Settings, on_step: OnStep) -> None:
    """Recovered effects and pairs, stored or measured now; the other models are fitted when somebody asks for it."""
    request = comparison_request(settings)
    with st.container(horizontal=True, vertical_alignment="center"):
        is_asked = st.button("Measure it here", icon=":material/play_arrow:", key="additive.compare")
        st.caption("Fits the table alone, a boosting machine and a black box on the same rows: half a minute or more.")
    answer = ask(request, on_step) if is_asked else answered(request)
    found = evaluation_of(settings.model)
    if isinstance(answer, Refusal):
        refused(answer.sentence)
    elif answer is not None:
        draw_table("Fit on rows that nothing was fitted to", *scores_table(answer), mark_best=False)
        _show_checks(answer.values)
    elif found is not None:
        _show_checks(found)
    if settings.model not in (TIED, DROPPED):  # there it stands on the page itself
        show_tied_case()


def _show_checks(found: Mapping[str, Any]) -> None:
    """Whether the effects are right, where that is known; what could be told from other terms; what pairs would add."""
    if found["effects"]:
        draw_table("Are the effects right?", *effects_table(found["effects"], found["concurvity"]), mark_best=False)
    say_concurvity(found["concurvity"], bool(found["effects"]))
    say_interaction(found["interactions"])
    _list_pairs(found["interactions"])


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
        {
            "name": name,
            "r2": "no true effect" if part["r2"] is None else f"{part['r2']:.4f}",
            "mse": part["mse"],
            "concurvity": concurvity.get(name),
        }
        for name, part in effects.items()
    ]
    return columns, rows


def _list_pairs(interactions: Mapping[str, float]) -> None:
    pairs = sorted(interactions.items(), key=lambda item: -item[1])
    with st.expander("All pairs of terms"):
        columns = [Column("name", "Pair"), Column("share", "Share of the residual explained", "", "On unseen rows.")]
        rows: list[Row] = [{"name": pair.replace(" x ", " × "), "share": part} for pair, part in pairs[:PAIRS_SHOWN]]
        draw_table("Pairs of terms", columns, rows)
        if len(pairs) > PAIRS_SHOWN:
            st.caption(f"The first {PAIRS_SHOWN} of {len(pairs)}.")


# ----------------------------------------------------------------- where a good fit hides wrong effects
def show_tied_case(is_open: bool = False) -> None:
    """One column follows the picture: the same data fitted without and with feature dropout, beside the truth."""
    plain, dropped = stored(TIED), stored(DROPPED)
    if plain is None or dropped is None or not (is_here(TIED) and is_here(DROPPED)):
        return
    with st.expander("When a good fit hides wrong effects", expanded=is_open):
        st.markdown(
            f"In this example the column “{TIED_COLUMN}” follows the size of the square (correlation about .7), so "
            "part of its effect can be moved into the picture's term and back. Both models below saw the same rows; "
            f"one of them left terms out at random in training. **Test R² differs by {_loss(plain, dropped)}**, and "
            f"yet the R² of the recovered effect of “{TIED_COLUMN}” is {_r2(plain):.3f} without dropout and "
            f"**{_r2(dropped):.3f} with it**. Feature dropout is off here unless you ask for it, and concurvity is "
            f"measured for every term: from {CONCURVED:.0%} on it is marked."
        )
        panels, unit = [], ""
        for model, title in ((TIED, "no dropout"), (DROPPED, "feature dropout")):
            shapes = ask(shapes_request(model))
            if isinstance(shapes, Result):
                column = next(c for c in shapes.values["columns"] if c["name"] == TIED_COLUMN)
                unit = shapes.unit
                panels.append(shape_panel(shapes, column) | {"title": f"{TIED_COLUMN}, {title}"})
        draw_panels(panels, unit=unit, key="additive.tied")
        draw_table("The same rows, two trainings", *tied_table(plain, dropped), mark_best=False)
        st.caption("Made by")
        st.code(
            "\n".join(command_of(m, f) for m, f in ((TIED, plain), (DROPPED, dropped))),
            language="bash",
            wrap_lines=True,
        )


def tied_table(plain: Mapping, dropped: Mapping) -> tuple[list[Column], list[Row]]:
    """Test fit, recovered effects and concurvity of both models."""
    columns = [
        Column("name", "Training"),
        Column("score", "Test R²", "higher"),
        Column("column", f"R² of {TIED_COLUMN}'s effect", "higher", "Against the truth, on unseen rows."),
        Column("image", "R² of the image's effect", "higher", "Against the truth, on unseen rows."),
        Column("concurvity", "Concurvity of the image", "lower", "Share of its term that the columns give away."),
    ]
    rows: list[Row] = [
        {
            "name": title,
            "score": f"{found['score']:.4f}",
            "column": f"{_r2(found):.4f}",
            "image": f"{found['effects']['image']['r2']:.4f}",
            "concurvity": found["concurvity"]["image"],
        }
        for title, found in (("No dropout", plain), ("Feature dropout", dropped))
    ]
    return columns, rows


def _r2(found: Mapping) -> float:
    return found["effects"][TIED_COLUMN]["r2"]


def _loss(plain: Mapping, dropped: Mapping) -> str:
    return format_value(abs(plain["score"] - dropped["score"]))
