"""The scripts of the README's API part, run as they stand against a real server."""

import contextlib
import io
import re

import httpx
import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def scripts() -> list[str]:
    """The Python blocks of the part on the API, in order; each goes on where the one before ended."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text[text.index("\n## The API") :]
    return re.findall(r"```python\n(.*?)```", part[: part.index("\n## ", 4)], re.DOTALL)


def test_the_scripts_of_the_readme_run(app_url, scripts, monkeypatch):
    monkeypatch.chdir(ROOT)
    httpx.get(f"{app_url}/api/config", timeout=120)  # on a busy machine the first answer takes long
    said, names = io.StringIO(), {}
    with contextlib.redirect_stdout(said):
        for script in scripts:
            exec(compile(script.replace("http://localhost:8501", app_url), "README.md", "exec"), names)
    assert len(scripts) == 5
    assert "(1, 28, 28)" in said.getvalue() and "(5, 5, 64, 64, 3)" in said.getvalue()
