"""Strips, bottlenecks and masks of several people computed as one: equal answers, own progress, nobody harmed.

Tolerances: a batch is not summed up in the order of its items, so frames may be one level of 255 apart, and maps and
curves 1e-3 of their largest value (ten steps of Adam make more of a rounding error than one pass does).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backend.additive_image import run as strips
from backend.contracts import AttributionRequest, ImagePathRequest, PairMapRequest, Request, Result, digest
from backend.errors import Cancelled, OutOfMemory
from backend.image_text import run as pairs
from backend.images import encode_png
from backend.limits import Limits
from backend.models.library import Library
from backend.path_attribution import run as maps
from backend.runtime import Runtime
from backend.service import LocalService
from tests.helpers_service import ask_at_once, companions
from tests.pairs import pair_service

pytestmark = pytest.mark.usefixtures("one_thread")
PICTURES = [encode_png(np.random.default_rng(seed).random((28, 28, 1))) for seed in range(3)]
IDS = [digest(data) for data in PICTURES]
STRIPS = [
    ImagePathRequest("squares", rows=(3, 7), frames=9),
    ImagePathRequest("squares", rows=(20, 5), frames=9, params=(("reach", 0.25),)),
    ImagePathRequest("squares", image_ids=(IDS[0], IDS[1]), frames=9, seed=4),
]
TEXTS = ("Small nodule in the right lung.", "No effusion.", "Lungs are clear in the left lung.")
PAIRS = [PairMapRequest(image, text, seed=seed) for seed, (image, text) in enumerate(zip(IDS, TEXTS, strict=True))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    pair_service(folder)
    return folder


def service_of(weights: Path | None = None, **limits: int) -> LocalService:
    """weights: of tiny pairs in place of the shipped models."""
    limits = Limits(**limits)
    library = Library() if weights is None else Library(weights_folder=weights)
    service = LocalService(Runtime("cpu", limits=limits), library, limits)
    for data in PICTURES:
        service.put_image(data)
    return service


def assert_equal_answers(one: Result, other: Result) -> None:
    """Equal but for rounding, the time that it took and the note that it was computed together."""
    assert one.request == other.request and set(one.arrays) == set(other.arrays)
    for name, ours in one.arrays.items():
        theirs = other.arrays[name]
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, name
        if ours.dtype in (np.uint8, bool):
            assert np.abs(ours.astype(int) - theirs).max() <= 1, name
        else:
            scale = max(1e-6, np.nanmax(np.abs(theirs), initial=0.0))
            assert np.nanmax(np.abs(ours - theirs), initial=0.0) <= 1e-3 * scale, name
    assert set(one.values) == set(other.values) and set(one.quality) == set(other.quality)
    for name, value in other.quality.items():
        assert one.quality[name] == (None if value is None else pytest.approx(value, rel=1e-2, abs=1e-4)), name
    assert one.provenance.forward_passes == other.provenance.forward_passes
    assert one.provenance.backward_passes == other.provenance.backward_passes


def alone(requests: list[Request], weights: Path | None = None) -> list[Result]:
    service = service_of(weights, max_together=1)
    return [service.run(request) for request in requests]


# ----------------------------------------------------------------- strips
@pytest.mark.parametrize("model", ["squares", "colours"])
def test_strips_are_those_drawn_alone(model):
    requests = [replace(request, model=model, params=(*request.params, ("n_steps", 4))) for request in STRIPS]
    askers = ask_at_once(service_of(), requests)
    for asker, by_itself in zip(askers, alone(requests), strict=True):
        assert companions(asker.result) == ["computed together with 2 more: last digits may differ"]
        assert_equal_answers(asker.result, by_itself)


def test_random_noise_of_a_strip_follows_its_own_seed():
    requests = [
        replace(request, model="colours", params=(("stochastic", "random"), ("n_steps", 4))) for request in STRIPS
    ]
    for asker, by_itself in zip(ask_at_once(service_of(), requests), alone(requests), strict=True):
        assert len(companions(asker.result)) == 1
        assert_equal_answers(asker.result, by_itself)


def test_everybody_sees_the_frames_of_the_own_strip_and_who_leaves_harms_nobody():
    heard: dict[int, list] = {n: [] for n in range(3)}

    def leave(step) -> None:
        heard[0].append(step)
        if step.partial is not None and step.partial.arrays["is_ready"].any():
            raise Cancelled

    askers = ask_at_once(service_of(), STRIPS, {0: leave, 1: heard[1].append, 2: heard[2].append})
    assert isinstance(askers[0].error, Cancelled) or askers[0].result is not None  # it may have been over before
    for n in (1, 2):
        seen = [step.partial for step in heard[n] if step.partial is not None]
        assert seen and {partial.request for partial in seen} == {askers[n].result.request}
        assert_equal_answers(askers[n].result, alone([STRIPS[n]])[0])


def test_only_strips_of_equal_steps_and_length_go_together():
    others = [
        STRIPS[0],
        replace(STRIPS[1], params=(("n_steps", 7),)),
        replace(STRIPS[1], frames=11),
        replace(STRIPS[1], params=(("stochastic", "zero"),)),
        STRIPS[2],
    ]
    found = [len(companions(asker.result)) for asker in ask_at_once(service_of(), others)]
    assert found == [1, 0, 0, 0, 1]


def test_as_many_strips_go_together_as_one_call_may_hold():
    service = service_of()
    context = type("Context", (), {"library": service.library, "runtime": service.runtime})
    in_one_call = service.runtime.chunk_size(32, 32)
    assert strips.together(context, STRIPS[0])[1] == service.limits.max_together
    assert strips.together(context, replace(STRIPS[0], frames=33))[1] == in_one_call // 33
    assert strips.together(context, replace(STRIPS[0], model="hosts", frames=33)) == (None, 1)  # one fills it
    assert strips.together(context, replace(STRIPS[0], frames=129))[0] is None


def test_if_the_memory_does_not_reach_half_of_them_go_together(monkeypatch):
    asked: list[int] = []
    together = strips.run_together

    def cramped(context, requests):
        asked.append(len(requests))
        if len(requests) > 2:
            raise OutOfMemory("the device is full")
        return together(context, requests)

    monkeypatch.setattr(strips, "run_together", cramped)
    requests = [replace(STRIPS[0], seed=seed, rows=(seed, 9)) for seed in range(4)]
    askers = ask_at_once(service_of(), requests)
    assert asked == [4, 2, 2]
    assert [len(companions(asker.result)) for asker in askers] == [1, 1, 1, 1]


def test_a_full_device_halves_the_frames_drawn_at_once(monkeypatch):
    """In the middle of a batch of several people's frames, as for one person's."""
    service = service_of()
    service.run(STRIPS[0])
    module = service.runtime.loaded["squares-dae"].module
    decode, sizes = module.decode, []

    def cramped(codes, *rest):
        if len(codes) > 6:
            raise torch.OutOfMemoryError("full")
        sizes.append(len(codes))
        return decode(codes, *rest)

    monkeypatch.setattr(module, "decode", cramped)
    requests = [replace(STRIPS[1], rows=(2, 8)), replace(STRIPS[1], rows=(4, 11))]
    for asker, by_itself in zip(ask_at_once(service, requests), alone(requests), strict=True):
        assert any("out of memory" in note for note in asker.result.provenance.notes)
        assert len(companions(asker.result)) == 1
        assert_equal_answers(asker.result, by_itself)
    assert max(sizes) <= 6


# ----------------------------------------------------------------- bottlenecks
@pytest.mark.parametrize("method", ["m2ib", "m2ib-contrast"])
def test_bottlenecks_are_those_closed_alone(weights, method):
    requests = [replace(request, method=method) for request in PAIRS]
    askers = ask_at_once(service_of(weights), requests)
    for asker, by_itself in zip(askers, alone(requests, weights), strict=True):
        assert companions(asker.result) == ["computed together with 2 more: last digits may differ"]
        assert_equal_answers(asker.result, by_itself)


def test_only_bottlenecks_of_equal_settings_go_together(weights):
    others = [
        PAIRS[0],
        replace(PAIRS[1], params=(("beta", 0.5),)),
        replace(PAIRS[1], modality="text"),
        replace(PAIRS[1], model="scenes-clip"),
        replace(PAIRS[1], method="chefer"),
        PAIRS[2],
    ]
    found = [len(companions(asker.result)) for asker in ask_at_once(service_of(weights), others)]
    assert found == [1, 0, 0, 0, 0, 1]


def test_who_leaves_a_bottleneck_harms_nobody(weights):
    heard: list = []

    def leave(step) -> None:
        if step.done > 2:
            raise Cancelled

    requests = [replace(request, params=(("n_steps", 20),)) for request in PAIRS]
    askers = ask_at_once(service_of(weights), requests, {1: leave, 2: heard.append})
    assert isinstance(askers[1].error, Cancelled) or askers[1].result is not None
    assert any(step.message == "closing the bottleneck" and step.done for step in heard)
    for n in (0, 2):
        assert_equal_answers(askers[n].result, alone([requests[n]], weights)[0])


def test_bottlenecks_go_together_as_a_reports_sentences_do(weights):
    service = service_of(weights)
    context = type("Context", (), {"runtime": service.runtime, "model": lambda key, task: pair})
    pair = type("Pair", (), {"input_size": (224, 224)})
    request = replace(PAIRS[0], params=(("samples", 10),))
    assert pairs.together(context, request)[1] == 4
    service.runtime.device = torch.device("cuda")  # has room for more in one call
    assert pairs.together(context, request)[1] == service.runtime.limits.chunk_pixels_gpu // 224**2 // 10
    assert pairs.together(context, replace(request, method="saliency"))[0] is None


# ----------------------------------------------------------------- masks
MASKED = [AttributionRequest(i, "digits-gap", "rise", n, params=(("samples", 150),)) for n, i in enumerate(IDS)]


def test_masks_go_together_on_a_device_that_they_leave_idle():
    """A CPU has nothing to gain; a GPU does, where many small pictures fit in one call."""
    service = service_of()
    context = type("Context", (), {"library": service.library, "runtime": service.runtime})
    assert maps.together(context, MASKED[0]) == (None, 1)
    service.runtime.device = torch.device("cuda")
    group, at_most = maps.together(context, MASKED[0])
    assert group == maps.together(context, replace(MASKED[1], target=None))[0] and at_most == 16
    assert maps.together(context, replace(MASKED[0], seed=1))[0] != group  # other masks
    large = replace(MASKED[0], model="timm:resnet50.a1_in1k")
    assert maps.together(context, large)[1] == 2


def test_masks_shared_by_several_give_the_maps_of_each_alone(monkeypatch):
    monkeypatch.setattr(maps, "_points_at_once", lambda context, request: 64)  # as on a GPU
    heard: dict[int, list] = {0: [], 2: []}
    requests = [replace(request, baseline=("black", "white")) for request in MASKED]

    def leave(step) -> None:
        if step.done > 64:
            raise Cancelled

    askers = ask_at_once(service_of(), requests, {0: heard[0].append, 1: leave, 2: heard[2].append})
    assert isinstance(askers[1].error, Cancelled) or askers[1].result is not None
    monkeypatch.undo()
    for n, by_itself in ((0, alone([requests[0]])[0]), (2, alone([requests[2]])[0])):
        assert companions(askers[n].result) == ["computed together with 2 more: last digits may differ"]
        assert_equal_answers(askers[n].result, by_itself)
        assert by_itself.provenance.forward_passes == 300
        seen = [step.partial for step in heard[n] if step.partial is not None]
        assert {partial.request for partial in seen} == {askers[n].result.request}
        np.testing.assert_allclose(seen[-1].arrays["attribution"], by_itself.arrays["attribution"], rtol=1e-4)
