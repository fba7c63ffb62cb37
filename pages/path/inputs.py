"""The controls of the attribution page: each returns a value that can be used, or says why it cannot."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from backend.catalog import METHODS, ModelSpec
from backend.contracts import Params, Result
from backend.errors import PrismError
from backend.examples import EXAMPLES
from backend.limits import LIMITS, MIB
from pages.path.board import ANSWERS, Answer, forget_refusals, look
from pages.path.pictures import Picture, example_picture, thumbnail, upload_picture
from pages.path.settings import UPLOAD, Settings, changed_only, read_query
from pages.shared.controls import begin, choose_model, draw_params, refused
from pages.shared.figures import format_value
from pages.shared.gallery import Thumbnail, gallery
from pages.shared.page_settings import PageSettings
from pages.shared.paste import paste_into
from pages.shared.session import recall, remember, service

FLAT_BASELINES = ("black", "white", "grey", "mean", "noise", "blur")
_SETTINGS = PageSettings(ANSWERS, read_query, first_control="model", only_shown=("display",))
first_settings, note_settings = _SETTINGS.first, _SETTINGS.note
_refuse, _say_refusal = _SETTINGS.refuse, _SETTINGS.say_refusal


# ----------------------------------------------------------------- model and picture
@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before a model that has looked at it."""

    model: str
    picture: Picture
    prediction: Result


def choose_scene(settings: Settings) -> Scene:
    """Model and picture, chosen; what cannot be used is said beside its control and leaves the previous scene."""
    wanted = _choose_model(settings)
    scene = _settle_model(settings, wanted)
    scene = _choose_picture(scene)
    remember("path.good_model", scene.model)
    remember("path.picture", scene.picture)
    return scene


def _settle_model(settings: Settings, wanted: str) -> Scene:
    """The wanted model before the picture on the table, or the last good one if the wanted cannot be had."""
    picture = recall("path.picture") or _first_picture(settings, wanted)
    last_good = recall("path.good_model")
    candidates = [(wanted, _follow_model(picture, wanted)), (last_good, picture), (Settings().model, picture)]
    for model, shown in candidates:
        if model is not None:
            answer = _look(model, shown)
            if isinstance(answer, Result):
                return Scene(model, shown, answer)
            refused(answer.sentence)
    st.stop()


def _look(model: str, picture: Picture) -> Answer:
    with st.spinner(f"Looking with {model}", show_time=True):
        return look(model, picture)


def _choose_model(settings: Settings) -> str:
    rows = {s.spec.key: s.spec for s in service().models() if s.spec.task == "classification"}
    return choose_model(
        "path",
        settings.model,
        rows,
        on_change=forget_refusals,  # the network may be back
        help="Any classifier of the timm library can be typed in as timm:NAME; your own come from the Models page.",
    )


def _choose_picture(scene: Scene) -> Scene:
    """The gallery of examples and the uploader; a refused upload leaves the previous picture where it is."""
    keys = _suitable(scene.model)
    st.markdown("Picture", help="Examples that suit the model; or your own below.")
    pictures = [Thumbnail(key, EXAMPLES[key].title, EXAMPLES[key].alt, thumbnail(key)) for key in keys]
    pressed = gallery("Example pictures", pictures, scene.picture.example, key="path.gallery")
    _say_refusal("example")
    picture = _take_upload() or (example_picture(pressed) if pressed in keys else scene.picture)
    if picture is scene.picture:
        return scene
    answer = _look(scene.model, picture)
    if isinstance(answer, Result):
        return Scene(scene.model, picture, answer)
    refused(answer.sentence)
    return scene


def _suitable(model: str) -> list[str]:
    """The examples that suit a model; all, if nobody knows which."""
    spec = spec_of(model)
    names = {spec.key, spec.source} if spec is not None else set()
    return [key for key, example in EXAMPLES.items() if names & set(example.suits)] or list(EXAMPLES)


def spec_of(model: str) -> ModelSpec | None:
    """The row of a listed model."""
    return next((status.spec for status in service().models() if status.spec.key == model), None)


def _first_picture(settings: Settings, model: str) -> Picture:
    wanted = settings.example
    if wanted == UPLOAD:
        _refuse("example", "the link was made with a picture of its sender, which is not in it; an example is shown")
    elif wanted:
        try:
            return example_picture(wanted)
        except PrismError as error:
            _refuse("example", f"{error.sentence} (from the address; the first example is shown)")
    return example_picture(_suitable(model)[0])


def _follow_model(picture: Picture, wanted: str) -> Picture:
    """Another model is wanted: an example that does not suit it gives way to one that does; an upload stays."""
    is_new = recall("path.good_model") not in (None, wanted)
    if not is_new or not picture.example or picture.example in _suitable(wanted):
        return picture
    return example_picture(_suitable(wanted)[0])


def _take_upload() -> Picture | None:
    upload = st.file_uploader(
        "Your own picture",
        key="path.upload",
        max_upload_size=LIMITS.max_upload_bytes // MIB,
        help="PNG, JPEG, WebP, TIFF or BMP: chosen, dropped here, or pasted (Ctrl+V, ⌘V). It stays in this process's "
        "memory and is never written to disk.",
    )
    paste_into("path.upload")
    if upload is None:
        return None
    if upload.file_id != recall("path.upload_seen"):
        remember("path.upload_seen", upload.file_id)
        remember("path.upload_refusal", "")
        try:
            return upload_picture(upload.name, upload.getvalue())
        except PrismError as error:
            remember("path.upload_refusal", error.sentence)
    if recall("path.upload_refusal"):
        refused(recall("path.upload_refusal"))
    return None


# ----------------------------------------------------------------- the question
TOP_CLASS = -1  # an option of its own: Streamlit takes None for "nothing chosen"


def choose_target(settings: Settings, prediction: Result) -> int | None:
    """The class to explain: the top one, one of the top five, or any other; None is the top class, whichever it is."""
    logits, top = prediction.arrays["logits"], prediction.values["top"]
    rows = {row["target"]: row for row in top}
    others = [target for target in range(len(logits)) if target not in rows]
    options = [TOP_CLASS, *rows, *others]
    names = class_names(prediction)

    def say(target: int) -> str:
        if target == TOP_CLASS:
            return f"top class: {top[0]['label']}"
        text = f"{names(target)} · logit {format_value(float(logits[target]))}"
        return f"{text} · {rows[target]['probability']:.1%}" if target in rows else text

    begin("path.target", TOP_CLASS if settings.target is None else settings.target)
    if recall("path.target") not in options:
        _refuse(
            "target",
            f"target {recall('path.target')}; classes are 0..{len(logits) - 1}; the top class is explained",
        )
        remember("path.target", TOP_CLASS)
    labels = [say(option) for option in options]
    if recall("path.target.labels") != labels:  # the browser keeps the last label, with another picture's numbers,
        remember("path.target", recall("path.target"))  # unless the value is set anew
        remember("path.target.labels", labels)
    target = st.selectbox("Class to explain", options, format_func=say, key="path.target")
    _say_refusal("target")
    return None if target == TOP_CLASS else target


def class_names(prediction: Result) -> Callable[[int], str]:
    """A function from a class's number to its name."""
    rows = {row["target"]: row["label"] for row in prediction.values["top"]}
    spec = spec_of(prediction.request.model)
    labels = spec.labels if spec is not None else ()
    return lambda target: rows.get(target) or (labels[target] if target < len(labels) else f"class {target}")


def choose_baselines(settings: Settings) -> tuple[str, ...]:
    """What stands for "nothing there"; attributions over several are averaged."""
    sigmas = [float(name.removeprefix("blur:")) for name in settings.baselines if name.startswith("blur:")]
    begin("path.baselines", [name.split(":")[0] for name in settings.baselines])
    begin("path.sigma", sigmas[0] if sigmas else 3.0)
    chosen = st.multiselect(
        "Baselines $x^0$",
        FLAT_BASELINES,
        key="path.baselines",
        help="The picture that stands for “nothing there”. With several, each method's attributions are averaged.",
    )
    sigma = recall("path.sigma")
    if "blur" in chosen:
        sigma = st.number_input("Blur $\\sigma$, pixels", 0.1, 200.0, step=0.5, format="%g", key="path.sigma")
    if not chosen:
        refused("choose at least one baseline; black is used")
        chosen = ["black"]
    _say_refusal("baselines")
    return tuple(f"blur:{sigma:g}" if name == "blur" else name for name in chosen)


def choose_methods(settings: Settings) -> tuple[str, ...]:
    """Up to sixteen methods."""
    begin("path.methods", list(settings.methods))
    chosen = st.multiselect(
        "Methods",
        list(METHODS),
        format_func=lambda key: METHODS[key].title,
        key="path.methods",
        max_selections=LIMITS.max_methods,
        help="Side by side, on one image and one class.",
    )
    _say_refusal("methods")
    if not chosen:
        refused("choose at least one method")
    return tuple(chosen)


def say_inapplicable(refusals: dict[str, str]) -> None:
    """Why a chosen method has no map of this model; method to sentence."""
    for method, sentence in refusals.items():
        refused(f"{METHODS[method].title}: {sentence}")


def tune(settings: Settings, methods: tuple[str, ...]) -> tuple[tuple[str, Params], ...]:
    """Parameters of one method at a time; those of the others stay as they were set."""
    params = dict(settings.params)
    tunable = [method for method in methods if METHODS[method].params]
    for control, sentence in _SETTINGS.refusals().items():
        if "." in control:
            refused(sentence)
    if tunable:
        with st.expander("Parameters", icon=":material/tune:", expanded=any("." in c for c in _SETTINGS.refusals())):
            if recall("path.tuned") not in tunable:
                remember("path.tuned", tunable[0])
            method = st.selectbox("of", tunable, format_func=lambda key: METHODS[key].title, key="path.tuned")
            st.caption(METHODS[method].summary)
            params[method] = changed_only(method, draw_params(METHODS[method], "path", settings.params_of(method)))
    return tuple((method, values) for method, values in params.items() if values)


def choose_seed(settings: Settings) -> int:
    begin("path.seed", settings.seed)
    seed = st.number_input(
        "Seed", 0, 2**53 - 1, step=1, key="path.seed", help="Equal seeds give equal maps: noise, masks, ties in ranks."
    )
    _say_refusal("seed")
    return int(seed)
