"""What only a CUDA device can show: the same maps as on the CPU, bfloat16, and what happens when it is full.

Selected by `-m gpu`; skipped where there is no such device. A faked full device is tested everywhere (test_service).
"""

import dataclasses

import numpy as np
import pytest
import torch

from backend.catalog import METHODS
from backend.limits import Limits
from backend.runtime import Runtime
from backend.service import LocalService
from tests.test_catalog import ask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def maps(service: LocalService, model: str, key: str) -> np.ndarray:
    return service.run(ask(service, model, key)).arrays["attribution"]


@pytest.mark.parametrize("key", METHODS)
def test_gpu_gives_what_the_cpu_gives(key):
    expected = maps(LocalService(Runtime("cpu")), "digits-gap", key)
    found = maps(LocalService(Runtime("cuda")), "digits-gap", key)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("key", ["ig", "grad-cam", "saliency"])
def test_bfloat16_keeps_the_picture(key):
    expected = maps(LocalService(Runtime("cuda")), "objects-cnn", key)
    found = maps(LocalService(Runtime("cuda", torch.bfloat16)), "objects-cnn", key)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.95


def test_a_full_device_halves_the_chunk():
    limits = dataclasses.replace(Limits(), chunk_pixels_gpu=2**26)
    service = LocalService(Runtime("cuda", limits=limits), limits=limits)
    request = ask(service, "objects-resnet", "rise", params=(("samples", 8000),))
    expected = service.run(request).arrays["attribution"]
    service.result_store.clear()
    held = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.01, held / 4)))
        result = service.run(request)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("ran out of memory" in note for note in result.provenance.notes)
    np.testing.assert_allclose(result.arrays["attribution"], expected, atol=1e-5)
