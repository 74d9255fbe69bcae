"""The vocabulary: p2m types and accesses by Xen's numbers, and the records the engine returns."""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

INVALID_MFN = 2**64 - 1
"""No machine frame, in arrays (scalars use ``None``)."""

NO_ACCESS = 0xFF
"""``access`` of a hole, in arrays (scalars use ``None``)."""


class P2MType(enum.IntEnum):
    """What a guest frame is mapped to (Xen's ``p2m_type_t``, descriptor bits 58:55)."""

    INVALID = 0
    RAM_RW = 1
    RAM_RO = 2
    MMIO_DIRECT_DEV = 3
    MMIO_DIRECT_NC = 4
    MMIO_DIRECT_C = 5
    MAP_FOREIGN_RW = 6
    MAP_FOREIGN_RO = 7
    GRANT_MAP_RW = 8
    GRANT_MAP_RO = 9
    IOMMU_MAP_RW = 10
    IOMMU_MAP_RO = 11


class Access(enum.IntEnum):
    """What the guest may do on top of what the type allows (Xen's ``p2m_access_t``)."""

    N = 0
    R = 1
    W = 2
    RW = 3
    X = 4
    RX = 5
    WX = 6
    RWX = 7
    RX2RW = 8
    N2RWX = 9
    R_PW = 10


class FaultKind(enum.IntEnum):
    """Why the MMU refuses an access (Arm ARM DDI 0487, D8.15)."""

    NONE = 0
    TRANSLATION = 1
    PERMISSION = 2
    ACCESS_FLAG = 3
    ADDRESS_SIZE = 4
    EXTERNAL = 5


class EventKind(enum.IntEnum):
    """Kinds of :meth:`P2M.drain_events`."""

    TLB_INVALIDATE = 1
    MAPPING_REMOVED = 2


class Attributes(int):
    """Attribute bits of a leaf descriptor, its address left out (Arm ARM DDI 0487, D8.3)."""

    @property
    def memattr(self) -> int:
        """MemAttr, bits 5:2: 0xf Normal Write-Back, 0x5 Normal Non-cacheable, 0x1 Device-nGnRE."""
        return self >> 2 & 0xF

    @property
    def shareability(self) -> int:
        """SH, bits 9:8: 2 outer, 3 inner shareable."""
        return self >> 8 & 3

    @property
    def readable(self) -> bool:
        """S2AP[0], bit 6."""
        return bool(self >> 6 & 1)

    @property
    def writable(self) -> bool:
        """S2AP[1], bit 7."""
        return bool(self >> 7 & 1)

    @property
    def executable(self) -> bool:
        """XN, bit 54, is clear."""
        return not self >> 54 & 1

    def __repr__(self) -> str:
        rights = "".join(
            letter if granted else "-"
            for letter, granted in zip(
                "rwx", (self.readable, self.writable, self.executable), strict=True
            )
        )
        return (
            f"Attributes({int(self):#018x}: {rights} memattr={self.memattr:#x}"
            f" sh={self.shareability})"
        )


class Translation(NamedTuple):
    """The MMU's answer: the byte address, the level of the leaf, and its attributes."""

    pa: int
    level: int
    attrs: Attributes


class Flush(NamedTuple):
    """What a flush or a harvest found to be cleaned.

    ``runs`` has dtype :data:`RUN_DTYPE`, ascending; ``pages`` is the sum of its ``nr``. A flush
    that is not ``done`` goes on at ``next_gfn``.
    """

    pages: int
    next_gfn: int
    done: bool
    runs: np.ndarray


class Stats(NamedTuple):
    """Counters of a P2M.

    ``mappings`` (leaves that are there) and ``shattered`` (superpages split) by level 0 to 3;
    ``tables``, without the roots; ``tlb_flushes``, ``resolved`` faults and times ``armed`` since
    creation; ``free_tables``, recycled and waiting; ``reserved_bytes``, the memory taken for
    tables; ``resolved_levels``, the faults resolved by the level 0 to 3 that the walk ended at,
    without those that were stale.
    """

    mappings: tuple[int, int, int, int]
    shattered: tuple[int, int, int, int]
    tables: int
    tlb_flushes: int
    resolved: int
    armed: int
    free_tables: int
    reserved_bytes: int
    resolved_levels: tuple[int, int, int, int]


ENTRY_DTYPE = np.dtype(
    {
        "names": ["mfn", "type", "order", "valid", "reachable", "access"],
        "formats": ["<u8", "u1", "u1", "?", "?", "u1"],
        "offsets": [0, 8, 9, 10, 11, 12],
        "itemsize": 16,
    }
)
"""Rows of :meth:`P2M.get_entries`; ``INVALID_MFN`` and ``NO_ACCESS`` stand for ``None``."""

TRANSLATION_DTYPE = np.dtype(
    {
        "names": ["pa", "attrs", "level", "fault"],
        "formats": ["<u8", "<u8", "i1", "u1"],
        "offsets": [0, 8, 16, 17],
        "itemsize": 24,
    }
)
"""Rows of :meth:`P2M.translate_many`; ``fault`` is a :class:`FaultKind`, 0 where it succeeds."""

RUN_DTYPE = np.dtype([("gfn", "<u8"), ("mfn", "<u8"), ("nr", "<u8")])
"""A run of pages whose GFN and MFN go on together."""

MAPPED_RUN_DTYPE = np.dtype([("gfn", "<u8"), ("mfn", "<u8"), ("nr", "<u8"), ("type", "<u8")])
"""Rows of :meth:`P2M.mapped_runs`."""

WORD_DTYPE = np.dtype(
    {
        "names": ["level", "gfn", "raw"],
        "formats": ["i1", "<u8", "<u8"],
        "offsets": [16, 0, 8],
        "itemsize": 24,
    }
)
"""Rows of :meth:`P2M.entries`."""

EVENT_DTYPE = np.dtype(
    {
        "names": ["kind", "gfn", "nr", "mfn", "type"],
        "formats": ["<u4", "<u8", "<u8", "<u8", "<u4"],
        "offsets": [24, 0, 8, 16, 28],
        "itemsize": 32,
    }
)
"""Rows of :meth:`P2M.drain_events`."""

ACCESS_DTYPE = np.dtype([("traps", "u1"), ("fault", "u1")])
"""Rows of :meth:`P2M.access_many`: faults resolved for the access, and the one that is left."""

EXTENT_DTYPE = np.dtype(
    [
        ("gfn", "<u8"),
        ("mfn", "<u8"),
        ("nr", "<u8"),
        ("attrs", "<u8"),
        ("level", "i1"),
        ("valid", "?"),
        ("reachable", "?"),
    ],
    align=True,
)
"""Rows of :meth:`Image.extents`."""

RANGE_DTYPE = np.dtype(
    [
        ("gfn", "<u8"),
        ("mfn", "<u8"),
        ("nr", "<u8"),
        ("attrs", "<u8"),
        ("valid", "<u8"),
        ("reachable", "<u8"),
        ("by_level", "<u8", (4,)),
    ]
)
"""Rows of :meth:`Image.ranges`."""

TABLE_DTYPE = np.dtype(
    [
        ("pa", "<u8"),
        ("gfn", "<u8"),
        ("level", "i1"),
        ("valid", "?"),
        ("reachable", "?"),
    ],
    align=True,
)
"""Rows of :meth:`Image.tables`."""

FINDING_DTYPE = np.dtype(
    [
        ("gfn", "<u8"),
        ("value", "<u8"),
        ("table", "<u8"),
        ("index", "<u2"),
        ("kind", "u1"),
        ("level", "i1"),
    ],
    align=True,
)
"""Findings of a scan, as csrc/image.h has them."""

WALK_STEP_DTYPE = np.dtype(
    [
        ("table", "<u8"),
        ("descriptor", "<u8"),
        ("index", "<u2"),
        ("level", "i1"),
        ("inside", "?"),
    ],
    align=True,
)
"""Rows of a walk, as csrc/image.h has them."""


def type_of(attrs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The p2m types of descriptors, or of what is left of them without their addresses: bits
    58:55."""
    return attrs >> np.uint64(55) & np.uint64(0xF)
