"""A classifier as the methods see it: images in [0, 1] in, logits out. Normalisation lives inside."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from backend.catalog import ModelSpec
from backend.errors import BadInput, ModelFault
from backend.runtime import HasBytes


class Classifier(nn.Module):
    """A network behind its own normalisation.

    Images (N, 3 or 1, H, W) in [0, 1], RGB, are stretched to the model's value range, reordered to its channel
    order and normalised by mean and std. The baseline "black" is 0 in the space of the images.
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        channels: str = "RGB",
        value_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = channels
        self.cam_layer = ""  # the row's wish for CAM-like methods; empty: the last spatial layer
        low, high = value_range
        # x -> (low + x (high - low) - mean) / std, as one multiplication and one addition
        scale = torch.tensor([(high - low) / s for s in std])
        shift = torch.tensor([(low - m) / s for m, s in zip(mean, std, strict=True)])
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.channels == "BGR":
            images = images.flip(1)
        return self.network(images * self.scale + self.shift)


class LoadedClassifier(HasBytes):
    """A classifier on its device, with the row it came from and the digest of its weights."""

    def __init__(self, spec: ModelSpec, module: Classifier, digest: str) -> None:
        self.spec = spec
        self.module = module.eval().requires_grad_(False)
        self.module.cam_layer = dict(spec.layers).get("cam", "")
        self.digest = digest
        self.nbytes = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))

    def check_target(self, target: int | None, logits: Tensor) -> int:
        """The class to explain: the given one, or the top class of (classes,) logits if None.

        Raises: BadInput: out of range; ModelFault: the model returned no usable logits.
        """
        if not torch.isfinite(logits).all():
            raise ModelFault("the model returned values that are not numbers for this image", "model")
        if target is None:
            return int(logits.argmax())
        if not 0 <= target < len(logits):
            raise BadInput(f"target {target}; classes are 0..{len(logits) - 1}", "target")
        return target

    def with_module(self, module: nn.Module) -> "LoadedClassifier":
        """The same row with another module of the same architecture (a randomised copy)."""
        return LoadedClassifier(self.spec, module, self.digest)

    def label(self, target: int) -> str:
        labels = self.spec.labels
        return labels[target] if target < len(labels) else f"class {target}"
