"""What in the picture matters: attributes as directions in the code, and the report of their effects."""

import html
from collections.abc import Sequence

import numpy as np
import streamlit as st

from backend.contracts import AttributeEffectsRequest, ImageDirectionRequest, OnStep, Result
from pages.additive.board import Refusal, ask
from pages.additive.path import signed
from pages.additive.settings import Settings
from pages.shared.controls import begin, refused
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value
from pages.shared.scrubber import Lane, Track, scrubber
from pages.shared.tables import draw_table

FRAMES = 17
WEAK_PROBE = 0.7  # R² below which a direction is not the attribute
COLUMNS = (
    Column("name", "Attribute"),
    Column("step", "Raised by", "", "Two standard deviations, in the attribute's own unit."),
    Column("effect", "Effect", "", "Mean change of the image's effect over the rows, on the link's scale."),
    Column("interval", "95% interval", "", "Over the ensemble's members and the rows, drawn again."),
    Column("truth", "Truth", "", "The same by the true effect, where it is known."),
    Column("probe", "Probe R²", "higher", "How well a line through the code tells the attribute, on unseen rows."),
    Column("verdict", "Verdict"),
)  # fmt: skip


def show_attributes(settings: Settings, row: int, has_attributes: bool, on_step: OnStep) -> None:
    """The report of all attributes, then one of them under the finger."""
    if not has_attributes:
        st.info(
            "Nobody has said what is seen in these pictures, so there are no attributes to follow. Pick two pictures "
            "that differ in what you mean, and drag between them."
        )
        return
    report = ask(AttributeEffectsRequest(settings.model, settings.seed), on_step)
    if isinstance(report, Refusal):
        refused(report.sentence)
        return
    names = report.values["attributes"]
    st.markdown(
        "Does something in the picture move the response that should not? Every picture is moved along each "
        "attribute's direction, everything else held still, and the change of its effect is averaged. Pictures that "
        "show none of it, and so cannot show less, are left out of its row."
    )
    columns, rows = effects_table(report)
    draw_table("Report: what each attribute of the picture does", columns, rows, mark_best=False)
    st.html(forest_html(report))
    _show_direction(settings, row, names, on_step)


def effects_table(report: Result) -> tuple[list[Column], list[Row]]:
    """One row for each attribute, the strongest effect first."""
    arrays, values = report.arrays, report.values
    rows: list[Row] = []
    for k in np.argsort(-np.abs(arrays["effect"])):
        low, high, probe = arrays["low"][k], arrays["high"][k], values["probe_r2"][k]
        truth = arrays["truth"][k]
        rows.append(
            {
                "name": values["attributes"][k],
                "step": float(values["steps"][k]),
                "effect": float(arrays["effect"][k]),
                "interval": f"{signed(low)} to {signed(high)}",
                "truth": None if np.isnan(truth) else float(truth),
                "probe": float(probe),
                "verdict": _verdict(float(low), float(high), float(probe)),
            }
        )
    columns = [c for c in COLUMNS if c.key != "truth" or any(row["truth"] is not None for row in rows)]
    return columns, rows


def _verdict(low: float, high: float, probe: float) -> str:
    if probe < WEAK_PROBE:
        return "not found in the code: says little"
    return "no effect seen" if low <= 0 <= high else "raises it" if low > 0 else "lowers it"


def forest_html(report: Result) -> str:
    """Effects with their intervals on one line each, zero in the middle; truth as a mark; below, what is drawn."""
    arrays, names = report.arrays, report.values["attributes"]
    reach = float(max(np.abs(arrays["low"]).max(), np.abs(arrays["high"]).max(), 1e-9)) * 1.05

    def share(value: float) -> float:
        return float(50 + 50 * value / reach)

    marked = "" if np.isnan(arrays["truth"]).all() else "; upright mark: truth"
    lines = []
    for k in np.argsort(-np.abs(arrays["effect"])):
        low, high, effect = (float(arrays[name][k]) for name in ("low", "high", "effect"))
        truth = "" if np.isnan(arrays["truth"][k]) else f"<i style='left:{share(float(arrays['truth'][k])):.2f}%'></i>"
        lines.append(
            f"<div class='row'><span class='name'>{html.escape(names[k])}</span><span class='lane'><u></u>"
            f"<s style='left:{share(low):.2f}%;width:{share(high) - share(low):.2f}%'></s>{truth}"
            f"<b style='left:{share(effect):.2f}%'></b></span></div>"
        )
    return (
        f"{_FOREST_STYLE}<div class='prism-forest' role='img' aria-label='Effects with intervals, as in the table'>"
        f"{''.join(lines)}<div class='row ends'><span class='name'></span><span class='lane'>"
        f"<em>{format_value(-reach)}</em><em>0</em><em>{format_value(reach)}</em></span></div>"
        f"<div class='axis'>effect on {html.escape(report.unit)}, 95% interval{marked}</div></div>"
    )


_FOREST_STYLE = """<style>
.prism-forest { font-size: 0.85rem; padding: 0.6rem 0; }
.prism-forest .row { display: flex; gap: 0.8rem; align-items: center; height: 1.5rem; }
.prism-forest .name { flex: 0 0 6.5rem; overflow: hidden; text-overflow: ellipsis; }
.prism-forest .lane { position: relative; flex: 1; height: 100%; border-bottom: 1px solid rgba(128, 128, 128, 0.2); }
.prism-forest u { position: absolute; left: 50%; top: 0; bottom: 0; border-left: 1px dashed rgba(128, 128, 128, 0.8); }
.prism-forest s { position: absolute; top: 0.68rem; height: 3px; min-width: 2px; background: #0A84C6; opacity: 0.6; }
.prism-forest b { position: absolute; top: 0.42rem; width: 10px; height: 10px; margin-left: -5px;
  border-radius: 50%; background: #0A84C6; }
.prism-forest i { position: absolute; top: 0.2rem; height: 1.1rem; width: 3px; margin-left: -1.5px;
  background: currentColor; opacity: 0.7; }
.prism-forest .ends .lane { display: flex; justify-content: space-between; border: 0;
  font-size: 0.75rem; opacity: 0.75; }
.prism-forest em { font-style: normal; }
.prism-forest .axis { text-align: center; padding-left: 7.3rem; font-size: 0.75rem; opacity: 0.85; }
</style>"""


# ----------------------------------------------------------------- one attribute
def _show_direction(settings: Settings, row: int, names: Sequence[str], on_step: OnStep) -> None:
    begin("additive.attribute", names[0])
    begin("additive.strength", 1.5)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        attribute = st.selectbox("Attribute", names, key="additive.attribute", width=200)
        strength = st.slider(
            "Strength",
            0.5,
            3.0,
            step=0.25,
            key="additive.strength",
            width=300,
            help="How far to either side, in standard deviations of the attribute.",
        )
    request = ImageDirectionRequest(
        settings.model,
        attribute,
        row=row,
        frames=FRAMES,
        strength=float(strength),
        params=tuple(item for item in settings.path_params if item[0] != "reach"),
        seed=settings.seed,
    )
    answer = ask(request, on_step)
    if isinstance(answer, Refusal):
        refused(answer.sentence)
        return
    draw_direction(answer, row)


def draw_direction(result: Result, row: int) -> None:
    """A picture moved along one attribute's direction, under one finger."""
    arrays, attribute, unit = result.arrays, result.values["attribute"], result.unit
    strengths, measured = arrays["strengths"], arrays.get(f"measured_{attribute}")
    lanes = []
    if measured is not None:
        middle = len(strengths) // 2
        line = measured[middle] + strengths * result.values["step"]
        lanes = [Lane(f"{attribute}, measured in the frames", measured, line)]
    labels = [
        f"{strength:+.2f}".replace("-", "−") + f" standard deviations of {attribute} · effect {signed(effect)} {unit}"
        for strength, effect in zip(strengths, arrays["effect"], strict=True)
    ]
    track = Track(
        attribute,
        arrays["frames"],
        strengths,
        arrays["effect"],
        labels,
        arrays["effect_low"],
        arrays["effect_high"],
        lanes=lanes,
    )
    scrubber(
        [track],
        x_title=f"{attribute}, standard deviations from row {row}",
        y_title=f"effect of the image on {unit}",
        key="additive.direction",
        start=len(strengths) // 2,
        strip=True,
    )
    probe = result.values["probe_r2"]
    sentence = f"A straight line through the code tells {attribute} with R² {format_value(probe)} on unseen rows."
    if probe < WEAK_PROBE:
        sentence += " That is little: this direction is not the attribute."
    st.caption(sentence)
