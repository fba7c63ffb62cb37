"""Kinds of decoders, and the autoencoders of scenes that ship."""

import functools

from backend.catalog.specs import KindSpec, ModelSpec, ParamSpec

_GRID_PARAMS = (
    ParamSpec(
        "reach",
        "Reach",
        "",
        "float",
        1.0,
        "How far the grid goes: 1 is the range of latents met in training, more goes beyond it.",
        low=0.1,
        high=2.0,
    ),
    ParamSpec(
        "along",
        "Along the axes",
        "",
        "choice",
        "latents",
        "What a row or column stands for: an even step of the learned latents, or the block of a training scene in "
        "which the object stands there, so that grids of different decoders show the same scenes.",
        choices=("latents", "scenes"),
    ),
    ParamSpec("row_block", "Block down", "B_1", "int", 0, "Which block varies from row to row.", low=0, high=3),
    ParamSpec("column_block", "Block across", "B_2", "int", 1, "Which block varies along a row.", low=0, high=3),
)
_LACHAPELLE = "Lachapelle et al., Additive Decoders for Latent Variables Identification, arXiv:2307.02598"
_kind = functools.partial(KindSpec, family="additive_decoding")
DECODER_KINDS: dict[str, KindSpec] = {
    spec.key: spec
    for spec in (
        _kind(
            "additive",
            "Additive decoder",
            _LACHAPELLE,
            "The image is a sum of one image for each block of latents.",
            r"f(z) = \sigma\big(\sum_B f_B(z_B)\big)",
            "Objects that hide each other are no sum; a linear truth leaves blocks undetermined.",
            _GRID_PARAMS,
        ),
        _kind(
            "non-additive",
            "Plain decoder",
            _LACHAPELLE,
            "One network sees all latents; as many parameters as the additive decoder.",
            r"f(z) = \sigma(g(z))",
            "Nothing ties a latent to an object, and nothing says what unseen combinations look like.",
            _GRID_PARAMS,
        ),
        _kind(
            "masked",
            "Masked decoder",
            "softmax masks over blocks, as in Locatello et al., Slot Attention, arXiv:2006.15055",
            "Each block draws an image and a mask; masks compete, with a white background among them.",
            r"f(z) = \sum_B m_B(z) \odot c_B(z_B),\quad m = \mathrm{softmax}_B(s_B(z_B))",
            "Not additive: the theory says nothing about it, so it is measured.",
            _GRID_PARAMS,
        ),
    )
}


def _decoder(key: str, title: str, kind: str, summary: str, seeds: int = 1) -> tuple[ModelSpec, ...]:
    """The rows of an autoencoder of scenes that ships, one for each of its training seeds."""
    rows = []
    for seed in range(seeds):
        own, again = (key, "") if seed == 0 else (f"{key}-seed{seed}", f", training seed {seed}")
        rows.append(
            ModelSpec(
                key=own,
                title=f"{title}{again}",
                architecture=f"prism:{kind}-decoder",
                source="embedded",
                labels=(),
                input_size=(64, 64),
                weights=f"{own}.safetensors",
                card=f"{own}.json",
                task="additive_decoding",
                licence="as Prism itself",
                summary=summary,
            )
        )
    return tuple(rows)


# Autoencoders of scenes; the recipes stand in backend/additive_decoding/recipes.py.
DECODERS: dict[str, ModelSpec] = {
    spec.key: spec
    for rows in (
        _decoder("balls-l-additive", "L support, additive", "additive", "Never saw both balls high.", 5),
        _decoder("balls-l-plain", "L support, non-additive", "non-additive", "One network for both balls.", 5),
        _decoder("balls-l-masked", "L support, masked", "masked", "Blocks compete by softmax masks.", 5),
        _decoder(
            "balls-l-hessian",
            "L support, Hessian penalty",
            "non-additive",
            "One network, pushed towards a sum by a penalty on mixed second derivatives.",
            5,
        ),
        *(
            _decoder(f"balls-{scene}-{name}", f"L support, {words}, {name}", kind, summary, seeds)
            for scene, words, seeds, summary in (
                ("near", "large balls", 3, "Large balls that meet; where they do, their colours add up."),
                ("occluded", "occlusion", 2, "Large balls that meet; the right one hides the left one."),
            )
            for name, kind in (("additive", "additive"), ("plain", "non-additive"), ("masked", "masked"))
        ),
        _decoder("balls-u-additive", "U support, additive", "additive", "The middle is missing on one side."),
        _decoder(
            "balls-disconnected-additive",
            "Disconnected support, additive",
            "additive",
            "The second ball was low or high, never between.",
        ),
        _decoder(
            "balls-corners-additive",
            "Opposite corners, additive",
            "additive",
            "Both balls low or both high: blocks may be learned in another order in each corner.",
        ),
        _decoder(
            "balls-blocks-independent",
            "Balls in the plane, additive",
            "additive",
            "Each block is a place in the plane; the balls never touch.",
            3,
        ),
        _decoder(
            "balls-blocks-dependent",
            "Dependent balls in the plane, additive",
            "additive",
            "The second ball's side depends on where the first one is.",
            3,
        ),
        _decoder(
            "balls-blocks-plain",
            "Balls in the plane, non-additive",
            "non-additive",
            "One network for the places of both balls.",
        ),
        _decoder(
            "balls-four",
            "Four balls, additive",
            "additive",
            "Four blocks of three latents: place and size of each ball.",
        ),
    )
    for spec in rows
}
