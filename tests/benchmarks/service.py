"""What many people at once cost the engine: `python -m tests.benchmarks.service`.

- throughput: 16 sessions, each with its own pictures and with examples that everybody looks at, against the same
  questions asked one after the other by one session; both in turns on engines with empty stores and loaded models,
  medians of several rounds (bar: ratio at least .9);
- starvation: the longest wait of a fresh request over the median wait (reported);
- cached hits: 95th percentile of the wait for a stored answer while others compute (bar: under 200 ms), in the engine
  and over HTTP on the real process;
- fairness: fifteen visitors, alone and beside one with eight pages that ask all the time: how much longer the median
  of the fifteen waits, between 16/15 (the greedy has one share) and 23/15 (first come, first served);
- company: what batching across people gains, see `company` (bar: SAMP at least 2);
- memory of the real process: per browser session at rest on a page, and after every page was used with the embedded
  models in a real browser (bar: under 2.5 GB).

`--only throughput`, `fairness`, `company` or `process` measures one of them.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from backend.contracts import AttributionRequest, DecodingRequest, PredictionRequest, Request
from backend.runtime import Runtime
from backend.service import LocalService
from tests.benchmarks import company
from tests.benchmarks.visitors import PAGES, as_text, page_visitor, picture, post, resident_mb, server_process
from tests.conftest import find_chromium, running_app
from tests.visiting import settle

SESSIONS = 16
QUESTIONS = 12  # of each session; every second is one that everybody asks
ROUNDS = 5
FAIRNESS_ROUNDS = 3
GREEDY_PAGES = 8
HELD_SESSIONS = 12  # browser sessions whose memory is measured
COMPANY_ROUNDS = 5
BARS = {"throughput_ratio": 0.9, "samp_together": 2.0, "cached_p95_ms": 200, "resident_mb": 2560}


@dataclass
class Waits:
    """Seconds that each question waited for its answer, by whether the answer was there already."""

    cached_s: list[float] = field(default_factory=list)
    fresh_s: list[float] = field(default_factory=list)

    def add(self, is_cached: bool, elapsed_s: float) -> None:
        (self.cached_s if is_cached else self.fresh_s).append(elapsed_s)


def quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


# ----------------------------------------------------------------- the work
def known_questions(service: LocalService) -> list[Request]:
    """What everybody looks at; it is answered before a round begins."""
    image = service.put_image(picture(0)).id
    return [
        AttributionRequest(image, "digits-gap", "ig", target=1, params=(("n_steps", 20),)),
        AttributionRequest(image, "digits-gap", "samp++", target=1),
        PredictionRequest(image, "digits-gap"),
        DecodingRequest("balls-l-additive", grid=(5, 5)),
    ]


def questions_of(service: LocalService, session: int, round_: int) -> list[tuple[bool, Request]]:
    """One session's questions in order: (stored already?, request). Fresh ones are about pictures of its own."""
    known, found = known_questions(service), []
    for number in range(QUESTIONS):
        if number % 2:
            found.append((True, known[(session + number) % len(known)]))
            continue
        image = service.put_image(picture(1 + session + 100 * number + 10_000 * round_)).id
        methods = (("ig", (("n_steps", 50),)), ("saliency", ()), ("grad-cam", ()), ("rise", (("samples", 400),)))
        method, params = methods[(session + number // 2) % len(methods)]
        found.append((False, AttributionRequest(image, "digits-gap", method, target=1, params=params, seed=round_)))
    return found


def fresh_engine(runtime: Runtime) -> LocalService:
    """An engine with empty stores whose models are loaded and whose common answers are there."""
    service = LocalService(runtime)
    for request in known_questions(service):
        service.run(request)
    return service


def ask_in_order(service: LocalService, asked: list[tuple[bool, Request]], session: str, waits: Waits) -> None:
    for is_cached, request in asked:
        began = time.perf_counter()
        service.run(request, lambda _: None, session=session)
        waits.add(is_cached, time.perf_counter() - began)


def together(workers: list[Callable[[], None]]) -> float:
    """Run them all at once; returns the seconds until the last is done."""
    start = threading.Barrier(len(workers) + 1)

    def work(worker: Callable[[], None]) -> None:
        start.wait()
        worker()

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


# ----------------------------------------------------------------- the engine
def measure_throughput() -> dict[str, Any]:
    runtime, ratios, waits, serial_waits = Runtime("cpu"), [], Waits(), Waits()
    rates = {"serial": [], "concurrent": []}
    for round_ in range(ROUNDS + 1):
        for kind in ("serial", "concurrent") if round_ % 2 else ("concurrent", "serial"):
            service = fresh_engine(runtime)
            asked = [questions_of(service, session, round_) for session in range(SESSIONS)]
            seen = Waits()
            if kind == "serial":
                one_after_the_other = [question for questions in asked for question in questions]
                workers = [lambda s=service, a=one_after_the_other, w=seen: ask_in_order(s, a, "alone.page", w)]
            else:
                workers = [
                    lambda s=service, a=a, n=n, w=seen: ask_in_order(s, a, f"visitor{n}.page", w)
                    for n, a in enumerate(asked)
                ]
            seconds = together(workers)
            if round_ == 0:
                continue  # warms up
            rates[kind].append(SESSIONS * QUESTIONS / seconds)
            into = serial_waits if kind == "serial" else waits
            into.cached_s += seen.cached_s
            into.fresh_s += seen.fresh_s
    ratios = [many / one for many, one in zip(rates["concurrent"], rates["serial"], strict=True)]
    return {
        "sessions": SESSIONS,
        "questions_a_session": QUESTIONS,
        "serial_per_s": round(statistics.median(rates["serial"]), 1),
        "concurrent_per_s": round(statistics.median(rates["concurrent"]), 1),
        "throughput_ratio": round(statistics.median(ratios), 3),
        "throughput_ratios": [round(ratio, 3) for ratio in ratios],
        "fresh_wait_median_ms": round(1000 * statistics.median(waits.fresh_s), 1),
        "fresh_wait_max_over_median": round(max(waits.fresh_s) / statistics.median(waits.fresh_s), 2),
        "cached_median_ms": round(1000 * statistics.median(waits.cached_s), 1),
        "cached_p95_ms": round(1000 * quantile(waits.cached_s, 0.95), 1),
        "cached_p95_ms_alone": round(1000 * quantile(serial_waits.cached_s, 0.95), 1),
    }


def measure_fairness() -> dict[str, Any]:
    """Fifteen modest visitors, and then the same beside one with eight pages open, each of which asks all the time."""
    runtime, waits = Runtime("cpu"), {"alone": [], "beside the greedy": []}
    for round_ in range(FAIRNESS_ROUNDS + 1):
        for kind, seconds in waits.items():
            service, modest, is_over = fresh_engine(runtime), Waits(), threading.Event()
            threads = [
                threading.Thread(target=_be_greedy, args=(service, page, round_, is_over))
                for page in range(GREEDY_PAGES * (kind != "alone"))
            ]
            for thread in threads:
                thread.start()
            workers = []
            for n in range(SESSIONS - 1):
                asked = [(False, request) for request in _equal_questions(service, 40 + n, 900 + round_)[:3]]
                workers.append(lambda s=service, a=asked, n=n, w=modest: ask_in_order(s, a, f"modest{n}.page", w))
            together(workers)
            is_over.set()
            for thread in threads:
                thread.join()
            if round_ > 0:  # the first warms up
                seconds.append(statistics.median(modest.fresh_s))
    alone, beside = waits.values()
    return {
        "modest_wait_median_ms": round(1000 * statistics.median(alone), 1),
        "modest_beside_greedy_ms": round(1000 * statistics.median(beside), 1),
        "slowdown": round(statistics.median(b / a for a, b in zip(alone, beside, strict=True)), 2),
        "slowdown_if_fair": round(SESSIONS / (SESSIONS - 1), 2),
        "slowdown_if_first_come": round((SESSIONS - 1 + GREEDY_PAGES) / (SESSIONS - 1), 2),
    }


def _be_greedy(service: LocalService, page: int, round_: int, is_over: threading.Event) -> None:
    number = 0
    while not is_over.is_set():
        number += 1
        for request in _equal_questions(service, page, 10_000 + 100 * round_ + number):
            if is_over.is_set():
                return
            service.run(request, session=f"greedy.page{page}")


def _equal_questions(service: LocalService, session: int, round_: int) -> list[Request]:
    """A session's fresh questions, all of the same size: what has begun is not set aside, whoever waits."""
    fresh = [request for is_cached, request in questions_of(service, session, round_) if not is_cached]
    return [dataclasses.replace(request, method="ig", params=(("n_steps", 50),)) for request in fresh]


# ----------------------------------------------------------------- the real process
def measure_hits_over_http(url: str) -> dict[str, Any]:
    """Stored answers over plain HTTP while four others keep the device busy."""
    known = ("attribute", as_text(picture(0)), "digits-gap", "ig", 1, "black", {}, 0, True)
    stop, waits = threading.Event(), []

    def keep_busy(n: int) -> None:
        with httpx.Client(base_url=url) as client:
            number = 0
            while not stop.is_set():
                number += 1
                new = as_text(picture(10**6 * n + number))
                post(client, "attribute", new, "digits-gap", "rise", 1, "black", {"samples": 400}, 0, False)

    with httpx.Client(base_url=url) as client:
        post(client, *known).raise_for_status()
        threads = [threading.Thread(target=keep_busy, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(60):
            began = time.perf_counter()
            post(client, *known).raise_for_status()
            waits.append(time.perf_counter() - began)
        stop.set()
        for thread in threads:
            thread.join()
    return {
        "http_cached_median_ms": round(1000 * statistics.median(waits), 1),
        "http_cached_p95_ms": round(1000 * quantile(waits, 0.95), 1),
    }


def use_every_page(url: str) -> None:
    """In a real browser: every page and every tab of it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(180_000)
        for address in PAGES:
            page.goto(f"{url}/{address}")
            page.get_by_role("heading", level=1).wait_for()
            settle(page)
            for tab in page.get_by_role("tab").all():
                tab.click()
                settle(page)
        browser.close()


def measure_process() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder), OMP_NUM_THREADS="1") as url:
        process = server_process(url)
        use_every_page(url)
        after_pages = resident_mb(process)
        found = measure_hits_over_http(url)
        with contextlib.ExitStack() as visitors:
            for page in PAGES:
                visitors.enter_context(page_visitor(url)).open(page)
            before = resident_mb(process)
            for n in range(HELD_SESSIONS):
                visitors.enter_context(page_visitor(url)).open(PAGES[n % len(PAGES)])
            per_session = (resident_mb(process) - before) / HELD_SESSIONS
        return {
            **found,
            "resident_mb_after_every_page": round(after_pages),
            "mb_per_browser_session": round(per_session, 2),
            "sessions_measured": HELD_SESSIONS,
        }


def versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "streamlit", "gradio")} | {
        "torch_threads": str(torch.get_num_threads())
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measures = {
        "throughput": measure_throughput,
        "fairness": measure_fairness,
        "company": lambda: company.measure(COMPANY_ROUNDS),
        "process": measure_process,
    }
    parser.add_argument("--only", choices=measures, default="")
    only = parser.parse_args().only
    found = {name: measure() for name, measure in measures.items() if only in ("", name)}
    print(json.dumps({"versions": versions(), "bars": BARS, **found}, indent=2))
