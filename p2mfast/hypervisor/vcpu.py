"""A virtual CPU: its accesses and aborts, its Set/Way operations, the caches it turns on and off.

The rules are Xen's (xen/arch/arm/p2m.c: p2m_set_way_flush, p2m_toggle_cache, p2m_flush_vm;
xen/arch/arm/vcpreg.c and arm64/vsysreg.c for the registers).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from p2mfast.errors import Stage2Fault
from p2mfast.hypervisor.aborts import AbortDomain, AbortResult, Outcome, handle_abort
from p2mfast.hypervisor.flushing import Cause, FlushRecord
from p2mfast.hypervisor.syndrome import (
    Abort,
    Injected,
    Injection,
    SysRegTrap,
    abort_esr,
    decode,
    hpfar,
    inject,
)
from p2mfast.types import FaultKind

logger = logging.getLogger(__name__)

READ, WRITE, FETCH = 1, 2, 4
_KINDS = {"r": READ, "w": WRITE, "x": FETCH, "rw": READ | WRITE}
_LETTERS = ["", "r", "w", "rw", "x", "rx", "wx", "rwx"]

# What HCR_EL2.TVM traps the writes of (Arm ARM DDI 0487, D19.2, HCR_EL2).
VM_REGISTERS = frozenset(
    {
        "SCTLR_EL1",
        "TTBR0_EL1",
        "TTBR1_EL1",
        "TCR_EL1",
        "ESR_EL1",
        "FAR_EL1",
        "AFSR0_EL1",
        "AFSR1_EL1",
        "MAIR_EL1",
        "AMAIR_EL1",
        "CONTEXTIDR_EL1",
    }
)
AARCH32_VM_REGISTERS = frozenset({"DACR32_EL2", "IFSR32_EL2"})
"""Those that AArch32 state has besides: DACR and IFSR."""
SCTLR_M = 1 << 0
SCTLR_C = 1 << 2
_CACHES_ON = SCTLR_M | SCTLR_C
_WORD = 0xFFFF_FFFF
_MAX_IPA = (1 << 56) - 1


def _kind_bits(kind: str) -> int:
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _KINDS))}, not {kind!r}")
    return _KINDS[kind]


class AccessOutcome(NamedTuple):
    """What became of a guest access: stage-2 faults resolved for it, and the one injected."""

    traps: int
    fault: FaultKind


class DomainOfVCpu(AbortDomain, Protocol):
    """What a vCPU needs of the domain it is handed."""

    def flush(self, vcpu: int, cause: Cause) -> FlushRecord:
        """Clean what the policy says, and arm."""

    def emulates(self) -> bool:
        """Whether a fault may come to more than a resolved page or an exception."""

    def count_abort(self, vcpu: int, abort: Abort, gpa: int, result: AbortResult) -> None:
        """An abort was handled."""

    def count_accesses(self, vcpu: int, traps: int, faults: int) -> None:
        """Guest accesses took so many resolved traps and injected so many faults."""

    def count_set_way(self, vcpu: int) -> None:
        """A Set/Way operation was trapped."""

    def count_sysreg_trap(self, vcpu: int) -> None:
        """A VM register write was trapped."""


class VCpu:
    """One vCPU of a domain.

    Attributes
    ----------
    index : int
        Its number in ``domain.vcpus``.
    traps_vm_registers : bool
        HCR_EL2.TVM: writes of VM registers trap.
    flush_pending : "set-way", "cache-toggle" or None
        Why the next :meth:`return_to_guest` flushes.
    injected : Injected or None
        The exception that the guest got last, with its syndrome.
    """

    def __init__(self, domain: DomainOfVCpu, index: int) -> None:
        self.domain = domain
        self.index = index
        self.reset()

    def reset(self) -> None:
        """Taken off and on again: caches off, nothing trapped, nothing pending."""
        self.registers = dict.fromkeys(VM_REGISTERS | AARCH32_VM_REGISTERS, 0)
        self.traps_vm_registers = False
        self.flush_pending: Cause | None = None
        self.injected: Injected | None = None

    def __repr__(self) -> str:
        state = ["caches on" if self.caches_on else "caches off"]
        if self.traps_vm_registers:
            state.append("TVM")
        if self.flush_pending:
            state.append(f"flush pending ({self.flush_pending})")
        if self.injected:
            state.append(f"pending {self.pending_exception}")
        return f"<VCpu {self.index}: {', '.join(state)}>"

    @property
    def caches_on(self) -> bool:
        """SCTLR_EL1.M and .C are both set."""
        return self.registers["SCTLR_EL1"] & _CACHES_ON == _CACHES_ON

    @property
    def pending_exception(self) -> Injection | None:
        """What was injected last: "undefined", "data-abort", "instruction-abort", "serror"."""
        return self.injected.kind if self.injected else None

    # ---- Accesses and aborts ----

    def abort(self, esr: int, far: int, hpfar: int) -> AbortResult:
        """A stage-2 abort, as a simulator with its own MMU reports it: ESR_EL2 (EC 0x20 or 0x24),
        FAR_EL2 and HPFAR_EL2, or HSR, HxFAR and HPFAR. ``hpfar`` has to be right for permission
        faults as well, of which a core need not tell it (D19.2, HPFAR_EL2).

        A translation fault of an armed page is resolved by the domain's policy, one in an MMIO
        region emulated; a permission fault is told to a mem_access listener; what is left is
        injected (see ``injected``). A fault that is stale by now is to be tried again. Raises
        TypeError or ValueError naming the argument.
        """
        abort, gpa, result = handle_abort(self.domain, self.index, esr, far, hpfar)
        if result.injected:
            self.injected = result.injected
        self.domain.count_abort(self.index, abort, gpa, result)
        return result

    def access(self, gpa: int, kind: str = "r") -> AccessOutcome:
        """A guest access to byte address ``gpa``: "r", "w", "x" or "rw"; the one of
        :meth:`access_many`."""
        row = self.access_many([gpa], [_kind_bits(kind)])[0]
        return AccessOutcome(int(row["traps"]), FaultKind(int(row["fault"])))

    def access_many(
        self,
        gpas: npt.NDArray[np.integer[Any]] | Sequence[int],
        kinds: npt.NDArray[np.integer[Any]] | Sequence[int] | str,
    ) -> npt.NDArray[np.void]:
        """Guest accesses to byte addresses, in order.

        ``kinds``: R 1, W 2, X 4, or-ed, as many as ``gpas``; or one of "r", "w", "x", "rw" for
        all of them. Each fault is handled as :meth:`abort` would: pages are resolved for all
        accesses first, then other faults are handled one after the other. Returns a structured
        array: ``traps``, the faults resolved for each access, and ``fault``, the
        :class:`~p2mfast.FaultKind` injected, 0 for none.
        """
        if isinstance(kinds, str):
            kinds = np.full(len(gpas), _kind_bits(kinds), np.uint8)
        policy = self.domain.policy
        result = self.domain.p2m.access_many(
            gpas, kinds, depth=policy.resolve, order=policy.fault_around
        )
        faulted = np.flatnonzero(result["fault"])
        self.domain.count_accesses(self.index, int(result["traps"].sum(dtype=np.uint64)), 0)
        if self.domain.emulates():
            for i in faulted.tolist():
                outcome = self._fault(int(gpas[i]), _LETTERS[int(kinds[i])])
                result[i] = (result[i]["traps"] + outcome.traps, outcome.fault)
        elif faulted.size:
            # Nothing but exceptions can come of them: the last one is what the guest is left with.
            self.domain.count_accesses(self.index, 0, faulted.size - 1)
            last = int(faulted[-1])
            self._fault(int(gpas[last]), _LETTERS[int(kinds[last])])
        return result

    def _fault(self, gpa: int, kind: str) -> AccessOutcome:
        """An access that faults: through :meth:`abort`, until it passes or is over."""
        traps = 0
        waiting = False
        while True:
            try:
                self.domain.p2m.translate(gpa, kind)
                return AccessOutcome(traps, FaultKind.NONE)
            except Stage2Fault as fault:
                if waiting:  # for the listener to change its mind
                    return AccessOutcome(traps, fault.kind)
                fetch = kind == "x"
                esr = abort_esr(
                    fault.kind, fault.level, write=fault.write, fetch=fetch, isv=not fetch
                )
                # An address that no syndrome can hold is as far beyond the space as one that can.
                outcome = self.abort(esr, gpa, hpfar(min(gpa, _MAX_IPA))).outcome
                if outcome is Outcome.EMULATED:
                    return AccessOutcome(traps, FaultKind.NONE)
                if outcome in (Outcome.INJECTED, Outcome.CRASHED):
                    return AccessOutcome(traps, fault.kind)
                traps += outcome is Outcome.RESOLVED
                waiting = outcome is Outcome.EVENT

    # ---- Set/Way and the VM registers ----

    def set_way(self) -> None:
        """A trapped DC ISW, CSW or CISW (HCR_EL2.TSW); Xen's p2m_set_way_flush.

        The first one of a batch asks for a flush and starts the trapping of VM registers, by which
        the end of the batch is seen.
        """
        self.domain.count_set_way(self.index)
        if self.domain.policy.iommu_shared:
            logger.error(
                "vCPU %d: Set/Way while the IOMMU shares the page table: flush by VA instead;"
                " undefined instruction injected",
                self.index,
            )
            self.injected = inject("undefined", bits=self.domain.bits)
            return
        if not self.traps_vm_registers:
            self.flush_pending = self.flush_pending or "set-way"
            self.traps_vm_registers = True

    def write_sysreg(self, name: str, value: int) -> None:
        """The guest writes a VM register, by its AArch64 name; a trap while TVM is set.

        A trapped write that turns the caches on or off asks for a flush, and one that finds them
        on ends the trapping (Xen's p2m_toggle_cache). Raises ValueError for another register.
        """
        if name not in self.registers:
            raise ValueError(
                f"name must be a register that HCR_EL2.TVM traps"
                f" ({', '.join(sorted(self.registers))}), not {name!r}"
            )
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"value must be an integer, not {value!r}")
        if not 0 <= value < 2**64:
            raise ValueError(f"value must be from 0 to 2**64 - 1, not {value!r}")
        were_on = self.caches_on
        self.registers[name] = int(value)
        if not self.traps_vm_registers:
            return
        self.domain.count_sysreg_trap(self.index)
        if self.caches_on != were_on:
            self.flush_pending = self.flush_pending or "cache-toggle"
        if self.caches_on:
            self.traps_vm_registers = False

    def trap(self, esr: int, value: int = 0) -> None:
        """A trapped system register access, by its ESR_EL2 or HSR: Set/Way (HCR_EL2.TSW), or a
        write of a VM register (TVM), of ``value``.

        An AArch32 register that is half of an AArch64 one changes that half. Raises ValueError
        for what is neither.
        """
        trap = decode(esr)
        if not isinstance(trap, SysRegTrap):
            raise ValueError(f"esr {esr:#x} is no trapped system register: {trap!r}")
        if trap.set_way:
            self.set_way()
            return
        if trap.name not in self.registers or trap.read:
            raise ValueError(
                f"esr {esr:#x}: neither Set/Way nor a write of a VM register: {trap!r}"
            )
        if trap.half:
            shift = 32 if trap.half == "high" else 0
            keep = self.registers[trap.name] & ~(_WORD << shift)
            value = keep | (value & _WORD) << shift
        self.write_sysreg(trap.name, value)

    def return_to_guest(self) -> FlushRecord | None:
        """Do the pending work before the guest goes on; the flush that was done, if one was."""
        if self.flush_pending is None:
            return None
        record = self.domain.flush(self.index, self.flush_pending)
        self.flush_pending = None
        return record
