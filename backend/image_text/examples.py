"""Examples that ship, in no training or test set: radiographs, drawn scenes and sounds, with texts, masks and boxes."""

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from backend.errors import NotAvailable
from backend.radiographs.ct import Chest
from backend.radiographs.findings import KINDS
from backend.radiographs.simulate import Radiograph, simulate

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "examples"
LIST = "radiographs.json"
LISTS = {"cxr-clip": LIST, "scenes-clip": "scenes.json", "sounds-clip": "sounds.json"}  # by the model that they suit
_NUMBER = 3  # enters the seeds; splits have 0, 1 and 2
_VARIANTS = 6  # looked at in each pose, of which one is taken at most


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """A finding of an example: what it is, the sentence that states it, and where it is seen."""

    kind: str
    side: str
    place: str
    size: str
    sentence: int  # of the report
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels, right and bottom just outside
    mask: str  # file under assets/examples, white where the finding is seen


@dataclass(frozen=True, slots=True)
class ExampleRadiograph:
    key: str
    image: str  # file under assets/examples
    report: tuple[str, ...]  # sentences
    findings: tuple[ShownFinding, ...]
    size: tuple[int, int] = (128, 128)  # width and height that boxes are in; of a sound, frames and bands
    model: str = "cxr-clip"  # that it suits
    picture: str = ""  # of a sound: a file with a drawing of what makes it

    @property
    def text(self) -> str:
        return " ".join(self.report)


@functools.lru_cache(maxsize=1)
def example_radiographs(folder: Path = FOLDER) -> tuple[ExampleRadiograph, ...]:
    """All that ship. Raises: NotAvailable: the list is missing."""
    return _read(folder, "cxr-clip")


@functools.lru_cache(maxsize=1)
def shipped_examples(folder: Path = FOLDER) -> tuple[ExampleRadiograph, ...]:
    """Those of every model whose list is there."""
    found: list[ExampleRadiograph] = []
    for model in LISTS:
        with contextlib.suppress(NotAvailable):
            found += _read(folder, model)
    return tuple(found)


def _read(folder: Path, model: str) -> tuple[ExampleRadiograph, ...]:
    try:
        told = json.loads((folder / LISTS[model]).read_text(encoding="utf-8"))
    except OSError:
        raise NotAvailable(f"assets/examples/{LISTS[model]} is missing", "image") from None
    rows = told.get("examples") or told["radiographs"]
    return tuple(
        ExampleRadiograph(
            row["key"],
            row["image"],
            tuple(row["report"]),
            tuple(ShownFinding(**{**found, "box": tuple(found["box"])}) for found in row["findings"]),
            tuple(told.get("size", (128, 128))),
            model,
            row.get("picture", ""),
        )
        for row in rows
    )


def write_examples(chest: Chest, folder: Path = FOLDER, n: int = 12, side: int = 128) -> list[str]:
    """Write n radiographs with masks and their list; returns their keys.

    The first is normal; the others take turns so that each kind of finding is shown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for k, radiograph in enumerate(_chosen(chest, n, side)):
        key = f"radiograph-{k + 1:02}"
        Image.fromarray(radiograph.pixels).save(folder / f"{key}.png", optimize=True)
        found = []
        for j, finding in enumerate(radiograph.findings):
            mask = f"{key}-mask-{j}.png"
            Image.fromarray(finding.mask.astype(np.uint8) * 255).convert("1").save(folder / mask, optimize=True)
            sentence = next(i for i, said in enumerate(radiograph.report) if said.finding == j)
            about = {name: getattr(finding, name) for name in ("kind", "side", "place", "size")}
            found.append({**about, "sentence": sentence, "box": finding.box, "mask": mask})
        report = [sentence.text for sentence in radiograph.report]
        rows.append({"key": key, "image": f"{key}.png", "report": report, "findings": found})
    text = json.dumps({"command": "backend.image_text.examples.write_examples", "radiographs": rows}, indent=1)
    (folder / LIST).write_text(text + "\n", encoding="utf-8")
    return [row["key"] for row in rows]


def _chosen(chest: Chest, n: int, side: int) -> Iterator[Radiograph]:
    """A normal picture, then pictures of one or two findings that were shown least often so far."""
    shown = dict.fromkeys(KINDS, 0)
    for pose in range(n):
        generator = np.random.default_rng([0, _NUMBER, pose])
        made = list(simulate(chest, generator, _VARIANTS * (4 if pose else 8), side, "held_out"))
        if pose == 0:
            made = [radiograph for radiograph in made if not radiograph.findings] or made
        else:
            made = [radiograph for radiograph in made if radiograph.findings]
        best = min(made, key=lambda radiograph: _how_new(radiograph, shown))
        for finding in best.findings:
            shown[finding.kind] += 1
        yield best


def _how_new(radiograph: Radiograph, shown: dict[str, int]) -> tuple[float, int]:
    """Smaller: its rarest finding was shown less often; among equals, two findings before one or three."""
    times = sorted(shown[finding.kind] for finding in radiograph.findings)
    return (sum(times) / max(1, len(times)), abs(len(times) - 2))
