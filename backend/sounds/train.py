"""Trains `sounds-clip`: sounds and captions as `cxr-clip` is trained, then pictures against both.

The audio tower learns what sounds where and when, then text tower and projection learn by contrast; both are frozen,
and the picture tower learns to lie where the clip that a picture belongs to and a caption of it already lie.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.image_text import train as shared
from backend.models.clip import build_network, pair_of_card
from backend.sounds.captions import noun, sentence
from backend.sounds.data import DataRecipe, clips, picture_of, sound_corpus
from backend.sounds.judge import embed_clips, judge_sounds
from backend.sounds.pictures import SIDE
from backend.sounds.synthesis import SPECTROGRAM, Clip
from backend.training import WEIGHTS, forget_checkpoint, one_thread, write_weights

__all__ = ["RECIPES", "Recipe", "job", "train"]
_SCALE = 20.0  # of cosines in the pictures' loss


@dataclass(frozen=True, slots=True)
class Recipe(shared.Recipe):
    """The shared recipe for sounds and captions, and what the picture tower needs beside it."""

    images: str = "spectrogram"
    image_layers: int = 2
    looking_batch: int = 48
    text_layers: int = 2
    stem: tuple[int, ...] = (16, 48)
    context_length: int = 24
    looking_steps: int = 700
    reading_steps: int = 900
    roles: float = 1.0
    picture_layers: int = 2
    picture_steps: int = 300
    picture_batch: int = 64
    picture_rate: float = 1e-3

    def network(self, words: list[str]) -> dict[str, Any]:
        """Of a CLIP whose visual tower listens: what the shared run trains."""
        network = shared.Recipe.network(self, words)
        network["vision_cfg"]["image_size"] = [SPECTROGRAM.n_mels, SPECTROGRAM.n_frames]
        return network

    def whole_network(self, words: list[str]) -> dict[str, Any]:
        """Of all three towers."""
        network = self.network(words)
        listening = network["vision_cfg"]
        seeing = {**listening, "image_size": SIDE, "layers": self.picture_layers}
        parts = {"vision_cfg": seeing, "audio_cfg": listening, "images": "rgb", "spectrogram": asdict(SPECTROGRAM)}
        return {**network, **parts}


RECIPES = {"sounds-clip": Recipe()}


def train(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: Recipe | None = None,
    material: DataRecipe | None = None,
) -> dict[str, Any]:
    """Make the clips, train the three towers, judge, and write weights (float16) and card.

    Args: as `backend.image_text.train.train`; the checkpoint covers sounds and captions, the pictures' minute does not
        need one.
    Returns: the card.
    Raises: BadInput: no such name, or the checkpoint belongs to another run; ModelFault: the loss diverged.
    """
    if recipe is None and name not in RECIPES:
        raise BadInput(f"unknown model {name!r}; one of {', '.join(RECIPES)}", "name")
    recipe, material, device = recipe or RECIPES[name], material or DataRecipe(), torch.device(device)
    total = recipe.looking_steps + recipe.reading_steps + recipe.picture_steps

    def tell(done: int, message: str) -> None:
        if on_step is not None:
            on_step(Step(done, total, message))

    made = clips("train", material.train, material.seed, lambda done: tell(0, f"making sounds, {done}"))
    path = None if checkpoint is None else Path(checkpoint)
    run = shared.Run(name, seed, recipe, sound_corpus(made), device, path)
    run.fit(lambda step: tell(step.done, step.message))
    module, network = _joined(run, recipe, seed)
    seen = recipe.looking_steps + recipe.reading_steps
    learn_pictures(
        module, network, made, recipe, seed, lambda done, loss: tell(seen + done, f"pictures, loss {loss:.3f}")
    )
    kept = module.state_dict().items()
    state = {key: tensor.half() for key, tensor in kept if not key.startswith("normalise")}
    module.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=False)
    judged = judge_sounds(pair_of_card(name, network, module), material)
    card = shared.card_of(run, ABOUT, module, judged, network, material=asdict(material))
    card = write_weights(folder, card["key"], state, card)
    forget_checkpoint(run.checkpoint)
    return card


ABOUT = shared.About(
    data="synthesised clips of four seconds with one or two of eight sounds, placed in time, one behind the other "
    "or at once, over noise; drawn pictures of what makes them; captions name them, when they are heard, in "
    "which order, or what is not heard",
    method="audio tower first, supervised by where in time and frequency each sound is and, for each token, in which "
    "fifth of the clip it is heard, and by kind, time and order on the pooled feature; then, with that tower frozen, "
    "text tower and projection by a contrastive loss with several positives and with captions of the same words "
    "that say another thing (times and orders turned round), while the text tower is also asked what a caption says "
    "of each sound; then the picture tower by the same loss against both",
    limits="It knows eight synthesised sounds: a recorded dog is no dog that it has heard. Which of two sounds comes "
    "first it was taught, and is judged on, where their middles are half a second apart or more.",
    licence="code, weights, sounds and pictures: as Prism",
)


# ----------------------------------------------------------------- pictures
def _joined(run: shared.Run, recipe: Recipe, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """All three towers: the run's visual tower is the audio tower, the picture tower is new."""
    network = recipe.whole_network(run.network["words"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        module = build_network(network).to(run.device)
    trained = {
        name.replace("visual.", "audio.", 1): tensor
        for name, tensor in run.module.state_dict().items()
        if not name.startswith("normalise")
    }
    own = {name: tensor for name, tensor in module.state_dict().items() if name.startswith("visual.")}
    module.load_state_dict({**own, **trained})
    return module, network


def learn_pictures(
    module: nn.Module,
    network: dict[str, Any],
    made: list[Clip],
    recipe: Recipe,
    seed: int,
    on_step: Callable[[int, float], None] = lambda done, loss: None,
) -> None:
    """Train the picture tower against embedded clips and captions, which stay; the module ends in evaluation mode.

    A picture shows what sounds and not when: clips of the same kinds fit it, and captions that name one of its kinds.
    """
    pair, visual = pair_of_card("", network, module), module.visual
    heard = embed_clips(pair, made)
    visual.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(visual.parameters(), recipe.picture_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.picture_rate, recipe.picture_steps, pct_start=0.1)
    for step in range(recipe.picture_steps):
        generator = np.random.default_rng([seed, 6, step])
        rows = generator.integers(len(made), size=recipe.picture_batch)
        kinds = [frozenset(sound.kind for sound in made[row].sounds) for row in rows]
        pictures = np.stack([picture_of(made[row], generator).transpose(2, 0, 1) for row in rows])
        named = [sorted(kind)[int(generator.integers(len(kind)))] for kind in kinds]
        with torch.no_grad():
            read = pair.embed_texts([sentence(kind) if generator.random() < 0.5 else noun(kind) for kind in named])
        normalised = module.normalise(torch.from_numpy(pictures).to(pair.device).float() / 255)
        seen = F.normalize(visual(normalised), dim=-1)
        loss = shared.contrast(
            _SCALE * seen @ read.T, _fits([[name in kind for name in named] for kind in kinds], seen)
        )
        loss = loss + shared.contrast(
            _SCALE * seen @ heard[rows].T, _fits([[kind == other for other in kinds] for kind in kinds], seen)
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(visual.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step + 1, float(loss.detach()))
    module.eval().requires_grad_(False)


def _fits(rows: list[list[bool]], like: Tensor) -> Tensor:
    return torch.tensor(rows, device=like.device)


def job(args: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """`train` as a job: goes on from its checkpoint. `context` is a `backend.jobs.JobContext`."""
    from backend.runtime import choose_device

    with one_thread():
        checkpoint = context.folder / "checkpoint.pt"
        return train(args["name"], args["seed"], context.on_step, checkpoint, choose_device(), WEIGHTS)
