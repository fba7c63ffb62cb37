"""The image-text page in a real browser: from a DICOM and a pasted report to a file that names nobody."""

import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from backend.audio import encode_wav
from tests.conftest import running_app
from tests.visiting import settle

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

IDENTITY = ("QUENTINA", "MRN-7712", "19520317", "Sankt Anna", "ACC-5544", "Brackwater", "7712.dcm")
WORDS = "quorblax"  # of the report, and of nothing else
REPORT = f"FINDINGS: Nodule in the left upper lung. Heart is normal, {WORDS}.\nIMPRESSION: No effusion."
SENTENCES = ("Nodule in the left upper lung.", f"Heart is normal, {WORDS}.", "No effusion.")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("health")


@pytest.fixture(scope="module")
def url(home) -> Iterator[str]:
    """An app whose log, temporary files and state all lie in one folder."""
    (home / "tmp").mkdir()
    with running_app(home, TMPDIR=str(home / "tmp")) as address:
        yield address


def dicom() -> bytes:
    """A radiograph of twelve bits that names a patient, an institution and a day."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.PatientName, file.PatientID, file.PatientBirthDate = "DOE^QUENTINA", "MRN-7712", "19520317"
    file.InstitutionName, file.AccessionNumber, file.ReferringPhysicianName = "Sankt Anna", "ACC-5544", "Brackwater"
    rows, columns = np.mgrid[0:200, 0:180]
    picture = 2000 + 900 * np.cos(columns / 25.0) + 500 * np.exp(-((rows - 60) ** 2 + (columns - 120) ** 2) / 200.0)
    file.Rows, file.Columns, file.SamplesPerPixel, file.PhotometricInterpretation = 200, 180, 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.WindowCenter, file.WindowWidth = 2000, 3000
    file.PixelData = picture.astype("<u2").tobytes()
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def open_page(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator("canvas.picture").first).to_be_visible(timeout=120_000)
    settle(page)


def large(page: Page):
    """The chosen sentence's map."""
    return page.locator(".map-grid.large canvas.picture").first


def table(page: Page):
    return page.locator(".prism-table", has_text="Methods in numbers")


def paste(page: Page, text: str) -> None:
    area = page.get_by_role("textbox", name="Report")
    area.fill(text)
    area.press("Control+Enter")
    settle(page)


def test_from_dicom_and_report_to_a_file_that_names_nobody(visitor, url, home):
    asked: list[str] = []
    visitor.on("request", lambda request: asked.append(request.url))
    open_page(visitor, f"{url}/image-text?m2ib.n_steps=4")
    expect(visitor.get_by_text("is no medical device").first).to_be_visible()

    upload = {"name": "QUENTINA-7712.dcm", "mimeType": "application/dicom", "buffer": dicom()}
    visitor.locator("input[type=file]").first.set_input_files(upload)
    expect(visitor.get_by_text("DICOM, 12 bits")).to_be_visible()
    paste(visitor, REPORT)

    rows = visitor.locator("button.row")
    expect(rows).to_have_count(len(SENTENCES))
    for number, sentence in enumerate(SENTENCES):  # walk
        rows.nth(number).locator(".label").click()
        settle(visitor)
        expect(visitor.locator(".map-grid.large .title")).to_contain_text(sentence.rstrip("."), ignore_case=True)
        expect(visitor.get_by_text(f"Sentence {number + 1} beside its control")).to_be_visible()
        expect(rows.nth(number)).to_have_attribute("aria-pressed", "true")
    expect(visitor.locator(".words .word[title]").first).to_be_attached()
    rows.nth(2).focus()
    visitor.keyboard.press("ArrowUp")
    visitor.keyboard.press("ArrowUp")
    visitor.keyboard.press("Enter")
    settle(visitor)
    expect(visitor.locator(".map-grid.large .title")).to_contain_text(SENTENCES[0].rstrip("."), ignore_case=True)

    draw_with_pointer(visitor)
    expect(table(visitor)).to_contain_text("against your box")
    expect(table(visitor).locator("tbody tr")).to_have_count(3)
    first = box_in_address(visitor)
    draw_with_keys(visitor)
    assert box_in_address(visitor) != first
    expect(table(visitor)).to_contain_text("IoU / maximum")

    with visitor.expect_download() as download:
        visitor.get_by_role("button", name="Report", exact=True).click()
    report = Path(download.value.path()).read_text(encoding="utf-8")
    assert "Nodule in the left upper lung" in report and "simulated radiographs" in report and "Chefer" in report
    assert not [name for name in (*IDENTITY, "image_id") if name in report]

    shown = visitor.content() + visitor.url
    assert not [name for name in IDENTITY if name in shown]
    assert not [address for address in asked if any(word in address for word in (*IDENTITY, WORDS))]
    for path in home.rglob("*"):
        if path.is_file():
            kept = path.read_bytes()
            assert not [word for word in (*IDENTITY, WORDS, "Nodule in the left") if word.encode() in kept], path


def draw_with_pointer(page: Page) -> None:
    page.get_by_role("button", name="Draw box").click()
    area = large(page).bounding_box()
    page.mouse.move(area["x"] + 0.55 * area["width"], area["y"] + 0.2 * area["height"])
    page.mouse.down()
    page.mouse.move(area["x"] + 0.8 * area["width"], area["y"] + 0.45 * area["height"], steps=5)
    page.mouse.up()
    settle(page)


def draw_with_keys(page: Page) -> None:
    """Enter at one corner, arrows, Enter at the other."""
    large(page).focus()
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    settle(page)


def box_in_address(page: Page) -> str:
    page.wait_for_url(re.compile("box="))
    return re.search(r"box=([^&]+)", page.url).group(1)


def test_a_sound_of_ones_own_is_held_against_words_and_against_a_picture(visitor, url):
    open_page(visitor, f"{url}/image-text?model=sounds-clip&methods=m2ib&m2ib.n_steps=4")
    seconds = np.arange(16_000 * 3) / 16_000
    warbling = 0.4 * np.sin(2 * np.pi * (900 * seconds + 60 * np.sin(2 * np.pi * seconds)))
    upload = {"name": "QUENTINA.wav", "mimeType": "audio/wav", "buffer": encode_wav(warbling, 16_000)}
    visitor.locator("input[type=file]").first.set_input_files(upload)
    expect(visitor.get_by_text("silence added up to the 4.1 s")).to_be_visible()
    expect(visitor.locator("audio")).to_be_visible()
    settle(visitor)

    visitor.locator("button.row").nth(1).locator(".label").click()
    settle(visitor)
    expect(visitor.get_by_text("Sentence 2 beside its control")).to_be_visible()
    expect(visitor.locator(".map-grid.large .title").first).to_contain_text("siren", ignore_case=True)

    expect(visitor.get_by_text("The sound beside a picture")).to_be_visible()
    for title in ("What is heard", "What is seen"):
        expect(visitor.locator(f'canvas[aria-label^="{title} map"]')).to_be_visible()
    before = visitor.get_by_text("Cosine of sound and picture")
    expect(before).to_be_visible()
    first = before.inner_text()
    visitor.get_by_role("button", name=re.compile("Drawing of .*bell")).click()
    settle(visitor)
    expect(visitor.get_by_text("Cosine of sound and picture")).not_to_have_text(first)
    assert "QUENTINA" not in visitor.content()


def test_markup_in_a_report_is_text_and_a_link_shows_the_same_again(visitor, url):
    address = f"{url}/image-text?sentence=2&methods=m2ib&m2ib.n_steps=3&words=difference"
    open_page(visitor, address)
    expect(visitor.locator("button.row").nth(1)).to_have_attribute("aria-pressed", "true")
    expect(visitor.locator("figure", has=visitor.locator(".title", has_text="M2IB")).first).to_be_visible()
    assert "sentence=2" in visitor.url and "words=difference" in visitor.url

    visitor.evaluate("window.__broken = false")
    paste(
        visitor,
        "<img src=x onerror='window.__broken=true'> **No** effusion. <script>window.__broken=true</script> Clear.",
    )
    expect(visitor.locator(".words .text", has_text="onerror").first).to_be_visible()
    assert visitor.evaluate("window.__broken") is False


def test_a_phone_in_the_dark_shows_it_without_sideways_scrolling(browser, url):
    context = browser.new_context(viewport={"width": 375, "height": 800}, color_scheme="dark")
    page = context.new_page()
    page.set_default_timeout(60_000)
    open_page(page, f"{url}/image-text?methods=m2ib&m2ib.n_steps=3")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    area = large(page).bounding_box()
    assert area["x"] >= 0 and area["x"] + area["width"] <= 375
    word = page.locator(".words .word").first
    colours = word.evaluate("(e) => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]")
    assert colours[0] != colours[1]
    for canvas in page.locator("canvas.picture").all():
        assert canvas.get_attribute("aria-label")
    context.close()
