"""Record a boot of Debian's kernel under QEMU, as a trace, and replay it.

Fetches the kernel, compiles our plugin for QEMU with the engine in it, boots, and runs `p2mfast
replay` on the trace. tools/README.md has the details.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from recording.build import build
from recording.linux import BOARDS, linux
from recording.log import convert, save
from recording.machine import MAX_MEMORY, record, version
from tooling import ToolError, progress

MIB = 1 << 20
LOW_MEMORY = 3072 * MIB  # of a 32-bit machine


def main() -> int:
    """Run the command line; the exit status."""
    arguments = _parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        # All that is missing is told before the work, not after it.
        replay = None if arguments.no_replay else [_p2mfast(), "replay", str(arguments.out)]
        with contextlib.ExitStack() as stack:
            work = arguments.work or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="record-boot-"))
            )
            _record(arguments, work)
        return subprocess.run(replay, check=False).returncode if replay else 0
    except (ToolError, OSError) as error:
        progress(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        progress("interrupted")
        return 130


def _leave(number: int, _: FrameType | None) -> None:
    # An exception, so that QEMU is ended on the way out.
    raise SystemExit(128 + number)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", required=True, choices=sorted(BOARDS))
    parser.add_argument("--smp", type=int, default=1, metavar="N", help="vCPUs (1)")
    parser.add_argument("--memory", type=_size, default="512M", help="RAM (512M)")
    parser.add_argument(
        "--hotplug", action="store_true", help="take the secondary CPUs off and on three times"
    )
    parser.add_argument(
        "--thread",
        choices=("multi", "single"),
        default="multi",
        help="QEMU's threads: one a vCPU (multi, the default), or one in turn",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="hold each harvest of the engine against a plain bitmap (slow)",
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep the downloads, use them again"
    )
    parser.add_argument(
        "--timeout", type=float, default=900, metavar="S", help="seconds for the boot (900)"
    )
    parser.add_argument("--no-replay", action="store_true", help="write the trace only")
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    arguments = parser.parse_args(words)
    limit = LOW_MEMORY if arguments.arch == "armhf" else MAX_MEMORY
    if not 128 * MIB <= arguments.memory <= limit:
        parser.error(f"the guest's RAM is from 128M to {limit // MIB}M")
    if not 1 <= arguments.smp <= 8:
        parser.error("1 to 8 vCPUs")
    if arguments.hotplug and arguments.smp == 1:
        parser.error("--hotplug needs a second vCPU (--smp 2)")
    if not arguments.out.parent.is_dir():
        parser.error(f"there is no directory {arguments.out.parent}")
    return arguments


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([MG])(?:i?B)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 2G")
    return int(match[1]) * (MIB if match[2] == "M" else 1024 * MIB)


def _record(arguments: argparse.Namespace, work: Path) -> None:
    board = BOARDS[arguments.arch]
    qemu = version(board.program)
    work.mkdir(parents=True, exist_ok=True)
    work = work.resolve()
    plugin = build(work)
    guest, release = linux(arguments.arch, arguments.smp, arguments.memory, arguments.hotplug, work)
    guest = guest._replace(thread=arguments.thread)
    progress(f"booting {release} under {qemu}, {arguments.smp} vCPUs")
    start = time.monotonic()
    log = record(guest, plugin, arguments.timeout, check=arguments.check)
    progress(
        f"{time.monotonic() - start:6.1f} s: it has powered off;"
        f" {int(log.header['instructions']):,} instructions,"
        f" {int(log.header['faults']):,} stage-2 faults resolved,"
        f" {len(log.epoch_ends)} harvests"
        + (", each as the plain bitmap" if arguments.check else "")
    )
    words = f"Debian Linux {release} ({board.bits}-bit) to power-off, {board.cpu}"
    if arguments.hotplug:
        words += ", secondary CPUs off and on three times"
    save(arguments.out, convert(log, arguments.out.stem, words, qemu))
    progress(f"{arguments.out}: written")


def _p2mfast() -> str:
    """The command, of this Python's environment if it is there."""
    beside = Path(sys.executable).with_name("p2mfast")
    found = str(beside) if beside.exists() else shutil.which("p2mfast")
    if found is None:
        raise ToolError("p2mfast is not installed: pip install . (or --no-replay)")
    return found


if __name__ == "__main__":
    sys.exit(main())
