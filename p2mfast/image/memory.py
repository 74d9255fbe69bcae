"""Physical memory as it lies in files: mapped, never read whole."""

from __future__ import annotations

import bisect
import mmap
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from p2mfast.arguments import integer
from p2mfast.errors import ImageError
from p2mfast.units import PAGE_SIZE

# Arm's physical addresses have no more bits, with any extension.
ADDRESS_LIMIT = 2**52
# Where a dump is in more pieces, pages are not put together any more: each is a copy.
_MOST_PIECES = 1 << 16
Bytes = npt.NDArray[np.uint8]


class Memory:
    """Pieces of a physical address space: pairs of (physical address, bytes or a contiguous
    one-dimensional uint8 array), which are not copied.

    They may come in any order. Where two overlap, what lies there is taken from the one that begins
    first: a dump may hold a page twice. A page that is put together from several is copied.

    Raises TypeError and ValueError for what is no such piece, ImageError for one beyond 52 bits of
    address.
    """

    def __init__(self, pieces: Iterable[tuple[int, Bytes | bytes]]) -> None:
        self.segments: list[tuple[int, Bytes]] = []
        checked = [_check(number, *piece) for number, piece in enumerate(pieces)]
        end = 0
        for pa, data in sorted(checked, key=lambda piece: piece[0]):
            seen = min(max(end - pa, 0), len(data))
            if seen < len(data):
                self.segments.append((pa + seen, data[seen:]))
                end = pa + len(data)
        self._join_pages()

    def _join_pages(self) -> None:
        """Pages that begin in one segment and end in the next become segments of their own."""
        joined: list[tuple[int, Bytes]] = []
        for pa, data in self.segments:
            start, begun = joined[-1] if joined else (0, data[:0])
            within = pa % PAGE_SIZE
            if not within or not joined or start + len(begun) != pa or len(joined) > _MOST_PIECES:
                joined.append((pa, data))
                continue
            head = min((start + len(begun)) % PAGE_SIZE, len(begun))
            tail = min(PAGE_SIZE - within, len(data))
            page = np.concatenate([begun[len(begun) - head :], data[:tail]])
            joined[-1:] = [
                piece
                for piece in (
                    (start, begun[: len(begun) - head]),
                    (pa - head, page),
                    (pa + tail, data[tail:]),
                )
                if len(piece[1])
            ]
        self.segments = joined

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


def _check(number: int, pa: int, data: Bytes | bytes) -> tuple[int, Bytes]:
    where = f"memory[{number}]"
    start = integer(f"{where}'s address", pa)
    if isinstance(data, bytes | bytearray | memoryview):
        data = np.frombuffer(data, np.uint8)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        kind = data.dtype if isinstance(data, np.ndarray) else type(data).__name__
        raise TypeError(f"{where} must be bytes or an array of uint8, not {kind}")
    if data.ndim != 1 or not data.flags.c_contiguous:
        raise ValueError(
            f"{where} must be one-dimensional and contiguous, not of shape {data.shape} and strides"
            f" {data.strides}"
        )
    if start + len(data) > ADDRESS_LIMIT:
        raise ImageError(
            f"{where}: {len(data):#x} bytes at {start:#x} are beyond 52 bits of address"
        )
    return start, data


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
