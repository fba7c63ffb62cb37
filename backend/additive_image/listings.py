"""The listings of Inside Airbnb as a table of one's own: https://insideairbnb.com/get-the-data, `listings.csv.gz`.

Prices are texts like "$1,234.00"; the response is their logarithm, as in arXiv:2405.02295. Pictures of hosts are not
fetched: they lie in a folder or an archive, each called by its host's or its listing's id (`1234.jpg`), or as the
address in `host_picture_url` ends.
"""

import dataclasses
import math
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from backend.archives import PictureFiles
from backend.errors import BadInput
from backend.tables import Column, Table

PICTURES, PRICE, RESPONSE = "host_picture_url", "price", "log price"
_MARKS = ("id", "host_id", PICTURES, PRICE)  # columns by which the layout is known
FEATURES = (
    "accommodates",
    "bedrooms",
    "beds",
    "minimum_nights",
    "room_type",
    "neighbourhood_group_cleansed",
    "neighbourhood_cleansed",
    "host_is_superhost",
    "number_of_reviews",
    "availability_365",
)
# What the paper reports of its model on the log prices of its two cities, on other rows than anybody has today.
PAPER = {"r2": (0.42, 0.46), "of": "log prices of Cape Town and New York", "source": "arXiv:2405.02295"}
_MOST_MISSING = 0.05  # share of the rows; a column with more is not proposed


def is_listings(table: Table) -> bool:
    """Whether a table has the layout of Inside Airbnb."""
    return set(_MARKS) <= {column.name for column in table.columns}


def adapt(table: Table) -> Table:
    """The same table with the logarithm of the price, and a column that names the host's picture.

    Prices of 0 have no logarithm: they are missing, and listed as such. A table of another layout comes back as it is.
    """
    if not is_listings(table) or RESPONSE in table.cells:
        return table
    prices = table.numbers(PRICE)
    logs = [f"{math.log(price):.6f}" if np.isfinite(price) and price > 0 else None for price in prices]
    n_missing, present = logs.count(None), {log for log in logs if log is not None}
    response = Column(RESPONSE, "number", n_missing, len(present), f"natural logarithm of {PRICE}")
    columns = [dataclasses.replace(c, kind=_kind_of(c)) for c in table.columns]
    note = "read as listings of Inside Airbnb: pictures are found by host_id, id, or the end of host_picture_url"
    return dataclasses.replace(
        table,
        cells=table.cells.assign(**{RESPONSE: pd.Series(logs, table.cells.index, dtype=object)}),
        columns=(*columns, response),
        notes=(*table.notes, note),
    )


def _kind_of(column: Column) -> str:
    if column.name == PICTURES:
        return "file"
    return "unused" if column.kind == "file" or column.name in ("id", "host_id", "scrape_id") else column.kind


def features_of(table: Table) -> tuple[str, ...]:
    """The columns that explain a price, as far as they are there and mostly filled.

    Raises: BadInput: none is.
    """
    known = {column.name: column for column in table.columns}
    found = tuple(
        name
        for name in FEATURES
        if name in known and known[name].is_feature and known[name].n_missing <= _MOST_MISSING * len(table)
    )
    if not found:
        raise BadInput(f"these listings have none of {', '.join(FEATURES)}", "features")
    return found


def picture_names(table: Table, files: PictureFiles) -> list[str | None]:
    """What each row's picture is called: its host's id, the listing's id, or the end of its address, (N,).

    Where none of them is there, the host's id, so that it can be said what is missing; None: no id either.
    """
    names = []
    for host, listing, address in zip(*(table.cells[name] for name in ("host_id", "id", PICTURES)), strict=True):
        tried = [name for name in (host, listing, address and PurePosixPath(urlsplit(address).path).stem) if name]
        names.append(next((name for name in tried if _is_there(files, name)), tried[0] if tried else None))
    return names


def _is_there(files: PictureFiles, name: str) -> bool:
    """A name that two pictures answer to is there: whoever reads it says so by row."""
    try:
        return files.find(name) is not None
    except BadInput:
        return True
