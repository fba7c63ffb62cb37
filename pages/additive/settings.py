"""What is set on the page of additive image models, as one value: remembered between pages, written to the address."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.catalog.additive_image import FAMILY, IMAGE_MODELS, NAIMS
from backend.contracts import Params
from backend.errors import BadInput
from pages.shared.addresses import Refusals, read_whole
from pages.shared.controls import read_param, write_param
from pages.shared.session import brought

WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "weights"
OWN = "job-"  # keys of models that were trained here begin so
OWN_DATA = "own"  # where the visitor brings a table and pictures
UPLOAD = -1  # an end that is a picture of the visitor's own, and in no link
FRAMES = (9, 65)
REACH = 0.15  # how far the path goes beyond both ends at first
SPEC = IMAGE_MODELS["naim"]
FIRST = ("hosts", "radiographs", "squares", "colours")  # the order in which the examples are offered; others follow
# What must be said of an example wherever it is shown.
NOTES = {
    "radiographs": "These radiographs are simulated from one CT, and the patients and their NT-proBNP are invented: "
    "this is no medical device and says nothing about real patients.",
}


def is_here(key: str) -> bool:
    """Whether a model's weights ship with this copy of Prism."""
    return key in NAIMS and (WEIGHTS / NAIMS[key].weights).exists()


def models_here() -> list[str]:
    """Keys of the models that ship, the best example first."""
    order = [*(key for key in FIRST if key in NAIMS), *(key for key in NAIMS if key not in FIRST)]
    return [key for key in order if is_here(key)]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the page's answer depends on."""

    model: str = ""  # the data set and the model fitted to it; empty: the first that is here
    ends: tuple[int, int] | None = None  # rows of the data, or `UPLOAD`; None: the gallery's first and last
    frames: int = 33
    params: Params = ()  # of the path, where they differ from the page's defaults
    record: int | None = None  # the row that is explained; None: that of A
    seed: int = 0

    def to_query(self) -> dict[str, str]:
        """The address's parameters: only what differs from the defaults, so that links stay short."""
        plain = {
            "model": self.model,
            "ends": "" if self.ends is None else ",".join("upload" if e == UPLOAD else str(e) for e in self.ends),
            "frames": str(self.frames),
            "record": "" if self.record is None else str(self.record),
            "seed": str(self.seed),
            **{name: write_param(value) for name, value in self.params},
        }
        return {name: value for name, value in plain.items() if value != _DEFAULT_QUERY.get(name)}

    @property
    def path_params(self) -> Params:
        """All parameters of the path."""
        return SPEC.complete_params({"reach": REACH, **dict(self.params)})


def changed_only(params: Params) -> Params:
    """The parameters that differ from the page's defaults."""
    defaults = dict(Settings().path_params)
    return tuple((name, value) for name, value in params if value != defaults[name])


_DEFAULT_QUERY: dict[str, str] = {}
_DEFAULT_QUERY.update(Settings().to_query())


def read_query(query: Mapping[str, str]) -> tuple[Settings, Refusals]:
    """Settings from an address; what cannot be used keeps its default and gets a sentence."""
    settings, refusals = Settings(), Refusals()
    readers: dict[str, Callable[[str], dict[str, Any]]] = {
        "model": lambda text: {"model": _one_of("model", text)},
        "ends": lambda text: {"ends": _read_ends(text)},
        "frames": lambda text: {"frames": read_whole("frames", text, *FRAMES)},
        "record": lambda text: {"record": read_whole("record", text, 0, 10**7)},
        "seed": lambda text: {"seed": read_whole("seed", text, 0, 2**31 - 1)},
        **{param.name: _param_reader(param) for param in SPEC.params},
    }
    params: dict[str, Any] = {}
    for name, read in readers.items():
        if query.get(name):
            try:
                found = read(query[name])
            except BadInput as error:
                refusals[name] = f"{error.sentence} (from the address; the default is used)"
                continue
            params |= found.pop("params", {})
            settings = dataclasses.replace(settings, **found)
    return dataclasses.replace(settings, params=changed_only(tuple(sorted(params.items())))), refusals


def _param_reader(param) -> Callable[[str], dict[str, Any]]:
    return lambda text: {"params": {param.name: read_param(param, text)}}


def _one_of(name: str, text: str) -> str:
    is_known = text in NAIMS or text == OWN_DATA or text.startswith(OWN)
    if not is_known and text not in brought(FAMILY):
        raise BadInput(f"unknown {name} {text!r}; one of {', '.join(NAIMS)}", name)
    return text


def _read_ends(text: str) -> tuple[int, int]:
    """Two rows. Raises: BadInput: other things, or a picture of the sender's own."""
    if "upload" in text.split(","):
        raise BadInput("the link was made with a picture of its sender, which is not in it", "ends")
    first, comma, last = text.partition(",")
    if not comma:
        raise BadInput(f"ends is {text!r}; expected two rows, like 3,17", "ends")
    return read_whole("ends", first, 0, 10**7), read_whole("ends", last, 0, 10**7)
