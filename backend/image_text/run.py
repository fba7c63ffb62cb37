"""Requests about an image and a text: ids and words to tensors, pure functions, tensors to a numpy result.

A sound stands in the image's place, as its spectrogram, or before an image in the text's.
"""

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from backend.catalog import MethodSpec, method
from backend.company import company_note
from backend.contracts import (
    PairMapRequest,
    PairRandomisationRequest,
    PairScoreRequest,
    Provenance,
    ReportMapsRequest,
    Request,
    Result,
    Step,
    request_key,
)
from backend.errors import BadInput, Cancelled, ModelFault
from backend.image_text.counting import CountedTower
from backend.image_text.held import Held, held_for, model_input, sound_input
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
CONTROLS = 4  # strangers whose text maps are averaged
_TOGETHER = 4  # sentences after the first that are explained at once, and people whose maps are


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
        if request.map.modality not in given_to(request.map):
            one = " or ".join(given_to(request.map))
            raise BadInput(f"choose one modality, {one}: the layers of one tower are randomised", "modality")
        if not 1 <= request.max_layers <= 100:
            raise BadInput(f"max_layers is {request.max_layers}; expected 1..100", "max_layers")
        return dataclasses.replace(request, map=_canonical(context, request.map, pair))
    given, texts = given_to(request), texts_of(request)
    if "image" in given:
        context.image(request.image_id)
    if "audio" in given:
        sound_input(context.audio(request.audio_id), pair, request.start_s)
    if len(texts) > LIMITS.max_texts:
        raise BadInput(f"{len(texts)} texts; up to {LIMITS.max_texts} are explained at once", "text")
    for text in texts:
        check_text(text, pair)
    if isinstance(request, PairScoreRequest):
        return request
    if request.modality not in (*given, "both"):
        raise BadInput(f"modality {request.modality!r}; expected {', '.join(given)} or both", "modality")
    if request.control_id is not None:
        (context.audio if given[0] == "audio" else context.image)(request.control_id)
    params = method(request.method, FAMILY).complete_params(request.params)
    layer = dict(params).get("layer")
    if layer is not None:
        for modality in _asked(request):
            tower = pair.tower(modality)
            tower.check_layer(layer, tower.first_layer if method(request.method, FAMILY).group == "bottleneck" else 0)
    return dataclasses.replace(request, params=params)


def texts_of(request: Request) -> tuple[str, ...]:
    """The texts of a request, of one or of many."""
    if isinstance(request, PairMapRequest):
        return () if request.text is None else (request.text,)
    return request.texts if isinstance(request, PairScoreRequest) else request.sentences


def given_to(request: Request) -> tuple[str, str]:
    """The two modalities that a request brings: first what is listened to or looked at.

    Raises: BadInput: it brings fewer, or all three.
    """
    there = {
        "audio": request.audio_id is not None,
        "image": request.image_id is not None,
        "text": bool(texts_of(request)),
    }
    given = [name for name, is_there in there.items() if is_there]
    if len(given) == 2:
        return given[0], given[1]
    if len(given) == 3:
        raise BadInput("an image, a text and a sound are given; leave one of them out", "modality")
    if not there["image"] and not there["audio"]:
        raise BadInput("give an image or a sound to look for the text in", "image")
    raise BadInput("the text is missing; write or paste a sentence", "text")


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


def _asked(request: Request) -> tuple[str, ...]:
    return given_to(request) if request.modality == "both" else (request.modality,)


# ----------------------------------------------------------------- dispatch
def run(context: Context, request: Request) -> Result:
    """Answer a canonical request of this family. The caller holds the device's lock."""
    return _RUNNERS[type(request)](context, request)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is seen or heard and texts before one pair of encoders: what every request of this family starts from."""

    pair: ImageTextPair
    held: Held
    pixels: Tensor  # (1, C, H, W) in [0, 1], on the device; of a sound, its spectrogram (1, 1, F, T)
    image: Tensor  # (1, E), unit vector of it
    texts: Tensor  # (S, E), unit vectors of the texts; of a picture where there is no text
    tokenized: tuple[TokenizedText, ...]
    notes: tuple[str, ...]
    modalities: tuple[str, str] = ("image", "text")  # of `pixels` and of `texts`
    passes: PassCounter = dataclasses.field(default_factory=PassCounter)

    @property
    def cosines(self) -> Tensor:
        return (self.texts @ self.image.T)[:, 0]  # (S,)


def _scene(context: Context, request: Request) -> Scene:
    """What the request brings, embedded."""
    pair: ImageTextPair = context.model(request.model, TASK)
    seen, other = given_to(request)
    held = held_for(pair, context.library.weights_folder)
    pixels, notes = _input(context, request, pair, seen)
    texts, tokenized = texts_of(request), ()
    if other == "text":
        tokenized = tuple(check_text(text, pair) for text in texts)
        with torch.no_grad():
            embedded = pair.embed_texts(list(texts))
    else:
        picture, more = _input(context, request, pair, other)
        notes = [*notes, *more]
        embedded = embed(pair, other, picture)
    for number, text in enumerate(tokenized):
        if text.n_cut:
            place = f"text {number + 1}" if len(tokenized) > 1 else "the text"
            notes.append(f"the model reads {len(text.ids)} sub-tokens at most: {text.n_cut} of {place} are cut off")
    passes = PassCounter(forward=1 + len(embedded))
    notes = (*notes, *held.notes)
    return Scene(pair, held, pixels, embed(pair, seen, pixels), embedded, tokenized, notes, (seen, other), passes)


def _input(context: Context, request: Request, pair: ImageTextPair, modality: str) -> tuple[Tensor, list[str]]:
    """The request's picture or sound as the model takes it, on its device; and what was done on the way."""
    if modality == "audio":
        made, notes = sound_input(context.audio(request.audio_id), pair, request.start_s)
    else:
        made, notes = model_input(context.image(request.image_id), pair)
    return made.to(pair.device, pair.dtype), notes


@torch.no_grad()
def embed(pair: ImageTextPair, modality: str, inputs: Tensor) -> Tensor:
    """Unit vectors of pictures or spectrograms, (N, E)."""
    return pair.embed_audio(inputs) if modality == "audio" else pair.embed_images(inputs)


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
    scene = _scene(context, request)
    if scene.modalities[1] == "text":
        (answer,) = explain_texts(context, scene, request, (0,))
    else:
        answer = _explain_both(context, scene, request)
    return _mapped(context, scene, request, answer)


def _mapped(context: Context, scene: Scene, request: PairMapRequest, answer: "Answer") -> Result:
    return Result(
        request=request,
        arrays={"pixels": to_numpy(scene.pixels[0].permute(1, 2, 0)), **answer.arrays},
        values={**answer.values, **_about_sound(scene, request)},
        quality=answer.quality,
        unit=method(request.method, FAMILY).unit,
        provenance=_provenance(context, scene, answer.notes),
    )


# ----------------------------------------------------------------- maps of several people as one
def together(context: Context, request: Request) -> tuple[str | None, int]:
    """What is equal for requests that can be computed as one, and how many at most; None: it is computed alone.

    Bottlenecks of different images and texts are closed side by side; all samples of all of them go through the layers
    behind the bottleneck in one call. As many as a report's sentences, or as fill one call of a device that has room.
    """
    if not isinstance(request, PairMapRequest) or request.text is None:
        return None, 1
    if all_at_once(method(request.method, FAMILY)) is None:
        return None, 1
    pair: ImageTextPair = context.model(request.model, TASK)
    samples = dict(request.params).get("samples") or 1
    fitting = context.runtime.chunk_size(*pair.input_size) // samples
    group = dataclasses.replace(
        request,
        image_id=request.image_id and "any",
        audio_id=request.audio_id and "any",
        text="any",
        start_s=0.0,
        seed=0,
    )
    return request_key(group), min(context.runtime.limits.max_together, max(_TOGETHER, fitting))


def run_together(context: Context, requests: list[PairMapRequest]) -> list[Result]:
    """Answer canonical requests of one group: they differ in what is seen or heard, in the text and in the seed.

    Each answer is that of `run` but for rounding: a large batch is not summed up in the order of a small one.
    """
    passes, n = PassCounter(), len(requests)
    scenes = [_scene(context, request) for request in requests]
    joint = [dataclasses.replace(scene, passes=passes) for scene in scenes]
    spec = method(requests[0].method, FAMILY)
    answers = [_about(scene, 0, spec) for scene in scenes]
    for modality in _asked(requests[0]):
        make, show = (_word_problem, _show_words) if modality == "text" else (_image_problem, _show_image)
        params = _settings(scenes[0], spec, requests[0].params, modality)
        problems = [make(context, scene, request) for scene, request in zip(joint, requests, strict=True)]
        explanations = all_at_once(spec)(problems, **params)
        for explanation in explanations:
            _check_finite(spec, explanation.maps)
        shown = [show(scene, 0, explanation) for scene, explanation in zip(scenes, explanations, strict=True)]
        answers = [_joined(a, b, modality, params) for a, b in zip(answers, shown, strict=True)]
    results = []
    for scene, request, answer in zip(scenes, requests, answers, strict=True):
        scene.passes.forward += passes.forward // n  # each had as many
        scene.passes.backward += passes.backward // n
        noted = dataclasses.replace(answer, notes=(*answer.notes, company_note(n)))
        results.append(_mapped(context, scene, request, noted))
    return results


# ----------------------------------------------------------------- maps of a report
def _map_report(context: Context, request: ReportMapsRequest) -> Result:
    """The first sentence by itself, so that it shows early; the others a few at a time."""
    scene = _scene(context, request)
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
            **_about_sound(scene, request),
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
    for modality in _asked(request):
        explain, show = (_explain_words, _show_words) if modality == "text" else (_explain_image, _show_image)
        params = _settings(scene, spec, request.params, modality)
        explanations = explain(context, scene, request, spec, params, rows)
        shown = [show(scene, row, explanation) for row, explanation in zip(rows, explanations, strict=True)]
        parts = [_joined(a, b, modality, params) for a, b in zip(parts, shown, strict=True)]
    return parts


def _explain_both(context: Context, scene: Scene, request: PairMapRequest) -> Answer:
    """A sound and a picture: where each of them matches the other; there are no words."""
    spec = method(request.method, FAMILY)
    answer = Answer({}, {"cosine": float(scene.cosines[0]), "signed": spec.signed, "settings": {}, "words": []}, {}, ())
    for modality in _asked(request):
        turned = scene if modality == scene.modalities[0] else _turned(context, scene, request)
        params = _settings(scene, spec, request.params, modality)
        (explanation,) = _explain_image(context, turned, request, spec, params, (0,))
        answer = _joined(answer, _show_image(turned, 0, explanation), modality, params)
    return answer


def _turned(context: Context, scene: Scene, request: PairMapRequest) -> Scene:
    """The same two with the other one looked at."""
    seen, other = scene.modalities
    pixels, _ = _input(context, request, scene.pair, other)
    return dataclasses.replace(scene, pixels=pixels, image=scene.texts, texts=scene.image, modalities=(other, seen))


def _about_sound(scene: Scene, request: PairMapRequest | ReportMapsRequest | PairScoreRequest) -> dict[str, Any]:
    """What the axes of a spectrogram mean; nothing where none is shown."""
    hearing = scene.pair.spectrogram
    if scene.modalities[0] != "audio" or hearing is None:
        return {}
    return {
        "sound": {
            "start_s": request.start_s,
            "duration_s": hearing.duration_s,
            "edges_hz": [round(float(edge), 1) for edge in hearing.edges_hz],
        }
    }


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
    height, width = scene.pixels.shape[-2:]
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


def all_at_once(spec: MethodSpec) -> Callable[..., list[Explanation]] | None:
    """The function that explains several problems at once, where the method has one."""
    module, function = spec.implementation.split(":")
    return getattr(importlib.import_module(module), f"{function}_all", None)


def _explain_image(
    context: Context, scene: Scene, request: Any, spec: MethodSpec, params: dict[str, Any], rows: Sequence[int]
) -> list[Explanation]:
    """One problem with a target for each text: the image runs up to the bottleneck once."""
    explanation = implementation(spec)(_image_problem(context, scene, request, rows), **params)
    _check_finite(spec, explanation.maps)
    return [_row(explanation, k) for k in range(len(rows))]


def _image_problem(context: Context, scene: Scene, request: Any, rows: Sequence[int] = (0,)) -> Problem:
    return _problem(
        context,
        scene,
        scene.modalities[0],
        request.seed,
        inputs=scene.pixels,
        targets=scene.texts[list(rows)],
        negatives=scene.held.of(scene.modalities[1]),
    )


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
    problems = [_word_problem(context, scene, request, row) for row in rows]
    together = all_at_once(spec)
    if together is not None:
        explanations = together(problems, **params)
    else:
        explanations = [implementation(spec)(problem, **params) for problem in problems]
    for explanation in explanations:
        _check_finite(spec, explanation.maps)
    return explanations


def _word_problem(context: Context, scene: Scene, request: Any, row: int = 0) -> Problem:
    return _problem(
        context,
        scene,
        "text",
        request.seed,
        inputs=scene.pair.tokens(request.text if hasattr(request, "text") else request.sentences[row]),
        targets=torch.cat([scene.image, _strangers(context, scene, request.control_id, row)]),
        negatives=scene.held.of(scene.modalities[0]),
        words=tuple((word.first, word.last) for word in scene.tokenized[row].words),
    )


def _strangers(context: Context, scene: Scene, control_id: str | None, row: int) -> Tensor:
    """Images or sounds that the text does not belong to: the visitor's own, or some of the half that it fits least.

    Returns: (K, E).
    """
    seen, pair = scene.modalities[0], scene.pair
    if control_id is not None:
        is_sound = seen == "audio"
        found, _ = (
            sound_input(context.audio(control_id), pair) if is_sound else model_input(context.image(control_id), pair)
        )
        return embed(pair, seen, found)
    strangers = scene.held.of(seen)
    order = (strangers @ scene.texts[row]).argsort()
    lower = order[: max(1, len(order) // 2)]
    chosen = torch.linspace(0, len(lower) - 1, min(CONTROLS, len(lower))).round().long().to(lower.device)
    return strangers[lower[chosen]]


def _check_finite(spec: MethodSpec, maps: Tensor) -> None:
    if not torch.isfinite(maps).all():
        raise ModelFault(f"{spec.title} gave values that are not numbers for this input", "method")


# ----------------------------------------------------------------- what is shown
def _show_image(scene: Scene, row: int, explanation: Explanation) -> Answer:
    cells = explanation.maps  # (1, rows, columns)
    size, seen = tuple(scene.pixels.shape[-2:]), scene.modalities[0]
    arrays = {
        f"{seen}_map": to_numpy(enlarge(cells, size)[0]),
        f"{seen}_cells": to_numpy(cells[0]),
        **{f"{seen}_{name}": to_numpy(curve[0]) for name, curve in explanation.curves.items()},
    }
    return Answer(arrays, {}, _quality(seen, explanation, cells), tuple(explanation.notes))


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
    scene = _scene(context, request)
    return Result(
        request=request,
        arrays={"cosines": to_numpy(scene.cosines), "pixels": to_numpy(scene.pixels[0].permute(1, 2, 0))},
        values={
            "texts": list(request.texts),
            "findings": findings(context, scene),
            **_about_sound(scene, request),
        },
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
    scene = _scene(context, asked)
    quiet = dataclasses.replace(context, on_step=lambda _: _stop_if_cancelled(context))
    if asked.modality == scene.modalities[1] != "text":
        scene = _turned(context, scene, asked)
    is_text = asked.modality == "text"
    inputs = scene.pair.tokens(asked.text) if is_text else scene.pixels

    def explain(module: torch.nn.Module) -> Tensor:
        pair = scene.pair.with_module(module)
        with torch.no_grad():  # the towers call parts of blocks; a plain call shows the order of all layers
            _call_plainly(module, asked.modality, inputs)
        changed = dataclasses.replace(scene, pair=pair)
        if scene.modalities[1] == "text":
            (answer,) = explain_texts(quiet, changed, asked, (0,))
            return torch.from_numpy(np.atleast_2d(answer.arrays["word_map" if is_text else f"{asked.modality}_map"]))
        spec = method(asked.method, FAMILY)
        params = _settings(scene, spec, asked.params, asked.modality)
        (explanation,) = _explain_image(quiet, changed, asked, spec, params, (0,))
        return enlarge(explanation.maps, tuple(scene.pixels.shape[-2:]))[0]

    original, stages = cascading_randomisation(
        scene.pair.module,
        explain,
        asked.seed,
        request.max_layers,
        context.on_step,
        lambda name: _owner_of(name) == asked.modality,
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


def _call_plainly(module: torch.nn.Module, modality: str, inputs: Tensor) -> None:
    if modality == "text":
        module.encode_text(inputs)
    elif modality == "image":
        module.encode_image(module.normalise(inputs))
    else:
        module.audio(module.audio.normalise(inputs))


def _owner_of(layer: str) -> str:
    """The modality of the tower that a layer of this name belongs to."""
    return {"visual": "image", "audio": "audio"}.get(layer.partition(".")[0], "text")


_RUNNERS: dict[type, Callable[[Context, Any], Result]] = {
    PairMapRequest: _map_pair,
    ReportMapsRequest: _map_report,
    PairScoreRequest: _score_pair,
    PairRandomisationRequest: _randomise,
}
