"""The attribution page as a script: what is drawn, said and kept. The browser's part is in the browser tests."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from tests.reading import html_texts

PAGE = str(Path(__file__).parent.parent / "pages" / "path_attribution.py")
TIMEOUT_S = 120


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    return AppTest.from_file(PAGE, default_timeout=TIMEOUT_S)


def opened(page: AppTest, **query: str) -> AppTest:
    for name, value in {"methods": "ig,grad-cam", **query}.items():
        page.query_params[name.replace("__", ".")] = value
    page.run()
    assert not page.exception
    return page


def texts(page: AppTest) -> str:
    """Everything that is said: markdown, captions, tables."""
    return "\n".join([item.value for item in (*page.markdown, *page.caption)] + html_texts(page))


def answers(page: AppTest) -> dict:
    return page.session_state["path.known"]


def methods_answered(page: AppTest) -> set[str]:
    from backend.contracts import Result

    return {r.method for r, a in answers(page).items() if r.kind == "attribution" and isinstance(a, Result)}


def test_an_example_is_there_with_maps_numbers_and_the_rest(page):
    page.run()
    assert not page.exception
    assert methods_answered(page) == {"samp++", "ig", "grad-cam"}
    said = texts(page)
    assert "sees" in said and "How good are these maps?" in said and "Deletion ↓" in said and "SAMP++" in said
    assert {request.kind for request in answers(page)} == {"prediction", "attribution", "faithfulness"}


@pytest.mark.parametrize("tab", ["Sensitivity-N", "<b>no tab</b>"])
def test_the_open_tab_stands_in_the_address(page, tab):
    opened(page, tab=tab)
    open_tab = page.session_state["path.tab"]
    assert open_tab == (tab if tab == "Sensitivity-N" else "How to read this")
    page.session_state["path.tab"] = "Path player"
    page.run()
    assert page.query_params["tab"] == "Path player"
    page.session_state["path.tab"] = "How to read this"
    page.run()
    assert "tab" not in page.query_params


def test_a_rerun_asks_nothing_again(page):
    opened(page)
    before = dict(answers(page))
    page.selectbox(key="path.replacement").set_value("black").run()
    assert answers(page) == before


def test_a_changed_control_changes_the_address_and_the_answer(page):
    opened(page)
    page.selectbox(key="path.target").set_value(2).run()
    assert page.query_params["target"] == "2"
    assert {r.target for r in answers(page) if r.kind == "attribution"} >= {2}
    assert not page.exception


def test_class_zero_is_a_class(page):
    opened(page, target="0")
    assert page.selectbox(key="path.target").value == 0
    assert {r.target for r in answers(page) if r.kind == "attribution"} == {0}


def test_parameters_are_drawn_from_the_spec_and_used(page):
    opened(page)
    page.number_input(key="path.ig.n_steps").set_value(7).run()
    assert page.query_params["ig.n_steps"] == "7"
    assert any(dict(r.params).get("n_steps") == 7 for r in answers(page) if r.kind == "attribution")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"ig__n_steps": "0"}, "expected a whole number in 1..1000"),
        ({"target": "99"}, "classes are 0..9"),
        ({"model": "nope"}, "unknown model"),
        ({"example": "nope"}, "unknown example"),
        ({"seed": "x"}, "expected a whole number"),
        ({"methods": "nope"}, "unknown method"),
        ({"baselines": "red"}, "unknown baseline"),
    ],
)
def test_a_bad_address_is_said_beside_its_control_and_the_page_stands(page, query, sentence):
    opened(page, **query)
    assert sentence in texts(page).replace("\\", "")
    assert methods_answered(page)


def test_a_method_that_does_not_apply_says_why_and_the_others_go_on(page):
    opened(page, model="digits-fc", methods="cam,ig")
    assert methods_answered(page) == {"ig"}
    assert any("CAM:" in item.value.replace("\\", "") for item in page.sidebar.markdown)


def test_several_baselines_are_averaged_and_sigma_is_asked_for(page):
    opened(page)
    page.multiselect(key="path.baselines").set_value(["black", "blur"]).run()
    assert page.query_params["baselines"] == "black,blur:3"
    page.number_input(key="path.sigma").set_value(1.5).run()
    assert {"black", "blur:1.5"} in [set(r.baseline) for r in answers(page) if r.kind == "attribution"]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_an_upload_is_used_and_a_refused_one_leaves_it_where_it_is(page):
    opened(page)
    stroke = np.zeros((40, 40), np.uint8)
    stroke[5:35, 18:23] = 255
    page.file_uploader(key="path.upload").upload("one.png", png(stroke), "image/png").run()
    assert page.session_state["path.picture"].name == "one.png" and page.query_params["example"] == "upload"
    page.file_uploader(key="path.upload").upload("bad.png", b"no picture", "image/png").run()
    assert not page.exception
    assert page.session_state["path.picture"].name == "one.png"
    assert any("not a PNG" in item.value.replace("\\", "") for item in page.sidebar.markdown)
    assert "sees" in texts(page)


@pytest.mark.parametrize(
    ("tab", "kind"), [("Path player", "path"), ("Sensitivity-N", "sensitivity"), ("Sanity check", "randomisation")]
)
def test_looking_closer_asks_on_demand(page, tab, kind):
    opened(page, methods="ig,samp++" if kind == "path" else "ig", **{"samp++__eta": "0.1"})
    assert kind not in {request.kind for request in answers(page)}
    page.session_state["path.tab"] = tab
    page.run()
    assert not page.exception
    assert kind in {request.kind for request in answers(page)}


def test_the_table_stands_beside_the_papers(page):
    opened(page)
    page.session_state["path.tab"] = "The table"
    page.run()
    assert not page.exception
    said = texts(page)
    assert "Table 1" in said and "ICLR 2024" in said
    assert page.button(key="path.table.run")


def test_every_stored_run_is_shown_with_who_leads(page):
    opened(page)
    page.session_state["path.tab"] = "The table"
    page.run()
    runs = {"table": "Deletion, ratio", "study": "Paired differences of SAMP joint", "figure5": "Sensitivity-N"}
    for name, said in (*runs.items(), ("completeness", "Completeness gap"), ("concentration", "Var(a)")):
        page.session_state["path.table.kept"] = name
        page.run()
        assert not page.exception
        assert said in texts(page)


def test_the_study_says_where_our_method_is_behind():
    from pages.path import evaluation

    table = evaluation._stored("digits-fc")["study"]
    titles = {row["name"]: row["title"] for row in table["rows"]}
    sentence = evaluation._verdict(table, titles, "insertion_ratio", "insertion", "higher")
    pair = next(p for p in table["paired"] if p["theirs"] == "lrp:composite=gamma" and p["metric"] == "insertion_ratio")
    assert pair["high"] < 0 and "behind LRP (composite=gamma)" in sentence
    assert "Over training seeds the interval holds 0 against Integrated Gradients" in sentence


def test_cancel_stops_and_continue_goes_on(page, monkeypatch):
    from pages.path import views

    opened(page)
    page.multiselect(key="path.methods").set_value(["ig"])
    monkeypatch.setattr(views, "is_stopped", lambda board: True)
    page.run()
    assert page.button(key="path.continue")


def test_a_model_that_cannot_be_had_loses_nothing(page, monkeypatch):
    from pages.path import board, inputs

    def offline(model: str, picture, on_step=None):
        if model.startswith("timm:"):
            return board.Refusal("the hub does not answer", "model")
        return board.look(model, picture, on_step)

    opened(page, example="digit-5")
    monkeypatch.setattr(inputs, "look", offline)
    page.selectbox(key="path.model").set_value("timm:resnet18.a1_in1k").run()
    assert not page.exception
    assert page.session_state["path.picture"].example == "digit-5"
    assert page.session_state["path.settings"].model == "digits-gap"
    assert any("the hub does not answer" in item.value for item in page.sidebar.markdown)
    assert "How good are these maps?" in texts(page)
