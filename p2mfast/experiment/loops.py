"""The engine's loops as the benchmarks run them, each beside the hardware's limit for it.

``names()`` lists them without making anything; ``build`` makes one, guest and all. The goals are
those that the engine was designed for: ratios to the limit, or nanoseconds where none is fair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from p2mfast import _limits, image
from p2mfast._engine import P2M
from p2mfast.hypervisor.host import Host
from p2mfast.types import INVALID_MFN

Words = npt.NDArray[np.uint64]

_GUESTS = {"cache": 1 << 15, "memory": 1 << 23}
"""Pages of a guest whose last tables (8 bytes a page) fit a core's cache, and do not."""

_TREES = {"cache": 1 << 15, "8 MiB": 1 << 20, "256 MiB": 1 << 25}
_LARGE_TREES = {"2 GiB": 1 << 28}
"""Pages, by the size of their tables."""

_MEMORIES = {"1 GiB": 1 << 18, "16 GiB": 1 << 22, "64 GiB": 1 << 24}
_LARGE_MEMORIES = {"256 GiB": 1 << 26, "1 TiB": 1 << 28}
"""Pages, by the size of the guest."""

_BATCH = 1 << 16
_TOUCHED = 1000


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Goal:
    """What a unit may cost: ``ratio`` times the limit, ``ns`` nanoseconds, or ``over`` nanoseconds
    above the limit. None of them: the figure speaks for itself."""

    ratio: float | None = None
    ns: float | None = None
    over: float | None = None

    def reached(self, ns: float, limit_ns: float, ratio: float) -> bool:
        """Whether these medians meet it."""
        if self.ratio is not None:
            return ratio <= self.ratio
        if self.over is not None:
            return ns <= limit_ns + self.over
        return self.ns is None or ns <= self.ns

    def __str__(self) -> str:
        if self.ratio is not None:
            return f"{self.ratio:.2f}x"
        if self.over is not None:
            return f"+{self.over:g} ns"
        if self.ns is None:
            return ""
        return f"{self.ns:g} ns" if self.ns < 1000 else f"{self.ns / 1000:g} µs"


@dataclass(frozen=True)
class Case:
    """A loop and its limit. ``work`` does ``units`` of it after ``prepare``; ``limit`` does
    ``limit_units`` of what it is held against; ``right`` says whether the work did what it should.
    """

    unit: str
    units: int
    work: Callable[[], object]
    limit_name: str
    limit_units: int
    limit: Callable[[], object]
    goal: Goal = Goal()
    prepare: Callable[[], object] = _nothing
    right: Callable[[], bool] = lambda: True
    rounds: int = 9


_Maker = Callable[[int], Case]
_LOOPS: dict[tuple[str, str], tuple[_Maker, int]] = {}
_LARGE: set[tuple[str, str]] = set()


def _loop(
    name: str, sizes: dict[str, int], large: dict[str, int] | None = None
) -> Callable[[_Maker], _Maker]:
    """Enter a loop under its name, once for each size."""

    def enter(maker: _Maker) -> _Maker:
        for size, pages in {**sizes, **(large or {})}.items():
            _LOOPS[name, size] = maker, pages
        _LARGE.update((name, size) for size in large or {})
        return maker

    return enter


def names(large: bool = False) -> list[tuple[str, str]]:
    """(name, size) of every loop; ``large`` adds those that take several GiB of memory."""
    return [key for key in _LOOPS if large or key not in _LARGE]


def build(name: str, size: str) -> Case:
    """Make one, with its guest. Raises KeyError for a loop that does not exist."""
    maker, pages = _LOOPS[name, size]
    return maker(pages)


# ---- What they are made of ----


def _guest(pages: int) -> P2M:
    p2m = P2M(40)
    p2m.set_entry(0, pages, 1)
    return p2m


def _random(pages: int, n: int) -> Words:
    return np.random.default_rng(7).integers(0, pages, n, dtype=np.uint64)


def _words(n: int) -> Words:
    return np.ones(n, np.uint64)


def _memset(words: Words) -> Callable[[], None]:
    return partial(_limits.memset, words, 1)


def _read(words: Words) -> Callable[[], int]:
    return partial(_limits.read_sum, words)


def _repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    """Results are thrown away one by one: a list of them would measure the garbage collector."""

    def loop() -> None:
        for _ in range(times):
            call()

    return loop


def _in_turn(calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
    def run() -> None:
        for call in calls:
            call()

    return run


# ---- Updates ----


@_loop("map a range", _GUESTS)
def _map_a_range(pages: int) -> Case:
    p2m = _guest(pages)
    return Case(
        "page", pages, lambda: p2m.set_entry(0, pages, 1),
        "memset", pages, _memset(_words(pages)), Goal(ratio=1.25),
        prepare=lambda: p2m.set_entry(0, pages, None),
        right=lambda: p2m.stats.mappings[3] == pages,
    )  # fmt: skip


@_loop("map into fresh tables", {"memory": _GUESTS["memory"]})
def _map_fresh(pages: int) -> Case:
    fresh: list[P2M] = []
    memory: list[_limits.HugePages] = []

    def prepare() -> None:
        fresh[:] = [P2M(40)]
        memory[:] = [_limits.HugePages(8 * pages)]

    def write() -> None:
        memory[0].write()

    return Case(
        "table", pages // 512, lambda: fresh[0].set_entry(0, pages, 1),
        "huge pages", pages // 512, write, Goal(ratio=1.2),
        prepare=prepare, right=lambda: fresh[0].stats.mappings[3] == pages,
    )  # fmt: skip


@_loop("map scattered pages", _GUESTS)
def _map_scattered(pages: int) -> Case:
    p2m, words = _guest(pages), _words(pages)
    gfns = np.unique(_random(pages, _BATCH // 2))
    np.random.default_rng(8).shuffle(gfns)
    holes = np.full(gfns.size, INVALID_MFN, np.uint64)

    def clear() -> None:
        p2m.set_entries(gfns, holes)
        p2m.drain_events()

    return Case(
        "page", gfns.size, lambda: p2m.set_entries(gfns, gfns),
        "prefetched", gfns.size, lambda: _limits.prefetched_loads(words, gfns), Goal(ns=10),
        prepare=clear, right=lambda: bool((p2m.get_entries(gfns)["mfn"] == gfns).all()),
    )  # fmt: skip


@_loop("map blocks of 2 MiB", {"cache": 1 << 14})
def _map_blocks(blocks: int) -> Case:
    p2m = P2M(40)
    return Case(
        "block", blocks, lambda: p2m.set_entry(0, blocks * 512, 0, max_order=9),
        "memset", blocks, _memset(_words(blocks)),
        prepare=lambda: p2m.set_entry(0, blocks * 512, None),
        right=lambda: p2m.stats.mappings[2] == blocks,
    )  # fmt: skip


@_loop("remap a range", {"cache": _GUESTS["cache"]})
def _remap(pages: int) -> Case:
    p2m = _guest(pages)
    return Case(
        "page", 2 * pages,
        _in_turn([partial(p2m.set_entry, 0, pages, mfn) for mfn in (2, 1)]),
        "memset", pages, _memset(_words(pages)), prepare=p2m.drain_events,
        right=lambda: p2m.get_entry(0).mfn == 1 and p2m.stats.mappings[3] == pages,
    )  # fmt: skip


@_loop("shatter 2 MiB", {"cache": 512})
def _shatter(blocks: int) -> Case:
    p2m = P2M(40)
    gfns = np.arange(blocks, dtype=np.uint64) * np.uint64(512)

    def whole() -> None:
        p2m.set_entry(0, blocks * 512, 0, max_order=9)
        p2m.drain_events()

    return Case(
        "block", blocks, lambda: p2m.set_entries(gfns, gfns),
        "memset", blocks, _memset(_words(512 * blocks)), Goal(ns=300), prepare=whole,
        right=lambda: p2m.stats.mappings[3] == blocks * 512,
    )  # fmt: skip


@_loop("unmap a range", _GUESTS)
def _unmap(pages: int) -> Case:
    p2m = _guest(pages)
    return Case(
        "page", pages, lambda: p2m.set_entry(0, pages, None),
        "read", pages, _read(_words(pages)), Goal(ns=0.5),
        prepare=lambda: p2m.set_entry(0, pages, 1), right=lambda: p2m.stats.mappings[3] == 0,
    )  # fmt: skip


@_loop("relinquish", _GUESTS)
def _relinquish(pages: int) -> Case:
    p2m = _guest(pages)
    return Case(
        "page", pages, p2m.relinquish, "memset", pages, _memset(_words(pages)), Goal(ns=0.5),
        prepare=lambda: p2m.set_entry(0, pages, 1), right=lambda: p2m.stats.mappings[3] == 0,
    )  # fmt: skip


@_loop("create and destroy", {"cache": 100})
def _create(times: int) -> Case:
    return Case(
        "P2M", times, _repeat(partial(P2M, 40), times),
        "mmap, munmap", times, _repeat(partial(_limits.map_and_unmap, 2 << 30), times),
        Goal(ns=40_000),
    )  # fmt: skip


# ---- Look-ups ----


@_loop("look up, random", _TREES, _LARGE_TREES)
def _look_up(pages: int) -> Case:
    p2m, words, gfns = _guest(pages), _words(pages), _random(pages, _BATCH)
    entries = p2m.get_entries(gfns)
    return Case(
        "page", _BATCH, lambda: p2m.get_entries(gfns, out=entries),
        "prefetched", _BATCH, lambda: _limits.prefetched_loads(words, gfns), Goal(ratio=1.7),
        right=lambda: bool((entries["mfn"] == gfns + np.uint64(1)).all()),
    )  # fmt: skip


@_loop("translate, random", _TREES, _LARGE_TREES)
def _translate(pages: int) -> Case:
    p2m, words, gfns = _guest(pages), _words(pages), _random(pages, _BATCH)
    ipas = gfns << np.uint64(12)
    results = p2m.translate_many(ipas)
    return Case(
        "page", _BATCH, lambda: p2m.translate_many(ipas, out=results),
        "prefetched", _BATCH, lambda: _limits.prefetched_loads(words, gfns), Goal(ratio=1.7),
        right=lambda: bool((results["pa"] == ipas + np.uint64(4096)).all()),
    )  # fmt: skip


@_loop("look up, in order", _GUESTS)
def _look_up_in_order(pages: int) -> Case:
    p2m, words, gfns = _guest(pages), _words(pages), np.arange(pages, dtype=np.uint64)
    entries = p2m.get_entries(gfns)
    return Case(
        "page", pages, lambda: p2m.get_entries(gfns, out=entries),
        "read", pages, _read(words),
        right=lambda: bool((entries["mfn"] == gfns + np.uint64(1)).all()),
    )  # fmt: skip


@_loop("look up, two threads", {"memory": _GUESTS["memory"]})
def _look_up_in_threads(pages: int) -> Case:
    """Two threads at it at once against one: half of one's time a page is perfect."""
    p2m, n = _guest(pages), 1 << 19
    batches = [_random(pages, n), _random(pages, n)[::-1].copy()]
    entries = [p2m.get_entries(gfns) for gfns in batches]
    pool = ThreadPoolExecutor(2)

    def look_up(i: int) -> None:
        p2m.get_entries(batches[i], out=entries[i])

    return Case(
        "page", 2 * n, lambda: list(pool.map(look_up, (0, 1))),
        "one thread", n, lambda: list(pool.map(look_up, (0,))), Goal(ratio=1 / 1.8),
        right=lambda: bool((entries[1]["mfn"] == batches[1] + np.uint64(1)).all()),
    )  # fmt: skip


@_loop("one look-up, C", _GUESTS)
def _look_up_from_c(pages: int) -> Case:
    """Each waits for the one before, as a walk of the bare tables would."""
    p2m, gfns = _guest(pages), _random(pages, _BATCH // 4)
    tables, base = p2m.tables, p2m.table_base_mfn
    return Case(
        "page", gfns.size, lambda: _limits.lookups(p2m, gfns),
        "bare walk", gfns.size, lambda: _limits.bare_walks(tables, base, gfns),
        Goal(ratio=1.1), right=lambda: _limits.lookups(p2m, gfns) == int(gfns[-1]) + 1,
    )  # fmt: skip


@_loop("one look-up, Python", {"cache": _GUESTS["cache"]})
def _look_up_from_python(pages: int) -> Case:
    p2m, empty, times = _guest(pages), _limits.Empty(), 10_000
    return Case(
        "call", times, _repeat(partial(p2m.get_entry, 12345), times),
        "empty method", times, _repeat(partial(empty.method, 12345), times), Goal(ratio=2),
        right=lambda: p2m.get_entry(12345).mfn == 12346,
    )  # fmt: skip


@_loop("16 look-ups, Python", {"cache": _GUESTS["cache"]})
def _look_up_16(pages: int) -> Case:
    p2m, gfns, times = _guest(pages), _random(pages, 16), 1000
    entries = p2m.get_entries(gfns)
    from_c = np.tile(gfns, times)
    return Case(
        "batch", times, _repeat(partial(p2m.get_entries, gfns, out=entries), times),
        "16 from C", times, lambda: _limits.lookups(p2m, from_c), Goal(over=300),
        right=lambda: bool((entries["mfn"] == gfns + np.uint64(1)).all()),
    )  # fmt: skip


# ---- Tracking ----


@_loop("scan reachable RAM", _GUESTS)
def _scan(pages: int) -> Case:
    p2m = _guest(pages)
    return Case(
        "page", pages, lambda: p2m.cache_flush_range(0, pages),
        "read", pages, _read(_words(pages)),
        Goal(ratio=1.67 if pages == _GUESTS["cache"] else 1.11),
        right=lambda: p2m.cache_flush_range(0, pages).pages == pages,
    )  # fmt: skip


@_loop("invalidate a root", {"cache": _GUESTS["cache"]})
def _invalidate(pages: int) -> Case:
    p2m, times = _guest(pages), 1000
    return Case(
        "table", p2m.root_pages * times, _repeat(p2m.invalidate_root, times),
        "memset", times, _repeat(_memset(_words(512)), times), Goal(ratio=1.2),
        prepare=p2m.drain_events, right=lambda: p2m.cache_flush_range(0, pages).pages == 0,
    )  # fmt: skip


@_loop("resolve a first touch", _GUESTS)
def _resolve(pages: int) -> Case:
    p2m, gfns = _guest(pages), _random(pages, _BATCH // 16)
    chain, order = _words(pages), np.random.default_rng(9).permutation(pages).astype(np.uint64)
    chain[order] = np.roll(order, -1)
    tables = _words(512 * np.unique(gfns // 512).size)
    return Case(
        "page", gfns.size, lambda: p2m.resolve_translation_faults(gfns),
        "load, tables", gfns.size,
        _in_turn([partial(_limits.dependent_loads, chain, gfns.size), _memset(tables)]),
        Goal(ratio=1.5), prepare=p2m.invalidate_root,
        right=lambda: p2m.cache_flush_range(0, pages).pages == np.unique(gfns).size,
    )  # fmt: skip


def _touch(pages: int) -> tuple[P2M, Callable[[], object]]:
    """An armed guest, and what touches 1,000 pages all over it."""
    p2m = _guest(pages)
    p2m.invalidate_root()
    spread = np.linspace(0, pages - 1, _TOUCHED).astype(np.uint64)
    return p2m, partial(p2m.resolve_translation_faults, spread)


@_loop("harvest 1,000 pages", _MEMORIES, _LARGE_MEMORIES)
def _harvest(pages: int) -> Case:
    p2m, touch = _touch(pages)
    return Case(
        "harvest", 1, p2m.harvest,
        "tables read", 1, _read(_words(min(_TOUCHED * 512, pages))),
        prepare=touch, right=lambda: (touch(), p2m.harvest().pages)[1] == _TOUCHED,
    )  # fmt: skip


@_loop("flush 1,000 pages", _MEMORIES, _LARGE_MEMORIES)
def _flush(pages: int) -> Case:
    p2m, touch = _touch(pages)
    touch()
    return Case(
        "flush", 1, lambda: p2m.cache_flush_range(0, pages),
        "tables read", 1, _read(_words(min(_TOUCHED * 512, pages))),
        right=lambda: p2m.cache_flush_range(0, pages).pages == _TOUCHED,
    )  # fmt: skip


# ---- Images ----


@_loop("inspect tables", {"128 GiB": 1 << 25})
def _inspect(pages: int) -> Case:
    """All that `p2mfast inspect` says of a guest in 4 KiB pages, 1 % of them touched."""
    p2m = P2M(40)
    p2m.set_entry(0, pages, 1, max_order=0)
    p2m.invalidate_root()
    p2m.resolve_translation_faults(_random(pages, pages // 100))
    directory = TemporaryDirectory()
    file = Path(directory.name) / "tables.bin"
    image.save(p2m, file)
    words = np.empty(file.stat().st_size // 8, np.uint64)

    def inspect() -> int:
        loaded = image.load(Path(directory.name) / "tables.bin")  # keeps the directory
        loaded.ranges(), loaded.totals(), loaded.findings()
        return int(loaded.mapped_runs()["nr"].sum())

    def read() -> None:
        with file.open("rb", buffering=0) as opened:
            opened.readinto(words.data)

    return Case(
        "tables", 1, inspect, "file read", 1, read, Goal(ratio=3), right=lambda: inspect() == pages
    )


# ---- Inside Unicorn, where it is installed ----


@_loop("fill a TLB, Unicorn", {"4 KiB": 0, "2 MiB": 9} if find_spec("unicorn") else {})
def _fill_tlb(order: int) -> Case:
    from p2mfast.experiment import unicorn_loops  # noqa: PLC0415  # an extra

    return unicorn_loops.fill(order)


@_loop("fill a TLB, Python", {"4 KiB": 0} if find_spec("unicorn") else {})
def _fill_tlb_from_python(order: int) -> Case:
    from p2mfast.experiment import unicorn_loops  # noqa: PLC0415  # an extra

    return unicorn_loops.fill_from_python(order)


# ---- Scale ----


@_loop("a guest's whole life", {}, {"1 TiB": 1 << 28})
def _whole_life(pages: int) -> Case:
    """Mapped in 4 KiB pages, armed, touched at 1 %, harvested, destroyed."""
    touched = np.unique(_random(pages, pages // 100))
    seen: list[int] = []

    def live() -> None:
        p2m = P2M(40)
        p2m.set_entry(0, pages, 0, max_order=0)
        p2m.invalidate_root()
        p2m.resolve_translation_faults(touched)
        seen.append(p2m.harvest().pages)

    return Case(
        "page", pages, live, "huge pages", pages,
        lambda: _limits.HugePages(8 * pages).write(),
        right=lambda: seen[-1] == touched.size, rounds=1,
    )  # fmt: skip


@_loop("4,000 domains", {}, {"256 MiB": 4000})
def _many_domains(number: int) -> Case:
    """Created, populated with 4 KiB pages and destroyed, all there at once."""
    pages = 256 << 8
    seen: list[int] = []

    def live() -> None:
        host = Host(number * pages * 4096, vmid_bits=16)
        domains = [host.create_domain("256MiB", page_order=0) for _ in range(number)]
        seen.append(sum(domain.p2m.stats.mappings[3] for domain in domains))
        for domain in domains:
            domain.destroy()

    return Case(
        "domain", number, live, "huge pages", number,
        lambda: _limits.HugePages(8 * number * pages).write(),
        right=lambda: seen[-1] == number * pages, rounds=1,
    )  # fmt: skip
