"""Requests about an image and a text: ids and words to tensors, pure functions, tensors to a numpy result."""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.catalog import MethodSpec, method
from backend.contracts import (
    PairMapRequest,
    PairRandomisationRequest,
    PairScoreRequest,
    Provenance,
    ReportMapsRequest,
    Request,
    Result,
    Step,
)
from backend.errors import BadInput, Cancelled, ModelFault
from backend.image_text.counting import CountedTower
from backend.image_text.held import Held, held_for, model_input
from backend.image_text.judge import PHRASING
from backend.image_text.problem import Explanation, Problem
from backend.limits import LIMITS
from backend.models.clip import TASK, ImageTextPair
from backend.models.tokenizers import TokenizedText
from backend.path_attribution.randomisation import cascading_randomisation
from backend.radiographs.reports import statements
from backend.runtime import Chunks, PassCounter
from backend.service import Context
from backend.versions import versions

FAMILY = "image_text"
MODALITIES = ("image", "text", "both")
CONTROLS = 4  # strangers whose text maps are averaged
_TOGETHER = 4  # sentences after the first that are explained at once


# ----------------------------------------------------------------- checking
def prepare(context: Context, request: Request) -> tuple[Request, str]:
    """The request in canonical form and its model's digest.

    Raises: BadInput: unknown model, method, parameter or modality; a text without a word that the model reads.
    """
    pair: ImageTextPair = context.model(getattr(request, "map", request).model, TASK)
    request = _canonical(context, request, pair)
    return request, pair.digest


def _canonical(context: Context, request: Request, pair: ImageTextPair) -> Request:
    if isinstance(request, PairRandomisationRequest):
        if request.map.modality not in ("image", "text"):
            raise BadInput("choose one modality, image or text: the layers of one tower are randomised", "modality")
        if not 1 <= request.max_layers <= 100:
            raise BadInput(f"max_layers is {request.max_layers}; expected 1..100", "max_layers")
        return dataclasses.replace(request, map=_canonical(context, request.map, pair))
    context.image(request.image_id)
    texts = (request.text,) if isinstance(request, PairMapRequest) else getattr(request, "sentences", None)
    texts = request.texts if texts is None else texts
    if len(texts) > LIMITS.max_texts:
        raise BadInput(f"{len(texts)} texts; up to {LIMITS.max_texts} are explained at once", "text")
    for text in texts:
        check_text(text, pair)
    if isinstance(request, PairScoreRequest):
        return request
    if request.modality not in MODALITIES:
        raise BadInput(f"modality {request.modality!r}; expected {', '.join(MODALITIES)}", "modality")
    if request.control_id is not None:
        context.image(request.control_id)
    params = method(request.method, FAMILY).complete_params(request.params)
    layer = dict(params).get("layer")
    if layer is not None:
        for modality in _asked(request.modality):
            tower = pair.tower(modality)
            tower.check_layer(layer, tower.first_layer if method(request.method, FAMILY).group == "bottleneck" else 0)
    return dataclasses.replace(request, params=params)


def check_text(text: str, pair: ImageTextPair) -> TokenizedText:
    """A text as the model reads it. Raises: BadInput: empty, endless, or without a word that the model can read."""
    if not text.strip():
        raise BadInput("the text is empty; write or paste a sentence", "text")
    if len(text) > LIMITS.max_text_characters:
        raise BadInput(f"the text has {len(text)} characters; up to {LIMITS.max_text_characters} are read", "text")
    tokenized = pair.tokenizer.tokenize(text)
    n_tokens = len(tokenized.ids) + tokenized.n_cut
    if n_tokens > LIMITS.max_tokens:
        raise BadInput(f"the text has {n_tokens} sub-tokens; up to {LIMITS.max_tokens} are read", "text")
    if not tokenized.words:
        raise BadInput("the model reads no word of this text; it knows Latin letters and digits", "text")
    return tokenized


def _asked(modality: str) -> tuple[str, ...]:
    return ("image", "text") if modality == "both" else (modality,)


# ----------------------------------------------------------------- dispatch
def run(context: Context, request: Request) -> Result:
    """Answer a canonical request of this family. The caller holds the device's lock."""
    return _RUNNERS[type(request)](context, request)


@dataclasses.dataclass(frozen=True)
class Scene:
    """An image and texts before one pair of encoders: what every request of this family starts from."""

    pair: ImageTextPair
    held: Held
    pixels: Tensor  # (1, C, H, W) in [0, 1], on the device
    image: Tensor  # (1, E), unit vector
    texts: Tensor  # (S, E), unit vectors
    tokenized: tuple[TokenizedText, ...]
    notes: tuple[str, ...]
    passes: PassCounter = dataclasses.field(default_factory=PassCounter)

    @property
    def cosines(self) -> Tensor:
        return (self.texts @ self.image.T)[:, 0]  # (S,)


def _scene(context: Context, model: str, image_id: str, texts: Sequence[str]) -> Scene:
    pair: ImageTextPair = context.model(model, TASK)
    pixels, notes = model_input(context.image(image_id), pair)
    pixels = pixels.to(pair.device, pair.dtype)
    held = held_for(pair, context.library.weights_folder)
    tokenized = tuple(check_text(text, pair) for text in texts)
    for number, text in enumerate(tokenized):
        if text.n_cut:
            place = f"text {number + 1}" if len(tokenized) > 1 else "the text"
            notes.append(f"the model reads {len(text.ids)} sub-tokens at most: {text.n_cut} of {place} are cut off")
    with torch.no_grad():
        image, embedded = pair.embed_images(pixels), pair.embed_texts(list(texts))
    passes = PassCounter(forward=1 + len(texts))
    return Scene(pair, held, pixels, image, embedded, tokenized, (*notes, *held.notes), passes)


def _provenance(context: Context, scene: Scene, notes: Sequence[str] = ()) -> Provenance:
    return Provenance(
        model_digest=scene.pair.digest,
        device=context.runtime.describe(),
        dtype=str(context.runtime.dtype).removeprefix("torch."),
        forward_passes=scene.passes.forward,
        backward_passes=scene.passes.backward,
        versions=versions(),
        notes=tuple(dict.fromkeys((*scene.notes, *notes))),
    )


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().numpy()


# ----------------------------------------------------------------- maps
def _map_pair(context: Context, request: PairMapRequest) -> Result:
    scene = _scene(context, request.model, request.image_id, (request.text,))
    (answer,) = explain_texts(context, scene, request, (0,))
    return Result(
        request=request,
        arrays={"pixels": to_numpy(scene.pixels[0].permute(1, 2, 0)), **answer.arrays},
        values=answer.values,
        quality=answer.quality,
        unit=method(request.method, FAMILY).unit,
        provenance=_provenance(context, scene, answer.notes),
    )


def _map_report(context: Context, request: ReportMapsRequest) -> Result:
    """The first sentence by itself, so that it shows early; the others a few at a time."""
    scene = _scene(context, request.model, request.image_id, request.sentences)
    total = len(request.sentences)
    answers: list[Answer] = []
    starts = [0, *range(1, total, _TOGETHER)]
    quiet = dataclasses.replace(context, on_step=lambda _: _stop_if_cancelled(context))
    for start, stop in zip(starts, [*starts[1:], total], strict=True):
        answers += explain_texts(quiet, scene, request, range(start, stop))
        result = _report(context, scene, request, answers)
        context.on_step(Step(stop, total, f"sentence {stop} of {total}", result if stop < total else None))
    return result


def _stop_if_cancelled(context: Context) -> None:
    if context.is_cancelled():
        raise Cancelled


def _report(context: Context, scene: Scene, request: ReportMapsRequest, answers: "list[Answer]") -> Result:
    """Arrays of the sentences so far: what has one shape is stacked, what has not is joined (`counts` cut it up)."""
    arrays: dict[str, np.ndarray] = {"pixels": to_numpy(scene.pixels[0].permute(1, 2, 0))}
    for name in answers[0].arrays:
        parts = [answer.arrays[name] for answer in answers]
        arrays[name] = np.concatenate(parts) if name in _RAGGED else np.stack(parts)
    return Result(
        request=request,
        arrays=arrays,
        values={
            "done": len(answers),
            "signed": method(request.method, FAMILY).signed,
            "sentences": [answer.values for answer in answers],
            "counts": {
                name: [len(answer.arrays[name]) for answer in answers] for name in _RAGGED if name in answers[0].arrays
            },
        },
        quality=answers[0].quality if len(answers) == 1 else {},
        unit=method(request.method, FAMILY).unit,
        provenance=_provenance(context, scene, [note for answer in answers for note in answer.notes]),
    )


_RAGGED = ("token_map", "control_token_map", "word_map", "control_word_map")


@dataclasses.dataclass(frozen=True)
class Answer:
    """The maps of one text, as they go into a result."""

    arrays: dict[str, np.ndarray]
    values: dict[str, Any]
    quality: dict[str, float | None]
    notes: tuple[str, ...]


def explain_texts(
    context: Context, scene: Scene, request: PairMapRequest | ReportMapsRequest, rows: Sequence[int]
) -> list[Answer]:
    """Maps of some of a scene's texts, on the image, on the words, or on both."""
    spec = method(request.method, FAMILY)
    parts: list[Answer] = [_about(scene, row, spec) for row in rows]
    for modality in _asked(request.modality):
        explain, show = (_explain_image, _show_image) if modality == "image" else (_explain_words, _show_words)
        params = _settings(scene, spec, request.params, modality)
        explanations = explain(context, scene, request, spec, params, rows)
        shown = [show(scene, row, explanation) for row, explanation in zip(rows, explanations, strict=True)]
        parts = [_joined(a, b, modality, params) for a, b in zip(parts, shown, strict=True)]
    return parts


def _settings(scene: Scene, spec: MethodSpec, params: tuple, modality: str) -> dict[str, Any]:
    """The request's parameters; what it leaves open is the model's own, where it has one."""
    given = dict(params)
    for name, value in scene.held.settings_of(spec.key, modality).items():
        if given.get(name) is None:
            given[name] = value
    return given


def _about(scene: Scene, row: int, spec: MethodSpec) -> Answer:
    tokenized = scene.tokenized[row]
    values = {
        "text": tokenized.text,
        "cosine": float(scene.cosines[row]),
        "signed": spec.signed,
        "tokens": [scene.pair.tokenizer.piece(tokenized.ids[k]) for w in tokenized.words for k in _tokens_of(w)],
        "words": [
            {"text": tokenized.word(k), "start": word.start, "end": word.end, "n_tokens": word.last - word.first}
            for k, word in enumerate(tokenized.words)
        ],
        "n_cut": tokenized.n_cut,
        "read_end": tokenized.words[-1].end,  # what stands behind it in the text, the model never saw
        "settings": {},
    }
    return Answer({}, values, {}, ())


def _tokens_of(word: Any) -> range:
    return range(word.first, word.last)


def _joined(one: Answer, other: Answer, modality: str, params: dict[str, Any]) -> Answer:
    settings = {**one.values["settings"], modality: params}
    return Answer(
        {**one.arrays, **other.arrays},
        {**one.values, **other.values, "settings": settings},
        {**one.quality, **other.quality},
        (*one.notes, *other.notes),
    )


# ----------------------------------------------------------------- one tower
def _problem(context: Context, scene: Scene, modality: str, seed: int, **fields: Any) -> Problem:
    height, width = scene.pair.input_size
    return Problem(
        tower=CountedTower(scene.pair.tower(modality), scene.passes),
        seed=seed,
        scale=scene.pair.logit_scale,
        statistics=lambda layer: scene.held.statistics.get((modality, layer)),
        blank_id=scene.pair.tokenizer.pad_id,
        chunks=Chunks(context.runtime.chunk_size(height, width)),
        on_step=context.on_step,
        **fields,
    )


def implementation(spec: MethodSpec) -> Callable[..., Any]:
    """The function that a method's row names, imported now."""
    module, function = spec.implementation.split(":")
    return getattr(importlib.import_module(module), function)


def _together(spec: MethodSpec) -> Callable[..., list[Explanation]] | None:
    """The function that explains several problems at once, where the method has one."""
    module, function = spec.implementation.split(":")
    return getattr(importlib.import_module(module), f"{function}_all", None)


def _explain_image(
    context: Context, scene: Scene, request: Any, spec: MethodSpec, params: dict[str, Any], rows: Sequence[int]
) -> list[Explanation]:
    """One problem with a target for each text: the image runs up to the bottleneck once."""
    rows = list(rows)
    problem = _problem(
        context,
        scene,
        "image",
        request.seed,
        inputs=scene.pixels,
        targets=scene.texts[rows],
        negatives=scene.held.texts,
    )
    explanation = implementation(spec)(problem, **params)
    _check_finite(spec, explanation.maps)
    return [_row(explanation, k) for k in range(len(rows))]


def _row(explanation: Explanation, k: int) -> Explanation:
    """The explanation of one target of several."""
    return Explanation(
        explanation.maps[k : k + 1],
        None if explanation.special is None else explanation.special[k : k + 1],
        {name: curve[k : k + 1] for name, curve in explanation.curves.items()},
        {name: figure[k : k + 1] for name, figure in explanation.figures.items()},
        explanation.notes,
    )


def _explain_words(
    context: Context, scene: Scene, request: Any, spec: MethodSpec, params: dict[str, Any], rows: Sequence[int]
) -> list[Explanation]:
    """For each text one problem; its first target is the image, the others are strangers: the control."""
    problems = []
    for row in rows:
        tokenized = scene.tokenized[row]
        strangers = _strangers(context, scene, request.control_id, row)
        problems.append(
            _problem(
                context,
                scene,
                "text",
                request.seed,
                inputs=scene.pair.tokens(request.text if hasattr(request, "text") else request.sentences[row]),
                targets=torch.cat([scene.image, strangers]),
                negatives=scene.held.images,
                words=tuple((word.first, word.last) for word in tokenized.words),
            )
        )
    together = _together(spec)
    if together is not None:
        explanations = together(problems, **params)
    else:
        explanations = [implementation(spec)(problem, **params) for problem in problems]
    for explanation in explanations:
        _check_finite(spec, explanation.maps)
    return explanations


def _strangers(context: Context, scene: Scene, control_id: str | None, row: int) -> Tensor:
    """Images that the text does not belong to: the visitor's own, or some of the half that it fits least; (K, E)."""
    if control_id is not None:
        pixels, _ = model_input(context.image(control_id), scene.pair)
        with torch.no_grad():
            return scene.pair.embed_images(pixels)
    order = (scene.held.images @ scene.texts[row]).argsort()
    lower = order[: max(1, len(order) // 2)]
    chosen = torch.linspace(0, len(lower) - 1, min(CONTROLS, len(lower))).round().long().to(lower.device)
    return scene.held.images[lower[chosen]]


def _check_finite(spec: MethodSpec, maps: Tensor) -> None:
    if not torch.isfinite(maps).all():
        raise ModelFault(f"{spec.title} gave values that are not numbers for this input", "method")


# ----------------------------------------------------------------- what is shown
def _show_image(scene: Scene, row: int, explanation: Explanation) -> Answer:
    cells = explanation.maps  # (1, rows, columns)
    size = tuple(scene.pixels.shape[-2:])
    arrays = {
        "image_map": to_numpy(enlarge(cells, size)[0]),
        "image_cells": to_numpy(cells[0]),
        **{f"image_{name}": to_numpy(curve[0]) for name, curve in explanation.curves.items()},
    }
    return Answer(arrays, {}, _quality("image", explanation, cells), tuple(explanation.notes))


def enlarge(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of cells or pixels at the image's size, bilinear; (B, rows, columns) -> (B, H, W)."""
    if tuple(cells.shape[1:]) == size:
        return cells
    return F.interpolate(cells[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _show_words(scene: Scene, row: int, explanation: Explanation) -> Answer:
    tokenized = scene.tokenized[row]
    own, control = explanation.maps[0], explanation.maps[1:].mean(0)
    arrays = {}
    for prefix, values in (("", own), ("control_", control)):
        tokens = [values[word.first : word.last] for word in tokenized.words]
        arrays[f"{prefix}token_map"] = to_numpy(torch.cat(tokens))
        arrays[f"{prefix}word_map"] = to_numpy(torch.stack([part.sum() for part in tokens]))
    for name, curve in explanation.curves.items():
        arrays[f"text_{name}"] = to_numpy(curve[0])
        arrays[f"control_text_{name}"] = to_numpy(curve[1:].mean(0))
    words = [own[word.first : word.last] for word in tokenized.words]
    quality = _quality("text", explanation, torch.cat(words)[None])
    return Answer(arrays, {"control": _control(scene, explanation)}, quality, tuple(explanation.notes))


def _control(scene: Scene, explanation: Explanation) -> dict[str, Any]:
    return {"images": len(explanation.maps) - 1, "origin": scene.held.origin}


def _quality(modality: str, explanation: Explanation, shown: Tensor) -> dict[str, float | None]:
    """What lies on the map, what on hidden tokens, and the fit before and after."""
    quality: dict[str, float | None] = {f"{modality}_total": float(shown[0].sum())}
    if explanation.special is not None:
        quality[f"{modality}_hidden"] = float(explanation.special[0])
    for name, figure in explanation.figures.items():
        quality[f"{modality}_{name}"] = float(figure[0])
    return quality


# ----------------------------------------------------------------- scores
def _score_pair(context: Context, request: PairScoreRequest) -> Result:
    scene = _scene(context, request.model, request.image_id, request.texts)
    return Result(
        request=request,
        arrays={"cosines": to_numpy(scene.cosines)},
        values={"texts": list(request.texts), "findings": findings(context, scene)},
        unit="cosine",
        provenance=_provenance(context, scene),
    )


def findings(context: Context, scene: Scene) -> list[dict[str, Any]]:
    """What the image shows, for each finding that the model has a calibrated threshold for.

    The score is the cosine with the mean of the finding's prompts, as the threshold was found.
    """
    judged = scene.pair.card.get("judged", {})
    rows = []
    for kind, figures in judged.get("findings", {}).items():
        prompts = statements(kind, PHRASING)
        with torch.no_grad():
            prompt = F.normalize(scene.pair.embed_texts(prompts).mean(0), dim=0)
        score = float(scene.image[0] @ prompt)
        rows.append(
            {
                "finding": kind,
                "cosine": score,
                "threshold": figures["threshold"],
                "present": score > figures["threshold"],
                "auroc": figures["auroc"],
                "balanced_accuracy": figures["balanced_accuracy"],
            }
        )
    return rows


# ----------------------------------------------------------------- sanity check
def _randomise(context: Context, request: PairRandomisationRequest) -> Result:
    """Explain again while the layers of the explained tower are randomised from the output, in a copy of the pair."""
    asked = request.map
    scene = _scene(context, asked.model, asked.image_id, (asked.text,))
    quiet = dataclasses.replace(context, on_step=lambda _: _stop_if_cancelled(context))
    ids, is_image = scene.pair.tokens(asked.text), asked.modality == "image"

    def explain(module: torch.nn.Module) -> Tensor:
        with torch.no_grad():  # the towers call parts of blocks; a plain call shows the order of all layers
            module.encode_image(module.normalise(scene.pixels)) if is_image else module.encode_text(ids)
        (answer,) = explain_texts(quiet, dataclasses.replace(scene, pair=scene.pair.with_module(module)), asked, (0,))
        return torch.from_numpy(np.atleast_2d(answer.arrays["image_map" if is_image else "word_map"]))

    original, stages = cascading_randomisation(
        scene.pair.module,
        explain,
        asked.seed,
        request.max_layers,
        context.on_step,
        lambda name: name.startswith("visual") == is_image,
    )
    return Result(
        request=request,
        arrays={
            "original": to_numpy(original),  # (H, W), or (1, words)
            "maps": np.stack([to_numpy(stage.map) for stage in stages]),
        },
        values={
            "stages": [
                {
                    "layers": list(stage.layers),
                    "spearman": stage.spearman,
                    "spearman_absolute": stage.spearman_absolute,
                }
                for stage in stages
            ],
        },
        unit=method(asked.method, FAMILY).unit,
        provenance=_provenance(context, scene),
    )


_RUNNERS: dict[type, Callable[[Context, Any], Result]] = {
    PairMapRequest: _map_pair,
    ReportMapsRequest: _map_report,
    PairScoreRequest: _score_pair,
    PairRandomisationRequest: _randomise,
}
