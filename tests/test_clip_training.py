"""The embedded image-text model: its pictures, texts, losses and figures; towers that can be cut open; real models."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from backend import training
from backend.errors import BadInput, Cancelled, NotAvailable
from backend.image_text import corpus as corpora
from backend.image_text import data, examples, judge, train
from backend.models import clip
from backend.models.tokenizers import BytePairTokenizer, WordTokenizer
from backend.models.towers import attention_of, plain_block, pooled_block
from backend.radiographs import reports
from backend.radiographs.findings import KINDS, SIDED
from backend.training import WEIGHTS
from tests import phantoms

PICTURES = data.DataRecipe(
    side=64, train_poses=4, train_variants=16, validation_poses=2, test_poses=2, test_variants=12
)
SMALL = train.Recipe(
    side=64, width=32, heads=2, image_layers=2, text_layers=1, embed_dim=32, stem=(12, 16),
    looking_steps=4, looking_batch=16, reading_steps=4, reading_batch=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("radiographs")
    return data.make(PICTURES, folder=path, chest=phantoms.chest)


@pytest.fixture(scope="module")
def corpus(folder):
    return corpora.radiograph_corpus(data.load("train", PICTURES, folder))


def train_small(tmp_path, folder, **more):
    return train.train("cxr-clip", folder=tmp_path, recipe=SMALL, pictures=PICTURES, data_folder=folder, **more)


# ----------------------------------------------------------------- pictures
def test_shards_do_not_depend_on_who_makes_them(folder, tmp_path):
    for k in (1, 0):  # two processes, in any order
        data.make(PICTURES, folder=tmp_path, chest=phantoms.chest, part=(k, 2))
    one, other = data.load("test", PICTURES, folder), data.load("test", PICTURES, tmp_path)
    assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.masks, other.masks)
    assert [record.text for record in one.records] == [record.text for record in other.records]


def test_what_is_there_is_not_made_again(folder):
    def refuse():
        raise AssertionError("the CT was read although nothing is missing")

    steps = []
    data.make(PICTURES, folder=folder, chest=refuse, on_step=steps.append)
    assert steps[-1].done == steps[-1].total == 3


def test_records_know_their_masks_and_boxes(folder):
    pictures = data.load("train", PICTURES, folder)
    assert len(pictures) == 64 and pictures.pixels.shape == (64, 64, 64)
    seen = 0
    for record in pictures.records:
        for finding, row, box in zip(record.findings, record.masks, record.boxes, strict=True):
            left, top, right, bottom = box
            mask = pictures.mask(row)
            assert mask[top:bottom, left:right].sum() == mask.sum() > 0, finding.kind
            seen += 1
        about = [k for _, k in record.report if k is not None]
        assert sorted(about) == list(range(len(record.findings)))
    assert seen > 40


def test_other_settings_have_another_folder():
    assert data.DataRecipe().digest != data.DataRecipe(seed=1).digest
    assert data.radiographs_folder(data.DataRecipe()).name.endswith(data.DataRecipe().digest)


# ----------------------------------------------------------------- texts
def test_drawn_texts_fit_their_picture(corpus):
    generator = np.random.default_rng(0)
    kinds_of_text = set()
    for _ in range(600):
        i = int(generator.integers(len(corpus)))
        drawn = corpus.draw_text(i, generator)
        assert corpus.attributes[i, corpus.columns(drawn.required)].all()
        assert not corpus.attributes[i, corpus.columns(drawn.forbidden)].any()
        kinds_of_text.add((bool(drawn.required), len(drawn.forbidden) == 1))
    assert len(kinds_of_text) >= 3  # statements, denials, reports


def test_every_word_of_every_text_is_known(corpus):
    tokenizer = WordTokenizer(corpus.vocabulary, train.Recipe().context_length)
    generator = np.random.default_rng(1)
    for _ in range(300):
        tokenized = tokenizer.tokenize(corpus.draw_text(int(generator.integers(len(corpus))), generator).text)
        assert tokenized.n_cut == 0
        spelled = [tokenized.word(k) for k, w in enumerate(tokenized.words) if w.last - w.first > 1]
        assert all(word.isdigit() for word in spelled), spelled


def test_cells_hold_what_the_masks_hold(folder, corpus):
    pictures = data.load("train", PICTURES, folder)
    assert corpus.dense.shape == (64, 3 * len(KINDS), 8, 8)
    assert corpus.keys[len(KINDS)] == f"{KINDS[0]}|left"
    for i, record in enumerate(pictures.records):
        for finding, row in zip(record.findings, record.masks, strict=True):
            cells = corpus.dense[i, KINDS.index(finding.kind)] > 0
            covered = pictures.mask(row).reshape(8, 8, 8, 8).any((1, 3))
            assert not (cells & ~covered).any() and cells.any()


# ----------------------------------------------------------------- losses
def test_contrast_with_one_positive_each_is_the_usual_loss():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    usual = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    assert torch.allclose(train.contrast(logits, torch.eye(6, dtype=torch.bool)), usual)


def test_contrast_is_least_where_all_positives_are_alike():
    fits = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    even = torch.where(fits, 30.0, -30.0)
    assert train.contrast(even, fits).item() == pytest.approx(2 / 3 * math.log(2), abs=1e-4)
    uneven = even.clone()
    uneven[0, 0] += 2
    assert train.contrast(uneven, fits) > train.contrast(even, fits)


def test_a_batch_knows_which_texts_fit_which_pictures(corpus, tmp_path, folder):
    run = train.Run("cxr-clip", 0, SMALL, corpus, torch.device("cpu"), None)
    has = [i for i in range(len(corpus)) if corpus.attributes[i, corpus.rows["effusion"]]]
    lacks = [i for i in range(len(corpus)) if not corpus.attributes[i, corpus.rows["effusion"]]]
    rows = np.array([has[0], lacks[0], lacks[1]])
    drawn = [
        corpora.DrawnText("effusion.", ("effusion",)),
        corpora.DrawnText("no effusion.", (), ("effusion",)),
        corpora.DrawnText("something."),
    ]
    fits = run._fits(rows, drawn).tolist()
    assert fits == [[True, False, True], [False, True, True], [False, True, True]]


def test_jitter_moves_masks_with_their_picture():
    images = torch.zeros(2, 3, 32, 32)
    images[:, :, 8:16, 16:24] = 1.0
    moved, maps = train.jitter(images, np.random.default_rng(0))
    mask = train.move(images[:, :1], maps)
    for picture, cell in zip(moved[:, 0], mask[:, 0], strict=True):
        assert picture[cell > 0.9].mean() > picture[cell < 0.1].mean() + 0.5


# ----------------------------------------------------------------- training
def test_training_writes_a_model_that_loads_and_a_card_with_figures(tmp_path, folder):
    steps = []
    card = train_small(tmp_path, folder, on_step=steps.append)
    assert [step.done for step in steps[-8:]] == list(range(1, 9)) and steps[-1].total == 8
    assert set(card["judged"]["findings"]) == set(KINDS)
    pair = clip.load_trained("cxr-clip", tmp_path)
    assert pair.digest == card["sha256"] and pair.input_size == (64, 64) and pair.n_channels == 1
    test = data.load("test", PICTURES, folder)
    with torch.random.fork_rng(devices=[]):
        again = judge.judge_radiographs(pair, data.load("validation", PICTURES, folder), test)
    assert json.dumps(again) == json.dumps(card["judged"])  # the shipped numbers are those that were judged
    assert not any(p.requires_grad for p in pair.module.parameters()) and not pair.module.training


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_that_was_stopped_ends_in_the_same_weights(tmp_path, folder, monkeypatch, stop):
    monkeypatch.setattr(train, "KEEP_EVERY", 2)
    whole = train_small(tmp_path / "whole", folder)["sha256"]
    checkpoint = tmp_path / "checkpoint.pt"

    def interrupt(step):
        if step.total == 8 and step.done == stop + 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_small(tmp_path / "parts", folder, checkpoint=checkpoint, on_step=interrupt)
    assert checkpoint.exists()
    assert train_small(tmp_path / "parts", folder, checkpoint=checkpoint)["sha256"] == whole
    assert not checkpoint.exists()


def test_seeds_differ_and_the_global_random_numbers_stay(tmp_path, folder):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (train_small(tmp_path, folder, seed=seed) for seed in (0, 1))
    assert first["sha256"] != second["sha256"] and second["key"] == "cxr-clip-seed1"
    assert torch.equal(before, torch.get_rng_state())


def test_a_checkpoint_of_another_run_is_refused(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(train, "KEEP_EVERY", 1)
    checkpoint = tmp_path / "checkpoint.pt"

    def interrupt(step):
        if step.total == 8 and step.done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        train_small(tmp_path, folder, checkpoint=checkpoint, on_step=interrupt)
    with pytest.raises(BadInput, match="another run"):
        train_small(tmp_path, folder, checkpoint=checkpoint, seed=3)


def test_the_training_job_makes_pictures_trains_and_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    monkeypatch.setattr(train, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(train, "KEEP_EVERY", 2)
    monkeypatch.setitem(train.RECIPES, "cxr-clip", SMALL)
    monkeypatch.setattr(data, "DataRecipe", lambda: PICTURES)
    monkeypatch.setattr(data.make, "__defaults__", (*data.make.__defaults__[:3], phantoms.chest, (0, 1)))
    steps = []

    def on_step(step):
        steps.append(step)
        if step.total == 8 and step.done == 5 and len(steps) < 10:
            raise Cancelled

    context = SimpleNamespace(folder=tmp_path / "job", on_step=on_step)
    with pytest.raises(Cancelled):
        training.job({"name": "cxr-clip", "seed": 0}, context)
    card = training.job({"name": "cxr-clip", "seed": 0}, context)
    assert [step.total for step in steps[:3]] == [3, 3, 3]  # pictures first
    assert [step.done for step in steps if step.total == 8] == [1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert card["sha256"] == clip.load_trained("cxr-clip", tmp_path / "weights").digest


def test_an_unknown_name_is_told():
    with pytest.raises(BadInput, match="cxr-clip"):
        train.train("cxr-clap")


# ----------------------------------------------------------------- figures
def test_auroc_is_scikit_learns():
    generator = np.random.default_rng(0)
    present = generator.random(200) < 0.3
    scores = np.round(present + generator.normal(0, 1, 200), 1)  # with ties
    assert judge.auroc(scores, present) == pytest.approx(roc_auc_score(present, scores))
    assert math.isnan(judge.auroc(scores, np.zeros(200, bool)))


def test_the_threshold_is_the_best_of_all():
    generator = np.random.default_rng(1)
    present = generator.random(80) < 0.4
    scores = present + generator.normal(0, 1, 80)
    careful = judge.best_threshold(scores, present, 0.95)
    assert (scores[~present] <= careful).mean() >= 0.95 and careful >= judge.best_threshold(scores, present)
    found = balanced_accuracy_score(present, scores > judge.best_threshold(scores, present))
    best = max(balanced_accuracy_score(present, scores > t) for t in np.linspace(scores.min(), scores.max(), 4000))
    assert found == pytest.approx(best)


# ----------------------------------------------------------------- normalisation
def test_equalised_pixels_are_ranks_and_have_gradients():
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    equal = clip.equalise(image)
    levels = (image.detach() * 255).round() / 255
    ranks = clip.equalise(levels)
    for k in range(2):
        flat = levels[k].flatten()
        expected = (flat[:, None] > flat).float().mean(1) + (flat[:, None] == flat).float().mean(1) / 2
        assert torch.allclose(ranks[k].flatten(), expected, atol=1e-5)
    equal.sum().backward()
    assert torch.isfinite(image.grad).all() and (image.grad >= 0).all() and (image.grad > 0).any()


def test_equalised_pixels_do_not_depend_on_exposure():
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    darker = image**1.7
    assert (clip.equalise(image) - clip.equalise(darker)).abs().mean() < 0.01


# ----------------------------------------------------------------- towers
def small_pair(stem=True, pool="avg", layers=3):
    words = ["no", "left", "effusion", "."]
    network = train.Recipe(side=64, width=32, heads=2, image_layers=layers, text_layers=3, embed_dim=16).network(words)
    network["vision_cfg"]["pool_type"] = pool
    if not stem:
        network["stem"], network["images"] = None, "rgb"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return clip.pair_of_card("small", network, clip.build_network(network))


def resnet_pair():
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {"context_length": 20, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2}
        vision = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 16}
        module = open_clip.CLIP(16, vision, text)
    normalise = clip.MeanStd((0.5,) * 3, (0.2,) * 3)
    return clip.make_pair("resnet", module, normalise, WordTokenizer(["left", "effusion"], 20), "", {})


def siglip_pair():
    """The layout of SigLIP, small: a timm transformer with a pooling of its own, a text tower without causal mask."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = {"context_length": 20, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2, "pool_type": "last"}
        text |= {"no_causal_mask": True, "proj_bias": True}
        vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none", "image_size": 64}
        module = open_clip.CustomTextCLIP(192, vision, text)
        module.visual.trunk.set_input_size((64, 64))
    words = WordTokenizer(["left", "effusion"], 20)
    return clip.make_pair("siglip", module, clip.MeanStd((0.5,) * 3, (0.5,) * 3), words, "", {})


PAIRS = {
    "attention": siglip_pair,
    "average": small_pair,
    "token": lambda: small_pair(stem=False, pool="tok"),
    "resnet": resnet_pair,
}


@pytest.mark.parametrize("kind", PAIRS)
@torch.no_grad()
def test_towers_cut_anywhere_give_what_open_clip_gives(kind):
    pair = PAIRS[kind]()
    images = torch.rand(2, pair.n_channels, 64, 64, generator=torch.Generator().manual_seed(0))
    ids = pair.tokens(["no left effusion.", "effusion"])
    features = pair.module.encode_image(pair.module.normalise(images))
    said = pair.module.encode_text(ids)
    assert (pair.image.first_layer == -1) == (kind == "average")  # the only one with a stem of convolutions
    for layer in range(pair.image.first_layer, pair.image.n_layers):
        hidden = pair.image.prefix(images, layer)
        rows, columns = pair.image.grid(layer)
        assert hidden.shape[1] == rows * columns + pair.image.leading(layer)
        assert torch.allclose(pair.image.suffix(hidden, layer), features, atol=1e-5)
    for layer in range(pair.text.first_layer, pair.text.n_layers):
        hidden = pair.text.prefix(ids, layer)
        assert torch.allclose(pair.text.suffix(hidden, layer, ids), said, atol=1e-5)
    assert pair.image.pooling == {"resnet": "attention"}.get(kind, kind)
    with pytest.raises(BadInput, match=rf"-1\.\.{pair.text.n_layers - 1}"):
        pair.text.prefix(ids, pair.text.n_layers)


@pytest.mark.parametrize("kind", ["average", "token"])
def test_attention_lies_on_the_way_to_the_features(kind):
    pair = PAIRS[kind]()
    images = torch.rand(1, pair.n_channels, 64, 64)
    ids = pair.tokens("no left effusion.")
    for tower, inputs in ((pair.image, images), (pair.text, ids)):
        hidden = tower.embed(inputs).requires_grad_()
        mask = None if tower is pair.image else tower._mask(hidden.shape[1], hidden)
        out, attention = attention_of(tower.blocks[0], hidden, mask)
        assert torch.allclose(attention.sum(-1), torch.ones(1), atol=1e-5)
        (gradient,) = torch.autograd.grad(out.square().sum(), attention)
        assert gradient.abs().sum() > 0
        features, attentions = tower.attend(inputs)
        assert len(attentions) == tower.n_layers and torch.allclose(features, tower.encode(inputs), atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_written_out_is_the_block_and_so_is_its_gradient(masked):
    block = small_pair().text.blocks[0]
    hidden = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.full((5, 5), float("-inf")).triu(1) if masked else None
    ours, theirs = plain_block(block, hidden, mask), block(hidden, attn_mask=mask)
    assert torch.allclose(ours, theirs, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), hidden)[0] for out in (ours, theirs)]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_token_of_a_block_is_that_token_of_the_whole_block():
    pair = small_pair()
    hidden = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.full((5, 5), float("-inf")).triu(1)
    at = torch.tensor([4, 2, 0])
    whole = pair.text.blocks[0](hidden, attn_mask=mask)[torch.arange(3), at]
    assert torch.allclose(pooled_block(pair.text.blocks[0], hidden, at, mask), whole, atol=1e-5)


def test_a_resnet_has_no_attention_to_read():
    with pytest.raises(NotAvailable, match="no self-attention"):
        resnet_pair().image.attend(torch.zeros(1, 3, 64, 64))


# ----------------------------------------------------------------- words
def test_words_keep_their_place_and_what_does_not_fit_is_counted():
    tokenizer = WordTokenizer(["left", "effusion", "."], 8)
    tokenized = tokenizer.tokenize("Left EFFUSION, 12.")
    assert [tokenized.word(k) for k in range(len(tokenized.words))] == ["Left", "EFFUSION", ",", "12", "."]
    assert len(tokenized.ids) == 8 and tokenized.n_cut == 0
    assert tokenized.is_special == (True, *(False,) * 6, True)
    longer = tokenizer.tokenize("left effusion left effusion left effusion left xyz")
    assert len(longer.ids) == 8 and longer.n_cut == 4
    assert tokenizer("left effusion.").tolist()[0][-3:] == [0, 0, 0]


@pytest.mark.parametrize("text", ["", "🫁 ١٢٣ <b>x</b>", "\x00\x07", "İstanbul effusion", "é" * 300])
def test_any_text_can_be_read(text):
    import open_clip

    for tokenizer in (WordTokenizer(["effusion"], 16), BytePairTokenizer(open_clip.tokenizer.SimpleTokenizer(), 77)):
        tokenized = tokenizer.tokenize(text)
        assert len(tokenized.ids) <= tokenizer.context_length
        assert all(0 <= word.start <= word.end <= len(tokenized.text) for word in tokenized.words)
        assert tokenizer([text]).shape == (1, tokenizer.context_length)


def test_byte_pairs_are_open_clips_own():
    import open_clip

    own = open_clip.tokenizer.SimpleTokenizer()
    text = "Small  Pneumothorax on the RIGHT side, 3 mm."
    tokenizer = BytePairTokenizer(own)
    assert torch.equal(tokenizer([text]), own([text]))
    tokenized = tokenizer.tokenize(text)
    assert [tokenized.word(k) for k in range(3)] == ["Small", "Pneumothorax", "on"]


# ----------------------------------------------------------------- real models
def test_a_full_size_model_in_the_hubs_layout_loads_through_the_same_code(tmp_path):
    import open_clip
    from safetensors.torch import save_file

    config = open_clip.get_model_config("ViT-B-32")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = open_clip.create_model("ViT-B-32", pretrained=None)
    state = {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    mean, std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    about = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    pair = clip.load_open_clip("my-vit", tmp_path)
    assert (pair.image.n_layers, pair.text.n_layers, pair.input_size) == (12, 12, (224, 224))
    assert pair.image.grid(9) == (7, 7) and pair.image.pooling == "token" and pair.text.pooling == "argmax"
    assert pair.module.normalise.mean.flatten().tolist() == pytest.approx(mean)
    images = torch.rand(1, 3, 224, 224)
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    with torch.no_grad():
        expected = module.eval().encode_image(
            (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        )
        assert torch.allclose(pair.image.encode(images), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("ViT-Z-99/openai", BadInput, "no model named"),
        ("ViT-B-32/nobody", BadInput, "no checkpoint"),
        ("ViT-B-32", BadInput, "name a checkpoint"),
    ],
)
def test_unknown_models_are_told_in_one_sentence(name, error, sentence):
    with pytest.raises(error, match=sentence):
        clip.load_open_clip(name)


def test_missing_weights_name_the_command(tmp_path):
    with pytest.raises(NotAvailable, match="python -m backend train cxr-clip"):
        clip.load_trained("cxr-clip", tmp_path)
    with pytest.raises(NotAvailable, match="no checkpoint"):
        clip.load_open_clip("ViT-B-32", tmp_path / "nothing")


# ----------------------------------------------------------------- what ships
def shipped_card() -> dict:
    return json.loads((WEIGHTS / "cxr-clip.json").read_text())


def test_the_shipped_card_tells_every_findings_figures():
    judged = shipped_card()["judged"]
    assert set(judged["findings"]) == set(KINDS)
    for kind, row in judged["findings"].items():
        assert row["positives"] >= 200, kind
        assert 0.5 < row["auroc"] <= 1 and 0 <= row["balanced_accuracy"] <= 1
        assert (row["side_accuracy"] is not None) == (kind in SIDED)
    for name in ("auroc", "balanced_accuracy"):
        mean = np.mean([row[name] for row in judged["findings"].values()])
        assert judged["mean"][name] == pytest.approx(mean, abs=1e-3)


def test_the_shipped_model_knows_the_shipped_examples():
    """Twelve pictures are few: present must score above absent in most pairs, over all findings together."""
    pair = clip.load_trained("cxr-clip", WEIGHTS)
    shipped = examples.example_radiographs()
    pixels = np.stack([np.asarray(Image.open(examples.FOLDER / example.image)) for example in shipped])
    embedded = judge.embed_pixels(pair, pixels)
    ordered = []
    for kind in KINDS:
        prompt = judge.mean_prompt(judge.embed_prompts(pair, reports.statements(kind, judge.PHRASING)))
        present = np.array([any(found.kind == kind for found in example.findings) for example in shipped])
        scores = (embedded @ prompt).numpy()
        ordered += list((scores[present][:, None] > scores[~present]).ravel())
    assert np.mean(ordered) > 0.85


def test_present_and_absent_by_the_calibrated_thresholds():
    pair = clip.load_trained("cxr-clip", WEIGHTS)
    said, true = [], []
    for example in examples.example_radiographs():
        pixels = np.asarray(Image.open(examples.FOLDER / example.image))[None]
        answers = judge.answer(pair, judge.embed_pixels(pair, pixels)[0])
        assert [a.kind for a in answers] == list(KINDS)
        said += [a.is_present for a in answers]
        true += [any(found.kind == a.kind for found in example.findings) for a in answers]
    assert balanced_accuracy_score(true, said) > 0.8
    with pytest.raises(BadInput, match="no calibrated thresholds"):
        judge.answer(small_pair(), torch.zeros(16))
