"""What the pages cost, on the real process with a real browser: `python -m tests.benchmarks.pages`.

- start: seconds from the command to the first healthy answer (imports of the server);
- first picture: seconds from the first visit of a fresh server to the example on screen, torch and all;
- warm rerun: server milliseconds of a rerun whose results are all stored (median and worst of several);
- resident memory of the process after the page was used.
"""

import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from playwright.sync_api import Page, sync_playwright

from tests.conftest import find_chromium, running_app
from tests.visiting import settle

RERUNS = 10
ADDRESS = "path-attribution"


def wait_for_maps(page: Page) -> None:
    page.locator("canvas").first.wait_for(timeout=120_000)
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
    )


def reruns(log: Path) -> list[float]:
    """Milliseconds of every rerun of the page that the server has logged."""
    return [float(ms) for ms in re.findall(rf"rerun {ADDRESS} ([\d.]+) ms", log.read_text())]


def server_process(url: str) -> psutil.Process:
    port = int(url.rsplit(":", 1)[1])
    for process in psutil.Process().children(recursive=True):
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in process.net_connections()):
            return process
    raise RuntimeError("the server's process was not found")


def measure() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        home = Path(folder)
        started = time.perf_counter()
        with running_app(home, PRISM_LOG_RERUNS="1") as url:
            start_s = time.perf_counter() - started
            browser = playwright.chromium.launch(
                executable_path=find_chromium(),
                args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            )
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            visited = time.perf_counter()
            page.goto(f"{url}/{ADDRESS}")
            page.locator("canvas").first.wait_for(timeout=120_000)
            first_picture_s = time.perf_counter() - visited
            wait_for_maps(page)
            before = len(reruns(home / "app.log"))
            for _ in range(RERUNS):
                settle(page)  # the key is not heard while a rerun is under way
                page.keyboard.press("r")  # Streamlit's own shortcut: rerun with everything as it is
                deadline = time.monotonic() + 20
                seen = len(reruns(home / "app.log"))
                while len(reruns(home / "app.log")) == seen and time.monotonic() < deadline:
                    page.wait_for_timeout(50)
            warm = reruns(home / "app.log")[before:]
            new_visitor = browser.new_context().new_page()
            visited = time.perf_counter()
            new_visitor.goto(f"{url}/{ADDRESS}")
            new_visitor.locator("canvas").first.wait_for(timeout=120_000)
            warm_picture_s = time.perf_counter() - visited
            resident = server_process(url).memory_info().rss
            browser.close()
    return {
        "start_s": round(start_s, 2),
        "first_picture_s": round(first_picture_s, 2),
        "warm_picture_s": round(warm_picture_s, 2),
        "warm_reruns": len(warm),
        "warm_rerun_median_ms": round(statistics.median(warm), 1),
        "warm_rerun_worst_ms": round(max(warm), 1),
        "resident_mb": round(resident / 2**20),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
