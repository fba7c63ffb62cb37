"""The frame in a real browser: deep links for the very first visitor, both themes, a phone, one engine."""

import base64
import re

import pytest
from gradio_client import Client

from backend.catalog import FAMILIES
from backend.examples import example_bytes
from tests.visiting import settle

pytestmark = pytest.mark.browser

PAGES = {"": "Prism", "models": "Models", **{family.url_path: family.title for family in FAMILIES.values()}}


def open_page(visitor, url: str, title: str) -> None:
    visitor.goto(url)
    visitor.get_by_role("heading", name=title, exact=True).wait_for()


def test_deep_link_works_for_the_first_visitor_of_a_fresh_server(visitor, fresh_app):
    open_page(visitor, f"{fresh_app}/models", "Models")
    assert visitor.get_by_role("link", name="Attribution compare").count() == 1, "the frame was skipped"


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_by_its_address(visitor, app_url, path):
    open_page(visitor, f"{app_url}/{path}", PAGES[path])
    assert visitor.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(browser, app_url, path, theme):
    context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme=theme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_page(page, f"{app_url}/{path}", PAGES[path])
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    context.close()


def test_both_doors_share_models_and_results(visitor, fresh_app):
    api = Client(f"{fresh_app}/api", verbose=False)
    assert api.predict(api_name="/status")["loads"] == 0
    open_page(visitor, f"{fresh_app}/path-attribution", "Attribution compare")
    visitor.get_by_text("Integrated Gradients").first.wait_for()
    visitor.get_by_role("row", name=re.compile("^Grad-CAM")).first.wait_for()
    settle(visitor)
    before = api.predict(api_name="/status")
    assert before["loads"] == 1 and before["results"] > 0

    example = re.search(r"example=([\w-]+)", visitor.url).group(1)
    picture = base64.b64encode(example_bytes(example)[0]).decode()
    top = api.predict(picture, "digits-gap", api_name="/predict")["values"]["top"][0]["target"]
    answer = api.predict(picture, "digits-gap", "ig", top, api_name="/attribute")
    after = api.predict(api_name="/status")
    assert (after["loads"], after["results"]) == (1, before["results"]), "the API did not find what the page had stored"
    assert answer["manifest"]["forward_passes"] > 0
