"""What a flush and a trap cost: a model, with its sources. Set your own where you know better."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from p2mfast.hypervisor.domain import DomainStats

LINUX_BRINGUP_LIMIT_MS = 1000.0
"""Linux gives a secondary CPU one second to come online (arch/arm/kernel/smp.c, __cpu_up)."""


@dataclass(frozen=True)
class CostModel:
    """Times in nanoseconds.

    The defaults are instruction counts of the monitor at EL2 (``examples/el2_monitor``) with
    Debian's 32-bit Linux 6.1 in 4 KiB pages under QEMU 7.2, taken at 1 ns an instruction: cleaning
    a page by address took 257, a stage-2 fault from the vector to the return 390, arming with its
    TLB invalidation 5,250. What a flush takes to find its pages is not modelled;
    ``docs/what-tracking-costs.md`` has the error. QEMU has no caches: on hardware, writing back 64
    dirty lines of a page is bound by memory and slower, and a trap depends on the core and the
    hypervisor (measured on Armv8 servers by Dall et al., "ARM Virtualization: Performance and
    Architectural Implications", ISCA 2016). So ratios mean more than times.
    """

    page_clean_ns: float = 257.0
    trap_ns: float = 390.0
    arm_ns: float = 5250.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"cost {field.name} must be a number, not {value!r}")
            if not 0 <= value < 1e15:
                raise ValueError(f"cost {field.name} must be from 0 to 1e15 ns, not {value!r}")

    @classmethod
    def parse(cls, items: list[str]) -> CostModel:
        """The default, with fields replaced by strings such as ``"page_clean_ns=900"``.

        Raises ValueError naming the string.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        values: dict[str, float] = {}
        for item in items:
            name, equals, text = item.partition("=")
            if not equals or name not in names:
                raise ValueError(
                    f"cost {item!r} is none of {', '.join(f'{name}=NS' for name in names)}"
                )
            try:
                values[name] = float(text)
            except ValueError:
                raise ValueError(f"cost {item!r}: {text!r} is no number") from None
        return cls(**values)

    def flush_ms(self, pages: int, arms: bool) -> float:
        """Milliseconds that a vCPU waits for a flush of so many pages."""
        return (pages * self.page_clean_ns + (self.arm_ns if arms else 0)) / 1e6

    def domain_ms(self, stats: DomainStats) -> float:
        """Milliseconds that all of a domain's traps and flushes so far took."""
        ns = stats.pages_cleaned * self.page_clean_ns + stats.flushes * self.arm_ns
        return ns / 1e6 + self.traps_ms(stats.traps)

    def traps_ms(self, traps: int) -> float:
        """Milliseconds that so many resolved faults take."""
        return traps * self.trap_ns / 1e6
