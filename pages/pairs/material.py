"""What lies on the table: a picture or a sound and a report, examples that ship or the person's own.

A person's own picture, sound and words stay in this process's memory. No name of a file is shown or kept: it may be a
patient's.
"""

import base64
import functools
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backend import audio, images, reports
from backend.catalog.image_text import CLAP
from backend.errors import BadInput, NotAvailable
from backend.image_text.examples import FOLDER, LISTS, ExampleRadiograph, shipped_examples
from pages.shared.gallery import Thumbnail
from pages.shared.map_grid import Box
from pages.shared.session import brought, service

_SHOWN_SIDE = 640  # of a picture on the page, in pixels
_FIRST_BYTES = (b"RIFF", b"RIFX", b"fLaC")  # of sounds; WebP pictures begin with RIFF, too, and say so
NAMES = {"cxr-clip": "Radiograph", "scenes-clip": "Scene", "sounds-clip": "Sound"}  # of a model's examples


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

    @property
    def is_sound(self) -> bool:
        return False

    @property
    def given(self) -> dict[str, Any]:
        """The fields of a request that name it."""
        return {"image_id": self.id}

    def put(self) -> None:
        """Hand the picture to the engine again."""
        service().put_image(self.data)

    def framed(self, shape: tuple[int, int]) -> np.ndarray:
        """The part that a model with this input size sees, sharper than it sees it; (H, W, C) in [0, 1]."""
        whole = self.pixels()
        height, width = whole.shape[:2]
        scale = min(height / shape[0], width / shape[1])
        rows, columns = round(shape[0] * scale), round(shape[1] * scale)
        top, left = (height - rows) // 2, (width - columns) // 2
        part = whole[top : top + rows, left : left + columns]
        shrink = min(1.0, _SHOWN_SIDE / max(rows, columns))
        size = (max(1, round(columns * shrink)), max(1, round(rows * shrink)))
        planes = [Image.fromarray(part[:, :, c]).resize(size, Image.Resampling.BOX) for c in range(part.shape[2])]
        return np.stack([np.asarray(plane) for plane in planes], axis=2).clip(0.0, 1.0)

    def pixels(self) -> np.ndarray:
        """The whole picture, (H, W, C) in [0, 1]."""
        return images.decode(self.data).pixels


@dataclass(frozen=True, slots=True)
class Sound(Picture):
    """A sound, shown as its spectrogram; the model hears some seconds of it at once."""

    duration_s: float = 0.0
    start_s: float = 0.0  # where it begins to hear

    @property
    def is_sound(self) -> bool:
        return True

    @property
    def given(self) -> dict[str, Any]:
        return {"audio_id": self.id, "start_s": self.start_s}

    @property
    def mime(self) -> str:
        return "audio/flac" if self.data[:4] == b"fLaC" else "audio/wav"

    def put(self) -> None:
        service().put_audio(self.data)

    def framed(self, shape: tuple[int, int]) -> np.ndarray:
        return self.pixels()

    def pixels(self) -> np.ndarray:
        """The spectrogram, highest frequency on top, (F, T, 1) in [0, 1]."""
        return audio.draw(audio.decode(self.data), self.start_s)


def upload_any(data: bytes) -> Picture:
    """A person's own picture or sound. Raises: BadInput: it cannot be used."""
    is_sound = data[:4] in _FIRST_BYTES and data[8:12] != b"WEBP"
    return upload_sound(data) if is_sound else upload_picture(data)


def upload_sound(data: bytes) -> Sound:
    """A person's own sound. Raises: BadInput: it cannot be used."""
    info = service().put_audio(data)
    alt = f"Spectrogram of your sound, {info.duration_s:.1f} s"
    return Sound(info.id, data, alt, notes=info.notes, duration_s=info.duration_s)


def upload_picture(data: bytes) -> Picture:
    """A person's own picture; of a DICOM nothing but its pixels is kept. Raises: BadInput: it cannot be used."""
    notes: tuple[str, ...] = ()
    if data[128:132] == b"DICM":
        from backend import dicom  # its reader is imported when the first such file comes

        decoded = dicom.decode(data)
        data, notes = _without_identity(decoded.pixels), decoded.notes
    info = service().put_image(data)
    return Picture(info.id, data, f"Your picture, {info.width} × {info.height} pixels", notes=notes or info.notes)


def _without_identity(pixels: np.ndarray) -> bytes:
    """(H, W, 1 or 3) in [0, 1] as PNG: greys with 16 bits, colours with 8."""
    if pixels.shape[2] == 3:
        return images.encode_png(pixels)
    buffer = io.BytesIO()
    Image.fromarray(np.round(pixels[:, :, 0] * 65535).astype(np.uint16)).save(buffer, "png")
    return buffer.getvalue()


def examples(model: str) -> tuple[ExampleRadiograph, ...]:
    """The examples that ship for a model; for another, all with pictures, or all sounds. None without lists."""
    shipped = shipped_examples()
    if model in LISTS:
        return tuple(example for example in shipped if example.model == model)
    return tuple(example for example in shipped if is_sound(example) == hears_only(model))


def hears_only(model: str) -> bool:
    """Is it a model of sounds and texts?"""
    spec = brought("image_text").get(model)
    return (model if spec is None else spec.architecture).startswith(CLAP)


def is_sound(example: ExampleRadiograph) -> bool:
    return example.image.endswith(".flac")


def find_example(key: str) -> ExampleRadiograph:
    """Raises: BadInput: no such example."""
    for example in shipped_examples():
        if example.key == key:
            return example
    raise BadInput(f"unknown example {key!r}; one of {', '.join(e.key for e in shipped_examples())}", "image")


def example_picture(key: str) -> Picture:
    """A picture or sound that ships. Raises: BadInput: no such example; NotAvailable: its file is not here."""
    example = find_example(key)
    try:
        data = (FOLDER / example.image).read_bytes()
    except OSError:
        raise NotAvailable(f"the example {example.image} is missing from assets/examples", "image") from None
    width, height = example.size
    boxes = tuple(
        Box(
            left / width, top / height, right / width, bottom / height, " ".join(filter(None, (found.side, found.kind)))
        )
        for found in example.findings
        for left, top, right, bottom in [found.box]
    )
    about = (_describe(example), key, boxes, tuple(found.sentence for found in example.findings))
    if is_sound(example):
        heard = service().put_audio(data)
        return Sound(heard.id, data, *about, heard.notes, heard.duration_s)
    info = service().put_image(data)
    return Picture(info.id, data, *about, info.notes)


def _describe(example: ExampleRadiograph) -> str:
    seen = [" ".join(filter(None, (found.side, found.kind))) for found in example.findings]
    return _STARTS[example.model] + (", ".join(seen) if seen else "no finding")


_STARTS = {
    "cxr-clip": "Simulated chest radiograph, ",
    "scenes-clip": "Drawn scene, ",
    "sounds-clip": "Spectrogram of a sound, ",
}


@functools.cache
def thumbnails(model: str) -> tuple[Thumbnail, ...]:
    """All examples of a model, small."""
    found = []
    for example in examples(model):
        alt = _describe(example)
        source = small(FOLDER / example.image)
        found.append(Thumbnail(example.key, alt.removeprefix(_STARTS[example.model]), alt, source))
    return tuple(found)


def small(file: Path) -> str:
    """A picture, or a sound's spectrogram, as the data address of a thumbnail."""
    if file.suffix == ".flac":
        drawn = audio.draw(audio.decode(file.read_bytes()))
        picture = Image.fromarray((drawn[:, :, 0] * 255).astype(np.uint8)).resize((96, 96), Image.Resampling.BOX)
    else:
        picture = Image.open(file)
        picture.thumbnail((96, 96))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ----------------------------------------------------------------- the report
# Lines that say who and when, not what is seen: never explained unasked, and never in a file.
_IDENTITY = re.compile(
    r"\s*(?:patient|name|surname|first name|dob|d\.o\.b\.|date of birth|birth ?date|born|sex|age|mrn|medical record"
    r"|patient id|id|accession|study date|date|time|address|phone|physician|doctor|dr|referr\w+|radiologist|signed"
    r"|dictated|transcribed|electronically signed|hospital|institution)\b[^:\n]{0,25}:",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence of a report, under its section's heading."""

    text: str
    heading: str = ""
    is_shown: bool = True  # it speaks of what is seen: explained without being chosen
    is_identity: bool = False


@dataclass(frozen=True, slots=True)
class ReportText:
    """A report, cut into sentences."""

    text: str
    lines: tuple[Line, ...]
    example: str = ""  # key of the example that it belongs to; empty: the person's own
    notes: tuple[str, ...] = ()


def own_report(text: str) -> ReportText:
    """A person's own words. Raises: BadInput: empty, without a letter, or too long."""
    report = reports.parse_report(text)
    lines = tuple(_line(report, sentence) for sentence in report.sentences)
    if not any(line.is_shown for line in lines):
        lines = tuple(Line(line.text, line.heading, True, line.is_identity) for line in lines)
    return ReportText(text, lines, notes=report.notes)


def _line(report: reports.Report, sentence: reports.Sentence) -> Line:
    begin = report.text.rfind("\n", 0, sentence.start) + 1
    is_identity = bool(_IDENTITY.match(report.text, begin, max(sentence.end, begin)))
    return Line(sentence.text, sentence.section, sentence.is_shown and not is_identity, is_identity)


def example_report(key: str) -> ReportText:
    """The report that ships with an example. Raises: BadInput: no such example."""
    example = find_example(key)
    return ReportText(example.text, tuple(Line(sentence) for sentence in example.report), key)


def read_text_file(data: bytes) -> str:
    """A text file's words. Raises: BadInput: it is not text, or see `own_report`."""
    return reports.read_report(data).text
