"""Boots of Debian's kernels under the monitor at EL2 (examples/el2_monitor), recorded as they go:
what each flush cleans is held against what the guest itself has touched, and the monitor's rules
against those of the Python VCpu, by a replay of the very boot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from recording.beside import Beside, Judgements
from recording.build import build
from recording.log import convert, save

from p2mfast.experiment import metal
from p2mfast.experiment.metal.run import load_interface
from p2mfast.experiment.replay import Run, replay
from p2mfast.experiment.trace import GuestTrace, load
from p2mfast.units import PAGE_SIZE

pytestmark = pytest.mark.conformance

MEMORY = 512 << 20
GUEST_PAGES = 126_976
"""16 MiB are the monitor's."""
INTERFACE = load_interface()


def is_ram(gfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Of the guest's; else devices."""
    first = INTERFACE["RAM_BASE"] // PAGE_SIZE
    return (gfns >= first) & (gfns < first + GUEST_PAGES)


class Boot(NamedTuple):
    """A boot, what was recorded of it, and what the oracle says."""

    run: metal.MetalRun
    trace: GuestTrace
    judged: Judgements

    def replayed(self) -> Run:
        """The same guest under the Python VCpu, by the same policy."""
        return replay(self.trace, self.run.setup.policy, 0)

    def resolved(self, *, walks: bool) -> set[int]:
        """Pages of the guest's RAM that a stage-2 fault was resolved for: by a walk of the guest's
        own tables, or by an access."""
        log = self.run.faults
        assert len(log) == self.run.traps, "the log of faults is full"
        walked = log["what"] & INTERFACE["FAULT_STAGE1_WALK"] != 0
        return set(log["gfn"][(walked == walks) & is_ram(log["gfn"])].tolist())


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plugin"))


def boot(
    plugin: Path, directory: Path, guest: str, policy: str, vcpus: int = 1, **more: Any
) -> Boot:
    bits = 32 if guest == "linux-armhf" else 64
    beside = Beside(plugin, directory, bits, MEMORY)
    run = metal.run(guest, policy, vcpus, MEMORY, options=["trap-zva"], amend=beside.amend, **more)
    judged = beside.judgements()
    assert run.guest_pages == GUEST_PAGES
    assert [(f.vcpu, f.pages) for f in run.flushes] == [
        (f["vcpu"], f["pages"]) for f in judged.flushes
    ]
    save(directory / "boot.npz", convert(beside.log(), "boot", guest, "QEMU"))
    return Boot(run, load(directory / "boot.npz"), judged)


def test_one_vcpu(plugin: Path, tmp_path: Path) -> None:
    """Nothing goes on beside a flush: it cleans exactly what was touched since the last one, by the
    guest or by the MMU that walked its tables. The replay of the same boot flushes when the monitor
    did, for the same cause, and knows of all these pages but the walks'."""
    booted = boot(plugin, tmp_path, "linux-armhf", "arm=creation-finished")
    assert booted.run.instructions is not None
    assert booted.judged.faults == []
    assert booted.judged.flushes
    for flush in booted.judged.flushes:
        assert flush["pages"] == flush["touched"] + flush["walked"] > flush["written"]
        assert flush["ambiguous"] == flush["aborted"] == flush["untouched"] == 0
    predicted = booted.replayed().flushes
    assert [(f.vcpu, f.cause) for f in booted.run.flushes] == [(f.vcpu, f.cause) for f in predicted]
    assert [f["touched"] for f in booted.judged.flushes] == [f.pages for f in predicted]


@pytest.mark.parametrize("vcpus", [2, 4])
def test_hotplug(plugin: Path, tmp_path: Path, vcpus: int) -> None:
    """CPUs go off and on, and flush, while the others go on: nothing written is missed, and nothing
    is cleaned that nobody asked for."""
    booted = boot(plugin, tmp_path, "linux-armhf", "arm=creation-finished", vcpus, hotplug=3)
    assert booted.judged.faults == []
    assert booted.judged.totals["ambiguous"] == booted.judged.totals["untouched"] == 0
    assert all(cpu.starts == 4 for cpu in booted.run.cpus[1:])
    assert booted.run.cpus_online == (vcpus,) * 4
    for vcpu in range(vcpus):
        monitor = [f.cause for f in booted.run.flushes if f.vcpu == vcpu]
        assert monitor == [f.cause for f in booted.replayed().flushes if f.vcpu == vcpu] != []


def test_what_the_leaf_bit_cleans(plugin: Path, tmp_path: Path) -> None:
    """Xen's test of the leaf's own bit: most of what it cleans nobody touched."""
    booted = boot(plugin, tmp_path, "linux-armhf", "arm=creation-finished,flush=leaf")
    assert booted.judged.faults == []
    for flush in booted.judged.flushes:
        assert flush["pages"] == flush["touched"] + flush["walked"] + flush["untouched"]
        assert flush["untouched"] > 10 * flush["touched"]


def test_a_well_mannered_guest(plugin: Path, tmp_path: Path) -> None:
    """64-bit Linux never asks for a flush, and takes one fault for each page that it touches."""
    booted = boot(plugin, tmp_path, "linux-arm64", "arm=creation-finished")
    assert booted.run.flushes == ()
    assert booted.run.cpus_online == (1,)
    touched = {gfn for gfns, _ in booted.trace.epochs for gfn in gfns.tolist()}
    resolved = booted.resolved(walks=False) | booted.resolved(walks=True)
    assert touched <= resolved
    assert resolved - touched <= booted.resolved(walks=True)
    faults = np.count_nonzero(is_ram(booted.run.faults["gfn"]))
    assert len(resolved) == faults, "a page was resolved twice"


def test_firmware_of_64_bits(plugin: Path, tmp_path: Path) -> None:
    """U-Boot cleans by Set/Way in AArch64; what lies in its flash no recording shows."""
    booted = boot(plugin, tmp_path, "uboot-arm64", "arm=creation-finished")
    assert booted.judged.faults == []
    assert booted.judged.flushes
    for flush in booted.judged.flushes:
        assert flush["pages"] == flush["touched"] + flush["walked"] + flush["elsewhere"]
    assert [(f.vcpu, f.cause) for f in booted.run.flushes] == [
        (f.vcpu, f.cause) for f in booted.replayed().flushes
    ]
