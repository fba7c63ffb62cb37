"""A visitor at the page of additive image models: drags between two pictures, and brings data of their own."""

import io
import re
import zipfile

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from backend.images import encode_png
from pages.additive import settings
from tests.visiting import reruns, settle, watch_reruns

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not settings.is_here("squares"), reason="no trained model here"),
]

ADDRESS = "additive-image-model"
FRAME = ".scrubber img.frame"
LONG = 120_000


def open_page(page: Page, app_url: str, query: str = "?model=squares") -> None:
    page.set_default_timeout(LONG)
    page.goto(f"{app_url}/{ADDRESS}{query}")
    page.locator(f"{FRAME}[src]").first.wait_for()
    expect(page.locator(".scrubber p.wait")).to_be_hidden(timeout=LONG)
    expect(page.get_by_role("region", name="What this path does")).to_be_visible(timeout=LONG)
    settle(page)


def test_dragging_moves_frame_effect_and_marker_without_the_server(visitor, app_url):
    open_page(visitor, app_url)
    frame, marker = visitor.locator(FRAME), visitor.locator(".scrubber .plot .marker").first
    label = visitor.locator(".scrubber .label")
    watch_reruns(visitor)
    strip = visitor.locator(".scrubber .strip").bounding_box()
    middle = strip["y"] + strip["height"] / 2
    visitor.mouse.move(strip["x"] + 2, middle)
    visitor.mouse.down()
    frames, places, labels = set(), set(), set()
    for share in np.linspace(0.01, 0.99, 66):
        visitor.mouse.move(strip["x"] + share * strip["width"], middle)
        visitor.evaluate("() => new Promise(requestAnimationFrame)")
        frames.add(frame.get_attribute("src"))
        places.add(marker.get_attribute("cx"))
        labels.add(label.inner_text())
    visitor.mouse.up()
    assert len(frames) >= 20 and len(places) == 33 and len(labels) == 33
    assert any("extrapolated" in text for text in labels)

    slider = visitor.locator(".scrubber input[type=range]")
    slider.focus()
    before = label.inner_text()
    visitor.keyboard.press("ArrowLeft")
    assert label.inner_text() != before
    assert reruns(visitor) == 0, "dragging asked the server"


def test_a_frame_is_followed_at_once(visitor, app_url):
    """From an input event to the drawn frame; a sixtieth of a second is meant, a loaded machine gets more."""
    open_page(visitor, app_url)
    milliseconds = visitor.locator(".scrubber input[type=range]").evaluate(
        """async (slider) => {
            const times = [];
            for (let k = 0; k < 33; k++) {
                slider.value = k;
                const start = performance.now();
                slider.dispatchEvent(new Event('input', {bubbles: true}));
                times.push(performance.now() - start);
                await new Promise(requestAnimationFrame);
            }
            return times.sort((a, b) => a - b)[16];
        }"""
    )
    print(f"input to drawn frame: {milliseconds:.2f} ms of script (median of 33)")
    assert milliseconds < 16


def test_another_end_is_chosen_from_the_gallery_and_files_are_had(visitor, app_url):
    open_page(visitor, app_url, "?model=squares&frames=9")
    before = visitor.locator(".scrubber .end img").first.get_attribute("src")
    visitor.locator("[data-testid=stSidebar] .gallery").first.locator("button").nth(7).click()
    expect(visitor.locator(f".scrubber .end img[src='{before}']")).to_have_count(0, timeout=LONG)
    visitor.wait_for_url("**ends=**")
    rows = " → ".join(f"row {end}" for end in re.search(r"ends=(\d+)%2C(\d+)", visitor.url).groups())
    expect(visitor.get_by_role("rowheader", name=rows)).to_be_visible(timeout=LONG)
    settle(visitor)

    def download(label: str) -> bytes:
        with visitor.expect_download() as waiting:
            visitor.get_by_role("button", name=label, exact=True).click()
        return open(waiting.value.path(), "rb").read()

    assert download("PNG").startswith(b"\x89PNG")
    assert download("CSV").startswith(b"curve,at,effect")
    with zipfile.ZipFile(io.BytesIO(download("NPZ"))) as archive:
        assert {"path.frames.npy", "shapes.shape_wave.npy"} <= set(archive.namelist())
    report = download("Report").decode()
    assert "ImagePathRequest" in report and "<script" not in report
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", report), "the report asks the network"


# ----------------------------------------------------------------- own data
N = 80


def own_files() -> tuple[bytes, bytes]:
    """A table and its pictures: bright ones cost more."""
    rng = np.random.default_rng(0)
    rows, pictures = ["rooms,kind,picture,price"], io.BytesIO()
    with zipfile.ZipFile(pictures, "w") as archive:
        for i in range(N):
            rooms, kind, light = rng.integers(1, 9), rng.choice(["flat", "house"]), rng.random()
            rows.append(f"{rooms},{kind},p{i}.png,{rooms + 2 * (kind == 'house') + 4 * light:.3f}")
            picture = np.full((24, 20, 3), 0.2)
            picture[6:18, 6:16] = light
            archive.writestr(f"p{i}.png", encode_png(picture))
    return "\n".join(rows).encode(), pictures.getvalue()


@pytest.mark.timeout(900)
def test_own_data_are_trained_on_and_found_again_after_a_reload(visitor, app_url):
    visitor.set_default_timeout(LONG)
    visitor.goto(f"{app_url}/{ADDRESS}?model=own")
    table, pictures = own_files()
    chooser = visitor.locator("[data-testid=stMain] input[type=file]")
    expect(chooser).to_have_count(2, timeout=LONG)
    chooser.nth(0).set_input_files({"name": "homes.csv", "mimeType": "text/csv", "buffer": table})
    expect(visitor.get_by_text(f"homes.csv: {N} rows, 4 columns")).to_be_visible()
    chooser.nth(1).set_input_files({"name": "homes.zip", "mimeType": "application/zip", "buffer": pictures})
    expect(visitor.get_by_text(f"{N} rows can be used.")).to_be_visible()
    settle(visitor)
    visitor.get_by_text("Principal components, no training").click()  # the others take minutes
    expect(visitor.get_by_text("a mixture of both")).to_be_visible()
    settle(visitor)
    visitor.get_by_role("button", name="Train", exact=True).click()
    expect(visitor.get_by_role("button", name="Cancel")).to_be_visible()
    visitor.reload()  # the job goes on, and is found again
    expect(visitor.get_by_role("button", name="Show it")).to_be_visible(timeout=800_000)
    settle(visitor)
    visitor.get_by_role("button", name="Show it").click()
    visitor.locator(f"{FRAME}[src]").first.wait_for()
    expect(visitor.get_by_role("region", name="What this path does")).to_be_visible(timeout=LONG)
    expect(visitor.locator(".shapes figure")).to_have_count(2)
    expect(visitor.get_by_role("region", name="Fit on unseen rows")).to_be_visible(timeout=LONG)
    assert "model=job-" in visitor.url
    address = visitor.url
    visitor.goto(address)
    visitor.locator(f"{FRAME}[src]").first.wait_for()


def test_the_page_fits_a_phone(browser, app_url):
    context = browser.new_context(viewport={"width": 375, "height": 800}, has_touch=True, color_scheme="dark")
    page = context.new_page()
    open_page(page, app_url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.locator(".scrubber .plot").first.evaluate("p => p.clientWidth") > 280
    context.close()
