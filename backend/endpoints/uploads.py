"""Large files that come in parts, in memory, bounded and for a short time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backend.errors import BadInput, NotAvailable
from backend.limits import LIMITS, MIB, Limits

KEPT_S = 600.0  # after its last part
MOST_UPLOADS = 16  # at once
PART_BYTES = 8 * MIB  # of one part


@dataclass
class _Upload:
    data: bytearray = field(default_factory=bytearray)
    touched: float = 0.0


class Uploads:
    """Files on their way in, by an id that their sender chose; parts that come twice do no harm."""

    def __init__(self, limits: Limits = LIMITS, now: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = max(limits.max_weights_bytes, limits.max_archive_bytes)
        self._now = now
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def add(self, key: Any, offset: Any, part: bytes) -> int:
        """Keep a part; returns the bytes held so far.

        Raises: BadInput: an id or offset that cannot be, too many bytes; NotAvailable: too many files at once.
        """
        _check_key(key)
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            raise BadInput(f"offset is {offset!r}; expected a whole number, 0 or more", "offset")
        if len(part) > PART_BYTES:
            raise BadInput(f"a part of {len(part)} bytes; up to {PART_BYTES} come at once", "part")
        with self._lock:
            self._forget_old()
            upload = self._uploads.get(key, _Upload())
            if key not in self._uploads:
                if offset:
                    raise BadInput("this upload is no longer held; send it again from the start", "upload")
                if len(self._uploads) >= MOST_UPLOADS:
                    raise NotAvailable("too many files are on their way; try again in a moment")
            if offset > len(upload.data):
                raise BadInput(f"offset is {offset}, but {len(upload.data)} bytes are here", "offset")
            held = sum(len(other.data) for other in self._uploads.values())
            if held - len(upload.data) + offset + len(part) > self.most_bytes:
                raise BadInput(f"more than {self.most_bytes // MIB} MB are on their way", "part")
            upload.data[offset:] = part
            upload.touched = self._now()
            self._uploads[key] = upload
            return len(upload.data)

    def take(self, key: Any) -> bytes:
        """The whole file, which is then held no more. Raises: BadInput: no such upload."""
        _check_key(key)
        with self._lock:
            self._forget_old()
            upload = self._uploads.pop(key, None)
        if upload is None:
            raise BadInput("this upload is no longer held; send it again from the start", "upload")
        return bytes(upload.data)

    def _forget_old(self) -> None:
        now = self._now()
        for key in [key for key, upload in self._uploads.items() if now - upload.touched > KEPT_S]:
            del self._uploads[key]


def _check_key(key: Any) -> None:
    if not isinstance(key, str) or not key.isalnum() or not 16 <= len(key) <= 64:
        raise BadInput("upload is no id of 16 to 64 letters and digits", "upload")
