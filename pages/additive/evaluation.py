"""What was measured of a model on rows that nothing was fitted to: a stored run, with the command that made it."""

import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from backend.additive_image import own_store
from pages.additive.settings import OWN
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value
from pages.shared.session import escape, jobs
from pages.shared.tables import draw_table

EVALUATIONS = Path(__file__).resolve().parents[2] / "assets" / "evaluations"
INTERACTION = 0.05  # share of what is left over that a pair explains; above it the sum misses something
CONCURVED = 0.25  # share of a term that the others give away
MODELS = {
    "ebm_score": ("Explainable boosting machine", "table only; boosted step functions, one for each column"),
    "table_score": ("Additive model, table only", "the same networks without the picture"),
    "score": ("Additive model with the picture (NAIM)", "what this page shows"),
    "black_box_score": ("Black box: boosted trees", "on table and code; all interactions allowed, explains nothing"),
    "ceiling": ("Noise ceiling", "what the true effects themselves reach"),
}
_UNITS = {"identity": "Test R²", "logit": "Test share of deviance", "log": "Test share of deviance"}
_STYLE = """<style>
.prism-fit { overflow-x: auto; }
.prism-fit table { border-collapse: collapse; width: 100%; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
.prism-fit caption { text-align: left; padding-bottom: 0.4rem; font-weight: 600; }
.prism-fit th, .prism-fit td { padding: 0.25rem 0.5rem; text-align: left; font-weight: 400;
  border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.prism-fit thead th, .prism-fit tr.own th, .prism-fit tr.own td { font-weight: 600; }
.prism-fit td.number { text-align: right; white-space: nowrap; }
.prism-fit td.bar { width: 38%; min-width: 90px; }
.prism-fit td.bar span { display: block; height: 0.9rem; border-radius: 2px; min-width: 2px; background: #8A8A8A; }
.prism-fit tr.own td.bar span { background: #0A84C6; }
.prism-fit small { opacity: 0.75; }
</style>"""
_BAR_WORDS = {
    "effects": "R² of the recovered effect of {}",
    "probes": "R² of a line through the code that tells {}, unseen pictures",
    "paths": "Along decoded paths: {}",
    "fluid_paths": "Along decoded paths of rising fluid: {}",
    "directions": "Effect along attribute directions: {}",
    "reconstruction": "Reconstruction error, x_T {}",
    "below_ceiling": "Test fit below the noise ceiling",
    "ghosting": "Ghosting half-way between two smiles",
}


@cache
def stored(model: str) -> dict[str, Any] | None:
    """The evaluation that ships with a model; None: there is none."""
    path = EVALUATIONS / f"additive_image-{model}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def evaluation_of(model: str) -> dict[str, Any] | None:
    """The stored evaluation, or that which a training of the visitor's own data made when it was done."""
    if model.startswith(OWN):
        return own_store.evaluation(jobs(), model.removeprefix(OWN))
    return stored(model)


def show_evaluation(model: str, link: str) -> None:
    """Fit beside other models as bars, what a good fit may hide, and every bar of the model with whether it is met."""
    found = evaluation_of(model)
    if found is None:
        st.caption("No evaluation of this model is stored; the tab “How good is the sum?” makes one.")
        return
    st.subheader("How well it predicts rows that it has not seen")
    st.html(scores_html(found, link))
    say_concurvity(found["concurvity"], bool(found["effects"]))
    say_interaction(found["interactions"])
    if found.get("bars"):
        say_missed(found["bars"])
        met = sum(bar["is_met"] for bar in found["bars"].values())
        with st.expander(f"What was asked of this model: {met} of {len(found['bars'])} bars met"):
            draw_table("Bars", *bars_table(found["bars"]), mark_best=False)
    if command := command_of(model, found):
        st.caption(f"On {found['n']:,} rows that nothing was fitted to. Made by")
        st.code(command, language="bash", wrap_lines=True)


def say_missed(bars: Mapping[str, Mapping[str, Any]]) -> None:
    """What the model cannot do, as far as its issue asked for it: every bar that is missed, with both numbers."""
    missed = [
        f"- {bar_title(name)}: **{format_value(float(bar['value']))}**, asked {_asked(bar)}"
        for name, bar in bars.items()
        if not bar["is_met"]
    ]
    if missed:
        st.warning("\n".join(("**What it cannot do**", "", *missed)), icon=":material/rule:")


def command_of(model: str, found: Mapping[str, Any]) -> str:
    """What prints a stored evaluation; "" for own data, whose evaluation the training made."""
    if model.startswith(OWN):
        return ""
    return f"python -m backend evaluate additive_image --model {model} --n {found['n']} --json"


def scores_html(found: Mapping[str, Any], link: str) -> str:
    """Held-out fit of all models as a table with bars, in the order of what they see."""
    unit = _UNITS[link]
    shown = [(key, *words, found[key]) for key, words in MODELS.items() if found.get(key) is not None]
    rows = "".join(
        f"<tr{' class=own' if key == 'score' else ''}><th scope='row'>{html.escape(title)} <small>{html.escape(what)}"
        f"</small></th><td class='number'>{value:.3f}</td><td class='bar'><span style='width:{_share(value):.1f}%'>"
        "</span></td></tr>"
        for key, title, what, value in shown
    )
    return (
        f"{_STYLE}<div class='prism-fit' role='region' aria-label='Fit on unseen rows' tabindex='0'><table><caption>"
        f"Fit on unseen rows</caption><thead><tr><th scope='col'>Model</th><th scope='col'>{unit} ↑</th><th></th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _share(value: float) -> float:
    return 100 * min(max(value, 0.0), 1.0)


def say_concurvity(shares: Mapping[str, float], has_truth: bool) -> None:
    """A term that the others could stand for may be shared out wrongly while the fit stays as good."""
    found = {name: share for name, share in shares.items() if share > CONCURVED}
    if found:
        names = ", ".join(f"**{escape(name)}** ({share:.0%})" for name, share in found.items())
        st.warning(
            f"Concurvity: much of {names} could be told from the other columns and the picture. The model may share "
            "these effects out wrongly, **and the test fit would not show it**.",
            icon=":material/warning:",
        )
    elif not has_truth:
        most = max(shares, key=shares.get)
        st.caption(
            f":material/check: Concurvity is low: at most {shares[most]:.0%} of a term ({escape(most)}) can be told "
            "from the others, so effects cannot be moved between terms unseen."
        )


def say_interaction(pairs: Mapping[str, float]) -> None:
    """Would a pair of terms say more than their sum? As a number."""
    if not pairs:
        return
    name, share = max(pairs.items(), key=lambda item: item[1])
    both = escape(name.replace(" x ", " and "))
    if share > INTERACTION:
        st.warning(
            f"Interaction: together, {both} explain {share:.1%} of what the sum leaves over on unseen rows. The curves "
            "are averages over what the other holds.",
            icon=":material/warning:",
        )
    else:
        st.caption(
            f":material/check: Interaction check: the best pair of terms ({both}) explains {max(share, 0):.1%} of what "
            f"the sum leaves over on unseen rows; up to {INTERACTION:.0%} counts as none."
        )


def bars_table(bars: Mapping[str, Mapping[str, Any]]) -> tuple[list[Column], list[Row]]:
    """What was asked, what was measured, whether it is met."""
    columns = [
        Column("name", "Figure"),
        Column("value", "Measured"),
        Column("bar", "Asked"),
        Column("is_met", "Met"),
    ]
    rows: list[Row] = [
        {
            "name": bar_title(name),
            "value": format_value(float(bar["value"])),
            "bar": _asked(bar),
            "is_met": "yes" if bar["is_met"] else "no",
        }
        for name, bar in bars.items()
    ]
    return columns, rows


def _asked(bar: Mapping[str, Any]) -> str:
    return bar["bar"].replace(">=", "≥").replace("<=", "≤")


def bar_title(name: str) -> str:
    """The name of a figure in words.

    >>> bar_title("effects.image.r2"), bar_title("below_ceiling")
    ('R² of the recovered effect of image', 'Test fit below the noise ceiling')
    """
    first, _, rest = name.partition(".")
    return _BAR_WORDS.get(first, first + " {}").format(rest.removesuffix(".r2").replace("_", " "))
