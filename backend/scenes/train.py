"""Trains `scenes-clip` as `cxr-clip` is trained: where things are first, then what captions mean."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from backend.contracts import OnStep, Step
from backend.errors import BadInput
from backend.image_text.train import About, Recipe, Run, card_of
from backend.models.clip import pair_of_card
from backend.scenes.data import DataRecipe, scene_corpus, scenes
from backend.scenes.judge import judge_scenes
from backend.training import WEIGHTS, forget_checkpoint, one_thread, write_weights

__all__ = ["RECIPES", "job", "train"]
RECIPES = {
    "scenes-clip": Recipe(
        images="rgb",
        side=96,
        image_layers=3,
        text_layers=2,
        stem=(24, 64),
        context_length=28,
        looking_steps=700,
        reading_steps=1200,
        roles=1.0,
    )
}


def train(
    name: str,
    seed: int = 0,
    on_step: OnStep = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    folder: str | Path = WEIGHTS,
    recipe: Recipe | None = None,
    pictures: DataRecipe | None = None,
) -> dict[str, Any]:
    """Draw the scenes, train, judge, and write weights (float16) and card.

    Args: as `backend.image_text.train.train`.
    Returns: the card.
    Raises: BadInput: no such name, or the checkpoint belongs to another run; ModelFault: the loss diverged.
    """
    if recipe is None and name not in RECIPES:
        raise BadInput(f"unknown model {name!r}; one of {', '.join(RECIPES)}", "name")
    recipe, pictures = recipe or RECIPES[name], pictures or DataRecipe()

    def drawn(done: int) -> None:
        if on_step is not None and done % 100 == 0:
            on_step(Step(0, recipe.looking_steps + recipe.reading_steps, f"drawing scenes, {done}"))

    corpus = scene_corpus(scenes("train", pictures.train, pictures.seed, drawn))
    run = Run(name, seed, recipe, corpus, torch.device(device), None if checkpoint is None else Path(checkpoint))
    run.fit(on_step)
    state, rounded = run.rounded()
    pair = pair_of_card(name, run.network, rounded.to(device))
    judged = judge_scenes(pair, scenes("test", pictures.test, pictures.seed))
    card = card_of(run, ABOUT, rounded, judged, pictures=asdict(pictures))
    card = write_weights(folder, card["key"], state, card)
    forget_checkpoint(run.checkpoint)
    return card


ABOUT = About(
    data="drawn scenes: two to four shapes of four forms and five colours on a light ground, in three scenes of "
    "ten one of them twice; captions name things, where they lie, how two of them stand to each other, how "
    "many, or what lacks",
    method="image tower first, supervised by masks for each token and by kinds, places and relations on the pooled "
    "feature; then, with that tower frozen, text tower and projection by a contrastive loss with several "
    "positives and with captions of the same words that say another thing (places and relations turned "
    "round), while the text tower is also asked what a caption says of each thing",
    limits="It knows four shapes in five colours on a plain ground, one by one and in pairs of a kind. Which of two "
    "things is left of or above the other it tells the right way round in about five cases of six, not more: "
    "see its figures.",
    licence="code, weights and pictures: as Prism",
)


def job(args: Mapping[str, Any], context: Any) -> dict[str, Any]:
    """`train` as a job: goes on from its checkpoint. `context` is a `backend.jobs.JobContext`."""
    from backend.runtime import choose_device

    with one_thread():
        checkpoint = context.folder / "checkpoint.pt"
        return train(args["name"], args["seed"], context.on_step, checkpoint, choose_device(), WEIGHTS)
