"""Methods and models as data. The pages draw their controls from these rows; tests run every row.

Adding a method is one module and one `MethodSpec`; adding a shipped model is one weights file and one
`ModelSpec`. Each family's rows lie in a module of their own. Importing this module loads no torch.
"""

from collections.abc import Mapping

from backend.catalog.additive_decoding import DECODER_KINDS, DECODERS
from backend.catalog.additive_image import AUTOENCODERS, IMAGE_MODELS, NAIMS, STOCHASTIC_CODES
from backend.catalog.image_text import PAIR_METHODS, PAIRS
from backend.catalog.path_attribution import BASELINES, EMBEDDED, EXAMPLES, HUB, METHODS, check_baseline
from backend.catalog.specs import ExampleSpec, FamilySpec, KindSpec, MethodSpec, ModelSpec, ParamSpec
from backend.errors import BadInput

FAMILIES: dict[str, FamilySpec] = {
    "path_attribution": FamilySpec(
        key="path_attribution",
        title="Attribution compare",
        question="Which pixels made the classifier say this class, and do two methods agree?",
        page="path_attribution.py",
        url_path="path-attribution",
        icon=":material/grid_view:",
        preview="A handwritten 3, and what SAMP++, Integrated Gradients and Grad-CAM say of it.",
    ),
    "additive_image": FamilySpec(
        key="additive_image",
        title="Additive image models",
        question="What does each column of a table do to the response, and what does the picture do?",
        page="additive_image_model.py",
        url_path="additive-image-model",
        icon=":material/animated_images:",
        preview="Two hosts, and two portraits decoded on the way between them.",
    ),
    "image_text": FamilySpec(
        key="image_text",
        title="Image and text",
        question="Where in the image does the model find each sentence, and which words carry it?",
        page="image_text.py",
        url_path="image-text",
        icon=":material/image_search:",
        preview="Two simulated radiographs, each with the map of one sentence of its report.",
    ),
    "additive_decoding": FamilySpec(
        key="additive_decoding",
        title="Additive decoders",
        question="Can a decoder draw combinations that it never saw together, and when does that break?",
        page="additive_decoder.py",
        url_path="additive-decoder",
        icon=":material/join_inner:",
        preview="Four corners of a grid; two balls high at once were never in the training scenes.",
    ),
}


# The rows of each family's methods; a key may mean another method in another family.
METHODS_OF: dict[str, dict[str, MethodSpec]] = {"path_attribution": METHODS, "image_text": PAIR_METHODS}

# The models that ship, and those of the hub that are listed, of every family.
MODELS: dict[str, ModelSpec] = {**EMBEDDED, **PAIRS, **NAIMS, **AUTOENCODERS, **DECODERS, **HUB}

# What each family compares: methods, or kinds of models.
ROWS_OF: dict[str, Mapping[str, MethodSpec | KindSpec]] = {
    **METHODS_OF,
    "additive_image": IMAGE_MODELS,
    "additive_decoding": DECODER_KINDS,
}


def method(key: str, family: str = "path_attribution") -> MethodSpec:
    """The row of a method. Raises: BadInput: no such key; the sentence lists those there are."""
    rows = METHODS_OF.get(family, {})
    if key not in rows:
        raise BadInput(f"unknown method {key!r}; one of {', '.join(rows)}", "method")
    return rows[key]


def examples_for(spec: ModelSpec) -> tuple[ExampleSpec, ...]:
    """The examples that suit a model, best first; a user's own model gets what has its kind of labels.

    A row's own `examples` come first.
    """
    named = [EXAMPLES[key] for key in spec.examples if key in EXAMPLES]
    suiting = [
        example
        for example in EXAMPLES.values()
        if spec.key in example.suits
        or ("hub" in example.suits and spec.source == "hub")
        or (spec.source == "local" and example.label in spec.labels)
    ]
    return tuple(dict.fromkeys((*named, *suiting)))


__all__ = [
    "AUTOENCODERS",
    "BASELINES",
    "DECODERS",
    "DECODER_KINDS",
    "EMBEDDED",
    "EXAMPLES",
    "FAMILIES",
    "HUB",
    "IMAGE_MODELS",
    "METHODS",
    "METHODS_OF",
    "MODELS",
    "NAIMS",
    "PAIRS",
    "PAIR_METHODS",
    "ROWS_OF",
    "STOCHASTIC_CODES",
    "ExampleSpec",
    "FamilySpec",
    "KindSpec",
    "MethodSpec",
    "ModelSpec",
    "ParamSpec",
    "check_baseline",
    "examples_for",
    "method",
]
