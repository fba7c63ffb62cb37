"""Four pictures at the corners, their codes mixed between: frames and effects of a whole square."""

import html

import numpy as np
import streamlit as st

from backend.contracts import ImageCornersRequest, OnStep, Result
from pages.additive.board import Refusal, ask
from pages.additive.path import signed
from pages.additive.settings import Settings
from pages.shared.controls import begin, refused
from pages.shared.figures import SIGNED_COLOURS, format_value
from pages.shared.scrubber import data_address

SIDES = (3, 9)
_STYLE = """<style>
.prism-corners { display: grid; gap: 3px; max-width: 620px; }
.prism-corners figure { margin: 0; }
.prism-corners img { width: 100%; display: block; image-rendering: pixelated; }
.prism-corners figcaption { font-size: 0.68rem; text-align: center; font-variant-numeric: tabular-nums;
  color: #111; padding: 1px 0; overflow: hidden; }
</style>"""


def show_corners(settings: Settings, pictures: Result, on_step: OnStep) -> None:
    """Four rows of the gallery, the square between them."""
    rows = [int(row) for row in pictures.arrays["rows"]]
    begin("additive.corners.side", 5)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        corners = []
        firsts = (rows[0], rows[len(rows) // 3], rows[2 * len(rows) // 3], rows[-1])
        names = ("Top left", "Top right", "Bottom left", "Bottom right")
        for name, first in zip(names, firsts, strict=True):
            key = f"additive.corners.{settings.model}.{name}"
            begin(key, first)
            corners.append(st.number_input(f"{name}, row", 0, step=1, key=key, width=130))
        side = st.slider("Frames along a side", *SIDES, key="additive.corners.side", width=200)
    request = ImageCornersRequest(
        settings.model,
        rows=tuple(map(int, corners)),
        side=int(side),
        params=tuple(item for item in settings.path_params if item[0] != "reach"),
        seed=settings.seed,
    )
    answer = ask(request, on_step)
    if isinstance(answer, Refusal):
        refused(answer.sentence)
        return
    st.html(corners_html(answer))
    st.caption(
        f"Under each frame, the effect of the image on {answer.unit}: red raises it, blue lowers it. Codes are mixed "
        "linearly along both sides; nothing but the four corners comes from a picture."
    )


def corners_html(result: Result) -> str:
    frames, effect = result.arrays["frames"], result.arrays["effect"]
    side, limit = len(frames), float(np.abs(effect).max()) or 1.0
    cells = []
    for i in range(side):
        for j in range(side):
            value = float(effect[i, j])
            place = (0.5 + 0.35 * value / limit) * (len(SIGNED_COLOURS) - 1)  # pale: the number stays readable
            colour = "#" + bytes(SIGNED_COLOURS[int(round(place))]).hex()
            alt = f"row {i + 1}, column {j + 1}: effect {signed(value)}"
            cells.append(
                f"<figure><img src='{data_address(frames[i, j])}' alt='{html.escape(alt, quote=True)}'>"
                f"<figcaption style='background:{colour}'>{format_value(value)}</figcaption></figure>"
            )
    return (
        f"{_STYLE}<div class='prism-corners' style='grid-template-columns:repeat({side},minmax(0,1fr))'>"
        f"{''.join(cells)}</div>"
    )
