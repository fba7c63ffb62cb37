"""Endpoints of decoders that add blocks: scenes that were never seen together, and how well they are drawn."""

from backend.contracts import (
    BlockTableRequest,
    DecoderFiguresRequest,
    DecodingRequest,
    LatentScatterRequest,
    SupportRequest,
)
from backend.endpoints.door import Door, Endpoint, read_settings


def endpoints(door: Door) -> list[Endpoint]:
    def decode_grid(
        model: str = "balls-l-additive",
        grid: list[int] = [9, 9],  # noqa: B006 - the default is read, and shown to callers
        params: dict | None = None,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Draw all combinations of two blocks' values, those that were never seen together among them.

        Args:
            model: key of a decoder, as listed by `models`, for instance balls-l-additive or balls-l-plain
            grid: how many values of the first and of the second block
            params: as listed by `methods` for the decoder's kind (which blocks lie along the axes)
            seed: which training scenes lend their blocks, where a block has more than one latent; 0 or more
            arrays: false answers without the pictures, with the manifest only
        Returns:
            manifest and npz: grid (n, m, H, W, 3) uint8, latents (n, m, d), in_support (n, m) bool, blocks_0 …
        """
        body = {"model": model, "grid": grid, "params": read_settings(params), "seed": seed}
        return door.answer({"kind": DecodingRequest.kind, **body}, arrays)

    def block_table(model: str = "balls-l-additive", size: int = 0, arrays: bool = True) -> dict:
        """Give what draws any scene without the server: each block's pictures on a grid of its latents.

        Args:
            model: key of a decoder, as listed by `models`
            size: values along each latent of a block of one or two; 0 chooses (65 for one latent, the block's
                network for more)
            arrays: false answers with the manifest only
        Returns:
            manifest and npz: for each block its pictures or its network; their sum through the link is the scene
        """
        return door.answer({"kind": BlockTableRequest.kind, "model": model, "size": size}, arrays)

    def latent_scatter(model: str = "balls-l-additive", n: int = 200, seed: int = 0, arrays: bool = True) -> dict:
        """Set true beside learned latents, for scenes inside the training support and beyond it.

        Args:
            model: key of a decoder, as listed by `models`
            n: scenes from each
            seed: seed of the scenes, 0 or more
            arrays: false answers with the manifest only
        Returns:
            manifest and npz: true and learned latents, and the scenes
        """
        return door.answer({"kind": LatentScatterRequest.kind, "model": model, "n": n, "seed": seed}, arrays)

    def decoder_figures(model: str = "balls-l-additive", n: int = 500, seed: int = 0, arrays: bool = True) -> dict:
        """Measure a decoder: latent matching score, errors in and out of support, assumption meters.

        Args:
            model: key of a decoder, as listed by `models`
            n: test scenes
            seed: seed of the scenes, 0 or more
            arrays: false answers with the manifest only
        Returns:
            manifest; its quality holds RMSE and latent matching in and out of support, and the meters
        """
        return door.answer({"kind": DecoderFiguresRequest.kind, "model": model, "n": n, "seed": seed}, arrays)

    def describe_support(
        support: str = "l",
        shapes: list[str] = ["ball", "ball"],  # noqa: B006 - the default is read, and shown to callers
        free: list[str] = ["y"],  # noqa: B006 - as above
        radius: float = 0.16,
        occlusion: bool = False,
        nonlinearity: float = 1.0,
        n: int = 200,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Tell what the theory says of a training support before any training: pieces, product, nonlinearity.

        Args:
            support: a name (l, u, bands, corners, apart …), or {"polygon": [[z1, z2], …]} or
                {"mask": ["0110", …]} as JSON text
            shapes: of two to four objects: ball, square, triangle or digit
            free: what varies of each object: x, y, size, hue
            radius: of an object, as a share of the image's side, 0.02 to 0.3
            occlusion: whether later objects hide earlier ones; then scenes are no sums
            nonlinearity: 0 (images fade linearly) to 1 (objects move)
            n: latents drawn
            seed: seed of the draw, 0 or more
            arrays: false answers with the manifest only
        Returns:
            manifest (components, is_product, nonlinearity) and npz: raster of the support, its extension, scenes
        """
        body = {"support": support, "shapes": shapes, "free": free, "radius": radius, "occlusion": occlusion}
        given = {"nonlinearity": nonlinearity, "n": n, "seed": seed}
        return door.answer({"kind": SupportRequest.kind, **body, **given}, arrays)

    return [decode_grid, block_table, latent_scatter, decoder_figures, describe_support]
