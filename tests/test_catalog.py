"""Every row of the catalogue, on every kind of model it can meet: finite maps, repeatable, nothing left behind."""

import dataclasses

import numpy as np
import pytest
import torch

from backend.catalog import BASELINES, METHODS, check_baseline, examples_for
from backend.contracts import AttributionRequest
from backend.errors import BadInput, Cancelled
from backend.examples import example_bytes
from backend.path_attribution.run import implementation
from backend.service import LocalService

CHEAP = {  # fewer samples than the defaults: the tests run every method on every kind of model
    "rise": {"samples": 64},
    "lime": {"samples": 64, "segments": 12},
    "smoothgrad": {"samples": 4},
    "ig": {"n_steps": 8},
    "blur-ig": {"n_steps": 8},
    "guided-ig": {"n_steps": 8},
    "xrai": {"n_steps": 4},
    "samp": {"eta": None, "s": 200},
    "samp++": {"eta": 0.25, "s": 200},
    "samp-joint": {"eta": 0.25, "s": 200},
}
MODELS = ("digits-gap", "digits-fc", "objects-cnn", "objects-resnet", "objects-vit")


@pytest.fixture(scope="module")
def service() -> LocalService:
    return LocalService()


def picture(model: str, service: LocalService) -> str:
    """The model's first example: on noise, sparse methods rightly say nothing."""
    return service.put_image(example_bytes(examples_for(service.library.spec(model))[0].key)[0]).id


def ask(service: LocalService, model: str, key: str, **changes) -> AttributionRequest:
    params = tuple(sorted(CHEAP.get(key, {}).items()))
    return dataclasses.replace(AttributionRequest(picture(model, service), model, key, 1, params=params), **changes)


def state_of(module: torch.nn.Module) -> tuple:
    """What a method must leave as it was."""
    return (
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        [p.grad for p in module.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
        {name: tensor.clone() for name, tensor in module.state_dict().items()},
    )


def assert_as_found(module: torch.nn.Module, before: tuple) -> None:
    after = state_of(module)
    assert after[:4] == before[:4]
    assert all(torch.equal(after[4][name], before[4][name]) for name in before[4])


@pytest.mark.parametrize("key", METHODS)
def test_rows_resolve_and_have_valid_defaults(key):
    spec = METHODS[key]
    assert callable(implementation(spec))
    assert spec.summary.endswith(".") and spec.limits.endswith(".") and spec.source and spec.equation and spec.unit
    for param in spec.params:
        assert param.default is None and param.optional or param.check(param.default) == param.default
        assert param.default is not None or param.auto_help or param.name == "eta"
        assert param.help
    assert spec.complete_params({}) == spec.complete_params(dict(spec.complete_params({})))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("key", METHODS)
def test_every_method_on_every_model(service, key, model):
    loaded = service.runtime.model(model, lambda: service.library.load(model, "cpu", torch.float32))
    before = state_of(loaded.module)
    global_numbers = torch.random.get_rng_state()
    try:
        result = service.run(ask(service, model, key))
    except BadInput as refusal:
        assert refusal.field == "method" and refusal.sentence  # the control says why not
        assert key in ("cam", "deeplift", "lrp"), f"{key} must run on {model}: {refusal.sentence}"
        return
    finally:
        assert_as_found(loaded.module, before)
        assert torch.equal(torch.random.get_rng_state(), global_numbers), "drew from the global generator"
    attribution = result.arrays["attribution"]
    assert attribution.shape[0] in (1, loaded.spec.n_channels)
    assert attribution.shape[1:] == loaded.spec.input_size
    assert np.isfinite(attribution).all()
    assert np.ptp(attribution) > 0 or any("empty" in note for note in result.provenance.notes)
    assert METHODS[key].signed or attribution.min() >= -1e-6
    assert result.provenance.forward_passes > 0


@pytest.mark.parametrize("key", METHODS)
def test_same_seed_same_map(service, key):
    request = ask(service, "digits-gap", key, seed=3)
    first = service.run(request)
    service.result_store.clear()
    np.testing.assert_array_equal(service.run(request).arrays["attribution"], first.arrays["attribution"])


@pytest.mark.parametrize("key", METHODS)
def test_model_is_left_as_found_when_stopped_half_way(service, key):
    model = "digits-gap"
    loaded = service.runtime.model(model, lambda: service.library.load(model, "cpu", torch.float32))
    before = state_of(loaded.module)
    service.result_store.clear()
    calls = 0

    def stop(module, inputs):
        nonlocal calls
        calls += 1
        if calls == 2:  # the first call classifies, the second is the method's own
            raise Cancelled

    handle = loaded.module.register_forward_pre_hook(stop)
    try:
        with pytest.raises(Cancelled):
            service.run(ask(service, model, key, seed=4))
    finally:
        handle.remove()
    assert_as_found(loaded.module, before)


@pytest.mark.parametrize("key", [key for key, spec in METHODS.items() if spec.complete])
def test_complete_methods_tell_their_gap(service, key):
    quality = service.run(ask(service, "digits-fc", key)).quality
    assert quality["completeness_gap"] is not None and quality["completeness_gap"] >= 0


@pytest.mark.parametrize("name", [name for name in BASELINES if name != "blur:SIGMA"] + ["blur:3"])
def test_every_baseline_runs(service, name):
    result = service.run(ask(service, "digits-gap", "ig", baseline=(name,)))
    assert np.isfinite(result.arrays["attribution"]).all()


def test_averaged_baselines_are_the_mean_of_their_maps(service):
    one, other, both = (
        service.run(ask(service, "digits-gap", "ig", baseline=baseline)).arrays["attribution"]
        for baseline in (("black",), ("white",), ("white", "black"))
    )
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


@pytest.mark.parametrize("name", ["", "Black", "blur", "blur:", "blur:x", "blur:0", "blur:1e9", "blur:nan", None, 3])
def test_unknown_baselines_are_refused(name):
    with pytest.raises(BadInput, match="unknown baseline"):
        check_baseline(name)
