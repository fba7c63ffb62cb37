"""Pairs that users have themselves: MS-CXR, Conceptual Captions, ROCO and RSICD in the layouts they come in.

Nothing is downloaded. Images are read one by one when a sample is made, and never written.
"""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backend import dicom
from backend import images as decoding
from backend.errors import BadInput
from backend.image_text.evaluate import Bench, Sample
from backend.image_text.held import Held, model_input
from backend.models.clip import ImageTextPair
from backend.models.inputs import fit

_FIELD = "data"
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".dcm")
Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the image's width and height


@dataclass(frozen=True, slots=True)
class Listed:
    """A pair in a data set: where its image lies, its text, boxes if there are any."""

    image: Path
    text: str
    boxes: tuple[Box, ...] = ()
    kind: str = ""


# ----------------------------------------------------------------- layouts
def list_pairs(path: Path) -> tuple[str, list[Listed]]:
    """The data set's name and its pairs, recognised by the files that are there.

    Raises: BadInput: no such place, no known layout, or no image of it is there.
    """
    path = Path(path)
    if not path.exists():
        raise BadInput(f"there is no {path.name}", _FIELD)
    for name, finder, reader in _LAYOUTS:
        found = finder(path)
        if found:
            pairs = [pair for file in found for pair in reader(file) if pair.text.strip() and pair.image.is_file()]
            if not pairs:
                raise BadInput(f"{name}: none of the listed images lie beside {found[0].name}", _FIELD)
            return name, pairs
    raise BadInput(
        "no known data set: expected MS-CXR's CSV, a Conceptual Captions TSV, ROCO's captions.txt or "
        "RSICD's dataset_rsicd.json",
        _FIELD,
    )


def _finder(pattern: str) -> Callable[[Path], list[Path]]:
    """Files of this name in a folder or below it, or the file itself."""

    def find(path: Path) -> list[Path]:
        if path.is_file():
            return [path] if path.match(pattern) else []
        return sorted(path.rglob(pattern))

    return find


def read_ms_cxr(file: Path) -> Iterator[Listed]:
    """`MS_CXR_Local_Alignment_*.csv`; images below its folder, at MIMIC-CXR-JPG's paths.

    Boxes of one phrase on one image belong together.
    """
    joined: dict[tuple[str, str, str], list[Box]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            try:
                x, y, w, h, width, height = (
                    float(row[key]) for key in ("x", "y", "w", "h", "image_width", "image_height")
                )
                key = (row["path"], row["label_text"], row["category_name"])
            except (KeyError, ValueError, TypeError):
                raise BadInput(f"{file.name}, line {number}: not a row of MS-CXR", _FIELD) from None
            joined.setdefault(key, []).append((x / width, y / height, (x + w) / width, (y + h) / height))
    for (path, text, kind), boxes in joined.items():
        yield Listed(_beside(file, path), text, tuple(boxes), kind)


def read_conceptual_captions(file: Path) -> Iterator[Listed]:
    """Caption, tab, address. The image is `images/NAME`: the address's last part, or the number of the line."""
    folder = file.parent / "images"
    by_stem = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix.lower() in _ENDINGS}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        caption, _, address = line.partition("\t")
        name = address.strip().rpartition("/")[2].partition("?")[0]
        for candidate in (folder / name, by_stem.get(str(number)), by_stem.get(f"{number:09}")):
            if candidate is not None and candidate.is_file():
                yield Listed(candidate, caption)
                break


def read_roco(file: Path) -> Iterator[Listed]:
    """`captions.txt`: name, tab, caption; `images/NAME.jpg` beside it."""
    for line in file.read_text(encoding="utf-8").splitlines():
        name, _, caption = line.partition("\t")
        yield Listed(file.parent / "images" / f"{name.strip()}.jpg", caption.strip())


def read_rsicd(file: Path) -> Iterator[Listed]:
    """`dataset_rsicd.json`; `RSICD_images/NAME` beside it. The first sentence of each image."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["images"]
        for row in rows:
            yield Listed(file.parent / "RSICD_images" / row["filename"], row["sentences"][0]["raw"])
    except (ValueError, KeyError, IndexError, TypeError):
        raise BadInput(f"{file.name} is not RSICD's list", _FIELD) from None


_LAYOUTS: tuple[tuple[str, Callable[[Path], list[Path]], Callable[[Path], Iterator[Listed]]], ...] = (
    ("MS-CXR", _finder("MS_CXR_Local_Alignment*.csv"), read_ms_cxr),
    ("RSICD", _finder("dataset_rsicd.json"), read_rsicd),
    ("ROCO", _finder("captions.txt"), read_roco),
    ("Conceptual Captions", _finder("*.tsv"), read_conceptual_captions),
)


def _beside(file: Path, path: str) -> Path:
    """A listed path below the list's folder; other endings of the same image count."""
    plain = file.parent / path
    for ending in ("", *_ENDINGS):
        candidate = plain.with_suffix(ending) if ending else plain
        if candidate.is_file():
            return candidate
    return plain


# ----------------------------------------------------------------- samples
def user_bench(pair: ImageTextPair, held: Held, path: Path, n: int, seed: int = 0) -> Bench:
    """n pairs to count and as many others to choose settings on, drawn from a user's data set; half of it if it is
    small.

    Raises: BadInput: see `list_pairs`; fewer than four pairs.
    """
    name, listed = list_pairs(path)
    if len(listed) < 4:
        raise BadInput(f"{name}: {len(listed)} pairs with an image; at least 4 are needed", _FIELD)
    random = np.random.default_rng(seed)
    order = random.permutation(len(listed))[: 2 * n]
    half = len(order) // 2
    choosing, counting = (
        tuple(_sample(listed, int(i), pair, random) for i in rows) for rows in (order[half:], order[:half])
    )
    boxes = [sample.box.double() for sample in choosing if sample.box is not None]
    prior = torch.stack(boxes).mean(0) if boxes else None
    return Bench(pair, held, choosing, counting, prior, f"pairs of {name}", is_users=True)


def _sample(listed: Sequence[Listed], i: int, pair: ImageTextPair, random: np.random.Generator) -> Sample:
    one = listed[i]
    others = [k for k in range(len(listed)) if listed[k].image != one.image and listed[k].text != one.text]
    stranger = None if not others else _pixels(listed[int(random.choice(others))].image, pair)[0]
    pixels, shape = _pixels(one.image, pair)
    box = _mask(one.boxes, shape, pair) if one.boxes else None
    return Sample(pixels, one.text, box if box is not None and box.any() else None, one.kind, stranger)


def _pixels(path: Path, pair: ImageTextPair) -> tuple[Tensor, tuple[int, int]]:
    data = path.read_bytes()
    image = dicom.decode(data) if dicom.is_dicom(data) else decoding.decode(data)
    return model_input(image, pair)[0].to(pair.device, pair.dtype), (image.height, image.width)


def _mask(boxes: Sequence[Box], shape: tuple[int, int], pair: ImageTextPair) -> Tensor:
    """Boxes on what the model sees of the image, (H, W) bool."""
    whole = torch.zeros(1, 1, *shape)
    for left, top, right, bottom in boxes:
        rows, columns = (slice(round(a * side), round(b * side)) for a, b, side in
                         ((top, bottom, shape[0]), (left, right, shape[1])))  # fmt: skip
        whole[..., rows, columns] = 1.0
    return fit(whole, pair.input_size)[0, 0] > 0.5
