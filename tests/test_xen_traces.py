"""Every recorded operation sequence of the real Xen code agrees, bit for bit."""

from __future__ import annotations

import hashlib

import pytest
import xen_traces

import p2mfast as pf


@pytest.mark.parametrize("name", sorted(xen_traces.archive()))
def test_trace(name: str) -> None:
    trace = xen_traces.archive()[name]
    final = trace["final"]
    p2m = pf.P2M(ipa_bits=trace["ipa_bits"])
    assert (p2m.root_level, p2m.root_pages) == (trace["root_level"], trace["root_pages"])
    player = xen_traces.Player(p2m)
    for op in trace["ops"]:
        player.play(op)

    entries = xen_traces.canonical_entries(p2m)
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


def test_preemption_trace() -> None:
    """Xen's preemption: where each cut-off flush stops, and what it had cleaned."""
    trace = xen_traces.preemption_trace()
    player = xen_traces.Player(pf.P2M(ipa_bits=trace["ipa_bits"]))
    for op in trace["ops"]:
        player.play(op)
    assert player.p2m.check() == []
