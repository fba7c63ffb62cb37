"""Regions of an image by its colours alone: SLIC superpixels for LIME, Felzenszwalb's segments for XRAI."""

from functools import lru_cache

import numpy as np
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
    offsets, scales = _disk_offsets(_XRAI_DILATION), []
    for scale in XRAI_SCALES:
        labels = felzenszwalb(at_224, scale=scale, sigma=_XRAI_SIGMA, min_size=_XRAI_MIN_SIZE)
        labels = resize(labels, shape, order=0, preserve_range=True, mode="constant", anti_aliasing=False).astype(int)
        masks = _widen(labels - labels.min(), offsets)
        scales.append(csr_array(masks.reshape(len(masks), -1)))
    return vstack(scales, format="csr")


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


def _widen(labels: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Every label's mask, dilated by the offsets; (H, W) -> (labels, H, W), boolean.

    Only pixels at a border can reach another label's pixels, so only they are spread.
    """
    height, width = labels.shape
    margin = int(np.abs(offsets).max(initial=0))
    masks = np.zeros((labels.max() + 1, height + 2 * margin, width + 2 * margin), dtype=bool)
    rows, columns = np.indices(labels.shape)
    masks[labels, rows + margin, columns + margin] = True
    padded = np.pad(labels, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    y, x = np.nonzero(np.any([n != labels for n in neighbours], axis=0))
    dy, dx = offsets.T
    masks[labels[y, x][:, None], y[:, None] + margin + dy, x[:, None] + margin + dx] = True
    return masks[:, margin : margin + height, margin : margin + width]
