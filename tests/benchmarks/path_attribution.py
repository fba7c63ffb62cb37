"""Path attribution beside its peers: `python -m tests.benchmarks.path_attribution [--section NAME] [--json]`.

Both sides of a ratio run in one process, one after the other and again (A, B, A, B, ...), on one thread; the ratio
is the median over rounds of CPU seconds against CPU seconds. That holds on a shared machine too, where wall time
tells who else was there; wall time is printed beside it. Memory is the growth of the peak of a fresh process per
side. Random weights: time does not depend on what a network knows. Deep random ReLU networks in single precision
magnify rounding, so answers that agree to 1e-9 in double precision (the tests) may differ by 1e-2 here. Guided IG
differs by more: at a black baseline whole areas have gradients that are equal but for rounding, and it ranks them.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from backend.models.classifier import Classifier
from backend.models.first_layer import quick_first_layer
from backend.models.networks import LeNet
from backend.path_attribution import blur_ig, guided_ig, integrated_gradients, samp
from backend.path_attribution.problem import Problem
from backend.runtime import Chunks, Runtime

PEERS = ("torch", "torchvision", "captum", "saliency", "scikit-image", "numpy")
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


# ----------------------------------------------------------------- what is measured, and how
@dataclass(frozen=True)
class Ratio:
    """One line of the report."""

    section: str
    what: str
    unit: str  # "CPU s", "MiB"
    ours: float
    theirs: float
    ratio: float  # see `better`
    goal: float | None  # None: shown beside the others, because the code measured has no say in it
    better: str  # "at most": ours / theirs; "at least": theirs / ours
    wall_ratio: float | None = None  # the same way up as `ratio`
    agreement: float | None = None  # max |ours - theirs| / max |theirs| of the answers

    @property
    def is_reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.better == "at most" else self.ratio >= self.goal

    def __str__(self) -> str:
        wall = "" if self.wall_ratio is None else f" (wall {self.wall_ratio:.3g})"
        agreement = "" if self.agreement is None else f"; answers differ by {self.agreement:.1e}"
        mark = {True: "ok", False: "MISSED", None: "shown"}[self.is_reached]
        goal = "no goal" if self.goal is None else f"goal {self.better} {self.goal:g}"
        return (
            f"[{mark}] {self.section}: {self.what}: {self.ratio:.3g}{wall}, {goal}; "
            f"{self.ours:.3g} against {self.theirs:.3g} {self.unit}{agreement}"
        )


def compare(
    section: str,
    what: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    goal: float | None,
    better: str = "at most",
    rounds: int = 3,
    agreement: Callable[[Any, Any], float] | None = None,
) -> Ratio:
    """Run both sides in turns and compare their CPU seconds."""
    cpu, wall = ([], []), ([], [])
    answers: list[Any] = [None, None]
    for round_ in range(rounds):
        for side in (0, 1) if round_ % 2 == 0 else (1, 0):  # neither side always profits from a warm cache
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            answers[side] = (ours, theirs)[side]()
            cpu[side].append(time.process_time() - cpu_start)
            wall[side].append(time.perf_counter() - wall_start)

    def ratio(seconds: tuple[list[float], list[float]]) -> float:
        pairs = zip(*(seconds if better == "at most" else seconds[::-1]), strict=True)
        return statistics.median(a / b for a, b in pairs)

    return Ratio(
        section=section,
        what=what,
        unit="CPU s",
        ours=statistics.median(cpu[0]),
        theirs=statistics.median(cpu[1]),
        ratio=ratio(cpu),
        goal=goal,
        better=better,
        wall_ratio=ratio(wall),
        agreement=None if agreement is None else agreement(*answers),
    )


def peak_growth_mib(side: str) -> float:
    """MiB by which the peak of a fresh process grows while it runs one side of the memory section."""
    command = [sys.executable, "-m", "tests.benchmarks.path_attribution", "--memory-side", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


# ----------------------------------------------------------------- networks and problems
def resnet50() -> Classifier:
    """Torchvision's, with random weights whose logits stay finite and alive."""
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet50(weights=None)
    return Classifier(network, **IMAGENET).eval().requires_grad_(False)


def lenet() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = LeNet(10)
    return Classifier(network).eval().requires_grad_(False)


def photos(n: int, size: int = 224) -> Tensor:
    """Crops of a real photograph, (n, 3, size, size) in [0, 1]."""
    from skimage import data

    picture = torch.from_numpy(data.astronaut()).permute(2, 0, 1) / 255
    return torch.stack([picture[:, 20 * i : 20 * i + size, 30 * i : 30 * i + size] for i in range(n)])


def digits(n: int) -> Tensor:
    from backend.path_attribution.data import digits as labelled

    return torch.from_numpy(labelled("test").images[:: 1000 // n][:n]).float() / 255


def pose(model: Classifier, images: Tensor, chunk: int | None = None) -> Problem:
    """Black baselines, class 1, and the chunk that a CPU gets."""
    return Problem(
        model=model,
        images=images,
        baselines=torch.zeros_like(images),
        targets=torch.ones(len(images), dtype=torch.long),
        generator=torch.Generator().manual_seed(0),
        chunks=Chunks(chunk or Runtime("cpu").chunk_size(*images.shape[-2:])),
    )


def values_of(method: ModuleType, problem: Problem, **params: Any) -> Tensor:
    return method.attribute(problem, **params).attribution


@contextmanager
def recorded_batches(model: nn.Module) -> Iterator[list[tuple[Tensor, bool]]]:
    """The batches that go through a model, and whether their gradient was asked for."""
    batches: list[tuple[Tensor, bool]] = []
    handle = model.register_forward_pre_hook(
        lambda _, inputs: batches.append((inputs[0].detach().clone(), torch.is_grad_enabled()))
    )
    try:
        yield batches
    finally:
        handle.remove()


def bare_passes(model: nn.Module, batches: list[tuple[Tensor, bool]]) -> Callable[[], None]:
    """The same passes and nothing else: forward, and the gradient where it was asked for."""

    def run() -> None:
        for points, with_gradient in batches:
            if with_gradient:
                points = points.detach().requires_grad_(True)
                torch.autograd.grad(model(points)[:, 1].sum(), points)
            else:
                with torch.no_grad():
                    model(points)

    return run


def over_bare(section: str, what: str, problem: Problem, method: Callable[[], Any], rounds: int) -> Ratio:
    """A method against the bare cost of its own passes."""
    with recorded_batches(problem.model) as batches:
        method()
    passes = f"{sum(len(points) for points, _ in batches)} passes in {len(batches)} calls"
    bare = bare_passes(problem.model, batches)
    return compare(section, f"{what} over its bare {passes}", method, bare, goal=1.15, rounds=rounds)


# ----------------------------------------------------------------- sections
def captum_ig(model: Classifier, images: Tensor, n_steps: int, internal_batch_size: int | None) -> Tensor:
    from captum.attr import IntegratedGradients

    values, _ = IntegratedGradients(model).attribute(
        images,
        torch.zeros_like(images),
        target=1,
        n_steps=n_steps,
        method="riemann_middle",
        internal_batch_size=internal_batch_size,
        return_convergence_delta=True,  # ours returns f(x) - f(x0) as well
    )
    return values


def section_ig() -> Iterator[Ratio]:
    """Integrated Gradients against captum's midpoint rule."""
    model, images = resnet50(), photos(1)
    chunk = pose(model, images).chunks.size
    for n_steps, rounds in ((50, 3), (200, 1)):
        yield compare(
            "ig",
            f"ResNet-50 at 224, {n_steps} steps, captum with internal_batch_size={chunk}",
            partial(values_of, integrated_gradients, pose(model, images), n_steps=n_steps),
            partial(captum_ig, model, images, n_steps, chunk),
            goal=1.0,
            rounds=rounds,
            agreement=relative,
        )
    model, images = lenet(), digits(20)
    yield compare(
        "ig",
        "LeNet, 20 digits, 50 steps, captum in one batch",
        partial(values_of, integrated_gradients, pose(model, images), n_steps=50),
        partial(captum_ig, model, images, 50, None),
        goal=1.0,
        rounds=9,
        agreement=relative,
    )


MEMORY_SIDES: dict[str, tuple[int, str]] = {
    "ours-50": (50, "ours"),
    "ours-200": (200, "ours"),
    "captum-200": (200, "chunk"),
    "captum-whole-50": (50, "whole"),
}


def run_memory_side(side: str) -> float:
    """In a process of its own: growth of the peak, in MiB, beyond the model and one warm pass."""
    n_steps, kind = MEMORY_SIDES[side]
    model, images = resnet50(), photos(1)
    problem = pose(model, images)
    problem.score_and_gradient(images, problem.targets)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if kind == "ours":
        integrated_gradients.attribute(problem, n_steps=n_steps)
    else:
        captum_ig(model, images, n_steps, problem.chunks.size if kind == "chunk" else None)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def section_memory() -> Iterator[Ratio]:
    """Peak memory of Integrated Gradients on ResNet-50 at 224, each side in a fresh process."""
    growth = {side: peak_growth_mib(side) for side in MEMORY_SIDES}
    for what, ours, theirs, goal in (
        ("200 steps, captum with the same chunk", "ours-200", "captum-200", 1.0),
        ("50 steps, captum in one batch", "ours-50", "captum-whole-50", 1.0),
        ("ours at 200 steps against ours at 50", "ours-200", "ours-50", 1.05),
    ):
        mine, other = growth[ours], growth[theirs]
        yield Ratio("memory", what, "MiB", mine, other, mine / other, goal, "at most")


def section_bare() -> Iterator[Ratio]:
    """Blur IG and Guided IG over the bare cost of their own gradients."""
    model, images = resnet50(), photos(1)
    problem = pose(model, images)
    yield over_bare(
        "bare", "Blur IG, ResNet-50 at 224, 20 steps", problem, lambda: blur_ig.attribute(problem, n_steps=20), 3
    )
    yield over_bare(
        "bare", "Guided IG, ResNet-50 at 224, 20 steps", problem, lambda: guided_ig.attribute(problem, n_steps=20), 3
    )
    small = pose(lenet(), digits(20))
    yield over_bare("bare", "Blur IG, LeNet, 20 digits, 50 steps", small, lambda: blur_ig.attribute(small), 9)
    yield over_bare("bare", "Guided IG, LeNet, 20 digits, 50 steps", small, lambda: guided_ig.attribute(small), 9)


def section_saliency() -> Iterator[Ratio]:
    """Eight images at once against the saliency package, which takes one at a time.

    On digits what a batch saves is most of the time. Lines without a goal show what no code around the model can
    change: the package with as large a batch as ours, and ResNet-50, whose own passes are all of the time on one CPU
    thread whoever asks for them, eight at once no faster than one by one ("what the model allows").
    """
    import saliency.core

    def peer(problem: Problem, mask: Callable[..., np.ndarray]) -> Tensor:
        """The package's mask of each image; its model function is ours."""

        def call(x_value_batch, call_model_args=None, expected_keys=None):
            points = torch.from_numpy(np.asarray(x_value_batch)).permute(0, 3, 1, 2).to(problem.images).contiguous()
            points = points.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(problem.model(points)[:, 1].sum(), points)
            return {saliency.core.INPUT_OUTPUT_GRADIENTS: gradient.permute(0, 2, 3, 1).numpy()}

        masks = [mask(image.permute(1, 2, 0).numpy(), call) for image in problem.images]
        return torch.from_numpy(np.stack(masks)).permute(0, 3, 1, 2)

    def blur(problem: Problem, steps: int, max_sigma: float, batch_size: int) -> Tensor:
        options = dict(steps=steps, max_sigma=max_sigma, batch_size=batch_size)
        return peer(problem, lambda image, call: saliency.core.BlurIG().GetMask(image, call, **options))

    def guided(problem: Problem, steps: int) -> Tensor:
        return peer(problem, lambda image, call: saliency.core.GuidedIG().GetMask(image, call, x_steps=steps))

    for name, model, images, steps, sigma, rounds, goal in (
        ("LeNet, 8 digits", lenet(), digits(8), 50, 10.0, 15, 3.0),
        ("ResNet-50 at 224, 8 crops", resnet50(), photos(8), 5, 50.0, 1, None),
    ):
        problem = pose(model, images)
        yield compare(
            "saliency",
            f"what the model allows, {name}: a gradient of all at once against one by one",
            partial(problem.score_and_gradient, images, problem.targets),
            partial(gradients_one_by_one, problem),
            None,
            "at least",
            max(rounds, 3),
        )
        for batch_size in (1, problem.chunks.size):
            yield compare(
                "saliency",
                f"Blur IG, {name}, {steps} steps, theirs with batch_size={batch_size}",
                partial(values_of, blur_ig, problem, n_steps=steps, max_sigma=sigma),
                partial(blur, problem, steps, sigma, batch_size),
                goal if batch_size == 1 else None,  # 1 is the package's default
                "at least",
                rounds,
                relative,
            )
        with saliency_on_numpy_2():
            yield compare(
                "saliency",
                f"Guided IG, {name}, {steps} steps",
                partial(values_of, guided_ig, problem, n_steps=steps),
                partial(guided, problem, steps),
                goal,
                "at least",
                rounds,
                relative,
            )


def gradients_one_by_one(problem: Problem) -> None:
    """What the package has to ask of the model, and nothing else."""
    for image in problem.images:
        point = image[None].clone().requires_grad_(True)
        torch.autograd.grad(problem.model(point)[:, 1].sum(), point)


@contextmanager
def saliency_on_numpy_2() -> Iterator[None]:
    """saliency 0.2.1 calls np.quantile(interpolation=), which NumPy 2 calls method=."""
    quantile = np.quantile
    np.quantile = lambda a, q, interpolation: quantile(a, q, method=interpolation)
    try:
        yield
    finally:
        np.quantile = quantile


def section_xrai() -> Iterator[Ratio]:
    """XRAI's own work, segmentation and ranking, on the same Integrated Gradients."""
    import saliency.core

    from backend.path_attribution import segmentation, xrai

    picture = photos(1)[0].permute(1, 2, 0).double().numpy()  # (H, W, C)
    problem = pose(resnet50(), photos(1))
    attribution = integrated_gradients.attribute(problem, n_steps=10).attribution[0].permute(1, 2, 0).double().numpy()

    def ours() -> np.ndarray:
        segmentation.forget_regions()  # a second look at the same picture would be free
        regions = segmentation.xrai_regions(picture)
        return xrai.rank_regions(attribution.max(2).ravel(), regions, min_pixels=50)[0].reshape(picture.shape[:2])

    def theirs() -> np.ndarray:
        return saliency.core.XRAI().GetMask(picture, None, base_attribution=attribution)

    def agreement(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).max() / np.abs(b).max())

    yield compare(
        "xrai", "a photograph at 224, gradients given", ours, theirs, 5.0, "at least", rounds=3, agreement=agreement
    )


def section_samp() -> Iterator[Ratio]:
    """SAMP++ over the bare cost of its forward and backward passes."""
    problem = pose(resnet50(), photos(1))
    for what, params, rounds in (("eta 0.1", {"eta": 0.1, "s": 8192}, 3), ("its defaults", {}, 1)):
        yield over_bare(
            "samp",
            f"SAMP++, ResNet-50 at 224, {what}",
            problem,
            partial(samp.attribute, problem, **params),
            rounds,
        )
    small = pose(lenet(), digits(20))
    yield over_bare("samp", "SAMP++, LeNet, 20 digits", small, lambda: samp.attribute(small), 3)


def section_sweep() -> Iterator[Ratio]:
    """Deletion and insertion of ten maps in one sweep, against one method and one picture at a time."""
    from backend.path_attribution.metrics import deletion_insertion

    model, images, steps = lenet(), digits(1), 56
    problem = pose(model, images)
    maps = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    black = torch.zeros_like(images)

    def sweep(some: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        with quick_first_layer(model):  # as whoever calls it for a page or a table does
            found = deletion_insertion(
                model, images, black, problem.targets, some, steps, generator, Chunks(problem.chunks.size)
            )
        return torch.stack([found.deletion.logit, found.insertion.logit])  # (2, M, B, K + 1)

    def picture_by_picture() -> Tensor:
        """What a plain loop does: each map, each mode, each step is one call of the model."""
        curves = []
        counts = (torch.arange(steps + 1) * (28 * 28) / steps).round().long().tolist()
        with torch.no_grad():
            for inserting in (False, True):
                for heat in maps[:, 0]:
                    order = heat.flatten().argsort(descending=True)
                    start, end = (black, images) if inserting else (images, black)
                    for count in counts:
                        points = start.clone().flatten()
                        points[order[:count]] = end.flatten()[order[:count]]
                        curves.append(model(points.view_as(images))[0, 1])
        return torch.stack(curves).view(2, 10, 1, steps + 1)

    yield compare(
        "sweep",
        "10 maps of a digit, 56 steps, against one map at a time",
        lambda: sweep(maps),
        lambda: torch.cat([sweep(heat[None]) for heat in maps], dim=1),
        1.0,
        "at least",
        rounds=15,
        agreement=relative,
    )
    yield compare(
        "sweep",
        "10 maps of a digit, 56 steps, against one picture at a time",
        lambda: sweep(maps),
        picture_by_picture,
        1.0,
        "at least",
        rounds=9,
        agreement=relative,
    )


SECTIONS: dict[str, Callable[[], Iterator[Ratio]]] = {
    "ig": section_ig,
    "memory": section_memory,
    "bare": section_bare,
    "saliency": section_saliency,
    "xrai": section_xrai,
    "samp": section_samp,
    "sweep": section_sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.path_attribution", description=__doc__)
    parser.add_argument("--section", choices=SECTIONS, help="only this one")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end instead of lines")
    parser.add_argument("--memory-side", choices=MEMORY_SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_side:
        print(run_memory_side(options.memory_side))
        return
    versions = {name: importlib.metadata.version(name) for name in PEERS}
    if not options.json:
        print(", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    ratios = []
    for name in [options.section] if options.section else SECTIONS:
        for ratio in SECTIONS[name]():
            ratios.append(ratio)
            if not options.json:
                print(ratio, flush=True)
    if options.json:
        lines = [{**asdict(ratio), "is_reached": ratio.is_reached} for ratio in ratios]
        print(json.dumps({"versions": versions, "cores": os.cpu_count(), "ratios": lines}, indent=2))


if __name__ == "__main__":
    main()
