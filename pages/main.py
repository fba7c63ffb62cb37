"""The frame: navigation, the engine's state in the sidebar, one page at a time."""

import logging
import os
import sys
import time
from pathlib import Path

STARTED = time.perf_counter()

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the entry script's own folder is on the path, the tree's root is not
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402

from backend.catalog import FAMILIES  # noqa: E402
from backend.errors import NotAvailable  # noqa: E402
from pages.shared.session import draw_status, say  # noqa: E402

HERE = Path(__file__).parent

st.set_page_config(
    page_title="Prism", page_icon=str(ROOT / "assets" / "favicon.png"), layout="wide", initial_sidebar_state="auto"
)

overview = st.Page(HERE / "overview.py", title="Overview", icon=":material/home:", default=True)
families = [
    st.Page(HERE / family.page, title=family.title, icon=family.icon, url_path=family.url_path)
    for family in FAMILIES.values()
]
models = st.Page(HERE / "models.py", title="Models", icon=":material/deployed_code:", url_path="models")

page = st.navigation({"Prism": [overview], "Methods": families, "Engine": [models]})
draw_status()
try:
    page.run()
except NotAvailable as error:  # the engine is another machine, and it is away
    say(error)

if os.environ.get("PRISM_LOG_RERUNS"):  # what a rerun costs the server; read by tests.benchmarks.pages
    logging.getLogger("prism").warning("rerun %s %.1f ms", page.url_path, 1000 * (time.perf_counter() - STARTED))
