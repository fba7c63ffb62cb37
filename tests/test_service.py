"""The service: one flight for equal requests, latest wins, cancel that stops, results that come back equal."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from backend.contracts import AttributionRequest, FaithfulnessRequest, PredictionRequest, Result, request_from_json
from backend.contracts import request_to_json as to_json
from backend.errors import BadInput, Cancelled, OutOfMemory, PrismError, Superseded
from backend.images import encode_png
from backend.limits import Limits
from backend.service import LocalService
from tests.helpers_service import Asker, CountingLibrary, service_with
from tests.waiting import wait_until

PICTURE = encode_png(np.random.default_rng(0).random((12, 12, 1)))


@pytest.fixture
def library() -> CountingLibrary:
    return CountingLibrary()


@pytest.fixture
def service(library) -> LocalService:
    return service_with(library)


def ask(service: LocalService, **changes) -> AttributionRequest:
    image = service.put_image(PICTURE)
    return replace(AttributionRequest(image.id, "tiny", "ig"), **changes)


def test_second_identical_request_runs_no_model(service, library):
    first = service.run(ask(service))
    calls = library.network.calls
    second = service.run(ask(service))
    assert calls > 0 and library.network.calls == calls
    assert second is first


def test_defaults_spelled_out_are_the_same_request(service, library):
    service.run(ask(service))
    calls = library.network.calls
    service.run(ask(service, params=(("n_steps", 50),), baseline=("black", "black")))
    assert library.network.calls == calls


def test_equal_requests_under_way_are_one_flight(service, library):
    library.network.delay_s = 0.02
    request = ask(service, params=(("n_steps", 200),))
    results: list[Result] = []
    threads = [threading.Thread(target=lambda: results.append(service.run(request))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(result is results[0] for result in results)
    assert results[0].provenance.forward_passes == 202  # 200 steps and both ends, once for all four


def test_newer_request_of_a_session_takes_the_olders_place(service, library):
    library.network.delay_s = 0.05
    older = Asker(service, ask(service, method="rise", params=(("samples", 20000),)), "me")
    wait_until(lambda: library.network.calls > 0)
    library.network.delay_s = 0.0
    newer = service.run(ask(service, seed=1), session="me")
    older.join(timeout=10)
    assert isinstance(older.error, Superseded)
    assert newer.request.seed == 1


def test_who_is_cancelled_is_told_so_and_not_of_a_newer_request(service, library):
    library.network.delay_s = 0.05
    asker = Asker(service, ask(service, method="rise", params=(("samples", 20000),)), "me")
    wait_until(lambda: library.network.calls > 0)
    service.cancel("somebody else")
    service.cancel("me")
    asker.join(timeout=10)
    assert type(asker.error) is Cancelled
    assert asker.error.sentence == "Cancelled."
    library.network.delay_s = 0.0
    assert service.run(ask(service), session="me").arrays


def test_cancel_stops_the_model(service, library):
    library.network.delay_s = 0.01

    def on_step(_):
        raise Cancelled

    with pytest.raises(Cancelled):
        service.run(ask(service, method="rise", params=(("samples", 20000),)), on_step)
    wait_until(lambda: not service._flights)
    calls = library.network.calls
    time.sleep(0.1)
    assert library.network.calls == calls


@pytest.mark.parametrize(("method", "samples"), [("rise", 400), ("smoothgrad", 40)])
def test_maps_on_their_way_are_handed_out(service, library, method, samples):
    """Over two baselines where the method has any; the last map on its way is the answer."""
    library.network.delay_s = 0.005
    service.runtime.chunk_size = lambda *_: 8  # SmoothGrad's noisy copies in five batches
    request = ask(service, method=method, params=(("samples", samples),), baseline=("black", "white"))
    seen: list[Result] = []

    def on_step(step):
        if step.partial is not None and all(step.partial is not other for other in seen):
            seen.append(step.partial)

    answer = service.run(request, on_step)
    maps = [partial.arrays["attribution"] for partial in seen]
    assert len(maps) >= 2 and not np.array_equal(maps[0], maps[1])
    assert all(m.shape == answer.arrays["attribution"].shape and np.isfinite(m).all() for m in maps)
    assert {partial.unit for partial in seen} == {answer.unit}
    far = [float(np.abs(m - answer.arrays["attribution"]).max()) for m in (maps[0], maps[-1])]
    assert far[1] < far[0]


def test_one_callers_leaving_does_not_stop_the_others(service, library):
    library.network.delay_s = 0.02
    request = ask(service, params=(("n_steps", 300),))
    results = []
    stays = threading.Thread(target=lambda: results.append(service.run(request)))
    stays.start()
    wait_until(lambda: library.network.calls > 0)

    def leave(_):
        raise Cancelled

    with pytest.raises(Cancelled):
        service.run(request, leave)
    stays.join(timeout=20)
    assert len(results) == 1


def test_models_load_once_for_everybody(service, library):
    for seed in range(3):
        service.run(ask(service, method="smoothgrad", seed=seed))
    assert library.loads == 1


def test_least_recently_used_model_makes_room():
    library = CountingLibrary(keys=("one", "two", "three"))
    service = service_with(library, Limits(model_bytes=2 * library.nbytes + 10))
    for key in ("one", "two", "one", "three"):
        service.run(replace(ask(service), model=key))
    assert set(service.runtime.loaded) == {"one", "three"}


def test_out_of_memory_halves_the_chunk_and_says_so(service, library):
    whole = service.run(ask(service))
    library.network.most_at_once = 3
    service.result_store.clear()
    halved = service.run(ask(service))
    assert any("ran out of memory" in note for note in halved.provenance.notes)
    np.testing.assert_allclose(halved.arrays["attribution"], whole.arrays["attribution"], atol=1e-6)


def test_not_even_one_image_fits(service, library):
    library.network.most_at_once = 0
    with pytest.raises((OutOfMemory, PrismError)):
        service.run(ask(service))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "nothing"}, "model"),
        ({"method": "nothing"}, "method"),
        ({"target": 99}, "target"),
        ({"target": -1}, "target"),
        ({"baseline": ("purple",)}, "baseline"),
        ({"baseline": ("blur:-1",)}, "baseline"),
        ({"params": (("n_steps", 0),)}, "n_steps"),
        ({"params": (("n_steps", "many"),)}, "n_steps"),
        ({"params": (("n_steps", float("nan")),)}, "n_steps"),
        ({"params": (("unheard", 1),)}, "unheard"),
        ({"image_id": "0" * 64}, "image"),
    ],
)
def test_bad_requests_are_refused_before_any_model_runs(service, library, changes, field):
    with pytest.raises(BadInput) as caught:
        service.run(ask(service, **changes))
    assert caught.value.field == field
    assert library.network.backward_ready == 0


def test_class_zero_is_a_class(service):
    assert service.run(ask(service, target=0)).values["target"] == 0


def test_results_come_back_equal_from_disk(service, tmp_path):
    result = service.run(ask(service))
    result.save(tmp_path)
    assert Result.load(tmp_path) == result


def test_requests_come_back_equal_from_json(service):
    request = FaithfulnessRequest((ask(service), ask(service, method="samp++", params=(("eta", 0.05),))), steps=10)
    assert request_from_json(to_json(request)) == request
    assert hash(request_from_json(to_json(request))) == hash(request)


def test_faithfulness_reuses_the_stored_attributions(service, library):
    requests = (ask(service), ask(service, method="saliency"))
    for request in requests:
        service.run(request)
    calls = library.network.gradients
    result = service.run(FaithfulnessRequest(requests, steps=6))
    assert library.network.gradients == calls
    assert result.arrays["deletion_logit"].shape == (2, 7)


def test_prediction_names_the_top_classes(service):
    image = service.put_image(PICTURE)
    top = service.run(PredictionRequest(image.id, "tiny")).values["top"]
    assert [row["logit"] for row in top] == sorted((row["logit"] for row in top), reverse=True)
