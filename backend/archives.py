"""The pictures of a table: a zip archive's or a local folder's, found by the names in a column.

An archive is checked before anything in it is unpacked, and unpacked in memory only.
"""

import io
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from backend import images
from backend.errors import BadInput
from backend.limits import LIMITS, MIB, Limits
from backend.tables import PICTURE_ENDINGS, RowProblem

_FIELD = "images"
_MAX_RATIO = 200  # unpacked over packed; pictures hardly compress


class PictureFiles:
    """Pictures by the names that a table may call them: path, file name, and file name without its ending."""

    def __init__(
        self,
        paths: Sequence[str],
        read: Callable[[str], bytes],
        notes: tuple[str, ...] = (),
        others: Sequence[str] = (),
    ) -> None:
        self.paths = tuple(paths)
        self.others = tuple(others)  # files that are no pictures, readable all the same
        self.read = read  # path -> bytes
        self.notes = notes
        self._by_name: dict[str, set[str]] = {}
        for path in self.paths:
            for name in (path, PurePosixPath(path).name, PurePosixPath(path).stem):
                self._by_name.setdefault(name, set()).add(path)

    def find(self, name: str) -> str | None:
        """The path of a picture; None: there is none. Raises: BadInput: two pictures answer to the name."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        for called in (str(wanted), wanted.name):  # the path that the table gives may begin elsewhere
            found = self._by_name.get(called, set())
            if called in found:
                return called
            if len(found) > 1:
                raise BadInput(f"{len(found)} pictures are called {called!r}; use their paths", _FIELD)
            if found:
                return next(iter(found))
        return None


def open_archive(data: bytes, limits: Limits = LIMITS) -> PictureFiles:
    """The pictures of a zip archive.

    Raises: BadInput: no zip, too large packed or unpacked, encrypted, a path outside the archive, a link, no picture.
    """
    if len(data) > limits.max_archive_bytes:
        raise BadInput(
            f"the archive has {len(data) / MIB:.0f} MB; up to {limits.max_archive_bytes / MIB:.0f} MB are read", _FIELD
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise BadInput("the file is not a zip archive that can be read", _FIELD) from None
    _refuse_bomb(entries, limits)
    for entry in entries:
        _refuse_entry(entry)
    paths = tuple(entry.filename for entry in entries if _is_picture(entry.filename))
    if not paths:
        raise BadInput(f"the archive holds no picture ({', '.join(PICTURE_ENDINGS)})", _FIELD)
    others = tuple(e.filename for e in entries if not e.is_dir() and not _is_picture(e.filename))
    notes = (f"{len(others)} files that are no pictures were left out",) if others else ()

    def read(path: str) -> bytes:
        try:
            with archive.open(path) as file:  # a header may lie: no more than the limit is read whatever it says
                return file.read(limits.max_upload_bytes + 1)
        except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError):
            raise BadInput("it is damaged inside the archive", _FIELD) from None

    return PictureFiles(paths, read, notes, others)


def open_folder(folder: str | Path) -> PictureFiles:
    """The pictures below a local folder; links out of it are not followed.

    Raises: BadInput: no such folder, or no picture in it.
    """
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise BadInput(f"there is no folder {folder}", _FIELD)
    found = (path for path in sorted(root.rglob("*")) if path.is_file() and path.resolve().is_relative_to(root))
    paths = tuple(path.relative_to(root).as_posix() for path in found if _is_picture(path.name))
    if not paths:
        raise BadInput(f"the folder {folder} holds no picture ({', '.join(PICTURE_ENDINGS)})", _FIELD)
    return PictureFiles(paths, lambda path: (root / path).read_bytes())


def _is_picture(path: str) -> bool:
    name = PurePosixPath(path).name
    return name.lower().endswith(PICTURE_ENDINGS) and not name.startswith("._")


def _refuse_bomb(entries: Sequence[zipfile.ZipInfo], limits: Limits) -> None:
    if len(entries) > limits.max_archive_files:
        raise BadInput(f"the archive holds {len(entries):,} files; up to {limits.max_archive_files:,} are read", _FIELD)
    unpacked, packed = sum(e.file_size for e in entries), sum(e.compress_size for e in entries)
    if unpacked > limits.max_unpacked_bytes or unpacked > _MAX_RATIO * max(packed, MIB):
        raise BadInput(
            f"the archive would unpack to {unpacked / MIB:,.0f} MB; up to {limits.max_unpacked_bytes / MIB:,.0f} MB "
            f"and {_MAX_RATIO} times its size are read",
            _FIELD,
        )


def _refuse_entry(entry: zipfile.ZipInfo) -> None:
    name = entry.filename.replace("\\", "/")
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/"):
        raise BadInput("the archive holds a path that leads outside it; pack the folder itself", _FIELD)
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise BadInput("the archive holds a link; pack the pictures themselves", _FIELD)
    if entry.flag_bits & 1:
        raise BadInput("the archive is encrypted; pack it without a password", _FIELD)


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """The pictures that could be read, in the rows' order, and what stands against the others."""

    rows: np.ndarray  # (K,) int64, from 0: the rows whose picture is here
    pixels: np.ndarray  # (K, side, side, 3) uint8
    problems: tuple[RowProblem, ...]


def read_pictures(
    files: PictureFiles, names: Sequence[str | None], side: int, column: str, limits: Limits = LIMITS
) -> Iterator[tuple[int, Pictures | None]]:
    """Read the pictures that a column names, brought to one square size: cropped in the middle, then resized.

    Args:
        names: (N,) what the column says; None: missing.
        side: pixels.
        column: its name, for the sentences.
    Raises: BadInput: more pictures than may be held.
    Yields: (how many rows were seen, None), at the end (N, the pictures), so that the caller can tell and stop.
    """
    if len(names) * side * side * 3 > limits.max_unpacked_bytes:
        fit = limits.max_unpacked_bytes // (side * side * 3)
        raise BadInput(f"{len(names):,} pictures of {side} x {side}; up to {fit:,} fit, draw a sample of them", _FIELD)
    rows, kept, problems, known = [], [], [], {}
    for row, name in enumerate(names):
        try:
            if name is None:
                raise BadInput("the name is missing", _FIELD)
            path = files.find(name)
            if path is None:
                raise BadInput(f"there is no picture {name[:80]!r}", _FIELD)
            if path not in known:
                known[path] = fit_square(images.decode(files.read(path), limits).pixels, side)
            rows.append(row)
            kept.append(known[path])
        except BadInput as error:
            problems.append(RowProblem(row + 1, column, error.sentence))
        if row % 64 == 63:
            yield row + 1, None
    pixels = np.stack(kept) if kept else np.zeros((0, side, side, 3), np.uint8)
    yield len(names), Pictures(np.array(rows, np.int64), pixels, tuple(problems))


def fit_square(pixels: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 1 or 3) in [0, 1] -> (side, side, 3) uint8: the middle square, resized with antialiasing."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = np.broadcast_to(pixels[top : top + edge, left : left + edge], (edge, edge, 3))
    picture = Image.fromarray(np.round(square * 255).astype(np.uint8))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))
