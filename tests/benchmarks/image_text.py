"""Times of M2IB on a full-size CLIP and on the model that ships: `python -m tests.benchmarks.image_text`.

ViT-B/32 with random weights (time does not depend on what a network knows), block 9 of 0..11, 10 steps, 10 samples, one
thread. The three run in one process, one after the other and again; a ratio is the median over rounds of CPU seconds.
RISE runs all of its 2,048 masks, or a part of them that is scaled (`--masks`). Peak memory is the growth of the peak of
a fresh process for each of the three. Behind the figures stand the goals, and whether each is met. About ten CPU
minutes.

The shipped model answers as the page asks it, on two threads, with nothing cached from before but its weights: one
sentence on both sides (image map, word map, control), and a report of ten sentences, of which the first is shown early.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from backend.contracts import PairMapRequest, ReportMapsRequest
from backend.image_text import bottleneck, rise
from backend.image_text.problem import Problem
from backend.models.clip import ImageTextPair, MeanStd, make_pair
from backend.models.tokenizers import BytePairTokenizer
from backend.runtime import Runtime
from backend.service import LocalService
from tests.plain_m2ib import PlainBottleneck

NAME, LAYER, BETA, SIGMA2, STEPS, SAMPLES = "ViT-B-32", 9, 0.1, 1.0, 10, 10
MASKS = 2048
ROUNDS = 2
ASKS = 3  # of the shipped model, each with a picture that it has not seen
TEXT = "a photograph of a cat on a sofa beside a dog"
SIDES = ("m2ib", "plain", "rise")
GOALS = {  # figure: goal, and whether it is the least or the most
    "plain_over_m2ib": (15.0, "least"),
    "rise_over_m2ib": (40.0, "least"),
    "largest_relative_difference": (1e-4, "most"),
    "peak_m2ib_over_lower_of_both": (1.0, "most"),
    "one_sentence_s": (1.0, "most"),
    "first_of_ten_s": (1.0, "most"),
    "ten_sentences_s": (5.0, "most"),
}


def full_size_pair() -> ImageTextPair:
    """ViT-B/32 as open_clip builds it, with random weights."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = open_clip.create_model(NAME)
    tokenizer = BytePairTokenizer(open_clip.get_tokenizer(NAME))
    normalise = MeanStd(module.visual.image_mean, module.visual.image_std)
    return make_pair(NAME, module, normalise, tokenizer, "random", {})


def image() -> torch.Tensor:
    return torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def work_of(side: str, pair: ImageTextPair, masks: int) -> Callable[[], torch.Tensor]:
    """The image map of one pair by one of the three; the text is embedded within the time. `masks`: of RISE."""
    pixels = image()

    def problem() -> Problem:
        with torch.no_grad():
            return Problem(pair.image, pixels, pair.embed_texts([TEXT]))

    def fast() -> torch.Tensor:
        settings = {"layer": LAYER, "beta": BETA, "sigma2": SIGMA2, "n_steps": STEPS, "samples": SAMPLES}
        return bottleneck.attribute(problem(), **settings).maps[0].flatten()

    def plain() -> torch.Tensor:
        one = PlainBottleneck(pair, "image", LAYER)
        try:
            return one.explain(pixels, pair.tokens(TEXT), 0, BETA, SIGMA2, STEPS, SAMPLES)[1:]
        finally:
            pair.module.requires_grad_(False)

    def masked() -> torch.Tensor:
        return rise.attribute(problem(), samples=masks).maps[0]

    return {"m2ib": fast, "plain": plain, "rise": masked}[side]


def cpu_s(work: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(rounds: int, masks: int) -> dict[str, object]:
    torch.set_num_threads(1)
    pair = full_size_pair()
    works = {side: work_of(side, pair, masks) for side in SIDES}
    maps = {side: works[side]() for side in ("m2ib", "plain")}  # the first runs warm everything up
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, work in works.items():
            times[side].append(cpu_s(work) * (MASKS / masks if side == "rise" else 1))

    def ratio(side: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[side], times["m2ib"], strict=True)), 2)

    return {
        "cpu_s": {side: round(statistics.median(found), 3) for side, found in times.items()},
        "plain_over_m2ib": ratio("plain"),
        "rise_over_m2ib": ratio("rise"),
        "rise_masks": f"{masks} of {MASKS} run" + ("" if masks == MASKS else ", scaled"),
        "largest_relative_difference": float((maps["m2ib"] - maps["plain"]).abs().max() / maps["plain"].abs().max()),
        "rounds": rounds,
    }


# ----------------------------------------------------------------- the model that ships
SENTENCES = (
    "there is a nodule in the right upper lobe.",
    "moderate left pleural effusion.",
    "no pneumothorax.",
    "the heart is enlarged.",
    "right basilar atelectasis.",
    "left-sided pacemaker in place.",
    "endotracheal tube terminates above the carina.",
    "nasogastric tube tip in the stomach.",
    "mild pulmonary edema.",
    "patchy consolidation in the left lower lobe.",
)


def embedded(threads: int) -> dict[str, object]:
    """One sentence and a report with the shipped radiograph model, medians over asks, on the clock and of CPU."""
    torch.set_num_threads(threads)
    service = LocalService(Runtime("cpu"))
    run_once(service, PairMapRequest(image_id=picture(service, 0), text=SENTENCES[0]))  # loads the model
    one, ten = [], []
    for k in range(1, ASKS + 1):
        one.append(run_once(service, PairMapRequest(image_id=picture(service, k), text=SENTENCES[0])))
        ten.append(run_once(service, ReportMapsRequest(image_id=picture(service, 100 + k), sentences=SENTENCES)))
    return {
        "threads": threads,
        "one_sentence": median_times(one)["whole"],
        "first_of_ten": median_times(ten)["first"],
        "ten_sentences": median_times(ten)["whole"],
    }


def run_once(service: LocalService, request: PairMapRequest | ReportMapsRequest) -> dict[str, tuple[float, float]]:
    """Seconds on the clock and of CPU, until the first part of an answer and until the whole."""
    started, parts = _now(), []
    service.run(request, lambda step: parts.append(_now()) if step.partial is not None else None)
    moments = {"first": parts[0] if parts else _now(), "whole": _now()}
    return {name: (clock - started[0], cpu - started[1]) for name, (clock, cpu) in moments.items()}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def median_times(asks: list[dict[str, tuple[float, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {unit: round(statistics.median(ask[name][k] for ask in asks), 3) for k, unit in enumerate(("s", "cpu_s"))}
        for name in asks[0]
    }


def picture(service: LocalService, seed: int) -> str:
    """Id of a grey picture with soft structure; what it shows does not matter for the time."""
    noise = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(noise, size=(512, 512), mode="bilinear")[0, 0]
    held = io.BytesIO()
    Image.fromarray((255 * pixels).to(torch.uint8).numpy()).save(held, "png")
    return service.put_image(held.getvalue()).id


# ----------------------------------------------------------------- the command
def peak_mb(side: str, masks: int) -> float:
    """Growth of a fresh process's peak while one side works once, in MB."""
    command = [sys.executable, "-m", "tests.benchmarks.image_text", "--peak", side, "--masks", str(masks)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _measure_peak(side: str, masks: int) -> None:
    work = work_of(side, full_size_pair(), masks)
    before = peak_kib()
    work()
    print((peak_kib() - before) / 1024)


def peak_kib() -> int:
    """This program's peak. `ru_maxrss` would also hold that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=2, help="of the shipped model; 1 where other work is running")
    parser.add_argument("--masks", type=int, default=MASKS, help="of RISE that are run; fewer are scaled")
    parser.add_argument("--only", default="", help="sections, with commas: embedded, full_size, peak_mb")
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        return _measure_peak(arguments.peak, arguments.masks)
    found = {}
    for name, measure in SECTIONS.items():  # each is printed as soon as it is known
        if name in arguments.only.split(",") or not arguments.only:
            found[name] = measure(arguments)
            print(json.dumps({name: found[name]}, indent=2), flush=True)
    print(json.dumps({"goals": goals(found)}, indent=2))


def goals(found: dict[str, dict[str, Any]]) -> list[dict[str, object]]:
    """Every figure that has a goal, of the sections that were measured."""
    figures = dict(found.get("full_size", {}))
    if "embedded" in found:
        asked = ("one_sentence", "first_of_ten", "ten_sentences")
        figures |= {f"{name}_s": found["embedded"][name]["s"] for name in asked}
    if "peak_mb" in found:
        peaks = found["peak_mb"]
        figures["peak_m2ib_over_lower_of_both"] = round(peaks["m2ib"] / max(min(peaks["plain"], peaks["rise"]), 0.1), 3)
    return [
        {
            "figure": name,
            "value": figures[name],
            f"at_{side}": goal,
            "met": figures[name] >= goal if side == "least" else figures[name] <= goal,
        }
        for name, (goal, side) in GOALS.items()
        if name in figures
    ]


SECTIONS: dict[str, Callable[[argparse.Namespace], object]] = {
    "embedded": lambda given: embedded(given.threads),
    "full_size": lambda given: compare(given.rounds, given.masks),
    "peak_mb": lambda given: {side: round(peak_mb(side, given.masks), 1) for side in SIDES},
}


if __name__ == "__main__":
    main()
