"""Real loads, stores, swaps and fetches of a guest at EL1 under QEMU's MMU, at addresses of the
whole space: each lands where `translate` says, or leaves ESR, FAR and HPFAR as its exception has
them; aborts are resolved and the access is tried again. ESR.ISV and what it makes valid (bits
24:14: how the register was accessed) is left out: `translate` knows no instruction."""

from __future__ import annotations

import numpy as np
import pytest
from conformance.guests import Guest, empty_guest, make_guest
from conformance.qemu_mmu import FRAMES, TABLES, Machine
from mmu_guest import (
    IPA_BITS,
    KINDS,
    ORDERS,
    Change,
    Depth,
    check_changes,
    check_permissions,
    check_traps,
    compare_access,
    compare_all,
    path,
    spoil,
    u64,
)

pytestmark = pytest.mark.conformance

FRAME = FRAMES[0] + 0x1234


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_random_maps(machine: Machine, ipa_bits: int, seed: int) -> None:
    """All four kinds of access, all over a random map and beyond it."""
    guest = make_guest(machine, ipa_bits, seed, frames=FRAMES)
    ipas = guest.addresses(1000)
    assert (guest.inside(ipas) >> u64(ipa_bits - 1)).any()
    assert compare_all(guest, ipas) > 500
    for end in ("TRANSLATION", 0), ("TRANSLATION", 3), ("PERMISSION", 3):
        assert guest.seen[end] > 20, end


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_permissions(machine: Machine, ipa_bits: int, order: int) -> None:
    """Every type with every plain access, as a page, a block of 2 MiB or of 1 GiB: the MMU grants
    the rights of the type that the access leaves, to loads, stores, swaps and fetches."""
    guest = empty_guest(machine, ipa_bits, seed=order)
    guest.attach()
    check_permissions(guest, order)


def tables_to(guest: Guest, gfn: int) -> list[tuple[int, int]]:
    """(level, index in `tables.ravel()`) of the table descriptors on the way to `gfn`; not those
    that the stub lies behind, too, without which nothing can be loaded."""
    shared = path(guest.p2m, guest.stub_gfn)
    return [step for step in path(guest.p2m, gfn)[:-1] if step not in shared]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_address_size_aborts(machine: Machine, ipa_bits: int, order: int) -> None:
    """The abort of a leaf beyond VTCR_EL2.PS, and of each table on the way to one within it."""
    guest = empty_guest(machine, ipa_bits, seed=order, pa_bits=min(max(ipa_bits, 36), 44))
    gfn, limit = guest.limit // 2, 1 << (guest.p2m.pa_bits - 12)
    guest.p2m.set_entry(gfn, 1 << order, limit)
    guest.attach()
    assert compare_all(guest, np.array([gfn << 12], np.uint64)) == 0
    assert guest.seen["ADDRESS_SIZE", 3 - order // 9] == len(KINDS)
    guest.p2m.set_entry(gfn, 1 << order, min(limit, FRAMES[1]) - (1 << order))
    for level, index in tables_to(guest, gfn):
        spoil(guest.p2m, index, limit << 12)
        machine.copy_tables()
        machine.invalidate()
        before = guest.seen["ADDRESS_SIZE", level]
        assert compare_all(guest, np.array([gfn << 12], np.uint64)) == 0
        assert guest.seen["ADDRESS_SIZE", level] == before + len(KINDS)
        spoil(guest.p2m, index, limit << 12)
    machine.obey()
    assert compare_all(guest, np.array([gfn << 12], np.uint64)) == len(KINDS)


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_tables_where_there_is_no_memory(machine: Machine, ipa_bits: int) -> None:
    """An external abort on the walk, of the level of the descriptor that cannot be read."""
    guest = empty_guest(machine, ipa_bits, seed=0)
    gfn = guest.limit // 2
    guest.p2m.set_entry(gfn, 1, FRAME)
    guest.attach()
    tables = tables_to(guest, gfn)
    for level, index in tables:
        spoil(guest.p2m, index, 1 << 45)
        machine.copy_tables()
        machine.invalidate()
        assert compare_all(guest, np.array([gfn << 12], np.uint64)) == 0
        assert guest.seen["EXTERNAL", level + 1] == len(KINDS)
        spoil(guest.p2m, index, 1 << 45)
    assert [level for level, _ in tables] == list(range(guest.p2m.root_level, 3))


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_armed(machine: Machine, ipa_bits: int) -> None:
    """After arming every access aborts at the root, and after a resolve those that it reaches do
    not; the TLB is invalidated only when asked."""
    guest = make_guest(machine, ipa_bits, seed=8, frames=FRAMES, armed=0.0)
    p2m = guest.p2m
    sample = guest.inside(guest.addresses(64))
    assert compare_all(guest, sample) > 20
    for arm in (p2m.invalidate_root, p2m.harvest):
        arm()
        assert machine.obey()
        assert compare_all(guest, sample, ("x",)) == 0
        guest.keep_stub()
        machine.obey()
        compare_all(guest, sample)
        for ipa in sample.tolist():
            p2m.resolve_translation_fault(ipa >> 12, "path", guest.draw(0, 4, 9, 18))
            machine.obey()
            compare_all(guest, guest.neighbours(ipa, 12, 21))
        assert compare_all(guest, sample) > 20


@pytest.mark.parametrize(("depth", "order"), [("path", 0), ("path", 4), ("level", 0)])
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_traps(machine: Machine, ipa_bits: int, depth: Depth, order: int) -> None:
    """A guest whose aborts are resolved, and whose accesses are tried again, takes as many traps
    for each, and ends as, `access_many` of an equal P2M says; then it lands in the right frame."""
    twin = make_guest(machine, ipa_bits, seed=5, frames=FRAMES)
    guest = make_guest(machine, ipa_bits, seed=5, frames=FRAMES)
    assert check_traps(guest, twin, depth, order) > 50


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_changes_with_the_invalidations_asked_for(machine: Machine, ipa_bits: int) -> None:
    """A TLB filled by accesses around each change never shows anything stale after the change, if
    it is invalidated when, and only when, the P2M records it."""
    check_changes(make_guest(machine, ipa_bits, seed=3, frames=FRAMES))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_invalidation_shows(machine: Machine, kind: str) -> None:
    """The TLB is one: without the invalidation that is recorded, the test above would fail."""
    guest = make_guest(machine, 48, seed=3, frames=FRAMES)
    gfn = guest.limit - 5
    guest.apply(Change(gfn, 1, FRAME))
    machine.obey()
    assert compare_access(guest, gfn << 12, kind)
    guest.p2m.set_entry(gfn, 1, None)
    machine.copy_tables()
    with pytest.raises(AssertionError, match="succeeds"):
        compare_access(guest, gfn << 12, kind)
    assert machine.obey()
    assert not compare_access(guest, gfn << 12, kind)


FLIPS = [(0, "r"), (6, "r"), (7, "w"), (10, "r"), (12, "r"), (29, "r"), (37, "w"), (54, "x"),
         (12, "x"), (7, "rw")]  # fmt: skip


@pytest.mark.parametrize(("bit", "kind"), FLIPS)
def test_one_wrong_bit_shows(machine: Machine, bit: int, kind: str) -> None:
    """The comparison can fail: in the machine's copy of the tables, one bit of one leaf changed."""
    guest = empty_guest(machine, 48, seed=bit)
    gfn = guest.limit - 9
    guest.p2m.set_entry(gfn, 1, FRAME)
    guest.attach()
    assert compare_access(guest, gfn << 12, kind)
    machine.words(TABLES + 8 * path(guest.p2m, gfn)[-1][1])[0] ^= u64(1 << bit)
    machine.invalidate()
    with pytest.raises(AssertionError, match="translate:"):
        compare_access(guest, gfn << 12, kind)
