"""Reads the recorded operation sequences of the real Xen code, and runs one on a P2M.

The format is `FORMAT.md` in data/xen_traces.tar.xz: a list of operations with what was observed,
and the final state.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
from functools import cache
from pathlib import Path

import numpy as np

import p2mfast as pf

DATA = Path(__file__).parent / "data"

EILSEQ = -84
ERESTART = -85
WHOLE = 2**52


@cache
def archive() -> dict[str, dict]:
    with tarfile.open(DATA / "xen_traces.tar.xz") as tar:
        return {
            Path(member.name).stem: json.load(tar.extractfile(member))
            for member in tar.getmembers()
            if member.name.endswith(".json")
        }


def mem_access_traces() -> dict[str, dict]:
    """By name: 58_preempt, whose flushes are preempted, and two sequences of mem_access."""
    with lzma.open(DATA / "xen_mem_access.json.xz") as file:
        return json.load(file)


def number(value: int | str | None) -> int | None:
    """Numbers beyond 2**53 are hexadecimal strings."""
    return int(value, 16) if isinstance(value, str) else value


def mfns_of(runs: np.ndarray) -> np.ndarray:
    """The machine frames of runs, one by one, in the order of a flush."""
    if not len(runs):
        return np.empty(0, np.uint64)
    return np.concatenate([run["mfn"] + np.arange(run["nr"], dtype=np.uint64) for run in runs])


def digest(mfns: np.ndarray) -> str:
    return hashlib.sha256(mfns.astype("<u8").tobytes()).hexdigest()


def canonical_entries(p2m: pf.P2M) -> list[tuple[int, int, int]]:
    """`entries` as the traces have them: the address of table pointers is ours to choose."""
    entries = p2m.entries()
    raw = entries["raw"].copy()
    is_table = (entries["level"] < 3) & (raw & 2 != 0) & (raw & (0xF << 55) != 0)
    raw[is_table] &= ~np.uint64(0x0000_FFFF_FFFF_F000)
    return sorted(
        zip(entries["level"].tolist(), entries["gfn"].tolist(), raw.tolist(), strict=True)
    )


class Player:
    """Performs recorded operations on a P2M; each returns what is to be compared, as
    (observed, expected)."""

    def __init__(self, p2m: pf.P2M) -> None:
        self.p2m = p2m

    def play(self, op: dict) -> None:
        before = self.p2m.stats.tlb_flushes
        getattr(self, op["op"])(op)
        flushes = self.p2m.stats.tlb_flushes - before
        recorded = op.get("tlb_flushes", op.get("tlb"))
        if recorded is None:
            return
        if op["op"] in ("set_entry", "remove_mapping", "relinquish"):
            assert flushes <= recorded
            assert (flushes > 0) == (recorded > 0)
        else:
            assert flushes == recorded

    def set_entry(self, op: dict) -> None:
        assert op["rc"] == 0
        self.p2m.set_entry(
            op["gfn"],
            op["nr"],
            number(op["mfn"]),
            type=pf.P2MType[op["type"].upper()],
            access=pf.Access[op.get("access", "rwx").upper()],
        )

    insert = set_entry  # without an access: rwx

    def mem_access(self, op: dict) -> None:
        self.p2m.enable_mem_access(op["enabled"])
        assert self.p2m.mem_access_enabled == op["enabled"]

    def remove_mapping(self, op: dict) -> None:
        try:
            self.p2m.remove_mapping(op["gfn"], op["nr"], op["mfn"])
            rc = 0
        except pf.MappingMismatch:
            rc = EILSEQ
        assert rc == op["rc"]

    def get_entry(self, op: dict) -> None:
        entry = self.p2m.get_entry(op["gfn"])
        observed = (entry.mfn, entry.type.name.lower(), entry.order, entry.valid)
        assert observed == (op["mfn"], op["type"], op["order"], op["valid"])
        if "access" in op:
            access = None if entry.access is None else entry.access.name.lower()
            assert access == op["access"]
        row = self.p2m.get_entries([op["gfn"]])[0]
        assert int(row["access"]) == (0xFF if entry.access is None else entry.access)
        assert (int(row["order"]), bool(row["valid"])) == (op["order"], op["valid"])

    def invalidate_root(self, op: dict) -> None:
        self.p2m.invalidate_root()

    def resolve_translation_fault(self, op: dict) -> None:
        resolved = self.p2m.resolve_translation_fault(op["gfn"], depth="level")
        assert resolved == op["resolved"]

    resolve_fault = resolve_translation_fault

    def cache_flush_range(self, op: dict) -> None:
        end = min(number(op["end"]), WHOLE)
        budget = 512 if op.get("softirq") else None
        flush = self.p2m.cache_flush_range(number(op["start"]), end, skip="leaf", budget=budget)
        mfns = mfns_of(flush.runs)
        assert flush.done == (op["rc"] == 0)
        assert op["rc"] in (0, ERESTART)
        assert flush.next_gfn == number(op.get("start_out", op.get("next_start")))
        assert flush.pages == len(mfns) == op.get("pages", op.get("flushed_count"))
        if "mfns" in op:
            assert mfns.tolist() == op["mfns"]
        else:
            assert digest(mfns) == op.get("sha256", op.get("flushed_sha256"))

    def relinquish(self, op: dict) -> None:
        assert op["rc"] == 0
        assert self.p2m.relinquish()


def play_whole(name: str) -> None:
    """A recorded life from creation to its final state: every answer and every descriptor."""
    trace = archive()[name]
    final = trace["final"]
    p2m = pf.P2M(ipa_bits=trace["ipa_bits"])
    assert (p2m.root_level, p2m.root_pages) == (trace["root_level"], trace["root_pages"])
    player = Player(p2m)
    for op in trace["ops"]:
        player.play(op)

    entries = canonical_entries(p2m)
    assert len(entries) == final["entries_count"]
    if "entries" in final:
        assert entries == [(level, gfn, int(raw, 16)) for level, gfn, raw in final["entries"]]
    lines = "".join(f"{level} {gfn} {raw:#018x}\n" for level, gfn, raw in entries)
    assert hashlib.sha256(lines.encode()).hexdigest() == final["entries_sha256"]
    assert list(p2m.stats.mappings) == final["mappings"]
    assert list(p2m.stats.shattered) == final["shattered"]
    assert p2m.stats.tables == final["tables"]
    assert p2m.lowest_mapped_gfn == final["lowest_mapped_gfn"]
    assert p2m.max_mapped_gfn == final["max_mapped_gfn"]
    assert p2m.check() == []
