"""How fast the engine's loops are, as ratios to what the hardware can do at best.

A loop and its limit are timed alternately in one process, and medians taken: the machine's speed
drifts, the ratio does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from p2mfast.experiment import loops
from p2mfast.experiment.loops import Case

JSON_VERSION = 2


@dataclass(frozen=True)
class Result:
    """Medians of the interleaved rounds, in nanoseconds a unit."""

    name: str
    size: str
    case: Case
    ns: float
    limit_ns: float
    ratio: float

    @property
    def reached(self) -> bool:
        """Whether the goal is; true where there is none."""
        return self.case.goal.reached(self.ns, self.limit_ns, self.ratio)

    def to_json(self) -> dict[str, Any]:
        """One of the JSON's ``results``."""
        case = self.case
        return {
            "name": self.name,
            "size": self.size,
            "unit": case.unit,
            "ns": self.ns,
            "limit": case.limit_name,
            "limit_ns": self.limit_ns,
            "ratio": self.ratio,
            "goal": str(case.goal),
            "reached": self.reached,
        }


def measure(name: str, size: str) -> Result:
    """Make a loop and time it and its limit in turn; the ratio is the median of the rounds' own."""
    return measure_case(name, size, loops.build(name, size))


def measure_case(name: str, size: str, case: Case) -> Result:
    """The same for a loop that is there. Raises AssertionError if it did not do its work."""
    samples = []
    for number in range(case.rounds + 1):
        case.prepare()
        work = _time(case.work) / case.units
        if not number:  # warms up, and is looked at
            assert case.right(), f"{name} ({size}) gave a wrong answer"
        limit = _time(case.limit) / case.limit_units
        if number or case.rounds == 1:
            samples.append((work, limit, work / limit))
    ns, limit_ns, ratio = (median(column) for column in zip(*samples, strict=True))
    return Result(name, size, case, ns, limit_ns, ratio)


def _time(work: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - started


def to_json(results: Sequence[Result], engine: str) -> dict[str, Any]:
    """All results; ``engine`` names the vector loops."""
    return {
        "version": JSON_VERSION,
        "vector_loops": engine,
        "results": [result.to_json() for result in results],
    }
