"""Every limit of Prism with its default, in one place.

Limits can be set in one TOML file that `PRISM_LIMITS` names, one a line (`max_upload_bytes = 1_000_000`), and by
environment variables `PRISM_<NAME>` (`PRISM_MAX_UPLOAD_BYTES=1000000`), which win.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from backend.errors import BadInput
from backend.files import read_toml

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    max_upload_bytes: int = 20 * MIB  # one picture
    max_dicom_bytes: int = 64 * MIB  # one DICOM file; uncompressed ones are large
    max_audio_bytes: int = 20 * MIB  # one sound
    max_audio_s: float = 600.0
    min_audio_s: float = 0.05
    min_sample_rate: int = 4_000  # Hz
    max_sample_rate: int = 384_000
    max_audio_channels: int = 8
    max_report_characters: int = 400_000  # about a hundred pages
    max_report_sentences: int = 2_000
    max_image_pixels: int = 40_000_000  # width x height that the header announces
    min_image_side: int = 2  # pixels
    max_weights_bytes: int = 1024 * MIB  # one uploaded weights file
    max_labels: int = 100_000
    max_rows: int = 200_000  # of a table
    max_archive_bytes: int = 512 * MIB  # one uploaded zip of pictures
    max_archive_files: int = 200_000
    max_unpacked_bytes: int = 2048 * MIB
    max_sprite_bytes: int = 4096 * MIB  # images of one dSprites file unpacked; streamed, never held whole
    max_methods: int = 16  # side by side in one request
    max_evaluation_images: int = 2_000
    max_text_characters: int = 200_000  # one text for a model; fifty pages have about 150,000
    max_tokens: int = 100_000  # of one text, before it is cut to what its model reads
    max_texts: int = 200  # explained at once
    max_request_s: float = 600.0  # one request, from when it has the device
    max_job_s: float = 24 * 3600.0
    max_flights: int = 64  # requests that wait for the device at once
    max_together: int = 16  # requests of one group computed as one; 1: each by itself
    max_session_requests: int = 8  # of one visitor under way at once
    max_path_frames: int = 65
    max_sessions: int = 200  # browsers connected at once
    max_query_characters: int = 8_000  # of an address, behind its question mark
    max_header_bytes: int = 32_000
    max_api_body_bytes: int = 128 * MIB  # one call of the API; pictures grow by a third as base64
    max_page_body_bytes: int = 1025 * MIB  # one upload to a page: the largest file of any kind, with its frame
    max_body_bytes: int = MIB  # of whatever else is posted
    max_message_bytes: int = 40 * MIB  # one message from a browser: a pasted picture, a painted support
    max_upload_s: float = 900.0  # until a body is whole
    max_upload_pause_s: float = 20.0  # between two pieces of it
    image_store_bytes: int = 256 * MIB  # decoded uploads
    audio_store_bytes: int = 128 * MIB  # decoded sounds
    result_store_bytes: int = 256 * MIB
    model_bytes: int = 2048 * MIB  # weights resident on the device
    chunk_pixels_cpu: int = 2**18  # points x height x width per model call; larger tensors are slower on a CPU
    chunk_pixels_gpu: int = 2**23

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Limits":
        """The defaults, changed by the file that `PRISM_LIMITS` names, changed by `PRISM_<NAME>` variables.

        Raises: BadInput: the file cannot be read, a name is unknown, or a value is no number above zero.

        >>> Limits.read({"PRISM_MAX_ROWS": "5"}).max_rows
        5
        """
        known = {field.name: type(field.default) for field in fields(cls)}
        values: dict[str, Any] = {}
        if environment.get("PRISM_LIMITS"):
            found = read_toml(environment["PRISM_LIMITS"], "PRISM_LIMITS", ", which PRISM_LIMITS names")
            values = {name: _check(name, value, known) for name, value in found.items()}
        for name, kind in known.items():
            text = environment.get(f"PRISM_{name.upper()}")
            if text is not None:
                values[name] = _check(name, _number(text, kind), known)
        return cls(**values)


def _number(text: str, kind: type) -> Any:
    """What an environment variable says; text that is no number stays as it is, to be refused."""
    try:
        return kind(text)
    except ValueError:
        return text


def _check(name: str, value: Any, known: Mapping[str, type]) -> int | float:
    if name not in known:
        raise BadInput(f"there is no limit {name!r}; backend/limits.py lists them", "PRISM_LIMITS")
    accepted = (int, float) if known[name] is float else int
    if isinstance(value, bool) or not isinstance(value, accepted) or not math.isfinite(value) or value <= 0:
        kind = "a number" if known[name] is float else "a whole number"
        raise BadInput(f"the limit {name} is {value!r}; expected {kind} above zero", name)
    return known[name](value)


def _read_or_stop() -> Limits:
    """The limits of this process. Limits that were set wrongly end it at its start, with one sentence."""
    try:
        return Limits.read(os.environ)
    except BadInput as error:
        raise SystemExit(f"prism: {error.sentence}") from None


LIMITS = _read_or_stop()
