"""The guests that can be booted, and where their files are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from p2mfast.experiment.metal.programs import cache_directory, program, source

GUESTS = ("linux-armhf", "linux-arm64", "uboot-arm64")
"""What tools/fetch_guest.py fetches."""

_KERNELS = {32: ("zImage", 0x24, b"\x18\x28\x6f\x01"), 64: ("uncompressed Image", 0x38, b"ARM\x64")}
"""By bitness: the form, and where it has which magic number."""


@dataclass(frozen=True)
class Guest:
    """A kernel and its initrd; with ``uboot``, U-Boot starts them."""

    name: str
    bits: int
    words: str
    kernel: Path
    initrd: Path
    uboot: Path | None = None

    def __post_init__(self) -> None:
        if self.bits not in (32, 64):
            raise ValueError(f"bits must be 32 or 64, not {self.bits!r}")
        for path in (self.kernel, self.initrd, *([self.uboot] if self.uboot else [])):
            if not path.is_file():
                raise FileNotFoundError(f"guest {self.name}: there is no file {path}")
        form, offset, magic = _KERNELS[self.bits]
        with self.kernel.open("rb") as file:
            if file.read(64)[offset : offset + 4] != magic:
                raise ValueError(
                    f"guest {self.name}: {self.kernel} is no {form}, as a {self.bits}-bit guest's"
                    " kernel has to be"
                )


def find(name: str, directory: Path | None = None) -> Guest:
    """The guest of this name; without a directory in the user's cache, fetched if it is not there.

    Raises ValueError for an unknown name and for a file that is no kernel, FileNotFoundError for a
    guest that is not in the directory, OSError where it cannot be fetched.
    """
    if name not in GUESTS:
        raise ValueError(f"guest must be one of {', '.join(GUESTS)}, not {name!r}")
    place = (directory or cache_directory() / "guests") / name
    if not (place / "guest.json").is_file():
        if directory is not None:
            raise FileNotFoundError(
                f"guest {name}: {place} is not there; python {source('tools/fetch_guest.py')}"
                f" {name} --to {directory} fetches it"
            )
        _fetch(name, place.parent)
    description = json.loads((place / "guest.json").read_text())
    uboot = place / "u-boot.bin"
    return Guest(
        name,
        description["bits"],
        description["words"],
        place / "kernel",
        place / "initrd.gz",
        uboot if uboot.exists() else None,
    )


def _fetch(name: str, to: Path) -> None:
    for needed in ("apt-get", "apt-cache", "dpkg"):
        program(needed)
    # A program of its own: so it can be called by itself, too. Its progress is on stderr, as ours.
    done = subprocess.run(
        [sys.executable, str(source("tools/fetch_guest.py")), name, "--to", str(to)],
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise OSError(f"guest {name} could not be fetched (status {done.returncode})")
