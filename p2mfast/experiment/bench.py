"""How fast the engine's loops are, as ratios to what the hardware can do at best.

Each case times the loop and its limit alternately in one process, and takes medians: the machine's
speed drifts, the ratio does not. Goals are ratios, or nanoseconds where no limit is a fair one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from p2mfast import _limits
from p2mfast._engine import P2M
from p2mfast.types import INVALID_MFN

JSON_VERSION = 1
SIZES = {"cache": 1 << 15, "memory": 1 << 23}
"""Pages of a guest whose last tables (8 bytes a page) fit a core's cache, and do not."""

_ROUNDS = 9
_BATCH = 1 << 16

Words = npt.NDArray[np.uint64]


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Case:
    """A loop and its limit. ``work`` does ``units`` of it after ``prepare``; ``limit`` does
    ``limit_units`` of what it is held against."""

    name: str
    size: str
    unit: str
    units: int
    work: Callable[[], object]
    limit_name: str
    limit_units: int
    limit: Callable[[], object]
    goal_ratio: float | None = None
    goal_ns: float | None = None
    prepare: Callable[[], object] = _nothing


@dataclass(frozen=True)
class Result:
    """Medians of the interleaved rounds, in nanoseconds a unit."""

    case: Case
    ns: float
    limit_ns: float
    ratio: float

    @property
    def reached(self) -> bool:
        """Whether the goal is; true where there is none."""
        if self.case.goal_ratio is not None:
            return self.ratio <= self.case.goal_ratio
        return self.case.goal_ns is None or self.ns <= self.case.goal_ns

    def to_json(self) -> dict[str, Any]:
        """One of the JSON's ``results``."""
        case = self.case
        return {
            "name": case.name,
            "size": case.size,
            "unit": case.unit,
            "ns": self.ns,
            "limit": case.limit_name,
            "limit_ns": self.limit_ns,
            "ratio": self.ratio,
            "goal_ratio": case.goal_ratio,
            "goal_ns": case.goal_ns,
            "reached": self.reached,
        }


def measure(case: Case, rounds: int = _ROUNDS) -> Result:
    """Time the loop and its limit in turn; the ratio is the median of the rounds' own."""
    samples = []
    for number in range(rounds + 1):
        case.prepare()
        work = _time(case.work) / case.units
        limit = _time(case.limit) / case.limit_units
        if number:  # the first one warms up
            samples.append((work, limit, work / limit))
    ns, limit_ns, ratio = (median(column) for column in zip(*samples, strict=True))
    return Result(case, ns, limit_ns, ratio)


def _time(work: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - started


def to_json(results: list[Result], engine: str) -> dict[str, Any]:
    """All results; ``engine`` names the vector loops."""
    return {
        "version": JSON_VERSION,
        "vector_loops": engine,
        "results": [result.to_json() for result in results],
    }


# ---- The cases ----


def cases() -> Iterator[Case]:
    """Every loop, in and out of the cache. Each case is made just before it is measured, so that
    only one guest is in memory at a time."""
    for size, pages in SIZES.items():
        yield from _update_cases(size, pages)
        yield from _lookup_cases(size, pages)
        yield from _scan_cases(size, pages)
    yield from _single_cases()


def _guest(pages: int) -> P2M:
    p2m = P2M(40)
    p2m.set_entry(0, pages, 1)
    return p2m


def _random(pages: int, n: int) -> Words:
    return np.random.default_rng(7).integers(0, pages, n, dtype=np.uint64)


def _words(n: int) -> Words:
    return np.ones(n, np.uint64)


def _update_cases(size: str, pages: int) -> Iterator[Case]:
    p2m, words = _guest(pages), _words(pages)

    def memset() -> None:
        _limits.memset(words, 1)

    yield Case(
        "map a range", size, "page", pages, lambda: p2m.set_entry(0, pages, 1), "memset", pages,
        memset, goal_ratio=1.25, prepare=lambda: p2m.set_entry(0, pages, None),
    )  # fmt: skip
    yield Case(
        "unmap a range", size, "page", pages, lambda: p2m.set_entry(0, pages, None),
        "streaming read", pages, lambda: _limits.read_sum(words), goal_ns=0.5,
        prepare=lambda: p2m.set_entry(0, pages, 1),
    )  # fmt: skip
    yield Case(
        "relinquish", size, "page", pages, p2m.relinquish, "memset", pages, memset, goal_ns=0.5,
        prepare=lambda: p2m.set_entry(0, pages, 1),
    )  # fmt: skip
    gfns = np.unique(_random(pages, _BATCH // 2))
    np.random.default_rng(8).shuffle(gfns)
    holes = np.full(gfns.size, INVALID_MFN, np.uint64)
    p2m.set_entry(0, pages, 1)

    def clear() -> None:
        p2m.set_entries(gfns, holes)
        p2m.drain_events()

    yield Case(
        "map scattered pages", size, "page", gfns.size, lambda: p2m.set_entries(gfns, gfns),
        "prefetched loads", gfns.size, lambda: _limits.prefetched_loads(words, gfns), goal_ns=10,
        prepare=clear,
    )  # fmt: skip


def _lookup_cases(size: str, pages: int) -> Iterator[Case]:
    p2m, words, gfns = _guest(pages), _words(pages), _random(pages, _BATCH)
    ipas = gfns << np.uint64(12)
    entries, translations = p2m.get_entries(gfns), p2m.translate_many(ipas)

    def loads() -> None:
        _limits.prefetched_loads(words, gfns)

    yield Case(
        "look up, random", size, "page", _BATCH, lambda: p2m.get_entries(gfns, out=entries),
        "prefetched loads", _BATCH, loads, goal_ratio=1.7,
    )  # fmt: skip
    yield Case(
        "translate, random", size, "page", _BATCH,
        lambda: p2m.translate_many(ipas, out=translations), "prefetched loads", _BATCH, loads,
        goal_ratio=1.7,
    )  # fmt: skip


def _scan_cases(size: str, pages: int) -> Iterator[Case]:
    p2m, words = _guest(pages), _words(pages)
    yield Case(
        "scan for reachable RAM", size, "page", pages, lambda: p2m.cache_flush_range(0, pages),
        "streaming read", pages, lambda: _limits.read_sum(words),
        goal_ratio=1.11 if size == "memory" else 1.67,
    )  # fmt: skip
    p2m.invalidate_root()
    gfns = _random(pages, _BATCH // 16)
    chain = _words(pages)
    order = np.random.default_rng(9).permutation(pages).astype(np.uint64)
    chain[order] = np.roll(order, -1)
    tables = min(gfns.size, pages // 512)
    table = _words(512 * tables)

    def limit() -> None:
        _limits.dependent_loads(chain, gfns.size)
        _limits.memset(table, 1)

    yield Case(
        "resolve a first touch", size, "page", gfns.size,
        lambda: p2m.resolve_translation_faults(gfns), "dependent load + tables", gfns.size, limit,
        goal_ratio=1.5, prepare=p2m.invalidate_root,
    )  # fmt: skip


def _repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    """Results are thrown away one by one: a list of them would measure the garbage collector."""

    def loop() -> None:
        for _ in range(times):
            call()

    return loop


def _single_cases() -> Iterator[Case]:
    p2m, empty = _guest(SIZES["cache"]), _limits.Empty()
    yield Case(
        "one look-up from Python", "cache", "call", 10_000,
        _repeat(partial(p2m.get_entry, 12345), 10_000), "an empty C method", 10_000,
        _repeat(partial(empty.method, 12345), 10_000), goal_ratio=2,
    )  # fmt: skip
    table = _words(512)
    yield Case(
        "invalidate a root table", "cache", "table", 2 * 1000,
        _repeat(p2m.invalidate_root, 1000), "memset", 1000,
        _repeat(partial(_limits.memset, table, 1), 1000), goal_ratio=1.2,
        prepare=p2m.drain_events,
    )  # fmt: skip
    blocks = 512
    superpages, words = P2M(40), _words(512 * blocks)
    gfns = np.arange(blocks, dtype=np.uint64) * np.uint64(512)

    def whole() -> None:
        superpages.set_entry(0, blocks * 512, 0, max_order=9)
        superpages.drain_events()

    yield Case(
        "shatter 2 MiB", "cache", "block", blocks, lambda: superpages.set_entries(gfns, gfns),
        "memset of a table", blocks, lambda: _limits.memset(words, 1), goal_ns=300, prepare=whole,
    )  # fmt: skip
    guest = P2M(40)
    guest.set_entry(0, 1 << 24, 1)
    spread = np.linspace(0, (1 << 24) - 1, 1000).astype(np.uint64)
    tables = _words(1000 * 512)
    yield Case(
        "harvest 1,000 of 16 Mi pages", "memory", "touched", 1000, guest.harvest,
        "streaming read of a table", 1000, lambda: _limits.read_sum(tables),
        prepare=lambda: guest.resolve_translation_faults(spread),
    )  # fmt: skip
