"""One sentence before one image, explained by one method: read from the answer about it, or about the whole report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.catalog import PAIR_METHODS
from backend.contracts import PairMapRequest, Provenance, ReportMapsRequest, Result
from pages.shared.figures import TimeAndFrequency

_JOINED = {"token_map", "control_token_map", "word_map", "control_word_map"}  # of a report: cut up by "counts"


@dataclass(frozen=True, slots=True)
class Word:
    """A word as the model read it, `text[start:end]` of the sentence, with what lies on it."""

    text: str
    start: int
    end: int
    n_tokens: int
    own: float
    control: float  # the same before images that the sentence does not belong to

    @property
    def difference(self) -> float:
        return self.own - self.control

    def value(self, view: str) -> float:
        """Args: view: "own", "control" or "difference"."""
        return getattr(self, view)


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """Where in the image the sentence is found, and which of its words carry it."""

    method: str
    text: str  # as the model read it
    signed: bool
    unit: str
    cosine: float
    image_map: np.ndarray | None  # (H, W); over a spectrogram, highest frequency on top
    words: tuple[Word, ...]
    n_cut: int  # sub-tokens that did not fit
    arrays: Mapping[str, np.ndarray]
    quality: Mapping[str, float | None]
    control_images: int
    control_origin: str
    settings: Mapping[str, Mapping[str, Any]]
    provenance: Provenance
    result: Result = field(repr=False)

    @property
    def n_tokens(self) -> int:
        return sum(word.n_tokens for word in self.words)

    def total(self, modality: str) -> float | None:
        """The sum over the map, in the map's unit per cell or word."""
        if modality == "text":
            return sum(word.own for word in self.words) if self.words else None
        cells = self.arrays.get(f"{self._seen(modality)}_cells")
        return None if cells is None else float(cells.sum())

    def after(self, modality: str) -> float | None:
        """The mean cosine through the bottleneck at the last step, where the method has one."""
        fit = self.arrays.get(f"{self._seen(modality)}_fit")
        return None if fit is None or not len(fit) else float(fit[-1])

    @property
    def noun(self) -> str:
        """What stands before the words: an image, or a sound."""
        return "sound" if self.result.request.audio_id is not None else "image"

    def _seen(self, modality: str) -> str:
        """A sound stands where an image would."""
        return "audio" if modality == "image" and "audio_map" in self.arrays else modality


def shown(result: Result) -> np.ndarray:
    """What the model saw, (H, W, C) in [0, 1]; of a sound its spectrogram, highest frequency on top."""
    pixels = result.arrays["pixels"]
    return pixels[::-1] if "sound" in result.values else pixels


def of_pair(result: Result) -> Explained:
    """The answer to a `PairMapRequest`."""
    request = result.request
    assert isinstance(request, PairMapRequest)
    return _read(result, request.method, result.arrays, result.values, result.quality)


def of_report(result: Result, k: int) -> Explained:
    """The k-th sentence of the answer to a `ReportMapsRequest`."""
    request = result.request
    assert isinstance(request, ReportMapsRequest)
    arrays = {name: _cut(result, name, k) for name in result.arrays if name != "pixels"}
    values = result.values["sentences"][k]
    return _read(result, request.method, arrays, values, values.get("quality", {}))


def _cut(result: Result, name: str, k: int) -> np.ndarray:
    array = result.arrays[name]
    if name not in _JOINED:
        return array[k]
    counts = result.values["counts"][name]
    start = sum(counts[:k])
    return array[start : start + counts[k]]


def _read(
    result: Result,
    method: str,
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    quality: Mapping[str, float | None],
) -> Explained:
    own, control = arrays.get("word_map"), arrays.get("control_word_map")
    words = ()
    if own is not None and control is not None:
        words = tuple(
            Word(word["text"], word["start"], word["end"], word["n_tokens"], float(a), float(b))
            for word, a, b in zip(values["words"], own, control, strict=True)
        )
    about = values.get("control", {})
    return Explained(
        method,
        values["text"],
        bool(values.get("signed", PAIR_METHODS[method].signed)),
        result.unit,
        float(values["cosine"]),
        arrays["audio_map"][::-1] if "audio_map" in arrays else arrays.get("image_map"),
        words,
        int(values.get("n_cut", 0)),
        arrays,
        quality,
        int(about.get("images", 0)),
        str(about.get("origin", "")),
        values.get("settings", {}),
        result.provenance,
        result,
    )


def axes_of(seen: Result) -> TimeAndFrequency | None:
    """Time and frequency, where the picture is a spectrogram."""
    sound = seen.values.get("sound")
    if sound is None:
        return None
    return TimeAndFrequency(sound["start_s"], sound["start_s"] + sound["duration_s"], tuple(sound["edges_hz"]))
