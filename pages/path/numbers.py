"""Results as panels, rows and curves: what the page shows and what its files hold."""

import hashlib

import numpy as np

from backend.catalog import METHODS
from backend.contracts import AttributionRequest, Result, Step
from pages.path.board import Board, Refusal
from pages.shared.exports import Column, Row
from pages.shared.figures import (
    DELETION_AXES,
    INSERTION_AXES,
    Axes,
    Curve,
    Panel,
    channel_sum,
    format_value,
    line_style,
)

SCORE_TITLES = {
    "ratio": "f(xₖ) / f(x)",
    "normalised": "(f(xₖ) − f(x⁰)) / (f(x) − f(x⁰))",
    "probability": "probability",
}


# ----------------------------------------------------------------- panels
def panels(board: Board, waiting: str = "") -> list[Panel]:
    """One panel for each method: its map, why there is none, or that it is being computed.

    Args:
        waiting: said in the panels without an answer; empty: they are being computed.
    """
    return [_panel(request, board.answer(request), waiting) for request in board.attributions]


def _panel(request: AttributionRequest, answer: Result | Refusal | None, waiting: str) -> Panel:
    if isinstance(answer, Result):
        return _map_panel(request, answer, map_caption(answer))
    spec, message = METHODS[request.method], waiting if answer is None else answer.sentence
    return Panel(request.method, spec.title, None, spec.signed, spec.unit, "", message, _ticket(request))


def running_panel(request: AttributionRequest, step: Step) -> Panel:
    """The map as far as it is, for the panel that waits for the answer to this request."""
    return _map_panel(request, step.partial, f"{step.done} of {step.total} {step.message}")


def _map_panel(request: AttributionRequest, result: Result, caption: str) -> Panel:
    spec, values = METHODS[request.method], channel_sum(result.arrays["attribution"])
    return Panel(
        request.method, spec.title, values, bool(result.values["signed"]), result.unit, caption, ticket=_ticket(request)
    )


def _ticket(request: AttributionRequest) -> str:
    return hashlib.sha256(repr(request).encode()).hexdigest()[:16]


def map_caption(result: Result) -> str:
    """How far a map may be trusted, and what it cost."""
    gap, corrected = result.quality.get("relative_gap"), result.quality.get("corrected_share")
    made = result.provenance
    parts = [
        "no completeness promised"
        if gap is None
        else f"completeness gap {gap:.2%}"
        if gap < 0.1
        else f"completeness gap {gap:.0%}",
        f"corrected {corrected:.0%}" if corrected is not None else "",
        f"{made.elapsed_s:.2g} s",
        f"{made.forward_passes} + {made.backward_passes} passes",
    ]
    return " · ".join(part for part in parts if part)


# ----------------------------------------------------------------- table
def table(board: Board, score: str) -> tuple[list[Column], list[Row]]:
    """The metrics of every map that is there; deletion and insertion by the chosen score."""
    sweep = board.answer(board.faithfulness) if board.faithfulness else None
    measured = dict(zip(_methods(sweep), sweep.values["rows"], strict=True)) if isinstance(sweep, Result) else {}
    rows = [_row(result, measured.get(result.request.method, {}), score) for result in board.results]
    columns = [
        Column("name", "Method"),
        Column("deletion", "Deletion", "lower", f"Area under {SCORE_TITLES[score]} while the best pixels are deleted."),
        Column("insertion", "Insertion", "higher", f"Area under {SCORE_TITLES[score]} while the best are brought in."),
        Column(
            "gap", "Gap, logit", "lower", "Completeness gap |Σa − (f(x) − f(x⁰))|; for methods that promise the sum."
        ),
        Column("corrected", "Corrected", "lower", "Share of the change that the gradients missed and that was spread."),
        Column(
            "variance", "Var(a)", "higher", "Concentration: variance over pixels, for methods whose sums are equal."
        ),
        Column("gini", "Gini", "higher", "Gini index of |a|: 0 all pixels equal, 1 one pixel has everything."),
        *_mask_columns(rows),
        Column("seconds", "Seconds", "lower", "Wall time of the attribution."),
        Column("passes", "Passes", "lower", "Images pushed through the model, forward and backward."),
    ]
    return columns, rows


def _mask_columns(rows: list[Row]) -> list[Column]:
    if not any("mass" in row for row in rows):
        return []
    share = next(row["mask_share"] for row in rows if "mass" in row)
    help_text = f"Share of |a| on the object; a uniform map scores {share:.1%}."
    return [
        Column("mass", "Mass in mask", "higher", help_text),
        Column("pointing", "Pointing", "higher", "1 if the largest value lies on the object."),
    ]


def _methods(sweep: Result) -> list[str]:
    return [request.method for request in sweep.request.attributions]


def _row(result: Result, measured: dict, score: str) -> Row:
    quality, made = result.quality, result.provenance
    row: dict = {
        "name": METHODS[result.request.method].title,
        "deletion": measured.get(f"deletion_{score}"),
        "insertion": measured.get(f"insertion_{score}"),
        "gap": quality.get("completeness_gap"),
        "corrected": quality.get("corrected_share"),
        "variance": quality.get("variance") if METHODS[result.request.method].complete else None,
        "gini": quality.get("gini"),
        "seconds": made.elapsed_s,
        "passes": made.forward_passes + made.backward_passes,
    }
    if measured.get("mask_share") is not None:
        row |= {
            "mass": measured["mass_absolute"],
            "pointing": measured["pointing"],
            "mask_share": measured["mask_share"],
        }
    return row


def score_reason(board: Board, score: str) -> str:
    """Why deletion and insertion are not defined by this score; empty if they are."""
    sweep = board.answer(board.faithfulness) if board.faithfulness else None
    return sweep.values["reasons"].get(score, "") if isinstance(sweep, Result) else ""


# ----------------------------------------------------------------- curves
def faithfulness_curves(sweep: Result, score: str) -> list[tuple[Axes, list[Curve]]]:
    """Deletion and insertion of all methods; no curves where the score is not defined."""
    if sweep.values["reasons"].get(score):
        return []
    groups = []
    for mode, axes in (("deletion", DELETION_AXES), ("insertion", INSERTION_AXES)):
        curves = []
        for i, method in enumerate(_methods(sweep)):
            y = _scored(sweep, mode, i, score)
            area = sweep.values["rows"][i][f"{mode}_{score}"]
            curves.append(Curve(method, METHODS[method].title, line_style(i), sweep.arrays["fractions"], y, area))
        groups.append((Axes(axes.title, axes.x, SCORE_TITLES[score]), curves))
    return groups


def _scored(sweep: Result, mode: str, i: int, score: str) -> np.ndarray:
    if score == "probability":
        return sweep.arrays[f"{mode}_probability"][i]
    logit, image, baseline = sweep.arrays[f"{mode}_logit"][i], sweep.values["score"], sweep.values["baseline_score"]
    return logit / image if score == "ratio" else (logit - baseline) / (image - baseline)


def sensitivity_curves(result: Result) -> list[Curve]:
    sizes = result.request.fractions
    return [
        Curve(method, METHODS[method].title, line_style(i), np.asarray(sizes), result.arrays["correlations"][i])
        for i, method in enumerate(_methods(result))
    ]


def randomisation_curves(result: Result) -> list[Curve]:
    """Rank correlation with the original map, signed and absolute, as layers are randomised."""
    stages = result.values["stages"]
    x = np.arange(len(stages) + 1)
    titles = {"spearman": "signed values", "spearman_absolute": "absolute values"}
    return [
        Curve(key, title, line_style(i), x, np.array([1.0, *(_or_nan(stage[key]) for stage in stages)]))
        for i, (key, title) in enumerate(titles.items())
    ]


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def stage_panels(result: Result) -> list[Panel]:
    """The map of the trained model, then one for each stage of randomisation."""
    spec = METHODS[result.request.attribution.method]
    first = Panel("original", "Trained", result.arrays["original"], spec.signed, result.unit, "correlation 1")
    return [first] + [
        Panel(
            f"stage{i}",
            f"+ {', '.join(stage['layers'])}",
            result.arrays["maps"][i],
            spec.signed,
            result.unit,
            f"correlation {format_value(_or_nan(stage['spearman']))}",
        )
        for i, stage in enumerate(result.values["stages"])
    ]
