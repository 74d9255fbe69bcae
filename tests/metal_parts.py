"""What the tests of `p2mfast metal` are made of: the monitor's memory as we would have it, a QEMU
that is none, and a device tree.

The QEMU is a script: asked for a device tree it gives ours; else it keeps what it was called with,
puts the monitor's memory that a test has written where the monitor's would be, says what the test
wants on the console, and ends, or does not.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2mfast.experiment.metal.guests import Guest
from p2mfast.experiment.metal.run import load_interface

INTERFACE = load_interface()
INITRD = 0x4812_3000, 0x4823_4567
DONE = "p2mfast: CPUs online: 1\np2mfast: guest is done\nreboot: Power down\n"

_QEMU = """#!{python} -IS
import json, os, shutil, sys, time
place = {place!r}
words = sys.argv[1:]
machine = words[words.index("-M") + 1]
if "dumpdtb=" in machine:
    with open(place + "/dumpdtb.json", "w") as file:
        json.dump(words, file)
    shutil.copyfile(place + "/tree", machine.partition("dumpdtb=")[2])
    sys.exit()
with open(place + "/wanted.json") as file:
    wanted = json.load(file)
for word in words:
    if word.startswith("loader,file=") or word.startswith("if=pflash"):
        path = word.partition("file=")[2].partition(",")[0]
        shutil.copyfile(path, place + "/loaded/" + os.path.basename(path))
with open(place + "/command.json", "w") as file:
    json.dump([words, os.getpid()], file)
backend = words[words.index("-object") + 1]
fields = dict(item.partition("=")[::2] for item in backend.split(","))
with open(fields["mem-path"], "r+b") as ram, open(place + "/memory", "rb") as memory:
    ram.seek(int(fields["size"]) - os.path.getsize(place + "/memory"))
    ram.write(memory.read())
serial = words[words.index("-serial") + 1]
with open(serial.partition(":")[2], "w") as console:
    console.write(wanted["console"])
print(wanted["said"], file=sys.stderr, flush=True)
time.sleep(wanted["seconds"])
sys.exit(wanted["status"])
"""

_MAKE = """#!{python} -IS
import sys
words = dict(word.partition("=")[::2] for word in sys.argv)
if "{fail}":
    sys.exit("{fail}")
open(words["BUILD"] + "/monitor-" + words["MONITOR_BASE"] + ".elf", "w").close()
"""


def flattened_tree() -> bytes:
    """A device tree that says where the initrd is (Devicetree Specification, chapter 5)."""
    strings = b"reg\0linux,initrd-start\0linux,initrd-end\0"

    def prop(name: bytes, value: bytes) -> bytes:
        padded = value + bytes(-len(value) % 4)
        return struct.pack(">III", 3, len(value), strings.index(name + b"\0")) + padded

    def node(name: bytes, *inside: bytes) -> bytes:
        padded = name + bytes(4 - len(name) % 4)
        return struct.pack(">I", 1) + padded + b"".join(inside) + struct.pack(">I", 2)

    structure = node(
        b"",
        prop(b"reg", b"odd"),
        node(b"memory@40000000", struct.pack(">I", 4), prop(b"reg", bytes(16))),
        node(
            b"chosen",
            prop(b"linux,initrd-end", struct.pack(">I", INITRD[1])),
            prop(b"linux,initrd-start", struct.pack(">Q", INITRD[0])),
        ),
    ) + struct.pack(">I", 9)
    head, room = 40, 16
    total = head + room + len(structure) + len(strings)
    header = (0xD00DFEED, total, head + room, head + room + len(structure), head, 17, 16, 0,
              len(strings), len(structure))  # fmt: skip
    return struct.pack(">10I", *header) + bytes(room) + structure + strings


class Monitor:
    """The monitor's memory, to be written to as the monitor would."""

    def __init__(self) -> None:
        self.bytes = np.zeros(INTERFACE["TABLES_OFFSET"], np.uint8)
        self.report = self.records("report", "REPORT_OFFSET", 1)[0]
        self.flushes = self.records("flush_record", "FLUSHES_OFFSET", INTERFACE["FLUSHES_MAX"])
        self.runs = self.records("run_record", "RUNS_OFFSET", INTERFACE["RUNS_MAX"])
        self.faults = self.records("fault_record", "FAULTS_OFFSET", INTERFACE["FAULTS_MAX"])
        self.report["ticks_per_second"] = 62_500_000
        self.end("POWERED_OFF")

    def records(self, struct_name: str, offset: str, n: int) -> Any:
        return np.frombuffer(self.bytes.data, INTERFACE.structs[struct_name], n, INTERFACE[offset])

    def end(self, state: str) -> None:
        self.report["state"] = INTERFACE[f"STATE_{state}"]

    def flush(self, runs: list[tuple[int, int, int]], **fields: int) -> None:
        n, first = int(self.report["flushes"]), int(self.report["runs"])
        for name, value in fields.items():
            self.flushes[n][name] = value
        self.flushes[n]["first_run"], self.flushes[n]["runs"] = first, len(runs)
        for i, run in enumerate(runs, first):
            self.runs[i] = run
        self.report["flushes"] += np.uint64(1)
        self.report["runs"] += np.uint64(len(runs))

    def memory(self) -> bytes:
        """All of it."""
        return self.bytes.tobytes().ljust(INTERFACE["MONITOR_BYTES"], b"\0")


@dataclass
class FakeQemu:
    """The script, and what it was called with."""

    place: Path
    monitor: Monitor
    console: str = DONE
    seconds: float = 0
    status: int = 0
    said: str = ""

    def set(self) -> None:
        """As the attributes are now, it will do."""
        wanted = {n: getattr(self, n) for n in ("console", "seconds", "status", "said")}
        (self.place / "wanted.json").write_text(json.dumps(wanted))
        (self.place / "memory").write_bytes(self.monitor.memory())

    @property
    def command(self) -> list[str]:
        words: list[str] = json.loads((self.place / "command.json").read_text())[0]
        return words

    @property
    def pid(self) -> int:
        return int(json.loads((self.place / "command.json").read_text())[1])

    @property
    def tree_command(self) -> list[str]:
        words: list[str] = json.loads((self.place / "dumpdtb.json").read_text())
        return words

    def loaded(self, name: str) -> bytes:
        return (self.place / "loaded" / name).read_bytes()

    def addresses(self) -> dict[str, int]:
        """Where the loader was to put which file."""
        found = {}
        for word in self.command:
            fields = dict(item.partition("=")[::2] for item in word.split(","))
            if word.startswith("loader,") and "addr" in fields:
                found[os.path.basename(fields["file"])] = int(fields["addr"], 0)
        return found

    def parameters(self) -> Any:
        data = self.loaded("parameters.bin")
        return np.frombuffer(data, INTERFACE.structs["parameters"])[0]


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def fake_make(directory: Path, fail: str = "") -> None:
    executable(directory / "make", _MAKE.format(python=sys.executable, fail=fail))


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    """QEMU, make and the cross compiler, none of them real, and a cache of our own."""
    programs = directory / "bin"
    for path in (programs, directory / "loaded"):
        path.mkdir()
    executable(
        programs / "qemu-system-aarch64", _QEMU.format(python=sys.executable, place=str(directory))
    )
    fake_make(programs)
    executable(programs / "aarch64-linux-gnu-gcc", "#!/bin/sh\n")
    (directory / "tree").write_bytes(flattened_tree())
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory / "cache"))
    return FakeQemu(directory, Monitor())


def guest(directory: Path, bits: int, uboot: bool = False) -> Guest:
    """Files that look like a guest's."""
    kernel = bytearray(64)
    if bits == 32:
        kernel[0x24:0x28] = b"\x18\x28\x6f\x01"
    else:
        kernel[0x38:0x3C] = b"ARM\x64"
    (directory / "kernel").write_bytes(kernel)
    (directory / "initrd.gz").write_bytes(b"initrd")
    (directory / "u-boot.bin").write_bytes(bytes(3 << 20))
    return Guest(
        "a guest",
        bits,
        "A guest 1.0",
        directory / "kernel",
        directory / "initrd.gz",
        directory / "u-boot.bin" if uboot else None,
    )
