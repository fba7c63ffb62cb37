"""From one picture to another: frames, the image's effect and what is measured in the frames, under one finger."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.contracts import ImagePathRequest, Result, Step, request_key
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value
from pages.shared.scrubber import End, Lane, Track, running_frames, scrubber
from pages.shared.tables import draw_table

KEY = "additive.scrubber"
SHARP = 0.8  # of the ends' gradient energy: below, frames half-way are in part a cross-fade
COLUMNS = (
    Column("name", "From A to B"),
    Column("change", "Change in effect", "", "The image's effect at B less that at A, on the link's scale."),
    Column("correlation", "Correlation with α", "higher", "Of the attribute measured in the decoded frames."),
    Column("sharpness", "Sharpness", "higher", "Least gradient energy on the way, over that of the ends."),
    Column("first", "Error at A", "lower", "Mean squared error of A coded and decoded again, pixels in [0, 1]."),
    Column("last", "Error at B", "lower", "The same of B."),
    Column("usual", "Usual error", "", "Median over rows of the data, decoded the same way."),
)


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The pictures at both ends, as they are called here."""

    titles: tuple[str, str]
    pictures: tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8

    def ends(self, result: Result | None) -> tuple[End, End]:
        pictures = self.pictures if result is None or "ends" not in result.arrays else result.arrays["ends"]
        return tuple(
            End(f"{name}: {title}", f"Original picture {name}, {title}", picture)
            for name, title, picture in zip("AB", self.titles, pictures, strict=True)
        )


def draw_path(result: Result, shown: Shown, *, ticket: str = "", is_running: bool = False) -> None:
    """The strip, the frame and the curves of a path, whether all of its frames are there or not."""
    arrays, unit = result.arrays, result.unit
    alphas, effect = arrays["alphas"], arrays["effect"]
    track = Track(
        "A to B",
        arrays["frames"],
        alphas,
        effect,
        labels(result),
        arrays["effect_low"],
        arrays["effect_high"],
        (0.0, 1.0),
        [lane] if (lane := measured_lane(result)) is not None else [],
        arrays["is_ready"],
    )
    scrubber(
        [track],
        x_title="α: 0 is A, 1 is B",
        y_title=f"effect of the image on {unit}",
        key=KEY,
        start=len(alphas) // 2,
        ends=shown.ends(None if is_running else result),
        strip=True,
        ticket=ticket,
    )


def ticket_of(request: ImagePathRequest) -> str:
    """What the frames of a path are sent under."""
    return request_key(request)[:16]


def labels(result: Result) -> list[str]:
    """A sentence for each frame."""
    arrays, unit = result.arrays, result.unit
    lane = measured_lane(result)
    sentences = []
    for k, alpha in enumerate(arrays["alphas"]):
        low, high = arrays["effect_low"][k], arrays["effect_high"][k]
        parts = [
            f"α = {alpha:.2f}".replace("-", "−"),
            f"effect {signed(arrays['effect'][k])} ({signed(low)} to {signed(high)}) {unit}",
        ]
        if lane is not None and np.isfinite(lane.y[k]):
            parts.append(f"{lane.title} {format_value(float(lane.y[k]))}")
        if not -1e-6 <= alpha <= 1 + 1e-6:
            parts.append("beyond the ends: extrapolated")
        sentences.append(" · ".join(parts))
    return sentences


def measured_lane(result: Result) -> Lane | None:
    """The attribute that is measured in the frames, beside the straight line of Theorem 1; None: nothing is."""
    name = result.values.get("attribute")
    values = None if name is None else result.arrays.get(f"measured_{name}")
    if values is None:
        return None
    return Lane(f"{name}, measured in the frames", values, straight(result.arrays["alphas"], values))


def straight(alphas: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The line through the values at alpha 0 and 1, (K,)."""
    first, last = (values[np.abs(alphas - alpha).argmin()] for alpha in (0.0, 1.0))
    return first + (last - first) * alphas


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + format_value(float(value))


# ----------------------------------------------------------------- numbers
def path_table(result: Result, titles: Sequence[str]) -> tuple[list[Column], list[Row]]:
    """What is to be known of a path beside its picture."""
    at = [np.abs(result.arrays["alphas"] - alpha).argmin() for alpha in (0.0, 1.0)]
    errors = result.values["reconstruction"]
    row: Row = {
        "name": " → ".join(titles),
        "change": float(result.arrays["effect"][at[1]] - result.arrays["effect"][at[0]]),
        "correlation": result.quality.get("path_correlation"),
        "sharpness": result.quality.get("sharpness"),
        "first": errors[0],
        "last": errors[1],
        "usual": result.values["usual_reconstruction"],
    }
    name = result.values.get("attribute")
    columns = [
        Column(c.key, f"Correlation of {name} with α", c.better, c.help) if c.key == "correlation" and name else c
        for c in COLUMNS
    ]
    return columns, [row]


def draw_numbers(result: Result, titles: Sequence[str]) -> None:
    """The table under the strip, with what a person should know before trusting it."""
    columns, rows = path_table(result, titles)
    draw_table("What this path does", columns, rows, mark_best=False)
    for note in result.provenance.notes:
        st.warning(note, icon=":material/warning:")
    sharpness = result.quality.get("sharpness")
    if sharpness is not None and sharpness < SHARP:
        st.caption(
            f":material/info: Sharpness falls to {format_value(sharpness)} of the ends: half-way the frames are in "
            "part a cross-fade, and a correlation alone would not show it."
        )


# ----------------------------------------------------------------- while it is decoded
@dataclass
class Running:
    """Draws a path while its frames are decoded: the curve first, then every frame as it comes."""

    home: DeltaGenerator  # where the scrubber stands
    place: DeltaGenerator  # where frames travel, unseen
    progress: DeltaGenerator
    shown: Shown
    ticket: str
    _partial: Result | None = field(default=None, init=False)

    def on_step(self, step: Step) -> None:
        self.progress.progress(step.fraction, text=f"Decoding: {step.message}" if step.message else "Decoding")
        if step.partial is None or step.partial is self._partial:
            return
        is_first = self._partial is None
        self._partial = step.partial
        if is_first:
            with self.home:
                draw_path(step.partial, self.shown, ticket=self.ticket, is_running=True)
        elif step.partial.arrays["is_ready"].any():
            here = np.flatnonzero(step.partial.arrays["is_ready"])
            running_frames(self.place, self.ticket, {int(k): step.partial.arrays["frames"][k] for k in here})
