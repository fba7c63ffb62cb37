"""Bytes of an uploaded sound in, checked samples in [-1, 1] out. Nothing here knows a model.

Formats: WAV and FLAC, any bit depth, through libsndfile. Channels are averaged. What cannot be heard truly is refused
with one sentence.
"""

import io
import math
from dataclasses import dataclass

import numpy as np

from backend.contracts import digest
from backend.errors import BadInput
from backend.limits import LIMITS, MIB, Limits
from backend.models.spectrograms import LogMel, resample

FORMATS = ("WAV", "WAVEX", "FLAC")
SHIPPED = LogMel()  # how the model that ships hears
_FIELD = "audio"
_MAGIC = (b"RIFF", b"RIFX", b"fLaC")


@dataclass(frozen=True, slots=True, eq=False)
class DecodedAudio:
    """A sound as numbers: (n,) float32 in [-1, 1], `sample_rate` of them a second."""

    id: str  # sha256 of the uploaded bytes
    samples: np.ndarray
    sample_rate: int
    notes: tuple[str, ...] = ()  # what was done to it that a person should know

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.sample_rate

    @property
    def nbytes(self) -> int:
        return self.samples.nbytes


def decode(data: bytes, limits: Limits = LIMITS) -> DecodedAudio:
    """Decode and check an uploaded sound.

    Args: data: the file's bytes.
    Raises: BadInput: empty, too large, too long or too short, of another format, with an odd sample rate or too many
        channels, truncated, or not all numbers.
    """
    import soundfile

    if not data:
        raise BadInput("the file is empty; choose a WAV or FLAC sound", _FIELD)
    if len(data) > limits.max_audio_bytes:
        largest = f"{limits.max_audio_bytes / MIB:.0f} MB"
        raise BadInput(f"the file has {len(data) / MIB:.0f} MB; sounds up to {largest} are read", _FIELD)
    if data[:4] not in _MAGIC:
        raise BadInput("the file is neither WAV nor FLAC; convert it to one of them first", _FIELD)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as opened:
            _check_header(opened, limits)
            samples = opened.read(dtype="float32", always_2d=True)
            rate, announced = opened.samplerate, opened.frames
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError, OverflowError):
        raise BadInput("the sound is truncated or damaged; save it again and retry", _FIELD) from None
    if len(samples) < announced:
        raise BadInput(f"the sound ends after {len(samples)} of {announced} samples; save it again", _FIELD)
    if not np.isfinite(samples).all():
        raise BadInput("the sound holds values that are not numbers (NaN or infinity); mend it first", _FIELD)
    notes = [f"{samples.shape[1]} channels averaged"] if samples.shape[1] > 1 else []
    mono = samples.mean(1)
    loudest = float(np.abs(mono).max())
    if loudest == 0:
        raise BadInput("the sound is silent from beginning to end; there is nothing to hear", _FIELD)
    if loudest > 1:
        mono, notes = mono / loudest, [*notes, f"samples up to {loudest:.3g} scaled to 1"]
    return DecodedAudio(digest(data), np.ascontiguousarray(mono, np.float32), rate, tuple(notes))


def _check_header(opened, limits: Limits) -> None:
    """What the header announces, before anything is unpacked."""
    if opened.format not in FORMATS:
        raise BadInput(f"the file is {opened.format}; WAV and FLAC are read", _FIELD)
    if not limits.min_sample_rate <= opened.samplerate <= limits.max_sample_rate:
        raise BadInput(
            f"the sample rate is {opened.samplerate} Hz; {limits.min_sample_rate} to {limits.max_sample_rate} are read",
            _FIELD,
        )
    if opened.channels > limits.max_audio_channels:
        raise BadInput(
            f"the sound has {opened.channels} channels; up to {limits.max_audio_channels} are averaged", _FIELD
        )
    seconds = opened.frames / opened.samplerate
    if seconds > limits.max_audio_s:
        raise BadInput(f"the sound lasts {seconds:.0f} s; up to {limits.max_audio_s:.0f} s are read", _FIELD)
    if seconds < limits.min_audio_s:
        raise BadInput(f"the sound lasts {seconds:.3f} s; at least {limits.min_audio_s:g} s are needed", _FIELD)


def hear(sound: DecodedAudio, hearing: LogMel, start_s: float = 0.0) -> tuple[np.ndarray, list[str]]:
    """The samples that a model hears from `start_s` on, at its own rate, and what was done on the way.

    Returns: (hearing.n_samples,); fewer, if the hearing itself repeats what is too short.
    Raises: BadInput: the sound ends before `start_s`, or is silent behind it.
    """
    if not 0 <= start_s < sound.duration_s:
        raise BadInput(f"start_s is {start_s:g}; the sound lasts {sound.duration_s:.1f} s", "start_s")
    first = int(start_s * sound.sample_rate)
    part = sound.samples[first : first + math.ceil(hearing.duration_s * sound.sample_rate)]
    samples, notes = resample(part, sound.sample_rate, hearing.sample_rate), []
    if sound.sample_rate != hearing.sample_rate:
        notes.append(f"resampled from {sound.sample_rate} to {hearing.sample_rate} Hz")
    if len(sound.samples) > len(part):
        notes.append(
            f"the model hears {hearing.duration_s:.1f} s at once: from {start_s:.1f} s on, of {sound.duration_s:.1f} s"
        )
    if len(samples) < hearing.n_samples and hearing.repeats:
        notes.append(f"repeated up to the {hearing.duration_s:.1f} s that the model hears, as in its training")
    elif len(samples) < hearing.n_samples:
        notes.append(f"silence added up to the {hearing.duration_s:.1f} s that the model hears")
    silence = 0 if hearing.repeats else max(0, hearing.n_samples - len(samples))
    heard = np.pad(samples, (0, silence))[: hearing.n_samples]
    if not np.abs(heard).max() > 0:
        raise BadInput("the part of the sound that the model hears is silent", "start_s")
    return heard, notes


def draw(sound: DecodedAudio, start_s: float = 0.0, hearing: LogMel = SHIPPED) -> np.ndarray:
    """The spectrogram as a picture, highest frequency on top, (F, T, 1) in [0, 1]."""
    return hearing(hear(sound, hearing, start_s)[0])[::-1, :, None].copy()


def encode_wav(samples: np.ndarray, sample_rate: int) -> bytes:
    """(n,) samples in [-1, 1] as WAV bytes, 16 bit."""
    return _encode(samples, sample_rate, "WAV")


def encode_flac(samples: np.ndarray, sample_rate: int) -> bytes:
    """(n,) samples in [-1, 1] as FLAC bytes, 16 bit."""
    return _encode(samples, sample_rate, "FLAC")


def _encode(samples: np.ndarray, sample_rate: int, format: str) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(samples, -1, 1), sample_rate, format=format, subtype="PCM_16")
    return buffer.getvalue()
