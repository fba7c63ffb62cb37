"""M2IB beside its plain form and beside RISE on a full-size CLIP: `python -m tests.benchmarks.image_text`.

ViT-B/32 with random weights (time does not depend on what a network knows), block 9 of 0..11, 10 steps, 10 samples, one
thread. The three run in one process, one after the other and again; a ratio is the median over rounds of CPU seconds.
RISE is run with a part of its 2,048 masks and scaled. Peak memory is the growth of the peak of a fresh process for
each of the three.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from backend.image_text import bottleneck, rise
from backend.image_text.problem import Problem
from backend.models.clip import ImageTextPair, MeanStd, make_pair
from backend.models.tokenizers import BytePairTokenizer
from tests.plain_m2ib import PlainBottleneck

NAME, LAYER, BETA, SIGMA2, STEPS, SAMPLES = "ViT-B-32", 9, 0.1, 1.0, 10, 10
MASKS, MASKS_RUN = 2048, 128
ROUNDS = 3
TEXT = "a photograph of a cat on a sofa beside a dog"
SIDES = ("m2ib", "plain", "rise")


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


def work_of(side: str, pair: ImageTextPair) -> Callable[[], torch.Tensor]:
    """The image map of one pair by one of the three; the text is embedded within the time."""
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
        return rise.attribute(problem(), samples=MASKS_RUN).maps[0]

    return {"m2ib": fast, "plain": plain, "rise": masked}[side]


def cpu_s(work: Callable[[], torch.Tensor]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def compare(rounds: int) -> dict[str, object]:
    pair = full_size_pair()
    works = {side: work_of(side, pair) for side in SIDES}
    maps = {side: works[side]() for side in ("m2ib", "plain")}  # the first runs warm everything up
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for side, work in works.items():
            times[side].append(cpu_s(work) * (MASKS / MASKS_RUN if side == "rise" else 1))

    def ratio(side: str) -> float:
        return round(statistics.median(a / b for a, b in zip(times[side], times["m2ib"], strict=True)), 2)

    return {
        "cpu_s": {side: round(statistics.median(found), 3) for side, found in times.items()},
        "plain_over_m2ib": ratio("plain"),
        "rise_over_m2ib": ratio("rise"),
        "rise_masks": f"{MASKS_RUN} of {MASKS} run, scaled",
        "largest_relative_difference": float((maps["m2ib"] - maps["plain"]).abs().max() / maps["plain"].abs().max()),
        "rounds": rounds,
    }


def peak_mb(side: str) -> float:
    """Growth of a fresh process's peak while one side works once, in MB."""
    command = [sys.executable, "-m", "tests.benchmarks.image_text", "--peak", side]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _measure_peak(side: str) -> None:
    work = work_of(side, full_size_pair())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--peak", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        return _measure_peak(arguments.peak)
    print(
        json.dumps(
            {**compare(arguments.rounds), "peak_mb": {side: round(peak_mb(side), 1) for side in SIDES}}, indent=2
        )
    )


if __name__ == "__main__":
    main()
