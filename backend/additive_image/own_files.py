"""From paths to a data set of one's own, for the command line: a table, a folder or archive of pictures."""

from pathlib import Path
from typing import Any

from backend import archives, tables
from backend.additive_image import listings, own_data, own_store
from backend.additive_image.own_data import Choices
from backend.archives import PictureFiles
from backend.errors import BadInput
from backend.tables import RowProblem, Table

_LISTED = 5  # problems that a sentence names


def job_args(
    data: str, images: str, target: str = "", encoder: str = "short", seed: int = 0, leave_out: bool = False
) -> dict[str, Any]:
    """Read, join and keep; returns the arguments of a `fit_own` job.

    Args:
        data: path of a table. images: path of a folder or zip archive; "": the folder of the table.
        target: the explained column; "": guessed. leave_out: rows that cannot be used may go.
    Raises: BadInput: the first thing that stands against it, with the first rows where it is rows.
    """
    side = own_store.find_encoder(encoder).side
    table = listings.adapt(tables.read_table(_read(data, "data")))
    files = _open(Path(images) if images else Path(data).parent)
    choices = _choose(table, target)
    names = own_data.picture_names(table, files, choices)
    *_, (_, pictures) = archives.read_pictures(files, names, side, choices.pictures)
    name = Path(data).name
    dataset, problems = own_data.join(table, pictures, choices, leave_out, name)
    if dataset is None:
        raise BadInput(_sentence(problems, len(table)), "data")
    title = f"{choices.target} of {name}"
    return {"data": own_store.keep(dataset), "encoder": encoder, "seed": seed, "title": title}


def _read(path: str, field: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        raise BadInput(f"cannot read {path}", field) from None


def _open(path: Path) -> PictureFiles:
    return archives.open_folder(path) if path.is_dir() else archives.open_archive(_read(str(path), "images"))


def _choose(table: Table, target: str) -> Choices:
    """What is guessed, with the target that was asked for."""
    guess = own_data.guess_choices(table)
    if not target or target == guess.target:
        return guess
    table.column(target)
    features = tuple(c.name for c in table.columns if c.is_feature and c.name not in (target, guess.pictures))
    return Choices(target, guess.pictures, features, own_data.guess_link(table, target))


def _sentence(problems: tuple[RowProblem, ...], n: int) -> str:
    rows = len({problem.row for problem in problems})
    first = "; ".join(f"row {problem.row}: {problem.sentence}" for problem in problems[:_LISTED])
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return f"{rows} of {n} rows cannot be used ({first}{more}); correct them, or leave them out with --leave-out"
