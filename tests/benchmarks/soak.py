"""Is memory flat under mixed traffic? `python -m tests.benchmarks.soak --minutes 30`.

The real server on loopback; visitors over websockets go from page to page and leave; programs ask the API questions
that were answered before and new ones, with and without progress, cancel some, send what is refused, and start jobs.
Its stores are made small, so that they are full after the first minutes: from then on a rise is a leak. Printed is the
slope of resident memory after a warm-up (the first third) in MB per hour, with a 95 % interval from a bootstrap of
blocks of the residuals, since neighbouring samples are alike. Under traffic memory rises and falls by 50 MB with who is
there, so that half an hour says little of a slope; after the warm-up and at the end everybody rests until sessions are
over, and what is resident then is printed, too.
"""

import argparse
import contextlib
import json
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil

from backend.contracts import AttributionRequest
from backend.errors import Cancelled, PrismError
from backend.remote import Connection, RemoteService
from tests.benchmarks.visitors import ANSWER_S, PAGES, as_text, page_visitor, picture, post, resident_mb, server_process
from tests.conftest import running_app

SAMPLE_S = 5.0
THINK_S = (0.1, 0.8)  # between two questions of one program
STAY_S = (0.2, 1.5)  # on a page
N_PROGRAMS, N_VISITORS = 3, 2
WARM_UP = 1 / 3  # of the time; caches fill, allocators settle
REST_S = 170.0  # sessions are kept for two minutes, and free pages handed back every 20 s
BLOCK = 12  # samples that are drawn together
SMALL_STORES = {
    "PRISM_RESULT_STORE_BYTES": str(16 * 2**20),
    "PRISM_IMAGE_STORE_BYTES": str(2 * 2**20),
    "OMP_NUM_THREADS": "1",
}
QUICK_PAIR = {"n_steps": 2, "samples": 1}
SENTENCES = ("There is a large right pleural effusion.", "No nodule.", "The heart is enlarged.")
EVALUATION = {"family": "additive_decoding", "model": "balls-l-additive", "seeds": 1}


class Traffic:
    """Everybody who uses the server, each in a thread, until the time is over; what was done is counted."""

    def __init__(self, url: str, until: float) -> None:
        self.url = url
        self.until = until
        self.done: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()

    def start(self) -> list[threading.Thread]:
        people = [lambda n=n: self._ask_all(random.Random(n)) for n in range(N_PROGRAMS)]
        people += [lambda n=n: self._visit(random.Random(100 + n)) for n in range(N_VISITORS)]
        people += [lambda: self._converse(random.Random(200)), lambda: self._start_jobs(random.Random(300))]
        threads = [threading.Thread(target=person, daemon=True) for person in people]
        for thread in threads:
            thread.start()
        return threads

    # ------------------------------------------------------------- programs
    def _ask_all(self, chance: random.Random) -> None:
        """Questions over plain HTTP: a third was asked before, some are refused."""
        known = as_text(picture(0))
        while time.monotonic() < self.until:
            with httpx.Client(base_url=self.url, timeout=ANSWER_S) as client:  # of some questions, then a new one
                for _ in range(20):
                    if time.monotonic() > self.until:
                        return
                    name, status, ask = chance.choice(self._questions(known, chance))
                    self._count(name, status, lambda ask=ask, client=client: ask(client).status_code)
                    time.sleep(chance.uniform(*THINK_S))

    def _questions(self, known: str, chance: random.Random) -> list[tuple[str, int, Callable]]:
        new, seed = as_text(picture(chance.randrange(2**31))), chance.randrange(2**31)
        method = chance.choice(("ig", "saliency", "samp++", "grad-cam", "rise", "deeplift"))
        # arguments in the order of each endpoint's signature
        return [
            ("attribute, known", 200, lambda c: post(
                c, "attribute", known, "digits-gap", "ig", 1, "black", {}, 0, True)),
            ("status", 200, lambda c: post(c, "status")),
            ("models", 200, lambda c: post(c, "models")),
            ("grid, known", 200, lambda c: post(c, "decode_grid", "balls-l-additive", [5, 5], {}, 0, True)),
            ("attribute", 200, lambda c: post(c, "attribute", new, "digits-gap", method, None, "black", {}, 0, True)),
            ("predict", 200, lambda c: post(c, "predict", new, "digits-fc")),
            ("scatter", 200, lambda c: post(c, "latent_scatter", "balls-l-additive", 20, seed, True)),
            ("support", 200, lambda c: post(
                c, "describe_support", "u", ["ball", "ball"], ["y"], 0.16, False, 1.0, 20, seed, True)),
            ("path", 200, lambda c: post(
                c, "image_path", "squares", [seed % 90, 3], None, 9, {}, 0, True)),
            ("pair", 200, lambda c: post(
                c, "interpret_pair", new, chance.choice(SENTENCES), "cxr-clip", "m2ib", "both", QUICK_PAIR, 0, None,
                None, 0.0, True)),
            ("refused model", 400, lambda c: post(c, "predict", new, "nothing")),
            ("refused bytes", 400, lambda c: post(c, "predict", "AAAA", "digits-gap")),
            ("refused address", 404, lambda c: c.get("/nothing", headers={"accept": "text/html"})),
            ("malformed", 400, lambda c: post(c, "attribute", 3)),
        ]  # fmt: skip

    def _converse(self, chance: random.Random) -> None:
        """Another Prism: conversations with progress, half of which are left or superseded in the middle."""
        service = RemoteService(Connection(f"{self.url}/api"))
        while time.monotonic() < self.until:
            image = service.put_image(picture(chance.randrange(2**31))).id
            is_left = chance.random() < 0.5
            request = AttributionRequest(image, "digits-gap", "rise", params=(("samples", 4000 if is_left else 300),))

            def on_step(step, is_left=is_left) -> None:
                if is_left and step.done:
                    raise Cancelled

            def ask(request=request, on_step=on_step) -> str:
                try:
                    service.run(request, on_step, session=f"visitor{chance.randrange(3)}.page")
                except Cancelled:
                    return "left"
                return "answered"

            self._count("conversation", "left" if is_left else "answered", ask)
            time.sleep(chance.uniform(*THINK_S))

    def _start_jobs(self, chance: random.Random) -> None:
        with httpx.Client(base_url=self.url) as client:
            while time.monotonic() < self.until:
                args = {**EVALUATION, "n": chance.randrange(20, 40)}
                self._count("job", 200, lambda args=args: post(client, "submit_job", "evaluate", args).status_code)
                self._count("jobs", 200, lambda: post(client, "list_jobs").status_code)
                time.sleep(min(20.0, max(0.0, self.until - time.monotonic())))

    # ------------------------------------------------------------- people
    def _visit(self, chance: random.Random) -> None:
        """Come, look at some pages, leave without a word."""
        while time.monotonic() < self.until:
            with contextlib.suppress(OSError), page_visitor(self.url) as visitor:
                for _ in range(chance.randrange(1, 5)):
                    page = chance.choice(PAGES)
                    query = f"example={chance.choice(('digit-3', 'digit-7', 'object-star', 'nothing'))}"
                    self._count(f"page {page or 'overview'}", True, lambda p=page, q=query: visitor.open(p, q) > 0)
                    time.sleep(chance.uniform(*STAY_S))

    def _count(self, name: str, expected: object, ask: Callable[[], object]) -> None:
        try:
            found = ask()
        except (httpx.HTTPError, PrismError, TimeoutError, RuntimeError) as error:
            found = f"{type(error).__name__}: {error}"
        self.done[name] += 1
        if found != expected:
            self.unexpected[f"{name}: {found}"[:200]] += 1


# ----------------------------------------------------------------- what memory does
def slope_mb_per_hour(at_s: np.ndarray, mb: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Slope of a straight line through samples, and the ends of its 95 % interval.

    The interval is of a moving-block bootstrap of the residuals (Kuensch 1989): neighbours stay together.

    >>> at_s = np.arange(0.0, 600.0, 5.0)
    >>> [round(value, 6) for value in slope_mb_per_hour(at_s, 100 + at_s / 3600)]
    [1.0, 1.0, 1.0]
    """
    hours = at_s / 3600
    slope, level = np.polyfit(hours, mb, 1)
    fitted = level + slope * hours
    residuals, generator, n = mb - fitted, np.random.default_rng(0), len(mb)
    block = min(BLOCK, max(1, n // 4))
    n_blocks = -(-n // block)
    starts = generator.integers(0, n - block + 1, (draws, n_blocks))
    drawn = residuals[(starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :n]]
    centred = hours - hours.mean()
    slopes = ((fitted + drawn) @ centred) / (centred @ centred)
    low, high = np.quantile(slopes, (0.025, 0.975))
    return float(slope), float(low), float(high)


def said_of_faults(log: str) -> dict[str, int]:
    """How often the last line of each traceback stands in a server's log; malformed calls are among them.

    >>> log = "up\\nTraceback (most recent call last):\\n  File ...\\n    f()\\nKeyError: 'a'\\nlater\\n"
    >>> said_of_faults(log)
    {"KeyError: 'a'": 1}
    """
    found = re.findall(r"^Traceback \(most recent call last\):\n(?:[ \t]+.*\n)*(\S.*)$", log, re.MULTILINE)
    return dict(Counter(line[:200] for line in found))


def soak(minutes: float) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder), **SMALL_STORES) as url:
        process, warm_up_s = server_process(url), WARM_UP * 60 * minutes
        before, _ = traffic_of(url, process, warm_up_s)
        rest_mb = [at_rest(process)]
        traffic, samples = traffic_of(url, process, 60 * minutes - warm_up_s)
        rest_mb.append(at_rest(process))
        seconds = process.cpu_times()
        faults = said_of_faults((Path(folder) / "app.log").read_text(errors="replace"))
    done, unexpected = before.done + traffic.done, before.unexpected + traffic.unexpected
    at_s, mb = (np.array(column, float) for column in zip(*samples, strict=True))
    slope, low, high = slope_mb_per_hour(at_s, mb)
    return {
        "minutes": minutes,
        "questions": sum(done.values()),
        "by_kind": dict(sorted(done.items())),
        "unexpected": dict(unexpected),
        "faults_in_the_log": faults,
        "server_cpu_s": round(seconds.user + seconds.system),
        "at_rest_mb_after_warm_up": rest_mb[0],
        "at_rest_mb_at_end": rest_mb[1],
        "resident_mb_after_warm_up": round(float(mb[0]), 1),
        "resident_mb_at_end": round(float(mb[-1]), 1),
        "slope_mb_per_hour": round(slope, 1),
        "interval_95": [round(low, 1), round(high, 1)],
    }


def traffic_of(url: str, process: psutil.Process, seconds: float) -> tuple[Traffic, list[tuple[float, float]]]:
    """Let everybody come for some time; what they did, and seconds and resident MB on the way."""
    started = time.monotonic()
    traffic, samples = Traffic(url, started + seconds), []
    threads = traffic.start()
    while time.monotonic() < traffic.until:
        samples.append((time.monotonic() - started, resident_mb(process)))
        if len(samples) % 12 == 0:
            print(f"{samples[-1][0]:6.0f} s {samples[-1][1]:7.1f} MB {process.num_threads()} threads", flush=True)
        time.sleep(SAMPLE_S)
    for thread in threads:
        thread.join(timeout=60)
    return traffic, samples


def at_rest(process: psutil.Process) -> float:
    """Resident MB when everybody has gone and what was kept for their return is dropped."""
    time.sleep(REST_S)
    print(f"at rest {resident_mb(process):7.1f} MB", flush=True)
    return round(resident_mb(process), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    print(json.dumps(soak(parser.parse_args().minutes), indent=2))
