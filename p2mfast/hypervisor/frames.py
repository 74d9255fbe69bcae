"""The machine's frames, who owns them and who else holds them: by extents, never by single pages.

The table is a step function: segments of frames that have the same owner and as many references.
Free segments are found by their size, owned ones by their owner.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

from p2mfast.errors import OutOfFrames

Extent = tuple[int, int]
"""First frame, number of frames."""

_ORDERS = (18, 9, 0)  # the largest first


class _Frame(NamedTuple):
    """What the table knows of a frame."""

    owner: int | None
    references: int  # of others than the owner


_FREE = _Frame(None, 0)


class FrameTable:
    """The frames [first, first + nr) of a machine, all free at first.

    A frame has an owner until that releases it, and any number of references of others; it is free
    when it has neither. No call changes anything when it raises. Any thread may call: domains that
    share pages meet here.
    """

    def __init__(self, first: int, nr: int) -> None:
        _check_nr(nr)
        self._first, self._end = first, first + nr
        # Segments: each lasts until the next one's start, and differs from its neighbours.
        self._starts = [first]
        self._states = [_FREE]
        self._free_by_size: list[tuple[int, int]] = []  # number of frames, first frame
        self._owned: dict[int, list[Extent]] = {}
        self._free = self._held = 0
        self._lock = threading.Lock()
        self._index(first, self._end, _FREE)

    @property
    def free(self) -> int:
        """Number of free frames."""
        return self._free

    @property
    def held(self) -> int:
        """Number of references in total, a frame with two counting twice."""
        return self._held

    def owner_of(self, mfn: int) -> int | None:
        """Who owns this frame; None for released and free ones, and where there is none."""
        return self._state(mfn).owner

    def references(self, mfn: int) -> int:
        """How many references others than its owner hold on this frame."""
        return self._state(mfn).references

    def extents_of(self, owner: int) -> list[Extent]:
        """What it owns, ascending and never adjacent."""
        return _joined(self._owned.get(owner, ()))

    def free_extents(self) -> list[Extent]:
        """What is free, ascending and never adjacent."""
        return sorted((first, nr) for nr, first in self._free_by_size)

    # ---- Owners ----

    def allocate(self, nr: int, order: int, owner: int = 0) -> list[Extent]:
        """``nr`` frames: in aligned pieces of 2**order as far as there are any, then in smaller
        ones, each from the smallest free extent that has one.

        The extents come in the order of their pieces, the largest first, so that those mapped one
        after the other stay aligned. Raises OutOfFrames, ValueError.
        """
        _check_nr(nr)
        if order not in _ORDERS:
            raise ValueError(f"order must be 0, 9 or 18, not {order!r}")
        with self._lock:
            if nr > self._free:
                raise OutOfFrames(
                    f"{nr} frames (order {order}) are asked for, {self._free} frames are free"
                )
            taken: list[Extent] = []
            for piece in _ORDERS[_ORDERS.index(order) :]:
                for extent in self._find(nr, piece):
                    self._change(*extent, lambda _: _Frame(owner, 0))
                    taken.append(extent)
                    nr -= extent[1]
            return _joined(taken)

    def release(self, extents: Iterable[Extent]) -> None:
        """Their owner gives them up: what nobody else holds is free. Raises ValueError if nobody
        owns a frame of them, or one is in them twice."""
        released = sorted(extents)
        with self._lock:
            for first, nr in released:
                self._check(first, nr, lambda frame: frame.owner is not None, "nobody owns it")
            for (first, nr), (following, _) in pairwise(released):
                if following < first + nr:
                    raise ValueError(f"mfn {following:#x}: it cannot be released twice")
            for first, nr in released:
                self._change(first, nr, lambda frame: frame._replace(owner=None))

    # ---- References ----

    def hold(self, mfn: int, nr: int) -> None:
        """One more reference on each of these frames. Raises ValueError if nobody owns one."""
        with self._lock:
            self._check(mfn, nr, lambda frame: frame.owner is not None, "nobody owns it")
            self._change(mfn, nr, lambda frame: frame._replace(references=frame.references + 1))

    def drop(self, mfn: int, nr: int) -> None:
        """One reference fewer on each of these frames: what has no owner and no other reference is
        free. Raises ValueError where there is none."""
        with self._lock:
            self._check(mfn, nr, lambda frame: frame.references > 0, "nobody holds it")
            self._change(mfn, nr, lambda frame: frame._replace(references=frame.references - 1))

    # ---- Segments ----

    def _state(self, mfn: int) -> _Frame:
        if not self._first <= mfn < self._end:
            return _FREE
        return self._states[bisect_right(self._starts, mfn) - 1]

    def _check(self, first: int, nr: int, good: Callable[[_Frame], bool], wrong: str) -> None:
        _check_nr(nr)
        if first < self._first or first + nr > self._end:
            raise ValueError(f"mfn {first:#x}: {nr:#x} frames are not all of this machine")
        starts = self._starts
        for at in range(bisect_right(starts, first) - 1, bisect_left(starts, first + nr)):
            if not good(self._states[at]):
                raise ValueError(f"mfn {max(first, starts[at]):#x}: {wrong}")

    def _find(self, nr: int, order: int) -> list[Extent]:
        """Up to ``nr`` free frames in aligned pieces of 2**order, ascending. What is left of the
        smallest extent is smaller still: it is used up before the next one."""
        left = nr >> order << order
        found: list[Extent] = []
        at = bisect_left(self._free_by_size, (1 << order, 0))
        while left and at < len(self._free_by_size):
            room, first = self._free_by_size[at]
            start = -(-first >> order << order)
            take = min(left, (first + room - start) >> order << order)
            if take > 0:
                found.append((start, take))
                left -= take
            at += 1
        return sorted(found)

    def _change(self, first: int, nr: int, update: Callable[[_Frame], _Frame]) -> None:
        """Update the frames of an extent, and join the segments that have become equal."""
        end = first + nr
        # With the neighbours, that they may be joined.
        low = max(bisect_left(self._starts, first) - 1, 0)
        high = bisect_right(self._starts, end)
        bounds = [*self._starts[low : high + 1], self._end]
        starts: list[int] = []
        states: list[_Frame] = []
        for at, state in enumerate(self._states[low:high]):
            start, stop = bounds[at], bounds[at + 1]
            self._unindex(start, stop, state)
            changed, rest = min(max(first, start), stop), max(min(end, stop), start)
            for part, part_end, new in (
                (start, changed, state),
                (changed, rest, update(state) if changed < rest else state),
                (rest, stop, state),
            ):
                if part < part_end and (not states or states[-1] != new):
                    starts.append(part)
                    states.append(new)
        self._starts[low:high] = starts
        self._states[low:high] = states
        segments = zip(pairwise([*starts, bounds[high - low]]), states, strict=True)
        for (start, stop), state in segments:
            self._index(start, stop, state)

    def _index(self, start: int, stop: int, state: _Frame) -> None:
        nr = stop - start
        self._held += nr * state.references
        if state == _FREE:
            self._free += nr
            insort(self._free_by_size, (nr, start))
        elif state.owner is not None:
            insort(self._owned.setdefault(state.owner, []), (start, nr))

    def _unindex(self, start: int, stop: int, state: _Frame) -> None:
        nr = stop - start
        self._held -= nr * state.references
        if state == _FREE:
            self._free -= nr
            del self._free_by_size[bisect_left(self._free_by_size, (nr, start))]
        elif state.owner is not None:
            owned = self._owned[state.owner]
            del owned[bisect_left(owned, (start, nr))]
            if not owned:
                del self._owned[state.owner]


def _check_nr(nr: int) -> None:
    if nr < 1:
        raise ValueError(f"nr must be at least 1, not {nr!r}")


def _joined(extents: Iterable[Extent]) -> list[Extent]:
    """Each extent that follows directly on the one before it is joined to it."""
    joined: list[Extent] = []
    for first, nr in extents:
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + nr)
        else:
            joined.append((first, nr))
    return joined
