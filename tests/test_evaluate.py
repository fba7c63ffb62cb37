"""The evaluation on tiny nets: the same table however it is interrupted, and numbers that can be checked by hand."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from backend.catalog import METHODS, ModelSpec
from backend.errors import BadInput, Cancelled, NotAvailable
from backend.models.classifier import Classifier, LoadedClassifier
from backend.path_attribution import evaluate as ev
from backend.path_attribution.data import LabelledImages
from backend.path_attribution.problem import Explanation
from backend.runtime import Runtime
from tests.helpers import tiny_cnn

SPEC = ModelSpec("tiny", "Tiny", "prism:tiny", "embedded", ("a", "b", "c"), (6, 6), channels="L")


class Sum(nn.Module):
    """Logits: the sum of the left half, of the right half, and zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = x[..., :3].flatten(1).sum(1), x[..., 3:].flatten(1).sum(1)
        return torch.stack([left, right, torch.zeros_like(left)], 1)


def load(network: nn.Module) -> LoadedClassifier:
    return LoadedClassifier(SPEC, Classifier(network), "0" * 64)


def data(n: int = 7, masks: bool = True) -> LabelledImages:
    random = np.random.default_rng(0)
    images = random.integers(1, 255, (n, 1, 6, 6), dtype=np.uint8)
    mask = np.zeros((n, 6, 6), dtype=bool)
    mask[:, :, :3] = True
    return LabelledImages(images, np.zeros(n, dtype=np.int64), mask if masks else None)


def exact(problem, **_) -> Explanation:
    """The exact attribution of `Sum` for class 0."""
    inside = torch.zeros_like(problem.images)
    inside[..., :3] = 1.0
    problem.score_and_gradient(problem.images, problem.targets)
    attribution = (problem.images - problem.baselines) * inside
    return Explanation(attribution, explained_change=attribution.flatten(1).sum(1))


def noise(problem, **_) -> Explanation:
    return Explanation(torch.rand(problem.images.shape, generator=problem.generator))


def refuse(problem, **_) -> Explanation:
    raise NotAvailable("this network has no pooled head")


FAKES = {"samp++": exact, "ig": noise, "cam": refuse}


@pytest.fixture
def fakes(monkeypatch):
    monkeypatch.setattr(ev, "implementation", lambda spec: FAKES[spec.key])
    rows = tuple(ev._row(key, key) for key in FAKES)
    return ev.Plan(rows, steps=6, fractions=(0.1, 0.5), subsets=12, ours="samp++")


def measure(plan, runtime=None, batch=3, **more):
    return ev.measure(load(Sum()), data(), plan, "black", 0, runtime or Runtime("cpu"), batch=batch, **more)


def test_table_holds_what_the_metrics_say(fakes):
    measured = measure(fakes)
    table = ev.tabulate(fakes, [ev.Run("tiny", "0" * 64, tuple(range(7)), measured)])
    ours, theirs = table["rows"]
    assert ours["metrics"]["relative_gap"]["mean"] == pytest.approx(0, abs=1e-6)
    assert ours["metrics"]["mass_absolute"]["mean"] == ours["metrics"]["pointing"]["mean"] == 1.0
    assert ours["metrics"]["sensitivity_0.5"]["mean"] == pytest.approx(1.0, abs=1e-5)
    assert ours["metrics"]["forward"]["mean"] == ours["metrics"]["backward"]["mean"] == 1.0
    assert ours["metrics"]["deletion_ratio"]["n"] == 7
    assert "completeness_gap" not in theirs["metrics"] and theirs["metrics"]["forward"]["mean"] == 0
    assert ours["metrics"]["deletion_ratio"]["mean"] < theirs["metrics"]["deletion_ratio"]["mean"]
    assert table["not_applicable"] == [{"name": "cam", "method": "cam", "reason": "this network has no pooled head"}]
    # Black images score 0 for class 0, so ratio and normalised are the same thing here.
    for mode in ("deletion", "insertion"):
        assert ours["metrics"][f"{mode}_ratio"] == pytest.approx(ours["metrics"][f"{mode}_normalised"])
    assert [c["better"] for c in table["columns"][:2]] == ["lower", "higher"]
    json.dumps(table, allow_nan=False)


def test_paired_differences_are_those_of_the_images(fakes):
    measured = measure(fakes)
    table = ev.tabulate(fakes, [ev.Run("tiny", "", tuple(range(7)), measured)])
    ours, theirs = (np.array(measured["rows"][name]["insertion_ratio"]) for name in ("samp++", "ig"))
    (told,) = [p for p in table["paired"] if p["metric"] == "insertion_ratio"]
    assert (told["ours"], told["theirs"], told["n"]) == ("samp++", "ig", 7)
    assert told["mean"] == pytest.approx((ours - theirs).mean(), rel=1e-5)
    half = 2.446912 * (ours - theirs).std(ddof=1) / math.sqrt(7)  # t(0.975, 6 degrees of freedom)
    assert told["high"] - told["mean"] == pytest.approx(half, rel=1e-3)
    assert "over_seeds" not in told


def test_seeds_are_pooled_and_paired_by_image(fakes):
    one = ev.Run("tiny", "", (0, 1, 2, 3, 4, 5, 6), measure(fakes))
    other = ev.Run("tiny-seed1", "", (10, 11, 12, 13, 14, 15, 16), measure(fakes))
    table = ev.tabulate(fakes, [one, other])
    assert table["rows"][0]["metrics"]["gini"]["n"] == 14
    assert table["paired"][0]["n"] == 14 and table["paired"][0]["over_seeds"]["n"] == 2
    again = ev.tabulate(fakes, [one, one])
    assert again["paired"][0]["n"] == 7  # the same image twice is one image


def test_an_interrupted_measurement_goes_on_where_it_was(fakes):
    whole = measure(fakes)
    saved = []

    def stop_after_first_batch(state):
        saved.append(json.loads(json.dumps(state)))
        if len(saved) == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        measure(fakes, save_state=stop_after_first_batch)
    assert saved[0]["done"] == 3
    resumed = measure(fakes, state=saved[0])
    for name in ("samp++", "ig"):
        for key, column in whole["rows"][name].items():
            if key != "seconds":
                assert column == resumed["rows"][name][key], (name, key)


def test_progress_ends_at_its_total_and_can_cancel(fakes):
    steps = []
    measure(fakes, on_step=steps.append)
    assert steps[-1].done <= steps[-1].total == 7 * 4
    assert all(a.done <= b.done for a, b in zip(steps, steps[1:], strict=False))

    def cancel(step):
        raise Cancelled

    with pytest.raises(Cancelled):
        measure(fakes, on_step=cancel)


def test_a_row_averages_over_its_own_baselines(monkeypatch):
    seen = []

    def constant(problem, **_):
        seen.append(problem.baselines.mean().item())
        return Explanation(problem.baselines.clone())

    monkeypatch.setattr(ev, "implementation", lambda spec: constant)
    plan = ev.Plan((ev._row("both", "ig", "black", "white"),), steps=0, fractions=())
    measured = measure(plan, batch=7)
    assert seen == [0.0, 1.0] and measured["rows"]["both"]["variance"] == [0.0] * 7


def test_masks_are_optional_and_nothing_is_swept_when_not_asked(fakes):
    plan = ev.Plan(fakes.rows[:1], steps=0, fractions=())
    measured = ev.measure(load(Sum()), data(masks=False), plan, "black", 0, Runtime("cpu"))
    keys = set(measured["rows"]["samp++"])
    assert keys == {"variance", "gini", "seconds", "forward", "backward", "completeness_gap", "relative_gap"}


def test_evaluate_takes_the_first_images_that_are_classified_correctly(fakes, monkeypatch):
    images = data(9)
    network = Sum()
    right = ev.is_correct(load(network), images, Runtime("cpu"))
    assert 0 < right.sum() < 9
    monkeypatch.setattr(ev, "held_out_images", lambda model: images)
    monkeypatch.setattr(ev, "preset", lambda name, methods: fakes)
    loads = []

    def load_model(key):
        loads.append(key)
        return load(network)

    result = ev.evaluate("tiny", load_model, Runtime("cpu"), n=2, seeds=2)
    assert loads == ["tiny", "tiny-seed1"]
    assert result["command"] == "python -m backend evaluate path_attribution --model tiny --n 2 --seeds 2 --json"
    assert [m["images"] for m in result["models"]] == [2, 2]
    json.dumps(result, allow_nan=False)
    with pytest.raises(BadInput, match="n is 0"):
        ev.evaluate("tiny", load_model, Runtime("cpu"), n=0)
    with pytest.raises(BadInput, match="baseline"):
        ev.evaluate("tiny", load_model, Runtime("cpu"), baseline="red")


def test_presets_name_methods_and_settings_that_exist():
    for name in ev.PRESETS:
        plan = ev.preset(name)
        assert len({row.name for row in plan.rows}) == len(plan.rows) > 1
        assert plan.about
        for row in plan.rows:
            assert METHODS[row.method].complete_params(row.params) == row.params
    assert [row.name for row in ev.preset("table", ["ig", "rise"]).rows] == ["ig", "rise"]
    assert ev.preset("table", ["ig"]).ours == ""
    assert (ev.preset("table").ours, ev.preset("study").ours) == ("samp++", "samp-joint")
    assert (ev.preset("search").half, ev.preset("study").half) == ("first", "second")
    with pytest.raises(BadInput, match="unknown preset"):
        ev.preset("figure6")
    with pytest.raises(BadInput, match="unknown method"):
        ev.preset("table", ["nonsense"])


def test_a_method_stands_in_a_plan_with_settings_of_its_own():
    plan = ev.preset("study", ["lrp", "lrp:composite=gamma", "samp++:eta=null:s=20"])
    assert [row.method for row in plan.rows] == ["lrp", "lrp", "samp++"]
    assert dict(plan.rows[1].params)["composite"] == "gamma"
    assert (dict(plan.rows[2].params)["eta"], dict(plan.rows[2].params)["s"]) == (None, 20)
    assert [ev._title(row) for row in plan.rows] == ["LRP", "LRP (composite=gamma)", "SAMP++ (eta=null, s=20)"]
    for wrong, field in (("lrp:composite=delta", "composite"), ("lrp:gamma", "gamma"), ("samp++:s=many", "s")):
        with pytest.raises(BadInput) as refusal:
            ev.preset("study", [wrong])
        assert refusal.value.field == field


def test_halves_do_not_overlap():
    first, second = ev._half("first", 1000), ev._half("second", 1000)
    assert (first[0], first[-1], second[0], second[-1]) == (0, 499, 500, 999)


def test_models_without_known_data_are_refused():
    with pytest.raises(BadInput, match="no test images"):
        ev.held_out_images("mine")
    assert len(ev.held_out_images("digits-gap-seed3")) == 1000


@pytest.mark.parametrize("key", ["samp", "samp++", "ig"])
def test_real_methods_go_through_the_bench(key):
    plan = ev.Plan((ev._row(key, key),), steps=4, fractions=(0.25,), subsets=5)
    measured = ev.measure(load(tiny_cnn()), data(4), plan, "blur:2", 0, Runtime("cpu"), batch=3)
    values = measured["rows"][key]
    assert not measured["dropped"] and len(values["deletion_probability"]) == 4
    assert all(v is None or math.isfinite(v) for column in values.values() for v in column)
    if key == "samp++":
        assert max(values["relative_gap"]) < 1e-4


def test_paper_table_has_its_source():
    table = ev.paper_table()
    assert "ICLR 2024" in table["citation"]
    (row,) = [r for r in table["rows"] if (r["method"], r["dataset"], r["metric"]) == ("SAMP++", "MNIST", "deletion")]
    assert (row["mean"], row["sd"]) == (-0.137, 0.151)


def test_stored_evaluations_say_how_they_were_made():
    for path in (ev.ASSETS / "evaluations").glob("path_attribution-*.json"):
        stored = json.loads(path.read_text())
        assert stored["command"].startswith("python -m backend evaluate path_attribution"), path.name
        assert stored["rows"] and stored["seconds"] > 0 and stored["machine"], path.name
        for model in stored["models"]:  # of the weights that ship, not of earlier ones
            card = json.loads((ev.ASSETS / "weights" / f"{model['key']}.json").read_text())
            assert model["digest"] == card["sha256"], (path.name, model["key"])
    assert ev.stored("no-such-model") is None
