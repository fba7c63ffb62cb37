"""Images and texts with parts left out: superpixels or words, shown or hidden. KernelSHAP and RISE score them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.image_text.problem import Problem
from backend.path_attribution.segmentation import superpixels


@dataclass(frozen=True)
class Parts:
    """The parts of an input, how to leave some out, and how to spread their values over the input.

    Attributes:
        n: number of parts.
        show: which parts stay, (N, n) of 0 and 1 -> altered inputs (N, ...).
        spread: values of the parts (B, n) -> maps; a part's value is shared evenly by its pixels or sub-tokens.
    """

    n: int
    show: Callable[[Tensor], Tensor]
    spread: Callable[[Tensor], Tensor]


def words_of(problem: Problem) -> Parts:
    """A text's words; a hidden word's sub-tokens become the blank token, so that the others keep their places."""
    ids = problem.inputs
    word_of = torch.full((ids.shape[1],), -1)
    sizes = torch.zeros(len(problem.words))
    for number, (first, last) in enumerate(problem.words):
        word_of[first:last], sizes[number] = number, last - first
    is_word, word_of, sizes = (t.to(ids.device) for t in (word_of >= 0, word_of.clamp(min=0), sizes))

    def show(shown: Tensor) -> Tensor:
        stays = (shown[:, word_of] > 0.5) | ~is_word
        return torch.where(stays, ids, torch.full_like(ids, problem.blank_id))

    def spread(values: Tensor) -> Tensor:
        tokens = (values / sizes.to(values))[:, word_of] * is_word
        return tokens[:, : problem.tower.prefix(ids, 0).shape[1]]

    return Parts(len(problem.words), show, spread)


def superpixels_of(problem: Problem, segments: int, behind: str = "black") -> Parts:
    """An image's SLIC superpixels; a hidden one is black, or has the image's mean colour."""
    image = problem.inputs  # (1, C, H, W)
    labels = torch.from_numpy(superpixels(image[0].permute(1, 2, 0).cpu().double().numpy(), segments)).to(image.device)
    sizes = torch.bincount(labels.flatten())
    background = background_of(image, behind)

    def show(shown: Tensor) -> Tensor:
        mask = shown.to(image)[:, labels][:, None]
        return background + mask * (image - background)

    return Parts(len(sizes), show, lambda values: (values / sizes.to(values))[:, labels])


def background_of(image: Tensor, behind: str) -> Tensor:
    """What is seen where the image is hidden, (1, C, H, W)."""
    return image.mean((2, 3), keepdim=True).expand_as(image) if behind == "mean" else torch.zeros_like(image)
