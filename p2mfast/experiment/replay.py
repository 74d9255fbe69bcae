"""Replay a recorded guest under a policy, through the real engine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.trace import GuestTrace, Kind
from p2mfast.hypervisor.domain import Domain
from p2mfast.hypervisor.flushing import FlushRecord, Runs
from p2mfast.hypervisor.host import Host
from p2mfast.hypervisor.policy import Policy
from p2mfast.hypervisor.vcpu import VCpu
from p2mfast.units import PAGE_SIZE

JSON_VERSION = 1


@dataclass(frozen=True)
class FlushEvent:
    """A flush of a replay; ``icount`` is that of the timeline's entry that caused it.

    ``step`` is the index of that entry, ``runs`` what was cleaned where the replay was asked to
    keep it.
    """

    icount: int
    vcpu: int
    cause: str
    pages: int
    step: int
    runs: Runs | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """One of the JSON's ``flushes``."""
        return {
            "icount": self.icount,
            "vcpu": self.vcpu,
            "cause": self.cause,
            "pages": self.pages,
        }


class FlushSums:
    """What the flushes of a run come to."""

    flushes: tuple[Any, ...]
    """Each with ``cause`` and ``pages``."""

    @property
    def set_way_flushes(self) -> int:
        """Flushes that a Set/Way batch caused; the others were caused by the caches' toggling."""
        return sum(flush.cause == "set-way" for flush in self.flushes)

    @property
    def pages_cleaned(self) -> int:
        """Pages cleaned by all flushes."""
        return sum(flush.pages for flush in self.flushes)

    @property
    def worst_flush_pages(self) -> int:
        """Pages cleaned by the worst flush."""
        return max((flush.pages for flush in self.flushes), default=0)


@dataclass(frozen=True)
class Run(FlushSums):
    """What one policy did to one recorded guest."""

    trace: GuestTrace
    policy: Policy
    page_order: int
    cost: CostModel
    flushes: tuple[FlushEvent, ...]
    traps: int
    wall_s: float

    @property
    def modelled_worst_ms(self) -> float:
        """Modelled time of the worst flush, in milliseconds; 0 without one."""
        arms = self.policy.arms_at(self.trace.guest_bits) != "never"
        return self.cost.flush_ms(self.worst_flush_pages, arms) if self.flushes else 0.0

    def touched(self) -> list[npt.NDArray[np.uint64]]:
        """The GFNs touched before each flush, since the one before it, and after the last one."""
        timeline = self.trace.timeline
        ends = [0, *(flush.step + 1 for flush in self.flushes), len(timeline)]
        sets = []
        for start, end in pairwise(ends):
            part = timeline[start:end]
            epochs = part["epoch"][part["kind"] == Kind.TOUCHED].tolist()
            none = np.empty(0, np.uint64)
            sets.append(
                np.unique(np.concatenate([none, *(self.trace.epochs[e][0] for e in epochs)]))
            )
        return sets

    def to_json(self) -> dict[str, Any]:
        """One of the JSON's ``runs``."""
        return {
            "trace": self.trace.name,
            "guest_bits": self.trace.guest_bits,
            "vcpus": self.trace.vcpus,
            "ram_pages": self.trace.ram_pages,
            "policy": dataclasses.asdict(self.policy),
            "page_order": self.page_order,
            "flushes": [flush.to_json() for flush in self.flushes],
            "traps": self.traps,
            "pages_cleaned": self.pages_cleaned,
            "worst_flush_pages": self.worst_flush_pages,
            "modelled_worst_ms": self.modelled_worst_ms,
            "wall_s": self.wall_s,
        }


def to_json(runs: list[Run], cost: CostModel) -> dict[str, Any]:
    """Everything, by the schema that DESIGN gives."""
    return {
        "version": JSON_VERSION,
        "cost_model": dataclasses.asdict(cost),
        "runs": [run.to_json() for run in runs],
    }


def replay(
    trace: GuestTrace,
    policy: Policy,
    page_order: int,
    cost: CostModel | None = None,
    on_step: Callable[[], None] = lambda: None,
    *,
    keep_runs: bool = False,
) -> Run:
    """Run the recorded guest in a domain of its own.

    ``page_order``: largest mapping of its RAM, 0, 9 or 18. ``on_step`` is called after each entry
    of the timeline. ``keep_runs``: each flush keeps the runs it cleaned, 24 bytes a run.
    """
    # Room to align the guest's RAM to 1 GiB.
    host = Host(memory=trace.ram_pages * PAGE_SIZE + 2**30)
    started = time.perf_counter()
    domain = host.create_domain(
        memory=trace.ram_pages * PAGE_SIZE,
        vcpus=trace.vcpus,
        bits=trace.guest_bits,
        policy=policy,
        layout=[(trace.ram_base_gfn, trace.ram_pages)],
        page_order=page_order,
    )
    domain.unpause()
    flushes = []
    for step, entry in enumerate(trace.timeline):
        record = _step(domain, trace, entry)
        if record:
            runs = record.runs if keep_runs else None
            icount = int(entry["icount"])
            flushes.append(FlushEvent(icount, record.vcpu, record.cause, record.pages, step, runs))
        on_step()
    wall_s = time.perf_counter() - started
    traps = domain.stats.traps
    if domain.stats.faults_injected:
        raise AssertionError("a guest access to its RAM was refused")
    domain.destroy()
    return Run(trace, policy, page_order, cost or CostModel(), tuple(flushes), traps, wall_s)


def _step(domain: Domain, trace: GuestTrace, entry: Any) -> FlushRecord | None:
    vcpu: VCpu = domain.vcpus[entry["vcpu"]]
    kind = Kind(entry["kind"])
    if kind is Kind.TOUCHED:
        gfns, kinds = trace.epochs[entry["epoch"]]
        vcpu.access_many(gfns << 12, kinds)
    elif kind is Kind.SET_WAY:
        # A batch: after its first operation VM registers are trapped, and the rest change nothing.
        vcpu.set_way()
    elif kind is Kind.SCTLR:
        vcpu.write_sysreg("SCTLR_EL1", int(entry["value"]))
    elif kind is Kind.VM_REG:
        # Which register it was is not recorded, and makes no difference.
        vcpu.write_sysreg("TTBR0_EL1", 0)
    else:
        vcpu.reset()
    return vcpu.return_to_guest()
