"""A machine that runs guest code under a `Domain`: a Unicorn core a vCPU, attached by the public
adapter, and the memory and devices around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import unicorn
from mmu_guest import program
from unicorn import arm64_const as arm64
from unicorn import arm_const as arm

import p2mfast as pf
from p2mfast.adapters.unicorn import Call, Core, MachineMemory, attach
from p2mfast.hypervisor.flushing import FlushRecord
from p2mfast.units import PAGE_SIZE

MEMORY_PA = 2 << 30  # where a `Host`'s RAM starts


class Device(NamedTuple):
    """What answers at an MMIO address: `read(gpa, size)`, `write(gpa, size, value)`."""

    read: Callable[[int, int], int]
    write: Callable[[int, int, int], object]


def core_of(bits: int) -> unicorn.Uc:
    """As an author of an emulator has it."""
    arch, model = {
        32: (unicorn.UC_ARCH_ARM, arm.UC_CPU_ARM_MAX),
        64: (unicorn.UC_ARCH_ARM64, arm64.UC_CPU_ARM64_MAX),
    }[bits]
    uc = unicorn.Uc(arch, unicorn.UC_MODE_ARM, model)
    uc.ctl_set_page_size(PAGE_SIZE)
    return uc


class Machine:
    """The machine's memory, and a core for each of the domain's vCPUs.

    Attributes
    ----------
    memory : MachineMemory
    cores : list of Core
    """

    def __init__(self, domain: pf.Domain, cache: pf.CacheGeometry) -> None:
        self.domain = domain
        self.memory = MachineMemory(MEMORY_PA, domain.host.memory)
        self._devices: dict[int, Device] = {}
        self._generation = domain.p2m.tlb_generation
        self.cores = []
        for vcpu in domain.vcpus:
            uc = core_of(domain.bits)
            self.memory.map(uc)
            self.cores.append(attach(uc, domain, vcpu.index, cache=cache))

    @property
    def tlb_invalidations(self) -> int:
        """How many the P2M has asked for."""
        return self.domain.p2m.tlb_generation - self._generation

    def on_flush(self, called: Callable[[FlushRecord], object]) -> None:
        """Have this called with each flush, before the guest goes on."""
        for core in self.cores:
            core.on_flush = called

    def boot(self, core: Core, pc: int, *arguments: int) -> Call:
        """From reset, with stage 1 off: run to the guest's first call."""
        core.reset()
        return self.resume(core, *arguments, pc=pc)

    def resume(self, core: Core, *arguments: int, pc: int | None = None) -> Call:
        """On from where the last run ended, `arguments` in the first registers, to a call."""
        for number, value in enumerate(arguments):
            core.set_register(number, value)
        call = core.run(pc, max_traps=10_000)
        assert call is not None
        return call

    def page(self, gfn: int) -> np.ndarray:
        """The machine memory of a page of guest RAM."""
        return self.memory.pages[self.frame(gfn)]

    def frame(self, gfn: int) -> int:
        """The row of `memory.pages` that a page of guest RAM is."""
        mfn = self.domain.p2m.get_entry(gfn).mfn
        assert mfn is not None, f"nothing is mapped at gfn {gfn:#x}"
        return mfn - MEMORY_PA // PAGE_SIZE

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
            device.write(access.gpa, access.size, core.stored(access))
        else:
            core.load(access, device.read(access.gpa, access.size))
