"""What is asked of the engine and what is known already: one answer per request, kept for this visitor."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from backend.contracts import (
    BlockTableRequest,
    DecoderFiguresRequest,
    DecodingRequest,
    LatentScatterRequest,
    OnStep,
    Request,
    Result,
)
from pages.shared.answers import Answers, Refusal

SCATTER_SCENES = 150  # of each kind: as many as have pictures
FIGURE_SCENES = 400
FINE_TABLE = 129  # values of a latent in the tables of masked decoders: masks turn steeply, and 65 err by .011
REDRAW_EVERY_S = 0.5


ANSWERS = Answers("decoder", at_most=120)
known, ask = ANSWERS.known, ANSWERS.ask


@dataclass(frozen=True, slots=True)
class Drawn:
    """One decoder with everything that is drawn of it."""

    key: str
    title: str
    scatter: Result
    grid: Result
    table: Result | None  # None: not asked for, or refused

    @property
    def kind(self) -> str:
        return self.grid.values["kind"]

    @property
    def permutation(self) -> list[int]:
        """True block of each learned one."""
        return self.scatter.values["permutation"]

    @property
    def block_size(self) -> int:
        return len(self.scatter.values["blocks"][0])


def draw(
    key: str,
    title: str,
    grid: tuple[int, int],
    objects: tuple[int, int],
    seed: int,
    on_step: OnStep = None,
    with_table: bool = True,
) -> Drawn | Refusal:
    """Ask for scatter, grid and tables of one decoder.

    Args: objects: true blocks on the rows and on the columns. with_table: also what the sliders need.
    """
    scatter = ask(LatentScatterRequest(key, n=SCATTER_SCENES), on_step)
    if isinstance(scatter, Refusal):
        return scatter
    permutation, blocks = scatter.values["permutation"], scatter.values["blocks"]
    if max(objects) >= len(blocks):
        objects = (0, 1)
    params = (
        ("along", "scenes"),
        ("column_block", permutation.index(objects[1])),
        ("row_block", permutation.index(objects[0])),
    )
    drawn = ask(DecodingRequest(key, grid=grid, params=params, seed=seed), on_step)
    if isinstance(drawn, Refusal):
        return drawn
    table = None
    if with_table:
        is_steep = drawn.values["kind"] == "masked" and max(map(len, blocks)) == 1
        size = FINE_TABLE if is_steep else 0
        answer = ask(BlockTableRequest(key, size=size), on_step)
        table = answer if isinstance(answer, Result) else None
    return Drawn(key, title, scatter, drawn, table)


def figures_request(key: str) -> DecoderFiguresRequest:
    return DecoderFiguresRequest(key, n=FIGURE_SCENES)


def work_off(requests: Iterable[Request], on_step: Callable[[Request], OnStep]) -> bool:
    """Ask for what is missing, a little at a time; returns whether there is something new to draw."""
    started, is_new = time.monotonic(), False
    for request in requests:
        if request in known():
            continue
        ask(request, on_step(request))
        is_new = True
        if time.monotonic() - started > REDRAW_EVERY_S:
            break
    return is_new
