"""tools/qemu-recorder and tools/recording, as far as they need no QEMU."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recording import log as recorded
from recording.build import PLUGIN
from recording.linux import BOARDS
from recording.machine import Guest, record
from tooling import ToolError

from p2mfast.experiment.trace import Kind, load
from p2mfast.hypervisor.syndrome import SysRegTrap
from p2mfast.hypervisor.syndrome import decode as decode_syndrome

OTHER, ISW, CSW, CISW, SCTLR, VM_REG, CALL, ZERO = range(8)
ALWAYS = 14


class Instruction(ctypes.Structure):
    """`struct instruction` of decode.h."""

    _fields_ = (
        ("kind", ctypes.c_int),
        ("rt", ctypes.c_uint),
        ("condition", ctypes.c_uint),
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("decode") / "decode.so"
    command = ["cc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run([*command, "-o", str(path), str(PLUGIN / "decode.c")], check=True)
    library = ctypes.CDLL(str(path))
    library.decode.restype = Instruction
    library.condition_holds.restype = ctypes.c_bool
    return library


Decode = Callable[..., tuple[int, int, int]]


@pytest.fixture
def decode(library: ctypes.CDLL) -> Decode:
    def call(code: bytes, bits: int, it: ctypes.c_uint | None = None) -> tuple[int, int, int]:
        state = ctypes.c_uint(0) if it is None else it
        found = library.decode(code, len(code), bits, ctypes.byref(state))
        return found.kind, found.rt, found.condition

    return call


def word(value: int) -> bytes:
    return value.to_bytes(4, "little")


def thumb(value: int) -> bytes:
    """Two halfwords, the first on top, as T32 is written."""
    return (value >> 16).to_bytes(2, "little") + (value & 0xFFFF).to_bytes(2, "little")


# ---- Instruction words ----

SET_WAY_BY_CRM = {6: ISW, 10: CSW, 14: CISW}


def expected(trap: object, crm: int) -> int:
    """What a hypervisor would find in the syndrome of this write."""
    assert isinstance(trap, SysRegTrap)
    assert not trap.read
    if trap.set_way:
        return SET_WAY_BY_CRM[crm]
    if trap.name == "SCTLR_EL1":
        return SCTLR
    return VM_REG if trap.name else OTHER


def test_every_msr_and_sys_is_what_its_trap_would_be(decode: Decode) -> None:
    seen = set()
    for op0 in (1, 3):
        for key in range(1 << 14):
            op1, crn, crm, op2 = key >> 11, key >> 7 & 15, key >> 3 & 15, key & 7
            rt = (key * 7 + 3) % 32
            code = 0xD5000000 | op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5 | rt
            iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1
            kind = expected(decode_syndrome(0x18 << 26 | iss), crm)
            if (op0, op1, crn, crm, op2) == (1, 3, 7, 4, 1):
                kind = ZERO
            assert decode(word(code), 64) == ((kind, rt, ALWAYS) if kind else (OTHER, 0, ALWAYS))
            assert decode(word(code | 1 << 21), 64)[0] == OTHER  # MRS, SYSL
            seen.add(kind)
    assert seen == {OTHER, ISW, CSW, CISW, SCTLR, VM_REG, ZERO}


def test_every_mcr_is_what_its_trap_would_be(decode: Decode) -> None:
    """In both instruction sets; MRC, MCR2 and other coprocessors are none."""
    seen = set()
    for key in range(1 << 14):
        opc1, crn, crm, opc2 = key >> 11, key >> 7 & 15, key >> 3 & 15, key & 7
        rt, condition = (key * 7 + 3) % 15, key % 15
        code = 0x0E000F10 | opc1 << 21 | crn << 16 | rt << 12 | opc2 << 5 | crm
        iss = opc2 << 17 | opc1 << 14 | crn << 10 | rt << 5 | crm << 1
        kind = expected(decode_syndrome(0x03 << 26 | iss), crm)
        nothing = (OTHER, 0, ALWAYS)
        assert decode(word(code | condition << 28), 32) == (
            (kind, rt, condition) if kind else nothing
        )
        assert decode(thumb(code | 0xE << 28), 32) == ((kind, rt, ALWAYS) if kind else nothing)
        for other in (code | 0xF << 28, code | 0xE << 28 | 1 << 20, (code | 0xE << 28) & ~0x100):
            assert decode(word(other), 32)[0] == decode(thumb(other), 32)[0] == OTHER
        seen.add(kind)
    assert seen == {OTHER, ISW, CSW, CISW, SCTLR, VM_REG}


def test_every_mcrr_is_what_its_trap_would_be(decode: Decode) -> None:
    for key in range(1 << 8):
        opc1, crm = key >> 4, key & 15
        code = 0xEC400F00 | 3 << 16 | 2 << 12 | opc1 << 4 | crm
        iss = opc1 << 16 | 3 << 10 | 2 << 5 | crm << 1
        kind = expected(decode_syndrome(0x04 << 26 | iss), crm)
        assert decode(word(code), 32)[0] == decode(thumb(code), 32)[0] == kind


@pytest.mark.parametrize(
    ("code", "bits", "kind"),
    [
        # As GNU as assembles them.
        (word(0xD4000002), 64, CALL),  # hvc #0
        (word(0xD4000023), 64, CALL),  # smc #1
        (word(0xD4000001), 64, OTHER),  # svc #0
        (word(0xD50B7421), 64, ZERO),  # dc zva, x1
        (word(0xD50B7E21), 64, OTHER),  # dc civac, x1
        (word(0xD51C1001), 64, OTHER),  # msr sctlr_el2, x1
        (word(0xE1400070), 32, CALL),  # hvc #0
        (word(0xE1600070), 32, CALL),  # smc #0
        (word(0xE1200070), 32, OTHER),  # bkpt #0
        (thumb(0xF7E08000), 32, CALL),  # hvc #0
        (thumb(0xF7F08000), 32, CALL),  # smc #0
        (thumb(0xF7F0A000), 32, OTHER),  # udf.w #0
        (word(0xEE079F56), 64, OTHER),  # an MCR, where there is none
        (word(0xD5087647), 32, OTHER),
    ],
)
def test_words(decode: Decode, code: bytes, bits: int, kind: int) -> None:
    assert decode(code, bits)[0] == kind


# ---- Conditions (Arm ARM F1, the condition code field) ----

CONDITIONS = (
    "z", "not z", "c", "not c", "n", "not n", "v", "not v", "c and not z", "not c or z", "n == v",
    "n != v", "not z and n == v", "z or n != v", "True", "True",
)  # fmt: skip


def test_conditions(library: ctypes.CDLL) -> None:
    for flags in range(16):
        names = {
            name: bool(flags >> bit & 1) for name, bit in zip("nzcv", (3, 2, 1, 0), strict=True)
        }
        for number, words in enumerate(CONDITIONS):
            assert library.condition_holds(number, flags << 28 | 0x1D3) == eval(words, names), words


@pytest.mark.parametrize(
    ("it", "conditions"),
    [
        (0xBF18, (1,)),  # it ne
        (0xBF0C, (0, 1)),  # ite eq
        (0xBF04, (0, 0)),  # itt eq
        (0xBF06, (0, 0, 1)),  # itte eq
        (0xBFAF, (10, 11, 11, 11)),  # iteee ge
        (0xBF00, ()),  # nop
        (0xBF30, ()),  # wfi
    ],
)
def test_the_conditions_of_an_it_block(
    decode: Decode, it: int, conditions: tuple[int, ...]
) -> None:
    state = ctypes.c_uint(0)
    assert decode(it.to_bytes(2, "little"), 32, state)[0] == OTHER
    for condition in (*conditions, ALWAYS, ALWAYS):
        assert decode(thumb(0xEE011F10), 32, state) == (SCTLR, 1, condition)


# ---- The log, and a trace of it ----


def log_bytes(pages: list[list[tuple[int, int]]], entries: list[dict[str, int]]) -> bytes:
    header = np.zeros(1, recorded.HEADER)
    rows = np.zeros(len(entries), recorded.ENTRY)
    rows["epoch"] = -1
    for row, entry in zip(rows, entries, strict=True):
        for name, value in entry.items():
            row[name] = value
    header["magic"] = recorded.MAGIC
    for name, number in (
        ("bits", 32), ("vcpus", 2), ("base_gfn", 0x40000), ("pages", 0x1000),
        ("instructions", 12345), ("zeroings", 3), ("unresolved", 1), ("faults", 4),
        ("entries", len(entries)), ("epochs", len(pages)), ("touched", sum(map(len, pages))),
    ):  # fmt: skip
        header[name] = number
    ends = np.cumsum([len(epoch) for epoch in pages]).astype("<u8")
    touched = np.array([page << 3 | kinds for epoch in pages for page, kinds in epoch], "<u4")
    return header.tobytes() + rows.tobytes() + ends.tobytes() + touched.tobytes()


PAGES = [[(0, 1), (5, 7), (0xFFF, 2)], [], [(3, 4)]]
ENTRIES = [
    {"kind": Kind.TOUCHED, "epoch": 0, "icount": 10, "icount_end": 10},
    {
        "kind": Kind.SET_WAY,
        "vcpu": 1,
        "icount": 10,
        "icount_end": 90,
        "isw": 5,
        "csw": 6,
        "cisw": 7,
    },
    {"kind": Kind.SCTLR, "icount": 95, "icount_end": 95, "value": 0x30C5387D},
    {"kind": Kind.TOUCHED, "epoch": 1, "icount": 99, "icount_end": 99},
    {"kind": Kind.RESET, "vcpu": 1, "icount": 99, "icount_end": 99},
    {"kind": Kind.TOUCHED, "epoch": 2, "icount": 12345, "icount_end": 12345},
]


def test_a_log_becomes_the_trace_it_tells(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(log_bytes(PAGES, ENTRIES))
    recorded.save(tmp_path / "t.npz", recorded.convert(recorded.read(path), "n", "g", "QEMU 7.2"))
    trace = load(tmp_path / "t.npz")
    assert (trace.name, trace.guest, trace.guest_bits, trace.vcpus) == ("n", "g", 32, 2)
    assert (trace.ram_base_gfn, trace.ram_pages, trace.instructions) == (0x40000, 0x1000, 12345)
    assert [
        list(zip((gfns - 0x40000).tolist(), access.tolist(), strict=True))
        for gfns, access in trace.epochs
    ] == PAGES
    for row, entry in zip(trace.timeline, ENTRIES, strict=True):
        for name in trace.timeline.dtype.names:
            assert row[name] == entry.get(name, -1 if name == "epoch" else 0)
    meta = json.loads(str(np.load(tmp_path / "t.npz")["meta"]))
    assert meta["recorded_with"].startswith("QEMU 7.2, ")
    assert (meta["dc_zva"], meta["unresolved_accesses"], meta["live_stage2_faults"]) == (3, 1, 4)


def test_a_log_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    whole = log_bytes(PAGES, ENTRIES)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ToolError, match="log"):
            recorded.read(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ToolError, match="1 bytes too many"):
        recorded.read(path)
    path.write_bytes(b"x" + whole[1:])
    with pytest.raises(ToolError, match="no log"):
        recorded.read(path)


@pytest.mark.parametrize("pages", [[(5, 1), (5, 1)], [(5, 1), (4, 1)]])
def test_pages_that_do_not_ascend_are_refused(tmp_path: Path, pages: list[tuple[int, int]]) -> None:
    path = tmp_path / "log"
    path.write_bytes(log_bytes([[(9, 1)], pages], []))
    with pytest.raises(ToolError, match="ascend"):
        recorded.convert(recorded.read(path), "n", "g", "q")


# ---- QEMU that goes wrong: a script in its place ----


def fake(tmp_path: Path, script: str) -> Guest:
    program = tmp_path / "qemu"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo version 1 && exit\n'
        f"echo $$ > {tmp_path}/pid\n"
        'console=$(echo "$*" | sed "s/.*path=\\([^ ]*\\).*/\\1/")\n' + script
    )
    program.chmod(0o755)
    return Guest(str(program), 32, "cpu", 1, 128 << 20, [])


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("exec sleep 60", "out of time"),
        ("echo 'Kernel panic - no' > $console; exec sleep 60", "(?s)panicked.*Kernel panic - no"),
        ("echo 'recorder: wrong' >&2; exit 3", "(?s)status 3.*recorder: wrong"),
    ],
)
def test_a_qemu_that_fails_is_ended_and_told(tmp_path: Path, script: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(ToolError, match=words):
        record(fake(tmp_path, script), tmp_path / "recorder.so", timeout=1)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_qemu_that_is_not_there_is_named(tmp_path: Path) -> None:
    guest = Guest("qemu-system-nothing", 32, "cpu", 1, 128 << 20, [])
    with pytest.raises(ToolError, match="qemu-system-nothing is not there: apt install"):
        record(guest, tmp_path, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "armhf", "--hotplug", "o.npz"], "second vCPU"),
        (["--arch", "armhf", "--memory", "4G", "o.npz"], "128M to 3072M"),
        (["--arch", "arm64", "--memory", "64M", "o.npz"], "128M to"),
        (["--arch", "arm64", "--memory", "lots", "o.npz"], "no size"),
        (["--arch", "arm64", "--smp", "9", "o.npz"], "1 to 8"),
        (["--arch", "arm64", "/nowhere/o.npz"], "no directory"),
        (["--arch", "mips", "o.npz"], "invalid choice"),
    ],
)
def test_what_cannot_be_recorded_is_refused(options: list[str], words: str) -> None:
    script = PLUGIN.parent / "record_boot.py"
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert set(BOARDS) == {"armhf", "arm64"}
