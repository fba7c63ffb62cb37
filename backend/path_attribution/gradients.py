"""Methods that look at the gradient near the image: saliency, input times gradient, SmoothGrad."""

from collections.abc import Iterator

import torch
from torch import Tensor

from backend.path_attribution.integrate import gradient_of, integrate, steps_that_fit
from backend.path_attribution.problem import Explanation, Problem


def saliency(problem: Problem) -> Explanation:
    """The gradient of the score at the image, (B, C, H, W), in logits per unit of intensity.

    Differs from the paper: the sign is kept, and channels are not reduced to their maximum.
    Source: Simonyan et al., arXiv:1312.6034.
    """
    return Explanation(_gradient_at_images(problem, "saliency"))


def input_x_gradient(problem: Problem) -> Explanation:
    """Gradient times way from the baseline, (B, C, H, W), in logits: the first-order guess of the change.

    Differs from the paper in that the baseline may be other than black.
    Source: Shrikumar et al., arXiv:1605.01713.
    """
    gradient = _gradient_at_images(problem, "input × gradient")
    return Explanation(gradient * (problem.images - problem.baselines))


def smoothgrad(problem: Problem, *, samples: int = 50, noise: float = 0.15) -> Explanation:
    """The mean gradient over noisy copies of the image, (B, C, H, W), in logits per unit of intensity.

    Args:
        samples: noisy copies of each image; all images of the batch get the same noise, so that an image alone has
            the same values.
        noise: standard deviation, as a fraction of the image's own range (its maximum minus its minimum).
    Source: Smilkov et al., arXiv:1706.03825. Differs from its figures: no absolute values.
    """
    images = problem.images
    spread = noise * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))

    done = 0

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        nonlocal done
        for part in steps_that_fit(problem, samples, "noisy copies"):
            done = part.stop
            units = [unit_noise(images, problem.generator) for _ in range(part.start, part.stop)]
            yield images + spread * torch.stack(units)[:, None], images.new_tensor(1 / samples)

    def show_mean(total: Tensor) -> None:
        problem.step(done, samples, "noisy copies", total * (samples / done))

    return Explanation(integrate(gradient_of(problem), pieces(), show_mean))


def unit_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise for one copy, (C, H, W); the same in every precision and on every device.

    One draw per copy: a draw for several copies at once would depend on how many they are.
    """
    return torch.randn(images.shape[1:], generator=generator).to(images)


def _gradient_at_images(problem: Problem, message: str) -> Tensor:
    problem.step(0, 1, message)
    gradient = problem.score_and_gradient(problem.images, problem.targets)[1]
    problem.step(1, 1, message)
    return gradient
