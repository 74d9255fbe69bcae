"""p2mfast replay."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from p2mfast import plot
from p2mfast.commands.policies import add_policies, parse_policy
from p2mfast.experiment import report, trace
from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.replay import Run, replay, to_json
from p2mfast.hypervisor.policy import Policy

DESCRIPTION = (
    "Replay recorded boots of real guests through the engine and print what each Set/Way policy"
    " cleaned and what it cost."
)
_DEFAULT_ORDERS = (0, 9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument(
        "trace",
        nargs="*",
        metavar="TRACE",
        default=[trace.DEFAULT_TRACE],
        help=f"a recorded guest: a file, or one of {', '.join(trace.shipped())}"
        f" (default: {trace.DEFAULT_TRACE})",
    )
    add_policies(parser)
    parser.add_argument(
        "--page-order",
        type=int,
        choices=(0, 9, 18),
        help="map guest RAM in pages of 4 KiB (0), 2 MiB (9) or 1 GiB (18) at the most (default:"
        " both 0 and 9)",
    )
    parser.add_argument(
        "--cost",
        action="append",
        metavar="NAME=NS",
        default=[],
        help="replace a figure of the cost model: page_clean_ns, trap_ns or arm_ns",
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")
    parser.add_argument(
        "--plot",
        metavar="FILE",
        type=Path,
        help="draw what was touched and cleaned into FILE (.png, .svg or .pdf; needs matplotlib)",
    )


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


def run(arguments: argparse.Namespace) -> int:
    """Replay the traces and print the table."""
    if arguments.plot:
        plot.check(arguments.plot)  # before the work, not after it
    policies = [parse_policy(text) for text in arguments.policy or report.STANDARD_POLICIES]
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
