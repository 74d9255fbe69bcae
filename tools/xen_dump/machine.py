"""The machine: Xen and dom0 under QEMU, with its RAM in a file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from xen_dump import DumpError
from xen_dump.debian import BootFiles

RAM_BASE = 0x4000_0000
"""Where QEMU's "virt" machine has its RAM."""

SOCKET_TIMEOUT = 600.0  # dump-guest-memory answers when all is written


class Board(NamedTuple):
    """How QEMU is called for an architecture."""

    program: str
    machine: str
    cpu: str

    def check(self) -> None:
        """Refuse to go on without QEMU."""
        if shutil.which(self.program) is None:
            raise DumpError(f"{self.program} is not there: apt install qemu-system-arm")


BOARDS = {
    "arm64": Board("qemu-system-aarch64", "virt,virtualization=on,gic-version=2", "cortex-a53"),
    "armhf": Board("qemu-system-arm", "virt,virtualization=on,highmem=off", "cortex-a15"),
}
CPUS = 2

PANICS = ("Panic on CPU", "Kernel panic")  # Xen's and Linux's

BLOCK = 64 << 10  # of a sparse copy

# Far enough into RAM for Xen and the device tree, which QEMU puts first.
KERNEL_AT = RAM_BASE + 0x900_0000
INITRD_AT = RAM_BASE + 0xC00_0000


class Machine:
    """A QEMU from its start to its certain end (use it in a `with`)."""

    def __init__(
        self, board: Board, files: BootFiles, memory: int, dom0_memory: int, directory: Path
    ) -> None:
        self.ram = directory / "ram"
        self._console, self._log = directory / "console", directory / "qemu.log"
        # Not in `directory`: the path of a socket has 107 bytes at most.
        self._sockets = tempfile.TemporaryDirectory(prefix="xen-dump-")
        self.gdb_socket = Path(self._sockets.name, "gdb")
        self._qmp_socket = Path(self._sockets.name, "qmp")
        command = [
            board.program,
            *("-M", f"{board.machine},memory-backend=ram"),
            "-object",
            f"memory-backend-file,id=ram,size={memory},mem-path={_escaped(self.ram)},share=on",
            *("-cpu", board.cpu, "-smp", str(CPUS), "-m", str(memory >> 20)),
            *("-nodefaults", "-no-user-config", "-display", "none"),
            *("-chardev", f"file,id=console,path={_escaped(self._console)}", "-serial"),
            "chardev:console",
            *("-qmp", f"unix:{_escaped(self._qmp_socket)},server=on,wait=off"),
            *("-gdb", f"unix:{_escaped(self.gdb_socket)},server=on,wait=off"),
            *("-kernel", str(files.xen)),
            *("-append", f"dom0_mem={dom0_memory >> 10}K console=dtuart noreboot"),
            "-device",
            f"guest-loader,addr={KERNEL_AT:#x},kernel={_escaped(files.kernel)},"
            "bootargs=console=hvc0",
            *("-device", f"guest-loader,addr={INITRD_AT:#x},initrd={_escaped(files.initrd)}"),
        ]
        with self._log.open("wb") as log:
            # A session of its own: Ctrl-C is for us alone, and we end QEMU.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._qmp: Qmp | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._qmp is not None:
            self._qmp.close()
        self._process.kill()
        self._process.wait()
        self._sockets.cleanup()

    def console(self) -> str:
        """What the serial console has said so far."""
        if not self._console.exists():
            return ""
        return self._console.read_bytes().decode(errors="replace").replace("\r", "")

    def wait_for(self, words: str, deadline: float) -> None:
        """Wait until the console has said these words."""
        while words not in (console := self.console()):
            stage = f"waiting for {words!r} on the console"
            if self._process.poll() is not None:
                raise DumpError(f"QEMU ended (status {self._process.returncode}) while {stage}")
            if any(panic in console for panic in PANICS):
                raise DumpError(f"a panic while {stage}")
            if time.monotonic() > deadline:
                raise DumpError(f"out of time while {stage}")
            time.sleep(0.2)

    def qmp(self, command: str, **arguments: object) -> Any:
        """Run a command of QEMU's machine protocol and return its answer."""
        if self._qmp is None:
            self._qmp = Qmp(self._qmp_socket)
        return self._qmp.execute(command, arguments)

    def last_words(self) -> str:
        """The console's last lines, and what QEMU itself has to say."""
        lines = ["--- the console's last lines ---", *self.console().splitlines()[-15:]]
        if log := self._log.read_text(errors="replace").rstrip():
            lines += ["--- QEMU's messages ---", log]
        return "\n".join(lines)


class Qmp:
    """A client of QEMU's machine protocol, on its socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(SOCKET_TIMEOUT)
        self._socket.connect(str(path))
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._stream.readline()  # the greeting
        self.execute("qmp_capabilities", {})

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def execute(self, command: str, arguments: dict[str, object]) -> Any:
        """Run a command and return its answer; DumpError where QEMU refuses it."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while True:
            line = self._stream.readline()
            if not line:
                raise DumpError(f"QEMU has gone away during {command}")
            reply = json.loads(line)
            if "error" in reply:
                raise DumpError(f"QEMU refuses {command}: {reply['error']['desc']}")
            if "return" in reply:  # and not an event
                return reply["return"]


def sparse_copy(source: Path, target: Path) -> None:
    """Copy a file, leaving out what is zero."""
    size = source.stat().st_size
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        writer.truncate(size)
        at = 0
        while (at := _next_data(reader.fileno(), at, size)) < size:
            os.lseek(reader.fileno(), at, os.SEEK_SET)
            block = reader.read(BLOCK)
            if block.count(0) != len(block):
                os.pwrite(writer.fileno(), block, at)
            at += len(block)


def _next_data(file: int, at: int, size: int) -> int:
    try:
        return os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole from here on
            return size
        raise


def _escaped(path: Path) -> str:
    """A path inside an option of QEMU's, where a comma is doubled."""
    return str(path).replace(",", ",,")
