"""Requests of additive image models: keys to tensors, pure functions, tensors to a numpy result."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_image import directions, own_training
from backend.additive_image.data import IMAGE
from backend.additive_image.fitted import (
    FittedModel,
    build_fitted,
    has_whole_numbers,
    load_fitted,
    shape_table,
    to_images,
    true_image_effect,
    true_shape,
)
from backend.additive_image.measure import measure_path, to_pixels
from backend.catalog import IMAGE_MODELS
from backend.catalog.additive_image import FAMILY
from backend.company import company_note
from backend.contracts import (
    AttributeEffectsRequest,
    ImageCornersRequest,
    ImageDirectionRequest,
    ImageGalleryRequest,
    ImagePathRequest,
    ModelComparisonRequest,
    Provenance,
    RecordRequest,
    Request,
    Result,
    ShapeFunctionsRequest,
    Step,
    request_key,
)
from backend.errors import BadInput, NotAvailable
from backend.models.autoencoders import TASK, LoadedAutoencoder
from backend.models.diffusion_autoencoder import interpolate_linearly, interpolate_spherically
from backend.models.inputs import fit, match_channels
from backend.runtime import Chunks, watch
from backend.service import Context
from backend.versions import versions

FRAMES = (2, 129)
CORNER_SIDES = (2, 9)
GALLERY = (1, 200)
POINTS = (2, 2001)
COMPARED_ROWS = (100, 20_000)
_STRANGE = 4.0  # times the model's usual reconstruction error: such an image is not one of its kind
_USUAL_ROWS = 32  # rows on which the usual reconstruction error is taken


# ----------------------------------------------------------------- checking
def prepare(context: Context, request: Request) -> tuple[Request, str]:
    """The request in canonical form and its model's digest.

    Raises: BadInput: unknown model, method, parameter, attribute or row; a number out of range.
    """
    model = _model(context, request.model)
    if isinstance(request, (ImagePathRequest, ImageCornersRequest)):
        request = _canonical_ends(request, model)
    elif isinstance(request, ImageDirectionRequest):
        _check_attribute(request.attribute, model)
        _between("frames", request.frames, FRAMES)
        if (request.row is None) == (request.image_id is None):
            raise BadInput("give either row or image", "row")
        if request.row is not None:
            _check_rows((request.row,), model)
        request = dataclasses.replace(request, params=IMAGE_MODELS["naim"].complete_params(request.params))
    elif isinstance(request, ShapeFunctionsRequest):
        _between("points", request.points, POINTS)
    elif isinstance(request, ImageGalleryRequest):
        _between("n", request.n, GALLERY)
    elif isinstance(request, RecordRequest):
        _check_rows((request.row,), model)
        _changed_row(request, model)
    elif isinstance(request, ModelComparisonRequest):
        _between("n", request.n, COMPARED_ROWS)
    return request, model.digest + model.card["autoencoder_sha256"]


def _canonical_ends(
    request: ImagePathRequest | ImageCornersRequest, model: FittedModel
) -> ImagePathRequest | ImageCornersRequest:
    is_path = isinstance(request, ImagePathRequest)
    if is_path and request.method != "naim":
        raise BadInput(f"unknown method {request.method!r}; image paths are drawn by naim", "method")
    wanted = 2 if is_path else 4
    if (request.rows is None) == (request.image_ids is None):
        raise BadInput("give either rows or images", "rows")
    given = request.rows if request.rows is not None else request.image_ids
    if len(given) != wanted:
        raise BadInput(f"{len(given)} ends; expected {wanted}", "rows" if request.rows is not None else "images")
    if request.rows is not None:
        _check_rows(request.rows, model)
    _between(*(("frames", request.frames, FRAMES) if is_path else ("side", request.side, CORNER_SIDES)))
    return dataclasses.replace(request, params=IMAGE_MODELS["naim"].complete_params(request.params))


def _check_rows(rows: tuple[int, ...], model: FittedModel) -> None:
    for row in rows:
        if not 0 <= row < len(model.dataset):
            raise BadInput(f"row {row}; the data has rows 0..{len(model.dataset) - 1}", "rows")


def _check_attribute(name: str, model: FittedModel) -> None:
    if name not in model.dataset.attributes:
        known = ", ".join(model.dataset.attributes) or "none are known"
        raise BadInput(f"unknown attribute {name!r}; of these images: {known}", "attribute")


def _between(name: str, value: int, limits: tuple[int, int]) -> None:
    if not limits[0] <= value <= limits[1]:
        raise BadInput(f"{name} is {value}; expected {limits[0]}..{limits[1]}", name)


# ----------------------------------------------------------------- parts
def run(context: Context, request: Request) -> Result:
    """Answer a canonical request of this family. The caller holds the device's lock."""
    return _RUNNERS[type(request)](context, request)


def _model(context: Context, key: str) -> FittedModel:
    """Raises: BadInput: no such model; NotAvailable: it was not fitted here."""
    if key.startswith(own_training.JOB_PREFIX):
        return context.runtime.model(key, lambda: own_training.load_own(key, context.runtime.device))
    library, device = context.library, context.runtime.device
    spec = library.spec(key, FAMILY)
    if spec.task != FAMILY:
        raise BadInput(f"{key} is made for {spec.task.replace('_', ' ')}, not {FAMILY.replace('_', ' ')}", "model")
    if spec.source == "local":
        return context.runtime.model(key, lambda: build_fitted(spec, *library.read_carded(spec), device))
    return context.runtime.model(key, lambda: load_fitted(spec, library.weights_folder, device))


def _autoencoder(context: Context, model: FittedModel) -> LoadedAutoencoder:
    if isinstance(model, own_training.OwnModel):
        return model.loaded
    loaded: LoadedAutoencoder = context.model(model.autoencoder, TASK)
    if loaded.digest != model.card["autoencoder_sha256"]:
        raise BadInput(
            f"{model.spec.key} was fitted to codes of another {model.autoencoder}; "
            f"`python -m backend train {model.spec.key}` fits it again",
            "model",
        )
    return loaded


def _drawer(context: Context, model: FittedModel) -> LoadedAutoencoder:
    """An autoencoder that can draw. Raises: NotAvailable: the model's encoder cannot."""
    loaded = _autoencoder(context, model)
    if not loaded.module.can_decode:
        raise NotAvailable(
            "this model's encoder sees pictures but cannot draw them, so there is no film strip; principal components "
            "and the diffusion autoencoders can",
            "model",
        )
    return loaded


def _result(
    context: Context, request: Request, model: FittedModel, passes: int = 0, notes: tuple[str, ...] = (), **parts: Any
) -> Result:
    provenance = Provenance(
        model_digest=model.digest,
        device=context.runtime.describe(),
        dtype=str(context.runtime.dtype).removeprefix("torch."),
        forward_passes=passes,
        versions=versions(),
        notes=notes,
    )
    return Result(request=request, provenance=provenance, **parts)


def _unit(model: FittedModel) -> str:
    scale = {"identity": "", "logit": ", logit", "log": ", log"}[model.dataset.link]
    return f"{model.dataset.response_name}{scale}"


def _images(
    context: Context, model: FittedModel, rows: tuple[int, ...] | None, image_ids: tuple[str, ...] | None
) -> Tensor:
    """Rows of the data or put-in images as the autoencoder takes them, (n, 3, S, S) in [0, 1]."""
    if rows is not None:
        return to_images(model.dataset.images[list(rows)], context.runtime.device)
    found = []
    for image_id in image_ids:
        pixels = torch.from_numpy(np.ascontiguousarray(context.image(image_id).pixels)).permute(2, 0, 1)[None]
        found.append(fit(match_channels(pixels.float(), 3), model.spec.input_size))
    return torch.cat(found).to(context.runtime.device)


@dataclasses.dataclass(frozen=True, eq=False)
class _Ends:
    """Images with both of their codes, and how well these bring the images back."""

    images: Tensor  # (n, 3, S, S)
    codes: Tensor  # (n, latents)
    x_T: Tensor | None  # (n, 3, S, S); None: nothing was inverted
    errors: list[float]  # mean squared error of the images decoded again from both codes

    def split(self, size: int) -> "list[_Ends]":
        """As many parts as there are times `size` images."""
        return [
            _Ends(self.images[part], self.codes[part], None if self.x_T is None else self.x_T[part], self.errors[part])
            for part in (slice(start, start + size) for start in range(0, len(self.images), size))
        ]


def _stochastic(params: dict[str, Any], loaded: LoadedAutoencoder) -> str:
    """Where x_T comes from; of its own an autoencoder that predicts the image needs none, others need the image's."""
    if params["stochastic"] != "own":
        return params["stochastic"]
    return "zero" if loaded.module.prediction == "sample" else "slerp"


def _read_ends(loaded: LoadedAutoencoder, images: Tensor, source: str, params: dict[str, Any], *seeds: int) -> _Ends:
    """Codes of images. seeds: of random x_T; with several, each is that of an equal share of the images, in order."""
    module, n_steps = loaded.module, params["n_steps"]
    with torch.no_grad():
        codes = module.encode(images)
    x_T = None
    if source in ("slerp", "first"):
        x_T = module.invert(images, codes, n_steps)
    elif source == "random":
        drawn = [torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        x_T = torch.stack(drawn).to(images).repeat_interleave(len(images) // len(seeds), 0)
    errors = (module.decode(codes, x_T, n_steps) - images).square().mean((1, 2, 3))
    return _Ends(images, codes, x_T, errors.tolist())


def _usual_error(model: FittedModel, loaded: LoadedAutoencoder, source: str, n_steps: int | None) -> float:
    """The median error of rows of the data, decoded the same way; taken once for each way."""
    known = model.usual_errors
    if (source, n_steps) not in known:
        images = to_images(model.dataset.images[slice(0, _USUAL_ROWS)], model.codes.device)
        ends = _read_ends(loaded, images, source, {"n_steps": n_steps}, 0)
        known[source, n_steps] = float(np.median(ends.errors))
    return known[source, n_steps]


def _note_strangers(ends: _Ends, usual: float) -> tuple[str, ...]:
    return tuple(
        f"image {k + 1} is unlike the training images: it comes back with {error / usual:.0f} times the usual error"
        for k, error in enumerate(ends.errors)
        if error > _STRANGE * usual
    )


# ----------------------------------------------------------------- from one image to another
class _Strip:
    """The frames between two images, on their way."""

    def __init__(self, context: Context, model: FittedModel, loaded: LoadedAutoencoder, request: ImagePathRequest):
        self.request, self._context, self._model = request, context, model
        reach, n = dict(request.params)["reach"], request.frames
        self.images = _images(context, model, request.rows, request.image_ids)  # (2, 3, S, S)
        self.alphas = torch.linspace(-reach, 1 + reach, n)
        with torch.no_grad():
            self.codes = loaded.module.encode(self.images)
        self.path = interpolate_linearly(self.codes[0], self.codes[1], self.alphas)
        self.found = _effect_arrays(model, request, self.path, self.codes)
        self.frames = np.zeros((n, loaded.module.side, loaded.module.side, 3), np.uint8)
        self.is_ready = np.zeros(n, bool)
        self.ends: _Ends | None = None
        early = sorted({int(np.abs(self.alphas.numpy() - a).argmin()) for a in (0.0, 0.5, 1.0)})
        self.parts = (early, [i for i in range(n) if i not in early])  # frames in the order in which they are drawn

    def arrays(self) -> dict[str, np.ndarray]:
        """What is known so far."""
        frames = {"frames": self.frames.copy(), "is_ready": self.is_ready.copy()}
        return {**self.found, "alphas": self.alphas.numpy(), **frames}

    def tell(self, what: str = "") -> None:
        """Show the frames so far to who asked for them."""
        done, n = int(self.is_ready.sum()), self.request.frames
        values = {"terms": _terms(self.request, self._model)}
        unit = _unit(self._model)
        partial = _result(self._context, self.request, self._model, arrays=self.arrays(), values=values, unit=unit)
        self._context.on_step(Step(done, n, what or f"{done} of {n} frames", partial))

    def stochastic_codes(self, part: list[int], source: str) -> Tensor | None:
        """x_T of some of the frames, (n, 3, S, S); None: 0."""
        x_T = _x_T_at(self.ends, self.alphas[part], source)
        return None if x_T is None else x_T.expand(len(part), -1, -1, -1)

    def keep(self, part: list[int], images: Tensor) -> None:
        self.frames[part], self.is_ready[part] = to_pixels(images), True


def _draw_path(context: Context, request: ImagePathRequest) -> Result:
    return _draw_paths(context, [request])[0]


def _draw_paths(context: Context, requests: list[ImagePathRequest], *notes: str) -> list[Result]:
    """Strips of one model with equal steps: both ends and the middle of all of them first, then the other frames."""
    model = _model(context, requests[0].model)
    loaded, params = _drawer(context, model), dict(requests[0].params)
    source = _stochastic(params, loaded)
    strips = [_Strip(context, model, loaded, request) for request in requests]
    for strip in strips:
        strip.tell("the effect is known; the frames follow")
    chunks = Chunks(context.runtime.chunk_size(loaded.module.side, loaded.module.side))
    with watch(loaded.module.last_layer, context.is_cancelled) as passes:
        images = torch.cat([strip.images for strip in strips])
        ends = _read_ends(loaded, images, source, params, *(request.seed for request in requests))
        for strip, own in zip(strips, ends.split(2), strict=True):
            strip.ends = own
        for k in range(2):
            _draw_frames(loaded, strips, [strip.parts[k] for strip in strips], source, params["n_steps"], chunks)
        share = passes.forward // len(strips)  # each had as many
        usual = _usual_error(model, loaded, source, params["n_steps"])
    return [_drawn(context, model, strip, source, usual, share, [*chunks.notes, *notes]) for strip in strips]


def _draw_frames(
    loaded: LoadedAutoencoder,
    strips: list[_Strip],
    parts: list[list[int]],
    source: str,
    n_steps: int | None,
    chunks: Chunks,
) -> None:
    """Draw some frames of each strip in one batch, and show them."""
    if not any(parts):
        return
    batch = [torch.cat([strip.path[part] for strip, part in zip(strips, parts, strict=True)])]
    x_T = [strip.stochastic_codes(part, source) for strip, part in zip(strips, parts, strict=True)]
    if x_T[0] is not None:
        batch.append(torch.cat(x_T))
    (drawn,) = chunks.map(lambda codes, x_T=None: (loaded.module.decode(codes, x_T, n_steps),), *batch)
    for strip, part, images in zip(strips, parts, drawn.split([len(part) for part in parts]), strict=True):
        strip.keep(part, images)
        strip.tell()


def _drawn(
    context: Context,
    model: FittedModel,
    strip: _Strip,
    source: str,
    usual: float,
    passes: int,
    notes: list[str],
) -> Result:
    """A finished strip, with what can be measured on its frames."""
    request, ends = strip.request, strip.ends
    measured = measure_path(model.dataset.name, strip.frames, strip.alphas.numpy())
    attribute = model.dataset.shown_attribute or None
    truth = true_image_effect(model, measured.attributes)
    return _result(
        context,
        request,
        model,
        passes,
        (*_note_strangers(ends, usual), *notes),
        arrays={
            **strip.arrays(),
            "ends": to_pixels(strip.images),
            **{f"measured_{name}": values for name, values in measured.attributes.items()},
            **({"measured_effect": truth} if truth is not None else {}),
        },
        values={
            **_about(model),
            "terms": _terms(request, model),
            "stochastic": source,
            "attribute": attribute,
            "reconstruction": ends.errors,
            "usual_reconstruction": usual,
            "predictions": _end_predictions(model, request, strip.codes),
        },
        quality={
            "reconstruction_mse": max(ends.errors),
            "path_correlation": measured.correlation(attribute),
            "sharpness": measured.sharpness,
        },
        unit=_unit(model),
    )


# ----------------------------------------------------------------- strips of several people as one
def together(context: Context, request: Request) -> tuple[str | None, int]:
    """What is equal for requests that can be computed as one, and how many at most; None: it is computed alone.

    Strips of one model with as many frames and steps; their ends, their reach and their seeds may differ. One network
    call for all bounds the group: where one strip fills it there is nothing to gain.
    """
    if not isinstance(request, ImagePathRequest):
        return None, 1
    at_most = context.runtime.chunk_size(*_model(context, request.model).spec.input_size) // request.frames
    if at_most < 2:
        return None, 1
    params = tuple((name, value) for name, value in request.params if name != "reach")
    group = dataclasses.replace(request, rows=None, image_ids=None, params=params, seed=0)
    return request_key(group), min(context.runtime.limits.max_together, at_most)


def run_together(context: Context, requests: list[ImagePathRequest]) -> list[Result]:
    """Answer canonical requests of one group.

    Each answer is that of `run` but for rounding: a large batch is not summed up in the order of a small one.
    """
    return _draw_paths(context, requests, company_note(len(requests)))


def _effect_arrays(model: FittedModel, request: ImagePathRequest, path: Tensor, codes: Tensor) -> dict[str, np.ndarray]:
    """What is known before any frame: the effect along the path, what each end adds up to, all shape functions."""
    effect = model.head.image_effect(path)
    contributions, bands = _end_terms(model, request, codes)
    return {
        "effect": effect.value.cpu().numpy(),
        "effect_low": effect.low.cpu().numpy(),
        "effect_high": effect.high.cpu().numpy(),
        "contributions": contributions,  # (2, terms)
        "contributions_low": bands[0],
        "contributions_high": bands[1],
        **{f"shape_{column.name}": shape_table(model, k, 201) for k, column in enumerate(model.dataset.columns)},
    }


def _terms(request: ImagePathRequest, model: FittedModel) -> list[str]:
    """Names of the columns of `contributions`: put-in images have no row of the table, hence their own term only."""
    return list(model.terms) if request.rows is not None else [IMAGE]


def _end_terms(
    model: FittedModel, request: ImagePathRequest, codes: Tensor
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    if request.rows is None:
        effect = model.head.image_effect(codes)
        value, low, high = (part[:, None] for part in (effect.value, effect.low, effect.high))
    else:
        found = model.head.terms(model.table(list(request.rows)), codes)
        value, low, high = found.value, found.low, found.high
    return value.cpu().numpy(), (low.cpu().numpy(), high.cpu().numpy())


def _end_predictions(model: FittedModel, request: ImagePathRequest, codes: Tensor) -> list[float] | None:
    """Predictions of both ends on the link's scale; None for put-in images."""
    if request.rows is None:
        return None
    return model.head.predict(model.table(list(request.rows)), codes).tolist()


def _about(model: FittedModel) -> dict[str, Any]:
    return {
        "intercept": float(model.head.intercept),
        "link": model.dataset.link,
        "response": model.dataset.response_name,
        "columns": [
            {
                "name": c.name,
                "kind": c.kind,
                "categories": list(c.categories),
                "unit": c.unit,
                "is_whole": has_whole_numbers(model, k),
            }
            for k, c in enumerate(model.dataset.columns)
        ],
    }


def _x_T_at(ends: _Ends, alphas: Tensor, source: str) -> Tensor | None:
    if source == "slerp":
        return interpolate_spherically(ends.x_T[0], ends.x_T[1], alphas)
    return None if ends.x_T is None else ends.x_T[:1]


# ----------------------------------------------------------------- four corners, one direction
def _draw_corners(context: Context, request: ImageCornersRequest) -> Result:
    model = _model(context, request.model)
    loaded, params = _drawer(context, model), dict(request.params)
    source = _stochastic(params, loaded)
    images = _images(context, model, request.rows, request.image_ids)
    ticks = torch.linspace(0, 1, request.side)
    with watch(loaded.module.last_layer, context.is_cancelled) as passes:
        ends = _read_ends(loaded, images, source, params, request.seed)
        left = interpolate_linearly(ends.codes[0], ends.codes[2], ticks)  # (side, latents), downwards
        right = interpolate_linearly(ends.codes[1], ends.codes[3], ticks)
        codes = torch.cat([interpolate_linearly(a, b, ticks) for a, b in zip(left, right, strict=True)])
        x_T = None if ends.x_T is None else ends.x_T[:1]
        if source == "slerp":
            sides = [interpolate_spherically(ends.x_T[i], ends.x_T[i + 2], ticks) for i in (0, 1)]
            x_T = torch.cat([interpolate_spherically(a, b, ticks) for a, b in zip(*sides, strict=True)])
        frames = to_pixels(loaded.module.decode(codes, x_T, params["n_steps"]))
    effect = model.head.image_effect(codes)
    shape = (request.side, request.side)
    return _result(
        context,
        request,
        model,
        passes.forward,
        _note_strangers(ends, _usual_error(model, loaded, source, params["n_steps"])),
        arrays={
            "frames": frames.reshape(*shape, *frames.shape[1:]),
            "effect": effect.value.view(shape).cpu().numpy(),
            "effect_low": effect.low.view(shape).cpu().numpy(),
            "effect_high": effect.high.view(shape).cpu().numpy(),
        },
        values={"stochastic": source, "reconstruction": ends.errors},
        quality={"reconstruction_mse": max(ends.errors)},
        unit=_unit(model),
    )


def _draw_direction(context: Context, request: ImageDirectionRequest) -> Result:
    model = _model(context, request.model)
    loaded, params = _drawer(context, model), dict(request.params)
    source = _stochastic(params, loaded)
    own = None if request.row is None else (request.row,)
    images = _images(context, model, own, None if own else (request.image_id,))
    probes = directions.probes_of(model)
    strengths = torch.linspace(-request.strength, request.strength, request.frames)
    with watch(loaded.module.last_layer, context.is_cancelled) as passes:
        ends = _read_ends(loaded, images, source, params, request.seed)
        step = probes.direction(request.attribute).to(ends.codes)
        codes = ends.codes[0] + strengths.to(ends.codes)[:, None] * step
        frames = to_pixels(loaded.module.decode(codes, None if ends.x_T is None else ends.x_T[:1], params["n_steps"]))
    effect = model.head.image_effect(codes)
    measured = measure_path(model.dataset.name, frames, strengths.numpy())
    return _result(
        context,
        request,
        model,
        passes.forward,
        _note_strangers(ends, _usual_error(model, loaded, source, params["n_steps"])),
        arrays={
            "frames": frames,
            "strengths": strengths.numpy(),
            "effect": effect.value.cpu().numpy(),
            "effect_low": effect.low.cpu().numpy(),
            "effect_high": effect.high.cpu().numpy(),
            **{f"measured_{name}": values for name, values in measured.attributes.items()},
        },
        values={
            "attribute": request.attribute,
            "probe_r2": probes.r2[request.attribute],
            "step": probes.spread[request.attribute],  # what one unit of strength means, in the attribute's own unit
            "stochastic": source,
        },
        quality={"path_correlation": measured.correlation(request.attribute), "reconstruction_mse": max(ends.errors)},
        unit=_unit(model),
    )


def _attribute_effects(context: Context, request: AttributeEffectsRequest) -> Result:
    model = _model(context, request.model)
    rows = directions.attribute_effects(model, context.runtime.generator(request.seed))
    return _result(
        context,
        request,
        model,
        arrays={
            "effect": np.array([row.effect for row in rows]),
            "low": np.array([row.low for row in rows]),
            "high": np.array([row.high for row in rows]),
            "truth": np.array([np.nan if row.truth is None else row.truth for row in rows]),
        },
        values={
            "attributes": [row.attribute for row in rows],
            "probe_r2": [row.probe_r2 for row in rows],
            "steps": [row.step for row in rows],
        },
        unit=_unit(model),
    )


# ----------------------------------------------------------------- shape functions, gallery, one record
def _draw_shapes(context: Context, request: ShapeFunctionsRequest) -> Result:
    model = _model(context, request.model)
    arrays: dict[str, np.ndarray] = {}
    importance = {}
    terms = _coded_terms(model)
    for k, column in enumerate(model.dataset.columns):
        shape = shape_table(model, k, request.points)
        arrays[f"shape_{column.name}"] = shape
        truth = true_shape(model, k, shape[:, 0])
        if truth is not None:
            arrays[f"truth_{column.name}"] = np.asarray(truth, np.float32)
        counts, edges = _density(model, k)
        arrays[f"density_{column.name}"], arrays[f"edges_{column.name}"] = counts, edges
    for k, name in enumerate(model.terms):
        importance[name] = float(terms[:, k].abs().mean())
    arrays["image_effects"] = terms[:, -1].cpu().numpy()  # of the first rows, for the image's own histogram
    return _result(
        context, request, model, arrays=arrays, values={**_about(model), "importance": importance}, unit=_unit(model)
    )


def _coded_terms(model: FittedModel) -> Tensor:
    """Centred terms of the rows whose codes are kept, (n, terms)."""
    return model.head.terms(model.table(slice(0, len(model.codes))), model.codes).value


def _density(model: FittedModel, column: int, bins: int = 40) -> tuple[np.ndarray, np.ndarray]:
    own, seen = model.dataset.columns[column], model.dataset.table[:, column]
    if own.kind == "categorical":
        n = len(own.categories)
        return np.bincount(seen.astype(int), minlength=n), np.arange(n + 1) - 0.5
    return np.histogram(seen, bins)


def _draw_gallery(context: Context, request: ImageGalleryRequest) -> Result:
    model = _model(context, request.model)
    effect = model.head.image_effect(model.codes)
    value = effect.value.cpu().numpy()
    n = min(request.n, len(value))
    # One row, drawn by lot, from each of n equal shares of the rows in the order of their effect.
    order, rng = value.argsort(kind="stable"), np.random.default_rng(request.seed)
    rows = np.array([rng.choice(share) for share in np.array_split(order, n)])
    truth = model.dataset.effects.get(IMAGE)
    return _result(
        context,
        request,
        model,
        arrays={
            "rows": rows,
            "images": model.dataset.images[rows],
            "effect": value[rows],
            "effect_low": effect.low.cpu().numpy()[rows],
            "effect_high": effect.high.cpu().numpy()[rows],
            "table": model.dataset.table[rows],
            "response": model.dataset.response[rows],
            **({"truth": truth[rows]} if truth is not None else {}),
            **{f"attribute_{name}": values[rows] for name, values in model.dataset.attributes.items()},
        },
        values=_about(model),
        unit=_unit(model),
    )


def _changed_row(request: RecordRequest, model: FittedModel) -> Tensor:
    """The record's columns as codes and numbers, (1, columns).

    Raises: BadInput: no such column, no such category, or no number.
    """
    row = model.dataset.table[request.row].copy()
    names = [column.name for column in model.dataset.columns]
    for name, value in request.values:
        if name not in names:
            raise BadInput(f"there is no column {name!r}; one of {', '.join(names)}", name)
        column = model.dataset.columns[names.index(name)]
        if column.kind == "categorical":
            if value not in column.categories:
                raise BadInput(f"{name} is {value!r}; one of {', '.join(column.categories)}", name)
            row[names.index(name)] = column.categories.index(value)
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise BadInput(f"{name} is {value!r}; expected a number", name)
        else:
            row[names.index(name)] = value
    return torch.from_numpy(row[None]).to(model.codes.device)


def _explain_record(context: Context, request: RecordRequest) -> Result:
    model = _model(context, request.model)
    loaded = _autoencoder(context, model)
    own = None if request.image_id is not None else (request.row,)
    images = _images(context, model, own, None if own else (request.image_id,))
    with torch.no_grad():
        codes = loaded.module.encode(images)
    table = _changed_row(request, model)
    found = model.head.terms(table, codes)
    linear = model.head.predict(table, codes)
    seen = model.dataset.table
    outside = [
        column.name
        for k, column in enumerate(model.dataset.columns)
        if column.kind == "numeric" and not seen[:, k].min() <= float(table[0, k]) <= seen[:, k].max()
    ]
    return _result(
        context,
        request,
        model,
        notes=tuple(f"{name} lies outside the range that the model has seen" for name in outside),
        arrays={
            "contributions": found.value[0].cpu().numpy(),
            "low": found.low[0].cpu().numpy(),
            "high": found.high[0].cpu().numpy(),
            "image": to_pixels(images)[0],
            "table": table[0].cpu().numpy(),
        },
        values={
            **_about(model),
            "terms": list(model.terms),
            "linear": float(linear),
            "prediction": float(model.head.respond(linear)),
            "observed": float(model.dataset.response[request.row]) if not request.values and own else None,
        },
        unit=_unit(model),
    )


# ----------------------------------------------------------------- beside other models
def _compare(context: Context, request: ModelComparisonRequest) -> Result:
    from backend.additive_image import peers  # scikit-learn and interpret take seconds to import

    model = _model(context, request.model)
    loaded = _autoencoder(context, model)

    def on_step(done: int, total: int, what: str) -> None:
        if context.is_cancelled():
            return
        context.on_step(Step(done, total, what))

    figures = peers.compare(model, loaded.module, request.n, request.seed, on_step)
    return _result(
        context,
        request,
        model,
        arrays={},
        values={key: value for key, value in figures.items() if isinstance(value, (dict, list))},
        quality={key: value for key, value in figures.items() if not isinstance(value, (dict, list))},
        unit={"identity": "R2", "logit": "share of deviance explained", "log": "share of deviance explained"}[
            model.dataset.link
        ],
    )


_RUNNERS = {
    ImagePathRequest: _draw_path,
    ImageCornersRequest: _draw_corners,
    ImageDirectionRequest: _draw_direction,
    AttributeEffectsRequest: _attribute_effects,
    ShapeFunctionsRequest: _draw_shapes,
    ImageGalleryRequest: _draw_gallery,
    RecordRequest: _explain_record,
    ModelComparisonRequest: _compare,
}
