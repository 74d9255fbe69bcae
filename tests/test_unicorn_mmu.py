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

import ctypes
import itertools
import mmap
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import unicorn
from unicorn_mmu import PA_BITS, PAR_ADDRESS, PAR_F, PAR_S, STUB_MFN, Abort, Mmu, random_mfn

import p2mfast as pf

IPA_BITS = (32, 36, 40, 42, 44, 48)
GIB = 1 << 18
KINDS = ("r", "w", "rw", "x")
TYPES = [t for t in pf.P2MType if t]
FRAME = 0x41234  # a frame of machine memory
PLAIN = [a for a in pf.Access if a <= pf.Access.RWX]

FAULT_STATUS = {
    pf.FaultKind.ADDRESS_SIZE: 0x00,
    pf.FaultKind.TRANSLATION: 0x04,
    pf.FaultKind.ACCESS_FLAG: 0x08,
    pf.FaultKind.PERMISSION: 0x0C,
}
KIND_OF_STATUS = {status: kind for kind, status in FAULT_STATUS.items()}
ESR_ISS_OF_INSTRUCTION = 0x7FF << 14


@pytest.fixture(scope="module")
def mmu() -> Mmu:
    return Mmu()


# ---- A random P2M ----


class Change(NamedTuple):
    """The arguments of one set_entry."""

    gfn: int
    nr: int
    mfn: int | None
    type: pf.P2MType = pf.P2MType.RAM_RW
    access: pf.Access = pf.Access.RWX
    armed: bool = False


@dataclass
class Guest:
    """A P2M whose leaves lie in the machine's memory, and the machine that walks its tables."""

    mmu: Mmu
    p2m: pf.P2M
    rng: np.random.Generator
    input_bits: int
    regions: list[int]  # GFNs of the GiB in which something is mapped
    stub_gfn: int
    spans: list[tuple[int, int]] = field(default_factory=list)  # (gfn, nr) of every change
    seen: Counter[str] = field(default_factory=Counter)  # how the real accesses ended

    @property
    def limit(self) -> int:
        return 1 << (self.input_bits - 12)

    def draw(self, *choices: object) -> object:
        return choices[int(self.rng.integers(len(choices)))]

    def plan(self, order: int | None = None, armed: float = 0.2, remove: float = 0.2) -> Change:
        """A random change in one of the regions; half of what is mapped is plain RAM."""
        rng = self.rng
        order = self.draw(0, 0, 0, 9, 9, 18) if order is None else order
        nr = int(rng.integers(1, {0: 60, 9: 4, 18: 2}[order])) << order
        gfn = self.draw(*self.regions) + (int(rng.integers(0, GIB >> order)) << order)
        nr = min(nr, self.limit - gfn)
        mfn = None if rng.random() < remove else random_mfn(rng, nr, order)
        if rng.random() < 0.5:
            return Change(gfn, nr, mfn, armed=rng.random() < armed)
        return Change(gfn, nr, mfn, self.draw(*TYPES), self.draw(*pf.Access), rng.random() < armed)

    def apply(self, *changes: Change) -> None:
        for change in changes:
            self.p2m.set_entry(*change)
            self.spans.append(change[:2])
        self.keep_stub()

    def keep_stub(self) -> None:
        """The page that loads and stores are run from stays where it is, and can be fetched."""
        if self.p2m.get_entry(self.stub_gfn).mfn != STUB_MFN:
            self.p2m.set_entry(self.stub_gfn, 1, STUB_MFN)
        self.p2m.resolve_translation_fault(self.stub_gfn)
        self.p2m.translate(self.stub_gfn << 12, "x")

    def attach(self) -> None:
        narrowed = self.input_bits if self.input_bits < self.p2m.ipa_bits else None
        self.mmu.attach(self.p2m, stub_gfn=self.stub_gfn, input_bits=narrowed)

    def addresses(self, n: int, spans: list[tuple[int, int]] | None = None) -> np.ndarray:
        """About `n` IPAs, aligned to 32: inside and at the edges of what was changed, anywhere in
        the regions and in the space, at its end, and beyond it. Given `spans`, only there."""
        rng = self.rng
        starts, counts = np.array(spans or self.spans, np.uint64).T
        chosen = rng.integers(0, len(starts), n // 2)
        inside = starts[chosen] + (rng.random(n // 2) * counts[chosen]).astype(np.uint64)
        chosen = rng.integers(0, len(starts), n // 4)
        edges = starts[chosen] + counts[chosen] * rng.integers(0, 2, n // 4).astype(np.uint64)
        edges -= rng.integers(0, 2, n // 4).astype(np.uint64)
        pages = [inside, edges % np.uint64(self.limit)]
        if spans is None:
            near = rng.choice(self.regions, n // 8) + rng.integers(0, GIB, n // 8)
            pages += [near, rng.integers(0, self.limit, n // 8), [0, self.limit - 1]]
            if self.input_bits < PA_BITS:
                beyond = rng.integers(self.limit, 1 << (PA_BITS - 12), n // 50)
                pages += [beyond, [self.limit]]
        gfns = np.concatenate([np.asarray(part, np.uint64) for part in pages])
        gfns = gfns[gfns != self.stub_gfn]
        lines = rng.integers(0, 128, len(gfns)).astype(np.uint64)
        return gfns << np.uint64(12) | lines << np.uint64(5)

    def neighbours(self, ipa: int, *bits: int) -> np.ndarray:
        """An address and those that differ from it in one of the bits."""
        ipas = np.array([ipa, *(ipa ^ 1 << bit for bit in bits)], np.uint64)
        return ipas[ipas >> np.uint64(12) != self.stub_gfn]

    def inside(self, ipas: np.ndarray) -> np.ndarray:
        """Those that are not beyond the space."""
        return ipas[ipas < np.uint64(self.limit << 12)]


def make_guest(mmu: Mmu, ipa_bits: int, seed: int, **how: float) -> Guest:
    """A P2M of about 70 random changes (`how`: see Guest.plan), under the machine."""
    rng = np.random.default_rng([ipa_bits, seed])
    input_bits = min(ipa_bits, PA_BITS)
    p2m = pf.P2M(ipa_bits, pa_bits=PA_BITS, vmid=int(rng.integers(1, 1 << 16)))
    limit = 1 << (input_bits - 30)
    # The ends of the space, something in each root table, and others; the last one for a block of
    # RAM of 1 GiB that nothing shatters.
    places = [0, limit - 1]
    if p2m.root_pages > 1:
        places += [(i << 9) + int(rng.integers(1, 511)) for i in range(p2m.root_pages)]
    while len(places) < (4 if limit == 4 else 7) or len(set(places)) < len(places):
        places = [*dict.fromkeys(places), int(rng.integers(0, limit))]
    *regions, whole = (place * GIB for place in places)
    stub_gfn = int(rng.choice(regions)) + int(rng.integers(0, GIB))
    guest = Guest(mmu, p2m, rng, input_bits, regions, stub_gfn)
    guest.apply(*(guest.plan(18, **how) for _ in range(4)), *(guest.plan(**how) for _ in range(64)))
    guest.apply(Change(whole, GIB, random_mfn(rng, GIB, 18)))
    order = (0, 9, 18, None)[seed % 4]
    if order is not None:  # the end of the space by a page, a block of 2 MiB, of 1 GiB, or not
        nr = 1 << order
        guest.apply(Change(guest.limit - nr, nr, random_mfn(rng, nr, order)))
    guest.attach()
    return guest


# ---- The comparison ----


def compare_at(guest: Guest, ipas: np.ndarray) -> int:
    """AT S12E1R and W of all addresses: the frame, or fault kind and level. How many succeed."""
    successes = 0
    for access in "rw":
        pars = guest.mmu.address_translate(ipas, access)
        answers = guest.p2m.translate_many(ipas, access)
        status = np.array([FAULT_STATUS.get(kind, 0) for kind in range(8)])[answers["fault"]]
        fault = PAR_F | PAR_S | (status | answers["level"]).astype(np.uint64) << 1
        works = answers["fault"] == 0
        expected = np.where(works, answers["pa"] & np.uint64(PAR_ADDRESS), fault)
        shown = np.where(
            pars & np.uint64(PAR_F),
            pars & np.uint64(PAR_F | PAR_S | 0x7E),
            pars & np.uint64(PAR_ADDRESS | PAR_F),
        )
        bad = (shown != expected).nonzero()[0]
        assert not bad.size, (
            f"{bad.size} of {len(ipas)}: {access!r} of {int(ipas[bad[0]]):#x}:"
            f" PAR {int(pars[bad[0]]):#x}, translate {answers[bad[0]]}"
        )
        successes += int(works.sum())
    return successes


def compare_abort(
    guest: Guest, ipa: int, kind: str, abort: Abort | None, fault: pf.Stage2Fault
) -> None:
    """The registers that the abort leaves are those of the exception raised by `translate`.

    HPFAR_EL2 is compared for permission faults too, where the architecture leaves it unknown and
    this core sets it.
    """
    assert abort is not None, f"{kind!r} of {ipa:#x} succeeds, translate: {fault}"
    shown = (abort.esr & ~ESR_ISS_OF_INSTRUCTION, abort.far, abort.hpfar)
    expected = (fault.esr & ~ESR_ISS_OF_INSTRUCTION, ipa, fault.hpfar)
    assert shown == expected, f"{kind!r} of {ipa:#x}: {list(map(hex, shown))}, translate: {fault}"


def compare_access(guest: Guest, ipa: int, kind: str) -> bool:
    """One real access: where it lands, and what it leaves there, or how it faults; whether it
    succeeds. A store that is refused leaves the mapped frame as it was."""
    mmu, p2m = guest.mmu, guest.p2m
    ipa = int(ipa) + (16 if kind == "x" else 8)
    old, new = map(int, guest.rng.integers(1, 1 << 63, 2))
    fault = behind = pa = None
    try:
        pa = p2m.translate(ipa, kind).pa
        if kind == "x":
            mmu.plant(pa)
        else:
            mmu.poke(pa, old)
    except pf.Stage2Fault as raised:
        fault = raised
        entry = p2m.get_entry(ipa >> 12) if ipa >> 12 < guest.limit else None
        if kind != "x" and entry is not None and entry.mfn is not None:
            behind = entry.mfn << 12 | ipa & 0xFFF
            mmu.poke(behind, old)
    outcome = {
        "r": lambda: mmu.load(ipa),
        "w": lambda: mmu.store(ipa, new),
        "rw": lambda: mmu.swap(ipa, new),
        "x": lambda: mmu.fetch(ipa),
    }[kind]()
    guest.seen["success" if fault is None else fault.kind.name] += 1
    if fault is not None:
        compare_abort(guest, ipa, kind, outcome.abort, fault)
        assert behind is None or mmu.peek(behind) == old
        return False
    where = f"{kind!r} of {ipa:#x}, translate: {pa:#x}"
    assert outcome.abort is None, f"{where}: ESR {outcome.abort.esr:#x}"
    if kind == "x":
        assert outcome.value == pa, where
    elif kind in ("r", "rw"):
        assert outcome.value == old, where
    if "w" in kind:
        assert mmu.peek(pa) == new, where
    return True


def compare_all(guest: Guest, ipas: np.ndarray, kinds: tuple[str, ...] = KINDS) -> int:
    """Every kind of real access to every address; how many succeed."""
    return sum(compare_access(guest, ipa, kind) for ipa in ipas.tolist() for kind in kinds)


# ---- Maps ----


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_random_maps(mmu: Mmu, ipa_bits: int, seed: int) -> None:
    """Pages, blocks of 2 MiB and 1 GiB, holes, armed leaves and every type and access, in one root
    table or several: all accesses end as `translate` says, and there are plenty of each sort."""
    guest = make_guest(mmu, ipa_bits, seed)
    assert min(guest.p2m.stats.mappings[1:]) > 0
    assert compare_at(guest, guest.addresses(10000)) > 1000
    compare_all(guest, guest.addresses(400))
    assert guest.seen["success"] > 50
    assert guest.seen["TRANSLATION"] > 20
    assert guest.seen["PERMISSION"] > 5


@pytest.mark.parametrize("order", [0, 9, 18, None])
@pytest.mark.parametrize("ipa_bits", IPA_BITS[:-1])
def test_the_end_of_the_space(mmu: Mmu, ipa_bits: int, order: int | None) -> None:
    """The last bytes of the space, mapped by a page, a block of 2 MiB or 1 GiB, or not at all,
    and the first beyond it."""
    p2m = pf.P2M(ipa_bits, pa_bits=PA_BITS)
    guest = Guest(mmu, p2m, np.random.default_rng(ipa_bits), ipa_bits, [0], stub_gfn=1)
    p2m.set_entry(1, 1, STUB_MFN)
    if order is not None:
        p2m.set_entry(guest.limit - (1 << order), 1 << order, random_mfn(guest.rng, GIB, 18))
    guest.attach()
    for kind in KINDS:
        last = (1 << ipa_bits) - (32 if kind == "x" else 16)  # compare_access adds 16 or 8
        assert compare_access(guest, last, kind) == (order is not None)
        assert ipa_bits == PA_BITS or not compare_access(guest, 1 << ipa_bits, kind)


def rights(type: pf.P2MType, access: pf.Access) -> int:
    """R 1, W 2, X 4 of a mapping, as Xen's p2m_set_permission gives them."""
    by_type = {pf.P2MType.RAM_RW: 7, pf.P2MType.RAM_RO: 5}
    return access & by_type.get(type, 1 if type.name.endswith("_RO") else 3)


@pytest.mark.parametrize("order", [0, 9, 18])
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_permissions(mmu: Mmu, ipa_bits: int, order: int) -> None:
    """Every type with every plain access, as a page, a block of 2 MiB or of 1 GiB: the MMU grants
    the rights of the type that the access leaves, to loads, stores, swaps and fetches."""
    p2m = pf.P2M(ipa_bits, pa_bits=PA_BITS)
    input_bits = min(ipa_bits, PA_BITS)
    guest = Guest(mmu, p2m, np.random.default_rng(order), input_bits, [0], stub_gfn=1)
    p2m.set_entry(1, 1, STUB_MFN)
    guest.attach()
    gfn, nr = guest.limit // 2, 1 << order
    for mapped, access in itertools.product(TYPES, PLAIN):
        p2m.set_entry(gfn, nr, random_mfn(guest.rng, nr, order), mapped, access)
        mmu.obey()
        page = gfn + int(guest.rng.integers(0, nr))
        granted = rights(mapped, access)
        for kind, needed in zip(KINDS, (1, 2, 3, 4), strict=True):
            works = compare_access(guest, page << 12 | 0x340, kind)
            assert works == (granted & needed == needed), f"{mapped!r} {access!r} {kind}"
        compare_at(guest, np.array([page << 12], np.uint64))


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


@pytest.mark.parametrize("order", [0, 9, 18])
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_an_armed_leaf(mmu: Mmu, ipa_bits: int, order: int) -> None:
    """A leaf set armed refuses all accesses by a translation fault of its level, and takes them
    once it is resolved, without an invalidation; what lies beside it is not affected."""
    p2m = pf.P2M(ipa_bits, pa_bits=PA_BITS)
    guest = Guest(mmu, p2m, np.random.default_rng(order), min(ipa_bits, PA_BITS), [0], stub_gfn=1)
    gfn, nr = guest.limit // 2, 1 << order
    p2m.set_entry(1, 1, STUB_MFN)
    p2m.set_entry(gfn, nr, random_mfn(guest.rng, GIB, 18), armed=True)
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


def access_with_traps(
    guest: Guest, ipa: int, right: int, depth: str, order: int
) -> tuple[int, pf.FaultKind]:
    """One access (R 1, W 2, X 4), tried again after each abort that the P2M resolves: how many it
    resolves, and the fault that is left. The handler knows ESR and HPFAR only."""
    mmu, p2m = guest.mmu, guest.p2m
    for traps in itertools.count():
        assert traps < 8, f"no end of traps at {ipa:#x}"
        if right == 4:
            answer = p2m.translate_many([ipa], "x")[0]
            if not answer["fault"]:
                mmu.plant(int(answer["pa"]))
            abort = mmu.fetch(ipa).abort
        else:
            abort = (mmu.load(ipa) if right == 1 else mmu.store(ipa, 0)).abort
        if abort is None:
            return traps, pf.FaultKind.NONE
        kind = KIND_OF_STATUS[abort.esr & 0x3C]
        gfn = abort.hpfar >> 4
        if kind != pf.FaultKind.TRANSLATION or gfn >= guest.limit:
            return traps, kind
        if not p2m.resolve_translation_fault(gfn, depth, order):
            return traps, kind
        mmu.obey()
    raise AssertionError


@pytest.mark.parametrize(("depth", "order"), [("path", 0), ("path", 4), ("level", 0)])
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_traps(mmu: Mmu, ipa_bits: int, depth: str, order: int) -> None:
    """A guest on the MMU whose aborts are resolved as a hypervisor does it takes as many traps for
    each access, and ends as, `access_many` of an equal P2M says."""
    twin = make_guest(mmu, ipa_bits, seed=5)
    guest = make_guest(mmu, ipa_bits, seed=5)
    for one in (twin, guest):
        one.p2m.invalidate_root()
        one.keep_stub()
    mmu.obey()
    ipas = guest.addresses(500) + np.uint64(16)
    access = guest.rng.choice([1, 2, 4], len(ipas))
    expected = twin.p2m.access_many(ipas, access, depth, order)
    for ipa, right, answer in zip(ipas.tolist(), access.tolist(), expected, strict=True):
        outcome = access_with_traps(guest, ipa, right, depth, order)
        assert outcome == tuple(map(int, answer)), f"{ipa:#x}, right {right}"
    assert (expected["traps"].max() > 1) == (depth == "level")
    assert (expected["fault"] == 0).sum() > 20
    assert (guest.p2m.entries() == twin.p2m.entries()).all()


# ---- Changes under a running guest ----


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_changes_with_the_invalidations_asked_for(mmu: Mmu, ipa_bits: int) -> None:
    """A TLB filled by accesses around each change never shows anything stale after the change, if
    it is invalidated when, and only when, the P2M records it."""
    guest = make_guest(mmu, ipa_bits, seed=3)
    invalidations = 0
    for i in range(40):
        change = guest.plan(remove=0.4)
        around = np.concatenate([guest.addresses(16, [change[:2]]), guest.addresses(8)])
        compare_all(guest, around)
        if i % 8 == 5:
            guest.p2m.harvest()
            guest.keep_stub()
        else:
            guest.apply(change)
        invalidations += mmu.obey()
        compare_all(guest, around)
    assert 5 < invalidations < 40


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


def descriptors(p2m: pf.P2M, gfn: int) -> list[tuple[int, int]]:
    """(level, address in our memory) of the descriptors on the way to `gfn`, root-most first."""
    tables = p2m.tables
    row = (p2m.vttbr >> 12 & (1 << 36) - 1) - p2m.table_base_mfn
    found = []
    for level in range(p2m.root_level, 4):
        index = gfn >> 9 * (3 - level) & (0xFFF if level == p2m.root_level else 0x1FF)
        found.append((level, tables.ctypes.data + 4096 * row + 8 * index))
        word = int(tables[row + index // 512, index % 512])
        if level == 3 or not word & 2 or not word >> 55 & 0xF:
            return found
        row = (word >> 12 & (1 << 36) - 1) - p2m.table_base_mfn
    raise AssertionError("a table below level 3")


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
        path = descriptors(guest.p2m, ipa >> 12)
        level, address = path[-1] if guest.rng.random() < 0.95 else guest.draw(*path)
        word = ctypes.c_uint64.from_address(address)
        if address in changed or not word.value & 1:
            continue
        for _ in range(guest.draw(1, 1, 2)):
            word.value ^= 1 << guest.draw(*bits, *([1] if level == 3 else []))
        changed.add(address)
    mmu.invalidate()
    assert len(changed) > 50
    assert compare_at(guest, np.concatenate([sample, guest.addresses(4000)])) > 500
    compare_all(guest, sample, ("x",))  # needs no stub, which may be gone
    assert min(guest.seen[end] for end in ("success", "ACCESS_FLAG", "TRANSLATION")) > 3


FLIPS = [(0, "r"), (1, "r"), (6, "r"), (7, "w"), (10, "r"), (12, "r"), (29, "r"), (43, "r"),
         (54, "x"), (12, "x"), (12, "w")]  # fmt: skip


@pytest.mark.parametrize(("bit", "kind"), FLIPS)
def test_one_wrong_bit_shows(mmu: Mmu, bit: int, kind: str) -> None:
    """The comparisons can fail: on a copy of the tables with one bit of one leaf changed, they
    do."""
    p2m = pf.P2M(40, pa_bits=PA_BITS)
    guest = Guest(mmu, p2m, np.random.default_rng(bit), 40, [0], stub_gfn=1)
    p2m.set_entry(1, 1, STUB_MFN)
    p2m.set_entry(9, 1, FRAME)
    guest.attach()
    ipa = 9 << 12
    assert compare_access(guest, ipa, kind)
    memory = mmap.mmap(-1, p2m.tables.nbytes)
    copy = np.frombuffer(memory, np.uint64).reshape(p2m.tables.shape)
    copy[:] = p2m.tables
    _, address = descriptors(p2m, 9)[-1]
    copy.ravel()[(address - p2m.tables.ctypes.data) // 8] ^= np.uint64(1 << bit)
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
