"""What is set on the page of images and texts, as one value: remembered between pages, written to the address.

An address never holds a person's own picture or words: it says that they were there, and no more.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backend.catalog import PAIR_METHODS
from backend.contracts import Params, ParamValue
from backend.errors import BadInput
from pages.shared.addresses import Refusals, read_methods, read_whole
from pages.shared.controls import read_param, write_param
from pages.shared.figures import Display
from pages.shared.map_grid import Box

OWN = "own"  # in an address: the picture or the report was the person's own and is not in the link
WORD_VIEWS = {"own": "This image", "control": "Control", "difference": "Difference"}
_WANTED = ("m2ib", "chefer", "grad-cam")  # side by side at first, of those that there are


def first_methods() -> tuple[str, ...]:
    return tuple(key for key in _WANTED if key in PAIR_METHODS)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the page's answer depends on, but a person's own picture and words."""

    model: str = "cxr-clip"
    example: str = ""  # empty: the first; "own": the person's own picture
    report: str = ""  # empty: the example's; "own": the person's own words
    sentence: int = 0  # chosen, from 0
    methods: tuple[str, ...] = dataclasses.field(default_factory=first_methods)  # the first explains the whole report
    params: tuple[tuple[str, Params], ...] = ()  # per method, only what differs from its defaults
    seed: int = 0
    words: str = "own"  # what colours the report's words: key of WORD_VIEWS
    box: Box | None = None  # drawn by the person
    display: Display = dataclasses.field(default_factory=Display)

    def params_of(self, method: str) -> Params:
        """All parameters of a method, defaults filled in."""
        return PAIR_METHODS[method].complete_params(dict(self.params).get(method, ()))

    def to_query(self) -> dict[str, str]:
        """The address's parameters: only what differs from the defaults, so that links stay short."""
        plain = {
            "model": self.model,
            "example": self.example,
            "report": self.report,
            "sentence": str(self.sentence + 1),
            "methods": ",".join(self.methods),
            "seed": str(self.seed),
            "words": self.words,
            "box": "" if self.box is None else write_box(self.box),
            **{name: str(value).lower() for name, value in self.display.as_mapping().items()},
            **{f"{key}.{name}": write_param(value) for key, params in self.params for name, value in params},
        }
        return {name: value for name, value in plain.items() if value != _DEFAULT_QUERY.get(name)}


def changed_only(method: str, params: Params) -> Params:
    """The parameters that differ from the method's defaults."""
    spec = PAIR_METHODS[method]
    return tuple((name, value) for name, value in params if value != spec.param(name).default)


def write_box(box: Box) -> str:
    return ",".join(f"{share:.3f}" for share in (box.left, box.top, box.right, box.bottom))


def read_query(query: Mapping[str, str]) -> tuple[Settings, Refusals]:
    """Settings from an address; what cannot be used keeps its default and gets a sentence.

    A model or example is taken as it is: whether it exists, the engine says.
    """
    settings, refusals = Settings(), Refusals()
    readers: dict[str, Callable[[str], Any]] = {
        "model": str,
        "example": str,
        "report": _read_report,
        "sentence": lambda text: read_whole("sentence", text, 1, 10**6) - 1,
        "methods": lambda text: read_methods(text, PAIR_METHODS),
        "seed": lambda text: read_whole("seed", text, 0, 2**53 - 1),
        "words": _read_words,
        "box": _read_box,
    }
    for name, read in readers.items():
        if query.get(name):
            try:
                settings = dataclasses.replace(settings, **{name: read(query[name])})
            except BadInput as error:
                refusals[name] = _with_source(error)
    params: dict[str, dict[str, ParamValue]] = {}
    for name, text in query.items():
        method, dot, parameter = name.rpartition(".")
        if dot and method in PAIR_METHODS:
            try:
                value = read_param(PAIR_METHODS[method].param(parameter), text)
                params.setdefault(method, {})[parameter] = value
            except BadInput as error:
                refusals[name] = _with_source(error)
    kept = tuple((method, changed_only(method, tuple(sorted(values.items())))) for method, values in params.items())
    return dataclasses.replace(settings, params=kept, display=Display.from_mapping(query)), refusals


def _with_source(error: BadInput) -> str:
    return f"{error.sentence} (from the address; the default is used)"


def _read_report(text: str) -> str:
    if text != OWN:
        raise BadInput("an address holds no report; paste it into its field", "report")
    return text


def _read_words(text: str) -> str:
    if text not in WORD_VIEWS:
        raise BadInput(f"words is {text!r}; expected one of {', '.join(WORD_VIEWS)}", "words")
    return text


def _read_box(text: str) -> Box:
    box = Box.from_mapping(dict(zip(("left", "top", "right", "bottom"), text.split(","), strict=False)))
    if box is None or text.count(",") != 3:
        raise BadInput(f"box is {text!r}; expected left,top,right,bottom in shares of the picture, 0..1", "box")
    return box


_DEFAULT_QUERY: dict[str, str] = {}
_DEFAULT_QUERY.update(Settings().to_query())
