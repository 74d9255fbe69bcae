"""Stage-2 aborts: what a guest's fault comes to (Xen's do_trap_stage2_abort_guest,
xen/arch/arm/traps.c)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from p2mfast._engine import P2M
from p2mfast.hypervisor.mem_access import MemAccessMonitor, Verdict, Violation
from p2mfast.hypervisor.policy import Policy
from p2mfast.hypervisor.syndrome import Abort, Injected, Injection, decode, fault_ipa, inject
from p2mfast.types import Access, FaultKind


class Outcome(enum.Enum):
    """What became of a stage-2 abort."""

    RESOLVED = "resolved"
    """The page was armed, and is reachable now: try the access again."""
    RETRY = "retry"
    """A stale fault, which another vCPU has resolved, or a restriction that has gone: try again."""
    EMULATED = "emulated"
    """The handler of an MMIO region did the access: go on behind it."""
    EVENT = "event"
    """A mem_access listener was told: try again when it has answered."""
    INJECTED = "injected"
    """The guest gets an exception."""
    CRASHED = "crashed"
    """A mem_access violation without the listener it requires: the domain is crashed."""


class AbortResult(NamedTuple):
    """What became of a stage-2 abort, and the exception that the guest gets, if one."""

    outcome: Outcome
    injected: Injected | None = None


class MmioAccess(NamedTuple):
    """An access to a region that a handler emulates.

    ``size`` in bytes; ``register`` is the number of the guest's register that is stored or loaded
    (SRT), ``sign_extend`` whether what is loaded is extended with its sign.
    """

    vcpu: int
    gpa: int
    write: bool
    size: int
    register: int
    sign_extend: bool


MmioHandler = Callable[[MmioAccess], object]


class AbortDomain(Protocol):
    """What handling an abort needs of the domain."""

    policy: Policy
    bits: int
    mem_access: MemAccessMonitor

    @property
    def p2m(self) -> P2M:
        """Its stage-2 tables."""

    def mmio_handler(self, gpa: int) -> MmioHandler | None:
        """Who emulates this byte address."""

    def crash(self, reason: str) -> None:
        """Stop it for good."""


def handle_abort(
    domain: AbortDomain, vcpu: int, esr: int, far: int, hpfar: int
) -> tuple[Abort, int, AbortResult]:
    """The abort that ESR_EL2, FAR_EL2 and HPFAR_EL2 tell of, its byte address in the guest's
    physical space, and what became of it.

    Raises ValueError for a syndrome of another exception class, TypeError or ValueError naming the
    argument.
    """
    abort = decode(esr)
    if not isinstance(abort, Abort):
        raise ValueError(f"esr {esr:#x} is no abort from a lower level: {abort!r}")
    gpa = fault_ipa(far, hpfar)
    gla = None if abort.fnv or (domain.bits == 32 and far >> 32) else far
    if abort.kind is FaultKind.TRANSLATION:
        result = _translation_fault(domain, vcpu, abort, gpa)
    elif abort.kind is FaultKind.PERMISSION:
        result = _permission_fault(domain, vcpu, abort, gpa, gla)
    else:
        result = None
    if result is None:
        external = abort.kind is FaultKind.EXTERNAL
        kind: Injection = (
            "serror" if external else "instruction-abort" if abort.fetch else "data-abort"
        )
        injected = inject(kind, bits=domain.bits, far=None if external else gla)
        result = AbortResult(Outcome.INJECTED, injected)
    return abort, gpa, result


def _translation_fault(
    domain: AbortDomain, vcpu: int, abort: Abort, gpa: int
) -> AbortResult | None:
    """Resolve what is armed, then ask the region's handler; None: the guest gets it."""
    p2m, policy = domain.p2m, domain.policy
    ipa = np.array([gpa], np.uint64)
    if not gpa >> p2m.ipa_bits:
        if p2m.translate_many(ipa, abort.access)[0]["fault"] != FaultKind.TRANSLATION:
            return AbortResult(Outcome.RETRY)
        if p2m.resolve_translation_fault(gpa >> 12, policy.resolve, policy.fault_around):
            return AbortResult(Outcome.RESOLVED)
    handler = None if abort.fetch or abort.s1ptw else domain.mmio_handler(gpa)
    # Without a valid syndrome the instruction would have to be decoded: the guest gets the abort.
    if handler is None or not abort.isv or abort.size is None or abort.srt is None:
        return None
    handler(MmioAccess(vcpu, gpa, abort.write, abort.size, abort.srt, bool(abort.sse)))
    return AbortResult(Outcome.EMULATED)


def _permission_fault(
    domain: AbortDomain, vcpu: int, abort: Abort, gpa: int, gla: int | None
) -> AbortResult | None:
    """A restriction by mem_access, if it is one; None: the guest gets it."""
    ipa = np.array([gpa], np.uint64)
    if not domain.p2m.translate_many(ipa, abort.access)[0]["fault"]:
        return AbortResult(Outcome.RETRY)

    def violation(page_access: Access) -> Violation:
        return Violation(vcpu, gpa, gla, abort.access, page_access, abort.s1ptw)

    verdict = domain.mem_access.check(violation, gpa, abort.access)
    if verdict is Verdict.CRASH:
        domain.crash(f"mem_access violation at gpa {gpa:#x}, and no listener")
        return AbortResult(Outcome.CRASHED)
    outcomes = {Verdict.PROMOTED: Outcome.RETRY, Verdict.EVENT: Outcome.EVENT}
    return AbortResult(outcomes[verdict]) if verdict in outcomes else None
