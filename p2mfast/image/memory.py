"""Physical memory as it lies in files: mapped, never read whole."""

from __future__ import annotations

import bisect
import mmap
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2mfast.errors import ImageError

ADDRESS_LIMIT = 2**64
Bytes = npt.NDArray[np.uint8]


class Memory:
    """Pieces of a physical address space: pairs of (physical address, contiguous uint8 array).

    They may come in any order. Where two overlap, what lies there is taken from the one that begins
    first: a dump may hold a page twice.

    Raises ImageError for a piece that goes beyond 64 bits of address.
    """

    def __init__(self, pieces: Iterable[tuple[int, Bytes]]) -> None:
        self.segments: list[tuple[int, Bytes]] = []
        end = 0
        for pa, data in sorted(pieces, key=lambda piece: piece[0]):
            if pa < 0 or pa + len(data) > ADDRESS_LIMIT:
                raise ImageError(f"memory of {len(data):#x} bytes at {pa:#x} is beyond 64 bits")
            seen = min(max(end - pa, 0), len(data))
            if seen < len(data):
                self.segments.append((pa + seen, data[seen:]))
                end = pa + len(data)

    def __len__(self) -> int:
        """Bytes in all."""
        return sum(len(data) for _, data in self.segments)

    def read(self, pa: int, size: int) -> Bytes:
        """The bytes at a physical address, without a copy; ImageError where they are not there."""
        index = bisect.bisect_right(self.segments, pa, key=lambda segment: segment[0]) - 1
        if index >= 0:
            start, data = self.segments[index]
            if pa + size <= start + len(data):
                return data[pa - start : pa - start + size]
        raise ImageError(f"{size:#x} bytes at {pa:#x} are not in the image")

    def describe(self) -> str:
        """Where it lies, in words."""
        if not self.segments:
            return "no memory at all"
        last, data = self.segments[-1]
        pieces = "" if len(self.segments) == 1 else f" in {len(self.segments)} pieces"
        return f"memory from {self.segments[0][0]:#x} to {last + len(data):#x}{pieces}"


def map_file(path: Path) -> Bytes:
    """A file's bytes, mapped.

    Raises ImageError for what is no file with something in it, OSError for one that cannot be
    opened. A file that is made shorter while it is mapped ends the process, as everywhere.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
        raise ImageError(f"{path} is not a regular file")
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise ImageError(f"{path} is empty") from None
    return np.frombuffer(mapped, np.uint8)
