"""Make a fresh dump of a running Xen's stage-2 tables: dom0's P2M, as a table image.

Fetches Xen, Linux and busybox from Debian, boots them under QEMU, and walks the tables that VTTBR
names in the machine's memory. tools/README.md has the details.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import numpy as np
from tooling import ToolError, progress
from xen_dump import DumpError
from xen_dump.debian import READY, boot_files
from xen_dump.gdb import Gdb
from xen_dump.machine import BOARDS, RAM_BASE, Machine, sparse_copy
from xen_dump.tables import Root, Tables, describe, mapped_ram, save, walk

REGISTERS = {"arm64": ("VTTBR_EL2", "VTCR_EL2"), "armhf": ("VTTBR", "VTCR")}
MIB = 1 << 20
PAUSE = 0.5  # seconds that the machine runs between two looks at VTTBR


def main() -> int:
    """Run the command line; the exit status."""
    arguments = _parse(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        with contextlib.ExitStack() as stack:
            work = arguments.work or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="xen-dump-"))
            )
            _dump(arguments, work)
    except (ToolError, OSError) as error:
        progress(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        progress("interrupted")
        return 130
    return 0


def _leave(number: int, _: FrameType | None) -> None:
    # An exception, so that QEMU is ended on the way out.
    raise SystemExit(128 + number)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", required=True, choices=sorted(BOARDS))
    parser.add_argument("--memory", type=_size, default="2G", help="the RAM of the machine (2G)")
    parser.add_argument("--dom0-memory", type=_size, default="512M", help="dom0's part (512M)")
    parser.add_argument("--cpu", help="QEMU's name of the core (cortex-a53 or cortex-a15)")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep the downloads here, and use them again"
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="seconds for the boot (600)"
    )
    parser.add_argument(
        "--pmemsave", type=Path, metavar="FILE", help="write the machine's RAM as well, sparse"
    )
    parser.add_argument(
        "--elf-core", type=Path, metavar="FILE", help="and as an ELF core by QEMU, sparse"
    )
    parser.add_argument("out", type=Path, metavar="OUT.npz")
    arguments = parser.parse_args(words)
    if arguments.dom0_memory < 128 * MIB or arguments.memory < arguments.dom0_memory + 512 * MIB:
        parser.error("dom0 needs 128M at least, and Xen 512M beside it")
    if arguments.arch == "armhf" and arguments.memory > 3072 * MIB:
        parser.error("this 32-bit machine has room for 3G of RAM")
    for path in (arguments.out, arguments.pmemsave, arguments.elf_core):
        if path is not None and not path.parent.is_dir():
            parser.error(f"there is no directory {path.parent}")
    return arguments


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([MG])(?:i?B)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512M or 2G")
    return int(match[1]) * (MIB if match[2] == "M" else 1024 * MIB)


def _dump(arguments: argparse.Namespace, work: Path) -> None:
    arch = arguments.arch
    board = BOARDS[arch]._replace(cpu=arguments.cpu or BOARDS[arch].cpu)
    board.check()
    work.mkdir(parents=True, exist_ok=True)
    files = boot_files(arch, work.resolve())
    with (
        tempfile.TemporaryDirectory(prefix=f"{arch}-", dir=work) as directory,
        Machine(
            board, files, arguments.memory, arguments.dom0_memory, Path(directory).resolve()
        ) as machine,
    ):
        deadline = time.monotonic() + arguments.timeout
        try:
            _boot(machine, files.xen.name, deadline)
            tables = _find_tables(machine, arch, arguments.dom0_memory, deadline)
            _save_memory(machine, arguments.pmemsave, arguments.elf_core, Path(directory))
        except (DumpError, OSError) as error:
            raise DumpError(f"{error}\n{machine.last_words()}") from None
        save(arguments.out, tables, _source(machine, arch, arguments.memory, board.cpu))
    progress(f"{arguments.out}: written")
    print(describe(tables))
    if arguments.pmemsave is not None:
        print(f"\n{arguments.pmemsave} begins at physical address {RAM_BASE:#x}")


def _boot(machine: Machine, xen: str, deadline: float) -> None:
    start = time.monotonic()
    progress(f"starting {xen} under QEMU")
    for words in ("Xen version", "Booting Linux", READY):
        machine.wait_for(words, deadline)
        progress(f"{time.monotonic() - start:6.1f} s: {words!r} on the console")


def _find_tables(machine: Machine, arch: str, dom0_memory: int, deadline: float) -> Tables:
    """Stop the machine at a moment when some CPU's VTTBR is dom0's, and walk the tables there.

    Xen leaves VTTBR as it is while a CPU idles, and on some cores loads an empty root then: dom0's
    is one whose tables map all of dom0's memory.
    """
    ram = np.memmap(machine.ram, np.uint64, mode="r")
    told = ""
    while True:
        machine.qmp("stop")
        refused = []
        for vttbr, vtcr in _registers(machine, arch):
            try:
                root = Root.decode(arch, vttbr, vtcr)
                tables = walk(root, ram, RAM_BASE)
            except DumpError as error:
                refused.append(f"VTTBR {vttbr:#x}: {error}")
                continue
            if mapped_ram(tables) >= dom0_memory:
                progress(f"stopped: VTTBR {vttbr:#x} VTCR {vtcr:#x}, tables at {root.base:#x}")
                return tables
            refused.append(f"VTTBR {vttbr:#x}: {mapped_ram(tables) >> 20} MiB of RAM mapped")
        if told != (told := "not dom0's: " + "; ".join(refused)):
            progress(told)
        if time.monotonic() > deadline:
            raise DumpError("out of time while waiting for a VTTBR that is dom0's")
        machine.qmp("cont")
        time.sleep(PAUSE)


def _registers(machine: Machine, arch: str) -> list[tuple[int, int]]:
    """VTTBR and VTCR of each CPU."""
    vttbr, vtcr = REGISTERS[arch]
    with Gdb(machine.gdb_socket, timeout=60) as gdb:
        return [(gdb.register(vttbr, cpu), gdb.register(vtcr, cpu)) for cpu in gdb.cpus()]


def _save_memory(machine: Machine, raw: Path | None, core: Path | None, directory: Path) -> None:
    if raw is not None:
        sparse_copy(machine.ram, raw)
        progress(f"{raw}: written")
    if core is not None:
        # By way of a file of ours: QEMU writes the zeros out.
        whole = directory / "core"
        machine.qmp("dump-guest-memory", paging=False, protocol=f"file:{whole.resolve()}")
        sparse_copy(whole, core)
        progress(f"{core}: written")


def _source(machine: Machine, arch: str, memory: int, cpu: str) -> str:
    version = re.search(r"Xen version (\S+)", machine.console())
    return (
        f"Xen {version[1] if version else '?'} {arch} (Debian),"
        f" {'64' if arch == 'arm64' else '32'}-bit dom0, {memory / (1024 * MIB):g} GiB machine,"
        f" {cpu}"
    )


if __name__ == "__main__":
    sys.exit(main())
