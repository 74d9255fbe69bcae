"""What has to be installed besides p2mfast, and where the monitor's sources are."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]
SOURCES = _PACKAGE / "src"
"""The sources that come with the package: of the monitor, of the engine, of the fetching."""

_PACKAGES = {
    "qemu-system-aarch64": "qemu-system-arm",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
    "make": "make",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg": "dpkg",
}


class MissingProgram(FileNotFoundError):
    """A program is not installed."""


def program(name: str) -> str:
    """The path of a program, or MissingProgram with Debian's package for it."""
    found = shutil.which(name)
    if found is None:
        raise MissingProgram(
            f"{name} is not installed; in Debian: apt-get install --no-install-recommends"
            f" {_PACKAGES[name]}"
        )
    return found


def check_programs() -> None:
    """Raise MissingProgram if one is missing that a boot needs."""
    for name in ("qemu-system-aarch64", "aarch64-linux-gnu-gcc", "make"):
        program(name)


def source(name: str) -> Path:
    """A file or directory of the sources."""
    path = SOURCES / name
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: this p2mfast runs from a source tree that was not installed, or"
            " was copied in part; install it (pip install .)"
        )
    return path


def cache_directory() -> Path:
    """p2mfast's, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2mfast"


def build_monitor(base: int) -> Path:
    """The monitor's ELF file, linked for this address.

    Objects are kept in the cache, by what their sources hold; so only the link is done again.
    """
    make, compiler = program("make"), program("aarch64-linux-gnu-gcc")
    monitor, engine = source("el2_monitor"), source("csrc")
    key = _digest(compiler, monitor, engine)
    build = cache_directory() / f"monitor-{key}"
    build.mkdir(parents=True, exist_ok=True)
    elf = build / f"monitor-{base:#x}.elf"
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two calls at once would write the same objects
        done = subprocess.run(
            [
                *(make, "--no-print-directory", "-s", "-C", str(monitor)),
                *(f"BUILD={build}", f"CSRC={engine}", f"MONITOR_BASE={base:#x}"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise OSError(f"the monitor does not build (make in {monitor}):\n{done.stderr[-4000:]}")
    return elf


def _digest(compiler: str, *directories: Path) -> str:
    """Of what the objects are made from; and of where, for make has noted that, too."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(compiler)))
    for directory in directories:
        digest.update(os.fsencode(directory.resolve()) + b"\0")
        for path in sorted(directory.rglob("*")):
            if path.suffix in (".c", ".h", ".S", ".ld") or path.name == "Makefile":
                digest.update(os.fsencode(path.relative_to(directory)) + b"\0")
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
