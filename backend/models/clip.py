"""Image-text models as the methods see them: two towers that can be cut open, a tokenizer, and one shared space.

Every pair, whether it is trained here or one of open_clip's by name or checkpoint, is an `ImageTextPair`. Images come
in [0, 1]; each model normalises them itself.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import BadInput, NotAvailable
from backend.models import hub, weights
from backend.models.spectrograms import LogMel
from backend.models.tokenizers import BytePairTokenizer, HubTokenizer, Tokenizer, WordTokenizer
from backend.models.towers import AudioTower, ResNetTower, TextTower, TimmTower, Tower, VisionTower
from backend.models.transformers_towers import BertTower
from backend.runtime import HasBytes

PREFIX = "open_clip:"  # open_clip:ARCHITECTURE[/CHECKPOINT], with any names that open_clip knows
TASK = "image_text"


@dataclass(frozen=True)
class ImageTextPair(HasBytes):
    """An image tower and a text tower into one space, and for some models an audio tower, too.

    `image` takes (N, n_channels, *input_size) in [0, 1]; `text` takes (N, context_length) ids of `tokenizer`.
    `logit_scale` is what cosines were multiplied by in training. `card` says how it was made ({} if nobody told us);
    `digest` is the sha256 of its weights.
    """

    key: str
    module: nn.Module
    image: Tower | None  # None: a pair of sounds and texts
    text: Tower
    tokenizer: Tokenizer
    input_size: tuple[int, int]
    n_channels: int
    logit_scale: float
    digest: str
    card: Mapping[str, Any]
    audio: Tower | None = None  # takes (N, 1, F, T) in [0, 1] as `spectrogram` makes them
    spectrogram: LogMel | None = None

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.module.parameters(), *self.module.buffers()))

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def tower(self, modality: str) -> Tower:
        """Raises: BadInput: it has no such modality."""
        towers = {tower.modality: tower for tower in (self.image, self.text, self.audio) if tower is not None}
        if modality not in towers:
            raise BadInput(f"modality {modality!r}; this model has {', '.join(towers)}", "modality")
        return towers[modality]

    def other(self, modality: str) -> Tower:
        """The tower that is not of this modality."""
        first = self.image if self.image is not None else self.audio
        return self.text if self.tower(modality) is first else first

    def with_module(self, module: nn.Module) -> "ImageTextPair":
        """The same pair with another copy of its network."""
        about = (self.digest, self.card, self.n_channels, self.spectrogram)
        return make_pair(self.key, module, module.normalise, self.tokenizer, *about)

    def tokens(self, texts: str | Sequence[str]) -> Tensor:
        """Token ids on the model's device, (N, context_length)."""
        return self.tokenizer(texts).to(self.device)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors, (N, C, H, W) in [0, 1] -> (N, E). Raises: BadInput: the model sees nothing."""
        return F.normalize(self.tower("image").encode(images.to(self.device, self.dtype)), dim=-1)

    def embed_audio(self, spectrograms: Tensor) -> Tensor:
        """Unit vectors, (N, 1, F, T) in [0, 1] -> (N, E). Raises: BadInput: the model hears nothing."""
        return F.normalize(self.tower("audio").encode(spectrograms.to(self.device, self.dtype)), dim=-1)

    def embed_texts(self, texts: str | Sequence[str]) -> Tensor:
        """Unit vectors, (N, E)."""
        return F.normalize(self.text.encode(self.tokens(texts)), dim=-1)


def make_pair(
    key: str,
    module: nn.Module,
    normalise: nn.Module,
    tokenizer: Tokenizer,
    digest: str,
    card: Mapping[str, Any],
    n_channels: int = 3,
    spectrogram: LogMel | None = None,
) -> ImageTextPair:
    """Put an open_clip model behind the towers' interface; it is set to evaluation and needs no gradients.

    Args: module: `open_clip.CLIP`, `CustomTextCLIP` or the like, with a VisionTransformer `audio` if it hears, too.
        normalise: (N, C, H, W) in [0, 1] -> what it takes. spectrogram: what sounds become for `audio`.
    Raises: NotAvailable: a tower of a kind that cannot be cut open.
    """
    module.normalise = normalise  # moves with the model, and its buffers count as its bytes
    module.eval().requires_grad_(False)
    visual, owner = module.visual, getattr(module, "text", module)
    if hasattr(visual, "attnpool"):
        image: Tower = ResNetTower(visual, normalise)
    elif hasattr(visual, "trunk"):
        image = TimmTower(visual, normalise)
    elif hasattr(visual, "transformer"):
        image = VisionTower(visual, normalise)
    else:
        raise NotAvailable(f"the image tower {type(visual).__name__} has no blocks that Prism can cut at", "model")
    audio = getattr(module, "audio", None)
    size = visual.image_size
    return ImageTextPair(
        key=key,
        module=module,
        image=image,
        text=_text_tower(owner),
        tokenizer=tokenizer,
        input_size=(size, size) if isinstance(size, int) else tuple(size),
        n_channels=n_channels,
        logit_scale=float(module.logit_scale.detach().exp()),
        digest=digest,
        card=card,
        audio=None if audio is None else AudioTower(audio, audio.normalise),
        spectrogram=spectrogram,
    )


def _text_tower(owner: nn.Module) -> Tower:
    """Of the module that reads: open_clip's own transformer, or one of the hub's behind its adapter."""
    if not hasattr(owner, "pooler") or not hasattr(getattr(owner.transformer, "encoder", None), "layer"):
        return TextTower(owner)
    poolings = {"MeanPooler": "average", "ClsPooler": "token", "ClsLastHiddenStatePooler": "token"}
    kind = type(owner.pooler).__name__
    if kind not in poolings or not hasattr(owner.transformer, "embeddings"):
        raise NotAvailable(f"the text tower {type(owner.transformer).__name__} pools by {kind}, which is not supported")
    owner.transformer.set_attn_implementation("eager")  # so that the attention can be read
    dense = getattr(owner.transformer, "pooler", None) if kind == "ClsPooler" else None

    def project(pooled: Tensor) -> Tensor:
        return owner.proj(pooled if dense is None else dense(pooled[:, None]))

    return BertTower(owner.transformer, poolings[kind], project, owner.config.pad_token_id)


# ----------------------------------------------------------------- normalisation
class MeanStd(nn.Module):
    """(x - mean) / std per channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class RadiographChannels(nn.Module):
    """Grey images as three channels that do not depend on the exposure: raw, equalised, local contrast.

    Gradients reach the pixels through all three; the histogram itself counts as constant.
    """

    _BINS = 256
    # Mean and spread of the channels over simulated radiographs, so that each enters about standardised.
    _RAW, _EQUALISED, _LOCAL = (0.45, 0.27), (0.5, 0.29), (0.0, 0.11)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] -> (N, 3, H, W)."""
        equal = equalise(images, self._BINS)
        side = max(1, images.shape[-1] // 16)
        smooth = F.interpolate(F.avg_pool2d(equal, side), size=images.shape[-2:], mode="bilinear")
        channels = ((images, self._RAW), (equal, self._EQUALISED), (equal - smooth, self._LOCAL))
        return torch.cat([(x - mean) / std for x, (mean, std) in channels], 1)


class SpectrogramChannels(nn.Module):
    """Spectrograms as three channels: level, level against its surroundings, and which frequency it is."""

    _LEVEL, _LOCAL = (0.35, 0.2), (0.0, 0.15)  # mean and spread over synthesised sounds

    def forward(self, spectrograms: Tensor) -> Tensor:
        """(N, 1, F, T) in [0, 1] -> (N, 3, F, T)."""
        side = max(1, spectrograms.shape[-2] // 6)
        smooth = F.interpolate(F.avg_pool2d(spectrograms, side), size=spectrograms.shape[-2:], mode="bilinear")
        height = torch.linspace(-1, 1, spectrograms.shape[-2]).to(spectrograms)[:, None].expand_as(spectrograms)
        level = (spectrograms - self._LEVEL[0]) / self._LEVEL[1]
        return torch.cat([level, (spectrograms - smooth - self._LOCAL[0]) / self._LOCAL[1], height], 1)


def equalise(images: Tensor, bins: int = 256) -> Tensor:
    """Each pixel's rank in its image, by the image's own histogram; (N, 1, H, W) in [0, 1], same out.

    Linear between the bins' ranks, so that it has a gradient; the histogram counts as constant.

    >>> equalise(torch.tensor([[[[0.0, 1.0], [1.0, 1.0]]]])).flatten().tolist()
    [0.125, 0.625, 0.625, 0.625]
    """
    level = images.clamp(0, 1).flatten(1) * (bins - 1)
    low = level.detach().floor().clamp(max=bins - 2).long()
    nearest = level.detach().round().long()
    counts = level.new_zeros(len(level), bins).scatter_add_(1, nearest, torch.ones_like(level).detach())
    rank = (counts.cumsum(1) - counts / 2) / level.shape[1]
    share = level - low
    return (rank.gather(1, low) * (1 - share) + rank.gather(1, low + 1) * share).view(images.shape)


# ----------------------------------------------------------------- the models trained here
class ConvStem(nn.Module):
    """Convolutions with BatchNorm in the place of a patch convolution; total stride 16.

    Patches of 4 x 4 pixels, then strides 8 and 16. Two residual convolutions at stride 8 look at what is smaller than a
    token; `is_deep`: two more at stride 4, where the smallest findings are.
    """

    def __init__(self, width: int, channels: Sequence[int] = (48, 80), is_deep: bool = False) -> None:
        super().__init__()
        first, second = channels
        self.early = nn.Sequential(*_convolution(first, first), *_convolution(first, first)[:2]) if is_deep else None
        self.fine = nn.Sequential(*_convolution(3, first, 4, 4, 0), *_convolution(first, second, stride=2))
        self.residual = nn.Sequential(*_convolution(second, second), *_convolution(second, second)[:2])
        self.coarse = nn.Conv2d(second, width, 3, 2, 1)

    def features(self, images: Tensor) -> Tensor:
        """At stride 8: (N, 3, H, W) -> (N, C, H / 8, W / 8)."""
        early = self.fine[:3](images)
        if self.early is not None:
            early = F.relu(early + self.early(early))
        fine = self.fine[3:](early)
        return F.relu(fine + self.residual(fine))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, width, H / 16, W / 16)."""
        return self.coarse(self.features(images))


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, size, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def build_network(network: Mapping[str, Any]) -> nn.Module:
    """The CLIP that a card describes, untrained; its numbers come from the global generator.

    Args: network: `embed_dim`, `vision_cfg` and `text_cfg` as open_clip takes them; `stem`: channels of a `ConvStem`;
            `deep_stem`: whether it is a deep one; `audio_cfg`: as `vision_cfg`, for a third tower over spectrograms.
    """
    from open_clip import CLIP

    def clip_with(vision: str) -> nn.Module:
        made = CLIP(network["embed_dim"], dict(network[vision]), dict(network["text_cfg"]))
        if network.get("stem"):
            made.visual.conv1 = ConvStem(network[vision]["width"], network["stem"], network.get("deep_stem", False))
        return made

    module = clip_with("vision_cfg")
    if network.get("audio_cfg"):
        module.audio = clip_with("audio_cfg").visual
        module.audio.normalise = SpectrogramChannels()
    return module


_NORMALISE = {
    "radiograph": lambda: (RadiographChannels(), 1),
    "rgb": lambda: (MeanStd((0.5,) * 3, (0.25,) * 3), 3),
    "spectrogram": lambda: (SpectrogramChannels(), 1),
}


def pair_of_card(
    key: str, network: Mapping[str, Any], module: nn.Module, digest: str = "", card: Mapping[str, Any] | None = None
) -> ImageTextPair:
    """A model that was built from a card's `network`, with the words and the kind of image that the card names."""
    normalise, n_channels = _NORMALISE[network["images"]]()
    tokenizer = WordTokenizer(network["words"], network["text_cfg"]["context_length"])
    spectrogram = LogMel(**network["spectrogram"]) if network.get("spectrogram") else None
    return make_pair(key, module, normalise, tokenizer, digest, card or {}, n_channels, spectrogram)


def load_trained(
    key: str, folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ImageTextPair:
    """A model that `python -m backend train KEY` made: weights `KEY.safetensors` and card `KEY.json` in a folder.

    Raises: NotAvailable: not trained here yet; BadInput: the file is not the card's, or does not fit its network.
    """
    try:
        card = json.loads((Path(folder) / f"{key}.json").read_text(encoding="utf-8"))
    except OSError:
        raise NotAvailable(f"{key} has no weights here; `python -m backend train {key}` makes them", "model") from None
    state, digest = weights.read_file(Path(folder) / f"{key}.safetensors", card["sha256"])
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away
        module = build_network(card["network"])
    weights.fit_state_dict(module, state, 0, card["architecture"])
    return pair_of_card(key, card["network"], module.to(device, dtype), digest, card)


# ----------------------------------------------------------------- open_clip's models
def load_open_clip(
    name: str,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    key: str = "",
) -> ImageTextPair:
    """Any model of open_clip: by name with one of its checkpoints, or with a local one.

    Args:
        name: an architecture (`ViT-B-32`), `ARCHITECTURE/CHECKPOINT` (`ViT-B-32/openai`), or `hf-hub:OWNER/NAME`.
        checkpoint: a local weights file, or a folder in the hub's layout (`open_clip_config.json` beside the weights;
            then its configuration counts and `name` only names the model).
    Raises: BadInput: open_clip knows no such model, or the weights do not fit; NotAvailable: no network, no such file,
        or a tower of a kind that cannot be cut open.
    """
    import open_clip

    architecture, _, tag = name.partition("/") if not name.startswith("hf-hub:") else (name, "", "")
    folder = Path(checkpoint) if checkpoint is not None else None
    if folder is not None and not folder.exists():
        raise NotAvailable(f"there is no checkpoint {folder.name}", "weights")
    source, pretrained = architecture, tag or None
    if folder is not None and folder.is_dir():
        source = f"local-dir:{folder}"
    elif folder is not None:
        pretrained = str(folder)
    elif not name.startswith("hf-hub:"):
        _check_name(architecture, tag)
    asking = hub.cached_if_silent() if folder is None else contextlib.nullcontext()
    try:
        with torch.random.fork_rng(devices=[]), asking:
            module, _, _ = open_clip.create_model_and_transforms(
                source, pretrained=pretrained, **_own_text_model(folder)
            )
            tokenizer = open_clip.get_tokenizer(source)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        if folder is None and isinstance(error.__context__, OSError):  # open_clip's own words for: nothing came
            raise _not_had(name) from error
        raise BadInput(f"{name} cannot be read by open_clip: {_first_line(error)}", "model") from error
    except Exception as error:  # the hub's client, the HTTP library and the system all mean: it cannot be had now
        raise _not_had(name) from error
    mean, std = module.visual.image_mean, module.visual.image_std
    digest = weights.digest_of(module.state_dict())
    words = _tokenizer_of(tokenizer, module, name)
    pair = make_pair(key or PREFIX + name, module, MeanStd(mean, std), words, digest, {})
    pair.module.to(device, dtype)
    return pair


def _not_had(name: str) -> NotAvailable:
    said = f"{name} needs weights from the hub, which does not answer; connect once, or give a local checkpoint"
    return NotAvailable(said, "model")


def _own_text_model(folder: Path | None) -> dict[str, Any]:
    """What open_clip is told of a text model of the hub (BiomedCLIP's) whose `config.json` lies in the folder itself.

    Without this file the hub is asked for it, by the name in `open_clip_config.json`; weights are in the folder.
    """
    if folder is None or not (folder / "open_clip_config.json").is_file() or not (folder / "config.json").is_file():
        return {}
    text = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]["text_cfg"]
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}}


def _tokenizer_of(tokenizer: Any, module: nn.Module, name: str) -> Tokenizer:
    """open_clip's tokenizer of a model, with its words kept.

    Raises: NotAvailable: it is of a kind that does not say where its words are.
    """
    context_length = getattr(getattr(module, "text", module), "context_length", 77)
    if hasattr(tokenizer, "bpe"):
        return BytePairTokenizer(tokenizer, context_length)
    inner = getattr(tokenizer, "tokenizer", None)
    if not getattr(inner, "is_fast", False) or tokenizer.tokenizer_mode or tokenizer.strip_sep_token:
        raise NotAvailable(f"{name} has the tokenizer {type(inner or tokenizer).__name__}, which is not supported")
    return HubTokenizer(inner, tokenizer.context_length or context_length, tokenizer.clean_fn)


def build_open_clip(
    key: str,
    architecture: str,
    state: Mapping[str, Tensor],
    digest: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ImageTextPair:
    """A model of open_clip with weights that were brought; the images' mean and spread are the architecture's.

    Raises: BadInput: open_clip knows no such model, or the weights do not fit; NotAvailable: its tokenizer or tower
        is of a kind that cannot be used.
    """
    import open_clip

    if architecture not in open_clip.list_models():
        raise BadInput(f"open_clip has no model named {architecture!r}; see open_clip.list_models()", "architecture")
    config = open_clip.get_model_config(architecture)
    if "hf_model_name" in config["text_cfg"] or "hf_tokenizer_name" in config["text_cfg"]:
        raise NotAvailable(f"{architecture} needs a text model from the hub; bring it by models.toml", "architecture")
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away
        module, _, _ = open_clip.create_model_and_transforms(architecture, pretrained=None)
    weights.fit_state_dict(module, state, 0, architecture)
    tokenizer = open_clip.get_tokenizer(architecture)
    normalise = MeanStd(module.visual.image_mean, module.visual.image_std)
    pair = make_pair(key, module, normalise, _tokenizer_of(tokenizer, module, architecture), digest, {})
    pair.module.to(device, dtype)
    return pair


def _check_name(architecture: str, tag: str) -> None:
    import open_clip

    if architecture not in open_clip.list_models():
        raise BadInput(f"open_clip has no model named {architecture!r}; see open_clip.list_models()", "model")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise BadInput(f"{architecture} has no checkpoint {tag!r}; one of {', '.join(tags) or 'none'}", "model")
    if not tag:
        raise BadInput(f"name a checkpoint: {PREFIX}{architecture}/{tags[0] if tags else 'CHECKPOINT'}", "model")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
