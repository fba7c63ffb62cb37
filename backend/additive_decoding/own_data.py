"""Pictures of a user's own as decoders are trained on them: a dSprites file, or an archive with a table of factors.

numpy only, so that pages can ask before any job begins. Nothing is unpickled or unpacked to the disk, and a large
dSprites file is streamed: never more than the pictures that are used lies in memory.
"""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from backend import archives
from backend.archives import PictureFiles
from backend.errors import BadInput
from backend.limits import LIMITS, MIB, Limits
from backend.tables import Table, missing_rows

FEWEST_PICTURES = 50
MOST_PICTURES = 20_000  # that are read, drawn by lot
MOST_LATENTS = 64
DSPRITES_FACTORS = ("shape", "scale", "orientation", "x", "y")  # the published file's, but for colour
CLEVR_FACTORS = ("x", "y", "z")  # of each object, in scene coordinates
_ROWS = 512  # pictures of a dSprites file in memory at once


@dataclass(frozen=True, slots=True, eq=False)
class OwnPictures:
    """Pictures with what is known of their factors."""

    pixels: np.ndarray  # (N, side, side, 3) uint8
    factors: np.ndarray | None  # (N, d) float32; None: nobody knows
    names: tuple[str, ...]  # of the factors
    sizes: tuple[int, ...]  # of the blocks that the factors are grouped in, in order; none: not grouped
    digest: str  # sha256 of what was read

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which columns of a table say what of the pictures."""

    pictures: str
    factors: tuple[str, ...]  # in the order of the latents


# ----------------------------------------------------------------- dSprites
def read_sprites(data: bytes, n: int = MOST_PICTURES, seed: int = 0, limits: Limits = LIMITS) -> OwnPictures:
    """A random part of a dSprites file: white sprites on black, in shape, scale, orientation and place.

    Args:
        data: the published .npz, or one of its layout: imgs (N, S, S) of 0 and 1, latents_values (N, 6 or 5).
        n: how many pictures are drawn at most, without putting back; they keep their order.
    Raises: BadInput: another layout, damaged, or too large.
    """
    if len(data) > limits.max_archive_bytes:
        raise _too_large(len(data), limits.max_archive_bytes)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            values = _read_array(archive, "latents_values", limits.max_archive_bytes)
            if values.ndim != 2 or values.shape[1] not in (5, 6) or not np.isfinite(values).all():
                raise BadInput(f"latents_values is {values.shape}; dSprites has finite numbers (N, 6)", "images")
            index = draw_lots(len(values), n, seed)
            images = _read_pictures(archive, len(values), index, limits)
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, RuntimeError, NotImplementedError):
        raise BadInput("the file is not dSprites: expected an .npz with imgs and latents_values", "images") from None
    return OwnPictures(
        pixels=np.repeat((images * 255).astype(np.uint8)[..., None], 3, axis=-1),
        factors=values[index, -5:].astype(np.float32),  # colour is always white
        names=DSPRITES_FACTORS,
        sizes=(3, 2),  # what it is, where it is
        digest=hashlib.sha256(data).hexdigest(),
    )


def draw_lots(total: int, n: int, seed: int) -> np.ndarray:
    """Which items are taken, ascending; the same for the same seed."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:n])


def _too_large(nbytes: int, most: int) -> BadInput:
    return BadInput(f"the file holds {nbytes / MIB:,.0f} MB; up to {most / MIB:,.0f} MB are read", "images")


def _open_array(archive: zipfile.ZipFile, name: str, most: int) -> tuple[IO[bytes], tuple[int, ...], np.dtype]:
    """An array's data, shape and type. Raises: BadInput: objects, another order, or more than `most` bytes."""
    file = archive.open(f"{name}.npy")
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if dtype.hasobject or is_fortran or dtype.kind not in "buif":
        raise BadInput(f"{name} is no plain array of numbers", "images")
    nbytes = dtype.itemsize * int(np.prod(shape, dtype=object))
    if nbytes > most:
        raise _too_large(nbytes, most)
    return file, shape, dtype


def _read_array(archive: zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    file, shape, dtype = _open_array(archive, name, most)
    with file:
        return np.frombuffer(file.read(), dtype).reshape(shape)


def _read_pictures(archive: zipfile.ZipFile, total: int, index: np.ndarray, limits: Limits) -> np.ndarray:
    """The chosen rows of imgs, (n, S, S), a few hundred at a time."""
    file, shape, dtype = _open_array(archive, "imgs", limits.max_sprite_bytes)
    if len(shape) != 3 or shape[0] != total or shape[1] != shape[2] or not 8 <= shape[1] <= 512:
        raise BadInput(f"imgs is {shape}; dSprites has square pictures ({total}, S, S) of 8 to 512 pixels", "images")
    kept = []
    with file:
        for start in range(0, total, _ROWS):
            rows = min(_ROWS, total - start)
            part = np.frombuffer(file.read(rows * shape[1] * shape[2] * dtype.itemsize), dtype).reshape(
                rows, *shape[1:]
            )
            low, high = np.searchsorted(index, (start, start + rows))
            chosen = part[index[low:high] - start]
            if chosen.size and not ((chosen >= 0) & (chosen <= 1)).all():
                raise BadInput("dSprites has pixels between 0 and 1", "images")
            kept.append(chosen.astype(np.float32))
    return np.concatenate(kept) if kept else np.zeros((0, *shape[1:]), np.float32)


# ----------------------------------------------------------------- archives
def guess_roles(table: Table) -> Roles:
    """The first column that names pictures, and every column of numbers or categories.

    Raises: BadInput: no column names pictures.
    """
    files = [column.name for column in table.columns if column.kind == "file"]
    if not files:
        raise BadInput("no column of the table names pictures (like scene_7.png)", "table")
    return Roles(files[0], tuple(c.name for c in table.columns if c.kind in ("number", "category")))


def read_factors(table: Table, roles: Roles) -> np.ndarray:
    """The factors of every row, (N, d) float32; categories as whole numbers.

    Raises: BadInput: a column has two roles, or a cell is missing or no number.
    """
    if roles.pictures in roles.factors:
        raise BadInput(f"{roles.pictures!r} names the pictures; it is no factor", "factors")
    problems = missing_rows(table, (roles.pictures, *roles.factors))
    if problems:
        raise BadInput(_in_row(problems), "table")
    columns = [
        table.categories(name)[0] if table.column(name).kind == "category" else table.numbers(name)
        for name in roles.factors
    ]
    return np.column_stack(columns).astype(np.float32) if columns else np.zeros((len(table), 0), np.float32)


def read_archive(
    files: PictureFiles, side: int, table: Table | None = None, roles: Roles | None = None, seed: int = 0
) -> Iterator[tuple[int, int, OwnPictures | None]]:
    """Pictures of an archive with their factors: from a table, else from a CLEVR scenes file in the archive, else none.

    Args: side: pixels that the pictures are brought to: their middle square, resized.
    Yields: (how many were read, of how many, None), at the end (N, N, the pictures).
    Raises: BadInput: a picture is missing or damaged, or a cell; too few pictures.
    """
    names, factors, factor_names, sizes = _described(files, table, roles)
    if len(names) < FEWEST_PICTURES:
        raise BadInput(f"there are {len(names)} pictures; training needs at least {FEWEST_PICTURES}", "images")
    index = draw_lots(len(names), MOST_PICTURES, seed)
    chosen = [names[i] for i in index]
    found = None
    for seen, found in archives.read_pictures(files, chosen, side, "picture"):
        if found is None:
            yield seen, len(chosen), None
    if found.problems:
        raise BadInput(_in_row(found.problems), "images")
    total = hashlib.sha256(found.pixels.tobytes())
    factors = None if factors is None else factors[index]
    if factors is not None:
        total.update(factors.tobytes())
    yield len(chosen), len(chosen), OwnPictures(found.pixels, factors, factor_names, sizes, total.hexdigest())


def _described(
    files: PictureFiles, table: Table | None, roles: Roles | None
) -> tuple[list[str], np.ndarray | None, tuple[str, ...], tuple[int, ...]]:
    """Names of pictures, their factors (or None), the factors' names, and sizes of blocks."""
    if table is not None:
        roles = roles or guess_roles(table)
        factors = read_factors(table, roles)
        names = table.cells[roles.pictures].tolist()
        return names, factors if factors.shape[1] else None, roles.factors, (1,) * len(roles.factors)
    scenes = next((path for path in sorted(files.others) if re.search(r"scenes.*\.json$", path)), None)
    if scenes is None:
        return list(files.paths), None, (), ()
    places = parse_scenes(files.read(scenes), scenes)
    names = [path for path in files.paths if path.rpartition("/")[2] in places]
    if not names:
        raise BadInput(f"no picture of the archive is named in {scenes}", "images")
    factors, factor_names, sizes = stack_places([places[path.rpartition("/")[2]] for path in names])
    return names, factors, factor_names, sizes


def parse_scenes(data: bytes, name: str) -> dict[str, list[list[float]]]:
    """The places of the objects of each picture, by its file name, from a scenes file in CLEVR's layout.

    Raises: BadInput: another layout.
    """
    try:
        scenes = json.loads(data.decode("utf-8"))["scenes"]
        return {
            scene["image_filename"]: [[float(v) for v in item["3d_coords"]] for item in scene["objects"]]
            for scene in scenes
        }
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{name} is not a scenes file in CLEVR's layout", "path") from None


def stack_places(
    objects: Sequence[list[list[float]]],
) -> tuple[np.ndarray | None, tuple[str, ...], tuple[int, ...]]:
    """(N, objects x 3) float32 with names and sizes of blocks; None if scenes have different numbers of objects."""
    size = len(CLEVR_FACTORS)
    if len({len(scene) for scene in objects}) != 1 or not objects[0]:
        return None, (), ()
    if any(len(place) != size or not np.isfinite(place).all() for scene in objects for place in scene):
        raise BadInput(f"a place in the scenes file has not {size} finite coordinates", "path")
    names = tuple(f"{name} of {i + 1}" for i in range(len(objects[0])) for name in CLEVR_FACTORS)
    return np.array(objects, np.float32).reshape(len(objects), -1), names, (size,) * len(objects[0])


def _in_row(problems: Sequence[archives.RowProblem]) -> str:
    more = f" (and {len(problems) - 1:,} more rows)" if len(problems) > 1 else ""
    return f"row {problems[0].row}: {problems[0].sentence}{more}"


# ----------------------------------------------------------------- blocks
def parse_sizes(text: str) -> tuple[int, ...]:
    """Sizes of blocks as a person writes them.

    Raises: BadInput: no whole numbers, or no partition that can be trained.

    >>> parse_sizes("3, 2")
    (3, 2)
    """
    parts = [part for part in re.split(r"[\s,;]+", text.strip()) if part]
    if not parts or not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise BadInput(f"blocks is {text[:40]!r}; expected whole numbers, as 3, 2", "blocks")
    return check_sizes([int(part) for part in parts])


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """Raises: BadInput: fewer than two blocks, an empty one, or too many latents."""
    if len(sizes) < 2 or min(sizes) < 1 or sum(sizes) > MOST_LATENTS:
        raise BadInput(
            f"blocks of sizes {list(sizes)}; expected two or more, each at least 1, {MOST_LATENTS} latents at most",
            "blocks",
        )
    return tuple(sizes)
