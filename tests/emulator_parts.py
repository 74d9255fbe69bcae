"""What the tests of `p2mfast.adapters.unicorn` have in common: memory, a few programs, faults."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from guest_machine import MEMORY_PA
from unicorn import arm64_const as arm64
from unicorn import arm_const as arm
from unicorn_mmu import program

import p2mfast as pf
from p2mfast.adapters.unicorn import MachineMemory

BITS = pytest.mark.parametrize("bits", [32, 64])
RAM, RAM_PAGES = 0x4000_0000, 2048
FIRST, MFN = RAM >> 12, MEMORY_PA >> 12
HOLE = 0x7000_0000
X0 = {32: arm.UC_ARM_REG_R0, 64: arm64.UC_ARM64_REG_X0}
PC = {32: arm.UC_ARM_REG_PC, 64: arm64.UC_ARM64_REG_PC}

# Each one instruction at register 0, by register 1, and the one behind it.
ACCESSES = {
    (32, "r"): (0xE5901000, 0xE320F000),  # ldr r1, [r0]; nop
    (32, "w"): (0xE5801000, 0xE320F000),  # str r1, [r0]; nop
    (32, "x"): (0xE12FFF10, 0xE320F000),  # bx r0; nop
    (64, "r"): (0xF9400001, 0xD503201F),  # ldr x1, [x0]; nop
    (64, "w"): (0xF9000001, 0xD503201F),  # str x1, [x0]; nop
    (64, "x"): (0xD61F0000, 0xD503201F),  # br x0; nop
}
# Register 4 grows by the words from register 0 on, register 1 apart, register 2 of them; HVC.
SUM = {
    32: (0xE5903000, 0xE0844003, 0xE0800001, 0xE2522001, 0x1AFFFFFA, 0xE1400070),
    64: (0xF9400003, 0x8B030084, 0x8B010000, 0xF1000442, 0x54FFFF81, 0xD4000002),
}
SUM_END = RAM + 20


def machine_memory() -> MachineMemory:
    """With a number in each page that no other has."""
    memory = MachineMemory(MEMORY_PA, 4 * RAM_PAGES << 12)
    memory.pages.view("<u4")[: 2 * RAM_PAGES, 0] = np.arange(2 * RAM_PAGES) * 7 + 1
    return memory


def number(mfn: int) -> int:
    return (mfn - MFN) * 7 + 1


def put(memory: MachineMemory, pa: int, words: tuple[int, ...]) -> None:
    code = np.frombuffer(program(words), np.uint8)
    memory.page(pa >> 12)[pa % 4096 : pa % 4096 + len(code)] = code


def fault_of(call: Callable[[], object]) -> tuple[object, ...]:
    with pytest.raises(pf.Stage2Fault) as raised:
        call()
    fault = raised.value
    return fault.ipa, fault.kind, fault.level, fault.access, fault.write, fault.esr, fault.hpfar
