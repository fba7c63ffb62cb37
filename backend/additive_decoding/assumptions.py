"""What the theory asks of truth, decoder and support, as numbers: which assumption fails, and by how much.

Source: additive decoders, arXiv:2307.02598 (sufficient nonlinearity, block-diagonal Hessian, connected support).
"""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import jacfwd, vmap

from backend.errors import ShapeError

Image = Callable[[Tensor], Tensor]  # latents of a block (size,) -> (C, H, W)


def nonlinearity_matrix(blocks: Sequence[Image], latents: Sequence[Tensor]) -> Tensor:
    """W(z): the first and second derivatives of every block's image, side by side, each column of length one.

    Args:
        blocks: f_B of each block, twice differentiable.
        latents: z_B of each block, (N, size of the block).
    Returns: (N, pixels, columns); the truth is sufficiently nonlinear at z if the columns are independent.
    """
    columns = []
    for image, z in zip(blocks, latents, strict=True):

        def flat(value: Tensor, image: Image = image) -> Tensor:
            return image(value).flatten()

        first = vmap(jacfwd(flat))(z)  # (N, pixels, size)
        second = vmap(jacfwd(jacfwd(flat)))(z)  # (N, pixels, size, size)
        rows, cols = torch.triu_indices(z.shape[1], z.shape[1])
        columns += [first, second[:, :, rows, cols]]
    matrix = torch.cat(columns, 2)
    return matrix / matrix.norm(dim=1, keepdim=True).clamp_min(1e-12)


def smallest_singular_value(matrix: Tensor) -> Tensor:
    """Of W(z) with columns of length one; (N, pixels, columns) -> (N,). 0: not sufficiently nonlinear there.

    A derivative that vanishes everywhere leaves a column of zeros, and with it a singular value of zero.
    """
    gram = matrix.double().transpose(1, 2) @ matrix.double()
    return torch.linalg.eigvalsh(gram)[:, 0].clamp_min(0).sqrt()


def off_block_energy(
    decode: Callable[[Tensor], Tensor], latents: Tensor, blocks: Sequence[Sequence[int]], scale: Tensor
) -> Tensor:
    """Share of the Hessian's energy between different blocks, of the decoder before its link; 0 for a sum of blocks.

    Args:
        decode: (d,) -> (C, H, W).
        latents: points, (N, d).
        scale: typical size of each latent (its standard deviation), so that the share does not depend on units.
    Returns: (N,) in 0..1.
    """
    if scale.shape != latents.shape[1:]:
        raise ShapeError(f"scale {tuple(scale.shape)} for latents {tuple(latents.shape)}", "scale")
    hessian = vmap(jacfwd(jacfwd(lambda z: decode(z).flatten())))(latents)  # (N, pixels, d, d)
    energy = (hessian * scale[:, None] * scale[None]).square().sum(1)
    between = torch.zeros(len(scale), len(scale), dtype=torch.bool, device=latents.device)
    for one, other in itertools.permutations(blocks, 2):
        between[torch.tensor(one)[:, None], torch.tensor(other)[None]] = True
    return energy[:, between].sum(1) / energy.sum((1, 2)).clamp_min(1e-20)


def hessian_penalty(decode: Callable[[Tensor], Tensor], latents: Tensor, signs: Tensor, step: float = 0.1) -> Tensor:
    """Variance over random signs of the second difference of decode: 2 x the off-diagonal energy of the Hessian.

    Args:
        signs: (k, N, d) of -1 and 1.
        step: of the difference, in units of the latents.
    Source: the Hessian Penalty, Peebles et al., arXiv:2008.10599, with the mean over pixels where they take the
        largest. The variance over k draws is the unbiased one.

    >>> signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])
    >>> hessian_penalty(lambda z: z[:, :1] * z[:, 1:], torch.zeros(1, 2), signs)    # d2 / dz1 dz2 = 1: values 2, -2
    tensor(8.0000)
    """
    here = decode(latents)
    second = torch.stack(
        [(decode(latents + step * v) - 2 * here + decode(latents - step * v)) / step**2 for v in signs]
    )
    return second.var(0, unbiased=True).mean()
