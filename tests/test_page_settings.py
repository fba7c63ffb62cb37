"""What is set on a page: an address's refusal stays until something else is asked, or the visitor comes back."""

from collections.abc import Mapping
from dataclasses import dataclass

from streamlit.runtime.state.query_params import QueryParams
from streamlit.testing.v1 import AppTest

SENTENCE = "size is 'big'"


@dataclass(frozen=True)
class Settings:
    size: int = 1
    colour: str = "red"

    def to_query(self) -> dict[str, str]:
        return {"size": str(self.size), "colour": self.colour}


def read_query(query: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    return Settings(), {"size": SENTENCE} if query.get("size") == "big" else {}


def draw() -> None:
    """A page with one setting that is asked and one that only changes how the answer looks."""
    import dataclasses

    import streamlit as st

    from pages.shared.answers import Answers
    from pages.shared.controls import begin
    from pages.shared.page_settings import PageSettings
    from tests.test_page_settings import read_query

    if st.session_state.get("is_elsewhere"):
        return
    kept = PageSettings(Answers("toy", at_most=3), read_query, first_control="size", only_shown=("colour",))
    settings = kept.first()
    begin("toy.size", settings.size)
    size = st.number_input("Size", key="toy.size")
    kept.say_refusal("size")
    begin("toy.colour", settings.colour)
    colour = st.text_input("Colour", key="toy.colour")
    kept.note(dataclasses.replace(settings, size=int(size), colour=colour))


def opened() -> AppTest:
    page = AppTest.from_function(draw, default_timeout=60)
    page.query_params["size"] = "big"
    page.run()
    assert said(page)
    return page


def said(page: AppTest) -> bool:
    assert not page.exception
    return any(SENTENCE in item.value for item in page.markdown)


def test_a_refusal_stays_until_something_else_is_asked():
    page = opened()
    page.text_input(key="toy.colour").set_value("blue").run()
    assert said(page) and page.query_params["colour"] == "blue"
    page.number_input(key="toy.size").set_value(2).run()
    page.run()
    assert not said(page) and page.query_params["size"] == "2"


def test_who_comes_back_from_another_page_is_not_told_again():
    page = opened()
    for is_elsewhere in (True, False):
        page.session_state["is_elsewhere"] = is_elsewhere
        page.run()
    assert page.number_input and not said(page)


def test_the_second_of_two_quick_changes_is_written_though_the_browser_has_not_heard_of_the_first(monkeypatch):
    page = AppTest.from_function(draw, default_timeout=60).run()
    before = dict(page.query_params)
    page.text_input(key="toy.colour").set_value("blue").run()
    page.query_params.clear()
    page.query_params.update(before)  # what the browser says, which blue has not reached yet
    written = []
    monkeypatch.setattr(QueryParams, "from_dict", lambda _, query: written.append(query))
    page.text_input(key="toy.colour").set_value("red").run()
    assert written == [{"size": "1", "colour": "red"}]
    page.run()
    assert len(written) == 1  # nothing changed, nothing is written
