"""Bytes of an uploaded table in, checked columns out. Nothing here knows a model.

CSV in the separators and encodings that spreadsheets write, and Parquet. What a column holds is guessed, said, and
may be changed; what cannot be used is told by row. No cell is ever evaluated.
"""

import codecs
import csv
import dataclasses
import gzip
import io
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from backend.contracts import digest
from backend.errors import BadInput
from backend.limits import LIMITS, MIB, Limits

ColumnKind = Literal["number", "category", "date", "file", "unused"]
KINDS: tuple[ColumnKind, ...] = ("number", "category", "date", "file", "unused")
MAX_CATEGORIES = 50  # more different texts than this are names, not categories
FEW_VALUES = 3  # a column of whole numbers with at most so many different ones is a category
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")

_FIELD = "table"
_GZIP = b"\x1f\x8b"
_MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of one column."""

    name: str
    kind: ColumnKind
    n_missing: int
    n_values: int  # different ones, missing apart
    why: str = ""  # of an unused one, and of one that was brought to numbers

    @property
    def is_feature(self) -> bool:
        return self.kind in ("number", "category", "date")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table as text, with a guess for every column. Row numbers count from 1, below the header."""

    id: str  # sha256 of the uploaded bytes
    cells: pd.DataFrame  # of str; missing: None
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()  # what was done to it that a person should know

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def nbytes(self) -> int:
        return int(self.cells.memory_usage(deep=True).sum())

    def column(self, name: str) -> Column:
        """Raises: BadInput: no such column; the sentence lists those there are."""
        for column in self.columns:
            if column.name == name:
                return column
        raise BadInput(f"there is no column {name!r}; the table has {_listed(c.name for c in self.columns)}", "columns")

    def with_kind(self, name: str, kind: ColumnKind) -> "Table":
        """The same table with another reading of one column. Raises: BadInput: no such column or kind."""
        if kind not in KINDS:
            raise BadInput(f"kind {kind!r}; one of {', '.join(KINDS)}", "columns")
        changed = dataclasses.replace(self.column(name), kind=kind, why="")
        return dataclasses.replace(
            self, columns=tuple(changed if column.name == name else column for column in self.columns)
        )

    def numbers(self, name: str) -> np.ndarray:
        """A column as numbers, (N,) float64; missing or unreadable: NaN. Dates are days since the first of them.

        Raises: BadInput: no such column.
        """
        cells = self.cells[self.column(name).name]
        if self.column(name).kind == "date":
            dates = _dates(cells)
            return ((dates - dates.min()) / pd.Timedelta(days=1)).to_numpy(np.float64)
        return _numbers(cells).to_numpy(np.float64)

    def categories(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """A column as codes, (N,) int64 with -1 for missing, and what they stand for, the most frequent first."""
        cells = self.cells[self.column(name).name]
        names = tuple(cells.value_counts(sort=True).index)
        codes = pd.Categorical(cells, categories=names).codes
        return np.asarray(codes, np.int64), names


@dataclass(frozen=True, slots=True)
class RowProblem:
    """Why a row cannot be used."""

    row: int  # from 1, below the header
    column: str
    sentence: str


def read_table(data: bytes, limits: Limits = LIMITS, min_rows: int = 2) -> Table:
    """Read and check an uploaded table.

    Args:
        data: the file's bytes, CSV or Parquet, or either of them packed with gzip.
        min_rows: fewer are refused; an effect needs many.
    Raises: BadInput: empty, too large, no header, too few rows, rows of different lengths, two columns of one name, or
        no table at all.
    """
    if not data:
        raise BadInput("the file is empty; choose a CSV or Parquet table with a header", _FIELD)
    if len(data) > limits.max_upload_bytes:
        raise BadInput(
            f"the file has {len(data) / MIB:.0f} MB; tables up to {limits.max_upload_bytes / MIB:.0f} MB are read",
            _FIELD,
        )
    text = _unpack(data, limits) if data[:2] == _GZIP else data
    cells, notes = _read_parquet(text, limits) if text[:4] == b"PAR1" else _read_csv(text, limits)
    if len(cells) < min_rows:
        raise BadInput(
            f"the table has {len(cells)} row{'s' * (len(cells) != 1)} below its header; effects need many", _FIELD
        )
    return Table(digest(data), cells, tuple(_guess(cells[name]) for name in cells), tuple(notes))


# ----------------------------------------------------------------- files
def _unpack(data: bytes, limits: Limits) -> bytes:
    """The content of a gzip file, no more of it than may be held whatever its header says."""
    try:
        with gzip.open(io.BytesIO(data)) as file:
            text = file.read(limits.max_archive_bytes + 1)
    except (OSError, EOFError, zlib.error):
        raise BadInput("the file begins like gzip but is damaged; pack it again", _FIELD) from None
    if len(text) > limits.max_archive_bytes:
        raise BadInput(f"the table unpacks to more than {limits.max_archive_bytes / MIB:.0f} MB", _FIELD)
    return text


def _read_parquet(data: bytes, limits: Limits) -> tuple[pd.DataFrame, list[str]]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(data))
        _refuse_many(file.metadata.num_rows, limits)
        frame = file.read().to_pandas()
    except (pyarrow.ArrowException, OSError, ValueError):
        raise BadInput("the file begins like Parquet but cannot be read; write it again", _FIELD) from None
    frame.columns = _names([str(name) for name in frame.columns])
    texts = {name: [None if _is_missing(cell) else str(cell).strip() for cell in frame[name]] for name in frame}
    return pd.DataFrame(texts, dtype=object), []


def _read_csv(data: bytes, limits: Limits) -> tuple[pd.DataFrame, list[str]]:
    text, notes = _decode(data)
    separator = _separator(text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        filled = ((rows.line_num, row) for row in rows if any(cell.strip() for cell in row))
        header = next(filled, (0, []))[1]
        names = _names(header)
        columns: list[list[str | None]] = [[] for _ in names]
        for line, row in filled:
            if len(row) != len(names):
                raise BadInput(f"line {line} has {len(row)} cells; the header has {len(names)}", _FIELD)
            _refuse_many(len(columns[0]) + 1, limits)
            for column, cell in zip(columns, row, strict=True):
                column.append(None if _is_missing(cell) else cell.strip())
    except csv.Error as error:
        raise BadInput(f"the table cannot be read near line {rows.line_num}: {error}", _FIELD) from None
    if separator != ",":
        notes.append(f"cells are separated by a {_SEPARATORS[separator]}")
    return pd.DataFrame(dict(zip(names, columns, strict=True)), dtype=object), notes


def _decode(data: bytes) -> tuple[str, list[str]]:
    """Text from the encodings that spreadsheets write."""
    if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        try:
            return data.decode("utf-16"), ["read as UTF-16"]
        except UnicodeDecodeError:
            raise BadInput("the file begins like UTF-16 text but is damaged; save it as UTF-8", _FIELD) from None
    if b"\0" in data:
        raise BadInput("the file is not a CSV or Parquet table that can be read", _FIELD)
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), ["not UTF-8; read as Windows-1252"]


def _separator(text: str) -> str:
    """The separator that the first lines agree on most; a comma if there is only one column."""
    lines = [line for line in text[:65536].splitlines()[:20] if line.strip()]

    def agreement(separator: str) -> tuple[int, int]:
        counts = [len(row) for row in csv.reader(lines, delimiter=separator)]
        return (counts.count(counts[0]) if counts and counts[0] > 1 else 0), (counts[0] if counts else 0)

    return max(_SEPARATORS, key=agreement) if lines else ","


def _names(header: list[str]) -> list[str]:
    """Clean names of columns. Raises: BadInput: none, one twice, or data in their place."""
    names = [" ".join("".join(c for c in name if c.isprintable()).split())[:80] for name in header]
    if not names:
        raise BadInput("the table has no rows", _FIELD)
    looks_like_data = [name for name in names if _is_missing(name) or _NUMBER.fullmatch(name)]
    if len(looks_like_data) > len(names) / 2:
        raise BadInput("the first row holds values, not names; put a header above it", _FIELD)
    names = [name or f"column {i + 1}" for i, name in enumerate(names)]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise BadInput(f"two columns are called {min(repeated)!r}; give each a name of its own", _FIELD)
    return names


def _refuse_many(rows: int, limits: Limits) -> None:
    if rows > limits.max_rows:
        raise BadInput(f"the table has more than {limits.max_rows:,} rows; draw a sample of them", _FIELD)


# ----------------------------------------------------------------- columns
_NUMBER = re.compile(r"[-+]?[$€£]?\s?(\d[\d,. ']*|\.\d+)([eE][-+]?\d+)?\s?[%€]?")


def _is_missing(cell: object) -> bool:
    if cell is None or cell is pd.NaT or (isinstance(cell, float) and np.isnan(cell)):
        return True
    return isinstance(cell, str) and cell.strip().lower() in _MISSING


def _guess(cells: pd.Series) -> Column:
    """What a column most probably holds."""
    name, present = str(cells.name), cells.dropna()
    n_missing, n_values = len(cells) - len(present), present.nunique()

    def column(kind: ColumnKind, why: str = "") -> Column:
        return Column(name, kind, n_missing, n_values, why)

    if not len(present):
        return column("unused", "every cell is missing")
    if n_values == 1:
        return column("unused", f"constant: every cell is {str(present.iloc[0])[:40]!r}")
    if _share(present.str.lower().str.endswith(PICTURE_ENDINGS)) > 0.9:
        return column("file")
    numbers = _numbers(present)
    if _share(numbers.notna()) > 0.9:
        if n_values <= FEW_VALUES and (numbers.dropna() % 1 == 0).all():
            return column("category")
        return column("number")
    if _share(_dates(present).notna()) > 0.9:
        return column("date", "dates are read as days since the first of them")
    if n_values > min(MAX_CATEGORIES, max(2, len(present) // 2)):
        return column("unused", f"{n_values:,} different texts are names, not categories")
    return column("category")


def _share(flags: pd.Series) -> float:
    return float(flags.mean())


def _numbers(cells: pd.Series) -> pd.Series:
    """Numbers with thousands separators, decimal commas, currency or percent signs; NaN where there is none."""
    texts = cells.where(cells.isna(), cells.astype(str).str.replace(r"[$€£%\s']", "", regex=True))
    has_both = texts.str.contains(r"\d[,.]\d{3}[,.]\d", regex=True, na=False)
    decimal_comma = texts.str.contains(r"\d,\d{1,2}$|,\d{4,}$|\d\.\d{3},", regex=True, na=False).sum()
    decimal_point = texts.str.contains(r"\d\.\d{1,2}$|\.\d{4,}$|\d,\d{3}\.", regex=True, na=False).sum()
    if decimal_comma > decimal_point:
        texts = texts.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    elif has_both.any() or texts.str.fullmatch(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", na=False).any():
        texts = texts.str.replace(",", "", regex=False)
    numbers = pd.to_numeric(texts, errors="coerce").astype(np.float64)
    return numbers.where(np.isfinite(numbers))


_DATE = r"\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}.*)?|\d{1,2}[./-]\d{1,2}[./-]\d{4}( \d{1,2}:\d{2}.*)?"


def _dates(cells: pd.Series) -> pd.Series:
    """Dates in ISO or day-first notation (month-first where the day shows it); NaT where there is none."""
    texts = cells.where(cells.astype(str).str.fullmatch(_DATE), None)
    iso = pd.to_datetime(texts.where(texts.str[4:5] == "-"), errors="coerce", format="ISO8601", utc=True)
    rest = texts.where(texts.str[4:5] != "-").str.replace(r"[.-]", "/", regex=True)
    parts = rest.str.extract(r"(\d{1,2})/(\d{1,2})/\d{4}").astype(float)
    order = "%m/%d/%Y" if (parts[1] > 12).any() and not (parts[0] > 12).any() else "%d/%m/%Y"
    return iso.fillna(pd.to_datetime(rest.str.split(" ").str[0], errors="coerce", format=order, utc=True))


def missing_rows(table: Table, names: Iterable[str]) -> list[RowProblem]:
    """The rows in which one of these columns is missing or cannot be read as what it is."""
    problems = []
    for name in names:
        column = table.column(name)
        is_bad = table.categories(name)[0] < 0 if column.kind in ("category", "file") else np.isnan(table.numbers(name))
        for row in np.flatnonzero(is_bad):
            cell = table.cells[name].iloc[row]
            said = "is missing" if cell is None else f"is {str(cell)[:40]!r}; expected a {column.kind}"
            problems.append(RowProblem(int(row) + 1, name, f"{name} {said}"))
    return sorted(problems, key=lambda problem: problem.row)


def _listed(names: Iterable[str], at_most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:at_most]) + (f" and {len(names) - at_most} more" if len(names) > at_most else "")
