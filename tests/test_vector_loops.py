"""Every set of vector loops that this machine runs gives the same descriptors and the same runs:
those of the raw tables, and of the recorded Xen sequences."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import raw_tables
import xen_traces

import p2mfast as pf


def created_under(name: str) -> str:
    before = os.environ.get("P2MFAST_VEC")
    os.environ["P2MFAST_VEC"] = name
    try:
        return pf.P2M(32).vector_loops
    finally:
        if before is None:
            del os.environ["P2MFAST_VEC"]
        else:
            os.environ["P2MFAST_VEC"] = before


# A machine without an instruction set gives the next best: each is tested once.
LOOPS = sorted({created_under(name) for name in ("portable", "avx2", "x86-64-v4")})


@pytest.fixture(params=LOOPS, autouse=True)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("P2MFAST_VEC", request.param)
    assert pf.P2M().vector_loops == request.param
    return request.param


def test_the_portable_loops_are_always_there() -> None:
    assert "portable" in LOOPS


@pytest.mark.parametrize("name", sorted(xen_traces.archive()))
def test_recorded_sequences(name: str) -> None:
    xen_traces.play_whole(name)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.002, 0.5, 0.97, 1.0])
def test_runs_of_a_random_guest(seed: int, share: float) -> None:
    """Mappings of every type, contiguous and scattered, touched at random; flushes of whole and of
    partial tables, and a harvest."""
    rng = np.random.default_rng(seed)
    p2m = pf.P2M(40)
    at = int(rng.integers(0, 700))
    while at < 20_000:
        nr = int(rng.choice([1, 2, 63, 64, 65, 511, 512, 700, 3000]))
        mfn = int(rng.choice([at + 5, 1 << 20, int(rng.integers(1 << 30))]))
        p2m.set_entry(at, nr, mfn, type=pf.P2MType(int(rng.integers(1, 12))), max_order=0)
        at += nr + int(rng.choice([0, 0, 1, 200]))
    p2m.invalidate_root()
    gfns = rng.permutation(at)[: int(share * at)]
    p2m.resolve_translation_faults(gfns)
    reachable = raw_tables.reachable_ram(p2m)
    for start, end in [(0, at), *np.sort(rng.integers(0, at, (20, 2))).tolist()]:
        inside = [block for block in reachable if start <= block[0] < end]
        runs = p2m.cache_flush_range(start, end).runs.tolist()
        assert runs == raw_tables.coalesce(inside)
    everything = p2m.cache_flush_range(0, at, skip="none")
    mapped = p2m.mapped_runs()
    ram = mapped[np.isin(mapped["type"], [1, 2, 6, 7, 8, 9])]
    assert everything.pages == ram["nr"].sum()
    assert p2m.harvest().runs.tolist() == raw_tables.coalesce(reachable)
    assert raw_tables.reachable_ram(p2m) == []
    assert p2m.check() == []
