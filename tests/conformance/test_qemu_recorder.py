"""tools/qemu-recorder on programs of our own, whose traces can be told by reading them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from recording.build import build
from recording.log import convert, save
from recording.machine import Guest, record

from p2mfast.experiment.trace import GuestTrace, Kind, load

pytestmark = pytest.mark.conformance

HERE = Path(__file__).parent
BASE = 0x4020_0000
CODE, TABLE, ELSEWHERE, DATA = 0x40200, 0x40201, 0x40202, 0x40300
COUNTER = 0x40340
SPREAD, SPREAD_STEP, SHARED_PAGES = 0x48000, 0x400, 16
BATCHES = 200
R, W, X = 1, 2, 4
CACHES_ON, CACHES_OFF = 0x30D0_0805, 0x30D0_0800

Event = tuple[Kind, int, int, tuple[int, int, int]]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("program")
    elf, raw = directory / "recorded.elf", directory / "recorded.bin"
    options = f"-nostdlib -static -Wl,--build-id=none -Wl,-Ttext={BASE:#x}"
    source = str(HERE / "recorded.S")
    subprocess.run(["aarch64-linux-gnu-gcc", *options.split(), "-o", str(elf), source], check=True)
    subprocess.run(
        ["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", str(elf), str(raw)], check=True
    )
    return raw


def traced(plugin: Path, guest: Guest, out: Path, *, check: bool) -> GuestTrace:
    log = record(guest, plugin, timeout=120, check=check)
    assert log.header["unresolved"] == 0
    save(out, convert(log, "test", "ours", "QEMU"))
    return load(out)


def bare(raw: Path, entry: int, bits: int, smp: int = 1, thread: str = "multi") -> Guest:
    qemu, cpu = {
        32: ("qemu-system-arm", "cortex-a15"),
        64: ("qemu-system-aarch64", "cortex-a53"),
    }[bits]
    options = [
        *("-device", f"loader,file={raw},addr={BASE:#x},force-raw=on"),
        *("-device", f"loader,addr={entry:#x},cpu-num=0"),
    ]
    return Guest(qemu, bits, cpu, smp, 512 << 20, options, thread)


def events(trace: GuestTrace) -> list[Event]:
    return [
        (
            Kind(entry["kind"]),
            int(entry["vcpu"]),
            int(entry["value"]),
            (int(entry["isw"]), int(entry["csw"]), int(entry["cisw"])),
        )
        for entry in trace.timeline
    ]


def event(kind: Kind, value: int = 0, set_way: tuple[int, int, int] = (0, 0, 0)) -> Event:
    return kind, 0, value, set_way


def pages(trace: GuestTrace) -> list[dict[int, int]]:
    return [dict(zip(g.tolist(), a.tolist(), strict=True)) for g, a in trace.epochs]


TOUCHED = event(Kind.TOUCHED)


@pytest.mark.parametrize("thread", ["multi", "single"])
@pytest.mark.parametrize("check", [True, False])
def test_every_kind_of_access_and_event(
    plugin: Path, program: Path, tmp_path: Path, thread: str, check: bool
) -> None:
    guest = bare(program, BASE, 64, thread=thread)
    trace = traced(plugin, guest, tmp_path / "t.npz", check=check)
    assert events(trace) == [
        TOUCHED,
        event(Kind.SET_WAY, set_way=(3, 1, 1)),
        event(Kind.VM_REG),  # TTBR0_EL1
        event(Kind.VM_REG),  # MAIR_EL1
        event(Kind.VM_REG),  # TCR_EL1
        TOUCHED,
        event(Kind.SCTLR, CACHES_ON),
        TOUCHED,
        event(Kind.SET_WAY, set_way=(0, 0, 2)),
        event(Kind.VM_REG, 1),  # CONTEXTIDR_EL1, once
        TOUCHED,
        event(Kind.SCTLR, CACHES_OFF),
        TOUCHED,
    ]
    assert pages(trace) == [
        {CODE: X, DATA: W, DATA + 1: R},
        {CODE: X, DATA + 2: W},
        # Not the table, which the MMU walks, nor DATA + 7, which DC ZVA clears.
        {CODE: X, ELSEWHERE: X, DATA + 3: W, DATA + 4: W, DATA + 5: R | W, DATA + 6: W},
        {CODE: X, DATA + 2: R},
        {CODE: X, DATA: R},
    ]
    batch = trace.timeline[trace.timeline["kind"] == Kind.SET_WAY][0]
    before = 1 + 3 + 2 + 1  # a branch, an address, a store and a load, the loop's counter
    assert (int(batch["icount"]), int(batch["icount_end"])) == (before, before + 3 * 3 + 1)


def test_instructions_that_are_not_executed(plugin: Path, tmp_path: Path) -> None:
    """A32 and T32, conditions, and the sum of all instructions."""
    words: list[tuple[int, str]] = [
        (0xE3A01000, "mov r1, #0"),
        (0xE3441030, "movt r1, #0x4030"),
        (0xE5810000, "str r0, [r1]"),
        (0xEE070F56, "mcr p15, 0, r0, c7, c6, 2"),  # DCISW
        (0xEE070F5A, "mcr p15, 0, r0, c7, c10, 2"),  # DCCSW
        (0xE1500000, "cmp r0, r0"),
        (0x1E011F10, "mcrne p15, 0, r1, c1, c0, 0"),  # SCTLR: not executed
        (0xEE114F10, "mrc p15, 0, r4, c1, c0, 0"),
        (0xE3844A01, "orr r4, r4, #0x1000"),  # I
        (0x0E014F10, "mcreq p15, 0, r4, c1, c0, 0"),  # SCTLR
        (0xEC410F12, "mcrr p15, 1, r0, r1, c2"),  # TTBR1, 64 bits
        (0xE28F2001, "add r2, pc, #1"),
        (0xE12FFF12, "bx r2"),
    ]  # fmt: skip
    thumb: list[tuple[int, str]] = [
        (0xEE07, "mcr p15, 0, r0, c7, c14, 2"), (0x0F5E, ""),  # DCCISW
        (0x4280, "cmp r0, r0"),
        (0xBF1C, "itt ne"),
        (0x2100, "movne r1, #0"),
        (0xEE01, "mcrne p15, 0, r1, c1, c0, 0"), (0x1F10, ""),  # SCTLR: not executed
        (0xBF06, "itte eq"),
        (0x4680, "moveq r8, r0"),
        (0xEE01, "mcreq p15, 0, r4, c1, c0, 0"), (0x4F10, ""),  # SCTLR
        (0x2100, "movne r1, #0"),
        (0x6808, "ldr r0, [r1]"),
        (0xF240, "movw r0, #8"), (0x0008, ""),  # SYSTEM_OFF
        (0xF2C8, "movt r0, #0x8400"), (0x4000, ""),
        (0xF7E0, "hvc #0"), (0x8000, ""),
    ]  # fmt: skip
    raw = tmp_path / "program.bin"
    raw.write_bytes(
        np.array([word for word, _ in words], "<u4").tobytes()
        + np.array([half for half, _ in thumb], "<u2").tobytes()
    )
    trace = traced(plugin, bare(raw, BASE, 32), tmp_path / "t.npz", check=True)
    sctlr = 0x00C5_0078 | 1 << 12  # of a Cortex-A15 at reset (its TRM, SCTLR), and I
    assert events(trace) == [
        TOUCHED,
        event(Kind.SET_WAY, set_way=(1, 1, 1)),
        event(Kind.SCTLR, sctlr),
        event(Kind.VM_REG),
        event(Kind.SCTLR, sctlr),
        TOUCHED,
    ]
    assert pages(trace) == [{CODE: X, DATA: W}, {CODE: X, DATA: R}]
    assert trace.instructions == len(words) + sum(text != "" for _, text in thumb)


@pytest.mark.parametrize("check", [True, False])
def test_no_touch_is_lost_between_two_vcpus(
    plugin: Path, program: Path, tmp_path: Path, check: bool
) -> None:
    """One vCPU touches its pages at least once between any two batches of the other."""
    guest = bare(program, BASE + 4, 64, smp=2)
    trace = traced(plugin, guest, tmp_path / "t.npz", check=check)
    assert trace.set_way_batches == BATCHES
    shared = {DATA + i for i in range(SHARED_PAGES)}
    shared |= {SPREAD + i * SPREAD_STEP for i in range(SHARED_PAGES + 1)}
    between = pages(trace)[-BATCHES:]  # after the first batch, and so on
    every_second = {SPREAD + (SHARED_PAGES + 1) * SPREAD_STEP}
    for number, epoch in enumerate(between):
        expected = shared | {CODE, COUNTER} | (every_second if number % 2 else set())
        assert epoch.keys() == expected
        assert epoch[CODE] == X
        assert epoch[COUNTER] == R | W
        assert all(epoch[page] == W for page in expected - {CODE, COUNTER})
