"""What a boot under the monitor came to."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.metal.interface import Interface
from p2mfast.experiment.metal.machine import Setup
from p2mfast.experiment.replay import JSON_VERSION, FlushSums
from p2mfast.units import PAGE_SIZE

Records = npt.NDArray[np.void]

BROUGHT_UP = r"smp: Brought up .*"
"""Linux's words when it has started all CPUs that it could."""
_NOT_BROUGHT_UP = r"CPU\d+: failed to (?:come online|boot).*"


@dataclass(frozen=True)
class MetalFlush:
    """A flush as the monitor measured it; instructions are None where QEMU did not count them.

    ``icount`` is the guest's and the monitor's instructions from the guest's start to the flush's.
    """

    icount: int | None
    vcpu: int
    cause: str
    pages: int
    started_ticks: int
    ticks: int
    instructions: int | None
    collect_instructions: int | None
    faults: int
    set_ways: int
    pieces: int
    interrupted: int
    runs: Records = field(compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """One of the JSON's ``flushes``: those of a replay, and what was measured."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"runs": len(self.runs)}


@dataclass(frozen=True)
class MetalCpu:
    """What one vCPU did at EL2, and how it came up.

    ``bring_up_ticks``: from the last CPU_ON for it to its caches' coming on; None if there was none
    or they did not. Its ``instructions`` are sums over its traps.
    """

    resolved: int
    injected: int
    set_ways: int
    vm_registers: int
    firmware_calls: int
    starts: int
    turned_off: int
    bring_up_ticks: int | None
    resolve_instructions: int | None
    set_way_instructions: int | None
    vm_register_instructions: int | None
    monitor_instructions: int | None


@dataclass(frozen=True)
class MetalRun(FlushSums):
    """What one policy did to one guest, measured with real traps."""

    setup: Setup
    flushes: tuple[MetalFlush, ...]
    flushes_lost: int
    """Flushes beyond what the monitor's log holds: they are in no sum."""
    faults: Records = field(repr=False)
    """The log of resolved stage-2 faults: gfn, what (interface.h); it may be full."""
    traps: int
    """Stage-2 faults resolved."""
    cpus: tuple[MetalCpu, ...]
    instructions: int | None
    """Of the guest and the monitor, from the guest's start to its power-off."""
    ticks: int
    ticks_per_second: int
    counters: dict[str, int | list[int]]
    """The monitor's report: arms, tables, mappings by level, TLB flushes, ..."""
    console: str = field(repr=False)
    wall_s: float = 0.0

    @property
    def guest_pages(self) -> int:
        """RAM of the guest."""
        return int(self.counters["guest_pages"])  # type: ignore[arg-type]

    @property
    def armed(self) -> bool:
        """Whether the policy tracks this guest."""
        return self.setup.policy.arms_at(self.setup.guest.bits) != "never"

    @property
    def worst_flush_instructions(self) -> int | None:
        """Of the longest flush; 0 without one."""
        if self.instructions is None:
            return None
        return max((flush.instructions or 0 for flush in self.flushes), default=0)

    @property
    def worst_flush_ms(self) -> float:
        """Of the longest flush, by the guest's clock: at 1 ns an instruction where they are
        counted, else as long as QEMU took here. 0 without one."""
        return self.milliseconds(max((flush.ticks for flush in self.flushes), default=0))

    @property
    def tracking_instructions(self) -> int | None:
        """All that tracking took: resolving faults, the first arming, and in the flushes finding
        the pages and arming again. The cleaning itself is not in it. 0 where nothing is armed."""
        if self.instructions is None:
            return None
        if not self.armed:
            return 0
        faults = sum(cpu.resolve_instructions or 0 for cpu in self.cpus)
        found = sum(flush.collect_instructions or 0 for flush in self.flushes)
        return faults + found + int(self.counters["arm_cycles"])  # type: ignore[arg-type]

    @property
    def monitor_instructions(self) -> int | None:
        """All that was executed at EL2 after the guest's start."""
        if self.instructions is None:
            return None
        return sum(cpu.monitor_instructions or 0 for cpu in self.cpus)

    @property
    def failed_cpus(self) -> tuple[int, ...]:
        """CPUs that the guest's console says failed to come online, at any time."""
        found = re.findall(_NOT_BROUGHT_UP, self.console)
        return tuple(sorted({int(line.partition(":")[0].removeprefix("CPU")) for line in found}))

    @property
    def bring_up_words(self) -> str:
        """What Linux said of its secondary CPUs: of one that failed, or of all."""
        found = re.search(_NOT_BROUGHT_UP, self.console) or re.search(BROUGHT_UP, self.console)
        return found[0].strip() if found else ""

    @property
    def cpus_online(self) -> tuple[int, ...]:
        """CPUs online as the guest's init counted them: at its start, and after each round of
        hotplug."""
        return tuple(map(int, re.findall(r"p2mfast: CPUs online: (\d+)", self.console)))

    @property
    def bring_up_ms(self) -> float | None:
        """From CPU_ON to caches on of the second CPU, by the guest's clock; None if it has not come
        on."""
        ticks = self.cpus[1].bring_up_ticks if len(self.cpus) > 1 else None
        return None if ticks is None else self.milliseconds(ticks)

    def milliseconds(self, ticks: int) -> float:
        """Of so many ticks of the guest's counter."""
        return ticks / self.ticks_per_second * 1e3

    def to_json(self, cost: CostModel) -> dict[str, Any]:
        """One of the JSON's ``runs``: the fields of a replay's, and ``measured``."""
        setup = self.setup
        modelled = cost.flush_ms(self.worst_flush_pages, self.armed) if self.flushes else 0.0
        return {
            "trace": setup.guest.name,
            "guest_bits": setup.guest.bits,
            "vcpus": setup.vcpus,
            "ram_pages": self.guest_pages,
            "policy": dataclasses.asdict(setup.policy),
            "page_order": setup.page_order,
            "flushes": [flush.to_json() for flush in self.flushes],
            "traps": self.traps,
            "pages_cleaned": self.pages_cleaned,
            "worst_flush_pages": self.worst_flush_pages,
            "modelled_worst_ms": modelled,
            "wall_s": self.wall_s,
            "measured": {
                "guest": setup.guest.words,
                "memory": setup.memory,
                "hotplug": setup.hotplug,
                "instructions": self.instructions,
                "monitor_instructions": self.monitor_instructions,
                "tracking_instructions": self.tracking_instructions,
                "worst_flush_instructions": self.worst_flush_instructions,
                "per_page_cleaned": self._per_page(),
                "per_fault": self._per_trap("resolve_instructions", "resolved"),
                "per_set_way": self._per_trap("set_way_instructions", "set_ways"),
                "per_vm_register": self._per_trap("vm_register_instructions", "vm_registers"),
                "arming": None if self.instructions is None else self.counters["arm_cycles"],
                "mapping": None if self.instructions is None else self.counters["map_cycles"],
                "ticks": self.ticks,
                "ticks_per_second": self.ticks_per_second,
                "worst_flush_ms": self.worst_flush_ms,
                "bring_up_ms": self.bring_up_ms,
                "nanoseconds": setup.nanoseconds,
                "bring_up_words": self.bring_up_words,
                "failed_cpus": list(self.failed_cpus),
                "cpus_online": list(self.cpus_online),
                "flushes_lost": self.flushes_lost,
                "counters": self.counters,
                "cpus": [dataclasses.asdict(cpu) for cpu in self.cpus],
            },
        }

    def _per_page(self) -> float | None:
        """Instructions a page cleaned, less what a flush takes besides."""
        if self.instructions is None or not self.pages_cleaned:
            return None
        cleaning = sum((f.instructions or 0) - (f.collect_instructions or 0) for f in self.flushes)
        return cleaning / self.pages_cleaned

    def _per_trap(self, instructions: str, traps: str) -> float | None:
        number = sum(getattr(cpu, traps) for cpu in self.cpus)
        if self.instructions is None or not number:
            return None
        return float(sum(getattr(cpu, instructions) for cpu in self.cpus) / number)


def to_json(runs: list[MetalRun], cost: CostModel | None = None) -> dict[str, Any]:
    """Everything, by the schema of a replay (DESIGN gives it), with what was measured."""
    cost = cost or CostModel()
    return {
        "version": JSON_VERSION,
        "cost_model": dataclasses.asdict(cost),
        "runs": [run.to_json(cost) for run in runs],
    }


class Memory:
    """The monitor's memory, as it is: the report while it runs, the logs when it has ended."""

    def __init__(self, interface: Interface, memory: Any) -> None:
        self._interface = interface
        self._bytes = memory
        self.report = self._records("report", interface["REPORT_OFFSET"], 1)[0]
        """A live view."""

    def _records(self, struct: str, offset: int, n: int) -> Records:
        return np.frombuffer(self._bytes, self._interface.structs[struct], n, offset)

    @property
    def state(self) -> str:
        """``none``, ``running``, ``powered-off``, ``reset`` or ``panicked``."""
        return self._interface.name_of("STATE_", int(self.report["state"]))

    @property
    def panic(self) -> str:
        """Where the monitor itself failed."""
        vcpu, esr, elr, far = map(int, self.report["panic"])
        return f"on vCPU {vcpu}: ESR_EL2 {esr:#x}, ELR_EL2 {elr:#x}, FAR_EL2 {far:#x}"

    def log(self, struct: str, name: str, total: int) -> Records:
        """A copy of one log: as many records as there are, or as it holds."""
        offset, most = self._interface[f"{name}_OFFSET"], self._interface[f"{name}_MAX"]
        return self._records(struct, offset, min(total, most)).copy()

    def result(self, setup: Setup, console: str, wall_s: float) -> MetalRun:
        """All of it, once the guest has ended."""
        report = self.report.copy()
        # What the monitor reads counts nanoseconds.
        unit = setup.nanoseconds if setup.counted else None
        runs = self.log("run_record", "RUNS", int(report["runs"]))
        records = self.log("flush_record", "FLUSHES", int(report["flushes"]))
        sums = ("arms", "tables", "mappings", "tlb_flushes", "stale",
                "interrupted", "faults", "runs")  # fmt: skip
        guest_bytes = setup.memory - self._interface["MONITOR_BYTES"]
        return MetalRun(
            setup=setup,
            flushes=tuple(_flush(record, runs, unit, self._interface) for record in records),
            flushes_lost=int(report["flushes"]) - len(records),
            faults=self.log("fault_record", "FAULTS", int(report["faults"])),
            traps=int(report["vcpu"]["resolved"].sum()),
            cpus=tuple(_cpu(cpu, unit) for cpu in report["vcpu"][: setup.vcpus]),
            instructions=_counted(report["cycles"], unit),
            ticks=int(report["ticks"]),
            ticks_per_second=int(report["ticks_per_second"]),
            counters={"guest_pages": guest_bytes // PAGE_SIZE}
            | {name: report[name].tolist() for name in sums}
            | {name: int(report[name]) // (unit or 1) for name in ("arm_cycles", "map_cycles")},
            console=console,
            wall_s=wall_s,
        )


def _counted(cycles: Any, unit: int | None) -> int | None:
    return None if unit is None else int(cycles) // unit


def _flush(record: Any, runs: Records, unit: int | None, interface: Interface) -> MetalFlush:
    first = int(record["first_run"])

    def instructions(name: str) -> int | None:
        return _counted(record[name], unit)

    return MetalFlush(
        icount=instructions("started_cycles"),
        vcpu=int(record["vcpu"]),
        cause=interface.name_of("CAUSE_", int(record["cause"])),
        pages=int(record["pages"]),
        started_ticks=int(record["started"]),
        ticks=int(record["ticks"]),
        instructions=instructions("cycles"),
        collect_instructions=instructions("collect_cycles"),
        faults=int(record["faults"]),
        set_ways=int(record["set_ways"]),
        pieces=int(record["pieces"]),
        interrupted=int(record["interrupted"]),
        runs=runs[first : first + int(record["runs"])],
    )


def _cpu(report: Any, unit: int | None) -> MetalCpu:
    on, caches_on = int(report["on_ticks"]), int(report["caches_on_ticks"])

    def instructions(name: str) -> int | None:
        return _counted(report[name], unit)

    return MetalCpu(
        resolved=int(report["resolved"]),
        injected=int(report["injected"]),
        set_ways=int(report["set_ways"]),
        vm_registers=int(report["vm_registers"]),
        firmware_calls=int(report["firmware_calls"]),
        starts=int(report["starts"]),
        turned_off=int(report["resets"]),
        bring_up_ticks=caches_on - on if on and caches_on else None,
        resolve_instructions=instructions("resolve_cycles"),
        set_way_instructions=instructions("set_way_cycles"),
        vm_register_instructions=instructions("vm_register_cycles"),
        monitor_instructions=instructions("monitor_cycles"),
    )
