"""Requests of several people computed as one: equal answers, everybody hears of it, nobody depends on the others."""

from dataclasses import replace

import numpy as np
import pytest

from backend.contracts import AttributionRequest, Result, digest
from backend.errors import BadInput, Cancelled, ModelFault
from backend.images import encode_png
from backend.limits import Limits
from backend.path_attribution import run, samp
from backend.runtime import Runtime
from backend.service import LocalService
from tests.helpers import make_problem, random_images, tiny_cnn
from tests.helpers_service import ask_at_once, companions

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURES = [encode_png(np.random.default_rng(seed).random((28, 28, 1))) for seed in range(5)]
MAPS = [AttributionRequest(digest(data), "digits-gap", "samp", target=n) for n, data in enumerate(PICTURES)]


def service_of(**limits) -> LocalService:
    limits = Limits(**limits)
    service = LocalService(Runtime("cpu", limits=limits), limits=limits)
    for data in PICTURES:
        service.put_image(data)
    return service


@pytest.fixture(scope="module")
def alone() -> list[Result]:
    service = service_of(max_together=1)
    return [service.run(request) for request in MAPS]


@pytest.mark.parametrize("method", ["samp", "samp++"])
def test_answers_are_those_computed_alone(method):
    requests = [replace(request, method=method, baseline=("black", "blur:2")) for request in MAPS[:3]]
    single = service_of(max_together=1)
    expected = [single.run(request) for request in requests]
    for asker, by_itself in zip(ask_at_once(service_of(), requests), expected, strict=True):
        assert companions(asker.result) == ["computed together with 2 more: last digits may differ"]
        assert asker.result.request == by_itself.request
        ours, theirs = asker.result.arrays["attribution"], by_itself.arrays["attribution"]
        assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
        for name, value in by_itself.values.items():
            is_number = isinstance(value, float)
            assert asker.result.values[name] == (pytest.approx(value, rel=1e-4) if is_number else value)
        assert asker.result.quality["completeness_gap"] == pytest.approx(
            by_itself.quality["completeness_gap"], abs=1e-4
        )
        passes = asker.result.provenance.forward_passes
        assert passes == asker.result.provenance.backward_passes
        assert passes == pytest.approx(by_itself.provenance.forward_passes, rel=0.1)


def test_who_asks_alone_waits_for_nobody_and_differs_in_nothing(alone):
    service = service_of()
    for request, expected in zip(MAPS, alone, strict=True):
        answer = service.run(request)
        assert companions(answer) == []
        assert np.array_equal(answer.arrays["attribution"], expected.arrays["attribution"])
        assert answer.provenance.forward_passes == expected.provenance.forward_passes


def test_only_equal_settings_go_together():
    others = [MAPS[0], replace(MAPS[1], params=(("lam", 0.25),)), replace(MAPS[2], baseline="white"), MAPS[3]]
    found = [companions(asker.result) for asker in ask_at_once(service_of(), others)]
    assert found == [["computed together with 1 more: last digits may differ"], [], [], found[0]]


def test_other_methods_and_other_kinds_are_computed_alone():
    service = service_of()
    request = MAPS[0]
    context = type("Context", (), {"library": service.library, "runtime": service.runtime})
    for name in ("ig", "rise"):
        assert run.together(context, replace(request, method=name))[0] is None
    ordered = replace(request, params=(("integrator", "ordered"),))
    assert run.together(context, ordered)[0] is None
    group, at_most = run.together(context, request)
    assert group == run.together(context, replace(request, image_id="other", target=None))[0]
    assert at_most == service.limits.max_together


def test_groups_are_bounded():
    askers = ask_at_once(service_of(max_together=2), MAPS)
    assert sorted(len(companions(asker.result)) for asker in askers) == [0, 1, 1, 1, 1]


def test_everybody_hears_the_steps_and_who_leaves_harms_nobody(alone):
    heard: dict[int, list] = {n: [] for n in range(3)}

    def leave(step) -> None:
        heard[0].append(step)
        if step.done > 3:
            raise Cancelled

    on_steps = {0: leave, 1: heard[1].append, 2: heard[2].append}
    askers = ask_at_once(service_of(), MAPS[:3], on_steps)
    assert isinstance(askers[0].error, Cancelled) or askers[0].result is not None  # it may have been over before
    for n in (1, 2):
        assert any(step.message == "SAMP" and step.done for step in heard[n])
        assert np.allclose(askers[n].result.arrays["attribution"], alone[n].arrays["attribution"], atol=1e-3)


def test_one_bad_request_does_not_spoil_the_others(monkeypatch):
    """What cannot be computed together is computed one by one, and only the bad one fails."""

    def refuse(context, requests):
        raise ModelFault("one of them is not a number")

    monkeypatch.setattr(run, "run_together", refuse)
    wrong = replace(MAPS[1], target=99)
    askers = ask_at_once(service_of(), [MAPS[0], wrong, MAPS[2]])
    assert [type(asker.error) for asker in askers] == [type(None), BadInput, type(None)]
    assert [companions(asker.result) for asker in (askers[0], askers[2])] == [[], []]


def test_a_wrong_target_among_good_ones_is_refused_alone():
    askers = ask_at_once(service_of(), [MAPS[0], replace(MAPS[1], target=99), MAPS[2]])
    assert [type(asker.error) for asker in askers] == [type(None), BadInput, type(None)]
    assert "classes are 0..9" in askers[1].error.sentence


@pytest.mark.parametrize("eta", [None, 0.05])
def test_passes_are_counted_for_each_image(eta):
    images = random_images(3, 1, 6, 6)
    images[1, :, :, :3] = 0.0  # less to move: arrives earlier
    problem = make_problem(tiny_cnn(), images)
    together = samp.attribute(problem, s=4, eta=eta).passes
    each = [samp.attribute(make_problem(tiny_cnn(), images[i : i + 1]), s=4, eta=eta).passes for i in range(3)]
    assert together[0] == each[0] and together[1] <= together[0]
    assert together[1] >= each[1]  # it may be asked for until somebody looks who has arrived
