"""Any sequence of operations: the engine and the plain-Python model give the same answers, raise
the same exceptions, and end with the same descriptors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import raw_tables
import xen_traces
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from model import ROOTS, Model

import p2mfast as pf

GIB = 1 << 18
BLOCK = 512

types = st.sampled_from([t for t in pf.P2MType if t])
accesses = st.sampled_from(pf.Access)
rights = st.sampled_from(["r", "w", "x", "rw", "rwx"])
offsets = st.integers(-3, 3) | st.sampled_from([-BLOCK, 8, 200, BLOCK - 1])
anchors = st.sampled_from([0, BLOCK, 3 * BLOCK, GIB - BLOCK, GIB, 2 * GIB])
page_counts = st.integers(0, 4) | st.sampled_from([100, BLOCK, BLOCK + 1, 2 * BLOCK])
block_counts = st.sampled_from([BLOCK, 3 * BLOCK, GIB, GIB + BLOCK, 2 * GIB])
orders = st.sampled_from([0, 0, 1, 4, 9, 10, 18])


def run_tuples(runs: np.ndarray) -> list[tuple[int, int, int]]:
    return [tuple(map(int, run)) for run in runs]


class Comparison(RuleBasedStateMachine):
    @initialize(
        ipa_bits=st.sampled_from(sorted(ROOTS)),
        pa_bits=st.sampled_from([36, 40, 48]),
        max_tables=st.none() | st.integers(0, 12),
    )
    def create(self, ipa_bits: int, pa_bits: int, max_tables: int | None) -> None:
        self.p2m = pf.P2M(ipa_bits, pa_bits=pa_bits, max_tables=max_tables)
        self.model = Model(ipa_bits, max_tables)
        self.top = self.model.limit
        self.pa_bits = pa_bits

    def gfn(self, anchor: int, offset: int, from_top: bool) -> int:
        return (self.top - anchor if from_top else anchor) + offset

    def both(self, real: Callable[[], object], model: Callable[[], object]) -> None:
        """The same answer or the same exception; a failure leaves everything as it was."""
        try:
            expected, failure = model(), None
        except (pf.P2MError, ValueError) as error:
            expected, failure = None, type(error)
        if failure is None:
            assert real() == expected
            return
        self.p2m.drain_events()
        before = (self.p2m.entries().tobytes(), self.p2m.stats)
        try:
            real()
        except failure as error:
            assert type(error) is failure
        else:
            raise AssertionError(f"the model raises {failure.__name__}")
        assert (self.p2m.entries().tobytes(), self.p2m.stats) == before
        assert self.p2m.drain_events().size == 0

    # ---- Updates ----

    def set_both(self, gfn: int, nr: int, mfn: int | None, how: tuple) -> None:
        if gfn < 0 or (self.model.mem_access and nr > 4 * BLOCK):  # in pages: the model takes long
            return
        self.both(
            lambda: self.p2m.set_entry(gfn, nr, mfn, *how),
            lambda: self.model.set_entry(gfn, nr, mfn, *map(int, how)),
        )

    @rule(
        anchor=anchors, offset=offsets, from_top=st.booleans(), nr=page_counts,
        mfn=st.none() | st.integers(0, 2 * BLOCK) | st.just(2**36 - BLOCK),
        how=st.tuples(types, accesses, st.booleans(), st.sampled_from([18, 18, 9, 0])),
    )  # fmt: skip
    def set_pages(self, anchor, offset, from_top, nr, mfn, how):
        self.set_both(self.gfn(anchor, offset, from_top), nr, mfn, how)

    @rule(
        anchor=anchors, from_top=st.booleans(), nr=block_counts,
        mfn=st.none() | st.sampled_from([0, GIB, 7 * BLOCK, 5 * GIB + BLOCK, 1 << 26]),
        how=st.tuples(types, accesses, st.booleans(), st.sampled_from([18, 18, 9])),
    )  # fmt: skip
    def set_blocks(self, anchor, from_top, nr, mfn, how):
        self.set_both(self.gfn(anchor, 0, from_top), nr, mfn, how)

    @rule(
        pages=st.lists(
            st.tuples(anchors, st.integers(0, 5), st.booleans(), st.none() | st.integers(0, 99)),
            max_size=12,
        ),
        type=types, access=accesses, armed=st.booleans(),
    )  # fmt: skip
    def set_entries(self, pages, type, access, armed):
        gfns = [self.gfn(anchor, offset, from_top) for anchor, offset, from_top, _ in pages]
        mfns = [mfn for *_, mfn in pages]
        self.both(
            lambda: self.p2m.set_entries(
                np.array(gfns, np.uint64),
                np.array([pf.INVALID_MFN if m is None else m for m in mfns], np.uint64),
                type, access, armed,
            ),
            lambda: self.model.set_entries(gfns, mfns, int(type), int(access), armed),
        )  # fmt: skip

    @rule(
        anchor=anchors, offset=offsets, from_top=st.booleans(), nr=page_counts, good=st.booleans()
    )
    def remove_mapping(self, anchor, offset, from_top, nr, good):
        gfn = self.gfn(anchor, offset, from_top)
        if not 0 <= gfn < self.top:
            return
        mfn = (self.model.get_entry(gfn).mfn if good else None) or 0
        self.both(
            lambda: self.p2m.remove_mapping(gfn, nr, mfn),
            lambda: self.model.remove_mapping(gfn, nr, mfn),
        )

    @rule(anchor=anchors, offset=offsets, from_top=st.booleans(), nr=page_counts, access=accesses)
    def set_mem_access(self, anchor, offset, from_top, nr, access):
        gfn = self.gfn(anchor, offset, from_top)
        if gfn < 0:
            return
        before = self.p2m.stats.tlb_flushes
        self.both(
            lambda: self.p2m.set_mem_access(gfn, nr, access),
            lambda: self.model.set_mem_access(gfn, nr, int(access)),
        )
        assert self.p2m.mem_access_enabled == self.model.mem_access
        # One a superpage that is shattered (three lie in such a range at the most, of two sizes),
        # and one for all rights.
        assert self.p2m.stats.tlb_flushes - before <= 7

    @rule(enabled=st.booleans())
    def enable_mem_access(self, enabled):
        self.p2m.enable_mem_access(enabled)
        self.model.mem_access = enabled

    @rule(budget=st.none() | st.sampled_from([0, 1, 7, 600]))
    def relinquish(self, budget):
        self.both(lambda: self.p2m.relinquish(budget), lambda: self.model.relinquish(budget))

    # ---- Tracking ----

    @rule()
    def invalidate_root(self):
        self.p2m.invalidate_root()
        self.model.invalidate_root()

    @rule(anchor=anchors, offset=offsets, from_top=st.booleans(), level=st.booleans(), order=orders)
    def resolve(self, anchor, offset, from_top, level, order):
        gfn = self.gfn(anchor, offset, from_top)
        if not 0 <= gfn < self.top:
            return
        before = self.p2m.stats.tlb_flushes
        self.both(
            lambda: self.p2m.resolve_translation_fault(gfn, "level" if level else "path", order),
            lambda: (self.model.resolve_level if level else self.model.resolve_path)(gfn, order),
        )
        assert level or self.p2m.stats.tlb_flushes == before

    @rule()
    def harvest(self):
        expected = raw_tables.coalesce(raw_tables.reachable_ram(self.p2m))
        found = self.model.flush(0, self.top, "path", None)[0]
        assert raw_tables.coalesce(found) == expected
        flush = self.p2m.harvest()
        assert run_tuples(flush.runs) == expected
        assert flush.pages == sum(nr for *_, nr in expected)
        assert raw_tables.reachable_ram(self.p2m) == []
        self.model.invalidate_root()

    @precondition(lambda self: self.p2m.max_mapped_gfn is not None)
    @rule(
        anchor=anchors, offset=offsets, from_top=st.booleans(), nr=st.integers(0, 3 * BLOCK),
        skip=st.sampled_from(["path", "leaf", "none"]),
        budget=st.none() | st.sampled_from([0, 1, 9, 11, 100, 512]),
    )  # fmt: skip
    def flush(self, anchor, offset, from_top, nr, skip, budget):
        start = self.gfn(anchor, offset, from_top)
        if not 0 <= start <= self.top:
            return
        while True:
            blocks, next_gfn, done = self.model.flush(start, start + nr, skip, budget)
            flush = self.p2m.cache_flush_range(start, start + nr, skip, budget)
            assert run_tuples(flush.runs) == raw_tables.coalesce(blocks)
            assert (flush.next_gfn, flush.done) == (next_gfn, done)
            nr -= next_gfn - start
            start = next_gfn
            if done:
                return

    # ---- Looking ----

    @rule(anchor=anchors, offset=offsets, from_top=st.booleans(), access=rights)
    def look(self, anchor, offset, from_top, access):
        gfn = self.gfn(anchor, offset, from_top)
        if gfn < 0:
            return
        if gfn < self.top:
            entry = self.model.get_entry(gfn)
            assert self.p2m.get_entry(gfn) == entry
            row = self.p2m.get_entries(np.array([gfn]))[0].item()
            blank = (pf.INVALID_MFN, 0, entry.order, False, False, 0xFF)
            assert row == (blank if entry.mfn is None else tuple(entry))
        ipa = (gfn << 12) + 0x123
        kind, level, pa = self.model.translate(ipa, access, self.pa_bits)
        many = self.p2m.translate_many([ipa], access)[0]
        assert (int(many["level"]), int(many["pa"])) == (level, pa)
        try:
            result = self.p2m.translate(ipa, access)
            assert (kind, level, pa) == ("ok", result.level, result.pa)
            assert many["fault"] == 0
        except pf.Stage2Fault as fault:
            assert (kind, level) == (fault.kind.name, fault.level)
            assert many["fault"] == fault.kind

    @rule()
    def compare_everything(self):
        p2m, model = self.p2m, self.model
        assert xen_traces.canonical_entries(p2m) == model.entries()
        assert list(p2m.stats.mappings) == model.mappings()
        assert list(p2m.stats.shattered) == model.shattered
        assert p2m.stats.tables == model.tables()
        assert (p2m.lowest_mapped_gfn, p2m.max_mapped_gfn) == (model.lowest, model.max)
        blocks = sorted(
            (gfn, leaf.mfn, 1 << 9 * (3 - level), leaf.type)
            for level, gfn, leaf in model.all_words()
            if hasattr(leaf, "mfn")
        )
        mapped = [tuple(map(int, run)) for run in p2m.mapped_runs()]
        for kind in {run[3] for run in mapped} | {block[3] for block in blocks}:
            of_kind = [run[:3] for run in mapped if run[3] == kind]
            assert of_kind == raw_tables.coalesce([b[:3] for b in blocks if b[3] == kind])

    def teardown(self):
        if hasattr(self, "p2m"):
            self.compare_everything()
            assert self.p2m.check() == []


Comparison.TestCase.settings = settings(
    max_examples=600,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestModel = Comparison.TestCase
