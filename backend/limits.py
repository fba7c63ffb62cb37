"""Every limit of Prism with its default, in one place.

A limit can be changed by an environment variable `PRISM_<NAME>`, for instance `PRISM_MAX_UPLOAD_BYTES=1000000`.
"""

import os
from dataclasses import dataclass, fields

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    max_upload_bytes: int = 20 * MIB  # one picture
    max_dicom_bytes: int = 64 * MIB  # one DICOM file; uncompressed ones are large
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
    max_request_s: float = 600.0  # one request
    max_job_s: float = 24 * 3600.0
    max_flights: int = 64  # requests that wait for the device at once
    max_session_requests: int = 8  # of one visitor under way at once
    max_path_frames: int = 65
    image_store_bytes: int = 256 * MIB  # decoded uploads
    result_store_bytes: int = 256 * MIB
    model_bytes: int = 2048 * MIB  # weights resident on the device
    chunk_pixels_cpu: int = 2**18  # points x height x width per model call; larger tensors are slower on a CPU
    chunk_pixels_gpu: int = 2**23

    @classmethod
    def from_environment(cls) -> "Limits":
        """The defaults, each overridden by its `PRISM_<NAME>` variable if that is set."""
        overrides = {}
        for field in fields(cls):
            raw = os.environ.get(f"PRISM_{field.name.upper()}")
            if raw is not None:
                overrides[field.name] = type(field.default)(raw)
        return cls(**overrides)


LIMITS = Limits.from_environment()
