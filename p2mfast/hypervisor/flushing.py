"""A domain's cache flushes: what they collect, what is still to be cleaned, and by whom.

Xen's p2m_flush_vm (xen/arch/arm/p2m.c) cleans under a read lock, drops it, then arms: a page that
another vCPU touches in between is forgotten. With ``flush="harvest"`` collecting and arming are one
step, and what was collected belongs to the domain until it is clean: whoever flushes next finishes
it first, and a page that goes before is cleaned first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from p2mfast._engine import P2M
from p2mfast.hypervisor.policy import Policy
from p2mfast.types import RUN_DTYPE

Runs = npt.NDArray[np.void]
"""Rows of :data:`~p2mfast.types.RUN_DTYPE`: gfn, mfn, nr."""

Cause = Literal["set-way", "cache-toggle"]

_Skip = Literal["path", "leaf", "none"]
_SKIPS: dict[str, _Skip] = {"all": "none", "leaf": "leaf", "path": "path", "harvest": "path"}

# Xen's units of work for a page cleaned (xen/arch/arm/p2m.c, p2m_cache_flush_range).
_WORK_PAGE = 10


class FlushRecord(NamedTuple):
    """One flush of a domain: who asked for it, why, and what was cleaned."""

    vcpu: int
    cause: Cause
    pages: int
    runs: Runs


def pages_of(runs: Runs) -> int:
    """How many pages the runs hold."""
    return int(runs["nr"].sum())


def cut(runs: Runs, gfn: int, nr: int) -> tuple[Runs, Runs]:
    """The parts of the runs inside [gfn, gfn + nr), and those outside."""
    first, last = runs["gfn"], runs["gfn"] + runs["nr"]
    start, end = np.uint64(gfn), np.uint64(gfn + nr)
    inside = _part(runs, np.clip(first, start, end), np.clip(last, start, end))
    below = _part(runs, first, np.minimum(last, start))
    above = _part(runs, np.maximum(first, end), last)
    return inside, np.concatenate([below, above])


def _part(runs: Runs, first: npt.NDArray[np.uint64], last: npt.NDArray[np.uint64]) -> Runs:
    some = first < last
    part = runs[some].copy()
    part["mfn"] += first[some] - part["gfn"]
    part["gfn"] = first[some]
    part["nr"] = last[some] - first[some]
    return part


def _head(runs: Runs, pages: int) -> tuple[Runs, Runs]:
    """The first ``pages`` pages of the runs, and the rest."""
    behind = np.cumsum(runs["nr"])
    at = int(np.searchsorted(behind, pages, side="right"))
    if at == len(runs):
        return runs, runs[:0]
    before = int(behind[at - 1]) if at else 0
    inside, rest = cut(runs[at : at + 1], int(runs["gfn"][at]), pages - before)
    return np.concatenate([runs[:at], inside]), np.concatenate([rest, runs[at + 1 :]])


class Flusher:
    """The flushes of one domain.

    Attributes
    ----------
    clean : callable or None
        Given each piece (runs) as it is cleaned: a simulator's cache goes here.
    should_preempt : callable or None
        Asked after each ``policy.budget`` of work; it does what waits, and returns whether
        something had waited.
    pages_cleaned_early : int
        Pages cleaned because they were about to go.
    preemptions : int
    """

    def __init__(self, p2m: P2M, policy: Policy, tracked: bool) -> None:
        self._p2m = p2m
        self._policy = policy
        self._tracked = tracked
        self._pending: deque[Runs] = deque()
        # Held while a piece is taken and cleaned: "nothing is pending" means "all is clean" then.
        # Re-entrant: what preempts a flush may flush, unmap or destroy.
        self._cleaning = threading.RLock()
        self.clean: Callable[[Runs], object] | None = None
        self.should_preempt: Callable[[], bool] | None = None
        self.pages_cleaned_early = 0
        self.preemptions = 0

    @property
    def pending_pages(self) -> int:
        """Collected and not yet clean."""
        with self._cleaning:
            return sum(map(pages_of, self._pending))

    def flush(self, vcpu: int, cause: Cause) -> FlushRecord:
        """Collect what the policy says, arm, and clean, for a vCPU that returns to its guest.

        When it returns, everything that any flush has collected so far is clean.
        """
        if self._policy.flush == "harvest" and self._tracked:
            with self._cleaning:
                runs = self._p2m.harvest().runs
                self._pending.append(runs)
            self._finish()
        else:
            runs = self._clean_then_arm()
        return FlushRecord(vcpu, cause, pages_of(runs), runs)

    def clean_before_change(self, gfn: int, nr: int) -> None:
        """These pages are about to be removed, remapped or freed: what was touched of them, or is
        pending, is cleaned first."""
        if not self._tracked:
            return
        with self._cleaning:
            parts = [self._p2m.cache_flush_range(gfn, gfn + nr).runs]
            for _ in range(len(self._pending)):
                inside, outside = cut(self._pending.popleft(), gfn, nr)
                parts.append(inside)
                self._pending.append(outside)
            runs = np.concatenate(parts)
            self._clean(runs)
            self.pages_cleaned_early += pages_of(runs)

    def _finish(self) -> None:
        """Clean everything that is pending, one budget after the other."""
        pages = max(self._policy.budget // _WORK_PAGE, 1)
        while True:
            with self._cleaning:
                if not self._pending:
                    return
                runs = self._pending.popleft()
                if self.should_preempt:
                    runs, rest = _head(runs, pages)
                    if len(rest):
                        self._pending.appendleft(rest)
                self._clean(runs)
            self.preemption_point()

    def _clean_then_arm(self) -> Runs:
        """As Xen does: what is touched in between is lost. (An untracked domain's harvest comes
        this way as well: there is nothing to arm.)"""
        end = 1 << (self._p2m.ipa_bits - 12)
        budget = self._policy.budget if self.should_preempt else None
        parts: list[Runs] = [np.empty(0, RUN_DTYPE)]
        at, done = 0, False
        while not done:
            part = self._p2m.cache_flush_range(at, end, _SKIPS[self._policy.flush], budget)
            at, done = part.next_gfn, part.done
            self._clean(part.runs)
            parts.append(part.runs)
            self.preemption_point()
        if self._tracked:
            self._p2m.invalidate_root()
        return np.concatenate(parts)

    def _clean(self, runs: Runs) -> None:
        if self.clean and len(runs):
            self.clean(runs)

    def preemption_point(self) -> None:
        """Let others have their turn."""
        if self.should_preempt and self.should_preempt():
            self.preemptions += 1
