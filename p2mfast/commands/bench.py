"""p2mfast bench."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from p2mfast import P2M
from p2mfast.experiment import bench, loops, report

DESCRIPTION = (
    "Time each loop of the engine and what the hardware can do at best in turn, and print their"
    " ratio."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own."""
    parser.add_argument(
        "loop", nargs="*", help='only loops whose name contains one of these, such as "look up"'
    )
    parser.add_argument(
        "--large", action="store_true", help="also those that take up to 8 GiB of memory"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results to FILE")


def run(arguments: argparse.Namespace) -> int:
    """Measure the loops and print the table."""
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
