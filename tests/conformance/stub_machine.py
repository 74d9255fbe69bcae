"""The monitor of examples/el2_monitor with a small guest of ours, under QEMU: what it left in its
memory when the guest has turned the power off."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from p2mfast.experiment.metal import interface as header

ROOT = Path(__file__).parents[2]
MONITOR = ROOT / "examples/el2_monitor"
INTERFACE = header.read(MONITOR / "interface.h")

RAM_BASE = INTERFACE["RAM_BASE"]
MEMORY = 64 << 20
MONITOR_BASE = RAM_BASE + MEMORY - INTERFACE["MONITOR_BYTES"]
"""Nothing that the guest can reach; the guest's RAM ends here."""
ENTRY = RAM_BASE + 0x20_0000
DATA = RAM_BASE + 0x100_0000
"""Pages for the guest to use: QEMU's device tree and the guest's code lie elsewhere."""

_TIMEOUT = 20


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def build_monitor(directory: Path) -> Path:
    """Its ELF file."""
    _run("make", "-s", "-C", MONITOR, f"BUILD={directory}", f"MONITOR_BASE={MONITOR_BASE:#x}")
    return directory / f"monitor-{MONITOR_BASE:#x}.elf"


def build_stub(directory: Path, bits: int) -> Path:
    """The flat binary of stub.S or stub32.s."""
    binary = directory / f"stub{bits}.bin"
    _run("make", "-s", "-C", MONITOR, f"BUILD={directory}", binary)
    return binary


class Outcome:
    """What the monitor reported, and its guest's memory."""

    def __init__(self, ram: npt.NDArray[np.uint8]) -> None:
        self._ram = ram
        self.report: Any = self.at(MONITOR_BASE + INTERFACE["REPORT_OFFSET"], "report", 1)[0]
        self.state = INTERFACE.name_of("STATE_", int(self.report["state"]))
        self.flushes: Any = self._log("flush_record", "FLUSHES_OFFSET", "flushes")
        self.faults: Any = self._log("fault_record", "FAULTS_OFFSET", "faults")
        self.runs: Any = self._log("run_record", "RUNS_OFFSET", "runs")

    def at(self, address: int, struct: str, n: int) -> Any:
        """Structs of interface.h."""
        dtype = INTERFACE.structs[struct]
        return self.bytes(address, n * dtype.itemsize).view(dtype)

    def bytes(self, address: int, n: int) -> npt.NDArray[np.uint8]:
        return self._ram[address - RAM_BASE :][:n]

    def _log(self, struct: str, offset: str, count: str) -> Any:
        return self.at(MONITOR_BASE + INTERFACE[offset], struct, int(self.report[count]))


def run(directory: Path, monitor: Path, stub: Path, **parameters: Any) -> Outcome:
    """One guest, from its start at the stub's first word to its power-off."""
    values: Mapping[str, Any] = {
        "magic": INTERFACE["PARAMETERS_MAGIC"],
        "version": INTERFACE["INTERFACE_VERSION"],
        "memory": MEMORY,
        "vcpus": 1,
        "guest_bytes": MEMORY - INTERFACE["MONITOR_BYTES"],
        "entry": ENTRY,
        "arm": INTERFACE["ARM_CREATION_FINISHED"],
        "resolve": INTERFACE["RESOLVE_PATH"],
        "flush": INTERFACE["FLUSH_HARVEST"],
        "budget": 512,
        **parameters,
    }
    packed = np.zeros(1, INTERFACE.structs["parameters"])
    for name, value in values.items():
        packed[name] = value
    (directory / "parameters.bin").write_bytes(packed.tobytes())
    file = os.memfd_create("ram")
    try:
        os.ftruncate(file, MEMORY)
        path = f"/dev/fd/{file}"
        loads = {stub: ENTRY, directory / "parameters.bin":
                 MONITOR_BASE + INTERFACE["PARAMETERS_OFFSET"]}  # fmt: skip
        subprocess.run(
            ["qemu-system-aarch64", "-nodefaults", "-display", "none", "-serial", "none",
             "-no-reboot", "-M", "virt,virtualization=on,gic-version=2,memory-backend=ram",
             "-object", f"memory-backend-file,id=ram,size={MEMORY},mem-path={path},share=on",
             "-cpu", "cortex-a57", "-smp", str(values["vcpus"]), "-m", f"{MEMORY >> 20}M",
             # Several run at the same time instead.
             *(("-icount", "shift=0,sleep=off") if values["vcpus"] == 1 else ()),
             "-device", f"loader,file={monitor},cpu-num=0",
             *(word for loaded, address in loads.items() for word in
               ("-device", f"loader,file={loaded},addr={address:#x},force-raw=on"))],
            check=True, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, pass_fds=[file],
        )  # fmt: skip
        return Outcome(np.frombuffer(os.pread(file, MEMORY, 0), np.uint8))
    finally:
        os.close(file)
