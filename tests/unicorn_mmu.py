"""An MMU that is not ours: Unicorn's Arm core walks the descriptors of a live P2M.

The core runs two pieces of our machine code. The *monitor*, at EL2, writes HCR_EL2, VTCR_EL2 and
VTTBR_EL2, invalidates the TLB, and asks for translations in bulk by AT S12E1R/W, whose answer in
PAR_EL1 holds the output address or the fault's status, level included. The *guest*, at EL1 with
stage 1 off and stage 2 on, does one real load, store, swap or fetch and ends in HVC or an abort.

What the emulated core (Unicorn 2.1, QEMU 5.0's Arm target) shows of an abort. Unicorn stops at an
exception instead of entering the vector at VBAR_EL2, so ESR_EL2 and FAR_EL2 are never written. The
core has computed both by then and keeps them in its state: `Mmu` finds the two words in a saved
context by provoking exceptions whose syndrome and address it knows, at every start, and refuses to
go on if they are not there. HPFAR_EL2 is written as by the hardware.

What it does not show: an input beyond 44 bits (PARange of UC_CPU_ARM64_MAX), an address-size fault
(the walker never compares an output address with VTCR_EL2.PS), a block at level 0 (it accepts the
reserved encoding), block descriptors with address bits below their size (it ORs them in).
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
import unicorn
from mmu_guest import (
    HCR_DC,
    HCR_RW,
    HCR_VM,
    HVC,
    STUB,
    STUB_OFFSETS,
    Abort,
    Outcome,
    Words,
    invalidation_due,
    landing,
    program,
    vtcr_of,
)
from unicorn import arm64_const as arm64

import p2mfast as pf

PA_BITS = 44
"""Bits of address, in and out, that the emulated core has (ID_AA64MMFR0_EL1.PARange): the most of
Unicorn's models."""

# ---- The machine's address space ----

MONITOR_BASE = 1 << 38
MONITOR_BYTES = 1 << 18
AT_IPAS = MONITOR_BASE + 0x10000
AT_PARS = MONITOR_BASE + 0x20000
AT_BATCH = 0x10000 // 8
PROBE_TABLE = MONITOR_BASE + 0x30000
STUB_MFN = MONITOR_BASE + 0x38000 >> 12
UNREACHED = 0xFFFF_FFFF_FFFF_FFF0  # where a run ends if nothing stops it: it never gets there

# Machine memory lies in windows whose addresses between them have every bit from 30 to 43 set and
# clear; a descriptor's address field that lost a bit would lead elsewhere.
WINDOWS = (0x4000_0000, 0x555_4000_0000, 0xAAA_8000_0000, 0xFFF_8000_0000)
WINDOW_BYTES = 2 << 30  # two blocks of 1 GiB; only the frames that are touched cost memory

# ---- Machine code, a word an instruction ----

CONFIGURE = (
    0xD51C1100,  # msr  hcr_el2, x0
    0xD51C2141,  # msr  vtcr_el2, x1
    0xD51C2102,  # msr  vttbr_el2, x2
)
INVALIDATE = (
    0xD50C879F,  # tlbi alle1
    0xD5033F9F,  # dsb  sy
    0xD5033FDF,  # isb
)
AT_S12E1R = 0xD50C7883  # at   s12e1r, x3
AT_S12E1W = 0xD50C78A3  # at   s12e1w, x3


def _at_loop(instruction: int) -> tuple[int, ...]:
    """x0: the IPAs, x1: where the PARs go, x2: how many."""
    return (
        0xF8408403,  # ldr  x3, [x0], #8
        instruction,
        0xD5033FDF,  # isb
        0xD5387403,  # mrs  x3, par_el1
        0xF8008423,  # str  x3, [x1], #8
        0xF1000442,  # subs x2, x2, #1
        0x54FFFF41,  # b.ne to the ldr
    )


# The monitor's parts. Each ends at a NOP of its own, where no run begins: Unicorn stops at an end
# address only if it has not translated the code there before.
NOP = 0xD503201F
_PARTS = {
    "configure": CONFIGURE + INVALIDATE,
    "invalidate": INVALIDATE,
    "r": _at_loop(AT_S12E1R),
    "w": _at_loop(AT_S12E1W),
    "hvc 0x1234": (HVC | 0x1234 << 5,),
    "hvc 0xa5c3": (HVC | 0xA5C3 << 5,),
    "load": (0xF8626801,),  # ldr x1, [x0, x2]
}
_PART_BYTES = 64
_MONITOR = b"".join(
    np.array((*words, NOP), "<u4").tobytes().ljust(_PART_BYTES, b"\0") for words in _PARTS.values()
)


def _part(name: str) -> tuple[int, int]:
    """Where a part of the monitor begins and ends."""
    start = MONITOR_BASE + _PART_BYTES * list(_PARTS).index(name)
    return start, start + 4 * len(_PARTS[name])


# ---- Registers ----

EL1H = 0x3C5  # PSTATE: interrupts masked, EL1 or EL2 with its own stack pointer
EL2H = 0x3C9
SCR_NS_HCE_RW = 1 << 10 | 1 << 8 | 1 << 0

# (CRn, CRm, op0, op1, op2), as Unicorn wants them.
SCR_EL3 = (1, 1, 3, 6, 0)
HPFAR_EL2 = (6, 0, 3, 4, 4)

# Numbers of QEMU's exceptions, as UC_HOOK_INTR gives them.
PREFETCH_ABORT, DATA_ABORT, HYPERVISOR_CALL = 3, 4, 11


class Mmu:
    """The machine: a core, the monitor, machine memory, and the tables of one P2M at a time."""

    def __init__(self) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm64.UC_CPU_ARM64_MAX)
        self._uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        self._memory = anonymous_memory(MONITOR_BYTES + WINDOW_BYTES * len(WINDOWS))
        self._words = np.frombuffer(self._memory, "<u8")
        # Unicorn finds translated code by its virtual address and its offset in what was mapped
        # with one call, and would run one window's code in another. So each call maps our memory
        # from its start, a window being the end of it, and no two frames have the same offset.
        # No P2M leads to what lies before a window.
        self._map(MONITOR_BASE, MONITOR_BYTES, self._words)
        for i, base in enumerate(WINDOWS):
            skipped = MONITOR_BYTES + i * WINDOW_BYTES
            self._map(base - skipped, skipped + WINDOW_BYTES, self._words)
        self._uc.mem_write(MONITOR_BASE, _MONITOR)
        self._uc.mem_write(STUB_MFN << 12, program(STUB))
        self._p2m: pf.P2M | None = None
        self._tables: np.ndarray | None = None
        self._copy: np.ndarray | None = None
        self._table_base = self.stub_ipa = 0
        self._el = 0
        self._number: int | None = None
        self._context = self._uc.context_save()
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self._esr_at, self._far_at = self._find_syndrome()

    # ---- Tables ----

    def attach(
        self,
        p2m: pf.P2M,
        stub_gfn: int = 0,
        input_bits: int = 64,
        *,
        tables: np.ndarray | None = None,
        default_cacheable: bool = False,
    ) -> None:
        """Walk the tables of this P2M; machine memory reads as zero again.

        `stub_gfn`: where it maps STUB_MFN, the page that the guest's loads and stores are run from.
        `input_bits`: in place of those in its VTCR, if they are fewer.
        `tables`: a copy to be walked instead. `default_cacheable`: HCR_EL2.DC.
        """
        self._unmap_tables()
        self._memory.madvise(mmap.MADV_DONTNEED, MONITOR_BYTES)
        self._p2m, self._copy, self.stub_ipa = p2m, tables, stub_gfn << 12
        self._table_base = p2m.table_base_mfn << 12
        hcr = HCR_RW | HCR_VM | (HCR_DC if default_cacheable else 0)
        self._map_tables()
        p2m.drain_events()
        self._monitor("configure", hcr, vtcr_of(p2m, input_bits), p2m.vttbr)

    def _map_tables(self) -> None:
        """All the frames in use so far, zero-copy."""
        assert self._p2m is not None
        self._tables = self._p2m.tables if self._copy is None else self._copy
        self._map(self._table_base, self._tables.nbytes, self._tables, unicorn.UC_PROT_READ)

    def _map(
        self, pa: int, size: int, memory: np.ndarray, protection: int = unicorn.UC_PROT_ALL
    ) -> None:
        self._uc.mem_map_ptr(pa, size, protection, memory.ctypes.data)

    def _unmap_tables(self) -> None:
        if self._tables is not None:
            self._uc.mem_unmap(self._table_base, self._tables.nbytes)
            self._tables = None

    def obey(self) -> bool:
        """What a hypervisor does after a change: map new table frames, and invalidate the TLB if,
        and only if, the P2M has asked for it. Whether it has."""
        assert self._p2m is not None
        assert self._tables is not None
        if self._copy is None and len(self._p2m.tables) != len(self._tables):
            self._unmap_tables()
            self._map_tables()
        due = invalidation_due(self._p2m)
        if due:
            self.invalidate()
        return due

    def invalidate(self) -> None:
        """TLBI ALLE1."""
        self._monitor("invalidate")

    # ---- The monitor ----

    def _monitor(self, part: str, *arguments: int) -> None:
        start, end = _part(part)
        self._enter(EL2H)
        for i, value in enumerate(arguments):
            self._uc.reg_write(arm64.UC_ARM64_REG_X0 + i, value)
        self._number = None
        self._uc.emu_start(start, end)
        assert self._number is None, f"the monitor took exception {self._number}"
        assert self._uc.reg_read(arm64.UC_ARM64_REG_PC) == end

    def address_translate(self, ipas: Words, access: str) -> Words:
        """PAR_EL1 after AT S12E1R (`access` "r") or AT S12E1W ("w") of each address."""
        pars = []
        for first in range(0, len(ipas), AT_BATCH):
            batch = np.ascontiguousarray(ipas[first : first + AT_BATCH], "<u8")
            self._uc.mem_write(AT_IPAS, batch.tobytes())
            self._monitor(access, AT_IPAS, AT_PARS, len(batch))
            pars.append(np.frombuffer(self._uc.mem_read(AT_PARS, batch.nbytes), "<u8"))
        return np.concatenate(pars)

    # ---- The guest ----

    def access(self, kind: str, ipa: int, value: int = 0) -> Outcome:
        """A load ("r") or store ("w") of 8 bytes, one access that does both ("rw"), or a jump to
        `ipa` ("x"; see `plant`)."""
        pc = ipa if kind == "x" else self.stub_ipa + STUB_OFFSETS[kind]
        self._enter(EL1H)
        self._uc.reg_write(arm64.UC_ARM64_REG_X0, ipa)
        self._uc.reg_write(arm64.UC_ARM64_REG_X1, value)
        self._uc.reg_write(arm64.UC_ARM64_REG_X2, 0)
        # A value that no abort leaves, so that one which writes nothing does not go unnoticed.
        self._uc.reg_write(arm64.UC_ARM64_REG_CP_REG, (*HPFAR_EL2, UNREACHED))
        if self._take(pc) == HYPERVISOR_CALL:
            answer = arm64.UC_ARM64_REG_X1 if kind == "r" else arm64.UC_ARM64_REG_X2
            return Outcome(self._uc.reg_read(answer), None)
        hpfar = self._uc.reg_read(arm64.UC_ARM64_REG_CP_REG, HPFAR_EL2)
        esr, far = self._word(self._esr_at, 4), self._word(self._far_at, 8)
        return Outcome(None, Abort(esr, far, hpfar))

    def _enter(self, pstate: int) -> None:
        if self._el != pstate:
            self._uc.reg_write(arm64.UC_ARM64_REG_PSTATE, pstate)
            # Unicorn takes note of a new exception level only when a system register is written;
            # without SCR_EL3.NS there would be no EL2.
            self._uc.reg_write(arm64.UC_ARM64_REG_CP_REG, (*SCR_EL3, SCR_NS_HCE_RW))
            self._el = pstate

    def _take(self, pc: int) -> int:
        """Run from `pc` to the first exception: its number."""
        self._number = None
        self._uc.emu_start(pc, UNREACHED)
        assert self._number in (PREFETCH_ABORT, DATA_ABORT, HYPERVISOR_CALL), (
            f"exception {self._number} at {self._uc.reg_read(arm64.UC_ARM64_REG_PC):#x},"
            f" started from {pc:#x}"
        )
        return self._number

    def _on_exception(self, uc: unicorn.Uc, number: int, _: object) -> None:
        # Here and not after the run: at its end Unicorn looks up the end address, and that leaves
        # a syndrome of its own. What is raised here is lost, so nothing is judged here.
        uc.context_update(self._context)
        self._number = number
        uc.emu_stop()

    # ---- The syndrome ----

    def _word(self, offset: int, size: int) -> int:
        """A word of the core's state at the last exception."""
        return int.from_bytes(
            ctypes.string_at(self._context.context.value + offset, size), "little"
        )

    def _find_syndrome(self) -> tuple[int, int]:
        """Where the state holds the syndrome and the faulting address: the only words that follow
        two HVCs (EC 0x16, IL and the immediate) and two loads from unmapped addresses, each the
        sum of two registers so that none of those holds it."""
        # A level-1 table by hand: 1 GiB, all rights, around the monitor. The input has 39 bits.
        block = (MONITOR_BASE | 0x7FD).to_bytes(8, "little")
        self._uc.mem_write(PROBE_TABLE + 8 * (MONITOR_BASE >> 30), block)
        self._monitor("configure", HCR_RW | HCR_VM, 0x8004_3559, PROBE_TABLE)
        self._enter(EL1H)

        def state(part: str, address: int = 0) -> bytes:
            self._uc.reg_write(arm64.UC_ARM64_REG_X0, address - 0x1000)
            self._uc.reg_write(arm64.UC_ARM64_REG_X2, 0x1000)
            self._take(_part(part)[0])
            return bytes(self._context)

        syndromes = [(state(f"hvc {i:#x}"), 0x5A00_0000 | i) for i in (0x1234, 0xA5C3)]
        addresses = [(state("load", a), a) for a in (0x12_3456_7898, 0x6D_CBA9_8768)]
        return only_place("<u4", syndromes), only_place("<u8", addresses)

    # ---- Machine memory ----

    def words(self, pa: int, n: int = 1) -> Words:
        """Memory from a physical address on, in place."""
        first = _index(pa)
        return self._words[first : first + n]

    def plant(self, pa: int) -> None:
        """Put code at a physical address, aligned to 16, that says where it lies."""
        self.words(pa, 2)[:] = np.frombuffer(program(landing(pa)), "<u8")


def anonymous_memory(size: int) -> mmap.mmap:
    """Memory that costs only what is touched of it, a small page at a time."""
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; older Pythons do not name it
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def _index(pa: int) -> int:
    for i, base in enumerate(WINDOWS):
        if base <= pa < base + WINDOW_BYTES:
            return (MONITOR_BYTES + i * WINDOW_BYTES + pa - base) // 8
    raise AssertionError(f"there is no machine memory at {pa:#x}")


def only_place(dtype: str, expected: list[tuple[bytes, int]]) -> int:
    """The only offset at which each of these states holds the value that goes with it."""
    size = np.dtype(dtype).itemsize
    found = [
        np.frombuffer(state[: len(state) // size * size], dtype) == value
        for state, value in expected
    ]
    places = np.logical_and.reduce(found).nonzero()[0]
    if len(places) != 1:
        raise RuntimeError(
            f"Unicorn {unicorn.__version__} does not show the syndrome of an exception"
            f" ({len(places)} places in its state)"
        )
    return int(places[0]) * size


def random_mfn(rng: np.random.Generator, nr: int, order: int) -> int:
    """The first of `nr` frames of machine memory, aligned to 2**order."""
    base = int(rng.choice(WINDOWS)) >> 12
    return base + (int(rng.integers(0, ((WINDOW_BYTES >> 12) - nr >> order) + 1)) << order)
