"""Packages of another architecture from Debian, unpacked, and an initrd out of busybox.

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
from collections.abc import Callable, Sequence
from pathlib import Path

from tooling import ToolError, progress

KERNELS = {"arm64": "linux-image-cloud-arm64", "armhf": "linux-image-armmp-lpae"}
"""Debian's metapackages: each depends on the newest kernel of its kind."""


class Apt:
    """apt-get and apt-cache for one architecture, in a directory of their own."""

    def __init__(self, arch: str, directory: Path) -> None:
        for tool in ("apt-get", "apt-cache", "dpkg"):
            if shutil.which(tool) is None:
                raise ToolError(f"{tool} is not there: this needs Debian's apt and dpkg")
        self.arch = arch
        self._debs = directory / "debs"
        for path in (directory / "lists/partial", directory / "cache/archives/partial", self._debs):
            path.mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        self._options = [
            f"-oAPT::Architecture={arch}",
            f"-oAPT::Architectures={arch}",
            # As root, apt would download as a user who may not write here.
            "-oAPT::Sandbox::User=root",
            f"-oDir::State={directory}",
            f"-oDir::State::Lists={directory / 'lists'}",
            f"-oDir::State::status={directory / 'status'}",
            f"-oDir::Cache={directory / 'cache'}",
        ]

    def update(self) -> None:
        """Fetch the package lists."""
        progress(f"fetching Debian's package lists for {self.arch}")
        try:
            # By itself apt takes no source that it cannot reach for an error, and nobody would know
            # why there are no packages.
            _run(["apt-get", *self._options, "-oAPT::Update::Error-Mode=any", "-q", "update"])
        except ToolError as error:
            # One source out of step, or without this architecture, need not be one of ours.
            progress(f"warning: {error}; going on with the lists that are there")

    def ask(self, *words: str) -> str:
        """What apt-cache answers."""
        return _run(["apt-cache", *self._options, *words])

    def newest_kernel(self) -> str:
        """The name of the package."""
        depends = self.ask("depends", "--important", KERNELS[self.arch])
        match = re.search(r"Depends: (linux-image-\S+)", depends)
        if match is None:
            raise ToolError(f"apt's sources have no {KERNELS[self.arch]}")
        return match[1]

    def unpack(self, packages: Sequence[str], tree: Path) -> None:
        """Download these and unpack them into a new directory."""
        progress(f"downloading {', '.join(packages)}")
        for old in self._debs.iterdir():
            old.unlink()
        _run(["apt-get", *self._options, "-q", "download", *packages], cwd=self._debs)
        tree.mkdir()
        for deb in sorted(self._debs.iterdir()):
            _run(["dpkg", "-x", str(deb), str(tree)])


def unpacked(name: str, arch: str, work: Path, packages: Callable[[Apt], Sequence[str]]) -> Path:
    """The directory `name` of `work`, where these packages are unpacked; it is used again."""
    tree = work / name
    if not tree.exists():
        partial = work / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        apt = Apt(arch, work / f"apt-{arch}")
        apt.update()
        apt.unpack(packages(apt), partial)
        partial.rename(tree)
    return tree


def only(tree: Path, *patterns: str) -> Path:
    """The one file that is called like this."""
    found = [path for pattern in patterns for path in tree.glob(pattern)]
    if len(found) != 1:
        raise ToolError(f"expected one of {patterns} in {tree}, found {len(found)}")
    return found[0]


def kernel_of(tree: Path) -> Path:
    """The kernel that was unpacked there."""
    return only(tree, "boot/vmlinuz-*")


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
        raise ToolError(f"{command[0]} failed with status {done.returncode} (its words above)")
    return done.stdout


# ---- The initrd ----


def write_initrd(path: Path, tree: Path, init: str) -> Path:
    """An initrd of busybox, which was unpacked in `tree`, and this script as its init."""
    busybox = only(tree, "bin/busybox", "usr/bin/busybox").read_bytes()
    path.write_bytes(gzip.compress(_archive(busybox, init.encode()), mtime=0))
    return path


def _archive(busybox: bytes, init: bytes) -> bytes:
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
            _member("sys", directory),
            _member("bin", directory),
            _member("bin/busybox", program, busybox),
            _member("init", program, init),
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
