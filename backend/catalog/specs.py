"""What a row of the catalogue says: a parameter, a method, a model, an example, a page."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from backend.contracts import Params, ParamValue
from backend.errors import BadInput


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One parameter of a method: its type, range, default, and a sentence of help.

    `default=None` with `kind` "int" or "float" means "chosen from the input"; `auto_help` says how.
    """

    name: str
    title: str
    symbol: str  # as in the paper
    kind: Literal["int", "float", "bool", "choice"]
    default: ParamValue
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    optional: bool = False  # None is a value of its own
    auto_help: str = ""

    def check(self, value: Any) -> ParamValue:
        """Bring a value to this parameter's type.

        Raises: BadInput: a wrong type, or out of range; the sentence names both ends.
        """
        if value is None:
            if self.optional:
                return None
            raise BadInput(f"{self.name} is null; expected {self.expected()}", self.name)
        if self.kind == "bool":
            if isinstance(value, bool):
                return value
        elif self.kind == "choice":
            if value in self.choices:
                return value
        elif not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value):
            whole = float(value).is_integer()
            in_range = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
            if in_range and (self.kind == "float" or whole):
                return float(value) if self.kind == "float" else int(value)
        raise BadInput(f"{self.name} is {value!r}; expected {self.expected()}", self.name)

    def expected(self) -> str:
        if self.kind == "bool":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        kind = "a whole number" if self.kind == "int" else "a number"
        return f"{kind} in {self.low:g}..{self.high:g}" + (" or null" if self.optional else "")


class HasParams:
    """What every row with parameters can do with those that were given."""

    __slots__ = ()
    key: str
    params: tuple[ParamSpec, ...]

    def param(self, name: str) -> ParamSpec:
        for spec in self.params:
            if spec.name == name:
                return spec
        names = ", ".join(spec.name for spec in self.params) or "no parameters"
        raise BadInput(f"{self.key} has no parameter {name!r}; it has {names}", name)

    def complete_params(self, given: Params | Mapping[str, Any]) -> Params:
        """All parameters, checked, defaults filled in, sorted: equal settings are equal requests.

        Raises: BadInput: an unknown name, a wrong type or a value out of range.
        """
        values = dict(given)
        for name in values:
            self.param(name)
        return tuple(
            sorted(
                (spec.name, spec.check(values[spec.name]) if spec.name in values else spec.default)
                for spec in self.params
            )
        )


@dataclass(frozen=True, slots=True)
class MethodSpec(HasParams):
    """An attribution method as data."""

    key: str
    title: str
    group: Literal["path", "gradient", "propagation", "activation", "perturbation", "region", "bottleneck"]
    implementation: str  # "module:function", imported when first used
    source: str
    summary: str  # one sentence
    equation: str  # LaTeX
    limits: str  # what it cannot do, one sentence
    params: tuple[ParamSpec, ...] = ()
    signed: bool = True
    # What the values of a map count from: zero, which means nothing; or where zero means nothing, the map's lowest.
    origin: Literal["zero", "lowest"] = "zero"
    unit: str = "logit"
    complete: bool = False  # do the values sum to f(x) - f(x0), up to the integration error?
    uses_baseline: bool = False
    needs: frozenset[str] = frozenset()  # "gradient", "spatial_layer", "gap_head"
    has_path: bool = False  # can the path player show the way it took?
    family: str = "path_attribution"


@dataclass(frozen=True, slots=True)
class KindSpec(HasParams):
    """A kind of model as data, where a family compares models: of decoders, of models of table and image."""

    key: str
    title: str
    source: str
    summary: str
    equation: str  # LaTeX
    limits: str
    params: tuple[ParamSpec, ...] = ()
    family: str = ""


Source = Literal["embedded", "hub", "local"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as data: where its weights come from and what it expects."""

    key: str
    title: str
    architecture: str  # "prism:NAME", "torchvision:NAME", "timm:NAME", "pt2"
    source: Source
    labels: tuple[str, ...]
    input_size: tuple[int, int]  # height, width
    weights: str = ""  # embedded: file under assets/weights; local: path; hub: empty, the name says it
    sha256: str = ""  # of the weights file, checked on loading (embedded)
    task: str = "classification"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    fit: Literal["crop", "pad", "stretch"] = "crop"  # how another shape of image is brought to input_size
    layers: tuple[tuple[str, str], ...] = ()  # ("cam", "layer4"): defaults per method
    licence: str = ""
    summary: str = ""
    card: str = ""  # file under assets/weights
    examples: tuple[str, ...] = ()  # keys of ExampleSpec rows that suit it, best first
    options: tuple[tuple[str, ParamValue], ...] = field(default=())  # of a "prism:" architecture

    @property
    def n_channels(self) -> int:
        return 1 if self.channels == "L" else 3


@dataclass(frozen=True, slots=True)
class ExampleSpec:
    """A picture to begin with, and the models that it suits."""

    key: str
    title: str
    image: str  # file under assets/examples, or "photo:NAME" of `backend.photos`
    suits: tuple[str, ...]  # keys of `ModelSpec` rows, or "hub" for every model of the hub
    label: str  # what is in it, in the words of those models
    alt: str  # what a screen reader says
    licence: str
    mask: str = ""  # file under assets/examples that is white where the object is seen
    origin: str = ""  # "digits:INDEX" of the test split; "objects:INDEX" of the example composites


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """A page of Prism: what it answers, and for whom."""

    key: str
    title: str
    question: str
    page: str  # file under pages/
    url_path: str
    icon: str
    preview: str  # what the pictures on the overview show
