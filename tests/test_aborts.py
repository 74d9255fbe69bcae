"""Stage-2 aborts by their syndromes, MMIO, mem_access, trapped registers; each rule of Xen's is
named where it is tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import p2mfast as pf
from p2mfast.errors import DomainStateError
from p2mfast.experiment.replay import replay
from p2mfast.experiment.trace import load, shipped
from p2mfast.hypervisor.policy import Policy
from p2mfast.hypervisor.syndrome import abort_esr, hpfar, set_way_esr, sysreg_esr
from p2mfast.hypervisor.vcpu import AARCH32_VM_REGISTERS, VM_REGISTERS
from p2mfast.types import ACCESS_DTYPE, FaultKind

RAM = 1 << 30
GFN = RAM >> 12
TRANSLATION, PERMISSION = FaultKind.TRANSLATION, FaultKind.PERMISSION


def running(policy: str = "arm=creation-finished", bits: int = 64, **more: object) -> pf.Domain:
    domain = pf.Host("1GiB").create_domain(
        "64MiB", vcpus=2, bits=bits, policy=Policy.parse(policy), page_order=0, **more
    )
    domain.unpause()
    return domain


def fault(vcpu: pf.VCpu, gpa: int, kind: FaultKind = TRANSLATION, level: int = 3, **more):
    return vcpu.abort(abort_esr(kind, level, **more), gpa, hpfar(gpa))


# ---- Translation faults: p2m_resolve_translation_fault, try_handle_mmio ----


def test_a_real_syndrome_resolves_an_armed_page() -> None:
    """EC 0x24, IL, DFSC 0b000101: a translation fault of level 1, as QEMU's EL2 reports it."""
    domain = running()
    vcpu = domain.vcpus[0]
    result = vcpu.abort(0x92000005, 0xFFFF_0000_0000_0ABC, RAM >> 8)
    assert result == (pf.Outcome.RESOLVED, None)
    assert domain.p2m.get_entry(GFN).reachable
    assert (domain.stats.traps, vcpu.pending_exception) == (1, None)


def test_a_stale_fault_is_tried_again() -> None:
    """Another vCPU was faster: p2m_resolve_translation_fault finds the entry valid."""
    domain = running()
    assert fault(domain.vcpus[0], RAM).outcome is pf.Outcome.RESOLVED
    assert fault(domain.vcpus[1], RAM, write=True).outcome is pf.Outcome.RETRY
    assert domain.stats.outcomes == {"retry": 1}
    assert domain.stats.traps == 1


def test_one_level_a_trap_as_xen() -> None:
    domain = running("arm=creation-finished,resolve=level")
    outcomes = [fault(domain.vcpus[0], RAM).outcome.value for _ in range(4)]
    assert outcomes == ["resolved", "resolved", "resolved", "retry"]


@pytest.mark.parametrize("bits", [32, 64])
def test_a_hole_is_the_guests_fault(bits: int) -> None:
    """inject_dabt_exception, inject_iabt_exception."""
    domain = running(bits=bits)
    vcpu = domain.vcpus[0]
    hole = RAM - 4096
    result = fault(vcpu, hole + 0x18)
    assert result.outcome is pf.Outcome.INJECTED
    assert result.injected == vcpu.injected
    assert result.injected.kind == vcpu.pending_exception == "data-abort"
    assert result.injected.far == hole + 0x18
    assert result.injected.esr == (0x210 if bits == 32 else 0x96000010)
    assert fault(vcpu, hole, fetch=True).injected.kind == "instruction-abort"
    assert domain.stats.faults_injected == 2
    assert domain.stats.aborts == {"TRANSLATION": 2}
    kinds = domain.events()["kind"].tolist()
    assert kinds.count(pf.DomainEvent.INJECTED) == kinds.count(pf.DomainEvent.ABORT) == 2


def test_an_mmio_handler_does_the_access() -> None:
    """try_handle_mmio: only data aborts with a valid syndrome can be emulated."""
    domain = running()
    vcpu = domain.vcpus[1]
    seen: list[pf.MmioAccess] = []
    domain.emulate(0x0900_0000, 0x1000, seen.append)
    write = fault(vcpu, 0x0900_0018, write=True, isv=True, size=2, srt=5)
    assert write == (pf.Outcome.EMULATED, None)
    assert seen == [pf.MmioAccess(1, 0x0900_0018, True, 2, 5, False)]
    for more in ({"fetch": True}, {"isv": False}, {"s1ptw": True}):
        assert fault(vcpu, 0x0900_0018, **more).outcome is pf.Outcome.INJECTED
    assert fault(vcpu, 0x0900_1000, isv=True).outcome is pf.Outcome.INJECTED
    assert len(seen) == 1
    assert vcpu.access(0x0900_0004, "w") == (0, FaultKind.NONE)
    assert seen[-1][:3] == (1, 0x0900_0004, True)
    with pytest.raises(ValueError, match="overlaps"):
        domain.emulate(0x0900_0FFF, 1, seen.append)
    with pytest.raises(TypeError, match="callable"):
        domain.emulate(0x0A00_0000, 1, None)  # type: ignore[arg-type]


def test_many_accesses_among_them_mmio_and_holes() -> None:
    domain = running()
    seen: list[int] = []
    domain.emulate(0x0900_0000, 0x1000, lambda access: seen.append(access.gpa))
    gpas = [RAM, 0x0900_0000, RAM - 4096, RAM + 4096, 0x0900_0008]
    rows = domain.vcpus[0].access_many(gpas, "w")
    assert rows["traps"].tolist() == [1, 0, 0, 1, 0]
    assert rows["fault"].tolist() == [0, 0, TRANSLATION, 0, 0]
    assert seen == [0x0900_0000, 0x0900_0008]
    assert domain.stats.faults_injected == 1


def test_other_faults_are_the_guests() -> None:
    """External aborts become an SError; access-flag and address-size faults an abort."""
    domain = running()
    vcpu = domain.vcpus[0]
    assert fault(vcpu, RAM, FaultKind.EXTERNAL, None).injected.kind == "serror"
    assert fault(vcpu, RAM, FaultKind.ACCESS_FLAG).injected.kind == "data-abort"
    assert fault(vcpu, RAM, FaultKind.ADDRESS_SIZE, 0).injected.kind == "data-abort"
    assert domain.stats.aborts == {"EXTERNAL": 1, "ACCESS_FLAG": 1, "ADDRESS_SIZE": 1}
    assert fault(vcpu, 1 << 45).outcome is pf.Outcome.INJECTED  # beyond the guest's space


def test_what_is_no_abort_is_refused() -> None:
    vcpu = running().vcpus[0]
    for esr in (0, 0x62000000, 1 << 64, -1):
        with pytest.raises(ValueError, match="esr"):
            vcpu.abort(esr, 0, 0)
    with pytest.raises(TypeError, match="esr"):
        vcpu.abort("0x92000005", 0, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hpfar"):
        vcpu.abort(0x92000005, 0, -1)


def test_accesses_beyond_every_space_are_faults_of_the_guest() -> None:
    vcpu = running().vcpus[0]
    for gpa in (1 << 40, 1 << 52, 1 << 56, 2**64 - 1):
        assert vcpu.access(gpa, "w").fault is TRANSLATION
    assert vcpu.access(2**64 - 8, "x").fault is TRANSLATION
    assert vcpu.pending_exception == "instruction-abort"


# ---- Permission faults: p2m_mem_access_check ----


def test_read_only_ram_is_the_guests_fault() -> None:
    domain = running("arm=never")
    domain.p2m.set_entry(GFN, 1, domain.p2m.get_entry(GFN).mfn, type=pf.P2MType.RAM_RO)
    vcpu = domain.vcpus[0]
    assert vcpu.access(RAM).fault is FaultKind.NONE
    assert vcpu.access(RAM, "w").fault is PERMISSION
    assert vcpu.pending_exception == "data-abort"


def test_a_violation_is_told_and_the_listener_lifts_it() -> None:
    domain = running("arm=never")
    vcpu = domain.vcpus[1]
    told: list[pf.Violation] = []

    def lift(violation: pf.Violation) -> None:
        told.append(violation)
        domain.p2m.set_mem_access(violation.gpa >> 12, 1, pf.Access.RWX)

    domain.mem_access.listener = lift
    domain.p2m.set_mem_access(GFN, 2, pf.Access.RX)
    assert vcpu.access(RAM + 8).fault is FaultKind.NONE
    assert vcpu.access(RAM + 8, "w").fault is FaultKind.NONE
    assert told == [pf.Violation(1, RAM + 8, RAM + 8, "w", pf.Access.RX, False)]
    assert domain.p2m.get_entry(GFN + 1).access is pf.Access.RX
    assert domain.stats.outcomes == {"event": 1}
    assert pf.DomainEvent.MEM_ACCESS in domain.events()["kind"]


def test_a_listener_that_lifts_nothing_leaves_the_vcpu_waiting() -> None:
    domain = running("arm=never")
    domain.mem_access.listener = lambda violation: None
    domain.p2m.set_mem_access(GFN, 1, pf.Access.N)
    vcpu = domain.vcpus[0]
    assert vcpu.access(RAM).fault is PERMISSION
    assert vcpu.pending_exception is None
    assert domain.mem_access.violations == 1


@pytest.mark.parametrize(
    ("before", "kind", "after"),
    [("N2RWX", "r", "RWX"), ("N2RWX", "x", "RWX"), ("RX2RW", "w", "RW")],
)
def test_accesses_that_change_by_themselves(before: str, kind: str, after: str) -> None:
    """XENMEM_access_n2rwx and rx2rw: no event, though somebody listens."""
    domain = running("arm=never")
    domain.mem_access.listener = lambda violation: pytest.fail("told")
    domain.p2m.set_mem_access(GFN, 1, pf.Access[before])
    assert domain.vcpus[0].access(RAM, kind).fault is FaultKind.NONE
    assert domain.p2m.get_entry(GFN).access is pf.Access[after]


def test_without_a_listener() -> None:
    """access_required crashes the domain; otherwise the restriction ends."""
    domain = running("arm=never")
    domain.p2m.set_mem_access(GFN, 2, pf.Access.R)
    assert domain.vcpus[0].access(RAM, "w").fault is FaultKind.NONE
    assert domain.p2m.get_entry(GFN).access is pf.Access.RWX
    domain.mem_access.required = True
    assert domain.vcpus[0].access(RAM + 4096, "w").fault is PERMISSION
    assert domain.state == "crashed"
    assert "0x40001000" in domain.crashed
    with pytest.raises(DomainStateError, match="crashed"):
        domain.unpause()
    assert domain.destroy()


@pytest.mark.parametrize("access", [a for a in pf.Access if a not in (9, 8)])
@pytest.mark.parametrize("kind", ["r", "w", "x"])
def test_what_each_access_lets_through(access: pf.Access, kind: str) -> None:
    allowed = {0: "", 1: "r", 2: "w", 3: "rw", 4: "x", 5: "rx", 6: "wx", 7: "rwx", 10: "r"}[access]
    domain = running("arm=never")
    domain.mem_access.listener = lambda violation: None
    domain.p2m.set_mem_access(GFN, 1, access)
    assert (domain.vcpus[0].access(RAM, kind).fault is FaultKind.NONE) == (kind in allowed)
    assert domain.mem_access.violations == (kind not in allowed)


def test_tracking_and_mem_access_together() -> None:
    """An armed page stays armed when its rights change; it is resolved, then judged."""
    domain = running()
    domain.mem_access.listener = lambda violation: None
    domain.p2m.set_mem_access(GFN, 1, pf.Access.R)
    assert not domain.p2m.get_entry(GFN).reachable
    assert domain.vcpus[0].access(RAM, "w") == (1, PERMISSION)
    assert domain.p2m.harvest().pages == 1


# ---- Trapped registers: do_sysreg, do_cp15_32, do_cp15_64 ----


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("op", ["isw", "csw", "cisw"])
def test_set_way_by_its_syndrome(bits: int, op: str) -> None:
    domain = running(bits=bits)
    vcpu = domain.vcpus[0]
    vcpu.trap(set_way_esr(op, bits=bits))
    assert vcpu.flush_pending == "set-way"
    assert vcpu.traps_vm_registers
    assert domain.stats.set_way_traps == 1


@pytest.mark.parametrize("name", sorted(VM_REGISTERS))
def test_every_vm_register_by_its_syndrome(name: str) -> None:
    vcpu = running().vcpus[0]
    vcpu.set_way()
    vcpu.trap(sysreg_esr(name), 0x1234_5678_9ABC)
    assert vcpu.registers[name] == 0x1234_5678_9ABC
    assert vcpu.domain.stats.sysreg_traps == 1


def test_aarch32_registers_are_halves() -> None:
    vcpu = running(bits=32).vcpus[0]
    vcpu.set_way()
    vcpu.trap(sysreg_esr("MAIR_EL1", bits=32, half="low"), 0x11111111)
    vcpu.trap(sysreg_esr("MAIR_EL1", bits=32, half="high"), 0x22222222)
    assert vcpu.registers["MAIR_EL1"] == 0x22222222_11111111
    vcpu.trap(sysreg_esr("TTBR0_EL1", bits=32), 0x1_2345_6789_ABCD)  # by MCRR, whole
    assert vcpu.registers["TTBR0_EL1"] == 0x1_2345_6789_ABCD
    for name in AARCH32_VM_REGISTERS:
        vcpu.trap(sysreg_esr(name, bits=32), 7)
        assert vcpu.registers[name] == 7
    vcpu.trap(sysreg_esr("SCTLR_EL1", bits=32), 0b101)
    assert vcpu.caches_on
    assert not vcpu.traps_vm_registers
    assert vcpu.return_to_guest().cause == "set-way"


def test_other_traps_are_refused() -> None:
    vcpu = running().vcpus[0]
    for esr in (sysreg_esr("SCTLR_EL1", read=True), 0x62300000, abort_esr(TRANSLATION, 3), 0):
        with pytest.raises(ValueError, match="esr"):
            vcpu.trap(esr)


# ---- A whole boot ----


def access_by_syndromes(vcpu: pf.VCpu, gpas: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Each access as a simulator with an MMU of its own reports its faults: ESR, FAR and HPFAR."""
    letters = ["", "r", "w", "rw", "x", "rx", "wx", "rwx"]
    p2m = vcpu.domain.p2m
    kinds = np.asarray(kinds, np.uint8)
    rows = np.zeros(len(gpas), ACCESS_DTYPE)
    for bits in np.unique(kinds).tolist():
        chosen = np.flatnonzero(kinds == bits)
        faults = p2m.translate_many(np.asarray(gpas)[chosen], letters[bits])["fault"]
        for i in chosen[faults != 0].tolist():
            while True:
                try:
                    p2m.translate(int(gpas[i]), letters[bits])
                    break
                except pf.Stage2Fault as error:
                    result = vcpu.abort(error.esr, int(gpas[i]), error.hpfar)
                    assert result.outcome is pf.Outcome.RESOLVED
                    rows["traps"][i] += 1
    return rows


RECORDED = Path(__file__).parent / "data" / "guest_traces"
BOOTS = [*shipped(), *(str(path) for path in sorted(RECORDED.glob("*.npz")))]
XEN = "arm=creation-finished,resolve=level,flush=leaf"


@pytest.mark.parametrize(
    ("boot", "policy"),
    [(boot, "arm=creation-finished") for boot in BOOTS] + [(BOOTS[0], XEN), (BOOTS[0], "")],
    ids=lambda value: Path(value).stem,
)
def test_a_boot_through_syndromes_is_the_boot_through_accesses(
    boot: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = load(boot)
    expected = replay(guest, Policy.parse(policy), 0)
    monkeypatch.setattr(pf.VCpu, "access_many", access_by_syndromes)
    run = replay(guest, Policy.parse(policy), 0)
    assert (run.flushes, run.traps, run.pages_cleaned) == (
        expected.flushes,
        expected.traps,
        expected.pages_cleaned,
    )
    assert run.traps > 1000
