"""mem_access: a monitor restricts what a guest's pages may be used for, and is told of violations
(Xen's p2m_mem_access_check, xen/arch/arm/mem_access.c)."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from p2mfast._engine import P2M
from p2mfast.types import Access

# By access value: what it lets through, before anything changes by itself.
_ALLOWED: dict[Access, str] = {
    Access.N: "",
    Access.R: "r",
    Access.W: "w",
    Access.RW: "rw",
    Access.X: "x",
    Access.RX: "rx",
    Access.WX: "wx",
    Access.RWX: "rwx",
    Access.RX2RW: "rx",
    Access.N2RWX: "",
    Access.R_PW: "r",
}


class Violation(NamedTuple):
    """An access that a page's :class:`~p2mfast.Access` does not allow, for the monitor.

    ``gla`` is the guest's virtual address, None where the syndrome gives none; ``in_page_table``:
    it was the guest's own table walk.
    """

    vcpu: int
    gpa: int
    gla: int | None
    access: str
    page_access: Access
    in_page_table: bool


class Verdict(enum.Enum):
    """What a permission fault comes to."""

    NOT_OURS = "not-ours"
    """The page's access allows it: its type does not, and the guest gets a fault."""
    PROMOTED = "promoted"
    """The page's access has changed by itself, or for want of a listener; try again."""
    EVENT = "event"
    """The listener was told, and the vCPU tries again when it has answered."""
    CRASH = "crash"
    """No listener, though one is required: the domain is crashed."""


class MemAccessMonitor:
    """Who listens to a domain's violations.

    Attributes
    ----------
    listener : callable or None
        Given each :class:`Violation`; it may change the page's access before it returns.
    required : bool
        Xen's ``access_required``: without a listener a violation crashes the domain. Otherwise it
        ends the page's restriction.
    violations : int
        Told so far.
    """

    def __init__(self, p2m: P2M) -> None:
        self._p2m = p2m
        self.listener: Callable[[Violation], object] | None = None
        self.required = False
        self.violations = 0

    def check(self, violation_of: Callable[[Access], Violation], gpa: int, access: str) -> Verdict:
        """Judge a permission fault; ``violation_of`` makes the event if there is one."""
        gfn = gpa >> 12
        if not self._p2m.mem_access_enabled:
            return Verdict.NOT_OURS
        page_access = self._p2m.get_entry(gfn).access
        if page_access is None or set(access) <= set(_ALLOWED[page_access]):
            return Verdict.NOT_OURS
        promoted = Access.RWX
        if page_access is Access.RX2RW and access == "w":
            promoted = Access.RW
        elif page_access is not Access.N2RWX and self.listener is not None:
            self.violations += 1
            self.listener(violation_of(page_access))
            return Verdict.EVENT
        elif page_access is not Access.N2RWX and self.required:
            return Verdict.CRASH
        self._p2m.set_mem_access(gfn, 1, promoted)
        return Verdict.PROMOTED
