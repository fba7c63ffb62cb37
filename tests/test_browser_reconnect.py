"""kill -9 of the server under an open page: the page comes back by itself, and finds its results and its job again.

What goes on without a browser is in tests/test_kill.py.
"""

import re

import pytest
from gradio_client import Client
from playwright.sync_api import Page, expect

from backend.images import encode_png
from backend.jobs import ENDED, JobQueue
from tests.conftest import await_app, free_port, start_app
from tests.helpers import random_images
from tests.test_kill import ARGS, JOB_S, TEXT, measured, on_disk
from tests.visiting import settle
from tests.waiting import wait_until

pytestmark = pytest.mark.browser
SMALL = {**ARGS, "model": "digits-fc", "n": 2}
LARGE = {**ARGS, "n": 160}  # still under way when the page looks


def open_table(page: Page) -> None:
    page.locator("canvas").first.wait_for(timeout=120_000)
    page.get_by_role("tab", name="The table").click()


@pytest.mark.timeout(600)
def test_a_page_finds_its_server_its_results_and_its_job_again(visitor, tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(), temporary.mkdir()
    environment = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    inputs = {"picture": encode_png(random_images(28, 28, 1, seed=3).numpy()), "report": TEXT.encode()}
    queue, port = JobQueue(home / "jobs"), free_port()
    visitor.set_default_timeout(180_000)

    process = start_app(home, port, **environment)
    try:
        url = await_app(process, home, port)
        visitor.goto(f"{url}/path-attribution?model=digits-gap")
        visitor.locator("input[type=file]").first.set_input_files(
            {"name": "mine.png", "mimeType": "image/png", "buffer": inputs["picture"]}
        )
        open_table(visitor)
        settle(visitor)
        client = Client(f"{url}/api", verbose=False)
        done, running = (client.predict("evaluate", args, api_name="/submit_job")["id"] for args in (SMALL, LARGE))
        visitor.get_by_role("tab", name="How to read this").click()
        visitor.get_by_role("tab", name="The table").click()  # a job of somebody else is found when the page is drawn
        watched = visitor.get_by_text(re.compile("Evaluating digits-gap"))
        expect(watched).to_be_visible(timeout=120_000)
        wait_until(lambda: queue.status(done).state in ENDED, "the end of the small job", JOB_S)
        wait_until(lambda: measured(queue.folder / running)["done"] >= 20, "the first checkpoint", JOB_S)
    finally:
        process.kill()
        process.wait()
    assert queue.status(done).state == "done" and queue.status(running).state == "running"
    half = queue.folder / running / f".job.json.{process.pid}.1.part"
    half.write_text('{"half": ')
    assert on_disk(tmp_path, inputs) == []

    process = start_app(home, port, **environment)
    try:
        await_app(process, home, port)
        finished = visitor.get_by_text(re.compile(f"digits-gap: mean ± standard deviation, {LARGE['n']} test images"))
        assert not half.exists()
        wait_until(lambda: queue.status(running).state in ENDED, "the end of the job", JOB_S)
        assert queue.status(running).state == "done"
        expect(finished).to_be_visible(timeout=120_000)  # nobody reloads; the address says which tab is open
        visitor.goto(f"{url}/path-attribution?model=digits-fc")
        open_table(visitor)
        expect(visitor.get_by_text(re.compile("digits-fc: mean ± standard deviation, 2 test images"))).to_be_visible()
        settle(visitor)
        assert on_disk(tmp_path, inputs) == []
    finally:
        process.terminate()
        process.wait(timeout=30)
