"""Measures a trained autoencoder against the truth: latents, images, extrapolation, and what the theory assumes."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_decoding import assumptions, metrics
from backend.additive_decoding.metrics import Match
from backend.additive_decoding.scenes import Scene
from backend.additive_decoding.supports import Apart, Missing, Support
from backend.models.additive_decoder import AdditiveDecoder, Autoencoder, Blocks, Kind

TREE_TRAIN, TEST = 4000, 1000  # scenes
MOST_RASTERED = 4  # latents up to which the pieces of a support are counted
_BATCH = 100
_ASSUMPTION_POINTS = 12
_ASSUMPTION_SIDE = 32  # pixels of the truth when it is differentiated


@dataclass(frozen=True, eq=False)
class Encoded:
    """Scenes with their true and learned latents, and how well they were decoded."""

    true: Tensor  # (N, d), on the CPU
    learned: Tensor  # (N, d), on the CPU
    rmse: float


def encode_scenes(model: Autoencoder, scene: Scene, latents: Tensor, decode: bool = True) -> Encoded:
    """Draw the scenes, encode them and decode them again."""
    device = next(model.parameters()).device
    learned, squares = [], 0.0
    with torch.no_grad():
        for part in latents.split(_BATCH):
            images = scene.draw(part).to(device)
            codes = model.encode(images)
            learned.append(codes.cpu())
            if decode:
                error = model.decode(codes).clamp(0, 1) - images.clamp(0, 1)
                squares += float(error.double().square().mean()) * len(part)
    return Encoded(latents, torch.cat(learned), (squares / len(latents)) ** 0.5)


def latent_match(learned: np.ndarray, true: np.ndarray, blocks: Blocks, kind: Kind) -> Match:
    """Learned with true blocks: |Spearman| for scalars, trees for larger blocks (three quarters to fit, one to score).

    A decoder that knows no blocks is matched by the partition of its latents that suits it best.
    """
    if all(len(block) == 1 for block in blocks):
        return metrics.lms_spearman(learned, true)
    cut = 3 * len(true) // 4
    return tree_match(learned[:cut], true[:cut], learned[cut:], true[cut:], blocks, kind)


def tree_match(
    learned_train: np.ndarray, true_train: np.ndarray, learned: np.ndarray, true: np.ndarray, blocks: Blocks, kind: Kind
) -> Match:
    """LMS_tree, over all partitions for a decoder that knows no blocks (up to 4 latents)."""
    partitions: Sequence[Blocks] = [blocks]
    sizes = [len(block) for block in blocks]
    if kind == "non-additive" and max(sizes) > 1 and sum(sizes) <= 4:
        partitions = metrics.all_partitions(sum(sizes), sizes)
    matches = [metrics.lms_tree(learned_train, true_train, learned, true, p, blocks) for p in partitions]
    return max(matches, key=lambda match: match.score)


def held_out(support: Support, scene: Scene) -> Support | None:
    """What the support leaves out of its Cartesian-product extension, touching objects excepted; None: nothing."""
    extension = support.extension(scene.blocks)
    if isinstance(support, Apart):
        return Missing(support, Apart(scene)) if support.dependent else None
    return None if support.is_product(scene.blocks) else Missing(support, extension)


def measure(
    model: Autoencoder,
    scene: Scene,
    support: Support,
    seed: int = 0,
    n: int = TEST,
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Every figure of one trained model.

    Args:
        support: the latents that it was trained on.
        n: test scenes; trees are fitted on four times as many others.
        on_step: told what is measured next; it may raise `Cancelled`.
    Returns: a JSON object; a figure that is not defined here is None.
    """
    say = on_step or (lambda _: None)
    generator = torch.Generator().manual_seed(30_000 + seed)
    say("in the support")
    inside = encode_scenes(model, scene, support.sample(n, generator))
    fitted = encode_scenes(model, scene, support.sample(4 * n, generator), decode=False)
    is_scalar = scene.block_size == 1
    tree = tree_match(*_arrays(fitted), *_arrays(inside), scene.blocks, model.kind)
    spearman = metrics.lms_spearman(*_arrays(inside)) if is_scalar else None
    match = spearman or tree
    figures: dict[str, Any] = {
        "lms_spearman": spearman.score if spearman else None,
        "lms_tree": tree.score,
        "rmse": inside.rmse,
        "permutation": list(match.permutation),
        "similarity": match.similarity.round(4).tolist(),
        "lms_spearman_out": None,
        "lms_tree_out": None,
        "rmse_out": None,
    }
    missing = held_out(support, scene)
    if missing is not None:
        say("out of the support")
        outside = encode_scenes(model, scene, missing.sample(n, generator))
        figures["rmse_out"] = outside.rmse
        figures["lms_tree_out"] = tree_match(*_arrays(fitted), *_arrays(outside), scene.blocks, model.kind).score
        figures["lms_spearman_out"] = metrics.lms_spearman(*_arrays(outside)).score if is_scalar else None
    say("recombined")
    figures["rmse_recombined"] = recombination_rmse(model, scene, support, match, n, generator)
    say("assumptions")
    figures["assumptions"] = measure_assumptions(model, scene, support, inside)
    return figures


def _arrays(encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
    return encoded.learned.numpy(), encoded.true.numpy()


def recombination_rmse(
    model: Autoencoder, scene: Scene, support: Support, match: Match, n: int, generator: torch.Generator
) -> float | None:
    """Does f-hat equal the truth on the extension? Blocks of different training scenes, decoded together.

    Each object's block is taken from the code of another scene; the truth draws the same objects together.
    Recombinations in which objects touch are left out. None: there are none that do not.
    """
    n_objects = scene.n_objects
    sources = [support.sample(2 * n, generator) for _ in range(n_objects)]
    true = torch.cat([source[:, list(block)] for source, block in zip(sources, scene.blocks, strict=True)], 1)
    if isinstance(support, Apart):
        keep = Apart(scene).contains(true)
        sources, true = [source[keep] for source in sources], true[keep]
    if len(true) == 0:
        return None
    sources, true = [source[:n] for source in sources], true[:n]
    codes = [encode_scenes(model, scene, source, decode=False).learned for source in sources]
    mixed = torch.empty_like(true)
    for learned_block, true_block in zip(model.blocks, match.permutation, strict=True):
        mixed[:, list(learned_block)] = codes[true_block][:, list(learned_block)]
    device, squares = next(model.parameters()).device, 0.0
    with torch.no_grad():
        for z, code in zip(true.split(_BATCH), mixed.split(_BATCH), strict=True):
            decoded = model.decode(code.to(device)).clamp(0, 1).cpu()
            squares += float((decoded - scene.draw(z).clamp(0, 1)).double().square().mean()) * len(z)
    return (squares / len(true)) ** 0.5


# ----------------------------------------------------------------- what the theory assumes
def measure_assumptions(model: Autoencoder, scene: Scene, support: Support, inside: Encoded) -> dict[str, Any]:
    """The meters: sufficient nonlinearity of truth and decoder, off-block Hessian energy, components of the support."""
    device = next(model.parameters()).device
    latents = inside.learned[:_ASSUMPTION_POINTS].to(device)
    scale = inside.learned.std(0).to(device)
    hessian = assumptions.off_block_energy(before_link(model), latents, model.blocks, scale)
    meters: dict[str, Any] = {
        "components": support.components() if scene.n_latents <= MOST_RASTERED else None,
        "off_block_hessian": float(hessian.detach().mean()),
        "nonlinearity_truth": truth_nonlinearity(scene, inside.true[:_ASSUMPTION_POINTS]),
        "nonlinearity_decoder": None,
        "permutations": None,
    }
    if isinstance(model.decoder, AdditiveDecoder):
        images = [_block_image(model.decoder, i) for i in range(len(model.blocks))]
        parts = [latents[:, list(block)] for block in model.blocks]
        matrix = assumptions.nonlinearity_matrix(images, parts)
        meters["nonlinearity_decoder"] = float(assumptions.smallest_singular_value(matrix.detach()).min())
    if scene.block_size == 1 and (meters["components"] or 1) > 1:
        component = support.component_of(inside.true)
        found = metrics.permutation_by_component(inside.learned.numpy(), inside.true.numpy(), component.numpy())
        meters["permutations"] = {
            str(k): {"permutation": list(m.permutation), "lms": m.score} for k, m in found.items()
        }
    return meters


def before_link(model: Autoencoder) -> Callable[[Tensor], Tensor]:
    """The decoder of one latent vector, without sigma: (d,) -> (3, S, S)."""
    decoder = model.decoder
    if decoder.kind == "masked":
        return lambda z: decoder(z[None])[0]  # masks compete: there is no sum before the link
    if isinstance(decoder, AdditiveDecoder):
        return lambda z: sum(decoder.render_block(i, decoder.block_latents(z, i)) for i in range(len(decoder.blocks)))
    return lambda z: decoder.nets[0](z)


def _block_image(decoder: AdditiveDecoder, i: int) -> Callable[[Tensor], Tensor]:
    return lambda block: decoder.render_block(i, block)


def truth_nonlinearity(scene: Scene, latents: Tensor) -> float:
    """Smallest singular value of W(z) of the true blocks, over some points: 0 means not sufficiently nonlinear.

    `Differs from` the renderer: edges are four pixels soft, since its own are not twice differentiable.
    """

    soft = dataclasses.replace(scene, side=_ASSUMPTION_SIDE, occlusion=False)
    step = 1.5 / _ASSUMPTION_SIDE  # of central differences: over the soft edge, where coverage is piecewise linear
    columns = []
    for i, block in enumerate(scene.blocks):
        z = latents[:, list(block)].clamp(2 * step, 1 - 2 * step).double()
        draw = lambda value, i=i: soft.draw_block(i, value).flatten(1)  # noqa: E731
        columns += _differences(draw, z, step)
    matrix = torch.stack(columns, 2)
    length = matrix.norm(dim=1, keepdim=True)
    matrix = torch.where(length > 1e-6, matrix / length.clamp_min(1e-12), torch.zeros_like(matrix))
    return float(assumptions.smallest_singular_value(matrix.detach()).min())


def _differences(draw: Callable[[Tensor], Tensor], z: Tensor, step: float) -> list[Tensor]:
    """First and second derivatives of a block's image by central differences, (N, pixels) each."""
    d = z.shape[1]
    shifts = torch.eye(d, dtype=z.dtype) * step
    here = draw(z)
    first, second = [], []
    for k in range(d):
        up, down = draw(z + shifts[k]), draw(z - shifts[k])
        first.append((up - down) / (2 * step))
        second.append((up - 2 * here + down) / step**2)
        for j in range(k + 1, d):
            corner = [draw(z + a * shifts[k] + b * shifts[j]) for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
            second.append((corner[0] - corner[1] - corner[2] + corner[3]) / (4 * step**2))
    return first + second
