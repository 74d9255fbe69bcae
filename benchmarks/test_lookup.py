"""Look-ups, one at a time and in batches."""

from __future__ import annotations

import limits
import numpy as np
import pytest

import p2mfast as pf

SIZES = {"in-cache": 1 << 15, "from-memory": 1 << 23}
BATCH = 1 << 16


def mapped(pages: int) -> pf.P2M:
    p2m = pf.P2M(40)
    p2m.set_entry(0, pages, 1)
    return p2m


@pytest.mark.benchmark(group="get-entry")
def test_get_entry(benchmark, report) -> None:
    """One look-up from Python."""
    p2m = mapped(1 << 15)
    entry = benchmark(p2m.get_entry, 12345)
    assert entry.mfn == 12346
    report(1, limits.empty_call_ns(), "an empty C method")


@pytest.mark.benchmark(group="get-entries")
def test_get_entries_of_16(benchmark, report) -> None:
    """A small batch: mostly the boundary between Python and C."""
    p2m = mapped(1 << 15)
    gfns = np.arange(16, dtype=np.uint64) * np.uint64(100)
    out = p2m.get_entries(gfns)
    benchmark(p2m.get_entries, gfns, out=out)
    report(16, limits.empty_call_ns() / 16, "an empty C method, shared by 16")


@pytest.mark.benchmark(group="get-entries")
@pytest.mark.parametrize("pages", SIZES.values(), ids=SIZES)
def test_get_entries_sequential(benchmark, report, pages: int) -> None:
    p2m = mapped(pages)
    gfns = np.arange(min(pages, BATCH), dtype=np.uint64)
    out = p2m.get_entries(gfns)
    benchmark(p2m.get_entries, gfns, out=out)
    assert (out["mfn"] == gfns + np.uint64(1)).all()
    report(gfns.size, limits.read_ns_a_page(pages), "streaming read")


@pytest.mark.benchmark(group="get-entries")
@pytest.mark.parametrize("pages", SIZES.values(), ids=SIZES)
def test_get_entries_random(benchmark, report, pages: int) -> None:
    p2m = mapped(pages)
    gfns = np.random.default_rng(2).integers(0, pages, BATCH, dtype=np.uint64)
    out = p2m.get_entries(gfns)
    benchmark(p2m.get_entries, gfns, out=out)
    assert (out["mfn"] == gfns + np.uint64(1)).all()
    report(gfns.size, limits.random_load_ns(pages, BATCH), "independent loads")


@pytest.mark.benchmark(group="translate")
@pytest.mark.parametrize("pages", SIZES.values(), ids=SIZES)
def test_translate_random(benchmark, report, pages: int) -> None:
    p2m = mapped(pages)
    gfns = np.random.default_rng(2).integers(0, pages, BATCH, dtype=np.uint64)
    ipas = gfns << np.uint64(12)
    out = p2m.translate_many(ipas)
    benchmark(p2m.translate_many, ipas, out=out)
    assert (out["pa"] == ipas + np.uint64(4096)).all()
    report(gfns.size, limits.random_load_ns(pages, BATCH), "independent loads")
