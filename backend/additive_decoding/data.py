"""Scenes that a user has: dSprites as one .npz file, CLEVR-like folders of pictures with a scenes file.

Both become `LatentImages`: images in [0, 1] and, where they are known, latents in blocks, each stretched to [0, 1].
Nothing is unpickled: arrays of objects are refused.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.errors import BadInput, NotAvailable
from backend.limits import LIMITS

MAX_SCENES = 100_000
DSPRITES_FACTORS = ("shape", "scale", "orientation", "x", "y")  # the published file's, but for colour
CLEVR_FACTORS = ("x", "y", "z")  # of each object, in scene coordinates


@dataclass(frozen=True, eq=False)
class LatentImages:
    """Images of a user's own data, with what is known of their latents."""

    images: Tensor  # (N, 3, side, side) in [0, 1]
    latents: Tensor | None  # (N, d) in [0, 1]; None: not known
    names: tuple[str, ...]  # of the latents
    blocks: tuple[tuple[int, ...], ...]
    digest: str  # sha256 of what was read

    def __len__(self) -> int:
        return len(self.images)


def load_dsprites(path: str | Path, n: int = 2000, seed: int = 0, sha256: str = "") -> LatentImages:
    """A random part of dSprites: white sprites on black, 64 x 64, in shape, scale, orientation and place.

    Args:
        path: the published .npz file, or one of the same layout: imgs (N, H, W) of 0 and 1, latents_values (N, 6 or 5).
        n: how many images are drawn, without putting back.
        sha256: what the file's digest must be; empty: anything.
    Raises: NotAvailable: no such file; BadInput: another layout, another digest, or n out of range.
    """
    data = _read(Path(path), sha256)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            images, values = file["imgs"], file["latents_values"]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile):
        raise BadInput("the file is not dSprites: expected an .npz with imgs and latents_values", "path") from None
    if images.ndim != 3 or values.ndim != 2 or len(images) != len(values) or values.shape[1] not in (5, 6):
        raise BadInput(
            f"dSprites has imgs (N, H, W) and latents_values (N, 6); the file has {images.shape} and {values.shape}",
            "path",
        )
    if images.size == 0 or images.min() < 0 or images.max() > 1 or not np.isfinite(values).all():
        raise BadInput("dSprites has pixels of 0 and 1 and finite latents", "path")
    index = _draw(len(images), n, seed)
    chosen = torch.from_numpy(np.ascontiguousarray(images[index])).float()
    return LatentImages(
        images=chosen[:, None].expand(-1, 3, -1, -1).contiguous(),
        latents=_stretch(torch.from_numpy(values[index, -5:]).float()),  # colour is always white
        names=DSPRITES_FACTORS,
        blocks=((0, 1, 2), (3, 4)),  # what it is, where it is
        digest=hashlib.sha256(data).hexdigest(),
    )


def load_clevr(folder: str | Path, side: int = 64, n: int = 2000, seed: int = 0) -> LatentImages:
    """Pictures of a CLEVR-like folder, with the places of their objects where a scenes file tells them.

    The folder holds pictures and, optionally, one `*scenes*.json` in CLEVR's layout: {"scenes": [{"image_filename",
    "objects": [{"3d_coords": [x, y, z]}]}]}. Latents are known if all its scenes have equally many objects.

    Raises: NotAvailable: no such folder; BadInput: no picture in it, or a file that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotAvailable(f"there is no folder {folder.name}", "path")
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise BadInput("the folder holds no picture (PNG or JPEG)", "path")
    if not 8 <= side <= 256:
        raise BadInput(f"side is {side}; expected 8..256 pixels", "side")
    scenes = _read_scenes(folder)
    if scenes:
        paths = [path for path in paths if path.name in scenes]
        if not paths:
            raise BadInput("no picture of the folder is named in its scenes file", "path")
    chosen = [paths[i] for i in _draw(len(paths), n, seed)]
    total = hashlib.sha256()
    images = []
    for path in chosen:
        data = path.read_bytes()
        total.update(data)
        images.append(_picture(path.name, data, side))
    latents = _places([scenes[path.name] for path in chosen]) if scenes else None
    n_objects = 0 if latents is None else latents.shape[1] // len(CLEVR_FACTORS)
    size = len(CLEVR_FACTORS)
    return LatentImages(
        images=torch.stack(images),
        latents=latents,
        names=tuple(f"{name} of {i + 1}" for i in range(n_objects) for name in CLEVR_FACTORS),
        blocks=tuple(tuple(range(i * size, (i + 1) * size)) for i in range(n_objects)),
        digest=total.hexdigest(),
    )


def _read(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError:
        raise NotAvailable(f"there is no file {path.name}, or it cannot be read", "path") from None
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256:
        raise BadInput(f"{path.name} has another sha256 ({found[:12]}) than expected ({sha256[:12]})", "path")
    return data


def _draw(total: int, n: int, seed: int) -> np.ndarray:
    """Which items are taken, ascending; the same for the same seed."""
    if not 1 <= n <= MAX_SCENES:
        raise BadInput(f"n is {n}; expected 1..{MAX_SCENES}", "n")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[: min(n, total)]
    return np.sort(order.numpy())


def _read_scenes(folder: Path) -> dict[str, list[list[float]]]:
    """The places of the objects of each picture, by its file name; empty if there is no scenes file."""
    files = sorted(folder.rglob("*scenes*.json"))
    if not files:
        return {}
    try:
        scenes = json.loads(files[0].read_text(encoding="utf-8"))["scenes"]
        return {
            scene["image_filename"]: [[float(v) for v in item["3d_coords"]] for item in scene["objects"]]
            for scene in scenes
        }
    except (OSError, ValueError, KeyError, TypeError):
        raise BadInput(f"{files[0].name} is not a scenes file in CLEVR's layout", "path") from None


def _picture(name: str, data: bytes, side: int) -> Tensor:
    """The middle square of a picture, at side x side pixels; (3, side, side) in [0, 1]."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > LIMITS.max_image_pixels:
                raise BadInput(f"{name} has {opened.width} x {opened.height} pixels; that is too many", "path")
            short = min(opened.size)
            left, top = (opened.width - short) // 2, (opened.height - short) // 2
            square = opened.convert("RGB").crop((left, top, left + short, top + short))
    except OSError:
        raise BadInput(f"{name} is not a picture that can be read", "path") from None
    pixels = np.asarray(square.resize((side, side), Image.Resampling.BOX), np.float32) / 255.0
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _places(objects: list[list[list[float]]]) -> Tensor | None:
    """(N, objects x 3), each latent stretched to [0, 1]; None if the scenes have different numbers of objects."""
    if len({len(scene) for scene in objects}) != 1 or not objects[0]:
        return None
    return _stretch(torch.tensor(objects).flatten(1))


def _stretch(latents: Tensor) -> Tensor:
    low, high = latents.amin(0), latents.amax(0)
    return (latents - low) / (high - low).clamp_min(1e-12)
