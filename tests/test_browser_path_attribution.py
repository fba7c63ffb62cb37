"""A visitor at the attribution page: from the first look to the exported report, on the real process."""

import base64
import io
import re
import zipfile

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect
from skimage import data as photographs

from backend.images import encode_png
from tests.visiting import reruns, settle, watch_reruns

pytestmark = pytest.mark.browser

ADDRESS = "path-attribution"
MAPS = "canvas.picture"
expect.set_options(timeout=60_000)


def open_page(page: Page, app_url: str, query: str = "") -> None:
    page.goto(f"{app_url}/{ADDRESS}{query}")
    expect(row(page, "SAMP++")).to_be_visible()
    settle(page)


def row(page: Page, method: str) -> Locator:
    """The method's row in the table of metrics."""
    return page.get_by_role("row", name=re.compile(rf"^{re.escape(method)}\b|^{re.escape(method)} ")).first


def table_row(page: Page, method: str) -> list[str]:
    return row(page, method).locator("td, th").all_inner_texts()


def download(page: Page, label: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=label, exact=True).click()
    return open(waiting.value.path(), "rb").read()


def choose_method(page: Page, title: str) -> None:
    box = page.get_by_role("combobox", name=re.compile("Methods"))
    box.click()
    box.fill(title)
    page.get_by_role("option", name=re.compile(f"^{re.escape(title)}$")).click()
    page.keyboard.press("Escape")


def test_an_example_is_on_screen_without_a_click(visitor, app_url):
    open_page(visitor, app_url)
    assert visitor.locator(MAPS).count() >= 4  # the picture and three maps
    painted = (
        visitor.locator(MAPS)
        .nth(1)
        .evaluate("c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size")
    )
    assert painted > 10, "the map is blank"
    expect(visitor.get_by_text("One scale for all maps").first).to_be_visible()


def test_from_upload_to_report_and_back_by_link(visitor, app_url):
    open_page(visitor, app_url)

    choose_method(visitor, "Saliency")
    expect(row(visitor, "Saliency")).to_be_visible()
    settle(visitor)
    before = table_row(visitor, "SAMP++")

    upload = visitor.locator("input[type=file]").first
    upload.set_input_files(
        {"name": "astronaut.png", "mimeType": "image/png", "buffer": encode_png(photographs.astronaut() / 255)}
    )
    expect(visitor.get_by_text(re.compile("astronaut")).first).to_be_visible()
    expect(row(visitor, "Saliency")).to_be_visible()
    settle(visitor)
    expect(row(visitor, "SAMP++").locator("td, th").nth(1)).not_to_have_text(re.compile(f"–|{re.escape(before[1])}"))

    visitor.get_by_role("tab", name="Path player").click()
    frame = visitor.locator(".scrubber img.frame")
    frame.wait_for()
    settle(visitor)
    slider = visitor.locator(".scrubber input[type=range]")
    steps = int(slider.get_attribute("max"))
    assert steps >= 20
    seen = set()
    watch_reruns(visitor)
    slider.focus()
    for _ in range(steps):
        visitor.keyboard.press("ArrowRight")
        seen.add(frame.get_attribute("src"))
    assert len(seen) >= 15, "the frames do not follow the key"
    assert reruns(visitor) == 0, "scrubbing asked the server"

    assert download(visitor, "PNG").startswith(b"\x89PNG")
    assert b"<svg" in download(visitor, "SVG")[:2000]
    assert "SAMP++" in download(visitor, "CSV").decode()
    with zipfile.ZipFile(io.BytesIO(download(visitor, "NPZ"))) as archive:
        assert any("saliency" in name for name in archive.namelist())
    report = download(visitor, "Report").decode()
    assert "SAMP++" in report and "<script" not in report
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", report), "the report asks the network"


def test_a_link_shows_the_same_again(visitor, browser, app_url):
    open_page(visitor, app_url)
    choose_method(visitor, "Saliency")
    expect(row(visitor, "Saliency")).to_be_visible()
    settle(visitor)
    address, shown = visitor.url, table_row(visitor, "Saliency")
    assert "methods=" in address
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    other = context.new_page()
    other.set_default_timeout(60_000)
    other.goto(address)
    expect(row(other, "Saliency")).to_be_visible()
    settle(other)
    assert table_row(other, "Saliency")[1:5] == shown[1:5]
    context.close()


_PASTE = """(letters) => {
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], 'pasted.png', {type: 'image/png'}));
    document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData, bubbles: true, cancelable: true}));
}"""


def test_a_picture_can_be_pasted(visitor, app_url):
    open_page(visitor, app_url)
    expect(visitor.locator("span[data-listens]")).to_be_attached()
    visitor.evaluate(_PASTE, base64.b64encode(encode_png(photographs.coffee()[:96, :96] / 255)).decode())
    expect(visitor.get_by_text("pasted.png").first).to_be_visible()
    expect(visitor).to_have_url(re.compile("example=upload"))  # the rerun that takes the upload has begun
    settle(visitor)
    expect(row(visitor, "SAMP++")).to_be_visible()
    assert visitor.locator("[data-testid=stException]").count() == 0


_WATCH_RISE = """() => {
    window.__maps = new Set();
    window.__watching = setInterval(() => {
        const roots = [...document.querySelectorAll('*')].map((one) => one.shadowRoot).filter(Boolean);
        const figure = roots.flatMap((root) => [...root.querySelectorAll('figure.panel')])
            .find((one) => one.querySelector('.title').textContent === 'RISE');
        if (!/^\\d+ of 8000/.test(figure?.querySelector('.caption').textContent ?? '')) return;
        const canvas = figure.querySelector('canvas.picture');
        if (canvas.width > 1) window.__maps.add(canvas.toDataURL());
    }, 50);
}"""


def test_a_running_map_is_drawn_where_its_answer_will_be(visitor, app_url):
    open_page(visitor, app_url, "?model=objects-cnn&example=object-star&methods=samp%2B%2B&rise.samples=8000")
    visitor.evaluate(_WATCH_RISE)
    choose_method(visitor, "RISE")
    visitor.wait_for_function("() => window.__maps.size >= 3")
    visitor.get_by_role("button", name="Cancel").click()
    expect(visitor.get_by_role("button", name="Continue")).to_be_visible()
    settle(visitor)
    assert visitor.locator("[data-prism-running]").count() == 0
    stopped = visitor.locator("figure.panel", has=visitor.locator(".title", has_text=re.compile("^RISE$")))
    expect(stopped.locator(".message")).to_have_text("stopped")
    visitor.get_by_role("button", name="Continue").click()
    expect(stopped.locator(".caption")).to_contain_text("passes")
    assert visitor.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("notes.txt", b"these are words", "not a PNG"),
        ("cut.png", encode_png(np.random.default_rng(0).random((64, 64, 3)))[:3000], "truncated"),
        ("empty.png", b"", "empty"),
    ],
)
def test_a_refused_upload_says_why_and_loses_nothing(visitor, app_url, name, content, sentence):
    open_page(visitor, app_url)
    shown = table_row(visitor, "SAMP++")
    visitor.locator("input[type=file]").first.set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": content}
    )
    expect(visitor.get_by_text(re.compile(sentence)).first).to_be_visible()
    settle(visitor)
    assert table_row(visitor, "SAMP++") == shown
    assert visitor.locator(MAPS).count() >= 4
    assert visitor.locator("[data-testid=stException]").count() == 0


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("?target=99", r"classes are 0\.\.9"),
        ("?samp%2B%2B.eta=7", r"0\.001"),
        ("?methods=nothing", "unknown method"),
        ("?model=nothing", "unknown model"),
        ("?baselines=purple", "unknown baseline"),
        ("?seed=minus", "whole number"),
    ],
)
def test_a_bad_address_says_so_and_still_shows_maps(visitor, app_url, query, sentence):
    visitor.goto(f"{app_url}/{ADDRESS}{query}")
    expect(visitor.get_by_text(re.compile(sentence)).first).to_be_visible()
    visitor.locator(MAPS).first.wait_for()
    assert visitor.locator("[data-testid=stException]").count() == 0


def test_what_was_set_is_kept_between_pages(visitor, app_url):
    open_page(visitor, app_url)
    choose_method(visitor, "Saliency")
    expect(row(visitor, "Saliency")).to_be_visible()
    settle(visitor)
    visitor.get_by_role("link", name="Models", exact=True).click()
    expect(visitor.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    visitor.get_by_role("link", name="Attribution compare").click()
    expect(row(visitor, "Saliency")).to_be_visible()
