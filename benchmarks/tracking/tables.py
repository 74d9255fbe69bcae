"""The tables of docs/what-tracking-costs.md, out of the results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from p2mfast.experiment.cost import CostModel
from tracking.cases import (
    AROUND,
    FAULT_AROUND,
    GUESTS,
    JUDGED,
    MEMORIES,
    NEVER,
    ORDERS,
    OURS,
    POLICIES,
    XEN,
    Case,
    bring_up,
    verdicts,
)

Results = dict[str, dict[str, Any]]
"""By a case's key: one of the JSON's runs, and ``first_lines`` of the console."""


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A table; the first ``left`` columns are words, the others numbers."""
    lines = ["| " + " | ".join(headings) + " |"]
    lines.append("|" + "|".join(["---"] * left + ["---:"] * (len(headings) - left)) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _millions(instructions: float) -> str:
    return f"{instructions / 1e6:,.2f}" if instructions < 1e8 else f"{instructions / 1e6:,.0f}"


def _get(results: Results, *case: Any, **more: Any) -> dict[str, Any]:
    return results[Case(*case, **more).key]


def pages(results: Results, guest: str) -> str:
    """Pages that each flush cleaned, and what the longest took."""

    def rows() -> Iterable[Sequence[str]]:
        for memory in MEMORIES:
            for order, mapped in ORDERS.items():
                for policy, name in POLICIES.items():
                    run = _get(results, guest, policy, memory, order)
                    measured = run["measured"]
                    yield (
                        memory,
                        mapped,
                        name,
                        " / ".join(f"{flush['pages']:,}" for flush in run["flushes"]) or "-",
                        _millions(measured["worst_flush_instructions"]),
                        f"{run['traps']:,}",
                        _millions(measured["tracking_instructions"]),
                        f"{measured['tracking_instructions'] / measured['instructions']:.2%}",
                    )

    return markdown(
        (
            "RAM",
            "mapped",
            "policy",
            "pages cleaned, by flush",
            "longest flush, M",
            "faults",
            "tracking, M",
            "of the boot",
        ),
        rows(),
        left=3,
    )


def around(results: Results, guest: str) -> str:
    """Fault-around: fewer faults, more pages."""

    def rows() -> Iterable[Sequence[str]]:
        for order in FAULT_AROUND:
            run = _get(results, guest, AROUND(OURS, order) if order else OURS, "512M", 0)
            measured = run["measured"]
            cleaning = sum(f["instructions"] - f["collect_instructions"] for f in run["flushes"])
            yield (
                f"{1 << order}",
                f"{run['traps']:,}",
                f"{run['pages_cleaned']:,}",
                _millions(measured["tracking_instructions"]),
                _millions(cleaning),
                _millions(measured["tracking_instructions"] + cleaning),
            )

    return markdown(
        ("pages a fault", "faults", "pages cleaned", "tracking, M", "cleaning, M", "both, M"),
        rows(),
        left=0,
    )


def second_cpu(results: Results) -> str:
    """From CPU_ON to caches on of CPU 1."""

    def rows() -> Iterable[Sequence[str]]:
        for case in bring_up():
            run = results[case.key]
            milliseconds = run["measured"]["bring_up_ms"]
            yield (
                case.memory,
                ORDERS[case.page_order],
                POLICIES[case.policy],
                f"{run['flushes'][-2]['pages']:,} + {run['flushes'][-1]['pages']:,}",
                f"{milliseconds:,.2f}",
                f"{milliseconds / 10:.1f} %",
            )

    return markdown(
        ("RAM", "mapped", "policy", "pages cleaned", "M instructions", "of 1 s *"), rows(), left=3
    )


def words_of_linux(results: Results) -> str:
    """What Linux said, where an instruction takes 2 ns."""

    def rows() -> Iterable[Sequence[str]]:
        for case in verdicts():
            run = results[case.key]
            flushes = [f for f in run["flushes"] if f["vcpu"] == 1]
            yield (
                POLICIES[case.policy],
                f"{sum(f['ticks'] for f in flushes) / run['measured']['ticks_per_second']:.3f} s",
                f"`{run['measured']['bring_up_words']}`",
            )

    return markdown(("policy", "CPU 1's flushes", "Linux"), rows(), left=1)


def unit_costs(results: Results) -> str:
    """Instructions an operation, as each guest's boot under the policy has them."""
    names = {
        "per_page_cleaned": "a page cleaned",
        "per_fault": "a fault resolved",
        "per_set_way": "a Set/Way operation trapped",
        "per_vm_register": "a VM register write trapped",
        "arming": "arming, with its TLB invalidation",
        "mapping": "mapping the RAM",
    }

    def rows() -> Iterable[Sequence[str]]:
        runs = {
            mapped: _get(results, "linux-armhf", OURS, "512M", order)
            for order, mapped in ORDERS.items()
        }
        for name, words in names.items():
            yield (words, *(f"{run['measured'][name]:,.0f}" for run in runs.values()))

    return markdown(("instructions", *ORDERS.values()), rows(), left=1)


def leaf_bit(results: Results) -> str:
    """Xen's test of a page against reachability."""

    def rows() -> Iterable[Sequence[str]]:
        for memory in MEMORIES:
            by_policy = {
                policy: _get(results, "linux-armhf", policy, memory, 0)
                for policy in (NEVER, XEN, OURS)
            }
            yield (
                memory,
                *(
                    " / ".join(f"{f['pages']:,}" for f in run["flushes"])
                    for run in by_policy.values()
                ),
            )

    return markdown(("RAM", "all RAM", "the leaf's own bit", "reachable"), rows(), left=1)


def predicted(results: Results) -> str:
    """Replays of the recording of the very boot, beside what was measured."""
    cost = CostModel()

    def error(model: float, measured: float) -> str:
        return f"{model / measured - 1:+.1%}" if measured else "-"

    def rows() -> Iterable[Sequence[str]]:
        predictions = (p for guest in GUESTS for p in results["predicted"][guest].items())
        for case, prediction in predictions:
            run = results[case]
            if not run["traps"] and not run["flushes"]:
                continue  # nothing is asked, nothing is done
            flushed = sum(f["instructions"] for f in run["flushes"])
            model = sum(
                cost.flush_ms(p, run["policy"]["arm"] != "never") for p in prediction["pages"]
            )
            yield (
                GUESTS[run["trace"]],
                POLICIES[prediction["policy"]],
                ORDERS[prediction["page_order"]],
                f"{sum(prediction['pages']):,}",
                f"{run['pages_cleaned']:,}",
                error(sum(prediction["pages"]), run["pages_cleaned"]),
                f"{prediction['traps']:,}",
                f"{run['traps']:,}",
                error(prediction["traps"], run["traps"]),
                _millions(model * 1e6),
                _millions(flushed),
                error(model * 1e6, flushed),
            )

    return markdown(
        (
            "guest",
            "policy",
            "mapped",
            "pages, replay",
            "measured",
            "error",
            "faults, replay",
            "measured",
            "error",
            "flushes, M, model",
            "measured",
            "error",
        ),
        rows(),
        left=3,
    )


def losses(results: Results) -> str:
    """What the oracle found, by policy and vCPUs."""

    def rows() -> Iterable[Sequence[str]]:
        for case in JUDGED:
            totals = results["judged"][case.key]["totals"]
            names = ("flushes", "pages", "touched", "written", "missed", "ambiguous")
            yield (case.name, f"{case.vcpus}", *(f"{totals[name]:,}" for name in names))

    return markdown(
        ("flush", "vCPUs", "flushes", "pages cleaned", "touched", "written", "missed", "unclear"),
        rows(),
        left=1,
    )


TABLES: dict[str, Callable[[Results], str]] = {
    "linux-armhf": lambda results: pages(results, "linux-armhf"),
    "linux-arm64": lambda results: pages(results, "linux-arm64"),
    "uboot-arm64": lambda results: pages(results, "uboot-arm64"),
    "fault-around linux-armhf": lambda results: around(results, "linux-armhf"),
    "fault-around linux-arm64": lambda results: around(results, "linux-arm64"),
    "second CPU": second_cpu,
    "Linux's word": words_of_linux,
    "unit costs": unit_costs,
    "leaf bit": leaf_bit,
    "predicted": predicted,
    "losses": losses,
}


def filled(document: str, results: Results) -> str:
    """The document with its tables made anew: each stands between ``<!-- table: NAME -->`` and
    ``<!-- end -->``. Raises KeyError for a name that there is not."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]](results)}\n{match[3]}"

    return re.sub(r"(<!-- table: (.*?) -->).*?(<!-- end -->)", table, document, flags=re.DOTALL)
