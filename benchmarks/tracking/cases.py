"""Which boots are compared."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

NEVER = "arm=never,flush=all"
XEN = "arm=creation-finished,resolve=level,flush=leaf"
OURS = "arm=creation-finished,resolve=path,flush=harvest"
IF_ASKED = "arm=first-set-way,resolve=path,flush=harvest"
AROUND = "{},fault_around={}".format
AROUND_16 = AROUND(OURS, 4)

POLICIES = {
    NEVER: "no tracking",
    XEN: "Xen's",
    OURS: "p2mfast's",
    AROUND_16: "fault-around 16",
    IF_ASKED: "if asked",
}
"""By their strings, with their names in the tables."""

GUESTS = {
    "linux-armhf": "Linux armhf",
    "linux-arm64": "Linux arm64",
    "uboot-arm64": "U-Boot, Linux arm64",
}
MEMORIES = ("512M", "1G", "2G", "4G")
ORDERS = {0: "4 KiB", 9: "2 MiB"}
FAULT_AROUND = (0, 1, 2, 3, 4, 5, 6, 7, 9)


RECORDED = OURS
"""The policy of the boots from whose traces the others are predicted."""


class Judged(NamedTuple):
    """A boot of 32-bit Linux with the oracle beside it."""

    name: str
    policy: str
    vcpus: int
    options: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return f"{self.name}, {self.vcpus} vCPUs"


JUDGED = (
    Judged("`harvest`", OURS, 1),
    Judged("`harvest`", OURS, 2),
    Judged("`harvest`", OURS, 4),
    Judged("`path`", "arm=creation-finished,flush=path", 2),
    Judged("`path`", "arm=creation-finished,flush=path", 4),
    Judged("`leaf` (Xen's)", XEN, 2),
    Judged("`leaf` (Xen's)", XEN, 4),
    Judged("`harvest`, no TLB invalidation", OURS, 2, ("no-tlbi",)),
)


class Case(NamedTuple):
    """One boot: arguments of ``p2mfast.experiment.metal.run``."""

    guest: str
    policy: str
    memory: str
    page_order: int
    vcpus: int = 1
    bring_up: bool = False
    nanoseconds: int = 1

    @property
    def key(self) -> str:
        """Its name in the file of results."""
        return " ".join(f"{name}={value}" for name, value in self._asdict().items())

    def arguments(self) -> dict[str, Any]:
        """By name."""
        return self._asdict()


def boots() -> Iterator[Case]:
    """One vCPU, to the power-off: what each policy costs each guest."""
    for guest, policy, memory, order in product(GUESTS, POLICIES, MEMORIES, ORDERS):
        yield Case(guest, policy, memory, order)


def fault_around() -> Iterator[Case]:
    """The trade between faults and pages that are cleaned though nobody touched them."""
    for guest, order in product(("linux-armhf", "linux-arm64"), FAULT_AROUND):
        yield Case(guest, AROUND(OURS, order) if order else OURS, "512M", 0)


def bring_up() -> Iterator[Case]:
    """How long the second CPU of a 32-bit guest takes; then that is all of the boot."""
    for policy, memory, order in product(POLICIES, MEMORIES, ORDERS):
        yield Case("linux-armhf", policy, memory, order, vcpus=2, bring_up=True)


def verdicts() -> Iterator[Case]:
    """Linux's own word, on a machine of half the speed: an instruction is 2 ns."""
    for policy in (NEVER, XEN, OURS):
        yield Case("linux-armhf", policy, "4G", 0, vcpus=2, bring_up=True, nanoseconds=2)


def all_cases() -> list[Case]:
    """Each once."""
    return list(dict.fromkeys([*boots(), *fault_around(), *bring_up(), *verdicts()]))
