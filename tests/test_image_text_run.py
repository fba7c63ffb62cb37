"""Requests about an image and a text, through the service and the command line; tiny pairs stand for shipped ones."""

import json

import numpy as np
import pytest
from torch import nn

from backend import service as engine
from backend.__main__ import main
from backend.contracts import PairMapRequest, PairRandomisationRequest, PairScoreRequest, ReportMapsRequest, Result
from backend.errors import BadInput, NotAvailable
from backend.images import encode_png
from backend.models.clip import make_pair
from backend.service import LocalService
from tests.pairs import REPORT, SIDE, make_module, network_of, pair_service, tiny_pair

SENTENCES = ("Small nodule.", "No effusion in the left lung.", "Lungs are clear.")


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> LocalService:
    return pair_service(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def picture() -> bytes:
    return encode_png(np.random.default_rng(0).random((40, 40)))


@pytest.fixture(scope="module")
def image_id(service, picture) -> str:
    return service.put_image(picture).id


# ----------------------------------------------------------------- doors
def test_the_command_line_answers_a_pair(service, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "local_service", lambda: service)
    (tmp_path / "x.png").write_bytes(picture)
    request = {"family": "image_text", "method": "m2ib", "model": "cxr-clip", "image": "x.png", "text": REPORT}
    (tmp_path / "request.json").write_text(json.dumps(request))
    assert main(["run", str(tmp_path / "request.json"), "--out", str(tmp_path / "out")]) == 0
    result = Result.load(tmp_path / "out")
    assert result.arrays["image_map"].shape == (SIDE, SIDE)
    assert result.arrays["token_map"].shape == (len(result.values["tokens"]),)
    assert result.unit == "nats per token"
    # intact once each; then ten steps of ten samples for the image, and as many for the text and its four strangers
    assert result.provenance.forward_passes == 2 + (1 + 100) + (1 + 500)
    assert result.provenance.backward_passes == 600


@pytest.mark.parametrize(
    "modality, there, missing", [("image", "image_map", "token_map"), ("text", "token_map", "image_map")]
)
def test_one_modality_is_asked_alone(service, image_id, modality, there, missing):
    result = service.run(PairMapRequest(image_id, REPORT, modality=modality))
    assert there in result.arrays and missing not in result.arrays


def test_words_stand_in_the_text_and_sum_their_tokens(service, image_id):
    result = service.run(PairMapRequest(image_id, "A clear lungs xyz", modality="text"))
    words, text = result.values["words"], result.values["text"]
    assert [text[w["start"] : w["end"]] for w in words] == [w["text"] for w in words] == ["A", "clear", "lungs", "xyz"]
    assert result.values["tokens"] == ["a", "clear", "lungs", "x", "y", "z"]
    np.testing.assert_allclose(result.arrays["word_map"][3], result.arrays["token_map"][3:].sum(), rtol=1e-6)


# ----------------------------------------------------------------- reports
def test_a_report_equals_its_sentences_asked_one_by_one(service, image_id):
    report = service.run(ReportMapsRequest(image_id, SENTENCES))
    counts, start = report.values["counts"]["token_map"], 0
    for k, sentence in enumerate(SENTENCES):
        alone = service.run(PairMapRequest(image_id, sentence))
        np.testing.assert_allclose(report.arrays["image_map"][k], alone.arrays["image_map"], rtol=1e-4, atol=1e-5)
        own = report.arrays["token_map"][start : start + counts[k]]
        np.testing.assert_allclose(own, alone.arrays["token_map"], rtol=1e-4, atol=1e-5)
        start += counts[k]


def test_the_first_sentence_shows_while_the_others_are_on_their_way(service, image_id):
    seen = []
    service.result_store.clear()
    service.run(ReportMapsRequest(image_id, SENTENCES, seed=5), seen.append)
    early = [step.partial for step in seen if step.partial is not None]
    assert early and early[0].values["done"] == 1 and early[0].arrays["image_map"].shape == (1, SIDE, SIDE)


# ----------------------------------------------------------------- control
def test_the_control_is_the_map_of_a_stranger(service, image_id):
    stranger = service.put_image(encode_png(np.random.default_rng(1).random((SIDE, SIDE)))).id
    result = service.run(PairMapRequest(image_id, REPORT, modality="text", control_id=stranger))
    swapped = service.run(PairMapRequest(stranger, REPORT, modality="text"))
    np.testing.assert_allclose(result.arrays["control_word_map"], swapped.arrays["word_map"], rtol=1e-4)
    assert not np.allclose(result.arrays["control_word_map"], result.arrays["word_map"], rtol=1e-3)


# ----------------------------------------------------------------- scores
def test_cosines_of_several_texts(service, image_id):
    result = service.run(PairScoreRequest(image_id, SENTENCES))
    alone = service.run(PairMapRequest(image_id, SENTENCES[1], modality="text"))
    assert result.arrays["cosines"][1] == pytest.approx(alone.values["cosine"], abs=1e-6)


# ----------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    "changes, field",
    [
        ({"text": ""}, "text"),
        ({"text": " \n\t"}, "text"),
        ({"text": "🙂 心臓"}, "text"),
        ({"text": "a" * 300_000}, "text"),
        ({"modality": "sound"}, "modality"),
        ({"method": "magic"}, "method"),
        ({"model": "no-such"}, "model"),
        ({"model": "digits-gap"}, "model"),
        ({"params": (("layer", 4),)}, "layer"),
        ({"params": (("layer", -1),)}, "layer"),
        ({"params": (("beta", float("nan")),)}, "beta"),
        ({"params": (("mode", "normalised"),)}, "mode"),
        ({"image_id": "0" * 64}, "image"),
        ({"control_id": "0" * 64}, "image"),
    ],
)
def test_bad_input_gets_one_sentence(service, image_id, changes, field):
    fields = {"image_id": image_id, "text": REPORT, **changes}
    with pytest.raises(BadInput) as refusal:
        service.run(PairMapRequest(**fields))
    assert refusal.value.field == field and refusal.value.sentence


@pytest.mark.parametrize("part, sentence", [("visual", "the image tower Linear"), ("text", "the text tower Linear")])
def test_a_model_without_a_tower_that_can_be_cut_is_refused(part, sentence):
    module, tokenizer = make_module(network_of("vit")), tiny_pair().tokenizer
    setattr(module, part, nn.Linear(2, 2))
    with pytest.raises(NotAvailable, match=f"{sentence} has no blocks") as refusal:
        make_pair("mine", module, nn.Identity(), tokenizer, "digest", {})
    assert refusal.value.field == "model"


# ----------------------------------------------------------------- sanity check
@pytest.mark.parametrize("modality, shape", [("image", (SIDE, SIDE)), ("text", (1, 7))])
def test_randomisation_goes_through_the_explained_tower_only(service, image_id, modality, shape):
    request = PairMapRequest(image_id, REPORT, method="m2ib", modality=modality)
    before = service.run(request)
    check = service.run(PairRandomisationRequest(request, max_layers=3))
    assert check.arrays["maps"].shape == (3, *shape) and len(check.values["stages"]) == 3
    original = before.arrays["image_map" if modality == "image" else "word_map"].reshape(shape)
    np.testing.assert_allclose(check.arrays["original"], original, rtol=1e-4)
    layers = [name for stage in check.values["stages"] for name in stage["layers"]]
    assert layers and all(name.startswith("visual") == (modality == "image") for name in layers)
    service.result_store.clear()
    np.testing.assert_array_equal(service.run(request).arrays["pixels"], before.arrays["pixels"])
    key = "image_map" if modality == "image" else "word_map"
    np.testing.assert_array_equal(service.run(request).arrays[key], before.arrays[key])  # the pair itself is untouched


def test_randomisation_needs_one_modality(service, image_id):
    with pytest.raises(BadInput, match="one modality"):
        service.run(PairRandomisationRequest(PairMapRequest(image_id, REPORT)))


# ----------------------------------------------------------------- odd but valid input
@pytest.mark.parametrize("pixels", [np.ones((40, 40)), np.zeros((40, 40)), np.ones((2, 2)), np.eye(3)])
@pytest.mark.parametrize("key", ["m2ib", "m2ib-contrast", "kernel-shap", "chefer", "saliency"])
def test_blank_and_tiny_pictures_have_maps_of_numbers(service, pixels, key):
    image_id = service.put_image(encode_png(pixels)).id
    result = service.run(PairMapRequest(image_id, "the", key, modality="image"))
    assert np.isfinite(result.arrays["image_map"]).all()


def test_what_the_model_does_not_read_is_told(service, image_id):
    text = "No effusion in the left lung. " * 20
    result = service.run(PairMapRequest(image_id, text, modality="text"))
    assert result.values["n_cut"] > 0 and 0 < result.values["read_end"] < len(text)
    assert any("cut off" in note for note in result.provenance.notes)


@pytest.mark.parametrize(
    "text", ["<b>nodule</b> **left**", "nodule\x00 \x07left", "Nodule 🙂 im linken Lungenflügel", "the in a"]
)
def test_odd_texts_are_texts_like_any_other(service, image_id, text):
    result = service.run(PairMapRequest(image_id, text, modality="text"))
    shown = result.values["text"]
    assert shown == text and np.isfinite(result.arrays["word_map"]).all()
    assert all(shown[w["start"] : w["end"]] == w["text"] for w in result.values["words"])
