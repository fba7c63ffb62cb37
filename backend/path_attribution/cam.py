"""CAM, Grad-CAM and Grad-CAM++: a weighted sum of the feature maps of one layer, enlarged to the image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.errors import BadInput
from backend.models.layers import SpatialLayer, gap_head, spatial_layers
from backend.models.surgery import frozen, with_output
from backend.path_attribution.problem import Explanation, Problem, target_scores

_EPS = 1e-6  # of the Grad-CAM++ weights, as in the package pytorch-grad-cam

Weigh = Callable[[Tensor, Tensor], Tensor]  # maps, gradients, both (N, K, h, w) -> weights (N, K)


def cam(problem: Problem) -> Explanation:
    """Weight the last feature maps by the classifier's weights for the target.

    Without the classifier's bias, the mean of a map before its enlargement is the logit.

    Returns: attribution (B, 1, H, W) in logits per cell, signed.
    Raises: BadInput: the model's last layer is not linear on globally pooled feature maps.
    Source: Zhou et al., Learning Deep Features for Discriminative Localization, arXiv:1512.04150, Eq. 2.
    """
    shape = tuple(problem.images.shape[1:])
    head = gap_head(problem.model, shape)
    if head is None:
        raise BadInput(
            "CAM needs a last layer that is linear on globally averaged feature maps, which this model does not have; "
            "use Grad-CAM",
            "method",
        )
    layer = spatial_layers(problem.model, shape)[0]
    weights = head.to(problem.images)[problem.targets]  # (B, K)

    def small_map(images: Tensor, weight: Tensor) -> Tensor:
        return _weighted_sum(_maps(problem, layer, images), weight)

    return _explain(problem, layer, small_map, weights, "class activation map")


def grad_cam(problem: Problem, depth: int = 0) -> Explanation:
    """Weight feature maps by their mean gradient, and keep what speaks for the target.

    Args:
        depth: which spatial layer, 0 for the last one.
    Returns: attribution (B, 1, H, W), not negative, as it is: in logits per cell, not stretched to [0, 1].
    Raises: BadInput: the model has no such layer.
    Source: Selvaraju et al., Grad-CAM, arXiv:1610.02391, Eq. 1 and 2.
    """
    explanation, _ = _gradient_cam(problem, depth, mean_gradient, "Grad-CAM")
    return explanation


def grad_cam_plus(problem: Problem, depth: int = 0) -> Explanation:
    """Grad-CAM with weights that count several instances of the target.

    Args, Raises: as `grad_cam`.
    Returns: attribution (B, 1, H, W), not negative, not stretched to [0, 1].
    Source: Chattopadhay et al., Grad-CAM++, arXiv:1710.11063, Eq. 19, which takes the score for an exponential of the
        logit, so that first derivatives suffice; the stabiliser is that of the package pytorch-grad-cam.
    """
    explanation, is_signed = _gradient_cam(problem, depth, weights_plus_plus, "Grad-CAM++")
    if is_signed:
        explanation.notes.append(
            "Grad-CAM++'s weights are made for feature maps that are never negative; those of this layer are signed"
        )
    return explanation


# ----------------------------------------------------------------- weights
def mean_gradient(maps: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM's weights: (N, K, h, w) -> (N, K)."""
    return gradients.mean(dim=(2, 3))


def weights_plus_plus(maps: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++'s weights: w_k = sum_ij alpha_ij relu(g_ij), alpha = g^2 / (2 g^2 + sum_ab A_ab g^3).

    A map whose gradient is the same g > 0 in all its n cells, and whose values sum to S, gets n g / (2 + S g):

    >>> maps, gradients = torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 3.0)
    >>> weights_plus_plus(maps, gradients)                    # 4 * 3 / (2 + 2 * 3)
    tensor([[1.5000]])
    """
    square = gradients**2
    alphas = square / (2 * square + maps.sum(dim=(2, 3), keepdim=True) * square * gradients + _EPS)
    return (alphas * gradients.relu()).sum(dim=(2, 3))


# ----------------------------------------------------------------- the common part
def _gradient_cam(problem: Problem, depth: int, weigh: Weigh, message: str) -> tuple[Explanation, bool]:
    """The explanation, and whether the layer's maps have negative values."""
    layers = spatial_layers(problem.model, tuple(problem.images.shape[1:]), problem.model.cam_layer)
    if not layers:
        raise BadInput(f"{message} needs a layer with a spatial output, which this model does not show", "method")
    if depth >= len(layers):
        raise BadInput(f"depth is {depth}; this model has {len(layers)} spatial layers: 0..{len(layers) - 1}", "depth")
    layer, is_signed = layers[depth], False

    def small_map(images: Tensor, targets: Tensor) -> Tensor:
        nonlocal is_signed
        maps, gradients = _maps_and_gradients(problem, layer, images, targets)
        is_signed |= bool((maps < 0).any())
        return _weighted_sum(maps, weigh(maps, gradients)).relu()

    explanation = _explain(problem, layer, small_map, problem.targets, message)
    if not explanation.attribution.flatten(1).any(dim=1).all():
        explanation.notes.append("nothing in this layer speaks for the class on the whole: the map is empty")
    return explanation, is_signed


def _maps_and_gradients(
    problem: Problem, layer: SpatialLayer, images: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """The layer's maps and the gradient of the targets' logits at them, both (N, K, h, w).

    The layer's output is cut off from what came before: only what follows is differentiated.
    """
    caught: list[Tensor] = []

    def cut(output: Tensor) -> Tensor:
        caught.append(output.detach().requires_grad_(True))
        return caught[-1]

    with frozen(problem.model), torch.enable_grad(), with_output(layer.module, cut):
        scores = target_scores(problem.model(images), targets)
    (gradient,) = torch.autograd.grad(scores.sum(), caught[-1])
    return layer.maps(caught[-1].detach()), layer.maps(gradient)


def _maps(problem: Problem, layer: SpatialLayer, images: Tensor) -> Tensor:
    """The layer's maps alone, (N, K, h, w)."""
    caught: list[Tensor] = []

    def keep(output: Tensor) -> Tensor:
        caught.append(output)
        return output

    with torch.no_grad(), with_output(layer.module, keep):
        problem.model(images)
    return layer.maps(caught[-1])


def _weighted_sum(maps: Tensor, weights: Tensor) -> Tensor:
    """(N, K, h, w), (N, K) -> (N, 1, h, w)."""
    return torch.einsum("nkhw,nk->nhw", maps, weights)[:, None]


def _explain(
    problem: Problem, layer: SpatialLayer, small_map: Callable[..., Tensor], per_image: Tensor, message: str
) -> Explanation:
    """Compute the small maps chunk by chunk, enlarge them to the images, and say where they come from."""
    done, total = 0, len(problem.images)
    problem.step(done, total, message)

    def chunk(images: Tensor, extra: Tensor) -> tuple[Tensor]:
        nonlocal done
        small = small_map(images, extra)
        done += len(images)
        problem.step(done, total, message)
        return (F.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False),)

    (attribution,) = problem.chunks.map(chunk, problem.images, per_image)
    return Explanation(attribution, notes=[_where(layer)])


def _where(layer: SpatialLayer) -> str:
    height, width = layer.grid
    tokens = "" if layer.prefix is None else ", the tokens of the patches"
    return f"read from layer {layer.name}, {height} x {width} cells{tokens}"
