"""Mapping, shattering and removing pages."""

from __future__ import annotations

import limits
import numpy as np
import pytest

import p2mfast as pf

SIZES = {"in-cache": 1 << 15, "from-memory": 1 << 21}  # pages: 256 KiB and 16 MiB of leaves


@pytest.mark.benchmark(group="map-range")
@pytest.mark.parametrize("pages", SIZES.values(), ids=SIZES)
def test_map_range(benchmark, report, pages: int) -> None:
    """4 KiB pages into recycled tables."""
    p2m = pf.P2M(40)
    p2m.set_entry(0, pages, 1)

    def unmap() -> None:
        p2m.set_entry(0, pages, None)

    benchmark.pedantic(lambda: p2m.set_entry(0, pages, 1), setup=unmap, rounds=15, warmup_rounds=2)
    assert p2m.stats.mappings[3] == pages
    report(pages, limits.memset_ns_a_page(pages), "memset of the leaves")


@pytest.mark.benchmark(group="map-range")
def test_map_range_of_blocks(benchmark, report) -> None:
    """2 MiB blocks."""
    blocks = 1 << 14
    p2m = pf.P2M(40)

    def unmap() -> None:
        p2m.set_entry(0, blocks * 512, None)

    benchmark.pedantic(
        lambda: p2m.set_entry(0, blocks * 512, 0, max_order=9),
        setup=unmap, rounds=15, warmup_rounds=2,
    )  # fmt: skip
    assert p2m.stats.mappings[2] == blocks
    report(blocks, limits.memset_ns_a_page(blocks), "memset of the blocks' words")


@pytest.mark.benchmark(group="remap-range")
def test_remap_range(benchmark, report) -> None:
    """Every page replaced by another: break, invalidate, make."""
    pages = SIZES["in-cache"]
    p2m = pf.P2M(40)
    p2m.set_entry(0, pages, 1)
    mfns = iter(range(2, 1_000_000, 2))
    benchmark(lambda: p2m.set_entry(0, pages, next(mfns) | 1))
    report(pages, limits.memset_ns_a_page(pages), "memset of the leaves")


@pytest.mark.benchmark(group="map-scattered")
def test_map_scattered(benchmark, report) -> None:
    """Single pages in random order over tables that are there."""
    pages = SIZES["from-memory"]
    p2m = pf.P2M(40)
    gfns = np.random.default_rng(1).permutation(np.arange(pages, dtype=np.uint64))[: 1 << 17]
    p2m.set_entry(0, pages, 1)

    def clear() -> None:
        p2m.set_entries(gfns, np.full(gfns.size, pf.INVALID_MFN, np.uint64))
        p2m.drain_events()

    benchmark.pedantic(lambda: p2m.set_entries(gfns, gfns), setup=clear, rounds=9, warmup_rounds=1)
    report(gfns.size, limits.random_load_ns(pages, gfns.size), "independent loads")


@pytest.mark.benchmark(group="shatter")
def test_shatter(benchmark, report) -> None:
    """One page of each of 512 blocks of 2 MiB gets another frame."""
    blocks = 512
    p2m = pf.P2M(40)
    gfns = np.arange(blocks, dtype=np.uint64) * np.uint64(512)

    def whole() -> None:
        p2m.set_entry(0, blocks * 512, 0, max_order=9)
        p2m.drain_events()

    benchmark.pedantic(lambda: p2m.set_entries(gfns, gfns), setup=whole, rounds=15, warmup_rounds=2)
    assert p2m.stats.mappings[3] == blocks * 512
    report(blocks, limits.memset_ns_a_page(512) * 512, "memset of a table")


@pytest.mark.benchmark(group="unmap-range")
def test_unmap_range(benchmark, report) -> None:
    """Whole tables go."""
    pages = SIZES["from-memory"]
    p2m = pf.P2M(40)

    def map_() -> None:
        p2m.set_entry(0, pages, 1)

    benchmark.pedantic(
        lambda: p2m.set_entry(0, pages, None), setup=map_, rounds=15, warmup_rounds=2
    )
    assert p2m.stats.mappings[3] == 0
    report(pages, limits.read_ns_a_page(pages), "streaming read of the leaves")
