"""The command line. Exit status: 0 fine, 1 findings, 2 a mistake in the call or unreadable
input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from p2mfast import P2M, __version__, image, plot
from p2mfast.errors import TraceError
from p2mfast.experiment import bench, loops, report, trace
from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.replay import Run, replay, to_json
from p2mfast.hypervisor.policy import Policy
from p2mfast.image import report as image_report

FINDINGS = 1
USAGE_ERROR = 2
_DEFAULT_ORDERS = (0, 9)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="p2mfast", description="An Arm stage-2 page-table engine with Xen's P2M semantics."
    )
    parser.add_argument("--version", action="version", version=f"p2mfast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "replay",
        help="replay recorded boots of real guests under Set/Way policies",
        description="Replay recorded boots of real guests through the engine and print what each"
        " Set/Way policy cleaned and what it cost.",
    )
    command.add_argument(
        "trace",
        nargs="*",
        metavar="TRACE",
        default=[trace.DEFAULT_TRACE],
        help=f"a recorded guest: a file, or one of {', '.join(trace.shipped())}"
        f" (default: {trace.DEFAULT_TRACE})",
    )
    command.add_argument(
        "--policy",
        action="append",
        metavar="STRING",
        help="such as arm=creation-finished,resolve=level,flush=leaf, or a TOML file (.toml);"
        " may be repeated (default: four that compare no tracking, Xen's and p2mfast's)",
    )
    command.add_argument(
        "--page-order",
        type=int,
        choices=(0, 9, 18),
        help="map guest RAM in pages of 4 KiB (0), 2 MiB (9) or 1 GiB (18) at the most (default:"
        " both 0 and 9)",
    )
    command.add_argument(
        "--cost",
        action="append",
        metavar="NAME=NS",
        default=[],
        help="replace a figure of the cost model: page_clean_ns, trap_ns or arm_ns",
    )
    command.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    command.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw what was touched and cleaned into FILE (.png, .svg or .pdf; needs matplotlib)",
    )
    command.set_defaults(run=_replay)
    _add_inspect(commands)
    command = commands.add_parser(
        "bench",
        help="time the engine's loops against the hardware's limits",
        description="Time each loop of the engine and what the hardware can do at best in turn, and"
        " print their ratio.",
    )
    command.add_argument(
        "loop", nargs="*", help='only loops whose name contains one of these, such as "look up"'
    )
    command.add_argument(
        "--large", action="store_true", help="also those that take up to 8 GiB of memory"
    )
    command.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    command.set_defaults(run=_bench)
    return parser


def _add_inspect(commands: Any) -> None:
    command = commands.add_parser(
        "inspect",
        help="read stage-2 tables from a dump: the map, totals, what is wrong with them",
        description="Read the stage-2 tables in an image: one that p2mfast saved, an .npz of table"
        " pages, an ELF core, or raw memory such as QEMU's pmemsave writes. Prints the map as"
        " coalesced ranges, totals by type and size, and structural faults. Exit status 1: there"
        " are such faults, or differences.",
    )
    command.add_argument("image", metavar="IMAGE", type=Path)
    for name, words in (
        ("vttbr", "VTTBR_EL2, where the image does not say it"),
        ("vtcr", "VTCR_EL2 (or --ipa-bits)"),
        ("ipa-bits", "size of the guest's physical address space"),
        ("base", "of raw memory: physical address of the first byte"),
    ):
        command.add_argument(f"--{name}", type=_number, metavar="N", help=words)
    command.add_argument(
        "--walk", type=_number, metavar="IPA", help="spell out each descriptor on the way to IPA"
    )
    command.add_argument(
        "--diff", type=Path, metavar="OTHER", help="what OTHER, another image, maps differently"
    )
    command.add_argument("--all", action="store_true", help="print every range, however many")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    command.set_defaults(run=_inspect)


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number (0x... for hexadecimal)") from None


def _inspect(arguments: argparse.Namespace) -> int:
    options = {name: getattr(arguments, name) for name in ("vttbr", "vtcr", "ipa_bits", "base")}
    loaded = image.load(arguments.image, **options)
    console = Console()
    rows = sys.maxsize if arguments.all else image_report.MOST_ROWS
    if arguments.walk is not None:
        if arguments.json:
            steps = image_report.walk_json(loaded, arguments.walk)
            print(json.dumps({"version": 1, "ipa": arguments.walk, "walk": steps}))
        else:
            image_report.print_walk(console, loaded, arguments.walk)
        return 0
    if arguments.diff is not None:
        other = image.load(arguments.diff, **options)
        differences = image.difference(loaded, other)
        if arguments.json:
            found = image_report.difference_json(loaded, other)
            print(json.dumps({"version": 1, "differences": found}))
        else:
            names = (str(arguments.image), str(arguments.diff))
            image_report.print_difference(console, names, differences, rows)
        return FINDINGS if len(differences) else 0
    if arguments.json:
        print(json.dumps(image_report.to_json(loaded)))
    else:
        image_report.print_image(console, str(arguments.image), loaded, rows)
    return FINDINGS if loaded.found else 0


def _run_all(
    traces: Sequence[trace.GuestTrace],
    policies: Sequence[Policy],
    orders: Sequence[int],
    cost: CostModel,
    keep_runs: bool,
) -> list[Run]:
    runs = []
    steps = sum(len(guest.timeline) for guest in traces) * len(policies) * len(orders)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replaying", total=steps)
        for guest in traces:
            for policy in policies:
                for order in orders:
                    run = replay(
                        guest,
                        policy,
                        order,
                        cost,
                        lambda: progress.advance(task),
                        keep_runs=keep_runs,
                    )
                    runs.append(run)
    return runs


def _policy(text: str) -> Policy:
    return Policy.from_toml(Path(text)) if text.endswith(".toml") else Policy.parse(text)


def _replay(arguments: argparse.Namespace) -> int:
    if arguments.plot:
        plot.check(arguments.plot)  # before the work, not after it
    policies = [_policy(text) for text in arguments.policy or report.STANDARD_POLICIES]
    cost = CostModel.parse(arguments.cost)
    orders = _DEFAULT_ORDERS if arguments.page_order is None else (arguments.page_order,)
    traces = [trace.load(source) for source in arguments.trace]
    runs = _run_all(traces, policies, orders, cost, keep_runs=arguments.plot is not None)
    report.print_runs(Console(), runs, cost)
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(runs, cost), indent=1) + "\n")
    if arguments.plot:
        plot.plot_replay(runs, arguments.plot)
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    wanted = [
        key
        for key in loops.names(arguments.large)
        if not arguments.loop or any(part in key[0] for part in arguments.loop)
    ]
    if not wanted:
        known = ", ".join(dict.fromkeys(name for name, _ in loops.names(arguments.large)))
        raise ValueError(f"no loop's name contains {arguments.loop}; there are: {known}")
    results = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(wanted))
        for name, size in wanted:
            progress.update(task, description=f"{name} ({size})")
            results.append(bench.measure(name, size))
            progress.advance(task)
    engine = P2M().vector_loops
    console = Console()
    console.print(report.bench_table(results))
    console.print(
        f"Vector loops: {engine}. Times are ns unless they say µs, for a page or what the loop's"
        " name counts: medians of interleaved rounds. A goal is a ratio to the limit, a time, or a"
        " time above the limit.",
        style="dim",
        highlight=False,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(bench.to_json(results, engine), indent=1) + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        return status
    except (
        TraceError,
        ValueError,
        TypeError,
        OSError,
        MemoryError,
        plot.MatplotlibMissing,
    ) as error:
        print(f"p2mfast: {error}", file=sys.stderr)
        return USAGE_ERROR
