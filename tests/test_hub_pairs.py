"""Pairs in the hub's layout: CLAP, BiomedCLIP's and SigLIP's tokenizers and towers, by the code that loads them."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import huggingface_hub
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from backend.audio import encode_wav
from backend.contracts import PairMapRequest, PairRandomisationRequest, PairScoreRequest
from backend.errors import BadInput, NotAvailable
from backend.image_text.attention import relevance
from backend.image_text.problem import Problem
from backend.models import hub
from backend.models.clap import load_clap
from backend.models.clip import load_open_clip
from backend.models.library import Library
from backend.runtime import Runtime
from backend.service import LocalService
from tests import hub_folders

TEXTS = list(hub_folders.SENTENCES)
RATE = 8000

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("hub")
    makers = {"clap": hub_folders.write_clap, "biomedclip": hub_folders.write_biomedclip}
    return {name: make(made / name) for name, make in {**makers, "siglip": hub_folders.write_siglip}.items()}


@pytest.fixture(scope="module")
def sound():
    noise = np.random.default_rng(0).normal(0, 0.1, RATE * 3 // 4)
    noise[: RATE // 4] *= 0.01
    return noise.astype(np.float32)


# ----------------------------------------------------------------- CLAP
@pytest.mark.parametrize("fused", [False, True])
def test_a_clap_gives_what_the_hubs_own_model_gives(tmp_path, sound, fused):
    from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel

    folder = hub_folders.write_clap(tmp_path / "clap", fused)
    pair, theirs = load_clap("clap", folder), ClapModel.from_pretrained(folder).eval()
    heard = ClapFeatureExtractor.from_pretrained(folder)(sound, sampling_rate=RATE, return_tensors="pt")
    read = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    spectrogram = torch.from_numpy(pair.spectrogram(sound))[None, None]
    assert spectrogram.min() >= 0 and spectrogram.max() <= 1
    with torch.no_grad():
        expected = F.normalize(theirs.get_audio_features(**heard).pooler_output, dim=-1)
        torch.testing.assert_close(pair.embed_audio(spectrogram), expected, rtol=1e-4, atol=1e-5)
        plainly = pair.module.audio(pair.module.audio.normalise(spectrogram))
        torch.testing.assert_close(F.normalize(plainly, dim=-1), expected, rtol=1e-4, atol=1e-5)
        expected = F.normalize(theirs.get_text_features(**read).pooler_output, dim=-1)
        torch.testing.assert_close(pair.embed_texts(TEXTS), expected, rtol=1e-4, atol=1e-5)


def test_a_clap_is_cut_at_every_block_with_time_and_frequency_in_place(folders, sound):
    tower = load_clap("clap", folders["clap"]).tower("audio")
    loud = torch.zeros(1, 1, 16, 63)
    loud[..., 40:] = 0.5
    with torch.no_grad():
        features = tower.encode(loud)
        for layer in range(tower.n_layers):
            hidden = tower.prefix(loud, layer)
            torch.testing.assert_close(tower.suffix(hidden, layer), features)
            assert hidden.shape[1] == np.prod(tower.grid(layer))
        rows, columns = tower.grid(0)
        # Before any block, cells that see silence only are alike: so the fold of time has been undone.
        changed = (tower.prefix(loud, 0) - tower.prefix(torch.zeros_like(loud), 0)).norm(dim=-1).view(rows, columns)
    assert changed[:, : columns // 2].max() < 0.5 * changed[:, columns * 3 // 4 :].mean()


@pytest.fixture(scope="module")
def service(folders, tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "models.toml"
    row = '[[model]]\nkey = "{0}"\ntask = "image_text"\narchitecture = "{1}:{0}"\nweights = "{2}"\n'
    kinds = {"clap": "clap", "biomedclip": "open_clip", "siglip": "open_clip"}
    file.write_text("".join(row.format(key, kinds[key], folder) for key, folder in folders.items()))
    return LocalService(Runtime("cpu"), Library(models_file=file))


def test_a_clap_of_ones_own_is_explained_over_its_spectrogram(service, sound):
    heard = service.put_audio(encode_wav(sound, RATE))
    asked = PairMapRequest(audio_id=heard.id, text="A dog barks.", method="m2ib", model="clap")
    result = service.run(asked)
    assert result.arrays["audio_map"].shape == (16, 63) and np.ptp(result.arrays["audio_map"]) > 0
    assert len(result.arrays["word_map"]) == 4 and result.values["sound"]["duration_s"] == pytest.approx(1.0)
    assert "repeated up to the 1.0 s" in " ".join(result.provenance.notes)
    for name in ("chefer", "grad-cam"):
        words = service.run(dataclasses.replace(asked, method=name, modality="text"))
        assert np.isfinite(words.arrays["token_map"]).all()
    checked = service.run(PairRandomisationRequest(dataclasses.replace(asked, modality="audio"), max_layers=2))
    assert checked.arrays["maps"].shape == (2, 16, 63)


def test_what_a_clap_cannot_is_one_sentence(service, folders, tmp_path, sound):
    heard = service.put_audio(encode_wav(sound, RATE))
    with pytest.raises(BadInput, match="has audio, text|has text, audio"):
        load_clap("clap", folders["clap"]).tower("image")
    with pytest.raises(BadInput, match="a dog|hears|clap"):
        service.run(PairScoreRequest(("a dog",), audio_id=heard.id, model="no such clap"))
    with pytest.raises(NotAvailable, match="there is no folder"):
        load_clap("clap", tmp_path / "nowhere")
    with pytest.raises(BadInput, match="is no CLAP in the hub's layout"):
        load_clap("clap", tmp_path)
    (tmp_path / "damaged").mkdir()
    for file in folders["clap"].iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / "damaged" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(NotAvailable, match="not there"):
        load_clap("clap", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(BadInput, match="pickle"):
        load_clap("clap", tmp_path / "damaged")


@pytest.mark.parametrize(
    "key", ["clap:laion/clap-htsat-unfused", "open_clip:hf-hub:owner/biomedclip", "open_clip:ViT-B-32/openai"]
)
def test_without_the_hub_there_is_one_sentence(monkeypatch, tmp_path, key):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def unreachable(*_args, **_kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.get_session", unreachable)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", unreachable)
    monkeypatch.setattr("open_clip.factory._get_hf_config", unreachable)
    with pytest.raises(NotAvailable, match="needs weights from the hub, which does not answer"):
        Library().load(key)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_two_who_load_while_the_hub_is_silent_leave_its_client_as_it_was(monkeypatch):
    """The first one leaves while the second is there, unless that one has to wait."""
    monkeypatch.setattr(hub, "answers", lambda: False)
    first_is_over, second_is_there = threading.Event(), threading.Event()

    def second() -> None:
        with hub.cached_if_silent():
            assert huggingface_hub.constants.HF_HUB_OFFLINE
            second_is_there.set()
            first_is_over.wait(10)

    with ThreadPoolExecutor(1) as pool:
        with hub.cached_if_silent():
            asked = pool.submit(second)
            second_is_there.wait(0.2)
        first_is_over.set()
        asked.result(10)
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


# ----------------------------------------------------------------- BiomedCLIP and SigLIP
@pytest.mark.parametrize("name", ["biomedclip", "siglip"])
def test_texts_are_read_as_open_clip_reads_them(folders, name):
    import open_clip

    pair = load_open_clip(name, folders[name])
    theirs = open_clip.get_tokenizer(f"local-dir:{folders[name]}")
    long = " ".join(TEXTS * 3)
    assert torch.equal(pair.tokens([*TEXTS, long]), theirs([*TEXTS, long]))
    assert pair.tokenizer.tokenize(long).n_cut > 0
    ids = pair.tokens(TEXTS)
    with torch.no_grad():
        features = pair.text.encode(ids)
        torch.testing.assert_close(features, pair.module.encode_text(ids), rtol=1e-4, atol=1e-5)
        for layer in range(-1, pair.text.n_layers):
            one = pair.text.suffix(pair.text.prefix(ids[2:3], layer), layer, ids[2:3])
            torch.testing.assert_close(one, features[2:3], rtol=1e-4, atol=1e-5)
    tokenized = pair.tokenizer.tokenize("Effusion in the left lung")
    assert [tokenized.word(k) for k in range(len(tokenized.words))] == ["Effusion", "in", "the", "left", "lung"]
    assert tokenized.words[0].last - tokenized.words[0].first > 1  # it came in pieces


def test_the_attention_of_a_bert_is_on_the_way_to_its_features(folders):
    pair = load_open_clip("biomedclip", folders["biomedclip"])
    ids = pair.tokens("effusion in the left lung")
    features, attentions = pair.text.attend(ids)
    torch.testing.assert_close(features, pair.text.encode(ids))
    assert len(attentions) == pair.text.n_layers
    assert all(torch.allclose(a.sum(-1), torch.ones(())) for a in attentions)
    target = F.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    words = tuple((word.first, word.last) for word in pair.tokenizer.tokenize("effusion in the left lung").words)
    assert relevance(Problem(pair.text, ids, target, words=words)).maps.shape == (1, attentions[0].shape[-1])


@pytest.mark.parametrize("name", ["biomedclip", "siglip"])
def test_hub_pairs_are_explained(service, name):
    from backend.images import encode_png

    seen = service.put_image(encode_png(np.random.default_rng(0).random((32, 32, 3)).astype(np.float32)))
    result = service.run(
        PairMapRequest(seen.id, "effusion in the left lung", "m2ib", name, params=(("n_steps", 2), ("samples", 2)))
    )
    assert result.arrays["image_map"].shape == (224, 224) and len(result.arrays["word_map"]) == 5
