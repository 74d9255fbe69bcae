"""What other cores than `-cpu max` show: a Cortex-A57 has 44 bits of address and no FEAT_XNX."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from conformance.guests import empty_guest, make_guest
from conformance.qemu_mmu import FRAMES, Machine
from mmu_guest import compare_access, compare_all, compare_at, path, spoil

pytestmark = pytest.mark.conformance

XN_CASES = [(xn1, xn0) for xn1 in (0, 1) for xn0 in (0, 1)]
PA_BITS = 44


@pytest.fixture(scope="module", params=["cortex-a57", "max"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(request.param) as machine:
        assert (request.param == "max") == machine.has_xnx == (machine.pa_range != PA_BITS)
        yield machine


@pytest.mark.parametrize("ipa_bits", [32, 36, 40, 42, 44])
def test_random_maps(machine: Machine, ipa_bits: int) -> None:
    """AT S12E1R/W, loads, stores and fetches (an Armv8.0 core has no swap) with 44 bits."""
    guest = make_guest(machine, ipa_bits, seed=2, pa_bits=PA_BITS, frames=(0, 1 << PA_BITS - 11))
    assert compare_at(guest, guest.addresses(20_000)) > 1000
    assert sum(guest.seen["ADDRESS_SIZE", level] for level in (1, 2, 3)) > 1000
    guest = make_guest(machine, ipa_bits, seed=2, pa_bits=PA_BITS, frames=FRAMES)
    assert compare_all(guest, guest.addresses(500), ("r", "w", "x")) > 300


@pytest.mark.parametrize(("xn1", "xn0"), XN_CASES)
def test_execute_never(machine: Machine, xn1: int, xn0: int) -> None:
    """Bit 54 alone decides about a fetch, as `translate` has it, on a core without FEAT_XNX. On one
    with it bits 54:53 are one field, and EL1 may execute where it is 0b00 or 0b11 (Arm ARM D8.4.2):
    `translate` is a model of the former. The engine itself never sets bit 53."""
    guest = empty_guest(machine, 40, seed=0, pa_bits=PA_BITS)
    gfn = 0x1234
    guest.p2m.set_entry(gfn, 1, guest.frame(1, 0))
    assert not guest.p2m.tables.ravel()[path(guest.p2m, gfn)[-1][1]] & np.uint64(1 << 53)
    spoil(guest.p2m, path(guest.p2m, gfn)[-1][1], xn1 << 54 | xn0 << 53)
    guest.attach()
    machine.plant(guest.p2m.translate(gfn << 12).pa + 16)
    may_execute = xn1 == xn0 if machine.has_xnx else not xn1
    outcome = machine.access("x", (gfn << 12) + 16)
    assert (outcome.abort is None) == may_execute
    if not (machine.has_xnx and xn0):
        assert compare_access(guest, gfn << 12, "x") == may_execute
