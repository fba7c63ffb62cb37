"""What the semantic code leaves to the stochastic one: both ends decoded with x_T found, at random, and zero."""

import dataclasses

import numpy as np
import streamlit as st

from backend.contracts import ImagePathRequest, OnStep, Result
from pages.additive.board import Refusal, ask
from pages.additive.inputs import Ends
from pages.shared.controls import refused
from pages.shared.exports import Column, Row
from pages.shared.figures import format_value
from pages.shared.scrubber import enlarged
from pages.shared.tables import draw_table

SOURCES = {
    "slerp": "x_T found by inversion",
    "random": "x_T at random",
    "zero": "x_T zero",
}
COLUMNS = (
    Column("name", "Decoded with"),
    Column("first", "Error at A", "lower", "Mean squared error, pixels in [0, 1]."),
    Column("last", "Error at B", "lower", "Mean squared error, pixels in [0, 1]."),
)


def show_stochastic(request: ImagePathRequest, ends: Ends, on_step: OnStep) -> None:
    """Both ends decoded in each way, with their errors."""
    found: dict[str, Result] = {}
    for source in SOURCES:
        params = tuple(sorted({**dict(request.params), "stochastic": source, "reach": 0.0}.items()))
        answer = ask(dataclasses.replace(request, frames=2, params=params), on_step, ends.put)
        if isinstance(answer, Refusal):
            refused(answer.sentence)
            return
        found[source] = answer
    originals = next(iter(found.values())).arrays["ends"]
    for k, name in enumerate("AB"):
        with st.container(horizontal=True, vertical_alignment="top"):
            st.image(enlarged(originals[k]), caption=f"{name}: {ends.shown.titles[k]}", width=110, output_format="PNG")
            for source, result in found.items():
                st.image(enlarged(result.arrays["frames"][k]), caption=SOURCES[source], width=110, output_format="PNG")
    rows: list[Row] = [
        {
            "name": SOURCES[source],
            "first": result.values["reconstruction"][0],
            "last": result.values["reconstruction"][1],
        }
        for source, result in found.items()
    ]
    draw_table("Reconstruction error", COLUMNS, rows)
    st.markdown(verdict(found))


def verdict(found: dict[str, Result]) -> str:
    """Who carries the picture, from the errors."""
    inverted, drawn = (float(np.mean(found[source].values["reconstruction"])) for source in ("slerp", "random"))
    ratio = drawn / max(inverted, 1e-12)
    if ratio > 2:
        return (
            f"The **stochastic code carries what z leaves out**: with the x_T of the picture the error is "
            f"{format_value(ratio)} times smaller than with one drawn at random. The effect is read from z alone."
        )
    return (
        "Here **z carries the picture**: whichever x_T is taken, about the same comes back, so only z, from which "
        "the effect is read, is in the frames."
    )
