"""A strange guest under the monitor of examples/el2_monitor: calls that would take EL2 from it, and
accesses to what is not the guest's. The monitor answers, and goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from conformance.stub_machine import DATA, ENTRY, MONITOR_BASE, build_monitor, run

pytestmark = pytest.mark.conformance

HERE = Path(__file__).parent
SMC, HVC, LOAD, STORE, FETCH, WALK = range(6)

HOLE = 0x0E00_0000  # no device is there
UART = 0x0900_0000
BEYOND = 1 << 40  # IPAs end here
VALID_TABLE = 3

SUCCESS, NOT_SUPPORTED, INVALID_PARAMETERS, ALREADY_ON = 0, -1, -2, -4
ON_PENDING = -5
VERSION_1_1 = 0x1_0001
PSCI_32, PSCI_64 = 0x8400_0000, 0xC400_0000
SUSPEND, ON, AFFINITY, DEFAULT_SUSPEND, FEATURES, SYSTEM_SUSPEND = 1, 3, 4, 12, 10, 14

EXTERNAL = 0x10
DATA_ABORT = 0x25 << 26 | 1 << 25 | EXTERNAL
FETCH_ABORT = 0x21 << 26 | 1 << 25 | EXTERNAL
VIRTUAL = 0x8000_0000


class Answer(NamedTuple):
    result: int
    esr: int
    far: int


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("monitor")


def assemble(build: Path, name: str) -> Path:
    """The flat binary of a guest of ours."""
    built, binary = build / f"{name}.o", build / f"{name}.bin"
    source = HERE / f"{name}.S"
    subprocess.run(["aarch64-linux-gnu-gcc", "-c", source, "-o", built], check=True)
    subprocess.run(["aarch64-linux-gnu-objcopy", "-O", "binary", built, binary], check=True)
    return binary


def ask(build: Path, things: Sequence[tuple[int, ...]]) -> list[Answer]:
    """What comes of each: a kind and up to four values."""
    binary = assemble(build, "strange")
    values = np.zeros((len(things), 5), "<u8")
    for row, thing in zip(values, things, strict=True):
        row[: len(thing)] = thing
    with binary.open("ab") as file:
        file.write(values.tobytes())
    outcome = run(
        build, build_monitor(build), binary, guest_bits=64, registers=(DATA, len(things), 0, 0)
    )
    assert outcome.state == "powered-off"
    answers = outcome.bytes(DATA, 24 * len(things)).view("<i8").reshape(-1, 3).tolist()
    return [Answer(*answer) for answer in answers]


def test_calls(build: Path) -> None:
    """None but CPU_ON tells the firmware where to go on, and that only of a vCPU of ours: whatever
    else it starts or wakes it would start at EL2."""
    there = ENTRY
    calls = {
        (PSCI_32,): VERSION_1_1,
        # The upper half of X0 is no part of the function's number.
        (1 << 32 | PSCI_32,): VERSION_1_1,
        (1 << 32 | PSCI_64 | ON, 0, there): ALREADY_ON,
        (PSCI_64 | ON, 0, there): ALREADY_ON,
        (PSCI_32 | ON, 1 << 40, there): ALREADY_ON,  # its arguments are 32 bits wide
        (PSCI_64 | ON, 1, there): INVALID_PARAMETERS,
        (PSCI_64 | ON, 1 << 8, there): INVALID_PARAMETERS,
        (PSCI_64 | ON, 2**64 - 1, there): INVALID_PARAMETERS,
        (PSCI_64 | AFFINITY, 0): 0,  # on
        (PSCI_64 | AFFINITY, 1): INVALID_PARAMETERS,
        (PSCI_64 | DEFAULT_SUSPEND, there): NOT_SUPPORTED,
        (PSCI_64 | SYSTEM_SUSPEND, there): NOT_SUPPORTED,
        (PSCI_64,): NOT_SUPPORTED,  # has no 64-bit form
        (PSCI_32 | 31,): NOT_SUPPORTED,
        (PSCI_32 | FEATURES, PSCI_64 | ON): SUCCESS,
        (PSCI_32 | FEATURES, PSCI_64 | SUSPEND): SUCCESS,
        (PSCI_32 | FEATURES, PSCI_64 | SYSTEM_SUSPEND): NOT_SUPPORTED,
        (PSCI_32 | FEATURES, 0x8000_0000): NOT_SUPPORTED,  # SMCCC_VERSION
        (0x8000_0000,): NOT_SUPPORTED,
        (PSCI_64 | 32,): NOT_SUPPORTED,  # SDEI's
        (0xC200_0001,): NOT_SUPPORTED,
        (2**64 - 1,): NOT_SUPPORTED,
    }
    answers = ask(build, [(SMC, *call) for call in calls])
    assert [(answer.result, answer.esr) for answer in answers] == [(n, 0) for n in calls.values()]
    assert [a.result for a in ask(build, [(HVC, PSCI_32), (HVC, 0)])] == [NOT_SUPPORTED] * 2


def test_accesses(build: Path) -> None:
    """Aborts of the guest's own, where it has no memory or must not fetch."""
    data = [(kind, address) for kind in (LOAD, STORE) for address in (MONITOR_BASE, BEYOND)]
    data.append((LOAD, HOLE))  # of which the core tells by itself
    fetches = [(FETCH, address) for address in (MONITOR_BASE, BEYOND, HOLE, UART)]
    assert [answer[1:] for answer in ask(build, data + fetches)] == [
        *((DATA_ABORT, address) for _, address in data),
        *((FETCH_ABORT, address) for _, address in fetches),
    ]


def test_walks(build: Path) -> None:
    """Tables of stage 1 where none can be."""
    for place in (MONITOR_BASE, HOLE):
        (answer,) = ask(build, [(WALK, place | VALID_TABLE)])
        assert answer.esr >> 26 == DATA_ABORT >> 26
        assert answer.far == VIRTUAL


def test_a_vcpu_turned_on_twice_at_once(build: Path) -> None:
    """The second one is refused, and changes nothing of the first one."""
    times, first = 20, 0x1111
    outcome = run(
        build,
        build_monitor(build),
        assemble(build, "twice"),
        guest_bits=64,
        vcpus=2,
        registers=(DATA, times, 0, 0),
    )
    assert outcome.state == "powered-off"
    said = outcome.bytes(DATA, 24 * times).view("<i8").reshape(-1, 3)
    assert set(said[:, 1].tolist()) <= {ON_PENDING, ALREADY_ON}
    assert (said[:, [0, 2]] == (SUCCESS, first)).all()
    assert outcome.report["vcpu"]["starts"].tolist()[:2] == [1, times]
