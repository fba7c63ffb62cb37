"""Reports in words: a sentence for each finding, negations, normal findings, and prompts that ask for a finding.

Sides are the patient's. Every set of phrasings is split once for ever: `training` and `held_out`, so that a
model can be judged on sentences that it has never read.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.radiographs.shapes import Finding

_LOBES = {
    "upper": ("upper lobe", "upper lung zone", "upper lung"),
    "middle": ("middle lobe", "mid lung", "mid lung zone"),
    "lower": ("lower lobe", "lower lung zone", "lung base"),
}


@dataclass(frozen=True, slots=True)
class Phrases:
    """How a finding is written.

    Fields in braces: side, lobe (with its side), size, mm, name (one of `names`).
    Attributes:
        names: what it is called; the first is the plainest.
        training, held_out: sentences that state it.
        absent: sentences, other than "no NAME", that deny it.
        only_names_for: pairs of (place, names): what a finding in that place is called instead.
    """

    names: tuple[str, ...]
    training: tuple[str, ...]
    held_out: tuple[str, ...]
    absent: tuple[str, ...] = ()
    names_of_place: tuple[tuple[str, tuple[str, ...]], ...] = ()


PHRASES: dict[str, Phrases] = {
    "nodule": Phrases(
        ("lung nodule", "pulmonary nodule", "nodule", "nodular opacity"),
        (
            "there is a {name} in the {lobe}.",
            "there is a small {name} in the {lobe}.",
            "round {name} in the {lobe}.",
            "well-defined {name} projecting over the {lobe}.",
            "{lobe} nodule.",
            "a {mm} mm nodule projects over the {lobe}.",
            "{side} {name}.",
        ),
        ("a {name} is seen in the {lobe}.", "{lobe} {name}, {mm} mm.", "small {name} over the {lobe}."),
    ),
    "mass": Phrases(
        ("lung mass", "mass", "mass-like opacity"),
        (
            "there is a {name} in the {lobe}.",
            "there is a large {name} in the {lobe}.",
            "rounded {name} in the {lobe}.",
            "{lobe} mass.",
            "large {name} in the {lobe} concerning for malignancy.",
            "{side} {name}.",
        ),
        ("a large {name} is seen in the {lobe}.", "{lobe} {name} suspicious for malignancy.", "mass over the {lobe}."),
    ),
    "consolidation": Phrases(
        ("consolidation", "pneumonia", "airspace opacity"),
        (
            "patchy consolidation in the {lobe}.",
            "focal opacification in the {lobe}.",
            "airspace opacity in the {lobe}.",
            "hazy {name} in the {lobe}.",
            "{lobe} {name}.",
            "consolidation in the {lobe} concerning for pneumonia.",
            "findings compatible with {lobe} pneumonia.",
            "{side} {name}.",
        ),
        (
            "there is {name} in the {lobe}.",
            "focal consolidation is seen in the {lobe}.",
            "{lobe} opacity compatible with pneumonia.",
        ),
    ),
    "effusion": Phrases(
        ("pleural effusion", "effusion"),
        (
            "{size} {side} pleural effusion.",
            "there is a {size} {side} {name}.",
            "{size} {side}-sided pleural effusion.",
            "{size} {side} effusion with adjacent atelectasis.",
            "blunting of the {side} costophrenic angle consistent with effusion.",
            "{side} {name}.",
        ),
        (
            "a {size} {name} is seen on the {side}.",
            "{side}-sided {name}, {size}.",
            "there is blunting of the {side} costophrenic angle, {size} effusion.",
        ),
    ),
    "pneumothorax": Phrases(
        ("pneumothorax", "collapsed lung"),
        (
            "{size} {side} pneumothorax.",
            "there is a {size} {side} pneumothorax.",
            "{size} {side}-sided pneumothorax.",
            "{side} pneumothorax with partial collapse of the {side} lung.",
            "{side} apical pneumothorax.",
            "{side} {name}.",
        ),
        (
            "a {size} pneumothorax is seen on the {side}.",
            "{side}-sided pneumothorax, {size}.",
            "there is pneumothorax with collapse of the {side} lung.",
        ),
    ),
    "cardiomegaly": Phrases(
        ("cardiomegaly", "enlarged heart", "enlarged cardiac silhouette"),
        (
            "{size} cardiomegaly.",
            "{name}.",
            "the heart is enlarged.",
            "the cardiac silhouette is enlarged.",
            "the heart is {size} enlarged.",
            "enlarged cardiomediastinal silhouette.",
        ),
        ("there is {size} cardiomegaly.", "the cardiomediastinal silhouette is enlarged.", "{size} enlarged heart."),
        (
            "heart size is normal.",
            "the cardiac silhouette is normal in size.",
            "the cardiomediastinal silhouette is within normal limits.",
            "normal heart size.",
        ),
    ),
    "oedema": Phrases(
        ("pulmonary edema", "edema", "pulmonary oedema", "interstitial edema"),
        (
            "{size} {name}.",
            "diffuse bilateral interstitial opacities consistent with pulmonary edema.",
            "pulmonary vascular congestion with interstitial edema.",
            "{size} interstitial {name}.",
            "bilateral hazy opacities compatible with edema.",
            "{name}.",
        ),
        (
            "there is {size} {name}.",
            "bilateral interstitial opacities compatible with pulmonary edema.",
            "vascular congestion and {size} edema.",
        ),
    ),
    "atelectasis": Phrases(
        ("atelectasis", "linear atelectasis", "plate-like atelectasis"),
        (
            "linear atelectasis at the {side} lung base.",
            "{side} basilar atelectasis.",
            "plate-like atelectasis in the {side} lower lobe.",
            "subsegmental atelectasis at the {side} base.",
            "{side} {name}.",
        ),
        (
            "there is {name} at the {side} base.",
            "{side} lower lobe subsegmental atelectasis.",
            "{name} is seen at the {side} lung base.",
        ),
    ),
    "pacemaker": Phrases(
        ("pacemaker", "cardiac device"),
        (
            "{side} chest wall {name} with leads in the heart.",
            "{side}-sided {name} in place.",
            "a {side} pectoral {name} is present with intact leads.",
            "{side} {name} with leads terminating in the right ventricle.",
            "{side} {name}.",
        ),
        (
            "there is a {side} chest wall {name}.",
            "{side} pectoral {name} in place.",
            "a {name} is seen on the {side} with intact leads.",
        ),
        names_of_place=(("icd", ("icd", "cardiac device")),),
    ),
    "endotracheal tube": Phrases(
        ("endotracheal tube", "et tube"),
        (
            "{name} terminates above the carina.",
            "the {name} is in standard position.",
            "{name} in place.",
            "{name} tip is above the carina.",
        ),
        ("an {name} is present above the carina.", "there is an {name} in standard position."),
    ),
    "central line": Phrases(
        ("central venous catheter", "central line"),
        (
            "right internal jugular {name} with tip in the superior vena cava.",
            "right {name} terminates in the svc.",
            "right ij {name} in place.",
            "right-sided {name} with tip in the svc.",
        ),
        (
            "a right {name} terminates in the superior vena cava.",
            "right jugular {name} with tip in the svc.",
        ),
        names_of_place=(("picc", ("picc", "picc line")),),
    ),
    "gastric tube": Phrases(
        ("nasogastric tube", "enteric tube", "gastric tube"),
        (
            "{name} courses below the diaphragm into the stomach.",
            "{name} tip in the stomach.",
            "{name} in place.",
            "{name} terminates in the stomach.",
        ),
        ("an {name} is present with tip in the stomach.", "the {name} courses into the stomach."),
    ),
}

_NORMAL = (
    "the lungs are clear.",
    "no acute cardiopulmonary process.",
    "lungs are clear bilaterally.",
    "normal chest radiograph.",
    "no acute cardiopulmonary abnormality.",
)
_DENIED = {
    "training": ("no {}.", "no evidence of {}.", "there is no {}.", "without {}.", "{} is not seen.", "{} is absent."),
    "held_out": ("there is no evidence of {}.", "{} is not present."),
}
_VOLUMES = {
    "low": ("low lung volumes.", "lung volumes are low."),
    "high": ("the lungs are hyperinflated.", "hyperinflated lungs."),
}
_ASKED = {
    "training": ("{}.", "there is {}.", "{} is present."),
    "held_out": ("findings consistent with {}.", "{} is visible."),
}
# Words of real reports that say nothing about which finding there is, nor where. Training strews them in.
NEUTRAL = (
    "visible seen noted suspicious stable unchanged new chronic likely possible again today patient view portable "
    "compared with prior study since exam image shows demonstrates suggests represents finding also"
)
# Words that ours do not have, or seldom: known to the tokenizer, meaningless to the model.
OTHER_TEXT = NEUTRAL + (
    " tube line catheter fluid infiltrate infection acute increased decreased both chest xray heart pa ap lateral "
    "findings impression was and or not side"
)
_ADVERBS = {"mild": "mildly", "moderate": "moderately", "severe": "severely"}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of a report, and which finding of the picture it is about; None: none (a negation, say)."""

    text: str
    finding: int | None = None


def sentence_for(finding: Finding, generator: np.random.Generator, split: str = "training") -> str:
    """State a finding in one of the phrasings of a split, "training" or "held_out"."""
    phrases = PHRASES[finding.kind]
    names = dict(phrases.names_of_place).get(finding.place, phrases.names)
    template = _choose(getattr(phrases, split), generator)
    return _fill(template, finding, _choose(names, generator), generator)


def _fill(template: str, finding: Finding, name: str, generator: np.random.Generator) -> str:
    lobe = f"{finding.side} {_choose(_LOBES[finding.place], generator)}" if finding.place in _LOBES else ""
    size = _ADVERBS[finding.size] if "heart is {size}" in template or "{size} enlarged" in template else finding.size
    filled = template.format(side=finding.side, lobe=lobe, size=size, mm=round(finding.size_mm), name=name)
    if finding.kind == "central line" and finding.place == "picc":
        filled = filled.replace("internal jugular ", "").replace("jugular ", "").replace("ij ", "")
    return filled.replace("a atelectasis", "atelectasis").replace("an nasogastric", "a nasogastric").replace(
        "an gastric", "a gastric"
    )  # fmt: skip


def _choose(options: Sequence[str], generator: np.random.Generator) -> str:
    return options[int(generator.integers(len(options)))]


def statements(kind: str, split: str = "training", side: str = "") -> list[str]:
    """Prompts that ask for a finding: every name in every frame of the split, with or without a side.

    >>> statements("atelectasis", "held_out", "left")[0]
    'findings consistent with left atelectasis.'
    """
    phrases = PHRASES[kind]
    names = (*phrases.names, *itertools.chain.from_iterable(names for _, names in phrases.names_of_place))
    return [frame.format(f"{side} {name}".strip()) for name in names for frame in _ASKED[split]]


def denials(kind: str, split: str = "training") -> list[str]:
    """Sentences that deny a finding."""
    found = [frame.format(name) for name in PHRASES[kind].names for frame in _DENIED[split]]
    return found + (list(PHRASES[kind].absent) if split == "training" else [])


def all_phrasings() -> list[str]:
    """Everything that may be written, with the fields filled in every way: for the vocabulary."""
    fields = {"side": "left right left-sided right-sided", "lobe": " ".join(itertools.chain(*_LOBES.values()))}
    fields |= {"size": "small moderate large mild severe " + " ".join(_ADVERBS.values()), "mm": "", "name": ""}
    found = [*_NORMAL, *itertools.chain(*_VOLUMES.values())]
    for kind, phrases in PHRASES.items():
        found += [template.format(**fields) for template in (*phrases.training, *phrases.held_out)]
        for split in ("training", "held_out"):
            found += statements(kind, split) + denials(kind, split)
    return found


def write_report(
    findings: Sequence[Finding], volume: str, generator: np.random.Generator, split: str = "training"
) -> list[Sentence]:
    """A report of everything that is there and some of what is not, in any order.

    Args: volume: of the lungs, "low", "high" or "".
    """
    present = {finding.kind for finding in findings}
    stated = [Sentence(sentence_for(finding, generator, split), k) for k, finding in enumerate(findings)]
    others = _deny_some(present, generator)
    if not findings:
        stated = [Sentence(_choose(_NORMAL, generator))]
    elif volume and generator.random() < 0.35:
        others.append(Sentence(_choose(_VOLUMES[volume], generator)))
    report = stated + others
    if generator.random() < 0.4:
        report = [report[k] for k in generator.permutation(len(report))]
    return report


_DENIED_OFTEN = {"consolidation": 1.6, "effusion": 2.0, "pneumothorax": 2.0, "cardiomegaly": 1.0, "oedema": 1.2}


def _deny_some(present: set[str], generator: np.random.Generator) -> list[Sentence]:
    """Up to two sentences that deny what is absent, in the proportions in which reports do."""
    n_sentences = int(generator.integers(0, 3))
    absent = [kind for kind in PHRASES if kind not in present]
    found = []
    if n_sentences and generator.random() < 0.85:
        weights = np.array([_DENIED_OFTEN.get(kind, 0.7) for kind in absent])
        n = min(len(absent), int(generator.integers(1, 5)))
        kinds = generator.choice(len(absent), n, replace=False, p=weights / weights.sum())
        names = [_choose(PHRASES[absent[k]].names, generator) for k in kinds]
        listed = names[0] if n == 1 else ", ".join(names[:-1]) + " or " + names[-1]
        found.append(Sentence(_choose(_DENIED["training"], generator).format(listed)))
    if "cardiomegaly" not in present and generator.random() < 0.35:
        found.append(Sentence(_choose(PHRASES["cardiomegaly"].absent, generator)))
    return found[:n_sentences]
