"""How to read the page: three sentences, the equation, the limits."""

import streamlit as st

from backend.catalog.additive_image import IMAGE_MODELS


def show_reading() -> None:
    spec = IMAGE_MODELS["naim"]
    st.markdown(
        "Every column has **one curve**, the picture has **one number**, and all that the model says is their sum: "
        "read a curve off at a row's value and you know what that column adds, whatever the others are. "
        "Dragging from A to B moves the picture's code on a straight line: **the frame is what that code looks like, "
        "the marker what it does to the response**; beyond the ends, shaded, both are extrapolated. "
        "Every term has mean 0 over the data, so 0 is an average row, and a **band is what the members of the "
        "ensemble disagree by**, not what more data might change."
    )
    st.latex(spec.equation)
    st.latex(
        r"z(\alpha) = (1 - \alpha)\, z_a + \alpha\, z_b, \qquad "
        r"s(z(\alpha)) \approx (1 - \alpha)\, s(z_a) + \alpha\, s(z_b)"
    )
    st.caption(
        f"Limits: {spec.limits} An effect is what the model uses to predict, not what would happen if somebody "
        "changed the picture. What the encoder does not see has no effect here, and a frame is a drawing of a code: "
        "where the reconstruction error is large, the picture that you know is not the one that is explained.  \n"
        f"Source: {spec.source}"
    )
