"""Diffusion autoencoders: a semantic code z_sem for what an image shows, a stochastic code x_T for the rest.

A semantic encoder maps an image to z_sem. A U-Net, conditioned on z_sem, removes noise; run as a deterministic DDIM
sampler it decodes (z_sem, x_T) to an image, and run backwards it finds the x_T of an image. Images enter and leave in
[0, 1]; inside they lie in [-1, 1]. Noise always comes from the caller.

Source: Preechakul et al., Diffusion Autoencoders, arXiv:2111.15640; DDIM, arXiv:2010.02502.
Differs from the paper in its size, in that the code and the time step enter each block through one shared projection
(diffusers' `class_embed_type="identity"`), and in a code map that may be concatenated to the noisy image, see
`CodeMap`.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn

from backend.errors import BadInput, ShapeError

Prediction = Literal["sample", "v_prediction", "epsilon"]
PREDICTIONS: tuple[Prediction, ...] = ("sample", "v_prediction", "epsilon")
Spacing = Literal["leading", "trailing"]
SPACINGS: tuple[Spacing, ...] = ("leading", "trailing")
N_TIMESTEPS = 1000
Guide = tuple[Tensor, Tensor | None]
_GROUPS = 8  # of every group normalisation


# ----------------------------------------------------------------- semantic encoders
class FlatEncoder(nn.Module):
    """Strided convolutions, then linear layers on all positions: the code keeps where things are."""

    def __init__(self, side: int, n_latents: int, widths: tuple[int, ...] = (32, 64, 96), hidden: int = 128) -> None:
        super().__init__()
        self.features = _strided_features(widths)
        last = side // 2 ** len(widths)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(widths[-1] * last**2, hidden), nn.SiLU(), nn.Linear(hidden, n_latents)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, latents)."""
        return self.head(self.features(images))


class PooledEncoder(nn.Module):
    """Convolutions, then the mean over all positions, as published: what is left out (where things are) goes to x_T.

    One strided convolution only, and padding that repeats the border, so that the mean barely depends on the place.
    """

    def __init__(self, side: int, n_latents: int, widths: tuple[int, ...] = (32, 64), hidden: int = 128) -> None:
        super().__init__()
        del side  # any side will do
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1, padding_mode="replicate"), nn.SiLU()]
        for before, after in zip(widths, (*widths[1:], widths[-1]), strict=True):
            layers += [nn.Conv2d(before, after, 3, 1, 1, padding_mode="replicate"), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(widths[-1], hidden), nn.SiLU(), nn.Linear(hidden, n_latents))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, latents)."""
        return self.head(self.features(images).mean((2, 3)))


class PrincipalEncoder(nn.Module):
    """Principal components of region-weighted images, then a perceptron with a linear way past it.

    `fit_components` sets the components; until then every code is 0. Weights above 1 make small regions (a mouth)
    count; 1 everywhere is plain PCA. The first `plain` latents are leading components of the images without weights:
    they say in straight lines what is large, and leave it to the perceptron to say what is small.
    """

    def __init__(
        self, side: int, n_latents: int, components: int = 256, hidden: int = 384, depth: int = 2, plain: int = 0
    ) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(1, side, side))
        self.register_buffer("mean", torch.zeros(3 * side**2))
        self.register_buffer("basis", torch.zeros(3 * side**2, components))
        self.register_buffer("scale", torch.ones(components))
        layers: list[nn.Module] = [nn.Linear(components, hidden), nn.SiLU()]
        for _ in range(depth - 1):
            layers += [nn.Linear(hidden, hidden), nn.SiLU()]
        self.deep = nn.Sequential(*layers, nn.Linear(hidden, n_latents - plain))
        self.linear = nn.Linear(components, n_latents - plain, bias=False)
        self.register_buffer("plain", torch.zeros(plain, components))
        self.sizes = (components,)  # of the parts of `coefficients`

    def fit_components(self, images: Tensor, generator: torch.Generator, weight: Tensor | None = None) -> None:
        """Take the leading components of training images, by subspace iteration.

        Args:
            images: (N, 3, S, S) in [-1, 1]; N above the number of components.
            weight: of each pixel's squared error, (S, S) or (1, S, S); None: 1.
        """
        if weight is not None:
            self.weight.copy_(weight.reshape(self.weight.shape).to(self.weight))
        rows = (images * self.weight.sqrt()).flatten(1)
        mean, basis, deviations = principal_components(rows, self.basis.shape[1], generator)
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        # The square root lets strong components stay stronger than weak ones, without drowning them.
        self.scale.copy_(deviations.clamp_min(1e-6).sqrt())
        if len(self.plain):
            self._fit_plain(self.coefficients(images))

    def _fit_plain(self, coefficients: Tensor) -> None:
        """Leading components of images without weights, as functions of the weighted coefficients."""
        pixels = (self.basis / self.weight.sqrt().expand(3, -1, -1).reshape(-1, 1)) * self.scale
        strengths, turned = torch.linalg.eigh(pixels.T @ pixels)
        root = (turned * strengths.clamp_min(0).sqrt()) @ turned.T  # length in pixels = length of root @ coefficients
        variances, directions = torch.linalg.eigh(root @ coefficients.T.cov() @ root)
        leading = slice(-len(self.plain), None)
        self.plain.copy_(((directions[:, leading] / variances[leading].sqrt()).T @ root).flip(0))

    def coefficients(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> scaled coefficients, (N, components)."""
        return ((images * self.weight.sqrt()).flatten(1) - self.mean) @ self.basis / self.scale

    def compose(self, coefficients: Tensor) -> Tensor:
        """The images of scaled coefficients, (N, components) -> (N, 3, S, S) in about [-1, 1]."""
        side = self.weight.shape[-1]
        rows = (coefficients * self.scale) @ self.basis.T + self.mean
        return rows.unflatten(1, (3, side, side)) / self.weight.sqrt()

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, latents)."""
        return self.encode_coefficients(self.coefficients(images))

    def encode_coefficients(self, coefficients: Tensor) -> Tensor:
        """(N, components) -> (N, latents): the part that learns."""
        learned = self.deep(coefficients) + self.linear(coefficients)
        return torch.cat([coefficients @ self.plain.T, learned], 1) if len(self.plain) else learned


class RegionalEncoder(nn.Module):
    """What surrounds some regions, read as by a `PrincipalEncoder`; then, for each region, what it adds to that.

    Each region has one latent, the last ones of the code. A perceptron reads it from the region's own principal
    components beside those of the surroundings, so that pose and colours, which the surroundings show, need no place
    in it. A mouth of few pixels is then not drowned by the rest, and does not share latents with it.
    """

    def __init__(
        self,
        side: int,
        n_latents: int,
        regions: tuple[tuple[int, int, int, int], ...] = (),
        components: int = 192,
        region_components: int = 64,
        hidden: int = 256,
        plain: int = 0,
    ) -> None:
        """regions: first row, row after the last, first column, column after the last, of each; they do not overlap.

        components: of the surroundings. plain: see `PrincipalEncoder`. Raises: BadInput: no latent is left for them.
        """
        super().__init__()
        n_around = n_latents - len(regions)
        if n_around < max(1, plain):
            raise BadInput(
                f"{n_latents} latents; each of {len(regions)} regions takes one, {plain} are plain", "regions"
            )
        self.regions = tuple((slice(*region[:2]), slice(*region[2:])) for region in regions)
        self.around = PrincipalEncoder(side, n_around, components, hidden, plain=plain)
        for k, region in enumerate(regions):
            pixels = 3 * (region[1] - region[0]) * (region[3] - region[2])
            self.register_buffer(f"mean_{k}", torch.zeros(pixels))
            self.register_buffer(f"basis_{k}", torch.zeros(pixels, region_components))
            self.register_buffer(f"scale_{k}", torch.ones(region_components))
        self.sizes = (components, *([region_components] * len(regions)))  # of the parts of `coefficients`
        width = components + region_components
        self.deep = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1)
            )
            for _ in regions
        )
        self.linear = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in regions)

    def fit_components(self, images: Tensor, generator: torch.Generator, weight: Tensor | None = None) -> None:
        """Take the leading components of training images, (N, 3, S, S) in [-1, 1]; weight: of the surroundings."""
        self.around.fit_components(self._without_regions(images), generator, weight)
        for k, region in enumerate(self.regions):
            rows = images[(..., *region)].flatten(1)
            mean, basis, deviations = principal_components(rows, self.sizes[1 + k], generator)
            for name, value in (("mean", mean), ("basis", basis), ("scale", deviations.clamp_min(1e-6).sqrt())):
                getattr(self, f"{name}_{k}").copy_(value)

    def coefficients(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> scaled coefficients of the surroundings and of each region, (N, sum of sizes)."""
        found = [self.around.coefficients(self._without_regions(images))]
        for k, region in enumerate(self.regions):
            mean, basis, scale = (getattr(self, f"{name}_{k}") for name in ("mean", "basis", "scale"))
            found.append((images[(..., *region)].flatten(1) - mean) @ basis / scale)
        return torch.cat(found, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, latents)."""
        return self.encode_coefficients(self.coefficients(images))

    def encode_coefficients(self, coefficients: Tensor) -> Tensor:
        """(N, sum of sizes) -> (N, latents): the part that learns."""
        around, *own = coefficients.split(self.sizes, 1)
        codes = [self.around.encode_coefficients(around)]
        for part, deep, linear in zip(own, self.deep, self.linear, strict=True):
            both = torch.cat([around, part], 1)
            codes.append(deep(both) + linear(both))
        return torch.cat(codes, 1)

    def _without_regions(self, images: Tensor) -> Tensor:
        images = images.clone()
        for region in self.regions:
            images[(..., *region)] = 0
        return images


def principal_components(rows: Tensor, n_components: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, leading components and the standard deviation along each, by subspace iteration.

    Args: rows: (N, features). Returns: (features,), (features, components), (components,).
    Raises: ShapeError: no more rows than components.
    """
    if len(rows) <= n_components:
        raise ShapeError(f"{len(rows)} images; more than {n_components} are needed for as many components")
    mean = rows.mean(0)
    rows = rows - mean
    width = min(n_components + 16, *rows.shape)
    subspace = torch.randn(rows.shape[1], width, generator=generator).to(rows)
    for _ in range(4):  # power iterations
        subspace = torch.linalg.qr(rows.T @ (rows @ torch.linalg.qr(subspace).Q)).Q
    _, strengths, turned = torch.linalg.svd(rows @ subspace, full_matrices=False)
    return mean, (subspace @ turned.T)[:, :n_components], strengths[:n_components] / len(rows) ** 0.5


class SalientEncoder(nn.Module):
    """What stands out from the border's colour: where it is, how far it spreads, its colour, and how bright the ground.

    Attention is the silhouette, so that a colour is read without the size of what wears it, and nothing of it is
    learned. Without hidden units the code is these numbers themselves; with them a perceptron is learned on top of
    what it `says`, and what stands `beside` goes into the code as it is, after the perceptron's latents.
    For one thing on a plain ground; a network that has to find such a code by itself mixes size, place and hue.
    """

    SAYS = {"where": 2, "spread": 1, "colour": 3, "ground": 1}  # numbers of each

    def __init__(
        self,
        side: int,
        n_latents: int,
        says: tuple[str, ...] = ("where", "spread", "colour", "ground"),
        hidden: int = 0,
        focus: float = 1.0,
        beside: tuple[str, ...] = (),
    ) -> None:
        """focus: power of the attention to colours; 8 leaves out the edges, 120 times less ground in them.

        Raises: BadInput: it cannot say that, no latent is left for the perceptron, or there is no perceptron and the
            code has another length.
        """
        super().__init__()
        unknown = [name for name in (*says, *beside) if name not in self.SAYS]
        if unknown:
            raise BadInput(f"it cannot say {unknown[0]!r}; one of {', '.join(self.SAYS)}", "says")
        self.says, self.beside, self.focus = tuple(says), tuple(beside), focus
        width, n_beside = (sum(self.SAYS[name] for name in names) for names in (says, beside))
        if n_latents - n_beside < 1 or (not hidden and n_latents - n_beside != width):
            raise BadInput(
                f"{n_latents} latents; what it says are {width} numbers, beside them {n_beside}", "n_latents"
            )
        self.register_buffer("grid", (torch.arange(side) + 0.5) / side * 2 - 1, persistent=False)
        self.head = nn.Identity()
        if hidden:
            layers: list[nn.Module] = [nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()]
            self.head = nn.Sequential(*layers, nn.Linear(hidden, n_latents - n_beside))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [-1, 1] -> (N, latents)."""
        shape, border = silhouette(images)
        attention, inside = (
            weight / weight.sum((1, 2), keepdim=True).clamp_min(1e-6) for weight in (shape, shape**self.focus)
        )
        across, down = attention.sum(1), attention.sum(2)  # (N, S) each
        where = torch.stack([across @ self.grid, down @ self.grid], 1)
        squares = across @ self.grid.square() + down @ self.grid.square()
        found = {
            "where": where,
            "spread": (squares - where.square().sum(1)).clamp_min(1e-8).sqrt()[:, None],
            "colour": torch.einsum("nhw,nchw->nc", inside, images),
            "ground": border.mean(1, keepdim=True),
        }
        said = self.head(torch.cat([found[name] for name in self.says], 1))
        return torch.cat([said, *(found[name] for name in self.beside)], 1)


def silhouette(images: Tensor) -> tuple[Tensor, Tensor]:
    """How far each pixel is from the border's colour, scaled to 1, and that colour.

    Args: images: (N, 3, S, S). Returns: (N, S, S) in [0, 1]; (N, 3), the median of the outermost pixels.
    """
    edges = (images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1])
    border = torch.cat(edges, -1).median(-1).values
    away = (images - border[..., None, None]).square().sum(1).sqrt()
    return away / away.amax((1, 2), keepdim=True).clamp_min(1e-6), border


ENCODERS: dict[str, type[nn.Module]] = {
    "flat": FlatEncoder,
    "pooled": PooledEncoder,
    "principal": PrincipalEncoder,
    "regional": RegionalEncoder,
    "salient": SalientEncoder,
}


def _strided_features(widths: tuple[int, ...]) -> nn.Sequential:
    """Halves the side once for each width."""
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.SiLU()]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(_GROUPS, after), nn.SiLU()]
    return nn.Sequential(*layers)


class CodeMap(nn.Module):
    """z_sem -> a feature map, (N, channels, side, side): gives the U-Net places that a vector by itself lacks."""

    def __init__(self, n_latents: int, side: int, channels: int, widths: tuple[int, int] = (96, 64)) -> None:
        super().__init__()
        if side % 4:
            raise BadInput(f"a code map needs a side that 4 divides, not {side}", "code_map")
        self.first, self.side = widths[0], side // 4
        self.spread = nn.Sequential(nn.Linear(n_latents, 128), nn.SiLU(), nn.Linear(128, self.first * self.side**2))
        self.grow = nn.Sequential(
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(widths[0], widths[1], 3, padding=1),
            nn.SiLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(widths[1], channels, 3, padding=1),
        )

    def forward(self, codes: Tensor) -> Tensor:
        return self.grow(self.spread(codes).unflatten(1, (self.first, self.side, self.side)))


# ----------------------------------------------------------------- the autoencoder
class DiffusionAutoencoder(nn.Module):
    """Encoder, U-Net, and the schedule between them. All arguments are JSON, so that a card can describe it.

    Args:
        side: pixels, of square colour images.
        n_latents: length of z_sem.
        encoder: a key of `ENCODERS`; `encoder_options` are its further arguments.
        widths: channels of the U-Net, one for each resolution.
        unshuffle: the U-Net sees r x r pixels as channels of one: r = 4 is fastest, r = 1 the finest.
        code_map: channels of a `CodeMap` beside the noisy image; 0: none.
        prediction: what the U-Net predicts. `sample` decodes in few steps from any x_T (best if z_sem says it all);
            `v_prediction` can be inverted, so that x_T carries what z_sem leaves out.
        spacing: of DDIM time steps; `leading` ends at t = 0, which inversion needs.
        steps: DDIM steps that `decode` and `invert` take if not told.
    Raises: BadInput: an unknown encoder, prediction or spacing; sides that do not divide.
    """

    can_decode = True

    def __init__(
        self,
        side: int = 32,
        n_latents: int = 8,
        encoder: str = "flat",
        encoder_options: dict[str, Any] | None = None,
        widths: tuple[int, ...] = (64, 128),
        layers: int = 1,
        unshuffle: int = 4,
        condition: int = 128,
        code_map: int = 0,
        prediction: Prediction = "sample",
        spacing: Spacing = "trailing",
        steps: int = 10,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("encoder", encoder, tuple(ENCODERS)),
            ("prediction", prediction, PREDICTIONS),
            ("spacing", spacing, SPACINGS),
        ):
            if value not in known:
                raise BadInput(f"unknown {name} {value!r}; one of {', '.join(known)}", name)
        inner = side // unshuffle
        if side % unshuffle or inner % 2 ** (len(widths) - 1):
            raise BadInput(f"a side of {side} cannot be unshuffled by {unshuffle} and halved {len(widths) - 1} times")
        self.side, self.n_latents, self.unshuffle = side, n_latents, unshuffle
        self.prediction, self.spacing, self.steps = prediction, spacing, steps
        self.encoder = ENCODERS[encoder](side, n_latents, **(encoder_options or {}))
        self.standard = nn.BatchNorm1d(n_latents, affine=False, momentum=0.02)  # codes have mean 0, variance 1
        channels = 3 * unshuffle**2
        self.code_map = CodeMap(n_latents, inner, code_map) if code_map else None
        self.condition = nn.Sequential(nn.Linear(n_latents, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.unet = UNet2DModel(
            sample_size=inner,
            in_channels=channels + code_map,
            out_channels=channels,
            layers_per_block=layers,
            block_out_channels=tuple(widths),
            time_embedding_dim=condition,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
            norm_num_groups=_GROUPS,
            add_attention=False,
            down_block_types=("DownBlock2D",) * len(widths),
            up_block_types=("UpBlock2D",) * len(widths),
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)
        betas = torch.linspace(1e-4, 0.02, N_TIMESTEPS)  # the linear schedule of DDPM
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0), persistent=False)

    # ------------------------------------------------------------- the semantic code
    def encode(self, images: Tensor) -> Tensor:
        """z_sem: (N, 3, S, S) in [0, 1] -> (N, latents), each latent with mean 0 and variance 1 over training images.

        In training mode the batch's own mean and variance are taken. Raises: ShapeError: another shape of images.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, self.side, self.side):
            raise ShapeError(f"images of shape {tuple(images.shape)}; expected (N, 3, {self.side}, {self.side})")
        return self.standard(self.encoder(images * 2 - 1))

    @torch.no_grad()
    def set_standard(self, images: Tensor, chunk: int = 512) -> None:
        """Fix the codes' mean and variance on training images, (N, 3, S, S) in [0, 1]."""
        raw = torch.cat([self.encoder(part * 2 - 1) for part in images.split(chunk)])
        self.standard.running_mean.copy_(raw.mean(0))
        self.standard.running_var.copy_(raw.var(0).clamp_min(1e-8))

    @property
    def last_layer(self) -> nn.Module:
        """Whose passes are counted."""
        return self.unet.conv_out

    # ------------------------------------------------------------- one noise level
    def guide(self, codes: Tensor) -> Guide:
        """What of the codes goes into the U-Net, the same at every noise level: a vector, and a map if there is one."""
        return self.condition(codes), None if self.code_map is None else self.code_map(codes)

    def predict(self, noisy: Tensor, timesteps: Tensor, codes: Tensor, guide: Guide | None = None) -> Tensor:
        """What the U-Net says of x_t: the clean image, the velocity or the noise, as `prediction` names; in [-1, 1].

        Args:
            noisy: (N, 3, S, S).
            timesteps: (N,) or scalar, 0..999.
            codes: (N, latents).
            guide: of these codes, if it is at hand already.
        """
        if codes.ndim != 2 or len(codes) != len(noisy):  # the U-Net would broadcast one code over all, silently
            raise ShapeError(f"codes of shape {tuple(codes.shape)} for {len(noisy)} images")
        condition, code_map = self.guide(codes) if guide is None else guide
        inputs = F.pixel_unshuffle(noisy, self.unshuffle)
        if code_map is not None:
            inputs = torch.cat([inputs, code_map], 1)
        output = self.unet(inputs, timesteps, class_labels=condition, return_dict=False)[0]
        return F.pixel_shuffle(output, self.unshuffle)

    def estimate(
        self, noisy: Tensor, timestep: int, codes: Tensor, guide: Guide | None = None
    ) -> tuple[Tensor, Tensor]:
        """The clean image and the noise that x_t is made of: x_t = sqrt(a) x_0 + sqrt(1 - a) eps."""
        alpha = self.alphas_cumprod[timestep]
        signal, spread = alpha.sqrt(), (1 - alpha).sqrt()
        output = self.predict(noisy, torch.as_tensor(timestep, device=noisy.device), codes, guide)
        if self.prediction == "sample":
            return output, (noisy - signal * output) / spread
        if self.prediction == "epsilon":
            return (noisy - spread * output) / signal, output
        return signal * noisy - spread * output, signal * output + spread * noisy

    def denoising_error(self, images: Tensor, codes: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """What training minimises: the squared error of `predict` at each pixel, (N, 3, S, S).

        Args: images: (N, 3, S, S) in [0, 1]. codes: (N, latents). timesteps: (N,). noise: as images, standard normal.
        """
        clean = images * 2 - 1
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        target = {
            "sample": lambda: clean,
            "epsilon": lambda: noise,
            "v_prediction": lambda: alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
        }[self.prediction]()
        return (self.predict(noisy, timesteps, codes).float() - target).square()

    # ------------------------------------------------------------- DDIM both ways
    def timesteps(self, n_steps: int) -> list[int]:
        """The levels of DDIM, from the noisiest down, as diffusers spaces them.

        Raises: BadInput: not 1..1000 steps.
        """
        if not 1 <= n_steps <= N_TIMESTEPS:
            raise BadInput(f"{n_steps} steps; expected 1..{N_TIMESTEPS}", "n_steps")
        if self.spacing == "leading":
            return [i * (N_TIMESTEPS // n_steps) for i in reversed(range(n_steps))]
        return [round(N_TIMESTEPS - i * N_TIMESTEPS / n_steps) - 1 for i in range(n_steps)]

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        x_T: Tensor | None = None,
        n_steps: int | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Images of codes, all in one batch, by deterministic DDIM (eta = 0).

        Args:
            codes: z_sem, (N, latents).
            x_T: stochastic codes, (N, 3, S, S), or (1, 3, S, S) for all; None: 0.
            on_step: told (steps done, steps) after each; may raise to stop.
        Returns: (N, 3, S, S) in [0, 1], clamped.
        """
        shape = (len(codes), 3, self.side, self.side)
        state = codes.new_zeros(shape) if x_T is None else x_T.to(codes).expand(shape)
        levels, guide = self.timesteps(n_steps or self.steps), self.guide(codes)
        for i, timestep in enumerate(levels):
            clean, noise = self.estimate(state, timestep, codes, guide)
            after = self._alpha_after(levels, i)
            state = after.sqrt() * clean + (1 - after).sqrt() * noise
            if on_step is not None:
                on_step(i + 1, len(levels))
        return ((state + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def invert(
        self,
        images: Tensor,
        codes: Tensor,
        n_steps: int | None = None,
        n_iterations: int = 2,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """The stochastic codes x_T from which `decode`, with as many steps, draws these images again.

        Each DDIM step is solved for its input: x_t = sqrt(a_t / a_s) (x_s - sqrt(1 - a_s) eps) + sqrt(1 - a_t) eps,
        eps = eps(x_t, t), by fixed-point iterations that begin at eps(x_s, t). Exact only where they converge.
        Differs from the paper: it stops at the first guess and takes 250 steps instead.

        Args: images: (N, 3, S, S) in [0, 1]. codes: their z_sem.
        Returns: (N, 3, S, S), about standard normal if the model is good.
        """
        levels, guide = self.timesteps(n_steps or self.steps), self.guide(codes)
        state = images * 2 - 1
        for done, i in enumerate(reversed(range(len(levels)))):
            below, alpha = self._alpha_after(levels, i), self.alphas_cumprod[levels[i]]
            guess = state
            for _ in range(1 + n_iterations):
                _, noise = self.estimate(guess, levels[i], codes, guide)
                clean_part = (alpha / below).sqrt() * (state - (1 - below).sqrt() * noise)
                guess = clean_part + (1 - alpha).sqrt() * noise
            state = guess
            if on_step is not None:
                on_step(done + 1, len(levels))
        return state

    def _alpha_after(self, levels: list[int], i: int) -> Tensor:
        """Cumulative alpha of the level that step i of `decode` arrives at; 1 after the last."""
        if i + 1 < len(levels):
            return self.alphas_cumprod[levels[i + 1]]
        return self.alphas_cumprod.new_ones(())


def interpolate_linearly(first: Tensor, last: Tensor, alphas: Tensor) -> Tensor:
    """Codes on the straight line through two: (d,), (d,), (n,) -> (n, d). alpha beyond 0..1 extrapolates.

    >>> interpolate_linearly(torch.tensor([0.0]), torch.tensor([2.0]), torch.tensor([0.0, 0.5, 1.5]))[:, 0]
    tensor([0., 1., 3.])
    """
    return first + alphas.to(first)[:, None] * (last - first)


def interpolate_spherically(first: Tensor, last: Tensor, alphas: Tensor) -> Tensor:
    """Stochastic codes on the great circle through two, so that their length stays that of noise.

    Args: first, last: (C, H, W). alphas: (n,); beyond 0..1 the first or last code is kept.
    Returns: (n, C, H, W). Codes that point the same way are mixed linearly.
    Source: Shoemake 1985, as used for x_T in arXiv:2111.15640.

    >>> first, last = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    >>> round(float(interpolate_spherically(first, last, torch.tensor([0.5])).norm()), 5)
    1.0
    """
    alphas = alphas.to(first).clamp(0, 1).view(-1, 1, 1, 1)
    cosine = F.cosine_similarity(first.flatten(), last.flatten(), dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if float(angle) < 1e-3:
        return first + alphas * (last - first)
    return (torch.sin((1 - alphas) * angle) * first + torch.sin(alphas * angle) * last) / torch.sin(angle)
