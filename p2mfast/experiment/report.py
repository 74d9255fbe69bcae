"""Results for a person: rich tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2mfast.experiment.bench import Result
from p2mfast.experiment.cost import LINUX_BRINGUP_LIMIT_MS, CostModel
from p2mfast.experiment.replay import Run
from p2mfast.experiment.trace import GuestTrace
from p2mfast.hypervisor.policy import Policy
from p2mfast.units import PAGE_SIZE, format_size

STANDARD_POLICIES: dict[str, tuple[str, str]] = {
    "arm=never,flush=all": ("no tracking", "every flush cleans all mapped RAM"),
    "arm=creation-finished,resolve=level,flush=leaf": (
        "Xen's",
        "armed at creation, looks at the leaf's own bit, one level a trap",
    ),
    "arm=creation-finished,resolve=path,flush=harvest": (
        "p2mfast's",
        "armed at creation, cleans what is reachable, one trap a page",
    ),
    "arm=first-set-way,resolve=path,flush=harvest": (
        "if asked",
        "p2mfast's, but never armed for a guest that never asks",
    ),
}
"""What a replay runs by default: a name, and what it means."""

_NAMES = {Policy.parse(text): words for text, words in STANDARD_POLICIES.items()}
_PAGE_ORDERS = {0: "4 KiB", 9: "2 MiB", 18: "1 GiB"}


def policy_names(policies: Sequence[Policy]) -> dict[Policy, tuple[str, str]]:
    """A short name for each, and what is to be said about it."""
    names = {}
    for number, policy in enumerate(policies, 1):
        name, words = _NAMES.get(policy, (f"policy {number}", ""))
        names[policy] = (name, f"{policy}: {words}" if words else str(policy))
    return names


def share_of_bringup(milliseconds: float) -> Text:
    """Of the second that Linux gives a CPU, in per cent and in colour."""
    share = milliseconds / LINUX_BRINGUP_LIMIT_MS
    style = "green" if share < 0.1 else "yellow" if share < 1 else "bold red"
    return Text(f"{share:.1%}", style=style)


def policies_table(
    headings: Sequence[str],
    rows: Iterable[tuple[Policy, int, Sequence[str | Text]]],
    names: dict[Policy, tuple[str, str]],
) -> Table:
    """A row a policy and mapping size, and what the headings say; 80 columns wide."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    table.add_column("\npolicy", no_wrap=True)
    table.add_column("\nmapped", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for policy, page_order, cells in rows:
        new = policy != previous
        if new and previous:
            table.add_section()
        table.add_row(names[policy][0] if new else "", _PAGE_ORDERS[page_order], *cells)
        previous = policy
    return table


def runs_table(runs: Sequence[Run], names: dict[Policy, tuple[str, str]]) -> Table:
    """What each replay came to."""
    headings = (
        "S/W +\ntoggle",
        "pages\ncleaned",
        "in the\nworst",
        "stage-2\ntraps",
        "worst\nms *",
        "of 1 s\n*",
        "traps\nms *",
        "engine\nms",
    )
    rows = [
        (
            run.policy,
            run.page_order,
            (
                f"{run.set_way_flushes}+{len(run.flushes) - run.set_way_flushes}",
                f"{run.pages_cleaned:,}",
                f"{run.worst_flush_pages:,}",
                f"{run.traps:,}",
                f"{run.modelled_worst_ms:,.1f}",
                share_of_bringup(run.modelled_worst_ms),
                f"{run.cost.traps_ms(run.traps):,.1f}",
                f"{run.wall_s * 1e3:,.0f}",
            ),
        )
        for run in runs
    ]
    return policies_table(headings, rows, names)


def _trace_words(trace: GuestTrace) -> str:
    plural = "s" if trace.vcpus > 1 else ""
    return (
        f"{trace.guest}\n{trace.guest_bits}-bit, {trace.vcpus} vCPU{plural},"
        f" {format_size(trace.ram_pages * PAGE_SIZE)} of RAM ({trace.ram_pages:,} pages),"
        f" {trace.set_way_batches} Set/Way batches recorded"
    )


def cost_words(cost: CostModel) -> str:
    """What the columns mean, and what the modelled ones rest on."""
    return (
        "S/W + toggle: flushes that answer a batch of Set/Way operations, and a change of the"
        " caches that is trapped after one. 1 s is what Linux gives a secondary CPU to come online."
        " engine ms: the wall time of the whole replay here.\n"
        f"* modelled, not measured: {cost.page_clean_ns:g} ns a page cleaned, {cost.trap_ns:g} ns"
        f" a trap, {cost.arm_ns:g} ns an arming. The defaults are instruction counts of an EL2"
        " monitor under QEMU at 1 ns an instruction (p2mfast.experiment.cost.CostModel);"
        " --cost sets your own."
    )


def print_runs(console: Console, runs: Sequence[Run], cost: CostModel) -> None:
    """A table for each trace, the policies' meaning, and what the modelled columns rest on."""
    names = policy_names(list(dict.fromkeys(run.policy for run in runs)))
    for trace in {id(run.trace): run.trace for run in runs}.values():
        console.print(trace.name, style="bold")
        console.print(_trace_words(trace), highlight=False)
        console.print(runs_table([run for run in runs if run.trace is trace], names))
    print_legend(console, names, cost_words(cost))


def print_legend(console: Console, names: dict[Policy, tuple[str, str]], words: str) -> None:
    """What the policies are, and what the columns mean."""
    legend = Table.grid(padding=(0, 2))
    for name, meaning in names.values():
        legend.add_row(name, meaning)
    console.print(legend)
    console.print()
    console.print(words, style="dim", highlight=False)


def bench_table(results: Sequence[Result]) -> Table:
    """A row a loop: its figure, the limit measured beside it, their ratio, and the goal."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("loop", "size"):
        table.add_column(heading, no_wrap=True)
    for heading in ("ns", "limit", "ratio", "goal"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what limits", no_wrap=True)
    for result in results:
        case = result.case
        table.add_row(
            result.name,
            result.size,
            _figure(result.ns),
            _figure(result.limit_ns),
            f"{result.ratio:.2f}x" if result.ratio < 10 else f"{result.ratio:.1f}x",
            Text(str(case.goal), style="green" if result.reached else "yellow"),
            case.limit_name,
        )
    return table


def _figure(ns: float) -> str:
    """Three or four digits, and the unit where it is not ns."""
    if ns >= 10_000_000:
        return f"{ns / 1e6:.0f} ms"
    if ns >= 10_000:
        return f"{ns / 1000:.0f} µs"
    return f"{ns:.2f}" if ns < 100 else f"{ns:.0f}"
