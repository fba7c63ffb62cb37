"""Models: what is there, what lies in memory, where it came from; add one of your own, or remove it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from PIL import Image

from backend.catalog import ModelSpec
from backend.contracts import (
    DecodingRequest,
    PairScoreRequest,
    PredictionRequest,
    Request,
    Result,
    ShapeFunctionsRequest,
)
from backend.errors import BadInput, PrismError
from backend.limits import LIMITS, MIB
from pages.shared.controls import begin
from pages.shared.session import escape, forget, recall, remember, say, service
from pages.shared.theme import use_theme

NORMALISATIONS = {
    "none (0 and 1)": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half (0.5 and 0.5)": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}
TASKS = {
    "classification": "Classifiers",
    "image_text": "Image and text",
    "additive_decoding": "Additive decoders",
    "additive_image": "Additive image models",
    "diffusion_autoencoder": "Autoencoders",
}
ADDABLE = {
    "classification": "Classifier",
    "image_text": "Image-text pair",
    "additive_decoding": "Additive decoder",
    "additive_image": "Additive image model",
}
ALL = "all"
TRIAL_TEXT = "a picture"


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A model that answered once and waits to be accepted."""

    fields: dict[str, Any]
    weights: bytes
    digest: str
    said: str  # what it answered, in a sentence
    shapes: dict[str, tuple[int, ...]]  # of the arrays in the answer
    picture: np.ndarray | None = None  # (H, W, 3) uint8, where it draws


def main() -> None:
    use_theme()
    st.title("Models")
    draw_problems()
    draw_table()
    adding, removing = st.columns([2, 1])
    with adding:
        draw_form()
        draw_trial()
    with removing:
        draw_removal()
    draw_file_help()


def draw_problems() -> None:
    """What of the user's models file could not be used."""
    for sentence in service().status().problems:
        st.warning(escape(sentence))
    added = recall("models.added")
    if added:
        st.success(f"Added **{escape(added)}**: its weights fit and it answered a dry run.")
        remember("models.added", None)


# ----------------------------------------------------------------- what there is
def draw_table() -> None:
    begin("models.shown", ALL)
    shown = st.segmented_control(
        "Show",
        [ALL, *TASKS],
        format_func=lambda key: TASKS.get(key, "All"),
        key="models.shown",
        required=True,
    )
    rows = [
        {
            "Key": status.spec.key,
            "Title": status.spec.title,
            "Made for": TASKS.get(status.spec.task, status.spec.task),
            "From": status.spec.source,
            "In memory (MB)": status.nbytes / MIB if status.is_loaded else None,
            "Weights (sha256)": status.digest[:12],
            "Input": f"{status.spec.input_size[0]} × {status.spec.input_size[1]}, {status.spec.channels}",
            "Classes": len(status.spec.labels) or None,
            "Architecture": status.spec.architecture,
            "Licence": status.spec.licence,
        }
        for status in service().models()
        if shown in (ALL, status.spec.task)
    ]
    st.dataframe(
        rows,
        hide_index=True,
        placeholder="",
        column_config={"In memory (MB)": st.column_config.NumberColumn(format="%.1f")},
    )
    st.caption(
        "A digest is shown once the weights were read. Hub models are fetched when first used and need a network then; "
        "embedded ones never do. Any classifier of timm can be chosen as timm:NAME, any pair of open_clip as "
        "open_clip:NAME/CHECKPOINT, any CLAP as clap:OWNER/NAME."
    )


# ----------------------------------------------------------------- adding
def draw_form() -> None:
    """What it is made for is chosen first; only what that needs is asked for."""
    st.subheader("Add your own")
    begin("models.task", "classification")
    task = st.segmented_control(
        "Made for", list(ADDABLE), format_func=ADDABLE.get, key="models.task", required=True, wrap=True
    )
    with st.form(f"models.add.{task}", border=True):
        st.text_input("Key", key="models.key", help="A short name, as it will stand in links and requests.")
        _FORMS[task][0]()
        st.file_uploader(
            f"Weights (safetensors, up to {LIMITS.max_weights_bytes / MIB:.0f} MB)",
            key=f"models.weights.{task}",
            help="Tensors only: pickles are refused, and exported programs (pt2) are read from models.toml only.",
        )
        if st.form_submit_button("Try it", type="primary"):
            forget("models.trial")
            try:
                with st.spinner("Building the network and asking it once"):
                    remember("models.trial", try_out(task))
            except PrismError as error:
                say(error)


def _ask_classifier() -> None:
    st.text_input(
        "Architecture",
        placeholder="torchvision:resnet18 or timm:vit_tiny_patch16_224",
        key="models.architecture",
        help="Which network the weights belong to.",
    )
    st.text_area("Labels, one a line", key="models.labels")
    left, right = st.columns(2)
    left.number_input("Input height (pixels)", 4, 4096, 224, key="models.height")
    right.number_input("Input width (pixels)", 4, 4096, 224, key="models.width")
    left.selectbox("Channels", ["RGB", "BGR", "L"], key="models.channels")
    right.selectbox("Mean and standard deviation", list(NORMALISATIONS), index=1, key="models.normalisation")
    left.number_input("Value range, low", value=0.0, key="models.low")
    right.number_input("Value range, high", value=1.0, key="models.high")


def _classifier_fields() -> dict[str, Any]:
    channels = recall("models.channels")
    mean, std = NORMALISATIONS[recall("models.normalisation")]
    n_channels = 1 if channels == "L" else 3
    return {
        "architecture": recall("models.architecture").strip(),
        "labels": [line.strip() for line in recall("models.labels").splitlines() if line.strip()],
        "input_size": [int(recall("models.height")), int(recall("models.width"))],
        "channels": channels,
        "mean": mean[:n_channels],
        "std": std[:n_channels],
        "value_range": [recall("models.low"), recall("models.high")],
    }


def _ask_pair() -> None:
    st.text_input(
        "Model of open_clip",
        placeholder="ViT-B-32",
        key="models.open_clip",
        help="Which of open_clip's architectures the weights belong to. A folder in the hub's layout, with a "
        "configuration of its own, is named in models.toml.",
    )


def _pair_fields() -> dict[str, Any]:
    return {"architecture": f"open_clip:{recall('models.open_clip').strip()}"}


def _ask_card() -> None:
    st.file_uploader(
        "Card (JSON)",
        key=f"models.card.{recall('models.task')}",
        help="As `python -m backend train` writes it beside the weights; it says what the network looks like.",
    )


def _card_fields() -> dict[str, Any]:
    upload = recall(f"models.card.{recall('models.task')}")
    if upload is None:
        raise BadInput("the card is missing: the JSON file that lies beside the weights", "card")
    if upload.size > MIB:
        raise BadInput(f"the card has {upload.size:,} bytes; cards up to {MIB:,} are read", "card")
    try:
        card = json.loads(upload.getvalue())
    except (ValueError, RecursionError):
        raise BadInput("the card is not JSON", "card") from None
    if not isinstance(card, dict) or not isinstance(card.get("architecture"), str):
        raise BadInput("the card does not say which architecture it is of", "card")
    return {"architecture": card["architecture"], "card": card}


_FORMS: dict[str, tuple[Callable[[], None], Callable[[], dict[str, Any]]]] = {
    "classification": (_ask_classifier, _classifier_fields),
    "image_text": (_ask_pair, _pair_fields),
    "additive_decoding": (_ask_card, _card_fields),
    "additive_image": (_ask_card, _card_fields),
}


# ----------------------------------------------------------------- the dry run
def try_out(task: str) -> Trial:
    """Build what the form describes, ask it once, and take it away again: it stays only if it is accepted.

    Raises: PrismError: a field, the card or the weights do not fit, or it cannot answer.
    """
    upload, key = recall(f"models.weights.{task}"), recall("models.key").strip()
    if not key:
        raise BadInput("the key is empty: a short name, as it will stand in links", "key")
    fields = {"key": key, "task": task, **_FORMS[task][1]()}
    if upload is None:
        raise BadInput("no weights are chosen: a safetensors file", "weights")
    weights = upload.getvalue()
    spec = service().add_model(fields, weights)
    try:
        result = service().run(_question(spec))
    finally:
        service().remove_model(spec.key)
    shapes = {name: array.shape for name, array in result.arrays.items()}
    return Trial(fields, weights, result.provenance.model_digest, *_ANSWERS[task](result, shapes))


def _question(spec: ModelSpec) -> Request:
    if spec.task == "additive_decoding":
        return DecodingRequest(spec.key, grid=(3, 3))
    if spec.task == "additive_image":
        return ShapeFunctionsRequest(spec.key, points=5)
    image = service().put_image(_trial_picture()).id
    if spec.task == "image_text":
        return PairScoreRequest(image, (TRIAL_TEXT,), spec.key)
    return PredictionRequest(image, spec.key)


def _trial_picture() -> bytes:
    """A ramp from black to white, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))).convert("RGB").save(buffer, "png")
    return buffer.getvalue()


def _said_of_scores(result: Result, shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict[str, tuple[int, ...]]]:
    best = result.values["top"][0]
    return f"For a ramp from black to white it says {best['label']} (probability {best['probability']:.3f}).", shapes


def _said_of_pair(result: Result, shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict[str, tuple[int, ...]]]:
    cosine = float(result.arrays["cosines"].ravel()[0])
    return f"A ramp from black to white and the text “{TRIAL_TEXT}” have the cosine {cosine:.3f}.", shapes


def _said_of_grid(
    result: Result, shapes: dict[str, tuple[int, ...]]
) -> tuple[str, dict[str, tuple[int, ...]], np.ndarray]:
    grid = result.arrays["grid"]  # (n, m, H, W, 3)
    n, m, height, width, channels = grid.shape
    picture = grid.transpose(0, 2, 1, 3, 4).reshape(n * height, m * width, channels)
    said = f"It drew {n} × {m} scenes of {height} × {width} pixels from {result.arrays['latents'].shape[-1]} latents."
    return said, shapes, picture


def _said_of_shapes(result: Result, shapes: dict[str, tuple[int, ...]]) -> tuple[str, dict[str, tuple[int, ...]]]:
    curves = [name.removeprefix("shape_") for name in shapes if name.startswith("shape_")]
    return f"It has curves for {', '.join(curves)}, and the picture's effect.", shapes


_ANSWERS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "classification": _said_of_scores,
    "image_text": _said_of_pair,
    "additive_decoding": _said_of_grid,
    "additive_image": _said_of_shapes,
}


def draw_trial() -> None:
    """What the model answered; it is added only now, or put away."""
    trial: Trial | None = recall("models.trial")
    if trial is None:
        return
    with st.container(border=True):
        st.markdown(f"**Dry run of {escape(trial.fields['key'])}.** {escape(trial.said)}")
        shapes = {name: " × ".join(map(str, shape)) or "one number" for name, shape in trial.shapes.items()}
        st.dataframe([{"In its answer": name, "Shape": shape} for name, shape in shapes.items()], hide_index=True)
        if trial.picture is not None:
            st.image(trial.picture, caption="What it drew", width=288)
        st.caption(f"{len(trial.weights) / MIB:.1f} MB of weights, sha256 {trial.digest[:12]}. It is not added yet.")
        with st.container(horizontal=True):
            if st.button("Add it", type="primary", icon=":material/add:"):
                accept(trial)
            if st.button("Discard"):
                forget("models.trial")
                st.rerun()


def accept(trial: Trial) -> None:
    try:
        spec = service().add_model(trial.fields, trial.weights)
    except PrismError as error:
        say(error)
        return
    forget("models.trial")
    remember("models.added", spec.key)
    st.rerun()


# ----------------------------------------------------------------- removing
def draw_removal() -> None:
    own = [status.spec.key for status in service().models() if status.spec.source == "local"]
    st.subheader("Remove one")
    if not own:
        st.caption("There is no model of your own.")
        return
    key = st.selectbox("Your models", own, key="models.remove")
    if st.button("Remove"):
        try:
            service().remove_model(key)
        except PrismError as error:
            say(error)
            return
        st.rerun()


EXAMPLE = """[[model]]
key = "mine"
task = "classification"
architecture = "torchvision:resnet18"
weights = "weights.safetensors"
labels = ["cat", "dog"]
input_size = [224, 224]
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
channels = "RGB"
value_range = [0.0, 1.0]

[[model]]
key = "my-clip"
task = "image_text"
architecture = "open_clip:ViT-B-32"
weights = "my-clip"               # a weights file, or a folder in the hub's layout

[[model]]
key = "my-clap"
task = "image_text"               # sounds and texts
architecture = "clap:my-clap"
weights = "my-clap"               # a folder in the hub's layout

[[model]]
key = "my-balls"
task = "additive_decoding"
architecture = "prism:additive-decoder"
weights = "my-balls.safetensors"  # its card, my-balls.json, lies beside it

[[model]]
key = "my-squares"
task = "additive_image"
architecture = "prism:additive-image-model"
weights = "my-squares.safetensors"
"""


def draw_file_help() -> None:
    with st.expander("The same from a file"):
        st.markdown("Name a file in the environment variable `PRISM_MODELS`; paths in it are relative to the file.")
        st.code(EXAMPLE, language="toml")


main()
