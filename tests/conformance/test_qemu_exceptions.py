"""The exceptions that the monitor injects are those that a core takes: inject.c, held against
QEMU's EL1, which takes undefined instructions and external aborts by itself, in every state.

A load from, or a fetch of, an address where QEMU's board has nothing is a synchronous external
abort, which is what the monitor's guests get. Loads only: of a store ESR_EL1 has WnR, which
`p2mfast.hypervisor.syndrome.inject` and so inject.c do not tell.
"""

from __future__ import annotations

import mmap
import os
import random
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from monitor_rules import Injection, Rules

pytestmark = pytest.mark.conformance

HERE = Path(__file__).parent
NUMBERS = {
    name: int(value, 0)
    for name, value in re.findall(
        r"#define (\w+) (0x[0-9a-f]+|\d+)", (HERE / "exceptions.h").read_text()
    )
}
RAM_BASE = 0x4000_0000
RAM_BYTES = 3 << 30  # up to the end of 32 bits, where AArch32 may have its vectors
NOTHING = 0x0B00_0000  # on QEMU's board
HIGH_VECTORS = 0xFFFF_0000
VECTORS64, VECTORS_ARM, VECTORS_THUMB = 0x4830_0000, 0x4830_1000, 0x4830_2000
CODE = 0x4840_0000
HCR_RW = 1 << 31

HVC_64, HVC_ARM, HVC_THUMB = 0xD400_0002, 0xE140_0070, 0x8000_F7E0
MRS_SPSR_ARM, MRS_SPSR_THUMB = 0xE14F_1000, 0x8100_F3FF  # mrs r1, spsr


class Code(NamedTuple):
    """An instruction set's ways into an exception."""

    undefined: int
    load: int  # from what x4 or r4 points to
    pstate: int


A64 = Code(0x0000_0000, 0xF940_0080, 0)  # udf #0; ldr x0, [x4]
ARM = Code(0xE7F0_00F0, 0xE594_0000, 0x10)  # udf #0; ldr r0, [r4]
THUMB = Code(0xBF00_DE00, 0xBF00_6820, 0x30)  # the same in 16 bits
WIDE = Code(0xA000_F7F0, 0x0000_F8D4, 0x30)  # udf.w #0; ldr.w r0, [r4]
CODES = (A64, ARM, THUMB, WIDE)


class Features(NamedTuple):
    """Bits of PSTATE and SCTLR_EL1 that a core has, beyond Armv8.0's."""

    pstate64: int = 0
    pstate32: int = 0
    sctlr64: int = 0
    sctlr32: int = 0
    span: bool = False


DIT, UAO, PAN, SSBS64, BTYPE = 1 << 24, 1 << 23, 1 << 22, 1 << 12, 3 << 10
SSBS32 = 1 << 23
CORES = {
    "cortex-a57": Features(),
    "max": Features(DIT | UAO | PAN | SSBS64 | BTYPE, DIT | PAN | SSBS32, 1 << 44, 1 << 31, True),
}
SPAN = 1 << 23
CLEARED_BY_QEMU = 0xF << 28 | DIT
"""Of PSTATE, as QEMU 7.2 enters AArch64; by the Arm ARM (AArch64.TakeException) they stay."""
NZCV, AIF = 0xF << 28, 7 << 6
SCTLR32_TE, SCTLR32_EE, SCTLR32_V = 1 << 30, 1 << 25, 1 << 13


def some(rng: random.Random, bits: int) -> int:
    return rng.getrandbits(64) & bits


def random_case(rng: random.Random, core: Features) -> tuple[int, dict[str, int]]:
    """What it is, and the words of exceptions.h."""
    kind = rng.choice((Injection.UNDEFINED, Injection.DATA_ABORT, Injection.PREFETCH_ABORT))
    bits = rng.choice((32, 64))
    code = rng.choice(CODES[1:] if bits == 32 else CODES)
    offset = CODES.index(code) * 16 + (8 if kind == Injection.DATA_ABORT else 0)
    pc = NOTHING + 4 * rng.randrange(64) if kind == Injection.PREFETCH_ABORT else CODE + offset
    pstate = code.pstate | some(rng, NZCV | AIF)
    if code is A64:
        pstate |= rng.choice((0, 4, 5)) | some(rng, 1 << 9 | core.pstate64)
    else:
        # Q, GE and E; and an IT block in which the condition is always true.
        pstate |= some(rng, 1 << 27 | 0xF << 16 | 1 << 9 | core.pstate32)
        if code is not ARM and rng.random() < 0.5:
            it = 0xE0 | rng.choice((1, 2, 4, 8))
            pstate |= it >> 2 << 10 | (it & 3) << 25
        pstate |= 0x1F & rng.choice((0x10, 0x11, 0x12, 0x13, 0x17, 0x1B, 0x1F) if bits == 32
                                    else (0x10,))  # fmt: skip
    if bits == 64:
        sctlr, vbar = 0x30D0_0800 | some(rng, core.sctlr64), VECTORS64
    else:
        sctlr = 0x00C5_0838 | some(rng, SCTLR32_EE | core.sctlr32)
        sctlr |= rng.choice((0, SCTLR32_TE, SCTLR32_V))
        vbar = VECTORS_THUMB if sctlr & SCTLR32_TE else VECTORS_ARM
    if core.span:
        sctlr ^= some(rng, SPAN)
    return kind, {
        "HCR": HCR_RW if bits == 64 else 0,
        "PC": pc,
        "PSTATE": pstate,
        "SCTLR": sctlr,
        "VBAR": vbar,
        "TCR": some(rng, 1 << 31) if bits == 32 else 0,
        "ESR": some(rng, 0x3F),
        "IFSR": some(rng, 0x3F),
        "FAR": rng.getrandbits(64),
        "ADDRESS": NOTHING + 8 * rng.randrange(64),
    }


def expected(rules: Rules, kind: int, case: dict[str, int]) -> dict[str, int]:
    address = {Injection.DATA_ABORT: "ADDRESS", Injection.PREFETCH_ABORT: "PC"}.get(kind)
    names = ("PC", "PSTATE", "SCTLR", "VBAR", "TCR", "ESR", "IFSR", "FAR")
    return rules.inject(
        64 if case["HCR"] else 32,
        kind,
        case[address] if address else None,
        **{name.lower(): case[name] for name in names},
    )


def take(core: str, program: Path, cases: list[dict[str, int]]) -> npt.NDArray[np.uint64]:
    """QEMU takes them: the words of exceptions.h, by case."""
    file = os.memfd_create("ram")
    try:
        os.ftruncate(file, RAM_BYTES)
        ram = mmap.mmap(file, RAM_BYTES)
        words = np.frombuffer(ram, np.uint32)

        def put(address: int, *code: int) -> None:
            words[(address - RAM_BASE) // 4 :][: len(code)] = code

        put(NUMBERS["READ_SPSR_ARM"], MRS_SPSR_ARM, HVC_ARM)
        put(NUMBERS["READ_SPSR_THUMB"], MRS_SPSR_THUMB, HVC_THUMB)
        for vector in range(0, 0x800, 0x80):
            put(VECTORS64 + vector, HVC_64)
        for base, hvc in ((VECTORS_ARM, HVC_ARM), (VECTORS_THUMB, HVC_THUMB),
                          (HIGH_VECTORS, HVC_ARM)):  # fmt: skip
            put(base, *[hvc] * 8)
        for number, code in enumerate(CODES):
            put(CODE + 16 * number, code.undefined, 0, code.load)
        table = np.frombuffer(ram, np.uint64)[(NUMBERS["CASES"] - RAM_BASE) // 8 :]
        table = table[: len(cases) * NUMBERS["CASE_WORDS"]].reshape(len(cases), -1)
        for number, case in enumerate(cases):
            for name, value in case.items():
                table[number, NUMBERS[f"CASE_{name}"]] = value
            table[number, NUMBERS["CASE_LEFT"]] = len(cases) - number
        subprocess.run(
            ["qemu-system-aarch64", "-nodefaults", "-display", "none", "-serial", "none",
             "-M", "virt,virtualization=on,memory-backend=ram", "-cpu", core, "-object",
             f"memory-backend-file,id=ram,size={RAM_BYTES},mem-path=/dev/fd/{file},share=on",
             "-m", f"{RAM_BYTES >> 20}M", "-device", f"loader,file={program},cpu-num=0"],
            check=True, stdin=subprocess.DEVNULL, timeout=60, pass_fds=[file],
        )  # fmt: skip
        return table.copy()
    finally:
        os.close(file)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    elf = tmp_path_factory.mktemp("exceptions") / "exceptions.elf"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,--nmagic",
         f"-Wl,-Ttext={NUMBERS['PROGRAM']:#x}", "-o", elf, HERE / "exceptions.S"],
        check=True,
    )  # fmt: skip
    return elf


@pytest.mark.parametrize("core", CORES)
def test_injected_as_taken(core: str, program: Path, tmp_path: Path) -> None:
    rules = Rules(tmp_path)
    rng = random.Random(core)
    kinds, cases = zip(*(random_case(rng, CORES[core]) for _ in range(5000)), strict=True)
    taken = take(core, program, list(cases))
    seen: Counter[tuple[str, int, int]] = Counter()
    for kind, case, words in zip(kinds, cases, taken.tolist(), strict=True):
        after = expected(rules, kind, case)
        got = {name: words[NUMBERS[f"TAKEN_{name.upper()}"]]
               for name in ("pc", "pstate", "elr", "spsr", "esr", "ifsr", "far")}  # fmt: skip
        assert words[NUMBERS["TAKEN_CLASS"]] >> 26 == (0x16 if case["HCR"] else 0x12), case
        got["pc"] -= 4  # the HVC's own length
        if not case["HCR"]:
            bank = "LR_UND" if kind == Injection.UNDEFINED else "LR_ABT"
            got["elr"] = words[NUMBERS[f"TAKEN_{bank}"]] & 0xFFFF_FFFF
        if case["HCR"]:
            assert (after["pstate"] ^ case["PSTATE"]) & CLEARED_BY_QEMU == 0
            after["pstate"] &= ~CLEARED_BY_QEMU
        differ = {n: (hex(v), hex(after[n])) for n, v in got.items() if v != after[n]}
        assert not differ, (kind, {n: hex(v) for n, v in case.items()}, differ)
        seen[kind.name, bool(case["HCR"]), case["PSTATE"] & 0x3F] += 1
    # Each exception from each mode, and of AArch32 from both instruction sets.
    assert len(seen) == 3 * (3 + 2 + 2 * 7)
