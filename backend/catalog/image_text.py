"""Methods that explain a pair of image and text, and the pairs of encoders that ship."""

from backend.catalog.specs import MethodSpec, ModelSpec, ParamSpec

FAMILY = "image_text"
OPEN_CLIP = "open_clip:"  # open_clip:ARCHITECTURE/CHECKPOINT is a model, listed or not


# ----------------------------------------------------------------- methods
def _layer(help: str, auto_help: str) -> ParamSpec:
    return ParamSpec(
        "layer", "Layer", "\\ell", "int", None, help, low=0, high=200, optional=True, auto_help=auto_help
    )  # fmt: skip


_M2IB_PAPER = (
    "Wang et al., Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck "
    "Attribution, NeurIPS 2023, arXiv:2312.17174"
)
_OWN = "the model's own, found for images and texts apart"
_BOTTLENECK = (
    _layer("Block behind which the bottleneck stands, from 0.", f"{_OWN}, else the third block from the end"),
    ParamSpec(
        "beta",
        "Compression",
        "\\beta",
        "float",
        None,
        "Weight of the information that passes against the cosine that is kept; larger leaves less on the map.",
        low=0.0,
        high=100.0,
        optional=True,
        auto_help=f"{_OWN}, else 0.1",
    ),
    ParamSpec(
        "sigma2",
        "Noise variance",
        "\\sigma^2",
        "float",
        None,
        "Variance of the noise that takes the place of what does not pass.",
        low=1e-6,
        high=100.0,
        optional=True,
        auto_help=f"{_OWN}, else 1",
    ),
    ParamSpec(
        "mode",
        "Mode",
        "",
        "choice",
        None,
        "paper: one alpha for every channel of every token; normalised: the hidden state is standardised place by "
        "place first, with one alpha per token, which suits small models.",
        choices=("paper", "normalised"),
        optional=True,
        auto_help="normalised where statistics of the model's activations are held, else paper",
    ),
    ParamSpec("n_steps", "Steps", "", "int", 10, "Steps of Adam on alpha.", low=1, high=200, advanced=True),
    ParamSpec("lr", "Learning rate", "", "float", 1.0, "Of Adam.", low=1e-4, high=10.0, advanced=True),
    ParamSpec(
        "samples", "Samples", "", "int", 10, "Draws of the noise in every step.", low=1, high=200, advanced=True
    ),  # fmt: skip
)

M2IB = MethodSpec(
    key="m2ib",
    title="M2IB",
    group="bottleneck",
    implementation="backend.image_text.bottleneck:attribute",
    source=_M2IB_PAPER,
    summary="Lets noise in wherever it does not harm the match of image and text; what must stay is the map.",
    equation=r"\max_\lambda\ \cos(e, g(\lambda h + \sigma(1-\lambda)\varepsilon)) - \beta\,"
    r"\overline{KL}\left(N(\lambda h, \sigma^2(1-\lambda)^2)\,\|\,N(0, 1)\right)",
    limits="Shows what the tower uses, which for a text may be the same words whatever the image shows: look at the "
    "control beside it.",
    params=_BOTTLENECK,
    signed=False,
    unit="nats per token",
    needs=frozenset({"gradient"}),
    family=FAMILY,
)

M2IB_CONTRAST = MethodSpec(
    key="m2ib-contrast",
    title="M2IB contrast",
    group="bottleneck",
    implementation="backend.image_text.bottleneck:attribute_contrast",
    source=f"ours, on the bottleneck of {_M2IB_PAPER}",
    summary="M2IB that keeps what tells this partner from others: words or places that fit anything are let go.",
    equation=r"\max_\lambda\ \cos(e, z) - \tfrac1s \log \tfrac1K \sum_k e^{s \cos(e_k, z)} - \beta\,\overline{KL}",
    limits="Depends on which other images or texts it is told from; it is empty where the pair does not match better "
    "than they do.",
    params=(
        *_BOTTLENECK,
        ParamSpec(
            "sharpness",
            "Sharpness",
            "s",
            "float",
            10.0,
            "Small: the partner is told from the mean of the others; large: from the nearest of them.",
            low=0.1,
            high=1000.0,
            advanced=True,
        ),
    ),
    signed=False,
    unit="nats per token",
    needs=frozenset({"gradient"}),
    family=FAMILY,
)

PAIR_METHODS: dict[str, MethodSpec] = {spec.key: spec for spec in (M2IB, M2IB_CONTRAST)}


# ----------------------------------------------------------------- models
PAIRS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        ModelSpec(
            key="cxr-clip",
            title="Radiographs and reports",
            architecture="prism:clip",
            source="embedded",
            labels=(),
            input_size=(128, 128),
            weights="cxr-clip.safetensors",
            card="cxr-clip.json",
            task=FAMILY,
            channels="L",
            licence="as Prism itself; its card tells where the pictures came from",
            summary="Trained on simulated chest radiographs and their reports; no medical device.",
        ),
    )
}


def open_clip_spec(key: str) -> ModelSpec:
    """The row of a model of open_clip. Whether there is such a model, loading it tells."""
    return ModelSpec(
        key=key,
        title=key.removeprefix(OPEN_CLIP),
        architecture=key,
        source="hub",
        labels=(),
        input_size=(224, 224),
        task=FAMILY,
        licence="see the model's page on the hub",
    )
