"""What users build on beyond single operations: the descriptors' view, events, preemption,
harvests of any size, recycling of tables, threads."""

from __future__ import annotations

import ctypes
import gc
import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import raw_tables

import p2mfast as pf

U64 = np.uint64


def rows(array: np.ndarray) -> list[tuple]:
    return [tuple(row.item()) for row in array]


def tlb_events(p2m: pf.P2M) -> list[tuple[int, int]]:
    events = p2m.drain_events()
    events = events[events["kind"] == pf.EventKind.TLB_INVALIDATE]
    return [(int(event["gfn"]), int(event["nr"])) for event in events]


def removals(p2m: pf.P2M) -> list[tuple[int, int, int, int]]:
    events = p2m.drain_events()
    events = events[events["kind"] == pf.EventKind.MAPPING_REMOVED]
    return [tuple(int(event[name]) for name in ("gfn", "nr", "mfn", "type")) for event in events]


# ---- The descriptors ----


def test_the_view_is_live_read_only_and_keeps_the_p2m_alive() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(5, 1, 77)
    tables = p2m.tables
    assert tables.shape == (2 + 2, 512)
    assert tables.dtype == np.uint64
    root_word = int(tables[0, 0])
    assert root_word & 1
    p2m.invalidate_root()
    assert int(tables[0, 0]) == root_word & ~1
    with pytest.raises(ValueError, match="read-only"):
        tables[0, 0] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        tables.flags.writeable = True
    alive = weakref.ref(p2m)
    del p2m
    gc.collect()
    assert int(tables[0, 0]) == root_word & ~1
    assert alive() is not None
    del tables
    gc.collect()
    assert alive() is None


def test_freed_tables_are_used_again() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0, 100 * 512, 1)
    used = p2m.tables.shape[0]
    for mfn in (1, 3, 5):
        p2m.set_entry(0, 100 * 512, None)
        assert p2m.stats.tables <= 2  # level 2, of either GiB
        p2m.set_entry(1 << 19, 100 * 512, mfn)
        p2m.set_entry(1 << 19, 100 * 512, None)
        p2m.set_entry(0, 100 * 512, mfn)
    assert p2m.tables.shape[0] == used + 1  # the other GiB's level-2 table
    assert p2m.check() == []


def test_blocks_over_a_table_with_holes() -> None:
    """The level-2 table is there, and so is a table of holes below it: nothing is linked anew."""
    p2m = pf.P2M(40)
    p2m.set_entry(1, 1, 7)
    p2m.set_entry(0, (1 << 18) + 512, 0, max_order=9)
    assert p2m.stats.mappings == (0, 0, 513, 0)
    assert p2m.stats.tables == 2
    assert p2m.check() == []


def test_stats_show_the_memory_of_the_tables() -> None:
    """At most one step of 2 MiB more than the tables, or 1 %."""
    p2m = pf.P2M(40)
    for gib in range(1, 6):
        p2m.set_entry(gib << 18, 1 << 18, 1)
        stats = p2m.stats
        tables = (stats.tables + p2m.root_pages) * 4096
        assert tables <= stats.reserved_bytes <= tables + max(2 << 20, tables // 100)
        assert stats.free_tables == 0
    before = p2m.stats
    p2m.set_entry(1 << 18, 1 << 18, None)
    assert p2m.stats.free_tables == 513
    assert p2m.stats.tables == before.tables - 513
    assert p2m.stats.reserved_bytes == before.reserved_bytes


def test_check_finds_what_is_planted() -> None:
    """The view is read-only to Python; a debugger's pen is not."""
    p2m = pf.P2M(40)
    p2m.set_entry(0, 3, 100)
    assert p2m.check() == []
    leaf_row = p2m.tables.shape[0] - 1
    words = (ctypes.c_uint64 * 512).from_address(p2m.tables[leaf_row].ctypes.data)
    good = words[1]
    words[1] = 0
    assert any("mappings[3]" in finding for finding in p2m.check())
    words[1] = good | 1 << 60
    assert any("reserved" in finding for finding in p2m.check())
    words[1] = good
    root = (ctypes.c_uint64 * 512).from_address(p2m.tables[0].ctypes.data)
    root[1] = root[0]
    assert any("twice" in finding for finding in p2m.check())
    root[1] = root[0] & ~0x0000_FFFF_FFFF_F000
    assert any("outside" in finding for finding in p2m.check())
    root[1] = 0
    assert p2m.check() == []


def test_a_corrupt_pointer_crashes_nothing() -> None:
    """Every call on a tree whose table pointer leads outside: an answer or an error."""
    p2m = pf.P2M(40)
    p2m.set_entry(0, 4, 100)
    p2m.set_entry(512, 4, 200)
    p2m.invalidate_root()
    p2m.resolve_translation_fault(0)
    row = next(
        r for r in range(2, p2m.tables.shape[0]) if int(p2m.tables[r, 1]) >> 55 and
        not p2m.tables[r, 2:].any()
    )  # fmt: skip
    word = ctypes.c_uint64.from_address(p2m.tables[row].ctypes.data)
    word.value = word.value & ~0x0000_FFFF_FFFF_F000 | 0x0000_FFFF_FFFF_F000
    with pytest.raises(pf.P2MError, match="outside"):
        p2m.set_entry(0, 1, 7)
    with pytest.raises(pf.P2MError, match="outside"):
        p2m.set_entries([0, 600], [7, 8])
    with pytest.raises(pf.P2MError, match="outside"):
        p2m.set_entry(0, 600, None, max_order=0)
    with pytest.raises(pf.Stage2Fault) as caught:
        p2m.translate(0)
    assert caught.value.kind is pf.FaultKind.EXTERNAL
    assert p2m.get_entry(0).mfn is None
    for depth in ("level", "path"):
        assert p2m.resolve_translation_fault(0, depth=depth) is False
    assert p2m.resolve_translation_fault(512, order=10) is True
    assert p2m.cache_flush_range(0, 1 << 28, skip="none").pages == 4
    assert p2m.mapped_runs()["gfn"].tolist() == [512]
    assert len(p2m.entries()) > 4
    assert p2m.harvest().pages == 4  # the whole group was made reachable
    assert any("outside" in finding for finding in p2m.check())
    assert p2m.relinquish()


# ---- Events ----


def test_tlb_invalidations_are_ranges() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0, 1024, 512)
    assert tlb_events(p2m) == []  # nothing was there
    p2m.set_entry(100, 1, 7)  # shatters the first block, then replaces one page
    assert tlb_events(p2m) == [(0, 512), (100, 1)]
    p2m.set_entry(90, 20, None)
    assert tlb_events(p2m) == [(90, 20)]
    p2m.set_entry(1 << 18, 1 << 18, 1 << 18)
    p2m.set_entry((1 << 18) + 512, 512, 9, max_order=0)  # two levels at once, then the pages
    assert tlb_events(p2m) == [(1 << 18, 1 << 18), ((1 << 18) + 512, 512)]
    p2m.set_entry(1 << 18, 1 << 18, None)
    p2m.drain_events()
    p2m.set_entry(0, 1024, None)
    assert tlb_events(p2m) == [(0, 1024)]
    p2m.invalidate_root()
    assert tlb_events(p2m) == [(0, 1 << 28)]
    p2m.set_entry(0, 1, 7)
    p2m.invalidate_root()
    p2m.set_entry(0, 1, None)
    assert tlb_events(p2m) == [(0, 1 << 28), (0, 1)]  # its own bit 0 was set


def test_too_many_tlb_invalidations_become_one_of_everything() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0, 2, 7, type=pf.P2MType.MAP_FOREIGN_RW)
    p2m.set_entry(0, 1, None)
    for _ in range(5000):
        p2m.set_entry(1, 1, 8, type=pf.P2MType.MAP_FOREIGN_RW)
    events = p2m.drain_events()
    invalidations = events[events["kind"] == pf.EventKind.TLB_INVALIDATE]
    assert (0, 1 << 28) in [(int(e["gfn"]), int(e["nr"])) for e in invalidations]
    assert len(invalidations) <= 4096
    removed = events[events["kind"] == pf.EventKind.MAPPING_REMOVED]
    assert [(int(e["gfn"]), int(e["mfn"])) for e in removed] == [(0, 7)]
    assert p2m.stats.tlb_flushes == 5001
    assert p2m.drain_events().size == 0


def test_counted_mappings_that_go_are_reported_by_run() -> None:
    foreign, grant = pf.P2MType.MAP_FOREIGN_RO, pf.P2MType.GRANT_MAP_RW
    p2m = pf.P2M(40)
    p2m.set_entry(0, 1024, 512, type=foreign)
    p2m.set_entry(2048, 100, 9000, type=grant)
    p2m.set_entry(1 << 18, 1 << 18, 1 << 20, type=foreign)
    assert removals(p2m) == []
    p2m.set_entry(2048, 100, None)
    assert removals(p2m) == []  # grants are counted by their table, not here
    p2m.set_entry(100, 5, None)
    assert removals(p2m) == [(100, 5, 612, foreign)]
    p2m.set_entry(200, 4, 712, type=foreign, access=pf.Access.R)
    assert removals(p2m) == []  # permissions only
    p2m.set_entry(200, 4, 5, type=foreign)
    assert removals(p2m) == [(200, 4, 712, foreign)]
    p2m.set_entry(0, 512, 1 << 19)
    assert removals(p2m) == [
        (0, 100, 512, foreign), (105, 95, 617, foreign), (200, 4, 5, foreign),
        (204, 308, 716, foreign),
    ]  # fmt: skip
    # A 1 GiB block remapped page by page: shattered on the way, one run all the same.
    p2m.set_entry(1 << 18, 1 << 18, 1 << 21, max_order=0)
    assert removals(p2m) == [(1 << 18, 1 << 18, 1 << 20, foreign)]
    p2m.set_entries([600, 602], [1, 2])
    assert removals(p2m) == [(600, 1, 600 + 512, foreign), (602, 1, 602 + 512, foreign)]
    assert p2m.relinquish()
    assert removals(p2m) == [
        (512, 88, 1024, foreign), (601, 1, 1113, foreign), (603, 421, 1115, foreign),
    ]  # fmt: skip
    assert p2m.check() == []


def test_what_one_batch_maps_and_replaces_is_reported() -> None:
    """Of equal GFNs the last wins; each mapping before it came and went."""
    foreign = pf.P2MType.MAP_FOREIGN_RW
    p2m = pf.P2M(40)
    mfns = np.arange(1000, 6000, 2, dtype=U64)
    p2m.set_entries(np.full(mfns.size, 7, U64), mfns, type=foreign)
    assert removals(p2m) == [(7, 1, mfn, foreign) for mfn in mfns[:-1].tolist()]
    assert p2m.get_entry(7).mfn == 5998
    assert p2m.check() == []


# ---- Flush and harvest ----


@pytest.fixture
def touched() -> tuple[pf.P2M, set[int]]:
    """A guest of which 3,000 random pages were touched since it was armed, in pages, 2 MiB and
    1 GiB blocks."""
    rng = np.random.default_rng(42)
    p2m = pf.P2M(40)
    p2m.set_entry(1 << 18, 1 << 15, 1)
    p2m.set_entry(1 << 19, 1 << 15, 1 << 19, max_order=9)
    p2m.set_entry(3 << 18, 1 << 18, 1 << 18)
    p2m.set_entry(1 << 20, 4096, 7, type=pf.P2MType.MMIO_DIRECT_DEV)
    p2m.invalidate_root()
    gfns = np.concatenate([
        (1 << 18) + rng.choice(1 << 15, 3000, replace=False),
        (1 << 19) + rng.choice(1 << 15, 5, replace=False),
        (1 << 20) + np.arange(50),
    ])  # fmt: skip
    assert p2m.resolve_translation_faults(gfns).all()
    pages = set(gfns[:3000].tolist())
    for gfn in gfns[3000:3005].tolist():
        pages |= set(range(gfn >> 9 << 9, (gfn >> 9) + 1 << 9))
    return p2m, pages


def pages_of(runs: np.ndarray) -> list[int]:
    return [gfn for run in runs.tolist() for gfn in range(run[0], run[0] + run[2])]


def test_harvest_collects_each_touched_page_once_and_arms(
    touched: tuple[pf.P2M, set[int]],
) -> None:
    p2m, pages = touched
    expected = raw_tables.coalesce(raw_tables.reachable_ram(p2m))
    flush = p2m.harvest()
    assert flush.done
    assert rows(flush.runs) == expected
    assert len(expected) > 2000  # several pieces of the engine's bounded harvest
    collected = pages_of(flush.runs)
    assert (len(collected), set(collected)) == (len(pages), pages)
    assert flush.pages == len(pages)
    assert raw_tables.reachable_ram(p2m) == []
    assert p2m.harvest().pages == 0
    assert p2m.get_entry((1 << 20) + 3).reachable is False  # MMIO is armed with the rest
    assert p2m.check() == []


@pytest.mark.parametrize("budget", [0, 1, 10, 11, 37, 512, None])
def test_a_cut_off_flush_cleans_each_page_once(
    touched: tuple[pf.P2M, set[int]], budget: int | None
) -> None:
    p2m, pages = touched
    before = p2m.entries()
    cleaned, start, calls = [], 0, 0
    while True:
        flush = p2m.cache_flush_range(start, 1 << 28, budget=budget)
        assert flush.next_gfn > start
        assert budget is None or flush.pages <= max(1, -(-budget // 10))
        cleaned += pages_of(flush.runs)
        start, calls = flush.next_gfn, calls + 1
        if flush.done:
            break
    assert (len(cleaned), set(cleaned)) == (len(pages), pages)
    assert (calls == 1) == (budget is None)
    assert (p2m.entries() == before).all()


def test_what_xens_leaf_rule_cleans_again() -> None:
    """The case measured on Xen: 10,485 contiguous pages, over 22 tables, touched in a 4 GiB guest
    of 4 KiB pages; all pages of the other tables look valid and are cleaned again."""
    p2m = pf.P2M(40)
    p2m.set_entry(1 << 18, 1 << 20, 1)
    p2m.invalidate_root()
    assert p2m.cache_flush_range(0, 1 << 28, skip="leaf").pages == 1_048_576
    assert p2m.cache_flush_range(0, 1 << 28, skip="path").pages == 0
    p2m.resolve_translation_faults(np.arange(10_485) + (1 << 18) + 300, depth="path")
    assert p2m.cache_flush_range(0, 1 << 28, skip="path").pages == 10_485
    assert p2m.cache_flush_range(0, 1 << 28, skip="leaf").pages == 1_048_576 - 22 * 512 + 10_485
    assert p2m.harvest().pages == 10_485


# ---- Accesses ----


def test_access_many_counts_a_trap_for_each_resolved_fault() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0, 1024, 1)
    p2m.set_entry(2048, 1, 9, type=pf.P2MType.RAM_RO)
    p2m.invalidate_root()
    ipas = np.array([0, 8, 1 << 12, 512 << 12, 2048 << 12, 2048 << 12, 4096 << 12, 1 << 45], U64)
    kinds = np.array([1, 2, 4, 3, 1, 2, 1, 1], np.uint8)
    result = p2m.access_many(ipas, kinds)
    assert result["traps"].tolist() == [1, 0, 1, 1, 1, 0, 0, 0]
    permission, translation = pf.FaultKind.PERMISSION, pf.FaultKind.TRANSLATION
    assert result["fault"].tolist() == [0, 0, 0, 0, 0, permission, translation, translation]
    p2m.invalidate_root()
    by_level = p2m.access_many(ipas[:5], kinds[:5], depth="level")
    assert by_level["traps"].tolist() == [3, 0, 1, 2, 2]
    p2m.invalidate_root()
    assert p2m.access_many(ipas[:1], kinds[:1], depth=None).tolist() == [(0, translation)]


# ---- Threads ----


def test_readers_beside_a_writer_see_the_old_or_the_new() -> None:
    """The engine releases the GIL: one thread looks up while another maps, shatters and frees."""
    p2m = pf.P2M(40)
    old, new = 1 << 18, 1 << 20
    p2m.set_entry(0, 1 << 10, old)
    stop = threading.Event()
    wrong: list[object] = []
    gfns = np.tile(np.arange(1 << 10, dtype=U64), 20)

    def read() -> None:
        while not stop.is_set():
            found = p2m.get_entries(gfns)
            bad = (found["mfn"] != gfns + U64(old)) & (found["mfn"] != gfns + U64(new))
            if bad.any():
                wrong.append(found[bad][0])
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for round_ in range(400):
            p2m.set_entry(0, 1 << 10, (old, new)[round_ % 2], max_order=(9, 0)[round_ % 3 == 0])
            p2m.set_entry(5, 3, (old, new)[round_ % 2] + 5)
    finally:
        stop.set()
        reader.join()
    assert wrong == []
    assert p2m.check() == []


def test_an_entry_is_a_record() -> None:
    p2m = pf.P2M()
    p2m.set_entry(5, 1, 77, type=pf.P2MType.RAM_RO)
    entry, hole = p2m.get_entry(5), p2m.get_entry(6)
    fields = (77, pf.P2MType.RAM_RO, 0, True, True, pf.Access.RWX)
    assert tuple(entry) == fields
    assert entry == fields
    assert entry == pf.Entry(*fields)
    assert hash(entry) == hash(pf.Entry(*fields))
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert repr(entry) == (
        "Entry(mfn=77, type=<P2MType.RAM_RO: 2>, order=0, valid=True, reachable=True,"
        " access=<Access.RWX: 7>)"
    )
    match entry:
        case pf.Entry(mfn=77, order=0):
            pass
        case _:
            pytest.fail("fields do not match by name")
    assert (hole.mfn, hole.access) == (None, None)
    assert entry != hole
    assert entry != 77
    with pytest.raises(AttributeError):
        entry.mfn = 78
    for index, name, bad in [(0, "mfn", -1), (1, "type", 16), (2, "order", 64), (5, "access", 11)]:
        arguments = list(fields)
        arguments[index] = bad
        with pytest.raises((ValueError, pf.OutOfRange), match=name):
            pf.Entry(*arguments)


def test_access_is_kept_only_where_something_is_mapped() -> None:
    """A byte a page for 1 TiB would be 256 MiB."""
    p2m = pf.P2M()
    p2m.set_entry(5, 1, 5)
    p2m.set_entry(1 << 27, 1024, 1 << 20)

    def resident_pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = resident_pages()
    p2m.set_mem_access(0, 1 << 28, pf.Access.R)
    assert resident_pages() - before < 10_000
    assert p2m.get_entry(5).access is p2m.get_entry((1 << 27) + 1023).access is pf.Access.R
    assert p2m.get_entry(6).access is None


def test_relinquished_pages_start_anew() -> None:
    p2m = pf.P2M()
    p2m.set_mem_access(0, 1, pf.Access.R)
    p2m.set_entry(0, 1, 5, access=pf.Access.R)
    assert p2m.relinquish()
    p2m.enable_mem_access(False)
    p2m.set_entry(0, 1, 5)
    p2m.enable_mem_access()
    assert p2m.get_entry(0).access is pf.Access.RWX
