"""The command line: the stable door for scripts, spelled as the design has it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from backend import jobs
from backend.__main__ import main
from backend.catalog import DECODERS, NAIMS, PAIRS, ROWS_OF
from backend.contracts import Result
from backend.images import encode_png

ROOT = Path(__file__).parent.parent


@dataclass
class Answer:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def prism(capsys, tmp_path, monkeypatch) -> Callable[..., Answer]:
    """The command line in this process: torch is imported once for all cases."""
    monkeypatch.setattr(jobs, "default_queue", lambda: jobs.JobQueue(tmp_path / "jobs"))

    def call(*arguments: str) -> Answer:
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


@pytest.fixture
def digit(tmp_path) -> Path:
    strokes = np.zeros((28, 28, 1))
    strokes[4:24, 12:16] = 1.0
    (tmp_path / "digit.png").write_bytes(encode_png(strokes))
    return tmp_path


def write_request(folder: Path, **changes) -> str:
    body = {
        "family": "path_attribution",
        "method": "samp++",
        "model": "digits-gap",
        "image": "digit.png",
        "target": None,
        "baseline": "black",
        "params": {},
        "seed": 0,
        **changes,
    }
    path = folder / "request.json"
    path.write_text(json.dumps(body))
    return str(path)


def test_the_module_runs_as_a_program(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "backend", "run", str(tmp_path / "nothing.json"), "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 2 and answer.stderr.startswith("prism: request: cannot read")


def test_methods_are_listed(prism):
    rows = json.loads(prism("methods", "--json").stdout)
    assert [row["key"] for row in rows] == [key for specs in ROWS_OF.values() for key in specs]
    assert {"name", "kind", "default", "low", "high", "help"} <= rows[0]["params"][0].keys()


def test_models_are_listed(prism):
    rows = {row["key"]: row for row in json.loads(prism("models", "--json").stdout)}
    assert {row["source"] for row in rows.values()} >= {"embedded", "hub"}
    assert rows["balls-l-additive"]["task"] == "additive_decoding" and rows.keys() >= {*DECODERS, *PAIRS, *NAIMS}


def test_run_writes_a_result_that_comes_back(prism, digit):
    answer = prism("run", write_request(digit), "--out", str(digit / "out"))
    assert answer.returncode == 0, answer.stderr
    result = Result.load(digit / "out")
    manifest = json.loads((digit / "out" / "manifest.json").read_text())
    with np.load(digit / "out" / "result.npz") as file:
        assert file["attribution"].shape == (1, 28, 28)
    assert manifest["unit"] == "logit" and manifest["forward_passes"] > 0 and manifest["backward_passes"] > 0
    assert manifest["quality"]["completeness_gap"] < 1e-4
    assert manifest["request"]["method"] == "samp++" and result.request.method == "samp++"
    assert {"model_digest", "device", "elapsed_s"} <= manifest.keys()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "nothing"}, "method"),
        ({"model": "nothing"}, "model"),
        ({"image": "nothing.png"}, "image"),
        ({"target": 10}, "target"),
        ({"baseline": "purple"}, "baseline"),
        ({"params": {"eta": 2}}, "eta"),
        ({"seed": "x"}, "seed"),
        ({"family": "nothing"}, "family"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_errors_are_one_line_with_the_field_and_exit_code_2(prism, digit, changes, field):
    answer = prism("run", write_request(digit, **changes), "--out", str(digit / "out"))
    assert answer.returncode == 2
    assert answer.stderr.count("\n") == 1 and answer.stderr.startswith(f"prism: {field}: ")
    assert not (digit / "out").exists()


def test_a_request_that_is_no_json_is_told(prism, digit):
    (digit / "request.json").write_text("{")
    answer = prism("run", str(digit / "request.json"), "--out", str(digit / "out"))
    assert answer.returncode == 2 and "is not JSON" in answer.stderr


def test_evaluate_prints_a_table(prism):
    answer = prism(
        "evaluate", "path_attribution", "--model", "digits-gap", "--n", "4", "--methods", "ig,saliency", "--json"
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "ig" in json.dumps(json.loads(answer.stdout))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("evaluate", "nothing", "--model", "digits-gap"), "unknown family"),
        (("evaluate", "path_attribution", "--model", "nothing"), "prism: model: "),
        (("train", "nothing"), "nothing"),
    ],
)
def test_jobs_refuse_with_one_line(prism, arguments, sentence):
    answer = prism(*arguments)
    assert answer.returncode == 2 and sentence in answer.stderr and answer.stderr.count("\n") == 1
