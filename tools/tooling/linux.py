"""Debian's kernel as a guest: its files, and the one init that all guests run."""

from __future__ import annotations

from pathlib import Path

from tooling.debian import kernel_of, unpacked, write_initrd

HOTPLUG = "p2mfast.hotplug"
"""The word of the kernel's command line that has the secondary CPUs taken off and on."""

DONE = "p2mfast: guest is done"

# Without /proc and /sys there is neither the command line nor the CPUs' switch.
INIT = f"""#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
rounds=0
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in {HOTPLUG}=*) rounds=${{word#*=}} ;; esac
done
echo "p2mfast: CPUs online: $(/bin/busybox grep -c ^processor /proc/cpuinfo)"
while [ "$rounds" -gt 0 ]; do
    for cpu in /sys/devices/system/cpu/cpu[1-9]*; do
        echo 0 > $cpu/online && echo 1 > $cpu/online
    done
    rounds=$((rounds - 1))
    echo "p2mfast: CPUs online: $(/bin/busybox grep -c ^processor /proc/cpuinfo)"
done
echo "{DONE}"
/bin/busybox poweroff -f
"""


def debian_linux(arch: str, work: Path) -> tuple[Path, str, Path]:
    """The kernel, its release, and an initrd. What `work` has is used again."""
    tree = unpacked(
        f"linux-{arch}", arch, work, lambda apt: [apt.newest_kernel(), "busybox-static"]
    )
    kernel = kernel_of(tree)
    initrd = write_initrd(work / f"initrd-{arch}.gz", tree, INIT)
    return kernel, kernel.name.removeprefix("vmlinuz-"), initrd
