"""Recorded boots of real guests through the engine, against a reckoning with sets of pages.

The reckoning knows no tables: a page is touched or not since the last flush, and a table or block
of 2 MiB or 1 GiB is touched if one of its pages is.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from p2mfast.experiment import report
from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.replay import replay, to_json
from p2mfast.experiment.trace import GuestTrace, Kind, load, shipped
from p2mfast.hypervisor.policy import Policy

RECORDED = Path(__file__).parent / "data" / "guest_traces"
TRACES = {name: name for name in shipped()} | {p.stem: str(p) for p in RECORDED.glob("*.npz")}

NONE = "arm=never,flush=all"
XEN = "arm=creation-finished,resolve=level,flush=leaf"
OURS = "arm=creation-finished"
ASKED = "arm=first-set-way"


def flush_points(trace: GuestTrace) -> Iterator[tuple[int, int, str] | np.ndarray]:
    """The pages touched, and (icount, vCPU, cause) of each flush, in order, by Xen's rules."""
    caches = dict.fromkeys(range(trace.vcpus), False)
    trapped = dict.fromkeys(range(trace.vcpus), False)
    for entry in trace.timeline:
        kind, vcpu, icount = Kind(entry["kind"]), int(entry["vcpu"]), int(entry["icount"])
        if kind is Kind.TOUCHED:
            yield trace.epochs[entry["epoch"]][0]
        elif kind is Kind.SET_WAY and not trapped[vcpu]:
            trapped[vcpu] = True
            yield icount, vcpu, "set-way"
        elif kind is Kind.SCTLR:
            on = int(entry["value"]) & 0b101 == 0b101
            if trapped[vcpu] and on != caches[vcpu]:
                yield icount, vcpu, "cache-toggle"
            caches[vcpu] = on
            trapped[vcpu] &= not on
        elif kind is Kind.VM_REG:
            trapped[vcpu] &= not caches[vcpu]
        elif kind is Kind.RESET:
            caches[vcpu] = trapped[vcpu] = False


def reckon(trace: GuestTrace, policy: Policy, page_order: int) -> tuple[list[tuple], int]:
    """The flushes as (icount, vcpu, cause, pages) and the traps."""
    base = trace.ram_base_gfn
    armed = policy.arm == "creation-finished"
    touched: set[int] = set()  # blocks of page_order, since the last flush
    left_valid: dict[int, int] = {}  # by table of leaves: those whose own bit 0 is left set
    leaves = 512 if page_order == 0 else 2**18 >> page_order
    flushes, traps = [], 0

    def table_of(block: int) -> int:
        return block // leaves

    for table in {
        table_of(block) for block in range(base >> page_order, base + trace.ram_pages >> page_order)
    }:
        left_valid[table] = min(leaves, trace.ram_pages >> page_order)  # fmt: skip
    for point in flush_points(trace):
        if isinstance(point, np.ndarray):
            new = set((point >> np.uint64(page_order)).tolist()) - touched
            if armed:
                traps += len(new)
                if policy.resolve == "level":  # and one for each table above that becomes valid
                    for order in range(page_order + 9, 27, 9):
                        old_tables = {block << page_order >> order for block in touched}
                        traps += len({block << page_order >> order for block in new} - old_tables)
            touched |= new
            continue
        if policy.flush == "all" or not armed:
            pages = trace.ram_pages
        elif policy.flush == "harvest":
            pages = len(touched) << page_order
        else:  # the leaf's own bit: a table's are cleared when the table is touched first
            for table in {table_of(block) for block in touched}:
                left_valid[table] = sum(table_of(block) == table for block in touched)
            pages = sum(left_valid.values()) << page_order
        flushes.append((*point, pages))
        armed = policy.arm != "never"
        touched = set() if armed else touched
    return flushes, traps


@pytest.mark.parametrize("page_order", [0, 9])
@pytest.mark.parametrize("policy", [NONE, XEN, OURS, ASKED])
@pytest.mark.parametrize("name", sorted(TRACES))
def test_replay_agrees_with_the_reckoning(name: str, policy: str, page_order: int) -> None:
    trace = load(TRACES[name])
    run = replay(trace, Policy.parse(policy), page_order)
    flushes, traps = reckon(trace, run.policy, page_order)
    assert [(f.icount, f.vcpu, f.cause, f.pages) for f in run.flushes] == flushes
    assert run.traps == traps
    assert run.pages_cleaned == sum(pages for *_, pages in flushes)


def test_linux_on_four_cpus_flushes_as_its_record_says() -> None:
    """One batch with the MMU off, one before the secondaries, one on each of them; the caches go
    on after the first and after each secondary's (FORMAT.md, "What 32-bit Linux does")."""
    run = replay(load("linux-armhf-smp4-2G"), Policy.parse(OURS), 0)
    assert [(f.vcpu, f.cause) for f in run.flushes] == [
        (0, "set-way"), (0, "cache-toggle"), (0, "set-way"),
        (1, "set-way"), (1, "cache-toggle"),
        (2, "set-way"), (2, "cache-toggle"),
        (3, "set-way"), (3, "cache-toggle"),
    ]  # fmt: skip


def test_a_guest_that_never_asks_pays_nothing_unless_armed_at_creation() -> None:
    trace = load("uefi64-smp2-512M-kernel")
    distinct = len(np.unique(np.concatenate([gfns for gfns, _ in trace.epochs])))
    assert replay(trace, Policy.parse(ASKED), 0).traps == 0
    assert replay(trace, Policy(), 0).traps == 0
    assert replay(trace, Policy.parse(OURS), 0).traps == distinct
    assert replay(trace, Policy.parse(OURS), 0).flushes == ()


def test_fault_around_saves_traps_and_costs_pages() -> None:
    trace = load("linux-armhf-smp4-512M")
    one = replay(trace, Policy.parse(OURS), 0)
    around = replay(trace, Policy.parse(OURS + ",fault_around=4"), 0)
    touched: set[int] = set()
    groups = traps = 0
    for point in flush_points(trace):
        if isinstance(point, np.ndarray):
            new = set((point >> np.uint64(4)).tolist()) - touched
            traps += len(new)
            touched |= new
        else:
            groups += len(touched)
            touched = set()
    assert (around.traps, around.pages_cleaned) == (traps, groups * 16)
    assert around.traps < one.traps
    assert around.pages_cleaned > one.pages_cleaned


def test_the_iommu_sharing_the_tables_ends_tracking_and_flushes() -> None:
    run = replay(load("linux-armhf-smp4-512M"), Policy(iommu_shared=True), 9)
    assert (run.flushes, run.traps) == ((), 0)


def test_json_follows_the_schema(tmp_path: Path) -> None:
    cost = CostModel(page_clean_ns=1000)
    run = replay(load("linux-armhf-smp4-512M"), Policy.parse(XEN), 9, cost)
    document = json.loads(json.dumps(to_json([run], cost)))
    assert document["version"] == 1
    assert document["cost_model"]["page_clean_ns"] == 1000
    (result,) = document["runs"]
    assert set(result) == {
        "trace", "guest_bits", "vcpus", "ram_pages", "policy", "page_order", "flushes", "traps",
        "pages_cleaned", "worst_flush_pages", "modelled_worst_ms", "wall_s",
    }  # fmt: skip
    assert result["policy"] == {
        "arm": "creation-finished", "resolve": "level", "fault_around": 0, "flush": "leaf",
        "budget": 512, "iommu_shared": False, "defer": False,
    }  # fmt: skip
    assert set(result["flushes"][0]) == {"icount", "vcpu", "cause", "pages"}
    worst = max(flush["pages"] for flush in result["flushes"])
    assert result["worst_flush_pages"] == worst
    assert result["modelled_worst_ms"] == pytest.approx((worst * 1000 + 5250) / 1e6)
    assert result["wall_s"] > 0


def test_the_table_fits_80_columns() -> None:
    trace = load("linux-armhf-smp4-2G")
    runs = [
        replay(trace, Policy.parse(text), order)
        for text in report.STANDARD_POLICIES
        for order in (0, 9)
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    report.print_runs(console, runs, CostModel())
    text = console.export_text()
    assert "…" not in text
    assert "4,718,592" in text
    assert "17,638" in text
