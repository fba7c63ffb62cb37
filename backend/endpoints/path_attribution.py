"""Endpoints of a classifier and one picture: what it sees, which pixels say so, and whether that can be believed."""

from typing import Any

from backend.contracts import (
    AttributionRequest,
    FaithfulnessRequest,
    PathRequest,
    PredictionRequest,
    RandomisationRequest,
    SensitivityRequest,
)
from backend.endpoints.door import Door, Endpoint, read_settings, read_text, read_texts
from backend.errors import BadInput


def endpoints(door: Door) -> list[Endpoint]:
    def predict(image: str, model: str = "digits-gap") -> dict:
        """Classify a picture: the five top classes with logits and probabilities.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            model: key of a classifier, as listed by `models`
        Returns:
            image_id, and the manifest; its values hold the top classes
        """
        request = {"kind": PredictionRequest.kind, "image_id": door.put(image), "model": model}
        manifest = door.answer(request, arrays=False)["manifest"]
        return {"image_id": request["image_id"], **manifest}

    def attribute(
        image: str,
        model: str = "digits-gap",
        method: str = "samp++",
        target: int | None = None,
        baseline: str = "black",
        params: dict | None = None,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Attribute a classifier's score to the pixels of a picture.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            model: key of a classifier, as listed by `models`
            method: key of a method, as listed by `methods`, for instance samp++, ig or grad-cam
            target: class number to explain, from 0; null takes the top class
            baseline: black, white, grey, mean, noise or blur:SIGMA (pixels); up to 8 by commas are averaged
            params: the method's own parameters by name; those left out take their defaults
            seed: seed of everything random, 0 or more
            arrays: false answers without the map, with the manifest only
        Returns:
            manifest (target, score in logits, quality, cost) and npz: base64 of an .npz file with
            attribution (C or 1, H, W) in the manifest's unit
        """
        return door.answer(_attribution(door.put(image), model, method, target, baseline, params, seed), arrays)

    def measure_faithfulness(
        image: str,
        model: str = "digits-gap",
        methods: list[str] = ["samp++", "ig"],  # noqa: B006 - the default is read, and shown to callers
        target: int | None = None,
        baseline: str = "black",
        params: dict | None = None,
        steps: int = 56,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Compare methods by deletion (lower is better) and insertion (higher is better) on one picture and class.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            model: key of a classifier, as listed by `models`
            methods: keys of 1 to 16 methods, as listed by `methods`
            target: class number to explain, from 0; null takes the top class
            baseline: what stands for a missing pixel, in the maps and in the test: black, white, grey, mean,
                noise or blur:SIGMA (pixels)
            params: parameters by method and name, for instance {"ig": {"n_steps": 100}}
            steps: points along each curve, 2 to 1000
            seed: seed of everything random, 0 or more
            arrays: false answers without the curves, with the manifest only
        Returns:
            manifest with the areas under the curves for each method, and npz: base64 of an .npz file with
            deletion_logit, insertion_logit and the like, (methods, steps + 1)
        """
        maps = _attributions(door, image, model, methods, target, baseline, params, seed)
        body = {"attributions": maps, "baseline": baseline, "steps": steps, "seed": seed}
        return door.answer({"kind": FaithfulnessRequest.kind, **body}, arrays)

    def measure_sensitivity(
        image: str,
        model: str = "digits-gap",
        methods: list[str] = ["samp++", "ig"],  # noqa: B006 - the default is read, and shown to callers
        target: int | None = None,
        baseline: str = "black",
        params: dict | None = None,
        subsets: int = 100,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Sensitivity-N: does a map's sum over random sets of pixels predict how far the score drops without them?

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            model: key of a classifier, as listed by `models`
            methods: keys of 1 to 16 methods, as listed by `methods`
            target: class number to explain, from 0; null takes the top class
            baseline: what stands for a missing pixel: black, white, grey, mean, noise or blur:SIGMA (pixels)
            params: parameters by method and name, for instance {"ig": {"n_steps": 100}}
            subsets: random sets of each size, 3 to 10000
            seed: seed of everything random, 0 or more
            arrays: false answers without the numbers of every size, with the manifest only
        Returns:
            manifest and npz: correlations, one row for each method and one column for each size of set
        """
        maps = _attributions(door, image, model, methods, target, baseline, params, seed)
        body = {"attributions": maps, "baseline": baseline, "subsets": subsets, "seed": seed}
        return door.answer({"kind": SensitivityRequest.kind, **body}, arrays)

    def check_randomisation(
        image: str,
        model: str = "digits-gap",
        method: str = "samp++",
        target: int | None = None,
        baseline: str = "black",
        params: dict | None = None,
        max_layers: int = 8,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Sanity check: a map that stays the same when the model's layers are randomised shows the picture only.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            model: key of a classifier, as listed by `models`
            method: key of a method, as listed by `methods`
            target: class number to explain, from 0; null takes the top class
            baseline: black, white, grey, mean, noise or blur:SIGMA (pixels); up to 8 by commas are averaged
            params: the method's own parameters by name; those left out take their defaults
            max_layers: how many layers are randomised, from the top, 1 to 100
            seed: seed of everything random, 0 or more
            arrays: false answers without the maps, with the manifest only
        Returns:
            manifest and npz: the maps and their likeness to the first, after each layer
        """
        attribution = _attribution(door.put(image), model, method, target, baseline, params, seed)
        body = {"attribution": attribution, "max_layers": max_layers}
        return door.answer({"kind": RandomisationRequest.kind, **body}, arrays)

    def show_path(
        image: str,
        model: str = "digits-gap",
        method: str = "samp++",
        target: int | None = None,
        baseline: str = "black",
        params: dict | None = None,
        frames: int = 33,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Show the pictures along a path method's way from baseline to picture, with the score at each.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            model: key of a classifier, as listed by `models`
            method: key of a method with a path (`has_path` in `methods`): samp++, samp or samp-joint
            target: class number to explain, from 0; null takes the top class
            baseline: one of black, white, grey, mean, noise or blur:SIGMA (pixels)
            params: the method's own parameters by name; those left out take their defaults
            frames: pictures along the path, 2 to 65
            seed: seed of everything random, 0 or more
            arrays: false answers without the pictures, with the manifest only
        Returns:
            manifest and npz: frames and the score at each
        """
        attribution = _attribution(door.put(image), model, method, target, baseline, params, seed)
        return door.answer({"kind": PathRequest.kind, "attribution": attribution, "frames": frames}, arrays)

    return [predict, attribute, measure_faithfulness, measure_sensitivity, check_randomisation, show_path]


def _attribution(
    image_id: str, model: Any, method: Any, target: Any, baseline: Any, params: Any, seed: Any
) -> dict[str, Any]:
    return {
        "kind": AttributionRequest.kind,
        "image_id": image_id,
        "model": model,
        "method": method,
        "target": target,
        "baseline": [name.strip() for name in read_text("baseline", baseline).split(",")],
        "params": read_settings(params),
        "seed": seed,
    }


def _attributions(
    door: Door, image: Any, model: Any, methods: Any, target: Any, baseline: Any, params: Any, seed: Any
) -> list[dict[str, Any]]:
    """One attribution for each method, each with its own parameters."""
    keys, given = read_texts("methods", methods), read_settings(params)
    for key in given:
        if key not in keys:
            raise BadInput(f"params name {key!r}, which is none of the methods asked for", "params")
    image_id = door.put(image)
    return [
        _attribution(image_id, model, key, target, baseline, read_settings(given.get(key), f"params of {key}"), seed)
        for key in keys
    ]
