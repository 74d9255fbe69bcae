"""The command line. Exit status: 0 fine, 2 a mistake in the call or unreadable input."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from p2mfast import P2M, __version__
from p2mfast.errors import TraceError
from p2mfast.experiment import bench, loops, report, trace
from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.replay import Run, replay, to_json
from p2mfast.hypervisor.policy import Policy

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
    command.set_defaults(run=_replay)
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


def _run_all(
    traces: Sequence[trace.GuestTrace],
    policies: Sequence[Policy],
    orders: Sequence[int],
    cost: CostModel,
) -> list[Run]:
    runs = []
    steps = sum(len(guest.timeline) for guest in traces) * len(policies) * len(orders)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replaying", total=steps)
        for guest in traces:
            for policy in policies:
                for order in orders:
                    runs.append(replay(guest, policy, order, cost, lambda: progress.advance(task)))
    return runs


def _policy(text: str) -> Policy:
    return Policy.from_toml(Path(text)) if text.endswith(".toml") else Policy.parse(text)


def _replay(arguments: argparse.Namespace) -> int:
    policies = [_policy(text) for text in arguments.policy or report.STANDARD_POLICIES]
    cost = CostModel.parse(arguments.cost)
    orders = _DEFAULT_ORDERS if arguments.page_order is None else (arguments.page_order,)
    traces = [trace.load(source) for source in arguments.trace]
    runs = _run_all(traces, policies, orders, cost)
    report.print_runs(Console(), runs, cost)
    if arguments.json:
        arguments.json.write_text(json.dumps(to_json(runs, cost), indent=1) + "\n")
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
    except (TraceError, ValueError, TypeError, OSError, MemoryError) as error:
        print(f"p2mfast: {error}", file=sys.stderr)
        return USAGE_ERROR
