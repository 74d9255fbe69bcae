"""Boots of Linux under the monitor at EL2 (examples/el2_monitor), judged: what its flushes clean is
held against what the guest itself has touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from recording.beside import Beside, Judgements
from recording.build import build

from p2mfast.experiment import metal

pytestmark = pytest.mark.conformance

MEMORY = 512 << 20


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plugin"))


def boot(
    plugin: Path, directory: Path, policy: str, vcpus: int
) -> tuple[metal.MetalRun, Judgements]:
    beside = Beside(plugin, directory, 32, MEMORY)
    done = metal.run(
        "linux-armhf",
        policy,
        vcpus,
        MEMORY,
        hotplug=3 if vcpus > 1 else 0,
        options=["trap-zva"],
        amend=beside.amend,
    )
    judged = beside.judgements()
    assert [(f.vcpu, f.pages) for f in done.flushes] == [
        (f["vcpu"], f["pages"]) for f in judged.flushes
    ]
    return done, judged


def test_one_vcpu(plugin: Path, tmp_path: Path) -> None:
    """Nothing goes on beside a flush: it cleans exactly what was touched."""
    _, judged = boot(plugin, tmp_path, "flush=harvest", 1)
    assert judged.faults == []
    assert judged.flushes
    for flush in judged.flushes:
        assert flush["pages"] == flush["touched"] + flush["walked"] > flush["written"]
        assert flush["ambiguous"] == flush["aborted"] == flush["untouched"] == 0


@pytest.mark.parametrize("vcpus", [2, 4])
def test_hotplug(plugin: Path, tmp_path: Path, vcpus: int) -> None:
    """CPUs go off and on, and flush, while the others go on: nothing written is missed, and nothing
    is cleaned that nobody asked for."""
    done, judged = boot(plugin, tmp_path, "flush=harvest", vcpus)
    assert judged.faults == []
    assert judged.totals["ambiguous"] == judged.totals["untouched"] == 0
    assert {flush["vcpu"] for flush in judged.flushes} == set(range(vcpus))
    assert all(cpu.starts == 4 for cpu in done.cpus[1:])


def test_what_the_leaf_bit_cleans(plugin: Path, tmp_path: Path) -> None:
    """Xen's test of the leaf's own bit: most of what it cleans nobody touched."""
    _, judged = boot(plugin, tmp_path, "flush=leaf", 1)
    assert judged.faults == []
    for flush in judged.flushes:
        assert flush["pages"] == flush["touched"] + flush["walked"] + flush["untouched"]
        assert flush["untouched"] > 10 * flush["touched"]
