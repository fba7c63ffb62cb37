"""The page of additive decoders as a script: what is drawn, said, asked and kept. The browser has tests of its own."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from backend.additive_decoding import evaluate
from backend.additive_decoding.recipes import Recipe
from backend.contracts import Result, SupportRequest
from backend.jobs import JobQueue
from backend.service import local_service
from pages.decoder import painter, settings, training
from pages.decoder.figures import framed_sheet
from tests.reading import html_texts

PAGE = str(Path(__file__).parent.parent / "pages" / "additive_decoder.py")
TIMEOUT_S = 180
NEEDS_WEIGHTS = pytest.mark.skipif(not settings.is_here("balls-l-additive"), reason="no trained decoder here")


def fake_training(args: dict, context: object) -> dict:
    """Stands in for a training run: it only says that it was there."""
    return {"key": args["name"]}


@pytest.fixture
def queue(tmp_path, monkeypatch) -> JobQueue:
    """A queue of jobs that train nothing."""
    made = JobQueue(tmp_path / "jobs", {"train": f"{__name__}:fake_training"})
    for module in ("training", "evaluation", "own_pictures", "previews"):
        monkeypatch.setattr(f"pages.decoder.{module}.jobs", lambda: made)
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
    return "\n".join([item.value for item in (*page.markdown, *page.caption)] + html_texts(page))


def asked(page: AppTest) -> list:
    return list(page.session_state["decoder.known"])


# ----------------------------------------------------------------- the page
@NEEDS_WEIGHTS
def test_an_example_is_there_with_grids_numbers_and_files(page):
    opened(page)
    assert {request.kind for request in asked(page)} == {"latent_scatter", "decoding", "block_table", "decoder_figures"}
    said = texts(page)
    assert "never **both high**" in said and "RMSE, never seen ↓" in said and "LMS, seen ↑" in said
    assert "arXiv:2307.02598" in said
    assert all(isinstance(answer, Result) for answer in page.session_state["decoder.known"].values())


@NEEDS_WEIGHTS
def test_a_rerun_asks_nothing_again_and_a_changed_grid_only_the_grids(page):
    opened(page, decoders="balls-l-additive")
    before = set(asked(page))
    page.run()
    assert set(asked(page)) == before
    page.number_input(key="decoder.rows").set_value(3).run()
    assert page.query_params["grid"] == "3x7"
    assert {request.kind for request in set(asked(page)) - before} == {"decoding"}


@NEEDS_WEIGHTS
@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"case": "nope"}, "unknown case"),
        ({"grid": "99x7"}, "expected a whole number in 2..15"),
        ({"grid": "7"}, "expected a whole number"),
        ({"decoders": "nope"}, "unknown decoder"),
    ],
)
def test_a_bad_address_is_said_and_the_page_stands(page, query, sentence):
    opened(page, **query)
    assert any(sentence in item.value.replace("\\", "") for item in page.sidebar.markdown)
    assert any(request.kind == "decoding" for request in asked(page))


@NEEDS_WEIGHTS
@pytest.mark.parametrize(
    ("tab", "words"),
    [
        ("Which assumption holds?", "sufficiently nonlinear"),
        ("When it breaks", "A linear truth"),
        ("The table", "Measure"),
    ],
)
def test_tabs_draw_on_demand(page, tab, words):
    opened(page, decoders="balls-l-additive")
    page.session_state["decoder.tab"] = tab
    page.run()
    assert not page.exception
    assert words in texts(page) + " ".join(button.label for button in page.button)


@NEEDS_WEIGHTS
def test_training_is_a_job_with_the_painted_support(page, queue):
    opened(page, decoders="balls-l-additive")
    page.session_state["decoder.tab"] = "Train your own"
    mask = ("1" * 8 + "0" * 8,) * 16
    page.session_state["decoder.painted"] = painter.Painted(None, mask)
    page.run()
    assert "one piece" in texts(page) and "is a product" in texts(page)
    page.slider(key="decoder.nonlinearity").set_value(0.5)
    page.selectbox(key="decoder.link").set_value("exp")
    page.selectbox(key="decoder.recipe").set_value("-paper")
    page.segmented_control(key="decoder.kind").set_value("masked").run()
    page.button(key="decoder.train").click().run()
    assert not page.exception
    (job,) = queue.list()
    recipe = Recipe.from_json(job.args["recipe"])
    assert (recipe.link, recipe.starts, recipe.weight_decay, recipe.scene.side) == ("exp", 1, 5e-4, 32)
    assert job.args["family"] == "additive_decoding" and job.args["recipe"]["base"] == "live-paper"
    assert job.args["recipe"]["kind"] == "masked" and job.args["recipe"]["scene"]["nonlinearity"] == 0.5
    assert json.loads(job.args["recipe"]["support"])["mask"] == painter.frame_of(mask)


@NEEDS_WEIGHTS
def test_places_in_the_plane_and_hidden_objects_are_trained_on(page, queue):
    opened(page, decoders="balls-l-additive")
    page.session_state["decoder.tab"] = "Train your own"
    page.run()
    page.segmented_control(key="decoder.trained_on").set_value("pictures").run()
    assert not page.exception and "train own-images --images PATH" in texts(page)
    page.segmented_control(key="decoder.trained_on").set_value("scenes").run()
    page.slider(key="decoder.radius").set_value(0.3)
    page.toggle(key="decoder.hides").set_value(True).run()
    assert "no sum" in texts(page) and page.slider(key="decoder.nonlinearity").disabled
    page.button(key="decoder.train").click().run()
    page.segmented_control(key="decoder.moves").set_value("places").run()
    page.segmented_control(key="decoder.planar").set_value("apart-dependent").run()
    assert not page.exception and "Four latents cannot be painted" in texts(page)
    page.button(key="decoder.train").click().run()
    recipes = [job.args["recipe"] for job in queue.list()]
    by_base = {recipe["base"]: Recipe.from_json(recipe) for recipe in recipes}
    assert by_base["live"].scene.occlusion and by_base["live"].scene.radius == 0.3
    assert by_base["live-plane"].scene.free == ("x", "y") and by_base["live-plane"].support == "apart-dependent"
    assert by_base["live-plane"].scene.side == 32


@NEEDS_WEIGHTS
def test_an_empty_support_is_one_sentence_and_trains_nothing(page, queue):
    opened(page, decoders="balls-l-additive")
    page.session_state["decoder.tab"] = "Train your own"
    page.session_state["decoder.painted"] = painter.Painted(None, ("0" * 16,) * 16)
    page.run()
    assert "paint at least one cell" in texts(page)
    assert page.button(key="decoder.train").disabled and not queue.list()


def test_without_weights_the_page_says_how_to_make_them(page, monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "WEIGHTS", tmp_path)
    opened(page)
    assert any("python -m backend train" in item.value for item in page.info)
    assert page.button(key="decoder.train")


def test_what_the_page_says_of_masks_is_what_was_measured():
    """The sentence of the case with occlusion, against the stored evaluations."""
    found = {
        (scene, kind): evaluate.stored(f"balls-{scene}-{kind}")
        for scene in ("near", "occluded")
        for kind in ("additive", "masked", "plain")
    }
    if None in found.values():
        pytest.skip("no stored evaluation of these decoders here")
    assert "Masks extrapolate in practice" in settings.CASES["occluded"].sentence
    masked, additive = found["occluded", "masked"], found["occluded", "additive"]
    assert min(masked["lms_spearman"], masked["lms_spearman_out"], additive["lms_spearman"]) > 99
    assert masked["rmse_recombined"] < 1.25 * masked["rmse"] and additive["rmse"] > 1.5 * masked["rmse"]
    near = [found["near", kind] for kind in ("additive", "masked")]
    assert all(table["lms_spearman"] > 99 and table["rmse_recombined"] < 1.25 * table["rmse"] for table in near)
    for scene in ("near", "occluded"):
        plain = found[scene, "plain"]
        assert plain["lms_spearman"] < 95 and plain["rmse_recombined"] > 3 * plain["rmse"]


# ----------------------------------------------------------------- parts
def test_settings_come_back_from_their_address():
    asked_for = settings.Settings(
        case="four", kinds=("balls-four",), training_seed=2, rows=3, columns=9, down=2, across=0, seed=5
    )
    assert settings.read_query(asked_for.to_query()) == (asked_for, {})
    assert settings.Settings().to_query() == {}


@pytest.mark.parametrize("name", painter.PRESETS)
def test_a_painted_preset_is_the_named_support_up_to_a_cell(name):
    """Painting a preset and sending its cells instead of its name gives almost the same support."""
    by_name = local_service().run(SupportRequest(name, n=10))
    mask = painter.mask_of(by_name.arrays["raster"])
    by_cells = local_service().run(SupportRequest(painter.Painted(None, mask).text, n=10))
    different = (by_name.arrays["raster"] != by_cells.arrays["raster"]).mean()
    assert different < (0.04 if name in ("u", "dependent-linear", "dependent-nonlinear") else 0.012)
    assert by_name.values["components"] == by_cells.values["components"]


@pytest.mark.parametrize("state", [None, 3, {}, {"mask": ["01"]}, {"mask": ["2" * 16] * 16}, {"mask": [1] * 16}])
def test_what_the_browser_cannot_have_meant_is_not_taken(state):
    assert painter.read(state) is None


def test_a_line_through_corners_is_a_polygon_in_the_frame():
    state = {"preset": None, "mask": ["0" * 16] * 16, "outline": [[0, 0], [1, 0], [0, 0.5]]}  # right, up
    painted = painter.read(state)
    assert not painted.is_empty
    assert json.loads(painted.text) == {"polygon": [[0.1, 0.1], [0.1, 0.9], [0.5, 0.1]]}  # first latent: up
    result = local_service().run(SupportRequest(painted.text, n=20))
    assert result.arrays["latents"][:, 0].max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    "outline", [[], [[0, 0], [1, 1]], [[0, 0], [1, 2], [0, 1]], [[0, 0], ["a", 1], [0, 1]], [1, 2, 3]]
)
def test_a_line_that_the_browser_cannot_have_meant_is_not_taken(outline):
    assert painter.read({"preset": None, "mask": ["1" * 16] * 16, "outline": outline}).outline == ()


def test_one_cell_is_a_support():
    mask = ["0" * 16] * 15 + ["1" + "0" * 15]
    result = local_service().run(SupportRequest(painter.Painted(None, tuple(mask)).text, n=20))
    assert result.values["components"] == 1 and result.values["is_product"]
    assert result.arrays["latents"][:, 0].min() >= 0.85 - 1e-6  # the last row is the highest left object


def test_frames_tell_seen_from_unseen():
    images = np.full((1, 2, 8, 8, 3), 200, np.uint8)
    sheet = framed_sheet(images, np.array([[True, False]]))
    assert sheet.shape == (12, 27, 3)
    assert tuple(sheet[0, 0]) == (138, 138, 138) and tuple(sheet[0, 15]) == (213, 94, 0)


def test_own_trainings_of_one_support_stand_side_by_side(queue):
    scene = {"shapes": ["ball", "ball"], "nonlinearity": 1.0}
    for kind, support in (("additive", "u"), ("additive", "l"), ("masked", "l")):
        recipe = {"base": "live", "kind": kind, "support": support, "scene": scene}
        job = queue.submit("train", {"name": "live", "family": "additive_decoding", "seed": 0, "recipe": recipe})
        queue.attach(job)
    case = training.own_case()
    assert case.kinds == ("additive", "masked")
    assert [settings.title_of(case, key) for key in case.decoders] == ["Additive", "Masked"]


@NEEDS_WEIGHTS
def test_the_browser_gets_what_it_needs_in_one_blob():
    from pages.decoder import bench, board

    service = local_service()
    scatter = service.run(board.LatentScatterRequest("balls-l-additive", n=20))
    order = scatter.values["permutation"]
    params = (("along", "scenes"), ("column_block", order.index(1)), ("row_block", order.index(0)))
    grid = service.run(board.DecodingRequest("balls-l-additive", grid=(3, 3), params=params))
    table = service.run(board.BlockTableRequest("balls-l-additive", size=5))
    drawn = board.Drawn("balls-l-additive", "Additive", scatter, grid, table)
    blob = bench.pack([drawn], (0, 1))
    (length,) = struct.unpack("<I", blob[:4])
    header = json.loads(blob[4 : 4 + length])
    nets = header["panels"][0]["tables"]["nets"]
    values = np.frombuffer(blob[4 + length :], "<f2")
    first = values[nets[1]["offset"] :][: table.arrays["profiles_1"].size]
    assert np.array_equal(first, table.arrays["profiles_1"].ravel())
    assert header["row_values"] == sorted(header["row_values"]) and len(header["seen"]) == 9
