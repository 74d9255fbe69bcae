"""Xen, a kernel and busybox of another architecture from Debian."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tooling.debian import Apt, kernel_of, only, unpacked, write_initrd

from xen_dump import DumpError

READY = "p2mfast: dom0 is up"
"""What dom0's init says on the console."""

INIT = f"""#!/bin/busybox sh
# Keeps every vCPU busy: on some cores, Xen parks an idle CPU's VTTBR on an empty root.
/bin/busybox mount -t proc proc /proc
/bin/busybox grep ^processor /proc/cpuinfo | while read cpu; do
    (while :; do :; done) &
done
echo "{READY}"
while :; do /bin/busybox sleep 1000; done
"""


class BootFiles(NamedTuple):
    """What QEMU is given to boot."""

    xen: Path
    kernel: Path
    initrd: Path


def boot_files(arch: str, work: Path) -> BootFiles:
    """Fetch and unpack what a Xen of this architecture needs; what `work` has is used again."""
    tree = unpacked(
        f"debian-{arch}",
        arch,
        work,
        lambda apt: [_newest_xen(apt), apt.newest_kernel(), "busybox-static"],
    )
    return BootFiles(
        xen=only(tree, f"boot/xen-*-{arch}"),
        kernel=kernel_of(tree),
        initrd=write_initrd(work / f"initrd-{arch}.gz", tree, INIT),
    )


def _newest_xen(apt: Apt) -> str:
    names = apt.ask("pkgnames", "xen-hypervisor-").split()
    versions = [
        (tuple(map(int, match[1].split("."))), name)
        for name in names
        if (match := re.fullmatch(rf"xen-hypervisor-([\d.]+)-{apt.arch}", name))
    ]
    if not versions:
        raise DumpError(
            f"apt's sources have no xen-hypervisor-VERSION-{apt.arch}:"
            " do they name a Debian release?"
        )
    return max(versions)[1]
