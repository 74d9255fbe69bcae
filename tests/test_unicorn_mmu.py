"""Unicorn's Arm MMU walks the live tables and gets where `translate` says: every success, landing
address, fault kind, level, ESR, FAR and HPFAR.

Loads, stores, swaps and fetches are real ones of a guest at EL1; AT S12E1R/W adds translations in
bulk. What they can show, and how it is got at, stands in `unicorn_mmu`. Left out, and why:

* IPAs beyond 44 bits: the emulated core has 44. Of a 48-bit P2M, the tables are walked with
  T0SZ 20, which takes the same level-0 root and reaches its first 32 entries; its own VTCR is
  refused by the core (`test_the_whole_of_a_48_bit_space`). A guest's address beyond 44 bits fails
  at stage 1 already, so beyond a 44-bit space there is nothing to compare.
* Address-size faults: this walker never compares an output address with VTCR_EL2.PS
  (`test_address_size`).
* ESR.ISV and what it makes valid (bits 24:14: how the register was accessed): `translate` knows
  no instruction.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import numpy as np
import pytest
import unicorn
from mmu_guest import (
    FAULT_STATUS,
    GIB,
    IPA_BITS,
    KINDS,
    ORDERS,
    PAR_ADDRESS,
    PAR_F,
    TYPES,
    Change,
    Depth,
    RandomGuest,
    check_changes,
    check_permissions,
    check_traps,
    compare_access,
    compare_all,
    compare_at,
    compare_exactly,
    path,
    spoil,
)
from unicorn_mmu import PA_BITS, STUB_MFN, Mmu, random_mfn

import p2mfast as pf

FRAME = 0x41234  # a frame of machine memory


@pytest.fixture(scope="module")
def mmu() -> Mmu:
    return Mmu()


# ---- A random P2M ----


@dataclass
class Guest(RandomGuest[Mmu]):
    """A P2M whose leaves lie in the machine's memory, and the machine that walks its tables."""

    stub_mfn = STUB_MFN
    reach = PA_BITS

    def frame(self, nr: int, order: int) -> int:
        return random_mfn(self.rng, nr, order)

    def keep_stub(self) -> None:
        super().keep_stub()
        self.p2m.translate(self.stub_gfn << 12, "x")


def empty_guest(mmu: Mmu, ipa_bits: int, seed: int) -> Guest:
    """A P2M in which only the stub is mapped, at GFN 1."""
    p2m = pf.P2M(ipa_bits, pa_bits=PA_BITS)
    rng = np.random.default_rng(seed)
    guest = Guest(mmu, p2m, rng, min(ipa_bits, PA_BITS), [0], stub_gfn=1)
    guest.keep_stub()
    return guest


def make_guest(mmu: Mmu, ipa_bits: int, seed: int, **how: float) -> Guest:
    """A P2M of about 70 random changes (`how`: see `plan`), under the machine."""
    rng = np.random.default_rng([ipa_bits, seed])
    p2m = pf.P2M(ipa_bits, pa_bits=PA_BITS, vmid=int(rng.integers(1, 1 << 16)))
    guest = Guest(mmu, p2m, rng, min(ipa_bits, PA_BITS), [], 0)
    guest.fill(seed, [(18, 4), (None, 64)], **how)
    return guest


# ---- Maps ----


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_random_maps(mmu: Mmu, ipa_bits: int, seed: int) -> None:
    """Pages, blocks of 2 MiB and 1 GiB, holes, armed leaves and every type and access, in one root
    table or several: all accesses end as `translate` says, and there are plenty of each sort."""
    guest = make_guest(mmu, ipa_bits, seed)
    assert min(guest.p2m.stats.mappings[1:]) > 0
    assert compare_at(guest, guest.addresses(10000)) > 1000
    guest.seen.clear()
    compare_all(guest, guest.addresses(400))
    assert guest.count("NONE") > 50
    assert guest.count("TRANSLATION") > 20
    assert guest.count("PERMISSION") > 5


@pytest.mark.parametrize("order", [*ORDERS, None])
@pytest.mark.parametrize("ipa_bits", IPA_BITS[:-1])
def test_the_end_of_the_space(mmu: Mmu, ipa_bits: int, order: int | None) -> None:
    """The last bytes of the space, mapped by a page, a block of 2 MiB or 1 GiB, or not at all,
    and the first beyond it."""
    guest = empty_guest(mmu, ipa_bits, seed=ipa_bits)
    if order is not None:
        guest.p2m.set_entry(guest.limit - (1 << order), 1 << order, guest.frame(GIB, 18))
    guest.attach()
    for kind in KINDS:
        last = (1 << ipa_bits) - (16 if kind == "x" else 8)
        assert compare_exactly(guest, last, kind, last) == (order is not None)
        assert ipa_bits == PA_BITS or not compare_access(guest, 1 << ipa_bits, kind)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_permissions(mmu: Mmu, ipa_bits: int, order: int) -> None:
    """Every type with every plain access, as a page, a block of 2 MiB or of 1 GiB: the MMU grants
    the rights of the type that the access leaves, to loads, stores, swaps and fetches."""
    guest = empty_guest(mmu, ipa_bits, seed=order)
    guest.attach()
    check_permissions(guest, order)


def test_memory_attributes(mmu: Mmu) -> None:
    """With HCR_EL2.DC, where stage 1 gives way to it, PAR_EL1 shows stage 2's memory type and
    shareability: those that `translate` reports."""
    p2m = pf.P2M(40, pa_bits=PA_BITS)
    attributes = {0xF: 0xFF, 0x5: 0x44, 0x1: 0x04}  # MemAttr -> MAIR encoding
    for mapped in TYPES:
        p2m.set_entry(mapped, 1, FRAME, mapped)
    mmu.attach(p2m, default_cacheable=True)
    for mapped in TYPES:
        (par,) = map(int, mmu.address_translate(np.array([mapped << 12]), "r"))
        attrs = p2m.translate(mapped << 12).attrs
        assert (par >> 56, par >> 7 & 3) == (attributes[attrs.memattr], attrs.shareability), mapped


# ---- Tracking ----


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_armed(mmu: Mmu, ipa_bits: int) -> None:
    """After arming everything faults at the root; path and level resolves make reachable what they
    say, one level a call; a harvest arms again. The TLB is invalidated only when asked."""
    guest = make_guest(mmu, ipa_bits, seed=8, armed=0.0)
    p2m, root = guest.p2m, guest.p2m.root_level
    sample = guest.addresses(64)
    assert compare_all(guest, sample) > 20
    for arm in (p2m.invalidate_root, p2m.harvest):
        arm()
        assert mmu.obey()
        inside = guest.inside(sample)
        assert compare_at(guest, inside) == 0
        assert (p2m.translate_many(inside)["level"] == root).all()
        assert compare_all(guest, sample, ("x",)) == 0
        guest.keep_stub()
        compare_all(guest, sample)
        compare_at(guest, guest.addresses(500))
        for ipa in guest.inside(guest.addresses(60)).tolist():
            p2m.resolve_translation_fault(ipa >> 12, "path", guest.draw(0, 0, 4, 9, 18))
            mmu.obey()
            compare_all(guest, guest.neighbours(ipa, 12, 21))
        for ipa in inside.tolist()[:30]:
            for _ in range(root, 4):
                p2m.resolve_translation_fault(ipa >> 12, "level")
                mmu.obey()
                compare_all(guest, guest.neighbours(ipa, 30), ("r", "x"))
        assert compare_at(guest, guest.addresses(500)) > 20


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_an_armed_leaf(mmu: Mmu, ipa_bits: int, order: int) -> None:
    """A leaf set armed refuses all accesses by a translation fault of its level, and takes them
    once it is resolved, without an invalidation; what lies beside it is not affected."""
    guest = empty_guest(mmu, ipa_bits, seed=order)
    p2m, gfn, nr = guest.p2m, guest.limit // 2, 1 << order
    p2m.set_entry(gfn, nr, guest.frame(GIB, 18), armed=True)
    p2m.set_entry(gfn - 1, 1, FRAME)
    guest.attach()
    for ipa in (gfn << 12 | 0x120, (gfn + nr - 1) << 12):
        assert p2m.translate_many([ipa])["level"] == 3 - order // 9
        assert compare_all(guest, np.array([ipa])) == 0
    assert compare_all(guest, np.array([(gfn - 1) << 12])) == len(KINDS)
    p2m.resolve_translation_fault(gfn)
    assert not mmu.obey()
    for ipa in (gfn << 12 | 0x120, (gfn + nr - 1) << 12):
        assert compare_all(guest, np.array([ipa])) == len(KINDS)


@pytest.mark.parametrize(("depth", "order"), [("path", 0), ("path", 4), ("level", 0)])
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_traps(mmu: Mmu, ipa_bits: int, depth: Depth, order: int) -> None:
    """A guest on the MMU whose aborts are resolved as a hypervisor does it takes as many traps for
    each access, and ends as, `access_many` of an equal P2M says."""
    twin = make_guest(mmu, ipa_bits, seed=5)
    guest = make_guest(mmu, ipa_bits, seed=5)
    assert check_traps(guest, twin, depth, order) > 20


# ---- Changes under a running guest ----


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_changes_with_the_invalidations_asked_for(mmu: Mmu, ipa_bits: int) -> None:
    """A TLB filled by accesses around each change never shows anything stale after the change, if
    it is invalidated when, and only when, the P2M records it."""
    check_changes(make_guest(mmu, ipa_bits, seed=3))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_invalidation_shows(mmu: Mmu, kind: str) -> None:
    """The TLB is one: without the invalidation that is recorded, the test above would fail."""
    guest = make_guest(mmu, 40, seed=3)
    guest.apply(Change(5, 1, FRAME))
    mmu.obey()
    assert compare_access(guest, 5 << 12, kind)
    guest.p2m.set_entry(5, 1, None)
    with pytest.raises(AssertionError, match="succeeds"):
        compare_access(guest, 5 << 12, kind)
    assert mmu.obey()
    assert not compare_access(guest, 5 << 12, kind)


# ---- Descriptors that the engine does not write ----


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_descriptors_from_elsewhere(mmu: Mmu, ipa_bits: int) -> None:
    """Leaves and tables as another hypervisor may leave them: any of valid, MemAttr, S2AP, SH, AF,
    DBM, contiguous, XN, the p2m type and the ignored bits changed, and the reserved encoding at
    level 3; with both, the access flag faults before the permission. (Bit 53 is ignored by this
    core, which is one without FEAT_XNX.)"""
    guest = make_guest(mmu, ipa_bits, seed=9, armed=0.0)
    bits = [0, *range(2, 11), 10, 6, 7, *range(51, 63)]
    changed = set()
    sample = guest.inside(guest.addresses(600))
    for ipa in sample.tolist():
        on_the_way = path(guest.p2m, ipa >> 12)
        level, index = on_the_way[-1] if guest.rng.random() < 0.95 else guest.draw(*on_the_way)
        if index in changed or not int(guest.p2m.tables.ravel()[index]) & 1:
            continue
        for _ in range(guest.draw(1, 1, 2)):
            spoil(guest.p2m, index, 1 << guest.draw(*bits, *([1] if level == 3 else [])))
        changed.add(index)
    mmu.invalidate()
    assert len(changed) > 50
    assert compare_at(guest, np.concatenate([sample, guest.addresses(4000)])) > 500
    guest.seen.clear()
    compare_all(guest, sample, ("x",))  # needs no stub, which may be gone
    assert min(guest.count(end) for end in ("NONE", "ACCESS_FLAG", "TRANSLATION")) > 3


FLIPS = [(0, "r"), (1, "r"), (6, "r"), (7, "w"), (10, "r"), (12, "r"), (29, "r"), (43, "r"),
         (54, "x"), (12, "x"), (12, "w")]  # fmt: skip


@pytest.mark.parametrize(("bit", "kind"), FLIPS)
def test_one_wrong_bit_shows(mmu: Mmu, bit: int, kind: str) -> None:
    """The comparisons can fail: on a copy of the tables with one bit of one leaf changed, they
    do."""
    guest = empty_guest(mmu, 40, seed=bit)
    p2m = guest.p2m
    p2m.set_entry(9, 1, FRAME)
    guest.attach()
    ipa = 9 << 12
    assert compare_access(guest, ipa, kind)
    memory = mmap.mmap(-1, p2m.tables.nbytes)
    copy = np.frombuffer(memory, np.uint64).reshape(p2m.tables.shape)
    copy[:] = p2m.tables
    copy.ravel()[path(p2m, 9)[-1][1]] ^= np.uint64(1 << bit)
    mmu.attach(p2m, stub_gfn=1, tables=copy)
    with pytest.raises((AssertionError, unicorn.UcError)):
        compare_access(guest, ipa, kind)
    if kind != "x":
        with pytest.raises(AssertionError, match="PAR"):
            compare_at(guest, np.array([ipa], np.uint64))


# ---- What the emulated core cannot show ----


def test_the_whole_of_a_48_bit_space(mmu: Mmu) -> None:
    """With the VTCR of a 48-bit P2M this core faults at level 0, whatever the tables say, as it may
    (CONSTRAINED UNPREDICTABLE for an input beyond PARange): why only the first 16 TiB of such a
    space is compared above."""
    p2m = pf.P2M(48, pa_bits=PA_BITS)
    p2m.set_entry(9, 1, FRAME)
    assert p2m.translate(9 << 12).pa == FRAME << 12
    mmu.attach(p2m)
    (par,) = map(int, mmu.address_translate(np.array([9 << 12]), "r"))
    assert par & 0x7F == PAR_F | FAULT_STATUS[pf.FaultKind.TRANSLATION] << 1


def test_address_size(mmu: Mmu) -> None:
    """An output address beyond VTCR_EL2.PS is an address-size fault of the leaf's level (Arm ARM
    D8.15). This walker does not look at VTCR_EL2.PS and lets it pass: when it does, compare."""
    p2m = pf.P2M(40, pa_bits=36)
    mfn = 0x555_4000_0000 >> 12
    p2m.set_entry(9, 1, mfn)
    fault = p2m.translate_many([9 << 12])[0]
    assert (fault["fault"], fault["level"]) == (pf.FaultKind.ADDRESS_SIZE, 3)
    mmu.attach(p2m)
    (par,) = map(int, mmu.address_translate(np.array([9 << 12]), "r"))
    assert par & (PAR_ADDRESS | PAR_F) == mfn << 12
