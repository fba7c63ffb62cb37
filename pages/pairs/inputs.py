"""The controls of the image-text page: each returns a value that can be used, or says why it cannot."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import streamlit as st

from backend.catalog import PAIR_METHODS, PAIRS, ModelSpec
from backend.contracts import Params, Result
from backend.errors import BadInput, PrismError
from backend.limits import LIMITS, MIB
from pages.pairs.board import ANSWERS, forget_refusals, look
from pages.pairs.material import (
    NAMES,
    Picture,
    ReportText,
    Sound,
    example_picture,
    example_report,
    examples,
    find_example,
    own_report,
    read_text_file,
    thumbnails,
    upload_any,
)
from pages.pairs.settings import OWN, Settings, changed_only, read_query
from pages.shared.controls import begin, choose_model, draw_params, refused
from pages.shared.gallery import gallery
from pages.shared.page_settings import PageSettings
from pages.shared.paste import paste_into
from pages.shared.session import brought, escape, forget, recall, remember

Taken = TypeVar("Taken")

HEARD_S = 4.096  # at once, by the model that ships

MODELS_BY_NAME = ("open_clip:ViT-B-32/openai", "open_clip:RN50/openai", "clap:laion/clap-htsat-unfused")
PICTURE_TYPES = ["png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp", "dcm", "dicom"]
SOUND_TYPES = ["wav", "flac"]
_SETTINGS = PageSettings(ANSWERS, read_query, first_control="model", only_shown=("display", "box", "words"))
first_settings, note_settings = _SETTINGS.first, _SETTINGS.note
_refuse, _say_refusal = _SETTINGS.refuse, _SETTINGS.say_refusal


# ----------------------------------------------------------------- model and picture
@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before a model that has looked at it."""

    model: str
    picture: Picture
    seen: Result


def choose_scene(settings: Settings) -> Scene:
    """Model and picture, chosen; what cannot be used is said beside its control and leaves the previous scene."""
    wanted = _choose_model(settings)
    scene = _settle_model(settings, wanted)
    scene = _choose_picture(scene)
    remember("pairs.good_model", scene.model)
    remember("pairs.picture", scene.picture)
    return scene


def known_models() -> dict[str, ModelSpec]:
    """Pairs that ship, then the user's own."""
    return {**PAIRS, **brought("image_text")}


def _choose_model(settings: Settings) -> str:
    return choose_model(
        "pairs",
        settings.model,
        known_models(),
        MODELS_BY_NAME,
        on_change=forget_refusals,  # the network may be back
        help="Any model of open_clip can be typed in as open_clip:ARCHITECTURE/CHECKPOINT, any CLAP (sounds and texts) "
        "as clap:OWNER/NAME; a checkpoint of your own is named in the file of your models.",
    )


def _settle_model(settings: Settings, wanted: str) -> Scene:
    """The wanted model before the picture on the table, or the last good one if the wanted cannot be had."""
    picture = recall("pairs.picture") or _first_picture(settings, wanted)
    picture = _suited(picture, wanted)
    for model in dict.fromkeys(filter(None, (wanted, recall("pairs.good_model"), Settings().model))):
        with st.spinner(f"Looking with {model}", show_time=True):
            answer = look(model, picture)
        if isinstance(answer, Result):
            return Scene(model, picture, answer)
        refused(answer.sentence)
    st.stop()


def _suited(picture: Picture, model: str) -> Picture:
    """The picture on the table; instead of another model's example, the first of this model's own."""
    shown = examples(model)
    if not picture.example or not shown or find_example(picture.example) in shown:
        return picture
    return example_picture(first_example(model))


def _first_picture(settings: Settings, model: str) -> Picture:
    wanted = settings.example
    if wanted == OWN:
        _refuse("example", "the link was made with a picture of its sender, which is not in it; an example is shown")
    elif wanted:
        try:
            return example_picture(wanted)
        except PrismError as error:
            _refuse("example", f"{error.sentence} (from the address; the first example is shown)")
    if not examples(model):
        refused("the examples are missing from this copy of Prism (assets/examples)")
        st.stop()
    return example_picture(first_example(model))


def first_example(model: str = "cxr-clip") -> str:
    """The one that the page opens with: the first with a finding."""
    shown = examples(model)
    return next((example for example in shown if example.findings), shown[0]).key


def _choose_picture(scene: Scene) -> Scene:
    """The gallery of examples and the uploader; a refused upload leaves the previous picture where it is."""
    name = NAMES.get(scene.model, "Sound" if scene.picture.is_sound else "Picture")
    st.markdown(name, help="Examples made by Prism, each with its text; or your own below.")
    pressed = gallery(
        f"Example {name.lower()}s", thumbnails(scene.model), scene.picture.example, key="pairs.gallery"
    )  # fmt: skip
    _say_refusal("example")
    picture = _take_upload() or (example_picture(pressed) if pressed else scene.picture)
    picture = _choose_start(picture, scene.seen.values.get("sound", {}).get("duration_s", HEARD_S))
    if picture == scene.picture:
        return scene
    with st.spinner(f"Looking with {scene.model}", show_time=True):
        answer = look(scene.model, picture)
    if isinstance(answer, Result):
        return Scene(scene.model, picture, answer)
    refused(answer.sentence)
    return scene


def _choose_start(picture: Picture, heard_s: float) -> Picture:
    """Of a sound that is longer than the model hears at once: where it begins to hear."""
    if not isinstance(picture, Sound) or picture.duration_s <= heard_s:
        return picture
    if recall("pairs.start_of") != picture.id:
        remember("pairs.start_of", picture.id)
        remember("pairs.start_s", picture.start_s)
    last = max(0.1, picture.duration_s - heard_s)
    start = st.slider(
        "Hear from, s",
        0.0,
        last,
        step=0.1,
        key="pairs.start_s",
        help=f"The model hears some {heard_s:.0f} s at once.",
    )
    return dataclasses.replace(picture, start_s=float(start))


def _take_upload() -> Picture | None:
    """A picture or sound that was chosen or pasted just now."""
    paste_into(f"pairs.upload.{recall('pairs.upload.number', 0)}")
    return take_file(
        "pairs.upload",
        "Your own picture or sound",
        [*PICTURE_TYPES, *SOUND_TYPES],
        upload_any,
        "PNG, JPEG, WebP, TIFF, BMP, or DICOM with one frame; or paste one. WAV or FLAC for models that hear. It stays "
        "in this process's memory: never written to disk, logged or put into a link. Of a DICOM only the pixels are "
        "kept.",
    )


def take_file(key: str, label: str, types: list[str], read: Callable[[bytes], Taken], help: str) -> Taken | None:
    """What `read` made of a file that was chosen just now, once; the uploader is empty again after it.

    So neither the file nor its name, which may be a patient's, stays on the page or in Streamlit's memory. A refusal
    stands beside the control until the next file.
    """
    number = recall(f"{key}.number", 0)
    upload = st.file_uploader(
        label, type=types, key=f"{key}.{number}", max_upload_size=LIMITS.max_dicom_bytes // MIB, help=help
    )
    if upload is not None:
        remember(f"{key}.number", number + 1)
        remember(f"{key}.refusal", "")
        try:
            remember(f"{key}.taken", read(upload.getvalue()))
        except PrismError as error:
            remember(f"{key}.refusal", error.sentence)
        st.rerun()
    if recall(f"{key}.refusal"):
        refused(recall(f"{key}.refusal"))
    taken = recall(f"{key}.taken")
    forget(f"{key}.taken")
    return taken


# ----------------------------------------------------------------- the report
def choose_report(settings: Settings, picture: Picture) -> ReportText:
    """The report: the example's, pasted or uploaded; what cannot be used leaves the previous one where it is."""
    report = _follow_picture(settings, picture)
    begin("pairs.text", report.text)
    _take_text_file()
    text = st.text_area(
        "Report",
        key="pairs.text",
        height=170,
        help="Paste a report, in any layout. It stays in this process's memory: it is never written to disk, logged "
        "or put into a link.",
    )
    for control in ("report", "sentence", "words", "box"):
        _say_refusal(control)
    if text != report.text:
        try:
            report = own_report(text)
            remember("pairs.sentence", first_shown(report))
        except BadInput as error:
            refused(f"{error.sentence}; the report before it is still shown")
    remember("pairs.report", report)
    if picture.example and report.example != picture.example:
        st.button(
            "Use the example's report",
            key="pairs.use_example_report",
            icon=":material/undo:",
            on_click=_use_report,
            args=(example_report(picture.example),),
        )
    for note in report.notes:
        st.caption(escape(note))
    return report


def _follow_picture(settings: Settings, picture: Picture) -> ReportText:
    """Another example brings its own report, unless the person's own words are on the table."""
    report: ReportText | None = recall("pairs.report")
    if report is None:
        if settings.report == OWN:
            _refuse("report", "the link was made with a report of its sender, which is not in it")
        report = example_report(picture.example) if picture.example else example_report(first_example())
    elif picture.example and report.example not in ("", picture.example):
        report = example_report(picture.example)
        remember("pairs.text", report.text)
        remember("pairs.sentence", 0)
    return report


def first_shown(report: ReportText) -> int:
    """The first sentence that speaks of what is seen."""
    return next((k for k, line in enumerate(report.lines) if line.is_shown), 0)


def _use_report(report: ReportText) -> None:
    remember("pairs.report", report)
    remember("pairs.text", report.text)
    remember("pairs.sentence", 0)


def _take_text_file() -> None:
    def read(data: bytes) -> str:
        text = read_text_file(data)
        own_report(text)
        return text

    text = take_file("pairs.text_file", "Report as a text file", ["txt", "text", "md"], read, "Plain text, any layout.")
    if text is not None:
        remember("pairs.text", text)


# ----------------------------------------------------------------- methods
def choose_methods(settings: Settings) -> tuple[str, ...]:
    """Up to sixteen methods; the first explains every sentence."""
    begin("pairs.methods", list(settings.methods))
    chosen = st.multiselect(
        "Methods",
        list(PAIR_METHODS),
        format_func=lambda key: PAIR_METHODS[key].title,
        key="pairs.methods",
        max_selections=LIMITS.max_methods,
        help="The first explains every sentence of the report; all explain the chosen sentence, side by side.",
    )
    _say_refusal("methods")
    if not chosen:
        first = settings.methods[0]
        refused(f"choose at least one method; {PAIR_METHODS[first].title} is used")
        return (first,)
    return tuple(chosen)


def say_inapplicable(refusals: dict[str, str]) -> None:
    """Why a chosen method has no map; method to sentence."""
    for method, sentence in refusals.items():
        refused(f"{PAIR_METHODS[method].title}: {sentence}")


def tune(settings: Settings, methods: tuple[str, ...]) -> tuple[tuple[str, Params], ...]:
    """Parameters of one method at a time; those of the others stay as they were set."""
    params = dict(settings.params)
    tunable = [method for method in methods if PAIR_METHODS[method].params]
    refusals = {control: sentence for control, sentence in _SETTINGS.refusals().items() if "." in control}
    for sentence in refusals.values():
        refused(sentence)
    if tunable:
        with st.expander("Parameters", icon=":material/tune:", expanded=bool(refusals)):
            if recall("pairs.tuned") not in tunable:
                remember("pairs.tuned", tunable[0])
            method = st.selectbox("of", tunable, format_func=lambda key: PAIR_METHODS[key].title, key="pairs.tuned")
            st.caption(PAIR_METHODS[method].summary)
            params[method] = changed_only(
                method, draw_params(PAIR_METHODS[method], "pairs", settings.params_of(method))
            )
    return tuple((method, values) for method, values in params.items() if values)


def choose_seed(settings: Settings) -> int:
    begin("pairs.seed", settings.seed)
    seed = st.number_input(
        "Seed", 0, 2**53 - 1, step=1, key="pairs.seed", help="Equal seeds give equal maps: noise and masks."
    )
    _say_refusal("seed")
    return int(seed)
