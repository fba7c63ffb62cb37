"""Small image-text pairs with random weights, of every kind of tower that the methods meet."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from backend.catalog import PAIRS
from backend.models.clip import ImageTextPair, build_network, pair_of_card
from backend.models.library import Library
from backend.models.spectrograms import LogMel
from backend.models.tokenizers import WordTokenizer
from backend.runtime import Runtime
from backend.service import LocalService

WORDS = ("a", "the", "left", "right", "lung", "nodule", "in", "effusion", "no", "clear", "are", "lungs", "small", ".")
SIDE = 32
KINDS = ("vit", "average", "resnet")
REPORT = "Small nodule in the right lung."


def network_of(kind: str, images: str = "rgb") -> dict[str, Any]:
    """A card's `network`: a transformer that pools its class token or its patches, or a ResNet."""
    vision: dict[str, Any] = {"image_size": SIDE}
    if kind == "resnet":
        vision |= {"layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
    else:
        vision |= {"layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
        vision |= {"pool_type": "avg"} if kind == "average" else {}
    return {
        "embed_dim": 16,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": 20,
            "vocab_size": WordTokenizer(WORDS).vocab_size,
            "width": 32,
            "heads": 2,
            "layers": 4,
        },
        "images": images,
        "words": list(WORDS),
    }


HEARING = LogMel(8000, 256, 64, 32, 48)  # .384 s


def hearing_network(pool_type: str = "tok") -> dict[str, Any]:
    """A card's `network` of a pair that hears, too."""
    network = network_of("vit")
    audio = {**network["vision_cfg"], "image_size": [HEARING.n_mels, HEARING.n_frames], "pool_type": pool_type}
    return {**network, "audio_cfg": audio, "spectrogram": asdict(HEARING)}


def hearing_pair(pool_type: str = "tok", seed: int = 0) -> ImageTextPair:
    network = hearing_network(pool_type)
    return pair_of_card("tiny-hearing", network, make_module(network, seed), f"digest of hearing {pool_type} {seed}")


def make_module(network: dict[str, Any], seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(network)


def tiny_pair(
    kind: str = "vit", images: str = "rgb", seed: int = 0, dtype: torch.dtype = torch.float32
) -> ImageTextPair:
    network = network_of(kind, images)
    return pair_of_card(f"tiny-{kind}", network, make_module(network, seed).to(dtype), f"digest of {kind} {seed}")


def write_pair(folder: Path, key: str = "cxr-clip", kind: str = "vit", images: str = "radiograph") -> Path:
    """Weights and card of a tiny pair, in the layout of models that ship."""
    network = hearing_network() if key == "sounds-clip" else network_of(kind, images)
    data = save({name: tensor.contiguous() for name, tensor in make_module(network).state_dict().items()})
    (folder / f"{key}.safetensors").write_bytes(data)
    card = {"network": network, "architecture": "prism:clip", "sha256": hashlib.sha256(data).hexdigest()}
    (folder / f"{key}.json").write_text(json.dumps(card))
    return folder


def pair_service(folder: Path) -> LocalService:
    """An engine whose every shipped pair is a tiny one."""
    for key in PAIRS:
        write_pair(folder, key)
    return LocalService(Runtime("cpu"), Library(weights_folder=folder))
