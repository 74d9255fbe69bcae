"""p2mfast metal."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column

from p2mfast.commands.policies import add_policies, parse_policy
from p2mfast.experiment import metal
from p2mfast.experiment.metal.guests import Guest, find
from p2mfast.experiment.metal.report import print_runs
from p2mfast.experiment.report import STANDARD_POLICIES
from p2mfast.hypervisor.policy import Policy

DESCRIPTION = (
    "Boot a real guest under a monitor at EL2 with this engine in it, in QEMU, once for each"
    " Set/Way policy, and print what each cleaned and took, measured with real traps."
)
_DEFAULT_ORDERS = (0, 9)
_FAILED = 1
_LAST_LINES = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument(
        "--guest",
        metavar="NAME",
        help=f"one of {', '.join(metal.GUESTS)} (default: {metal.GUESTS[0]})",
    )
    parser.add_argument(
        "--vcpus",
        type=int,
        default=1,
        metavar="N",
        help="1 to 8; only with one are instructions counted, or with --bring-up (default: 1)",
    )
    parser.add_argument(
        "--memory",
        default="512M",
        metavar="SIZE",
        help="RAM of the machine; the last 16 MiB are the monitor's (default: 512M)",
    )
    add_policies(parser)
    parser.add_argument(
        "--page-order",
        type=int,
        action="append",
        choices=(0, 9, 18),
        help="map guest RAM in pages of 4 KiB (0), 2 MiB (9) or 1 GiB (18) at the most; may be"
        " repeated (default: 0 and 9)",
    )
    parser.add_argument(
        "--hotplug",
        type=int,
        default=0,
        metavar="N",
        help="the guest takes its secondary CPUs off and on N times",
    )
    parser.add_argument(
        "--bring-up",
        action="store_true",
        help="end each boot when Linux has brought its CPUs up, and count instructions with several"
        " vCPUs, too",
    )
    parser.add_argument(
        "--nanoseconds",
        type=int,
        default=1,
        metavar="NS",
        help="that an instruction takes by the guest's clock, where they are counted: 1, 2, 4, ..."
        " (default: 1)",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    parser.add_argument(
        "--guests",
        metavar="DIR",
        type=Path,
        help="where tools/fetch_guest.py has put guests (default: the user's cache; what is missing"
        " there is fetched from Debian)",
    )
    parser.add_argument(
        "--kernel", metavar="FILE", type=Path, help="boot your own: zImage or Image"
    )
    parser.add_argument("--initrd", metavar="FILE", type=Path, help="with this initrd")
    parser.add_argument("--bits", type=int, metavar="32|64", help="and this bitness")
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="S", help="seconds for a boot (default: 600)"
    )
    parser.add_argument(
        "--console", metavar="FILE", type=Path, help="write what the guest says to FILE (last boot)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Boot, and print the table."""
    policies = [parse_policy(text) for text in arguments.policy or STANDARD_POLICIES]
    orders = arguments.page_order or _DEFAULT_ORDERS
    boots = list(itertools.product(dict.fromkeys(policies), dict.fromkeys(orders)))
    # All that is wrong is told before the work, not after it.
    for policy, page_order in boots:
        metal.check_boot(policy, page_order=page_order, **_machine(arguments))
    for option, path in (("--json", arguments.json), ("--console", arguments.console)):
        if path and not path.parent.is_dir():
            raise FileNotFoundError(f"{option} {path}: there is no directory {path.parent}")
        if path and path.is_dir():
            raise IsADirectoryError(f"{option} {path}: is a directory")
    with _terminable():
        runs, failures = _boot_all(arguments, _guest(arguments), boots)
    if runs:
        print_runs(Console(), runs)
    if arguments.json:
        arguments.json.write_text(json.dumps(metal.to_json(runs), indent=1) + "\n")
    for words, error in failures:
        print(f"p2mfast: {words}: {error}", file=sys.stderr)
        for line in error.console.splitlines()[-_LAST_LINES:]:
            print(f"    | {line}", file=sys.stderr)
    return _FAILED if failures else 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP are as Ctrl-C: temporary files are removed on the way out."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """What all boots have in common."""
    names = ("vcpus", "memory", "hotplug", "bring_up", "nanoseconds", "timeout")
    return {name: getattr(arguments, name) for name in names}


def _guest(arguments: argparse.Namespace) -> Guest:
    own = {"--kernel": arguments.kernel, "--initrd": arguments.initrd, "--bits": arguments.bits}
    given = [name for name, value in own.items() if value is not None]
    if not given:
        return find(arguments.guest or metal.GUESTS[0], arguments.guests)
    missing = [name for name in own if name not in given]
    if missing:
        raise ValueError(f"{' and '.join(given)}: there must be {' and '.join(missing)}, too")
    if arguments.guest is not None:
        raise ValueError(f"--guest {arguments.guest} and --kernel exclude each other")
    kernel: Path = arguments.kernel
    words = f"{kernel.name} ({arguments.bits}-bit)"
    return Guest(kernel.name, arguments.bits, words, kernel.resolve(), arguments.initrd.resolve())


def _boot_all(
    arguments: argparse.Namespace, guest: Guest, boots: Sequence[tuple[Policy, int]]
) -> tuple[list[metal.MetalRun], list[tuple[str, metal.MetalError]]]:
    """A boot that fails is told of, and does not keep the others from being made."""
    runs, failures = [], []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TimeElapsedColumn(),
        TextColumn(
            "{task.fields[words]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, expand=True) as progress:
        task = progress.add_task("booting", total=len(boots), words="")

        def tell(boot: metal.Progress) -> None:
            words = f"{boot.state}: {boot.faults:,} faults, {boot.flushes} flushes | {boot.line}"
            progress.update(task, words=words)

        for policy, page_order in boots:
            try:
                runs.append(
                    metal.run(
                        guest,
                        policy,
                        page_order=page_order,
                        console=arguments.console,
                        on_progress=tell,
                        **_machine(arguments),
                    )
                )
            except metal.MetalError as error:
                failures.append((f"{policy}, page order {page_order}", error))
            progress.advance(task)
    return runs, failures
