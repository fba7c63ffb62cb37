"""Simulated radiographs beside a table of patients: the second domain, whose picture effect is known.

A bank holds posed chests as sums along the rays, with what a heart of some size and fluid of some height add to them
(`chest_poses` makes it from a CT); a picture is a sum of these, exposed and displayed, so drawing one needs nothing
else. The effect on log NT-proBNP depends on the size of the heart and the fluid at the lungs' bases, and on nothing
else in the picture. Patients in cardiology have more of both, and the ward has no effect: a model of the table alone
takes it for the heart that it cannot see. Effects are ours; no picture is of a real patient with these findings.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from backend.additive_image.data import HELD_OUT_SEED, IMAGE, Column, Dataset
from backend.errors import NotAvailable

BANK = Path(__file__).resolve().parents[2] / "assets" / "examples" / "chest-poses.npz"
SIDE = 64  # pixels
GROWTHS = (1.12, 1.24, 1.36, 1.48, 1.6)  # of the heart across, as shares of its own size; 1 adds nothing
HEIGHTS_MM = (12.0, 28.0, 48.0, 70.0, 95.0)  # of fluid at a lung's base; 0 adds nothing
DEPTH = 1 / 60  # of the stored changes: a step of the integrals
N_POSES = 320
N_ROWS = 10_000  # half as many cost the image's effect .006 of its R2
NOISE_SD = 0.25  # of log NT-proBNP
INTERCEPT = 6.0  # 400 pg/ml
# Width of the heart over that of the chest; mm of fluid, both sides; mm breathed in; degrees; -1 to 1.
ATTRIBUTES = ("heart", "effusion", "breath", "rotation", "exposure")
_RIDGE = 3.0  # on squared pixel values
_CHUNK = 64  # pictures drawn at a time, so that what is worked on stays in the processor's cache
_SEXES, _SMOKING = ("female", "male"), ("current", "former", "never")
_WARDS = ("cardiology", "emergency", "medicine", "surgery")
_SEX_EFFECTS, _SMOKING_EFFECTS = np.array([0.14, -0.14]), np.array([0.2, 0.05, -0.1])


# ----------------------------------------------------------------- the bank
@dataclass(frozen=True, eq=False)
class Bank:
    """Posed chests; n of them.

    Attributes:
        base: sums of the attenuation along the rays, (n, S, S), no unit.
        hearts: what each of `GROWTHS` adds, (n, 5, S, S), in steps of `DEPTH`.
        fluids: what each of `HEIGHTS_MM` adds in the left and the right lung, (n, 2, 5, S, S), in steps of `DEPTH`.
        ratios: width of the heart over that of the chest at growth 1 and at each of `GROWTHS`, (n, 6).
        rotation: degrees about the long axis, (n,). breath: mm of the diaphragm, (n,); more is breathed in.
        reading: a line through the pixels that tells each of `ATTRIBUTES`, (5, S * S). offset: added to it, (5,).
    """

    base: np.ndarray
    hearts: np.ndarray
    fluids: np.ndarray
    ratios: np.ndarray
    rotation: np.ndarray
    breath: np.ndarray
    reading: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.base)


@functools.lru_cache(maxsize=1)
def load_bank() -> Bank:
    """Raises: NotAvailable: the file is missing; the sentence says how it is made."""
    try:
        with np.load(BANK, allow_pickle=False) as stored:
            return Bank(**{name: stored[name] for name in Bank.__dataclass_fields__})
    except OSError:
        raise NotAvailable(
            "the posed chests are missing; `python -m backend train radiographs-poses` makes them", "data"
        ) from None


@dataclass(frozen=True, eq=False)
class Chests:
    """What radiographs look like; each (n,).

    Attributes: pose: row of the bank. growth: of the heart, 1 to 1.6. left, right: mm of fluid. exposure: -1 to 1.
    """

    pose: np.ndarray
    growth: np.ndarray
    left: np.ndarray
    right: np.ndarray
    exposure: np.ndarray

    def take(self, rows: Any) -> "Chests":
        """Some of them, by index."""
        return Chests(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def draw(self, bank: Bank | None = None) -> np.ndarray:
        """Pictures, (n, S, S) float32 in [0, 1]; dense is bright."""
        bank, n = bank or load_bank(), len(self.pose)
        images = np.empty((n, *bank.base.shape[1:]), np.float32)
        for k in range(0, n, _CHUNK):
            part = self.take(slice(k, k + _CHUNK))
            images[k : k + _CHUNK] = _display(part._integrals(bank), part.exposure)
        return images

    def _integrals(self, bank: Bank) -> np.ndarray:
        """Sums along the rays, (n, S, S); where heart and fluid take the place of the same lung, it is taken once."""
        change = _between(bank.hearts, (self.pose,), self.growth, (1.0, *GROWTHS))
        for side, height in enumerate((self.left, self.right)):
            change = np.maximum(change, _between(bank.fluids, (self.pose, side), height, (0.0, *HEIGHTS_MM)))
        return bank.base[self.pose].astype(np.float32) + DEPTH * change

    def seen(self, bank: Bank | None = None) -> dict[str, np.ndarray]:
        """What a reader would find in the pictures, by attribute, (n,) each."""
        bank = bank or load_bank()
        found = (
            _ratio_at(bank, self.pose, self.growth),
            self.left + self.right,
            bank.breath[self.pose],
            bank.rotation[self.pose],
            self.exposure,
        )
        return dict(zip(ATTRIBUTES, found, strict=True))


def _between(stored: np.ndarray, first: tuple, values: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Linear interpolation between stored levels; the first level stands for nothing and is not stored."""
    place = np.interp(values, levels, np.arange(len(levels)))
    low = np.minimum(place.astype(int), len(levels) - 2)
    share = (place - low).astype(np.float32)[:, None, None]
    above = share * stored[(*first, low)]
    return above + (1 - share) * (low > 0)[:, None, None] * stored[(*first, np.maximum(low - 1, 0))]


def _ratio_at(bank: Bank, pose: np.ndarray, growth: np.ndarray) -> np.ndarray:
    place = np.interp(growth, (1.0, *GROWTHS), np.arange(len(GROWTHS) + 1))
    low = np.minimum(place.astype(int), len(GROWTHS) - 1)
    first, last = bank.ratios[pose, low], bank.ratios[pose, low + 1]
    return first + (place - low) * (last - first)


def _display(integrals: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Scatter, compression of the broad structure, a window by percentiles, a tone curve; (n, S, S) -> [0, 1].

    The steps of `backend.radiographs.display` with average settings and no noise.
    """

    def blur(images: np.ndarray, sigma: float) -> np.ndarray:
        return ndimage.gaussian_filter(images, (0, sigma, sigma), mode="nearest")

    side = integrals.shape[-1]
    intensity = np.exp(-integrals)
    log = -np.log(intensity + 0.06 * blur(intensity, 0.09 * side) + 0.001)
    base = blur(log, 0.09 * side)
    grey = 0.7 * base + 1.1 * (log - base)
    middle = grey[:, int(0.08 * side) : int(0.95 * side), int(0.1 * side) : int(0.9 * side)].reshape(len(grey), -1)
    low, high = np.percentile(middle, (1, 94), axis=1)[..., None, None]
    grey = 0.13 + 0.74 * (grey - low) / (high - low)
    toe, shoulder = 0.06, 0.77
    grey = np.where(grey < toe, toe * np.exp(np.minimum(grey - toe, 0) / toe), grey)
    grey = np.where(grey > shoulder, shoulder + 0.23 * np.tanh((grey - shoulder) / 0.23), grey)
    return grey.clip(0, 1) ** (1.2 ** exposure[:, None, None])


def region_weight(side: int, heart: float, base: float) -> Tensor:
    """Weight of each pixel's squared error, (side, side), mean 1: more where hearts grow, and where fluid lies.

    Args: heart, base: the weight where that changes pictures most; 1 is the rest.
    """
    bank = load_bank()
    weight = torch.ones(side, side)
    for most, change in ((heart, bank.hearts[:, -1].mean(0)), (base, bank.fluids[:, :, -1].mean((0, 1)))):
        weight += (most - 1) * torch.from_numpy(change / change.max()).float()
    return weight / weight.mean()


def measure_chests(images: np.ndarray) -> dict[str, np.ndarray]:
    """Attributes as read from pictures, decoded ones too, by a line through their pixels; no code is asked.

    A cross-fade reads as half-way as well: look at the sharpness beside it.

    Args: images: (n, S, S, 3) in [0, 1] or uint8. Returns: each of `ATTRIBUTES`, (n,).
    """
    bank = load_bank()
    grey = (images / 255.0 if images.dtype == np.uint8 else images).mean(-1).reshape(len(images), -1)
    return dict(zip(ATTRIBUTES, (grey @ bank.reading.T + bank.offset).T, strict=True))


def fit_reading(grey: np.ndarray, seen: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of attributes on pixels, (n, S, S): `reading` and `offset` of a bank."""
    rows = grey.reshape(len(grey), -1).astype(np.float64)
    middle, values = rows.mean(0), np.column_stack([seen[name] for name in ATTRIBUTES])
    rows = rows - middle
    weights = np.linalg.solve(rows @ rows.T + _RIDGE * np.eye(len(rows)), values - values.mean(0))
    reading = (rows.T @ weights).T  # (attributes, pixels)
    return reading.astype(np.float32), (values.mean(0) - reading @ middle).astype(np.float32)


def draw_chests(n: int, rng: np.random.Generator, is_held_out: bool = False, poses: int = N_POSES) -> Chests:
    """Radiographs of random patients: hearts of any size, fluid in half of the lungs, all independent of the pose.

    Args: is_held_out: from the last fifth of the poses, which nothing is trained on. poses: in the bank.
    """
    cut = poses - poses // 5
    first, last = (cut, poses) if is_held_out else (0, cut)
    pose = rng.integers(first, last, n)
    growth = rng.uniform(1.0, GROWTHS[-1], n)
    left, right = ((rng.random(n) < 0.5) * rng.uniform(5, 85, n) for _ in range(2))
    return Chests(pose, growth, left, right, rng.uniform(-1, 1, n))


def draw_ends(attribute: str, rng: np.random.Generator) -> Chests:
    """Two radiographs of an unseen pose that are alike but for the heart, or the fluid on the left.

    That goes over most of its range. Args: attribute: "heart" or "effusion".
    """
    one = draw_chests(1, rng, is_held_out=True)
    ends = {name: np.repeat(getattr(one, name), 2) for name in one.__dataclass_fields__}
    if attribute == "heart":
        return Chests(**{**ends, "growth": np.array([1.02, GROWTHS[-1] - 0.02])})
    return Chests(**{**ends, "left": np.array([0.0, 80.0])})


@dataclass(frozen=True, eq=False)
class DrawnRadiographs:
    """`Pictures` of chests, drawn when they are asked for."""

    chests: Chests

    def __len__(self) -> int:
        return len(self.chests.pose)

    def __getitem__(self, rows: Any) -> np.ndarray:
        grey = np.round(self.chests.take(rows).draw() * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, -1)


# ----------------------------------------------------------------- the table
def age_effect(age: np.ndarray) -> np.ndarray:
    """Years; rises faster in old age."""
    return 0.9 * ((age - 20) / 70) ** 2


def bmi_effect(bmi: np.ndarray) -> np.ndarray:
    """kg/m2; the heavier, the lower."""
    return -0.035 * (bmi - 27)


def pressure_effect(pressure: np.ndarray) -> np.ndarray:
    """mmHg, systolic; lowest at 125."""
    return 0.35 * ((pressure - 125) / 40) ** 2


def sex_effect(codes: np.ndarray) -> np.ndarray:
    return _SEX_EFFECTS[codes.astype(int)]


def smoking_effect(codes: np.ndarray) -> np.ndarray:
    return _SMOKING_EFFECTS[codes.astype(int)]


def ward_effect(codes: np.ndarray) -> np.ndarray:
    """None at all."""
    return np.zeros(len(codes))


COLUMNS = (
    Column("age", "numeric", effect=age_effect, unit="years"),
    Column("sex", "categorical", _SEXES, effect=sex_effect),
    Column("BMI", "numeric", effect=bmi_effect, unit="kg/m²"),
    Column("smoker", "categorical", _SMOKING, effect=smoking_effect),
    Column("ward", "categorical", _WARDS, effect=ward_effect),
    Column("systolic pressure", "numeric", effect=pressure_effect, unit="mmHg"),
)


def radiograph_effect(seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """True effect of radiographs with these attributes on log NT-proBNP, not centred.

    Args: seen: "heart", width over that of the chest; "effusion", mm of fluid, both sides together.

    >>> seen = {"heart": np.array([0.5, 0.6]), "effusion": np.array([0.0, 60.0])}
    >>> print(radiograph_effect(seen).round(3))
    [-0.679  0.512]
    """
    heart, fluid = 0.8 * np.tanh((seen["heart"] - 0.6) / 0.08), np.maximum(seen["effusion"], 0)
    return heart + 0.8 * fluid**2 / (fluid**2 + 45.0**2)  # a little fluid says little


def make_radiographs(n: int | None = None, seed: int = 0, noise: bool = True) -> Dataset:
    """Patients with a radiograph each.

    Args: noise: False gives the expected log NT-proBNP. seed: from `HELD_OUT_SEED` on, poses are others too.
    """
    n = N_ROWS if n is None else n
    rng = np.random.default_rng([seed, n, 2])
    chests = draw_chests(n, rng, is_held_out=seed >= HELD_OUT_SEED)
    seen = chests.seen()
    table = _draw_table(seen, rng)
    effects = {column.name: column.effect(table[:, k]) for k, column in enumerate(COLUMNS)}
    effects[IMAGE] = radiograph_effect(seen)
    expected = sum(effects.values()) + INTERCEPT
    response = expected + rng.normal(0, NOISE_SD, n) if noise else expected
    return Dataset(
        name="radiographs",
        columns=COLUMNS,
        table=table,
        response=np.asarray(response, np.float32),
        images=DrawnRadiographs(chests),
        response_name="log NT-proBNP",
        effects={term: values - values.mean() for term, values in effects.items()},
        attributes=seen,
        image_effect=radiograph_effect,
        shown_attribute="heart",
        least={"effusion": 0.0},
        noise_sd=NOISE_SD,
    )


def _draw_table(seen: Mapping[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """(n, 6) in the order of `COLUMNS`; large hearts and fluid bring patients to cardiology."""
    n = len(seen["heart"])
    age = np.round(rng.uniform(25, 90, n))
    sex, smoker = rng.integers(0, 2, n), rng.choice(3, n, p=(0.25, 0.3, 0.45))
    bmi = np.round(rng.normal(27, 4.5, n).clip(17, 42), 1)
    pressure = np.round(rng.normal(130, 17, n).clip(90, 190))
    burden = radiograph_effect(seen)
    is_cardiac = rng.random(n) < 1 / (1 + np.exp(-4 * (burden - np.median(burden) - 0.1)))
    ward = np.where(is_cardiac, 0, rng.choice((1, 2, 3), n, p=(0.4, 0.35, 0.25)))
    return np.column_stack([age, sex, bmi, smoker, ward, pressure]).astype(np.float32)
