"""Files, links and lines that people take away: escaped, complete, and read back equal."""

import csv
import io
import json

import numpy as np
import pytest

from backend.catalog import METHODS
from backend.contracts import AttributionRequest, Provenance, Result
from backend.errors import BadInput
from pages.path.settings import Settings, read_query
from pages.shared import exports
from pages.shared.controls import read_param, write_param
from pages.shared.exports import Column, Report
from pages.shared.figures import DELETION_AXES, Curve, Display, Panel, line_style
from pages.shared.tables import best_value, table_html

EVIL = '<script>alert("x")</script>'
REQUEST = AttributionRequest(
    "a" * 64, "digits-gap", "samp++", 3, params=METHODS["samp++"].complete_params({"eta": 0.05})
)
RESULT = Result(
    REQUEST,
    {"attribution": np.arange(12, dtype=np.float32).reshape(1, 3, 4)},
    {"target": 3, "label": EVIL},
    {"relative_gap": 0.01},
    "logit",
    Provenance(model_digest="d" * 64, notes=(EVIL,)),
)
COLUMNS = [Column("name", "Method"), Column("gap", "Gap", "lower", 'so "called"')]


def test_csv_holds_numbers_and_no_formulas():
    rows = [{"name": "=1+1", "gap": -0.5}, {"name": "IG", "gap": None}]
    cells = list(csv.reader(io.StringIO(exports.metrics_csv(COLUMNS, rows).decode())))
    assert cells == [["Method", "Gap"], ["'=1+1", "-0.5"], ["IG", ""]]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formula_starts_are_guarded(start):
    assert exports.guard_cell(f"{start}cmd") == f"'{start}cmd"


def test_npz_comes_back_without_pickles():
    data = exports.results_npz(np.zeros((3, 4, 1)), [RESULT])
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert (file["samp++"] == RESULT.arrays["attribution"]).all()
        assert json.loads(str(file["manifests"]))["samp++"]["request"]["params"]["eta"] == 0.05


def test_the_report_needs_nothing_and_runs_nothing():
    x = np.linspace(0, 1, 5)
    report = Report(
        title=EVIL,
        image=np.zeros((3, 4, 1)),
        description=EVIL,
        panels=[Panel("samp++", EVIL, np.ones((3, 4), np.float32), unit=EVIL, caption=EVIL)],
        display=Display(),
        columns=COLUMNS,
        rows=[{"name": EVIL, "gap": 0.25}],
        curves=[(DELETION_AXES, [Curve("samp++", EVIL, line_style(0), x, x, 0.5)])],
        settings={"Label": EVIL},
        results=[RESULT],
        python=EVIL,
        notes=[EVIL],
    )
    text = exports.html_report(report).decode()
    assert "<script" not in text and "src='http" not in text and 'href="http' not in text.replace("www.w3.org", "")
    assert "default-src 'none'" in text and "data:image/png;base64" in text and "<svg" in text
    assert "d" * 64 in text and "0.250" in text


@pytest.mark.parametrize(("outline", "count"), [(True, 2), (False, 0)])
def test_the_object_is_outlined_in_the_report(outline, count):
    """On the image and on the map, at the pixels' own places."""
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    panels, display = [Panel("ig", "IG", np.ones((3, 4), np.float32))], Display(outline=outline)
    rest = dict(columns=COLUMNS, rows=[], curves=[], settings={}, results=[RESULT], python="")
    text = exports.html_report(Report("T", np.zeros((3, 4, 1)), "", panels, display, mask=mask, **rest)).decode()
    assert text.count("d='M2 1h1M2 2h1M2 1v1M3 1v1'") == text.count("outline of the object") == count


def test_python_lines_are_python_and_name_what_was_changed():
    text = exports.python_lines([REQUEST], "digit-7")
    compile(text, "lines", "exec")
    assert "params=(('eta', 0.05),)" in text and "example_bytes('digit-7')" in text
    assert "open('mine.png', 'rb')" in exports.python_lines([REQUEST], None, "mine.png")


def test_an_address_brings_back_the_settings():
    settings = Settings(
        model="digits-fc",
        example="digit-7",
        target=0,
        baselines=("black", "blur:2.5"),
        methods=("samp++", "rise"),
        params=(("samp++", (("eta", None), ("w", 0.25))), ("rise", (("samples", 100),))),
        seed=7,
        replacement="mean",
        score="probability",
        display=Display(view="map", clip=95.0, outline=False),
    )
    back, refusals = read_query(settings.to_query())
    assert back == settings and not refusals


def test_the_default_address_is_short():
    assert Settings().to_query() == {}


@pytest.mark.parametrize(
    ("query", "control", "words"),
    [
        ({"methods": "ig,nope"}, "methods", "unknown method 'nope'"),
        ({"seed": "-1"}, "seed", "whole number"),
        ({"baselines": "blur:0"}, "baselines", "unknown baseline"),
        ({"score": "best"}, "score", "ratio"),
        ({"ig.n_steps": "1e9"}, "ig.n_steps", "1..1000"),
        ({"ig.n_steps": "many"}, "ig.n_steps", "whole number"),
        ({"ig.depth": "1"}, "ig.depth", "no parameter"),
        ({"target": "top"}, "target", "whole number"),
    ],
)
def test_what_an_address_gets_wrong_is_said_beside_its_control(query, control, words):
    settings, refusals = read_query(query)
    assert settings == Settings() and words in refusals[control]


def test_parameters_are_written_and_read_alike():
    for spec in METHODS.values():
        for param in spec.params:
            assert read_param(param, write_param(param.default)) == pytest.approx(param.default)
    with pytest.raises(BadInput, match="null"):
        read_param(METHODS["ig"].param("n_steps"), "auto")


def test_tables_are_escaped_and_mark_the_best():
    html = table_html(
        "T", COLUMNS, [{"name": EVIL, "gap": 0.2}, {"name": "IG", "gap": 0.1}, {"name": "x", "gap": None}]
    )
    assert "<script" not in html and "<td class='best'>0.100</td>" in html and "Gap ↓" in html
    assert best_value(Column("gap", "Gap", "higher"), [{"gap": 0.2}, {"gap": 0.1}]) == 0.2
