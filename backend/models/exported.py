"""Programs exported by `torch.export` (`pt2` files), from a local path that the user wrote into models.toml.

`torch.export.load` may unpickle parts of the file, which can run code: such files are trusted like a script of
one's own. That is why an upload is never read here.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from backend.errors import BadInput


class ExportedNetwork(nn.Module):
    """An exported program as a network. It has one mode, the one that it was exported in."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return self.program(x)

    def train(self, mode: bool = True) -> "ExportedNetwork":
        """Only notes the mode: exported programs refuse to change theirs."""
        self.training = mode
        return self


def load_exported(path: str | Path, device: torch.device, input_shape: tuple[int, int, int]) -> ExportedNetwork:
    """Read a program and check that it takes any number of images of this shape.

    Args: input_shape: (C, H, W).
    Raises: BadInput: not a program, not for this input, or exported for a fixed number of images.
    """
    try:
        program = torch.export.load(path)
        if device.type != "cpu":
            program = torch.export.passes.move_to_device_pass(program, device)
        network = ExportedNetwork(program.module())
    except Exception as error:  # a foreign file can fail in any way
        raise BadInput(f"{Path(path).name} is not a program of torch.export that can be read", "weights") from error
    answers = [_accepts(network, torch.zeros(n, *input_shape, device=device)) for n in (1, 2, 3)]
    if any(answers) and not all(answers):
        raise BadInput(
            "the program was exported for a fixed number of images; export it with a dynamic batch dimension: "
            "torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('batch')},))",
            "weights",
        )
    return network


def _accepts(network: nn.Module, images: Tensor) -> bool:
    try:
        with torch.no_grad():
            network(images)
    except (RuntimeError, AssertionError, ValueError, TypeError):
        return False
    return True
