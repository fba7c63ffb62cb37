"""How many cases the fuzz tests tried. It stands last among them."""

import pytest

from tests.fuzzing import COUNTED, TIMES

MODULES = ("test_fuzz_door", "test_fuzz_files", "test_fuzz_requests")
AT_LEAST = 5000


def test_enough_cases_were_tried():
    if any(module not in COUNTED for module in MODULES):
        pytest.skip("not all fuzz tests were run")
    print(f"{sum(COUNTED.values()):,} cases: {dict(COUNTED)}")
    assert sum(COUNTED.values()) >= AT_LEAST * TIMES
