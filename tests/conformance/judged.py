"""A scripted monitor and its guest (judged.S) under QEMU with the recorder beside it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from recording.beside import Beside, Judgements
from recording.build import INTERFACE
from recording.log import Log

from p2mfast.experiment.metal import interface

HERE = Path(__file__).parent
MEMORY = 512 << 20
RAM_BASE, GUEST, MONITOR = 0x4000_0000, 0x4020_0000, 0x5F00_0000
CODE = GUEST >> 12
"""The page of the guest's code, which it touches whenever it runs."""

_INTERFACE = interface.read(INTERFACE)
_ORDERS = {
    name: int(value, 0)
    for name, value in re.findall(
        r"^#define ((?:ORDER|SCRIPT)\w+) (\w+)", (HERE / "judged.S").read_text(), re.MULTILINE
    )
}


def parameters(**values: int) -> bytes:
    """The monitor's parameters, as interface.h has them."""
    told = np.zeros((), _INTERFACE.structs["parameters"])
    for name, value in values.items():
        told[name] = value
    return told.tobytes()


class Script:
    """What a vCPU does, order by order; each method returns the script."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.flushes = self.runs = self.faults = 0

    def order(self, name: str, a: int = 0, b: int = 0) -> Script:
        self.words += [_ORDERS[f"ORDER_{name}"], a, b]
        return self

    def write(self, *gfns: int) -> Script:
        for gfn in gfns:
            self.order("WRITE", (gfn << 12) + 8)
        return self

    def read(self, *gfns: int) -> Script:
        for gfn in gfns:
            self.order("READ", (gfn << 12) + 16)
        return self

    def mark(self, *names: str) -> Script:
        for name in names:
            self.order(f"MARK_{name}")
        return self

    def poke(self, place: str, index: int, struct: str, **values: int) -> Script:
        """The monitor writes fields of a struct in a log, or of its report."""
        type_ = _INTERFACE.structs[struct]
        base = MONITOR + _INTERFACE[place] + type_.itemsize * index
        for name, value in values.items():
            assert type_.fields is not None
            self.order("POKE", base + type_.fields[name][1], value)
        return self

    def fault(self, gfn: int, what: int = 0, vcpu: int = 0) -> Script:
        """The monitor logs a stage-2 fault that it resolved."""
        self.poke("FAULTS_OFFSET", self.faults, "fault_record", gfn=gfn, what=vcpu << 8 | what)
        self.faults += 1
        return self.poke("REPORT_OFFSET", 0, "report", faults=self.faults)

    def begin(self, runs: Iterable[tuple[int, int]], *, vcpu: int = 0, cause: int = 1) -> Script:
        """A flush begins, and logs runs of (gfn, nr)."""
        runs = list(runs)
        self.pages = sum(nr for _, nr in runs)
        record = {"vcpu": vcpu, "cause": cause, "first_run": self.runs, "runs": len(runs)}
        self.poke("FLUSHES_OFFSET", self.flushes, "flush_record", **record)
        self.mark("BEGINS")
        for gfn, nr in runs:
            self.poke("RUNS_OFFSET", self.runs, "run_record", gfn=gfn, mfn=gfn, nr=nr)
            self.runs += 1
        return self.poke("REPORT_OFFSET", 0, "report", runs=self.runs)

    def end(self, lines: int | None = None) -> Script:
        """The flush has collected; it cleans, and ends."""
        self.mark("COLLECTED")
        return self.order("CLEAN", 64 * self.pages if lines is None else lines).close()

    def close(self) -> Script:
        self.poke("FLUSHES_OFFSET", self.flushes, "flush_record", pages=self.pages)
        self.mark("CLEANED")
        self.flushes += 1
        return self.poke("REPORT_OFFSET", 0, "report", flushes=self.flushes)

    def flush(self, *runs: tuple[int, int]) -> Script:
        """A flush as it should be: collect, arm and invalidate, then clean."""
        return self.begin(runs).order("INVALIDATE").end()


def build_program(directory: Path) -> Path:
    """judged.S, linked."""
    elf = directory / "judged.elf"
    options = (
        f"-nostdlib -static -Wl,--build-id=none -Wl,-Ttext={MONITOR:#x}"
        f" -Wl,--section-start=.guest={GUEST:#x} -DGUEST={GUEST:#x}"
    )
    source = str(HERE / "judged.S")
    subprocess.run(["aarch64-linux-gnu-gcc", *options.split(), "-o", str(elf), source], check=True)
    return elf


def run(
    plugin: Path, program: Path, directory: Path, *scripts: Script, **policy: int
) -> tuple[Judgements, Log]:
    """Boot the program with a script for each vCPU: what was judged, and what was recorded."""
    loads: list[tuple[Path, int | None]] = [(program, None)]
    for i, script in enumerate(scripts):
        path = directory / f"script{i}"
        path.write_bytes(np.array(script.words, "<u8").tobytes())
        loads.append((path, _ORDERS["SCRIPTS"] + (i << _ORDERS["SCRIPT_BYTES_LOG"])))
    told = directory / "parameters"
    told.write_bytes(parameters(**{"arm": 1, **policy}))
    loads.append((told, MONITOR + _INTERFACE["PARAMETERS_OFFSET"]))
    command: list[Any] = [
        *("qemu-system-aarch64", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-M", "virt,virtualization=on,memory-backend=ram", "-cpu", "cortex-a57"),
        *("-m", "512M", "-smp", str(len(scripts)), "-accel", "tcg,thread=multi"),
        *("-object", f"memory-backend-file,id=ram,size={MEMORY},mem-path={directory / 'ram'}"
                     ",share=on"),
    ]  # fmt: skip
    for path, address in loads:
        where = "cpu-num=0" if address is None else f"addr={address:#x},force-raw=on"
        command += ["-device", f"loader,file={path},{where}"]
    beside = Beside(plugin, directory, 64, MEMORY)
    subprocess.run(
        beside.amend(command), stdin=subprocess.DEVNULL, check=True, timeout=60, capture_output=True
    )
    return beside.judgements(), beside.log()
