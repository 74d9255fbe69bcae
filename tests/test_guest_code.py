"""Guest code under a `Domain`: it boots, cleans its caches by Set/Way, and every flush cleans the
pages that it touched since the last one, no other.

What the guest touched is recorded without the P2M: by hooks on the core's loads and stores, which
give machine addresses, and on its code, which give virtual ones. From the virtual address a walk of
the guest's own stage-1 tables gives the pages that those touch (after a TLB invalidation the core
walks them again). The same is told from the program by hand. Memory holds what was cleaned and
nothing else: at every flush what is dirty and was not cleaned is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import guest_code as code
import numpy as np
import pytest
import unicorn
from guest_machine import MEMORY_PA, Device, Machine

import p2mfast as pf
from p2mfast.adapters.unicorn import Call, Core, GuestError
from p2mfast.hypervisor.flushing import FlushRecord, Runs

CACHE = pf.CacheGeometry(ways=2, sets=8)
BATCH = CACHE.set_way_operations
FIRST = code.RAM >> 12
RAM = frozenset(range(FIRST, FIRST + code.RAM_PAGES))
SCTLR_M = 1 << 0


def page(gpa: int) -> int:
    return gpa >> 12


# ---- What the guest touched ----


def mmu_on(core: Core) -> bool:
    return bool(core.read("SCTLR_EL1") & SCTLR_M)


def walk(machine: Machine, core: Core, va: int) -> list[int]:
    """The guest's pages that an access to this address touches: those of the stage-1 descriptors
    on the way, and its own unless stage 1 refuses it."""
    if not mmu_on(core):
        return [page(va)]
    return (walk_short if machine.domain.bits == 32 else walk_long)(machine, core, va)


def walk_short(machine: Machine, core: Core, va: int) -> list[int]:
    """By the short-descriptor format (Arm ARM DDI 0487, G5.4): sections and small pages."""
    address = (core.read("TTBR0_EL1") & ~0x3FFF) + 4 * (va >> 20)
    first = descriptor(machine, address, 4)
    if first & 3 == 2:
        return [page(address), page(first & ~0xFFFFF | va & 0xFFFFF)]
    if first & 3 != 1:
        return [page(address)]
    second_address = (first & ~0x3FF) + 4 * (va >> 12 & 0xFF)
    second = descriptor(machine, second_address, 4)
    return [page(address), page(second_address), *([page(second)] if second & 2 else [])]


def walk_long(machine: Machine, core: Core, va: int) -> list[int]:
    """By the granule of 4 KiB, from level 1 (D8.3)."""
    pages, table = [], core.read("TTBR0_EL1") & 0xFFFF_FFFF_F000
    for shift in (30, 21, 12):
        address = table + 8 * (va >> shift & 0x1FF)
        pages.append(page(address))
        word = descriptor(machine, address, 8)
        table = word & 0xFFFF_FFFF_F000
        if not word & 1:
            return pages
        if shift == 12 or not word & 2:
            break
    return [*pages, page(table | va & (1 << shift) - 1)]


def descriptor(machine: Machine, gpa: int, size: int) -> int:
    at = gpa % 4096
    return int.from_bytes(machine.page(page(gpa))[at : at + size], "little")


class Epoch(NamedTuple):
    """From one arming to the next: what was touched, and the flush that ended it."""

    touched: frozenset[int]
    flush: FlushRecord
    lost: list[int]  # rows of machine memory that were dirty and not cleaned


class Record:
    """What every core touches, and a memory that holds only what is cleaned.

    `linear`: the virtual address of the guest's RAM, by which it reaches its data with the MMU on.
    """

    def __init__(self, machine: Machine, linear: int) -> None:
        self.machine, self._linear = machine, linear
        self._gfns = {machine.domain.p2m.get_entry(gfn).mfn: gfn for gfn in RAM}
        self.touched: set[int] = set()
        self.epochs: list[Epoch] = []
        self._memory = machine.memory.pages
        self._clean_memory = np.zeros_like(self._memory)
        loaded = self._dirty()  # by the domain's builder, which cleans it
        self._clean_memory[loaded] = self._memory[loaded]
        machine.domain.clean = self._clean
        machine.on_flush(self.on_flush)
        for core in machine.cores:
            kinds = unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE
            core.uc.hook_add(kinds, self._on_data, core)
            core.uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_code, core)

    def _on_data(self, _: object, kind: int, pa: int, size: int, value: int, core: Core) -> None:
        gpa = self._gfns[pa >> 12] << 12
        pages = walk(self.machine, core, gpa - code.RAM + self._linear if mmu_on(core) else gpa)
        assert pages[-1] == page(gpa), f"{gpa:#x} was not reached through {self._linear:#x}"
        self.touched.update(pages)

    def _on_code(self, _: object, va: int, size: int, core: Core) -> None:
        self.touched.update(walk(self.machine, core, va))

    def _clean(self, runs: Runs) -> None:
        base = MEMORY_PA >> 12
        for first, nr in zip(runs["mfn"].tolist(), runs["nr"].tolist(), strict=True):
            rows = slice(first - base, first - base + nr)
            self._clean_memory[rows] = self._memory[rows]

    def _dirty(self) -> np.ndarray:
        """Rows of machine memory that hold something else than what was cleaned."""
        clean, memory = self._clean_memory.view("<u8"), self._memory.view("<u8")
        return np.flatnonzero((clean != memory).any(axis=1))

    def on_flush(self, record: FlushRecord) -> None:
        lost = self._dirty()
        self._memory[lost] = self._clean_memory[lost]
        self.epochs.append(Epoch(frozenset(self.touched), record, lost.tolist()))
        self.touched.clear()


def pages_of(record: FlushRecord) -> list[int]:
    """Every page of the runs, in order, as often as it is there."""
    return [gfn for first, _, nr in record.runs.tolist() for gfn in range(first, first + nr)]


# ---- The guests ----


class Pattern(NamedTuple):
    """The pages that a program dirties: the first, the bytes between, how many."""

    offset: int
    stride: int
    count: int

    def addresses(self, base: int, count: int | None = None) -> list[int]:
        first = base + self.offset
        return [first + i * self.stride for i in range(self.count if count is None else count)]

    def pages(self, count: int | None = None) -> set[int]:
        return {page(gpa) for gpa in self.addresses(code.RAM, count)}


SPREAD = Pattern(0x20_0000, 0x3000, 50)  # in two 2 MiB blocks, mapped by sections and blocks
WIDE = Pattern(0x10_0000, 0x9_B000, 20)  # in every 2 MiB block, with the three more
PAGED = Pattern(0xF0_1000, 0x7000, 30)  # in the part that stage 1 maps by small pages


LINEAR = {32: code.LINUX32_VIRTUAL, 64: code.UEFI64_VIRTUAL}


@dataclass
class Run:
    """A guest that has run to its end."""

    machine: Machine
    record: Record
    calls: list[Call] = field(default_factory=list)

    @property
    def domain(self) -> pf.Domain:
        return self.machine.domain


def prepare(bits: int, policy: str, order: int = 0, cache: pf.CacheGeometry = CACHE) -> Run:
    domain = pf.Host(code.RAM_PAGES << 12).create_domain(
        code.RAM_PAGES << 12,
        vcpus=2,
        bits=bits,
        policy=pf.Policy.parse(policy),
        page_order=order,
    )
    machine = Machine(domain, cache)
    machine.load(code.ENTRY, code.LINUX32 if bits == 32 else code.UEFI64)
    if bits == 32:
        machine.load(code.SECOND_ENTRY, code.SECOND32)
    run = Run(machine, Record(machine, LINEAR[bits]))
    domain.unpause()
    return run


def boot(run: Run, pattern: Pattern) -> Run:
    """To its end."""
    (boot_linux32 if run.domain.bits == 32 else boot_uefi64)(run, pattern)
    return run


def boot_linux32(run: Run, pattern: Pattern) -> None:
    """The second CPU runs when the first one asks for it."""
    machine = run.machine
    first, second = machine.cores
    offset, stride, count = pattern
    run.calls.append(machine.boot(first, code.ENTRY, code.LINUX32_VIRTUAL + offset, stride, count))
    run.calls.append(machine.boot(second, code.SECOND_ENTRY, code.RAM + offset, stride, count))
    run.calls.append(machine.resume(first, 0))


def boot_uefi64(run: Run, pattern: Pattern) -> None:
    offset, stride, count = pattern
    virtual, physical = code.UEFI64_VIRTUAL + offset, code.RAM + offset
    machine, core = run.machine, run.machine.cores[0]
    run.calls.append(machine.boot(core, code.ENTRY, virtual, stride, count, physical))
    run.calls.append(machine.resume(core))


def total(pattern: Pattern, base: int, bits: int) -> int:
    return sum(code.stored(va, bits) for va in pattern.addresses(base)) % (1 << bits)


def results(bits: int, pattern: Pattern) -> list[tuple[str, int, int]]:
    """The calls that the guest ends its parts with: what, its number, the first register."""
    behind = pattern.count + code.MORE
    base = LINEAR[bits]
    end = pattern.addresses(base, behind + 1)[-1]
    if bits == 32:
        return [("hvc", 0, code.CPU_ON), ("hvc", 2, total(pattern, base, 32)), ("hvc", 1, end)]
    return [("hvc", 1, total(pattern, base, 64)), ("smc", 2, end)]


def by_hand(bits: int, pattern: Pattern) -> list[tuple[str, set[int]]]:
    """What each flush ends, and what the program touched before it since the last one."""
    program = page(code.ENTRY)
    dirty, all_dirty = pattern.pages(), pattern.pages(pattern.count + code.MORE)
    last = page(pattern.addresses(code.RAM)[-1])
    if bits == 64:
        one, two, three = (page(code.UEFI64_TABLES) + i for i in range(3))
        paged = {three} if pattern is PAGED or pattern is WIDE else set()
        return [
            ("set-way", {program, one, two, three} | dirty),
            ("cache-toggle", {program} | dirty),
            ("set-way", {program, one, two} | paged | all_dirty - dirty | {last}),
        ]
    identity, alias = page(code.LINUX32_TABLE) + 1, page(code.LINUX32_TABLE) + 3
    second_level = page(code.LINUX32_PAGES)
    paged = {second_level} if pattern is PAGED else set()
    return [
        ("set-way", {program}),
        ("cache-toggle", {program, identity, alias, second_level}),
        ("set-way", {program, identity, alias} | paged | dirty),
        ("set-way", {program, alias, page(code.SECOND_ENTRY)} | paged | all_dirty),
    ]


def check_run(run: Run, pattern: Pattern) -> None:
    """What holds whatever the policy: the guest got its results, each flush is due to what the
    program did and comes after what it touched, and nothing that it stored is lost."""
    bits = run.domain.bits
    assert [(*call[:2], call.arguments[0]) for call in run.calls] == results(bits, pattern)
    told = by_hand(bits, pattern)
    assert [(e.flush.cause, set(e.touched)) for e in run.record.epochs] == told
    assert [e.lost for e in run.record.epochs] == [[]] * len(told)
    assert [e.flush for e in run.record.epochs] == run.domain.flushes
    for gpa in pattern.addresses(code.RAM, pattern.count + code.MORE):
        grown = code.stored(gpa - code.RAM + LINEAR[bits], bits)
        again = gpa == pattern.addresses(code.RAM)[-1]
        at = gpa % 4096 + code.VALUE_AT
        word = run.machine.page(page(gpa))[at : at + bits // 8]
        assert int.from_bytes(word, "little") == (1 + again) * grown % (1 << bits)
    stats = run.domain.stats
    assert stats.set_way_traps == BATCH * (3 if bits == 32 else 2)
    assert (stats.faults_injected, stats.aborts) == (0, {})
    assert run.domain.p2m.check() == []


def spread(pages: Iterable[int], order: int) -> set[int]:
    """All pages of the aligned groups of 2**order that these are in."""
    return {
        first + i for first in {gfn >> order << order for gfn in pages} for i in range(1 << order)
    }


def check_cleaned(run: Run, expected: list[set[int]]) -> None:
    """The flushes' pages: each once, exactly these."""
    cleaned = [sorted(pages_of(epoch.flush)) for epoch in run.record.epochs]
    assert cleaned == [sorted(pages) for pages in expected]
    assert run.domain.stats.pages_cleaned == sum(map(len, expected))


def unfinished(run: Run) -> list[frozenset[int]]:
    """What was touched in each epoch, and after the last flush."""
    return [*(epoch.touched for epoch in run.record.epochs), frozenset(run.record.touched)]


# ---- The tests ----

PATTERNS = pytest.mark.parametrize(
    "pattern", [SPREAD, WIDE, PAGED], ids=["spread", "wide", "paged"]
)
BITS = pytest.mark.parametrize("bits", [32, 64])
ORDERS = pytest.mark.parametrize("order", [0, 9])
TRACKED = "arm=creation-finished"
XEN = "arm=creation-finished,resolve=level,flush=leaf"


@BITS
@ORDERS
@PATTERNS
@pytest.mark.parametrize("more", ["", ",flush=path", ",resolve=level", ",fault_around=4"])
def test_a_flush_cleans_what_was_touched(
    bits: int, order: int, pattern: Pattern, more: str
) -> None:
    """And each page, block or group costs one trap, one a level of its walk with resolve=level,
    where each table whose entries lose their bit 0 asks for an invalidation, as arming does."""
    run = boot(prepare(bits, TRACKED + more, order), pattern)
    check_run(run, pattern)
    grain = max(order, 4) if "around" in more else order
    check_cleaned(run, [spread(epoch.touched, grain) for epoch in run.record.epochs])
    leaves = sum(traps_of(touched, grain, False) for touched in unfinished(run))
    traps = sum(traps_of(touched, grain, "level" in more) for touched in unfinished(run))
    assert run.domain.stats.traps == traps
    assert run.machine.tlb_invalidations == 1 + len(run.record.epochs) + traps - leaves


def traps_of(touched: frozenset[int], grain: int, level: bool) -> int:
    """The walks of these pages from a root that is all invalid (levels 1 to 3, or to 2)."""
    shifts = [grain, *(shift for shift in (9, 18) if level and shift > grain)]
    return sum(len({gfn >> shift for gfn in touched}) for shift in shifts)


@BITS
@ORDERS
@PATTERNS
def test_xens_policy_looks_at_leaves(bits: int, order: int, pattern: Pattern) -> None:
    """A leaf keeps its bit 0 until a walk comes through its own table. Then the others in it lose
    theirs, and it is what was touched of them until it is walked through again: a flush cleans
    nearly everything."""
    run = boot(prepare(bits, XEN, order), pattern)
    check_run(run, pattern)
    valid = {
        group: spread([group << order + 9], order + 9) & RAM
        for group in {gfn >> order + 9 for gfn in RAM}
    }
    expected = []
    for epoch in run.record.epochs:
        touched = spread(epoch.touched, order)
        for group in {gfn >> order + 9 for gfn in touched}:
            valid[group] = touched & spread([group << order + 9], order + 9)
        expected.append(set().union(*valid.values()))
    check_cleaned(run, expected)
    traps = sum(traps_of(touched, order, True) for touched in unfinished(run))
    assert run.domain.stats.traps == traps


@BITS
@ORDERS
@pytest.mark.parametrize("policy", ["arm=first-set-way", ""])
def test_who_never_asks_pays_nothing(bits: int, order: int, policy: str) -> None:
    """Armed at the first Set/Way, whose flush cleans all RAM; the default for 64-bit guests. A
    32-bit one is armed at its creation."""
    run = boot(prepare(bits, policy, order), SPREAD)
    check_run(run, SPREAD)
    at_creation = not policy and bits == 32
    touched = [spread(pages, order) for pages in unfinished(run)]
    check_cleaned(run, [touched[0] if at_creation else set(RAM), *touched[1:-1]])
    armed = unfinished(run)[0 if at_creation else 1 :]
    assert run.domain.stats.traps == sum(traps_of(pages, order, False) for pages in armed)


@BITS
@ORDERS
@pytest.mark.parametrize("flush", ["all", "harvest", "path", "leaf"])
def test_without_tracking(bits: int, order: int, flush: str) -> None:
    run = boot(prepare(bits, f"arm=never,flush={flush}", order), SPREAD)
    check_run(run, SPREAD)
    check_cleaned(run, [set(RAM)] * len(run.record.epochs))
    assert run.domain.stats.traps == 0
    assert run.machine.tlb_invalidations == 0


@BITS
def test_the_caches_can_be_as_large_as_they_like(bits: int) -> None:
    """One trap an operation, one flush a batch."""
    small, large = pf.CacheGeometry(line=32, ways=1, sets=1), pf.CacheGeometry(ways=5, sets=33)
    for cache in (small, large):
        run = boot(prepare(bits, TRACKED, cache=cache), SPREAD)
        batches = 3 if bits == 32 else 2
        assert run.domain.stats.set_way_traps == batches * cache.set_way_operations
        assert len(run.domain.flushes) == len(by_hand(bits, SPREAD))


@BITS
def test_the_host_changes_mappings_while_the_guest_runs(bits: int) -> None:
    """At the first flush a page between the guest's goes: its block is shattered, a table comes,
    the TLBs are invalidated. The guest goes on, and there it is seen by pages from then on."""
    run = prepare(bits, TRACKED, 9)
    gone = max(SPREAD.pages()) - 1
    tables = run.domain.p2m.stats.tables

    def change(record: FlushRecord) -> None:
        run.record.on_flush(record)
        run.machine.on_flush(run.record.on_flush)
        run.domain.unmap(gone, 1)

    run.machine.on_flush(change)
    boot(run, SPREAD)
    check_run(run, SPREAD)
    assert run.domain.p2m.stats.tables == tables + 1
    shattered = spread([gone], 9)
    first, *others = (epoch.touched for epoch in run.record.epochs)
    by_block = [spread(touched - shattered, 9) | touched & shattered for touched in others]
    check_cleaned(run, [spread(first, 9), *by_block])
    assert any(touched & shattered for touched in others)


@BITS
def test_a_trapped_register_is_written(bits: int) -> None:
    """By the vCPU, in its copy, and in the core."""
    run = prepare(bits, TRACKED)
    run.machine.load(code.ENTRY, code.REGISTERS32 if bits == 32 else code.REGISTERS64)
    low, high = 0x4567_8000, 0x0012_3400
    call = run.machine.boot(run.machine.cores[0], code.ENTRY, low, high)
    ttbr = high << 32 | low if bits == 32 else low
    assert call.arguments == (high, high, low, high if bits == 32 else 0)
    vcpu = run.domain.vcpus[0]
    assert (vcpu.registers["TTBR0_EL1"], vcpu.registers["CONTEXTIDR_EL1"]) == (ttbr, high)
    assert run.domain.stats.sysreg_traps == 2


# ---- Devices, holes, what is injected ----


class Uart:
    """It keeps what it is told, and says what it is asked."""

    def __init__(self) -> None:
        self.log: list[tuple[int, ...]] = []

    def read(self, gpa: int, size: int) -> int:
        self.log.append((gpa, size))
        return 0xBEEF

    def write(self, gpa: int, size: int, value: int) -> None:
        self.log.append((gpa, size, value))


def visit(bits: int, policy: str) -> tuple[Run, Uart, Call]:
    """A device, a hole, a Set/Way."""
    run, uart = prepare(bits, policy), Uart()
    run.machine.load(code.ENTRY, code.DEVICES32 if bits == 32 else code.DEVICES64)
    if bits == 32:
        run.machine.load(code.VECTORS, code.VECTORS32)
    else:
        run.machine.load(code.VECTORS + 0x200, code.VECTORS64)
    run.machine.attach(code.DEVICE, Device(uart.read, uart.write))
    call = run.machine.boot(run.machine.cores[0], code.ENTRY, code.DEVICE, code.HOLE)
    return run, uart, call


@BITS
@pytest.mark.parametrize("policy", [TRACKED, XEN, "arm=never", ""])
def test_devices_and_holes(bits: int, policy: str) -> None:
    """MMIO is emulated and goes on behind the instruction; a hole is a data abort that the guest
    takes at its own vector and survives."""
    run, uart, call = visit(bits, policy)
    assert uart.log == [(code.DEVICE + 4, 1, 0x41), (code.DEVICE + 6, 2)]
    # A synchronous external abort, DFSC 0x10; DFSR in the format of the long descriptors.
    count, syndrome = (0x100, 0x210) if bits == 32 else (1, 0x9600_0010)
    assert call == ("hvc", 3, (count, syndrome, 0xBEEF, code.HOLE + 24))
    stats = run.domain.stats
    assert stats.outcomes == {"emulated": 2, "injected": 1}
    assert (stats.set_way_traps, stats.flushes) == (1, 1)
    touched = {page(code.ENTRY), page(code.VECTORS)}
    assert run.record.epochs[0].touched == touched
    if policy == TRACKED:
        check_cleaned(run, [touched])


@BITS
def test_an_iommu_that_shares_the_tables(bits: int) -> None:
    """Nothing is tracked, and Set/Way is an undefined instruction to the guest."""
    run, _, call = visit(bits, "arm=creation-finished,iommu_shared=true")
    if bits == 32:
        assert call.arguments[:2] == (0x101, 0x210)
    else:
        assert call.arguments[:2] == (2, 0x0200_0000)  # EC 0: unknown reason
    stats = run.domain.stats
    assert (stats.set_way_traps, stats.flushes, stats.traps) == (1, 0, 0)
    assert run.machine.tlb_invalidations == 0


# ---- They can fail ----


@BITS
def test_a_page_that_is_not_cleaned_is_lost(bits: int) -> None:
    """And the guest misses it."""
    run = prepare(bits, TRACKED)
    clean, victim = run.domain.clean, max(SPREAD.pages())
    assert clean is not None
    run.domain.clean = lambda runs: clean(runs[runs["gfn"] != victim])
    boot(run, SPREAD)
    frame = run.machine.frame(victim)
    assert [epoch.lost for epoch in run.record.epochs].count([frame]) == 2  # it grows twice
    missing = code.stored(SPREAD.addresses(LINEAR[bits])[-1], bits)
    whole = total(SPREAD, LINEAR[bits], bits)
    summed = run.calls[1 if bits == 32 else 0].arguments[0]
    assert summed == (whole - missing) % (1 << bits)


@BITS
def test_a_tlb_that_is_not_invalidated_forgets_pages(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that runs on in 64-bit state, where turning the MMU off, untrapped, saved the data; the
    page that is dirtied again in 32-bit state, and what was stored there is lost."""
    run = prepare(bits, TRACKED)
    for core in run.machine.cores:
        monkeypatch.setattr(core, "flush_tlb", lambda: None)
    core, (offset, stride, count) = run.machine.cores[0], SPREAD
    machine = run.machine
    machine.boot(core, code.ENTRY, LINEAR[bits] + offset, stride, count, code.RAM + offset)
    machine.resume(core, 0)  # its second CPU never comes: it would touch them all
    last = run.record.epochs[-1]
    dirtied = page(SPREAD.addresses(code.RAM)[-1])
    forgotten = last.touched - set(pages_of(last.flush))
    assert (dirtied if bits == 32 else page(code.ENTRY)) in forgotten
    assert last.lost == ([run.machine.frame(dirtied)] if bits == 32 else [])


@BITS
def test_what_a_hook_raises_comes_out(bits: int) -> None:
    machine = prepare(bits, TRACKED).machine
    machine.cores[0].uc.hook_add(unicorn.UC_HOOK_BLOCK, lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        machine.boot(machine.cores[0], code.ENTRY, code.RAM, 0x1000, 1)


@BITS
def test_a_guest_without_vectors_ends(bits: int) -> None:
    """It faults in its own vectors forever."""
    core = prepare(bits, TRACKED).machine.cores[0]
    core.reset()
    with pytest.raises(GuestError, match="100 traps"):
        core.run(code.HOLE, max_traps=100)
    assert core.traps == 100
