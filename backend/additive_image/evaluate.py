"""Every figure that pages and cards show of an additive image model: `python -m backend evaluate additive_image`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_image import chests, data, listings, own_store, own_training, peers
from backend.additive_image.data import Squares
from backend.additive_image.directions import attribute_effects
from backend.additive_image.fitted import FittedModel, load_fitted, to_images
from backend.additive_image.host_figures import BARS as HOST_BARS
from backend.additive_image.host_figures import host_figures, judge_directions
from backend.additive_image.measure import MEASURES, measure_path, to_pixels
from backend.catalog import AUTOENCODERS, NAIMS
from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.models.autoencoders import load_autoencoder
from backend.models.diffusion_autoencoder import DiffusionAutoencoder, interpolate_linearly, interpolate_spherically
from backend.training import WEIGHTS

PATHS = 16  # of each kind
_FRAMES = 33
_RECONSTRUCTED = 64  # images
# What the issue asks for; a figure is met if it lies on the right side.
BARS: dict[str, dict[str, tuple[str, float]]] = {
    "identity": {
        "effects.image.r2": (">=", 0.999),
        "effects.wave.r2": (">=", 0.99),
        "effects.bowl.r2": (">=", 0.99),
        "effects.step.r2": (">=", 0.99),
        "effects.region.r2": (">=", 0.99),
        "below_ceiling": ("<=", 0.01),
        "paths.correlation": (">=", 0.98),
        "paths.sharpness": (">=", 0.8),
    },
    "logit": {f"effects.{term}.r2": (">=", 0.98) for term in ("image", "wave", "bowl", "step", "region")},
    "log": {f"effects.{term}.r2": (">=", 0.98) for term in ("image", "wave", "bowl", "step", "region")},
}
# Simulated radiographs: as hosts, where the same can be asked of them.
CHEST_BARS: dict[str, tuple[str, float]] = {
    "effects.image.r2": (">=", 0.97),
    "below_ceiling": ("<=", 0.01),
    "paths.correlation": (">=", 0.95),
    "paths.sharpness": (">=", 0.8),
    "fluid_paths.correlation": (">=", 0.95),
    "fluid_paths.sharpness": (">=", 0.8),
    "directions.heart_relative_error": ("<=", 0.10),
    "directions.effusion_relative_error": ("<=", 0.10),
    "directions.largest_without_effect": ("<=", 0.02),
    "directions.widest_without_effect": ("<=", 0.02),
}


def evaluate(
    key: str,
    n: int = 2000,
    seed: int = 0,
    on_step: OnStep = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
) -> dict[str, Any]:
    """All figures of one model, and each bar of its issue with whether it is met.

    Args: n: held-out rows.
    Raises: BadInput: no such model; NotAvailable: it has no weights here.
    """
    if key not in NAIMS:
        raise BadInput(f"unknown model {key!r}; one of {', '.join(NAIMS)}", "model")
    folder, device = Path(folder), torch.device(device)
    model = load_fitted(NAIMS[key], folder, device)
    loaded = load_autoencoder(AUTOENCODERS[model.autoencoder], folder, device, torch.float32)

    def tell(done: int, what: str) -> None:
        if on_step is not None:
            on_step(Step(done, 10, what))

    figures = peers.compare(model, loaded.module, n, seed, lambda done, total, what: tell(done, what))
    figures["below_ceiling"] = figures["ceiling"] - figures["score"]
    figures["reconstruction"] = reconstruction(loaded.module, model, seed)
    tell(8, "reconstruction measured")
    rows = attribute_effects(model, torch.Generator().manual_seed(seed))
    figures["attribute_effects"] = [dataclasses.asdict(row) for row in rows]
    tell(9, "attribute effects measured")
    is_hosts = model.dataset.name.startswith("hosts")
    if is_hosts:
        figures |= host_figures(loaded.module, model, rows, seed=seed)
    else:
        figures["paths"] = paths(loaded.module, model, seed)
    if model.dataset.name == "radiographs":
        figures["fluid_paths"] = paths(loaded.module, model, seed, "effusion")
        figures["directions"] = judge_directions(rows)
    tell(10, "paths measured")
    return {
        "family": "additive_image",
        "model": key,
        "digest": model.digest,
        "autoencoder": model.autoencoder,
        "autoencoder_digest": loaded.digest,
        "n": n,
        "seed": seed,
        **figures,
        "bars": {name: _judge(figures, name, *bar) for name, bar in _bars_of(model).items()},
    }


def _bars_of(model: FittedModel) -> dict[str, tuple[str, float]]:
    """None for the tied examples: they are there to show what goes wrong."""
    name = model.dataset.name
    if name == "squares-tied":
        return {}
    if name == "radiographs":
        return CHEST_BARS
    return HOST_BARS if name.startswith("hosts") else BARS[model.dataset.link]


def _judge(figures: dict[str, Any], name: str, sign: str, bar: float) -> dict[str, Any]:
    value: Any = figures
    for part in name.split("."):
        value = value[part]
    return {"value": value, "bar": f"{sign} {bar:g}", "is_met": value >= bar if sign == ">=" else value <= bar}


def reconstruction(autoencoder: DiffusionAutoencoder, model: FittedModel, seed: int = 0) -> dict[str, float]:
    """Errors of images decoded from their z_sem and a zero, random or inverted x_T; and what each code carries.

    `grey_follows_x_T`, `place_follows_z`, `hue_follows_z`: correlation of what is seen in decode(z of one image, x_T
    of another) with what is seen in the image whose code should carry it.
    """
    images = to_images(model.dataset.images[slice(0, _RECONSTRUCTED)], model.codes.device)
    with torch.no_grad():
        codes = autoencoder.encode(images)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).to(images)
    inverted = autoencoder.invert(images, codes)

    def error(x_T: Tensor | None) -> float:
        return float((autoencoder.decode(codes, x_T) - images).square().mean())

    found = {"zero": error(None), "random": error(noise), "inverted": error(inverted)}
    found["random_over_inverted"] = found["random"] / found["inverted"]
    found["x_T_sd"] = float(inverted.std())
    found["mean_image"] = float((images.mean(0) - images).square().mean())
    measure = MEASURES.get(model.dataset.name.split("-")[0])
    if measure is not None and "hue" in model.dataset.attributes:
        seen, swapped = measure(to_pixels(images)), measure(to_pixels(autoencoder.decode(codes, inverted.roll(1, 0))))
        found["grey_follows_x_T"] = float(np.corrcoef(swapped["grey"], np.roll(seen["grey"], 1))[0, 1])
        found["place_follows_z"] = float(np.corrcoef(swapped["x"], seen["x"])[0, 1])
        found["hue_follows_z"] = float(np.corrcoef(swapped["hue"], seen["hue"])[0, 1])
    return found


def paths(
    autoencoder: DiffusionAutoencoder, model: FittedModel, seed: int = 0, attribute: str = ""
) -> dict[str, float]:
    """Mean and worst figures over paths whose ends differ in an attribute that has an effect, and in nothing else.

    Args: attribute: "": the one that the data set is shown by.

    `correlation`: of the attribute measured in decoded frames with alpha. `sharpness`: least gradient energy over what
    the ends give by linear interpolation. `effect_r2`: of the learned effect of the codes along the path against the
    true effect of the attribute measured in the decoded frames.
    """
    attribute, effect = attribute or model.dataset.shown_attribute, model.dataset.image_effect
    alphas = torch.linspace(0, 1, _FRAMES)
    rng = np.random.default_rng([seed, 77])
    rows = []
    for _ in range(PATHS):
        images = _end_images(model.dataset.name, attribute, rng).to(model.codes)
        with torch.no_grad():
            codes = autoencoder.encode(images)
        x_T = None
        if autoencoder.prediction != "sample":
            x_T = interpolate_spherically(*autoencoder.invert(images, codes), alphas)
        path = interpolate_linearly(codes[0], codes[1], alphas)
        frames = to_pixels(autoencoder.decode(path, x_T))
        measured = measure_path(model.dataset.name, frames, alphas.numpy())
        learned = model.head.image_effect(path).value.cpu().numpy()
        rows.append(
            (
                measured.correlation(attribute) or 0.0,
                measured.sharpness,
                peers.effect_r2(learned, effect(measured.attributes)),
            )
        )
    mean, worst = np.mean(rows, 0), np.min(rows, 0)
    names = ("correlation", "sharpness", "effect_r2")
    return {
        **{name: float(value) for name, value in zip(names, mean, strict=True)},
        **{f"worst_{name}": float(value) for name, value in zip(names, worst, strict=True)},
    }


def _end_images(name: str, attribute: str, rng: np.random.Generator) -> Tensor:
    """(2, 3, S, S) in [0, 1]."""
    if name == "radiographs":
        return torch.from_numpy(chests.draw_ends(attribute, rng).draw())[:, None].repeat(1, 3, 1, 1)
    return torch.from_numpy(_ends(attribute, rng).draw()).permute(0, 3, 1, 2)


def _ends(attribute: str, rng: np.random.Generator) -> Squares:
    """Two squares alike but for one attribute, which goes over most of its range."""
    one = data.draw_squares(1, rng)
    ends = {f.name: np.repeat(getattr(one, f.name), 2) for f in dataclasses.fields(one)}
    low, high = {"side": data.SIDES, "hue": data.HUES}[attribute]
    ends[attribute] = np.array([low + 0.04 * (high - low), high - 0.04 * (high - low)])
    room = data.PIXELS / 2 - ends["side"].max() / 2 - 1
    for axis in ("x", "y"):
        ends[axis] = np.clip(ends[axis], data.PIXELS / 2 - room, data.PIXELS / 2 + room)
    return Squares(**ends)


def evaluate_own(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """Fit a model to a user's own rows and measure it on those held out. `context` is a `backend.jobs.JobContext`.

    Args: args: as `own_files.job_args` returns them.
    Returns: the figures of `peers.compare`, on listings of Inside Airbnb with what the paper reports beside them.
    Raises: BadInput: all rows, or all that are held out, have the same response.
    """
    card = own_training.job(args, context)
    path = context.folder / own_store.EVALUATION
    if not path.exists():
        raise BadInput("all rows that are held out have the same response, so nothing can be compared", "data")
    dataset = own_store.read(args["data"])
    is_listings = dataset.response_name == listings.RESPONSE
    return {
        **json.loads(path.read_text(encoding="utf-8")),
        "title": args["title"],
        "encoder": args["encoder"],
        "rows": card["data"]["rows"],
        "columns": [column.name for column in dataset.columns],
        **({"paper": listings.PAPER} if is_listings else {}),
    }


def job(args: dict[str, Any], context: Any) -> dict[str, Any]:
    """`evaluate` as a job. `context` is a `backend.jobs.JobContext`."""
    from backend.runtime import choose_device

    if "data" in args:
        return evaluate_own(args, context)
    rows = [
        evaluate(args["model"], args.get("n", 2000), seed, context.on_step, choose_device())
        for seed in range(args.get("seeds", 1))
    ]
    return rows[0] if len(rows) == 1 else {"model": args["model"], "seeds": rows}
