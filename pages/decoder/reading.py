"""How to read the page: three sentences, the equation, and the limits of every decoder, from the catalogue."""

from collections.abc import Sequence

import streamlit as st

from backend.catalog import DECODER_KINDS
from pages.decoder.board import Drawn
from pages.shared.reading import describe


def show_reading(decoders: Sequence[Drawn]) -> None:
    st.markdown(
        "A row takes one object's block from a training scene in which it stands there, a column the other object's; "
        "every decoder draws **the same combinations**, beside the truth. Where an additive decoder reconstructs "
        "exactly and the truth is nonlinear enough, its blocks **are** the objects, up to their order and a stretch of "
        "each, and it draws every recombination of what it saw: the dashed cells. **RMSE** is in units of the image "
        "(0 to 1, lower is better), **LMS** says how well learned latents match true ones (100 is perfect)."
    )
    st.latex(r"f(z) = \sigma\Big(\sum_{B} f_B(z_B)\Big)")
    st.caption(
        "The scenes are drawn by Prism, so that the truth is known. The promise is about exact reconstruction and "
        "infinitely many scenes; trained decoders are near it, not at it. It ends where recombined objects overlap, "
        "where the truth is linear, and between the pieces of a disconnected support."
    )
    for kind in dict.fromkeys(drawn.kind for drawn in decoders):
        describe(DECODER_KINDS[kind])
