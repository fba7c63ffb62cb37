"""What is set on the attribution page, as one value: remembered between pages, written to the address, read from it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from backend.catalog import METHODS, check_baseline
from backend.contracts import Params, ParamValue
from backend.errors import BadInput
from pages.shared.addresses import Refusals, read_methods, read_whole
from pages.shared.controls import read_param, write_param
from pages.shared.figures import Display

SCORES = ("ratio", "normalised", "probability")
UPLOAD = "upload"  # in an address: the picture was the person's own and is not in the link


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the page's answer depends on, but the bytes of an upload."""

    model: str = "digits-gap"
    example: str = ""  # empty: the model's first example; "upload": the person's own picture
    target: int | None = None  # None: the top class
    baselines: tuple[str, ...] = ("black",)
    methods: tuple[str, ...] = ("samp++", "ig", "grad-cam")
    params: tuple[tuple[str, Params], ...] = ()  # per method, only what differs from its defaults
    seed: int = 0
    replacement: str = "black"  # what a deleted pixel becomes, in the metrics
    score: str = "ratio"
    display: Display = dataclasses.field(default_factory=Display)

    def params_of(self, method: str) -> Params:
        """All parameters of a method, defaults filled in."""
        return METHODS[method].complete_params(dict(self.params).get(method, ()))

    def to_query(self) -> dict[str, str]:
        """The address's parameters: only what differs from the defaults, so that links stay short."""
        plain = {
            "model": self.model,
            "example": self.example,
            "target": "" if self.target is None else str(self.target),
            "baselines": ",".join(self.baselines),
            "methods": ",".join(self.methods),
            "seed": str(self.seed),
            "replacement": self.replacement,
            "score": self.score,
            **{name: str(value).lower() for name, value in self.display.as_mapping().items()},
            **{f"{key}.{name}": write_param(value) for key, params in self.params for name, value in params},
        }
        return {name: value for name, value in plain.items() if value != _DEFAULT_QUERY.get(name)}


def changed_only(method: str, params: Params) -> Params:
    """The parameters that differ from the method's defaults."""
    spec = METHODS[method]
    return tuple((name, value) for name, value in params if value != spec.param(name).default)


def read_query(query: Mapping[str, str]) -> tuple[Settings, Refusals]:
    """Settings from an address; what cannot be used keeps its default and gets a sentence.

    A model or example is taken as it is: whether it exists, the engine says.
    """
    settings, refusals = Settings(), Refusals()
    readers = {
        "model": str,
        "example": str,
        "target": lambda text: read_whole("target", text, 0, 10**9),
        "baselines": _baselines,
        "methods": lambda text: read_methods(text, METHODS),
        "seed": lambda text: read_whole("seed", text, 0, 2**63 - 1),
        "replacement": check_baseline,
        "score": _one_of(SCORES, "score"),
    }
    for name, read in readers.items():
        if query.get(name):
            try:
                settings = dataclasses.replace(settings, **{name: read(query[name])})
            except BadInput as error:
                refusals[name] = f"{error.sentence} (from the address; the default is used)"
    params: dict[str, dict[str, ParamValue]] = {}
    for name, text in query.items():
        method, dot, parameter = name.rpartition(".")
        if dot and method in METHODS:
            try:
                params.setdefault(method, {})[parameter] = read_param(METHODS[method].param(parameter), text)
            except BadInput as error:
                refusals[name] = f"{error.sentence} (from the address; the default is used)"
    kept = tuple((method, changed_only(method, tuple(sorted(values.items())))) for method, values in params.items())
    return dataclasses.replace(settings, params=kept, display=Display.from_mapping(query)), refusals


def _one_of(choices: tuple[str, ...], name: str):
    def read(text: str) -> str:
        if text not in choices:
            raise BadInput(f"{name} is {text!r}; expected one of {', '.join(choices)}", name)
        return text

    return read


def _baselines(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(check_baseline(name) for name in text.split(",")))


_DEFAULT_QUERY: dict[str, str] = {}
_DEFAULT_QUERY.update(Settings().to_query())
