"""Debian's kernel as a guest: it boots, takes CPUs off and on if asked, and powers off."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tooling.linux import HOTPLUG, debian_linux

from recording.machine import Guest

HOTPLUG_ROUNDS = 3


class Board(NamedTuple):
    """How QEMU is called for an architecture."""

    program: str
    bits: int
    cpu: str
    console: str


BOARDS = {
    "armhf": Board("qemu-system-arm", 32, "cortex-a15", "ttyAMA0"),
    "arm64": Board("qemu-system-aarch64", 64, "cortex-a53", "ttyAMA0"),
}


def linux(arch: str, smp: int, memory: int, hotplug: bool, work: Path) -> tuple[Guest, str]:
    """The guest, and the kernel's release. What `work` has is used again."""
    board = BOARDS[arch]
    kernel, release, initrd = debian_linux(arch, work)
    rounds = HOTPLUG_ROUNDS if hotplug else 0
    options = [
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"console={board.console} panic=-1 {HOTPLUG}={rounds}"),
    ]
    guest = Guest(board.program, board.bits, board.cpu, smp, memory, options)
    return guest, release
