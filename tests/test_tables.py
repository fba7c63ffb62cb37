"""Tables and pictures of a user's own: what spreadsheets write is read, what cannot be used is told by row."""

import io
import stat
import zipfile
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.archives import fit_square, open_archive, open_folder, read_pictures
from backend.errors import BadInput
from backend.images import encode_png
from backend.limits import LIMITS
from backend.tables import KINDS, missing_rows, read_table

ROWS = [("small", "1.5", "2024-01-01", "a.png"), ("large", "2.5", "2024-01-03", "b.png"), ("small", "4", "", "c.png")]


def as_csv(rows, header=("size", "weight", "since", "picture"), separator=",") -> bytes:
    return "\n".join(separator.join(row) for row in (header, *rows)).encode()


def picture(value: float = 0.5, side: int = 8) -> bytes:
    return encode_png(np.full((side, side, 3), value))


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def all_pictures(data: bytes, names, side: int = 4):
    return [pictures for _, pictures in read_pictures(open_archive(data), names, side, "picture")][-1]


# ----------------------------------------------------------------- tables
def test_kinds_are_guessed():
    table = read_table(as_csv(ROWS * 4))
    assert [column.kind for column in table.columns] == ["category", "number", "date", "file"]
    assert table.column("since").n_missing == 4
    np.testing.assert_array_equal(table.numbers("weight")[:3], [1.5, 2.5, 4.0])
    np.testing.assert_array_equal(table.numbers("since")[:3], [0.0, 2.0, np.nan])
    codes, names = table.categories("size")
    assert names == ("small", "large") and codes[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_spreadsheets_separators_and_encodings(separator, encoding):
    text = separator.join(("größe", "b")) + "\n" + "\n".join(separator.join(("ä", str(i))) for i in range(5))
    table = read_table(text.encode(encoding))
    assert [column.name for column in table.columns] == ["größe", "b"]
    assert table.numbers("b").tolist() == [0, 1, 2, 3, 4] and table.column("größe").kind == "unused"


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (("1,5", "2,25", "-3,0"), (1.5, 2.25, -3)),
        (("1.234,5", "2.000,0", "7,1"), (1234.5, 2000, 7.1)),
        (("1,234.5", "2,000.0", "7.1"), (1234.5, 2000, 7.1)),
        (("$1,200", "$95", "$1,000,000"), (1200, 95, 1_000_000)),
        (("12%", "5 %", "100%"), (12, 5, 100)),
        (("1e3", "2E-2", "-.5"), (1000, 0.02, -0.5)),
    ],
)
def test_numbers_as_people_write_them(cells, expected):
    table = read_table(as_csv([(cell, str(i)) for i, cell in enumerate(cells)], ("a", "b"), ";"))
    np.testing.assert_allclose(table.numbers("a"), expected)


@pytest.mark.parametrize(
    ("cells", "days"),
    [
        (("01.02.2024", "03.02.2024"), (0, 2)),
        (("02/13/2024", "02/14/2024"), (0, 1)),
        (("2024-01-31", "2024-02-01"), (0, 1)),
    ],
)
def test_dates_become_days(cells, days):
    table = read_table(as_csv([(cell, str(i)) for i, cell in enumerate(cells)], ("day", "b"), ";"))
    assert table.column("day").kind == "date"
    np.testing.assert_array_equal(table.numbers("day"), days)


def test_what_cannot_be_a_feature_says_why():
    rows = [(f"name {i}", "same", "", str(i)) for i in range(200)]
    table = read_table(as_csv(rows, ("name", "constant", "empty", "x")))
    assert {c.name: c.kind for c in table.columns} == {
        "name": "unused", "constant": "unused", "empty": "unused", "x": "number",
    }  # fmt: skip
    assert "names, not categories" in table.column("name").why
    assert "'same'" in table.column("constant").why and "missing" in table.column("empty").why


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "empty"),
        (b"a,b\n1,2\n", "1 row"),
        (b"1,2\n3,4\n5,6\n", "put a header above"),
        (b"a,a\n1,2\n3,4\n", "two columns are called 'a'"),
        (b"a,b\n1,2\n3\n", "line 3 has 1 cells"),
        (b"PAR1 no more", "cannot be read"),
        (b"\x89PNG\r\n\0\0", "not a CSV or Parquet"),
        (b"\xff\xfea", "damaged"),
        (b"\n\n", "no rows"),
    ],
)
def test_bad_tables_get_one_sentence(data, sentence):
    with pytest.raises(BadInput, match=sentence) as error:
        read_table(data)
    assert error.value.field == "table"


def test_too_many_rows_and_bytes_are_refused():
    with pytest.raises(BadInput, match="more than 2 rows"):
        read_table(as_csv(ROWS), replace(LIMITS, max_rows=2))
    with pytest.raises(BadInput, match="tables up to"):
        read_table(as_csv(ROWS), replace(LIMITS, max_upload_bytes=10))


def test_a_million_rows_get_one_sentence_that_says_how_many_may_be():
    with pytest.raises(BadInput, match=f"more than {LIMITS.max_rows:,} rows"):
        read_table(b"a,b\n" + b"1,2\n" * 1_000_000)


def test_parquet_and_csv_give_the_same_table(tmp_path):
    frame = pd.DataFrame({"a": [1.5, None, 2.0, 9.0], "b": ["x", "y", None, "x"], "c": [1, 2, 3, 4]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table((tmp_path / "t.parquet").read_bytes())
    other = read_table(frame.to_csv(index=False).encode())
    assert table.columns == other.columns
    np.testing.assert_array_equal(table.numbers("a"), other.numbers("a"))


def test_hostile_cells_stay_text():
    rows = [('=HYPERLINK("x")', "<script>1</script>"), ("+cmd", "b"), ("@sum", "b")] * 2
    text = io.StringIO()
    pd.DataFrame(rows, columns=["<b>x</b>", "y\x07"]).to_csv(text, index=False)
    table = read_table(text.getvalue().encode())
    assert [column.name for column in table.columns] == ["<b>x</b>", "y"]
    assert table.cells["<b>x</b>"].iloc[0] == '=HYPERLINK("x")'


def test_rows_that_cannot_be_used_are_listed():
    table = read_table(b"a,b\n1,x\n?,y\n3,\noops,x\n" + b"5,y\n" * 40)
    assert [(p.row, p.sentence) for p in missing_rows(table, ("a", "b"))] == [
        (2, "a is missing"),
        (3, "b is missing"),
        (4, "a is 'oops'; expected a number"),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_guess_can_be_changed(kind):
    table = read_table(as_csv(ROWS)).with_kind("size", kind)
    assert table.column("size").kind == kind
    with pytest.raises(BadInput, match="no column 'nowhere'"):
        table.with_kind("nowhere", kind)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_sentence(data):
    try:
        table = read_table(data)
    except BadInput as error:
        assert error.sentence
    else:
        for column in table.columns:
            assert len(table.numbers(column.name)) == len(table)


# ----------------------------------------------------------------- pictures
def test_pictures_are_found_by_path_name_and_stem():
    data = archive({"in/a.png": picture(0.0), "in/b.PNG": picture(1.0), "notes.txt": b"x"})
    pictures = all_pictures(data, ["in/a.png", "b.PNG", "a", "https://host/x/b.PNG", "c.png", None])
    assert pictures.rows.tolist() == [0, 1, 2, 3]
    assert pictures.pixels.shape == (4, 4, 4, 3) and pictures.pixels[:, 0, 0, 0].tolist() == [0, 255, 0, 255]
    assert [(p.row, p.sentence) for p in pictures.problems] == [
        (5, "there is no picture 'c.png'"),
        (6, "the name is missing"),
    ]


def test_one_name_for_two_pictures_and_damaged_ones_are_told_by_row():
    data = archive({"x/a.png": picture(), "y/a.png": picture(), "bad.png": b"\x89PNG no", "ok.png": picture(side=31)})
    pictures = all_pictures(data, ["a.png", "x/a.png", "bad.png", "ok.png"])
    assert pictures.rows.tolist() == [1, 3]
    assert "2 pictures are called 'a.png'" in pictures.problems[0].sentence
    assert pictures.problems[1].row == 3


def _link() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        entry = zipfile.ZipInfo("a.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"no zip", "not a zip"),
        (archive({"../a.png": b""}), "outside"),
        (archive({"/a.png": b""}), "outside"),
        (archive({"C:\\a.png": b""}), "outside"),
        (archive({"a.txt": b""}), "no picture"),
        (archive({"a.png": bytes(9_000_000)}, zipfile.ZIP_DEFLATED), "would unpack to"),
        (_link(), "link"),
    ],
    ids=["no zip", "dots", "root", "drive", "no picture", "bomb", "link"],
)
def test_bad_archives_are_refused_before_unpacking(data, sentence):
    with pytest.raises(BadInput, match=sentence) as error:
        open_archive(data, replace(LIMITS, max_unpacked_bytes=8_000_000))
    assert error.value.field == "images"


def test_a_folder_is_read_and_left_by_no_link(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()
    (inside / "a.png").write_bytes(picture())
    (outside / "b.png").write_bytes(picture())
    (inside / "b.png").symlink_to(outside / "b.png")
    files = open_folder(inside)
    assert files.paths == ("a.png",) and files.read("a.png") == picture()
    with pytest.raises(BadInput, match="no folder"):
        open_folder(tmp_path / "nowhere")


def test_fit_square_takes_the_middle():
    pixels = np.zeros((4, 8, 1), np.float32)
    pixels[:, 2:6] = 1
    np.testing.assert_array_equal(fit_square(pixels, 4), 255)
