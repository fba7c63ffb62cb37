"""Requests of additive decoding: keys to tensors, pure functions, tensors to a numpy result."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_decoding import grid as grids
from backend.additive_decoding.measure import encode_scenes, held_out, latent_match, measure, truth_nonlinearity
from backend.additive_decoding.recipes import Recipe, parse_support
from backend.additive_decoding.scenes import Scene
from backend.additive_decoding.supports import Apart, Support
from backend.additive_decoding.train import to_pixels
from backend.catalog import DECODER_KINDS
from backend.contracts import (
    BlockTableRequest,
    DecoderFiguresRequest,
    DecodingRequest,
    LatentScatterRequest,
    Provenance,
    Request,
    Result,
    Step,
    SupportRequest,
)
from backend.errors import BadInput
from backend.models.additive_decoder import AdditiveDecoder, BlockNet, MaskedDecoder, apply_link
from backend.models.decoders import TASK, LoadedDecoder
from backend.runtime import Chunks, watch
from backend.service import Context
from backend.versions import versions

GRID_SIDES = (1, 41)  # images along a side of the grid
SCENES = (10, 2000)
CODEBOOK_SCENES = 2000
THUMBNAIL_SIDE = 32  # pixels, of scenes in a scatter
_NEAR = 0.03  # of a block's range: a code farther from all training codes was never seen
_SCATTER_PICTURES = 300
_AXIS_SHARPNESS = 20.0  # how much more an object's own place counts than the others', when scenes of an axis are chosen
_RESPONSE_SCENES = 33
_RESPONSE_GRID = {2: (13, 13), 3: (7, 7, 4), 4: (5, 5, 3, 3)}  # true latents of a block where its code is looked up
_RESPONSE_CANDIDATES, _RESPONSE_FEW = 100, 4  # scenes tried at each point, scenes averaged


# ----------------------------------------------------------------- checking
def prepare(context: Context, request: Request) -> tuple[Request, str]:
    """The request in canonical form and its model's digest.

    Raises: BadInput: unknown model, method, parameter or support; a number out of range.
    """
    if isinstance(request, SupportRequest):
        _between("n", request.n, SCENES)
        _scene_of(request)
        return request, ""
    loaded: LoadedDecoder = context.model(request.model, TASK)
    if isinstance(request, DecodingRequest):
        request = _canonical_decoding(request, loaded)
    elif isinstance(request, BlockTableRequest):
        if request.size:
            _between("size", request.size, (2, grids.MAX_TABLE_SIZE))
    else:
        _between("n", request.n, SCENES)
    return request, loaded.digest


def _canonical_decoding(request: DecodingRequest, loaded: LoadedDecoder) -> DecodingRequest:
    kind = loaded.module.kind
    if request.method and request.method not in DECODER_KINDS:
        raise BadInput(f"unknown method {request.method!r}; one of {', '.join(DECODER_KINDS)}", "method")
    if request.method not in ("", kind):
        raise BadInput(f"{request.model} has a decoder of kind {kind}, not {request.method}", "method")
    if len(request.grid) != 2:
        raise BadInput(f"grid is {list(request.grid)}; expected two whole numbers", "grid")
    for side in request.grid:
        _between("grid", side, GRID_SIDES)
    params = DECODER_KINDS[kind].complete_params(request.params)
    axes = (dict(params)["row_block"], dict(params)["column_block"])
    if axes[0] == axes[1] or max(axes) >= len(loaded.module.blocks):
        raise BadInput(
            f"blocks {list(axes)} on the axes; expected two different ones in 0..{len(loaded.module.blocks) - 1}",
            "row_block",
        )
    return dataclasses.replace(request, method=kind, params=params)


def _between(name: str, value: int, limits: tuple[int, int]) -> None:
    if not limits[0] <= value <= limits[1]:
        raise BadInput(f"{name} is {value}; expected {limits[0]}..{limits[1]}", name)


def _scene_of(request: SupportRequest) -> tuple[Scene, Support]:
    """The truth and the support that a request describes."""
    scene = Scene(
        shapes=request.shapes,
        free=request.free,
        radius=request.radius,
        occlusion=request.occlusion,
        nonlinearity=request.nonlinearity,
    )
    return scene, parse_support(request.support, scene)


# ----------------------------------------------------------------- dispatch
def run(context: Context, request: Request) -> Result:
    """Answer a canonical request of this family. The caller holds the device's lock."""
    return _RUNNERS[type(request)](context, request)


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook:
    """Codes of training scenes: which learned latents were met, and what they mean."""

    true: Tensor  # (N, d)
    learned: Tensor  # (N, d)
    permutation: tuple[int, ...]  # true block of each learned one
    similarity: float  # latent matching score of this permutation, 0..100

    @property
    def low(self) -> Tensor:
        return self.learned.amin(0)

    @property
    def high(self) -> Tensor:
        return self.learned.amax(0)


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A trained model with the truth that it was trained on."""

    loaded: LoadedDecoder
    recipe: Recipe
    support: Support
    codes: Codebook

    @property
    def scene(self) -> Scene:
        return self.recipe.scene


def _bench(context: Context, key: str) -> Bench:
    loaded: LoadedDecoder = context.model(key, TASK)
    recipe = Recipe.from_json(loaded.card["recipe"])
    if recipe.images:
        raise BadInput(f"{key} was trained on pictures of your own; its grid lies beside its weights", "model")
    module = loaded.module
    if [len(block) for block in recipe.scene.blocks] != [len(block) for block in module.blocks]:
        raise BadInput(f"the card of {key} tells of scenes with other blocks than its network has", "model")
    if recipe.scene.side != module.decoder.side:
        raise BadInput(f"the card of {key} tells of scenes of another size than its network draws", "model")
    support = recipe.make_support()
    if loaded.codebook is None:
        loaded.codebook = _make_codebook(loaded, recipe.scene, support)
    return Bench(loaded, recipe, support, loaded.codebook)


def _make_codebook(loaded: LoadedDecoder, scene: Scene, support: Support) -> Codebook:
    latents = support.sample(CODEBOOK_SCENES, torch.Generator().manual_seed(0))
    encoded = encode_scenes(loaded.module, scene, latents, decode=False)
    match = latent_match(encoded.learned.numpy(), encoded.true.numpy(), loaded.module.blocks, loaded.module.kind)
    return Codebook(encoded.true, encoded.learned, match.permutation, match.score)


def _result(context: Context, request: Request, bench: Bench | None, passes: int = 0, **parts: Any) -> Result:
    provenance = Provenance(
        model_digest=bench.loaded.digest if bench else "",
        device=context.runtime.describe(),
        dtype=str(context.runtime.dtype).removeprefix("torch."),
        forward_passes=passes,
        versions=versions(),
    )
    return Result(request=request, provenance=provenance, **parts)


# ----------------------------------------------------------------- the grid
def _draw_grid(context: Context, request: DecodingRequest) -> Result:
    bench = _bench(context, request.model)
    decoder, params = bench.loaded.module.decoder, dict(request.params)
    axes = (params["row_block"], params["column_block"])
    generator = context.runtime.generator(request.seed)
    still = bench.codes.learned[0]
    rows, columns = (
        _axis(bench, axis, n, params["along"], params["reach"], generator)
        for axis, n in zip(axes, request.grid, strict=True)
    )
    latents = grids.combine(decoder, rows.learned, columns.learned, still, axes)
    device = context.runtime.device
    with torch.no_grad(), watch(bench.loaded.module.decoder, context.is_cancelled) as passes:
        images = grids.draw_grid(
            decoder, rows.learned.to(device), columns.learned.to(device), still.to(device), axes, _chunks(context)
        )
    is_sum = isinstance(decoder, AdditiveDecoder)
    if rows.true is None or columns.true is None:
        true, is_seen = true_latents(bench, latents.flatten(0, 1))
    else:
        true, is_seen = _combine_true(bench, axes, rows.true, columns.true).flatten(0, 1), torch.tensor(True)
    in_support = (bench.support.contains(true) & is_seen).view(request.grid)
    truth = bench.scene.draw(true.clamp(0, 1))
    arrays = {
        "grid": to_pixels(images.flatten(0, 1)).reshape(*request.grid, *images.shape[-2:], 3),
        "truth": to_pixels(truth).reshape(*request.grid, *images.shape[-2:], 3),
        "latents": latents.numpy(),  # (n, m, d)
        "true_latents": true.view(*request.grid, -1).numpy(),
        "in_support": in_support.numpy(),
        **_block_pictures(bench, axes, rows.learned, columns.learned, device),
    }
    error = (images.flatten(0, 1).cpu().clamp(0, 1) - truth.clamp(0, 1)).square().mean((1, 2, 3)).view(request.grid)
    return _result(
        context,
        request,
        bench,
        sum(request.grid) if is_sum else passes.forward,
        arrays=arrays,
        values={
            "kind": decoder.kind,
            "link": decoder.link,
            "axes": list(axes),
            "blocks": [list(block) for block in decoder.blocks],
            "permutation": list(bench.codes.permutation),
            "latent_names": list(bench.scene.latent_names),
            "renders": sum(request.grid) if is_sum else request.grid[0] * request.grid[1],
            "apart": _apart(bench.support),
        },
        quality={
            "rmse_in": _root_mean(error[in_support]),
            "rmse_out": _root_mean(error[~in_support]),
            "latent_match": bench.codes.similarity,
        },
        unit="image in [0, 1]",
    )


def _apart(support: Support) -> dict[str, Any] | None:
    """How far apart objects in the plane stood in training, and whether their sides depended; None: other supports."""
    return {"reach": support.reach, "dependent": support.dependent} if isinstance(support, Apart) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Values of one block along a side of the grid, and what they mean where that is known."""

    learned: Tensor  # (n, size of the block)
    true: Tensor | None = None  # (n, size of the true block)


def _axis(bench: Bench, block: int, n: int, along: str, reach: float, generator: torch.Generator) -> Axis:
    """Even steps over the range of a scalar latent met in training; or the block of n training scenes."""
    columns = list(bench.loaded.module.blocks[block])
    if along == "scenes" or len(columns) > 1:
        return _axis_of_scenes(bench, block, n, generator)
    low, high = bench.codes.low[columns[0]], bench.codes.high[columns[0]]
    middle, half = (low + high) / 2, (high - low) / 2 * reach
    ends = (float(middle - half), float(middle + half))
    is_falling = _correlation(bench, block) < 0  # learned latents may run downwards: show true ones upwards
    return Axis(torch.linspace(*(reversed(ends) if is_falling else ends), n)[:, None])


def _axis_of_scenes(bench: Bench, block: int, n: int, generator: torch.Generator | None = None) -> Axis:
    """A block's codes in n training scenes: its object at even steps and the others low; in the plane, any n scenes."""
    own = list(bench.scene.blocks[bench.codes.permutation[block]])
    true = bench.codes.true
    if len(own) == 1:
        others = [k for k in range(true.shape[1]) if k not in own]
        wanted = torch.linspace(float(true[:, own].min()), float(true[:, own].max()), n)
        distance = (true[:, own[0]] - wanted[:, None]).abs()  # (n, N)
        chosen = (_AXIS_SHARPNESS * distance + true[:, others].sum(1)).argmin(1)
    else:
        chosen = torch.randperm(len(true), generator=generator)[:n]
        chosen = chosen[true[chosen][:, own[1]].argsort()]
    return Axis(bench.codes.learned[chosen][:, list(bench.loaded.module.blocks[block])], true[chosen][:, own])


def _combine_true(bench: Bench, axes: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """The true latents of each cell when the axes are training scenes, (n, m, d)."""
    true = bench.codes.true[0].expand(len(rows), len(columns), -1).clone()
    row_block, column_block = (list(bench.scene.blocks[bench.codes.permutation[axis]]) for axis in axes)
    true[..., row_block] = rows[:, None]
    true[..., column_block] = columns[None]
    return true


def _correlation(bench: Bench, block: int) -> float:
    true = bench.codes.true[:, list(bench.scene.blocks[bench.codes.permutation[block]])[0]]
    learned = bench.codes.learned[:, bench.loaded.module.blocks[block][0]]
    return float(torch.corrcoef(torch.stack([true, learned]))[0, 1])


def true_latents(bench: Bench, latents: Tensor) -> tuple[Tensor, Tensor]:
    """What learned latents mean: each block's true value in the training scene with the nearest code.

    Args: latents: (N, d).
    Returns: true latents (N, d), and whether every block lies near codes met in training, (N,) bool.
    """
    true, is_seen = torch.empty_like(latents), torch.ones(len(latents), dtype=torch.bool)
    spread = (bench.codes.high - bench.codes.low).clamp_min(1e-6)
    for block, true_block in zip(bench.loaded.module.blocks, bench.codes.permutation, strict=True):
        columns = list(block)
        scaled = bench.codes.learned[:, columns] / spread[columns]
        distance, nearest = torch.cdist(latents[:, columns] / spread[columns], scaled).min(1)
        target = list(bench.scene.blocks[true_block])
        true[:, target] = bench.codes.true[nearest][:, target]
        is_seen &= distance <= _NEAR * len(columns)
    return true, is_seen


def _block_pictures(
    bench: Bench, axes: tuple[int, int], rows: Tensor, columns: Tensor, device: torch.device
) -> dict[str, np.ndarray]:
    """Each axis's block alone on white, (n, H, W, 3) uint8; nothing for a decoder without blocks."""
    decoder = bench.loaded.module.decoder
    pictures = {}
    if not isinstance(decoder, (AdditiveDecoder, MaskedDecoder)):
        return pictures
    with torch.no_grad():
        for block, values in zip(axes, (rows, columns), strict=True):
            render = decoder.render_block(block, values.to(device))
            if isinstance(decoder, AdditiveDecoder):
                reference = bench.codes.learned[:200, list(decoder.blocks[block])].to(device)
                images = decoder.white + grids.centred(render, decoder.render_block(block, reference))
            else:  # the block against the background only
                mask = torch.sigmoid(render[:, 3:])
                images = mask * (decoder.white + render[:, :3]) + (1 - mask) * decoder.white
            pictures[f"blocks_{block}"] = to_pixels(apply_link(decoder.link, images))
    return pictures


def _chunks(context: Context) -> Chunks:
    return Chunks(256 if context.runtime.device.type == "cpu" else 2048)


def _root_mean(errors: Tensor) -> float | None:
    return float(errors.mean().sqrt()) if errors.numel() else None


# ----------------------------------------------------------------- what the browser needs
def _tabulate(context: Context, request: BlockTableRequest) -> Result:
    """What the browser needs to draw any scene: the table of a scalar block's network, or the network itself."""
    bench = _bench(context, request.model)
    decoder = bench.loaded.module.decoder
    arrays: dict[str, np.ndarray] = {}
    tables = []
    for i, net in enumerate(decoder.nets):
        latents = list(decoder.blocks[i]) if len(decoder.nets) > 1 else list(range(bench.loaded.module.n_latents))
        arrays[f"colour_{i}"] = net.colour.detach().float().cpu().numpy()  # (rank, channels)
        # A network of several latents is smaller than its table, and exact.
        if len(latents) > (grids.MAX_TABLE_LATENTS if request.size else 1):
            about = _put_weights(arrays, i, net)
        else:
            about = _put_table(arrays, i, net, bench, latents, request.size or None, context.runtime.device)
        ends = {"low": bench.codes.low[latents].tolist(), "high": bench.codes.high[latents].tolist()}
        tables.append({"latents": latents, "rank": net.rank, **ends, **about})
    for i in range(len(decoder.blocks)):
        arrays |= _responses(bench, i)
    return _result(
        context,
        request,
        bench,
        arrays=arrays,
        values={
            "kind": decoder.kind,
            "link": decoder.link,
            "white": decoder.white,
            "blocks": [list(block) for block in decoder.blocks],
            "permutation": list(bench.codes.permutation),
            "latent_names": list(bench.scene.latent_names),
            "falling": [_correlation(bench, i) < 0 for i in range(len(decoder.blocks))],
            "tables": tables,
            "bytes": sum(table["bytes"] for table in tables),
        },
        quality={"interpolation_rmse": max(table["interpolation_rmse"] for table in tables)},
        unit="image in [0, 1], before the link",
    )


def _put_table(
    arrays: dict[str, np.ndarray],
    i: int,
    net: BlockNet,
    bench: Bench,
    latents: list[int],
    size: int | None,
    device: torch.device,
) -> dict[str, Any]:
    low, high = bench.codes.low[latents].to(device), bench.codes.high[latents].to(device)
    table = grids.tabulate(net, low, high, size)
    arrays[f"profiles_{i}"] = table.profiles.cpu().numpy()  # (k, ...) + (2, rank, S) float16
    for k, values in enumerate(table.values):
        arrays[f"values_{i}_{k}"] = values.numpy()
    return {"interpolation_rmse": table.interpolation_rmse, "bytes": table.nbytes}


def _put_weights(arrays: dict[str, np.ndarray], i: int, net: BlockNet) -> dict[str, Any]:
    packed = grids.pack_weights(net)
    for k, (weight, bias) in enumerate(packed.layers):
        arrays[f"weight_{i}_{k}"], arrays[f"bias_{i}_{k}"] = weight.cpu().numpy(), bias.cpu().numpy()
    return {"first": packed.first, "layers": len(packed.layers), "interpolation_rmse": 0.0, "bytes": packed.nbytes}


def _responses(bench: Bench, i: int) -> dict[str, np.ndarray]:
    """What a learned block answers where its object stands at given true latents.

    Returns: of a scalar block `response_I` (33, 2): true, learned. Of a larger one `response_I` (k, ..., size), the
        mean code of a few scenes of the support at each point of a grid, and `response_I_K` (k,): its axes.
    """
    if len(bench.loaded.module.blocks[i]) == 1:
        axis = _axis_of_scenes(bench, i, _RESPONSE_SCENES)
        return {f"response_{i}": torch.cat([axis.true, axis.learned], 1).numpy()}
    own = list(bench.scene.blocks[bench.codes.permutation[i]])
    sizes = _RESPONSE_GRID[len(own)]
    axes = [
        torch.linspace(float(bench.codes.true[:, k].min()), float(bench.codes.true[:, k].max()), size)
        for k, size in zip(own, sizes, strict=True)
    ]
    points = torch.cartesian_prod(*axes)
    scenes = _scenes_with(bench, own, points)
    codes = encode_scenes(bench.loaded.module, bench.scene, scenes.flatten(0, 1), decode=False).learned
    answers = codes[:, list(bench.loaded.module.blocks[i])].unflatten(0, scenes.shape[:2]).mean(1)
    grid = {f"response_{i}": answers.unflatten(0, sizes).numpy()}
    return grid | {f"response_{i}_{k}": axis.numpy() for k, axis in enumerate(axes)}


def _scenes_with(bench: Bench, own: list[int], points: Tensor) -> Tensor:
    """A few scenes in which one object stands at each point, the others as in training; (P, few, d).

    Training scenes with the object moved there, those first that stay in the support.
    """
    scenes = bench.codes.true[:_RESPONSE_CANDIDATES].repeat(len(points), 1, 1)
    scenes[..., own] = points[:, None]
    order = bench.support.contains(scenes).int().sort(dim=1, descending=True, stable=True).indices[:, :_RESPONSE_FEW]
    return scenes.gather(1, order[..., None].expand(-1, -1, scenes.shape[-1]))


def _scatter(context: Context, request: LatentScatterRequest) -> Result:
    bench = _bench(context, request.model)
    generator = context.runtime.generator(request.seed)
    missing = held_out(bench.support, bench.scene)
    parts = [bench.support.sample(request.n, generator)]
    if missing is not None:
        parts.append(missing.sample(request.n, generator))
    true = torch.cat(parts)
    encoded = encode_scenes(bench.loaded.module, bench.scene, true, decode=False)
    shown = torch.cat([part[: _SCATTER_PICTURES // len(parts)] for part in parts])
    small = dataclasses.replace(bench.scene, side=THUMBNAIL_SIDE)
    is_first = torch.arange(len(true)) < request.n
    has_picture = torch.cat([torch.arange(len(part)) < _SCATTER_PICTURES // len(parts) for part in parts])
    return _result(
        context,
        request,
        bench,
        len(true),
        arrays={
            "true": true.numpy(),
            "learned": encoded.learned.numpy(),
            "in_support": is_first.numpy(),
            "component": _components(bench.support, true),
            "pictures": to_pixels(small.draw(shown)),
            "picture_of": torch.nonzero(has_picture)[:, 0].numpy(),  # which point each picture belongs to
        },
        values={
            "latent_names": list(bench.scene.latent_names),
            "blocks": [list(block) for block in bench.loaded.module.blocks],
            "permutation": list(bench.codes.permutation),
        },
        quality={"latent_match": bench.codes.similarity},
        unit="latents",
    )


def _components(support: Support, latents: Tensor) -> np.ndarray:
    """The component of each latent, for two scalar latents; -1 outside; 0 where it is not counted."""
    if support.n_latents != 2:
        return np.zeros(len(latents), dtype=np.int64)
    return support.component_of(latents).numpy()


# ----------------------------------------------------------------- figures and supports
def _measure(context: Context, request: DecoderFiguresRequest) -> Result:
    bench = _bench(context, request.model)
    parts = ("in the support", "out of the support", "recombined", "assumptions")

    def on_step(what: str) -> None:
        context.on_step(Step(parts.index(what), len(parts), what))

    figures = measure(bench.loaded.module, bench.scene, bench.support, request.seed, request.n, on_step)
    meters = figures.pop("assumptions")
    return _result(
        context,
        request,
        bench,
        arrays={"similarity": np.asarray(figures.pop("similarity"))},
        values={"permutation": figures.pop("permutation"), "assumptions": meters},
        quality=figures,
        unit="LMS in percent; RMSE of images in [0, 1]",
    )


def _describe_support(context: Context, request: SupportRequest) -> Result:
    scene, support = _scene_of(request)
    latents = support.sample(request.n, context.runtime.generator(request.seed))
    extension = support.extension(scene.blocks)
    small = dataclasses.replace(scene, side=THUMBNAIL_SIDE)
    arrays: dict[str, np.ndarray] = {
        "latents": latents.numpy(),
        "pictures": to_pixels(small.draw(latents[:_SCATTER_PICTURES])),
    }
    if scene.n_latents == 2:
        arrays["raster"] = support.raster()  # (128, 128) bool: latent 0 along rows
        arrays["extension"] = extension.raster()
    return _result(
        context,
        request,
        None,
        arrays=arrays,
        values={
            "components": support.components(),
            "is_product": support.is_product(scene.blocks),
            "latent_names": list(scene.latent_names),
            "blocks": [list(block) for block in scene.blocks],
        },
        quality={"nonlinearity_truth": truth_nonlinearity(scene, latents[:12])},
        unit="latents in the frame 0..1",
    )


_RUNNERS = {
    DecodingRequest: _draw_grid,
    BlockTableRequest: _tabulate,
    LatentScatterRequest: _scatter,
    DecoderFiguresRequest: _measure,
    SupportRequest: _describe_support,
}
