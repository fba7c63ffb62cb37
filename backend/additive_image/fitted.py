"""A fitted additive image model with its data: what requests work on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.additive_image import data
from backend.additive_image.data import HELD_OUT_SEED, Dataset
from backend.additive_image.nam import AdditiveHead
from backend.catalog import ModelSpec
from backend.errors import BadInput
from backend.models import weights
from backend.models.autoencoders import read_card
from backend.models.coders import device_of
from backend.models.diffusion_autoencoder import DiffusionAutoencoder
from backend.runtime import HasBytes

CODED_ROWS = 4000  # whose codes lie beside the head, so that nobody needs to encode them again
_HEAD = "head."


class FittedModel(HasBytes):
    """An additive model, the rows it was fitted to and the codes of the first of them."""

    def __init__(
        self, spec: ModelSpec, card: dict[str, Any], head: AdditiveHead, dataset: Dataset, codes: Tensor, digest: str
    ) -> None:
        """codes: z_sem of the first rows, (k, latents)."""
        self.spec, self.card, self.head, self.dataset, self.codes, self.digest = (
            spec, card, head, dataset, codes, digest
        )  # fmt: skip
        self.probes: Any = None  # of attributes on codes, made when first asked for
        self.usual_errors: dict[Any, float] = {}  # of reconstruction, by the way of decoding; as above
        self.nbytes = sum(t.numel() * t.element_size() for t in (*head.parameters(), *head.buffers(), codes))

    @property
    def autoencoder(self) -> str:
        """Key of the autoencoder that makes the codes."""
        return self.card["autoencoder"]

    @property
    def terms(self) -> tuple[str, ...]:
        return self.dataset.terms

    def held_out(self, n: int, seed: int) -> tuple[Dataset, np.ndarray | None]:
        """Rows that nothing was fitted to, and their expected response on the link's scale, where it is known."""
        known = self.card["data"]
        name, seed = known["name"], known["seed"] + HELD_OUT_SEED + seed
        return data.make_dataset(name, n, seed), data.make_dataset(name, n, seed, noise=False).response

    def table(self, rows: list[int] | slice) -> Tensor:
        """(n, columns) of some rows."""
        return torch.from_numpy(np.ascontiguousarray(self.dataset.table[rows])).to(self.codes.device)


def load_fitted(spec: ModelSpec, folder: Path, device: torch.device) -> FittedModel:
    """Read a shipped model's head, its card and its data.

    Raises: NotAvailable: not fitted here yet; BadInput: the file is not the card's.
    """
    card = read_card(spec, folder)
    state, digest = weights.read_file(folder / spec.weights, card["sha256"])
    return build_fitted(spec, card, state, digest, device)


def build_fitted(
    spec: ModelSpec, card: dict[str, Any], state: Mapping[str, Tensor], digest: str, device: torch.device
) -> FittedModel:
    """The model that a card describes, with these weights and the drawn data that it was fitted to.

    Raises: BadInput: the card cannot be read, or the weights are not its own.
    """
    try:
        with torch.device("meta"):  # sizes first: a card may ask for more than there is
            _fit_head(AdditiveHead.from_card(card["head"]), spec, state, weights.check_fit)
        head = AdditiveHead.from_card(card["head"])
        dataset = data.make_dataset(card["data"]["name"], card["data"]["rows"], card["data"]["seed"])
    except (TypeError, KeyError, ValueError, RuntimeError, IndexError) as error:
        raise BadInput(f"the card cannot be read: {str(error).splitlines()[0][:160]}", "card") from error
    _fit_head(head, spec, state, weights.fit_state_dict)
    codes = state.get("codes", torch.zeros(0))
    if codes.ndim != 2 or codes.shape[1] != head.n_latents or not 0 < len(codes) <= len(dataset):
        raise BadInput(f"codes of shape {tuple(codes.shape)}; expected (rows, {head.n_latents})", "weights")
    if tuple(head.kinds) != tuple(len(column.categories) for column in dataset.columns):
        raise BadInput(f"the card's columns are not those of {card['data']['name']}", "card")
    return FittedModel(spec, card, head.to(device).eval().requires_grad_(False), dataset, codes.to(device), digest)


def read_head(
    spec: ModelSpec, card: dict[str, Any], folder: Path, device: torch.device
) -> tuple[AdditiveHead, Tensor, str]:
    """A head, the codes that lie beside it and the digest of their file. Raises: BadInput: it is not the card's."""
    state, digest = weights.read_file(folder / spec.weights, card["sha256"])
    head = AdditiveHead.from_card(card["head"])
    _fit_head(head, spec, state, weights.fit_state_dict)
    return head.to(device).eval().requires_grad_(False), state["codes"].to(device), digest


def _fit_head(
    head: AdditiveHead,
    spec: ModelSpec,
    state: Mapping[str, Tensor],
    fit: Callable[[torch.nn.Module, Mapping[str, Tensor], int, str], None],
) -> None:
    own = {name.removeprefix(_HEAD): tensor for name, tensor in state.items() if name.startswith(_HEAD)}
    fit(head, own, 0, spec.architecture)


def pack(head: AdditiveHead, codes: Tensor) -> dict[str, Tensor]:
    """The tensors that `load_fitted` reads back."""
    return {**{_HEAD + name: tensor for name, tensor in head.state_dict().items()}, "codes": codes[:CODED_ROWS]}


def to_images(pictures: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(n, H, W, 3) uint8 -> (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def encode_rows(autoencoder: DiffusionAutoencoder, dataset: Dataset, rows: slice, chunk: int = 500) -> Tensor:
    """z_sem of the images of some rows, (n, latents), a part at a time."""
    device = device_of(autoencoder)
    start, stop, _ = rows.indices(len(dataset))
    parts = [
        autoencoder.encode(to_images(dataset.images[i : min(i + chunk, stop)], device)).float()
        for i in range(start, stop, chunk)
    ]
    return torch.cat(parts)


def has_whole_numbers(model: FittedModel, column: int) -> bool:
    """Whether a numeric column counts something: all its values are whole numbers."""
    seen = model.dataset.table[:, column]
    return model.dataset.columns[column].kind == "numeric" and bool((seen == np.round(seen)).all())


def shape_table(model: FittedModel, column: int, points: int) -> np.ndarray:
    """A column's shape function, (k, 4): value, effect, low, high; categories stand for themselves.

    Numeric columns: at `points` values over their range, of whole numbers at whole numbers only: there are no rows
    between these, so nothing was learned there and nothing can be asked.
    """
    own = model.dataset.columns[column]
    seen = model.dataset.table[:, column]
    if own.kind == "categorical":
        values = np.arange(len(own.categories), dtype=np.float32)
    else:
        values = np.linspace(seen.min(), seen.max(), points, dtype=np.float32)
        if has_whole_numbers(model, column):
            span = float(seen.max()) - float(seen.min())
            whole = np.arange(seen.min(), seen.max() + 1) if span < points else np.round(values)
            values = np.unique(whole).astype(np.float32)
    found = model.head.shape_function(column, torch.from_numpy(values).to(model.codes.device))
    return np.column_stack([values, *(part.cpu().numpy() for part in (found.value, found.low, found.high))])


def true_shape(model: FittedModel, column: int, values: np.ndarray) -> np.ndarray | None:
    """A column's true effect at values of it, centred as the model's terms are; None: nobody knows it."""
    own = model.dataset.columns[column]
    if own.effect is None:
        return None
    return own.effect(values) - own.effect(model.dataset.table[:, column]).mean()


def true_image_effect(model: FittedModel, attributes: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The true effect of images with these attributes, centred as the model's is; None: nobody knows it.

    Args: attributes: measured or drawn, (n,) each; where one is missing that has an effect, nobody knows it either.
    """
    effect = model.dataset.image_effect
    if effect is None:
        return None
    try:
        return effect(attributes) - effect(model.dataset.attributes).mean()
    except KeyError:
        return None
