"""What the tests against an MMU that is not ours share, Unicorn's and QEMU's: random P2Ms under a
machine that walks their tables, addresses to try in them, the code of a guest's accesses, and the
comparison of what the MMU shows with what `translate` and `translate_many` say."""

from __future__ import annotations

import ctypes
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

import p2mfast as pf

T = TypeVar("T")
Words = npt.NDArray[np.uint64]
Answers = npt.NDArray[np.void]
Depth = Literal["path", "level"]

IPA_BITS = (32, 36, 40, 42, 44, 48)
GIB = 1 << 18
ORDERS = (0, 9, 18)
TYPES = [t for t in pf.P2MType if t]
PLAIN = [a for a in pf.Access if a <= pf.Access.RWX]

KINDS = ("r", "w", "rw", "x")
"""Accesses: a load, a store, one that does both, a fetch."""
KIND_OF_RIGHT = {1: "r", 2: "w", 4: "x"}

# ---- Registers ----

HCR_VM = 1 << 0
HCR_DC = 1 << 12
HCR_RW = 1 << 31

PAR_F = 1 << 0
PAR_FST = 0x3F << 1
PAR_PTW = 1 << 8
PAR_S = 1 << 9  # the fault is one of stage 2
PAR_SH = 3 << 7
PAR_ADDRESS = 0x000F_FFFF_FFFF_F000
PAR_ATTR = 0xFF << 56

ESR_ISS_OF_INSTRUCTION = 0x7FF << 14  # ISV and what it makes valid: translate knows no instruction

FAULT_STATUS = {
    pf.FaultKind.ADDRESS_SIZE: 0x00,
    pf.FaultKind.TRANSLATION: 0x04,
    pf.FaultKind.ACCESS_FLAG: 0x08,
    pf.FaultKind.PERMISSION: 0x0C,
}
KIND_OF_STATUS = {status: kind for kind, status in FAULT_STATUS.items()}

_STATUS_OF = np.array([FAULT_STATUS.get(kind, 0x3C) for kind in pf.FaultKind], np.uint64)

# ---- The guest's code, a word an instruction ----

HVC = 0xD4000002  # hvc #0; the immediate is bits 20:5
_LOAD = (0xF9400001, HVC)  # ldr   x1, [x0]
_STORE = (0xF9000001, HVC)  # str   x1, [x0]
_SWAP = (0xF8E18002, HVC)  # swpal x1, x2, [x0]

STUB = _LOAD + _STORE + _SWAP
"""The page that loads, stores and swaps are run from: x0 is the address, x1 what is stored. A load
leaves what it has read in x1, a swap in x2."""
STUB_OFFSETS = {"r": 0, "w": 4 * len(_LOAD), "rw": 4 * len(_LOAD + _STORE)}


def landing(pa: int) -> tuple[int, ...]:
    """Code that says where it lies: it puts `pa` (below 2**48) into x2."""
    return (
        0xD2800002 | (pa & 0xFFFF) << 5,  # movz x2, #pa[15:0]
        0xF2A00002 | (pa >> 16 & 0xFFFF) << 5,  # movk x2, #pa[31:16], lsl #16
        0xF2C00002 | (pa >> 32 & 0xFFFF) << 5,  # movk x2, #pa[47:32], lsl #32
        HVC,
    )


def program(words: Sequence[int]) -> bytes:
    """Machine code as it lies in memory."""
    return np.array(words, "<u4").tobytes()


# ---- The machine ----


class Abort(NamedTuple):
    """The registers that an EL2 handler would read."""

    esr: int
    far: int
    hpfar: int


class Outcome(NamedTuple):
    """One access of the guest: what it read (a swap: read before it wrote), or for a fetch the
    physical address that the code fetched says it lies at; or the abort."""

    value: int | None
    abort: Abort | None


class Machine(Protocol):
    """A core at EL2, whose MMU walks the tables of the P2M that it is attached to."""

    def attach(self, p2m: pf.P2M, stub_gfn: int, input_bits: int) -> None: ...

    def obey(self) -> bool: ...

    def words(self, pa: int, n: int = 1) -> Words: ...

    def plant(self, pa: int) -> None: ...

    def address_translate(self, ipas: Words, access: str) -> Words: ...

    def access(self, kind: str, ipa: int, value: int = 0) -> Outcome: ...


M = TypeVar("M", bound=Machine)


def vtcr_of(p2m: pf.P2M, input_bits: int) -> int:
    """Its VTCR, with `input_bits` in place of those in it if they are fewer: a part of a larger
    space, from the same root."""
    return p2m.vtcr & ~0x3F | 64 - input_bits if input_bits < p2m.ipa_bits else p2m.vtcr


def invalidation_due(p2m: pf.P2M) -> bool:
    """Whether it has asked for one since its events were last looked at."""
    return bool((p2m.drain_events()["kind"] == pf.EventKind.TLB_INVALIDATE).any())


# ---- Descriptors of a live P2M ----


def path(p2m: pf.P2M, gfn: int) -> list[tuple[int, int]]:
    """(level, index in `tables.ravel()`) of the descriptors on the way to `gfn`, from the root."""
    words = p2m.tables.ravel()
    table = (p2m.vttbr >> 12 & (1 << 36) - 1) - p2m.table_base_mfn
    found = []
    for level in range(p2m.root_level, 4):
        index = gfn >> 9 * (3 - level) & (0xFFF if level == p2m.root_level else 0x1FF)
        found.append((level, 512 * table + index))
        word = int(words[found[-1][1]])
        if level == 3 or not word & 2 or not word >> 55 & 0xF:
            break
        table = (word >> 12 & (1 << 36) - 1) - p2m.table_base_mfn
    return found


def spoil(p2m: pf.P2M, index: int, flip: int) -> None:
    """Flip bits of a live descriptor, as no engine would."""
    ctypes.c_uint64.from_address(p2m.tables.ctypes.data + 8 * index).value ^= flip


# ---- A random P2M ----


def u64(value: int) -> np.uint64:
    return np.uint64(value)


class Change(NamedTuple):
    """The arguments of one set_entry."""

    gfn: int
    nr: int
    mfn: int | None
    type: pf.P2MType = pf.P2MType.RAM_RW
    access: pf.Access = pf.Access.RWX
    armed: bool = False


def expected_pars(answers: Answers) -> tuple[Words, Words]:
    """PAR_EL1 for the answers of `translate_many`, and which bits of it are told: address, fault
    kind and level; not the memory attributes."""
    status = _STATUS_OF[answers["fault"]] | answers["level"].astype(np.uint64)
    fault = u64(PAR_F | PAR_S) | status << u64(1)
    works = answers["fault"] == 0
    return (
        np.where(works, answers["pa"] & u64(PAR_ADDRESS), fault),
        np.where(works, u64(PAR_F | PAR_ADDRESS), u64(PAR_F | PAR_FST | PAR_PTW | PAR_S)),
    )


@dataclass
class RandomGuest(ABC, Generic[M]):
    """A P2M, and the machine that walks its tables. `input_bits`: those of VTCR_EL2.T0SZ."""

    machine: M
    p2m: pf.P2M
    rng: np.random.Generator
    input_bits: int
    regions: list[int]  # GFNs of the GiB in which something is mapped
    stub_gfn: int
    spans: list[tuple[int, int]] = field(default_factory=list)  # (gfn, nr) of every change
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)  # (fault, level): how many

    @property
    @abstractmethod
    def stub_mfn(self) -> int:
        """Where the machine has the page that loads and stores are run from."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """Bits of the addresses that stage 1, which is off, lets pass."""

    @abstractmethod
    def frame(self, nr: int, order: int) -> int:
        """The first of `nr` frames, aligned to 2**order."""

    def has_ram(self, mfn: int) -> bool:
        """Whether this frame, which is mapped, is memory of the machine."""
        return True

    def expected_pars(self, answers: Answers) -> tuple[Words, Words]:
        return expected_pars(answers)

    @property
    def limit(self) -> int:
        """The first GFN beyond the input."""
        return 1 << (self.input_bits - 12)

    def count(self, fault: str) -> int:
        """How many of those seen ended so, at any level."""
        return sum(count for (name, _), count in self.seen.items() if name == fault)

    def draw(self, *choices: T) -> T:
        return choices[int(self.rng.integers(len(choices)))]

    def plan(self, order: int | None = None, armed: float = 0.2, remove: float = 0.2) -> Change:
        """A random change in one of the regions; half of what is mapped is plain RAM."""
        rng = self.rng
        order = self.draw(0, 0, 0, 9, 9, 18) if order is None else order
        nr = int(rng.integers(1, {0: 60, 9: 4, 18: 2}[order])) << order
        gfn = self.draw(*self.regions) + (int(rng.integers(0, GIB >> order)) << order)
        nr = min(nr, self.limit - gfn)
        mfn = None if rng.random() < remove else self.frame(nr, order)
        if rng.random() < 0.5:
            return Change(gfn, nr, mfn, armed=bool(rng.random() < armed))
        kind, access = self.draw(*TYPES), self.draw(*pf.Access)
        return Change(gfn, nr, mfn, kind, access, bool(rng.random() < armed))

    def apply(self, *changes: Change) -> None:
        for change in changes:
            self.p2m.set_entry(*change)
            self.spans.append(change[:2])
        self.keep_stub()

    def keep_stub(self) -> None:
        """The page that loads and stores are run from stays where it is, and can be fetched."""
        if self.p2m.get_entry(self.stub_gfn).mfn != self.stub_mfn:
            self.p2m.set_entry(self.stub_gfn, 1, self.stub_mfn)
        self.p2m.resolve_translation_fault(self.stub_gfn)

    def attach(self) -> None:
        self.machine.attach(self.p2m, self.stub_gfn, self.input_bits)

    def fill(self, seed: int, mix: Iterable[tuple[int | None, int]], **how: float) -> None:
        """Random changes (`how`: see `plan`), `mix` of them: so many of each order. One GiB apart
        is a block of RAM that nothing shatters. Then the machine has it."""
        # The ends of the space, something in each root table, and others; the last one for that
        # block.
        limit = 1 << (self.input_bits - 30)
        places = [0, limit - 1]
        if self.p2m.root_pages > 1:
            places += [(i << 9) + int(self.rng.integers(1, 511)) for i in range(limit >> 9)]
        while len(places) < (4 if limit == 4 else 8):
            places = [*dict.fromkeys((*places, int(self.rng.integers(0, limit))))]
        *self.regions, whole = (place * GIB for place in places)
        self.stub_gfn = int(self.rng.choice(self.regions)) + int(self.rng.integers(0, GIB))
        for order, count in mix:
            self.apply(*(self.plan(order, **how) for _ in range(count)))
        self.apply(Change(whole, GIB, self.frame(GIB, 18)))
        order = (*ORDERS, None)[seed % 4]
        if order is not None:  # the end of the space by a page, a block of 2 MiB, of 1 GiB, or not
            nr = 1 << order
            self.apply(Change(self.limit - nr, nr, self.frame(nr, order)))
        self.attach()

    def addresses(self, n: int, spans: list[tuple[int, int]] | None = None) -> Words:
        """About `n` IPAs: inside and at the edges of what was changed, anywhere in the regions and
        in the space, at its end, and beyond it, up to what stage 1 lets pass. Given `spans`, only
        there."""
        rng = self.rng
        starts, counts = np.array(spans or self.spans, np.uint64).T
        chosen = rng.integers(0, len(starts), n // 2)
        inside = starts[chosen] + (rng.random(n // 2) * counts[chosen]).astype(np.uint64)
        chosen = rng.integers(0, len(starts), n // 4)
        edges = starts[chosen] + counts[chosen] * rng.integers(0, 2, n // 4).astype(np.uint64)
        edges -= rng.integers(0, 2, n // 4).astype(np.uint64)
        pages = [inside, edges % u64(self.limit)]
        if spans is None:
            near = rng.choice(self.regions, n // 8) + rng.integers(0, GIB, n // 8)
            pages += [near, rng.integers(0, self.limit, n // 8), [0, self.limit - 1]]
            most = 1 << (self.reach - 12)
            if self.limit < most and self.input_bits == self.p2m.ipa_bits:
                beyond = rng.integers(self.limit, most, n // 50)
                pages += [beyond, [self.limit, most - 1]]
        gfns: Words = np.concatenate([np.asarray(part, np.uint64) for part in pages])
        gfns = gfns[gfns != self.stub_gfn]
        return np.asarray(gfns << u64(12) | rng.integers(0, 4096, len(gfns), np.uint64))

    def inside(self, ipas: Words) -> Words:
        """Those that are not beyond the space."""
        return ipas[ipas < u64(self.limit << 12)]

    def neighbours(self, ipa: int, *bits: int) -> Words:
        """An address and those that differ from it in one of the bits."""
        ipas = [ipa, *(ipa ^ 1 << bit for bit in bits)]
        return np.array([near for near in ipas if near >> 12 != self.stub_gfn], np.uint64)


# ---- The comparisons ----


def compare_at(guest: RandomGuest[M], ipas: Words, kinds: Iterable[str] = "rw") -> int:
    """AT S12E1R and W of all addresses against `translate_many`. How many succeed."""
    successes = 0
    for kind in kinds:
        pars = guest.machine.address_translate(ipas, kind)
        answers = guest.p2m.translate_many(ipas, kind)
        expected, told = guest.expected_pars(answers)
        bad = ((pars ^ expected) & told).nonzero()[0]
        assert not bad.size, (
            f"{bad.size} of {len(ipas)}: {kind!r} of {int(ipas[bad[0]]):#x}:"
            f" PAR {int(pars[bad[0]]):#x}, translate {answers[bad[0]]},"
            f" so {int(expected[bad[0]]):#x}"
        )
        ends = answers["fault"].astype(int) * 4 + answers["level"]
        for end, count in zip(
            *map(np.ndarray.tolist, np.unique(ends, return_counts=True)), strict=True
        ):
            guest.seen[pf.FaultKind(end // 4).name, end % 4] += count
        successes += int((answers["fault"] == 0).sum())
    return successes


def compare_access(guest: RandomGuest[M], ipa: int, kind: str, va: int | None = None) -> bool:
    """One real access in the 32 bytes around an address, data before code: see `compare_exactly`.
    `va`: the page's address in stage 1, if that is on."""
    ipa = int(ipa) & ~0x1F | (16 if kind == "x" else 8)
    return compare_exactly(guest, ipa, kind, ipa if va is None else va & ~0xFFF | ipa & 0xFFF)


def compare_exactly(guest: RandomGuest[M], ipa: int, kind: str, va: int) -> bool:
    """One real access: where it lands, and what it leaves there, or how it faults; whether it
    succeeds. A store that is refused leaves the mapped frame as it was."""
    machine, p2m = guest.machine, guest.p2m
    old, new = map(int, guest.rng.integers(1, 1 << 63, 2))
    fault = kept = None
    try:
        answer = p2m.translate(ipa, kind)
        if kind == "x":
            machine.plant(answer.pa)
        else:
            machine.words(answer.pa)[0] = old
    except pf.Stage2Fault as raised:
        fault = raised
        mfn = p2m.get_entry(ipa >> 12).mfn if ipa >> 12 < guest.limit else None
        if kind != "x" and mfn is not None and guest.has_ram(mfn):
            kept = machine.words(mfn << 12 | ipa & 0xFFF)
            kept[0] = old
    outcome = machine.access(kind, va, new)
    if fault is not None:
        guest.seen[fault.kind.name, fault.level] += 1
        compare_abort(va, kind, outcome.abort, fault)
        assert kept is None or kept[0] == old
        return False
    guest.seen["NONE", answer.level] += 1
    where = f"{kind!r} of {ipa:#x}, translate: {answer.pa:#x}"
    assert outcome.abort is None, f"{where}: ESR {outcome.abort.esr:#x}"
    if kind == "x":
        assert outcome.value == answer.pa, where
    elif "r" in kind:
        assert outcome.value == old, where
    if "w" in kind:
        assert machine.words(answer.pa)[0] == new, where
    return True


def compare_abort(va: int, kind: str, abort: Abort | None, fault: pf.Stage2Fault) -> None:
    """The registers that the abort leaves are those of the exception raised by `translate`.

    HPFAR_EL2 is compared for permission faults too, where the architecture leaves it unknown and
    QEMU (and Unicorn with it) sets it.
    """
    assert abort is not None, f"{kind!r} of {va:#x} succeeds, translate: {fault}"
    shown = (abort.esr & ~ESR_ISS_OF_INSTRUCTION, abort.far, abort.hpfar)
    expected = (fault.esr & ~ESR_ISS_OF_INSTRUCTION, va, fault.hpfar)
    assert shown == expected, f"{kind!r} of {va:#x}: {list(map(hex, shown))}, translate: {fault}"


def compare_all(guest: RandomGuest[M], ipas: Words, kinds: Iterable[str] = KINDS) -> int:
    """Every kind of real access to every address; how many succeed."""
    return sum(compare_access(guest, ipa, kind) for ipa in ipas.tolist() for kind in kinds)


# ---- Whole courses ----


def rights(type: pf.P2MType, access: pf.Access) -> int:
    """R 1, W 2, X 4 of a mapping, as Xen's p2m_set_permission gives them."""
    by_type = {pf.P2MType.RAM_RW: 7, pf.P2MType.RAM_RO: 5}
    return access & by_type.get(type, 1 if type.name.endswith("_RO") else 3)


def check_permissions(guest: RandomGuest[M], order: int) -> None:
    """Every type with every plain access, as a leaf of this order in the middle of the space."""
    gfn, nr = guest.limit // 2, 1 << order
    for mapped, access in itertools.product(TYPES, PLAIN):
        guest.p2m.set_entry(gfn, nr, guest.frame(nr, order), mapped, access)
        guest.machine.obey()
        page = gfn + int(guest.rng.integers(0, nr))
        granted = rights(mapped, access)
        for kind, needed in zip(KINDS, (1, 2, 3, 4), strict=True):
            works = compare_access(guest, page << 12 | 0x340, kind)
            assert works == (granted & needed == needed), f"{mapped!r} {access!r} {kind}"
        compare_at(guest, np.array([page << 12], np.uint64))


def access_with_traps(
    guest: RandomGuest[M], ipa: int, kind: str, depth: Depth, order: int
) -> tuple[int, pf.FaultKind]:
    """One access, tried again after each abort that the P2M resolves, as a hypervisor does that
    knows ESR and HPFAR only: how many aborts it resolves, and the fault that is left."""
    machine, p2m = guest.machine, guest.p2m
    for traps in range(8):
        if kind == "x":
            answer = p2m.translate_many([ipa], "x")[0]
            if not answer["fault"]:
                machine.plant(int(answer["pa"]))
        abort = machine.access(kind, ipa).abort
        if abort is None:
            return traps, pf.FaultKind.NONE
        fault = KIND_OF_STATUS[abort.esr & 0x3C]
        gfn = abort.hpfar >> 4
        if fault != pf.FaultKind.TRANSLATION or gfn >= guest.limit:
            return traps, fault
        if not p2m.resolve_translation_fault(gfn, depth, order):
            return traps, fault
        machine.obey()
    raise AssertionError(f"no end of traps at {ipa:#x}")


def check_traps(guest: RandomGuest[M], twin: RandomGuest[M], depth: Depth, order: int) -> int:
    """Accesses to a guest after arming, against `access_many` of its twin, whose P2M is equal: the
    traps of each, its end, and where it lands at last. How many succeed."""
    for one in (twin, guest):
        one.p2m.invalidate_root()
        one.keep_stub()
    guest.machine.obey()
    ipas = guest.addresses(500) & ~u64(0x1F) | u64(16)
    access = guest.rng.choice([1, 2, 4], len(ipas))
    expected = twin.p2m.access_many(ipas, access, depth, order)
    for ipa, right, answer in zip(ipas.tolist(), access.tolist(), expected, strict=True):
        kind = KIND_OF_RIGHT[right]
        outcome = access_with_traps(guest, ipa, kind, depth, order)
        assert outcome == tuple(map(int, answer)), f"{ipa:#x}, {kind!r}"
        if not answer["fault"]:
            assert compare_access(guest, ipa, kind)
    assert (expected["traps"].max() > 1) == (depth == "level")
    assert (guest.p2m.entries() == twin.p2m.entries()).all()
    return int((expected["fault"] == 0).sum())


def check_changes(guest: RandomGuest[M]) -> None:
    """Changes and harvests, with accesses around each before and after it; the TLB is invalidated
    when, and only when, the P2M records it."""
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
        invalidations += guest.machine.obey()
        compare_all(guest, around)
        compare_at(guest, around)
    assert 5 < invalidations < 40
