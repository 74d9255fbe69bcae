"""An MMU that is not ours, with all the bits of address: QEMU's, at EL2.

QEMU runs our monitor (`monitor.c`, `monitor.S`: a bare-metal program at EL2) for as long as the
tests last. Its RAM is a memory file that this process maps too: tables are put at their physical
addresses while it runs, and a mailbox in it takes the commands (`monitor.h`). The monitor sets
HCR_EL2, VTCR_EL2 and VTTBR_EL2, asks for translations in bulk by AT S12E1R/W, whose answer is
PAR_EL1, and lets EL1, with stage 1 off, do one real load, store, swap or fetch.

`-cpu max` has 52 bits of address (ID_AA64MMFR0_EL1.PARange), so that every IPA of a 48-bit space,
and some beyond it, get to stage 2.

What QEMU 7.2 does not show: that there are no blocks at level 0 (it accepts the encoding); an
input size beyond VTCR_EL2.PS (it faults all addresses at level 0); the level at which stage 2
refused the walk of stage 1 (it says that of stage 1).
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmu_guest import (
    HCR_DC,
    HCR_RW,
    HCR_VM,
    STUB,
    STUB_OFFSETS,
    Abort,
    Outcome,
    Words,
    invalidation_due,
    landing,
    program,
    vtcr_of,
)

import p2mfast as pf

HERE = Path(__file__).parent

# ---- The machine's address space ----

RAM_BASE = 0x4000_0000  # of QEMU's "virt" board
RAM_BYTES = 256 << 30  # a file with holes: only what is touched costs memory

_AT_FROM = 0x1_0100_0000
_AT_TO = 0x1_0200_0000
AT_BATCH = (_AT_TO - _AT_FROM) // 8

STUB_MFN = 0x1_0300_0000 >> 12
"""The page that the guest's loads, stores and swaps are run from; the P2M has to map it."""

TABLES = 0x5000_0000
"""Where tables may lie: below 4 GiB, for the smallest VTCR_EL2.PS, up to the monitor."""
MAX_TABLES = 1 << 17

FRAMES = 0x2_0000_0000 >> 12, (RAM_BASE + RAM_BYTES) >> 12
"""RAM that the guest may be given: first and last (exclusive) frame."""

# ---- Registers ----

_SCTLR_M_C_I = 0x30D0_1805  # and the bits that are RES1 in Armv8.0
_TCR_39_BITS = 5 << 32 | 1 << 23 | 0x3519  # IPS 48 bits, EPD1, Write-Back tables, T0SZ 25

_EC_HVC = 0x16


class MissingProgram(RuntimeError):
    """QEMU or the cross compiler is not installed."""


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MissingProgram(
            f"{name} is not installed. The conformance tests need it"
            f" (Debian: apt-get install --no-install-recommends {package})."
        )
    return found


def _constants() -> dict[str, int]:
    """The names and numbers of monitor.h."""
    found = re.findall(r"#define (\w+) (0x[0-9a-f]+|\d+)", (HERE / "monitor.h").read_text())
    return {name: int(value, 0) for name, value in found}


def _build(directory: str, idle_seconds: int) -> str:
    compiler = _program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    elf = f"{directory}/monitor.elf"
    base = _constants()["MONITOR_BASE"]
    options = (
        "-std=gnu11 -O2 -Wall -Wextra -Werror -ffreestanding -nostdlib -static -fno-pie -no-pie"
        # Stage 1 is off at EL2: its memory is Device, where accesses have to be aligned.
        " -mgeneral-regs-only -mstrict-align -fno-asynchronous-unwind-tables"
        f" -Wl,--nmagic -Wl,--build-id=none -Wl,-Ttext={base:#x}"
        f" -DIDLE_SECONDS={idle_seconds}"
    )
    sources = [str(HERE / "monitor.S"), str(HERE / "monitor.c")]
    subprocess.run([compiler, *options.split(), "-o", elf, *sources], check=True)
    return elf


class Machine:
    """QEMU, our monitor in it, and its RAM. A context manager: leaving it ends QEMU; the monitor
    does, too, when it has not been asked for anything in `idle_seconds`. `arguments`: for QEMU.
    """

    def __init__(
        self,
        cpu: str = "max",
        timeout: float = 60,
        idle_seconds: int = 600,
        arguments: Sequence[str] = (),
    ) -> None:
        self._timeout = timeout
        qemu = _program("qemu-system-aarch64", "qemu-system-arm")
        names = _constants()
        self._command = {n[8:].lower(): v for n, v in names.items() if n.startswith("COMMAND_")}
        self._slot = {n[5:].lower(): v for n, v in names.items() if n.startswith("MAIL_")}
        self._file = os.memfd_create("ram")
        os.ftruncate(self._file, RAM_BYTES)
        self._memory = mmap.mmap(self._file, RAM_BYTES)
        self._ram: Words = np.frombuffer(self._memory, np.uint64)
        self._mail = self.words(names["MAIL_BASE"], names["MAIL_WORDS"])
        self._at_from = self.words(_AT_FROM, AT_BATCH)
        self._at_to = self.words(_AT_TO, AT_BATCH)
        self._log = os.memfd_create("log")
        self._p2m: pf.P2M | None = None
        self.stub_ipa = 0
        self._put_code(STUB_MFN << 12, STUB)
        with tempfile.TemporaryDirectory() as directory:
            elf = _build(directory, idle_seconds)
            self._qemu = subprocess.Popen(
                [qemu, "-nodefaults", "-display", "none", "-serial", "none", "-monitor", "none",
                 "-M", "virt,virtualization=on,memory-backend=ram", "-cpu", cpu, "-accel", "tcg",
                 "-m", f"{RAM_BYTES >> 20}M", "-object",
                 f"memory-backend-file,id=ram,size={RAM_BYTES},mem-path=/dev/fd/{self._file},"
                 "share=on,prealloc=off",
                 "-device", f"loader,file={elf},cpu-num=0", *arguments],
                pass_fds=[self._file], stdin=subprocess.DEVNULL, stdout=self._log,
                stderr=self._log,
            )  # fmt: skip
            try:
                self.do("features")
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._qemu.kill()
        self._qemu.wait()
        os.close(self._file)
        os.close(self._log)

    # ---- The mailbox ----

    def do(self, command: str, **arguments: int) -> None:
        """Have a command of monitor.h carried out."""
        mail, slot = self._mail, self._slot
        for name, value in arguments.items():
            mail[slot[name]] = value
        mail[slot["command"]] = self._command[command]
        posted = mail[slot["posted"]] + np.uint64(1)
        mail[slot["posted"]] = posted
        for _ in range(200):  # a short command is done by then, and sleeping would cost more
            if mail[slot["finished"]] == posted:
                return
        deadline = time.monotonic() + self._timeout
        while mail[slot["finished"]] != posted:
            if self._qemu.poll() is not None:
                raise RuntimeError(f"QEMU ended: {self._output()}")
            if mail[slot["lost"]]:
                raise RuntimeError(
                    f"the monitor took an exception at {self._read('pc'):#x},"
                    f" ESR_EL2 {self._read('esr'):#x}, carrying out {command!r}"
                )
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer to {command!r}: {self._output()}")
            time.sleep(0.0001)

    def _read(self, name: str) -> int:
        return int(self._mail[self._slot[name]])

    def _output(self) -> str:
        said = os.pread(self._log, 1 << 16, 0).decode(errors="replace").strip()
        return said or "QEMU said nothing"

    @property
    def pa_range(self) -> int:
        """Bits of a physical address (ID_AA64MMFR0_EL1.PARange)."""
        self.do("features")
        return (32, 36, 40, 42, 44, 48, 52)[self._read("mmfr0") & 0xF]

    @property
    def has_xnx(self) -> bool:
        """Execute-never by exception level at stage 2 (FEAT_XNX, ID_AA64MMFR1_EL1.XNX)."""
        self.do("features")
        return bool(self._read("mmfr1") >> 28 & 0xF)

    # ---- Memory ----

    def words(self, pa: int, n: int = 1) -> Words:
        """RAM from a physical address on, in place."""
        first = (pa - RAM_BASE) // 8
        if not 0 <= first <= first + n <= RAM_BYTES // 8:
            raise ValueError(f"the machine has no RAM at {pa:#x}")
        return self._ram[first : first + n]

    def has_ram(self, mfn: int) -> bool:
        """Whether this frame is RAM."""
        return RAM_BASE <= mfn << 12 < RAM_BASE + RAM_BYTES

    def _put_code(self, pa: int, words: tuple[int, ...]) -> None:
        code = np.frombuffer(program(words), np.uint64)
        self.words(pa, len(code))[:] = code

    def plant(self, pa: int) -> None:
        """Put code at a physical address, aligned to 16, that says where it lies.

        QEMU does not notice that we write, and goes on with code that it has translated before: so
        what is put at one address is always the same.
        """
        self._put_code(pa, landing(pa))

    # ---- Tables ----

    def configure(self, vtcr: int, vttbr: int) -> None:
        """Stage 2 on, with these registers, and stage 1 off; TLBI. HCR_EL2.DC makes stage 1 Normal
        Write-Back memory, so that the attributes of stage 2 show (Arm ARM D19.2, HCR_EL2)."""
        self._stage_2 = {"vtcr": vtcr, "vttbr": vttbr}
        self.do("configure", hcr=HCR_RW | HCR_DC | HCR_VM, **self._stage_2)

    def configure_stage_1(self, table: int) -> None:
        """Stage 1 on, until `configure`: VAs of 39 bits, from a level-1 table at this IPA. It takes
        HCR_EL2.DC out of the way, which would keep stage 1 off."""
        self.do("configure", hcr=HCR_RW | HCR_VM, **self._stage_2)
        self.do("stage_1", sctlr=_SCTLR_M_C_I, tcr=_TCR_39_BITS, ttbr=table)

    def attach(self, p2m: pf.P2M, stub_gfn: int, input_bits: int) -> None:
        """Walk the tables of this P2M. `stub_gfn`: where it maps STUB_MFN. `input_bits`: in place
        of those in its VTCR, if they are fewer."""
        self._p2m, self.stub_ipa = p2m, stub_gfn << 12
        self.copy_tables()
        p2m.drain_events()
        self.configure(vtcr_of(p2m, input_bits), p2m.vttbr)

    def copy_tables(self) -> None:
        """The live tables, as they are now, to where their P2M says that they lie."""
        assert self._p2m is not None
        tables = self._p2m.tables
        self.words(self._p2m.table_base_mfn << 12, tables.size)[:] = tables.ravel()

    def obey(self) -> bool:
        """What a hypervisor does after a change: invalidate the TLB if, and only if, the P2M has
        asked for it. Whether it has."""
        assert self._p2m is not None
        self.copy_tables()
        due = invalidation_due(self._p2m)
        if due:
            self.invalidate()
        return due

    def invalidate(self) -> None:
        """TLBI ALLE1."""
        self.do("invalidate")

    # ---- Translations and accesses ----

    def address_translate(self, ipas: Words, access: str) -> Words:
        """PAR_EL1 after AT S12E1R (`access` "r") or AT S12E1W ("w") of each address."""
        pars = np.empty(len(ipas), np.uint64)
        command = {"r": "at_read", "w": "at_write"}[access]
        for first in range(0, len(ipas), AT_BATCH):
            count = min(AT_BATCH, len(ipas) - first)
            self._at_from[:count] = ipas[first : first + count]
            self.do(command, count=count, **{"from": _AT_FROM, "to": _AT_TO})
            pars[first : first + count] = self._at_to[:count]
        return pars

    def access(self, kind: str, ipa: int, value: int = 0) -> Outcome:
        """A load ("r") or store ("w") of 8 bytes, one access that does both ("rw"), or a jump to
        `ipa` ("x"; see `plant`) by EL1."""
        pc = ipa if kind == "x" else self.stub_ipa + STUB_OFFSETS[kind]
        self.do("guest", pc=pc, x0=ipa, x1=value)
        esr = self._read("esr")
        if esr >> 26 == _EC_HVC:
            return Outcome(self._read("x1" if kind == "r" else "x2"), None)
        return Outcome(None, Abort(esr, self._read("far"), self._read("hpfar")))
