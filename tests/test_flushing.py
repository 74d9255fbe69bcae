"""Flushes that lose nothing: what is collected is cleaned, whoever touches, unmaps or destroys in
between; and Xen's order, which forgets."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import p2mfast as pf
from p2mfast.hypervisor.flushing import cut, pages_of
from p2mfast.hypervisor.policy import Policy
from p2mfast.types import RUN_DTYPE

RAM = 1 << 30
GFN = RAM >> 12


class DirtyCache:
    """The pages of a guest with lines in a data cache: a write makes one dirty, a clean by MFN
    writes it back."""

    def __init__(self, domain: pf.Domain) -> None:
        self.domain = domain
        runs = domain.p2m.mapped_runs()
        self.first = int(runs["gfn"].min())
        self.mfn_to_page = {
            int(run["mfn"]) + i: int(run["gfn"]) + i - self.first
            for run in runs
            for i in range(int(run["nr"]))
        }
        self.dirty = np.zeros(len(self.mfn_to_page), bool)
        domain.clean = self.clean
        self.takes = 0.0

    def write(self, vcpu: pf.VCpu, pages: np.ndarray) -> None:
        # Dirty first: a flush in between would otherwise clean what is dirty only afterwards.
        self.dirty[pages] = True
        vcpu.access_many((pages.astype(np.uint64) + np.uint64(self.first)) << np.uint64(12), "w")

    def clean(self, runs: np.ndarray) -> None:
        for run in runs:
            page = self.mfn_to_page[int(run["mfn"])]
            self.dirty[page : page + int(run["nr"])] = False
        time.sleep(self.takes)

    def forgotten(self) -> np.ndarray:
        """Dirty, and no later flush would clean them: they are not reachable."""
        gfns = np.arange(self.dirty.size, dtype=np.uint64) + np.uint64(self.first)
        reachable = self.domain.p2m.get_entries(gfns)["reachable"]
        return np.flatnonzero(self.dirty & ~reachable)


def running(policy: str, memory: str = "8MiB", vcpus: int = 2) -> pf.Domain:
    domain = pf.Host("1GiB").create_domain(
        memory, vcpus=vcpus, bits=32, policy=Policy.parse(policy), page_order=0
    )
    domain.unpause()
    return domain


@pytest.mark.parametrize(
    ("policy", "forgets"),
    [
        ("flush=harvest", False),
        ("flush=path", True),
        ("flush=leaf", True),
        ("flush=all", True),
    ],
)
def test_a_page_touched_during_the_flush(policy: str, forgets: bool) -> None:
    """Xen: p2m_flush_vm cleans, then p2m_invalidate_root arms; what another vCPU touches in between
    is forgotten. Harvested: it is in the next flush."""
    domain = running(f"arm=creation-finished,{policy}")
    cache = DirtyCache(domain)
    flushing, other = domain.vcpus
    cache.write(flushing, np.arange(5))

    def touch() -> bool:
        domain.should_preempt = None
        cache.write(other, np.array([3, 1000]))
        return True

    domain.should_preempt = touch
    flushing.set_way()
    flushing.return_to_guest()
    assert (cache.forgotten().size > 0) == forgets
    other.set_way()
    flushed = other.return_to_guest()
    if not forgets:
        assert {3, 1000} <= {
            int(run["gfn"]) + i - GFN for run in flushed.runs for i in range(run["nr"])
        }
        assert not cache.dirty.any()


def test_another_vcpus_flush_finishes_what_is_pending() -> None:
    """Collected and not yet clean: the second vCPU may not return to its guest before it is."""
    domain = running("arm=creation-finished,budget=10")
    cache = DirtyCache(domain)
    first, second = domain.vcpus
    cache.write(first, np.arange(0, 100, 2))
    seen: list[int] = []

    def let_the_other_flush() -> bool:
        domain.should_preempt = None
        seen.append(domain.pending_pages)
        cache.write(second, np.array([1, 3]))
        second.set_way()
        assert second.return_to_guest().pages == 2
        seen.append(domain.pending_pages)
        assert not cache.dirty.any()
        return True

    domain.should_preempt = let_the_other_flush
    first.set_way()
    assert first.return_to_guest().pages == 50
    assert seen == [49, 0]
    assert domain.stats.pages_cleaned == 52
    assert domain.stats.preemptions == 1


@pytest.mark.parametrize("when", ["touched", "pending"])
@pytest.mark.parametrize("how", ["unmap", "destroy"])
def test_a_page_that_goes_is_cleaned_first(when: str, how: str) -> None:
    domain = running("arm=creation-finished,budget=10")
    cache = DirtyCache(domain)
    vcpu = domain.vcpus[0]
    cache.write(vcpu, np.arange(0, 20, 2))

    def go() -> bool:
        domain.should_preempt = None
        if how == "unmap":
            domain.unmap(GFN, 16)
            assert not cache.dirty[:16].any()
        else:
            domain.destroy()
            assert not cache.dirty.any()
        return True

    if when == "pending":
        domain.should_preempt = go
        vcpu.set_way()
        vcpu.return_to_guest()
    else:
        go()
    assert domain.stats.pages_cleaned_early == {
        ("touched", "unmap"): 8, ("touched", "destroy"): 10,
        ("pending", "unmap"): 7, ("pending", "destroy"): 9,  # one was clean already
    }[when, how]  # fmt: skip
    assert not cache.dirty.any() or (when, how) == ("touched", "unmap")


def test_an_unmapped_page_is_the_hosts_again() -> None:
    host = pf.Host("64MiB")
    domain = host.create_domain("8MiB", page_order=0)
    free = host.free_frames
    domain.unmap(GFN + 100, 56)
    assert host.free_frames == free + 56
    assert sum(nr for _, nr in domain.extents) == 2048 - 56
    assert domain.p2m.get_entry(GFN + 100).mfn is None
    domain.populate(GFN + 100, 56)
    domain.destroy()
    assert host.free_frames == 64 << 8


def test_two_vcpus_and_a_million_accesses_lose_nothing() -> None:
    """A thread each, flushing now and then; what is dirty at the end is reachable, or there is a
    flush that forgot it."""
    domain = running("arm=creation-finished,fault_around=2", memory="64MiB")
    cache = DirtyCache(domain)
    cache.takes = 0.001  # the time in which Xen's order forgets what the other vCPU touches
    failures: list[BaseException] = []

    def run(vcpu: pf.VCpu) -> None:
        rng = np.random.default_rng(vcpu.index)
        try:
            for step in range(250):
                # Few pages at a time: what was forgotten is not soon touched again.
                window = int(rng.integers(0, cache.dirty.size - 40))
                cache.write(vcpu, window + rng.integers(0, 40, 2000))
                if step % 7 == vcpu.index:
                    vcpu.set_way()
                    vcpu.return_to_guest()
                    vcpu.write_sysreg("SCTLR_EL1", 0b101 * (step & 1))
                    vcpu.return_to_guest()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(vcpu,)) for vcpu in domain.vcpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert domain.stats.flushes > 70
    assert domain.pending_pages == 0
    assert cache.forgotten().size == 0
    domain.flush(0, "set-way")
    assert not cache.dirty.any()
    assert domain.p2m.check() == []


def test_cutting_runs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        starts = np.sort(rng.choice(60, 6, replace=False)) * 10
        runs = np.zeros(6, RUN_DTYPE)
        runs["gfn"], runs["mfn"] = starts, rng.integers(1000, 9000, 6)
        runs["nr"] = rng.integers(1, 11, 6)
        gfn, nr = int(rng.integers(0, 600)), int(rng.integers(0, 200))
        inside, outside = cut(runs, gfn, nr)

        def pages(some: np.ndarray) -> dict[int, int]:
            return {
                int(run["gfn"]) + i: int(run["mfn"]) + i for run in some for i in range(run["nr"])
            }

        everything = pages(runs)
        assert pages(inside) == {g: m for g, m in everything.items() if gfn <= g < gfn + nr}
        assert pages(outside) == {g: m for g, m in everything.items() if not gfn <= g < gfn + nr}
        assert pages_of(inside) + pages_of(outside) == len(everything)
