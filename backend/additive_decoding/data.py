"""Scenes that a user has: dSprites as one .npz file, CLEVR-like folders of pictures with a scenes file.

Both become `LatentImages`: pictures and, where they are known, latents in blocks, each stretched to [0, 1].
Nothing is unpickled: arrays of objects are refused.
"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.additive_decoding import own_data
from backend.additive_decoding.own_data import OwnPictures
from backend.errors import BadInput, NotAvailable
from backend.limits import LIMITS

MAX_SCENES = 100_000


@dataclass(frozen=True, eq=False)
class LatentImages:
    """Images of a user's own data, with what is known of their latents."""

    pixels: Tensor  # (N, 3, side, side) uint8
    latents: Tensor | None  # (N, d) in [0, 1]; None: not known
    names: tuple[str, ...]  # of the latents
    blocks: tuple[tuple[int, ...], ...]
    digest: str  # sha256 of what was read

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def images(self) -> Tensor:
        """(N, 3, side, side) in [0, 1]; four times the memory."""
        return self.pixels.float() / 255


def load_dsprites(path: str | Path, n: int = 2000, seed: int = 0, sha256: str = "") -> LatentImages:
    """A random part of dSprites: white sprites on black, 64 x 64, in shape, scale, orientation and place.

    Args:
        path: the published .npz file, or one of the same layout: imgs (N, H, W) of 0 and 1, latents_values (N, 6 or 5).
        n: how many images are drawn, without putting back.
        sha256: what the file's digest must be; empty: anything.
    Raises: NotAvailable: no such file; BadInput: another layout, another digest, or n out of range.
    """
    if not 1 <= n <= MAX_SCENES:
        raise BadInput(f"n is {n}; expected 1..{MAX_SCENES}", "n")
    return to_latent_images(own_data.read_sprites(_read(Path(path), sha256), n, seed))


def to_latent_images(own: OwnPictures) -> LatentImages:
    """Pictures as tensors, their factors stretched to [0, 1]."""
    ends = [sum(own.sizes[: k + 1]) for k in range(len(own.sizes))]
    return LatentImages(
        pixels=torch.from_numpy(own.pixels).permute(0, 3, 1, 2).contiguous(),
        latents=None if own.factors is None else _stretch(torch.from_numpy(own.factors)),
        names=own.names,
        blocks=tuple(tuple(range(end - size, end)) for end, size in zip(ends, own.sizes, strict=True)),
        digest=own.digest,
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
    places = own_data.stack_places([scenes[path.name] for path in chosen]) if scenes else (None, (), ())
    return to_latent_images(OwnPictures(np.stack(images), *places, total.hexdigest()))


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
    return own_data.draw_lots(total, n, seed)


def _read_scenes(folder: Path) -> dict[str, list[list[float]]]:
    """The places of the objects of each picture, by its file name; empty if there is no scenes file."""
    files = sorted(folder.rglob("*scenes*.json"))
    if not files:
        return {}
    try:
        return own_data.parse_scenes(files[0].read_bytes(), files[0].name)
    except OSError:
        raise BadInput(f"{files[0].name} cannot be read", "path") from None


def _picture(name: str, data: bytes, side: int) -> np.ndarray:
    """The middle square of a picture, (side, side, 3) uint8."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > LIMITS.max_image_pixels:
                raise BadInput(f"{name} has {opened.width} x {opened.height} pixels; that is too many", "path")
            short = min(opened.size)
            left, top = (opened.width - short) // 2, (opened.height - short) // 2
            square = opened.convert("RGB").crop((left, top, left + short, top + short))
    except OSError:
        raise BadInput(f"{name} is not a picture that can be read", "path") from None
    return np.asarray(square.resize((side, side), Image.Resampling.BOX))


def _stretch(latents: Tensor) -> Tensor:
    low, high = latents.amin(0), latents.amax(0)
    return (latents - low) / (high - low).clamp_min(1e-12)
