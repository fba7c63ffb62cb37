"""A user's own models: the rows of `models.toml`, and the fields of an upload, as checked `ModelSpec` rows.

```toml
[[model]]
key = "mine"
architecture = "torchvision:resnet18"
weights = "weights.safetensors"            # relative to this file, or absolute
labels = ["cat", "dog"]                    # or a path to a text file, one a line
input_size = [224, 224]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]

[[model]]
key = "my-clip"
task = "image_text"
architecture = "open_clip:ViT-B-32"
weights = "my-clip"                        # a weights file, or a folder in the hub's layout

[[model]]
key = "my-clap"
task = "image_text"                        # sounds and texts
architecture = "clap:my-clap"
weights = "my-clap"                        # a folder in the hub's layout

[[model]]
key = "my-balls"
task = "additive_decoding"                 # or "additive_image", with prism:additive-image-model
architecture = "prism:additive-decoder"
weights = "my-balls.safetensors"           # its card lies beside it: my-balls.json, or the field `card`
```
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.catalog import AUTOENCODERS, ModelSpec
from backend.errors import BadInput, PrismError
from backend.limits import LIMITS, Limits

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ARCHITECTURES = ("torchvision:NAME", "timm:NAME", "prism:NAME", "pt2")
_MAX_SIDE = 4096  # pixels
_COMMON = ("key", "task", "architecture", "weights", "title", "summary", "licence", "sha256")
_FIELDS = {
    "classification": (*_COMMON, "labels", "input_size", "mean", "std", "channels", "value_range", "layers", "fit"),
    "image_text": _COMMON,
    "additive_decoding": (*_COMMON, "card"),
    "additive_image": (*_COMMON, "card"),
}
_MAX_CARD_BYTES = 2**20
_MAX_CARD_NUMBER = 4096  # no side, width or number of latents of a card is larger
CARDED = {  # tasks whose networks a card describes, and what they may be called
    "additive_decoding": ("prism:additive-decoder", "prism:non-additive-decoder", "prism:masked-decoder"),
    "additive_image": ("prism:additive-image-model",),
}
_PAIRS = re.compile(r"(open_clip|clap):[A-Za-z0-9._-]+")
_MAX_ROWS = 100_000  # of the data set that an additive image model's card names


def read_models_file(path: str | Path, limits: Limits = LIMITS) -> tuple[list[ModelSpec], list[str]]:
    """The rows of a models file that can be used, and one sentence for each that cannot.

    A broken row does not keep the others out. The weights are not read yet.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return [], [f"{path.name}: the file is not there or cannot be read"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return [], [f"{path.name}: not valid TOML ({error})"]
    rows = table.get("model", [])
    if not isinstance(rows, list):
        return [], [f"{path.name}: write each model under [[model]], with two brackets"]
    specs: list[ModelSpec] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        name = row.get("key", f"number {number}") if isinstance(row, Mapping) else f"number {number}"
        try:
            spec = read_row(row, path.parent, limits)
            if spec.key in {s.key for s in specs}:
                raise BadInput(f"the key {spec.key!r} is used twice", "key")
        except PrismError as error:
            problems.append(f"{path.name}, model {name}: {error.sentence}")
        else:
            specs.append(spec)
    return specs, problems


def read_row(row: Any, folder: Path | None, limits: Limits = LIMITS) -> ModelSpec:
    """Check one row.

    Args:
        row: the fields by name, as TOML or JSON gives them.
        folder: what relative paths start from. None: an upload, which names no files: labels are a list, weights
            come as bytes, and `pt2` programs are refused.
    Raises: BadInput: unknown, missing or unusable field; its name is the error's field.
    """
    if not isinstance(row, Mapping):
        raise BadInput("a model is a table of fields", "model")
    task = _choice(row, "task", tuple(_FIELDS), "classification")
    for name in row:
        if name not in _FIELDS[task]:
            raise BadInput(f"unknown field {name!r}; a model for {task} has {', '.join(_FIELDS[task])}", str(name))
    key = _text(row, "key")
    if not _KEY.fullmatch(key):
        raise BadInput(
            f"key {key!r}; expected up to 64 letters, digits, dots, dashes, underscores or plus signs", "key"
        )
    sha256 = _text(row, "sha256", "").lower()
    if sha256 and not _SHA256.fullmatch(sha256):
        raise BadInput("sha256 is not 64 hexadecimal digits", "sha256")
    common = {
        "key": key,
        "task": task,
        "title": _text(row, "title", key),
        "source": "local",
        "weights": _weights(row, folder),
        "sha256": sha256,
        "licence": _text(row, "licence", ""),
        "summary": _text(row, "summary", ""),
    }
    if task == "image_text":
        return ModelSpec(**common, architecture=_pair(row), labels=(), input_size=(224, 224))
    if task in CARDED:
        return _carded_row(row, common, folder)
    return _classifier_row(row, common, folder, limits)


def _classifier_row(row: Mapping[str, Any], common: dict[str, Any], folder: Path | None, limits: Limits) -> ModelSpec:
    channels = _choice(row, "channels", ("RGB", "BGR", "L"), "RGB")
    n_channels = 1 if channels == "L" else 3
    low, high = _numbers(row, "value_range", (2,), (0.0, 1.0))
    if low >= high:
        raise BadInput(f"value_range is [{low:g}, {high:g}]; expected the lower end first", "value_range")
    mean = _numbers(row, "mean", (1, n_channels), (0.0,) * n_channels)
    std = _numbers(row, "std", (1, n_channels), (1.0,) * n_channels)
    if min(std) <= 0:
        raise BadInput(f"std is {list(std)}; expected positive numbers", "std")
    if len(mean) != len(std):
        raise BadInput(f"mean has {len(mean)} numbers, std {len(std)}; expected as many", "std")
    return ModelSpec(
        **common,
        architecture=_architecture(row, is_upload=folder is None),
        labels=_labels(row, folder, limits),
        input_size=_input_size(row),
        mean=mean,
        std=std,
        channels=channels,
        value_range=(low, high),
        fit=_choice(row, "fit", ("crop", "pad", "stretch"), "crop"),
        layers=_layers(row),
    )


def _pair(row: Mapping[str, Any]) -> str:
    value = _text(row, "architecture")
    if not _PAIRS.fullmatch(value):
        raise BadInput(
            f"architecture is {value!r}; expected open_clip:NAME, such as open_clip:ViT-B-32, or clap:NAME",
            "architecture",
        )
    return value


def _carded_row(row: Mapping[str, Any], common: dict[str, Any], folder: Path | None) -> ModelSpec:
    """A row whose network its card describes: a JSON file beside the weights, or for an upload the object itself."""
    name = ""
    if folder is None:
        card = row.get("card")
    else:
        path = Path(common["weights"])
        name = _text(row, "card", f"{path.stem}.json")
        if name != Path(name).name:
            raise BadInput(f"card is {name!r}; expected the name of a file beside the weights", "card")
        card = read_card_file(path.parent / name)
    architecture = _text(row, "architecture")
    side = check_card(card, common["task"], architecture)
    return ModelSpec(**common, architecture=architecture, labels=(), input_size=(side, side), card=name)


def read_card_file(path: Path) -> Any:
    """Raises: BadInput: there is no such card, or it is no JSON."""
    try:
        data = path.read_bytes()
    except OSError:
        raise BadInput(f"the card {path.name!r} is not there; it lies beside the weights", "card") from None
    return parse_card(data)


def parse_card(data: bytes) -> Any:
    """Raises: BadInput: too large, or no JSON."""
    if len(data) > _MAX_CARD_BYTES:
        raise BadInput(f"the card has {len(data):,} bytes; cards up to {_MAX_CARD_BYTES:,} are read", "card")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadInput("the card is not JSON", "card") from None


def check_card(card: Any, task: str, architecture: str) -> int:
    """The side in pixels of the images that a card speaks of.

    Raises: BadInput: it is no card of this architecture, or its numbers are out of range.
    """
    if architecture not in CARDED[task]:
        expected = " or ".join(CARDED[task])
        raise BadInput(f"architecture is {architecture!r}; expected {expected}", "architecture")
    if not isinstance(card, Mapping):
        raise BadInput("the card is missing, or it is not a JSON object", "card")
    if card.get("architecture") != architecture:
        raise BadInput(f"the card is one of {card.get('architecture')!r}, not of {architecture}", "card")
    if task == "additive_decoding":
        return _check_decoder_card(card)
    return _check_image_card(card)


def _check_decoder_card(card: Mapping[str, Any]) -> int:
    for name in ("network", "recipe"):
        if not isinstance(card.get(name), Mapping):
            raise BadInput(f"the card has no {name!r}; expected a card as `python -m backend train` writes it", "card")
    if card["recipe"].get("images"):
        raise BadInput("the decoder was trained on pictures; only those of drawn scenes can be brought", "card")
    side = card["network"].get("side")
    _check_numbers(card["network"])
    if not isinstance(side, int) or side < 8:
        raise BadInput(f"the card's side is {side!r}; expected pixels in 8..{_MAX_CARD_NUMBER}", "card")
    return side


def _check_image_card(card: Mapping[str, Any]) -> int:
    data, head, autoencoder = card.get("data"), card.get("head"), card.get("autoencoder")
    if not isinstance(data, Mapping) or not isinstance(head, Mapping):
        raise BadInput(
            "the card has no data or no head; expected a card as `python -m backend train` writes it", "card"
        )
    if autoencoder not in AUTOENCODERS:
        known = ", ".join(AUTOENCODERS)
        raise BadInput(f"the card's autoencoder is {autoencoder!r}; one of those that ship: {known}", "card")
    rows, seed = data.get("rows"), data.get("seed")
    if not isinstance(rows, int) or not 10 <= rows <= _MAX_ROWS or not isinstance(seed, int) or seed < 0:
        raise BadInput(f"the card's data have {rows!r} rows and seed {seed!r}; expected 10..{_MAX_ROWS} rows", "card")
    if not isinstance(data.get("name"), str) or not isinstance(card.get("autoencoder_sha256"), str):
        raise BadInput("the card does not name its data or the digest of its autoencoder", "card")
    _check_numbers(head)
    return AUTOENCODERS[autoencoder].input_size[0]


def _check_numbers(value: Any) -> None:
    """A card may not ask for a network that no machine holds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        if len(value) > _MAX_CARD_NUMBER:
            raise BadInput(f"a list of {len(value)} in the card; expected up to {_MAX_CARD_NUMBER}", "card")
        for part in value:
            _check_numbers(part)
    elif isinstance(value, (int, float)) and not 0 <= value <= _MAX_CARD_NUMBER:
        raise BadInput(f"a number {value!r} in the card; expected 0..{_MAX_CARD_NUMBER}", "card")


def _text(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if value is None:
        raise BadInput(f"the field {name!r} is missing", name)
    if not isinstance(value, str) or (default is None and not value):
        raise BadInput(f"{name} is {value!r}; expected a text in quotes", name)
    return value


def _choice(row: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> Any:
    value = row.get(name, default)
    if value not in choices:
        raise BadInput(f"{name} is {value!r}; expected {' or '.join(map(repr, choices))}", name)
    return value


def _numbers(
    row: Mapping[str, Any], name: str, lengths: tuple[int, ...], default: tuple[float, ...]
) -> tuple[float, ...]:
    value = row.get(name, default)
    ok = isinstance(value, (list, tuple)) and len(value) in lengths
    if not ok or not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in value):
        raise BadInput(f"{name} is {value!r}; expected a list of {lengths[-1]} number(s)", name)
    return tuple(float(v) for v in value)


def _architecture(row: Mapping[str, Any], is_upload: bool) -> str:
    value = _text(row, "architecture")
    kind, _, name = value.partition(":")
    if value == "pt2":
        if is_upload:  # reading an exported program may unpickle what lies in it
            raise BadInput(
                "pt2 programs are read from a local path in models.toml only, never uploaded", "architecture"
            )
        return value
    if kind not in ("torchvision", "timm", "prism") or not name:
        raise BadInput(f"architecture is {value!r}; expected {', '.join(_ARCHITECTURES)}", "architecture")
    return value


def _labels(row: Mapping[str, Any], folder: Path | None, limits: Limits) -> tuple[str, ...]:
    value = row.get("labels")
    if isinstance(value, str) and folder is not None:
        try:
            lines = (folder / value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise BadInput(f"the labels file {value!r} is not there or is not UTF-8 text", "labels") from None
        value = [line.strip() for line in lines if line.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
        raise BadInput("labels is missing; expected a list of names, or a text file with one a line", "labels")
    if not 2 <= len(value) <= limits.max_labels:
        raise BadInput(f"{len(value)} labels; expected 2..{limits.max_labels}", "labels")
    return tuple(value)


def _input_size(row: Mapping[str, Any]) -> tuple[int, int]:
    value = row.get("input_size")
    ok = isinstance(value, (list, tuple)) and len(value) == 2
    if not ok or not all(isinstance(v, int) and not isinstance(v, bool) and 4 <= v <= _MAX_SIDE for v in value):
        raise BadInput(f"input_size is {value!r}; expected [height, width] in 4..{_MAX_SIDE} pixels", "input_size")
    return value[0], value[1]


def _weights(row: Mapping[str, Any], folder: Path | None) -> str:
    if folder is None:
        if "weights" in row:
            raise BadInput("an upload names no weights file; its bytes are the weights", "weights")
        return ""
    path = folder / Path(_text(row, "weights")).expanduser()
    if not path.exists():
        raise BadInput(f"the weights file {row['weights']!r} is not there", "weights")
    return str(path)


def _layers(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    value = row.get("layers", {})
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise BadInput('layers is not a table of names, such as { cam = "layer4" }', "layers")
    return tuple((str(k), v) for k, v in value.items())
