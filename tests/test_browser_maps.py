"""The maps in the browser say the same numbers as the arrays: limits, values under the cross-hair, keyboard, zoom."""

import re

import pytest
from playwright.sync_api import Page, expect

from backend.contracts import AttributionRequest
from backend.examples import example_bytes
from backend.service import local_service
from pages.shared.figures import Display, Panel, channel_sum, colour_limits, format_value
from tests.visiting import settle

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def panel() -> Panel:
    service = local_service()
    image = service.put_image(example_bytes("digit-3")[0])
    result = service.run(AttributionRequest(image.id, "digits-gap", "ig", target=3))
    return Panel("ig", "Integrated Gradients", channel_sum(result.arrays["attribution"]))


def picture(page: Page, title: str):
    return page.locator("figure", has=page.locator(".title", has_text=re.compile(f"^{title}$"))).locator(
        "canvas.picture"
    )


def value(page: Page, title: str) -> str:
    return (
        page.locator("figure", has=page.locator(".title", has_text=re.compile(f"^{title}$")))
        .locator(".value")
        .inner_text()
    )


def test_the_browser_says_what_the_arrays_hold(visitor, app_url, panel):
    visitor.goto(f"{app_url}/path-attribution?example=digit-3&target=3&methods=ig")
    canvas = picture(visitor, panel.title)
    expect(canvas).to_have_attribute("aria-label", re.compile("colours end at"))

    def limit_shown() -> str:
        return re.search(r"colours end at (\S+);", canvas.get_attribute("aria-label")).group(1)

    def limit(**display) -> str:
        return format_value(colour_limits([panel], Display(**display))["ig"])

    assert limit_shown() == limit()
    for label, choice in {"Absolute": "absolute", "Positive": "positive", "Signed": "signed"}.items():
        visitor.get_by_text(label, exact=True).click()
        visitor.wait_for_timeout(200)
        assert limit_shown() == limit(values=choice)

    canvas.focus()
    visitor.keyboard.press("ArrowRight")
    visitor.keyboard.press("ArrowDown")
    row, column = map(int, re.findall(r"\d+", value(visitor, "Image")))
    expected = format_value(float(panel.values[row, column]))
    assert value(visitor, panel.title).lstrip("+") == expected
    visitor.keyboard.press("+")
    expect(visitor.locator('[data-for="zoom"]')).to_have_text("1.4×")
    visitor.keyboard.press("0")
    expect(visitor.locator('[data-for="zoom"]')).to_have_text("1×")


def colourfulness(page: Page, title: str) -> float:
    """How far apart red and blue are on average in what a canvas shows, 0 to 255."""
    return picture(page, title).evaluate(
        """(canvas) => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let sum = 0;
            for (let i = 0; i < data.length; i += 4) sum += Math.abs(data[i] - data[i + 2]);
            return sum / (data.length / 4);
        }"""
    )


def test_a_coloured_picture_keeps_its_colours_under_a_map_until_grey_is_chosen(visitor, app_url):
    visitor.goto(f"{app_url}/image-text?model=scenes-clip&example=scene-01&methods=m2ib&m2ib.n_steps=2&opacity=0")
    title = visitor.locator(".large .title").first
    expect(title).to_have_text(re.compile("M2IB"))
    settle(visitor)
    name = re.escape(title.inner_text())
    visitor.locator(".large").get_by_text("Colour", exact=True).click()
    coloured = colourfulness(visitor, name)
    visitor.locator(".large").get_by_text("Grey", exact=True).click()
    settle(visitor)
    assert colourfulness(visitor, name) < 1 < coloured
    assert "picture=grey" in visitor.url
    visitor.goto(f"{app_url}/path-attribution?example=digit-3&methods=ig")
    settle(visitor)
    expect(visitor.locator("figure .message:visible")).to_have_count(0)  # else the failure says what it is
    expect(picture(visitor, "Integrated Gradients")).to_be_visible()
    expect(visitor.locator('[data-name="picture"]')).to_be_hidden()  # a grey picture has no such choice


_REFUSE_AT_FIRST = """() => {
    const decode = HTMLImageElement.prototype.decode;
    let refusals = 3;
    HTMLImageElement.prototype.decode = function () {
        return refusals-- > 0 ? Promise.reject(new DOMException("refused", "EncodingError")) : decode.call(this);
    };
}"""


@pytest.mark.parametrize(
    "address, drawn",
    [
        ("path-attribution?example=digit-3&methods=ig", "figure canvas.picture"),
        ("additive-decoder", ".bench .grids canvas"),
    ],
)
def test_a_picture_that_the_busy_browser_refuses_to_decode_is_asked_for_again(visitor, app_url, address, drawn):
    visitor.add_init_script(f"({_REFUSE_AT_FIRST})()")
    visitor.goto(f"{app_url}/{address}")
    expect(visitor.locator(drawn).first).to_be_visible()
