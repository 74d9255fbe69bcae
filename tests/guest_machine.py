"""A machine that runs guest code under a `Domain`: Unicorn's Arm cores, their stage 2 on the live
tables of `domain.p2m`, and behind them a hypervisor that is nothing but a driver of its `VCpu`s.

Each core runs at EL1 until something would be taken to EL2. That is handed to the core's `VCpu` by
what the emulated core says of it (ESR_EL2, FAR_EL2, HPFAR_EL2, or HSR, HDFAR and HPFAR), and the
guest goes on as the `VCpu` has it: at the same instruction, behind an emulated one, or at its own
exception vector. What traps (Arm ARM DDI 0487, D19.2, HCR_EL2): Set/Way (TSW), the VM registers
while the `VCpu` asks for them (TVM), and the cache identification registers (TID2), which show the
guest the host's `CacheGeometry` as its only data cache.

What is particular about Unicorn (2.1) stands in `unicorn_mmu`. Besides: the AArch32 core reports
what is undefined, or trapped, as an invalid instruction; it names the bank of a register the other
way round (`secure bank` 0 is that of EL1 here); a run of one instruction goes on for more than one,
so that a trapped register is written from outside; hooks on data get machine addresses.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import unicorn
from mmu_guest import program
from unicorn import arm64_const as arm64
from unicorn import arm_const as arm
from unicorn_mmu import anonymous_memory, only_place

import p2mfast as pf
from p2mfast.hypervisor.flushing import FlushRecord
from p2mfast.hypervisor.syndrome import Injected, SysRegTrap, decode
from p2mfast.units import PAGE_SIZE

HCR_VM, HCR_TID2, HCR_TSW, HCR_TVM, HCR_RW = 1 << 0, 1 << 17, 1 << 22, 1 << 26, 1 << 31
SCR_NS_HCE_RW = 1 << 10 | 1 << 8 | 1 << 0  # RW is reserved in AArch32 state

# Exception classes (D19.2, ESR_EL2, EC).
EC_CP15, EC_CP15_64, EC_SYS64 = 0x03, 0x04, 0x18
EC_TRAPS = (EC_CP15, EC_CP15_64, EC_SYS64)
EC_CALLS = {0x12: "hvc", 0x13: "smc", 0x16: "hvc", 0x17: "smc"}
EC_ABORTS = (0x20, 0x24)
ESR_IL = 1 << 25

# op1, CRn, CRm, op2 of the cache identification registers; of AArch32 and AArch64 the same but for
# op0 (D19.2, G8.2).
CCSIDR, CLIDR, CSSELR = (1, 0, 0, 0), (1, 0, 0, 1), (2, 0, 0, 0)
# One level, of separate caches; coherence and unification end at it.
CLIDR_ONE_LEVEL = 1 << 27 | 1 << 24 | 1 << 21 | 3

MOST_TRAPS = 10_000
"""Of a run: a guest that faults in its own vectors would go on forever."""

# QEMU's number of an SMC.
SECURE_CALL = 13

# The page that a core finds its own state by, far from all others.
PROBE_PA = 0x78_0000_0000
PROBE_BYTES = 2 * PAGE_SIZE


class GuestError(Exception):
    """The guest did what the machine does not know."""


class Call(NamedTuple):
    """Where a run ended: HVC or SMC, its immediate, and the first four registers."""

    kind: str
    number: int
    arguments: tuple[int, ...]


class Device(NamedTuple):
    """What answers at an MMIO address: `read(gpa, size)`, `write(gpa, size, value)`."""

    read: Callable[[int, int], int]
    write: Callable[[int, int, int], object]


# CRn, CRm, op0, op1, op2, as Unicorn wants them.
_SYSTEM64 = {
    "SCR_EL3": (1, 1, 3, 6, 0),
    "HCR_EL2": (1, 1, 3, 4, 0),
    "VTCR_EL2": (2, 1, 3, 4, 2),
    "VTTBR_EL2": (2, 1, 3, 4, 0),
    "HPFAR_EL2": (6, 0, 3, 4, 4),
    "SCTLR_EL1": (1, 0, 3, 0, 0),
    "TTBR0_EL1": (2, 0, 3, 0, 0),
    "TCR_EL1": (2, 0, 3, 0, 2),
    "SPSR_EL1": (4, 0, 3, 0, 0),
    "ELR_EL1": (4, 0, 3, 0, 1),
    "ESR_EL1": (5, 2, 3, 0, 0),
    "FAR_EL1": (6, 0, 3, 0, 0),
    "VBAR_EL1": (12, 0, 3, 0, 0),
}


# cp, 64-bit, secure bank, CRn, CRm, opc1, opc2, as Unicorn wants them; AArch64 names.
_SYSTEM32 = {
    "SCR_EL3": (15, 0, 0, 1, 1, 0, 0),
    "HCR_EL2": (15, 0, 0, 1, 1, 4, 0),
    "VTCR_EL2": (15, 0, 0, 2, 1, 4, 2),
    "VTTBR_EL2": (15, 1, 0, 0, 2, 6, 0),
    "HPFAR_EL2": (15, 0, 0, 6, 0, 4, 4),
    "SCTLR_EL1": (15, 0, 0, 1, 0, 0, 0),
    "TTBR0_EL1": (15, 0, 0, 2, 0, 0, 0),
    "TCR_EL1": (15, 0, 0, 2, 0, 0, 2),
    "DFSR": (15, 0, 0, 5, 0, 0, 0),
    "IFSR": (15, 0, 0, 5, 0, 0, 1),
    "DFAR": (15, 0, 0, 6, 0, 0, 0),
    "IFAR": (15, 0, 0, 6, 0, 0, 2),
    "VBAR_EL1": (15, 0, 0, 12, 0, 0, 0),
}


# Mode, vector, and how far behind the instruction the return address lies.
_TAKEN32 = {
    "undefined": (0x1B, 0x04, 4),
    "instruction-abort": (0x17, 0x0C, 4),
    "data-abort": (0x17, 0x10, 8),
}


class Core:
    """One emulated core and its vCPU. What is of one execution state is in `Core32` and `Core64`.

    Attributes
    ----------
    uc : unicorn.Uc
        For hooks.
    traps : int
        Times that it came to EL2, calls included.
    """

    arch: int
    model: int
    unreached: int  # where a run ends if nothing stops it: it never gets there
    pc_id: int
    pstate_id: int
    cp_id: int
    first_word: int  # of the probe: what HVC leaves in ESR, without its immediate
    reset_pstate: int
    general: tuple[int, ...]
    system: Mapping[str, tuple[int, ...]]
    probe: tuple[int, ...]

    def __init__(self, machine: Machine, vcpu: pf.VCpu) -> None:
        self.machine, self.vcpu = machine, vcpu
        self.traps = 0
        self.uc = unicorn.Uc(self.arch, unicorn.UC_MODE_ARM, self.model)
        self.uc.ctl_set_page_size(PAGE_SIZE)
        self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        self._taken: int | None = None
        self._hpfar = 0
        self._error: BaseException | None = None
        self._context = self.uc.context_save()
        self.uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self.uc.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._on_invalid)
        self.write("SCR_EL3", SCR_NS_HCE_RW)
        self._esr_at, self._far_at = self._find_syndrome()
        self.map(machine.memory_pa, machine.memory)
        p2m = machine.domain.p2m
        self.write("VTCR_EL2", p2m.vtcr)
        self.write("VTTBR_EL2", p2m.vttbr)

    # ---- The core ----

    def read(self, name: str) -> int:
        """A system register."""
        return int(self.uc.reg_read(self.cp_id, self.system[name]))

    def write(self, name: str, value: int) -> None:
        """Set a system register; what the TLB holds stays."""
        self.uc.reg_write(self.cp_id, (*self.system[name], value))

    def register(self, number: int) -> int:
        """A general-purpose register of the guest."""
        return int(self.uc.reg_read(self.general[number])) if number < len(self.general) else 0

    def set_register(self, number: int, value: int) -> None:
        if number < len(self.general):
            self.uc.reg_write(self.general[number], value)

    @property
    def pc(self) -> int:
        return int(self.uc.reg_read(self.pc_id))

    def map(self, pa: int, memory: np.ndarray, protection: int = unicorn.UC_PROT_ALL) -> None:
        """Have this memory at a machine address."""
        self.uc.mem_map_ptr(pa, memory.nbytes, protection, memory.ctypes.data)

    def flush_tlb(self) -> None:
        self.uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)

    # ---- Running ----

    def boot(self, pc: int, *arguments: int) -> Call:
        """From reset, with stage 1 off: run to the guest's first call."""
        self.uc.reg_write(self.pstate_id, self.reset_pstate)
        self.write("SCTLR_EL1", 0)
        self.uc.reg_write(self.pc_id, pc)
        return self.resume(*arguments)

    def resume(self, *arguments: int) -> Call:
        """On from where the last run ended, `arguments` in the first registers."""
        for number, value in enumerate(arguments):
            self.set_register(number, value)
        for _ in range(MOST_TRAPS):
            self.write("HCR_EL2", self._hcr())
            self._run()
            self.traps += 1
            call = self._handle(self._word(self._esr_at, 4))
            record = self.vcpu.return_to_guest()
            if record and self.machine.on_flush:
                self.machine.on_flush(record)
            self.machine.obey()
            if call:
                return call
        raise GuestError(f"{MOST_TRAPS} traps without a call, the last at {self.pc:#x}")

    def _hcr(self) -> int:
        tvm = HCR_TVM if self.vcpu.traps_vm_registers else 0
        return HCR_VM | HCR_TSW | HCR_TID2 | HCR_RW | tvm

    def _run(self) -> None:
        """Run to the next exception."""
        self._taken = None
        self.uc.emu_start(self.pc, self.unreached)
        if self._error:
            error, self._error = self._error, None
            raise error
        if self._taken is None:
            raise GuestError(f"stopped at {self.pc:#x} without an exception")

    def keep(self, error: BaseException) -> None:
        """Unicorn swallows what its hooks raise: a hook hands it over, and the run raises it."""
        self._error = self._error or error
        self.uc.emu_stop()

    def _on_exception(self, uc: unicorn.Uc, number: int, _: object) -> None:
        # Here and not after the run, whose end leaves a syndrome of its own.
        uc.context_update(self._context)
        self._hpfar = self.read("HPFAR_EL2")
        self._taken = number
        uc.emu_stop()

    def _on_invalid(self, uc: unicorn.Uc, _: object) -> bool:
        self._on_exception(uc, 1, None)
        return True

    # ---- What is taken to EL2 ----

    def _handle(self, esr: int) -> Call | None:
        ec = esr >> 26
        if ec in EC_CALLS:
            arguments = tuple(self.register(i) for i in range(4))
            if self._taken == SECURE_CALL:  # taken before the instruction, not behind it
                self._skip(esr)
            return Call(EC_CALLS[ec], esr & 0xFFFF, arguments)
        if ec in EC_ABORTS:
            self._abort(esr)
        elif ec in EC_TRAPS:
            self._trap(esr)
        else:
            raise GuestError(f"exception {self._taken} at {self.pc:#x}, syndrome {esr:#x}")
        return None

    def _abort(self, esr: int) -> None:
        result = self.vcpu.abort(esr, self._word(self._far_at, 8), self._hpfar)
        if result.outcome is pf.Outcome.EMULATED:
            self._skip(esr)
        elif result.injected:
            self.inject(result.injected)
        elif result.outcome not in (pf.Outcome.RESOLVED, pf.Outcome.RETRY, pf.Outcome.EVENT):
            raise GuestError(f"{result} at {self.pc:#x}")

    def _trap(self, esr: int) -> None:
        trap = decode(esr)
        assert isinstance(trap, SysRegTrap)
        if trap.name is None and not trap.set_way:
            self._cache_identification(esr, trap)
            self._skip(esr)
            return
        value = self.register(trap.rt)
        if trap.rt2 is not None:
            value |= self.register(trap.rt2) << 32
        self.vcpu.injected = None
        self.vcpu.trap(esr, value)
        if self.vcpu.injected:
            self.inject(self.vcpu.injected)
            return
        if trap.name is not None:
            self.uc.reg_write(self.cp_id, (*self._register_of(esr), value))
            # As the core does when it executes such a write itself: they change its stage 1.
            self.flush_tlb()
        self._skip(esr)

    def _cache_identification(self, esr: int, trap: SysRegTrap) -> None:
        key = (esr >> 14 & 7, esr >> 10 & 0xF, esr >> 1 & 0xF, esr >> 17 & 7)
        if trap.read and key == CLIDR:
            self.set_register(trap.rt, CLIDR_ONE_LEVEL)
        elif trap.read and key == CCSIDR:
            self.set_register(trap.rt, self.machine.cache.ccsidr)
        elif trap.read or key != CSSELR:  # there is nothing to select
            raise GuestError(f"trapped register {key} at {self.pc:#x}")

    def _skip(self, esr: int) -> None:
        self.uc.reg_write(self.pc_id, self.pc + (4 if esr & ESR_IL else 2))

    def _register_of(self, esr: int) -> tuple[int, ...]:
        raise NotImplementedError

    def inject(self, injected: Injected) -> None:
        """The guest takes this exception at EL1."""
        raise NotImplementedError

    # ---- The syndrome ----

    def _word(self, offset: int, size: int) -> int:
        """A word of the core's state at the last exception."""
        return int.from_bytes(
            ctypes.string_at(self._context.context.value + offset, size), "little"
        )

    def _find_syndrome(self) -> tuple[int, int]:
        """Where the state holds the syndrome and the faulting address, as in `unicorn_mmu`."""
        # A page of code, then a level-1 table that maps its GiB and nothing else; 39 bits.
        memory = np.frombuffer(anonymous_memory(PROBE_BYTES), "<u8")
        memory[PAGE_SIZE // 8] = PROBE_PA | 0x7FD
        words = memory.view("<u4")
        words[: len(self.probe)] = self.probe
        self.map(PROBE_PA, memory)
        self.write("VTCR_EL2", 0x8004_3559)
        self.write("VTTBR_EL2", PROBE_PA + PAGE_SIZE)
        self.write("HCR_EL2", HCR_VM | HCR_RW)
        self.uc.reg_write(self.pstate_id, self.reset_pstate)
        self.flush_tlb()

        def state(instruction: int, address: int = 0) -> bytes:
            self.set_register(0, address - 0x1000)
            self.set_register(2, 0x1000)
            self.uc.reg_write(self.pc_id, 4 * instruction)
            self._run()
            return bytes(self._context)

        syndromes = [
            (state(i), self.first_word | number) for i, number in enumerate((0x1234, 0xA5C3))
        ]
        addresses = [(state(2, a), a) for a in (0x5234_5678, 0xCBA9_8768)]
        self.uc.mem_unmap(PROBE_PA, PROBE_BYTES)
        self.flush_tlb()
        return only_place("<u4", syndromes), only_place("<u8", addresses)


class Core64(Core):
    """In AArch64 state."""

    arch = unicorn.UC_ARCH_ARM64
    model = arm64.UC_CPU_ARM64_MAX
    unreached = 2**64 - 16
    pc_id = arm64.UC_ARM64_REG_PC
    pstate_id = arm64.UC_ARM64_REG_PSTATE
    cp_id = arm64.UC_ARM64_REG_CP_REG
    general = (
        *range(arm64.UC_ARM64_REG_X0, arm64.UC_ARM64_REG_X28 + 1),
        arm64.UC_ARM64_REG_X29,
        arm64.UC_ARM64_REG_X30,
    )
    reset_pstate = 0x3C5  # EL1 with its own stack pointer, interrupts masked
    system = _SYSTEM64
    probe = (
        0xD4024682,  # hvc #0x1234
        0xD414B862,  # hvc #0xa5c3
        0xF8626801,  # ldr x1, [x0, x2]
    )
    first_word = 0x5A00_0000

    def _register_of(self, esr: int) -> tuple[int, ...]:
        return (esr >> 10 & 0xF, esr >> 1 & 0xF, esr >> 20 & 3, esr >> 14 & 7, esr >> 17 & 7)

    def inject(self, injected: Injected) -> None:
        self.write("ESR_EL1", injected.esr)
        if injected.far is not None:
            self.write("FAR_EL1", injected.far)
        self.write("ELR_EL1", self.pc)
        self.write("SPSR_EL1", int(self.uc.reg_read(self.pstate_id)))
        self.uc.reg_write(self.pstate_id, self.reset_pstate)
        # A synchronous exception, from EL1 with its own stack pointer.
        self.uc.reg_write(self.pc_id, self.read("VBAR_EL1") + 0x200)


class Core32(Core):
    """In AArch32 state, EL2 included (Hyp mode); the guest's code is A32."""

    arch = unicorn.UC_ARCH_ARM
    model = arm.UC_CPU_ARM_MAX
    unreached = 2**32 - 16
    pc_id = arm.UC_ARM_REG_PC
    pstate_id = arm.UC_ARM_REG_CPSR
    cp_id = arm.UC_ARM_REG_CP_REG
    general = (
        *range(arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R12 + 1),
        arm.UC_ARM_REG_SP,
        arm.UC_ARM_REG_LR,
    )
    reset_pstate = 0x1D3  # Supervisor mode, interrupts masked
    system = _SYSTEM32
    probe = (
        0xE1412374,  # hvc #0x1234
        0xE14A5C73,  # hvc #0xa5c3
        0xE7901002,  # ldr r1, [r0, r2]
    )
    first_word = 0x4A00_0000

    def _register_of(self, esr: int) -> tuple[int, ...]:
        crm = esr >> 1 & 0xF
        if esr >> 26 == EC_CP15_64:
            return (15, 1, 0, 0, crm, esr >> 16 & 0xF, 0)
        return (15, 0, 0, esr >> 10 & 0xF, crm, esr >> 14 & 7, esr >> 17 & 7)

    def inject(self, injected: Injected) -> None:
        mode, vector, behind = _TAKEN32[injected.kind]
        status, address = ("IFSR", "IFAR") if injected.kind[0] == "i" else ("DFSR", "DFAR")
        if injected.kind != "undefined":
            self.write(status, injected.esr)
            if injected.far is not None:
                self.write(address, injected.far)
        pc, cpsr = self.pc, int(self.uc.reg_read(self.pstate_id))
        self.uc.reg_write(self.pstate_id, cpsr & ~0x1F | mode | 0x80)
        self.uc.reg_write(arm.UC_ARM_REG_SPSR, cpsr)
        self.uc.reg_write(arm.UC_ARM_REG_LR, pc + behind)
        self.uc.reg_write(self.pc_id, self.read("VBAR_EL1") + vector)


class Machine:
    """The domain's machine memory, and a core for each of its vCPUs.

    Attributes
    ----------
    memory : numpy array
        The machine memory that the domain owns, from `memory_pa` on, a row a page.
    cores : list of Core
    cache : CacheGeometry
        What the guest is shown.
    on_flush : callable or None
        Given each flush, before the guest goes on.
    tlb_invalidations : int
        How often the P2M asked for some.
    """

    def __init__(self, domain: pf.Domain, cache: pf.CacheGeometry) -> None:
        self.domain, self.cache = domain, cache
        first = min(mfn for mfn, _ in domain.extents)
        nr = max(mfn + nr for mfn, nr in domain.extents) - first
        self.memory_pa = first * PAGE_SIZE
        self.memory = np.frombuffer(anonymous_memory(nr * PAGE_SIZE), np.uint8)
        self.memory = self.memory.reshape(nr, PAGE_SIZE)
        self.tlb_invalidations = 0
        self.on_flush: Callable[[FlushRecord], object] | None = None
        self._devices: dict[int, Device] = {}
        kind = Core32 if domain.bits == 32 else Core64
        self.cores = [kind(self, vcpu) for vcpu in domain.vcpus]
        self._tables = domain.p2m.tables[:0]
        self._tlb_flushes = domain.p2m.stats.tlb_flushes
        self._map_tables()

    def _map_tables(self) -> None:
        """All the frames in use so far, zero-copy."""
        p2m = self.domain.p2m
        for core in self.cores:
            if self._tables.size:
                core.uc.mem_unmap(p2m.table_base_mfn * PAGE_SIZE, self._tables.nbytes)
            core.map(p2m.table_base_mfn * PAGE_SIZE, p2m.tables, unicorn.UC_PROT_READ)
        self._tables = p2m.tables

    def obey(self) -> None:
        """Before a guest goes on: new table frames are there, and every core's TLB is invalidated
        if, and only if, the P2M has asked for it."""
        if len(self.domain.p2m.tables) != len(self._tables):
            self._map_tables()
        # By its counter: its events are drained by the domain, which gives up references by them.
        due, self._tlb_flushes = self._tlb_flushes, self.domain.p2m.stats.tlb_flushes
        if due != self._tlb_flushes:
            self.tlb_invalidations += 1
            for core in self.cores:
                core.flush_tlb()

    def page(self, gfn: int) -> np.ndarray:
        """The machine memory of a page of guest RAM."""
        return self.memory[self.frame(gfn)]

    def frame(self, gfn: int) -> int:
        """The row of `memory` that a page of guest RAM is."""
        mfn = self.domain.p2m.get_entry(gfn).mfn
        assert mfn is not None, f"nothing is mapped at gfn {gfn:#x}"
        return mfn - self.memory_pa // PAGE_SIZE

    def load(self, gpa: int, words: tuple[int, ...]) -> None:
        """Guest code, as a domain builder puts it there: within one page."""
        code = program(words)
        offset = gpa % PAGE_SIZE
        self.page(gpa // PAGE_SIZE)[offset : offset + len(code)] = np.frombuffer(code, np.uint8)

    def attach(self, gpa: int, device: Device) -> None:
        """Have a device answer in the page at `gpa`."""
        self._devices[gpa // PAGE_SIZE] = device
        self.domain.emulate(gpa, PAGE_SIZE, self._access_device)

    def _access_device(self, access: pf.MmioAccess) -> None:
        core, device = self.cores[access.vcpu], self._devices[access.gpa // PAGE_SIZE]
        if access.write:
            value = core.register(access.register) & (1 << 8 * access.size) - 1
            device.write(access.gpa, access.size, value)
        else:
            core.set_register(access.register, device.read(access.gpa, access.size))
