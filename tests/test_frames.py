"""The frame table: what it gives for which request, who owns and holds what, and any sequence of
operations against a model that keeps every page by itself."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import groupby, pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2mfast.errors import OutOfFrames
from p2mfast.hypervisor.frames import Extent, FrameTable

BLOCK, GIB = 1 << 9, 1 << 18


def with_free(*free: Extent, frames: int = 16 * GIB) -> FrameTable:
    """A machine with these free extents; the rest is domain 99's."""
    table = FrameTable(0, frames)
    table.allocate(frames, 0, 99)
    table.release(free)
    assert table.free_extents() == sorted(free)
    return table


def contents(table: FrameTable, *owners: int) -> tuple:
    """All that can be seen of a table with few frames in use."""
    extents = [table.extents_of(owner) for owner in owners]
    edges = {mfn + d for found in extents for mfn, nr in found for d in (-1, 0, nr - 1, nr)}
    seen = [(mfn, table.owner_of(mfn), table.references(mfn)) for mfn in sorted(edges)]
    return table.free, table.held, table.free_extents(), extents, seen


# ---- Allocation ----


@pytest.mark.parametrize("order", [0, 9, 18])
@pytest.mark.parametrize("nr", [1, BLOCK, 3 * BLOCK + 7, GIB, 2 * GIB + 5 * BLOCK + 3, 6 * GIB])
def test_a_fresh_machine_gives_one_extent(order: int, nr: int) -> None:
    table = FrameTable(2 * GIB, 6 * GIB)
    assert table.allocate(nr, order, 1) == [(2 * GIB, nr)]
    assert table.free == 6 * GIB - nr
    assert table.extents_of(1) == [(2 * GIB, nr)]


def test_the_next_request_begins_where_the_last_ended_or_at_the_next_boundary() -> None:
    table = FrameTable(0, 4 * GIB)
    assert table.allocate(5, 0, 1) == [(0, 5)]
    assert table.allocate(5, 0, 2) == [(5, 5)]
    assert table.allocate(BLOCK, 9, 3) == [(BLOCK, BLOCK)]
    assert table.allocate(GIB, 18, 4) == [(GIB, GIB)]
    assert table.free_extents() == [(10, BLOCK - 10), (2 * BLOCK, GIB - 2 * BLOCK), (2 * GIB,) * 2]


def test_superpages_come_first_and_smaller_pieces_only_for_the_rest() -> None:
    """1 GiB pieces while there is a whole one, then 2 MiB, then pages; each aligned."""
    table = with_free((GIB - 1, GIB + 1), (4 * GIB + 1, GIB + 2 * BLOCK), (9 * GIB + 3, 20))
    assert table.allocate(GIB + 3 * BLOCK + 7, 18, 1) == [
        (GIB, GIB),
        (4 * GIB + BLOCK, 3 * BLOCK),
        (GIB - 1, 1),  # the smallest extents, as they are
        (9 * GIB + 3, 6),
    ]


def test_without_an_aligned_piece_the_smaller_ones_are_taken() -> None:
    table = with_free((1, 2 * GIB - 2))  # no whole 1 GiB
    assert table.allocate(GIB, 18, 1) == [(BLOCK, GIB)]
    table = with_free((1, 2 * BLOCK - 2))  # no whole 2 MiB
    assert table.allocate(BLOCK, 18, 1) == [(1, BLOCK)]


def test_no_larger_pieces_than_asked_for() -> None:
    """An order of 0 takes the pages of the smallest extents, an order of 9 their 2 MiB."""
    free = [(8 * GIB, GIB), (GIB + 5, 3), (2 * GIB, BLOCK + 1)]
    assert with_free(*free).allocate(BLOCK, 0, 1) == [(GIB + 5, 3), (2 * GIB, BLOCK - 3)]
    assert with_free(*free).allocate(BLOCK, 9, 1) == [(2 * GIB, BLOCK)]
    table = with_free((8 * GIB, GIB), (2 * GIB + BLOCK, GIB - BLOCK))
    assert table.allocate(BLOCK, 9, 1) == [(2 * GIB + BLOCK, BLOCK)]
    assert table.allocate(GIB, 18, 1) == [(8 * GIB, GIB)]


@pytest.mark.parametrize(
    ("nr", "order", "expected"),
    [
        (3, 0, [(2 * GIB, 3)]),
        (5, 0, [(0, 1), (2 * GIB, 4)]),  # the next one after it
        (BLOCK, 9, [(4 * GIB, BLOCK)]),  # not of the larger ones, which are lower
        (2 * BLOCK, 9, [(GIB, BLOCK), (4 * GIB, BLOCK)]),
        (GIB, 18, [(6 * GIB, GIB)]),
    ],
)
def test_the_extent_that_leaves_the_least_is_taken(
    nr: int, order: int, expected: list[Extent]
) -> None:
    table = with_free(
        (0, BLOCK - 1), (GIB, BLOCK + 9), (2 * GIB, 4), (4 * GIB, BLOCK), (6 * GIB, GIB),
        (8 * GIB, 4 * GIB),
    )  # fmt: skip
    assert table.allocate(nr, order, 1) == expected


def test_of_extents_of_one_size_the_lowest_is_taken() -> None:
    table = with_free((4 * GIB, BLOCK), (GIB, BLOCK))
    assert table.allocate(1, 0, 1) == [(GIB, 1)]


def test_large_extents_stay_whole_in_a_fragmented_machine() -> None:
    holes = [(place * BLOCK, BLOCK) for place in range(1, 400, 2)]
    table = with_free((4 * GIB, 2 * GIB), *holes)
    for owner in range(200):
        assert table.allocate(BLOCK, 18, owner) == [holes[owner]]
    assert table.free_extents() == [(4 * GIB, 2 * GIB)]


def test_pieces_are_joined_to_those_they_follow() -> None:
    """Not to those they precede: the superpage must stay aligned where it is mapped."""
    table = with_free((GIB, GIB + BLOCK + 3), (5 * GIB, 2 * GIB))
    assert table.allocate(GIB + BLOCK + 2, 18, 1) == [(GIB, GIB + BLOCK + 2)]
    table = with_free((GIB - BLOCK, BLOCK + GIB))
    assert table.allocate(BLOCK + GIB, 18, 1) == [(GIB, GIB), (GIB - BLOCK, BLOCK)]
    assert table.extents_of(1) == [(GIB - BLOCK, BLOCK + GIB)]


@pytest.mark.parametrize("order", [0, 9, 18])
def test_too_large_a_request_changes_nothing(order: int) -> None:
    table = with_free((3, 5), (BLOCK, 2 * BLOCK))
    before = contents(table, 1, 99)
    with pytest.raises(OutOfFrames, match=f"{2 * BLOCK + 6} .*{2 * BLOCK + 5} frames are free"):
        table.allocate(2 * BLOCK + 6, order, 1)
    assert contents(table, 1, 99) == before
    assert sum(nr for _, nr in table.allocate(2 * BLOCK + 5, order, 1)) == 2 * BLOCK + 5
    assert (table.free, table.free_extents()) == (0, [])


@pytest.mark.parametrize(
    ("nr", "order", "words"),
    [
        (0, 0, "nr.*not 0"),
        (-1, 9, "nr.*not -1"),
        (1, 1, "order.*not 1"),
        (1, -9, "order.*not -9"),
        (1, 27, "order.*not 27"),
    ],
)
def test_bad_requests_are_refused(nr: int, order: int, words: str) -> None:
    table = FrameTable(0, 100)
    with pytest.raises(ValueError, match=words):
        table.allocate(nr, order)
    assert table.free == 100


def test_a_machine_has_frames() -> None:
    with pytest.raises(ValueError, match="nr.*0"):
        FrameTable(0, 0)


# ---- Owners ----


def test_owners_and_their_extents() -> None:
    table = FrameTable(100, 50)
    assert table.allocate(10, 0, 1) == [(100, 10)]
    assert table.allocate(10, 0, 2) == [(110, 10)]
    assert table.allocate(5, 0, 1) == [(120, 5)]
    assert table.extents_of(1) == [(100, 10), (120, 5)]
    assert table.extents_of(2) == [(110, 10)]
    assert table.extents_of(3) == []
    frames = (99, 100, 109, 110, 119, 120, 124, 125, 149, 150)
    owners = [None, 1, 1, 2, 2, 1, 1, None, None, None]
    assert [table.owner_of(mfn) for mfn in frames] == owners
    table.hold(103, 2)
    assert table.extents_of(1) == [(100, 10), (120, 5)]  # references do not divide it
    table.release([(110, 10)])
    assert table.allocate(10, 0, 1) == [(110, 10)]
    assert table.extents_of(1) == [(100, 25)]


def test_an_owner_of_zero_is_one() -> None:
    table = FrameTable(0, 10)
    table.allocate(4, 0)
    assert (table.owner_of(0), table.owner_of(4)) == (0, None)
    assert table.extents_of(0) == [(0, 4)]


def test_released_frames_are_free_and_joined() -> None:
    table = FrameTable(0, 100)
    table.allocate(60, 0, 1)
    table.release([(10, 10), (30, 10)])
    assert table.free_extents() == [(10, 10), (30, 10), (60, 40)]
    assert table.extents_of(1) == [(0, 10), (20, 10), (40, 20)]
    table.release([(20, 10)])
    assert table.free_extents() == [(10, 30), (60, 40)]
    table.release(iter([(40, 20), (0, 10)]))
    assert (table.free, table.free_extents()) == (100, [(0, 100)])
    assert table.extents_of(1) == []


@pytest.mark.parametrize(
    ("extents", "words"),
    [
        ([(10, 1)], "0xa: nobody owns it"),
        ([(0, 2), (8, 3)], "0xa: nobody owns it"),
        ([(5, 2)], "0x5: nobody owns it"),  # released, but still held
        ([(0, 3), (2, 1)], "0x2: it cannot be released twice"),
        ([(0, 1), (0, 1)], "0x0: it cannot be released twice"),
        ([(0, 2), (98, 3)], "0x62: 0x3 frames are not all"),
        ([(-1, 2)], "not all of this machine"),
        ([(0, 2), (3, 0)], "nr.*not 0"),
    ],
)
def test_a_double_free_changes_nothing(extents: list[Extent], words: str) -> None:
    table = FrameTable(0, 100)
    table.allocate(10, 0, 1)
    table.hold(5, 2)
    table.release([(5, 2)])
    before = contents(table, 1)
    with pytest.raises(ValueError, match=words):
        table.release(extents)
    assert contents(table, 1) == before


# ---- References ----


def test_references_are_counted_for_each_frame() -> None:
    table = FrameTable(0, 100)
    table.allocate(10, 0, 1)
    table.hold(2, 4)
    table.hold(4, 4)
    assert [table.references(mfn) for mfn in range(10)] == [0, 0, 1, 1, 2, 2, 1, 1, 0, 0]
    assert table.held == 8
    table.drop(3, 3)
    assert [table.references(mfn) for mfn in range(10)] == [0, 0, 1, 0, 1, 1, 1, 1, 0, 0]
    assert (table.held, table.free) == (5, 90)
    assert [table.references(mfn) for mfn in (-1, 50, 100)] == [0, 0, 0]


def test_held_frames_stay_until_the_last_reference_drops() -> None:
    table = FrameTable(0, 100)
    table.allocate(100, 0, 1)
    table.hold(20, 10)
    table.hold(25, 10)
    table.release([(0, 100)])
    assert (table.free, table.held) == (85, 20)
    assert table.free_extents() == [(0, 20), (35, 65)]
    assert {table.owner_of(mfn) for mfn in range(100)} == {None}
    with pytest.raises(OutOfFrames, match="86 .*85 frames"):
        table.allocate(86, 0, 2)
    assert table.allocate(85, 0, 2) == [(0, 20), (35, 65)]  # none that is held
    table.drop(25, 10)
    assert (table.free, table.free_extents()) == (5, [(30, 5)])
    table.drop(20, 10)
    assert (table.free, table.held, table.free_extents()) == (15, 0, [(20, 15)])


def test_what_was_held_and_dropped_is_free_on_release() -> None:
    table = FrameTable(0, 100)
    table.allocate(10, 0, 1)
    table.hold(0, 10)
    table.drop(0, 10)
    assert (table.free, table.owner_of(0)) == (90, 1)
    table.release([(0, 10)])
    assert table.free_extents() == [(0, 100)]


@pytest.mark.parametrize(
    ("call", "mfn", "nr", "words"),
    [
        (FrameTable.hold, 50, 1, "0x32: nobody owns it"),
        (FrameTable.hold, 8, 3, "0xa: nobody owns it"),
        (FrameTable.hold, 4, 3, "0x5: nobody owns it"),  # released: held by others only
        (FrameTable.hold, 0, 0, "nr.*not 0"),
        (FrameTable.hold, 98, 3, "not all of this machine"),
        (FrameTable.hold, -1, 1, "not all of this machine"),
        (FrameTable.drop, 50, 1, "0x32: nobody holds it"),
        (FrameTable.drop, 4, 2, "0x4: nobody holds it"),
        (FrameTable.drop, 5, 3, "0x7: nobody holds it"),
        (FrameTable.drop, 5, -1, "nr.*not -1"),
        (FrameTable.drop, 98, 3, "not all of this machine"),
    ],
)
def test_bad_references_change_nothing(
    call: Callable[[FrameTable, int, int], None], mfn: int, nr: int, words: str
) -> None:
    table = FrameTable(0, 100)
    table.allocate(10, 0, 1)
    table.hold(5, 2)
    table.release([(5, 2)])
    before = contents(table, 1)
    with pytest.raises(ValueError, match=words):
        call(table, mfn, nr)
    assert contents(table, 1) == before


# ---- Work ----


def test_thousands_of_domains_on_a_large_machine() -> None:
    """Takes 0.1 s; a loop over pages, or over all extents each time, takes far more than 3."""
    table = FrameTable(2 * GIB, 1 << 28)
    start = time.perf_counter()
    for owner in range(4000):
        table.allocate(BLOCK * 128 + owner % 7, 9, owner)
    owners = list(range(4000))
    random.Random(1).shuffle(owners)
    for owner in owners:
        table.release(table.extents_of(owner))
    assert time.perf_counter() - start < 3
    assert table.free_extents() == [(2 * GIB, 1 << 28)]


# ---- Any sequence of operations ----

FRAMES, BASE = 1 << 12, 3 * BLOCK + 100  # with a part of 2 MiB at either end


class PageModel:
    """Every page by itself: its owner and its references."""

    def __init__(self) -> None:
        mfns = range(BASE, BASE + FRAMES)
        self.pages: dict[int, tuple[int | None, int]] = dict.fromkeys(mfns, (None, 0))

    def runs(self, wanted: Callable[[int | None, int], bool]) -> list[Extent]:
        runs = []
        for good, run in groupby(self.pages, lambda mfn: wanted(*self.pages[mfn])):
            if good:
                mfns = list(run)
                runs.append((mfns[0], len(mfns)))
        return runs

    def free_extents(self) -> list[Extent]:
        return self.runs(lambda owner, count: owner is None and count == 0)

    def allocate(self, nr: int, order: int, owner: int) -> list[Extent]:
        """Piece by piece, each from the smallest extent that has one."""
        free = self.free_extents()
        if nr > sum(room for _, room in free):
            raise OutOfFrames
        mfns: list[int] = []
        for size in (BLOCK, 1) if order else (1,):
            pieces = []
            while nr >= size:
                fits = []
                for first, room in free:
                    start = (first + size - 1) // size * size
                    if start + size <= first + room:
                        fits.append((room, first, start))
                if not fits:
                    break
                room, first, start = min(fits)
                free.remove((first, room))
                rest = [(first, start - first), (start + size, first + room - start - size)]
                free += [extent for extent in rest if extent[1]]
                pieces.append(start)
                nr -= size
            mfns += [mfn for piece in sorted(pieces) for mfn in range(piece, piece + size)]
        for mfn in mfns:
            assert self.pages[mfn] == (None, 0)
            self.pages[mfn] = (owner, 0)
        bounds = [0, *(at for at in range(1, len(mfns)) if mfns[at] != mfns[at - 1] + 1), len(mfns)]
        return [(mfns[a], b - a) for a, b in pairwise(bounds)]

    def release(self, extents: list[Extent]) -> None:
        mfns = [mfn for first, nr in extents for mfn in range(first, first + nr)]
        if len(set(mfns)) < len(mfns) or any(self.pages[mfn][0] is None for mfn in mfns):
            raise ValueError
        for mfn in mfns:
            self.pages[mfn] = (None, self.pages[mfn][1])

    def hold(self, first: int, nr: int) -> None:
        if any(self.pages[mfn][0] is None for mfn in range(first, first + nr)):
            raise ValueError
        for mfn in range(first, first + nr):
            owner, count = self.pages[mfn]
            self.pages[mfn] = (owner, count + 1)

    def drop(self, first: int, nr: int) -> None:
        if any(self.pages[mfn][1] == 0 for mfn in range(first, first + nr)):
            raise ValueError
        for mfn in range(first, first + nr):
            owner, count = self.pages[mfn]
            self.pages[mfn] = (owner, count - 1)


places = st.integers(0, 99)
counts = st.integers(1, 12) | st.sampled_from([100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])


class Comparison(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = FrameTable(BASE, FRAMES)
        self.model = PageModel()

    def both(self, real: Callable[[], object], model: Callable[[], object]) -> None:
        """The same answer or the same exception; the invariants show whether it changed
        anything."""
        try:
            expected = model()
        except (OutOfFrames, ValueError) as error:
            with pytest.raises(type(error)):
                real()
        else:
            assert real() == expected

    def part(self, runs: list[Extent], run: int, offset: int, nr: int) -> Extent:
        """Frames in, or sometimes not only in, one of the runs."""
        first, room = runs[run % len(runs)] if runs else (BASE, FRAMES)
        start = first + offset * room // 100
        return start, min(nr, BASE + FRAMES - start)

    @rule(nr=counts, order=st.sampled_from([0, 9]), owner=st.integers(0, 3))
    def allocate(self, nr, order, owner):
        self.both(
            lambda: self.table.allocate(nr, order, owner),
            lambda: self.model.allocate(nr, order, owner),
        )

    @rule(parts=st.lists(st.tuples(places, places, counts), max_size=3))
    def release(self, parts):
        owned = self.model.runs(lambda owner, _: owner is not None)
        extents = [self.part(owned, *part) for part in parts]
        self.both(lambda: self.table.release(extents), lambda: self.model.release(extents))

    @rule(owner=st.integers(0, 3))
    def release_all(self, owner):
        extents = self.model.runs(lambda of, _: of == owner)
        self.both(lambda: self.table.release(extents), lambda: self.model.release(extents))

    @rule(run=places, offset=places, nr=counts)
    def hold(self, run, offset, nr):
        part = self.part(self.model.runs(lambda owner, _: owner is not None), run, offset, nr)
        self.both(lambda: self.table.hold(*part), lambda: self.model.hold(*part))

    @rule(run=places, offset=places, nr=counts)
    def drop(self, run, offset, nr):
        part = self.part(self.model.runs(lambda _, count: count > 0), run, offset, nr)
        self.both(lambda: self.table.drop(*part), lambda: self.model.drop(*part))

    @rule(run=places)
    def drop_a_run(self, run):
        held = self.model.runs(lambda owner, count: owner is None and count > 0)
        if not held:
            return
        part = held[run % len(held)]
        self.both(lambda: self.table.drop(*part), lambda: self.model.drop(*part))

    @invariant()
    def compare(self):
        table, pages = self.table, self.model.pages
        free = self.model.free_extents()
        assert table.free_extents() == free
        assert all(a + nr < b for (a, nr), (b, _) in pairwise(table.free_extents()))
        assert table.free == sum(nr for _, nr in free)
        assert table.held == sum(count for _, count in pages.values())
        for owner in range(4):
            owned = self.model.runs(lambda of, _, owner=owner: of == owner)
            assert table.extents_of(owner) == owned
        assert {m: (table.owner_of(m), table.references(m)) for m in pages} == pages


Comparison.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestComparison = Comparison.TestCase
