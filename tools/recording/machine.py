"""QEMU with the plugin: a guest from its start to its power-off."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tooling import ToolError

from recording import RAM_BASE
from recording.log import Log, read

PANICS = ("Kernel panic", "Unable to handle kernel")
MAX_MEMORY = 255 << 30  # what the plugin's words have room for


class Guest(NamedTuple):
    """What QEMU is to run: its program, its options beyond the machine's RAM, the guest's bits."""

    program: str
    bits: int
    cpu: str
    smp: int
    memory: int
    options: Sequence[str]
    thread: str = "multi"


def version(program: str) -> str:
    """QEMU's name and version; ToolError where it is not there."""
    if shutil.which(program) is None:
        raise ToolError(f"{program} is not there: apt install qemu-system-arm")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"version ([\d.]+)", said)
    return f"QEMU {match[1]}" if match else "QEMU"


def record(guest: Guest, plugin: Path, timeout: float, *, check: bool = False) -> Log:
    """Run the guest until it powers off, and return what the plugin saw.

    QEMU is certainly ended. ToolError, with the console's last lines, where the guest panics, QEMU
    fails, or time is up.
    """
    version(guest.program)
    with tempfile.TemporaryDirectory(prefix="recording-") as name:
        directory = Path(name)
        log = directory / "qemu.log"
        command = _command(guest, plugin, directory, check)
        with log.open("wb") as file:
            # A session of its own: Ctrl-C is for us alone, and we end QEMU.
            qemu = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )
        try:
            _wait(qemu, directory / "console", time.monotonic() + timeout)
        except ToolError as error:
            raise ToolError(f"{error}\n{_last_words(directory)}") from None
        finally:
            qemu.kill()
            qemu.wait()
        return read(directory / "log")


def _command(guest: Guest, plugin: Path, directory: Path, check: bool) -> list[str]:
    return [
        guest.program,
        *("-M", "virt,memory-backend=ram", "-cpu", guest.cpu, "-smp", str(guest.smp)),
        *("-object", f"memory-backend-memfd,id=ram,size={guest.memory}"),
        *("-m", f"{guest.memory >> 20}M", "-accel", f"tcg,thread={guest.thread}"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-chardev", f"file,id=console,path={_escaped(directory / 'console')}"),
        *("-serial", "chardev:console"),
        *plugin_options(plugin, directory, guest.bits, guest.memory, check=check),
        *guest.options,
    ]


def plugin_options(
    plugin: Path,
    directory: Path,
    bits: int,
    memory: int,
    *,
    check: bool,
    more: Mapping[str, object] | None = None,
) -> list[str]:
    """QEMU's options for the plugin, which writes the file ``log`` of the directory, and for the
    monitor that it asks for registers. ``more``: further options of the plugin's own."""
    words = {
        "out": directory / "log",
        "monitor": directory / "monitor",
        "bits": bits,
        "base": RAM_BASE,
        "size": memory,
        "check": "on" if check else "off",
        **(more or {}),
    }
    arguments = ",".join(f"{name}={_escaped(value)}" for name, value in words.items())
    return [
        *("-monitor", f"unix:{_escaped(directory / 'monitor')},server=on,wait=off"),
        *("-plugin", f"{_escaped(plugin)},{arguments}"),
    ]


def _wait(qemu: subprocess.Popen[bytes], console: Path, deadline: float) -> None:
    while qemu.poll() is None:
        if any(panic in _text(console) for panic in PANICS):
            raise ToolError("the guest has panicked")
        if time.monotonic() > deadline:
            raise ToolError("out of time: the guest has not powered off")
        with contextlib.suppress(subprocess.TimeoutExpired):
            qemu.wait(0.2)
    if qemu.returncode:
        raise ToolError(f"QEMU ended with status {qemu.returncode}")


def _text(path: Path) -> str:
    if not path.exists():
        return ""
    return path.read_bytes().decode(errors="replace").replace("\r", "")


def _last_words(directory: Path) -> str:
    lines = ["--- the console's last lines ---", *_text(directory / "console").splitlines()[-15:]]
    if log := _text(directory / "qemu.log").rstrip():
        lines += ["--- QEMU's messages ---", *log.splitlines()[-15:]]
    return "\n".join(lines)


def _escaped(value: object) -> str:
    """A value inside an option of QEMU's, where a comma is doubled."""
    return str(value).replace(",", ",,")
