"""A patient in front of a detector: pose, breathing, build and a smooth deformation, then one cast of rays.

Pictures are (rows, columns): rows go down, columns from the patient's right to the patient's left (the picture's left
is the patient's right, as radiographs are hung). Depth goes from back to front.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from backend.radiographs.ct import (
    BONES,
    HEART,
    HEART_PARTS,
    LEFT_BRACHIOCEPHALIC,
    LEFT_LOBES,
    OESOPHAGUS,
    RIGHT_BRACHIOCEPHALIC,
    RIGHT_CLAVICLE,
    RIGHT_LOBES,
    STOMACH,
    SUPERIOR_VENA_CAVA,
    TRACHEA,
    WATER,
    Chest,
)

DEPTH_MM = 252.0  # along the rays
_DEFORMATION_GRID = (5, 5, 4)  # control points
_PLACES = (
    STOMACH,
    OESOPHAGUS,
    TRACHEA,
    HEART,
    SUPERIOR_VENA_CAVA,
    LEFT_BRACHIOCEPHALIC,
    RIGHT_BRACHIOCEPHALIC,
    RIGHT_CLAVICLE,
)


@dataclass(frozen=True, slots=True)
class Pose:
    """Everything about a patient and the tube that findings and exposure do not touch."""

    field_mm: float  # side of the picture in the plane of the patient's middle
    yaw: float  # degrees
    pitch: float
    roll: float
    scale_x: float  # build
    scale_y: float
    scale_z: float
    inflation_mm: float  # of the diaphragm; negative: breathed out
    shift_x_mm: float
    shift_z_mm: float
    is_ap: bool  # tube in front at 1.1 m, else behind at 1.8 m
    lung_density: float
    bone_density: float
    fat_mm: float  # of water around the chest
    deformation_mm: float  # standard deviation of the control points
    deformation_seed: int

    @property
    def volume(self) -> str:
        """What a report would say of the lung volumes: "low", "high" or ""."""
        return "low" if self.inflation_mm < -15 else "high" if self.inflation_mm > 14 else ""


_RANGES = {
    "field_mm": (280, 322),
    "yaw": (-6, 6),
    "pitch": (-7, 7),
    "roll": (-4, 4),
    "scale_x": (0.88, 1.14),
    "scale_y": (0.88, 1.14),
    "scale_z": (0.9, 1.1),
    "inflation_mm": (-26, 22),
    "shift_x_mm": (-10, 10),
    "shift_z_mm": (-9, 7),
    "lung_density": (0.85, 1.35),
    "bone_density": (0.5, 1.2),
    "fat_mm": (-8, 25),
    "deformation_mm": (2, 7),
}


def sample_pose(generator: np.random.Generator) -> Pose:
    values = {name: float(generator.uniform(*_RANGES[name])) for name in _RANGES}
    values["is_ap"] = bool(generator.random() < 0.35)
    values["deformation_seed"] = int(generator.integers(2**31))
    return Pose(**{field.name: values[field.name] for field in fields(Pose)})


@dataclass(frozen=True)
class Lung:
    """The voxels of one lung as lists of equal length; places in mm from the picture's upper left and from behind."""

    rows: np.ndarray  # voxel indices
    columns: np.ndarray
    depths: np.ndarray
    down: np.ndarray  # mm
    across: np.ndarray
    forward: np.ndarray
    pixel: np.ndarray  # flat index of the ray
    attenuation: np.ndarray  # 1/mm
    lobe: np.ndarray
    lateral: np.ndarray  # mm to the lung's outer edge in the same row
    posterior: np.ndarray  # mm to the lung's back along the same ray
    mask: np.ndarray  # (rows, columns, depths) bool
    top: float  # mm
    bottom: float

    def subset(self, chosen: np.ndarray) -> "Lung":
        """Only some voxels; the mask stays whole."""
        lists = {f.name: getattr(self, f.name) for f in fields(self)}
        return Lung(**{k: v[chosen] if isinstance(v, np.ndarray) and v.ndim == 1 else v for k, v in lists.items()})


@dataclass(frozen=True)
class View:
    """One posed patient without findings.

    Attributes:
        integrals: attenuation summed along each ray, (N, N), no unit.
        labels: (N, N, depths) uint8, of the posed volume.
        lungs: by side, "left" and "right" of the patient.
        pixel_mm, depth_mm: size of a voxel of the posed volume.
    """

    pose: Pose
    integrals: np.ndarray
    labels: np.ndarray
    lungs: dict[str, Lung]
    heart: np.ndarray
    places: dict[int, np.ndarray]  # voxels (n, 3) of the organs that devices lie in
    pixel_mm: float
    depth_mm: float

    @property
    def side(self) -> int:
        return len(self.integrals)

    def project(self, lung: Lung, change: np.ndarray) -> np.ndarray:
        """What a change of attenuation in a lung's voxels adds to the line integrals; (n,) -> (N, N)."""
        summed = np.bincount(lung.pixel, weights=change, minlength=self.side**2)
        return summed.reshape(self.side, self.side) * self.depth_mm


def cast(chest: Chest, pose: Pose, side: int = 128, depths: int = 64) -> View:
    """Pose a chest and sum its attenuation along the rays: the slow part (about half a second), once per pose."""
    grid = _sampling_grid(chest, pose, side, depths)
    attenuation = _sample(chest.attenuation, grid, "bilinear").numpy()
    labels = _sample(chest.labels.astype(np.float32), grid, "nearest").numpy().astype(np.uint8)
    pixel_mm, depth_mm = pose.field_mm / side, DEPTH_MM / depths
    is_lung = np.isin(labels, LEFT_LOBES + RIGHT_LOBES)
    aerated = is_lung & (attenuation < 0.4 * WATER)  # vessels inside keep their density
    attenuation[aerated] *= pose.lung_density
    integrals = attenuation.sum(2) * depth_mm
    outline = ndimage.gaussian_filter((integrals > 0.5).astype(np.float32), 3 * side / 128)
    bone = np.where(np.isin(labels, BONES), attenuation - WATER, 0).clip(0).sum(2) * depth_mm
    integrals = integrals + pose.fat_mm * WATER * outline + (pose.bone_density - 1) * bone
    lungs = {
        name: _lung(name, lobes, labels, attenuation, pixel_mm, depth_mm)
        for name, lobes in (("left", LEFT_LOBES), ("right", RIGHT_LOBES))
    }
    heart = np.isin(labels, HEART_PARTS)
    places = {label: np.argwhere(labels == label) for label in _PLACES}
    return View(pose, integrals, labels, lungs, heart, places, pixel_mm, depth_mm)


def _sample(volume: np.ndarray, grid: torch.Tensor, mode: str) -> torch.Tensor:
    given = torch.from_numpy(volume)[None, None]
    return F.grid_sample(given, grid, mode, padding_mode="border", align_corners=False)[0, 0]


def _sampling_grid(chest: Chest, pose: Pose, side: int, depths: int) -> torch.Tensor:
    """Where each voxel of the posed volume lies in the CT, in [-1, 1]; (1, side, side, depths, 3: x, y, z)."""
    plane = (torch.arange(side) + 0.5) * (pose.field_mm / side) - pose.field_mm / 2
    along = (torch.arange(depths) + 0.5) * (DEPTH_MM / depths) - DEPTH_MM / 2
    down, across, forward = torch.meshgrid(plane, plane, along, indexing="ij")
    # Rays diverge: what is nearer to the tube is magnified, the patient's middle keeps its size.
    distance = 1100.0 if pose.is_ap else 1800.0
    to_detector = DEPTH_MM / 2 + (forward if pose.is_ap else -forward)
    spread = (1 - to_detector / distance) / (1 - DEPTH_MM / 2 / distance)
    x, y, z = across * spread, forward, -down * spread
    x, y = _turn(x, y, pose.yaw)
    y, z = _turn(y, z, pose.pitch)
    x, z = _turn(x, z, pose.roll)
    random = np.random.default_rng(pose.deformation_seed)
    control = random.normal(0, pose.deformation_mm, (1, 3, *_DEFORMATION_GRID)).astype(np.float32)
    moved = F.interpolate(torch.from_numpy(control), (side, side, depths), mode="trilinear", align_corners=True)[0]
    centre_z, centre_y, centre_x = chest.centre_mm
    x = centre_x + x / pose.scale_x + pose.shift_x_mm + moved[0]
    y = centre_y + y / pose.scale_y + 0.5 * moved[1]
    z = centre_z + z / pose.scale_z + pose.shift_z_mm + moved[2]
    below_apex = ((chest.apex_mm - z) / (chest.apex_mm - chest.base_mm)).clamp(0, 1)
    z = z + pose.inflation_mm * below_apex**2
    size_z, size_y, size_x = chest.extent_mm
    return torch.stack([x / size_x * 2 - 1, y / size_y * 2 - 1, z / size_z * 2 - 1], -1)[None]


def _turn(a: torch.Tensor, b: torch.Tensor, degrees: float) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return cos * a - sin * b, sin * a + cos * b


def _lung(
    side: str, lobes: tuple[int, ...], labels: np.ndarray, attenuation: np.ndarray, pixel_mm: float, depth_mm: float
) -> Lung:
    mask = np.isin(labels, lobes)
    flat = np.flatnonzero(mask)
    rows, columns, depths = np.unravel_index(flat, mask.shape)
    n = mask.shape[0]
    edge = np.full(n, -1) if side == "left" else np.full(n, 10**6)
    (np.maximum if side == "left" else np.minimum).at(edge, rows, columns)
    back = np.full((n, n), 10**6)
    np.minimum.at(back, (rows, columns), depths)
    top, bottom = np.percentile(rows, (0.2, 99.8)) * pixel_mm if len(rows) else (0.0, 0.0)
    return Lung(
        rows=rows,
        columns=columns,
        depths=depths,
        down=rows * pixel_mm,
        across=columns * pixel_mm,
        forward=depths * depth_mm,
        pixel=rows * n + columns,
        attenuation=attenuation.reshape(-1)[flat],
        lobe=labels.reshape(-1)[flat],
        lateral=np.abs(columns - edge[rows]) * pixel_mm,
        posterior=(depths - back[rows, columns]) * depth_mm,
        mask=mask,
        top=float(top),
        bottom=float(bottom),
    )
