"""Fixtures for tests that need the real process or a real browser."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 240


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_app(home: Path, port: int, **environment: str) -> subprocess.Popen:
    """Start `streamlit run app.py` as a process of its own; its log is `home`/app.log."""
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address", "127.0.0.1"]
    with (home / "app.log").open("a") as output:
        return subprocess.Popen(
            [*command, "--server.port", str(port)],
            cwd=ROOT,
            env={**os.environ, "PRISM_HOME": str(home), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def await_app(process: subprocess.Popen, home: Path, port: int) -> str:
    """Wait until a started app answers; returns its address."""
    url, log = f"http://127.0.0.1:{port}", home / "app.log"
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert process.poll() is None, f"the app ended: {log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"the app did not start: {log.read_text()[-2000:]}"
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/_stcore/health", timeout=1).status_code == 200:
                return url
        time.sleep(0.2)


@contextlib.contextmanager
def running_app(home: Path, **environment: str) -> Iterator[str]:
    """`streamlit run app.py` as a process of its own; yields its address."""
    port = free_port()
    process = start_app(home, port, **environment)
    try:
        yield await_app(process, home, port)
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="session")
def app_url(tmp_path_factory) -> Iterator[str]:
    """One running app for all tests that can share it."""
    with running_app(tmp_path_factory.mktemp("home")) as url:
        yield url


@pytest.fixture
def fresh_app(tmp_path) -> Iterator[str]:
    """An app that nobody has visited yet."""
    with running_app(tmp_path) as url:
        yield url


def find_chromium() -> str | None:
    """A Chromium on the PATH, or None for Playwright's own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """This process computes on one thread: the last bits of a sum depend on their number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium. Finding none fails where PRISM_REQUIRE_BROWSER is set, and is said loudly elsewhere."""
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(
                executable_path=find_chromium(),
                args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
            )
        except Error as error:
            message = "NO BROWSER: install Chromium or run `playwright install chromium`; the pages were NOT tested"
            if os.environ.get("PRISM_REQUIRE_BROWSER"):
                pytest.fail(f"{message} ({error})")
            pytest.skip(message)
        yield launched
        launched.close()


@pytest.fixture
def visitor(browser):
    """A fresh browser page of laptop size; its console errors fail the test at the end."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert not errors, f"the page threw: {errors}"
