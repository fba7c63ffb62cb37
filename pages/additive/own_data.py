"""A table and pictures of the visitor's own: read, questioned, joined. Nothing is left out without consent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd
import streamlit as st

from backend import archives, tables
from backend.additive_image import listings, own_data, own_store
from backend.additive_image.data import LINKS, Dataset
from backend.additive_image.own_data import Choices
from backend.archives import PictureFiles, Pictures
from backend.errors import BadInput, PrismError
from backend.limits import LIMITS, MIB
from backend.tables import RowProblem, Table
from pages.shared.controls import begin, refused
from pages.shared.session import escape, forget, recall, remember

PREVIEW_ROWS = 6
PROBLEMS_SHOWN = 200
LINK_TITLES = {
    "identity": "identity: any number",
    "logit": "logit: yes or no",
    "log": "log: counts",
}
KIND_HELP = "number and date: a curve; category: bars; file: names of pictures; unused: left out"
EMPTY_FILES = "no pictures yet: choose a zip archive, or a folder of pictures"


@dataclass(frozen=True, slots=True, eq=False)
class Own:
    """What the visitor brought, as far as it can be used."""

    table: Table
    choices: Choices
    dataset: Dataset | None  # None: something stands against it still
    n_left_out: int = 0


def ask_for_data() -> Own | None:
    """The whole way from two files to a data set; None: a file is missing or cannot be used."""
    left, right = st.columns(2)
    with left:
        table = _take_table()
    with right:
        files = _take_pictures()
    if table is None:
        return None
    table = _edit_kinds(table)
    choices = _choose_roles(table)
    if choices is None:
        return None
    if files is None:
        st.caption(f":material/info: {EMPTY_FILES}.")
        return Own(table, choices, None)
    pictures = _read(table, files, choices)
    return _join(table, pictures, choices) if pictures is not None else None


# ----------------------------------------------------------------- files
def _take_table() -> Table | None:
    """The uploaded table; a refused one leaves the one before on the desk."""
    upload = st.file_uploader(
        "Table",
        type=["csv", "tsv", "txt", "gz", "parquet"],
        key="additive.own.table_file",
        max_upload_size=LIMITS.max_upload_bytes // MIB,
        help="CSV in any separator and encoding that spreadsheets write, or Parquet; a header on top, one row for "
        "each picture; packed with gzip or not. Listings of Inside Airbnb are known by their columns. No cell is "
        "ever evaluated.",
    )
    if upload is not None and upload.file_id != recall("additive.own.table_seen"):
        remember("additive.own.table_seen", upload.file_id)
        remember("additive.own.table_refusal", "")
        try:
            _begin_table(listings.adapt(tables.read_table(upload.getvalue())), upload.name)
        except PrismError as error:
            remember("additive.own.table_refusal", f"{upload.name}: {error.sentence}")
    if sentence := recall("additive.own.table_refusal"):
        refused(sentence)
    table: Table | None = recall("additive.own.table")
    if table is not None:
        notes = "".join(f" · {escape(note)}" for note in table.notes)
        name = escape(recall("additive.own.name", "table"))
        st.caption(f":material/check: {name}: {len(table):,} rows, {len(table.columns)} columns{notes}")
    return table


def _begin_table(table: Table, name: str) -> None:
    """A new table is on the desk: what was chosen for the one before is over."""
    for key in ("target", "pictures", "features", "link", "kinds", "leave_out", "read"):
        forget(f"additive.own.{key}")
    remember("additive.own.table", table)
    remember("additive.own.name", name)


def _take_pictures() -> PictureFiles | None:
    """The pictures of an archive or of a folder; a refused one leaves those before on the desk."""
    begin("additive.own.from", "zip archive")
    source = st.segmented_control(
        "Pictures", ["zip archive", "folder"], key="additive.own.from", required=True, label_visibility="visible"
    )
    refusal = "additive.own.pictures_refusal"
    if source == "zip archive":
        upload = st.file_uploader(
            "Zip archive of pictures",
            type=["zip"],
            key="additive.own.zip_file",
            max_upload_size=LIMITS.max_archive_bytes // MIB,
            label_visibility="collapsed",
            help="It is checked before anything in it is unpacked, and unpacked in memory only.",
        )
        seen = None if upload is None else upload.file_id
        opened = (lambda: archives.open_archive(upload.getvalue()), upload.name) if upload is not None else None
    else:
        uploads = st.file_uploader(
            "Folder of pictures",
            accept_multiple_files="directory",
            type=[ending.removeprefix(".") for ending in archives.PICTURE_ENDINGS],
            key="additive.own.folder_files",
            max_upload_size=LIMITS.max_upload_bytes // MIB,
            label_visibility="collapsed",
        )
        seen = tuple(upload.file_id for upload in uploads) or None
        opened = (lambda: _open_uploads(uploads), f"{len(uploads)} files") if uploads else None
    if opened is not None and seen != recall("additive.own.pictures_seen"):
        remember("additive.own.pictures_seen", seen)
        remember(refusal, "")
        forget("additive.own.read")
        try:
            remember("additive.own.files", opened[0]())
        except PrismError as error:
            remember(refusal, f"{opened[1]}: {error.sentence}")
    if sentence := recall(refusal):
        refused(sentence)
    files: PictureFiles | None = recall("additive.own.files")
    if files is not None:
        notes = "".join(f" · {escape(note)}" for note in files.notes)
        st.caption(f":material/check: {len(files.paths):,} pictures{notes}")
    return files


def _open_uploads(uploads: Sequence) -> PictureFiles:
    """The pictures of an uploaded folder, by their paths in it."""
    by_path = {PurePosixPath(upload.name).as_posix(): upload for upload in uploads}
    paths = [path for path in by_path if path.lower().endswith(archives.PICTURE_ENDINGS)]
    if not paths:
        raise BadInput(f"the folder holds no picture ({', '.join(archives.PICTURE_ENDINGS)})", "images")
    return PictureFiles(paths, lambda path: by_path[path].getvalue())


# ----------------------------------------------------------------- columns
def _edit_kinds(table: Table) -> Table:
    """What each column holds, guessed, and changed where the person knows better."""
    changed: dict[str, str] = recall("additive.own.kinds", {})
    shown = _with_kinds(table, changed)
    st.markdown("**What do the columns hold?** Guessed; change what is wrong.", help=KIND_HELP)
    rows = [
        {
            "Column": column.name,
            "Holds": column.kind,
            "Missing": column.n_missing,
            "Different values": column.n_values,
            "First cells": " · ".join(str(cell) for cell in table.cells[column.name].dropna().head(3)),
            "Note": column.why,
        }
        for column in shown.columns
    ]
    edited = st.data_editor(
        pd.DataFrame(rows),
        key=f"additive.own.editor.{table.id[:12]}",
        hide_index=True,
        disabled=["Column", "Missing", "Different values", "First cells", "Note"],
        column_config={
            "Holds": st.column_config.SelectboxColumn(options=list(tables.KINDS), required=True, help=KIND_HELP)
        },
    )
    kinds = {row.name: row.kind for row in table.columns}
    wanted = dict(zip(edited["Column"], edited["Holds"], strict=True))
    return _with_kinds(table, {name: kind for name, kind in wanted.items() if kind != kinds[name]})


def _with_kinds(table: Table, changed: dict[str, str]) -> Table:
    for name, kind in changed.items():
        table = table.with_kind(name, kind)
    return table


def _choose_roles(table: Table) -> Choices | None:
    """What is explained, by what, through which link; None: it cannot be so, and it was said why."""
    try:
        guess = own_data.guess_choices(table)
    except PrismError as error:
        guess, sentence = None, error.sentence
    names = [column.name for column in table.columns]
    files = [column.name for column in table.columns if column.kind == "file"]
    if guess is None and not files:
        refused(sentence)
        return None
    target = _select("Explained column (target)", names, guess.target if guess else names[-1], "target")
    pictures = _select("Column that names the pictures", names, guess.pictures if guess else files[0], "pictures")
    possible = [c.name for c in table.columns if c.is_feature and c.name not in (target, pictures)]
    begin("additive.own.features", possible)
    remember("additive.own.features", [name for name in recall("additive.own.features") if name in possible])
    features = st.multiselect(
        "Explained by", possible, key="additive.own.features", help="Besides the picture; each gets a curve or bars."
    )
    try:
        guessed_link = own_data.guess_link(table, target)
    except PrismError:
        guessed_link = "identity"
    if recall("additive.own.link_of") != target:
        remember("additive.own.link_of", target)
        remember("additive.own.link", guessed_link)
    link = st.segmented_control(
        "Link $g$",
        LINKS,
        format_func=LINK_TITLES.get,
        key="additive.own.link",
        required=True,
        help="The scale on which effects add up.",
    )
    choices = Choices(target, pictures, tuple(features), link)
    try:
        own_data.check_choices(table, choices)
    except PrismError as error:
        refused(error.sentence)
        return None
    return choices


def _select(label: str, names: list[str], first: str, name: str) -> str:
    key = f"additive.own.{name}"
    begin(key, first)
    if recall(key) not in names:
        remember(key, first)
    return st.selectbox(label, names, key=key)


# ----------------------------------------------------------------- rows
def encoder_side() -> int:
    """Pixels that the pictures are brought to: what the chosen encoder sees."""
    return own_store.find_encoder(recall("additive.own.encoder", "short")).side


def _read(table: Table, files: PictureFiles, choices: Choices) -> Pictures | None:
    """The pictures that the rows name, read once for each table, archive and column."""
    side = encoder_side()
    what = (table.id, recall("additive.own.pictures_seen"), choices.pictures, side)
    known = recall("additive.own.read")
    if known is not None and known[0] == what:
        return known[1]
    names = own_data.picture_names(table, files, choices)
    bar, pictures = st.progress(0.0, text="Reading pictures"), None
    try:
        for seen, found in archives.read_pictures(files, names, side, choices.pictures):
            bar.progress(min(1.0, seen / max(len(names), 1)), text=f"Reading pictures: {seen:,} of {len(names):,} rows")
            pictures = found or pictures
    except PrismError as error:
        refused(error.sentence)
        return None
    finally:
        bar.empty()
    remember("additive.own.read", (what, pictures))
    return pictures


def _join(table: Table, pictures: Pictures, choices: Choices) -> Own | None:
    """The data set, once every row can be used or the others may go."""
    leave_out = bool(recall("additive.own.leave_out", False))
    name = str(recall("additive.own.name", "own"))
    try:
        dataset, problems = own_data.join(table, pictures, choices, leave_out, name)
    except PrismError as error:
        dataset, problems = None, ()
        refused(error.sentence)
        if not leave_out:
            return None
    if problems or leave_out:
        _list_problems(problems, len(table))
    left_out = len({problem.row for problem in problems})
    if dataset is not None:
        without = f"; {left_out:,} left out" if left_out else ""
        st.caption(f":material/check: {len(dataset):,} rows can be used{without}.")
    return Own(table, choices, dataset, left_out)


def _list_problems(problems: Sequence[RowProblem], n_rows: int) -> None:
    """Every row that cannot be used, and the consent to leave them out."""
    rows = {problem.row for problem in problems}
    if rows:
        st.markdown(f"**{len(rows):,} of {n_rows:,} rows cannot be used** as they are:")
        st.dataframe(
            [
                {"Row": problem.row, "Column": problem.column, "Why": problem.sentence}
                for problem in problems[:PROBLEMS_SHOWN]
            ],
            hide_index=True,
            height=min(36 * (len(problems) + 1), 250),
        )
        if len(problems) > PROBLEMS_SHOWN:
            st.caption(f"… and {len(problems) - PROBLEMS_SHOWN:,} more.")
    begin("additive.own.leave_out", False)
    st.checkbox(
        f"Leave these {len(rows):,} rows out" if rows else "Rows that cannot be used may be left out",
        key="additive.own.leave_out",
        help="Or correct them in the files and choose these again. Nothing is filled in.",
    )
