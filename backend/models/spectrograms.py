"""Sounds as pictures of time and frequency: log-mel spectrograms, as towers for audio take them."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import signal

_TINY = 1e-10


@dataclass(frozen=True, slots=True)
class LogMel:
    """How a sound becomes a spectrogram of one size, (n_mels, n_frames) in [0, 1], lowest frequency first.

    Values are decibels below the loudest place of the clip: 1 at the loudest, 0 at `range_db` below it and less.
    """

    sample_rate: int = 16_000
    n_fft: int = 1024
    hop: int = 256
    n_mels: int = 96
    n_frames: int = 256
    low_hz: float = 50.0
    high_hz: float = 8_000.0
    range_db: float = 70.0

    @property
    def repeats(self) -> bool:
        """Is a sound that is too short repeated, instead of silence added?"""
        return False

    @property
    def n_samples(self) -> int:
        return self.hop * self.n_frames

    @property
    def duration_s(self) -> float:
        return self.n_samples / self.sample_rate

    @property
    def edges_hz(self) -> np.ndarray:
        """Where the bands meet, (n_mels + 1,) in Hz: band k reaches from k to k + 1 on the picture."""
        edges = _hz(np.linspace(_mel(self.low_hz), _mel(self.high_hz), self.n_mels + 2))
        return np.sqrt(edges[1:] * edges[:-1])

    def power(self, samples: np.ndarray) -> np.ndarray:
        """Power in each band and frame, (n_mels, n_frames), of (n_samples,) in [-1, 1]."""
        window = signal.get_window("hann", self.n_fft)
        padded = np.pad(samples.astype(np.float32), (self.n_fft // 2, self.n_fft // 2))
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.n_fft)[:: self.hop][: self.n_frames]
        spectrum = np.fft.rfft(frames * window.astype(np.float32), axis=1)
        return mel_filters(self) @ (spectrum.real**2 + spectrum.imag**2).T

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """The picture of a clip, float32. A silent clip is 0 everywhere."""
        decibels = 10 * np.log10(self.power(samples) + _TINY)
        shown = 1 + (decibels - decibels.max()) / self.range_db
        if decibels.max() < 10 * np.log10(_TINY) + 1:
            shown[:] = 0
        return np.clip(shown, 0, 1).astype(np.float32)


@functools.lru_cache(maxsize=8)
def mel_filters(settings: LogMel) -> np.ndarray:
    """Triangles that are evenly spread on the mel scale, each of unit height, (n_mels, n_fft / 2 + 1).

    A low band that is narrower than the lines of the spectrum takes the line that is nearest.
    """
    lines = np.fft.rfftfreq(settings.n_fft, 1 / settings.sample_rate)
    corners = _hz(np.linspace(_mel(settings.low_hz), _mel(settings.high_hz), settings.n_mels + 2))
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    filters = np.maximum(0, np.minimum((lines - left) / (centre - left), (right - lines) / (right - centre)))
    nearest = np.abs(lines - centre).argmin(1)
    filters[np.arange(len(filters)), nearest] = np.maximum(filters[np.arange(len(filters)), nearest], 0.5)
    return filters.astype(np.float32)


def _mel(hz):
    """O'Shaughnessy's scale."""
    return 2595 * np.log10(1 + np.asarray(hz) / 700)


def _hz(mel):
    return 700 * (10 ** (np.asarray(mel) / 2595) - 1)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound at another sample rate, (n,) -> (n wanted / rate,), filtered so that nothing folds over."""
    if rate == wanted:
        return samples
    divisor = np.gcd(rate, wanted)
    return signal.resample_poly(samples, wanted // divisor, rate // divisor).astype(np.float32)
