"""A table and pictures of a user's own, joined row by row into a data set; what stands against a row is told.

Nothing is left out silently: `join` lists every row that cannot be used, and makes a data set of the others only
when it is told that they may go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.additive_image import listings
from backend.additive_image.data import IMAGE, LINKS, Column, Dataset, Link
from backend.archives import PictureFiles, Pictures
from backend.errors import BadInput
from backend.tables import RowProblem, Table, missing_rows

MIN_ROWS = 50  # fewer say nothing of an effect
MAX_COLUMNS = 100
_YES = ("1", "true", "yes", "y", "positive", "present")


@dataclass(frozen=True, slots=True)
class Choices:
    """What a person decided about their table."""

    target: str  # the column that is explained
    pictures: str  # the column that names the pictures
    features: tuple[str, ...]
    link: Link = "identity"


def guess_choices(table: Table) -> Choices:
    """What a person would most probably choose: the last number is explained, by all that is left.

    Raises: BadInput: no column of numbers, or none that names pictures.
    """
    if listings.is_listings(table):
        features = listings.features_of(table)
        return Choices(listings.RESPONSE, listings.PICTURES, features)
    files = [column.name for column in table.columns if column.kind == "file"]
    if not files:
        raise BadInput("no column names pictures (like face.png); say which one does", "pictures")
    numbers = [c.name for c in table.columns if c.kind == "number"] or [
        c.name for c in table.columns if c.n_values == 2
    ]
    if not numbers:
        raise BadInput("no column holds numbers; there is nothing to explain", "target")
    target = numbers[-1]
    features = tuple(c.name for c in table.columns if c.is_feature and c.name != target)
    return Choices(target, files[0], features, guess_link(table, target))


def guess_link(table: Table, target: str) -> Link:
    """Logit for two values, log for counts that are small and sometimes 0, else identity.

    Raises: BadInput: no such column.
    """
    column = table.column(target)
    if column.n_values == 2:
        return "logit"
    numbers = table.numbers(target)
    present = numbers[np.isfinite(numbers)]
    is_count = len(present) > 0 and (present >= 0).all() and (present % 1 == 0).all()
    return "log" if is_count and np.median(present) < 20 and (present == 0).any() else "identity"


def picture_names(table: Table, files: PictureFiles, choices: Choices) -> list[str | None]:
    """What the picture of each row is called, (N,); None: nobody says."""
    if listings.is_listings(table) and choices.pictures == listings.PICTURES:
        return listings.picture_names(table, files)
    return table.cells[choices.pictures].tolist()


def check_choices(table: Table, choices: Choices) -> None:
    """Raises: BadInput: a column that is not there, stands in two roles, or cannot be what it was chosen for."""
    if choices.link not in LINKS:
        raise BadInput(f"unknown link {choices.link!r}; one of {', '.join(LINKS)}", "link")
    if not 1 <= len(choices.features) <= MAX_COLUMNS:
        raise BadInput(f"{len(choices.features)} columns are chosen; 1 to {MAX_COLUMNS} can explain", "features")
    roles = (choices.target, choices.pictures, *choices.features)
    for name in roles:
        table.column(name)
        if roles.count(name) > 1:
            raise BadInput(f"{name!r} is chosen twice; a column has one role", "features")
    for name in choices.features:
        column = table.column(name)
        if not column.is_feature:
            raise BadInput(f"{name!r} cannot explain anything: {column.why or 'it is ' + column.kind}", "features")
        if column.n_values < 2:
            raise BadInput(f"{name!r} has the same value in every row; leave it out", "features")


def join(
    table: Table, pictures: Pictures, choices: Choices, leave_out: bool = False, name: str = "own"
) -> tuple[Dataset | None, tuple[RowProblem, ...]]:
    """Rows of a table with their pictures.

    Args:
        pictures: of the column `choices.pictures`, as `backend.archives.read_pictures` found them.
        leave_out: rows that cannot be used may be left out.
    Returns: the data set, or None while there are problems that nobody agreed to leave out; the problems, by row.
    Raises: BadInput: as `check_choices`; or too few rows are left; or the response does not suit the link.
    """
    check_choices(table, choices)
    used = (choices.target, *choices.features)
    problems = sorted((*missing_rows(_readable(table, choices), used), *pictures.problems), key=lambda p: p.row)
    if problems and not leave_out:
        return None, tuple(problems)
    bad = {problem.row - 1 for problem in problems}
    keep = np.array([k for k, row in enumerate(pictures.rows) if int(row) not in bad], np.int64)
    rows = pictures.rows[keep]
    if len(rows) < MIN_ROWS:
        raise BadInput(f"{len(rows)} rows can be used; at least {MIN_ROWS} are needed to see any effect", "table")
    columns, values = zip(*(_column(table, feature, rows) for feature in choices.features), strict=True)
    return (
        Dataset(
            name=name,
            columns=columns,
            table=np.column_stack(values).astype(np.float32),
            response=_response(table, choices, rows),
            images=pictures.pixels[keep],
            link=choices.link,
            response_name=choices.target,
        ),
        tuple(problems),
    )


def _readable(table: Table, choices: Choices) -> Table:
    """A two-valued response may be text: it is read as a category."""
    column = table.column(choices.target)
    reads_as_text = choices.link == "logit" and np.isnan(table.numbers(choices.target)).sum() > column.n_missing
    return table.with_kind(choices.target, "category" if reads_as_text else "number")


def _column(table: Table, name: str, rows: np.ndarray) -> tuple[Column, np.ndarray]:
    """A column and its values or codes in these rows; categories that no row has are forgotten."""
    kept_name = f"{name} (column)" if name == IMAGE else name
    if table.column(name).kind != "category":
        unit = "days" if table.column(name).kind == "date" else ""
        return Column(kept_name, "numeric", unit=unit), table.numbers(name)[rows]
    codes, names = table.categories(name)
    used, again = np.unique(codes[rows], return_inverse=True)
    if len(used) < 2:
        raise BadInput(f"{name!r} has the same value in every row that can be used; leave it out", "features")
    return Column(kept_name, "categorical", tuple(names[code] for code in used)), again


def _response(table: Table, choices: Choices, rows: np.ndarray) -> np.ndarray:
    numbers = table.numbers(choices.target)[rows]
    if choices.link != "logit":
        return numbers.astype(np.float32)
    if np.isin(numbers, (0, 1)).all():
        return numbers.astype(np.float32)
    codes, names = table.categories(choices.target)
    if len(names) != 2:
        raise BadInput(f"{choices.target!r} has {len(names)} different values; a logit link needs two", "link")
    return (codes[rows] == _positive(names)).astype(np.float32)


def _positive(names: Sequence[str]) -> int:
    """Which of two names counts as 1: the one that says yes, else the later in the alphabet."""
    says_yes = [k for k, name in enumerate(names) if name.lower() in _YES]
    return says_yes[0] if len(says_yes) == 1 else int(np.argmax(np.array(names)))
