"""The controls of the page of additive decoders: each returns a value that can be used."""

import dataclasses

import streamlit as st

from pages.decoder.board import ANSWERS
from pages.decoder.settings import (
    OWN,
    SEEDS,
    SIDES,
    Case,
    Settings,
    brought_cases,
    cases_here,
    is_here,
    read_query,
    seeded,
    title_of,
)
from pages.shared.controls import begin
from pages.shared.page_settings import PageSettings
from pages.shared.session import recall, remember

SHOWN_AT_FIRST = 3
_SETTINGS = PageSettings(ANSWERS, read_query, first_control="case")
first_settings, note_settings = _SETTINGS.first, _SETTINGS.note
refuse, say_refusal = _SETTINGS.refuse, _SETTINGS.say_refusal


def choose_case(settings: Settings, own: Case | None) -> Case:
    """The training support, by name; the visitor's own trainings among them."""
    cases = cases_here() | brought_cases() | ({OWN: own} if own else {})
    wanted = settings.case if settings.case in cases else next(iter(cases))
    begin("decoder.case", wanted)
    if recall("decoder.case") not in cases:
        remember("decoder.case", wanted)
    key = st.selectbox(
        "Training support",
        list(cases),
        format_func=lambda key: cases[key].title,
        key="decoder.case",
        help="Which combinations of latents the decoders were trained on.",
    )
    say_refusal("case")
    return cases[key]


def choose_decoders(settings: Settings, case: Case) -> tuple[str, ...]:
    """Which decoders stand side by side; keys without their seed."""
    if len(case.decoders) == 1:
        return case.decoders
    wanted = [key for key in settings.kinds if key in case.decoders]
    unknown = [key for key in settings.kinds if key not in case.decoders and settings.case == case.key]
    if unknown:
        sentence = f"unknown decoder {unknown[0]!r} for this support (from the address; others are shown)"
        refuse("decoders", sentence)
    begin(f"decoder.kinds.{case.key}", wanted or list(case.decoders[:SHOWN_AT_FIRST]))
    chosen = st.pills(
        "Decoders side by side",
        case.decoders,
        selection_mode="multi",
        format_func=lambda key: title_of(case, key),
        key=f"decoder.kinds.{case.key}",
        help="All trained on the same scenes, with the same steps, starts, selection rule and number of parameters.",
    )
    say_refusal("decoders")
    return tuple(key for key in case.decoders if key in chosen) or case.decoders[:1]


def choose_training_seed(settings: Settings, keys: tuple[str, ...]) -> int:
    """Which training seed is shown, where several ship."""
    seeds = [seed for seed in range(SEEDS) if all(is_here(seeded(key, seed)) for key in keys)]
    if len(seeds) < 2:
        return 0
    begin("decoder.training_seed", settings.training_seed)
    if recall("decoder.training_seed") not in seeds:
        remember("decoder.training_seed", seeds[0])
    seed = st.segmented_control(
        "Training seed",
        seeds,
        key="decoder.training_seed",
        required=True,
        help="The same recipe from another seed: another start, other scenes.",
    )
    say_refusal("training_seed")
    return seed


def choose_grid(settings: Settings, n_objects: int, is_scalar: bool) -> Settings:
    """How many scenes, which objects on the axes, and which scenes lend their blocks."""
    begin("decoder.rows", settings.rows)
    begin("decoder.columns", settings.columns)
    with st.container(horizontal=True):
        rows = st.number_input("Rows", *SIDES, key="decoder.rows", help="Values of the block that varies upwards.")
        columns = st.number_input("Columns", *SIDES, key="decoder.columns", help="Values of the block along a row.")
    say_refusal("grid")
    settings = dataclasses.replace(settings, rows=int(rows), columns=int(columns))
    if n_objects > 2:
        settings = _choose_objects(settings, n_objects)
    else:
        settings = dataclasses.replace(settings, down=0, across=1)
    if not is_scalar:
        begin("decoder.seed", settings.seed)
        seed = st.number_input(
            "Seed", 0, 2**31 - 1, key="decoder.seed", help="Which training scenes lend the blocks of the grid."
        )
        say_refusal("seed")
        settings = dataclasses.replace(settings, seed=int(seed))
    return settings


def _choose_objects(settings: Settings, n_objects: int) -> Settings:
    begin("decoder.objects", (settings.down, settings.across))
    pairs = [(a, b) for a in range(n_objects) for b in range(n_objects) if a != b]
    down, across = st.selectbox(
        "Objects on the axes",
        pairs,
        format_func=lambda pair: f"{pair[0] + 1} up, {pair[1] + 1} across",
        key="decoder.objects",
        help="The others stand still.",
    )
    say_refusal("objects")
    return dataclasses.replace(settings, down=down, across=across)
