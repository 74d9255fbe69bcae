"""A domain: its life from creation to destruction, and what it shows of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from p2mfast._engine import P2M
from p2mfast.errors import DomainStateError, P2MError
from p2mfast.hypervisor.aborts import AbortResult, MmioHandler, Outcome
from p2mfast.hypervisor.events import DomainEvent, EventLog
from p2mfast.hypervisor.flushing import Cause, Flusher, FlushRecord, Runs
from p2mfast.hypervisor.frames import Extent, FrameTable
from p2mfast.hypervisor.mem_access import MemAccessMonitor
from p2mfast.hypervisor.memory import Bank, GuestMemory, MmioKind
from p2mfast.hypervisor.policy import Policy
from p2mfast.hypervisor.syndrome import Abort
from p2mfast.hypervisor.vcpu import VCpu
from p2mfast.types import FaultKind, P2MType
from p2mfast.units import PAGE_SIZE, format_size

logger = logging.getLogger(__name__)

Arch = Literal["arm", "x86"]


@dataclass
class DomainStats:
    """What a domain did, counted since its creation.

    ``traps`` are stage-2 aborts that were resolved, ``trap_levels`` the same by the level 0 to 3
    of their walks; trapped Set/Way operations and system registers are counted by themselves.
    ``aborts`` counts those that were not simply resolved, by the name of their
    :class:`~p2mfast.FaultKind`, ``outcomes`` what became of them.
    ``tlb_flushes`` are invalidations, ``icache_pages`` pages of RAM whose instruction caches were
    cleaned for the domain to run; with ``Policy.defer`` what was put off while it was being built
    is in ``tlb_flushes_deferred`` and ``icache_pages_deferred``; one invalidation stands for it.
    """

    traps: int = 0
    trap_levels: tuple[int, ...] = (0, 0, 0, 0)
    aborts: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    faults_injected: int = 0
    set_way_traps: int = 0
    sysreg_traps: int = 0
    flushes: int = 0
    pages_cleaned: int = 0
    pages_cleaned_early: int = 0
    worst_flush_pages: int = 0
    preemptions: int = 0
    tlb_flushes: int = 0
    tlb_flushes_deferred: int = 0
    icache_pages: int = 0
    icache_pages_deferred: int = 0


class HostOfDomain(Protocol):
    """What a domain needs of the host it is handed."""

    @property
    def frames(self) -> FrameTable:
        """The machine's frames."""

    def release(self, domain: Domain) -> None:
        """A destroyed domain is gone."""


def _arm_creation_finished(domain: Domain) -> None:
    """Xen's arch_domain_creation_finished: track accesses from the guest's first instruction.
    Not where the IOMMU shares the tables: its faults could not be fixed up."""
    if domain.policy.arms_at(domain.bits) == "creation-finished":
        domain.p2m.invalidate_root()


def _x86_creation_finished(domain: Domain) -> None:
    """There is nothing to do."""


_CREATION_FINISHED: dict[str, Callable[[Domain], None]] = {
    "arm": _arm_creation_finished,
    "x86": _x86_creation_finished,
}


class Domain:
    """A guest under a :class:`Host`; made by :meth:`Host.create_domain`, paused.

    A context manager: it is destroyed at the end. One thread builds, pauses and destroys it; its
    vCPUs may be driven by a thread each.

    Attributes
    ----------
    p2m : P2M
        Its stage-2 tables.
    vcpus : list of VCpu
    creation_finished : bool
        Whether it has been unpaused once.
    dying : bool
        Its destruction has begun.
    crashed : str or None
        Why it was stopped for good.
    stats : DomainStats
    flushes : list of FlushRecord
        Every cache flush so far, in order.
    mem_access : MemAccessMonitor
        Who is told when the guest violates a page's access.
    """

    def __init__(
        self,
        host: HostOfDomain,
        domain_id: int,
        p2m: P2M,
        *,
        vcpus: int,
        bits: int,
        policy: Policy,
        arch: Arch,
        page_order: int,
    ) -> None:
        self.host = host
        self.id = domain_id
        self.p2m = p2m
        self.bits = bits
        self.policy = policy
        self.arch = arch
        self.vcpus = [VCpu(self, index) for index in range(vcpus)]
        self.flushes: list[FlushRecord] = []
        self.mem_access = MemAccessMonitor(p2m)
        self.creation_finished = False
        self.crashed: str | None = None
        self.pause_count = 1
        self._destroyed = False
        self._relinquishing = False  # by a call that is under way
        self._stats = DomainStats()
        self._tlb_flushes_saved = 0
        self._counting = threading.Lock()
        self._log = EventLog()
        self._flusher = Flusher(p2m, policy, self.is_tracked)
        self._memory = GuestMemory(
            p2m,
            host.frames,
            domain_id,
            flusher=self._flusher,
            log=self._log,
            page_order=page_order,
        )

    def __repr__(self) -> str:
        pages = sum(nr for _, nr in self.extents)
        return (
            f"<Domain {self.id}: {self.state}, {self.bits}-bit, {len(self.vcpus)} vCPUs,"
            f" {format_size(pages * PAGE_SIZE)}, policy {self.policy}>"
        )

    def __enter__(self) -> Domain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.state != "destroyed":
            self._relinquish(None)

    @property
    def state(self) -> str:
        """One of "running", "paused", "crashed", "dying" and "destroyed"."""
        if self.dying:
            return "destroyed" if self._destroyed else "dying"
        if self.crashed:
            return "crashed"
        return "paused" if self.pause_count else "running"

    @property
    def dying(self) -> bool:
        """Whether its destruction has begun."""
        return self._memory.dying

    # ---- Life ----

    def unpause(self) -> None:
        """Drop one pause; the first time that none is left finishes the creation, and runs the
        architecture's hook once (Xen's domain_unpause_by_systemcontroller)."""
        self._check_alive()
        if self.pause_count == 0:
            raise DomainStateError(f"domain {self.id} is not paused")
        self.pause_count -= 1
        self._log.add(DomainEvent.UNPAUSED)
        if self.pause_count == 0 and not self.creation_finished:
            self._finish_creation()

    def _finish_creation(self) -> None:
        self._memory.settle()
        pages = sum(nr for _, nr in self.extents)
        if self.policy.defer:
            # One invalidation of everything, and one of the instruction caches, stand for all.
            self._stats.tlb_flushes_deferred = self._memory.tlb_invalidations
            self._stats.icache_pages_deferred = pages
            self._tlb_flushes_saved = self._memory.tlb_invalidations - 1
        else:
            self._stats.icache_pages = pages
        self.creation_finished = True
        _CREATION_FINISHED[self.arch](self)
        logger.info("domain %d: creation finished, policy %s", self.id, self.policy)
        self._log.add(DomainEvent.CREATION_FINISHED)

    def pause(self) -> None:
        """Pause it once more."""
        self._check_alive()
        self.pause_count += 1
        self._log.add(DomainEvent.PAUSED)

    def soft_reset(self) -> None:
        """Back to the state of a guest that has not run, its memory kept: every vCPU is reset."""
        self._check_alive()
        for vcpu in self.vcpus:
            vcpu.reset()

    def crash(self, reason: str) -> None:
        """Stop it for good (Xen's domain_crash); it can only be destroyed."""
        self.crashed = reason
        self.pause_count += 1
        logger.warning("domain %d crashed: %s", self.id, reason)
        self._log.add(DomainEvent.CRASHED)

    def destroy(self, budget: int | None = None) -> bool:
        """Remove every mapping, give frames, references, tables and VMID back; whether it is done.

        With a ``budget`` (entries and holes to pass) it stops when that is used up, dying, and is
        called again to go on (Xen's domain_kill and domain_relinquish_resources); without, work
        that ``should_preempt`` lets in comes between. Raises DomainStateError once it is done,
        TypeError or ValueError for a ``budget`` that is none.
        """
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
            raise TypeError(f"budget must be an integer or None, not {budget!r}")
        if budget is not None and not 0 <= budget < 2**64:
            raise ValueError(f"budget must be from 0 to 2**64 - 1, not {budget!r}")
        if self._destroyed:
            raise DomainStateError(f"domain {self.id} is dying: it is destroyed already")
        return self._relinquish(budget)

    def _relinquish(self, budget: int | None) -> bool:
        if self._relinquishing:
            raise DomainStateError(f"domain {self.id} is being destroyed already")
        self._relinquishing = True
        try:
            if not self.dying:
                self._memory.dying = True
                self._flusher.clean_before_change(0, 1 << (self.p2m.ipa_bits - 12))
            done = False
            while not done:
                step = self.policy.budget if budget is None and self.should_preempt else budget
                done = self.p2m.relinquish(step)
                if budget is not None and not done:
                    return False
                self._flusher.preemption_point()
        finally:
            self._relinquishing = False
        self._memory.give_up()
        self._destroyed = True
        self._log.add(DomainEvent.DESTROYED)
        logger.info("domain %d: destroyed", self.id)
        self.host.release(self)
        return True

    def _check_alive(self) -> None:
        if self.dying:
            raise DomainStateError(f"domain {self.id} is dying")
        if self.crashed:
            raise DomainStateError(f"domain {self.id} has crashed: {self.crashed}")

    # ---- Memory ----

    @property
    def extents(self) -> list[Extent]:
        """Machine frames it owns: first, number; ascending."""
        return self.host.frames.extents_of(self.id)

    @property
    def page_order(self) -> int:
        """Order of the largest mapping of its RAM."""
        return self._memory.page_order

    @property
    def paging_mempool(self) -> int | None:
        """Pages for its tables, as Xen's p2m_set_allocation; None: as many as fit.

        It may be changed. Raises OutOfTables for fewer than are in use, and mappings that need more
        raise it then.
        """
        return self.p2m.max_tables

    @paging_mempool.setter
    def paging_mempool(self, pages: int | None) -> None:
        try:
            self.p2m.max_tables = pages
        except (P2MError, TypeError) as error:
            raise type(error)(str(error).replace("max_tables", "paging_mempool")) from None

    def populate(self, gfn: int, nr: int) -> None:
        """Give it ``nr`` pages of RAM from ``gfn`` on, in mappings of ``page_order`` at the most.

        Raises OutOfFrames, OutOfTables, OutOfRange, DomainStateError, and ValueError where
        something is mapped already; nothing is mapped then.
        """
        self._check_alive()
        self._memory.populate(gfn, nr, self.policy.arms_at(self.bits) == "map")

    def populate_layout(self, layout: Sequence[Bank]) -> None:
        """Each bank of guest RAM in turn."""
        for gfn, nr in layout:
            self.populate(gfn, nr)

    def populate_direct(self, nr: int) -> None:
        """RAM whose guest frames have the numbers of its machine frames, as dom0's has."""
        self._check_alive()
        self._memory.populate_direct(nr, self.policy.arms_at(self.bits) == "map")

    def map_mmio(self, gfn: int, nr: int, mfn: int, kind: MmioKind = "device") -> None:
        """Let it use a device's frames (Xen's map_mmio_regions): "device", "non-cacheable" or
        "cacheable". Raises as :meth:`populate`."""
        self._check_alive()
        self._memory.map_mmio(gfn, nr, mfn, kind)

    def map_foreign(
        self, gfn: int, nr: int, other: Domain, other_gfn: int, writable: bool = True
    ) -> None:
        """Map RAM of another domain, and hold it while it is mapped (Xen's
        xenmem_add_to_physmap_one, XENMAPSPACE_gmfn_foreign). Raises as :meth:`populate`, and
        ValueError where the other domain has no RAM, or is this one."""
        self._check_alive()
        if other is self:
            raise ValueError(f"other must be another domain than {self.id}")
        kind = P2MType.MAP_FOREIGN_RW if writable else P2MType.MAP_FOREIGN_RO
        self._memory.map_of(gfn, nr, other, other_gfn, kind)

    def map_grant(
        self, gfn: int, nr: int, other: Domain, other_gfn: int, writable: bool = True
    ) -> None:
        """The same by a grant, until :meth:`unmap_grant` (Xen's create_grant_host_mapping)."""
        self._check_alive()
        kind = P2MType.GRANT_MAP_RW if writable else P2MType.GRANT_MAP_RO
        self._memory.map_of(gfn, nr, other, other_gfn, kind)

    def unmap_grant(self, gfn: int) -> None:
        """The grant mapping made at ``gfn`` goes. Raises ValueError where none was made."""
        self._check_alive()
        self._memory.unmap_grant(gfn)

    def unmap(self, gfn: int, nr: int) -> None:
        """Remove what is mapped of ``nr`` pages: what was touched is cleaned first, RAM goes back
        to the host, foreign pages are given up. Raises OutOfRange, and ValueError for granted ones.
        """
        self._check_alive()
        self._memory.unmap(gfn, nr)

    def emulate(self, gpa: int, size: int, handler: MmioHandler) -> None:
        """Have ``handler`` called for accesses to byte addresses [gpa, gpa + size) that are not
        mapped. Raises TypeError, and ValueError where another handler is."""
        self._check_alive()
        self._memory.add_handler(gpa, size, handler)

    # ---- Flushes ----

    @property
    def is_tracked(self) -> bool:
        """Whether a flush leaves the tables armed."""
        return self.policy.arms_at(self.bits) != "never"

    @property
    def should_preempt(self) -> Callable[[], bool] | None:
        """Asked (and expected to do what waits) after each ``policy.budget`` of a flush's or a
        destruction's work; it returns whether something had waited."""
        return self._flusher.should_preempt

    @should_preempt.setter
    def should_preempt(self, asked: Callable[[], bool] | None) -> None:
        self._flusher.should_preempt = asked

    @property
    def clean(self) -> Callable[[Runs], object] | None:
        """Given each piece of a flush (runs of pages) as it is cleaned."""
        return self._flusher.clean

    @clean.setter
    def clean(self, cleaner: Callable[[Runs], object] | None) -> None:
        self._flusher.clean = cleaner

    @property
    def pending_pages(self) -> int:
        """Collected by a flush and not yet clean."""
        return self._flusher.pending_pages

    def flush(self, vcpu: int, cause: Cause) -> FlushRecord:
        """Clean what the policy says and arm (Xen's p2m_flush_vm), for a vCPU that returns to its
        guest."""
        record = self._flusher.flush(vcpu, cause)
        with self._counting:
            self.flushes.append(record)
            self._stats.flushes += 1
            self._stats.pages_cleaned += record.pages
            self._stats.worst_flush_pages = max(self._stats.worst_flush_pages, record.pages)
        self._log.add(DomainEvent.FLUSH, nr=record.pages, vcpu=vcpu)
        logger.debug("domain %d, vCPU %d: %s, %d pages cleaned", self.id, vcpu, cause, record.pages)
        return record

    # ---- Sight ----

    @property
    def stats(self) -> DomainStats:
        """A snapshot of its counters."""
        with self._counting:
            self._memory.settle()
            self._stats.tlb_flushes = self._memory.tlb_invalidations - self._tlb_flushes_saved
            self._stats.trap_levels = self.p2m.stats.resolved_levels
            self._stats.preemptions = self._flusher.preemptions
            self._stats.pages_cleaned_early = self._flusher.pages_cleaned_early
            copy = DomainStats(**vars(self._stats))
            copy.aborts, copy.outcomes = dict(copy.aborts), dict(copy.outcomes)
            return copy

    def events(self) -> npt.NDArray[np.void]:
        """What happened to it, oldest first: a structured array
        (:data:`~p2mfast.hypervisor.events.DOMAIN_EVENT_DTYPE`); the last 65,536 are kept."""
        return self._log.array()

    def dump_p2m_info(self) -> str:
        """Its mappings by size, as Xen's p2m_dump_info prints them."""
        stats = self.p2m.stats
        return (
            f"p2m mappings for domain {self.id} (vmid {self.p2m.vmid}):\n"
            f"  1G mappings: {stats.mappings[1]} (shattered {stats.shattered[1]})\n"
            f"  2M mappings: {stats.mappings[2]} (shattered {stats.shattered[2]})\n"
            f"  4K mappings: {stats.mappings[3]}"
        )

    # ---- What the vCPUs ask and report ----

    def mmio_handler(self, gpa: int) -> MmioHandler | None:
        """Who emulates this byte address."""
        return self._memory.handler(gpa)

    def emulates(self) -> bool:
        """Whether a fault may come to more than a resolved page or an exception."""
        return self._memory.has_handlers or self.p2m.mem_access_enabled

    def count_abort(self, vcpu: int, abort: Abort, gpa: int, result: AbortResult) -> None:
        """An abort was handled."""
        with self._counting:
            if result.outcome is Outcome.RESOLVED:
                self._stats.traps += 1
                return
            name = "OTHER" if abort.kind is None else FaultKind(abort.kind).name
            self._stats.aborts[name] = self._stats.aborts.get(name, 0) + 1
            what = result.outcome.value
            self._stats.outcomes[what] = self._stats.outcomes.get(what, 0) + 1
            self._stats.faults_injected += result.injected is not None
        gfn = gpa >> 12
        self._log.add(DomainEvent.ABORT, gfn=gfn, value=int(abort.kind or 0), vcpu=vcpu)
        if result.outcome is Outcome.EVENT:
            self._log.add(DomainEvent.MEM_ACCESS, gfn=gfn, vcpu=vcpu)
        if result.injected:
            self._log.add(DomainEvent.INJECTED, gfn=gfn, value=result.injected.esr, vcpu=vcpu)

    def count_accesses(self, vcpu: int, traps: int, faults: int) -> None:
        """Guest accesses took so many resolved traps and injected so many faults."""
        with self._counting:
            self._stats.traps += traps
            self._stats.faults_injected += faults

    def count_set_way(self, vcpu: int) -> None:
        """A Set/Way operation was trapped."""
        with self._counting:
            self._stats.set_way_traps += 1
        self._log.add(DomainEvent.SET_WAY, vcpu=vcpu)

    def count_sysreg_trap(self, vcpu: int) -> None:
        """A VM register write was trapped."""
        with self._counting:
            self._stats.sysreg_traps += 1
        self._log.add(DomainEvent.SYSREG_TRAP, vcpu=vcpu)
