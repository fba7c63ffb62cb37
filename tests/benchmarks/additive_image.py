"""What a strip of frames and a fit cost, as ratios of CPU time: `python -m tests.benchmarks.additive_image`.

- strip: decoding 33 frames in one batch over the bare U-Net passes in it (same inputs, same number, nothing around);
- early, rest: both ends and the middle, then all other frames, as a page asks for them;
- batch: decoding the same frames one by one over decoding them in one batch;
- head: fitting the explainable boosting machine on the same table over fitting the additive head with its image term,
  and over fitting a head of the table alone. `interpret` fits its bags in compiled code, on one thread here.
Runs where no weights were trained too: time does not depend on what a network has learned.
"""

import json
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from backend.additive_image import peers
from backend.additive_image.data import make_dataset
from backend.additive_image.nam import fit_head
from backend.additive_image.recipes import HEADS, RECIPES
from backend.models.diffusion_autoencoder import DiffusionAutoencoder

FRAMES = 33
REPEATS = 5
STRIPS = ("squares-dae", "colours-dae", "hosts-dae")
EARLY = [0, FRAMES // 2, FRAMES - 1]
# The issue asks for the last two of hosts on two cores; one thread's CPU time is the harder measure.
BARS = {"strip_over_bare": 1.15, "early_ms": 500.0, "rest_ms": 2000.0}


def best_cpu_s(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """The fastest of several runs, in seconds of CPU time: other processes do not count."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def strip_ratios(name: str) -> dict[str, float]:
    """CPU time of a strip, over its bare U-Net passes and against frame by frame."""
    torch.manual_seed(0)
    model = DiffusionAutoencoder(**RECIPES[name].network).eval().requires_grad_(False)
    codes = torch.randn(FRAMES, model.n_latents)
    inner = F.pixel_unshuffle(torch.randn(FRAMES, 3, model.side, model.side), model.unshuffle)
    if model.code_map is not None:
        inner = torch.cat([inner, model.code_map(codes)], 1)
    condition = model.condition(codes)

    def bare() -> None:
        for timestep in model.timesteps(model.steps):
            model.unet(inner, torch.tensor(timestep), class_labels=condition, return_dict=False)

    with torch.no_grad():
        passes = best_cpu_s(bare)
        batch = best_cpu_s(lambda: model.decode(codes))
        early = best_cpu_s(lambda: model.decode(codes[EARLY]))
        rest = best_cpu_s(lambda: model.decode(codes[[k for k in range(FRAMES) if k not in EARLY]]))
        alone = best_cpu_s(lambda: [model.decode(code[None]) for code in codes], 2)
    return {
        "steps": model.steps,
        "bare_ms": passes * 1e3,
        "strip_ms": batch * 1e3,
        "early_ms": early * 1e3,
        "rest_ms": rest * 1e3,
        "one_by_one_ms": alone * 1e3,
        "strip_over_bare": batch / passes,
        "one_by_one_over_batch": alone / batch,
    }


def head_ratios() -> dict[str, float]:
    """CPU time of fitting on the squares' table: additive heads and the explainable boosting machine."""
    dataset, settings = make_dataset("squares"), HEADS["squares"].settings
    table, response = torch.from_numpy(dataset.table), torch.from_numpy(dataset.response)
    kinds = [len(column.categories) for column in dataset.columns]
    latents = torch.randn(len(dataset), RECIPES["squares-dae"].network["n_latents"])
    with_image = best_cpu_s(lambda: fit_head(table, latents, response, kinds, settings=settings), 1)
    alone = best_cpu_s(lambda: fit_head(table, None, response, kinds, settings=settings), 1)
    machine = best_cpu_s(lambda: peers.fit_ebm(dataset, 0), 1)
    return {
        "rows": len(dataset),
        "members": settings.members,
        "head_s": with_image,
        "table_head_s": alone,
        "ebm_s": machine,
        "head_over_ebm": with_image / machine,
        "table_head_over_ebm": alone / machine,
    }


def main() -> None:
    torch.set_num_threads(1)
    figures = {name: strip_ratios(name) for name in STRIPS} | {"head": head_ratios()}
    print(json.dumps(figures, indent=2))
    for name in STRIPS:
        for key, bar in BARS.items():
            value = figures[name][key]
            print(f"{name}: {key} {value:.4g}, at most {bar:g}: {'met' if value <= bar else 'MISSED'}")


if __name__ == "__main__":
    main()
