"""The strip of pictures over each page's name on the overview: `python -m pages.shared.previews` makes them anew.

Every tile is an answer of the engine on something that ships, coloured as its page colours it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from backend.catalog import FAMILIES
from backend.contracts import AttributionRequest, DecodingRequest, ImagePathRequest, PairMapRequest
from backend.image_text.examples import FOLDER as EXAMPLES
from backend.image_text.examples import example_radiographs
from backend.service import InterpretService, local_service
from pages.shared.figures import Display, Panel, channel_sum, colour_limits, draw_map

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "overview"
SIDE, GAP, TILES = 192, 8, 4  # pixels, pixels, pictures in a strip


def preview_of(family: str) -> Path:
    """Where a family's strip lies."""
    return FOLDER / f"{family}.png"


def _attribution(service: InterpretService) -> Iterator[np.ndarray]:
    """A digit, and three methods on it."""
    picture = EXAMPLES / "digit-3.png"
    yield _read(picture)
    image_id = service.put_image(picture.read_bytes()).id
    for method in ("samp++", "ig", "grad-cam"):
        values = channel_sum(service.run(AttributionRequest(image_id, "digits-gap", method)).arrays["attribution"])
        yield _overlay(_read(picture), values, signed=method != "grad-cam")


def _additive_image(service: InterpretService) -> Iterator[np.ndarray]:
    """Four frames between two hosts."""
    frames = service.run(ImagePathRequest("hosts", rows=(0, 1), frames=33)).arrays["frames"]
    yield from frames[np.linspace(0, len(frames) - 1, TILES).round().astype(int)]


def _image_text(service: InterpretService) -> Iterator[np.ndarray]:
    """Two radiographs, each with the map of a sentence beside it."""
    shown = [example for example in example_radiographs() if example.findings][: TILES // 2]
    for example in shown:
        picture = EXAMPLES / example.image
        image_id = service.put_image(picture.read_bytes()).id
        sentence = example.report[example.findings[0].sentence]
        found = service.run(PairMapRequest(image_id, sentence, modality="image")).arrays["image_map"]
        yield _read(picture)
        yield _overlay(_read(picture), found, signed=False)


def _additive_decoding(service: InterpretService) -> Iterator[np.ndarray]:
    """Four corners of a grid of scenes."""
    grid = service.run(DecodingRequest("balls-l-additive")).arrays["grid"]
    yield from (grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1])


_TILES: dict[str, Callable[[InterpretService], Iterator[np.ndarray]]] = {
    "path_attribution": _attribution,
    "additive_image": _additive_image,
    "image_text": _image_text,
    "additive_decoding": _additive_decoding,
}


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def _overlay(picture: np.ndarray, values: np.ndarray, signed: bool) -> np.ndarray:
    """A map over its picture as the pages draw it, both at the map's size."""
    height, width = values.shape
    image = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)) / 255.0
    panel, display = Panel("map", "", values, signed), Display()
    return draw_map(image, panel, display, colour_limits([panel], display)["map"])


def strip(tiles: list[np.ndarray]) -> Image.Image:
    """(H, W, 3) uint8 pictures side by side, as large as each other, with nothing between them."""
    width = TILES * SIDE + (TILES - 1) * GAP
    sheet = Image.new("RGBA", (width, SIDE))
    for i, tile in enumerate(tiles):
        small = min(tile.shape[:2]) < SIDE // 2  # few pixels are shown as they are
        resample = Image.Resampling.NEAREST if small and tile.shape[0] <= 32 else Image.Resampling.BICUBIC
        sheet.paste(Image.fromarray(tile).resize((SIDE, SIDE), resample), (i * (SIDE + GAP), 0))
    return sheet


def main() -> None:
    service = local_service()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for family in FAMILIES:
        strip(list(_TILES[family](service))).save(preview_of(family), optimize=True)
        print(preview_of(family).relative_to(FOLDER.parents[1]))


if __name__ == "__main__":
    main()
