"""Radiographs with findings and a report: many variants of one pose, since only the findings' shares change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from backend.radiographs import display, findings
from backend.radiographs.ct import Chest
from backend.radiographs.pose import cast, sample_pose
from backend.radiographs.reports import Sentence, write_report
from backend.radiographs.shapes import Finding

HOW_MANY = (0.12, 0.34, 0.32, 0.22)  # probabilities of 0, 1, 2, 3 findings
# How often each kind is asked for; what is rejected often is asked for more often.
WEIGHTS = {
    "nodule": 2.2,
    "mass": 1.4,
    "consolidation": 1.6,
    "effusion": 1.2,
    "pneumothorax": 1.1,
    "cardiomegaly": 0.8,
    "oedema": 0.9,
    "atelectasis": 1.3,
    "pacemaker": 0.85,
    "endotracheal tube": 1.1,
    "central line": 0.9,
    "gastric tube": 0.9,
}


@dataclass(frozen=True)
class Radiograph:
    """A picture, (N, N) uint8, with everything that is known about it.

    `findings` have lost their change of the integrals; `report` says which finding a sentence is about.
    """

    pixels: np.ndarray
    findings: tuple[Finding, ...]
    report: tuple[Sentence, ...]
    volume: str = ""

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.report)


def simulate(
    chest: Chest, generator: np.random.Generator, variants: int = 20, side: int = 128, phrasing: str = "training"
) -> Iterator[Radiograph]:
    """Variants of one random pose, each with its own findings, exposure and report.

    Args: side: of the picture, pixels. phrasing: "training" or "held_out".
    """
    view = cast(chest, sample_pose(generator), side)
    ground = findings.background_of(view)
    for _ in range(variants):
        drawn = []
        for kind in choose_kinds(generator):
            found = findings.draw(kind, view, ground, generator)
            if found is not None:
                drawn.append(found)
        pixels = display.render(view.integrals + sum(found.change for found in drawn), generator)
        report = write_report(drawn, view.pose.volume, generator, phrasing)
        kept = tuple(replace(found, change=np.empty((0, 0))) for found in drawn)
        yield Radiograph(pixels, kept, tuple(report), view.pose.volume)


def choose_kinds(generator: np.random.Generator) -> list[str]:
    """Up to three different kinds; effusion and pneumothorax seldom together."""
    n = int(generator.choice(len(HOW_MANY), p=HOW_MANY))
    weights = np.array([WEIGHTS[kind] for kind in findings.KINDS])
    chosen = list(generator.choice(findings.KINDS, n, replace=False, p=weights / weights.sum()))
    if {"effusion", "pneumothorax"} <= set(chosen) and generator.random() < 0.7:
        chosen.remove("effusion")
    return [str(kind) for kind in chosen]
