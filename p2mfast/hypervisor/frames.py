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

    def extents(self) -> list[tuple[int, int, int]]:
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
        self._free = _Spans()
        self._owners = _Spans()
        self._by_owner: dict[int, _Spans] = {}
        self._references = _Spans()
        self.free = nr
        self.held = 0
        if nr:
            self._free.set(first, first + nr, 0)

    # ---- Owners ----

    def allocate(self, nr: int, order: int, owner: int) -> list[Extent]:
        """``nr`` frames for ``owner``, in parts aligned to 2**order and as large as can be had,
        then 2**9, then pages; ascending, neighbours joined.

        Each part comes from the free extent that it leaves least of, so that the large ones stay
        whole. Raises OutOfFrames, ValueError; nothing is allocated then.
        """
        if order not in _ORDERS:
            raise ValueError(f"order must be 0, 9 or 18, not {order!r}")
        if nr < 1:
            raise ValueError(f"nr must be at least 1, not {nr!r}")
        if nr > self.free:
            raise OutOfFrames(f"{nr} frames are asked for, {self.free} are free")
        taken = _Spans()
        left = nr
        for part in _ORDERS:
            while part <= order and left >> part:
                found = self._best_fit(left >> part << part, part)
                if found is None:
                    break
                first, end = found
                self._free.remove(first, end)
                taken.set(first, end, owner)
                left -= end - first
        self.free -= nr
        for first, end, _ in taken.extents():
            self._owners.set(first, end, owner)
            self._by_owner.setdefault(owner, _Spans()).set(first, end, owner)
        return [(first, end - first) for first, end, _ in taken.extents()]

    def _best_fit(self, wanted: int, order: int) -> Extent | None:
        """First and end of the aligned part to take next: all that is wanted out of the free extent
        that has the least room for it, or else the largest there is."""
        best: tuple[int, int, int] | None = None
        for first, end, _ in self._free.extents():
            start = -(-first >> order) << order
            room = (end - start) >> order << order
            if room <= 0:
                continue
            # Those that suffice come before those that do not; of the first the smallest extent,
            # of the others the one with the most room.
            suffices = room >= wanted
            rank = (0, end - first) if suffices else (1, -room)
            if best is None or rank < best[:2]:
                best = (*rank, start)
                size = min(room, wanted)
        return None if best is None else (best[2], best[2] + size)

    def owner_of(self, mfn: int) -> int | None:
        """Who owns this frame."""
        found = self._owners.within(mfn, mfn + 1)
        return found[0][2] if found else None

    def extents_of(self, owner: int) -> list[Extent]:
        """What this owner owns, ascending."""
        spans = self._by_owner.get(owner)
        return [(first, end - first) for first, end, _ in spans.extents()] if spans else []

    def release(self, extents: Iterable[Extent]) -> None:
        """Their owners give these frames up; who still holds some keeps them from being free.

        Raises ValueError, with nothing changed, where a frame has no owner.
        """
        extents = list(extents)
        for first, nr in extents:
            owned = sum(end - start for start, end, _ in self._owners.within(first, first + nr))
            if owned != nr:
                raise ValueError(f"frames {first:#x} + {nr:#x} are not all owned")
        for first, nr in extents:
            for start, end, owner in self._owners.within(first, first + nr):
                self._by_owner[owner].remove(start, end)
                if not len(self._by_owner[owner]):
                    del self._by_owner[owner]
            self._owners.remove(first, first + nr)
            self._free_unless_held(first, first + nr)

    def _free_unless_held(self, first: int, end: int) -> None:
        at = first
        for start, stop, _ in [*self._references.within(first, end), (end, end, 0)]:
            if at < start:
                self._free.set(at, start, 0)
                self.free += start - at
            at = stop

    # ---- References ----

    def references(self, mfn: int) -> int:
        """How many hold this frame besides its owner."""
        found = self._references.within(mfn, mfn + 1)
        return found[0][2] if found else 0

    def hold(self, mfn: int, nr: int) -> None:
        """One more reference on each of these frames. Raises ValueError, with nothing changed,
        where one has no owner."""
        owned = sum(end - start for start, end, _ in self._owners.within(mfn, mfn + nr))
        if owned != nr:
            raise ValueError(f"frames {mfn:#x} + {nr:#x} are not all owned: they cannot be held")
        at = mfn
        for first, end, count in [*self._references.within(mfn, mfn + nr), (mfn + nr, mfn + nr, 0)]:
            if at < first:
                self._references.set(at, first, 1)
            if first < end:
                self._references.set(first, end, count + 1)
            at = end
        self.held += nr

    def drop(self, mfn: int, nr: int) -> None:
        """One reference fewer on each; frames without an owner are free after the last. Raises
        ValueError, with nothing changed, where there is none."""
        spans = self._references.within(mfn, mfn + nr)
        if sum(end - first for first, end, _ in spans) != nr:
            raise ValueError(f"frames {mfn:#x} + {nr:#x} are not all held")
        for first, end, count in spans:
            if count > 1:
                self._references.set(first, end, count - 1)
                continue
            self._references.remove(first, end)
            at = first
            for start, stop, _ in [*self._owners.within(first, end), (end, end, 0)]:
                if at < start:
                    self._free.set(at, start, 0)
                    self.free += start - at
                at = stop
        self.held -= nr
