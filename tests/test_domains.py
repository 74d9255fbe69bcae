"""Domains among others: foreign and granted pages, dom0, the table pool, destruction in pieces,
what a domain shows, and policies from files; each rule of Xen's is named where it is tested."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import p2mfast as pf
from p2mfast.errors import DomainStateError, OutOfFrames, OutOfTables, OutOfVmids
from p2mfast.experiment.cost import CostModel
from p2mfast.hypervisor.policy import Policy

RAM = 1 << 30
GFN = RAM >> 12
WINDOW = 1 << 20  # where foreign pages are mapped


def snapshot(host: pf.Host) -> tuple:
    return host.free_frames, host.held_references, host.free_vmids, sorted(host.domains)


# ---- Foreign and granted pages ----


@pytest.mark.parametrize("writable", [True, False])
def test_a_foreign_mapping_holds_its_pages(writable: bool) -> None:
    """xenmem_add_to_physmap_one takes a reference, p2m_put_foreign_page drops it."""
    host = pf.Host("256MiB")
    before = snapshot(host)
    owner, user = host.create_domain("32MiB"), host.create_domain("32MiB")
    user.map_foreign(WINDOW, 1000, owner, GFN + 24, writable)
    assert host.held_references == 1000
    entry = user.p2m.get_entry(WINDOW + 999)
    assert entry.mfn == owner.p2m.get_entry(GFN + 1023).mfn
    assert entry.type is (pf.P2MType.MAP_FOREIGN_RW if writable else pf.P2MType.MAP_FOREIGN_RO)
    user.unmap(WINDOW + 10, 90)
    assert host.held_references == 910
    free = host.free_frames
    owner.destroy()
    assert host.free_frames == free + 8192 - 910  # the rest is still held
    user.p2m.set_entry(WINDOW, 1, None)  # behind the domain's back: an event tells
    assert user.stats.faults_injected == 0
    assert host.held_references == 909
    user.destroy()
    assert snapshot(host) == before
    dropped = user.events()[user.events()["kind"] == pf.DomainEvent.REFERENCE_DROPPED]
    assert dropped["nr"].sum() == 1000


def test_a_granted_page_is_held_until_it_is_unmapped() -> None:
    """create_grant_host_mapping, replace_grant_host_mapping."""
    host = pf.Host("256MiB")
    owner, user = host.create_domain("32MiB", page_order=0), host.create_domain("32MiB")
    user.map_grant(WINDOW, 3, owner, GFN)
    user.map_grant(WINDOW + 8, 2, owner, GFN, writable=False)
    assert host.held_references == 5
    assert user.p2m.get_entry(WINDOW + 8).type is pf.P2MType.GRANT_MAP_RO
    with pytest.raises(ValueError, match="grant"):
        user.unmap(WINDOW + 2, 10)
    user.unmap_grant(WINDOW)
    assert (host.held_references, user.p2m.get_entry(WINDOW).mfn) == (2, None)
    with pytest.raises(ValueError, match="no grant"):
        user.unmap_grant(WINDOW)
    user.destroy()
    assert host.held_references == 0
    owner.destroy()
    assert host.free_frames == 256 << 8


def test_what_cannot_be_mapped_changes_nothing() -> None:
    host = pf.Host("256MiB")
    owner = host.create_domain("16MiB")
    user = host.create_domain("16MiB", paging_mempool=6)
    before = (*snapshot(host), user.p2m.entries().tobytes())
    with pytest.raises(ValueError, match="not all of 0x2 pages are RAM of domain"):
        user.map_foreign(WINDOW, 2, owner, GFN + 4095)
    with pytest.raises(ValueError, match="overlap"):
        user.map_foreign(GFN, 1, owner, GFN)
    with pytest.raises(OutOfTables):
        user.map_foreign(WINDOW, 4000, owner, GFN)
    with pytest.raises(pf.OutOfRange):
        user.map_foreign((1 << 28) - 1, 2, owner, GFN)
    with pytest.raises(ValueError, match="kind"):
        user.map_mmio(WINDOW, 1, 1, "fast")  # type: ignore[arg-type]
    with pytest.raises(pf.OutOfRange, match="other_gfn"):
        user.map_foreign(WINDOW, 2, owner, (1 << 28) - 1)
    with pytest.raises(ValueError, match="not all of"):
        user.map_foreign(WINDOW, 1 << 27, owner, GFN)
    with pytest.raises(pf.OutOfRange, match="^gfn"):
        user.map_grant(WINDOW, 1 << 40, owner, GFN)
    with pytest.raises(ValueError, match="another domain"):
        user.map_foreign(WINDOW, 1, user, GFN)
    assert (*snapshot(host), user.p2m.entries().tobytes()) == before
    owner.destroy()
    with pytest.raises(DomainStateError, match="dying"):
        user.map_foreign(WINDOW, 1, owner, GFN)
    with pytest.raises(DomainStateError, match="dying"):
        owner.map_mmio(WINDOW, 1, 1)


def test_mmio_regions_belong_to_nobody() -> None:
    """map_mmio_regions."""
    host = pf.Host("64MiB")
    domain = host.create_domain("16MiB")
    free = host.free_frames
    for at, (kind, expected) in enumerate(
        [("device", "MMIO_DIRECT_DEV"), ("non-cacheable", "MMIO_DIRECT_NC"),
         ("cacheable", "MMIO_DIRECT_C")]
    ):  # fmt: skip
        domain.map_mmio(0x9000 + at, 1, 0x9000 + at, kind)
        assert domain.p2m.get_entry(0x9000 + at).type is pf.P2MType[expected]
    assert host.free_frames == free
    domain.destroy()
    assert host.free_frames == 64 << 8


def test_domains_that_share_pages_in_threads_of_their_own() -> None:
    host = pf.Host("256MiB")
    before = snapshot(host)
    owner = host.create_domain("16MiB", page_order=0)
    users = [host.create_domain("1MiB") for _ in range(3)]
    failures: list[BaseException] = []

    def share(user: pf.Domain) -> None:
        rng = np.random.default_rng(user.id)
        try:
            for _ in range(60):
                nr = int(rng.integers(1, 200))
                user.map_foreign(WINDOW, nr, owner, GFN + int(rng.integers(3800)))
                user.unmap(WINDOW, nr)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=share, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert host.held_references == 0
    for domain in (owner, *users):
        domain.destroy()
    assert snapshot(host) == before


# ---- dom0 ----


def test_dom0_lies_at_the_machines_own_addresses() -> None:
    """allocate_memory_11."""
    host = pf.Host("1GiB")
    before = snapshot(host)
    with host.create_dom0("256MiB") as dom0:
        assert host.domains == {0: dom0}
        runs = dom0.p2m.mapped_runs()
        assert (runs["gfn"] == runs["mfn"]).all()
        assert runs["nr"].sum() == 256 << 8
        with pytest.raises(ValueError, match="created already"):
            host.create_dom0()
        guest = host.create_domain("16MiB")
        assert guest.id == 1
        dom0.map_foreign(WINDOW, 16, guest, GFN)
        guest.destroy()
    assert dom0.state == "destroyed"
    assert snapshot(host) == before
    with pytest.raises(OutOfFrames):
        host.create_dom0("2GiB")
    assert snapshot(host) == before


# ---- The table pool ----


def test_the_table_pool_is_set_shrunk_and_exhausted() -> None:
    """p2m_set_allocation."""
    host = pf.Host("256MiB")
    domain = host.create_domain("16MiB", page_order=0, paging_mempool=20)
    assert domain.paging_mempool == 20
    in_use = domain.p2m.stats.tables
    with pytest.raises(OutOfTables, match=f"paging_mempool .*{in_use} are in use"):
        domain.paging_mempool = in_use - 1
    for bad, error in ((-1, pf.OutOfRange), ("5", TypeError)):
        with pytest.raises(error, match="paging_mempool"):
            domain.paging_mempool = bad
    assert domain.paging_mempool == 20
    domain.paging_mempool = in_use
    free = host.free_frames
    with pytest.raises(OutOfTables):
        domain.populate(WINDOW, 1)
    assert host.free_frames == free
    domain.paging_mempool = None
    domain.populate(WINDOW, 1)
    with pytest.raises(OutOfTables):
        host.create_domain("16MiB", page_order=0, paging_mempool=3)
    assert len(host.domains) == 1


# ---- Destruction ----


def test_destruction_goes_on_where_it_stopped() -> None:
    """domain_relinquish_resources returns -ERESTART; the toolstack calls again."""
    host = pf.Host("64MiB")
    before = snapshot(host)
    domain = host.create_domain("8MiB", page_order=0)
    for bad, error in ((-1, ValueError), ("5", TypeError), (2**64, ValueError)):
        with pytest.raises(error, match="budget"):
            domain.destroy(budget=bad)
    assert domain.state == "paused"
    calls = 1
    while not domain.destroy(budget=100):
        assert domain.state == "dying"
        with pytest.raises(DomainStateError, match="dying"):
            domain.populate(WINDOW, 1)
        assert host.free_frames == before[0] - 2048
        calls += 1
    assert calls >= 20
    assert snapshot(host) == before
    with pytest.raises(DomainStateError, match="destroyed already"):
        domain.destroy()


def test_destruction_during_a_flush() -> None:
    host = pf.Host("64MiB")
    before = snapshot(host)
    domain = host.create_domain("8MiB", bits=32, page_order=0)
    domain.unpause()
    vcpu = domain.vcpus[0]
    vcpu.access_many(RAM + 4096 * np.arange(2048, dtype=np.uint64), "w")
    domain.should_preempt = lambda: domain.dying or domain.destroy()
    vcpu.set_way()
    vcpu.return_to_guest()
    assert snapshot(host) == before
    assert domain.pending_pages == 0


def test_destruction_inside_a_destruction_is_refused() -> None:
    host = pf.Host("64MiB")
    domain = host.create_domain("8MiB", page_order=0)
    domain.should_preempt = domain.destroy
    with pytest.raises(DomainStateError, match="being destroyed"):
        domain.destroy()
    domain.should_preempt = None
    assert domain.destroy()
    assert host.free_frames == 64 << 8


def test_a_context_manager_destroys_whatever_happens() -> None:
    host = pf.Host("64MiB")
    before = snapshot(host)
    domain = host.create_domain("8MiB")
    with pytest.raises(ZeroDivisionError), domain:
        domain.destroy(budget=domain.id // 0)
    assert domain.state == "destroyed"
    with host.create_domain("8MiB") as domain:
        domain.destroy()
    assert snapshot(host) == before


def test_a_thousand_random_lives_leave_nothing() -> None:
    host = pf.Host("2GiB")
    before = snapshot(host)
    rng = np.random.default_rng(4)
    alive: list[pf.Domain] = []
    lives = 0
    while lives < 1000:
        act = rng.integers(7)
        if act < 2 or not alive:
            try:
                alive.append(
                    host.create_domain(
                        int(rng.integers(1, 20_000)) * 4096, bits=int(rng.choice([32, 64])),
                        page_order=int(rng.choice([0, 9, 18])),
                    )
                )  # fmt: skip
            except OutOfFrames:
                continue
            lives += 1
            continue
        domain, other = alive[rng.integers(len(alive))], alive[rng.integers(len(alive))]
        gfn, nr = WINDOW + int(rng.integers(3000)), int(rng.integers(1, 300))
        try:
            if act == 2:
                domain.map_foreign(gfn, nr, other, GFN + int(rng.integers(100)))
            elif act == 3:
                domain.map_grant(gfn, nr, other, GFN)
            elif act == 4:
                domain.unmap(GFN + int(rng.integers(500)), nr)
            elif act == 5:
                domain.populate(gfn, nr)
            elif len(alive) > 6 or rng.random() < 0.3:
                alive.remove(domain)
                domain.destroy()
        except (ValueError, OutOfFrames):
            pass
    for domain in alive:
        domain.destroy()
    assert snapshot(host) == before


def test_vmids_of_sixteen_bits() -> None:
    host = pf.Host("16MiB", vmid_bits=16)
    assert host.free_vmids == 65535
    domains = [host.create_domain("4KiB") for _ in range(300)]
    assert domains[-1].p2m.vmid == 300
    assert domains[-1].p2m.vtcr >> 19 & 1  # VTCR_EL2.VS
    host = pf.Host("16MiB")
    for _ in range(255):
        host.create_domain("4KiB")
    before = snapshot(host)
    with pytest.raises(OutOfVmids):
        host.create_domain("4KiB")
    assert snapshot(host) == before


# ---- Sight ----


def test_what_a_domain_shows() -> None:
    domain = pf.Host("4GiB").create_domain("4MiB", vcpus=2, bits=32)
    assert domain.dump_p2m_info() == (
        f"p2m mappings for domain {domain.id} (vmid {domain.p2m.vmid}):\n"
        "  1G mappings: 0 (shattered 0)\n"
        "  2M mappings: 2 (shattered 0)\n"
        "  4K mappings: 0"
    )
    domain.unpause()
    domain.vcpus[1].access(RAM, "w")
    domain.vcpus[1].access(0, "w")
    domain.vcpus[1].set_way()
    domain.vcpus[1].return_to_guest()
    domain.pause()
    events = domain.events()
    kinds = [pf.DomainEvent(kind).name for kind in events["kind"].tolist()]
    assert kinds == [
        "POPULATED", "UNPAUSED", "CREATION_FINISHED", "ABORT", "INJECTED", "SET_WAY", "FLUSH",
        "PAUSED",
    ]  # fmt: skip
    assert events["seq"].tolist() == list(range(8))
    assert (events[6]["vcpu"], events[6]["nr"]) == (1, 512)
    assert repr(domain) == (
        f"<Domain {domain.id}: paused, 32-bit, 2 vCPUs, 4 MiB, policy arm=auto>"
    )


def test_traps_by_level_and_what_they_cost(caplog: pytest.LogCaptureFixture) -> None:
    """One trap a level as Xen, or one for the path, at the level where its walk ended."""
    caplog.set_level("DEBUG", "p2mfast")
    for resolve, levels in (("level", (0, 1, 1, 3)), ("path", (0, 1, 0, 2))):
        policy = Policy.parse(f"arm=creation-finished,resolve={resolve}")
        domain = pf.Host("64MiB").create_domain("8MiB", policy=policy, page_order=0)
        domain.unpause()
        domain.vcpus[0].access_many([RAM, RAM + 4096, RAM + 8192, RAM], "w")
        stats = domain.stats
        assert stats.trap_levels == levels
        assert stats.traps == sum(levels)
        assert CostModel(trap_ns=1000).domain_ms(stats) == pytest.approx(sum(levels) / 1000)
        domain.flush(0, "set-way")
        cost = CostModel(page_clean_ns=1e6, trap_ns=0, arm_ns=0.5e6)
        assert cost.domain_ms(domain.stats) == pytest.approx(3.5)
        domain.crash("for the test")
        domain.destroy()
    messages = [record.getMessage() for record in caplog.records]
    for words in ("creation finished,", "3 pages cleaned", "crashed: for the test", ": destroyed"):
        assert sum(words in message for message in messages) == 2


def test_stats_are_a_snapshot() -> None:
    domain = pf.Host("64MiB").create_domain("8MiB", bits=32, page_order=0)
    domain.unpause()
    before = domain.stats
    domain.vcpus[0].access(RAM)
    assert (before.traps, domain.stats.traps) == (0, 1)


@pytest.mark.parametrize("defer", [False, True])
def test_maintenance_waits_until_the_domain_runs(defer: bool) -> None:
    """Julien Grall's other use of the hook: what is mapped before needs no invalidation each."""
    domain = pf.Host("64MiB").create_domain(
        "8MiB", page_order=9, policy=Policy(defer=defer, arm="never")
    )
    for page in range(4):
        domain.p2m.set_entry(GFN + 512 * page, 1, None)  # shatters a block: an invalidation or two
    made = domain.p2m.stats.tlb_flushes
    assert made >= 4
    domain.unpause()
    stats = domain.stats
    if defer:
        assert (stats.tlb_flushes, stats.tlb_flushes_deferred) == (1, made)
        assert (stats.icache_pages, stats.icache_pages_deferred) == (0, 2048)
    else:
        assert (stats.tlb_flushes, stats.tlb_flushes_deferred) == (made, 0)
        assert (stats.icache_pages, stats.icache_pages_deferred) == (2048, 0)


def test_the_cache_that_set_way_cleans() -> None:
    cache = pf.CacheGeometry(line=64, ways=16, sets=1024)
    assert pf.Host("16MiB", cache=cache).cache is cache
    assert (cache.size, cache.set_way_operations) == (1 << 20, 16384)
    assert cache.ccsidr == 0x007F_E07A  # CCSIDR_EL1: 1023 sets, 15 ways, LineSize 2
    for name, value in (("line", 48), ("ways", 0), ("sets", 1 << 20), ("line", 8)):
        with pytest.raises(ValueError, match=f"{name} must"):
            pf.CacheGeometry(**{name: value})
    with pytest.raises(TypeError, match="ways"):
        pf.CacheGeometry(ways=2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="cache"):
        pf.Host("16MiB", cache=64)  # type: ignore[arg-type]


# ---- Policies from files, and in words ----


def test_a_policy_from_toml(tmp_path: Path) -> None:
    expected = Policy(arm="map", fault_around=4, iommu_shared=False, budget=100, defer=True)
    fields = 'arm = "map"\nfault_around = 4\nbudget = 100\ndefer = true\n'
    assert Policy.from_toml(fields) == expected
    file = tmp_path / "policy.toml"
    file.write_text(f'title = "x"\n[policy]\n{fields}')
    assert Policy.from_toml(file) == expected
    assert Policy.from_toml("") == Policy()


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('arm = "sometimes"', ValueError, "arm must be one of"),
        ("armed = true", ValueError, "'armed' is none of arm, "),
        ("budget = '1'", TypeError, "budget must be an integer"),
        ("defer = 1", TypeError, "defer must be a bool"),
        ("arm =", ValueError, "no TOML"),
        ("policy = 3", TypeError, "must be a table"),
    ],
)
def test_a_bad_policy_file_names_the_field(text: str, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        Policy.from_toml(text)


def test_a_policy_explains_itself() -> None:
    text = Policy.parse("arm=map,resolve=level,flush=leaf").explain()
    for words in ("arm = map", "Jan Beulich", "resolve = level", "flush = leaf", "budget = 512"):
        assert words in text
    assert "overrides" not in text
    assert "Stefano Stabellini" in " ".join(Policy().explain().split())
    assert "overrides arm" in Policy(iommu_shared=True).explain()
    for arm in ("auto", "creation-finished", "map", "first-set-way", "never"):
        assert f"arm = {arm}" in Policy(arm=arm).explain()
