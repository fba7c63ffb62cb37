"""The page of additive image models as a script: what is drawn, said, asked and kept."""

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from backend.additive_image import own_store
from backend.contracts import Result
from backend.errors import BadInput, NotAvailable
from backend.files import data_folder
from backend.images import encode_png
from backend.jobs import JobQueue
from backend.limits import LIMITS
from pages.additive import evaluation, settings
from pages.additive.waterfall import Contribution, waterfall_html
from tests.reading import html_texts

PAGE = str(Path(__file__).parent.parent / "pages" / "additive_image_model.py")
TIMEOUT_S = 180
N = 64
NEEDS_WEIGHTS = pytest.mark.skipif(not settings.models_here(), reason="no trained model here")


def fake_training(args: dict, context: object) -> dict:
    """Stands in for a training run: it only says that it was there."""
    if args["encoder"] == "dinov2":
        raise NotAvailable("the hub does not answer", "encoder")
    return {"held_out_score": 0.5, **args}


@pytest.fixture
def queue(tmp_path, monkeypatch) -> JobQueue:
    """A queue of jobs that train nothing, and a disk of its own for the data."""
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    made = JobQueue(tmp_path / "jobs", {own_store.JOB_KIND: f"{__name__}:fake_training"})
    monkeypatch.setattr("pages.additive.training.jobs", lambda: made)
    return made


@pytest.fixture
def page(queue):
    return AppTest.from_file(PAGE, default_timeout=TIMEOUT_S)


def opened(page: AppTest, **query: str) -> AppTest:
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def texts(page: AppTest) -> str:
    shown = (*page.markdown, *page.caption, *page.warning, *page.info)
    return "\n".join([item.value for item in shown] + html_texts(page)).replace("\\", "")


def asked(page: AppTest) -> list:
    return list(page.session_state["additive.known"])


def kinds(page: AppTest) -> set[str]:
    return {request.kind for request in asked(page)}


# ----------------------------------------------------------------- the example
@NEEDS_WEIGHTS
def test_an_example_is_there_with_path_shapes_numbers_and_files(page):
    opened(page, model="squares")
    assert kinds(page) == {"image_gallery", "image_path", "record", "shape_functions"}
    assert all(isinstance(answer, Result) for answer in page.session_state["additive.known"].values())
    said = texts(page)
    for words in ("Correlation of side with α ↑", "Importance", "arXiv:2405.02295", "one number", "Noise ceiling"):
        assert words in said
    assert any("bars met" in item.label for item in page.expander)
    assert any("evaluate additive_image --model squares" in item.value for item in page.code)
    path = next(request for request in asked(page) if request.kind == "image_path")
    assert path.frames == 33 and dict(path.params)["reach"] == settings.REACH


@NEEDS_WEIGHTS
def test_a_rerun_asks_nothing_again_and_a_changed_path_only_the_path(page):
    opened(page, model="squares")
    before = set(asked(page))
    page.run()
    assert set(asked(page)) == before
    page.slider(key="additive.frames").set_value(9).run()
    assert {request.kind for request in set(asked(page)) - before} == {"image_path"}
    assert page.query_params["frames"] == "9"


@NEEDS_WEIGHTS
def test_swapping_the_ends_turns_the_path_round(page):
    opened(page, model="squares", frames="9", ends="3,5")
    page.button(key="additive.swap").click().run()
    assert not page.exception
    assert {request.rows for request in asked(page) if request.kind == "image_path"} == {(3, 5), (5, 3)}
    assert page.query_params["ends"] == "5,3"


@NEEDS_WEIGHTS
@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"model": "nope"}, "unknown model"),
        ({"frames": "1000"}, "expected a whole number in 9..65"),
        ({"ends": "7"}, "expected two rows"),
        ({"ends": "upload,3"}, "a picture of its sender"),
        ({"reach": "9"}, "reach is 9.0; expected a number in 0..0.5"),
    ],
)
def test_a_bad_address_is_said_and_the_page_stands(page, query, sentence):
    opened(page, **{"frames": "9", "model": "squares", **query})
    assert any(sentence in item.value.replace("\\", "") for item in page.sidebar.markdown)
    assert "image_path" in kinds(page)


@NEEDS_WEIGHTS
def test_a_row_that_is_not_there_is_one_sentence(page):
    opened(page, model="squares", ends="1,99999999"[:9])
    assert "the data has rows 0.." in texts(page)


@NEEDS_WEIGHTS
@pytest.mark.parametrize(
    ("tab", "kind", "words"),
    [
        ("One record", "record", "from the average to the prediction"),
        ("What in the picture?", "attribute_effects", "Report: what each attribute"),
        ("How good is the sum?", "image_path", "Are the effects right?"),
        ("Four corners", "image_corners", "nothing but the four corners"),
        ("Two codes", "image_path", "Reconstruction error"),
    ],
)
def test_tabs_draw_on_demand(page, tab, kind, words):
    page.session_state["additive.tab"] = tab
    opened(page, model="squares", frames="9")
    assert kind in kinds(page) and words in texts(page)


@NEEDS_WEIGHTS
def test_other_values_change_the_prediction_of_a_record(page):
    page.session_state["additive.tab"] = "One record"
    opened(page, model="squares", frames="9")
    page.toggle(key="additive.what_if").set_value(True).run()
    row = page.session_state["additive.record"]
    page.selectbox(key=f"additive.what_if.squares.{row}.region").set_value("west").run()
    page.number_input(key=f"additive.what_if.squares.{row}.wave").set_value(40.0).run()
    assert not page.exception
    assert "with other values" in texts(page) and "wave lies outside the range" in texts(page)


@NEEDS_WEIGHTS
def test_an_upload_becomes_an_end_and_a_bad_one_loses_nothing(page):
    opened(page, model="squares", frames="9")
    page.file_uploader(key="additive.upload.A").upload("text.png", b"no picture", "image/png").run()
    assert "is not a PNG" in texts(page) and not page.exception
    strange = encode_png(np.random.default_rng(0).random((40, 50, 3)))
    page.file_uploader(key="additive.upload.A").upload("strange.png", strange, "image/png").run()
    assert not page.exception
    assert any(request.kind == "image_path" and request.image_ids for request in asked(page))
    assert "unlike the training images" in texts(page)


# ----------------------------------------------------------------- own data
def own_csv(n: int = N, broken: dict[int, str] | None = None, separator: str = ",") -> bytes:
    rng = np.random.default_rng(0)
    rows = [separator.join(("size", "house type", "picture", "price"))]
    for i in range(n):
        size, kind = rng.normal(), rng.choice(["flat", "house"])
        row = (f"{size:.3f}", str(kind), f"p{i}.png", f"{2 * size + i / n:.3f}")
        rows.append((broken or {}).get(i, separator.join(row)))
    return "\n".join(rows).encode()


def own_zip(n: int = N, names=lambda i: f"in/p{i}.png", content=None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for i in range(n):
            file.writestr(names(i), content or encode_png(np.full((5 + i % 4, 7, 3), i / n)))
    return buffer.getvalue()


@pytest.fixture
def own_page(page):
    return opened(page, model="own")


def bring(page: AppTest, table: bytes | None = None, archive: bytes | None = None, name: str = "t.csv") -> AppTest:
    if table is not None:
        page.file_uploader(key="additive.own.table_file").upload(name, table, "text/csv")
    if archive is not None:
        page.file_uploader(key="additive.own.zip_file").upload("p.zip", archive, "application/zip")
    page.run()
    assert not page.exception
    return page


def listed(page: AppTest):
    """The table of rows that cannot be used."""
    return next(item.value for item in page.dataframe if "Row" in item.value)


def test_a_table_and_an_archive_become_a_training_job(own_page, queue):
    bring(own_page, own_csv(), own_zip())
    assert own_page.selectbox(key="additive.own.target").value == "price"
    assert own_page.multiselect(key="additive.own.features").value == ["size", "house type"]
    assert f"{N} rows can be used" in texts(own_page) and "cannot:" in texts(own_page)
    own_page.button(key="additive.own.train").click().run()
    (job,) = own_store.fits(queue)
    dataset = own_store.read(job.args["data"])
    assert len(dataset) == N and dataset.response_name == "price" and job.args["encoder"] == "short"
    queue.attach(job.id)
    own_page.run()
    assert "share of the deviance explained on unseen rows 0.500" in texts(own_page)
    assert own_page.button(key=f"additive.own.show.{job.id}")
    own_page.button(key=f"additive.own.forget.{job.id}").click().run()
    assert not own_store.fits(queue) and not list(data_folder().glob("*.npz"))


def test_an_encoder_that_failed_says_why_beside_its_choice_and_nothing_is_lost(own_page, queue):
    bring(own_page, own_csv(), own_zip())
    own_page.radio(key="additive.own.encoder").set_value("dinov2").run()
    own_page.button(key="additive.own.train").click().run()
    (job,) = own_store.fits(queue)
    with pytest.raises(BadInput, match="does not answer"):
        queue.attach(job.id)
    own_page.run()
    assert texts(own_page).count("the hub does not answer") == 2  # here and in the list of trainings
    assert f"{N} rows can be used" in texts(own_page) and not own_page.button(key="additive.own.train").disabled
    own_page.radio(key="additive.own.encoder").set_value("pca").run()
    assert texts(own_page).count("the hub does not answer") == 1


def test_bad_rows_are_listed_and_go_only_with_consent(own_page, queue):
    broken = {3: "much,flat,p3.png,1", 5: "1.0,house,lost.png,1", 7: "1.0,,p7.png,1"}
    bring(own_page, own_csv(broken=broken), own_zip())
    assert "3 of 64 rows cannot be used" in texts(own_page)
    problems = listed(own_page)
    assert set(problems["Row"]) == {4, 6, 8} and any("there is no picture" in why for why in problems["Why"])
    assert own_page.button(key="additive.own.train").disabled
    own_page.checkbox(key="additive.own.leave_out").set_value(True).run()
    assert "61 rows can be used; 3 left out" in texts(own_page)
    assert not own_page.button(key="additive.own.train").disabled


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (b"", "the file is empty"),
        (b"1,2,3\n4,5,6\n7,8,9\n", "the first row holds values, not names"),
        (b"a,b\n1,2\n", "the table has 1 row below its header"),
        (b"a,a\n1,2\n3,4\n", "two columns are called 'a'"),
        (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 cells; the header has 2"),
        (b"a\0b", "is not a CSV or Parquet table"),
        (b"a,b\n" + b"1,2\n" * (LIMITS.max_rows + 1), "the table has more than 200,000 rows"),
    ],
)
def test_a_bad_table_is_one_sentence_and_the_one_before_stays(own_page, table, sentence):
    bring(own_page, own_csv())
    bring(own_page, table, name="bad.csv")
    assert sentence in texts(own_page)
    assert own_page.selectbox(key="additive.own.target").value == "price"


@pytest.mark.parametrize(
    ("archive", "sentence"),
    [
        (b"no zip", "not a zip archive"),
        (own_zip(names=lambda i: f"../p{i}.png"), "leads outside it"),
        (own_zip(names=lambda i: f"p{i}.txt"), "holds no picture"),
    ],
)
def test_a_bad_archive_is_one_sentence_and_the_one_before_stays(own_page, archive, sentence):
    bring(own_page, own_csv(), own_zip())
    bring(own_page, archive=archive)
    assert sentence in texts(own_page) and f"{N} rows can be used" in texts(own_page)


def test_a_zip_bomb_is_refused(own_page):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("p.png", b"\0" * (250 * 2**20))
    bring(own_page, own_csv(), buffer.getvalue())
    assert "the archive would unpack to" in texts(own_page)


def test_a_folder_of_pictures_does_as_well(own_page):
    bring(own_page, own_csv())
    own_page.segmented_control(key="additive.own.from").set_value("folder").run()
    files = [(f"in/p{i}.png", encode_png(np.full((6, 6, 3), i / N)), "image/png") for i in range(N)]
    own_page.file_uploader(key="additive.own.folder_files").set_value(files).run()
    assert not own_page.exception and f"{N} rows can be used" in texts(own_page)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_other_separators_are_read_and_said(own_page, separator):
    bring(own_page, own_csv(separator=separator))
    assert "cells are separated by" in texts(own_page)


def test_damaged_and_doubled_pictures_are_told_by_row(own_page):
    bring(own_page, own_csv(), own_zip(content=b"damaged"))
    assert "64 of 64 rows cannot be used" in texts(own_page)
    twice = own_zip(names=lambda i: f"{i % 2}/p{i // 2}.png")
    bring(own_page, archive=twice)
    assert any("2 pictures are called 'p0.png'" in why for why in listed(own_page)["Why"])


def test_hostile_names_and_unusable_columns_are_shown_as_text(own_page):
    rows = [f"<b>x</b>{i},=1+1,5,,2020-01-{1 + i % 28:02d},p{i}.png,{i}" for i in range(N)]
    table = "\n".join(["<script>alert(1)</script>,formula,constant,missing,day,picture,price", *rows]).encode()
    bring(own_page, table, own_zip())
    notes = " ".join(own_page.data_editor[0].value["Note"])
    assert own_page.multiselect(key="additive.own.features").value == ["day"]
    assert "constant: every cell is '5'" in notes and "every cell is missing" in notes


def test_kinds_and_link_can_be_changed(own_page):
    bring(own_page, own_csv(), own_zip())
    own_page.multiselect(key="additive.own.features").set_value([]).run()
    assert "0 columns are chosen; 1 to 100 can explain" in texts(own_page)
    own_page.multiselect(key="additive.own.features").set_value(["size"]).run()
    own_page.segmented_control(key="additive.own.link").set_value("logit").run()
    assert "a logit link needs two" in texts(own_page)


# ----------------------------------------------------------------- evaluations
EVALUATED = [key for key in settings.models_here() if evaluation.stored(key) is not None]


@pytest.mark.parametrize("key", EVALUATED)
def test_a_stored_evaluation_is_drawn_with_its_figures(key):
    found = evaluation.stored(key)
    text = evaluation.scores_html(found, "identity")
    assert all(f">{found[name]:.3f}<" in text for name in ("score", "table_score", "ebm_score", "black_box_score"))
    columns, rows = evaluation.bars_table(found["bars"])
    assert len(rows) == len(found["bars"]) and len({row["name"] for row in rows}) == len(rows)
    assert evaluation.command_of(key, found).endswith(f"--model {key} --n {found['n']} --json")


def test_every_missed_bar_is_said_with_its_numbers_and_a_met_one_is_not():
    def script():
        from pages.additive.evaluation import say_missed

        say_missed(
            {
                "below_ceiling": {"value": 0.004, "bar": "<= 0.01", "is_met": True},
                "paths.sharpness": {"value": 0.713, "bar": ">= 0.8", "is_met": False},
            }
        )

    (warning,) = AppTest.from_function(script).run().warning
    assert "Along decoded paths: sharpness: **0.713**, asked ≥ 0.8" in warning.value
    assert "ceiling" not in warning.value


def test_hidden_wrong_effects_are_warned_of_and_low_concurvity_is_said():
    def script(shares, pairs):
        from pages.additive.evaluation import say_concurvity, say_interaction

        say_concurvity(shares, False)
        say_interaction(pairs)

    tied = AppTest.from_function(script, args=({"<b>x</b>": 0.6, "image": 0.1}, {"a x b": 0.2})).run()
    assert "60%" in tied.warning[0].value and "<b>" not in tied.warning[0].value.replace("\\<b", "")
    assert "explain 20.0% of what the sum leaves over" in tied.warning[1].value
    free = AppTest.from_function(script, args=({"x": 0.02}, {"a x b": -0.1})).run()
    assert not free.warning and "at most 2% of a term" in free.caption[0].value and "0.0%" in free.caption[1].value


@NEEDS_WEIGHTS
def test_the_tied_case_is_drawn_with_its_measured_figures(page):
    plain, dropped = evaluation.stored("squares-tied"), evaluation.stored("squares-tied-dropout")
    if plain is None or dropped is None:
        pytest.skip("the tied examples are not evaluated here")

    def script():
        from pages.additive.additivity import show_tied_case

        show_tied_case()

    opened(page, model="squares-tied", frames="9")
    assert "Concurvity: much of **image**" in texts(page)
    assert next(item for item in page.expander if item.label.startswith("When a good fit")).proto.expanded
    page.session_state["additive.tab"] = "How good is the sum?"
    assert not page.run().exception and not page.button(key="additive.compare").disabled
    drawn = AppTest.from_function(script, default_timeout=TIMEOUT_S).run()
    assert not drawn.exception
    said = " ".join(item.value for item in drawn.markdown)
    assert f"{dropped['effects']['bowl']['r2']:.3f} with it" in said
    assert (
        abs(plain["score"] - dropped["score"])
        < 0.02
        < plain["effects"]["bowl"]["r2"] - dropped["effects"]["bowl"]["r2"]
    )
    assert drawn.get("bidi_component") or drawn.get("html")


@NEEDS_WEIGHTS
def test_the_report_holds_the_waterfall_of_the_explained_row(page):
    def script():
        import streamlit as st

        from backend.contracts import Result
        from pages.additive import board, settings, takeaway

        chosen = settings.Settings(model="squares", ends=(3, 9), frames=9)
        parts = [
            board.ask(request)
            for request in (
                board.path_request(chosen, None),
                board.shapes_request("squares"),
                board.record_request("squares", 3),
            )
        ]
        assert all(isinstance(part, Result) for part in parts)
        answered = takeaway.Answered(chosen, "Squares", ("row 3", "row 9"), parts[0], parts[1], record=parts[2])
        st.code(takeaway.report_html(answered, "t", "http://x", takeaway.python_lines(answered)).decode())

    made = AppTest.from_function(script, default_timeout=TIMEOUT_S).run()
    assert not made.exception
    report = made.code[0].value
    assert "Row 3 as it is: from the average to the prediction" in report and "prism-waterfall" in report
    assert "Noise ceiling" in report and "RecordRequest" in report


# ----------------------------------------------------------------- parts
def test_settings_come_back_from_their_address():
    asked_for = settings.Settings(
        model="squares", ends=(3, 9), frames=17, params=(("reach", 0.3), ("stochastic", "zero")), record=4, seed=5
    )
    assert settings.read_query(asked_for.to_query()) == (asked_for, {})
    assert settings.Settings().to_query() == {}
    uploaded = dataclasses.replace(asked_for, ends=(settings.UPLOAD, 9)).to_query()
    assert uploaded["ends"] == "upload,9" and "ends" in settings.read_query(uploaded)[1]


def test_a_waterfall_ends_at_the_prediction_and_escapes_names():
    terms = [Contribution("<b>x</b>", "1", 0.5, 0.1), Contribution("y", "<i>", -2.0)]
    text = waterfall_html("Row 1", 10.0, terms, "", "adds")
    assert "<b>x</b>" not in text and "<i>" not in text
    assert text.index(">y<") < text.index("&lt;b&gt;x") and ">8.50<" in text
