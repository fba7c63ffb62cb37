"""Limits from one file and the environment; what is set wrongly is one sentence at the start."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from backend.errors import BadInput
from backend.limits import MIB, Limits

ROOT = Path(__file__).parent.parent


def read(tmp_path: Path, text: str, **environment: str) -> Limits:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return Limits.read({"PRISM_LIMITS": str(path), **environment})


def test_a_file_changes_what_it_names(tmp_path):
    limits = read(tmp_path, "max_rows = 1_000\nmax_request_s = 5\n")
    assert (limits.max_rows, limits.max_request_s) == (1000, 5.0)
    assert limits.max_upload_bytes == Limits().max_upload_bytes


def test_the_environment_wins(tmp_path):
    assert read(tmp_path, "max_rows = 1_000\n", PRISM_MAX_ROWS="7").max_rows == 7


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_rowz = 5", "there is no limit 'max_rowz'"),
        ("max_rows = '5'", "max_rows is '5'; expected a whole number"),
        ("max_rows = 5.5", "expected a whole number"),
        ("max_rows = true", "max_rows is True"),
        ("max_rows = 0", "above zero"),
        ("max_request_s = nan", "above zero"),
        ("[max_rows]\nx = 1", "expected a whole number"),
        ("max_rows = ", "is not TOML"),
    ],
)
def test_what_is_set_wrongly_is_refused(tmp_path, text, sentence):
    with pytest.raises(BadInput, match=sentence):
        read(tmp_path, text)


def test_a_variable_that_is_no_number_is_refused():
    with pytest.raises(BadInput, match="max_rows is 'many'"):
        Limits.read({"PRISM_MAX_ROWS": "many"})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        Limits.read({"PRISM_LIMITS": str(tmp_path / "nothing.toml")})


def test_the_process_ends_at_its_start_with_the_sentence():
    answer = subprocess.run(
        [sys.executable, "-c", "import backend.limits"],
        cwd=ROOT,
        env={**os.environ, "PRISM_MAX_ROWS": "-1"},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert answer.stderr == "prism: the limit max_rows is -1; expected a whole number above zero\n"


def test_what_the_pages_take_and_what_the_guard_lets_through_agree():
    """The front end has a limit of its own for uploads, in its own file."""
    front_end = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())["server"]["maxUploadSize"] * MIB
    limits = Limits()
    assert max(limits.max_weights_bytes, limits.max_archive_bytes) <= front_end < limits.max_page_body_bytes
