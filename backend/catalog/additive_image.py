"""Additive models of table and image: what can be set, what they are compared with, and the models that ship."""

import functools

from backend.catalog.specs import KindSpec, ModelSpec, ParamSpec

FAMILY = "additive_image"

STOCHASTIC_CODES = ("own", "slerp", "first", "zero", "random")
_PATH_PARAMS = (
    ParamSpec(
        "stochastic",
        "Stochastic code",
        "x_T",
        "choice",
        "own",
        "Where the noise that decoding begins with comes from: found by inversion at both ends and mixed on the sphere "
        "(slerp), found at the first end and kept, zero, or random. Own: what the autoencoder was made for.",
        choices=STOCHASTIC_CODES,
    ),
    ParamSpec(
        "reach",
        "Beyond the ends",
        "",
        "float",
        0.0,
        "How far the path goes on beyond both ends, as a share of its length.",
        low=0.0,
        high=0.5,
    ),
    ParamSpec(
        "n_steps",
        "Decoding steps",
        "T_{eval}",
        "int",
        None,
        "DDIM steps of decoding and of inversion.",
        low=1,
        high=200,
        optional=True,
        auto_help="the autoencoder's own number",
        advanced=True,
    ),
)
_kind = functools.partial(KindSpec, family=FAMILY)
IMAGE_MODELS: dict[str, KindSpec] = {
    spec.key: spec
    for spec in (
        _kind(
            "naim",
            "Neural additive image model",
            "Neural Additive Image Model, arXiv:2405.02295",
            "A network for each column and one for the image's semantic code, added up.",
            r"g(E[y \mid x, img]) = \beta_0 + \sum_j f_j(x_j) + f_{img}(E_\phi(img))",
            "What columns do together is left out, and where a column follows the image the two effects may be shared "
            "out wrongly.",
            _PATH_PARAMS,
        ),
        _kind(
            "table",
            "Table only",
            "Neural Additive Models, arXiv:2004.13912",
            "The same networks for the columns, without the image.",
            r"g(E[y \mid x]) = \beta_0 + \sum_j f_j(x_j)",
            "Whatever the image says is noise to it.",
        ),
        _kind(
            "ebm",
            "Explainable boosting machine",
            "Nori et al., InterpretML, arXiv:1909.09223",
            "Boosted step functions, one for each column of the table.",
            r"g(E[y \mid x]) = \beta_0 + \sum_j f_j(x_j)",
            "Sees the table only.",
        ),
        _kind(
            "black-box",
            "Gradient boosting",
            "histogram gradient boosting of scikit-learn",
            "Boosted trees on the table and the image's code, all interactions allowed.",
            r"\hat y = h(x, E_\phi(img))",
            "Explains nothing.",
        ),
    )
}


def _autoencoder(key: str, title: str, side: int, summary: str) -> ModelSpec:
    return ModelSpec(
        key=key,
        title=title,
        architecture="prism:diffusion-autoencoder",
        source="embedded",
        labels=(),
        input_size=(side, side),
        weights=f"{key}.safetensors",
        card=f"{key}.json",
        task="diffusion_autoencoder",
        licence="as Prism itself",
        summary=summary,
    )


AUTOENCODERS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        _autoencoder("hosts-dae", "Hosts", 64, "z_sem says all that a portrait shows; x_T says nothing."),
        _autoencoder("radiographs-dae", "Radiographs", 64, "z_sem says all that a simulated radiograph shows."),
        _autoencoder("squares-dae", "Squares", 32, "z_sem says all that is in the picture; x_T says nothing."),
        _autoencoder("colours-dae", "Colours", 32, "z_sem says hue, place and size; x_T says the ground."),
    )
}


def _naim(key: str, title: str, summary: str, side: int = 32) -> ModelSpec:
    return ModelSpec(
        key=key,
        title=title,
        architecture="prism:additive-image-model",
        source="embedded",
        labels=(),
        input_size=(side, side),
        weights=f"{key}.safetensors",
        card=f"{key}.json",
        task=FAMILY,
        licence="as Prism itself",
        summary=summary,
    )


NAIMS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        _naim("hosts", "Hosts", "Smile, glasses and age of a drawn host have effects, beside a table of lodgings.", 64),
        _naim(
            "hosts-biased",
            "Hosts, a planted bias",
            "As hosts, but darker skin lowers the price: the method must find it.",
            64,
        ),
        _naim(
            "radiographs",
            "Radiographs (simulated)",
            "The size of the heart and fluid in the chest have effects on log NT-proBNP, beside a table of patients.",
            64,
        ),
        _naim("squares", "Squares", "The side of a square has an effect, beside four columns."),
        _naim("colours", "Colours", "The hue of a square has an effect, beside four columns."),
        _naim("squares-bernoulli", "Squares, yes or no", "The response is 0 or 1; effects on the logit scale."),
        _naim("squares-poisson", "Squares, counts", "The response is a count; effects on the log scale."),
        _naim(
            "squares-tied",
            "Squares, a column tied to the image",
            "One column follows the side: the fit stays good while effects may be shared out wrongly.",
        ),
        _naim(
            "squares-tied-dropout",
            "The same with feature dropout",
            "Terms left out at random in training pull the effects of the tied column and of the image together.",
        ),
    )
}
