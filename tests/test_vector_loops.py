"""Every set of vector loops that this machine runs gives the same descriptors and the same runs:
those of the raw tables, and of the recorded Xen sequences."""

from __future__ import annotations

import ctypes
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


# ---- Batches: whatever their length and order, each result is that of a single look-up, which
# others check against Xen's traces and Unicorn's MMU. ----


def mixed_guest(ipa_bits: int, tables: int) -> pf.P2M:
    """Pages, blocks of 2 MiB and of 1 GiB, holes at each level and armed stretches of every type;
    then single pages until there are more than `tables` last tables."""
    rng = np.random.default_rng(ipa_bits)
    p2m = pf.P2M(ipa_bits)
    p2m.set_entry(0, 3 << 18, 5 << 18)
    p2m.set_entry(4 << 18, 1 << 18, 1 << 18, max_order=9)
    for _ in range(300):
        gfn, nr = int(rng.integers(0, 6 << 18)), int(rng.choice([1, 3, 64, 600]))
        kind, access = pf.P2MType(int(rng.integers(1, 12))), pf.Access(int(rng.integers(0, 8)))
        mfn = None if rng.random() < 0.3 else int(rng.integers(1 << 30))
        p2m.set_entry(gfn, nr, mfn, type=kind, access=access, armed=bool(rng.random() < 0.3))
    p2m.set_entry(7 << 18, 3000, 7)  # and nothing makes the root's entry valid again
    p2m.invalidate_root()
    p2m.resolve_translation_faults(rng.integers(0, 6 << 18, 500, dtype=np.uint64))
    p2m.set_entry(5 << 18, 2000, 7, armed=True)
    p2m.set_entry(0, 1, 99)
    p2m.resolve_translation_fault(0)
    if tables:
        one_a_table = np.arange(tables + 1000, dtype=np.uint64) * np.uint64(512) + np.uint64(
            8 << 18
        )
        p2m.set_entries(one_a_table, one_a_table)
    return p2m


def spoil_pointers(p2m: pf.P2M) -> None:
    """Table pointers as no operation writes them: outside the table memory, in another tree's
    attributes, beyond the physical addresses; without ever being followed wrongly."""
    frames = (p2m.tables & np.uint64(0xFFFF_FFFF_F000)) >> np.uint64(12)
    leads_in = frames - np.uint64(p2m.table_base_mfn) < len(p2m.tables)
    row = int(leads_in.sum(axis=1).argmax())  # a table of level 2
    pointers = np.flatnonzero(leads_in[row])
    words = (ctypes.c_uint64 * 512).from_address(p2m.tables[row].ctypes.data)
    for i, change in enumerate((1 << 30, 1 << 10, 1 << 47, 0xF << 2, 1 << 62, 1 << 59, 1, 1 << 2)):
        words[pointers[i]] ^= change


def keys_for(p2m: pf.P2M, rng: np.random.Generator, n: int) -> np.ndarray:
    """Scattered, in stretches that cross tables, beyond the highest mapped page, all in one."""
    top = p2m.max_mapped_gfn + 5000
    scattered = rng.integers(0, top, n, dtype=np.uint64)
    dense = rng.integers(0, 8 << 18, n, dtype=np.uint64)
    stretch = (int(rng.integers(0, top)) + np.arange(n, dtype=np.uint64)) % np.uint64(top)
    choice = rng.integers(0, 4)
    keys = [scattered, dense, stretch, np.where(rng.random(n) < 0.5, dense, stretch)][choice]
    return keys % np.uint64(1 << p2m.ipa_bits - 12)


def single_entry(p2m: pf.P2M, gfn: int) -> tuple[int, ...]:
    entry = p2m.get_entry(gfn)
    return (
        pf.INVALID_MFN if entry.mfn is None else entry.mfn,
        entry.type,
        entry.order,
        entry.valid,
        entry.reachable,
        0xFF if entry.access is None else entry.access,
    )


def single_translation(p2m: pf.P2M, ipa: int, access: str) -> tuple[int, ...]:
    try:
        result = p2m.translate(ipa, access)
    except pf.Stage2Fault as fault:
        return (0, 0, fault.level, fault.kind)
    return (result.pa, result.attrs, result.level, 0)


# More last tables than those whose level-2 words fit a core's cache (csrc/batch.c, FEW_TABLES).
@pytest.mark.parametrize(
    ("ipa_bits", "tables"), [(32, 0), (40, 0), (40, 70_000), (48, 0), (48, 70_000)]
)
def test_batches_give_what_single_lookups_give(ipa_bits: int, tables: int) -> None:
    rng = np.random.default_rng(11)
    p2m = mixed_guest(ipa_bits, tables) if ipa_bits > 32 else pf.P2M(32)
    if ipa_bits == 32:
        p2m.set_entry(5, 70_000, 9, access=pf.Access.RX)
    assert p2m.stats.tables > tables
    if ipa_bits > 32:
        spoil_pointers(p2m)
    for n in (0, 1, 2, 63, 64, 65, 128, 767, 768, 769, 2500):
        gfns = keys_for(p2m, rng, n)
        entries = p2m.get_entries(gfns)
        assert [tuple(entry)[:6] for entry in entries.tolist()] == [
            single_entry(p2m, gfn) for gfn in gfns.tolist()
        ]
        ipas = gfns * np.uint64(4096) + rng.integers(0, 4096, n, dtype=np.uint64)
        if n > 64:
            ipas[n // 2] = 1 << p2m.ipa_bits  # beyond the space, page 0 but for that
        for access in ("r", "w", "rx"):
            results = p2m.translate_many(ipas, access)
            assert [tuple(result)[:4] for result in results.tolist()] == [
                single_translation(p2m, ipa, access) for ipa in ipas.tolist()
            ]
