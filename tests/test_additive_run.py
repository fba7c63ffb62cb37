"""Additive decoding through the service, the jobs and the command line, with tiny models and with those that ship."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from backend import jobs, training
from backend.__main__ import main
from backend.additive_decoding import evaluate
from backend.additive_decoding.recipes import RECIPES, Recipe
from backend.additive_decoding.train import train
from backend.catalog import DECODER_KINDS, DECODERS
from backend.contracts import (
    AttributionRequest,
    BlockTableRequest,
    DecoderFiguresRequest,
    DecodingRequest,
    LatentScatterRequest,
    Result,
    SupportRequest,
    request_from_json,
    request_to_json,
)
from backend.errors import BadInput, NotAvailable
from backend.models.library import WEIGHTS, Library
from backend.service import LocalService

SMALL = dict(width=12, rank=3, starts=3, start_steps=10, steps=10, batch=8)
MODELS = ("balls-l-additive", "balls-l-plain", "balls-l-masked", "balls-blocks-dependent", "balls-four")


def tiny(name: str) -> Recipe:
    recipe = RECIPES[name]
    return dataclasses.replace(recipe, scene=dataclasses.replace(recipe.scene, side=16), **SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights")
    for name in MODELS:
        train(name, folder=path, recipe=tiny(name))
    return path


@pytest.fixture(scope="module")
def service(folder) -> LocalService:
    return LocalService(library=Library(weights_folder=folder))


# ----------------------------------------------------------------- rows
def test_every_row_has_a_recipe_and_every_recipe_a_row():
    assert {key.partition("-seed")[0] for key in DECODERS} == set(RECIPES)
    assert {spec.architecture for spec in DECODERS.values()} == {f"prism:{kind}-decoder" for kind in DECODER_KINDS}
    for key, spec in DECODERS.items():
        kind = RECIPES[key.partition("-seed")[0]].kind
        assert spec.architecture == f"prism:{kind}-decoder" and spec.summary.endswith(".")


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("balls-*.json")), ids=lambda path: path.stem)
def test_cards_fit_their_weights(path):
    card = json.loads(path.read_text())
    assert card["key"] == path.stem in DECODERS
    assert Recipe.from_json(card["recipe"]) == RECIPES[path.stem.partition("-seed")[0]]
    loaded = Library().load(path.stem)  # checks the digest and every shape
    assert loaded.digest == card["sha256"] and loaded.module.kind == card["network"]["kind"]


def test_weights_that_were_changed_are_refused(folder, tmp_path):
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"balls-four{suffix}").write_bytes((folder / f"balls-four{suffix}").read_bytes())
    (tmp_path / "balls-four.safetensors").write_bytes((folder / "balls-l-plain.safetensors").read_bytes())
    with pytest.raises(BadInput, match="sha256"):
        Library(weights_folder=tmp_path).load("balls-four")
    with pytest.raises(NotAvailable, match="backend train balls-u-additive"):
        Library(weights_folder=tmp_path).load("balls-u-additive")


# ----------------------------------------------------------------- requests
@pytest.mark.parametrize("model", MODELS)
def test_grid(service, model):
    result = service.run(DecodingRequest(model, grid=(4, 3)))
    arrays, d = result.arrays, RECIPES[model].scene.n_latents
    assert arrays["grid"].shape == arrays["truth"].shape == (4, 3, 16, 16, 3) and arrays["grid"].dtype == np.uint8
    assert arrays["latents"].shape == arrays["true_latents"].shape == (4, 3, d)
    assert arrays["in_support"].shape == (4, 3) and arrays["in_support"].dtype == bool
    kind = RECIPES[model].kind
    assert ("blocks_0" in arrays) == (kind != "non-additive")
    assert result.provenance.forward_passes == (7 if kind == "additive" else 12) == result.values["renders"]
    assert result.request.method == kind and result.provenance.model_digest
    assert set(result.quality) >= {"rmse_in", "rmse_out"}


def test_a_grid_repeats_by_seed_and_other_seeds_choose_other_scenes(service):
    def latents(seed):
        service.result_store.clear()
        return service.run(DecodingRequest("balls-blocks-dependent", grid=(3, 3), seed=seed)).arrays["latents"]

    np.testing.assert_array_equal(latents(1), latents(1))
    assert not np.array_equal(latents(1), latents(2))


def test_reach_goes_beyond_what_was_met(service):
    near, far = (
        service.run(DecodingRequest("balls-l-additive", grid=(5, 5), params=(("reach", reach),)))
        for reach in (1.0, 2.0)
    )
    assert np.ptp(far.arrays["latents"][..., 0]) == pytest.approx(2 * np.ptp(near.arrays["latents"][..., 0]), rel=1e-4)
    assert not far.arrays["in_support"][0].any()  # a code that nobody has met is in no support


def test_table_for_the_browser(service):
    result = service.run(BlockTableRequest("balls-l-additive"))
    assert result.arrays["profiles_0"].shape == (65, 2, 3, 16) and result.values["white"] == 1.0
    assert result.values["bytes"] == 2 * 65 * 2 * 3 * 16 * 2


def test_blocks_of_several_latents_send_their_network_and_those_of_two_a_table_when_asked(service):
    assert "weight_1_3" in service.run(BlockTableRequest("balls-blocks-dependent")).arrays
    planar = service.run(BlockTableRequest("balls-blocks-dependent", size=33))
    assert planar.arrays["profiles_1"].shape == (33, 33, 2, 3, 16)
    assert planar.arrays["response_0"].shape == (13, 13, 2)
    four = service.run(BlockTableRequest("balls-four"))
    assert [four.arrays[f"weight_3_{k}"].shape for k in range(4)] == [(12, 3), (12, 12), (12, 12), (2 * 3 * 16, 12)]
    assert four.arrays["response_2"].shape == (7, 7, 4, 3) and four.quality["interpolation_rmse"] == 0
    assert four.values["bytes"] == 2 * sum(a.size for name, a in four.arrays.items() if name[:4] in ("weig", "bias"))


@pytest.mark.parametrize("model", ["balls-l-masked", "balls-blocks-dependent"])
def test_scatter(service, model):
    result = service.run(LatentScatterRequest(model, n=30))
    assert result.arrays["true"].shape == result.arrays["learned"].shape == (60, RECIPES[model].scene.n_latents)
    assert result.arrays["in_support"].sum() == 30
    assert len(result.arrays["pictures"]) == len(result.arrays["picture_of"]) <= 60


def test_figures(service):
    steps = []
    result = service.run(DecoderFiguresRequest("balls-l-additive", n=40), steps.append)
    assert {"lms_spearman", "lms_spearman_out", "rmse", "rmse_out", "lms_tree"} <= result.quality.keys()
    assert result.values["assumptions"]["off_block_hessian"] < 1e-9 and steps


@pytest.mark.parametrize("support", ["l", "corners", '{"mask": ["0110", "0010"]}'])
def test_supports_are_described_before_any_training(service, support):
    result = service.run(SupportRequest(support=support, n=20))
    raster, extension = result.arrays["raster"], result.arrays["extension"]
    assert raster.shape == (128, 128) and bool((extension | ~raster).all())
    assert result.values["components"] == (2 if support == "corners" else 1)
    assert service.run(SupportRequest(nonlinearity=0.0)).quality["nonlinearity_truth"] < 1e-3


def test_a_result_survives_its_file(service, tmp_path):
    result = service.run(DecodingRequest("balls-l-additive", grid=(2, 2)))
    assert Result.load(result.save(tmp_path)) == result


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (DecodingRequest("balls-nothing"), "model"),
        (DecodingRequest("digits-gap"), "model"),
        (DecodingRequest("balls-l-additive", method="masked"), "method"),
        (DecodingRequest("balls-l-additive", method="nothing"), "method"),
        (DecodingRequest("balls-l-additive", grid=(9,)), "grid"),
        (DecodingRequest("balls-l-additive", grid=(0, 9)), "grid"),
        (DecodingRequest("balls-l-additive", grid=(9, 1000)), "grid"),
        (DecodingRequest("balls-l-additive", params=(("reach", 50.0),)), "reach"),
        (DecodingRequest("balls-l-additive", params=(("reach", float("nan")),)), "reach"),
        (DecodingRequest("balls-l-additive", params=(("colour", 1),)), "colour"),
        (DecodingRequest("balls-l-additive", params=(("row_block", 1),)), "row_block"),
        (DecodingRequest("balls-l-additive", params=(("column_block", 3),)), "row_block"),
        (BlockTableRequest("balls-l-additive", size=1), "size"),
        (LatentScatterRequest("balls-l-additive", n=0), "n"),
        (DecoderFiguresRequest("balls-l-additive", n=10**6), "n"),
        (SupportRequest(support="nothing"), "support"),
        (SupportRequest(support='{"mask": ["00"]}'), "support"),
        (SupportRequest(shapes=("ball",) * 50), "shapes"),
        (SupportRequest(radius=0.9), "radius"),
        (SupportRequest(nonlinearity=7.0), "nonlinearity"),
        (SupportRequest(n=1), "n"),
        (AttributionRequest("0" * 64, "balls-l-additive", "ig"), "image|model"),
    ],
    ids=str,
)
def test_bad_requests_are_refused_with_one_sentence(service, request_, field):
    with pytest.raises(BadInput) as refusal:
        service.run(request_)
    assert refusal.value.field in field.split("|") and "\n" not in refusal.value.sentence


@pytest.mark.parametrize("request_", [DecodingRequest("m", params=(("reach", 1.5),)), SupportRequest(free=("x", "y"))])
def test_requests_survive_json(request_):
    assert request_from_json(json.loads(json.dumps(request_to_json(request_)))) == request_


@pytest.mark.parametrize(
    "changes", [{"grid": "9x9"}, {"grid": [1.5, 2]}, {"seed": -1}, {"grid": [True, 2]}, {"size": 3}]
)
def test_fields_of_the_wrong_type_are_refused(changes):
    with pytest.raises(BadInput) as refusal:
        request_from_json({"family": "additive_decoding", "model": "balls-l-additive", **changes})
    assert refusal.value.field in changes


# ----------------------------------------------------------------- evaluation
def test_evaluation_goes_on_after_the_last_seed(folder):
    library, state, saved = Library(weights_folder=folder), {}, []
    for seed in (0, 1):
        train("balls-l-additive", seed, folder=folder, recipe=tiny("balls-l-additive"))
    first = evaluate.evaluate(
        "balls-l-additive", library.load, 2, 40, state=state, save_state=lambda s: saved.append(len(s))
    )
    assert saved == [1, 2] and len(first["rows"]) == 2
    again = evaluate.evaluate("balls-l-additive", library.load, 2, 40, state=state)
    assert again["rows"] == first["rows"]
    values = [row["rmse"] for row in first["rows"]]
    assert first["rmse"] == pytest.approx(np.mean(values)) and first["range"]["rmse"] == [min(values), max(values)]
    assert 0 <= first["share_of_starts_failed"] <= 1 and first["best"] in DECODERS
    assert json.dumps(first)
    with pytest.raises(BadInput, match="seeds is 0"):
        evaluate.evaluate("balls-l-additive", library.load, 0)
    with pytest.raises(BadInput, match="n is 1"):
        evaluate.evaluate("balls-l-additive", library.load, 1, n=1)


@pytest.mark.parametrize("path", sorted(evaluate.EVALUATIONS.glob("additive_decoding-*.json")), ids=lambda p: p.stem)
def test_evaluations_that_ship_are_of_the_weights_that_ship(path):
    table = json.loads(path.read_text())
    for row in table["rows"]:
        assert row["digest"] == json.loads((WEIGHTS / f"{row['key']}.json").read_text())["sha256"]
    assert evaluate.stored(table["model"]) == table


# ----------------------------------------------------------------- jobs and the command line
@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    monkeypatch.setattr(jobs, "default_queue", lambda: jobs.JobQueue(tmp_path / "jobs"))
    return tmp_path


def test_a_visitors_training_becomes_a_model(home):
    queue = jobs.default_queue()
    support = json.dumps({"mask": ["11", "10"]})
    recipe = dataclasses.replace(tiny("balls-l-additive"), support=support)
    args = {"family": "additive_decoding", "name": "yours", "seed": 0, "recipe": recipe.to_json()}
    job = queue.submit("train", args)
    card = queue.attach(job)
    assert card["recipe"]["support"] == support
    result = LocalService().run(DecodingRequest(f"job-{job}", grid=(3, 3)))
    assert result.arrays["grid"].shape == (3, 3, 16, 16, 3) and result.provenance.model_digest == card["sha256"]
    with pytest.raises(BadInput, match="trained no model"):
        LocalService().run(DecodingRequest("job-nothing"))


def test_a_bad_recipe_fails_with_its_sentence(home):
    queue = jobs.default_queue()
    body = {**tiny("balls-l-additive").to_json(), "support": '{"mask": ["00"]}'}
    with pytest.raises(BadInput, match="empty") as refusal:
        queue.attach(queue.submit("train", {"family": "additive_decoding", "name": "yours", "seed": 0, "recipe": body}))
    assert refusal.value.field == "support"


def test_training_goes_to_the_package_that_knows_the_name(monkeypatch):
    called = []
    monkeypatch.setattr("backend.additive_decoding.train.job", lambda args, _: called.append(args["name"]))
    training.job({"name": "balls-four", "seed": 0}, None)
    training.job({"name": "balls-l-additive-paper", "seed": 0}, None)
    assert called == ["balls-four", "balls-l-additive-paper"]
    with pytest.raises(BadInput, match="balls-four"):
        training.job({"name": "nothing", "seed": 0}, None)


def test_the_command_line_draws_a_grid_and_evaluates(home, capsys):
    (home / "request.json").write_text(
        json.dumps({"family": "additive_decoding", "method": "additive", "model": "balls-l-additive", "grid": [5, 4]})
    )
    assert main(["run", str(home / "request.json"), "--out", str(home / "out")]) == 0
    with np.load(home / "out" / "result.npz") as file:
        assert file["grid"].shape == (5, 4, 64, 64, 3) and {"blocks_0", "blocks_1", "latents"} <= set(file.files)
    capsys.readouterr()
    assert main(["evaluate", "additive_decoding", "--model", "balls-l-additive", "--n", "60", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert table["lms_spearman"] > 99 and table["lms_spearman_out"] > 95 and table["rmse"] < 0.04
    assert main(["evaluate", "additive_decoding", "--model", "digits-gap", "--json"]) == 2
    assert capsys.readouterr().err.startswith("prism: model: ")
