"""An emulated core whose stage 2 is the live tables of a P2M, driven as a hypervisor drives one.

The core runs at EL1 and EL0 until something would be taken to EL2. Under a domain that goes to the
core's ``VCpu`` by what the core says of it (ESR_EL2, FAR_EL2 and HPFAR_EL2, or HSR, HDFAR and
HPFAR), and the guest goes on as the ``VCpu`` has it: at the same instruction, behind an emulated
one, or at its own exception vector. What traps (Arm ARM DDI 0487, D19.2, HCR_EL2): Set/Way (TSW),
the VM registers while the ``VCpu`` asks for them (TVM), and with a ``CacheGeometry`` the cache
identification registers (TID2).

What is particular about Unicorn (2.1): a run of one instruction goes on for more than one, so that
a trapped register is written from outside; hooks on data get machine addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import unicorn
from unicorn.unicorn_py3.unicorn import Uc

from p2mfast._engine import P2M
from p2mfast.adapters.unicorn import syndrome
from p2mfast.adapters.unicorn.engine import Generation, flush_tlb, start
from p2mfast.adapters.unicorn.state import (
    HCR_RW,
    HCR_TID2,
    HCR_TSW,
    HCR_TVM,
    HCR_VM,
    SCR_NS_HCE_RW,
    STATES,
    state_of,
)
from p2mfast.errors import P2MError, Stage2Fault
from p2mfast.hypervisor.aborts import MmioAccess, Outcome
from p2mfast.hypervisor.cache import CacheGeometry
from p2mfast.hypervisor.domain import Domain
from p2mfast.hypervisor.flushing import FlushRecord
from p2mfast.hypervisor.syndrome import Abort, Injected, SysRegTrap, decode, fault_ipa
from p2mfast.hypervisor.vcpu import VCpu
from p2mfast.types import FaultKind
from p2mfast.units import PAGE_SIZE

# Exception classes (D19.2, ESR_EL2, EC).
_EC_TRAPS = (0x03, 0x04, 0x18)
_EC_CALLS = {0x12: "hvc", 0x13: "smc", 0x16: "hvc", 0x17: "smc"}
_EC_ABORTS = (0x20, 0x24)
_ESR_IL = 1 << 25
_ESR_SF = 1 << 15  # of an abort whose instruction is described: it loads 64 bits

# op1, CRn, CRm, op2 of the cache identification registers; of AArch32 and AArch64 the same but for
# op0, and CTR's op1 (D19.2, G8.2).
_CCSIDR, _CLIDR, _CSSELR = (1, 0, 0, 0), (1, 0, 0, 1), (2, 0, 0, 0)
_CTR = ((0, 0, 0, 1), (3, 0, 0, 1))
_CTR_DMINLINE = 0xF << 16
# One level, of separate caches; coherence and unification end at it.
_CLIDR_ONE_LEVEL = 1 << 27 | 1 << 24 | 1 << 21 | 3

# QEMU's number of an SMC, which is taken before the instruction, not behind it.
_SECURE_CALL = 13
# A value that no stage-2 abort leaves in HPFAR_EL2.
_NO_FAULT = 0xF


class GuestError(P2MError):
    """The guest did what nobody handles, or its domain has crashed."""


class Call(NamedTuple):
    """The guest has called: "hvc" or "smc", the immediate, the first four registers. It goes on
    behind the call."""

    kind: str
    number: int
    arguments: tuple[int, ...]


class GuestException(NamedTuple):
    """An exception of the guest's own, for EL1: Unicorn's number, and what ESR and FAR are to say.

    The core stands at the instruction, behind one that calls (SVC).
    """

    number: int
    esr: int
    far: int


class Core:
    """A Uc that walks a P2M's tables; made by :func:`attach`.

    Attributes
    ----------
    uc : unicorn.Uc
    p2m : P2M
    vcpu : VCpu or None
        Who decides; None for a P2M without a domain.
    cache : CacheGeometry or None
        The only data cache that the guest is shown.
    on_fault, on_exception, on_flush
        As of :func:`attach`; they may be changed between runs, and by each other.
    traps : int
        Times that it came to EL2, calls included.
    tlb_flushes : int
        Times that the P2M had its TLB invalidated.
    """

    def __init__(self, uc: Uc, p2m: P2M, vcpu: VCpu | None) -> None:
        self.uc, self.p2m, self.vcpu = uc, p2m, vcpu
        self.cache: CacheGeometry | None = None
        self.on_fault: Callable[[Stage2Fault], bool] | None = None
        self.on_exception: Callable[[GuestException], bool] | None = None
        self.on_flush: Callable[[FlushRecord], object] | None = None
        self.traps = self.tlb_flushes = 0
        self._state = state_of(uc)
        self._place = syndrome.find(uc.ctl_get_arch(), uc.ctl_get_cpu_model())
        uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
        self._taken: int | None = None
        self._hpfar = self._selected = 0
        self._wide = False
        self._context = uc.context_save()
        self._hooks = [
            uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt),
            uc.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._on_invalid),
        ]
        self._tables: npt.NDArray[np.uint64] = p2m.tables[:0]
        self._generation = Generation(p2m)
        self._generation.moved()
        self.write("SCR_EL3", SCR_NS_HCE_RW)
        self.write("VTCR_EL2", p2m.vtcr)
        self.write("VTTBR_EL2", p2m.vttbr)
        self.flush_tlb()

    # ---- The core ----

    def read(self, name: str) -> int:
        """A system register by its AArch64 name: those that the adapter works with, SCTLR_EL1,
        TTBR0_EL1, TCR_EL1 and VBAR_EL1 among them. Raises KeyError for another."""
        return self._state.read(self.uc, name)

    def write(self, name: str, value: int) -> None:
        """Set such a register; what the TLB holds stays."""
        self._state.write(self.uc, name, value)

    def register(self, number: int) -> int:
        """A general-purpose register of the guest, as a syndrome numbers them; 0 for XZR."""
        general = self._state.general
        return int(self.uc.reg_read(general[number])) if number < len(general) else 0

    def set_register(self, number: int, value: int) -> None:
        """Set it; XZR stays 0."""
        if number < len(self._state.general):
            self.uc.reg_write(self._state.general[number], value)

    @property
    def pc(self) -> int:
        """Where the guest is: bit 0 is clear in T32 code, too."""
        return int(self.uc.reg_read(self._state.pc_id))

    def flush_tlb(self) -> None:
        """Forget all translations; done before a run that follows an invalidation. Not from a
        hook."""
        flush_tlb(self.uc)

    def stored(self, access: MmioAccess) -> int:
        """What the guest stores by an emulated access: the low bytes of its register."""
        return self.register(access.register) & (1 << 8 * access.size) - 1

    def load(self, access: MmioAccess, value: int) -> None:
        """What the guest gets by an emulated load, extended as the instruction has it."""
        bits = 8 * access.size
        value &= (1 << bits) - 1
        if access.sign_extend and value >> bits - 1:
            value |= -1 << bits
        self.set_register(access.register, value & (1 << (64 if self._wide else 32)) - 1)

    def inject(self, injected: Injected) -> None:
        """The guest takes this exception to EL1 where it stands."""
        self._state.inject(self.uc, injected)

    # ---- Running ----

    def reset(self) -> None:
        """To EL1 (Supervisor mode, A32), interrupts masked, stage 1 off."""
        self.uc.reg_write(self._state.pstate_id, self._state.reset_pstate)
        self.write("SCTLR_EL1", 0)
        self.flush_tlb()

    def run(
        self, begin: int | None = None, until: int | None = None, max_traps: int | None = None
    ) -> Call | None:
        """Run the guest from where it stands, or ``begin``, to its next call or ``until``
        (addresses as ``emu_start`` takes them: bit 0 set for T32 code).

        Returns the :class:`Call`, or None where the end is reached or a hook has stopped the core.
        A change of the P2M amidst a run, by a hook, is seen from the next trap on.

        Raises what a hook or a handler raised, GuestError for what nobody handles (and after
        ``max_traps`` traps without a call), Stage2Fault for an access that a P2M without a domain
        refuses, UcError.
        """
        until = self._state.unreached if until is None else until
        before = self.traps
        while max_traps is None or self.traps - before < max_traps:
            self._obey()
            self.write("HCR_EL2", self._hcr())
            self.write("HPFAR_EL2", _NO_FAULT)
            self._taken = None
            start(self.uc, self._state.where(self.uc) if begin is None else begin, until)
            begin = None
            if self._taken is None:
                return None
            self.traps += 1
            call = self._handle(self._taken)
            if self.vcpu:
                record = self.vcpu.return_to_guest()
                if record and self.on_flush:
                    self.on_flush(record)
            if call:
                return call
        raise GuestError(f"{max_traps} traps without a call, the last at {self.pc:#x}")

    def detach(self) -> None:
        """Stage 2 is off, and the tables and hooks are gone from the Uc."""
        for hook in self._hooks:
            self.uc.hook_del(hook)
        self._hooks.clear()
        self._map_tables(self.p2m.tables[:0])
        self.write("HCR_EL2", 0)
        self.flush_tlb()

    def _hcr(self) -> int:
        hcr = HCR_VM | HCR_RW
        if self.vcpu:
            hcr |= HCR_TSW | (HCR_TVM if self.vcpu.traps_vm_registers else 0)
        return hcr | (HCR_TID2 if self.cache else 0)

    def _obey(self) -> None:
        """What a hypervisor does before a guest goes on: new table frames are there, and the TLB
        is invalidated if, and only if, the P2M has asked for it."""
        tables = self.p2m.tables
        if len(tables) != len(self._tables):
            self._map_tables(tables)
        if self._generation.moved():
            self.tlb_flushes += 1
            self.flush_tlb()

    def _map_tables(self, tables: npt.NDArray[np.uint64]) -> None:
        """All the frames in use so far, zero-copy."""
        base = self.p2m.table_base_mfn * PAGE_SIZE
        if self._tables.size:
            self.uc.mem_unmap(base, self._tables.nbytes)
        if tables.size:
            self.uc.mem_map_ptr(base, tables.nbytes, unicorn.UC_PROT_READ, tables.ctypes.data)
        self._tables = tables

    def _on_interrupt(self, uc: Uc, number: int, _: object) -> None:
        # Here and not after the run, whose end leaves a syndrome of its own.
        uc.context_update(self._context)
        self._hpfar = self.read("HPFAR_EL2")
        self._taken = number
        uc.emu_stop()

    def _on_invalid(self, uc: Uc, _: object) -> bool:
        self._on_interrupt(uc, 1, None)
        return True

    # ---- What is taken to EL2 ----

    def _handle(self, number: int) -> Call | None:
        esr = syndrome.word(self._context, self._place.esr, 4)
        far = syndrome.word(self._context, self._place.far, 8)
        ec = esr >> 26
        if ec in _EC_CALLS:
            arguments = tuple(self.register(i) for i in range(4))
            if number == _SECURE_CALL:
                self._skip(esr)
            return Call(_EC_CALLS[ec], esr & 0xFFFF, arguments)
        # An abort of stage 1, at EL0, has the same class as one of stage 2.
        if ec in _EC_ABORTS and self._hpfar != _NO_FAULT:
            if self.vcpu:
                self._abort(self.vcpu, esr, far)
            else:
                self._fault(esr, far)
        elif ec in _EC_TRAPS:
            self._trap(esr)
        elif not (self.on_exception and self.on_exception(GuestException(number, esr, far))):
            raise GuestError(f"exception {number} at {self.pc:#x}, syndrome {esr:#x}")
        return None

    def _abort(self, vcpu: VCpu, esr: int, far: int) -> None:
        self._wide = bool(esr & _ESR_SF)
        result = vcpu.abort(esr, far, self._hpfar)
        if result.outcome is Outcome.EMULATED:
            self._skip(esr)
        elif result.injected:
            self.inject(result.injected)
        elif result.outcome is Outcome.CRASHED:
            raise GuestError(f"the domain has crashed, its guest at {self.pc:#x}")

    def _fault(self, esr: int, far: int) -> None:
        """Without a domain: what is armed is resolved, the rest is the embedder's."""
        abort = decode(esr)
        assert isinstance(abort, Abort)
        ipa = fault_ipa(far, self._hpfar)
        in_space = not ipa >> self.p2m.ipa_bits
        if (
            abort.kind is FaultKind.TRANSLATION
            and in_space
            and self.p2m.resolve_translation_fault(ipa // PAGE_SIZE)
        ):
            return
        if abort.kind is None or abort.level is None:
            raise GuestError(f"abort at {self.pc:#x}, syndrome {esr:#x}")
        fault = Stage2Fault(ipa, abort.level, abort.kind, abort.access, abort.write)
        if not (self.on_fault and self.on_fault(fault)):
            raise fault

    def _trap(self, esr: int) -> None:
        trap = decode(esr)
        assert isinstance(trap, SysRegTrap)
        if self.vcpu and (trap.set_way or (trap.name is not None and not trap.read)):
            self._trap_to(self.vcpu, esr, trap)
        elif self.cache:
            self._cache_identification(self.cache, esr, trap)
            self._skip(esr)
        else:
            raise GuestError(f"trapped register at {self.pc:#x}, syndrome {esr:#x}")

    def _trap_to(self, vcpu: VCpu, esr: int, trap: SysRegTrap) -> None:
        value = self.register(trap.rt)
        if trap.rt2 is not None:
            value |= self.register(trap.rt2) << 32
        # It was written untrapped, perhaps, and tells whether the caches are on.
        vcpu.registers["SCTLR_EL1"] = self.read("SCTLR_EL1")
        vcpu.injected = None
        vcpu.trap(esr, value)
        if vcpu.injected:
            self.inject(vcpu.injected)
            return
        if trap.name is not None:
            self.uc.reg_write(self._state.cp_id, (*self._state.register_of(esr), value))
            # As the core does when it executes such a write itself: they change its stage 1.
            self.flush_tlb()
        self._skip(esr)

    def _cache_identification(self, cache: CacheGeometry, esr: int, trap: SysRegTrap) -> None:
        key = (esr >> 14 & 7, esr >> 10 & 0xF, esr >> 1 & 0xF, esr >> 17 & 7)
        if key == _CSSELR and not trap.read:
            self._selected = self.register(trap.rt)
            return
        if not trap.read:
            raise GuestError(f"trapped register at {self.pc:#x}, syndrome {esr:#x}")
        if key in _CTR:
            value = int(self.uc.reg_read(self._state.cp_id, self._state.register_of(esr)))
            value = value & ~_CTR_DMINLINE | (cache.line.bit_length() - 3) << 16
        else:
            known = {_CLIDR: _CLIDR_ONE_LEVEL, _CCSIDR: cache.ccsidr, _CSSELR: self._selected}
            if key not in known:
                raise GuestError(f"trapped register at {self.pc:#x}, syndrome {esr:#x}")
            value = known[key]
        self.set_register(trap.rt, value)

    def _skip(self, esr: int) -> None:
        where = self._state.where(self.uc) + (4 if esr & _ESR_IL else 2)
        self.uc.reg_write(self._state.pc_id, where)


def attach(
    uc: Uc,
    guest: Domain | P2M,
    vcpu: int = 0,
    *,
    cache: CacheGeometry | None = None,
    on_fault: Callable[[Stage2Fault], bool] | None = None,
    on_exception: Callable[[GuestException], bool] | None = None,
    on_flush: Callable[[FlushRecord], object] | None = None,
) -> Core:
    """Give the core ``uc`` (UC_ARCH_ARM64, or UC_ARCH_ARM for an AArch32 EL2) the stage 2 of a
    domain, as its vCPU of that number, or of a P2M alone. Drive it by :meth:`Core.run`.

    The Uc's model must have EL2 and an address size that suffices (UC_CPU_ARM64_MAX and
    UC_CPU_ARM_MAX do: 44 and 40 bits), and its memory must lie at machine addresses; the adapter
    maps the tables there, read-only, and maps them again as they grow. EL2 and EL3 registers are
    the adapter's. Each vCPU has a Uc of its own.

    Parameters
    ----------
    cache
        Shown to the guest as its only data cache, ``host.cache`` for one; None: the core's own are.
    on_fault
        Of a P2M: called with what is not resolved, a :class:`~p2mfast.Stage2Fault`; True: try the
        access again. Of a domain its ``VCpu`` decides.
    on_exception
        Called for the guest's own exceptions, which Unicorn does not take to its vectors (SVC,
        undefined instructions, faults of stage 1); returns whether it has dealt with one, by
        :meth:`Core.inject` for example.
    on_flush
        Called with each flush, before the guest goes on.

    Raises TypeError or ValueError naming the argument, IndexError for a vCPU that is not there,
    RuntimeError where this Unicorn does not show what is needed, UcError.
    """
    state = state_of(uc)
    if isinstance(guest, Domain):
        p2m, owner = guest.p2m, guest.vcpus[vcpu]
        bits = 64 if state is STATES[unicorn.UC_ARCH_ARM64] else 32
        if guest.bits != bits:
            raise ValueError(f"guest must be of {bits} bits as uc is, not {guest.bits}")
    elif isinstance(guest, P2M):
        p2m, owner = guest, None
    else:
        raise TypeError(f"guest must be a Domain or a P2M, not {guest!r}")
    core = Core(uc, p2m, owner)
    core.cache, core.on_fault = cache, on_fault
    core.on_exception, core.on_flush = on_exception, on_flush
    return core
