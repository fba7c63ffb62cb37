"""What is set on the page of additive decoders, as one value: remembered between pages, written to the address."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.catalog import DECODERS
from backend.errors import BadInput
from pages.shared.addresses import Refusals, read_whole
from pages.shared.session import brought, escape

WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "weights"
SIDES = (2, 15)  # scenes along a side of the grid
SEEDS = 5  # training seeds that may ship
OWN = "own"  # what was trained here
BROUGHT = "model-"  # begins the key of a case that is a model of the user's own
PLANAR = ("plane", "dependent", "four")  # cases whose blocks have more than one latent
KIND_TITLES = {"additive": "Additive", "non-additive": "Plain", "masked": "Masked"}


@dataclass(frozen=True, slots=True)
class Case:
    """One training support, and the decoders that were trained on it with equal budgets."""

    key: str
    title: str
    sentence: str  # what was never seen, and what is to be looked at
    decoders: tuple[str, ...]  # keys of models, the additive one first
    kinds: tuple[str, ...] = ()  # of decoders that are no rows of the catalogue
    twin: str = ""  # another case whose decoders stand in the same table


CASES: dict[str, Case] = {
    case.key: case
    for case in (
        Case(
            "l",
            "L: never both high",
            "Training showed either ball high, never **both high**.",
            ("balls-l-additive", "balls-l-plain", "balls-l-masked", "balls-l-hessian"),
        ),
        Case(
            "occluded",
            "L with occlusion",
            "Large balls meet at like heights, and there the right one **hides** the left one: such scenes are **no "
            "sum**. Never both high, as before. **Masks extrapolate in practice**: the masked decoder finds the "
            "blocks and draws recombinations as well as what it saw; the additive one finds them too, but cannot draw "
            "one ball hiding the other; the plain one does neither.",
            ("balls-occluded-additive", "balls-occluded-masked", "balls-occluded-plain"),
            twin="near",
        ),
        Case(
            "near",
            "L with large balls",
            "The same large balls, but where they meet their colours **add up**: scenes are sums again. Never both "
            "high, as before. The additive and the masked decoder find the blocks and draw recombinations alike.",
            ("balls-near-additive", "balls-near-masked", "balls-near-plain"),
            twin="occluded",
        ),
        Case(
            "u",
            "U: a gap on one side",
            "With the left ball high, training never showed the right ball **at middle height**.",
            ("balls-u-additive",),
        ),
        Case(
            "bands",
            "Disconnected: two bands",
            "Training showed the right ball low or high, **never between**: the support falls in two pieces.",
            ("balls-disconnected-additive",),
        ),
        Case(
            "corners",
            "Disconnected: opposite corners",
            "Training showed both balls low or both high. Nothing ties the two pieces together, so blocks may be "
            "learned **in another order in each corner**.",
            ("balls-corners-additive",),
        ),
        Case(
            "plane",
            "Two balls in the plane",
            "Each block is a place in the plane, and the balls never touched. Recombined balls may **overlap**, as no "
            "training scene did; here their colours add up then, real objects would hide each other.",
            ("balls-blocks-independent", "balls-blocks-plain"),
        ),
        Case(
            "dependent",
            "Dependent balls in the plane",
            "The second ball's side depended on where the first one was; **the other side** was never seen. The "
            "decoder draws it all the same; the encoder, which the theory promises nothing about, need not read it.",
            ("balls-blocks-dependent",),
        ),
        Case(
            "four",
            "Four balls, blocks of three",
            "Place and size of four balls, one block each; the grid and the sliders recombine two of them.",
            ("balls-four",),
        ),
    )
}


def title_of(case: Case, key: str) -> str:
    """A decoder's name beside the others of its case."""
    if "hessian" in key:
        return "Plain + penalty"
    kind = case.kinds[case.decoders.index(key)] if case.kinds else kind_of(key)
    return KIND_TITLES[kind]


def kind_of(key: str) -> str:
    return DECODERS[key].architecture.removeprefix("prism:").removesuffix("-decoder")


def seeded(key: str, seed: int) -> str:
    """The model's key at a training seed; seed 0 has the plain name."""
    return key if seed == 0 else f"{key}-seed{seed}"


def is_here(key: str) -> bool:
    """Whether a model's weights ship with this copy of Prism."""
    return key in DECODERS and (WEIGHTS / DECODERS[key].weights).exists()


def cases_here() -> dict[str, Case]:
    """The cases with weights, each with the decoders that have some."""
    here = {}
    for case in CASES.values():
        decoders = tuple(key for key in case.decoders if is_here(key))
        if decoders:
            here[case.key] = dataclasses.replace(case, decoders=decoders)
    return here


def brought_cases() -> dict[str, Case]:
    """The user's own decoders, each as a case of its own."""
    found = {}
    for key, spec in brought("additive_decoding").items():
        kind = spec.architecture.removeprefix("prism:").removesuffix("-decoder")
        sentence = f"{escape(spec.title)}: a decoder of your own. {escape(spec.summary)}"
        found[f"{BROUGHT}{key}"] = Case(f"{BROUGHT}{key}", f"Yours: {spec.title}", sentence, (key,), (kind,))
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the page's answer depends on."""

    case: str = "l"
    kinds: tuple[str, ...] = ()  # decoders shown, by key without seed; none: the case's first three
    training_seed: int = 0
    rows: int = 7
    columns: int = 7
    down: int = 0  # object whose block varies from row to row
    across: int = 1
    seed: int = 0  # which training scenes lend their blocks, in the plane

    def to_query(self) -> dict[str, str]:
        """The address's parameters: only what differs from the defaults, so that links stay short."""
        plain = {
            "case": self.case,
            "decoders": ",".join(self.kinds),
            "training_seed": str(self.training_seed),
            "grid": f"{self.rows}x{self.columns}",
            "objects": f"{self.down + 1},{self.across + 1}",
            "seed": str(self.seed),
        }
        return {name: value for name, value in plain.items() if value != _DEFAULT_QUERY.get(name)}


_DEFAULT_QUERY: dict[str, str] = {}
_DEFAULT_QUERY.update(Settings().to_query())


def read_query(query: Mapping[str, str]) -> tuple[Settings, Refusals]:
    """Settings from an address; what cannot be used keeps its default and gets a sentence."""
    settings, refusals = Settings(), Refusals()
    readers: dict[str, Callable[[str], dict[str, Any]]] = {
        "case": lambda text: {"case": _one_of("case", text, (*CASES, OWN, *brought_cases()))},
        "decoders": lambda text: {"kinds": tuple(dict.fromkeys(text.split(",")))},
        "training_seed": lambda text: {"training_seed": read_whole("training_seed", text, 0, SEEDS - 1)},
        "grid": _read_grid,
        "objects": _read_objects,
        "seed": lambda text: {"seed": read_whole("seed", text, 0, 2**31 - 1)},
    }
    for name, read in readers.items():
        if query.get(name):
            try:
                settings = dataclasses.replace(settings, **read(query[name]))
            except BadInput as error:
                refusals[name] = f"{error.sentence} (from the address; the default is used)"
    return settings, refusals


def _one_of(name: str, text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise BadInput(f"unknown {name} {text!r}; one of {', '.join(known)}", name)
    return text


def _read_grid(text: str) -> dict[str, int]:
    rows, _, columns = text.partition("x")
    return {"rows": read_whole("grid", rows, *SIDES), "columns": read_whole("grid", columns, *SIDES)}


def _read_objects(text: str) -> dict[str, int]:
    down, _, across = text.partition(",")
    found = {"down": read_whole("objects", down, 1, 4) - 1, "across": read_whole("objects", across, 1, 4) - 1}
    if found["down"] == found["across"]:
        raise BadInput(f"objects is {text!r}; expected two different ones", "objects")
    return found
