"""The two execution states: their registers as Unicorn names them, and how they take exceptions.

What is particular about Unicorn (2.1): the AArch32 core reports what is undefined, or trapped, as
an invalid instruction, and names the bank of a register the other way round (`secure bank` 0 is
that of EL1 here).
"""

from __future__ import annotations

from collections.abc import Mapping

import unicorn
from unicorn import arm64_const as arm64
from unicorn import arm_const as arm
from unicorn.unicorn_py3.unicorn import Uc

from p2mfast.hypervisor.syndrome import Injected

HCR_VM, HCR_TID2, HCR_TSW, HCR_TVM, HCR_RW = 1 << 0, 1 << 17, 1 << 22, 1 << 26, 1 << 31
SCR_NS_HCE_RW = 1 << 10 | 1 << 8 | 1 << 0  # RW is reserved in AArch32 state

EC_CP15_64 = 0x04

# SCTLR, in AArch32 state: exceptions are taken big-endian (EE), to T32 code (TE).
_SCTLR_EE, _SCTLR_TE = 1 << 25, 1 << 30
# CPSR.
_MODE, _THUMB, _ABORTS_OFF, _IRQ_OFF, _BIG_ENDIAN = 0x1F, 1 << 5, 1 << 8, 1 << 7, 1 << 9
_IT_JAZELLE = 0x0700_FC00
# PSTATE of AArch64: the mode's bits, and what an exception keeps.
_EL, _AARCH32, _EL1H, _MASKED, _FLAGS = 0xC, 1 << 4, 0x5, 0x3C0, 0xF000_0000
_EC_LOWER = 1 << 26  # by which the class of an abort from the same level differs


class State:
    """One execution state of EL1 and EL2."""

    cp_id: int
    pc_id: int
    pstate_id: int
    general: tuple[int, ...]
    system: Mapping[str, tuple[int, ...]]
    unreached: int
    """Where a run ends if nothing stops it: it never gets there."""
    reset_pstate: int
    probe: tuple[int, ...]
    """Two HVCs, and a load from the sum of the registers 0 and 2."""
    hvc_esr: int
    """What the syndrome of HVC is but for the immediate."""

    def read(self, uc: Uc, name: str) -> int:
        """A system register."""
        return int(uc.reg_read(self.cp_id, self.system[name]))

    def write(self, uc: Uc, name: str, value: int) -> None:
        """Set a system register; what the TLB holds stays."""
        uc.reg_write(self.cp_id, (*self.system[name], value))

    def where(self, uc: Uc) -> int:
        """Where ``emu_start`` is to go on."""
        return int(uc.reg_read(self.pc_id))

    def register_of(self, esr: int) -> tuple[int, ...]:
        """The system register that a trap's syndrome names."""
        raise NotImplementedError

    def inject(self, uc: Uc, injected: Injected) -> None:
        """The exception is taken to EL1."""
        raise NotImplementedError


class State64(State):
    """AArch64."""

    cp_id = arm64.UC_ARM64_REG_CP_REG
    pc_id = arm64.UC_ARM64_REG_PC
    pstate_id = arm64.UC_ARM64_REG_PSTATE
    general = (
        *range(arm64.UC_ARM64_REG_X0, arm64.UC_ARM64_REG_X28 + 1),
        arm64.UC_ARM64_REG_X29,
        arm64.UC_ARM64_REG_X30,
    )
    # CRn, CRm, op0, op1, op2, as Unicorn wants them.
    system: Mapping[str, tuple[int, ...]] = {
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
    unreached = 2**64 - 16
    reset_pstate = _MASKED | _EL1H
    probe = (
        0xD4024682,  # hvc #0x1234
        0xD414B862,  # hvc #0xa5c3
        0xF8626801,  # ldr x1, [x0, x2]
    )
    hvc_esr = 0x5A00_0000

    def register_of(self, esr: int) -> tuple[int, ...]:
        """CRn, CRm, op0, op1, op2."""
        return (esr >> 10 & 0xF, esr >> 1 & 0xF, esr >> 20 & 3, esr >> 14 & 7, esr >> 17 & 7)

    def inject(self, uc: Uc, injected: Injected) -> None:
        """By the vector of where it comes from (Arm ARM DDI 0487, D1.3)."""
        pc, pstate = int(uc.reg_read(self.pc_id)), int(uc.reg_read(self.pstate_id))
        esr = injected.esr
        if pstate & _EL:
            vector = 0x200 if pstate & 1 else 0
        else:
            vector = 0x600 if pstate & _AARCH32 else 0x400
            if injected.kind in ("data-abort", "instruction-abort"):
                esr &= ~_EC_LOWER
        if injected.kind == "serror":
            vector += 0x180
        self.write(uc, "ESR_EL1", esr)
        if injected.far is not None:
            self.write(uc, "FAR_EL1", injected.far)
        self.write(uc, "ELR_EL1", pc)
        self.write(uc, "SPSR_EL1", pstate)
        uc.reg_write(self.pstate_id, pstate & _FLAGS | self.reset_pstate)
        uc.reg_write(self.pc_id, self.read(uc, "VBAR_EL1") + vector)


class State32(State):
    """AArch32, EL2 included (Hyp mode); A32 and T32 code."""

    cp_id = arm.UC_ARM_REG_CP_REG
    pc_id = arm.UC_ARM_REG_PC
    pstate_id = arm.UC_ARM_REG_CPSR
    general = (
        *range(arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R12 + 1),
        arm.UC_ARM_REG_SP,
        arm.UC_ARM_REG_LR,
    )
    # cp, 64-bit, secure bank, CRn, CRm, opc1, opc2, as Unicorn wants them; AArch64 names.
    system: Mapping[str, tuple[int, ...]] = {
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
    unreached = 2**32 - 16
    reset_pstate = 0x1D3  # Supervisor mode, interrupts masked
    probe = (
        0xE1412374,  # hvc #0x1234
        0xE14A5C73,  # hvc #0xa5c3
        0xE7901002,  # ldr r1, [r0, r2]
    )
    hvc_esr = 0x4A00_0000
    # Mode, vector, and how far behind the instruction the return address lies, of T32's and A32's
    # undefined instructions (Arm ARM DDI 0487, G1.12).
    _taken: Mapping[str, tuple[int, int, int, int]] = {
        "undefined": (0x1B, 0x04, 2, 4),
        "instruction-abort": (0x17, 0x0C, 4, 4),
        "data-abort": (0x17, 0x10, 8, 8),
        "serror": (0x17, 0x10, 8, 8),
    }

    def where(self, uc: Uc) -> int:
        """Bit 0 set for T32 code."""
        thumb = bool(int(uc.reg_read(self.pstate_id)) & _THUMB)
        return int(uc.reg_read(self.pc_id)) | thumb

    def register_of(self, esr: int) -> tuple[int, ...]:
        """Of EL1's bank."""
        crm = esr >> 1 & 0xF
        if esr >> 26 == EC_CP15_64:
            return (15, 1, 0, 0, crm, esr >> 16 & 0xF, 0)
        return (15, 0, 0, esr >> 10 & 0xF, crm, esr >> 14 & 7, esr >> 17 & 7)

    def inject(self, uc: Uc, injected: Injected) -> None:
        """In the mode, and by the vector, of its kind."""
        mode, vector, behind_t32, behind_a32 = self._taken[injected.kind]
        if injected.kind != "undefined":
            fetch = injected.kind == "instruction-abort"
            self.write(uc, "IFSR" if fetch else "DFSR", injected.esr)
            if injected.far is not None:
                self.write(uc, "IFAR" if fetch else "DFAR", injected.far)
        pc, cpsr = int(uc.reg_read(self.pc_id)), int(uc.reg_read(self.pstate_id))
        sctlr = self.read(uc, "SCTLR_EL1")
        taken = cpsr & ~(_MODE | _THUMB | _BIG_ENDIAN | _IT_JAZELLE) | mode | _IRQ_OFF
        taken |= _ABORTS_OFF if injected.kind != "undefined" else 0
        taken |= _BIG_ENDIAN if sctlr & _SCTLR_EE else 0
        thumb = bool(sctlr & _SCTLR_TE)
        uc.reg_write(self.pstate_id, taken | (_THUMB if thumb else 0))
        uc.reg_write(arm.UC_ARM_REG_SPSR, cpsr)
        uc.reg_write(arm.UC_ARM_REG_LR, pc + (behind_t32 if cpsr & _THUMB else behind_a32))
        uc.reg_write(self.pc_id, self.read(uc, "VBAR_EL1") + vector | thumb)


STATES: Mapping[int, State] = {
    unicorn.UC_ARCH_ARM: State32(),
    unicorn.UC_ARCH_ARM64: State64(),
}
"""By Unicorn's number of the architecture."""


def state_of(uc: Uc) -> State:
    """Raises ValueError for a core that is not Arm's."""
    state = STATES.get(uc.ctl_get_arch())
    if state is None:
        raise ValueError("uc must be of UC_ARCH_ARM or UC_ARCH_ARM64")
    return state
