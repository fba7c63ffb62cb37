"""A sound beside a picture: which part of the spectrogram and which region of the picture match each other."""

import dataclasses
import functools

import streamlit as st

from backend.catalog import PAIR_METHODS
from backend.contracts import PairMapRequest, Result
from backend.image_text.examples import FOLDER
from pages.pairs.board import Board
from pages.pairs.explained import axes_of
from pages.pairs.inputs import PICTURE_TYPES, take_file
from pages.pairs.material import Picture, Sound, example_picture, examples, small, upload_picture
from pages.pairs.views import pixels
from pages.shared.answers import Answer, Refusal
from pages.shared.controls import refused
from pages.shared.figures import Panel, format_value
from pages.shared.gallery import Thumbnail, gallery
from pages.shared.map_grid import Arrangement, arranged_maps
from pages.shared.session import recall, remember


def show_heard_and_seen(board: Board) -> None:
    """Two maps that need each other; nothing where no sound is on the table or the model sees nothing."""
    if not isinstance(board.picture, Sound):
        return
    picture = _shown_picture(board)
    request = _request(board, picture)
    board.others.append(picture)
    answer = board.answer(request)
    if isinstance(answer, Refusal) and answer.field == "model":
        return
    st.markdown("#### The sound beside a picture")
    st.caption(
        "No words here: the map over the spectrogram shows what must be heard for sound and picture to match, the map "
        "over the picture what must be seen. Choose a picture, or bring your own."
    )
    _choose_example(picture)
    _show_maps(board, picture, board.asked(request))
    _take_picture()


def _request(board: Board, picture: Picture) -> PairMapRequest:
    method, settings = board.settings.methods[0], board.settings
    params = settings.params_of(method)
    about = {"method": method, "model": settings.model, "params": params, "seed": settings.seed}
    return PairMapRequest(**about, **board.picture.given, **picture.given)


# ----------------------------------------------------------------- which picture
def _shown_picture(board: Board) -> Picture:
    """The person's own, the one that was chosen, or that of the example on the table."""
    chosen = recall("pairs.beside")
    if isinstance(chosen, Picture):
        return chosen
    pictured = _pictured()
    key = chosen if chosen in pictured else board.picture.example
    return _example(key if key in pictured else next(iter(pictured)))


def _choose_example(shown: Picture) -> None:
    pressed = gallery("Pictures of what makes a sound", _thumbnails(), shown.example, key="pairs.beside_gallery")
    if pressed and pressed != shown.example:
        remember("pairs.beside", pressed)
        st.rerun()


def _take_picture() -> None:
    own = take_file(
        "pairs.beside_upload",
        "Your own picture beside the sound",
        PICTURE_TYPES,
        upload_picture,
        "Stays in memory, as the sound does.",
    )
    if own is not None:
        remember("pairs.beside", own)
        st.rerun()


@functools.cache
def _pictured() -> dict[str, str]:
    """Pictures that ship, by the key of their sound."""
    return {example.key: example.picture for example in examples("sounds-clip") if example.picture}


@functools.cache
def _thumbnails() -> tuple[Thumbnail, ...]:
    return tuple(
        Thumbnail(example.key, title, f"Drawing of {title}", small(FOLDER / example.picture))
        for example in examples("sounds-clip")
        if example.picture
        for title in [", ".join(found.kind for found in example.findings)]
    )


def _example(key: str) -> Picture:
    found = example_picture(key)
    named = found.alt.rpartition("Spectrogram of a sound, ")[2]
    taken = upload_picture((FOLDER / _pictured()[key]).read_bytes())
    return dataclasses.replace(taken, alt=f"Drawing of {named}", example=key)


# ----------------------------------------------------------------- the maps
def _show_maps(board: Board, picture: Picture, answer: Answer | None) -> None:
    if isinstance(answer, Refusal):
        refused(answer.sentence)
        return
    size = answer.arrays["image_map"].shape if answer is not None and "image_map" in answer.arrays else (64, 64)
    heard, seen = st.columns([5, 3], gap="medium")
    with heard:
        _show(board, "audio", "What is heard", pixels(board), board.picture.alt, answer)
    with seen:
        _show(board, "image", "What is seen", picture.framed(size), picture.alt, answer)
    if answer is not None:
        st.caption(f"Cosine of sound and picture {format_value(float(answer.values['cosine']))}. {_scales(answer)}")


def _show(board: Board, modality: str, title: str, shown, alt: str, answer: Result | None) -> None:
    spec = PAIR_METHODS[board.settings.methods[0]]
    values = None if answer is None else answer.arrays.get(f"{modality}_map")
    is_sound = modality == "audio"
    if values is None:
        message = "" if answer is None else f"{spec.title} explains no {'sound' if is_sound else 'image'}"
        panel = Panel(f"beside-{modality}", title, None, spec.signed, spec.unit, "", message)
    else:
        upright = values[::-1] if is_sound else values  # highest frequency on top
        after = answer.quality.get(f"{modality}_fit_after")
        caption = "" if after is None else f"cosine kept {format_value(after)}"
        panel = Panel(f"beside-{modality}", title, upright, spec.signed, answer.unit, caption, origin=spec.origin)
    arranged_maps(
        shown,
        [panel],
        board.settings.display,
        Arrangement("large", with_image=False, with_tools=False, axes=axes_of(board.seen) if is_sound else None),
        key=f"pairs.beside.{modality}",
        description=alt,
    )


def _scales(answer: Result) -> str:
    return f"Each map has its own scale, in {answer.unit}: cells of a spectrogram and of a picture differ in size."
