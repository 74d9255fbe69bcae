"""Every recorded operation sequence of the real Xen code agrees, bit for bit."""

from __future__ import annotations

import pytest
import xen_traces

import p2mfast as pf


@pytest.mark.parametrize("name", sorted(xen_traces.archive()))
def test_trace(name: str) -> None:
    xen_traces.play_whole(name)


@pytest.mark.parametrize("name", sorted(xen_traces.mem_access_traces()))
def test_mem_access_and_preemption(name: str) -> None:
    """Where each cut-off flush of Xen's stops, and what it had cleaned; what access each page has
    while mem_access is on, off and on again."""
    trace = xen_traces.mem_access_traces()[name]
    final = trace["final"]
    player = xen_traces.Player(pf.P2M(ipa_bits=trace["ipa_bits"]))
    for op in trace["ops"]:
        player.play(op)
    p2m = player.p2m
    assert p2m.check() == []
    recorded = [(level, gfn, int(raw, 16)) for level, gfn, raw in final["leaves_and_tables"]]
    assert xen_traces.canonical_entries(p2m) == sorted(recorded)
    assert list(p2m.stats.shattered) == final["shattered"]
    assert (p2m.lowest_mapped_gfn, p2m.max_mapped_gfn) == (
        final["lowest_mapped_gfn"],
        final["max_mapped_gfn"],
    )
