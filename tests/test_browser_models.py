"""Bringing a model by the form: refused with the reason beside it, accepted after a dry run, used, removed."""

import pickle
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser
WEIGHTS = (Path(__file__).parent.parent / "assets/weights/digits-gap.safetensors").read_bytes()


def fill(page: Page, label: str, text: str) -> None:
    box = page.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Tab")


def choose(page: Page, label: str, option: str) -> None:
    page.get_by_role("combobox", name=re.compile(label)).click()
    page.get_by_role("option", name=option, exact=True).click()


def offer(page: Page, weights: bytes, labels: int = 10) -> None:
    """Fill the form with the shipped digit network's own fields, and send it."""
    fill(page, "Key", "mine")
    fill(page, "Architecture", "prism:lenet-gap")
    fill(page, "Labels, one a line", "\n".join(str(i) for i in range(labels)))
    fill(page, "Input height (pixels)", "28")
    fill(page, "Input width (pixels)", "28")
    choose(page, "Channels", "L")
    choose(page, "Mean and standard deviation", "none (0 and 1)")
    page.locator("input[type=file]").set_input_files(
        {"name": "mine.safetensors", "mimeType": "application/octet-stream", "buffer": weights}
    )
    page.get_by_text("mine.safetensors").first.wait_for()
    page.get_by_role("button", name="Try it").click()


@pytest.mark.parametrize(
    ("weights", "labels", "sentence"),
    [
        (pickle.dumps({"a": 1}), 10, "is a pickle"),
        (WEIGHTS[:500], 10, "not safetensors"),
        (WEIGHTS, 7, "7 labels, but the weights have 10 outputs"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_form_stays(visitor, app_url, weights, labels, sentence):
    visitor.goto(f"{app_url}/models")
    offer(visitor, weights, labels)
    expect(visitor.get_by_text(re.compile(sentence)).first).to_be_visible(timeout=60_000)
    assert visitor.get_by_label("Key", exact=True).input_value() == "mine"


def test_a_model_is_added_used_and_removed(visitor, app_url):
    visitor.goto(f"{app_url}/models")
    offer(visitor, WEIGHTS)
    expect(visitor.get_by_text(re.compile("It is not added yet"))).to_be_visible(timeout=60_000)
    visitor.get_by_role("button", name="Add it").click()
    expect(visitor.get_by_text("its weights fit and it answered a dry run").first).to_be_visible(timeout=60_000)
    visitor.goto(f"{app_url}/path-attribution?model=mine&methods=saliency")
    expect(visitor.get_by_text(re.compile("mine")).first).to_be_visible(timeout=60_000)
    expect(visitor.get_by_role("row", name=re.compile("^Saliency")).first).to_be_visible(timeout=60_000)
    visitor.goto(f"{app_url}/models")
    visitor.get_by_role("button", name="Remove", exact=True).click()
    expect(visitor.get_by_text("There is no model of your own.")).to_be_visible(timeout=60_000)
