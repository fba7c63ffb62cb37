"""Models: what is there, what lies in memory, where it came from; add one of your own, or remove it."""

import json

import streamlit as st

from backend.errors import PrismError
from backend.limits import LIMITS, MIB
from pages.shared.session import escape, recall, remember, say, service

NORMALISATIONS = {
    "none (0 and 1)": ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "ImageNet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half (0.5 and 0.5)": ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
}


def main() -> None:
    st.title("Models")
    draw_problems()
    draw_table()
    adding, removing = st.columns([2, 1])
    with adding:
        draw_form()
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


def draw_table() -> None:
    rows = [
        {
            "Key": status.spec.key,
            "Title": status.spec.title,
            "From": status.spec.source,
            "In memory (MB)": status.nbytes / MIB if status.is_loaded else None,
            "Input": f"{status.spec.input_size[0]} × {status.spec.input_size[1]}, {status.spec.channels}",
            "Classes": len(status.spec.labels),
            "Architecture": status.spec.architecture,
            "Weights (sha256)": status.digest[:12],
            "Licence": status.spec.licence,
        }
        for status in service().models()
    ]
    st.dataframe(
        rows,
        hide_index=True,
        column_config={"In memory (MB)": st.column_config.NumberColumn(format="%.1f")},
    )
    st.caption(
        "A digest is shown once the weights were read. Hub models are fetched when first used and need a network then; "
        "embedded ones never do. Any classifier of timm can be chosen as timm:NAME."
    )


def draw_form() -> None:
    st.subheader("Add your own classifier")
    with st.form("models.add", border=True):
        st.text_input("Key", key="models.key", help="A short name, as it will stand in links and requests.")
        st.text_input(
            "Architecture",
            placeholder="torchvision:resnet18 or timm:vit_tiny_patch16_224",
            key="models.architecture",
            help="Which network the weights belong to.",
        )
        st.file_uploader(
            f"Weights (safetensors, up to {LIMITS.max_weights_bytes / MIB:.0f} MB)",
            key="models.weights",
            help="Tensors only: pickles are refused, and exported programs (pt2) are read from models.toml only.",
        )
        st.text_area("Labels, one a line", key="models.labels")
        left, right = st.columns(2)
        left.number_input("Input height (pixels)", 4, 4096, 224, key="models.height")
        right.number_input("Input width (pixels)", 4, 4096, 224, key="models.width")
        left.selectbox("Channels", ["RGB", "BGR", "L"], key="models.channels")
        right.selectbox("Mean and standard deviation", list(NORMALISATIONS), index=1, key="models.normalisation")
        left.number_input("Value range, low", value=0.0, key="models.low")
        right.number_input("Value range, high", value=1.0, key="models.high")
        if st.form_submit_button("Check and add", type="primary"):
            add_from_form()


def add_from_form() -> None:
    channels = recall("models.channels")
    mean, std = NORMALISATIONS[recall("models.normalisation")]
    n_channels = 1 if channels == "L" else 3
    upload = recall("models.weights")
    fields = {
        "key": recall("models.key").strip(),
        "architecture": recall("models.architecture").strip(),
        "labels": [line.strip() for line in recall("models.labels").splitlines() if line.strip()],
        "input_size": [int(recall("models.height")), int(recall("models.width"))],
        "channels": channels,
        "mean": mean[:n_channels],
        "std": std[:n_channels],
        "value_range": [recall("models.low"), recall("models.high")],
    }
    try:
        with st.spinner("Building the network and trying one picture"):
            spec = service().add_model(fields, upload.getvalue() if upload is not None else b"")
    except PrismError as error:
        say(error)
        return
    remember("models.added", spec.key)
    st.rerun()


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


def draw_file_help() -> None:
    with st.expander("The same from a file"):
        st.markdown("Name a file in the environment variable `PRISM_MODELS`; paths in it are relative to the file.")
        example = {"architecture": "torchvision:resnet18", "weights": "weights.safetensors"}
        lines = ["[[model]]", 'key = "mine"', 'task = "classification"']
        lines += [f"{name} = {json.dumps(value)}" for name, value in example.items()]
        lines += ['labels = ["cat", "dog"]', "input_size = [224, 224]", "mean = [0.485, 0.456, 0.406]"]
        lines += ["std = [0.229, 0.224, 0.225]", 'channels = "RGB"', "value_range = [0.0, 1.0]"]
        st.code("\n".join(lines), language="toml")


main()
