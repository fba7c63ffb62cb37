"""Small models with random weights in the hub's own layout, tokenizer files and all, as a person would bring them."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SENTENCES = ("a dog barks", "a bell rings in the distance", "effusion in the left lung", "no nodule", "two cats")
_SIDE = 224  # of timm's vision transformer
_IMAGES = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}


def _seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def write_word_pieces(folder: Path) -> int:
    """A BERT tokenizer over the sentences' words, some of them in pieces; returns the size of its vocabulary."""
    from transformers import BertTokenizerFast

    words = sorted({word for text in SENTENCES for word in text.split()} - {"effusion", "distance"})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "eff", "##usion", "dist", "##ance", "##s", "."]
    (folder / "vocab.txt").write_text("\n".join(names) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return len(names)


def write_sentence_pieces(folder: Path) -> int:
    """A T5 tokenizer (SigLIP's kind) trained on the sentences; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "</s>"]
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>", padding_side="right"
    )
    fast.save_pretrained(folder)
    return len(fast)


def write_open_clip_config(folder: Path, text: dict) -> None:
    vision = {"image_size": _SIDE, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear"}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": _IMAGES}))


def write_biomedclip(folder: Path) -> Path:
    """As BiomedCLIP: a BERT with word pieces, its first token projected, and a vision transformer of timm."""
    import open_clip
    from transformers import BertConfig

    folder.mkdir()
    vocabulary = write_word_pieces(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    BertConfig(vocab_size=vocabulary, max_position_embeddings=40, **sizes).save_pretrained(folder)
    text = {
        "hf_model_name": str(folder),
        "hf_model_pretrained": False,
        "hf_tokenizer_name": "a name on the hub that is never asked for",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 24,
    }
    write_open_clip_config(folder, text)
    module = _seeded(
        lambda: open_clip.create_model(f"local-dir:{folder}", pretrained=None, load_weights=False, pretrained_hf=False)
    )
    save_file(module.state_dict(), folder / "open_clip_model.safetensors")
    # What the hub's own folder says: the name of the text model there.
    write_open_clip_config(folder, {**text, "hf_model_name": "a name on the hub", "hf_model_pretrained": True})
    return folder


def write_siglip(folder: Path) -> Path:
    """As SigLIP: sentence pieces, no start token, no causal mask, the last position pooled."""
    import open_clip

    folder.mkdir()
    text = {
        "context_length": 24,
        "vocab_size": write_sentence_pieces(folder),
        "hf_tokenizer_name": "a name on the hub that is never asked for",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32,
        "heads": 2,
        "layers": 3,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    }
    write_open_clip_config(folder, text)
    module = _seeded(
        lambda: open_clip.create_model(f"local-dir:{folder}", pretrained=None, load_weights=False, pretrained_hf=False)
    )
    save_file(module.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_clap(folder: Path, fused: bool = False) -> Path:
    """A CLAP: HTSAT over spectrograms of half a second, RoBERTa with byte pairs."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, RobertaTokenizerFast

    folder.mkdir()
    tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(SENTENCES, vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.save_model(str(folder))
    RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    text = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    audio = {
        "spec_size": 32,
        "num_mel_bins": 16,
        "window_size": 4,
        "patch_size": 2,
        "patch_stride": [2, 2],
        "depths": [2, 2],
        "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 16,
        "hidden_size": 32,
        "enable_fusion": fused,
        "drop_path_rate": 0.0,
    }
    config = ClapConfig(
        text_config={**text, "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 30},
        audio_config=audio,
        projection_dim=16,
    )
    _seeded(lambda: ClapModel(config)).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8000,
        hop_length=128,
        max_length_s=1,
        fft_window_size=256,
        frequency_min=50,
        frequency_max=4000,
        truncation="fusion" if fused else "rand_trunc",
    ).save_pretrained(folder)
    return folder
