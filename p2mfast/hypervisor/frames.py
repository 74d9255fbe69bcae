"""The machine's frames: who owns each, and who else holds it; by extents, never page by page."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from p2mfast.errors import OutOfFrames

Extent = tuple[int, int]
"""First frame, number of frames."""

_ORDERS = (18, 9, 0)


class _Spans:
    """Disjoint extents with a value each, ascending; neighbours with the same value are one."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._ends: list[int] = []
        self._values: list[int] = []

    def __len__(self) -> int:
        return len(self._firsts)

    def spans(self) -> list[tuple[int, int, int]]:
        """(first, end, value) of all."""
        return list(zip(self._firsts, self._ends, self._values, strict=True))

    def within(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """(first, end, value) of what lies in [first, end), cut to it."""
        found = []
        at = bisect.bisect_right(self._ends, first)
        while at < len(self._firsts) and self._firsts[at] < end:
            found.append((max(first, self._firsts[at]), min(end, self._ends[at]), self._values[at]))
            at += 1
        return found

    def gaps(self, first: int, end: int) -> list[tuple[int, int]]:
        """(first, end) of what of [first, end) is in no span."""
        found = []
        for start, stop, _ in [*self.within(first, end), (end, end, 0)]:
            if first < start:
                found.append((first, start))
            first = stop
        return found

    def gap(self, first: int, end: int) -> int | None:
        """Where the first of them begins."""
        gaps = self.gaps(first, end)
        return gaps[0][0] if gaps else None

    def remove(self, first: int, end: int) -> None:
        """Whatever lies in [first, end) goes."""
        low = bisect.bisect_right(self._ends, first)
        high = bisect.bisect_left(self._firsts, end)
        kept = []
        for at in range(low, high):
            if self._firsts[at] < first:
                kept.append((self._firsts[at], first, self._values[at]))
            if self._ends[at] > end:
                kept.append((end, self._ends[at], self._values[at]))
        self._replace(low, max(low, high), kept)

    def set(self, first: int, end: int, value: int) -> None:
        """[first, end) has this value now."""
        self.remove(first, end)
        at = bisect.bisect_left(self._firsts, first)
        low = high = at
        if at and self._ends[at - 1] == first and self._values[at - 1] == value:
            low, first = at - 1, self._firsts[at - 1]
        if at < len(self) and self._firsts[at] == end and self._values[at] == value:
            high, end = at + 1, self._ends[at]
        self._replace(low, high, [(first, end, value)])

    def _replace(self, low: int, high: int, spans: list[tuple[int, int, int]]) -> None:
        self._firsts[low:high] = [span[0] for span in spans]
        self._ends[low:high] = [span[1] for span in spans]
        self._values[low:high] = [span[2] for span in spans]


class FrameTable:
    """A machine's frames.

    A frame is free, or allocated: it has an owner, or others hold it, or both. Each holds it by a
    reference; without owner and references it is free again (Xen's page_info: count_info, owner).

    Attributes
    ----------
    free : int
        Number of free frames.
    held : int
        Number of references, each frame's counted.
    """

    def __init__(self, first: int, nr: int) -> None:
        if nr < 1:
            raise ValueError(f"nr must be at least 1, not {nr!r}")
        self._first, self._end = first, first + nr
        self._free = _Spans()
        self._owners = _Spans()
        self._by_owner: dict[int, _Spans] = {}
        self._references = _Spans()
        self.free = nr
        self.held = 0
        self._free.set(first, first + nr, 0)

    def free_extents(self) -> list[Extent]:
        """What is free, ascending."""
        return [(first, end - first) for first, end, _ in self._free.spans()]

    def _check(self, mfn: int, nr: int) -> None:
        if nr < 1:
            raise ValueError(f"nr must be at least 1, not {nr!r}")
        if mfn < self._first or mfn + nr > self._end:
            raise ValueError(f"frame {mfn:#x}: {nr:#x} frames are not all of this machine")

    # ---- Owners ----

    def allocate(self, nr: int, order: int, owner: int = 0) -> list[Extent]:
        """``nr`` frames for ``owner``: pieces of 2**order, aligned, while one can be had, then of
        the next smaller order (18, 9, 0) for the rest.

        Each piece comes from the smallest free extent that has one, so that the large ones stay
        whole. The largest pieces come first; one that follows the one before is joined to it.
        Raises OutOfFrames, ValueError; nothing is allocated then.
        """
        if order not in _ORDERS:
            raise ValueError(f"order must be 0, 9 or 18, not {order!r}")
        if nr < 1:
            raise ValueError(f"nr must be at least 1, not {nr!r}")
        if nr > self.free:
            raise OutOfFrames(f"{nr} frames are asked for, {self.free} frames are free")
        found: list[Extent] = []
        left = nr
        for piece in _ORDERS:
            if piece > order:
                continue
            taken = _Spans()
            while left >> piece and (fit := self._smallest(piece)):
                first, room = fit
                size = min(room, left >> piece << piece)
                self._free.remove(first, first + size)
                taken.set(first, first + size, owner)
                left -= size
            for first, end, _ in taken.spans():
                if found and sum(found[-1]) == first:
                    found[-1] = (found[-1][0], end - found[-1][0])
                else:
                    found.append((first, end - first))
        self.free -= nr
        for first, size in found:
            self._owners.set(first, first + size, owner)
            self._by_owner.setdefault(owner, _Spans()).set(first, first + size, owner)
        return found

    def _smallest(self, order: int) -> Extent | None:
        """The aligned pieces of the smallest free extent that has any, the lowest of several."""
        best: tuple[int, int, int] | None = None
        for first, end, _ in self._free.spans():
            start = -(-first >> order) << order
            room = (end - start) >> order << order
            if room > 0 and (best is None or end - first < best[0]):
                best = (end - first, start, room)
        return best and (best[1], best[2])

    def owner_of(self, mfn: int) -> int | None:
        """Who owns this frame."""
        found = self._owners.within(mfn, mfn + 1)
        return found[0][2] if found else None

    def extents_of(self, owner: int) -> list[Extent]:
        """What this owner owns, ascending."""
        spans = self._by_owner.get(owner)
        return [(first, end - first) for first, end, _ in spans.spans()] if spans else []

    def release(self, extents: Iterable[Extent]) -> None:
        """Their owners give these frames up; who still holds some keeps them from being free.

        Raises ValueError, with nothing changed, where a frame has no owner or is given twice.
        """
        extents = sorted(extents)
        before = self._first
        for first, nr in extents:
            self._check(first, nr)
            if first < before:
                raise ValueError(f"frame {first:#x}: it cannot be released twice")
            before = first + nr
            hole = self._owners.gap(first, first + nr)
            if hole is not None:
                raise ValueError(f"frame {hole:#x}: nobody owns it")
        for first, nr in extents:
            for start, end, owner in self._owners.within(first, first + nr):
                self._by_owner[owner].remove(start, end)
                if not len(self._by_owner[owner]):
                    del self._by_owner[owner]
            self._owners.remove(first, first + nr)
            self._free_outside(self._references, first, first + nr)

    def _free_outside(self, kept: _Spans, first: int, end: int) -> None:
        """[first, end) is free, but for what somebody keeps."""
        for start, stop in kept.gaps(first, end):
            self._free.set(start, stop, 0)
            self.free += stop - start

    # ---- References ----

    def references(self, mfn: int) -> int:
        """How many hold this frame besides its owner."""
        found = self._references.within(mfn, mfn + 1)
        return found[0][2] if found else 0

    def hold(self, mfn: int, nr: int) -> None:
        """One more reference on each of these frames. Raises ValueError, with nothing changed,
        where one has no owner."""
        self._check(mfn, nr)
        hole = self._owners.gap(mfn, mfn + nr)
        if hole is not None:
            raise ValueError(f"frame {hole:#x}: nobody owns it")
        held = self._references.within(mfn, mfn + nr)
        for first, end in self._references.gaps(mfn, mfn + nr):
            self._references.set(first, end, 1)
        for first, end, count in held:
            self._references.set(first, end, count + 1)
        self.held += nr

    def drop(self, mfn: int, nr: int) -> None:
        """One reference fewer on each; frames without an owner are free after the last. Raises
        ValueError, with nothing changed, where there is none."""
        self._check(mfn, nr)
        hole = self._references.gap(mfn, mfn + nr)
        if hole is not None:
            raise ValueError(f"frame {hole:#x}: nobody holds it")
        for first, end, count in self._references.within(mfn, mfn + nr):
            if count > 1:
                self._references.set(first, end, count - 1)
            else:
                self._references.remove(first, end)
                self._free_outside(self._owners, first, end)
        self.held -= nr
