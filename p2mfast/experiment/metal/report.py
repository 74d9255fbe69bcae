"""Results for a person: the table of a replay, with measured columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from p2mfast.experiment.metal.machine import Setup
from p2mfast.experiment.metal.result import MetalRun
from p2mfast.experiment.report import (
    policies_table,
    policy_names,
    print_legend,
    share_of_bringup,
)
from p2mfast.hypervisor.policy import Policy
from p2mfast.units import PAGE_SIZE, format_size

_FLUSH_WORDS = (
    "S/W + toggle: flushes that answer a batch of Set/Way operations, and a change of the caches"
    " that is trapped after one. All is measured, with real traps, by a monitor at EL2 under QEMU."
)
_LIMIT_WORDS = "1 s is what Linux gives a secondary CPU to come online."
_COUNTED_WORDS = (
    f"{_FLUSH_WORDS}\n"
    "M: million instructions at EL2, as QEMU counts them, of the longest flush, and of all tracking"
    " in the whole boot: resolving faults, arming, finding the pages to clean; not cleaning them.\n"
    "* at {nanoseconds} ns an instruction: QEMU has no caches, and hardware takes longer."
    f" {_LIMIT_WORDS}"
)
_CPU_1_WORDS = (
    "CPU 1: from its last CPU_ON to its caches' coming on; failed: Linux said of it, or of another,"
    " that it did not come online; -: its caches' coming on was not trapped"
)
_TIMED_WORDS = (
    f"{_FLUSH_WORDS}\n"
    "* by the guest's clock, which is the time that QEMU took here: with several vCPUs it does not"
    f" count instructions. {_LIMIT_WORDS}\n"
    f"{_CPU_1_WORDS}."
)


_BRING_UP_WORDS = (
    f"{_FLUSH_WORDS}\n"
    "* at {nanoseconds} ns an instruction, up to where Linux has brought its CPUs up: QEMU has no"
    f" caches, and hardware takes longer. {_LIMIT_WORDS}\n"
    f"{_CPU_1_WORDS}."
)


def metal_table(runs: Sequence[MetalRun], names: dict[Policy, tuple[str, str]]) -> Table:
    """What each boot came to; all of them had one vCPU, or none."""
    counted = runs[0].setup.vcpus == 1
    headings = (
        "S/W +\ntoggle",
        "pages\ncleaned",
        "in the\nworst",
        "stage-2\nfaults",
        *(
            ("worst\nM", "of 1 s\n*", "track\nM", "of\nboot")
            if counted
            else ("worst\nms *", "of 1 s\n*", "CPU 1\nms *")
        ),
    )
    rows = [
        (
            run.setup.policy,
            run.setup.page_order,
            (
                f"{run.set_way_flushes}+{len(run.flushes) - run.set_way_flushes}",
                f"{run.pages_cleaned:,}",
                f"{run.worst_flush_pages:,}",
                f"{run.traps:,}",
                *(_counted(run) if counted else _timed(run)),
            ),
        )
        for run in runs
    ]
    return policies_table(headings, rows, names)


def _counted(run: MetalRun) -> tuple[str | Text, ...]:
    worst, tracking = run.worst_flush_instructions or 0, run.tracking_instructions or 0
    boot = run.instructions or 1
    return (
        f"{worst / 1e6:,.1f}",
        share_of_bringup(run.worst_flush_ms),
        f"{tracking / 1e6:,.1f}",
        f"{tracking / boot:.2%}",
    )


def _timed(run: MetalRun) -> tuple[str | Text, ...]:
    took = run.bring_up_ms
    if run.failed_cpus:
        up = Text("failed", style="bold red")
    else:
        up = Text("-" if took is None else f"{took:,.1f}")
    return (
        f"{run.worst_flush_ms:,.1f}",
        share_of_bringup(run.worst_flush_ms),
        up,
    )


def setup_words(setup: Setup, guest_pages: int) -> str:
    """What was booted."""
    plural = "s" if setup.vcpus > 1 else ""
    hotplug = f", secondary CPUs off and on {setup.hotplug}x" if setup.hotplug else ""
    return (
        f"{setup.guest.words}\n{setup.guest.bits}-bit, {setup.vcpus} vCPU{plural},"
        f" {format_size(guest_pages * PAGE_SIZE)} of RAM ({guest_pages:,} pages), beside the"
        f" monitor's{hotplug}"
    )


def print_runs(console: Console, runs: Sequence[MetalRun]) -> None:
    """The table of one guest's boots, the policies' meaning, and what was measured."""
    names = policy_names(list(dict.fromkeys(run.setup.policy for run in runs)))
    first = runs[0]
    console.print(first.setup.guest.name, style="bold")
    console.print(setup_words(first.setup, first.guest_pages), highlight=False)
    console.print(metal_table(runs, names))
    if first.setup.vcpus == 1:
        words = _COUNTED_WORDS
    else:
        words = _BRING_UP_WORDS if first.setup.bring_up else _TIMED_WORDS
    print_legend(console, names, words.format(nanoseconds=first.setup.nanoseconds))
