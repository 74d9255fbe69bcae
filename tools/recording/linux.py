"""Debian's kernel as a guest: it boots, takes CPUs off and on if asked, and powers off."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tooling.debian import kernel_of, unpacked, write_initrd

from recording.machine import Guest

BOOT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
"""

HOTPLUG = """for round in 1 2 3; do
    for cpu in /sys/devices/system/cpu/cpu[1-9]*; do
        echo 0 > $cpu/online && echo 1 > $cpu/online
    done
done
"""

POWER_OFF = "/bin/busybox poweroff -f\n"


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
    tree = unpacked(
        f"linux-{arch}", arch, work, lambda apt: [apt.newest_kernel(), "busybox-static"]
    )
    kernel = kernel_of(tree)
    init = BOOT + (HOTPLUG if hotplug else "") + POWER_OFF
    initrd = write_initrd(work / f"recorded-{arch}.gz", tree, init)
    options = [
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", f"console={board.console} panic=-1"),
    ]
    guest = Guest(board.program, board.bits, board.cpu, smp, memory, options)
    return guest, kernel.name.removeprefix("vmlinuz-")
