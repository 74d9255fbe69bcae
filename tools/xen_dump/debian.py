"""Xen, a kernel and busybox of another architecture from Debian, and an initrd out of it.

apt works on lists and a cache of our own, so nothing is installed and no root is needed.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from xen_dump import DumpError, progress

KERNELS = {"arm64": "linux-image-cloud-arm64", "armhf": "linux-image-armmp-lpae"}
"""Debian's metapackages: each depends on the newest kernel of its kind."""

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
    tree = work / f"debian-{arch}"
    if not tree.exists():
        partial = work / f"debian-{arch}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _fetch(arch, work / f"apt-{arch}", partial)
        partial.rename(tree)
    initrd = work / f"initrd-{arch}.gz"
    busybox = _only(tree, "bin/busybox", "usr/bin/busybox")
    initrd.write_bytes(gzip.compress(_initrd(busybox.read_bytes()), mtime=0))
    return BootFiles(
        xen=_only(tree, f"boot/xen-*-{arch}"), kernel=_only(tree, "boot/vmlinuz-*"), initrd=initrd
    )


def _only(tree: Path, *patterns: str) -> Path:
    found = [path for pattern in patterns for path in tree.glob(pattern)]
    if len(found) != 1:
        raise DumpError(f"expected one of {patterns} in {tree}, found {len(found)}")
    return found[0]


# ---- apt ----


def _fetch(arch: str, apt: Path, tree: Path) -> None:
    """Download the three packages and unpack them into `tree`."""
    for tool in ("apt-get", "apt-cache", "dpkg"):
        if shutil.which(tool) is None:
            raise DumpError(f"{tool} is not there: this needs Debian's apt and dpkg")
    debs = apt / "debs"
    for directory in (apt / "lists/partial", apt / "cache/archives/partial", debs):
        directory.mkdir(parents=True, exist_ok=True)
    (apt / "status").touch()
    options = [
        f"-oAPT::Architecture={arch}",
        f"-oAPT::Architectures={arch}",
        # As root, apt would download as a user who may not write here.
        "-oAPT::Sandbox::User=root",
        f"-oDir::State={apt}",
        f"-oDir::State::Lists={apt / 'lists'}",
        f"-oDir::State::status={apt / 'status'}",
        f"-oDir::Cache={apt / 'cache'}",
    ]
    progress(f"fetching Debian's package lists for {arch}")
    try:
        _run(["apt-get", *options, "-q", "update"])
    except DumpError as error:
        # One source out of step, or without this architecture, need not be one of ours.
        progress(f"warning: {error}; going on with the lists that are there")
    packages = [_newest_xen(options, arch), _newest_kernel(options, arch), "busybox-static"]
    progress(f"downloading {', '.join(packages)}")
    for old in debs.iterdir():
        old.unlink()
    _run(["apt-get", *options, "-q", "download", *packages], cwd=debs)
    tree.mkdir()
    for deb in sorted(debs.iterdir()):
        _run(["dpkg", "-x", str(deb), str(tree)])


def _newest_xen(options: Sequence[str], arch: str) -> str:
    names = _run(["apt-cache", *options, "pkgnames", "xen-hypervisor-"]).split()
    versions = [
        (tuple(map(int, match[1].split("."))), name)
        for name in names
        if (match := re.fullmatch(rf"xen-hypervisor-([\d.]+)-{arch}", name))
    ]
    if not versions:
        raise DumpError(
            f"apt's sources have no xen-hypervisor-VERSION-{arch}: do they name a Debian release?"
        )
    return max(versions)[1]


def _newest_kernel(options: Sequence[str], arch: str) -> str:
    depends = _run(["apt-cache", *options, "depends", "--important", KERNELS[arch]])
    match = re.search(r"Depends: (linux-image-\S+)", depends)
    if match is None:
        raise DumpError(f"apt's sources have no {KERNELS[arch]}")
    return match[1]


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-2000:])
        raise DumpError(f"{command[0]} failed with status {done.returncode} (its words above)")
    return done.stdout


# ---- The initrd ----


def _initrd(busybox: bytes) -> bytes:
    """A cpio archive (the "newc" form, as Linux's initramfs has it)."""
    directory, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    return b"".join(
        (
            _member("dev", directory),
            # Before init runs, the kernel opens this as its standard files.
            _member("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            # The standard input of a shell's background jobs.
            _member("dev/null", stat.S_IFCHR | 0o666, device=(1, 3)),
            _member("proc", directory),
            _member("bin", directory),
            _member("bin/busybox", program, busybox),
            _member("init", program, INIT.encode()),
            _member("TRAILER!!!", 0),
        )
    )


def _member(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    encoded = name.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
    # namesize, check
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields)
    return _padded(header + encoded) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
