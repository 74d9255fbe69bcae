"""Arming, resolving, flushing and harvesting a guest of 4 GiB in 4 KiB pages."""

from __future__ import annotations

import limits
import numpy as np
import pytest

import p2mfast as pf

PAGES = 1 << 20
SHARES = {"0 %": 0, "1 %": PAGES // 100, "100 %": PAGES}


def guest() -> pf.P2M:
    p2m = pf.P2M(40)
    p2m.set_entry(0, PAGES, 1)
    p2m.invalidate_root()
    return p2m


@pytest.mark.benchmark(group="flush")
@pytest.mark.parametrize("touched", SHARES.values(), ids=SHARES)
@pytest.mark.parametrize("skip", ["path", "leaf"])
def test_flush_after_arming(benchmark, report, skip: str, touched: int) -> None:
    """Finding what to clean; a unit is a page of the guest."""
    p2m = guest()
    p2m.resolve_translation_faults(np.arange(touched, dtype=np.uint64))
    flush = benchmark(p2m.cache_flush_range, 0, PAGES, skip=skip)
    assert flush.pages >= touched
    report(PAGES, limits.read_ns_a_page(PAGES), "streaming read of all leaves")


@pytest.mark.benchmark(group="resolve")
@pytest.mark.parametrize("depth", ["path", "level"])
def test_resolve_first_touch(benchmark, report, depth: str) -> None:
    """Random first touches over 1 GiB; a unit is a page made reachable."""
    p2m = guest()
    gfns = np.random.default_rng(3).permutation(np.arange(1 << 18, dtype=np.uint64))[: 1 << 14]

    def touch() -> None:
        for _ in range(3 if depth == "level" else 1):
            p2m.resolve_translation_faults(gfns, depth=depth)

    def arm() -> None:
        p2m.invalidate_root()
        p2m.drain_events()

    benchmark.pedantic(touch, setup=arm, rounds=15, warmup_rounds=2)
    assert p2m.cache_flush_range(0, PAGES).pages == gfns.size
    report(gfns.size, limits.random_load_ns(1 << 18, gfns.size), "independent loads")


@pytest.mark.benchmark(group="resolve")
def test_resolve_one(benchmark, report) -> None:
    """One resolved fault from Python, nothing left to do."""
    p2m = guest()
    assert benchmark(p2m.resolve_translation_fault, 4321)
    report(1, limits.empty_call_ns(), "an empty C method")


@pytest.mark.benchmark(group="harvest")
@pytest.mark.parametrize("touched", [0, 1000, PAGES], ids=["0", "1000", "all"])
def test_harvest(benchmark, report, touched: int) -> None:
    """Collect and arm; a unit is a page touched, each of the 1,000 in a table of its own (or one
    harvest, where none was)."""
    p2m = guest()
    gfns = np.linspace(0, PAGES - 1, touched, dtype=np.uint64) if touched else np.empty(0, "u8")

    def touch() -> None:
        p2m.resolve_translation_faults(gfns)
        p2m.drain_events()

    flush = benchmark.pedantic(p2m.harvest, setup=touch, rounds=9, warmup_rounds=1)
    assert flush.pages == touched
    limit, words = {
        0: (limits.memset_ns_a_page(1024) * 1024, "memset of two root tables"),
        1000: (limits.read_ns_a_page(1000 * 512) * 512, "streaming read of a table"),
        PAGES: (limits.read_ns_a_page(PAGES), "streaming read of a leaf"),
    }[touched]
    report(max(touched, 1), limit, words)


@pytest.mark.benchmark(group="invalidate-root")
def test_invalidate_root(benchmark, report) -> None:
    p2m = guest()
    benchmark(p2m.invalidate_root)
    report(1, limits.memset_ns_a_page(1024) * 1024, "memset of two root tables")
