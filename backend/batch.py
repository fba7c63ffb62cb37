"""One request for each row of a table, overnight: `python -m backend batch MANIFEST --out DIR`.

A row is done when its JSON file lies in DIR/rows; that file is written last, and moved into place whole. So a batch
that was killed at any moment goes on where it stopped: no row is answered twice, and none is lost. A row that cannot
be answered keeps its sentence, and the others go on.
"""

import functools
import hashlib
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from backend.contracts import AttributionRequest, FaithfulnessRequest, OnStep, Step, request_from_json
from backend.errors import BadInput, PrismError
from backend.files import write_whole
from backend.request_files import read_input, read_json_object, with_ids
from backend.service import InterpretService
from backend.tables import read_table

_FILES = ("image", "audio")  # columns that name a file
_JSON = ("target", "seed", "frames", "rows", "images", "grid", "params", "sentences")  # columns that hold JSON
_PARAM = "params."  # a column params.n_steps is the parameter n_steps
_RECENT = 20  # rows whose time tells how long the others will take


@dataclass(frozen=True, slots=True)
class Summary:
    """How a batch ended."""

    answered: int
    refused: int
    reused: int  # of those, answered by an earlier run
    table: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch that is not answered yet."""

    number: int  # from 1
    key: str  # sha256 of all that its answer depends on
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch reads and writes; processes that share the work share these folders."""

    inputs: Path  # the table's folder
    rows: Path
    metrics: bool


# Answers rows, in any order, and yields the number of each as soon as its file is there.
AnswerAll = Callable[[Place, list[Row]], Iterator[int]]


def run_batch(
    service: InterpretService | None,
    manifest: str | Path,
    out: str | Path,
    defaults: Mapping[str, Any] | None = None,
    metrics: bool = False,
    on_step: OnStep = None,
    answer_all: AnswerAll | None = None,
) -> Summary:
    """Answer every row of a CSV or Parquet table; goes on where an earlier run stopped.

    Args:
        service: answers the rows one after the other; None: `answer_all` does.
        manifest: columns are the fields of a request (image, text, method, model, target, ...); `params.NAME` is one
            parameter. Paths are relative to the working folder or to the table. An empty cell takes the default.
        out: gets rows/NUMBER.json and rows/NUMBER.npz for each row, and results.parquet for all.
        defaults: a request with what all rows share.
        metrics: deletion and insertion of every attribution as well.
        answer_all: another way to answer rows (`backend.cluster.rows`).
    Raises: BadInput: the table cannot be read, or another process fills this folder.
    """
    manifest, out = Path(manifest), Path(out)
    bodies = read_rows(manifest, defaults or {})
    place = Place(manifest.parent, out / "rows", metrics)
    place.rows.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadInput(f"another process fills {out}; wait for it, or choose another folder", "out") from None
    try:
        for draft in place.rows.glob(".*"):  # of a killed run
            draft.unlink(missing_ok=True)
        rows = [Row(number, _key_of(body, place), body) for number, body in enumerate(bodies, start=1)]
        left = [row for row in rows if _read_record(place, row) is None]
        _answer_all(answer_all or functools.partial(_answer_here, service), place, left, len(rows), on_step)
        records = [_read_record(place, row) for row in rows]
        table = _write_table(records, bodies, out)
    finally:
        lock.release()
    refused = sum("error" in record for record in records)
    return Summary(len(records) - refused, refused, len(rows) - len(left), table)


def _answer_all(answer_all: AnswerAll, place: Place, left: list[Row], total: int, on_step: OnStep) -> None:
    """Answer what is left, and tell how far it is. Raises: PrismError: a row was not answered."""
    clock, missing = _Clock(total), {row.number for row in left}

    def tell() -> None:
        done = total - len(missing)
        if on_step is not None:
            on_step(Step(done, total, clock.message(done) if missing else "done"))

    tell()
    for number in answer_all(place, left) if left else ():
        clock.tick()
        missing.discard(number)
        tell()
    if missing:
        raise PrismError(f"{len(missing)} rows were not answered; the same command goes on with them")


def _answer_here(service: InterpretService, place: Place, left: list[Row]) -> Iterator[int]:
    for row in left:
        answer_row(service, place, row)
        yield row.number


def read_rows(manifest: Path, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One request for each row, as `run REQUEST.json` reads it. Raises: BadInput: no table, or a cell is not JSON."""
    cells = read_table(read_input(str(manifest), Path(), "manifest"), min_rows=1).cells
    return [
        _body_of(number, {name: cell for name, cell in row.items() if isinstance(cell, str) and cell != ""}, defaults)
        for number, row in enumerate(cells.to_dict("records"), start=1)
    ]


def read_defaults(path: str) -> dict[str, Any]:
    return read_json_object(path) if path else {}


def _body_of(number: int, cells: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The nearest wins: a column params.NAME, the column params, the defaults."""
    body, params = dict(defaults), {}
    for name, cell in cells.items():
        if name.startswith(_PARAM):
            params[name.removeprefix(_PARAM)] = _plain(cell)
        else:
            body[name] = _json(cell, name, number) if name in _JSON else cell
    if not params:
        return body
    shared = [given.get("params") for given in (defaults, body)]
    merged = {name: value for given in shared if isinstance(given, Mapping) for name, value in given.items()}
    return body | {"params": merged | params}


def _plain(cell: str) -> Any:
    """A parameter: a number, true, false, null, or else the text itself."""
    try:
        value = json.loads(cell)
    except ValueError:
        return cell
    return cell if isinstance(value, (list, dict)) else value


def _json(cell: str, name: str, number: int) -> Any:
    try:
        return json.loads(cell)
    except ValueError:
        raise BadInput(f"row {number}: {name} is {cell!r}; expected JSON, as 3 or [0, 1]", name) from None


# ----------------------------------------------------------------- one row
def answer_row(service: InterpretService, place: Place, row: Row) -> None:
    """Answer a row, unless it is answered, and write its files; the record comes last, so that it stands for both."""
    if _read_record(place, row) is None:
        record = {"key": row.key, **_answer(service, place, row)}
        write_whole(_record_path(place, row), json.dumps(record))


def _key_of(body: Mapping[str, Any], place: Place) -> str:
    """sha256 of everything that the row's answer depends on, the inputs' bytes too."""
    text = hashlib.sha256(json.dumps([body, place.metrics], sort_keys=True).encode())
    for name in (*(body.get(field) for field in _FILES), *_listed(body.get("images"))):
        if isinstance(name, str):
            try:
                text.update(hashlib.sha256(read_input(name, place.inputs, "image")).digest())
            except (BadInput, OSError):
                text.update(b"missing")
    return text.hexdigest()


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _record_path(place: Place, row: Row) -> Path:
    return place.rows / f"{row.number:06}.json"


def _read_record(place: Place, row: Row) -> dict[str, Any] | None:
    """What an earlier run wrote for this very row; None: nothing, or for another input or setting."""
    try:
        record = json.loads(_record_path(place, row).read_text())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == row.key else None


def _answer(service: InterpretService, place: Place, row: Row) -> dict[str, Any]:
    try:
        request = request_from_json(with_ids(dict(row.body), place.inputs, service.put_image, service.put_audio))
        result = service.run(request)
        record: dict[str, Any] = {"manifest": result.manifest()}
        if place.metrics and isinstance(request, AttributionRequest):
            record["metrics"] = service.run(FaithfulnessRequest((request,), request.baseline[0])).values["rows"][0]
    except PrismError as error:
        return {"error": error.sentence, "field": error.field}
    write_whole(place.rows / f"{row.number:06}.npz", result.to_npz())
    return record


# ----------------------------------------------------------------- all rows
def _write_table(records: list[dict[str, Any]], rows: list[dict[str, Any]], out: Path) -> Path:
    """results.parquet: a line for each row, with its request, its figures, or its sentence."""
    lines = [
        {"row": number, **_scalars(body), **_figures(record)}
        for number, (body, record) in enumerate(zip(rows, records, strict=True), start=1)
    ]
    path = out / "results.parquet"
    write_whole(path, pd.DataFrame(lines).to_parquet(index=False))
    return path


def _figures(record: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in record:
        return {"error": record["error"], "error_field": record["field"]}
    manifest = record["manifest"]
    figures = {"error": "", "error_field": "", **_scalars(manifest["values"]), **_scalars(manifest["quality"])}
    figures |= {name: manifest[name] for name in ("unit", "model_digest", "device", "elapsed_s")}
    figures |= {name: manifest[name] for name in ("forward_passes", "backward_passes")}
    return figures | _scalars(record.get("metrics", {}))


def _scalars(body: Mapping[str, Any]) -> dict[str, Any]:
    """What fits into a cell of its own; lists and objects as JSON."""
    return {
        name: json.dumps(value) if isinstance(value, (list, dict, tuple)) else value for name, value in body.items()
    }


class _Clock:
    """How long the rest will take, from the rows answered last; rows of an earlier run cost nothing."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._seconds: deque[float] = deque(maxlen=_RECENT)  # from row to row
        self._last = time.monotonic()

    def tick(self) -> None:
        """A row was answered."""
        now = time.monotonic()
        self._seconds.append(now - self._last)
        self._last = now

    def message(self, done: int) -> str:
        if not self._seconds:
            return f"row {done + 1} of {self._total}"
        left_s = statistics.fmean(self._seconds) * (self._total - done)
        return f"row {done + 1} of {self._total}, about {duration(left_s)} left"


def duration(seconds: float) -> str:
    """
    >>> duration(4.2), duration(200), duration(40_000)
    ('4 s', '3 min', '11.1 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
