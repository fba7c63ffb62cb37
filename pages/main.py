"""The frame: navigation, the engine's state in the sidebar, one page at a time."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # the entry script's own folder is on the path, the tree's root is not
    sys.path.insert(0, str(ROOT))

import streamlit as st  # noqa: E402

from backend.catalog import FAMILIES  # noqa: E402
from pages.shared.session import draw_status  # noqa: E402

HERE = Path(__file__).parent

st.set_page_config(page_title="Prism", page_icon=":material/looks:", layout="wide", initial_sidebar_state="auto")

overview = st.Page(HERE / "overview.py", title="Overview", icon=":material/home:", default=True)
families = [
    st.Page(HERE / family.page, title=family.title, icon=family.icon, url_path=family.url_path)
    for family in FAMILIES.values()
]
models = st.Page(HERE / "models.py", title="Models", icon=":material/deployed_code:", url_path="models")

page = st.navigation({"Prism": [overview], "Methods": families, "Engine": [models]})
draw_status()
page.run()
