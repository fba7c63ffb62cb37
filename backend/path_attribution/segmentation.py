"""Regions of an image by its colours alone: SLIC superpixels for LIME, Felzenszwalb's segments for XRAI."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array, vstack
from skimage.morphology import disk
from skimage.segmentation import felzenszwalb, slic
from skimage.transform import resize

# The authors' choice (package `saliency`), made for 224 x 224 pixels with values in [-1, 1].
XRAI_SCALES = (50, 100, 150, 250, 500, 1200)
_XRAI_SIGMA = 0.8
_XRAI_MIN_SIZE = 150  # pixels at 224 x 224
_XRAI_SIDE = 224
_XRAI_DILATION = 5  # pixels
_SMALL_PIXELS = 32 * 32


def superpixels(image: np.ndarray, segments: int) -> np.ndarray:
    """SLIC superpixels.

    Args:
        image: (H, W, C), any range; it is stretched to [0, 1] first.
        segments: how many are asked for; SLIC gives about as many.
    Returns: labels (H, W), int64, 0..K - 1 with none left out.
    Source: Achanta et al., SLIC, TPAMI 2012 (scikit-image). Compactness weighs place against colour: 10 suits CIELAB
        distances of RGB pictures, 0.1 the distances of greys in [0, 1].
    """
    stretched = _stretch(image, 0.0, 1.0)
    compactness = 0.1 if image.shape[2] == 1 else 10.0
    labels = slic(stretched, n_segments=segments, compactness=compactness, start_label=0, channel_axis=2)
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def xrai_regions(image: np.ndarray) -> csr_array:
    """The overlapping regions that XRAI ranks: segments at six scales, each widened by five pixels.

    Args:
        image: (H, W, C), any range; it is stretched to [-1, 1] and segmented at 224 x 224.
    Returns: membership (regions, H * W), boolean, in the authors' order (scale by scale, label by label).
    Source: Kapishnikov et al., XRAI, arXiv:1906.02825; numbers as in the authors' package.
    """
    image = np.ascontiguousarray(image, dtype=np.float64)
    known = _small_known if image.shape[0] * image.shape[1] <= _SMALL_PIXELS else _known
    return known(image.tobytes(), image.shape)


def _segment(data: bytes, full_shape: tuple[int, int, int]) -> csr_array:
    """`xrai_regions` of a picture that was not seen before."""
    image, shape = np.frombuffer(data).reshape(full_shape), full_shape[:2]
    if image.max() == image.min():  # nothing to tell apart, and the authors' stretch would divide by zero
        return csr_array(np.ones((1, shape[0] * shape[1]), dtype=bool))
    at_224 = resize(
        _stretch(image, -1.0, 1.0),
        (_XRAI_SIDE, _XRAI_SIDE),
        order=3,
        mode="constant",
        preserve_range=True,
        anti_aliasing=True,
    )
    smooth = gaussian_filter(at_224, sigma=(_XRAI_SIGMA, _XRAI_SIGMA, 0))  # once for all scales

    def regions(scale: float) -> csr_array:
        labels = felzenszwalb(smooth, scale=scale, sigma=0, min_size=_XRAI_MIN_SIZE)
        labels = resize(labels, shape, order=0, preserve_range=True, mode="constant", anti_aliasing=False).astype(int)
        return _widen(labels - labels.min(), _disk_offsets(_XRAI_DILATION))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the greedy merge lets other threads work
        return vstack(list(pool.map(regions, XRAI_SCALES)), format="csr")


# Regions depend on the picture alone: another target, model or training seed finds them here. Those of a small
# picture take some 50 KB, those of a photograph some 3 MB.
_known, _small_known = lru_cache(maxsize=8)(_segment), lru_cache(maxsize=1024)(_segment)


def forget_regions() -> None:
    """Segment every picture anew from now on."""
    _known.cache_clear()
    _small_known.cache_clear()


def _stretch(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Bring the image's own range to low..high; a constant image becomes `low` everywhere."""
    smallest, largest = image.min(), image.max()
    unit = (image - smallest) / (largest - smallest) if largest > smallest else np.zeros_like(image)
    return unit * (high - low) + low


def _disk_offsets(radius: int) -> np.ndarray:
    """(K, 2) offsets of the pixels within a radius of the centre."""
    return np.argwhere(disk(radius)) - radius


def _widen(labels: np.ndarray, offsets: np.ndarray) -> csr_array:
    """Every label's pixels, dilated by the offsets; (H, W) -> membership (labels, H * W), boolean.

    Only pixels at a border can reach another label's pixels, so only they are spread.
    """
    (height, width), n_labels = labels.shape, int(labels.max()) + 1
    margin = int(np.abs(offsets).max(initial=0))
    tall, wide = height + 2 * margin, width + 2 * margin
    y, x = np.indices(labels.shape)
    place = (labels * tall + y + margin) * wide + x + margin  # of a pixel in its own label's mask
    is_in = np.zeros(n_labels * tall * wide, dtype=bool)
    is_in[place] = True
    spread = place[_is_border(labels)][:, None] + (offsets @ np.array([wide, 1]))
    is_in[spread] = True
    inner = is_in.reshape(n_labels, tall, wide)[:, margin : margin + height, margin : margin + width]
    pixels = np.flatnonzero(inner)
    starts = np.searchsorted(pixels, np.arange(n_labels + 1) * labels.size)
    return csr_array(
        (np.ones(len(pixels), dtype=bool), pixels % labels.size, starts), shape=(n_labels, labels.size), dtype=bool
    )


def _is_border(labels: np.ndarray) -> np.ndarray:
    """Which pixels have a neighbour, left, right, above or below, of another label; (H, W) -> (H, W)."""
    is_border = np.zeros(labels.shape, dtype=bool)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    is_border[1:] |= down
    is_border[:-1] |= down
    is_border[:, 1:] |= across
    is_border[:, :-1] |= across
    return is_border
