"""`p2mfast.adapters.unicorn.attach_fill`: a TLB filled in C; and what neither way takes."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import unicorn
from emulator_parts import (
    ACCESSES,
    BITS,
    FIRST,
    HOLE,
    MFN,
    PC,
    RAM,
    RAM_PAGES,
    SUM,
    SUM_END,
    X0,
    fault_of,
    machine_memory,
    number,
    put,
)
from guest_machine import MEMORY_PA, core_of
from unicorn import arm_const as arm

import p2mfast as pf
from p2mfast.adapters.unicorn import (
    MachineMemory,
    TlbFill,
    attach,
    attach_fill,
)


class Emulator:
    """Somebody's, without a stage 1: a core, machine memory, and a P2M that fills its TLB."""

    def __init__(self, bits: int, p2m: pf.P2M | None = None, **options: Any) -> None:
        self.bits, self.memory = bits, machine_memory()
        self.p2m = pf.P2M(40) if p2m is None else p2m
        self.p2m.set_entry(FIRST, RAM_PAGES, MFN)
        self.uc = core_of(bits)
        self.memory.map(self.uc)
        self.fill: TlbFill = attach_fill(self.uc, self.p2m, **options)

    def register(self, number: int) -> int:
        return int(self.uc.reg_read(X0[self.bits] + number))

    @property
    def pc(self) -> int:
        return int(self.uc.reg_read(PC[self.bits]))

    def run(self, words: tuple[int, ...], until: int, *arguments: int) -> None:
        put(self.memory, MEMORY_PA, words)
        for i, value in enumerate(arguments):
            self.uc.reg_write(X0[self.bits] + i, value)
        self.fill.run(RAM, until)

    def access(self, kind: str, ipa: int, value: int = 0) -> int:
        """What was loaded, or the register as it was."""
        self.run(ACCESSES[self.bits, kind], ipa if kind == "x" else RAM + 4, ipa, value)
        return self.register(1)

    def sum(self, ipa: int, nr: int, stride: int = 4096) -> int:
        self.run(SUM[self.bits], SUM_END, ipa, stride, nr, 0, 0)
        return self.register(4)


# ---- The TLB is filled as the P2M translates ----


@BITS
@pytest.mark.parametrize("order", [0, 9, 18])
def test_fills(bits: int, order: int) -> None:
    """Each page once, by pages and by blocks; the code's page may lose its place to one."""
    emulator = Emulator(bits)
    emulator.p2m.set_entry(FIRST, RAM_PAGES, MFN, max_order=order)
    assert emulator.sum(RAM + 4096, 1000) == sum(number(MFN + i) for i in range(1, 1001))
    assert emulator.fill.fills in range(1001, 1004)
    assert (emulator.fill.faults, emulator.fill.resolved) == (0, 0)


@BITS
def test_scattered_pages(bits: int) -> None:
    emulator, rng = Emulator(bits), np.random.default_rng(3)
    mfns = MFN + RAM_PAGES + rng.permutation(512)
    gfns = FIRST + 1 + rng.permutation(512)
    emulator.p2m.set_entries(gfns, mfns)
    for gfn, mfn in list(zip(gfns.tolist(), mfns.tolist(), strict=True))[:200]:
        assert emulator.access("r", gfn << 12) & 0xFFFF_FFFF == number(mfn)
        emulator.access("w", gfn << 12 | 8, gfn)
        assert int.from_bytes(emulator.memory.page(mfn)[8:12], "little") == gfn


@BITS
@pytest.mark.parametrize("access", [a for a in pf.Access if a <= pf.Access.RWX])
def test_rights(bits: int, access: pf.Access) -> None:
    """Where the P2M's own view is a fault it is this one, and the core stands before it."""
    emulator, ipa = Emulator(bits), RAM + 0x5000
    emulator.p2m.set_entry(ipa >> 12, 1, MFN + 5, access=access)
    for kind in "rwx":
        if access.value & {"r": 1, "w": 2, "x": 4}[kind]:
            emulator.access(kind, ipa)
            continue
        expected = fault_of(partial(emulator.p2m.translate, ipa, kind))
        assert fault_of(partial(emulator.access, kind, ipa)) == expected
        assert emulator.pc == (ipa if kind == "x" else RAM)
    assert emulator.fill.faults == sum(not access.value & bit for bit in (1, 2, 4))


@BITS
@pytest.mark.parametrize("ipa", [HOLE, RAM - 4096, 0xF000_0000])
@pytest.mark.parametrize("kind", ["r", "w", "x"])
def test_holes(bits: int, ipa: int, kind: str) -> None:
    emulator = Emulator(bits)
    expected = fault_of(lambda: emulator.p2m.translate(ipa, kind))
    assert fault_of(lambda: emulator.access(kind, ipa + 0x124)) == expected


def test_beyond_the_space() -> None:
    emulator = Emulator(64)
    for ipa in (1 << 40, 1 << 47, (1 << 64) - 8192):
        fault = fault_of(partial(emulator.access, "r", ipa))
        assert fault[:4] == (ipa, pf.FaultKind.TRANSLATION, 0, "r")


# ---- Tracking ----


@BITS
@pytest.mark.parametrize(("depth", "order"), [("path", 0), ("level", 0), ("path", 4)])
def test_what_is_touched_is_harvested(bits: int, depth: str, order: int) -> None:
    """That, and nothing else: not what the run's end lies in."""
    emulator = Emulator(bits, depth=depth, order=order)
    emulator.p2m.set_entry(FIRST, RAM_PAGES, MFN, max_order=0)
    end = RAM + (RAM_PAGES - 1) * 4096
    emulator.uc.hook_add(
        unicorn.UC_HOOK_CODE, lambda uc, *_: uc.emu_stop(), begin=SUM_END, end=SUM_END
    )
    for first, nr, stride in ((100, 50, 3), (600, 20, 1), (3, 200, 7)):
        emulator.p2m.invalidate_root()
        before = emulator.fill.resolved
        emulator.run(SUM[bits], end, RAM + (first << 12), stride << 12, nr, 0, 0)
        assert emulator.pc == SUM_END
        pages = {FIRST, *(FIRST + first + i * stride for i in range(nr))}
        touched = {gfn >> order << order | i for gfn in pages for i in range(1 << order)}
        runs = emulator.p2m.harvest().runs
        assert {gfn + i for gfn, _, n in runs.tolist() for i in range(n)} == touched
        # One each, or one a level of its walk, of which there are three.
        groups = {gfn >> order for gfn in pages}
        levels = (len({gfn >> shift for gfn in pages}) for shift in (9, 18))
        more = sum(levels) if depth == "level" else 0
        assert emulator.fill.resolved - before == len(groups) + more
    assert emulator.fill.faults == 0


@BITS
def test_armed_entries_are_faults_without_tracking(bits: int) -> None:
    emulator = Emulator(bits, resolve=False)
    emulator.access("r", RAM + 0x3000)
    emulator.p2m.invalidate_root()
    expected = fault_of(lambda: emulator.p2m.translate(RAM, "x"))
    assert fault_of(lambda: emulator.access("r", RAM + 0x3000)) == expected
    assert (emulator.fill.faults, emulator.p2m.harvest().pages) == (1, 0)


# ---- Faults are Python's ----


@BITS
def test_a_fault_is_dealt_with(bits: int) -> None:
    """Amidst the loop, which goes on; what is no fault is nobody's business."""
    seen: list[pf.Stage2Fault] = []

    def on_fault(fault: pf.Stage2Fault) -> bool:
        seen.append(fault)
        emulator.p2m.set_entry(fault.ipa >> 12, 1, MFN + RAM_PAGES + len(seen), armed=True)
        return True

    emulator = Emulator(bits, on_fault=on_fault)
    total = emulator.sum(HOLE, 5)
    assert total == sum(number(MFN + RAM_PAGES + i) for i in range(1, 6))
    assert [fault.ipa for fault in seen] == [HOLE + i * 4096 for i in range(5)]
    assert (emulator.fill.faults, emulator.fill.resolved) == (5, 5)


@BITS
@pytest.mark.parametrize("answer", [True, False])
def test_a_fault_that_stays(bits: int, answer: bool) -> None:
    seen: list[pf.Stage2Fault] = []
    emulator = Emulator(bits, on_fault=lambda fault: seen.append(fault) or answer)  # type: ignore[func-returns-value]
    expected = fault_of(lambda: emulator.p2m.translate(HOLE, "w"))
    assert fault_of(lambda: emulator.access("w", HOLE)) == expected
    assert len(seen) == 1
    assert emulator.access("r", RAM + 4096) & 0xFFFF_FFFF == number(MFN + 1)  # none is left of it


@BITS
def test_an_error_is_no_fault_that_was_dealt_with(bits: int) -> None:
    """An undefined instruction, after a load that faulted."""

    def on_fault(fault: pf.Stage2Fault) -> bool:
        emulator.p2m.set_entry(fault.ipa >> 12, 1, MFN + 5)
        return True

    emulator = Emulator(bits, on_fault=on_fault)
    undefined = 0xE7F000F0 if bits == 32 else 0  # udf #0
    with pytest.raises(unicorn.UcError):
        emulator.run((ACCESSES[bits, "r"][0], undefined), RAM + 8, HOLE)
    assert emulator.register(1) & 0xFFFF_FFFF == number(MFN + 5)
    assert emulator.fill.faults == 1


@BITS
def test_what_on_fault_raises_comes_out(bits: int) -> None:
    emulator = Emulator(bits, on_fault=lambda fault: 1 // 0)  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        emulator.access("r", HOLE)
    assert emulator.access("r", RAM + 4096) & 0xFFFF_FFFF == number(MFN + 1)


@BITS
def test_a_block_is_not_remembered_beyond_an_invalidation(bits: int) -> None:
    """While the guest runs, its block goes, as another page is mapped."""

    def on_fault(fault: pf.Stage2Fault) -> bool:
        emulator.p2m.set_entry(FIRST + 512, 1, MFN + RAM_PAGES + 512)
        emulator.p2m.set_entry(fault.ipa >> 12, 1, MFN + RAM_PAGES)
        return True

    emulator = Emulator(bits, on_fault=on_fault)
    emulator.p2m.set_entry(FIRST + 511, 1, None)
    total = emulator.sum(RAM + (514 << 12), 4, -4096 & (1 << bits) - 1)  # 514 to 511: a hole
    assert total == sum(map(number, (MFN + 514, MFN + 513, MFN + 512, MFN + RAM_PAGES)))
    assert emulator.access("r", RAM + (512 << 12)) & 0xFFFF_FFFF == number(MFN + RAM_PAGES + 512)
    # 511, the hole, and then 512: not in the TLB, and not of the block of 513.
    emulator.p2m.set_entry(FIRST + 512, 512, MFN + 512)
    emulator.p2m.set_entry(FIRST + 511, 1, None)
    put(emulator.memory, MEMORY_PA, SUM[bits])
    order = np.array([513, 511, 512]) * 4096 + RAM
    total = sum(emulator.sum(int(ipa), 1) for ipa in order[:1])
    total += emulator.sum(RAM + (511 << 12), 2)
    assert total == sum(map(number, (MFN + 513, MFN + RAM_PAGES, MFN + RAM_PAGES + 512)))


# ---- Translations follow changes ----


@BITS
def test_a_change_is_seen_by_the_next_run(bits: int) -> None:
    emulator, ipa = Emulator(bits), RAM + 0x9000
    for mfn in (MFN + 9, MFN + RAM_PAGES, MFN + RAM_PAGES + 1):
        emulator.p2m.set_entry(ipa >> 12, 1, mfn)
        assert emulator.access("r", ipa) & 0xFFFF_FFFF == number(mfn)
    emulator.p2m.set_entry(ipa >> 12, 1, None)
    assert fault_of(lambda: emulator.access("r", ipa))[0] == ipa


@BITS
def test_the_tlb_is_kept_and_flushed_when_asked(bits: int) -> None:
    emulator = Emulator(bits)
    fills = []
    for flushed in (False, False, True):
        if flushed:
            emulator.fill.flush()
        emulator.access("r", RAM + 0x3000)
        fills.append(emulator.fill.fills)
    assert fills == [2, 2, 4]


@BITS
def test_events_are_left_to_others(bits: int) -> None:
    emulator = Emulator(bits)
    emulator.p2m.drain_events()
    emulator.p2m.invalidate_root()
    emulator.access("r", RAM)
    assert pf.EventKind.TLB_INVALIDATE in emulator.p2m.drain_events()["kind"]


@BITS
def test_the_end_of_a_run_is_no_access(bits: int) -> None:
    """Unicorn looks it up: in a hole, nothing is said; what it was told is not believed later."""
    emulator = Emulator(bits, on_fault=lambda fault: 1 // 0)  # type: ignore[arg-type]
    stop = emulator.uc.hook_add(unicorn.UC_HOOK_CODE, lambda uc, *_: uc.emu_stop())
    emulator.run(ACCESSES[bits, "r"], HOLE + 8, RAM)
    emulator.run(ACCESSES[bits, "r"], HOLE, RAM)
    assert emulator.fill.faults == 0
    emulator.uc.hook_del(stop)
    with pytest.raises(ZeroDivisionError):
        emulator.access("x", HOLE + 4)


# ---- Life ----


@BITS
def test_the_hook_lives_as_long_as_the_uc(bits: int) -> None:
    holder: list[Emulator] = []

    def on_fault(fault: pf.Stage2Fault) -> bool:
        return not holder

    holder.append(Emulator(bits, on_fault=on_fault))
    uc, asked = weakref.ref(holder[0].uc), weakref.ref(on_fault)
    del on_fault
    del holder[0].fill
    gc.collect()
    put(holder[0].memory, MEMORY_PA, ACCESSES[bits, "r"][1:] * 2)
    holder[0].uc.emu_start(RAM, RAM + 4)
    assert asked() is not None
    holder.clear()
    gc.collect()
    assert (uc(), asked()) == (None, None)


@BITS
def test_detached(bits: int) -> None:
    """Addresses are the machine's own then."""
    emulator = Emulator(bits)
    emulator.access("r", RAM)
    emulator.fill.detach()
    put(emulator.memory, MEMORY_PA, ACCESSES[bits, "r"])
    emulator.uc.reg_write(X0[bits], MEMORY_PA + 0x2000)
    emulator.uc.emu_start(MEMORY_PA, MEMORY_PA + 4)
    assert emulator.register(1) & 0xFFFF_FFFF == number(MFN + 2)


def test_arguments() -> None:
    uc, p2m = core_of(64), pf.P2M(40)
    for error, options in (
        (ValueError, {"depth": "leaf"}),
        (ValueError, {"order": 19}),
        (ValueError, {"order": -1}),
        (TypeError, {"order": 1.0}),
        (TypeError, {"order": True}),
        (TypeError, {"on_fault": 3}),
    ):
        (name,) = options
        with pytest.raises(error, match=name):
            attach_fill(uc, p2m, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"p2mfast\.P2M"):
        attach_fill(uc, object())  # type: ignore[arg-type]
    x86 = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    with pytest.raises(ValueError, match="uc must be"):
        attach_fill(x86, p2m)
    with pytest.raises(ValueError, match="uc must be"):
        attach(x86, p2m)
    with pytest.raises(TypeError, match="guest must be"):
        attach(uc, object())  # type: ignore[arg-type]
    with pf.Host("64MiB").create_domain("16MiB", bits=32) as guest:
        with pytest.raises(ValueError, match="64 bits"):
            attach(uc, guest)
        with pytest.raises(IndexError):
            attach(core_of(32), guest, 1)
    no_el2 = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM, arm.UC_CPU_ARM_926)
    with pytest.raises(RuntimeError, match="EL2"):
        attach(no_el2, p2m)
    for base, size in ((1, 4096), (-4096, 4096), (0, 0), (0, 100)):
        with pytest.raises(ValueError, match="multiple of 4 KiB"):
            MachineMemory(base, size)
    memory = MachineMemory(4096, 4096)
    for mfn in (0, 2):
        with pytest.raises(IndexError):
            memory.page(mfn)
