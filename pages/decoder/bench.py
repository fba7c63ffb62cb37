"""Decoders side by side in the browser: grids, sliders with instant redraw, latents; no server call while looking.

The browser gets each grid as one sheet of tiles, and as float16 the tables of block renders, or the network of a
block of several latents; under the sliders it interpolates or runs them, adds the blocks and applies the link.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from backend.contracts import Result
from backend.images import encode_png
from pages.decoder.board import Drawn
from pages.shared.figures import format_value

_CLIENT = Path(__file__).parent / "client"
_SHARED = Path(__file__).parents[1] / "shared" / "client"
REST_SCENES = 40  # training scenes whose renders say what a block draws where its object is not
TILES_ACROSS = 20  # thumbnails in a row of their sheet

_component = st.components.v2.component(
    "prism_decoder_bench",
    html=(_CLIENT / "bench.html").read_text(),
    css=(_CLIENT / "bench.css").read_text(),
    js="".join(path.read_text() for path in (_SHARED / "numbers.js", _SHARED / "pictures.js", _CLIENT / "bench.js")),
)


def bench(decoders: Sequence[Drawn], objects: tuple[int, int], *, key: str) -> None:
    """Show the decoders; all that moves, moves in the browser."""
    _component(key=key, data=pack(decoders, objects))


def pack(decoders: Sequence[Drawn], objects: tuple[int, int]) -> bytes:
    """All that the browser needs as one blob: uint32 length of the header, header (JSON), float16 tables."""
    first = decoders[0].grid
    rows, columns, side = first.arrays["grid"].shape[:3]
    seen = first.arrays["in_support"]
    names = object_names(decoders[0])
    size = decoders[0].block_size
    true = first.arrays["true_latents"]
    tables: list[np.ndarray] = []
    panels = [_panel(drawn, objects, tables) for drawn in decoders]
    row_values = true[:, 0, objects[0] * size :][:, :size].tolist()
    column_values = true[0, :, objects[1] * size :][:, :size].tolist()
    header: dict[str, Any] = {
        "objects": [names[k] for k in objects],
        "axes": axes_sentence(decoders[0], objects),
        "rows": rows,
        "columns": columns,
        "side": side,
        "row_values": row_values,
        "column_values": column_values,
        "start": _start(seen),
        "sliders": [slider_names(decoders[0], names[k]) for k in objects],
        "apart": _apart(first, objects, size),
        "seen": "".join("1" if cell else "0" for cell in seen.ravel()),
        "truth": sheet_address(first.arrays["truth"]),
        "truth_note": f"{int(seen.sum())} of {seen.size} combinations were seen together in training.",
        "panels": panels,
        "scatter": _scatter(decoders[0].scatter, objects, decoders[0]),
    }
    header["key"] = hashlib.sha256(
        json.dumps([panel["key"] for panel in panels] + [rows, columns]).encode()
    ).hexdigest()
    text = json.dumps(header).encode()
    text += b" " * (len(text) % 2)  # float16 values start at an even byte
    return struct.pack("<I", len(text)) + text + b"".join(table.astype("<f2").tobytes() for table in tables)


def object_names(drawn: Drawn) -> list[str]:
    """What the blocks are called; objects stand from left to right."""
    n = len(drawn.scatter.values["blocks"])
    if drawn.block_size > 1:
        return [f"Ball {i + 1}" for i in range(n)]
    return ["Left object's height", "Right object's height"] if n == 2 else [f"Height of {i + 1}" for i in range(n)]


def axes_sentence(drawn: Drawn, objects: tuple[int, int]) -> str:
    """What the rows and columns of a grid are."""
    up, right = (object_names(drawn)[k].lower() for k in objects)
    if drawn.block_size > 1:
        return f"Rows: {up} as in one training scene each, the lowest below. Columns: {right}, the lowest left."
    return f"Up: {up}. Right: {right}."


def tables_sentence(decoders: Sequence[Drawn]) -> str:
    """What was sent for the sliders, and how far interpolating it errs; nothing if there are no sliders."""
    tables = [drawn.table for drawn in decoders if drawn.table is not None]
    if not tables:
        return ""
    megabytes = sum(table.values["bytes"] for table in tables) / 2**20
    error = max(table.quality["interpolation_rmse"] for table in tables)
    has_nets = any("layers" in about for table in tables for about in table.values["tables"])
    has_tables = any("layers" not in about for table in tables for about in table.values["tables"])
    what = " and ".join(
        words
        for words, is_sent in (
            ("tables of block renders", has_tables),
            ("networks of blocks", has_nets),
        )
        if is_sent
    )
    return f"Under the sliders your browser paints from {what} ({megabytes:.1f} MB sent once)" + (
        f"; interpolating them errs by an RMSE of {format_value(error)} at most." if has_tables else "."
    )


def slider_names(drawn: Drawn, name: str) -> list[str]:
    """What each latent of an object is called beside its slider."""
    properties = [latent.partition(" of ")[0] for latent in drawn.scatter.values["latent_names"][: drawn.block_size]]
    words = {"x": "across", "y": "height"}
    return [name] if len(properties) == 1 else [f"{name}, {words.get(which, which)}" for which in properties]


def _start(seen: np.ndarray) -> list[int]:
    """The first cell: the middle of what was never seen, or of everything."""
    cells = np.argwhere(~seen) if not seen.all() else np.argwhere(seen)
    return cells[np.abs(cells - cells.mean(0)).sum(1).argmin()].tolist()


def _apart(grid: Result, objects: tuple[int, int], size: int) -> dict[str, Any] | None:
    """What decides in the plane whether a scene was seen: how far apart objects stood, where the others stand."""
    rule = grid.values["apart"]
    if rule is None:
        return None
    names = grid.values["latent_names"][:size]
    place = [names.index("x of 1"), names.index("y of 1")]
    blocks = grid.arrays["true_latents"][0, 0].reshape(-1, size)
    others = [blocks[k, place].tolist() for k in range(len(blocks)) if k not in objects]
    return {**rule, "place": place, "others": others}


def sheet_address(images: np.ndarray) -> str:
    """(n, m, S, S, 3) uint8 -> data address of one picture, tile beside tile."""
    n, m, height, width, _ = images.shape
    return address(images.transpose(0, 2, 1, 3, 4).reshape(n * height, m * width, 3))


def address(pixels: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(pixels / 255)).decode()


def grid_note(result: Result) -> str:
    """The error of a grid, in words."""
    parts = []
    for name, words in (("rmse_in", "seen"), ("rmse_out", "never seen")):
        value = result.quality[name]
        if value is not None:
            parts.append(f"{format_value(value)} {words}")
    return f"RMSE of this grid ↓ {', '.join(parts)}"


def _panel(drawn: Drawn, objects: tuple[int, int], tables: list[np.ndarray]) -> dict[str, Any]:
    blocks = drawn.scatter.values["blocks"]
    learned_blocks = [blocks[drawn.permutation.index(k)] for k in objects]
    latents = [block[0] for block in learned_blocks]
    if drawn.block_size > 1:
        latents = list(reversed(learned_blocks[0][:2]))
    return {
        "key": drawn.key,
        "title": drawn.title,
        "note": grid_note(drawn.grid),
        "sheet": sheet_address(drawn.grid.arrays["grid"]),
        "latents": latents,
        "signs": _signs(drawn, objects, latents),
        "blocks": learned_blocks,
        "codes": drawn.grid.arrays["latents"].tolist(),  # (n, m, d): of each cell
        "learned": np.round(drawn.scatter.arrays["learned"][:, latents], 4).tolist(),
        "tables": None if drawn.table is None else _tables(drawn, objects, tables),
    }


def _signs(drawn: Drawn, objects: tuple[int, int], latents: Sequence[int]) -> list[int]:
    """Whether each learned latent rises (1) or falls (-1) with its true one; drawn turned then."""
    if drawn.block_size > 1:
        return [1, 1]
    arrays = drawn.scatter.arrays
    return [
        -1 if np.corrcoef(arrays["true"][:, k], arrays["learned"][:, latent])[0, 1] < 0 else 1
        for k, latent in zip(objects, latents, strict=True)
    ]


def _tables(drawn: Drawn, objects: tuple[int, int], tables: list[np.ndarray]) -> dict[str, Any]:
    table, scatter = drawn.table, drawn.scatter.arrays
    codes = np.round(scatter["learned"][scatter["in_support"]][:REST_SCENES], 4)
    nets = [_net(table, i, tables) for i in range(len(table.values["tables"]))]
    return {
        "kind": table.values["kind"],
        "link": table.values["link"],
        "white": table.values["white"],
        "nets": nets,
        "codes": codes.tolist(),
        "responses": [_response(table, drawn.permutation.index(k)) for k in objects],
    }


def _net(table: Result, i: int, tables: list[np.ndarray]) -> dict[str, Any]:
    """A network as the browser needs it: where its table or its layers lie among the float16 values."""
    about, arrays = table.values["tables"][i], table.arrays
    colour = arrays[f"colour_{i}"]
    net = {
        "rank": about["rank"],
        "channels": colour.shape[1],
        "colour": colour.ravel().astype(float).tolist(),
        "latents": about["latents"],
        "low": about["low"],
        "high": about["high"],
    }
    if "layers" not in about:
        profiles = arrays[f"profiles_{i}"]
        place = _append(tables, profiles)
        return {**net, "side": profiles.shape[-1], "sizes": list(profiles.shape[:-3]), "offset": place}
    layers = []
    for k in range(about["layers"]):
        weight, bias = arrays[f"weight_{i}_{k}"], arrays[f"bias_{i}_{k}"]
        layers.append(
            {"shape": list(weight.shape), "weights": _append(tables, weight), "biases": _append(tables, bias)}
        )
    side = layers[-1]["shape"][0] // (2 * about["rank"])
    return {**net, "side": side, "first": about["first"], "layers": layers}


def _append(tables: list[np.ndarray], values: np.ndarray) -> int:
    """Put an array behind the others; returns where it begins."""
    offset = sum(part.size for part in tables)
    tables.append(values)
    return offset


def _response(table: Result, i: int) -> dict[str, Any]:
    """What a learned block answers where its object stands, on a grid of true latents."""
    block, answers = table.values["blocks"][i], table.arrays[f"response_{i}"]
    if len(block) == 1:
        axes, answers = [answers[:, 0]], answers[:, 1:]
    else:
        axes = [table.arrays[f"response_{i}_{k}"] for k in range(len(block))]
    return {
        "latents": block,
        "axes": [axis.astype(float).tolist() for axis in axes],
        "learned": np.round(answers.reshape(-1, len(block)), 5).tolist(),
    }


def _scatter(result: Result, objects: tuple[int, int], drawn: Drawn) -> Mapping[str, Any]:
    size = drawn.block_size
    shown = list(objects) if size == 1 else [objects[0] * size + 1, objects[0] * size]  # y and x of the first
    true, pictures = result.arrays["true"], result.arrays["pictures"]
    picture_of = np.full(len(true), -1)
    picture_of[result.arrays["picture_of"]] = np.arange(len(pictures))
    names = result.values["latent_names"]
    missing = -len(pictures) % TILES_ACROSS
    padded = np.concatenate([pictures, np.full((missing, *pictures.shape[1:]), 255, np.uint8)])
    return {
        "true": np.round(true[:, shown], 4).tolist(),
        "seen": result.arrays["in_support"].tolist(),
        "names": [name.lower() for name in object_names(drawn)]
        if size == 1
        else [_plain_name(names[k]) for k in shown],
        "pictures": sheet_address(padded.reshape(-1, TILES_ACROSS, *pictures.shape[1:])),
        "picture_of": picture_of.tolist(),
        "of": [[0, 0], [1, 0]] if size == 1 else [[0, 1], [0, 0]],  # object and latent of each coordinate
        "tile": pictures.shape[1],
        "tiles_across": TILES_ACROSS,
    }


def _plain_name(name: str) -> str:
    """A latent's name in words.

    >>> _plain_name("y of 1")
    'height of 1'
    """
    what, _, which = name.partition(" of ")
    return f"{ {'y': 'height', 'x': 'place across'}.get(what, what) } of {which}"
