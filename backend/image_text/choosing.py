"""Which settings suit a model: all of a grid tried on a few pairs, the best of them on more, the last few on all.

The one search: the table of methods, the defaults that ship, and the search of the paper's appendix choose by it.
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from backend.catalog import method
from backend.image_text.run import FAMILY
from backend.models.towers import Tower

Settings = dict[str, Any]
Values = dict[str, float | None]
PAPERS = (1.0, 0.1, 0.01)  # beta and sigma squared in the paper's appendix
BETAS = (6.4, 3.2, 1.6, 1.0, 0.4, 0.1, 0.01)  # with standardised activations, where more compression can help
SMOOTH = (0.0, 1.0, 2.0, 4.0)  # of lambda, in cells; with standardised activations, whose lambda is one for each place
_ALL_LAYERS_UP_TO = 6  # blocks; of deeper towers three late ones are tried, as in the paper: 7, 8, 9 of 12


@dataclass(frozen=True, slots=True)
class Round:
    """On so many pairs, or half of them all, with so many draws, what is left is tried; so many of them go on."""

    pairs: int
    kept: int
    draws: int | None = None  # None: as many as the method draws


# Samples take every kind of finding in turn: the first twelve of a radiograph model hold each kind once.
ROUNDS = (Round(12, 8, 2), Round(36, 2))


@dataclass
class Trial:
    """Settings with what they scored on the most pairs that they were tried on."""

    settings: Settings
    values: list[Values] = field(default_factory=list)  # of each pair: "score", "drop", "increase"
    maps: list[Tensor] = field(default_factory=list)  # of the same pairs
    rounds: list[tuple[int, float]] = field(default_factory=list)  # pairs and score of each round, this one last

    @property
    def score(self) -> float:
        """Mean over pairs where it is defined; 0 where it is on none."""
        defined = [values["score"] for values in self.values if values["score"] is not None]
        return sum(defined) / len(defined) if defined else 0.0


# Settings, number of pairs (the first ones), draws of the noise -> their trial.
TryOn = Callable[[Settings, int, int | None], Trial]


# ----------------------------------------------------------------- what is tried
def grid_of(key: str, given: Mapping[str, Any], tower: Tower, has_statistics: bool) -> list[Settings]:
    """Settings of a method that are tried; a single one where there is nothing to choose.

    Args: given: set by who asks, and not searched. has_statistics: of the tower's activations, for `normalised`.
    """
    spec = method(key, FAMILY)
    names = {param.name for param in spec.params}
    layers = [given["layer"]] if "layer" in given else layers_of(tower, spec.group == "bottleneck")
    if "mode" in names:
        modes = [given["mode"]] if "mode" in given else ["paper", "normalised"] if has_statistics else ["paper"]
        smooth = [{"smooth": s} for s in SMOOTH] if "smooth" in names and tower.modality != "text" else [{}]
        smoothed = {"paper": [{}], "normalised": smooth}  # the paper smooths nothing
        choices = [
            {"layer": layer, "mode": mode, "beta": beta, "sigma2": sigma2, **more}
            for mode in modes
            for layer, beta, sigma2, more in itertools.product(
                layers, PAPERS if mode == "paper" else BETAS, PAPERS, smoothed.get(mode, [{}])
            )
        ]
    elif "layer" in names:
        choices = [{"layer": layer} for layer in layers]
    else:
        choices = [{}]
    merged = [{**choice, **given} for choice in choices]
    return list({json.dumps(one, sort_keys=True): one for one in merged}.values())


def layers_of(tower: Tower, is_bottleneck: bool) -> list[int]:
    """Layers that are tried; a bottleneck behind the last block would have nothing to pass to."""
    n = tower.n_layers
    if not is_bottleneck:
        return list(range(n))
    return list(range(tower.first_layer, max(n - 1, 1)) if n <= _ALL_LAYERS_UP_TO else range(n - 5, n - 2))


# ----------------------------------------------------------------- the search
def narrow(
    grid: Sequence[Settings],
    n: int,
    try_on: TryOn,
    rounds: Sequence[Round] = ROUNDS,
) -> list[Trial]:
    """Successive halving: every settings' last trial, the best first; those tried on all n pairs stand in front.

    Scores of one round are of the same pairs and can be compared; those of another round are of others.

    Source: Jamieson and Talwalkar, Non-stochastic Best Arm Identification, AISTATS 2016.

    >>> def try_on(one, pairs, draws):
    ...     return Trial(one, [{"score": one["beta"]}] * pairs)
    >>> found = narrow([{"beta": 1}, {"beta": 3}, {"beta": 2}], 4, try_on, (Round(2, 1),))
    >>> [(trial.settings["beta"], len(trial.values)) for trial in found]
    [(3, 4), (2, 2), (1, 2)]
    """
    if len(grid) == 1:
        return [try_on(grid[0], min(n, 1), None)]  # nothing to choose, but a refusal is heard early
    running, dropped = [Trial(settings) for settings in grid], []
    for one in rounds:
        if one.kept < len(running):
            ranked = _ranked(running, min(one.pairs, max(n // 2, 1)), one.draws, try_on)
            running, dropped = ranked[: one.kept], ranked[one.kept :] + dropped
    return _ranked(running, n, None, try_on) + dropped


def _ranked(running: Sequence[Trial], n: int, draws: int | None, try_on: TryOn) -> list[Trial]:
    """The same settings after one more round, the best first."""
    tried = []
    for before in running:
        trial = try_on(before.settings, n, draws)
        trial.rounds = [*before.rounds, (n, trial.score)]
        tried.append(trial)
    return sorted(tried, key=lambda trial: -trial.score)
