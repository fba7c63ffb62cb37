"""ROAR+ and the search for settings: a toy whose truth is known, the tables, interruption, and what the page says."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from backend.endpoints.jobs import check_args
from backend.errors import BadInput, Cancelled, ShapeError
from backend.image_text import choosing, evaluate, roar, roar_evaluation, search
from backend.image_text.held import Held
from backend.jobs import JobQueue, JobStatus
from backend.runtime import Runtime
from pages.pairs import orders, runs, verdict
from tests.pairs import SIDE, tiny_pair
from tests.test_image_text_evaluate import made_up

QUICK = roar.FineTuning(epochs=1, batch=16, rate=1e-3)
FAST = "m2ib:n_steps=1:samples=1:layer=1"
TEXTS = ("nodule left", "nodule right", "effusion left", "effusion right")
COLOURS = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])


# ----------------------------------------------------------------- a toy whose truth is known
def toy(n: int) -> tuple[roar.Pairs, list[torch.Tensor]]:
    """A corner of each picture has one of four colours, of which the text tells; and where that corner is."""
    generator, pair, half = torch.Generator().manual_seed(0), tiny_pair("average"), SIDE // 2
    corners, kinds = torch.randint(4, (2, n), generator=generator)
    images, where = torch.rand(n, 3, SIDE, SIDE, generator=generator) * 0.3, torch.zeros(n, SIDE, SIDE)
    for i, (corner, kind) in enumerate(zip(corners.tolist(), kinds.tolist(), strict=True)):
        top, left = half * (corner // 2), half * (corner % 2)
        where[i, top : top + half, left : left + half] = 1
        images[i] += 0.6 * where[i] * COLOURS[kind][:, None, None]
    texts = [TEXTS[kind] for kind in kinds]
    words = tuple(tuple((w.first, w.last) for w in pair.tokenizer.tokenize(text).words) for text in texts)
    return roar.Pairs("image", images, pair.tokens(texts), words, pair.tokenizer.pad_id), list(where)


def test_without_the_signal_little_is_learnt_and_without_as_much_of_anything_it_is():
    pairs, where = toy(80)
    pair, settings = tiny_pair("average"), roar.FineTuning(epochs=10, batch=16, rate=1e-3)
    cells = torch.rand(len(pairs), 1, 4, 4, generator=torch.Generator().manual_seed(1))
    anywhere = list(F.interpolate(cells, size=(SIDE, SIDE), mode="bilinear")[:, 0])
    intact, holed, blind = (
        roar.loss_after(pair, learnt, pairs, settings)
        for learnt in (pairs, roar.degrade(pairs, "image", where), roar.degrade(pairs, "image", anywhere))
    )
    assert roar.roar_plus(holed, intact) > 15
    assert abs(roar.roar_plus(blind, intact)) < 10 < roar.roar_plus(holed, blind)


def test_fine_tuning_repeats_by_its_seed_and_leaves_the_pair_as_it_was():
    pairs, _ = toy(24)
    pair = tiny_pair("average")
    before = {name: tensor.clone() for name, tensor in pair.module.state_dict().items()}
    first, again, other = (roar.loss_after(pair, pairs, pairs, QUICK, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert all(torch.equal(before[name], tensor) for name, tensor in pair.module.state_dict().items())
    assert not any(p.requires_grad for p in pair.module.parameters()) and not pair.module.training


def test_a_quarter_of_the_pixels_becomes_the_channels_mean():
    pairs, where = toy(20)
    fill = roar.channel_means(pairs.inputs)
    holed = roar.degrade(pairs, "image", where)
    gone = torch.stack(where).bool()
    assert torch.equal(holed.ids, pairs.ids)
    for channel in range(3):
        assert torch.all(holed.inputs[:, channel][gone] == fill[channel])
        assert torch.equal(holed.inputs[:, channel][~gone], pairs.inputs[:, channel][~gone])
    with pytest.raises(ShapeError):
        roar.degrade(pairs, "image", where[:3])


def test_half_of_the_words_becomes_padding():
    ids = torch.tensor([[1, 11, 12, 13, 14, 99, 0]])
    values = torch.tensor([9.0, 0.1, 0.5, 0.3, 0.2, 9.0, 0.0])
    assert roar.without_words(ids, ((1, 2), (2, 4), (4, 5)), values, 0).tolist() == [[1, 11, 0, 0, 14, 99, 0]]


def test_the_contrastive_loss_is_open_clips():
    from open_clip.loss import ClipLoss

    generator = torch.Generator().manual_seed(0)
    one, other = (F.normalize(torch.randn(6, 8, generator=generator), dim=-1) for _ in range(2))
    assert roar.contrastive_loss(one, other, 20.0) == pytest.approx(float(ClipLoss()(one, other, torch.tensor(20.0))))


def test_parts_never_overlap():
    for seed in range(3):
        trained, tried = roar.split_pairs(50, seed)
        assert sorted((*trained.tolist(), *tried.tolist())) == list(range(50)) and len(tried) == 10
    with pytest.raises(BadInput, match="needs 20"):
        roar.split_pairs(19, 0)


# ----------------------------------------------------------------- tables
@pytest.fixture(scope="module")
def bench() -> evaluate.Bench:
    pair = tiny_pair(images="radiograph")
    with torch.no_grad():
        held = Held(pair.embed_images(torch.rand(3, 1, SIDE, SIDE)), pair.embed_texts(["clear", "no effusion"]))
    samples = tuple(evaluate.radiograph_samples(made_up(20, 0), 20, pair))
    return evaluate.Bench(pair, held, samples, samples, origin="made-up pictures")


def test_the_table_of_roar_stands_beside_random_maps(bench):
    rows, seen = ("saliency", "grad-cam"), []
    table = roar_evaluation.evaluate(bench, Runtime("cpu"), rows, 2, seen.append, settings=QUICK)
    json.dumps(table, allow_nan=False)
    assert [row["name"] for row in table["rows"]] == [*rows, "random"]
    assert {pair["ours"] for pair in table["paired"]} == set(rows)
    cells = table["rows"][0]["metrics"]
    assert cells["image_roar_plus"]["n"] == cells["text_roar_plus"]["n"] == 2
    losses = zip(table["losses"]["saliency"]["text"], table["losses"]["original"], strict=True)
    gains = [roar.roar_plus(corrupted, original) for corrupted, original in losses]
    assert cells["text_roar_plus"]["mean"] == pytest.approx(sum(gains) / 2, abs=1e-3)
    assert [step.done for step in seen] == sorted(step.done for step in seen) and seen[-1].done == seen[-1].total
    assert "--preset roar --n 20 --seeds 2" in table["command"] and "l_o" in table["definition"]


def test_an_interrupted_run_goes_on_behind_its_last_row(bench):
    saved, begun = {}, []

    def stop(step):
        begun.append(step.message)
        if "grad-cam" in step.message:
            raise Cancelled

    args = bench, Runtime("cpu"), ("saliency", "grad-cam"), 1
    with pytest.raises(Cancelled):
        roar_evaluation.evaluate(
            *args, stop, save_state=lambda state: saved.update(json.loads(json.dumps(state))), settings=QUICK
        )
    assert set(saved["losses"]["saliency"]) == {"image", "text"}
    kept, messages = saved["losses"]["saliency"], []
    again = roar_evaluation.evaluate(*args, lambda step: messages.append(step.message), saved, settings=QUICK)
    assert "maps of saliency" not in messages and "maps of grad-cam" in messages
    assert again["losses"]["saliency"]["image"] == [evaluate.digits(loss) for loss in kept["image"]]


def test_a_row_says_the_settings_that_its_maps_were_drawn_with(bench):
    """Those that are held for the model, under those that the row itself sets."""
    held = dataclasses.replace(bench.held, settings={"m2ib": {"image": {"layer": 1, "beta": 1.6}}})
    row = evaluate.read_row("m2ib:beta=0.1")
    measured = {"original": [1.0], "losses": {row.name: {"image": [2.0]}, "random": {"image": [1.5]}}, "refused": {}}
    table = roar_evaluation.tabulate(dataclasses.replace(bench, held=held), [row], measured)
    assert table["rows"][0]["params"] == {"image": {"layer": 1, "beta": 0.1}, "text": {"beta": 0.1}}


def test_a_method_that_refuses_a_tower_is_told(bench):
    pair = tiny_pair("resnet", images="radiograph")
    with torch.no_grad():
        held = Held(pair.embed_images(torch.rand(3, 1, SIDE, SIDE)), pair.embed_texts(["clear", "no effusion"]))
    samples = tuple(evaluate.radiograph_samples(made_up(20, 0), 20, pair))
    one = evaluate.Bench(pair, held, samples, samples)
    table = roar_evaluation.evaluate(one, Runtime("cpu"), ("chefer",), settings=QUICK)
    assert [(row["name"], row["modality"]) for row in table["not_applicable"]] == [("chefer", "image")]
    assert "text_roar_plus" in table["rows"][0]["metrics"]


def test_the_search_ends_with_a_few_on_all_pairs_and_chooses_of_them(bench):
    rows = (f"{FAST}:beta=0.1",)
    table = search.evaluate(bench, Runtime("cpu"), rows, 1, fine_tuning=QUICK)
    json.dumps(table, allow_nan=False)
    for modality in ("image", "text"):
        tried = table["tried"][rows[0]][modality]
        assert {one["settings"]["sigma2"] for one in tried} == set(choosing.PAPERS)
        last = [one for one in tried if "roar_plus" in one]
        assert last == tried[: len(last)] and all(one["score"]["n"] == len(bench.choosing) for one in last)
        assert all(one["score"]["n"] < len(bench.choosing) for one in tried[len(last) :])
        assert table["would_choose"][rows[0]][modality]["score"] == tried[0]["settings"]
        assert tried[0]["score"]["mean"] == max(one["score"]["mean"] for one in last)


def test_an_interrupted_search_goes_on_and_ends_the_same(bench):
    few = dataclasses.replace(bench, choosing=bench.choosing[:6])
    args, saved, begun = (few, search.rows_of([f"{FAST}:mode=paper"]), 0, Runtime("cpu")), {}, []
    whole = search.measure(*args)

    def stop(state):
        saved.update(json.loads(json.dumps(state)))
        if len(saved["memory"]) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        search.measure(*args, save_state=stop)
    assert search.measure(*args, on_step=begun.append, state=saved)["tried"] == whole["tried"]
    in_all = []
    search.measure(*args, on_step=in_all.append)
    assert len(begun) == len(in_all) - 4  # a step for each trial of so few pairs


def test_the_grid_is_the_papers_and_late_layers_of_deep_towers():
    tower = tiny_pair().image
    grid = choosing.grid_of("m2ib", {}, tower, False)
    assert {one["layer"] for one in grid} == {0, 1, 2} and len(grid) == 27
    assert {one["beta"] for one in grid} == {one["sigma2"] for one in grid} == set(choosing.PAPERS)
    more = choosing.grid_of("m2ib-contrast", {"layer": 1}, tower, True)
    assert {one["beta"] for one in more if one["mode"] == "normalised"} == set(choosing.BETAS)
    assert {one.get("smooth") for one in more if one["mode"] == "normalised"} == {0.0, 1.0, 2.0, 4.0}
    papers = choosing.grid_of("m2ib", {"mode": "paper"}, tower, True)
    assert papers == grid  # a row of the paper's mode is the paper's in all: nothing smoothed
    tower.names = tuple(f"block {k}" for k in range(12))
    assert {one["layer"] for one in choosing.grid_of("m2ib", {}, tower, False)} == {7, 8, 9}
    assert choosing.grid_of("chefer", {}, tower, True) == [{}]
    with pytest.raises(BadInput, match="no settings to search"):
        search.rows_of(("chefer",))


@pytest.mark.parametrize(
    ("args", "field"),
    [
        ({"model": "scenes-clip", "preset": "nothing"}, "preset"),
        ({"model": "scenes-clip", "preset": "roar", "n": 5, "methods": ["saliency"]}, "n"),
        ({"model": "scenes-clip", "preset": "roar", "n": 20, "seeds": 99}, "seeds"),
        ({"model": "scenes-clip", "preset": "search", "n": 20, "methods": ["rise"]}, "methods"),
    ],
)
def test_what_no_run_can_be_is_refused_by_its_field(args, field, monkeypatch):
    class Context:
        on_step = staticmethod(lambda step: None)
        load_state = staticmethod(lambda: None)
        save_state = staticmethod(lambda state: None)

    with pytest.raises(BadInput) as refusal:
        evaluate.job({"family": "image_text", **args}, Context())
    assert refusal.value.field == field


def test_a_caller_of_the_api_may_start_either():
    for preset in ("roar", "search"):
        asked = {
            "family": "image_text",
            "model": "cxr-clip",
            "n": 40,
            "seeds": 2,
            "preset": preset,
            "methods": ["m2ib"],
        }
        assert check_args("evaluate", asked) == asked


# ----------------------------------------------------------------- what is shown of them
def test_orders_say_who_is_ahead_of_whom():
    order = orders.Order("image", "roar_plus", "MS-CXR", ("M2IB", "RISE", "Saliency"), ("RISE", "M2IB", "Saliency"))
    assert order.swapped == [("RISE", "M2IB")] and order.agreement == pytest.approx(1 / 3)
    rows = [
        {"method": key, "metrics": {"image_drop": {"mean": value}}}
        for key, value in (("m2ib", 3.0), ("rise", 2.0), ("random", 0.0))
    ]
    found = {one.dataset: one for one in orders.orders({"rows": rows})}
    assert found["MS-CXR"].here == ("RISE", "M2IB") and found["MS-CXR"].paper == ("M2IB", "RISE")


def test_a_run_on_data_of_ones_own_is_not_the_models(monkeypatch, tmp_path):
    queue = JobQueue(tmp_path, {})
    monkeypatch.setattr(runs, "jobs", lambda: queue)
    shared = {"family": "image_text", "model": "cxr-clip", "n": 40, "methods": []}
    for number, args in enumerate(({**shared, "preset": "roar"}, {**shared, "data": "/x", "preset": "roar"})):
        queue._write(JobStatus(f"job{number}", "evaluate", args, "done", submitted=float(number)))
    assert runs.last_run("cxr-clip", "roar").id == "job0"
    assert runs.last_run("cxr-clip", "table") is None and runs.last_run("scenes-clip", "roar") is None


SHIPPED = sorted(path for kind in ("roar", "search") for path in (runs.ASSETS / "evaluations").glob(f"*-{kind}.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_runs_that_ship_say_how_they_were_made_and_are_of_the_weights_that_ship(path):
    table = json.loads(path.read_text())
    assert table["command"].startswith(f"python -m backend evaluate image_text --model {table['model']} --preset ")
    assert table["n"] >= roar.LEAST_PAIRS and table["seeds"] >= 1 and table["machine"] and not runs.is_stale(table)
    assert path.stem in runs.stored(table["model"], table["preset"])


# ----------------------------------------------------------------- what a table shows, in sentences
def test_a_bottleneck_is_called_ahead_only_where_every_interval_leaves_0_out():
    pairs = [("chefer", "iou", 0.01), ("chefer:smooth=0.75", "iou", -0.01), ("chefer", "pointing", 0.02)]
    table = {
        "columns": [{"key": "iou", "title": "Box IoU"}, {"key": "pointing", "title": "Pointing game"}],
        "rows": [
            {"name": "m2ib", "title": "M2IB", "metrics": {"words_first": {"mean": 0.66}}},
            {"name": "chefer", "title": "Chefer et al."},
            {"name": "chefer:smooth=0.75", "title": "Chefer et al.:smooth=0.75"},
        ],
        "paired": [
            *({"ours": "m2ib", "theirs": t, "metric": m, "mean": low, "low": low, "high": 1.0} for t, m, low in pairs),
            *(
                {
                    "ours": "m2ib: words_first",
                    "theirs": t,
                    "metric": "words_first",
                    "mean": 0.1,
                    "low": low,
                    "high": 0.2,
                }
                for t, low in (("words_chance", 0.05), ("words_first_control", -0.05))
            ),
        ],
    }
    (places,), (words,) = verdict.places_said(table), verdict.words_said(table)
    assert "ahead of every other method and of the priors on Pointing game" in places
    assert "on Box IoU not surely ahead of Chefer et al., smooth 0.75." in places
    assert "not surely" in words and "+10% [-5%, +20%]" in words
    table["paired"][-1]["low"] = 0.01
    assert "not surely" not in verdict.words_said(table)[0]
