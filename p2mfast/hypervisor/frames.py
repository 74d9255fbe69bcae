"""Machine frames as free extents: first fit, aligned, a list operation an extent, never a page."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from p2mfast.errors import OutOfFrames

Extent = tuple[int, int]
"""First frame, number of frames."""


class FrameAllocator:
    """The free frames of a machine, ascending and never adjacent."""

    def __init__(self, first: int, nr: int) -> None:
        self._free: list[Extent] = [(first, nr)]

    @property
    def free(self) -> int:
        """Number of free frames."""
        return sum(nr for _, nr in self._free)

    def allocate(self, nr: int, order: int) -> list[Extent]:
        """``nr`` frames in extents that start at a multiple of 2**order wherever one can.

        Raises OutOfFrames; nothing is allocated then.
        """
        if nr > self.free:
            raise OutOfFrames(f"{nr} frames are asked for, {self.free} are free")
        extents: list[Extent] = []
        for alignment in (order, 0):
            for first, room in list(self._free):
                start = -(-first >> alignment << alignment)
                take = min(nr, first + room - start)
                if take <= 0:
                    continue
                self._cut(first, room, start, take)
                extents.append((start, take))
                nr -= take
                if not nr:
                    return extents
        raise AssertionError("free frames were counted wrong")

    def _cut(self, first: int, room: int, start: int, take: int) -> None:
        at = self._free.index((first, room))
        rest = [(first, start - first), (start + take, first + room - start - take)]
        self._free[at : at + 1] = [extent for extent in rest if extent[1]]

    def release(self, extents: Iterable[Extent]) -> None:
        """Take extents back, and join them to their neighbours."""
        for extent in extents:
            bisect.insort(self._free, extent)
        joined: list[Extent] = []
        for first, nr in self._free:
            if joined and sum(joined[-1]) == first:
                joined[-1] = (joined[-1][0], joined[-1][1] + nr)
            else:
                joined.append((first, nr))
        self._free = joined
