"""Where latents may lie in training: sampling, membership, components and the Cartesian-product extension.

The extension of a support is the product of its projections onto the blocks: everything that a recombination of
blocks seen in training can reach. Latents lie in the frame [0, 1]^d. Everything here is numpy-free torch on the CPU
but for the labelling of connected components.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from backend.additive_decoding.scenes import HIGH, LOW, Scene
from backend.errors import BadInput, ShapeError

Blocks = tuple[tuple[int, ...], ...]
MAX_VERTICES = 500
MAX_MASK_SIDE = 256  # cells
_ATTEMPTS = 400  # rounds of rejection before a support counts as empty
_RASTER = {1: 512, 2: 128, 3: 32, 4: 14}  # cells along an axis when components of d latents are counted


class Support:
    """A set of latents with a uniform distribution on it."""

    name: str = ""
    n_latents: int
    low: tuple[float, ...]  # the smallest box around it
    high: tuple[float, ...]

    def contains(self, latents: Tensor) -> Tensor:
        """(..., d) -> (...) bool."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents, uniform on the support, (n, d). By rejection from the box around it.

        Raises: BadInput: the support is empty (nothing was hit in very many draws).
        """
        low, high = torch.tensor(self.low), torch.tensor(self.high)
        found: list[Tensor] = []
        have = 0
        for _ in range(_ATTEMPTS):
            draws = low + (high - low) * torch.rand(max(2 * n, 64), self.n_latents, generator=generator)
            draws = draws[self.contains(draws)]
            found.append(draws)
            have += len(draws)
            if have >= n:
                return torch.cat(found)[:n]
        raise BadInput("the support is empty: no latent lies in it", "support")

    def raster(self, cells: int | None = None) -> np.ndarray:
        """Whether the centre of each cell of the frame lies in the support, (cells,) * d bool."""
        cells = cells or _RASTER.get(self.n_latents, 8)
        axis = (torch.arange(cells) + 0.5) / cells
        grid = torch.cartesian_prod(*[axis] * self.n_latents).view(*[cells] * self.n_latents, self.n_latents)
        return self.contains(grid).numpy()

    def components(self, cells: int | None = None) -> int:
        """How many path-connected pieces it has, counted on a raster; cells touch along faces."""
        return count_components(self.raster(cells))

    def component_of(self, latents: Tensor, cells: int | None = None) -> Tensor:
        """The number of the component of each latent, (N, d) -> (N,); -1 outside."""
        from scipy import ndimage

        labels, _ = ndimage.label(self.raster(cells))
        index = (latents * labels.shape[0]).long().clamp(0, labels.shape[0] - 1)
        return torch.from_numpy(labels[tuple(index.T.numpy())].astype(np.int64)) - 1

    def project(self, block: Sequence[int]) -> "Support":
        """Its shadow on the latents of one block; by raster unless the subclass knows it exactly."""
        cells = _RASTER.get(self.n_latents, 8)
        others = tuple(k for k in range(self.n_latents) if k not in block)
        shadow = self.raster(cells).any(axis=others) if others else self.raster(cells)
        kept = sorted(block)
        return from_mask(np.transpose(shadow, [kept.index(k) for k in block]))

    def extension(self, blocks: Blocks) -> "Product":
        """The Cartesian product of its projections onto the blocks."""
        return Product(tuple(self.project(block) for block in blocks), blocks)

    def is_product(self, blocks: Blocks, n: int = 4096) -> bool:
        """Whether it already is its own extension, so that nothing is left to extrapolate to."""
        draws = self.extension(blocks).sample(n, torch.Generator().manual_seed(0))
        return bool(self.contains(draws).float().mean() > 1 - 1e-3)


def count_components(raster: np.ndarray) -> int:
    from scipy import ndimage

    return int(ndimage.label(raster)[1])


# ----------------------------------------------------------------- unions of boxes
@dataclass(frozen=True, eq=False)
class Boxes(Support):
    """A union of boxes that meet in their faces at most: exact in everything."""

    boxes: Tensor  # (k, 2, d): lower and upper corners
    name: str = "boxes"

    def __post_init__(self) -> None:
        boxes = self.boxes
        if boxes.ndim != 3 or boxes.shape[1] != 2:
            raise ShapeError(f"boxes of shape {tuple(boxes.shape)}; expected (k, 2, d)", "support")
        if len(boxes) == 0:
            raise BadInput("the support is empty: paint at least one cell", "support")
        if not torch.isfinite(boxes).all():
            raise BadInput("a corner of the support is not a number", "support")
        if boxes.min() < -1e-6 or boxes.max() > 1 + 1e-6:
            raise BadInput("the support lies outside the frame; expected 0..1", "support")
        if (boxes[:, 1] <= boxes[:, 0]).any():
            raise BadInput("a box of the support has no extent", "support")

    @property
    def n_latents(self) -> int:
        return self.boxes.shape[2]

    @property
    def low(self) -> tuple[float, ...]:
        return tuple(self.boxes[:, 0].amin(0).tolist())

    @property
    def high(self) -> tuple[float, ...]:
        return tuple(self.boxes[:, 1].amax(0).tolist())

    def contains(self, latents: Tensor) -> Tensor:
        inside = torch.zeros(latents.shape[:-1], dtype=torch.bool)
        for box in self.boxes:
            inside |= ((latents >= box[0] - 1e-6) & (latents <= box[1] + 1e-6)).all(-1)
        return inside

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        volume = (self.boxes[:, 1] - self.boxes[:, 0]).prod(1)
        which = torch.multinomial(volume, n, replacement=True, generator=generator)
        box = self.boxes[which]
        return box[:, 0] + (box[:, 1] - box[:, 0]) * torch.rand(n, self.n_latents, generator=generator)

    def project(self, block: Sequence[int]) -> "Boxes":
        return Boxes(_disjoint(self.boxes[:, :, list(block)]), f"{self.name}, projected")

    def components(self, cells: int | None = None) -> int:
        """Boxes are joined where they share a face (touching in an edge or a point does not connect regions)."""
        k = len(self.boxes)
        low, high = self.boxes[:, 0], self.boxes[:, 1]
        overlap = torch.minimum(high[:, None], high[None]) - torch.maximum(low[:, None], low[None])  # (k, k, d)
        joined = (overlap > -1e-6).all(-1) & ((overlap > 1e-6).sum(-1) >= self.n_latents - 1)
        from scipy.sparse.csgraph import connected_components

        return int(connected_components(joined.numpy().reshape(k, k))[0])


def _disjoint(boxes: Tensor) -> Tensor:
    """The same union as boxes that do not overlap: cells between all corner coordinates, (k, 2, d) -> (m, 2, d)."""
    axes = [torch.unique(boxes[:, :, d]) for d in range(boxes.shape[2])]
    low = torch.cartesian_prod(*[axis[:-1] for axis in axes]).view(-1, len(axes))
    high = torch.cartesian_prod(*[axis[1:] for axis in axes]).view(-1, len(axes))
    centre = (low + high) / 2
    inside = ((centre[:, None] > boxes[None, :, 0]) & (centre[:, None] < boxes[None, :, 1])).all(-1).any(1)
    return torch.stack([low[inside], high[inside]], 1)


def _boxes(name: str, *boxes: Sequence[tuple[float, float]]) -> Boxes:
    """Boxes from their (low, high) pairs, one pair for each latent."""
    return Boxes(torch.tensor(boxes).transpose(1, 2).contiguous(), name)


def rectangle(n_latents: int = 2) -> Boxes:
    """Everything: no combination is left out."""
    return _boxes("rectangle", [(LOW, HIGH)] * n_latents)


def l_shape() -> Boxes:
    """All but both objects in the upper half."""
    return _boxes("l", [(LOW, 0.5), (LOW, HIGH)], [(0.5, HIGH), (LOW, 0.5)])


def u_shape() -> Boxes:
    """A bar and two arms: the middle of the second object is missing where the first is high."""
    return _boxes("u", [(LOW, 0.3), (LOW, HIGH)], [(0.3, HIGH), (LOW, 0.34)], [(0.3, HIGH), (0.66, HIGH)])


def bands() -> Boxes:
    """Disconnected: the second object is either low or high, never between."""
    return _boxes("bands", [(LOW, HIGH), (LOW, 0.25)], [(LOW, HIGH), (0.75, HIGH)])


def corners() -> Boxes:
    """Disconnected: both objects low, or both high. Blocks may be learned in another order in each component."""
    return _boxes("corners", [(LOW, 0.45), (LOW, 0.45)], [(0.55, HIGH), (0.55, HIGH)])


def missing_corner() -> Boxes:
    """What the L leaves out: both objects in the upper half."""
    return _boxes("missing corner", [(0.5, HIGH), (0.5, HIGH)])


def from_mask(mask: np.ndarray) -> Boxes:
    """A painted support: the cells that are True; axis k of the array is latent k.

    Raises: BadInput: nothing painted, or a mask that is too fine.
    """
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise BadInput("the mask does not consist of true and false", "support")
    if mask.ndim < 1 or max(mask.shape) > MAX_MASK_SIDE:
        raise BadInput(f"a mask of {mask.shape} cells; at most {MAX_MASK_SIDE} along a side", "support")
    cells = torch.from_numpy(np.argwhere(_merge_runs(mask)[0])).float()
    if len(cells) == 0:
        raise BadInput("the support is empty: paint at least one cell", "support")
    size = torch.tensor(mask.shape, dtype=torch.float32)
    low, high = cells / size, (cells + 1) / size
    high[:, -1] = low[:, -1] + torch.from_numpy(_merge_runs(mask)[1]).float() / size[-1]
    return Boxes(torch.stack([low, high], 1), "painted")


def _merge_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs along the last axis begin, (same shape) bool, and the length of each run in that order."""
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(1, 1)])
    change = np.diff(padded.astype(np.int8), axis=-1)
    starts, ends = np.argwhere(change == 1), np.argwhere(change == -1)
    return (change == 1)[..., :-1], ends[:, -1] - starts[:, -1]


# ----------------------------------------------------------------- free-hand and dependent
@dataclass(frozen=True, eq=False)
class Polygon(Support):
    """The inside of a closed line through the vertices, in two scalar latents."""

    vertices: tuple[tuple[float, float], ...]
    name: str = "polygon"
    n_latents: int = field(default=2, init=False)

    def __post_init__(self) -> None:
        points = np.asarray(self.vertices, dtype=float)
        if points.ndim != 2 or points.shape[1] != 2 or not 3 <= len(points) <= MAX_VERTICES:
            raise BadInput(f"a polygon needs 3..{MAX_VERTICES} vertices of two coordinates", "support")
        if not np.isfinite(points).all():
            raise BadInput("a vertex of the polygon is not a number", "support")
        if points.min() < 0 or points.max() > 1:
            raise BadInput("the polygon lies outside the frame; expected 0..1", "support")
        if _crosses_itself(points):
            raise BadInput("the polygon's line crosses itself; draw it without crossings", "support")
        if abs(_area(points)) < 1e-6:
            raise BadInput("the support is empty: the polygon has no area", "support")

    @property
    def low(self) -> tuple[float, ...]:
        return tuple(np.min(self.vertices, axis=0).tolist())

    @property
    def high(self) -> tuple[float, ...]:
        return tuple(np.max(self.vertices, axis=0).tolist())

    def contains(self, latents: Tensor) -> Tensor:
        """Even-odd rule: how often a ray to the right crosses the line."""
        points = torch.tensor(self.vertices, dtype=latents.dtype)
        inside = torch.zeros(latents.shape[:-1], dtype=torch.bool)
        x, y = latents.unbind(-1)
        for (x0, y0), (x1, y1) in zip(points, points.roll(-1, 0), strict=True):
            crosses = (y0 > y) != (y1 > y)
            height = torch.where(y1 == y0, torch.ones_like(y1), y1 - y0)
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / height + x0)
        return inside

    def project(self, block: Sequence[int]) -> Support:
        if len(block) == 2:
            flipped = tuple(tuple(point[k] for k in block) for point in self.vertices)
            return Polygon(flipped)
        (k,) = block  # a simple polygon is connected: its shadow is one interval
        return _boxes("interval", [(self.low[k], self.high[k])])


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def _crosses_itself(points: np.ndarray) -> bool:
    """Whether two edges that are no neighbours meet."""
    n = len(points)
    start, end = points, np.roll(points, -1, 0)

    def side(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.sign(
            (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (p[..., 0] - a[..., 0])
        )

    i, j = np.triu_indices(n, 2)
    apart = (i != 0) | (j != n - 1)  # the first and the last edge are neighbours
    i, j = i[apart], j[apart]
    splits = side(start[i], end[i], start[j]) * side(start[i], end[i], end[j]) < 0
    return bool((splits & (side(start[j], end[j], start[i]) * side(start[j], end[j], end[i]) < 0)).any())


@dataclass(frozen=True, eq=False)
class Band(Support):
    """Dependent latents: the second lies within `half_width` of a function of the first."""

    curve: Callable[[Tensor], Tensor]
    name: str
    half_width: float = 0.12
    n_latents: int = field(default=2, init=False)
    low: tuple[float, ...] = field(default=(LOW, LOW), init=False)
    high: tuple[float, ...] = field(default=(HIGH, HIGH), init=False)

    def contains(self, latents: Tensor) -> Tensor:
        in_range = ((latents >= LOW - 1e-6) & (latents <= HIGH + 1e-6)).all(-1)
        return in_range & ((latents[..., 1] - self.curve(latents[..., 0])).abs() <= self.half_width)

    def project(self, block: Sequence[int]) -> Support:
        if len(block) == 1:  # the curve runs through the whole range of both latents
            return _boxes("interval", [(LOW, HIGH)])
        return super().project(block)


def linear_band() -> Band:
    """The second object follows the first."""
    return Band(lambda first: first, "dependent-linear")


def curved_band() -> Band:
    """The second object follows a full wave of the first."""
    return Band(lambda first: 0.5 - 0.4 * torch.cos((first - LOW) / (HIGH - LOW) * 2 * torch.pi), "dependent-nonlinear")


# ----------------------------------------------------------------- objects that move in the plane
@dataclass(frozen=True, eq=False)
class Apart(Support):
    """Objects anywhere in the frame, but never touching; optionally the second's place depends on the first's.

    Dependent: if x + y of the first object is at least 1 the second is up left, else down right.
    """

    scene: Scene
    dependent: bool = False

    @property
    def name(self) -> str:
        return "apart-dependent" if self.dependent else "apart"

    @property
    def n_latents(self) -> int:
        return self.scene.n_latents

    @property
    def low(self) -> tuple[float, ...]:
        return (LOW,) * self.n_latents

    @property
    def high(self) -> tuple[float, ...]:
        return (HIGH,) * self.n_latents

    def contains(self, latents: Tensor) -> Tensor:
        inside = ((latents >= LOW - 1e-6) & (latents <= HIGH + 1e-6)).all(-1)
        blocks = latents.unflatten(-1, (self.scene.n_objects, self.scene.block_size))
        places = blocks[..., [self.scene.free.index("x"), self.scene.free.index("y")]]
        for i, j in itertools.combinations(range(self.scene.n_objects), 2):
            inside &= (places[..., i, :] - places[..., j, :]).square().sum(-1) >= self.reach**2
        if self.dependent:
            x, y = places[..., 1, :].unbind(-1)
            is_high = places[..., 0, :].sum(-1) >= 1
            inside &= torch.where(is_high, (x <= 0.5) & (y >= 0.5), (x >= 0.5) & (y <= 0.5))
        return inside

    @property
    def reach(self) -> float:
        """Two objects' centres are at least this far apart: the soft edge belongs to the object."""
        return 2 * self.scene.radius + 1 / self.scene.side

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        if not self.dependent:
            return super().sample(n, generator)
        found: list[Tensor] = []
        have = 0
        columns = [self.scene.block_size + self.scene.free.index(name) for name in ("x", "y")]
        for _ in range(_ATTEMPTS):  # draw the second object in the quadrant that the first one leaves it
            draws = LOW + (HIGH - LOW) * torch.rand(2 * n, self.n_latents, generator=generator)
            first = draws[:, [self.scene.free.index("x"), self.scene.free.index("y")]]
            is_high = first.sum(1) >= 1
            for column, goes_up in zip(columns, (~is_high, is_high), strict=True):
                unit = (draws[:, column] - LOW) / (HIGH - LOW)
                draws[:, column] = torch.where(goes_up, 0.5 + unit * (HIGH - 0.5), LOW + unit * (0.5 - LOW))
            draws = draws[self.contains(draws)]
            found.append(draws)
            have += len(draws)
            if have >= n:
                return torch.cat(found)[:n]
        raise BadInput("the support is empty: the objects cannot be placed without touching", "support")

    def project(self, block: Sequence[int]) -> Support:
        """Exact for two objects; with more of them, everything (there is room for the others almost everywhere)."""
        if not self.dependent or self.scene.free != ("x", "y"):
            return rectangle(len(block))
        if tuple(block) == self.scene.blocks[1]:
            return _boxes("two quadrants", [(LOW, 0.5), (0.5, HIGH)], [(0.5, HIGH), (LOW, 0.5)])
        return _Region(self._leaves_room, len(block))

    def _leaves_room(self, first: Tensor) -> Tensor:
        """Whether the farthest corner of the second object's quadrant is far enough from the first object."""
        is_high = first.sum(-1, keepdim=True) >= 1
        low = torch.where(is_high, torch.tensor([LOW, 0.5]), torch.tensor([0.5, LOW]))
        high = torch.where(is_high, torch.tensor([0.5, HIGH]), torch.tensor([HIGH, 0.5]))
        farthest = torch.maximum((first - low).abs(), (first - high).abs())
        return farthest.square().sum(-1) >= self.reach**2


@dataclass(frozen=True, eq=False)
class _Region(Support):
    """Where a condition holds, in the box that every latent lies in."""

    condition: Callable[[Tensor], Tensor]
    n_latents: int
    name: str = "region"

    @property
    def low(self) -> tuple[float, ...]:
        return (LOW,) * self.n_latents

    @property
    def high(self) -> tuple[float, ...]:
        return (HIGH,) * self.n_latents

    def contains(self, latents: Tensor) -> Tensor:
        in_range = ((latents >= LOW - 1e-6) & (latents <= HIGH + 1e-6)).all(-1)
        return in_range & self.condition(latents)


@dataclass(frozen=True, eq=False)
class Product(Support):
    """A Cartesian product of supports of blocks."""

    parts: tuple[Support, ...]
    blocks: Blocks
    name: str = "product"

    @property
    def n_latents(self) -> int:
        return sum(map(len, self.blocks))

    def _gather(self, of_parts: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
        values = [0.0] * self.n_latents
        for block, part in zip(self.blocks, of_parts, strict=True):
            for k, value in zip(block, part, strict=True):
                values[k] = value
        return tuple(values)

    @property
    def low(self) -> tuple[float, ...]:
        return self._gather([part.low for part in self.parts])

    @property
    def high(self) -> tuple[float, ...]:
        return self._gather([part.high for part in self.parts])

    def contains(self, latents: Tensor) -> Tensor:
        inside = torch.ones(latents.shape[:-1], dtype=torch.bool)
        for block, part in zip(self.blocks, self.parts, strict=True):
            inside &= part.contains(latents[..., list(block)])
        return inside

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        latents = torch.empty(n, self.n_latents)
        for block, part in zip(self.blocks, self.parts, strict=True):
            latents[:, list(block)] = part.sample(n, generator)
        return latents


@dataclass(frozen=True, eq=False)
class Missing(Support):
    """What the extension holds beyond the support: where only a decoder that extrapolates can draw."""

    support: Support
    whole: Support
    name: str = "missing"

    @property
    def n_latents(self) -> int:
        return self.support.n_latents

    @property
    def low(self) -> tuple[float, ...]:
        return self.whole.low

    @property
    def high(self) -> tuple[float, ...]:
        return self.whole.high

    def contains(self, latents: Tensor) -> Tensor:
        return self.whole.contains(latents) & ~self.support.contains(latents)


SUPPORTS: dict[str, Callable[[Scene], Support]] = {
    "rectangle": lambda scene: rectangle(scene.n_latents),
    "l": lambda scene: l_shape(),
    "u": lambda scene: u_shape(),
    "bands": lambda scene: bands(),
    "corners": lambda scene: corners(),
    "dependent-linear": lambda scene: linear_band(),
    "dependent-nonlinear": lambda scene: curved_band(),
    "apart": lambda scene: Apart(scene),
    "apart-dependent": lambda scene: Apart(scene, dependent=True),
}


def make_support(name: str, scene: Scene) -> Support:
    """A named support for the scene's latents.

    Raises: BadInput: no such name, or it is made for another number of latents.
    """
    if name not in SUPPORTS:
        raise BadInput(f"unknown support {name!r}; one of {', '.join(SUPPORTS)}", "support")
    if name.startswith("apart") and not {"x", "y"} <= set(scene.free):
        raise BadInput(f"the support {name!r} needs objects that move in x and y", "support")
    support = SUPPORTS[name](scene)
    if support.n_latents != scene.n_latents:
        raise BadInput(
            f"the support {name!r} is made for {support.n_latents} latents; the scene has {scene.n_latents}", "support"
        )
    return support
