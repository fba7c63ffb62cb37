"""Classifiers that ship, come from the hub or are the user's own: loaded as promised, refused in one sentence."""

import hashlib
import json
import pickle
import re
import shutil
import threading
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from backend import catalog
from backend.contracts import DecodingRequest, ShapeFunctionsRequest
from backend.errors import BadInput, NotAvailable
from backend.models import hub, networks, weights
from backend.models.classifier import Classifier
from backend.models.layers import gap_head, has_functional_relu, nonlinearity_problems, spatial_layers
from backend.models.library import WEIGHTS, Library
from backend.path_attribution import composites, data
from backend.path_attribution.train import accuracy
from backend.runtime import Runtime
from backend.service import LocalService
from tests.helpers import reseed

LENET = {"key": "mine", "architecture": "prism:lenet-gap", "labels": ["a", "b", "c"], "input_size": [28, 28],
         "channels": "L", "mean": [0.1], "std": [0.3]}  # fmt: skip


@pytest.fixture(scope="module")
def lenet() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return networks.build("lenet-gap", 3, 1).eval()


@pytest.fixture
def library(monkeypatch) -> Library:
    monkeypatch.delenv("PRISM_MODELS", raising=False)
    return Library()


def toml_row(**fields) -> str:
    def value(v) -> str:
        if isinstance(v, dict):
            return "{ " + ", ".join(f"{k} = {json.dumps(x)}" for k, x in v.items()) + " }"
        return json.dumps(v)

    return "[[model]]\n" + "".join(f"{name} = {value(v)}\n" for name, v in fields.items())


def library_of(folder: Path, *rows: dict) -> Library:
    path = folder / "models.toml"
    path.write_text("\n".join(toml_row(**row) for row in rows))
    return Library(path)


# ----------------------------------------------------------------- what ships
@pytest.fixture(scope="module")
def test_sets():
    return {"digits": data.digits("test"), "objects": composites.objects("test")}


@pytest.mark.parametrize("key", catalog.EMBEDDED)
def test_every_model_that_ships_is_as_good_as_its_card_says(key, test_sets):
    library = Library()
    loaded, card = library.load(key), library.card(key)
    assert loaded.digest == card["sha256"]
    assert tuple(card["labels"]) == loaded.spec.labels
    assert card["architecture"] == loaded.spec.architecture
    measured = accuracy(loaded.module, test_sets[card["recipe"]["dataset"]])
    assert measured == pytest.approx(card["accuracy"], abs=0.0021)  # two of 1,000 may fall on the other side elsewhere


def test_accuracy_reaches_the_marks():
    library = Library()
    assert library.card("digits-gap")["accuracy"] >= 0.978
    assert library.card("digits-fc")["accuracy"] >= 0.989


def test_a_damaged_weights_file_is_refused(tmp_path):
    for name in ("digits-gap.safetensors", "digits-gap.json"):
        shutil.copy(WEIGHTS / name, tmp_path)
    path = tmp_path / "digits-gap.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(BadInput, match="not the file it should be"):
        Library(weights_folder=tmp_path).load("digits-gap")
    with pytest.raises(NotAvailable, match="train digits-fc"):
        Library(weights_folder=tmp_path).load("digits-fc")


def test_unknown_models_are_listed(library):
    with pytest.raises(BadInput, match="digits-gap.*timm:NAME"):
        library.spec("nope")


def test_every_family_is_in_the_one_list(library):
    specs = library.specs()
    assert list(specs)[: len(catalog.EMBEDDED)] == list(catalog.EMBEDDED) and specs == catalog.MODELS
    rows = (catalog.EMBEDDED, catalog.HUB, catalog.PAIRS, catalog.NAIMS, catalog.AUTOENCODERS, catalog.DECODERS)
    assert len(specs) == sum(map(len, rows))  # no key is used twice
    with pytest.raises(BadInput, match=r"balls-u-additive") as caught:
        library.spec("nope", "additive_decoding")
    assert "digits-gap" not in caught.value.sentence


def test_the_service_says_which_models_of_every_family_lie_in_memory(library):
    service = LocalService(Runtime("cpu"), library)
    service.run(DecodingRequest("balls-l-additive", grid=(2, 2)))
    service.run(ShapeFunctionsRequest("squares", points=5))
    found = {status.spec.key: status for status in service.models() if status.is_loaded}
    assert found.keys() == {"balls-l-additive", "squares"}
    assert all(status.nbytes > 0 and len(status.digest) == 64 for status in found.values())


def test_loading_leaves_the_global_random_numbers_alone(library):
    before = torch.random.get_rng_state()
    library.load("digits-gap")
    assert torch.equal(before, torch.random.get_rng_state())


# ----------------------------------------------------------------- a user's own
def test_torchvision_through_a_models_file_is_torchvision(tmp_path):
    network = reseed(torchvision.models.resnet18(num_classes=2))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    (tmp_path / "names.txt").write_text("cat\n\ndog\n")
    library = library_of(
        tmp_path,
        {
            "key": "mine",
            "architecture": "torchvision:resnet18",
            "weights": "w.pth",
            "labels": "names.txt",
            "input_size": [64, 48],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "channels": "BGR",
            "value_range": [0.0, 255.0],
            "layers": {"cam": "layer3"},
        },
    )
    assert library.problems == []
    loaded = library.load("mine", dtype=torch.float64)
    assert loaded.spec.labels == ("cat", "dog") and dict(loaded.spec.layers) == {"cam": "layer3"}
    assert loaded.digest == hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    images = torch.rand(2, 3, 64, 48, dtype=torch.float64)
    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = network.double()((images.flip(1) * 255 - mean) / std)
    assert (loaded.module(images) - expected).abs().max() / expected.abs().max() < 1e-5


def test_timm_from_a_folder_in_the_hubs_layout(tmp_path):
    network = reseed(timm.create_model("test_vit", num_classes=3))
    timm.models.save_for_hf(network, tmp_path / "vit", safe_serialization=True)
    row = {"key": "vit", "architecture": "timm:test_vit", "weights": "vit", "labels": ["a", "b", "c"],
           "input_size": [160, 160], "mean": [0.5], "std": [0.5]}  # fmt: skip
    loaded = library_of(tmp_path, row).load("vit")
    images = torch.rand(2, 3, 160, 160)
    assert torch.allclose(loaded.module(images), network((images - 0.5) / 0.5), atol=1e-5)


def test_a_transformer_takes_another_input_size(tmp_path):
    network = reseed(timm.create_model("test_vit", num_classes=3, img_size=96))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "w.safetensors")
    row = {"key": "vit", "architecture": "timm:test_vit", "weights": "w.safetensors", "labels": ["a", "b", "c"],
           "input_size": [96, 96]}  # fmt: skip
    assert library_of(tmp_path, row).load("vit").module(torch.rand(1, 3, 96, 96)).shape == (1, 3)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(48, 2)

    def forward(self, x):
        return self.linear(self.flatten(x))


def test_exported_programs(tmp_path):
    network, example = TwoLayers().eval(), torch.rand(2, 3, 4, 4)
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=({0: batch},)), tmp_path / "any.pt2")
    torch.export.save(torch.export.export(network, (example,)), tmp_path / "two.pt2")
    (tmp_path / "not.pt2").write_bytes(b"no program")
    row = {"architecture": "pt2", "labels": ["a", "b"], "input_size": [4, 4]}
    library = library_of(tmp_path, *({"key": k, "weights": f"{k}.pt2", **row} for k in ("any", "two", "not")))
    loaded = library.load("any")
    images = torch.rand(5, 3, 4, 4, requires_grad=True)
    logits = loaded.module(images)
    assert torch.allclose(logits, network(images))
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert torch.allclose(gradient, network.linear.weight[0].view(3, 4, 4).expand_as(gradient))
    assert spatial_layers(loaded.module, (3, 4, 4)) == [] and gap_head(loaded.module, (3, 4, 4)) is None
    with pytest.raises(BadInput, match="dynamic batch"):
        library.load("two")
    with pytest.raises(BadInput, match="not a program"):
        library.load("not")


GOOD = {**LENET, "weights": "w.safetensors"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"key": "a b"}, "expected up to 64 letters"),
        ({"key": 3}, "expected a text"),
        ({"key": "digits-gap"}, "ships has this key"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"architecture": "keras:resnet"}, "expected torchvision:NAME"),
        ({"architecture": None}, "'architecture' is missing"),
        ({"task": "segmentation"}, "expected 'classification' or 'image_text'"),
        ({"weights": "none.safetensors"}, "is not there"),
        ({"labels": []}, "expected 2"),
        ({"labels": None}, "labels is missing"),
        ({"labels": "none.txt"}, "labels file"),
        ({"input_size": 28}, "expected \\[height, width\\]"),
        ({"input_size": [28, 0]}, "expected \\[height, width\\]"),
        ({"mean": [0.1, 0.2]}, "list of 1 number"),
        ({"mean": "0.1"}, "list of 1 number"),
        ({"std": [0.0]}, "positive"),
        ({"channels": "CMYK"}, "'RGB' or 'BGR' or 'L'"),
        ({"value_range": [1.0, 0.0]}, "lower end first"),
        ({"layers": "layer4"}, "table of names"),
        ({"sha256": "abc"}, "64 hexadecimal"),
    ],
)
def test_a_broken_row_is_told_and_does_not_break_the_others(tmp_path, lenet, changes, sentence):
    safetensors.torch.save_file(lenet.state_dict(), tmp_path / "w.safetensors")
    broken = {name: value for name, value in {**GOOD, "key": "broken", **changes}.items() if value is not None}
    library = library_of(tmp_path, broken, GOOD)
    (problem,) = library.problems
    assert re.search(sentence, problem), problem
    assert "\n" not in problem
    assert library.load("mine").module(torch.rand(1, 1, 28, 28)).shape == (1, 3)


def test_a_broken_file_leaves_what_ships(tmp_path):
    (tmp_path / "models.toml").write_text("[[model]\n")
    for path in (tmp_path / "models.toml", tmp_path / "none.toml"):
        library = Library(path)
        assert len(library.problems) == 1
        assert "digits-gap" in library.specs()


def test_the_same_key_twice(tmp_path, lenet):
    safetensors.torch.save_file(lenet.state_dict(), tmp_path / "w.safetensors")
    assert "used twice" in library_of(tmp_path, GOOD, GOOD).problems[0]


# ----------------------------------------------------------------- uploads and weights that do not fit
def test_an_upload_is_added_loaded_and_removed(library, lenet):
    upload = safetensors.torch.save(lenet.state_dict())
    spec = library.add_local(LENET, upload)
    assert spec.source == "local" and library.specs()["mine"] == spec
    loaded = library.load("mine")
    image = torch.rand(1, 1, 28, 28)
    assert torch.allclose(loaded.module(image), lenet((image - 0.1) / 0.3), atol=1e-6)
    assert loaded.digest == hashlib.sha256(upload).hexdigest()
    with pytest.raises(BadInput, match="is taken"):
        library.add_local(LENET, upload)
    library.remove("mine")
    with pytest.raises(BadInput, match="unknown model"):
        library.load("mine")
    with pytest.raises(BadInput, match="not one of your own"):
        library.remove("digits-gap")


def changed(state: dict, **changes) -> dict:
    state = {name: tensor.clone() for name, tensor in state.items()}
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


@pytest.mark.parametrize(
    ("changes", "sentence", "field"),
    [
        ({"conv1__weight": None, "conv1__bias": None}, "missing conv1.weight, conv1.bias", "weights"),
        ({"other": torch.zeros(1)}, "extra other", "weights"),
        ({"conv2__weight": torch.zeros(32, 16, 3, 3)}, r"conv2.weight is \(32, 16, 3, 3\) instead of", "weights"),
        (
            {"head__4__weight": torch.zeros(10, 64), "head__4__bias": torch.zeros(10)},
            "3 labels, but the weights have 10 outputs",
            "labels",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(library, lenet, changes, sentence, field):
    with pytest.raises(BadInput, match=sentence) as caught:
        library.add_local(LENET, safetensors.torch.save(changed(lenet.state_dict(), **changes)))
    assert caught.value.field == field
    assert "mine" not in library.specs()


class Malicious:
    def __reduce__(self):
        return (print, ("unpickled",))


def pickled_bytes(kind: str, lenet: nn.Module, folder: Path) -> bytes:
    path = folder / "w.pth"
    if kind == "pickle":
        return pickle.dumps({"w": Malicious()})
    torch.save(lenet if kind == "module" else lenet.state_dict(), path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["pickle", "module", "state"])
def test_uploads_are_never_unpickled(library, lenet, tmp_path, capsys, kind):
    with pytest.raises(BadInput, match="is a pickle"):
        library.add_local(LENET, pickled_bytes(kind, lenet, tmp_path))
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "sentence"), [("pickle", "pickle of more than tensors"), ("module", "could run code")]
)
def test_local_pickles_with_code_are_refused(lenet, tmp_path, capsys, kind, sentence):
    (tmp_path / "w.pth").write_bytes(pickled_bytes(kind, lenet, tmp_path))
    library = library_of(tmp_path, {**GOOD, "weights": "w.pth"})
    with pytest.raises(BadInput, match=sentence):
        library.load("mine")
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x08\0\0\0\0\0\0\0{}      garbage"])
def test_files_that_are_no_weights(library, tmp_path, content):
    with pytest.raises(BadInput):
        library.add_local(LENET, content)
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput):
            library_of(tmp_path, {**GOOD, "weights": name}).load("mine")


@pytest.mark.parametrize(
    ("changes", "sentence", "field"),
    [
        ({"architecture": "pt2"}, "never uploaded", "architecture"),
        ({"architecture": "prism:lenet"}, "unknown architecture", "architecture"),
        ({"architecture": "timm:no_such_net"}, "timm has no classifier", "architecture"),
        ({"architecture": "torchvision:maskrcnn_resnet50_fpn"}, "torchvision has no classifier", "architecture"),
        ({"weights": "/etc/passwd"}, "names no weights file", "weights"),
        ({"labels": "/etc/passwd"}, "labels is missing", "labels"),
        ({"sha256": "0" * 64}, "expected 000000000000", "weights"),
    ],
)
def test_bad_uploads_name_their_field(library, lenet, changes, sentence, field):
    with pytest.raises(BadInput, match=sentence) as caught:
        library.add_local({**LENET, **changes}, safetensors.torch.save(lenet.state_dict()))
    assert caught.value.field == field


def test_a_wrong_input_size_is_told(library):
    with torch.random.fork_rng():
        state = networks.build("lenet-fc", 3, 1).state_dict()
    with pytest.raises(BadInput, match="does not take images of 32 x 32") as caught:
        library.add_local(
            {**LENET, "architecture": "prism:lenet-fc", "input_size": [32, 32]}, safetensors.torch.save(state)
        )
    assert caught.value.field == "input_size"


def test_many_threads_add_one_model_once(library, lenet):
    upload, outcomes = safetensors.torch.save(lenet.state_dict()), []

    def add():
        try:
            outcomes.append(library.add_local(LENET, upload))
        except BadInput:
            outcomes.append(None)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([o for o in outcomes if o is not None]) == 1


# ----------------------------------------------------------------- the hub
TINY_HUB = "test_vit.r160_in1k"  # a timm model of 0.4 M parameters


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache, and a hub that does not answer."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *_: "http://127.0.0.1:9/nobody-listens-here")
    return tmp_path


def test_without_network_the_hub_fails_at_once_in_one_sentence(library, hub_cache):
    started = time.monotonic()
    with pytest.raises(NotAvailable, match="does not answer") as caught:
        library.load(f"timm:{TINY_HUB}")
    assert time.monotonic() - started < 20
    assert "\n" not in caught.value.sentence
    assert library.load("digits-gap").digest  # the rest goes on


def test_the_local_hub_cache_is_used_without_network(library, hub_cache):
    network = reseed(timm.create_model(TINY_HUB, pretrained=False))
    folder = hub_cache / f"models--timm--{TINY_HUB}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    safetensors.torch.save_file(network.state_dict(), folder / "snapshots" / ("0" * 40) / "model.safetensors")
    loaded = library.load(f"timm:{TINY_HUB}")
    images = torch.rand(1, 3, 160, 160)
    assert torch.allclose(loaded.module(images), network((images - 0.5) / 0.5), atol=1e-4)
    assert loaded.label(285) == "Egyptian cat" or "cat" in loaded.label(285)
    assert len(loaded.spec.labels) == 1000


def test_hub_rows_know_their_input_without_network(library, hub_cache):
    for key in catalog.HUB:
        spec = library.spec(key)
        assert spec.input_size == catalog.HUB[key].input_size
        assert len(spec.labels) == 1000 and len(spec.mean) == 3
    photo_labels = [e.label for e in catalog.EXAMPLES.values() if "hub" in e.suits]
    for label in photo_labels:
        assert any(label.lower() in name.lower() for name in spec.labels), label


@pytest.mark.parametrize("name", ["no_such_net", "local-dir:/etc", "hf-hub:a/b", ""])
def test_names_that_timm_does_not_have(library, name):
    with pytest.raises(BadInput, match="timm has no classifier"):
        library.spec(hub.PREFIX + name)


# ----------------------------------------------------------------- inside a network
def classifier(network: nn.Module) -> Classifier:
    return Classifier(reseed(network)).eval().requires_grad_(False)


LAYER_CASES = {
    "lenet-gap": (lambda: networks.build("lenet-gap", 3, 1), (1, 28, 28), "head.1", (7, 7), True, True),
    "lenet-fc": (lambda: networks.build("lenet-fc", 3, 1), (1, 28, 28), "relu2", (14, 14), False, True),
    "plain-cnn": (lambda: networks.build("plain-cnn", 3, 3), (3, 64, 64), "features", (8, 8), True, True),
    "small-resnet": (lambda: networks.build("small-resnet", 3, 3), (3, 64, 64), "stages", (8, 8), True, True),
    "small-vit": (lambda: networks.build("small-vit", 3, 3), (3, 64, 64), "norm", (8, 8), True, True),
    "torchvision resnet18": (
        lambda: torchvision.models.resnet18(num_classes=3), (3, 64, 96), "layer4", (2, 3), True, False,
    ),
    "timm resnet": (lambda: timm.create_model("test_resnet", num_classes=3), (3, 64, 64), "layer4", (2, 2), True, True),
    "timm vit": (
        lambda: timm.create_model("test_vit", num_classes=3), (3, 160, 160), "blocks.4", (10, 10), False, False,
    ),
    "timm registers": (
        lambda: timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, reg_tokens=4, img_size=64),
        (3, 64, 64), "blocks.0", (4, 4), False, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYER_CASES)
def test_layers_are_found_in_any_network(case):
    build, shape, last, grid, is_pooled, is_plain = LAYER_CASES[case]
    module = classifier(build())
    layers = spatial_layers(module, shape)
    assert (layers[0].name, layers[0].grid) == (last, grid)
    assert layers[0].module is dict(module.network.named_modules())[last]
    assert [(h * w) for h, w in (layer.grid for layer in layers)] == sorted(h * w for h, w in (x.grid for x in layers))
    weight = gap_head(module, shape)
    assert (weight is not None) == is_pooled
    assert has_functional_relu(module, shape) == (not is_plain)
    for child in module.modules():  # left as found
        assert not child._forward_hooks and not child._forward_pre_hooks and not child.training
    assert not any(p.requires_grad for p in module.parameters())


def test_cam_of_the_pooled_head_sums_to_the_logit():
    """Zhou et al.: the mean of the class activation map is the logit, less the bias."""
    for name, shape in (("lenet-gap", (1, 28, 28)), ("small-vit", (3, 64, 64))):
        module = classifier(networks.build(name, 3, shape[0]))
        layer, weight = spatial_layers(module, shape)[0], gap_head(module, shape)
        caught = []
        handle = layer.module.register_forward_hook(lambda _, __, out, caught=caught: caught.append(out))
        logits = module(torch.rand(2, *shape))
        handle.remove()
        cam = torch.einsum("kc,nchw->nkhw", weight, layer.maps(caught[0]))
        bias = (module.network.head[-1] if name == "lenet-gap" else module.network.classifier).bias
        assert torch.allclose(cam.mean(dim=(2, 3)) + bias, logits, atol=1e-5)


def test_tokens_become_a_map_in_reading_order():
    module = classifier(timm.create_model("test_vit", num_classes=3))
    layer = spatial_layers(module, (3, 160, 160))[0]
    tokens = torch.arange(101.0).view(1, 101, 1).expand(1, 101, 2)  # token 0 is the class token
    maps = layer.maps(tokens)
    assert maps.shape == (1, 2, 10, 10)
    assert maps[0, 1].flatten().tolist() == list(range(1, 101))


def test_a_named_layer_comes_first():
    module = classifier(torchvision.models.resnet18(num_classes=3))
    layers = spatial_layers(module, (3, 64, 64), first="layer2")
    assert layers[0].name == "layer2" and layers[1].name == "layer4"
    with pytest.raises(BadInput, match="layer4"):
        spatial_layers(module, (3, 64, 64), first="fc")


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.linear = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(torch.relu(self.act(self.act(self.conv(x)))).mean(dim=(2, 3)))


def test_functional_and_reused_activations_are_told():
    functional, reused = nonlinearity_problems(classifier(Functional()), (1, 8, 8))
    assert functional.startswith("1 nonlinear function") and "relu" in functional
    assert reused.startswith("1 activation module") and "act" in reused


def test_a_sound_file_may_begin_like_a_pickle():
    """safetensors begin with the header's length, whose low byte may be a pickle's first."""
    for names in range(1, 400):
        data = safetensors.torch.save({"x" * names: torch.zeros(1)})
        if data[:1] == b"\x80":
            assert set(weights.parse_safetensors(data)) == {"x" * names}
            return
    raise AssertionError("no such length was met")
