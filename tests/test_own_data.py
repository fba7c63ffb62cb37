"""A user's table and pictures become a data set; nothing is left out without consent."""

import io
import zipfile

import numpy as np
import pytest

from backend.additive_image.own_data import Choices, check_choices, guess_choices, guess_link, join
from backend.archives import open_archive, read_pictures
from backend.errors import BadInput
from backend.images import encode_png
from backend.tables import read_table

N = 60


def rows() -> list[list[str]]:
    rng = np.random.default_rng(0)
    size, kind = rng.normal(size=N), rng.choice(["flat", "house"], N)
    return [[f"{size[i]:.3f}", kind[i], f"p{i}.png", f"{2 * size[i] + (kind[i] == 'house'):.3f}"] for i in range(N)]


def table_of(cells: list[list[str]], header=("size", "kind", "picture", "price")):
    return read_table("\n".join(",".join(row) for row in (list(header), *cells)).encode())


def pictures_of(table, names=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for i in range(N):
            file.writestr(f"in/p{i}.png", encode_png(np.full((6, 6, 3), i / N)))
    files = open_archive(buffer.getvalue())
    return [found for _, found in read_pictures(files, list(table.cells["picture"]), 4, "picture")][-1]


def test_everything_is_guessed_and_joined():
    table = table_of(rows())
    choices = guess_choices(table)
    assert choices == Choices("price", "picture", ("size", "kind"), "identity")
    dataset, problems = join(table, pictures_of(table), choices)
    assert not problems and len(dataset) == N and dataset.images.shape == (N, 4, 4, 3)
    assert dataset.columns[1].categories and dataset.response_name == "price"
    kinds = np.array(dataset.columns[1].categories)[dataset.table[:, 1].astype(int)]
    np.testing.assert_allclose(dataset.response, 2 * dataset.table[:, 0] + (kinds == "house"), atol=2e-3)
    np.testing.assert_array_equal(dataset.images[:, 0, 0, 0], np.round(np.arange(N) / N * 255))


def test_bad_rows_are_listed_and_go_only_with_consent():
    cells = rows()
    cells[3][0], cells[5][2], cells[7][3] = "", "nowhere.png", "dear"
    table = table_of(cells)
    choices, pictures = guess_choices(table_of(rows())), pictures_of(table)
    dataset, problems = join(table, pictures, choices)
    assert dataset is None
    assert [(p.row, p.sentence) for p in problems] == [
        (4, "size is missing"),
        (6, "there is no picture 'nowhere.png'"),
        (8, "price is 'dear'; expected a number"),
    ]
    dataset, _ = join(table, pictures, choices, leave_out=True)
    assert len(dataset) == N - 3 and dataset.images[4, 0, 0, 0] == np.round(6 / N * 255)


@pytest.mark.parametrize(
    ("values", "link"),
    [(["yes", "no"], "logit"), (["0", "1"], "logit"), (["0", "3", "7", "1"], "log"), (["1.5", "2", "-3"], "identity")],
)
def test_links_are_guessed(values, link):
    cells = [[*row[:3], values[i % len(values)]] for i, row in enumerate(rows())]
    assert guess_link(table_of(cells), "price") == link


def test_a_two_valued_text_is_a_response():
    cells = [[*row[:3], ("no", "yes")[i % 2]] for i, row in enumerate(rows())]
    table = table_of(cells)
    dataset, problems = join(table, pictures_of(table), Choices("price", "picture", ("size",), "logit"))
    assert not problems
    np.testing.assert_array_equal(dataset.response, np.arange(N) % 2)


@pytest.mark.parametrize(
    ("choices", "field", "sentence"),
    [
        (Choices("price", "picture", ()), "features", "0 columns"),
        (Choices("price", "picture", ("price",)), "features", "chosen twice"),
        (Choices("cost", "picture", ("size",)), "columns", "no column 'cost'"),
        (Choices("price", "picture", ("size",), "cube"), "link", "unknown link"),
        (Choices("price", "size", ("picture",)), "features", "cannot explain"),
    ],
)
def test_bad_choices_get_one_sentence(choices, field, sentence):
    with pytest.raises(BadInput, match=sentence) as error:
        check_choices(table_of(rows()), choices)
    assert error.value.field == field


def test_a_constant_and_an_empty_column_explain_nothing_whatever_they_are_called():
    table = table_of(
        [[*row[:2], *row[2:], "same", ""] for row in rows()], ("size", "kind", "picture", "price", "c", "e")
    )
    for name, sentence in (("c", "has the same value in every row"), ("e", "has the same value|cannot explain")):
        changed = table.with_kind(name, "category")
        with pytest.raises(BadInput, match=sentence):
            check_choices(changed, Choices("price", "picture", (name,)))


def test_too_few_rows_are_refused():
    table = table_of(rows()[:20])
    with pytest.raises(BadInput, match="20 rows can be used"):
        join(table, pictures_of(table), guess_choices(table))
