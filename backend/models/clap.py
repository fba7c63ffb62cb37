"""CLAP: sounds and texts in one space, in the hub's layout (`transformers`), behind the interface of every other pair.

A CLAP has no image tower; its audio tower takes ten seconds at 48 kHz. ImageBind could be brought by the same two
steps, a `Tower` for its trunk and a hearing; its code is a repository under a non-commercial licence and no library
(the package index's `imagebind` holds no code), so nothing here imports it.
"""

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backend.catalog.image_text import CLAP as PREFIX
from backend.errors import BadInput, NotAvailable
from backend.models import hub, weights
from backend.models.clip import ImageTextPair
from backend.models.spectrograms import LogMel
from backend.models.tokenizers import HubTokenizer
from backend.models.transformers_towers import BertTower, ClapAudioTower, four_views

_CONTEXT = 77  # sub-tokens, as in training
_LOWEST_DB = -100.0  # of a silent band, as the extractor floors it
_RANGE_DB = 160.0  # from there to the loudest that samples in [-1, 1] can make
_FILES = ("*.json", "*.txt", "*.safetensors")


@dataclass(frozen=True, slots=True)
class ClapHearing(LogMel):
    """A CLAP's own spectrograms, decibels of the samples as they are, scaled to [0, 1] for display and masks.

    The hub's feature extractor makes them; a sound that is shorter is repeated, as in training.
    """

    extractor: Any = field(default=None, repr=False, compare=False)

    @property
    def repeats(self) -> bool:
        return True

    @property
    def n_samples(self) -> int:
        return int(self.extractor.nb_max_samples)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(n,) in [-1, 1], n up to `n_samples` -> (F, T) float32 in [0, 1], lowest frequency first."""
        made = self.extractor(samples, sampling_rate=self.sample_rate, return_tensors="np")
        decibels = made["input_features"][0, 0]  # (T, F); of a fused model's four, the whole
        return ((decibels.T - _LOWEST_DB) / self.range_db).astype(np.float32)


class Decibels(nn.Module):
    """What `ClapHearing` scaled, in decibels again."""

    def forward(self, spectrograms: Tensor) -> Tensor:
        """(N, 1, F, T) in [0, 1], same out."""
        return spectrograms * _RANGE_DB + _LOWEST_DB


class _Listening(nn.Module):
    """CLAP's audio half: (N, 1, F, T) in decibels -> (N, E)."""

    def __init__(self, encoder: nn.Module, projection: nn.Module, normalise: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projection, self.normalise = encoder, projection, normalise

    def forward(self, decibels: Tensor) -> Tensor:
        views = four_views(self.encoder, decibels.transpose(2, 3))
        is_longer = torch.ones(len(decibels), 1, dtype=torch.bool, device=decibels.device)
        return self.projection(self.encoder(views, is_longer=is_longer).pooler_output)


class ClapModule(nn.Module):
    """The hub's ClapModel under the names that open_clip's models have here."""

    def __init__(self, model: nn.Module, normalise: nn.Module) -> None:
        super().__init__()
        self.text, self.text_projection = model.text_model, model.text_projection
        self.audio = _Listening(model.audio_model.audio_encoder, model.audio_projection, normalise)
        self.logit_scale = model.logit_scale_a
        self.pad_id = model.config.text_config.pad_token_id

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.text_projection(self.text(input_ids=ids, attention_mask=(ids != self.pad_id).long()).pooler_output)


@dataclass(frozen=True)
class ClapPair(ImageTextPair):
    """A pair of sounds and texts."""

    def with_module(self, module: nn.Module) -> "ClapPair":
        return replace(self, module=module, **_towers(module))


def load_clap(
    name: str,
    folder: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    key: str = "",
) -> ClapPair:
    """A CLAP from a folder in the hub's layout, or by name from the hub or its local cache.

    Args:
        name: OWNER/NAME on the hub, such as laion/clap-htsat-unfused.
        folder: `config.json`, `model.safetensors`, tokenizer files and `preprocessor_config.json`; then `name` only
            names the model.
    Raises: BadInput: the folder holds no CLAP, or the weights do not fit; NotAvailable: no such folder, no network,
        or `transformers` is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise NotAvailable("CLAP needs the library transformers; pip install transformers", "model") from None
    if folder is not None and not Path(folder).is_dir():
        raise NotAvailable(f"there is no folder {Path(folder).name} with a CLAP", "weights")
    place = Path(folder) if folder is not None else hub.fetch_folder(name, _FILES)
    try:
        config = transformers.ClapConfig.from_pretrained(place, local_files_only=True)
        extractor = transformers.ClapFeatureExtractor.from_pretrained(place, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{name} is no CLAP in the hub's layout: {_first_line(error)}", "weights") from error
    model, digest = _read_model(place, config, name)
    normalise = Decibels()
    module = ClapModule(model, normalise).eval().requires_grad_(False)
    module.text.set_attn_implementation("eager")  # so that the attention can be read
    hearing = ClapHearing(
        sample_rate=extractor.sampling_rate,
        n_fft=extractor.fft_window_size,
        hop=extractor.hop_length,
        n_mels=extractor.feature_size,
        n_frames=extractor.nb_max_samples // extractor.hop_length + 1,
        low_hz=float(max(1, extractor.frequency_min)),
        high_hz=float(extractor.frequency_max),
        range_db=_RANGE_DB,
        extractor=extractor,
    )
    return ClapPair(
        key=key or PREFIX + name,
        module=module.to(device, dtype),
        tokenizer=HubTokenizer(tokenizer, min(_CONTEXT, config.text_config.max_position_embeddings - 2)),
        input_size=(hearing.n_mels, hearing.n_frames),
        n_channels=1,
        logit_scale=float(module.logit_scale.detach().exp()),
        digest=digest,
        card={},
        spectrogram=hearing,
        image=None,
        **_towers(module),
    )


def _read_model(place: Path, config: Any, name: str) -> tuple[nn.Module, str]:
    """The network with its weights and their digest; nothing is unpickled.

    Raises: BadInput: weights are missing or do not fit; NotAvailable: there is no `model.safetensors`.
    """
    import transformers

    state, digest = weights.read_file(place / "model.safetensors")
    with torch.random.fork_rng(devices=[]):  # initial weights are thrown away
        model = transformers.ClapModel(config)
    buffers = dict(model.named_buffers())  # indices that older checkpoints keep, or do not, under changing names
    own = {key: tensor for key, tensor in state.items() if key in model.state_dict()}
    missing = [key for key in model.state_dict() if key not in own and key not in buffers]
    if missing:
        raise BadInput(f"the weights of {name} lack {', '.join(missing[:3])}", "weights")
    try:
        model.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise BadInput(f"the weights do not fit {name}: {_first_line(error)}", "weights") from error
    return model, digest


def _towers(module: nn.Module) -> dict[str, Any]:
    """Texts and sounds of a `ClapModule`, cut open."""
    text, audio = module.text, module.audio
    pooled = functools.partial(_project_text, module)
    return {
        "text": BertTower(text, "token", pooled, module.pad_id),
        "audio": ClapAudioTower(audio.encoder, audio.projection, audio.normalise),
    }


def _project_text(module: nn.Module, pooled: Tensor) -> Tensor:
    return module.text_projection(module.text.pooler(pooled[:, None]))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
