from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance.qemu_mmu import Machine


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """With all the bits of address, and more."""
    with Machine("max") as machine:
        assert machine.pa_range > 48
        yield machine
