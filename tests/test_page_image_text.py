"""The image-text page as a script, before a tiny pair with random weights. The browser's part is in its own file."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from backend.contracts import PairMapRequest, PairScoreRequest, Result
from backend.endpoints.jobs import check_args
from backend.errors import BadInput
from backend.image_text.examples import FOLDER, example_radiographs
from backend.images import encode_png
from backend.jobs import JobQueue
from backend.models.library import Library
from backend.runtime import Runtime
from backend.service import LocalService
from pages.pairs import analyses, boxes, material, runs, words
from pages.pairs.settings import Settings, read_query
from pages.shared import session
from pages.shared.map_grid import Box
from tests.pairs import HEARING, pair_service
from tests.reading import html_texts

PAGE = str(Path(__file__).parent.parent / "pages" / "image_text.py")
TIMEOUT_S = 120
REPORT = "FINDINGS: A nodule is seen in the left lung. No effusion.\nIMPRESSION:\n1. Small nodule."


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    return pair_service(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def page(engine, monkeypatch):
    monkeypatch.setattr(session.engines, "local_service", lambda: engine)
    return AppTest.from_file(PAGE, default_timeout=TIMEOUT_S)


def opened(page: AppTest, **query: str) -> AppTest:
    for name, value in {"methods": "m2ib,grad-cam", "m2ib.n_steps": "2", "m2ib.samples": "2", **query}.items():
        page.query_params[name.replace("__", ".")] = value
    page.run()
    assert not page.exception
    return page


def texts(page: AppTest) -> str:
    """Everything that is said: markdown, captions, tables, warnings."""
    items = [item.value for item in (*page.markdown, *page.caption, *page.warning)]
    return "\n".join(items + html_texts(page)).replace("\\", "")


def answers(page: AppTest) -> dict:
    return page.session_state["pairs.known"]


def kinds(page: AppTest) -> set[str]:
    return {request.kind for request, answer in answers(page).items() if isinstance(answer, Result)}


def sentences(page: AppTest) -> set[str]:
    """All that were explained with a whole report."""
    asked = (request.sentences for request in answers(page) if request.kind == "report_maps")
    return {sentence for part in asked for sentence in part}


def paste(page: AppTest, text: str) -> AppTest:
    page.text_area(key="pairs.text").set_value(text).run()
    assert not page.exception
    return page


# ----------------------------------------------------------------- what is there
def test_an_example_is_there_with_its_report_maps_words_and_numbers(page):
    opened(page)
    example = material.find_example(page.session_state["pairs.picture"].example)
    assert page.text_area(key="pairs.text").value == example.text
    assert sentences(page) == set(example.report)
    said = texts(page)
    assert "is no medical device" in page.warning[0].value
    assert "Methods in numbers" in said and "M2IB" in said and "Grad-CAM" in said
    assert "beside its control" in said and "sub-tokens in" in said and "start and end tokens are hidden" in said
    assert "word by word" in said and "Difference" in said


def test_a_rerun_asks_nothing_again(page):
    opened(page)
    before = dict(answers(page))
    page.segmented_control(key="pairs.words").set_value("difference").run()
    assert answers(page) == before and page.query_params["words"] == "difference"


def test_every_map_is_beside_one_sentence_and_walking_asks_only_the_other_methods(page):
    opened(page)
    page.session_state["pairs.sentence"] = 1
    before = len([r for r in answers(page) if r.kind == "report_maps"])
    page.run()
    assert page.query_params["sentence"] == "2"
    assert len([r for r in answers(page) if r.kind == "report_maps"]) == before
    second = page.session_state["pairs.report"].lines[1].text
    assert {r.method for r in answers(page) if r.kind == "pair_map" and r.text == second} == {"grad-cam"}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"m2ib__beta": "-1"}, "expected a number in 0..100"),
        ({"model": "nope"}, "unknown model"),
        ({"example": "nope"}, "unknown example"),
        ({"seed": "x"}, "expected a whole number"),
        ({"methods": "nope"}, "unknown method"),
        ({"sentence": "0"}, "expected a whole number"),
        ({"box": "1,2,3"}, "expected left,top,right,bottom"),
        ({"report": "nodule"}, "an address holds no report"),
        ({"report": "own"}, "which is not in it"),
        ({"m2ib__layer": "99"}, "M2IB: layer 99"),
    ],
)
def test_a_bad_address_is_said_beside_its_control_and_the_page_stands(page, query, sentence):
    opened(page, **query)
    assert sentence in texts(page)
    assert "pair_score" in kinds(page)


@pytest.mark.parametrize(
    ("tab", "kind", "said"),
    [
        ("Fit and compression", "report_maps", "bottleneck closes"),
        ("Sweeps", "pair_map", "Over"),
        ("Swap", "pair_map", "does not follow the sentence"),
        ("Sanity check", "pair_randomisation", "replaced by random ones"),
        ("Evaluation", "report_maps", "NeurIPS 2023"),
    ],
)
def test_looking_closer_asks_on_demand(page, tab, kind, said):
    opened(page, methods="m2ib")
    assert "pair_randomisation" not in kinds(page)
    before = len(answers(page))
    page.session_state["pairs.tab"] = tab
    page.run()
    assert not page.exception
    assert kind in kinds(page) and said in texts(page) + " ".join(box.label for box in page.selectbox)
    if tab in ("Sweeps", "Swap", "Sanity check"):
        assert len(answers(page)) > before


def test_a_sweep_over_layers_ends_with_the_model(page):
    opened(page, methods="m2ib")
    page.session_state["pairs.tab"], page.session_state["pairs.swept"] = "Sweeps", "layer"
    page.run()
    assert not page.exception
    swept = {
        dict(r.params)["layer"] for r, a in answers(page).items() if r.kind == "pair_map" and isinstance(a, Result)
    }
    assert swept == {0, 1, 2, 3}  # of the tiny pair's four blocks


def test_another_image_is_set_beside_this_one(page):
    opened(page, methods="m2ib")
    page.session_state["pairs.tab"], page.session_state["pairs.swapped"] = "Swap", "image"
    page.run()
    assert not page.exception
    images = {r.image_id for r in answers(page) if r.kind == "pair_map"}
    assert images and images != {page.session_state["pairs.picture"].id}


def test_stopped_work_can_be_continued(page, monkeypatch):
    from pages.pairs import views

    opened(page)
    monkeypatch.setattr(views, "is_stopped", lambda board: True)
    page.run()
    assert page.button(key="pairs.continue")


def test_a_model_that_cannot_be_had_loses_nothing(page, monkeypatch):
    from pages.pairs import board, inputs

    def offline(model: str, picture, on_step=None):
        if model.startswith("open_clip:"):
            return board.Refusal("the hub does not answer", "model")
        return board.look(model, picture, on_step)

    opened(page)
    paste(page, REPORT)
    monkeypatch.setattr(inputs, "look", offline)
    page.selectbox(key="pairs.model").set_value("open_clip:RN50/openai").run()
    assert not page.exception
    assert page.session_state["pairs.settings"].model == "cxr-clip"
    assert page.session_state["pairs.report"].text == REPORT
    assert "the hub does not answer" in texts(page)


# ----------------------------------------------------------------- own picture and words
def test_a_pasted_report_is_cut_and_explained_and_stays_out_of_the_address(page):
    opened(page)
    paste(page, REPORT)
    assert sentences(page) >= {"A nodule is seen in the left lung.", "No effusion.", "Small nodule."}
    assert page.query_params["report"] == "own"
    assert "nodule" not in json.dumps(dict(page.query_params)).lower()
    page.button(key="pairs.use_example_report").click().run()
    assert not page.session_state["pairs.settings"].report


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_an_upload_is_used_without_its_name_and_a_refused_one_leaves_it_where_it_is(page):
    opened(page)
    radiograph = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    page.file_uploader(key="pairs.upload.0").upload("DOE_JOHN.png", png(radiograph), "image/png").run()
    assert not page.exception and page.query_params["example"] == "own"
    mine = page.session_state["pairs.picture"]
    assert "DOE" not in texts(page) and "DOE" not in repr(page.session_state["pairs.settings"])
    page.file_uploader(key="pairs.upload.1").upload("bad.png", b"no picture", "image/png").run()
    assert not page.exception and page.session_state["pairs.picture"] is mine
    assert "not a PNG" in texts(page)


def test_a_text_file_is_read_and_a_refused_one_leaves_the_report(page):
    opened(page)
    page.file_uploader(key="pairs.text_file.0").upload("report.txt", REPORT.encode("utf-16"), "text/plain").run()
    assert page.session_state["pairs.report"].text == REPORT
    page.file_uploader(key="pairs.text_file.1").upload("bad.txt", b"\x00\x01\x02", "text/plain").run()
    assert page.session_state["pairs.report"].text == REPORT and "not a text" in texts(page)


# ----------------------------------------------------------------- evaluations
def test_evaluations_run_here_are_watched_cancelled_and_found_again(page, engine, monkeypatch, tmp_path):
    queue = JobQueue(tmp_path, {})
    queue._start_worker = lambda: None  # nobody works: the job stays as it is written
    queue.kinds = {"evaluate": "nobody:nothing"}
    monkeypatch.setattr(runs, "jobs", lambda: queue)
    opened(page, methods="m2ib")
    page.session_state["pairs.tab"], page.session_state["pairs.evaluated"] = "Evaluation", "roar"
    page.run()
    page.multiselect(key="pairs.roar.methods").set_value(["m2ib", "rise:samples=256"])
    page.number_input(key="pairs.roar.n").set_value(24)
    page.number_input(key="pairs.roar.seeds").set_value(2)
    page.button(key="pairs.roar.run").click().run()
    (job,) = queue.list()
    asked = {"methods": ["m2ib", "rise:samples=256"], "n": 24, "seeds": 2, "preset": "roar", "model": "cxr-clip"}
    assert job.args == {"family": "image_text", **asked} and check_args("evaluate", job.args) == job.args
    reloaded = AppTest.from_file(PAGE, default_timeout=TIMEOUT_S)
    opened(reloaded, methods="m2ib")
    reloaded.session_state["pairs.tab"], reloaded.session_state["pairs.evaluated"] = "Evaluation", "roar"
    reloaded.run()
    assert "found again" in texts(reloaded)
    reloaded.button(key="pairs.roar.cancel").click().run()
    assert queue.status(job.id).state == "cancelled"
    page.run()
    assert "was cancelled" in texts(page) and page.button(key="pairs.roar.run")


@pytest.mark.parametrize(
    "preset, said", [("table", "Kendall"), ("roar", "random maps"), ("search", "The paper's search")]
)
def test_every_evaluation_stands_beside_the_papers(page, preset, said):
    opened(page, methods="m2ib")
    page.session_state["pairs.tab"], page.session_state["pairs.evaluated"] = "Evaluation", preset
    page.run()
    assert not page.exception
    assert said in texts(page) + " ".join(box.label for box in page.expander) and "NeurIPS 2023" in texts(page)


# ----------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the report is empty"),
        (" \n\t ", "the report is empty"),
        ("... 12 !!", "no words"),
        ("x" * 400_001, "characters"),
    ],
)
def test_what_is_no_report_is_said_and_the_one_before_it_stays(page, text, sentence):
    opened(page)
    before = page.session_state["pairs.report"]
    paste(page, text)
    assert sentence in texts(page) and page.session_state["pairs.report"] == before


@pytest.mark.parametrize(
    "text",
    [
        "Легкие без очагов.\nNo effusion.",
        "胸部は正常です。 No effusion.",
        "😀 🫁 🎉. No effusion.",
        "No\x00 eff\x07usion.\x1b[31m Small nodule.",
        "The of and is a.",
        "<script>alert(1)</script> No <b>effusion</b>. [link](javascript:alert(1)) **bold** $x$",
    ],
)
def test_an_odd_report_is_shown_as_text_and_no_sentence_takes_another_with_it(page, text):
    opened(page)
    paste(page, text)
    assert "<script>" not in texts(page) and "<b>effusion" not in texts(page)
    lines = page.session_state["pairs.report"].lines
    board_answers = [answer for request, answer in answers(page).items() if request.kind in ("report_maps", "pair_map")]
    assert lines and any(isinstance(answer, Result) for answer in board_answers)


def test_fifty_pages_are_explained_a_page_at_a_time(page):
    opened(page, methods="m2ib", m2ib__n_steps="1", m2ib__samples="1")
    first_page = "Small nodule. " * 1900  # about fifty pages
    paste(page, first_page)
    assert len(page.session_state["pairs.report"].lines) == 1900
    explained = [
        request for request in answers(page) if request.kind == "report_maps" and "Small nodule." in request.sentences
    ]
    assert sum(len(request.sentences) for request in explained) <= 21
    assert "1,900 sentences are explained" in texts(page)


def test_lines_that_name_the_patient_are_neither_explained_unasked_nor_written():
    report = material.own_report("Patient: John Doe\nDOB: 01.02.1950\nFINDINGS: No effusion.\nIMPRESSION: Clear.")
    assert [line.text for line in report.lines if line.is_shown] == ["No effusion.", "Clear."]


# ----------------------------------------------------------------- health data
def test_an_address_never_holds_words_or_a_pictures_name():
    settings, _ = read_query({"example": "own", "report": "own"})
    assert settings.to_query() == {"example": "own", "report": "own"}


def test_a_fault_is_logged_without_what_it_mentions(page, engine, monkeypatch, caplog):
    opened(page)

    def broken(request, *_, **__):
        raise KeyError(request)  # as where a word is looked up in vain

    monkeypatch.setattr(engine, "run", broken)
    paste(page, REPORT)
    assert "fault" in caplog.text and "KeyError" in caplog.text and "nodule" not in caplog.text
    assert "Something went wrong on our side" in texts(page)


def files_of(page: AppTest, monkeypatch) -> dict[str, bytes]:
    """Every file that the page offers now, made."""
    from pages.pairs import takeaway

    makers = {}
    monkeypatch.setattr(takeaway, "_download", lambda label, make, *_: makers.__setitem__(label, make))
    page.run()
    assert not page.exception
    return {label: make() for label, make in makers.items()}


def test_files_hold_what_is_shown_and_without_words_no_word(page, monkeypatch):
    opened(page)
    paste(page, REPORT)
    made = files_of(page, monkeypatch)
    assert made["PNG"].startswith(b"\x89PNG") and b"<svg" in made["SVG"] and b"M2IB" in made["CSV"]
    assert b"nodule" in made["Words CSV"].lower() and b"A nodule is seen" in made["Report"]
    arrays = np.load(io.BytesIO(made["NPZ"]))
    assert {"image", "manifests", "m2ib.1.image_map", "m2ib.3.word_map", "grad-cam.1.image_map"} <= set(arrays)
    page.checkbox(key="pairs.with_words").set_value(False)
    made = files_of(page, monkeypatch)
    made["NPZ"] = str(np.load(io.BytesIO(made["NPZ"]))["manifests"]).encode()
    assert not [label for label, data in made.items() if b"nodule" in data.lower()]


# ----------------------------------------------------------------- numbers
def test_the_example_of_too_little_compression_is_what_the_shipped_model_does():
    """The sentence beside the method names figures of one example: they are drawn and painted over here anew."""
    service = LocalService(Runtime("cpu"), Library())
    example = next(one for one in example_radiographs() if one.key == "radiograph-02")
    pixels = np.asarray(Image.open(FOLDER / example.image).convert("L"), dtype=np.float64)
    here = {one.kind: one for one in example.findings}
    sentence = example.report[here["consolidation"].sentence]

    def without(kind: str) -> np.ndarray:
        """The finding's box in the mean grey of the six pixels around it."""
        (left, top, right, bottom), painted = here[kind].box, pixels.copy()
        around = pixels[top - 6 : bottom + 6, left - 6 : right + 6]
        ring = around.sum() - pixels[top:bottom, left:right].sum()
        painted[top:bottom, left:right] = ring / (around.size - (bottom - top) * (right - left))
        return painted

    def cosine(picture: np.ndarray) -> str:
        image_id = service.put_image(encode_png(picture[..., None] / 255)).id
        return f"{float(service.run(PairScoreRequest(image_id, (sentence,))).arrays['cosines'][0]):.2f}"

    figures = re.findall(r"[−]?\d\.\d\d", analyses.TOO_LITTLE_COMPRESSION)
    measured = [cosine(picture) for picture in (pixels, without("consolidation"), without("mass"))]
    assert [one.replace("−", "-") for one in figures] == measured

    image_id = service.put_image((FOLDER / example.image).read_bytes()).id
    peaks = {}
    for beta in (0.1, 0.8):
        found = service.run(PairMapRequest(image_id, sentence, modality="image", params=(("beta", beta),)))
        map_ = found.arrays["image_map"]
        scale = pixels.shape[0] // map_.shape[0]
        for kind in ("mass", "consolidation"):
            left, top, right, bottom = (edge // scale for edge in here[kind].box)
            peaks[kind, beta] = map_[top : bottom + 1, left : right + 1].max()
    assert peaks["mass", 0.1] > peaks["consolidation", 0.1]
    assert peaks["mass", 0.8] < 0.02 * peaks["consolidation", 0.8]


def test_a_box_finds_its_map():
    values = np.zeros((8, 8))
    values[4:, :4] = 1.0  # exactly a quarter
    found = boxes.agreement(values, Box(0.0, 0.5, 0.5, 1.0))
    assert (found.iou, found.relative_iou, found.is_hit, found.inside) == (1.0, 1.0, True, 1.0)
    far = boxes.agreement(values, Box(0.5, 0.0, 1.0, 0.5))
    assert (far.iou, far.relative_iou, far.is_hit, far.inside) == (0.0, 0.0, False, 0.0)


def test_a_flat_map_hits_nothing():
    assert not boxes.agreement(np.ones((4, 4)), Box(0.0, 0.0, 0.5, 0.5)).is_hit


def test_left_and_right_are_exchanged_as_they_are_written():
    assert analyses.other_side("Left effusion, right lung clear.") == "Right effusion, left lung clear."


def test_settings_come_back_from_their_address():
    settings = Settings(sentence=2, methods=("rise", "m2ib"), box=Box(0.1, 0.2, 0.5, 0.75), words="control", seed=3)
    assert read_query(settings.to_query()) == (settings, {})


# ----------------------------------------------------------------- sounds and scenes
def test_a_model_that_hears_brings_sounds_their_axes_and_a_player(page):
    opened(page, model="sounds-clip")
    assert page.get("audio")
    asked = [request for request, answer in answers(page).items() if isinstance(answer, Result)]
    assert asked and all(request.audio_id for request in asked)
    (beside,) = (request for request in asked if request.image_id is not None)  # the picture of what makes the sound
    assert beside.text is None and {"audio_map", "image_map"} <= answers(page)[beside].arrays.keys()
    assert "The sound beside a picture" in texts(page)
    (explained,) = [answer for request, answer in answers(page).items() if request.kind == "report_maps"][:1]
    assert explained.arrays["audio_map"].shape[1:] == (HEARING.n_mels, HEARING.n_frames)
    assert "sounds-clip knows" in " ".join(item.value for item in page.info)


def test_another_model_brings_its_own_examples_and_texts(page):
    opened(page)
    page.selectbox(key="pairs.model").set_value("scenes-clip").run()
    assert not page.exception and "circle" in page.text_area(key="pairs.text").value
    page.selectbox(key="pairs.model").set_value("sounds-clip").run()
    assert not page.exception and page.get("audio") and "circle" not in page.text_area(key="pairs.text").value
    page.selectbox(key="pairs.model").set_value("cxr-clip").run()
    assert not page.exception and not page.get("audio")


def test_sounds_of_ones_own_are_told_from_pictures(engine, monkeypatch):
    monkeypatch.setattr(session.engines, "local_service", lambda: engine)
    flac = (material.FOLDER / "sound-01.flac").read_bytes()
    assert material.upload_any(flac).given.keys() == {"audio_id", "start_s"}
    assert material.upload_any((material.FOLDER / "scene-01.png").read_bytes()).given.keys() == {"image_id"}
    with pytest.raises(BadInput, match="truncated or damaged"):
        material.upload_any(b"RIFF" + bytes(60))


def test_files_of_a_sound_carry_its_spectrogram(page, monkeypatch):
    opened(page, model="sounds-clip")
    files = files_of(page, monkeypatch)
    with np.load(io.BytesIO(files["NPZ"])) as stored:
        assert stored["image"].shape[:2] == (HEARING.n_mels, HEARING.n_frames)
        assert any(name.endswith("audio_map") for name in stored.files)
    assert b"put_audio" in files["Report"] and b"<script" not in files["Report"]


def test_words_that_all_lie_high_are_coloured_from_the_least_of_them():
    high = words.Row("a", "", (words.Span("A", 90.0), words.Span(" "), words.Span("dog", 94.0)))
    difference = words.Row("d", "", (words.Span("A", -1.0), words.Span("dog", 2.0)), is_signed=True)
    assert words.floor_of([high, difference], 94.0) == 90.0
    low = words.Row("b", "", (words.Span("A", 1.0),))
    assert words.floor_of([high, low], 94.0) == 0.0
    assert words.floor_of([difference], 2.0) == words.floor_of([], 0.0) == 0.0
    alike = words.Row("c", "", (words.Span("A", 90.0),))
    assert words.floor_of([alike], 90.0) == 0.0  # nothing to tell apart
