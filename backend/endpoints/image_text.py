"""Endpoints of an image and a text: where the model finds each sentence, and which words carry it."""

from typing import Any

from backend import reports
from backend.contracts import PairMapRequest, PairRandomisationRequest, PairScoreRequest, ReportMapsRequest
from backend.endpoints.door import Door, Endpoint, read_settings, read_text, read_texts


def endpoints(door: Door) -> list[Endpoint]:
    def interpret_pair(
        image: str | None = None,
        text: str | None = None,
        model: str = "cxr-clip",
        method: str = "m2ib",
        modality: str = "both",
        params: dict | None = None,
        seed: int = 0,
        control: str | None = None,
        audio: str | None = None,
        start_s: float = 0.0,
        arrays: bool = True,
    ) -> dict:
        """Explain how an image and a text match: where in the image, and by which words; or a sound and either.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text; null if a sound and a
                text are matched
            text: one sentence, or a few words; null if a sound and an image are matched
            model: key of an image-text model, as listed by `models`
            method: key of a method of the family image_text, as listed by `methods`, for instance m2ib
            modality: image, text or audio, as far as they are given, or both
            params: the method's own parameters by name (of m2ib: layer, beta, sigma2, n_steps, lr, samples)
            seed: seed of everything random, 0 or more
            control: a picture that the text does not belong to, as base64 text; null takes the one that ships
            audio: a sound's bytes (WAV or FLAC) as base64 text, for models that hear; or null
            start_s: where in the sound the model begins to hear, in seconds
            arrays: false answers without the maps, with the manifest only
        Returns:
            manifest (tokens, words, similarity, quality) and npz: base64 of an .npz file with image_map (H, W),
            token_map (n,) and audio_map (F, T) as far as they apply, in the manifest's unit (nats for m2ib)
        """
        body = _pair(door, image, text, model, method, modality, params, seed, control)
        sound = {} if audio is None else {"audio_id": door.put_sound(audio), "start_s": start_s}
        return door.answer({**body, **sound}, arrays)

    def interpret_report(
        image: str,
        report: str,
        model: str = "cxr-clip",
        method: str = "m2ib",
        modality: str = "both",
        params: dict | None = None,
        seed: int = 0,
        control: str | None = None,
        arrays: bool = True,
    ) -> dict:
        """Explain every sentence of a report on one image: a map for each, asked together.

        The report is cut into sentences; headings, and sections that do not speak of what is seen, are left out.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            report: the report's words; they stay in memory and are never logged
            model: key of an image-text model, as listed by `models`
            method: key of a method of the family image_text, as listed by `methods`, for instance m2ib
            modality: image, text or both
            params: the method's own parameters by name; those left out take their defaults
            seed: seed of everything random, 0 or more
            control: a picture that the report does not belong to, as base64 text; null takes the one that ships
            arrays: false answers without the maps, with the manifest only
        Returns:
            manifest (the sentences as they were read, tokens, quality) and npz: maps of each sentence
        """
        body = _pair(door, image, None, model, method, modality, params, seed, control)
        del body["text"]
        return door.answer({**body, "kind": ReportMapsRequest.kind, "sentences": _sentences(report)}, arrays)

    def score_pair(image: str, texts: list[str], model: str = "cxr-clip", arrays: bool = True) -> dict:
        """Tell how near an image and each of several texts are, and which findings the model has thresholds for.

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            texts: sentences, at least one
            model: key of an image-text model, as listed by `models`
            arrays: false answers with the manifest only
        Returns:
            manifest (cosine similarities, findings) and npz
        """
        body = {"image_id": door.put(image), "texts": read_texts("texts", texts), "model": model}
        return door.answer({"kind": PairScoreRequest.kind, **body}, arrays)

    def check_pair_randomisation(
        image: str,
        text: str,
        model: str = "cxr-clip",
        method: str = "m2ib",
        modality: str = "image",
        params: dict | None = None,
        max_layers: int = 8,
        seed: int = 0,
        arrays: bool = True,
    ) -> dict:
        """Sanity check: does the map of an image and a text change when a tower's layers are randomised?

        Args:
            image: the picture's bytes (PNG, JPEG, WebP, TIFF, BMP or DICOM) as base64 text
            text: one sentence, or a few words
            model: key of an image-text model, as listed by `models`
            method: key of a method of the family image_text, as listed by `methods`
            modality: image or text: the tower that is explained and randomised
            params: the method's own parameters by name; those left out take their defaults
            max_layers: how many layers are randomised, from the top, 1 to 100
            seed: seed of everything random, 0 or more
            arrays: false answers without the maps, with the manifest only
        Returns:
            manifest and npz: the maps and their likeness to the first, after each layer
        """
        body = _pair(door, image, text, model, method, modality, params, seed, None)
        return door.answer({"kind": PairRandomisationRequest.kind, "map": body, "max_layers": max_layers}, arrays)

    return [interpret_pair, interpret_report, score_pair, check_pair_randomisation]


def _pair(
    door: Door,
    image: Any,
    words: Any,
    model: Any,
    method: Any,
    modality: Any,
    params: Any,
    seed: Any,
    control: Any,
) -> dict[str, Any]:
    return {
        "kind": PairMapRequest.kind,
        "image_id": None if image is None else door.put(image),
        "text": None if words is None else read_text("text", words),
        "model": model,
        "method": method,
        "modality": modality,
        "params": read_settings(params),
        "seed": seed,
        "control_id": None if control is None else door.put(control, "control"),
    }


def _sentences(words: Any) -> list[str]:
    """What of a report speaks of what is seen; everything, if nothing does."""
    found = reports.parse_report(read_text("report", words)).sentences
    return [sentence.text for sentence in found if sentence.is_shown] or [sentence.text for sentence in found]
