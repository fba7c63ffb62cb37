"""Scenes that ship: `write_examples` draws them from numbers that no split has."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend.image_text.examples import FOLDER, LISTS
from backend.scenes.captions import relation
from backend.scenes.data import scene
from backend.scenes.draw import SIDE, Scene, Thing

# Kinds of things, what must hold of them, and sentences with the number of the thing that each names first.
_WANTED: tuple[tuple[tuple[str, ...], Callable[[Sequence[Thing]], bool], tuple[tuple[str, str], ...]], ...] = (
    (
        ("red circle", "blue square", "green star"),
        lambda things: relation(things[0], "left of", things[1]) and relation(things[2], "above", things[1]),
        (
            ("A red circle left of a blue square.", "red circle"),
            ("A blue square.", "blue square"),
            ("A green star above a blue square.", "green star"),
        ),
    ),
    (
        ("yellow star", "yellow star", "purple triangle"),
        lambda things: abs(things[0].x - things[1].x) > 0.3,
        (("Two yellow stars.", "yellow star"), ("A purple triangle.", "purple triangle")),
    ),
    (
        ("green circle", "red circle", "blue triangle", "red square"),
        lambda things: relation(things[1], "above", things[3]) and relation(things[2], "left of", things[0]),
        (
            ("A red circle above a red square.", "red circle"),
            ("A green circle.", "green circle"),
            ("A red square.", "red square"),
            ("A blue triangle left of a green circle.", "blue triangle"),
        ),
    ),
)


def write_examples(folder: Path = FOLDER) -> list[str]:
    """Write scenes with masks and their list; returns their keys."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, (kinds, holds, sentences) in enumerate(_WANTED, 1):
        key, drawn = f"scene-{number:02}", _first(kinds, holds)
        Image.fromarray(drawn.pixels).save(folder / f"{key}.png", optimize=True)
        found = [_finding(folder, key, k, drawn, named) for k, (_, named) in enumerate(sentences)]
        found = [one for several in found for one in several]
        rows.append({"key": key, "image": f"{key}.png", "report": [text for text, _ in sentences], "findings": found})
    told = {"command": "backend.scenes.examples.write_examples", "size": [SIDE, SIDE], "examples": rows}
    (folder / LISTS["scenes-clip"]).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return [row["key"] for row in rows]


def _first(kinds: tuple[str, ...], holds: Callable[[Sequence[Thing]], bool]) -> Scene:
    number = 0
    while not holds((drawn := scene("examples", number, kinds=kinds)).things):
        number += 1
    return drawn


def _finding(folder: Path, key: str, sentence: int, drawn: Scene, named: str) -> list[dict[str, Any]]:
    """A row for each thing that a sentence names first, with its mask as a file."""
    rows = []
    for k, thing in enumerate(drawn.things):
        if thing.kind == named:
            mask = f"{key}-mask-{k}.png"
            Image.fromarray(thing.mask.astype(np.uint8) * 255).convert("1").save(folder / mask, optimize=True)
            ys, xs = np.nonzero(thing.mask)
            box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
            about = {"kind": named, "side": "", "place": "", "size": ""}
            rows.append({**about, "sentence": sentence, "box": box, "mask": mask})
    return rows
