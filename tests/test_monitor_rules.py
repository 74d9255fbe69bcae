"""The monitor at EL2 traps as the Python VCpu does: its rules in C against vcpu.py, aborts.py and
syndrome.py; conditions and IT blocks against Unicorn, which executes them.

The exceptions that it injects are held against those of a real core's model in
conformance/test_qemu_exceptions.py; what is here of them is what ESR and FAR say.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
import unicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monitor_rules import (
    CAUSES,
    INJECTIONS,
    Action,
    Injection,
    Kind,
    Part,
    RegisterAccess,
    Rules,
    RulesVcpu,
    VmRegister,
)
from unicorn import arm_const as arm

import p2mfast as pf
from p2mfast.hypervisor import syndrome
from p2mfast.hypervisor.aborts import Outcome
from p2mfast.hypervisor.syndrome import SysRegTrap, hpfar, set_way_esr, sysreg_esr
from p2mfast.hypervisor.vcpu import AARCH32_VM_REGISTERS, VM_REGISTERS
from p2mfast.types import FaultKind

CP15, CP15_64, SYSTEM, FETCH, DATA = 0x03, 0x04, 0x18, 0x20, 0x24
IL = 1 << 25
CV = 1 << 24
RAM = 1 << 30
WORD = 0xFFFF_FFFF
NZCV = 28  # the lowest bit of them


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    return Rules(tmp_path_factory.mktemp("rules"))


# ---- System registers ----


def transfers(ec: int, rng: random.Random) -> Iterator[int]:
    """ESR_EL2 of every register and direction, by random general-purpose registers."""
    for esr in range(0, 1 << (18 if ec == SYSTEM else 16)):
        # CRm and the direction, CRn, op1 and op2; op0 of SYS; and what is said besides.
        iss = (esr & 0x1F) | (esr >> 5 & 0x7FF) << 10 | (esr >> 16) << 20
        yield ec << 26 | IL | rng.getrandbits(5) << 5 | iss


def pair_transfers(rng: random.Random) -> Iterator[int]:
    for opc1, crm, read, rt, rt2 in itertools.product(
        range(16), range(16), range(2), (0, 14, 31), (0, 3, 30)
    ):
        iss = opc1 << 16 | rt2 << 10 | rt << 5 | crm << 1 | read
        yield CP15_64 << 26 | IL | CV | rng.getrandbits(4) << 20 | iss


def says(access: RegisterAccess) -> SysRegTrap:
    """The C's answer, in the Python's words."""
    return SysRegTrap(
        name=VmRegister(access.name).name if access.name else None,
        read=access.read,
        rt=access.rt,
        rt2=None,
        set_way=access.kind == Kind.SET_WAY,
        half={Part.LOW: "low", Part.HIGH: "high"}.get(Part(access.part)),
    )


@pytest.mark.parametrize("ec", [CP15, SYSTEM])
def test_every_system_register(rules: Rules, ec: int) -> None:
    seen = set()
    for esr in transfers(ec, random.Random(ec)):
        access = rules.register_access(esr)
        expected = syndrome.decode(esr)
        assert says(access) == expected, hex(esr)
        assert (access.kind == Kind.VM_REGISTER) == (expected.name is not None)
        if expected.name:
            whole = Part["32"] if ec == CP15 else Part["64"]
            assert access.part in (whole, Part.LOW, Part.HIGH)
        seen.add((expected.name, expected.half, expected.set_way))
    assert {name for name, _, _ in seen if name} == VM_REGISTERS | (
        AARCH32_VM_REGISTERS if ec == CP15 else set()
    )
    assert (None, None, True) in seen


def test_every_pair_of_registers(rules: Rules) -> None:
    names = []
    for esr in pair_transfers(random.Random(4)):
        access = rules.register_access(esr)
        expected = syndrome.decode(esr)
        assert says(access).name == expected.name, hex(esr)
        assert (access.rt, access.rt2, access.read) == (expected.rt, expected.rt2, expected.read)
        assert access.kind == (Kind.VM_REGISTER if expected.name else Kind.OTHER)
        if expected.name:
            assert access.part == Part.PAIR
            names.append(expected.name)
    assert set(names) == {"TTBR0_EL1", "TTBR1_EL1"}


@pytest.mark.parametrize("ec", sorted(set(range(64)) - {CP15, CP15_64, SYSTEM}))
def test_no_other_class_is_a_register(rules: Rules, ec: int) -> None:
    for iss in (set_way_esr(), sysreg_esr("SCTLR_EL1")):
        access = rules.register_access(ec << 26 | iss & ~(0x3F << 26))
        assert (access.kind, access.name) == (Kind.OTHER, VmRegister.NONE)


# ---- Set/Way and the caches, in any order ----

SCTLR_VALUES = (0, 1, 4, 5, 0x30D0_1805, 0xC5_0838, 0x1004)
HALVES_32 = sorted(syndrome._CP15, key=str)

PAIRS_32 = [("TTBR0_EL1", None), ("TTBR1_EL1", None)]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set-way")),
        st.tuples(st.just("sctlr"), st.sampled_from(SCTLR_VALUES)),
        st.tuples(
            st.just("register"),
            st.integers(0, 99),
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**64 - 1),
        ),
        st.tuples(st.just("return")),
        st.tuples(st.just("reset")),
    ),
    max_size=40,
)


class Guest:
    """A vCPU of the monitor's: its registers, and the rules of what is trapped."""

    def __init__(self, rules: Rules, iommu_shared: bool) -> None:
        self.rules = rules
        self.iommu_shared = iommu_shared
        self.reset()

    def reset(self) -> None:
        self.state = RulesVcpu(True, 2)
        self.rules.reset(self.state)
        self.registers = dict.fromkeys(VM_REGISTERS | AARCH32_VM_REGISTERS, 0)
        self.undefined = False

    def trap(self, esr: int, rt: int, rt2: int) -> None:
        access = self.rules.register_access(esr)
        if access.kind == Kind.SET_WAY:
            self.undefined |= not self.rules.set_way(self.state, self.iommu_shared)
            return
        assert access.kind == Kind.VM_REGISTER
        assert not access.read
        name = VmRegister(access.name).name
        were_on = self.rules.caches_on(self.registers["SCTLR_EL1"])
        self.registers[name] = self.rules.written_value(access, self.registers[name], rt, rt2)
        are_on = self.rules.caches_on(self.registers["SCTLR_EL1"])
        self.rules.vm_register_written(self.state, were_on, are_on)


def vm_register_write(bits: int, which: int) -> int:
    """ESR_EL2 of one of them."""
    if bits == 64:
        names = sorted(VM_REGISTERS)
        return sysreg_esr(names[which % len(names)])
    choices = [*HALVES_32, *PAIRS_32]
    name, half = choices[which % len(choices)]
    return sysreg_esr(name, bits=32, half=half)


def moved(bits: int, esr: int, rt: int, rt2: int) -> int:
    """What the guest writes, as VCpu.trap wants it."""
    if bits == 64:
        return rt
    return (rt2 & WORD) << 32 | rt & WORD if esr >> 26 == CP15_64 else rt & WORD


@pytest.mark.parametrize("bits", [32, 64])
def test_what_a_write_leaves(rules: Rules, bits: int) -> None:
    """Of every register, and of every half: the other one stays."""
    rng = random.Random(bits)
    n = len(HALVES_32) + len(PAIRS_32) if bits == 32 else len(VM_REGISTERS)
    vcpu = pf.Host("64MiB").create_domain("2MiB", bits=bits).vcpus[0]
    guest = Guest(rules, iommu_shared=False)
    seen = set()
    for which in range(n):
        esr = vm_register_write(bits, which)
        name = syndrome.decode(esr).name
        for _ in range(10):
            old, rt, rt2 = (rng.getrandbits(64) for _ in range(3))
            vcpu.registers[name] = guest.registers[name] = old
            vcpu.trap(esr, moved(bits, esr, rt, rt2))
            guest.trap(esr, rt, rt2)
            assert guest.registers == vcpu.registers
        seen.add(rules.register_access(esr).part)
    assert seen == (set(Part) - {Part["64"]} if bits == 32 else {Part["64"]})


@pytest.mark.parametrize("iommu_shared", [False, True])
@pytest.mark.parametrize("bits", [32, 64])
def test_any_sequence_of_traps(rules: Rules, bits: int, iommu_shared: bool) -> None:
    causes = set()

    @settings(max_examples=300, deadline=None)
    @given(OPERATIONS)
    @example([("set-way",), ("return",), ("sctlr", 5), ("return",)])
    def run(operations: list[tuple]) -> None:
        domain = pf.Host("64MiB").create_domain(
            "2MiB", bits=bits, page_order=0, policy=pf.Policy(iommu_shared=iommu_shared)
        )
        domain.unpause()
        vcpu = domain.vcpus[0]
        guest = Guest(rules, iommu_shared)
        for name, *arguments in operations:
            if name == "return":
                causes.add(vcpu.flush_pending)
                record = vcpu.return_to_guest()
                assert (record.cause if record else None) == CAUSES[guest.state.pending]
                rules.flushed(guest.state)
            elif name == "reset":
                vcpu.reset()
                guest.reset()
            elif name == "set-way":
                vcpu.trap(set_way_esr(bits=bits))
                guest.trap(set_way_esr(bits=bits), 0, 0)
            else:
                if name == "sctlr":
                    esr, rt, rt2 = sysreg_esr("SCTLR_EL1", bits=bits), arguments[0], 0
                else:
                    esr, rt, rt2 = vm_register_write(bits, arguments[0]), *arguments[1:]
                vcpu.trap(esr, moved(bits, esr, rt, rt2))
                guest.trap(esr, rt, rt2)
            assert CAUSES[guest.state.pending] == vcpu.flush_pending
            assert guest.state.traps_vm_registers == vcpu.traps_vm_registers
            assert guest.undefined == (vcpu.pending_exception == "undefined")
            assert guest.registers == vcpu.registers

    run()
    assert causes == ({None} if iommu_shared else {None, "set-way", "cache-toggle"})


# ---- Aborts ----

GPAS = {
    "reachable": RAM,
    "armed": RAM + 0x20_0000,
    "read-only": RAM + 0x1000,
    "hole": 0x1000,
    "beyond": 1 << 40,
}
"""What the tables below have there."""


def tables(bits: int) -> pf.Domain:
    domain = pf.Host("1GiB").create_domain(
        "8MiB", bits=bits, page_order=0, policy=pf.Policy.parse("arm=creation-finished")
    )
    domain.p2m.set_entry(GPAS["read-only"] >> 12, 1, 0x12345, pf.P2MType.RAM_RO)
    domain.unpause()
    for name in ("reachable", "read-only"):
        domain.p2m.resolve_translation_fault(GPAS[name] >> 12)
    return domain


def by_the_rules(
    rules: Rules, domain: pf.Domain, esr: int, far: int, gpa: int, bits: int
) -> tuple[Outcome, tuple[int, dict[str, int]] | None]:
    """What the monitor does about an abort: the outcome, and what it injects."""
    abort = rules.abort(esr, far, hpfar(gpa), bits)
    access = {1: "r", 2: "w", 4: "x"}[abort.access]
    now = domain.p2m.translate_many(np.array([abort.gpa], np.uint64), access)[0]["fault"]
    action = rules.action(abort, now)
    if action is Action.RETRY:
        return Outcome.RETRY, None
    p2m = domain.p2m
    resolves = action is Action.RESOLVE and not abort.gpa >> p2m.ipa_bits
    if resolves and p2m.resolve_translation_fault(abort.gpa >> 12):
        return Outcome.RESOLVED, None
    kind = rules.injection(abort)
    if kind == Injection.SERROR:
        return Outcome.INJECTED, (kind, {})
    state = {"pstate": 0x1D3 if bits == 32 else 0x3C5, "tcr": 1 << 31}
    return Outcome.INJECTED, (
        kind,
        rules.inject(bits, kind, abort.far if abort.far_valid else None, **state),
    )


@pytest.mark.parametrize("bits", [32, 64])
def test_every_abort(rules: Rules, bits: int) -> None:
    """Every status code with every flag, of pages in every state."""
    python, monitor = tables(bits), tables(bits)
    vcpu = python.vcpus[0]
    rng = random.Random(bits)
    outcomes = set()
    flags = [sum(1 << bit for bit in chosen) for n in range(6)
             for chosen in itertools.combinations((6, 7, 8, 9, 10), n)]  # fmt: skip
    for ec, fsc, flag in itertools.product((FETCH, DATA), range(64), flags):
        where = rng.choice(list(GPAS))
        gpa = GPAS[where] + rng.randrange(0x1000)
        far = rng.choice((gpa & WORD, gpa & 0xFFF | 0xFFFF_8000_1234_5000))
        esr = ec << 26 | IL | flag | fsc | rng.getrandbits(1) << 24
        expected = vcpu.abort(esr, far, hpfar(gpa))
        outcome, injected = by_the_rules(rules, monitor, esr, far, gpa, bits)
        assert outcome is expected.outcome, (hex(esr), where)
        outcomes.add((where, outcome))
        assert bool(injected) == bool(expected.injected)
        if not injected:
            continue
        kind, state = injected
        assert INJECTIONS[kind] == expected.injected.kind
        if kind == Injection.SERROR:
            continue
        fetch = kind == Injection.PREFETCH_ABORT
        assert state["ifsr" if bits == 32 and fetch else "esr"] == expected.injected.esr
        if expected.injected.far is not None:
            assert state["far"] == expected.injected.far << (32 if bits == 32 and fetch else 0)
        if where == "armed":  # it is to be armed again for the next one
            for domain in (python, monitor):
                domain.p2m.invalidate_root()
    assert python.p2m.stats == monitor.p2m.stats
    assert outcomes >= {
        ("armed", Outcome.RESOLVED),
        ("reachable", Outcome.RETRY),
        ("read-only", Outcome.RETRY),
        ("read-only", Outcome.INJECTED),
        ("hole", Outcome.INJECTED),
        ("beyond", Outcome.INJECTED),
    }


def test_the_words_of_an_abort(rules: Rules) -> None:
    """Every field that decode() has too."""
    accesses = {1: "r", 2: "w", 4: "x"}
    for ec, iss in itertools.product((FETCH, DATA), range(1 << 11)):
        esr = ec << 26 | IL | iss
        abort, expected = rules.abort(esr, 0xABC, 0x1234_5670, 64), syndrome.decode(esr)
        assert abort.fault == (expected.kind or FaultKind.NONE)
        assert abort.level == (-1 if expected.level is None else expected.level)
        assert accesses[abort.access] == expected.access
        assert (abort.fetch, abort.maintenance) == (expected.fetch, expected.maintenance)
        assert (abort.stage1_walk, abort.far_valid) == (expected.s1ptw, not expected.fnv)
        assert abort.gpa == 0x12_3456_7ABC == syndrome.fault_ipa(0xABC, 0x1234_5670)


# ---- Injection: what the status and address registers say ----


@pytest.mark.parametrize("far", [None, 0x8765_4321])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_injected_syndromes(rules: Rules, kind: int, far: int | None) -> None:
    if kind == Injection.UNDEFINED and far is not None:
        far = None
    for pstate, from_el0 in ((0, True), (0x10, True), (0x3C4, False), (0x3C5, False)):
        state = rules.inject(64, kind, far, pstate=pstate, far=7)
        expected = syndrome.inject(INJECTIONS[kind], bits=64, far=far, from_el0=from_el0)
        assert state["esr"] == expected.esr
        assert state["far"] == (7 if expected.far is None else expected.far)
    # In AArch32 state each abort has registers of its own, and an undefined instruction has none.
    state = rules.inject(32, kind, far, pstate=0x1D3, tcr=1 << 31, esr=1, ifsr=2, far=0xB_0000_000A)
    expected = syndrome.inject(INJECTIONS[kind], bits=32, far=far)
    fetch, data = kind == Injection.PREFETCH_ABORT, kind == Injection.DATA_ABORT
    assert state["esr"] == (expected.esr if data else 1)
    assert state["ifsr"] == (expected.esr if fetch else 2)
    assert state["far"] & WORD == (far if data and far else 0xA)
    assert state["far"] >> 32 == (far if fetch and far else 0xB)


def test_flags_stay(rules: Rules) -> None:
    """NZCV and DIT do, on the way to AArch64 (Arm ARM, AArch64.TakeException): QEMU, which the rest
    of the state is held against, clears them."""
    flags = 0xF << NZCV | 1 << 24
    for pstate in (0, 4, 5, 0x10, 0x30):
        span = 1 << 23
        state = rules.inject(64, Injection.UNDEFINED, pstate=pstate | flags, sctlr=span)
        assert state["pstate"] == flags | 0x3C5
        assert rules.inject(64, Injection.UNDEFINED, pstate=pstate, sctlr=span)["pstate"] == 0x3C5


# ---- Instructions, against a core that executes them ----

ARM_CODE, THUMB_CODE = 0x1000, 0x2000
SVC = 0x1D3
THUMB = 1 << 5


class Core:
    """An AArch32 core of Unicorn's."""

    REGISTERS = (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3)

    def __init__(self) -> None:
        self._uc = unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM)
        self._uc.mem_map(0, 0x10000)

    def run(self, code: bytes, cpsr: int, pc: int) -> tuple[list[bool], int, int]:
        """Which of R0 to R3 are not 0 any more behind the code, PC and CPSR."""
        self._uc.mem_write(pc, code)
        self._uc.ctl_remove_cache(pc, pc + len(code))
        self._uc.reg_write(arm.UC_ARM_REG_CPSR, cpsr)
        for register in self.REGISTERS:
            self._uc.reg_write(register, 0)
        self._uc.emu_start(pc | bool(cpsr & THUMB), pc + len(code))
        return (
            [bool(self._uc.reg_read(register)) for register in self.REGISTERS],
            self._uc.reg_read(arm.UC_ARM_REG_PC) & ~1,
            self._uc.reg_read(arm.UC_ARM_REG_CPSR),
        )


def test_conditions_of_arm_instructions(rules: Rules) -> None:
    core = Core()
    for cond, flags in itertools.product(range(15), range(16)):
        cpsr = SVC | flags << NZCV
        move = (cond << 28 | 0x03A0_0001).to_bytes(4, "little")  # mov<cond> r0, #1
        executed, pc, after = core.run(move, cpsr, ARM_CODE)
        esr = CP15 << 26 | IL | CV | cond << 20
        assert rules.condition_holds(esr, cpsr) == executed[0], (cond, flags)
        assert rules.skip(esr, ARM_CODE, cpsr) == (pc, after)
    assert rules.condition_holds(CP15 << 26 | IL | CV | 0xF << 20, SVC)


def through_the_block(
    rules: Rules, wide: bool, cpsr: int, n: int
) -> tuple[list[bool], list[int], int]:
    """Which of n instructions the rules have executed, going on behind each, the state before
    each, and the address behind the last."""
    executed, states, pc = [], [], THUMB_CODE
    for _ in range(n):
        esr = CP15 << 26 | (IL if wide else 0)
        executed.append(rules.condition_holds(esr, cpsr))
        # The same where the core tells the condition, which is that of IT[7:4].
        assert rules.condition_holds(esr | CV | (cpsr >> 12 & 0xF) << 20, cpsr) == executed[-1]
        states.append(cpsr)
        pc, cpsr = rules.skip(esr, pc, cpsr)
    states.append(cpsr)
    return executed, states, pc


@pytest.mark.parametrize("wide", [False, True])
def test_it_blocks(rules: Rules, wide: bool) -> None:
    """Every IT instruction before moves of 2 or 4 bytes: those are executed, or not, as the rules
    say going on behind each; and a core that is set down in the middle, in the state that the rules
    left there, executes the rest as it would have."""
    core = Core()
    size = 4 if wide else 2
    moves = [bytes((0x4F, 0xF0, 1, r)) if wide else bytes((1, 0x20 | r)) for r in range(4)]
    blocks = 0
    for first, mask, flags in itertools.product(range(15), range(1, 16), range(16)):
        if first == 14 and mask not in (1, 2, 4, 8):
            continue  # "else" of "always": unpredictable
        blocks += 1
        n = 4 - (mask & -mask).bit_length() + 1
        it, block = bytes((first << 4 | mask, 0xBF)), b"".join(moves[:n])
        outside = SVC | THUMB | flags << NZCV
        # IT sets the state to its own low byte (F5.1, IT).
        inside = outside | (first << 4 | mask) >> 2 << 10 | (mask & 3) << 25
        executed, states, end = through_the_block(rules, wide, inside, n)
        done, pc, cpsr = core.run(it + block, outside, THUMB_CODE - len(it))
        assert (done, pc, cpsr) == (executed + [False] * (4 - n), end, states[n]), (first, mask)
        assert cpsr == outside
        for at in range(1, n):
            rest, _, cpsr = core.run(block[at * size :], states[at], THUMB_CODE + at * size)
            assert rest[:at] == [False] * at
            assert (rest[at:n], cpsr) == (executed[at:], outside)
    assert blocks == (14 * 15 + 4) * 16


def test_a_skipped_aarch64_instruction(rules: Rules) -> None:
    """No conditions, no IT: the bits of them are others'. BTYPE and SS are over (Arm ARM D1.3)."""
    btype, single_step = 3 << 10, 1 << 21
    for cond in range(16):
        esr = SYSTEM << 26 | IL | cond << 20
        for flags in range(16):
            pstate = flags << NZCV | 0x3C5
            assert rules.condition_holds(esr, pstate)
            assert rules.skip(esr, 0xFFFF_FFFF_0000_1000, pstate | btype | single_step) == (
                0xFFFF_FFFF_0000_1004,
                pstate,
            )


def test_the_end_of_the_address_space(rules: Rules) -> None:
    assert rules.skip(CP15 << 26 | IL, 0xFFFF_FFFC, SVC) == (0, SVC)
