"""Random P2Ms under the machine, addresses to try in them, and the comparison of what QEMU's MMU
shows with what `translate` and `translate_many` say."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from conformance import qemu_mmu
from conformance.qemu_mmu import FRAMES, MAX_TABLES, STUB_MFN, TABLES, Machine, Words

import p2mfast as pf

T = TypeVar("T")
Answers = npt.NDArray[np.void]

GIB = 1 << 18
ORDERS = (0, 9, 18)
TYPES = [t for t in pf.P2MType if t]
ESR_ISS_OF_INSTRUCTION = 0x7FF << 14  # ISV and what it makes valid: translate knows no instruction

FAULT_STATUS = {
    pf.FaultKind.ADDRESS_SIZE: 0x00,
    pf.FaultKind.TRANSLATION: 0x04,
    pf.FaultKind.ACCESS_FLAG: 0x08,
    pf.FaultKind.PERMISSION: 0x0C,
}
KIND_OF_STATUS = {status: kind for kind, status in FAULT_STATUS.items()}


# ---- What PAR_EL1 has to be ----


def _normal(memattr: int) -> int:
    """The MAIR encoding of Normal memory. A half of MemAttr is 1 Non-cacheable, 2 Write-Through,
    3 Write-Back; the allocation hints are stage 1's, which are to allocate on both."""
    half = {1: 0x4, 2: 0xB, 3: 0xF}
    return half[memattr >> 2] << 4 | half[memattr & 3]


# Stage 1, with HCR_EL2.DC, is Normal Inner and Outer Write-Back, Non-shareable. The two stages
# combine to the weaker of both (Arm ARM DDI 0487, D8, "Combining stage 1 and stage 2 attributes"):
# Device over Normal, Non-cacheable over Write-Through over Write-Back, each of inner and outer by
# itself; Outer Shareable over Inner Shareable over Non-shareable. So it is stage 2's that show, but
# that Device memory, and Normal memory that is Non-cacheable both inner and outer, are always Outer
# Shareable.
ATTR = {m: m << 2 if m < 4 else _normal(m) for m in range(16) if m < 4 or m & 3}
ALWAYS_OUTER = {0, 1, 2, 3, 5}
OUTER, RESERVED_SH = 2, 1

_ATTR_OF = np.array([ATTR.get(m, 0) for m in range(16)], np.uint64)
_DEFINED = np.array([m in ATTR for m in range(16)])
_OUTER = np.array([m in ALWAYS_OUTER for m in range(16)])
_STATUS_OF = np.array([FAULT_STATUS.get(kind, 0x3C) for kind in pf.FaultKind], np.uint64)


def u64(value: int) -> np.uint64:
    return np.uint64(value)


def expected_pars(answers: Answers) -> tuple[Words, Words]:
    """PAR_EL1 for the answers of `translate_many`, and which bits of it are told: not those of
    reserved attributes, and none that the architecture leaves unknown."""
    memattr = answers["attrs"] >> u64(2) & u64(0xF)
    sh = answers["attrs"] >> u64(8) & u64(3)
    sh = np.where(_OUTER[memattr], u64(OUTER), sh)
    success = answers["pa"] & u64(qemu_mmu.PAR_ADDRESS)
    success |= _ATTR_OF[memattr] << u64(56) | sh << u64(7)
    told = np.full(len(answers), qemu_mmu.PAR_F | qemu_mmu.PAR_ADDRESS, np.uint64)
    told[_DEFINED[memattr]] |= u64(qemu_mmu.PAR_ATTR)
    told[_DEFINED[memattr] & (sh != RESERVED_SH)] |= u64(qemu_mmu.PAR_SH)

    status = _STATUS_OF[answers["fault"]] | answers["level"].astype(np.uint64)
    fault = u64(qemu_mmu.PAR_F | qemu_mmu.PAR_S) | status << u64(1)
    told_of_fault = qemu_mmu.PAR_F | qemu_mmu.PAR_FST | qemu_mmu.PAR_PTW | qemu_mmu.PAR_S
    works = answers["fault"] == 0
    return np.where(works, success, fault), np.where(works, told, u64(told_of_fault))


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
    """A P2M, and the machine that walks its tables.

    `frames`: the machine frames that it is given, first and last (exclusive). `input_bits`: those
    of VTCR_EL2.T0SZ. QEMU 7.2 faults all addresses if they are more than VTCR_EL2.PS has, where the
    architecture leaves that to it only if they are more than PARange: such a space is walked with
    a smaller T0SZ, from the same root.
    """

    machine: Machine
    p2m: pf.P2M
    rng: np.random.Generator
    frames: tuple[int, int]
    input_bits: int
    regions: list[int]  # GFNs of the GiB in which something is mapped
    stub_gfn: int
    spans: list[tuple[int, int]] = field(default_factory=list)  # (gfn, nr) of every change
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)  # (fault, level): how many

    @property
    def limit(self) -> int:
        """The first GFN beyond the input."""
        return 1 << (self.input_bits - 12)

    def draw(self, *choices: T) -> T:
        return choices[int(self.rng.integers(len(choices)))]

    def frame(self, nr: int, order: int) -> int:
        """The first of `nr` frames, aligned to 2**order."""
        first, end = self.frames[0] >> order, self.frames[1] - nr >> order
        return int(self.rng.integers(first, end + 1)) << order

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
        if self.p2m.get_entry(self.stub_gfn).mfn != STUB_MFN:
            self.p2m.set_entry(self.stub_gfn, 1, STUB_MFN)
        self.p2m.resolve_translation_fault(self.stub_gfn)

    def attach(self) -> None:
        self.machine.attach(self.p2m, self.stub_gfn, self.input_bits)

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
            most = 1 << (self.machine.pa_range - 12)
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


def new_p2m(ipa_bits: int, pa_bits: int = 48, vmid: int = 1) -> pf.P2M:
    """A P2M whose tables lie in the machine's RAM."""
    return pf.P2M(
        ipa_bits, pa_bits=pa_bits, vmid=vmid, max_tables=MAX_TABLES, table_base_mfn=TABLES >> 12
    )


def empty_guest(machine: Machine, ipa_bits: int, seed: int, pa_bits: int = 48) -> Guest:
    """A P2M in which only the stub is mapped, at GFN 1."""
    rng = np.random.default_rng([ipa_bits, pa_bits, seed])
    input_bits = min(ipa_bits, pa_bits)
    guest = Guest(machine, new_p2m(ipa_bits, pa_bits), rng, FRAMES, input_bits, [0], stub_gfn=1)
    guest.keep_stub()
    return guest


def make_guest(
    machine: Machine,
    ipa_bits: int,
    seed: int,
    *,
    pa_bits: int = 48,
    frames: tuple[int, int] = (0, 1 << 36),
    **how: float,
) -> Guest:
    """A P2M of about 70 random changes (`how`: see Guest.plan), under the machine."""
    rng = np.random.default_rng([ipa_bits, pa_bits, seed])
    p2m = new_p2m(ipa_bits, pa_bits, vmid=int(rng.integers(1, 1 << 8 * (1 + seed % 2))))
    input_bits = min(ipa_bits, pa_bits)
    limit = 1 << (input_bits - 30)
    # The ends of the space, something in each root table, and others; the last one for a block of
    # RAM of 1 GiB that nothing shatters.
    places = [0, limit - 1]
    if p2m.root_pages > 1:
        places += [(i << 9) + int(rng.integers(1, 511)) for i in range(limit >> 9)]
    while len(places) < (4 if limit == 4 else 8):
        places = [*dict.fromkeys((*places, int(rng.integers(0, limit))))]
    *regions, whole = (place * GIB for place in places)
    stub_gfn = int(rng.choice(regions)) + int(rng.integers(0, GIB))
    guest = Guest(machine, p2m, rng, frames, input_bits, regions, stub_gfn)
    for order, count in (18, 4), (9, 20), (0, 40), (None, 6):
        guest.apply(*(guest.plan(order, **how) for _ in range(count)))
    guest.apply(Change(whole, GIB, guest.frame(GIB, 18)))
    order = (*ORDERS, None)[seed % 4]
    if order is not None:  # the end of the space by a page, a block of 2 MiB, of 1 GiB, or not
        nr = 1 << order
        guest.apply(Change(guest.limit - nr, nr, guest.frame(nr, order)))
    guest.attach()
    return guest


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


# ---- The comparisons ----


def compare_at(guest: Guest, ipas: Words, kinds: Iterable[str] = "rw") -> int:
    """AT S12E1R and W of all addresses against `translate_many`. How many succeed."""
    successes = 0
    for kind in kinds:
        pars = guest.machine.address_translate(ipas, kind)
        answers = guest.p2m.translate_many(ipas, kind)
        expected, told = expected_pars(answers)
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


def compare_access(guest: Guest, ipa: int, kind: str, va: int | None = None) -> bool:
    """One real access: where it lands, and what it leaves there, or how it faults; whether it
    succeeds. A store that is refused leaves the mapped frame as it was. `va`: the page's address in
    stage 1, if that is on.

    HPFAR_EL2 is compared for permission faults too, where the architecture leaves it unknown and
    QEMU sets it.
    """
    machine, p2m = guest.machine, guest.p2m
    ipa = int(ipa) & ~0x1F | (16 if kind == "x" else 8)
    old, new = map(int, guest.rng.integers(1, 1 << 63, 2))
    fault = kept = None
    try:
        pa = p2m.translate(ipa, kind).pa
        if kind == "x":
            machine.plant(pa)
        else:
            machine.words(pa)[0] = old
    except pf.Stage2Fault as raised:
        fault = raised
        mfn = p2m.get_entry(ipa >> 12).mfn if ipa >> 12 < guest.limit else None
        if kind != "x" and mfn is not None and machine.has_ram(mfn):
            kept = machine.words(mfn << 12 | ipa & 0xFFF)
            kept[0] = old
    va = ipa if va is None else va & ~0xFFF | ipa & 0xFFF
    outcome = machine.access(kind, va, new)
    if fault is not None:
        guest.seen[fault.kind.name, fault.level] += 1
        compare_abort(va, kind, outcome.abort, fault)
        assert kept is None or kept[0] == old
        return False
    where = f"{kind!r} of {ipa:#x}, translate: {pa:#x}"
    assert outcome.abort is None, f"{where}: ESR {outcome.abort.esr:#x}"
    if kind == "x":
        assert outcome.value == pa, where
    elif "r" in kind:
        assert outcome.value == old, where
    if "w" in kind:
        assert machine.words(pa)[0] == new, where
    return True


def compare_abort(va: int, kind: str, abort: qemu_mmu.Abort | None, fault: pf.Stage2Fault) -> None:
    """The registers that the abort leaves are those of the exception raised by `translate`."""
    assert abort is not None, f"{kind!r} of {va:#x} succeeds, translate: {fault}"
    shown = (abort.esr & ~ESR_ISS_OF_INSTRUCTION, abort.far, abort.hpfar)
    expected = (fault.esr & ~ESR_ISS_OF_INSTRUCTION, va, fault.hpfar)
    assert shown == expected, f"{kind!r} of {va:#x}: {list(map(hex, shown))}, translate: {fault}"


def compare_all(guest: Guest, ipas: Words, kinds: Iterable[str] = qemu_mmu.KINDS) -> int:
    """Every kind of real access to every address; how many succeed."""
    return sum(compare_access(guest, ipa, kind) for ipa in ipas.tolist() for kind in kinds)


def access_with_traps(
    guest: Guest, ipa: int, kind: str, depth: Literal["path", "level"], order: int
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
