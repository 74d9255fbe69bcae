"""A domain: its memory, its life from creation to destruction, and its cache flushes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from p2mfast._engine import P2M
from p2mfast.errors import DomainStateError
from p2mfast.hypervisor.policy import Policy
from p2mfast.hypervisor.vcpu import Cause, FlushRecord, VCpu
from p2mfast.units import PAGE_SIZE, format_size

Arch = Literal["arm", "x86"]
Skip = Literal["path", "leaf", "none"]
_SKIPS: dict[str, Skip] = {"all": "none", "leaf": "leaf", "path": "path"}

Bank = tuple[int, int]
"""Guest RAM: first GFN, number of pages."""

# Guest RAM banks (xen/include/public/arch-arm.h): 3 GiB from 1 GiB up, the rest from 8 GiB up.
_BANKS: tuple[Bank, ...] = ((0x4_0000, 0xC_0000), (0x20_0000, 0xFE0_0000))


@dataclass
class DomainStats:
    """What a domain did, counted since its creation.

    ``traps`` are stage-2 aborts that were resolved; trapped Set/Way operations and system
    registers are counted by themselves.
    """

    traps: int = 0
    faults_injected: int = 0
    set_way_traps: int = 0
    sysreg_traps: int = 0
    flushes: int = 0
    pages_cleaned: int = 0
    worst_flush_pages: int = 0
    preemptions: int = 0


class HostOfDomain(Protocol):
    """What a domain needs of the host it is handed."""

    def allocate_frames(self, nr: int, order: int) -> list[tuple[int, int]]:
        """Machine frames, as extents."""

    def return_frames(self, extents: Sequence[tuple[int, int]]) -> None:
        """Extents that nobody maps any more."""

    def release(self, domain: Domain) -> None:
        """A destroyed domain is gone."""


def xen_layout(pages: int) -> list[Bank]:
    """Where Xen puts the RAM of a guest of so many pages."""
    layout = []
    left = pages
    for first, room in _BANKS:
        nr = min(left, room)
        if nr:
            layout.append((first, nr))
        left -= nr
    if left:
        limit = format_size(sum(room for _, room in _BANKS) * PAGE_SIZE)
        raise ValueError(f"memory of {pages} pages does not fit Xen's guest banks of {limit}")
    return layout


def check_bank(bank: object, name: str) -> None:
    """Raise TypeError or ValueError, naming ``name``, unless it is (first GFN, pages)."""
    if not isinstance(bank, tuple | list) or len(bank) != 2:
        raise TypeError(f"{name}: a bank must be (first GFN, pages), not {bank!r}")
    if any(isinstance(part, bool) or not isinstance(part, int) for part in bank):
        raise TypeError(f"{name}: a bank must be of two integers, not {bank!r}")
    if bank[0] < 0 or bank[1] < 1:
        raise ValueError(f"{name}: a bank must have a GFN from 0 on and a page, not {bank!r}")


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

    Attributes
    ----------
    p2m : P2M
        Its stage-2 tables.
    vcpus : list of VCpu
    creation_finished : bool
        Whether it has been unpaused once.
    stats : DomainStats
    flushes : list of FlushRecord
        Every cache flush so far, in order.
    should_preempt : callable or None
        Asked (and expected to do what waits) after each ``policy.budget`` of a flush's or a
        destruction's work; it returns whether something had waited.
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
        self.page_order = page_order
        self.vcpus = [VCpu(self, index) for index in range(vcpus)]
        self.stats = DomainStats()
        self.flushes: list[FlushRecord] = []
        self.extents: list[tuple[int, int]] = []  # machine frames it owns: first, number
        self.creation_finished = False
        self.dying = False
        self.pause_count = 1
        self.should_preempt: Callable[[], bool] | None = None

    def __repr__(self) -> str:
        state = "dying" if self.dying else "paused" if self.pause_count else "running"
        pages = sum(nr for _, nr in self.extents)
        return (
            f"<Domain {self.id}: {state}, {self.bits}-bit, {len(self.vcpus)} vCPUs,"
            f" {format_size(pages * PAGE_SIZE)}, policy {self.policy}>"
        )

    # ---- Life ----

    def unpause(self) -> None:
        """Drop one pause; the first time that none is left finishes the creation, and runs the
        architecture's hook once (Xen's domain_unpause_by_systemcontroller)."""
        self._check_alive()
        if self.pause_count == 0:
            raise DomainStateError(f"domain {self.id} is not paused")
        self.pause_count -= 1
        if self.pause_count == 0 and not self.creation_finished:
            self.creation_finished = True
            _CREATION_FINISHED[self.arch](self)

    def pause(self) -> None:
        """Pause it once more."""
        self._check_alive()
        self.pause_count += 1

    def soft_reset(self) -> None:
        """Back to the state of a guest that has not run, its memory kept: every vCPU is reset."""
        self._check_alive()
        for vcpu in self.vcpus:
            vcpu.reset()

    def destroy(self) -> None:
        """Remove every mapping and give the machine frames and the VMID back."""
        self._check_alive()
        self.dying = True
        budget = self.policy.budget if self.should_preempt else None
        while not self.p2m.relinquish(budget):
            self._preemption_point()
        self.host.return_frames(self.extents)
        self.extents = []
        self.host.release(self)

    def _check_alive(self) -> None:
        if self.dying:
            raise DomainStateError(f"domain {self.id} is dying")

    # ---- Memory ----

    def populate(self, gfn: int, nr: int) -> None:
        """Give it ``nr`` pages of RAM from ``gfn`` on, in mappings of ``page_order`` at the most.

        Raises OutOfFrames, OutOfTables, OutOfRange, and ValueError where something is mapped
        already; nothing is mapped then.
        """
        self._check_alive()
        check_bank((gfn, nr), "populate")
        self._check_unmapped(gfn, nr)
        extents = self.host.allocate_frames(nr, self.page_order)
        armed = self.policy.arms_at(self.bits) == "map"
        at = gfn
        try:
            for mfn, pages in extents:
                self.p2m.set_entry(at, pages, mfn, armed=armed, max_order=self.page_order)
                at += pages
        except Exception:
            if at > gfn:
                self.p2m.set_entry(gfn, at - gfn, None)
            self.host.return_frames(extents)
            raise
        self.extents += extents

    def _check_unmapped(self, gfn: int, nr: int) -> None:
        mapped = self.p2m.mapped_runs()
        for run in mapped[(mapped["gfn"] < gfn + nr) & (mapped["gfn"] + mapped["nr"] > gfn)]:
            raise ValueError(
                f"gfn {gfn:#x}: {nr:#x} pages overlap what is mapped from gfn {run['gfn']:#x} on"
            )

    def populate_layout(self, layout: Sequence[Bank]) -> None:
        """Each bank of guest RAM in turn."""
        for gfn, nr in layout:
            self.populate(gfn, nr)

    # ---- Flushes ----

    @property
    def is_tracked(self) -> bool:
        """Whether a flush leaves the tables armed."""
        return self.policy.arms_at(self.bits) != "never"

    def flush(self, vcpu: int, cause: Cause) -> FlushRecord:
        """Clean what the policy says and arm (Xen's p2m_flush_vm), for a vCPU that returns to its
        guest."""
        if self.policy.flush == "harvest" and self.is_tracked:
            runs = self.p2m.harvest().runs
        else:
            runs = self._collect()
            if self.is_tracked:
                self.p2m.invalidate_root()
        record = FlushRecord(vcpu, cause, int(runs["nr"].sum()), runs)
        self.flushes.append(record)
        self.stats.flushes += 1
        self.stats.pages_cleaned += record.pages
        self.stats.worst_flush_pages = max(self.stats.worst_flush_pages, record.pages)
        return record

    def _collect(self) -> np.ndarray:
        """The runs to clean. An untracked domain's harvest is what is reachable: there is nothing
        to arm. With a ``should_preempt``, other work gets its turn after each budget."""
        skip: Skip = "path" if self.policy.flush == "harvest" else _SKIPS[self.policy.flush]
        end = 1 << (self.p2m.ipa_bits - 12)
        budget = self.policy.budget if self.should_preempt else None
        parts = []
        at, done = 0, False
        while not done:
            part = self.p2m.cache_flush_range(at, end, skip, budget)
            at, done = part.next_gfn, part.done
            parts.append(part.runs)
            self._preemption_point()
        return np.concatenate(parts)

    def _preemption_point(self) -> None:
        if self.should_preempt and self.should_preempt():
            self.stats.preemptions += 1

    # ---- What the vCPUs report ----

    def count_accesses(self, traps: int, faults: int) -> None:
        """Guest accesses took so many resolved traps and injected so many faults."""
        self.stats.traps += traps
        self.stats.faults_injected += faults

    def count_set_way(self) -> None:
        """A Set/Way operation was trapped."""
        self.stats.set_way_traps += 1

    def count_sysreg_trap(self) -> None:
        """A VM register write was trapped."""
        self.stats.sysreg_traps += 1
