"""Fetch guests for `p2mfast metal`: Debian's kernels, and U-Boot, for Arm.

Debian's packages are downloaded with apt and unpacked, nothing is installed; the initrd is busybox
and a small init. DIR/NAME has the guest's files then: kernel, initrd.gz, guest.json, and u-boot.bin
where it is U-Boot that starts the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tooling import ToolError, progress
from tooling.debian import only, unpacked
from tooling.linux import debian_linux


class Kind(NamedTuple):
    """What a guest is made of."""

    arch: str
    bits: int
    uboot: bool


GUESTS = {
    "linux-armhf": Kind("armhf", 32, False),
    "linux-arm64": Kind("arm64", 64, False),
    "uboot-arm64": Kind("arm64", 64, True),
}


def fetch(name: str, to: Path, work: Path) -> Path:
    """The guest's directory, new or in the place of an older one."""
    kind = GUESTS[name]
    kernel, release, initrd = debian_linux(kind.arch, work)
    words = f"Debian Linux {release} ({kind.bits}-bit)"
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=to) as partial:
        new = Path(partial, name)
        new.mkdir()
        shutil.copyfile(kernel, new / "kernel")
        shutil.copyfile(initrd, new / "initrd.gz")
        if kind.uboot:
            tree = unpacked("u-boot", kind.arch, work, lambda _: ["u-boot-qemu"])
            uboot = only(tree, "usr/lib/u-boot/qemu_arm64/u-boot.bin")
            shutil.copyfile(uboot, new / "u-boot.bin")
            words = f"{_version(uboot)}, then {words}"
        description = {"bits": kind.bits, "words": words}
        (new / "guest.json").write_text(json.dumps(description) + "\n")
        target = to / name
        if target.exists():
            target.rename(Path(partial, "old"))
        new.rename(target)
    return target


def _version(uboot: Path) -> str:
    """Such as "U-Boot 2023.01", of its banner."""
    match = re.search(rb"U-Boot \d+\.\d+", uboot.read_bytes())
    return match[0].decode() if match else "U-Boot"


def main() -> int:
    """Run the command line; the exit status."""
    arguments = _parse(sys.argv[1:])
    try:
        with tempfile.TemporaryDirectory(prefix="fetch-guest-") as scratch:
            work = (arguments.work or Path(scratch)).resolve()
            work.mkdir(parents=True, exist_ok=True)
            for name in arguments.guests:
                progress(f"{fetch(name, arguments.to, work)}: there")
        return 0
    except (ToolError, OSError) as error:
        progress(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        progress("interrupted")
        return 130


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("guests", nargs="+", metavar="NAME", help=", ".join(GUESTS))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        default=cache / "p2mfast" / "guests",
        help="where they go (p2mfast/guests in the user's cache, where p2mfast metal looks)",
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep the downloads, use them again"
    )
    arguments = parser.parse_args(words)
    for name in arguments.guests:
        if name not in GUESTS:
            parser.error(f"{name!r} is no guest; there are {', '.join(GUESTS)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
