"""What a page says in HTML, as a reader has it."""

import re

from streamlit.testing.v1 import AppTest


def html_texts(page: AppTest) -> list[str]:
    """A page's HTML blocks without the spans that only hold words on one line."""
    return [re.sub("</?span>", "", item.value) for item in page.get("html")]
