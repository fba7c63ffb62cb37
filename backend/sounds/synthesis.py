"""Eight kinds of sounds from sines and noise, and clips of one or two of them whose time spans are known."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal

from backend.models.spectrograms import LogMel

SPECTROGRAM = LogMel()
RATE = SPECTROGRAM.sample_rate
_LENGTH_S = (0.9, 1.9)  # of one sound
_FADE_S = 0.02
_FLOOR_DB = (-46.0, -34.0)  # of the noise behind everything, below the loudest sound
_HEARD_DB = 30.0  # below its own loudest place a sound counts as not heard
_OVERLAPPING = 0.25  # share of pairs that may sound at the same time


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """A sound in a clip: its kind, from when to when, and where in the spectrogram it is, (F, T) bool."""

    kind: str
    start_s: float
    end_s: float
    mask: np.ndarray

    @property
    def middle(self) -> float:
        """Of its span, in shares of the clip."""
        return (self.start_s + self.end_s) / 2 / SPECTROGRAM.duration_s

    def span(self) -> np.ndarray:
        """The frames in which it sounds, at all frequencies, (F, T) bool."""
        frames = (np.arange(SPECTROGRAM.n_frames) + 0.5) * SPECTROGRAM.hop / RATE
        return np.broadcast_to((frames >= self.start_s) & (frames < self.end_s), self.mask.shape).copy()


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Samples (n,) float32 in [-1, 1] at `RATE`, and what sounds in them, in order of time."""

    samples: np.ndarray
    sounds: tuple[Heard, ...]


def make_clip(generator: np.random.Generator, kinds: tuple[str, ...] | None = None) -> Clip:
    """A clip of these kinds, or of one or two drawn ones."""
    if kinds is None:
        kinds = tuple(KINDS[k] for k in generator.permutation(len(KINDS))[: 1 + (generator.random() < 0.6)])
    total = SPECTROGRAM.n_samples
    lengths = [int(RATE * generator.uniform(*_LENGTH_S)) for _ in kinds]
    starts = _starts(generator, lengths, total)
    mixture, sounds = np.zeros(total), []
    for kind, start, length in zip(kinds, starts, lengths, strict=True):
        own = np.zeros(total)
        made = _faded(_MAKERS[kind](generator, length))
        own[start : start + length] = made / np.sqrt((made**2).mean()) * 10 ** (generator.uniform(-5, 0) / 20)
        mixture += own
        sounds.append(Heard(kind, start / RATE, (start + length) / RATE, _mask(own)))
    noise = generator.normal(0, 1, total) * 10 ** (generator.uniform(*_FLOOR_DB) / 20)
    mixture = (mixture + noise) * (generator.uniform(0.3, 0.9) / np.abs(mixture).max())
    order = sorted(sounds, key=lambda sound: sound.start_s)
    return Clip(np.clip(mixture, -1, 1).astype(np.float32), tuple(order))


def _starts(generator: np.random.Generator, lengths: list[int], total: int) -> list[int]:
    """First samples: anywhere, one behind the other, or (some pairs) anywhere apart."""
    if len(lengths) == 1 or generator.random() < _OVERLAPPING:
        return [int(generator.integers(total - length)) for length in lengths]
    free, order = total - sum(lengths), generator.permutation(len(lengths))
    cuts, starts, at = np.sort(generator.integers(0, free + 1, len(lengths))), [0] * len(lengths), 0
    for cut, k in zip(cuts, order, strict=True):
        starts[k] = int(cut) + at
        at += lengths[k]
    return starts


def _faded(made: np.ndarray) -> np.ndarray:
    n = int(_FADE_S * RATE)
    ramp = np.ones(len(made))
    ramp[:n], ramp[-n:] = np.linspace(0, 1, n), np.linspace(1, 0, n)
    return made * ramp


def _mask(own: np.ndarray) -> np.ndarray:
    power = SPECTROGRAM.power(own)
    return power > power.max() * 10 ** (-_HEARD_DB / 10)


# ----------------------------------------------------------------- the kinds
def _time(n: int) -> np.ndarray:
    return np.arange(n) / RATE


def _tone(frequency: np.ndarray, harmonics: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """A sine of this course of frequency in Hz, with harmonics of these strengths that stay below the limit."""
    phase = 2 * np.pi * np.cumsum(frequency) / RATE
    return sum(
        strength * np.sin((k + 1) * phase) * ((k + 1) * frequency < RATE / 2) for k, strength in enumerate(harmonics)
    )


def _noise(generator: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    """Noise between two frequencies in Hz."""
    band = signal.butter(2, (low, high), "bandpass", fs=RATE, output="sos")
    return signal.sosfilt(band, generator.normal(0, 1, n))


def _beats(generator: np.random.Generator, n: int, every_s: float, one: Callable[[int], np.ndarray]) -> np.ndarray:
    """The same short sound again and again, not quite evenly; `one` makes at most so many samples of it."""
    made, at = np.zeros(n), 0
    while at < n:
        part = one(n - at)[: n - at]
        made[at : at + len(part)] += part
        at += max(1, int(every_s * RATE * generator.uniform(0.9, 1.1)))
    return made


def _siren(generator: np.random.Generator, n: int) -> np.ndarray:
    low, high = generator.uniform(450, 650), generator.uniform(1000, 1400)
    period, phase = generator.uniform(0.6, 1.2), generator.uniform(0, 1)
    swing = 0.5 - 0.5 * np.cos(2 * np.pi * (_time(n) / period + phase))
    return _tone(low + (high - low) * swing, (1.0, 0.4, 0.2))


def _bell(generator: np.random.Generator, n: int) -> np.ndarray:
    base, every = generator.uniform(500, 900), generator.uniform(0.5, 0.9)
    partials = ((1.0, 1.0, 0.5), (2.0, 0.7, 0.35), (2.76, 0.6, 0.3), (4.07, 0.4, 0.2), (5.4, 0.3, 0.12))

    def strike(room: int) -> np.ndarray:
        t = _time(room)
        return sum(a * np.sin(2 * np.pi * base * ratio * t) * np.exp(-t / decay) for ratio, a, decay in partials)

    return _beats(generator, n, every, strike)


def _dog(generator: np.random.Generator, n: int) -> np.ndarray:
    base, every = generator.uniform(260, 420), generator.uniform(0.32, 0.5)

    def bark(room: int) -> np.ndarray:
        m = min(room, int(RATE * generator.uniform(0.13, 0.2)))
        rise = np.linspace(0, 1, m) if m else np.zeros(0)
        voice = _tone(base * (1.25 - 0.5 * rise), (1.0, 0.9, 0.8, 0.5, 0.3, 0.2))
        breath = 0.5 * _noise(generator, m, 500, 2500) if m > 30 else np.zeros(m)
        return (voice + breath) * np.sin(np.pi * rise) ** 0.6

    return _beats(generator, n, every, bark)


def _engine(generator: np.random.Generator, n: int) -> np.ndarray:
    base = generator.uniform(45, 85) * (1 + generator.uniform(-0.15, 0.15) * np.linspace(0, 1, n))
    hum = _tone(base, tuple(1 / (k + 1) ** 0.7 for k in range(12)))
    shake = 1 + 0.3 * np.sin(2 * np.pi * generator.uniform(6, 12) * _time(n))
    return hum * shake + 0.3 * _noise(generator, n, 60, 500)


def _rain(generator: np.random.Generator, n: int) -> np.ndarray:
    drops = generator.normal(0, 1, n) * (generator.random(n) < generator.uniform(0.002, 0.006))
    clicks = signal.sosfilt(signal.butter(2, (2500, 7000), "bandpass", fs=RATE, output="sos"), drops)
    return _noise(generator, n, 900, 7600) + 3 * clicks


def _bird(generator: np.random.Generator, n: int) -> np.ndarray:
    low, high = generator.uniform(2800, 3600), generator.uniform(4600, 6200)
    length, every = generator.uniform(0.05, 0.1), generator.uniform(0.12, 0.22)
    first, last = (low, high) if generator.random() < 0.5 else (high, low)

    def chirp(room: int) -> np.ndarray:
        m = min(room, int(RATE * length))
        return _tone(np.linspace(first, last, m)) * np.sin(np.pi * np.linspace(0, 1, m))

    return _beats(generator, n, every, chirp)


def _drum(generator: np.random.Generator, n: int) -> np.ndarray:
    high, every = generator.uniform(150, 220), generator.uniform(0.22, 0.42)

    def hit(room: int) -> np.ndarray:
        m = min(room, int(RATE * 0.3))
        t = _time(m)
        skin = _tone(60 + (high - 60) * np.exp(-t / 0.05)) * np.exp(-t / 0.09)
        return skin + 0.4 * generator.normal(0, 1, m) * np.exp(-t / 0.012)

    return _beats(generator, n, every, hit)


def _telephone(generator: np.random.Generator, n: int) -> np.ndarray:
    low, warble = generator.uniform(1200, 1500), generator.uniform(16, 24)
    high = low * generator.uniform(1.2, 1.3)
    t = _time(n)
    ring = _tone(np.where((t * warble) % 1 < 0.5, low, high), (1.0, 0.0, 0.3))
    on = (t % generator.uniform(0.5, 0.7)) < generator.uniform(0.34, 0.44)
    return ring * signal.convolve(on, np.full(160, 1 / 160), "same")


_MAKERS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "siren": _siren,
    "bell": _bell,
    "dog": _dog,
    "engine": _engine,
    "rain": _rain,
    "bird": _bird,
    "drum": _drum,
    "telephone": _telephone,
}
KINDS = tuple(_MAKERS)
