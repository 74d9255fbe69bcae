"""What happened to a domain, in order, as a structured array."""

from __future__ import annotations

import enum
import threading
from collections import deque

import numpy as np
import numpy.typing as npt


class DomainEvent(enum.IntEnum):
    """The ``kind`` of a domain's event; what its other fields say."""

    CREATION_FINISHED = 1
    PAUSED = 2
    UNPAUSED = 3
    POPULATED = 4
    """RAM was mapped: ``gfn``, ``nr``."""
    UNMAPPED = 5
    """Mappings were removed: ``gfn``, ``nr``."""
    MAPPED = 6
    """MMIO, a foreign or a granted page: ``gfn``, ``nr``, ``value`` the p2m type."""
    REFERENCE_DROPPED = 7
    """A foreign or granted mapping went: ``gfn``, ``nr``, ``value`` the first MFN."""
    SET_WAY = 8
    SYSREG_TRAP = 9
    FLUSH = 10
    """``nr`` pages cleaned, ``vcpu`` who returned to its guest."""
    ABORT = 11
    """A stage-2 abort that was not simply resolved: ``gfn``, ``value`` the FaultKind."""
    INJECTED = 12
    """The guest got an exception: ``gfn``, ``value`` its ESR_EL1 or FSR."""
    MEM_ACCESS = 13
    """A violation was told to the listener: ``gfn``."""
    CRASHED = 14
    DESTROYED = 15


DOMAIN_EVENT_DTYPE = np.dtype(
    [
        ("seq", "<u8"),
        ("gfn", "<u8"),
        ("nr", "<u8"),
        ("value", "<u8"),
        ("vcpu", "<i4"),
        ("kind", "<u4"),
    ]
)
"""Rows of :meth:`Domain.events`; ``vcpu`` is -1 where none is concerned."""


class EventLog:
    """The last events of a domain. Any thread may add to it."""

    def __init__(self, most: int = 1 << 16) -> None:
        self._events: deque[tuple[int, int, int, int, int, int]] = deque(maxlen=most)
        self._seq = 0
        self._lock = threading.Lock()

    def add(
        self, kind: DomainEvent, *, gfn: int = 0, nr: int = 0, value: int = 0, vcpu: int = -1
    ) -> None:
        """One more; the oldest goes where there are too many."""
        with self._lock:
            self._events.append((self._seq, gfn, nr, value, vcpu, int(kind)))
            self._seq += 1

    def array(self) -> npt.NDArray[np.void]:
        """All that are kept, oldest first: :data:`DOMAIN_EVENT_DTYPE`. ``seq`` counts from the
        domain's creation, so a gap at the beginning is what was not kept."""
        with self._lock:
            return np.array(list(self._events), DOMAIN_EVENT_DTYPE)
