"""Attribution compare: several methods side by side on one image and class (thin slice)."""

import numpy as np
import streamlit as st

from backend.catalog import METHODS
from backend.contracts import AttributionRequest, PredictionRequest
from backend.errors import PrismError
from backend.examples import example_bytes
from pages.shared.session import recall, remember, run_with_progress, say, service

st.title("Attribution compare")

upload = st.file_uploader("Picture", type=None, key="path.upload")
if upload is not None:
    try:
        service().put_image(upload.getvalue())
        remember("path.image", upload.getvalue())
    except PrismError as error:
        say(error)
data = recall("path.image") or example_bytes("digit-7")[0]
info = service().put_image(data)
methods = st.multiselect("Methods", list(METHODS), default=["samp++", "ig"], key="path.methods")

prediction = run_with_progress(PredictionRequest(info.id, "digits-gap"), "Looking")
if prediction is not None:
    st.write(prediction.values["top"][0])
    columns = st.columns(len(methods) + 1)
    columns[0].image(prediction.arrays["pixels"], width=200, caption="what the model sees")
    for column, key in zip(columns[1:], methods, strict=False):
        result = run_with_progress(AttributionRequest(info.id, "digits-gap", key), METHODS[key].title)
        if result is not None:
            heat = result.arrays["attribution"].sum(0)
            scale = np.abs(heat).max() or 1.0
            column.image((heat / scale + 1) / 2, width=200, caption=METHODS[key].title, output_format="PNG")
            column.write({**result.quality})
