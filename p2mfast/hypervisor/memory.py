"""What a domain's guest-physical space holds: RAM, MMIO, other domains' pages."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from p2mfast._engine import P2M
from p2mfast.errors import DomainStateError, OutOfRange
from p2mfast.hypervisor.aborts import MmioHandler
from p2mfast.hypervisor.events import DomainEvent, EventLog
from p2mfast.hypervisor.flushing import Flusher, Runs, cut, pages_of
from p2mfast.hypervisor.frames import Extent, FrameTable
from p2mfast.types import RUN_DTYPE, EventKind, P2MType
from p2mfast.units import PAGE_SIZE, format_size

_GRANT_TYPES = (P2MType.GRANT_MAP_RW, P2MType.GRANT_MAP_RO)

Bank = tuple[int, int]
"""Guest RAM: first GFN, number of pages."""

# Guest RAM banks (xen/include/public/arch-arm.h): 3 GiB from 1 GiB up, the rest from 8 GiB up.
_BANKS: tuple[Bank, ...] = ((0x4_0000, 0xC_0000), (0x20_0000, 0xFE0_0000))

MmioKind = Literal["device", "non-cacheable", "cacheable"]
_MMIO_TYPES = {
    "device": P2MType.MMIO_DIRECT_DEV,
    "non-cacheable": P2MType.MMIO_DIRECT_NC,
    "cacheable": P2MType.MMIO_DIRECT_C,
}


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


class OtherDomain(Protocol):
    """What mapping another domain's pages needs of it."""

    id: int

    @property
    def dying(self) -> bool:
        """Whether its destruction has begun."""

    @property
    def p2m(self) -> P2M:
        """Its stage-2 tables."""


class GuestMemory:
    """The mappings of one domain, and the machine frames behind them.

    References: a domain owns its RAM; a foreign or granted page is held once for each mapping, and
    given up when the mapping goes: a foreign one's however that comes about (Xen:
    p2m_put_foreign_page), a granted one's when the grant is unmapped.

    Attributes
    ----------
    dying : bool
        Nothing can be mapped any more.
    tlb_invalidations : int
        Of the P2M, up to the last :meth:`settle`.
    """

    def __init__(
        self,
        p2m: P2M,
        frames: FrameTable,
        owner: int,
        *,
        flusher: Flusher,
        log: EventLog,
        page_order: int,
    ) -> None:
        self._p2m = p2m
        self._frames = frames
        self._owner = owner
        self._flusher = flusher
        self._log = log
        self.page_order = page_order
        self.dying = False
        self.tlb_invalidations = 0
        self._grants: dict[int, tuple[int, list[Extent]]] = {}  # by first GFN: pages, frames
        self._regions: list[tuple[int, int, MmioHandler]] = []  # first byte, end, ascending

    # ---- RAM ----

    def populate(self, gfn: int, nr: int, armed: bool) -> None:
        """RAM at [gfn, gfn + nr), of frames that become this domain's own."""
        check_bank((gfn, nr), "populate")
        self._check_free(gfn, nr)
        extents = self._frames.allocate(nr, self.page_order, self._owner)
        self._map_ram(gfn, extents, armed)
        self._log.add(DomainEvent.POPULATED, gfn=gfn, nr=nr)

    def populate_direct(self, nr: int, armed: bool) -> None:
        """RAM whose guest frames have the numbers of its machine frames, as dom0's has."""
        extents = self._frames.allocate(nr, self.page_order, self._owner)
        try:
            for mfn, pages in extents:
                self._check_free(mfn, pages)
                self._map_ram(mfn, [(mfn, pages)], armed)
        except Exception:
            for mfn, pages in self._frames.extents_of(self._owner):
                self._p2m.set_entry(mfn, pages, None)
                self._frames.release([(mfn, pages)])
            raise

    def _map_ram(self, gfn: int, extents: Sequence[Extent], armed: bool) -> None:
        at = gfn
        try:
            for mfn, pages in extents:
                self._p2m.set_entry(at, pages, mfn, armed=armed, max_order=self.page_order)
                at += pages
        except Exception:
            if at > gfn:
                self._p2m.set_entry(gfn, at - gfn, None)
            self._frames.release(extents)
            raise

    def _check_free(self, gfn: int, nr: int) -> None:
        if self.dying:
            raise DomainStateError(f"domain {self._owner} is dying: nothing can be mapped")
        mapped = self._p2m.mapped_runs()
        for run in mapped[(mapped["gfn"] < gfn + nr) & (mapped["gfn"] + mapped["nr"] > gfn)]:
            raise ValueError(
                f"gfn {gfn:#x}: {nr:#x} pages overlap what is mapped from gfn {run['gfn']:#x} on"
            )

    # ---- Others' pages, devices ----

    def map_mmio(self, gfn: int, nr: int, mfn: int, kind: MmioKind) -> None:
        """A device's frames, which no domain owns."""
        check_bank((gfn, nr), "gfn")
        if kind not in _MMIO_TYPES:
            raise ValueError(f"kind must be one of {', '.join(_MMIO_TYPES)}, not {kind!r}")
        self._check_free(gfn, nr)
        self._p2m.set_entry(gfn, nr, mfn, type=_MMIO_TYPES[kind], max_order=self.page_order)
        self._log.add(DomainEvent.MAPPED, gfn=gfn, nr=nr, value=_MMIO_TYPES[kind])

    def map_of(self, gfn: int, nr: int, other: OtherDomain, other_gfn: int, type: P2MType) -> None:
        """Pages of another domain, held as long as they are mapped here; all of them or none."""
        check_bank((gfn, nr), "gfn")
        check_bank((other_gfn, nr), "other_gfn")
        for name, first, p2m in (("gfn", gfn, self._p2m), ("other_gfn", other_gfn, other.p2m)):
            if first + nr > 1 << (p2m.ipa_bits - 12):
                words = f"{name} {first:#x}: {nr:#x} pages reach beyond {p2m.ipa_bits} bits"
                raise OutOfRange(words, name, first)
        self._check_free(gfn, nr)
        if other.dying:
            raise DomainStateError(f"domain {other.id} is dying: its pages cannot be mapped")
        runs = _ram_of(other.p2m, other_gfn, nr)
        if pages_of(runs) < nr:
            raise ValueError(
                f"other_gfn {other_gfn:#x}: not all of {nr:#x} pages are RAM of domain {other.id}"
            )
        extents = [(int(run["mfn"]), int(run["nr"])) for run in runs]
        mfns = np.concatenate([np.arange(m, m + n, dtype=np.uint64) for m, n in extents])
        offsets = np.arange(nr, dtype=np.uint64)
        held = 0
        try:
            for mfn, pages in extents:
                self._frames.hold(mfn, pages)
                held += 1
            self._p2m.set_entries(offsets + np.uint64(gfn), mfns, type=type)
        except Exception:
            for mfn, pages in extents[:held]:
                self._frames.drop(mfn, pages)
            raise
        if type in _GRANT_TYPES:
            self._grants[gfn] = (nr, extents)
        self._log.add(DomainEvent.MAPPED, gfn=gfn, nr=nr, value=type)

    def unmap_grant(self, gfn: int) -> None:
        """The grant mapping made at ``gfn`` goes, and its references with it."""
        if gfn not in self._grants:
            raise ValueError(f"gfn {gfn:#x}: no grant mapping was made there")
        nr, _ = self._grants[gfn]
        self._p2m.set_entry(gfn, nr, None)
        self._drop_grant(gfn)

    def _drop_grant(self, gfn: int) -> None:
        _, extents = self._grants.pop(gfn)
        for mfn, pages in extents:
            self._drop(gfn, mfn, pages)

    def _drop(self, gfn: int, mfn: int, nr: int) -> None:
        self._frames.drop(mfn, nr)
        self._log.add(DomainEvent.REFERENCE_DROPPED, gfn=gfn, nr=nr, value=mfn)

    # ---- What goes ----

    def unmap(self, gfn: int, nr: int) -> None:
        """Remove what is mapped: touched pages are cleaned first, RAM goes back to the host,
        references on others' pages are given up."""
        check_bank((gfn, nr), "unmap")
        for grant, (pages, _) in self._grants.items():
            if grant < gfn + nr and gfn < grant + pages:
                raise ValueError(f"gfn {gfn:#x}: {nr:#x} pages overlap a grant at {grant:#x}")
        ram = _ram_of(self._p2m, gfn, nr)
        self._flusher.clean_before_change(gfn, nr)
        self._p2m.set_entry(gfn, nr, None)
        self._frames.release([(int(run["mfn"]), int(run["nr"])) for run in ram])
        self.settle()
        self._log.add(DomainEvent.UNMAPPED, gfn=gfn, nr=nr)

    def settle(self) -> None:
        """Give up the references of foreign mappings that went, and count TLB invalidations."""
        events = self._p2m.drain_events()
        for event in events[events["kind"] == EventKind.MAPPING_REMOVED]:
            self._drop(int(event["gfn"]), int(event["mfn"]), int(event["nr"]))
        self.tlb_invalidations += int(np.count_nonzero(events["kind"] == EventKind.TLB_INVALIDATE))

    def give_up(self) -> None:
        """Everything has been unmapped: give the frames and the references back."""
        for gfn in list(self._grants):
            self._drop_grant(gfn)
        self.settle()
        self._frames.release(self._frames.extents_of(self._owner))

    # ---- Emulated regions ----

    def add_handler(self, gpa: int, size: int, handler: MmioHandler) -> None:
        """Byte addresses [gpa, gpa + size) are emulated by ``handler``. Raises ValueError where
        another region is."""
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or gpa < 0:
            raise ValueError(f"gpa {gpa!r}, size {size!r}: no region of bytes")
        if not callable(handler):
            raise TypeError(f"handler must be callable, not {handler!r}")
        for first, end, _ in self._regions:
            if first < gpa + size and gpa < end:
                raise ValueError(f"gpa {gpa:#x}: overlaps the region at {first:#x}")
        bisect.insort(self._regions, (gpa, gpa + size, handler), key=lambda region: region[0])

    def handler(self, gpa: int) -> MmioHandler | None:
        """Who emulates this byte address."""
        at = bisect.bisect_right(self._regions, gpa, key=lambda region: region[0]) - 1
        if at >= 0 and gpa < self._regions[at][1]:
            return self._regions[at][2]
        return None

    @property
    def has_handlers(self) -> bool:
        """Whether any address is emulated."""
        return bool(self._regions)


def _ram_of(p2m: P2M, gfn: int, nr: int) -> Runs:
    """The RAM mapped in [gfn, gfn + nr), ascending."""
    mapped = p2m.mapped_runs()
    ram = mapped[(mapped["type"] == P2MType.RAM_RW) | (mapped["type"] == P2MType.RAM_RO)]
    inside, _ = cut(ram[["gfn", "mfn", "nr"]].astype(RUN_DTYPE), gfn, nr)
    return inside
