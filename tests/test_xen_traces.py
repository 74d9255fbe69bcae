"""Every recorded operation sequence of the real Xen code agrees, bit for bit."""

from __future__ import annotations

import pytest
import xen_traces

import p2mfast as pf


@pytest.mark.parametrize("name", sorted(xen_traces.archive()))
def test_trace(name: str) -> None:
    xen_traces.play_whole(name)


def test_preemption_trace() -> None:
    """Xen's preemption: where each cut-off flush stops, and what it had cleaned."""
    trace = xen_traces.preemption_trace()
    player = xen_traces.Player(pf.P2M(ipa_bits=trace["ipa_bits"]))
    for op in trace["ops"]:
        player.play(op)
    assert player.p2m.check() == []
