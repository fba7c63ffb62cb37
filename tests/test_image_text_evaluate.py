"""Metrics of maps of pairs against closed forms, and the evaluation on a handful of made-up pictures."""

import functools
import json

import numpy as np
import pytest
import torch

from backend.contracts import PairMapRequest
from backend.errors import BadInput, Cancelled
from backend.image_text import evaluate, hold, metrics
from backend.image_text.data import Radiographs, Record
from backend.image_text.held import Held, held_for
from backend.images import encode_png
from backend.models.library import WEIGHTS, Library
from backend.radiographs.shapes import Finding
from backend.runtime import Runtime
from tests.pairs import SIDE, pair_service, tiny_pair

ROWS = ("m2ib:beta=0.1:n_steps=2:samples=2", "grad-cam", "rise:samples=16", "chefer")
FIRST = ROWS[0]


# ----------------------------------------------------------------- metrics
def test_a_quarter_is_always_a_quarter():
    generator = torch.Generator().manual_seed(0)
    for map_ in (torch.rand(20, 20, generator=generator), torch.ones(20, 20), torch.zeros(20, 20)):
        assert int(metrics.top_quarter(map_, generator).sum()) == 100


def test_the_quarter_is_what_lies_above_the_75th_percentile():
    map_ = torch.rand(40, 40, generator=torch.Generator().manual_seed(1))
    expected = map_.numpy() > np.percentile(map_.numpy(), 75)
    assert np.array_equal(metrics.top_quarter(map_, torch.Generator()).numpy(), expected)


def test_iou_of_a_perfect_map_is_the_attainable_one():
    box = metrics.box_mask((2, 3, 9, 11), (20, 20))
    best = metrics.top_quarter(box.double(), torch.Generator().manual_seed(0))
    assert int(box.sum()) == 7 * 8
    assert metrics.iou(best, box) == pytest.approx(metrics.attainable_iou(box)) == pytest.approx(56 / 100)


def test_pointing_shares_ties():
    box = metrics.box_mask((0, 0, 2, 2), (4, 4))
    assert metrics.pointing(torch.ones(4, 4), box) == 0.25
    peak = torch.zeros(4, 4)
    peak[1, 1] = 1
    assert metrics.pointing(peak, box) == 1.0


def test_the_image_is_lit_by_its_map():
    image, map_ = torch.full((1, 1, 1, 3), 0.8), torch.tensor([[-2.0, 0.0, 2.0]])
    torch.testing.assert_close(metrics.lit_by(image, map_), torch.tensor([[[[0.0, 0.4, 0.8]]]]))
    torch.testing.assert_close(metrics.lit_by(image, torch.ones(1, 3)), image)


def test_the_better_half_of_the_tokens_stays_with_start_and_end():
    ids = torch.tensor([[1, 11, 12, 13, 14, 15, 99, 0]])
    values = torch.tensor([9.0, 0.1, 0.5, 0.3, 0.2, 0.4, 9.0])
    kept = metrics.best_tokens(ids, ((1, 2), (2, 4), (4, 6)), values, blank_id=0)
    assert kept.tolist() == [[1, 0, 12, 13, 0, 15, 99, 0]]


def test_words():
    values, is_key = torch.tensor([0.1, 0.9, 0.9, 0.2]), torch.tensor([False, True, False, True])
    assert metrics.first_is_key(values, is_key) == 0.5
    assert metrics.chance_above(values, is_key) == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert metrics.chance_above(values, torch.ones(4, dtype=torch.bool)) is None


# ----------------------------------------------------------------- evaluation
def made_up(n: int, seed: int) -> Radiographs:
    """Pictures with one bright square each; every second one is an effusion, the others are nodules."""
    random = np.random.default_rng(seed)
    pixels, masks, records = [], [], []
    for k in range(n):
        left, top = random.integers(0, SIDE - 8, 2)
        mask = np.zeros((SIDE, SIDE), bool)
        mask[top : top + 8, left : left + 8] = True
        pixels.append((random.random((SIDE, SIDE)) * 100 + 100 * mask).astype(np.uint8))
        masks.append(np.packbits(mask))
        kind = ("nodule", "effusion")[k % 2]
        finding = Finding(
            kind=kind, side="left", place="", size="small", size_mm=None, contrast=1.0, change=mask, mask=mask
        )
        box = (int(left), int(top), int(left) + 8, int(top) + 8)
        records.append(Record((finding,), (k,), (box,), ((f"Small {kind} in the left lung.", 0),), "test", k))
    return Radiographs(np.stack(pixels), np.stack(masks), tuple(records))


@pytest.fixture(scope="module")
def bench() -> evaluate.Bench:
    pair = tiny_pair(images="radiograph")
    with torch.no_grad():
        held = Held(pair.embed_images(torch.rand(3, 1, SIDE, SIDE)), pair.embed_texts(["clear", "no effusion"]))
    choosing, counting = made_up(4, 0), made_up(6, 1)
    return evaluate.Bench(
        pair,
        held,
        tuple(evaluate.radiograph_samples(choosing, 2, pair)),
        tuple(evaluate.radiograph_samples(counting, 4, pair)),
        evaluate.centre_prior(choosing),
        "made-up pictures",
    )


@pytest.fixture(scope="module")
def table(bench) -> dict:
    return evaluate.evaluate(bench, Runtime("cpu"), ROWS)


def test_samples_take_every_kind_as_often_and_strangers_lack_it(bench):
    assert [sample.kind for sample in bench.counting] == ["nodule", "effusion"] * 2
    assert all(int(sample.box.sum()) == 64 and sample.kind in sample.text for sample in bench.counting)


def test_the_table_has_every_row_and_the_ignorant_ones(table):
    json.dumps(table, allow_nan=False)
    assert [row["name"] for row in table["rows"]] == [*ROWS, "centre-prior", "uniform"]
    cells = {row["name"]: row["metrics"] for row in table["rows"]}
    assert cells[FIRST]["iou"]["n"] == 4 and {"words_first", "words_first_control"} <= set(cells["chefer"])
    assert "words_first" not in cells["uniform"]
    assert {pair["theirs"] for pair in table["paired"] if pair["ours"] == FIRST} == {
        *ROWS[1:],
        "centre-prior",
        "uniform",
    }
    assert set(table["findings"]) == {"nodule", "effusion"}


def test_settings_are_chosen_for_images_and_texts_apart(table):
    assert {"layer", "mode", "beta"} <= set(table["chosen"][FIRST]["image"])
    assert len(table["tried"][FIRST]["image"]) > 1 and len(table["tried"]["rise:samples=16"]["image"]) == 1
    best = max(table["tried"]["grad-cam"]["text"], key=lambda one: one["score"]["mean"])
    assert table["chosen"]["grad-cam"]["text"] == best["settings"]


def test_a_method_that_fills_in_its_number_of_samples_itself_can_be_chosen_for(bench):
    (tried,) = evaluate.choose(bench, evaluate.read_row("rise"), "text", Runtime("cpu"), lambda _: None)
    assert tried.settings == {} and len(tried.values) == 1


def test_an_interrupted_evaluation_goes_on(bench, table):
    saved = {}

    def stop(step):
        if step.done >= len(ROWS) + 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        evaluate.evaluate(
            bench, Runtime("cpu"), ROWS, stop, save_state=lambda state: saved.update(json.loads(json.dumps(state)))
        )
    assert saved["done"] == 2
    again = evaluate.evaluate(bench, Runtime("cpu"), ROWS, state=saved)
    for row, other in zip(again["rows"], table["rows"], strict=True):
        assert row["metrics"]["iou"] == other["metrics"]["iou"] if "iou" in row["metrics"] else True


def test_a_refused_modality_is_told():
    pair = tiny_pair("resnet", images="radiograph")
    with torch.no_grad():
        held = Held(pair.embed_images(torch.rand(3, 1, SIDE, SIDE)), pair.embed_texts(["clear", "no effusion"]))
    samples = tuple(evaluate.radiograph_samples(made_up(4, 0), 2, pair))
    found = evaluate.evaluate(evaluate.Bench(pair, held, samples, samples), Runtime("cpu"), ("chefer",))
    assert [(row["name"], row["modality"]) for row in found["not_applicable"]] == [("chefer", "image")]
    assert "words_first" in found["rows"][0]["metrics"] and "iou" not in found["rows"][0]["metrics"]


@pytest.mark.parametrize("text", ["magic", "m2ib:gamma=1", "m2ib:beta=many", "m2ib:mode=free"])
def test_unknown_rows_are_refused(text):
    with pytest.raises(BadInput):
        evaluate.read_row(text)


# ----------------------------------------------------------------- what is held beside the weights
def test_statistics_strangers_and_settings_are_written_and_used(tmp_path, monkeypatch):
    monkeypatch.setattr(hold, "CHOOSING", 2)
    service = pair_service(tmp_path)
    pair = service.runtime.model("cxr-clip", lambda: service.library.load("cxr-clip"))
    monkeypatch.setattr(hold, "choose_settings", functools.partial(hold.choose_settings, methods=("grad-cam",)))
    card = hold.hold_material(pair, hold.radiograph_material(pair, made_up(12, 3)), tmp_path, service.runtime)
    held = held_for(pair, tmp_path)
    assert card["weights_sha256"] == pair.digest
    expected = {("text", -1), *((modality, layer) for modality in ("image", "text") for layer in range(4))}
    assert set(held.statistics) == expected
    assert held.settings_of("grad-cam", "image") == card["settings"]["grad-cam"]["image"]
    states = torch.cat([pair.image.prefix(evaluate.pixels_of(made_up(12, 3), k, pair), 1) for k in range(6)])
    torch.testing.assert_close(held.statistics["image", 1].mean, states.mean(0), atol=1e-5, rtol=1e-4)
    image_id = service.put_image(encode_png(np.random.default_rng(0).random((SIDE, SIDE)))).id
    result = service.run(PairMapRequest(image_id, "Small nodule in the left lung.", "m2ib", params=(("layer", 1),)))
    asked = PairMapRequest(
        image_id, "Small nodule in the left lung.", "m2ib", params=(("layer", 1), ("mode", "normalised"))
    )
    np.testing.assert_array_equal(result.arrays["image_map"], service.run(asked).arrays["image_map"])
    cam = service.run(PairMapRequest(image_id, "Small nodule in the left lung.", "grad-cam"))
    assert cam.values["settings"]["image"]["layer"] == card["settings"]["grad-cam"]["image"]["layer"]


def test_what_belongs_to_other_weights_is_not_used(tmp_path):
    service = pair_service(tmp_path)
    pair = service.runtime.model("cxr-clip", lambda: service.library.load("cxr-clip"))
    (tmp_path / "cxr-clip-maps.json").write_text(json.dumps({"weights_sha256": "another"}))
    held = held_for(pair, tmp_path)
    assert not held.statistics and any("other weights" in note for note in held.notes)


def test_what_ships_belongs_to_the_weights_that_ship():
    pair = Library().load("cxr-clip")
    held = held_for(pair, WEIGHTS)
    assert not held.notes and ("image", 1) in held.statistics and ("text", -1) in held.statistics
    assert held.settings_of("m2ib", "image") and held.settings_of("m2ib", "text")
