"""A virtual CPU: its accesses, its Set/Way operations, and the caches it turns on and off.

The rules are Xen's (xen/arch/arm/p2m.c: p2m_set_way_flush, p2m_toggle_cache, p2m_flush_vm).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from p2mfast._engine import P2M
from p2mfast.hypervisor.policy import Policy
from p2mfast.types import FaultKind

logger = logging.getLogger(__name__)

Cause = Literal["set-way", "cache-toggle"]

READ, WRITE, FETCH = 1, 2, 4
_KINDS = {"r": READ, "w": WRITE, "x": FETCH, "rw": READ | WRITE}

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
SCTLR_M = 1 << 0
SCTLR_C = 1 << 2
_CACHES_ON = SCTLR_M | SCTLR_C


def _kind_bits(kind: str) -> int:
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _KINDS))}, not {kind!r}")
    return _KINDS[kind]


class FlushRecord(NamedTuple):
    """One flush of a domain: who asked for it, why, and what was cleaned."""

    vcpu: int
    cause: Cause
    pages: int
    runs: npt.NDArray[np.void]


class AccessOutcome(NamedTuple):
    """What became of a guest access: stage-2 faults resolved for it, and the one injected."""

    traps: int
    fault: FaultKind


class DomainOfVCpu(Protocol):
    """What a vCPU needs of the domain it is handed."""

    policy: Policy

    @property
    def p2m(self) -> P2M:
        """Its stage-2 tables."""

    def flush(self, vcpu: int, cause: Cause) -> FlushRecord:
        """Clean what the policy says, and arm."""

    def count_accesses(self, traps: int, faults: int) -> None:
        """Guest accesses took so many resolved traps and injected so many faults."""

    def count_set_way(self) -> None:
        """A Set/Way operation was trapped."""

    def count_sysreg_trap(self) -> None:
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
    pending_exception : str or None
        What was injected last: "undefined", "data-abort", "instruction-abort".
    """

    def __init__(self, domain: DomainOfVCpu, index: int) -> None:
        self.domain = domain
        self.index = index
        self.registers = dict.fromkeys(VM_REGISTERS, 0)
        self.traps_vm_registers = False
        self.flush_pending: Cause | None = None
        self.pending_exception: str | None = None

    def __repr__(self) -> str:
        state = ["caches on" if self.caches_on else "caches off"]
        if self.traps_vm_registers:
            state.append("TVM")
        if self.flush_pending:
            state.append(f"flush pending ({self.flush_pending})")
        if self.pending_exception:
            state.append(f"pending {self.pending_exception}")
        return f"<VCpu {self.index}: {', '.join(state)}>"

    @property
    def caches_on(self) -> bool:
        """SCTLR_EL1.M and .C are both set."""
        return self.registers["SCTLR_EL1"] & _CACHES_ON == _CACHES_ON

    def reset(self) -> None:
        """Taken off and on again: caches off, nothing trapped, nothing pending."""
        self.registers = dict.fromkeys(VM_REGISTERS, 0)
        self.traps_vm_registers = False
        self.flush_pending = None
        self.pending_exception = None

    # ---- Accesses ----

    def access(self, gpa: int, kind: str = "r") -> AccessOutcome:
        """A guest access to byte address ``gpa``: "r", "w", "x" or "rw"."""
        row = self.access_many([gpa], [_kind_bits(kind)])[0]
        return AccessOutcome(int(row["traps"]), FaultKind(int(row["fault"])))

    def access_many(
        self,
        gpas: npt.NDArray[np.integer[Any]] | Sequence[int],
        kinds: npt.NDArray[np.integer[Any]] | Sequence[int] | str,
    ) -> npt.NDArray[np.void]:
        """Guest accesses to byte addresses, in order.

        ``kinds``: R 1, W 2, X 4, or-ed, as many as ``gpas``; or one of "r", "w", "x", "rw" for
        all of them. Translation faults of armed entries are resolved by the domain's policy;
        another fault is injected into the guest (see ``pending_exception``). Returns a structured
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
        if faulted.size:
            fetch = int(np.asarray(kinds)[faulted[-1]]) == FETCH
            self.pending_exception = "instruction-abort" if fetch else "data-abort"
        self.domain.count_accesses(int(result["traps"].sum(dtype=np.uint64)), faulted.size)
        return result

    # ---- Set/Way and the VM registers ----

    def set_way(self) -> None:
        """A trapped DC ISW, CSW or CISW (HCR_EL2.TSW); Xen's p2m_set_way_flush.

        The first one of a batch asks for a flush and starts the trapping of VM registers, by which
        the end of the batch is seen.
        """
        self.domain.count_set_way()
        if self.domain.policy.iommu_shared:
            logger.error(
                "vCPU %d: Set/Way while the IOMMU shares the page table: flush by VA instead;"
                " undefined instruction injected",
                self.index,
            )
            self.pending_exception = "undefined"
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
                f" ({', '.join(sorted(VM_REGISTERS))}), not {name!r}"
            )
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"value must be an integer, not {value!r}")
        if not 0 <= value < 2**64:
            raise ValueError(f"value must be from 0 to 2**64 - 1, not {value!r}")
        were_on = self.caches_on
        self.registers[name] = int(value)
        if not self.traps_vm_registers:
            return
        self.domain.count_sysreg_trap()
        if self.caches_on != were_on:
            self.flush_pending = self.flush_pending or "cache-toggle"
        if self.caches_on:
            self.traps_vm_registers = False

    def return_to_guest(self) -> FlushRecord | None:
        """Do the pending work before the guest goes on; the flush that was done, if one was."""
        if self.flush_pending is None:
            return None
        record = self.domain.flush(self.index, self.flush_pending)
        self.flush_pending = None
        return record
