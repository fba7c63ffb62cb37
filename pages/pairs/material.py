"""What lies on the table: a picture and a report, both examples that ship or the person's own.

A person's own picture and words stay in this process's memory. No name of a file is shown or kept: it may be a
patient's.
"""

import base64
import functools
import io
import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from backend import images
from backend.errors import BadInput, NotAvailable
from backend.image_text.examples import FOLDER, ExampleRadiograph, example_radiographs
from pages.shared.gallery import Thumbnail
from pages.shared.map_grid import Box
from pages.shared.session import service

MAX_CHARACTERS = 200_000  # of a report; fifty pages have about 150,000
_SIDE = 128  # of shipped radiographs, in pixels: their boxes are in these


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that the engine took, with its bytes, so that it can be put in again."""

    id: str  # sha256 of the bytes
    data: bytes
    alt: str  # in words
    example: str = ""  # key; empty: the person's own
    boxes: tuple[Box, ...] = ()  # where findings are known to be
    box_sentences: tuple[int, ...] = ()  # which sentence of the example's report each box is about
    notes: tuple[str, ...] = ()

    def put(self) -> None:
        """Hand the picture to the engine again."""
        service().put_image(self.data)

    def pixels(self) -> np.ndarray:
        """The whole picture, (H, W, C) in [0, 1]."""
        return images.decode(self.data).pixels


def upload_picture(data: bytes) -> Picture:
    """A person's own picture. Raises: BadInput: it cannot be used."""
    info = service().put_image(data)
    return Picture(info.id, data, f"Your picture, {info.width} × {info.height} pixels", notes=info.notes)


def examples() -> tuple[ExampleRadiograph, ...]:
    """The radiographs that ship; none if their list is missing."""
    try:
        return example_radiographs()
    except NotAvailable:
        return ()


def find_example(key: str) -> ExampleRadiograph:
    """Raises: BadInput: no such example."""
    for example in examples():
        if example.key == key:
            return example
    raise BadInput(f"unknown example {key!r}; one of {', '.join(e.key for e in examples())}", "image")


def example_picture(key: str) -> Picture:
    """A radiograph that ships. Raises: BadInput: no such example; NotAvailable: its file is not here."""
    example = find_example(key)
    try:
        data = (FOLDER / example.image).read_bytes()
    except OSError:
        raise NotAvailable(f"the example {example.image} is missing from assets/examples", "image") from None
    info = service().put_image(data)
    boxes = tuple(
        Box(*(edge / _SIDE for edge in found.box), label=" ".join(filter(None, (found.side, found.kind))))
        for found in example.findings
    )
    sentences = tuple(found.sentence for found in example.findings)
    return Picture(info.id, data, _describe(example), key, boxes, sentences, info.notes)


def _describe(example: ExampleRadiograph) -> str:
    seen = [" ".join(filter(None, (found.side, found.kind))) for found in example.findings]
    return "Simulated chest radiograph, " + (", ".join(seen) if seen else "no finding")


@functools.cache
def thumbnails() -> tuple[Thumbnail, ...]:
    """All examples, small."""
    found = []
    for example in examples():
        picture = Image.open(FOLDER / example.image)
        picture.thumbnail((96, 96))
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        alt = _describe(example)
        found.append(Thumbnail(example.key, alt.removeprefix("Simulated chest radiograph, "), alt, source))
    return tuple(found)


# ----------------------------------------------------------------- the report
@dataclass(frozen=True, slots=True)
class Line:
    """A sentence of a report, under its section's heading."""

    text: str
    heading: str = ""


@dataclass(frozen=True, slots=True)
class ReportText:
    """A report, cut into sentences."""

    text: str
    lines: tuple[Line, ...]
    example: str = ""  # key of the example that it belongs to; empty: the person's own
    notes: tuple[str, ...] = ()


_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def own_report(text: str) -> ReportText:
    """A person's own words. Raises: BadInput: empty, or too long."""
    if not text.strip():
        raise BadInput("the report is empty; write or paste at least one sentence", "report")
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"the report has {len(text):,} characters; up to {MAX_CHARACTERS:,} are read", "report")
    lines = tuple(Line(found.group().strip()) for found in _SENTENCE.finditer(text) if found.group().strip())
    return ReportText(text, lines)


def example_report(key: str) -> ReportText:
    """The report that ships with an example. Raises: BadInput: no such example."""
    example = find_example(key)
    return ReportText(example.text, tuple(Line(sentence) for sentence in example.report), key)


def read_text_file(data: bytes) -> str:
    """A text file's words. Raises: BadInput: it is not text."""
    for encoding in ("utf-8-sig", "utf-16") if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" not in text:
            return text
    raise BadInput("the file is not text; save the report as a plain text file (UTF-8)", "report")
