"""Methods that explain a pair of image and text, and the pairs of encoders that ship."""

from backend.catalog.specs import MethodSpec, ModelSpec, ParamSpec

FAMILY = "image_text"
OPEN_CLIP = "open_clip:"  # open_clip:ARCHITECTURE/CHECKPOINT is a model, listed or not
CLAP = "clap:"  # clap:OWNER/NAME, of the hub, is one of sounds and texts


# ----------------------------------------------------------------- methods
def _layer(help: str, auto_help: str, low: int = 0) -> ParamSpec:
    return ParamSpec(
        "layer", "Layer", "\\ell", "int", None, help, low=low, high=200, optional=True, auto_help=auto_help
    )  # fmt: skip


_M2IB_PAPER = (
    "Wang et al., Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck "
    "Attribution, NeurIPS 2023, arXiv:2312.17174"
)
_OWN = "the model's own, found for images and texts apart"
_BOTTLENECK = (
    _layer(
        "Block behind which the bottleneck stands, from 0; -1 before all blocks: on a text's words themselves, or "
        "inside the convolutions of the models trained here, where a cell is half as wide.",
        f"{_OWN}, else the third block from the end",
        low=-1,
    ),
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
        "place first, with one alpha per token, which suits small models. Whether it helps a full-size CLIP too has "
        "not been measured.",
        choices=("paper", "normalised"),
        optional=True,
        auto_help="normalised where statistics of the model's activations are held, else paper",
    ),
    ParamSpec(
        "smooth",
        "Smoothing",
        "\\varsigma",
        "float",
        None,
        "Standard deviation, in cells, of a Gaussian over what each place lets pass (Schulz et al., ICLR 2020); "
        "images only.",
        low=0.0,
        high=10.0,
        optional=True,
        auto_help=f"{_OWN}, else 0",
        advanced=True,
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

_SAMPLING = "Every sample is a pass through the tower."
_BEHIND = ParamSpec(
    "behind",
    "Hidden parts",
    "",
    "choice",
    "black",
    "What is seen where a part of the image is hidden. A hidden word becomes the padding token.",
    choices=("black", "mean"),
    advanced=True,
)

GRAD_CAM = MethodSpec(
    key="grad-cam",
    title="Grad-CAM",
    group="activation",
    implementation="backend.image_text.grad_cam:attribute",
    source="Selvaraju et al., Grad-CAM, arXiv:1610.02391",
    summary="Channels of a block's output, weighted by their mean gradient; positive evidence only.",
    equation=r"a = \mathrm{ReLU}\left(\sum_c \overline{\partial_{h_c} \cos}\; h_c\right)",
    limits="Made for convolutions: the mean gradient over the tokens of a transformer mixes unlike places.",
    params=(
        _layer(
            "Block whose output is weighted, from 0.",
            "the last block, or the one before where the tower reads a single token in the end",
        ),
    ),
    signed=False,
    unit="cosine, to first order",
    needs=frozenset({"gradient"}),
    family=FAMILY,
)

SALIENCY = MethodSpec(
    key="saliency",
    title="Saliency",
    group="gradient",
    implementation="backend.image_text.saliency:attribute",
    source="Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034",
    summary="How fast the cosine changes with each pixel, or with each token's embedding.",
    equation=r"a_j = \max_c |\partial_{x_{jc}} \cos|,\quad a_t = \|\partial_{x_t} \cos\|_2",
    limits="Local and noisy: says what a tiny change would do, not what is there.",
    signed=False,
    unit="cosine per unit of input",
    needs=frozenset({"gradient"}),
    family=FAMILY,
)

KERNEL_SHAP = MethodSpec(
    key="kernel-shap",
    title="KernelSHAP",
    group="perturbation",
    implementation="backend.image_text.kernel_shap:attribute",
    source="Lundberg and Lee, A Unified Approach to Interpreting Model Predictions, arXiv:1705.07874",
    summary="Shapley values of superpixels or words: shares of the cosine's change when all of them are shown.",
    equation=r"\phi = \arg\min \sum_S \pi(S)\left(\cos(x_S) - \phi_0 - \sum_{j \in S} \phi_j\right)^2",
    limits="Inputs with parts left out are unlike any that the model was trained on. " + _SAMPLING,
    params=(
        ParamSpec("samples", "Coalitions", "", "int", 512, _SAMPLING, low=16, high=20000),
        ParamSpec("segments", "Superpixels", "", "int", 50, "How many SLIC is asked for.", low=4, high=500),
        _BEHIND,
    ),
    unit="cosine",
    complete=True,
    family=FAMILY,
)

RISE = MethodSpec(
    key="rise",
    title="RISE",
    group="perturbation",
    implementation="backend.image_text.rise:attribute",
    source="Petsiuk et al., RISE, arXiv:1806.07421",
    summary="Random masks over the image or the words, each weighted by the cosine that it leaves.",
    equation=r"a = \frac{1}{n p} \sum_i \cos(x \odot M_i)\, M_i",
    limits="Needs many passes, and finds nothing smaller than its cells.",
    params=(
        ParamSpec(
            "samples",
            "Masks",
            "n",
            "int",
            None,
            _SAMPLING,
            low=8,
            high=20000,
            optional=True,
            auto_help="2,048 for images and 256 for texts",
        ),
        ParamSpec("grid", "Cells per side", "", "int", 7, "Of the masks over an image.", low=2, high=32, advanced=True),
        ParamSpec("keep", "Share kept", "p", "float", 0.5, "Chance that a cell or word stays.", low=0.05, high=0.95),
        _BEHIND,
    ),
    origin="lowest",  # masks leave most of the cosine wherever they fall, so that every place has some
    unit="mean cosine",
    family=FAMILY,
)

CHEFER = MethodSpec(
    key="chefer",
    title="Chefer et al.",
    group="propagation",
    implementation="backend.image_text.attention:relevance",
    source="Chefer et al., Generic Attention-model Explainability, arXiv:2103.15679",
    summary="Attention, weighted by its positive gradient, carried through all blocks to the token that is pooled.",
    equation=r"R \leftarrow R + \overline{(\nabla A \odot A)^+}\, R",
    limits="For towers with self-attention only; what the perceptrons do to a token is not followed.",
    params=(
        ParamSpec(
            "smooth",
            "Smoothing",
            "\\varsigma",
            "float",
            0.0,
            "Standard deviation, in cells, of a Gaussian over the finished map of an image; the authors have none.",
            low=0.0,
            high=10.0,
            advanced=True,
        ),
    ),
    signed=False,
    origin="lowest",  # a token starts with the relevance of itself, which all of them share
    unit="relevance",
    needs=frozenset({"gradient", "attention"}),
    family=FAMILY,
)

ROLLOUT = MethodSpec(
    key="rollout",
    title="Attention rollout",
    group="propagation",
    implementation="backend.image_text.attention:rollout",
    source="Abnar and Zuidema, Quantifying Attention Flow in Transformers, arXiv:2005.00928",
    summary="Attention alone, averaged over heads and multiplied through the blocks.",
    equation=r"\prod_\ell \tfrac12 (\overline{A}_\ell + I)",
    limits="Does not know the other modality: the map is the same for every text or image.",
    signed=False,
    origin="lowest",  # every token has a share
    unit="share of attention",
    needs=frozenset({"attention"}),
    family=FAMILY,
)

PAIR_METHODS: dict[str, MethodSpec] = {
    spec.key: spec for spec in (M2IB, M2IB_CONTRAST, CHEFER, RISE, KERNEL_SHAP, GRAD_CAM, SALIENCY, ROLLOUT)
}


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
        ModelSpec(
            key="scenes-clip",
            title="Drawn scenes and captions",
            architecture="prism:clip",
            source="embedded",
            labels=(),
            input_size=(96, 96),
            weights="scenes-clip.safetensors",
            card="scenes-clip.json",
            task=FAMILY,
            licence="as Prism itself",
            summary="Coloured shapes, how many, and how they stand to each other.",
        ),
        ModelSpec(
            key="sounds-clip",
            title="Sounds, pictures and captions",
            architecture="prism:clip",
            source="embedded",
            labels=(),
            input_size=(64, 64),
            weights="sounds-clip.safetensors",
            card="sounds-clip.json",
            task=FAMILY,
            licence="as Prism itself",
            summary="Eight synthesised sounds, heard as spectrograms; WAV and FLAC of your own can be put in.",
        ),
    )
}


def named_pair_spec(key: str) -> ModelSpec:
    """The row of a model of open_clip, or of a CLAP. Whether there is such a model, loading it tells."""
    return ModelSpec(
        key=key,
        title=key.removeprefix(OPEN_CLIP).removeprefix(CLAP),
        architecture=key,
        source="hub",
        labels=(),
        input_size=(224, 224),
        task=FAMILY,
        licence="see the model's page on the hub",
    )
