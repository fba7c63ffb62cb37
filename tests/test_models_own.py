"""A user's own pairs, decoders and additive image models: by models.toml or upload, refused in one sentence."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from backend.contracts import DecodingRequest, Request, ShapeFunctionsRequest
from backend.describe import describe_models
from backend.errors import BadInput, NotAvailable, PrismError
from backend.models import user_models
from backend.models.library import WEIGHTS, Library
from backend.runtime import Runtime
from backend.service import LocalService
from tests.test_models import library_of

# Shipped models as if a user brought them: what the answers must be is then known to the last bit.
ORIGINALS: dict[str, tuple[str, Request]] = {
    "additive_decoding": ("balls-u-additive", DecodingRequest("balls-u-additive", grid=(2, 2))),
    "additive_image": ("squares", ShapeFunctionsRequest("squares", points=5)),
}
TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 2},
}


@pytest.fixture
def service(monkeypatch) -> LocalService:
    monkeypatch.delenv("PRISM_MODELS", raising=False)
    return LocalService(Runtime("cpu"), Library())


def row_of(task: str, **changes) -> dict:
    """A row for a shipped model under another key."""
    name = ORIGINALS[task][0]
    card = json.loads((WEIGHTS / f"{name}.json").read_text())
    row = {"key": "mine", "task": task, "architecture": card["architecture"], "weights": "mine.safetensors"}
    return {name: value for name, value in {**row, **changes}.items() if value is not None}


def copy_files(folder: Path, task: str, **changes) -> dict:
    """Weights and card of a shipped model in a folder; returns the card."""
    name = ORIGINALS[task][0]
    shutil.copy(WEIGHTS / f"{name}.safetensors", folder / "mine.safetensors")
    card = {**json.loads((WEIGHTS / f"{name}.json").read_text()), **changes}
    (folder / "mine.json").write_text(json.dumps(card))
    return card


def mine(request: Request) -> Request:
    return dataclasses.replace(request, model="mine")


def tiny_clip() -> dict[str, torch.Tensor]:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = open_clip.CLIP(TINY["embed_dim"], TINY["vision_cfg"], TINY["text_cfg"])
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


@pytest.fixture
def tiny_architecture(tmp_path) -> str:
    """A name that open_clip knows for as long as the test lasts."""
    import open_clip
    from open_clip import factory

    (tmp_path / "prism-tiny.json").write_text(json.dumps(TINY))
    before = list(factory._MODEL_CONFIG_PATHS)
    open_clip.add_model_config(tmp_path / "prism-tiny.json")
    yield "prism-tiny"
    factory._MODEL_CONFIG_PATHS[:] = before
    factory._rescan_model_configs()


# ----------------------------------------------------------------- by models.toml
@pytest.mark.parametrize("task", ORIGINALS)
def test_a_model_with_a_card_answers_as_the_one_that_ships(task, tmp_path, service):
    copy_files(tmp_path, task)
    library = library_of(tmp_path, row_of(task, title="Mine", licence="CC0"))
    assert library.problems == []
    own = LocalService(Runtime("cpu"), library)
    (status,) = [status for status in own.models() if status.spec.source == "local"]
    assert (status.spec.task, status.spec.title, status.spec.licence) == (task, "Mine", "CC0")
    assert str(tmp_path) not in json.dumps(describe_models(own))
    request = ORIGINALS[task][1]
    expected, found = service.run(request), own.run(mine(request))
    assert expected.arrays.keys() == found.arrays.keys()
    assert all(np.array_equal(expected.arrays[name], found.arrays[name]) for name in expected.arrays)
    assert found.provenance.model_digest == expected.provenance.model_digest


def test_a_pair_in_the_hubs_layout_and_as_a_file(tmp_path, tiny_architecture):
    state = tiny_clip()
    folder = tmp_path / "hub"
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess}))
    save_file(state, tmp_path / "file.safetensors")
    rows = [
        {"key": key, "task": "image_text", "architecture": f"open_clip:{name}", "weights": weights}
        for key, name, weights in (("a", "my-own", "hub"), ("b", tiny_architecture, "file.safetensors"))
    ]
    library = library_of(tmp_path, *rows, {**rows[1], "key": "c", "sha256": "0" * 64})
    assert library.problems == []
    first, second = library.load("a"), library.load("b")
    assert first.key == "a" and first.digest == second.digest and first.input_size == (32, 32)
    texts = ["a cat", "a dog"]
    assert torch.allclose(first.embed_texts(texts), second.embed_texts(texts))
    assert first.module.normalise.mean.flatten().tolist() == [0.5] * 3
    with pytest.raises(BadInput, match="not the file it should be"):
        library.load("c")


@pytest.mark.parametrize(
    ("task", "changes", "card", "sentence"),
    [
        ("additive_decoding", {"card": "none.json"}, {}, "'none.json' is not there"),
        ("additive_decoding", {"card": "../mine.json"}, {}, "a file beside the weights"),
        ("additive_decoding", {"labels": ["a", "b"]}, {}, "unknown field 'labels'"),
        ("additive_decoding", {"architecture": "prism:lenet-gap"}, {}, "expected prism:additive-decoder or"),
        ("additive_decoding", {}, {"architecture": "prism:masked-decoder"}, "is one of 'prism:masked-decoder'"),
        ("additive_decoding", {}, {"network": None}, "has no 'network'"),
        ("additive_decoding", {}, {"network": {"side": 10**9}}, "a number 1000000000 in the card"),
        ("additive_decoding", {}, {"recipe": {"images": "own:1"}}, "trained on pictures"),
        ("additive_image", {}, {"autoencoder": "nobody"}, "one of those that ship: hosts-dae"),
        ("additive_image", {}, {"data": {"name": "squares", "rows": 10**9, "seed": 0}}, "expected 10..100000 rows"),
        ("additive_image", {"weights": "none.safetensors"}, {}, "is not there"),
    ],
)
def test_a_row_that_cannot_be_used_is_told(tmp_path, task, changes, card, sentence):
    copy_files(tmp_path, task, **card)
    (problem,) = library_of(tmp_path, row_of(task, **changes)).problems
    assert re.search(sentence, problem), problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("task", "card", "sentence"),
    [
        ("additive_decoding", {"network": {"side": 64}}, "network cannot be built"),
        ("additive_decoding", {"sha256": "0" * 64}, "the card is of other weights"),
        ("additive_image", {"data": {"name": "nothing", "rows": 50, "seed": 0}}, "nothing"),
        ("additive_image", {"data": {"name": "squares", "rows": 50, "seed": 0}}, "codes of shape"),
        ("additive_image", {"head": {"kinds": []}}, "card cannot be read"),
    ],
)
def test_a_card_of_another_model_is_refused_when_it_is_asked(tmp_path, task, card, sentence):
    copy_files(tmp_path, task, **card)
    own = LocalService(Runtime("cpu"), library_of(tmp_path, row_of(task)))
    with pytest.raises(BadInput, match=sentence) as caught:
        own.run(mine(ORIGINALS[task][1]))
    assert "\n" not in caught.value.sentence


def test_weights_of_another_size_are_refused_before_memory_is_taken(tmp_path):
    card = copy_files(tmp_path, "additive_decoding")
    card["network"] |= {"side": 4096, "final_side": 4096, "width": 4096}
    (tmp_path / "mine.json").write_text(json.dumps(card))
    own = LocalService(Runtime("cpu"), library_of(tmp_path, row_of("additive_decoding")))
    with pytest.raises(BadInput, match="do not fit"):
        own.run(mine(ORIGINALS["additive_decoding"][1]))


# ----------------------------------------------------------------- by upload
@pytest.mark.parametrize("task", ORIGINALS)
def test_an_upload_with_a_card_is_tried_used_and_removed(task, service):
    name, request = ORIGINALS[task]
    data = (WEIGHTS / f"{name}.safetensors").read_bytes()
    card = json.loads((WEIGHTS / f"{name}.json").read_text())
    fields = row_of(task, weights=None, card=card)
    for wrong, sentence in (({**card, "sha256": "0" * 64}, "other weights"), (None, "not a JSON object")):
        with pytest.raises(BadInput, match=sentence):
            service.add_model({**fields, "card": wrong}, data)
        assert "mine" not in service.library.specs()
    assert service.add_model(fields, data).task == task
    assert service.run(mine(request)).provenance.model_digest == card["sha256"]
    service.remove_model("mine")
    with pytest.raises(BadInput, match="unknown model"):
        service.run(mine(request))


def test_an_uploaded_pair_is_built_and_removed(service, tiny_architecture):
    fields = {"key": "mine", "task": "image_text", "architecture": f"open_clip:{tiny_architecture}"}
    state = tiny_clip()
    service.add_model(fields, save(state))
    pair = service.library.load("mine")
    assert pair.input_size == (32, 32) and len(pair.digest) == 64
    service.remove_model("mine")
    del state["logit_scale"]
    for changes, sentence in (
        ({}, "missing logit_scale"),
        ({"architecture": "open_clip:ViT-Z-99"}, "no model named"),
        ({"architecture": "open_clip:hf-hub:a/b"}, "expected open_clip:NAME"),
    ):
        with pytest.raises(PrismError, match=sentence):
            service.add_model({**fields, **changes}, save(state))
    assert "mine" not in service.library.specs()


@pytest.mark.parametrize(
    ("data", "sentence"), [(b"", "not JSON"), (b"[" * 100_000, "not JSON"), (b" " * 2**21, "up to 1,048,576")]
)
def test_files_that_are_no_cards(data, sentence):
    with pytest.raises(BadInput, match=sentence):
        user_models.parse_card(data)


def test_a_file_that_went_away_is_told(tmp_path):
    copy_files(tmp_path, "additive_decoding")
    own = LocalService(Runtime("cpu"), library_of(tmp_path, row_of("additive_decoding")))
    (tmp_path / "mine.safetensors").unlink()
    with pytest.raises(NotAvailable, match="mine.safetensors is not there"):
        own.run(mine(ORIGINALS["additive_decoding"][1]))
