"""Endpoints of additive models of a table and a picture: effects of columns, and of a picture that changes."""

from backend.contracts import (
    AttributeEffectsRequest,
    ImageCornersRequest,
    ImageDirectionRequest,
    ImageGalleryRequest,
    ImagePathRequest,
    ModelComparisonRequest,
    RecordRequest,
    ShapeFunctionsRequest,
)
from backend.endpoints.door import Door, Endpoint, read_settings


def endpoints(door: Door) -> list[Endpoint]:
    def shape_functions(model: str = "squares", points: int = 201, arrays: bool = True) -> dict:
        """Tell what each column of a table does to the response: its shape function, band, density, importance.

        Args:
            model: key of an additive image model, as listed by `models`, for instance squares or hosts
            points: points along a numeric column, 2 or more
            arrays: false answers without the curves, with the manifest only
        Returns:
            manifest (columns, importance, intercept, fit) and npz: shape_COLUMN (points, 4: value, effect, low,
            high) and more; effects are centred and on the scale of the link
        """
        return door.answer({"kind": ShapeFunctionsRequest.kind, "model": model, "points": points}, arrays)

    def image_path(
        model: str = "squares",
        rows: list[int] | None = None,
        images: list[str] | None = None,
        frames: int = 33,
        params: dict | None = None,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Walk from one picture to another and tell how the picture's effect on the response changes on the way.

        Args:
            model: key of an additive image model, as listed by `models`
            rows: two rows of the model's data, from 0; or give images
            images: two pictures as base64 text; or give rows
            frames: pictures along the path
            params: as listed by `methods` for naim (stochastic code, how far beyond the ends)
            seed: seed of a random stochastic code, 0 or more
            arrays: false answers without the pictures, with the manifest only
        Returns:
            manifest and npz: frames (n, H, W, 3) uint8, alphas (n,), effect (n,), contributions of both ends
        """
        body = {"model": model, "rows": rows, "image_ids": door.put_all(images), "frames": frames}
        given = {"params": read_settings(params), "seed": seed}
        return door.answer({"kind": ImagePathRequest.kind, **body, **given}, arrays)

    def image_corners(
        model: str = "squares",
        rows: list[int] | None = None,
        images: list[str] | None = None,
        side: int = 5,
        params: dict | None = None,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Mix four pictures into a square of pictures, with the effect of each.

        Args:
            model: key of an additive image model, as listed by `models`
            rows: four rows of the model's data: top left, top right, bottom left, bottom right; or give images
            images: four pictures as base64 text, in the same order; or give rows
            side: pictures along each side of the square
            params: as listed by `methods` for naim
            seed: seed of a random stochastic code, 0 or more
            arrays: false answers without the pictures, with the manifest only
        Returns:
            manifest and npz: the pictures of the square and their effects
        """
        body = {"model": model, "rows": rows, "image_ids": door.put_all(images), "side": side}
        given = {"params": read_settings(params), "seed": seed}
        return door.answer({"kind": ImageCornersRequest.kind, **body, **given}, arrays)

    def image_direction(
        model: str = "squares",
        attribute: str = "size",
        row: int | None = None,
        image: str | None = None,
        frames: int = 9,
        strength: float = 1.0,
        params: dict | None = None,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Move a picture along an attribute's direction in its code, and tell what that does to its effect.

        Args:
            model: key of an additive image model, as listed by `models`
            attribute: a known attribute of the model's pictures, for instance size
            row: a row of the model's data, from 0; or give image
            image: a picture as base64 text; or give row
            frames: pictures along the direction
            strength: how far to either side, in standard deviations of the attribute
            params: as listed by `methods` for naim
            seed: seed of a random stochastic code, 0 or more
            arrays: false answers without the pictures, with the manifest only
        Returns:
            manifest and npz: the pictures and the effect of each
        """
        image_id = None if image is None else door.put(image)
        body = {"model": model, "attribute": attribute, "row": row, "image_id": image_id}
        given = {"frames": frames, "strength": strength, "params": read_settings(params), "seed": seed}
        return door.answer({"kind": ImageDirectionRequest.kind, **body, **given}, arrays)

    def image_gallery(model: str = "squares", n: int = 24, seed: int = 0, arrays: bool = True) -> dict:
        """Show pictures of a model's data from the lowest effect on the response to the highest.

        Args:
            model: key of an additive image model, as listed by `models`
            n: how many pictures
            seed: seed of the choice, 0 or more
            arrays: false answers without the pictures, with the manifest only
        Returns:
            manifest and npz: rows (n,), images (n, H, W, 3) uint8, effect (n,)
        """
        return door.answer({"kind": ImageGalleryRequest.kind, "model": model, "n": n, "seed": seed}, arrays)

    def explain_record(
        model: str = "squares",
        row: int = 0,
        image: str | None = None,
        values: dict | None = None,
        arrays: bool = True,
    ) -> dict:
        """Explain one record: what each column and the picture add to the intercept, ending at the prediction.

        Args:
            model: key of an additive image model, as listed by `models`
            row: a row of the model's data, from 0
            image: a picture instead of the row's own, as base64 text
            values: columns with other values than the row's; categories by name
            arrays: false answers with the manifest only
        Returns:
            manifest (contribution of each column and of the picture, prediction) and npz
        """
        image_id = None if image is None else door.put(image)
        body = {"model": model, "row": row, "image_id": image_id, "values": read_settings(values, "values")}
        return door.answer({"kind": RecordRequest.kind, **body}, arrays)

    def attribute_effects(model: str = "squares", seed: int = 0, arrays: bool = True) -> dict:
        """Tell what each known attribute of the pictures does to the response, with an interval.

        Args:
            model: key of an additive image model, as listed by `models`
            seed: seed of the interval's resampling, 0 or more
            arrays: false answers with the manifest only
        Returns:
            manifest (effect of each attribute, low, high, the truth where it is known) and npz
        """
        return door.answer({"kind": AttributeEffectsRequest.kind, "model": model, "seed": seed}, arrays)

    def compare_models(model: str = "squares", n: int = 2000, seed: int = 0, arrays: bool = True) -> dict:
        """Compare the additive model's fit on unseen rows with the table alone, a boosting machine and a black box.

        Args:
            model: key of an additive image model, as listed by `models`
            n: unseen rows to measure on
            seed: seed of the choice of rows, 0 or more
            arrays: false answers with the manifest only
        Returns:
            manifest (R² or share of deviance of each model, checks of additivity) and npz
        """
        return door.answer({"kind": ModelComparisonRequest.kind, "model": model, "n": n, "seed": seed}, arrays)

    return [
        shape_functions,
        image_path,
        image_corners,
        image_direction,
        image_gallery,
        explain_record,
        attribute_effects,
        compare_models,
    ]
