"""One process, two doors: Streamlit pages at `/`, the Gradio API at `/api`, both on the same engine.

Start with `streamlit run app.py`.
"""

import streamlit as st
from fastapi import FastAPI

from backend import api
from backend.jobs import default_queue

pages = st.App("pages/main.py")
app = FastAPI(lifespan=pages.lifespan(), title="Prism", openapi_url=None, docs_url=None, redoc_url=None)
app = api.mount(app)
app.mount("/", pages)
default_queue().resume()
