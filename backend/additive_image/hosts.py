"""Hosts: a table of lodgings in the manner of Airbnb's listings, a drawn portrait of each host, and a log-price.

The image's effect on the log-price depends on smile, glasses and age, and on nothing else unless a bias is planted.
Older hosts have more reviews, and reviews have no effect: a model of the table alone takes them for the age it cannot
see. Effects are ours; the data that they stand for is that of arXiv:2405.02295.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backend.additive_image import portraits
from backend.additive_image.data import IMAGE, Column, Dataset

N_ROWS = 10_000  # half as many cost the image's effect .005 of its R2
NOISE_SD = 0.10  # of the log-price
INTERCEPT = 4.5  # 90 a night
PLANTED_BIAS = -0.3  # of the log-price from the lightest to the darkest skin, in "hosts-biased"
_ROOMS = ("entire home", "hotel room", "private room", "shared room")
_ROOM_EFFECTS = np.array([0.28, 0.06, -0.12, -0.45])
_PLACES = ("harbour", "old town", "gardens", "hillside", "station")
_PLACE_EFFECTS = np.array([0.22, 0.12, 0.0, -0.08, -0.2])
_NIGHTS = np.array([1, 2, 3, 4, 5, 7, 10, 14, 21, 30])


def guests_effect(guests: np.ndarray) -> np.ndarray:
    return 0.38 * np.log(guests / 3)


def bedrooms_effect(bedrooms: np.ndarray) -> np.ndarray:
    return 0.16 * np.sqrt(bedrooms)


def nights_effect(nights: np.ndarray) -> np.ndarray:
    """Longest stays are cheapest a night; a night or two costs cleaning."""
    return 0.12 * np.cos(np.pi * np.log(nights) / np.log(30))


def room_effect(codes: np.ndarray) -> np.ndarray:
    return _ROOM_EFFECTS[codes.astype(int)]


def place_effect(codes: np.ndarray) -> np.ndarray:
    return _PLACE_EFFECTS[codes.astype(int)]


def no_effect(values: np.ndarray) -> np.ndarray:
    return np.zeros(len(values))


COLUMNS = (
    Column("accommodates", "numeric", effect=guests_effect, unit="guests"),
    Column("bedrooms", "numeric", effect=bedrooms_effect),
    Column("minimum nights", "numeric", effect=nights_effect, unit="nights"),
    Column("room type", "categorical", _ROOMS, effect=room_effect),
    Column("neighbourhood", "categorical", _PLACES, effect=place_effect),
    Column("reviews", "numeric", effect=no_effect),
)


def portrait_effect(seen: Mapping[str, np.ndarray], bias: float = 0.0) -> np.ndarray:
    """True effect of portraits with these attributes on the log-price, not centred.

    Args: bias: from the lightest to the darkest skin.

    >>> seen = {"smile": np.array([1.0]), "glasses": np.array([1.0]), "age": np.array([0.4]), "skin": np.array([1.0])}
    >>> print(portrait_effect(seen).round(3), portrait_effect(seen, bias=-0.3).round(3))
    [0.05] [-0.1]
    """
    effect = 0.25 * seen["smile"] - 0.20 * seen["glasses"] - 0.9 * (seen["age"] - 0.4) ** 2
    return effect + bias * (seen["skin"] - 0.5) if bias else effect


@dataclass(frozen=True, eq=False)
class DrawnPortraits:
    """`Pictures` of hosts, drawn when they are asked for; attributes (n, 9)."""

    attributes: np.ndarray
    side: int = 64

    def __len__(self) -> int:
        return len(self.attributes)

    def __getitem__(self, rows: Any) -> np.ndarray:
        images = portraits.draw(torch.from_numpy(self.attributes[rows]), self.side)
        return images.mul_(255).round_().byte().permute(0, 2, 3, 1).contiguous().numpy()


def make_hosts(n: int | None = None, seed: int = 0, noise: bool = True, bias: float = 0.0) -> Dataset:
    """Lodgings with a host each.

    Args: noise: False gives the expected log-price. bias: see `portrait_effect`.
    """
    n = N_ROWS if n is None else n
    rng = np.random.default_rng([seed, n, 1])
    seen = portraits.sample_attributes(n, torch.Generator().manual_seed(int(rng.integers(2**31)))).numpy()
    attributes = {name: seen[:, k] for k, name in enumerate(portraits.NAMES)}
    table = _draw_table(attributes["age"], rng)

    def image_effect(seen: Mapping[str, np.ndarray]) -> np.ndarray:
        return portrait_effect(seen, bias)

    effects = {column.name: column.effect(table[:, k]) for k, column in enumerate(COLUMNS)}
    effects[IMAGE] = image_effect(attributes)
    expected = sum(effects.values()) + INTERCEPT
    response = expected + rng.normal(0, NOISE_SD, n) if noise else expected
    return Dataset(
        name="hosts-biased" if bias else "hosts",
        columns=COLUMNS,
        table=table,
        response=np.asarray(response, np.float32),
        images=DrawnPortraits(seen),
        response_name="log-price",
        effects={term: values - values.mean() for term, values in effects.items()},
        attributes=attributes,
        image_effect=image_effect,
        shown_attribute="smile",
        noise_sd=NOISE_SD,
    )


def _draw_table(age: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 6) in the order of `COLUMNS`; bedrooms go with guests, reviews with the host's age (correlation about .7)."""
    n = len(age)
    guests = rng.integers(1, 9, n)
    bedrooms = np.clip(np.round(0.4 * guests + rng.normal(0, 1.0, n)), 0, 4)
    nights = rng.choice(_NIGHTS, n)
    rooms = rng.choice(4, n, p=(0.5, 0.12, 0.3, 0.08))
    places = rng.choice(5, n, p=(0.15, 0.25, 0.2, 0.22, 0.18))
    reviews = np.round(75 * (age + rng.random(n)))
    return np.column_stack([guests, bedrooms, nights, rooms, places, reviews]).astype(np.float32)
