"""What every fuzz test does alike: how many cases, the same ones every time, counted, and what may come out of one.

The default run is short and derandomised. `PRISM_FUZZ=20` tries twenty times as many, other ones each time.
"""

import functools
import io
import json
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import PrismError

T = TypeVar("T")

TIMES = max(1, int(os.environ.get("PRISM_FUZZ", "1")))
CASE_S = 20.0  # of this thread's CPU; far above what any case takes, far below what a hang takes
MOST_LETTERS = 1200  # of a sentence
COUNTED: Counter[str] = Counter()  # cases by module


def fuzz(cases: int, **strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """The test is run on so many drawn cases (times `PRISM_FUZZ`)."""

    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def one_case(*arguments: Any, **named: Any) -> None:
            COUNTED[test.__module__.rpartition(".")[2]] += 1
            began = time.thread_time()
            test(*arguments, **named)
            assert time.thread_time() - began < CASE_S

        return settings(
            max_examples=cases * TIMES,
            derandomize=TIMES == 1,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(one_case))

    return decorate


def answer(call: Callable[[], T]) -> T | PrismError:
    """What comes out, or Prism's refusal in one bounded sentence; anything else fails the test as it is."""
    try:
        return call()
    except PrismError as refusal:
        assert_sentence(refusal.sentence)
        assert len(refusal.field) <= 200 and refusal.field.isprintable()
        return refusal


def assert_sentence(sentence: str) -> None:
    assert sentence.strip() and len(sentence) <= MOST_LETTERS, f"{len(sentence)} letters: {sentence[:200]!r}"
    assert sentence.isprintable(), repr(sentence)
    assert "Traceback" not in sentence


# ----------------------------------------------------------------- values
EVIL_TEXTS = (
    "", " ", "\0", "\n", "../../etc/passwd", "/etc/passwd", "<script>alert(1)</script>", "=1+1", "%s%n", "{0}", "NaN",
    "null", "-1", "1e999", "\ud800", "\u202e\u0000", "a" * 5000, "ı", "٣", "__class__", "black,", "blur:", "blur:1e309",
    "blur:-1", "noise:noise", "timm:", "timm:../x", "own:", "prism:", "é" * 300,
)  # fmt: skip
EVIL_NUMBERS = (0, -1, 1, 2, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**400, -(2**63) - 1, 1e-320, -0.0, 1e308)
NOT_NUMBERS = (float("nan"), float("inf"), float("-inf"))

texts = st.sampled_from(EVIL_TEXTS) | st.text(max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from((*EVIL_NUMBERS, *NOT_NUMBERS))
    | st.integers(-5, 40)
    | st.floats()
    | texts
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=6,
)


@st.composite
def altered(draw: st.DrawFn, good: dict[str, Any], most: int = 3) -> dict[str, Any]:
    """A good JSON object with some of its fields, at any depth, replaced, left out or added."""
    body = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(0, most))):
        place: Any = body
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from([*keys, None]))
            inner = None if key is None else place[key]
            if isinstance(inner, (dict, list)) and inner and draw(st.booleans()):
                place = inner
                continue
            break
        if key is None:
            value = draw(json_values)
            place.append(value) if isinstance(place, list) else place.__setitem__(draw(texts), value)
        elif draw(st.integers(0, 4)) == 0:
            del place[key]
        else:
            place[key] = draw(json_values)
    return body


# ----------------------------------------------------------------- files
_PIECES = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0", b"\x01\0\0\0", b"\n", b"\r",
    b",", b'"', b"{", b"}", b"[", b"]", b"-1", b"1e999", b"nan", b"99999999999", b"<", b"=", b"../", b"PK\x03\x04",
    b"\xfe\xff",
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, mend: Callable[[bytes], bytes] = bytes, most: int = 5) -> bytes:
    """A good file with bytes changed, put in, left out, repeated, or its end cut off.

    Args: mend: makes checksums right again, so that the damage is not found before it does any.
    """
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, most))):
        # damage near the begin, where headers lie, is worth more than in the middle of pixels
        reach = draw(st.sampled_from((64, 512, len(data))))
        at = draw(st.integers(0, max(0, min(reach, len(data)) - 1)))
        kind = draw(st.sampled_from(("byte", "bit", "piece", "insert", "drop", "repeat", "cut")))
        if not data:
            break
        if kind == "byte":
            data[at] = draw(st.integers(0, 255))
        elif kind == "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "piece":
            piece = draw(st.sampled_from(_PIECES))
            data[at : at + len(piece)] = piece
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(_PIECES))
        elif kind == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 40))] * draw(st.integers(1, 3))
        else:
            del data[draw(st.integers(0, len(data))) :]
    return mend(bytes(data))


def mend_png(data: bytes) -> bytes:
    """The checksum of every chunk, as far as the chunks can be told."""
    parts, at = [data[:8]], 8
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        body = data[at + 4 : at + 8 + length]
        if at + 12 + length > len(data):
            break
        parts += [data[at : at + 4], body, struct.pack(">I", zlib.crc32(body))]
        at += 12 + length
    return b"".join(parts) + data[at:]


def mend_zip(data: bytes) -> bytes:
    """A zip's own checksums, of local headers and of the directory, for members that are stored as they are."""
    found = bytearray(data)
    at = 0
    while (at := data.find(b"PK\x03\x04", at)) >= 0 and at + 30 <= len(data):
        method, size = struct.unpack("<H", data[at + 8 : at + 10])[0], struct.unpack("<I", data[at + 18 : at + 22])[0]
        n_name, n_extra = struct.unpack("<HH", data[at + 26 : at + 30])
        begin = at + 30 + n_name + n_extra
        name, content = data[at + 30 : at + 30 + n_name], data[begin : begin + size]
        at += 4
        if method != 0 or len(content) != size:
            continue
        found[at + 10 : at + 14] = crc = struct.pack("<I", zlib.crc32(content))
        entry = data.rfind(name)
        if entry >= 46 and data[entry - 46 : entry - 42] == b"PK\x01\x02":
            found[entry - 30 : entry - 26] = crc
    return bytes(found)


def npz(**arrays: np.ndarray) -> bytes:
    """Arrays as the bytes of an .npz file whose members are stored as they are."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
