"""Requests, jobs and rows of models of any content: a right answer, or a refusal in one sentence."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

from backend.audio import encode_wav
from backend.catalog import ROWS_OF
from backend.contracts import Result, request_from_json, request_key, request_to_json
from backend.endpoints.jobs import check_args
from backend.endpoints.uploads import Uploads
from backend.errors import PrismError
from backend.images import encode_png
from backend.limits import LIMITS, Limits
from backend.models.user_models import read_row
from backend.runtime import Runtime
from backend.service import LocalService
from tests.fuzzing import EVIL_TEXTS, altered, answer, fuzz, json_values, scalars, texts

PICTURE = encode_png(np.pad(np.ones((20, 4, 1)), ((4, 4), (12, 12), (0, 0))))
SOUND = encode_wav(np.sin(np.arange(4000) / 3), 8000)
PATIENCE_S = 3.0  # of the engine for one request
MOST_NUMBERS = 20_000_000  # in one answer's arrays


@pytest.fixture(scope="module")
def service() -> Iterator[LocalService]:
    """The real engine with its embedded models, which is not patient."""
    limits = replace(LIMITS, max_request_s=PATIENCE_S)
    yield LocalService(Runtime("cpu", limits=limits), limits=limits)


# ----------------------------------------------------------------- good requests
ATTRIBUTION = {"image_id": "IMAGE", "model": "digits-gap", "method": "saliency", "target": 1, "baseline": ["black"]}
PAIR = {"image_id": "IMAGE", "text": "a circle", "model": "scenes-clip", "method": "saliency", "params": {}}
GOOD: dict[str, dict[str, Any]] = {
    "prediction": {"image_id": "IMAGE", "model": "digits-gap"},
    "attribution": {**ATTRIBUTION, "params": {}, "seed": 0},
    "faithfulness": {"attributions": [ATTRIBUTION], "baseline": "black", "steps": 2, "seed": 0},
    "sensitivity": {"attributions": [ATTRIBUTION], "baseline": "black", "fractions": [0.5], "subsets": 3, "seed": 0},
    "randomisation": {"attribution": ATTRIBUTION, "max_layers": 1},
    "path": {"attribution": {**ATTRIBUTION, "method": "samp++", "params": {}}, "frames": 2},
    "decoding": {"model": "balls-l-additive", "grid": [2, 2], "params": {}, "seed": 0},
    "block_table": {"model": "balls-l-additive", "size": 3},
    "latent_scatter": {"model": "balls-l-additive", "n": 4, "seed": 0},
    "decoder_figures": {"model": "balls-l-additive", "n": 8, "seed": 0},
    "support": {"support": "l", "shapes": ["ball", "ball"], "free": ["y"], "radius": 0.16, "n": 5, "seed": 0},
    "pair_map": PAIR,
    "report_maps": {"image_id": "IMAGE", "sentences": ["a circle"], "model": "scenes-clip", "method": "saliency"},
    "pair_score": {"image_id": "IMAGE", "texts": ["a circle"], "model": "scenes-clip"},
    "pair_randomisation": {"map": {**PAIR, "modality": "image"}, "max_layers": 1},
    "image_path": {"model": "squares", "rows": [0, 1], "frames": 9, "params": {}, "seed": 0},
    "image_corners": {"model": "squares", "rows": [0, 1, 2, 3], "side": 2, "seed": 0},
    "image_direction": {"model": "squares", "attribute": "side", "row": 0, "frames": 3, "strength": 1.0},
    "shape_functions": {"model": "squares", "points": 3},
    "image_gallery": {"model": "squares", "n": 2, "seed": 0},
    "record": {"model": "squares", "row": 1},
}
HEARD = {"kind": "pair_map", "audio_id": "SOUND", "text": "a bell", "model": "sounds-clip", "method": "saliency"}


@st.composite
def good_settings(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """A method of a family with parameters at the ends of their ranges, just beyond them, or of another type."""
    method = draw(st.sampled_from(list(ROWS_OF[family].values())))
    params = {}
    for spec in method.params:
        values: list[Any] = [spec.low, None, True, "", -1, float("nan")]
        if isinstance(spec.low, (int, float)):
            values += [spec.low - 1, spec.high + 1]
        if draw(st.booleans()):
            params[spec.name] = draw(st.sampled_from(values))
    return {"method": method.key, "params": params}


def bodies(kind: str, most: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    return altered({"kind": kind, **GOOD[kind]}, most)


any_body = st.sampled_from(list(GOOD)).flatmap(bodies)


# ----------------------------------------------------------------- reading
@fuzz(600, body=any_body | json_values)
def test_a_request_is_read_as_it_is_written_or_refused(body):
    found = answer(lambda: request_from_json(body))
    if not isinstance(found, PrismError):
        text = json.dumps(request_to_json(found))
        assert request_key(request_from_json(json.loads(text))) == request_key(found)


# ----------------------------------------------------------------- answering
def ask(service: LocalService, body: dict[str, Any]) -> None:
    """Put the inputs in, ask, and look at what comes out."""
    image, sound = service.put_image(PICTURE).id, service.put_audio(SOUND).id
    text = json.dumps(body).replace('"IMAGE"', json.dumps(image)).replace('"SOUND"', json.dumps(sound))
    result = answer(lambda: service.run(request_from_json(json.loads(text)), session="fuzz.page"))
    if isinstance(result, PrismError):
        return
    manifest = json.loads(json.dumps(result.manifest(), allow_nan=False))
    assert sum(array.size for array in result.arrays.values()) <= MOST_NUMBERS
    assert Result.from_parts(manifest, result.to_npz()) == result


@pytest.mark.parametrize("kind", GOOD)
def test_every_kind_of_request_is_answered_or_refused(service, kind):
    ask(service, {"kind": kind, **GOOD[kind]})

    @fuzz(15, body=bodies(kind, most=2))
    def try_it(body: dict[str, Any]) -> None:
        ask(service, body)

    try_it()


@fuzz(15, body=altered(HEARD, 2))
def test_sounds_are_answered_or_refused(service, body):
    ask(service, body)


@fuzz(50, settings=good_settings("path_attribution"), shape=st.sampled_from(["attribution", "faithfulness"]))
def test_any_parameters_of_attribution(service, settings, shape):
    assume(settings["method"] not in ("lime", "xrai"))  # whose lowest settings still take seconds
    body = {**ATTRIBUTION, **settings}
    ask(service, {"kind": shape, **(body if shape == "attribution" else {"attributions": [body], "steps": 2})})


@fuzz(30, settings=good_settings("image_text"), modality=st.sampled_from(["image", "text", "both", "audio", "smell"]))
def test_any_parameters_of_pairs(service, settings, modality):
    ask(service, {"kind": "pair_map", **PAIR, **settings, "modality": modality})


def test_the_engine_is_as_it_was(service):
    """Nothing waits, nobody has the device, no hook is left on a model."""
    status = service.status()
    assert (status.flights, status.waiting) == (0, 0)
    for loaded in service.runtime.loaded.values():
        for module in getattr(loaded, "model", torch.nn.Module()).modules():
            assert not module._forward_hooks and not module._backward_hooks


# ----------------------------------------------------------------- jobs, parts of files, rows of models
EVALUATE = {"family": "image_text", "model": "cxr-clip", "n": 5, "seeds": 1, "methods": ["ig"], "baseline": "black"}
RECIPE = {"base": "live", "kind": "additive", "support": "l", "scene": {"shapes": ["ball", "ball"], "radius": 0.1}}
OWN = {
    "base": "own-images",
    "kind": "additive",
    "images": f"own:{'0' * 64}",
    "block_sizes": [2, 2],
    "scene": {"side": 32},
}
TRAIN = {"name": "live", "family": "additive_decoding", "seed": 0}
JOBS = (
    ("evaluate", EVALUATE),
    ("train", {**TRAIN, "recipe": RECIPE}),
    ("train", {**TRAIN, "name": "own-images", "title": "mine", "recipe": OWN}),
    ("fit_own", {"data": "0" * 64, "encoder": "pca", "seed": 1, "title": "mine"}),
)


@fuzz(200, asked=st.sampled_from(JOBS).flatmap(lambda job: st.tuples(st.just(job[0]) | texts, altered(job[1]))))
def test_a_jobs_arguments_are_checked(asked):
    kind, args = asked
    found = answer(lambda: check_args(kind, args))
    if not isinstance(found, PrismError):
        assert found.get("n", 1) <= LIMITS.max_evaluation_images and json.dumps(found)
        assert "/" not in json.dumps({name: found.get(name) for name in ("name", "recipe")})


CLASSIFIER = {
    "key": "mine", "architecture": "torchvision:resnet18", "labels": ["cat", "dog"], "input_size": [224, 224],
    "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2], "channels": "RGB", "value_range": [0, 1], "layers": {"cam": "a"},
}  # fmt: skip
ROWS = (CLASSIFIER, {"key": "pair", "task": "image_text", "architecture": "open_clip:ViT-B-32"})


@fuzz(200, row=st.sampled_from(ROWS).flatmap(altered) | json_values)
def test_a_row_of_models_is_checked(row):
    answer(lambda: read_row(row, None))


@fuzz(
    100,
    parts=st.lists(
        st.tuples(
            st.sampled_from(["0123456789abcdef", "f" * 64]) | scalars,
            st.integers(-2, 40) | scalars,
            st.binary(max_size=30),
        ),
        max_size=6,
    ),
)
def test_parts_of_files_stay_bounded(parts):
    uploads = Uploads(Limits(max_weights_bytes=60, max_archive_bytes=60))
    held = 0
    for key, offset, part in parts:
        found = answer(lambda key=key, offset=offset, part=part: uploads.add(key, offset, part))
        held = found if isinstance(found, int) else held
        assert held <= 60
    answer(lambda: uploads.take(parts[0][0] if parts else ""))


@fuzz(
    100, name=st.sampled_from([*(name.upper() for name in Limits.__slots__), "LIMITS"]), value=texts | scalars.map(str)
)
def test_limits_of_the_environment_are_numbers_or_refused(name, value):
    assume(name == "LIMITS" or value not in EVIL_TEXTS or value)
    found = answer(lambda: Limits.read({f"PRISM_{name}": value}))
    assert isinstance(found, (Limits, PrismError))
