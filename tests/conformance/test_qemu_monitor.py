"""The monitor's traps on a core: two small guests, that a boot of Linux does not replace. One shows
whether TLBs are invalidated, the other one looks at what the monitor makes of its 32-bit traps."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.stub_machine import (
    DATA,
    ENTRY,
    INTERFACE,
    MONITOR_BASE,
    Outcome,
    build_monitor,
    build_stub,
    run,
)

pytestmark = pytest.mark.conformance

PAGES = 5
CODE = ENTRY >> 12
TABLE = CODE + 1
FETCH, WRITE, WALK = (INTERFACE[f"FAULT_{name}"] for name in ("FETCH", "WRITE", "STAGE1_WALK"))


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitor")


@pytest.fixture(scope="module")
def monitor(build: Path) -> Path:
    return build_monitor(build)


# ---- TLB invalidation ----


def touch(build: Path, monitor: Path, options: int) -> tuple[list[tuple[int, int]], list[set[int]]]:
    """stub.S: the stage-2 faults that were resolved, and the pages that each flush cleaned."""
    outcome = run(
        build,
        monitor,
        build_stub(build, 64),
        guest_bits=64,
        registers=(DATA, PAGES, 0, 0),
        options=options,
    )
    assert outcome.state == "powered-off"
    faults = [(int(f["gfn"]), int(f["what"]) & (FETCH | WRITE | WALK)) for f in outcome.faults]
    causes = [INTERFACE.name_of("CAUSE_", int(flush["cause"])) for flush in outcome.flushes]
    assert causes == ["set-way", "cache-toggle"]
    return faults, [cleaned(outcome, number) for number in range(2)]


def cleaned(outcome: Outcome, number: int) -> set[int]:
    record = outcome.flushes[number]
    first, n = int(record["first_run"]), int(record["runs"])
    pages = [
        int(run["gfn"]) + i
        for run in outcome.runs[first : first + n]
        for i in range(int(run["nr"]))
    ]
    assert len(set(pages)) == len(pages) == record["pages"]
    return set(pages)


def test_what_was_armed_faults_again(build: Path, monitor: Path) -> None:
    """By the TLB invalidation that goes with arming; and so a flush cleans all that was written
    since the last one. Without the invalidation it does not: the guest writes by the core's old
    entries, no fault tells of it, and the next flush finds nothing."""
    touched = [(CODE, FETCH), *(((DATA >> 12) + i, WRITE) for i in range(PAGES))]
    end = [(TABLE, FETCH | WALK), (CODE, FETCH)]  # the next fetch, by way of stage 1
    pages = {gfn for gfn, _ in touched}

    faults, flushed = touch(build, monitor, 0)
    assert faults == touched * 2 + end
    assert flushed == [pages, pages]

    faults, flushed = touch(build, monitor, INTERFACE["OPTION_NO_TLBI"])
    assert faults == touched + end
    assert flushed == [pages, set()]


# ---- Traps of a 32-bit guest ----


def watch_traps(build: Path, monitor: Path, refused: bool) -> Outcome:
    outcome = run(
        build,
        monitor,
        build_stub(build, 32),
        guest_bits=32,
        registers=(DATA, MONITOR_BASE, refused, 0),
        iommu_shared=refused,
    )
    assert outcome.state == "powered-off"
    passed, got, wanted, finished, *_ = outcome.bytes(DATA, 64).view("<u4").tolist()
    assert finished == 1, f"check {passed + 1} of stub32.s: {got:#x}, not {wanted:#x}"
    return outcome


def test_traps_of_a_32_bit_guest(build: Path, monitor: Path) -> None:
    outcome = watch_traps(build, monitor, refused=False)
    counted = outcome.report["vcpu"][0]
    assert counted["set_ways"] == 3
    assert counted["vm_registers"] == int(outcome.bytes(DATA + 16, 4).view("<u4")[0]) > 20
    assert counted["injected"] == 6  # a load in Arm and in Thumb code and a fetch, twice
    assert [INTERFACE.name_of("CAUSE_", int(f["cause"])) for f in outcome.flushes] == ["set-way"]


def test_undefined_instructions_of_a_32_bit_guest(build: Path, monitor: Path) -> None:
    outcome = watch_traps(build, monitor, refused=True)
    counted = outcome.report["vcpu"][0]
    assert (counted["set_ways"], counted["injected"], len(outcome.flushes)) == (2, 2, 0)
