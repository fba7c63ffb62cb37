"""One process, two doors: Streamlit pages at `/`, the Gradio API at `/api`, both on the same engine.

Start with `streamlit run app.py`.
"""

from pathlib import Path

import streamlit as st
from fastapi import FastAPI

from backend import api, engines, guard, memory
from backend.catalog import FAMILIES
from backend.files import home, remove_drafts
from backend.jobs import default_queue

pages = st.App("pages/main.py")
app = FastAPI(lifespan=pages.lifespan(), title="Prism", openapi_url=None, docs_url=None, redoc_url=None)
app = api.mount(app)
app.mount("/", pages)
guard.protect(
    app,
    pages={"models", *(family.url_path for family in FAMILIES.values())},
    index_html=(Path(st.__file__).parent / "static" / "index.html").read_text(),
)
if engines.keeps_jobs():
    remove_drafts(home())
    default_queue().resume()
memory.keep_flat()
