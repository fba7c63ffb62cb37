"""Path attribution requests: ids to tensors, pure functions, tensors to a numpy result."""

import dataclasses
import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.catalog import METHODS, MethodSpec, ModelSpec, check_baseline, method
from backend.company import company_note
from backend.contracts import (
    AttributionRequest,
    FaithfulnessRequest,
    PathRequest,
    PredictionRequest,
    Provenance,
    RandomisationRequest,
    Request,
    Result,
    SensitivityRequest,
    request_key,
)
from backend.errors import BadInput, ModelFault
from backend.models.classifier import LoadedClassifier
from backend.models.first_layer import quick_first_layer
from backend.models.inputs import to_model_input
from backend.path_attribution import metrics, randomisation, rise
from backend.path_attribution.baselines import make_baseline
from backend.path_attribution.problem import Explanation, Problem
from backend.runtime import Chunks, PassCounter, watch
from backend.service import Context
from backend.versions import versions

TOP_CLASSES = 5


# ----------------------------------------------------------------- checking
def prepare(context: Context, request: Request) -> tuple[Request, str]:
    """The request in canonical form (all parameters present, baselines spelled alike) and its model's digest.

    Raises: BadInput: unknown model, method, parameter or baseline; a value out of range; a picture not held.
    """
    request = _canonical(request, context)
    first = getattr(request, "attributions", (getattr(request, "attribution", request),))[0]
    context.image(first.image_id)
    return request, context.model(first.model).digest


def _canonical(request: Request, context: Context) -> Request:
    if isinstance(request, AttributionRequest):
        return dataclasses.replace(
            request,
            params=method(request.method).complete_params(request.params),
            baseline=_canonical_baselines(request),
        )
    changes: dict[str, Any] = {}
    if hasattr(request, "attribution"):
        changes["attribution"] = _canonical(request.attribution, context)
    if hasattr(request, "attributions"):
        changes["attributions"] = tuple(_canonical(item, context) for item in request.attributions)
        _check_same_problem(changes["attributions"], context.runtime.limits.max_methods)
    if hasattr(request, "baseline"):
        changes["baseline"] = check_baseline(request.baseline)
    _check_ranges(request, context)
    return dataclasses.replace(request, **changes)


def _canonical_baselines(request: AttributionRequest) -> tuple[str, ...]:
    if not method(request.method).uses_baseline:
        return ("black",)  # not used: must not tell equal requests apart
    names = (request.baseline,) if isinstance(request.baseline, str) else request.baseline
    if not 1 <= len(names) <= 8:
        raise BadInput(f"{len(names)} baselines; choose 1 to 8", "baseline")
    return tuple(sorted({check_baseline(name) for name in names}))


def _check_same_problem(requests: tuple[AttributionRequest, ...], max_methods: int) -> None:
    if not 1 <= len(requests) <= max_methods:
        raise BadInput(f"{len(requests)} attributions; between 1 and {max_methods} stand side by side", "attributions")
    if len({(r.image_id, r.model, r.target) for r in requests}) > 1:
        raise BadInput("the attributions are not of one image, model and target", "attributions")


def _check_ranges(request: Request, context: Context) -> None:
    ranges = {
        "steps": (2, 1000),
        "subsets": (3, 10_000),
        "max_layers": (1, 100),
        "frames": (2, context.runtime.limits.max_path_frames),
    }
    for name, (low, high) in ranges.items():
        value = getattr(request, name, None)
        if value is not None and not low <= value <= high:
            raise BadInput(f"{name} is {value}; expected {low}..{high}", name)
    for fraction in getattr(request, "fractions", ()):
        if not 0.0 < fraction < 1.0:
            raise BadInput(f"a subset fraction is {fraction}; expected more than 0 and less than 1", "fractions")


# ----------------------------------------------------------------- dispatch
def run(context: Context, request: Request) -> Result:
    """Answer a canonical request of this family. The caller holds the device's lock."""
    return _RUNNERS[type(request)](context, request)


@dataclasses.dataclass(frozen=True)
class Scene:
    """One image before one model: what every request of this family starts from."""

    loaded: LoadedClassifier
    pixels: Tensor  # (1, C, H, W) in [0, 1], on the device
    logits: Tensor  # (classes,)
    target: int

    @property
    def targets(self) -> Tensor:
        return torch.tensor([self.target], device=self.pixels.device)


def _scene(context: Context, image_id: str, model: str, target: int | None) -> Scene:
    loaded = context.model(model)
    pixels = to_model_input(context.image(image_id), loaded.spec).to(context.runtime.device, context.runtime.dtype)
    with torch.no_grad():
        logits = loaded.module(pixels)[0]
    return Scene(loaded, pixels, logits, loaded.check_target(target, logits))


def _problem(context: Context, scene: Scene, baselines: Tensor, seed: int) -> Problem:
    return Problem(
        model=scene.loaded.module,
        images=scene.pixels,
        baselines=baselines,
        targets=scene.targets,
        generator=context.runtime.generator(seed),
        chunks=Chunks(context.runtime.chunk_size(*scene.pixels.shape[-2:])),
        on_step=context.on_step,
    )


def _provenance(context: Context, scene: Scene, passes: PassCounter, notes: list[str]) -> Provenance:
    return Provenance(
        model_digest=scene.loaded.digest,
        device=context.runtime.describe(),
        dtype=str(context.runtime.dtype).removeprefix("torch."),
        forward_passes=passes.forward,
        backward_passes=passes.backward,
        versions=versions(),
        notes=tuple(dict.fromkeys(notes)),
    )


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


# ----------------------------------------------------------------- prediction
def _predict(context: Context, request: PredictionRequest) -> Result:
    scene = _scene(context, request.image_id, request.model, None)
    probabilities = scene.logits.softmax(0)
    top = scene.logits.topk(min(TOP_CLASSES, len(scene.logits))).indices.tolist()
    classes = [
        {
            "target": target,
            "label": scene.loaded.label(target),
            "logit": float(scene.logits[target]),
            "probability": float(probabilities[target]),
        }
        for target in top
    ]
    return Result(
        request=request,
        arrays={
            "pixels": to_numpy(scene.pixels[0].permute(1, 2, 0)),  # what the model looked at, (H, W, C)
            "logits": to_numpy(scene.logits),
        },
        values={"top": classes, "notes": list(context.image(request.image_id).notes)},
        unit="logit",
        provenance=_provenance(context, scene, PassCounter(forward=1), []),
    )


# ----------------------------------------------------------------- attribution
def implementation(spec: MethodSpec) -> Callable[..., Explanation]:
    """The function that a method's row names, imported now."""
    module, function = spec.implementation.split(":")
    return getattr(importlib.import_module(module), function)


def _attribute(context: Context, request: AttributionRequest) -> Result:
    scene = _scene(context, request.image_id, request.model, request.target)
    spec = method(request.method)
    with watch(scene.loaded.module, context.is_cancelled) as passes:
        explanation, baselines, notes = _explain_over_baselines(
            context,
            scene,
            request,
            lambda problem: implementation(spec)(problem, **dict(request.params)),
            lambda so_far: _attributed(context, scene, request, so_far, passes),
        )
    return _finished(context, scene, request, explanation, baselines, passes, notes)


def _finished(
    context: Context,
    scene: Scene,
    request: AttributionRequest,
    explanation: Explanation,
    baselines: Tensor,
    passes: PassCounter,
    notes: list[str],
) -> Result:
    """An explanation of one image as a result. Raises: ModelFault: its values are not numbers."""
    attribution = explanation.attribution[0]
    if not torch.isfinite(attribution).all():
        raise ModelFault(f"{method(request.method).title} gave values that are not numbers for this input", "method")
    with torch.no_grad():
        baseline_score = float(scene.loaded.module(baselines)[:, scene.target].mean())
    answer = _attributed(context, scene, request, attribution, passes, notes)
    return dataclasses.replace(
        answer, values={**answer.values, "baseline_score": baseline_score}, quality=_quality(explanation)
    )


def _attributed(
    context: Context,
    scene: Scene,
    request: AttributionRequest,
    attribution: Tensor,
    passes: PassCounter,
    notes: list[str] | None = None,
) -> Result:
    """A map (C or 1, H, W), finished or on its way, as a result without its quality."""
    spec = method(request.method)
    return Result(
        request=request,
        arrays={"attribution": to_numpy(attribution)},
        values={
            "target": scene.target,
            "label": scene.loaded.label(scene.target),
            "score": float(scene.logits[scene.target]),
            "probability": float(scene.logits.softmax(0)[scene.target]),
            "signed": spec.signed,
        },
        unit=spec.unit,
        provenance=_provenance(context, scene, passes, notes or []),
    )


def _explain_over_baselines(
    context: Context,
    scene: Scene,
    request: AttributionRequest,
    explain: Callable[[Problem], Explanation],
    show: Callable[[Tensor], Result] | None = None,
) -> tuple[Explanation, Tensor, list[str]]:
    """Explain once for each baseline and average; returns the baselines too, (n, C, H, W).

    Args: show: makes a result of the mean so far, (C or 1, H, W): finished baselines and the one under way.
    """
    explanations, baselines, notes = [], [], []
    for name in request.baseline:
        baseline = make_baseline(name, scene.pixels, context.runtime.generator(request.seed))
        problem = _problem(context, scene, baseline, request.seed)
        if show is not None:
            finished = tuple(explanation.attribution for explanation in explanations)
            problem.show = lambda so_far, finished=finished: [show(torch.stack([*finished, so_far]).mean(0)[0])]
        explanations.append(explain(problem))
        baselines.append(baseline)
        notes += [*problem.chunks.notes, *explanations[-1].notes]
    return _mean_explanation(explanations), torch.cat(baselines), notes


# ----------------------------------------------------------------- attributions of several people as one
def together(context: Context, request: Request) -> tuple[str | None, int]:
    """What is equal for requests that can be computed as one, and how many at most; None: it is computed alone.

    One network call for all bounds the group: more would not be any faster, and none takes more memory than one
    person's call may.
    """
    if not isinstance(request, AttributionRequest):
        return None, 1
    in_one_call = context.runtime.chunk_size(*context.library.spec(request.model).input_size)
    points = _points_at_once(context, request)
    at_most = in_one_call // points if points else 1
    if at_most < 2:
        return None, 1
    group = request_key(dataclasses.replace(request, image_id="", target=None))
    return group, min(context.runtime.limits.max_together, at_most)


def _points_at_once(context: Context, request: AttributionRequest) -> int:
    """How many points of one image a method asks for in one call; 0: it does not gain by company.

    A step of a greedy path is one point for each direction, which leaves any device idle. A block of RISE's masks
    leaves a GPU idle if the pictures are small; on a CPU eight people at once took 1.15 times as long as alone
    (`tests.benchmarks.company`). Integrated Gradients and the others ask for all of their points at once.
    """
    if method(request.method).has_path:
        is_ordered = dict(request.params).get("integrator") == "ordered"  # its note is of the whole batch
        return 0 if is_ordered else 2
    if request.method == "rise" and context.runtime.device.type != "cpu":
        return rise.BLOCK
    return 0


def run_together(context: Context, requests: list[AttributionRequest]) -> list[Result]:
    """Answer canonical requests of one group: they differ in image and target only.

    Each answer is that of `run` but for rounding: sums over a batch are not taken in the order of one image's.
    """
    scenes = [_scene(context, request.image_id, request.model, request.target) for request in requests]
    first, module, n = requests[0], scenes[0].loaded.module, len(requests)
    explanations, baselines, notes = [], [], [company_note(n)]

    def show(so_far: Tensor) -> list[Result]:
        maps = torch.stack([*(explanation.attribution for explanation in explanations), so_far]).mean(0)
        each = zip(scenes, requests, maps, strict=True)
        return [_attributed(context, scene, request, mine, share()) for scene, request, mine in each]

    def share() -> PassCounter:
        """Of each, where all images have the same."""
        return PassCounter(passes.forward // n, passes.backward // n)

    with watch(module, context.is_cancelled) as passes:
        for name in first.baseline:
            generator = context.runtime.generator
            baselines.append(torch.cat([make_baseline(name, scene.pixels, generator(first.seed)) for scene in scenes]))
            problem = Problem(
                model=module,
                images=torch.cat([scene.pixels for scene in scenes]),
                baselines=baselines[-1],
                targets=torch.cat([scene.targets for scene in scenes]),
                generator=generator(first.seed),
                chunks=Chunks(context.runtime.chunk_size(*scenes[0].pixels.shape[-2:])),
                on_step=context.on_step,
                show=show,
            )
            explanations.append(implementation(method(first.method))(problem, **dict(first.params)))
            notes += [*problem.chunks.notes, *explanations[-1].notes]
    results = []
    for i, (scene, request) in enumerate(zip(scenes, requests, strict=True)):
        mine = [explanation.of(i) for explanation in explanations]
        if mine[0].passes is None:
            counts = share()
        else:
            scored = sum(int(explanation.passes[0]) for explanation in mine)
            counts = PassCounter(forward=scored, backward=scored)
        starts = torch.stack([each[i] for each in baselines])
        results.append(_finished(context, scene, request, _mean_explanation(mine), starts, counts, notes))
    return results


def _mean_explanation(explanations: list[Explanation]) -> Explanation:
    if len(explanations) == 1:
        return explanations[0]

    def mean(parts: list[Tensor | None]) -> Tensor | None:
        return None if parts[0] is None else torch.stack(parts).mean(0)

    return Explanation(
        attribution=mean([e.attribution for e in explanations]),
        explained_change=mean([e.explained_change for e in explanations]),
        corrected_share=mean([e.corrected_share for e in explanations]),
        trajectories=explanations[0].trajectories,
    )


def _quality(explanation: Explanation) -> Mapping[str, float | None]:
    """The figures that stand beside the map; None where the method makes no such promise."""
    attribution = explanation.attribution[0]
    heat = attribution.sum(0)
    quality: dict[str, float | None] = {
        "completeness_gap": None,  # |sum a - (f(x) - f(x0))|, in the score's unit
        "relative_gap": None,
        "corrected_share": None,
        "variance": float(heat.var(unbiased=False)),
        "gini": _number(metrics.gini(heat)),
    }
    if explanation.explained_change is not None:
        change = float(explanation.explained_change[0])
        quality["completeness_gap"] = abs(float(attribution.double().sum()) - change)
        quality["relative_gap"] = quality["completeness_gap"] / abs(change) if change else None
    if explanation.corrected_share is not None:
        quality["corrected_share"] = float(explanation.corrected_share[0])
    return quality


# ----------------------------------------------------------------- path player
def _trace_path(context: Context, request: PathRequest) -> Result:
    attribution = request.attribution
    if not method(attribution.method).has_path:
        keys = ", ".join(key for key, spec in METHODS.items() if spec.has_path)
        raise BadInput(f"{attribution.method} has no path to play; these have: {keys}", "method")
    scene = _scene(context, attribution.image_id, attribution.model, attribution.target)
    trace = importlib.import_module("backend.path_attribution.samp").trace
    first = dataclasses.replace(attribution, baseline=attribution.baseline[:1])
    with watch(scene.loaded.module, context.is_cancelled) as passes:
        explanation, _, notes = _explain_over_baselines(
            context, scene, first, lambda problem: trace(problem, request.frames, **dict(attribution.params))
        )
    arrays: dict[str, np.ndarray] = {}
    for direction, trajectory in explanation.trajectories.items():
        frames = trajectory.points[:, 0].permute(0, 2, 3, 1).clamp(0, 1).mul(255).round()
        arrays[f"{direction}_frames"] = frames.to(torch.uint8).cpu().numpy()  # (K, H, W, C)
        arrays[f"{direction}_scores"] = to_numpy(trajectory.scores[:, 0])  # (K,), logits
        arrays[f"{direction}_fractions"] = to_numpy(trajectory.fractions[:, 0])  # (K,), share of the way gone
    return Result(
        request=request,
        arrays=arrays,
        values={
            "target": scene.target,
            "label": scene.loaded.label(scene.target),
            "score": float(scene.logits[scene.target]),
            "baseline": first.baseline[0],
        },
        unit="logit",
        provenance=_provenance(context, scene, passes, notes),
    )


# ----------------------------------------------------------------- metrics of several attributions
@dataclasses.dataclass(frozen=True)
class Gallery:
    """Several methods' maps of one scene, ready to be judged in one sweep."""

    scene: Scene
    maps: Tensor  # (M, 1, H, W)
    baselines: Tensor  # (1, C, H, W)


def _gallery(context: Context, request: FaithfulnessRequest | SensitivityRequest) -> Gallery:
    """Every attribution from the store (or computed now), summed over channels."""
    results = [context.sub_run(attribution) for attribution in request.attributions]
    first = request.attributions[0]
    scene = _scene(context, first.image_id, first.model, first.target)
    maps = [torch.from_numpy(result.arrays["attribution"]).sum(0, keepdim=True) for result in results]
    baselines = make_baseline(request.baseline, scene.pixels, context.runtime.generator(request.seed))
    return Gallery(scene, torch.stack(maps).to(scene.pixels), baselines)


def _judge_faithfulness(context: Context, request: FaithfulnessRequest) -> Result:
    gallery = _gallery(context, request)
    chunks = Chunks(context.runtime.chunk_size(*gallery.scene.pixels.shape[-2:]))
    module = gallery.scene.loaded.module
    with watch(module, context.is_cancelled) as passes, quick_first_layer(module):
        sweep = metrics.deletion_insertion(
            module,
            gallery.scene.pixels,
            gallery.baselines,
            gallery.scene.targets,
            gallery.maps,
            request.steps,
            context.runtime.generator(request.seed),
            chunks,
            context.on_step,
        )
    score, baseline_score = float(sweep.score[0]), float(sweep.baseline_score[0])
    areas = {kind: sweep.scores(kind) for kind in metrics.SCORE_KINDS}
    rows = [
        {
            **{
                f"{mode}_{kind}": _number(areas[kind][i][m, 0])
                for kind in metrics.SCORE_KINDS
                for i, mode in enumerate(("deletion", "insertion"))
            },
            **_truth(context, gallery, m, request.mask_id),
        }
        for m in range(len(request.attributions))
    ]
    return Result(
        request=request,
        arrays={
            "fractions": to_numpy(sweep.fractions),  # (K + 1,)
            "deletion_logit": to_numpy(sweep.deletion.logit[:, 0]),  # (M, K + 1)
            "insertion_logit": to_numpy(sweep.insertion.logit[:, 0]),
            "deletion_probability": to_numpy(sweep.deletion.probability[:, 0]),
            "insertion_probability": to_numpy(sweep.insertion.probability[:, 0]),
        },
        values={
            "target": gallery.scene.target,
            "score": score,
            "baseline_score": baseline_score,
            "methods": [attribution.method for attribution in request.attributions],
            "rows": rows,  # one for each attribution, in the request's order
            "reasons": {kind: metrics.score_reason(kind, score, baseline_score) for kind in metrics.SCORE_KINDS},
        },
        unit="logit",
        provenance=_provenance(context, gallery.scene, passes, chunks.notes),
    )


def _truth(context: Context, gallery: Gallery, m: int, mask_id: str | None) -> dict[str, float | None]:
    """How much of a map lies on the object, if somebody knows where it is."""
    if mask_id is None:
        return {}
    mask = to_model_input(context.image(mask_id), _grey(gallery.scene.loaded.spec)).to(gallery.maps)[0, 0] > 0.5
    return {
        "mass_absolute": _number(metrics.mass_in_mask(gallery.maps[m, 0], mask)),
        "mass_positive": _number(metrics.mass_in_mask(gallery.maps[m, 0], mask, "positive")),
        "pointing": _number(metrics.pointing_game(gallery.maps[m, 0], mask)),
        "mask_share": float(mask.float().mean()),  # what a uniform map would score
    }


def _grey(spec: ModelSpec) -> ModelSpec:
    """The same input size and fit with one channel, for masks."""
    return dataclasses.replace(spec, channels="L")


def _judge_sensitivity(context: Context, request: SensitivityRequest) -> Result:
    gallery = _gallery(context, request)
    height, width = gallery.scene.pixels.shape[-2:]
    sizes = tuple(max(1, round(fraction * height * width)) for fraction in request.fractions)
    chunks = Chunks(context.runtime.chunk_size(height, width))
    module = gallery.scene.loaded.module
    with watch(module, context.is_cancelled) as passes, quick_first_layer(module):
        correlations = metrics.sensitivity_n(
            module,
            gallery.scene.pixels,
            gallery.baselines,
            gallery.scene.targets,
            gallery.maps,
            sizes,
            request.subsets,
            context.runtime.generator(request.seed),
            chunks,
            context.on_step,
        )
    return Result(
        request=request,
        arrays={"sizes": np.asarray(sizes), "correlations": to_numpy(correlations[:, 0])},  # (N,), (M, N)
        values={"methods": [attribution.method for attribution in request.attributions]},
        unit="Pearson correlation",
        provenance=_provenance(context, gallery.scene, passes, chunks.notes),
    )


def _number(value: Tensor | float) -> float | None:
    """A float for JSON; None where it is not defined."""
    number = float(value)
    return number if math.isfinite(number) else None


# ----------------------------------------------------------------- sanity check
def _randomise(context: Context, request: RandomisationRequest) -> Result:
    """Explain again while the layers of a copy of the model are randomised from the output."""
    attribution = request.attribution
    scene = _scene(context, attribution.image_id, attribution.model, attribution.target)
    function = implementation(method(attribution.method))
    quiet = dataclasses.replace(context, on_step=lambda _: None)  # the stages tell how far it is
    notes: list[str] = []

    def explain(module: torch.nn.Module) -> Tensor:
        altered = dataclasses.replace(scene, loaded=scene.loaded.with_module(module))
        with watch(module, context.is_cancelled) as passes:
            explanation, _, new_notes = _explain_over_baselines(
                quiet, altered, attribution, lambda problem: function(problem, **dict(attribution.params))
            )
        total.forward += passes.forward
        total.backward += passes.backward
        notes.extend(new_notes)
        return explanation.attribution[0].sum(0)

    total = PassCounter()
    original, stages = randomisation.cascading_randomisation(
        scene.loaded.module, explain, attribution.seed, request.max_layers, context.on_step
    )
    return Result(
        request=request,
        arrays={
            "original": to_numpy(original),  # (H, W)
            "maps": np.stack([to_numpy(stage.map) for stage in stages]),  # (S, H, W)
        },
        values={
            "target": scene.target,
            "stages": [
                {
                    "layers": list(stage.layers),
                    "spearman": stage.spearman,
                    "spearman_absolute": stage.spearman_absolute,
                }
                for stage in stages
            ],
        },
        unit=method(attribution.method).unit,
        provenance=_provenance(context, scene, total, notes),
    )


_RUNNERS: dict[type, Callable[[Context, Any], Result]] = {
    PredictionRequest: _predict,
    AttributionRequest: _attribute,
    PathRequest: _trace_path,
    FaithfulnessRequest: _judge_faithfulness,
    SensitivityRequest: _judge_sensitivity,
    RandomisationRequest: _randomise,
}
