"""What is held for a pair of encoders beside its weights: statistics of its activations, strangers, chosen settings.

Strangers are embedded images and texts that belong to nothing a visitor brings: a map that is the same with a stranger
does not show the pair. Models that ship have a file of them, made by `python -m backend train KEY-maps`; for others
the pictures that ship with Prism are embedded when they are first needed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backend import images as decoding
from backend.audio import DecodedAudio, hear
from backend.audio import decode as decode_audio
from backend.catalog import EXAMPLES
from backend.errors import BadInput, NotAvailable
from backend.examples import FOLDER, example_bytes
from backend.image_text.problem import Statistics
from backend.models import weights
from backend.models.clip import ImageTextPair
from backend.models.inputs import fit, match_channels
from backend.store import Store

SUFFIX = "-maps"  # of the file beside the weights
_STORE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Held:
    """Statistics by (modality, layer), strangers as unit vectors, settings by method and modality."""

    images: Tensor | None  # (K, E); None: of models that see nothing
    texts: Tensor  # (K, E)
    statistics: Mapping[tuple[str, int], Statistics] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    origin: str = ""  # of the strangers, in words
    notes: tuple[str, ...] = ()
    sounds: Tensor | None = None  # (K, E), of models that hear

    def of(self, modality: str) -> Tensor:
        """The strangers of a modality. Raises: NotAvailable: none are held."""
        found = {"image": self.images, "text": self.texts, "audio": self.sounds}[modality]
        if found is None:
            raise NotAvailable(f"no {modality}s to compare with are held for this model", "model")
        return found

    @property
    def nbytes(self) -> int:
        kept = [tensor for tensor in (self.images, self.texts, self.sounds) if tensor is not None]
        tensors = [*kept, *(t for s in self.statistics.values() for t in (s.mean, s.std))]
        return sum(t.numel() * t.element_size() for t in tensors)

    def settings_of(self, method: str, modality: str) -> dict[str, Any]:
        """What the search chose for this model, by the names of the method's parameters."""
        return dict(self.settings.get(method, {}).get(modality, {}))


_KNOWN: Store[Held] = Store(_STORE_BYTES)


def held_for(pair: ImageTextPair, folder: Path) -> Held:
    """What the file beside the weights says; without one, shipped pictures as strangers and nothing else."""
    key = f"{pair.digest}/{pair.device}/{folder}"
    held = _KNOWN.get(key)
    if held is None:
        held = _read(pair, folder)
        _KNOWN.put(key, held)
    return held


def _read(pair: ImageTextPair, folder: Path) -> Held:
    try:
        card = json.loads((folder / f"{pair.key}{SUFFIX}.json").read_text(encoding="utf-8"))
    except OSError:
        return _shipped_strangers(pair)
    if card["weights_sha256"] != pair.digest:
        stale = f"the statistics held for {pair.key} belong to other weights and are not used"
        return _shipped_strangers(pair, (stale,))
    state, _ = weights.read_file(folder / f"{pair.key}{SUFFIX}.safetensors", card["sha256"])
    state = {name: tensor.to(pair.device, pair.dtype) for name, tensor in state.items()}
    names = {name.removesuffix(".mean") for name in state if name.endswith(".mean")}
    statistics = {}
    for name in names:  # "image.1"
        modality, _, layer = name.partition(".")
        statistics[modality, int(layer)] = Statistics(state[f"{name}.mean"], state[f"{name}.std"])
    told = card["settings"], card["strangers"]
    return Held(state["images"], state["texts"], statistics, *told, sounds=state.get("sounds"))


_SOUND_CAPTIONS = ("a siren", "a dog", "a bell", "a bird", "a telephone", "an engine", "rain", "a drum")


@torch.no_grad()
def _shipped_strangers(pair: ImageTextPair, notes: tuple[str, ...] = ()) -> Held:
    """Photographs and drawn objects, and their names as captions."""
    sounds = _shipped_sounds(pair)
    if pair.image is None:
        said = pair.embed_texts([f"the sound of {sentence}" for sentence in _SOUND_CAPTIONS])
        return Held(None, said, origin=f"{len(sounds)} sounds that ship with Prism", notes=notes, sounds=sounds)
    shown = [example for example in EXAMPLES.values() if example.image.startswith(("photo:", "object-"))]
    about = "" if sounds is None else f" and {len(sounds)} sounds"
    pixels = torch.cat([model_input(decoding.decode(example_bytes(e.key)[0]), pair)[0] for e in shown])
    return Held(
        pair.embed_images(pixels),
        pair.embed_texts([f"a photo of a {example.label}" for example in shown]),
        origin=f"{len(shown)} photographs and drawings{about} that ship with Prism",
        notes=notes,
        sounds=sounds,
    )


def _shipped_sounds(pair: ImageTextPair) -> Tensor | None:
    """Unit vectors of the sounds among the examples; None: the pair hears nothing."""
    if pair.spectrogram is None:
        return None
    files = sorted(FOLDER.glob("sound-*.flac"))
    return torch.cat([pair.embed_audio(sound_input(decode_audio(file.read_bytes()), pair)[0]) for file in files])


def sound_input(sound: DecodedAudio, pair: ImageTextPair, start_s: float = 0.0) -> tuple[Tensor, list[str]]:
    """(1, 1, F, T) float32 in [0, 1], as the pair hears it from `start_s` on, and what was done on the way.

    Raises: BadInput: the model hears nothing, the sound ends before `start_s`, or is silent behind it.
    """
    if pair.spectrogram is None:
        raise BadInput(f"{pair.key} hears nothing; choose a model for sounds", "model")
    samples, notes = hear(sound, pair.spectrogram, start_s)
    return torch.from_numpy(pair.spectrogram(samples))[None, None], notes


def model_input(image: decoding.DecodedImage, pair: ImageTextPair) -> tuple[Tensor, list[str]]:
    """(1, C, H, W) float32 in [0, 1] of the pair's channels and size, and what was cut off on the way.

    Raises: BadInput: the model sees nothing.
    """
    if pair.image is None:
        raise BadInput(f"{pair.key} sees nothing; choose a model for pictures", "model")
    pixels = torch.from_numpy(image.pixels.copy()).permute(2, 0, 1)[None]
    height, width = pair.input_size
    notes = []
    if abs(image.height * width - image.width * height) > max(image.height, image.width):
        side = "left and right" if image.width * height > image.height * width else "top and bottom"
        notes.append(f"the model sees a frame of {width} x {height}: {side} of the picture are cut off")
    return fit(match_channels(pixels, pair.n_channels), pair.input_size), notes
