"""Neural additive models of a table and an image code: one small network for each column, one for z_sem.

g(E[y | x, image]) = intercept + sum_j f_j(x_j) + f_image(z_sem), every term with mean 0 over the training rows. An
ensemble is trained side by side as stacked tensors; its members differ in their start, in the order of the rows and
in the rows held out, and their spread gives the bands.

Source: Agarwal et al., Neural Additive Models, arXiv:2004.13912; with an image term, arXiv:2405.02295.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.errors import BadInput, ModelFault, ShapeError

Activation = Literal["gelu", "relu", "exu"]
ACTIVATIONS: tuple[Activation, ...] = ("gelu", "relu", "exu")
_BAND = 1.96  # standard deviations of the members to either side
_FAST = 10.0  # how much faster category effects and intercepts learn: a step moves one number, not a network


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """Everything but the seed that decides a fitted head."""

    activation: Activation = "exu"  # the only one here that recovers a step as well as curves
    hidden: int = 64  # units of both layers, for each column
    slopes: tuple[float, float] = (1.0, 24.0)  # of first-layer units at the start; steep ones can make a step
    image_widths: tuple[int, ...] = (96, 48)
    directions: int = 0  # the image's network sees so many learned linear combinations of z_sem; 0: all of it
    members: int = 5
    epochs: int = 50
    batch: int = 256
    rate: float = 3e-3
    weight_decay: float = 1e-4
    feature_dropout: float = 0.0  # share of terms left out of a row's sum; harms where terms go together
    output_penalty: float = 0.0  # of squared terms: pushes what has no effect to 0
    validation: float = 0.12  # share of the rows held out of each member's training

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BadInput(f"unknown activation {self.activation!r}; one of {', '.join(ACTIVATIONS)}", "activation")
        ranges = {
            "hidden": (2, 1024),
            "directions": (0, 1024),
            "members": (1, 100),
            "epochs": (1, 2000),
            "batch": (2, 65_536),
            "rate": (1e-6, 1.0),
            "weight_decay": (0.0, 10.0),
            "feature_dropout": (0.0, 0.9),
            "output_penalty": (0.0, 1e3),
            "validation": (0.01, 0.5),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"{name} is {getattr(self, name)}; expected {low}..{high}", name)

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> "HeadSettings":
        tuples = {name: tuple(body[name]) for name in ("slopes", "image_widths") if name in body}
        try:
            return cls(**{**body, **tuples})
        except TypeError as error:
            raise BadInput(f"the settings cannot be read: {error}", "settings") from None


@dataclass(frozen=True, eq=False)
class Terms:
    """Centred terms at some rows, with the ensemble's band; (n, terms) each, on the link's scale."""

    value: Tensor
    low: Tensor
    high: Tensor


class AdditiveHead(nn.Module):
    """Stacked members of an additive model.

    Args:
        kinds: for each column, 0 if numeric, else its number of categories.
        n_latents: length of z_sem; 0: no image term.
        link: "identity", "logit" or "log".
        generator: draws the initial weights.
    """

    def __init__(
        self,
        kinds: Sequence[int],
        n_latents: int,
        link: str = "identity",
        settings: HeadSettings | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or HeadSettings()
        self.kinds, self.n_latents, self.link = tuple(kinds), n_latents, link
        self.numeric = [k for k, kind in enumerate(kinds) if kind == 0]
        self.categorical = [k for k, kind in enumerate(kinds) if kind > 0]
        generator = generator or torch.Generator().manual_seed(0)
        members = self.settings.members
        self.columns = _ColumnNets(len(self.numeric), self.settings, generator) if self.numeric else None
        sizes = [kinds[k] for k in self.categorical]
        self.register_buffer("offsets", torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], dtype=torch.long))
        self.category = nn.Parameter(torch.zeros(members, sum(sizes)))
        self.image = _ImageNets(n_latents, self.settings, generator) if n_latents else None
        self.bias = nn.Parameter(torch.zeros(members))
        self.register_buffer("middle", torch.zeros(len(self.numeric)))  # brings numeric columns to about -1..1
        self.register_buffer("half_range", torch.ones(len(self.numeric)))
        self.register_buffer("unit", torch.ones(()))  # standard deviation of a Gaussian response
        self.register_buffer("means", torch.zeros(members, self.n_terms))  # of the terms over the training rows

    @property
    def n_terms(self) -> int:
        return len(self.kinds) + bool(self.n_latents)

    @property
    def intercept(self) -> Tensor:
        """The ensemble's prediction for a row whose every term is 0, on the link's scale; a scalar."""
        return (self.bias + self.means.sum(1)).mean() * self.unit

    def describe(self) -> dict[str, Any]:
        """What a card needs to say so that the weights can be read again: arguments of `from_card`."""
        return {
            "kinds": list(self.kinds),
            "n_latents": self.n_latents,
            "link": self.link,
            "settings": dataclasses.asdict(self.settings),
        }

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> "AdditiveHead":
        return cls(card["kinds"], card["n_latents"], card["link"], HeadSettings.from_json(card["settings"]))

    # ------------------------------------------------------------- inside training
    def raw_terms(self, table: Tensor, latents: Tensor | None) -> Tensor:
        """Terms of each member at its own rows, not centred: (M, n, columns), (M, n, latents) -> (M, n, terms)."""
        found: list[Tensor | None] = [None] * self.n_terms
        if self.columns is not None:
            scaled = (table[..., self.numeric] - self.middle) / self.half_range
            for k, term in zip(self.numeric, self.columns(scaled).unbind(-1), strict=True):
                found[k] = term
        if self.categorical:
            where = table[..., self.categorical].long() + self.offsets
            looked_up = self.category.gather(1, where.flatten(1)).view(where.shape)
            for k, term in zip(self.categorical, looked_up.unbind(-1), strict=True):
                found[k] = term
        if self.image is not None:
            found[-1] = self.image(latents)
        return torch.stack(found, -1)

    # ------------------------------------------------------------- once fitted
    def members_terms(self, table: Tensor, latents: Tensor | None) -> Tensor:
        """Centred terms of every member at the same rows: (n, columns), (n, latents) -> (M, n, terms).

        Raises: ShapeError: rows do not fit the model.
        """
        if table.ndim != 2 or table.shape[1] != len(self.kinds):
            raise ShapeError(f"a table of shape {tuple(table.shape)}; expected (n, {len(self.kinds)})")
        if self.image is not None and (latents is None or latents.shape != (len(table), self.n_latents)):
            given = None if latents is None else tuple(latents.shape)
            raise ShapeError(f"codes of shape {given}; expected ({len(table)}, {self.n_latents})")
        members = self.settings.members
        wide = None if self.image is None else latents.expand(members, -1, -1)
        raw = self.raw_terms(table.expand(members, -1, -1), wide)
        return (raw - self.means[:, None]) * self.unit

    @torch.no_grad()
    def terms(self, table: Tensor, latents: Tensor | None = None) -> Terms:
        """Centred terms with bands at rows, (n, terms): the mean of the members, 1.96 of their deviations around."""
        return _band(self.members_terms(table, latents))

    @torch.no_grad()
    def image_effect(self, latents: Tensor) -> Terms:
        """The image's centred term at codes, (n, latents) -> (n,) each."""
        raw = self.image(latents.expand(self.settings.members, -1, -1))
        return _band((raw - self.means[:, -1:]) * self.unit)

    @torch.no_grad()
    def shape_function(self, column: int, values: Tensor) -> Terms:
        """A column's centred term at values of it, (n,) -> (n,) each."""
        table = values.new_zeros(len(values), len(self.kinds))
        table[:, column] = values
        latents = values.new_zeros(len(values), self.n_latents) if self.n_latents else None
        found = self.terms(table, latents)
        return Terms(found.value[:, column], found.low[:, column], found.high[:, column])

    def predict(self, table: Tensor, latents: Tensor | None = None) -> Tensor:
        """The prediction on the link's scale, (n,): the intercept plus the row's terms, and nothing else."""
        return self.intercept + self.terms(table, latents).value.sum(1)

    def respond(self, linear: Tensor) -> Tensor:
        """From the link's scale to the response's own: a mean, a probability, a rate."""
        return {"identity": lambda v: v, "logit": torch.sigmoid, "log": torch.exp}[self.link](linear)


def _band(members: Tensor) -> Terms:
    mean = members.mean(0)
    reach = _BAND * (members.std(0) if len(members) > 1 else torch.zeros_like(mean))
    return Terms(mean, mean - reach, mean + reach)


class _ColumnNets(nn.Module):
    """Networks 1 - hidden - hidden - 1 for every member and numeric column, as stacked matrices."""

    def __init__(self, n_columns: int, settings: HeadSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.activation = settings.activation
        shape = (settings.members, n_columns, settings.hidden)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator)

        self.place = nn.Parameter(2.4 * torch.rand(shape, generator=generator) - 1.2)
        if self.activation == "exu":  # exp(w) (x - b), w ~ N(4, .5): Differs from NAM in that b covers the range
            self.slope = nn.Parameter(4 + 0.5 * normal(*shape))
        else:
            low, high = (math.log(slope) for slope in settings.slopes)
            steep = torch.exp(low + (high - low) * torch.rand(shape, generator=generator))
            self.slope = nn.Parameter(steep * normal(*shape).sign())
        between = normal(*shape, settings.hidden) * settings.hidden**-0.5
        if self.activation != "exu":  # steep ramps reach high: they all begin with the same share
            between = between / self.slope.detach().abs()[..., None].clamp_min(1)
        self.between = nn.Parameter(between)
        self.between_bias = nn.Parameter(torch.zeros(shape))
        self.out = nn.Parameter(normal(*shape) * settings.hidden**-0.5)

    def forward(self, values: Tensor) -> Tensor:
        """(M, n, columns) -> (M, n, columns)."""
        away = values.transpose(1, 2)[..., None] - self.place[:, :, None]  # (M, columns, n, hidden)
        if self.activation == "exu":
            first = (self.slope.exp()[:, :, None] * away).clamp(0, 1)
        else:
            first = self._activate(self.slope[:, :, None] * away)
        second = self._activate(first @ self.between + self.between_bias[:, :, None])
        return (second * self.out[:, :, None]).sum(-1).transpose(1, 2)

    def _activate(self, values: Tensor) -> Tensor:
        return F.gelu(values) if self.activation == "gelu" else F.relu(values)


class _ImageNets(nn.Module):
    """Networks from z_sem to a number for every member."""

    def __init__(self, n_latents: int, settings: HeadSettings, generator: torch.Generator) -> None:
        super().__init__()
        self.is_narrow = settings.directions > 0
        sizes = (n_latents, *([settings.directions] if self.is_narrow else []), *settings.image_widths, 1)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, after in zip(sizes, sizes[1:], strict=False):
            weight = torch.randn(settings.members, before, after, generator=generator) * before**-0.5
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(0.1 * torch.randn(settings.members, 1, after, generator=generator)))

    def forward(self, latents: Tensor) -> Tensor:
        """(M, n, latents) -> (M, n)."""
        values = latents
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = torch.baddbmm(bias, values, weight)
            if i + 1 < len(self.weights) and not (self.is_narrow and i == 0):
                values = F.gelu(values)
        return values[..., 0]


# ----------------------------------------------------------------- fitting
def negative_log_likelihood(link: str, linear: Tensor, response: Tensor) -> Tensor:
    """Of each row, up to a constant: half squared error, cross-entropy, or Poisson deviance's part.

    >>> negative_log_likelihood("log", torch.zeros(1), torch.tensor([2.0]))
    tensor([1.])
    """
    if link == "identity":
        return (linear - response).square() / 2
    if link == "logit":
        return F.binary_cross_entropy_with_logits(linear, response, reduction="none")
    return linear.clamp_max(30).exp() - response * linear  # the clamp: e^30 counts are no counts any more


def fit_head(
    table: Tensor,
    latents: Tensor | None,
    response: Tensor,
    kinds: Sequence[int],
    link: str = "identity",
    settings: HeadSettings | None = None,
    seed: int = 0,
    on_epoch: Callable[[int, int, float], None] | None = None,
) -> AdditiveHead:
    """Fit an ensemble of additive models by maximum likelihood; each member keeps its best epoch on held-out rows.

    Args:
        table: (n, columns); categorical columns hold codes.
        latents: z_sem of the images, (n, latents); None: a model of the table alone.
        response: (n,): any numbers (identity), 0 or 1 (logit), counts (log).
        kinds: see `AdditiveHead`.
        on_epoch: told (done, epochs, mean held-out loss); may raise to stop.
    Returns: the head, centred on all rows, in evaluation mode.
    Raises: BadInput: fewer than 20 rows, or a response without any variation; ModelFault: it diverged.
    """
    settings = settings or HeadSettings()
    n, members = len(table), settings.members
    if n < 20:
        raise BadInput(f"{n} rows; at least 20 are needed to fit a model", "table")
    if float(response.std()) == 0:
        raise BadInput("the response is the same in every row: there is nothing to explain", "response")
    generator = torch.Generator().manual_seed(seed)
    head = AdditiveHead(kinds, 0 if latents is None else latents.shape[1], link, settings, generator).to(table.device)
    _set_scales(head, table, response)
    target = response / head.unit if link == "identity" else response
    n_held = max(2, round(settings.validation * n))
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(members)]).to(table.device)
    held, own = order[:, :n_held], order[:, n_held:]
    if settings.directions and latents is not None:
        _point_at_the_response(head, latents, target, own)
    batch = min(settings.batch, own.shape[1])
    n_batches = own.shape[1] // batch
    optimizer = _optimizer(head, settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=settings.epochs * n_batches + 1
    )
    best = torch.full((members,), math.inf, device=table.device)
    kept = {name: parameter.detach().clone() for name, parameter in head.named_parameters()}
    for epoch in range(settings.epochs):
        shuffle = torch.stack([torch.randperm(own.shape[1], generator=generator) for _ in range(members)])
        mixed = own.gather(1, shuffle.to(own.device))
        for start in range(0, n_batches * batch, batch):
            rows = mixed[:, start : start + batch]
            loss = _training_loss(head, table, latents, target, rows, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            linear = head.raw_terms(table[held], None if latents is None else latents[held]).sum(-1)
            losses = negative_log_likelihood(link, linear + head.bias[:, None], target[held]).mean(1)
        if not losses.isfinite().all():
            raise ModelFault("the fit diverged; choose a lower learning rate", "rate")
        is_better = losses < best
        best = torch.where(is_better, losses, best)
        for name, parameter in head.named_parameters():
            kept[name][is_better] = parameter.detach()[is_better]
        if on_epoch is not None:
            on_epoch(epoch + 1, settings.epochs, float(best.mean()))
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            parameter.copy_(kept[name])
        _centre(head, table, latents)
    return head.eval().requires_grad_(False)


def _set_scales(head: AdditiveHead, table: Tensor, response: Tensor) -> None:
    """Numeric columns to about -1..1 by their outer quantiles, the intercept to the mean response."""
    if head.numeric:
        shares = torch.tensor([0.005, 0.995], dtype=torch.float64, device=table.device)
        outer = torch.quantile(table[:, head.numeric].double(), shares, dim=0)
        head.middle.copy_(outer.mean(0))
        head.half_range.copy_(((outer[1] - outer[0]) / 2).clamp_min(1e-6))
    mean = response.mean()
    if head.link == "identity":
        head.unit.copy_(response.std())
        start = mean / head.unit
    else:
        start = torch.logit(mean, eps=1e-4) if head.link == "logit" else mean.clamp_min(1e-4).log()
    with torch.no_grad():
        head.bias.fill_(float(start))


@torch.no_grad()
def _point_at_the_response(head: AdditiveHead, latents: Tensor, target: Tensor, own: Tensor) -> None:
    """Each member's first direction starts where least squares points: started by chance, one in two got stuck."""
    for weight, rows in zip(head.image.weights[0], own, strict=True):
        inputs, wanted = (values[rows] - values[rows].mean(0) for values in (latents, target))
        slope = torch.linalg.lstsq(inputs, wanted[:, None]).solution[:, 0]
        weight[:, 0] = slope / slope.norm().clamp_min(1e-9)


def _optimizer(head: AdditiveHead, settings: HeadSettings) -> torch.optim.Optimizer:
    fast = [head.bias, head.category]
    slow = [p for p in head.parameters() if all(p is not q for q in fast)]
    groups = [{"params": fast, "lr": _FAST * settings.rate, "weight_decay": 0.0}]
    if slow:
        groups.append({"params": slow, "lr": settings.rate, "weight_decay": settings.weight_decay})
    return torch.optim.AdamW(groups)


def _training_loss(
    head: AdditiveHead,
    table: Tensor,
    latents: Tensor | None,
    target: Tensor,
    rows: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Summed over members, which share no weights: each gets its own gradient."""
    settings = head.settings
    terms = head.raw_terms(table[rows], None if latents is None else latents[rows])
    summed = terms
    if settings.feature_dropout:
        keep = torch.rand(terms.shape, generator=generator).to(terms) >= settings.feature_dropout
        summed = terms * keep / (1 - settings.feature_dropout)
    linear = summed.sum(-1) + head.bias[:, None]
    loss = negative_log_likelihood(head.link, linear, target[rows]).mean(1).sum()
    if settings.output_penalty:
        loss = loss + settings.output_penalty * terms.square().mean((1, 2)).sum()
    return loss


def _centre(head: AdditiveHead, table: Tensor, latents: Tensor | None, chunk: int = 4096) -> None:
    """Means of the terms over all rows go to the intercept: only centred terms can be compared between fits."""
    total = torch.zeros_like(head.means)
    for start in range(0, len(table), chunk):
        part = slice(start, start + chunk)
        wide = table[part].expand(head.settings.members, -1, -1)
        codes = None if latents is None else latents[part].expand(head.settings.members, -1, -1)
        total += head.raw_terms(wide, codes).sum(1)
    head.means.copy_(total / len(table))
