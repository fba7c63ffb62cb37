"""Versions of what computed a result, for its provenance."""

import functools
from importlib.metadata import PackageNotFoundError, version

PRISM = "0.1.0"
_PACKAGES = ("torch", "torchvision", "timm", "zennit", "numpy")


@functools.cache
def versions() -> tuple[tuple[str, str], ...]:
    found = [("prism", PRISM)]
    for package in _PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            continue
    return tuple(found)
