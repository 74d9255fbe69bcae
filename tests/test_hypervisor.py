"""Hosts, domains, vCPUs and their policies against Xen's rules (functions named by each test)."""

from __future__ import annotations

import logging
from itertools import pairwise

import numpy as np
import pytest

import p2mfast as pf
from p2mfast.errors import DomainStateError, OutOfFrames, OutOfVmids
from p2mfast.hypervisor.memory import xen_layout
from p2mfast.hypervisor.policy import Policy

GIB = 1 << 30
CACHES_ON, CACHES_OFF = 0b101, 0
RAM = 1 << 30  # Xen's first guest bank starts at 1 GiB


def running(policy: str = "", *, bits: int = 32, memory: str = "64MiB", **more) -> pf.Domain:
    domain = pf.Host(memory="8GiB").create_domain(
        memory, vcpus=2, bits=bits, policy=Policy.parse(policy), **more
    )
    domain.unpause()
    return domain


# ---- Creation and destruction ----


def test_creation_finishes_once_on_the_first_unpause() -> None:
    """domain_unpause_by_systemcontroller, arch_domain_creation_finished."""
    domain = pf.Host().create_domain("64MiB", bits=32)
    assert not domain.creation_finished
    domain.pause()
    domain.unpause()
    assert not domain.creation_finished  # one pause is left
    domain.unpause()
    assert domain.creation_finished
    assert domain.p2m.stats.armed == 1
    domain.pause()
    domain.unpause()
    assert domain.p2m.stats.armed == 1
    with pytest.raises(DomainStateError, match="not paused"):
        domain.unpause()


@pytest.mark.parametrize(
    ("policy", "bits", "arch", "armed"),
    [
        ("arm=creation-finished", 64, "arm", True),
        ("arm=creation-finished", 64, "x86", False),
        ("arm=creation-finished,iommu_shared=true", 32, "arm", False),
        ("arm=auto", 32, "arm", True),
        ("arm=auto", 64, "arm", False),
        ("arm=first-set-way", 32, "arm", False),
        ("arm=never", 32, "arm", False),
        ("arm=map", 64, "arm", True),
    ],
)
def test_when_a_domain_is_armed(policy: str, bits: int, arch: str, armed: bool) -> None:
    domain = running(policy, bits=bits, arch=arch)
    assert domain.p2m.get_entry(RAM >> 12).reachable is not armed
    assert domain.vcpus[0].access(RAM).traps == armed


def test_armed_at_map_means_before_it_runs_and_for_what_comes_later() -> None:
    domain = pf.Host().create_domain("64MiB", policy=Policy(arm="map"))
    assert not domain.p2m.get_entry(RAM >> 12).valid
    domain.unpause()
    domain.populate(1 << 20, 512)
    assert not domain.p2m.get_entry(1 << 20).reachable


def test_guest_ram_lies_where_xen_puts_it() -> None:
    """GUEST_RAM0_BASE 1 GiB, 3 GiB long; GUEST_RAM1_BASE 8 GiB."""
    domain = pf.Host(memory="8GiB").create_domain("4GiB")
    runs = domain.p2m.mapped_runs()
    assert runs["gfn"].min() == GIB >> 12
    assert domain.p2m.get_entry((4 * GIB >> 12) - 1).mfn is not None
    assert domain.p2m.get_entry(4 * GIB >> 12).mfn is None
    assert domain.p2m.get_entry(8 * GIB >> 12).mfn is not None
    assert domain.p2m.get_entry((9 * GIB >> 12) - 1).mfn is not None
    assert domain.p2m.max_mapped_gfn == (9 * GIB >> 12) - 1
    assert set(runs["type"]) == {pf.P2MType.RAM_RW}
    with pytest.raises(ValueError, match="banks"):
        xen_layout(1 << 30)


@pytest.mark.parametrize("page_order", [0, 9, 18])
def test_page_order_is_the_largest_mapping(page_order: int) -> None:
    domain = pf.Host(memory="8GiB").create_domain("2GiB", page_order=page_order)
    assert domain.p2m.get_entry(RAM >> 12).order == page_order
    leaves = domain.p2m.stats.mappings
    assert leaves[3 - page_order // 9] == (2 * GIB >> 12) >> page_order
    assert sum(leaves) == leaves[3 - page_order // 9]


def test_no_frame_is_given_twice_and_all_come_back() -> None:
    host = pf.Host(memory="4GiB")
    free = host.free_frames
    rng = np.random.default_rng(3)
    alive: list[pf.Domain] = []
    for _ in range(300):
        if alive and (len(alive) > 8 or rng.random() < 0.4):
            alive.pop(int(rng.integers(len(alive)))).destroy()
            continue
        pages = int(rng.integers(1, 60_000))
        order = int(rng.choice([0, 9, 18]))
        try:
            domain = host.create_domain(pages * 4096, page_order=order)
        except OutOfFrames:
            continue
        alive.append(domain)
        owned = sorted(extent for other in alive for extent in other.extents)
        assert all(a + n <= b for (a, n), (b, _) in pairwise(owned))
        runs = domain.p2m.mapped_runs()
        assert sum(nr for _, nr in domain.extents) == runs["nr"].sum() == pages
        assert host.free_frames == free - sum(nr for _, nr in owned)
    for domain in alive:
        domain.destroy()
    assert (host.free_frames, host.domains) == (free, {})


def test_a_failed_creation_leaves_nothing() -> None:
    host = pf.Host(memory="1GiB")
    host.create_domain("512MiB")
    free = host.free_frames
    with pytest.raises(OutOfFrames, match="are free"):
        host.create_domain("1GiB")
    with pytest.raises(pf.OutOfRange):
        host.create_domain("64MiB", layout=[(0, 8192), ((1 << 28) - 1, 8192)])
    with pytest.raises(ValueError, match="overlap"):
        host.create_domain("64MiB", layout=[(0, 8192), (8191, 8192)])
    assert host.free_frames == free
    assert len(host.domains) == 1


def test_vmids_are_unique_and_run_out() -> None:
    host = pf.Host()
    domains = [host.create_domain("4KiB") for _ in range(255)]
    assert {domain.p2m.vmid for domain in domains} == set(range(1, 256))
    with pytest.raises(OutOfVmids, match="255"):
        host.create_domain("4KiB")
    domains[6].destroy()
    assert host.create_domain("4KiB").p2m.vmid == 7


def test_a_dying_domain_refuses_everything() -> None:
    domain = running()
    domain.destroy()
    for call in (domain.destroy, domain.unpause, domain.pause, domain.soft_reset):
        with pytest.raises(DomainStateError, match="dying"):
            call()
    with pytest.raises(DomainStateError, match="dying"):
        domain.populate(0, 1)


def test_destruction_and_flushes_let_other_work_in() -> None:
    domain = running("arm=never,flush=all,budget=10", memory="4MiB", page_order=0)
    asked: list[int] = []
    domain.should_preempt = lambda: asked.append(1) is None
    domain.vcpus[0].set_way()
    assert domain.vcpus[0].return_to_guest().pages == 1024
    assert len(asked) >= 1024
    assert domain.stats.preemptions == len(asked)
    asked.clear()
    domain.destroy()
    assert len(asked) >= 1024 // 10


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"memory": "1.5GiB"}, ValueError, "memory.*1.5GiB"),
        ({"memory": 0}, ValueError, "memory.*0"),
        ({"memory": 4097}, ValueError, "memory.*4097"),
        ({"memory": 1.0}, TypeError, "memory.*1.0"),
        ({"vcpus": 0}, ValueError, "vcpus.*0"),
        ({"vcpus": "2"}, TypeError, "vcpus.*'2'"),
        ({"bits": 16}, ValueError, "bits.*16"),
        ({"arch": "riscv"}, ValueError, "arch.*riscv"),
        ({"page_order": 1}, ValueError, "page_order.*1"),
        ({"layout": [(0, 1)]}, ValueError, "layout"),
        ({"layout": [(0, 1 << 18), (1 << 20, 0)]}, ValueError, "layout"),
        ({"layout": [(-1, 1 << 18)]}, ValueError, "layout.*-1"),
        ({"layout": [7]}, TypeError, "layout.*7"),
        ({"layout": [(0, "1")]}, TypeError, "layout"),
        ({"policy": "arm=map"}, TypeError, "policy.*'arm=map'"),
        ({"ipa_bits": 41}, ValueError, "ipa_bits.*41"),
    ],
)
def test_bad_domains_are_refused(arguments: dict, error: type, words: str) -> None:
    host = pf.Host()
    free = host.free_frames
    with pytest.raises(error, match=words):
        host.create_domain(**arguments)
    assert (host.free_frames, host.domains) == (free, {})


def test_populating_nothing_is_refused() -> None:
    domain = running()
    for gfn, nr, error in ((0, 0, ValueError), (0, -1, ValueError), (0, 1.0, TypeError)):
        before = (domain.p2m.stats, domain.host.free_frames)
        with pytest.raises(error, match="populate"):
            domain.populate(gfn, nr)
        assert (domain.p2m.stats, domain.host.free_frames) == before


def test_bad_hosts_are_refused() -> None:
    with pytest.raises(ValueError, match="vmid_bits.*9"):
        pf.Host(vmid_bits=9)
    with pytest.raises(ValueError, match="memory.*lots"):
        pf.Host(memory="lots")


# ---- Set/Way ----


def test_the_first_set_way_flushes_arms_and_starts_the_trapping() -> None:
    """p2m_set_way_flush: nothing more until the trapping has ended."""
    domain = running()
    v = domain.vcpus[0]
    v.access(RAM, "w")
    v.set_way()
    assert v.traps_vm_registers
    assert domain.stats.flushes == 0  # pending until it returns to its guest
    record = v.return_to_guest()
    assert (record.vcpu, record.cause, record.pages) == (0, "set-way", 512)  # one 2 MiB block
    assert v.return_to_guest() is None
    for _ in range(5):
        v.set_way()
        assert v.return_to_guest() is None
    assert domain.stats.set_way_traps == 6
    assert v.access(RAM).traps == 1  # armed again
    other = domain.vcpus[1]
    assert not other.traps_vm_registers
    other.set_way()
    assert other.return_to_guest().cause == "set-way"


def test_toggling_the_caches_flushes_while_vm_registers_are_trapped() -> None:
    """p2m_toggle_cache: on or off flushes, on ends the trapping."""
    domain = running()
    v = domain.vcpus[0]
    v.write_sysreg("SCTLR_EL1", CACHES_ON)
    assert v.caches_on
    assert v.return_to_guest() is None  # not trapped
    v.set_way()
    v.return_to_guest()
    v.write_sysreg("SCTLR_EL1", 0b001)
    assert v.return_to_guest().cause == "cache-toggle"
    assert v.traps_vm_registers
    v.write_sysreg("TTBR0_EL1", 0x1000)
    assert v.return_to_guest() is None
    v.write_sysreg("SCTLR_EL1", CACHES_ON)
    assert not v.traps_vm_registers
    assert v.return_to_guest().cause == "cache-toggle"
    assert domain.stats.sysreg_traps == 3


def test_a_trapped_write_that_finds_the_caches_on_ends_the_trapping() -> None:
    v = running().vcpus[0]
    v.write_sysreg("SCTLR_EL1", CACHES_ON)
    v.set_way()
    v.return_to_guest()
    v.write_sysreg("CONTEXTIDR_EL1", 5)
    assert not v.traps_vm_registers
    assert v.return_to_guest() is None
    v.set_way()
    assert v.return_to_guest().cause == "set-way"


def test_a_reset_vcpu_has_caches_off_and_nothing_trapped() -> None:
    domain = running()
    v = domain.vcpus[1]
    v.write_sysreg("SCTLR_EL1", CACHES_ON)
    v.set_way()
    domain.soft_reset()
    assert (v.caches_on, v.traps_vm_registers, v.return_to_guest()) == (False, False, None)


def test_shared_with_the_iommu_set_way_is_undefined(caplog: pytest.LogCaptureFixture) -> None:
    domain = running("arm=creation-finished,iommu_shared=true")
    v = domain.vcpus[0]
    with caplog.at_level(logging.ERROR):
        v.set_way()
    assert v.pending_exception == "undefined"
    assert "IOMMU" in caplog.text
    assert (v.traps_vm_registers, v.return_to_guest()) == (False, None)


def test_faults_of_the_guest_are_injected_never_raised() -> None:
    domain = running()
    v = domain.vcpus[0]
    assert v.access(RAM - 4096, "w") == (0, pf.FaultKind.TRANSLATION)
    assert v.pending_exception == "data-abort"
    assert v.access(1 << 45, "x") == (0, pf.FaultKind.TRANSLATION)
    assert v.pending_exception == "instruction-abort"
    assert domain.stats.faults_injected == 2
    assert v.access_many([RAM, RAM - 4096], "x")["fault"].tolist() == [0, 1]
    assert domain.stats.faults_injected == 3
    assert domain.stats.traps == 1


@pytest.mark.parametrize(
    ("policy", "flushes"),
    [
        # touched, nothing, touched again; 16384 pages in all, 4 KiB mapped
        ("arm=creation-finished", [3, 0, 1]),
        ("arm=creation-finished,flush=path", [3, 0, 1]),
        ("arm=creation-finished,flush=leaf", [3 + 16384 - 512, 3 + 16384 - 512, 1 + 16384 - 512]),
        ("arm=creation-finished,flush=all", [16384] * 3),
        ("arm=first-set-way", [16384, 0, 1]),
        ("arm=never", [16384] * 3),
        ("arm=never,flush=leaf", [16384] * 3),
        ("arm=map", [3, 0, 1]),
    ],
)
def test_what_each_policy_cleans(policy: str, flushes: list[int]) -> None:
    domain = running(policy, page_order=0)
    seen = []
    for gpas in ([RAM, RAM + 4096, RAM + 9 * 4096], [], [RAM + 5 * 4096]):
        v = domain.vcpus[0]
        v.access_many(gpas, [1] * len(gpas))
        v.reset()
        v.set_way()
        seen.append(v.return_to_guest().pages)
    assert seen == flushes
    assert domain.stats.pages_cleaned == sum(flushes)
    assert domain.stats.worst_flush_pages == max(flushes)
    armed = not policy.startswith("arm=never")
    assert domain.p2m.get_entry(RAM >> 12).reachable is not armed


def test_bad_registers_and_kinds_are_named() -> None:
    v = running().vcpus[0]
    with pytest.raises(ValueError, match="name.*HCR_EL2"):
        v.write_sysreg("HCR_EL2", 1)
    with pytest.raises(TypeError, match="value"):
        v.write_sysreg("SCTLR_EL1", "on")
    with pytest.raises(ValueError, match="value.*-1"):
        v.write_sysreg("SCTLR_EL1", -1)
    with pytest.raises(ValueError, match="kind.*'q'"):
        v.access(RAM, "q")


# ---- Policy ----


def test_policy_strings() -> None:
    text = "arm=creation-finished,resolve=level,flush=leaf"
    xen = Policy.parse(text)
    assert xen == Policy(arm="creation-finished", resolve="level", flush="leaf")
    assert str(xen) == text
    assert Policy.parse("") == Policy()
    everything = Policy("map", "level", 4, "path", 100, True)
    assert Policy.parse(str(everything)) == everything
    assert Policy.parse(" fault-around = 3 ") == Policy(fault_around=3)
    assert Policy.parse(str(Policy())) == Policy()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arm=later", "arm.*later"),
        ("arm", "'arm'"),
        ("colour=red", "colour=red"),
        ("arm=map,arm=never", "twice"),
        ("fault_around=x", "fault_around.*'x'"),
        ("fault_around=19", "fault_around.*19"),
        ("budget=0", "budget.*0"),
        ("iommu_shared=maybe", "maybe"),
        ("flush=some", "flush.*some"),
        ("resolve=none", "resolve.*none"),
    ],
)
def test_bad_policy_strings_are_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Policy.parse(text)


def test_bad_policy_values_are_named() -> None:
    with pytest.raises(TypeError, match="budget.*'9'"):
        Policy(budget="9")
    with pytest.raises(TypeError, match="iommu_shared.*1"):
        Policy(iommu_shared=1)
