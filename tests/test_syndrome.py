"""Syndromes against encodings worked by hand from the Arm ARM (DDI 0487), and round trips."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2mfast.errors import Stage2Fault
from p2mfast.hypervisor.syndrome import (
    Abort,
    Injected,
    Other,
    SysRegTrap,
    abort_esr,
    decode,
    fault_ipa,
    hpfar,
    inject,
    set_way_esr,
    sysreg_esr,
)
from p2mfast.hypervisor.vcpu import VM_REGISTERS
from p2mfast.types import FaultKind

ADDRESS_SIZE, TRANSLATION = FaultKind.ADDRESS_SIZE, FaultKind.TRANSLATION
ACCESS_FLAG, PERMISSION = FaultKind.ACCESS_FLAG, FaultKind.PERMISSION
EXTERNAL = FaultKind.EXTERNAL
FAULTS = [kind for kind in FaultKind if kind is not FaultKind.NONE]


def abort(kind: FaultKind | None, level: int | None, fsc: int, **more) -> Abort:
    """A data abort of a read by a 32-bit instruction, with nothing more said."""
    plain = {
        "fetch": False, "write": False, "maintenance": False, "s1ptw": False, "isv": False,
        "size": None, "sse": None, "srt": None, "sf": None, "ar": None, "fnv": False, "ea": False,
        "il": True,
    }  # fmt: skip
    return Abort(kind=kind, level=level, fsc=fsc, **{**plain, **more})


def described(size: int, srt: int, **more) -> dict:
    return {"isv": True, "size": size, "srt": srt, "sse": False, "sf": False, "ar": False, **more}


# ---- Aborts ----

ABORTS = {
    # LDR w1: EC 0x24, IL, ISV, SAS 2, SRT 1
    0x93810007: (abort(TRANSLATION, 3, 0x07, **described(4, 1)), "r"),
    # STR x0: SAS 3, SF, WnR
    0x93C08047: (abort(TRANSLATION, 3, 0x07, write=True, **described(8, 0, sf=True)), "w"),
    # LDRSH r3 in 16 bits of T32: no IL, SAS 1, SSE
    0x91630006: (abort(TRANSLATION, 2, 0x06, il=False, **described(2, 3, sse=True)), "r"),
    # LDAR w5: SAS 2, AR
    0x93854005: (abort(TRANSLATION, 1, 0x05, **described(4, 5, ar=True)), "r"),
    # STRB wzr: SAS 0, SRT 31
    0x931F004F: (abort(PERMISSION, 3, 0x0F, write=True, **described(1, 31)), "w"),
    # Nothing said of the instruction: what the fields hold then is not to be looked at
    0x9200004F: (abort(PERMISSION, 3, 0x0F, write=True), "w"),
    0x92FFC007: (abort(TRANSLATION, 3, 0x07), "r"),
    0x92000004: (abort(TRANSLATION, 0, 0x04), "r"),
    0x9200000A: (abort(ACCESS_FLAG, 2, 0x0A), "r"),
    0x92000000: (abort(ADDRESS_SIZE, 0, 0x00), "r"),
    0x92000043: (abort(ADDRESS_SIZE, 3, 0x03, write=True), "w"),
    # DC CIVAC: CM, and WnR as always
    0x92000147: (abort(TRANSLATION, 3, 0x07, maintenance=True), "r"),
    # S1PTW
    0x92000086: (abort(TRANSLATION, 2, 0x06, s1ptw=True), "r"),
    0x820000CD: (abort(PERMISSION, 1, 0x0D, fetch=True, s1ptw=True), "x"),
    # External aborts: not on a walk, with FnV, with EA; on a walk
    0x92000010: (abort(EXTERNAL, None, 0x10), "r"),
    0x92000410: (abort(EXTERNAL, None, 0x10, fnv=True), "r"),
    0x92000650: (abort(EXTERNAL, None, 0x10, fnv=True, ea=True, write=True), "w"),
    0x92000014: (abort(EXTERNAL, 0, 0x14), "r"),
    0x92000217: (abort(EXTERNAL, 3, 0x17, ea=True), "r"),
    # Instruction aborts; of the last, bits that only data aborts have
    0x82000007: (abort(TRANSLATION, 3, 0x07, fetch=True), "x"),
    0x8200000E: (abort(PERMISSION, 2, 0x0E, fetch=True), "x"),
    0x82000610: (abort(EXTERNAL, None, 0x10, fetch=True, fnv=True, ea=True), "x"),
    0x83810147: (abort(TRANSLATION, 3, 0x07, fetch=True), "x"),
    # Alignment, parity not on a walk and on one, tag check, TLB conflict, levels -2 and -1
    0x92000061: (abort(None, None, 0x21, write=True), "w"),
    0x92000018: (abort(None, None, 0x18), "r"),
    0x9200001D: (abort(None, None, 0x1D), "r"),
    0x92000011: (abort(None, None, 0x11), "r"),
    0x92000030: (abort(None, None, 0x30), "r"),
    0x9200002A: (abort(None, None, 0x2A), "r"),
    0x8200002B: (abort(None, None, 0x2B, fetch=True), "x"),
    0x92000013: (abort(None, None, 0x13), "r"),
}


@pytest.mark.parametrize("esr", ABORTS, ids=hex)
def test_aborts_worked_by_hand(esr: int) -> None:
    expected, access = ABORTS[esr]
    assert decode(esr) == expected
    assert decode(esr).access == access
    assert decode(0xFFFFFFFF << 32 | esr) == expected  # ISS2 is something else


def test_a_kind_and_a_level_for_24_of_64_codes() -> None:
    aborts = [decode(0x92000000 | fsc) for fsc in range(64)]
    assert [a.fsc for a in aborts if a.kind is not None] == [*range(17), 20, 21, 22, 23]
    assert [a.level for a in aborts if a.level is not None] == [0, 1, 2, 3] * 5
    assert [a.kind for a in aborts[:16:4]] == [ADDRESS_SIZE, TRANSLATION, ACCESS_FLAG, PERMISSION]


@st.composite
def reported(draw: st.DrawFn) -> tuple[FaultKind, int | None, dict]:
    """The arguments of an abort that can be."""
    kind = draw(st.sampled_from(FAULTS))
    level = draw(st.integers(0, 3) if kind is not EXTERNAL else st.none() | st.integers(0, 3))
    fetch = draw(st.booleans())
    s1ptw = draw(st.booleans())
    more = {
        "fetch": fetch,
        "s1ptw": s1ptw,
        "write": not fetch and draw(st.booleans()),
        "isv": not fetch and not s1ptw and draw(st.booleans()),
        "ea": kind is EXTERNAL and draw(st.booleans()),
        "fnv": level is None and draw(st.booleans()),
    }
    return kind, level, more


@given(reported(), st.sampled_from([1, 2, 4, 8]), st.integers(0, 31))
def test_aborts_there_and_back(given_: tuple, size: int, srt: int) -> None:
    kind, level, more = given_
    found = decode(abort_esr(kind, level, size=size, srt=srt, **more))
    assert isinstance(found, Abort)
    assert (found.kind, found.level) == (kind, level)
    assert {name: getattr(found, name) for name in more} == more
    said = (size, srt, size == 8) if more["isv"] else (None, None, None)
    assert (found.size, found.srt, found.sf) == said
    assert found.il
    assert not found.maintenance
    assert not found.sse
    assert not found.ar


@pytest.mark.parametrize(
    ("esr", "expected"),
    [
        (abort_esr(TRANSLATION, 3, isv=True, srt=1), 0x93810007),
        (abort_esr(TRANSLATION, 3, isv=True, size=8, write=True), 0x93C08047),
        (abort_esr(TRANSLATION, 3, size=8, srt=31), 0x92000007),
        (abort_esr(PERMISSION, 2, fetch=True), 0x8200000E),
        (abort_esr(PERMISSION, 1, fetch=True, s1ptw=True), 0x8200008D),
        (abort_esr(EXTERNAL, None, fnv=True, ea=True, write=True), 0x92000650),
        (abort_esr(EXTERNAL, 3), 0x92000017),
        (abort_esr(ADDRESS_SIZE, 0), 0x92000000),
        (abort_esr(ACCESS_FLAG, 2, isv=True, size=1, srt=30), 0x931E000A),
    ],
)
def test_abort_esr_by_hand(esr: int, expected: int) -> None:
    assert esr == expected


@pytest.mark.parametrize("access", ["r", "w", "x"])
@pytest.mark.parametrize("kind", FAULTS)
def test_the_engine_faults_say_the_same(kind: FaultKind, access: str) -> None:
    fault = Stage2Fault(0x4008_1234, 2, kind, access, write=access == "w")
    found = decode(fault.esr)
    assert isinstance(found, Abort)
    assert (found.kind, found.level, found.access) == (kind, 2, access)
    assert fault.esr == abort_esr(kind, 2, write=access == "w", fetch=access == "x")
    assert fault_ipa(0x234, fault.hpfar) == fault.ipa
    assert hpfar(fault.ipa) == fault.hpfar


# ---- Registers ----

AARCH64 = {
    "SCTLR_EL1": 0x62300400, "TTBR0_EL1": 0x62300800, "TTBR1_EL1": 0x62320800,
    "TCR_EL1": 0x62340800, "AFSR0_EL1": 0x62301402, "AFSR1_EL1": 0x62321402,
    "ESR_EL1": 0x62301404, "FAR_EL1": 0x62301800, "MAIR_EL1": 0x62302804,
    "AMAIR_EL1": 0x62302806, "CONTEXTIDR_EL1": 0x62323400,
}  # fmt: skip
AARCH32 = [
    ("SCTLR", 0x0FE00400, "SCTLR_EL1", None),
    ("TTBR0", 0x0FE00800, "TTBR0_EL1", "low"),
    ("TTBR1", 0x0FE20800, "TTBR1_EL1", "low"),
    ("TTBCR", 0x0FE40800, "TCR_EL1", "low"),
    ("TTBCR2", 0x0FE60800, "TCR_EL1", "high"),
    ("DACR", 0x0FE00C00, "DACR32_EL2", None),
    ("DFSR", 0x0FE01400, "ESR_EL1", None),
    ("IFSR", 0x0FE21400, "IFSR32_EL2", None),
    ("ADFSR", 0x0FE01402, "AFSR0_EL1", None),
    ("AIFSR", 0x0FE21402, "AFSR1_EL1", None),
    ("DFAR", 0x0FE01800, "FAR_EL1", "low"),
    ("IFAR", 0x0FE41800, "FAR_EL1", "high"),
    ("MAIR0", 0x0FE02804, "MAIR_EL1", "low"),
    ("MAIR1", 0x0FE22804, "MAIR_EL1", "high"),
    ("AMAIR0", 0x0FE02806, "AMAIR_EL1", "low"),
    ("AMAIR1", 0x0FE22806, "AMAIR_EL1", "high"),
    ("CONTEXTIDR", 0x0FE23400, "CONTEXTIDR_EL1", None),
]


def test_every_vm_register_is_here() -> None:
    assert set(AARCH64) == VM_REGISTERS
    assert {name for _, _, name, _ in AARCH32} == VM_REGISTERS | {"DACR32_EL2", "IFSR32_EL2"}


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("rt", [0, 5, 31])
@pytest.mark.parametrize("name", AARCH64)
def test_aarch64_registers(name: str, rt: int, read: bool) -> None:
    esr = AARCH64[name] + 0x20 * rt + read
    assert decode(esr) == SysRegTrap(name, read, rt, None, False, None)
    assert sysreg_esr(name, read=read, rt=rt) == esr


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("rt", [0, 2, 14])
@pytest.mark.parametrize("register", AARCH32, ids=lambda register: register[0])
def test_aarch32_registers(register: tuple, rt: int, read: bool) -> None:
    _, write_r0, name, half = register
    esr = write_r0 + 0x20 * rt + read
    expected = SysRegTrap(name, read, rt, None, False, half)
    assert decode(esr) == expected
    assert decode(esr & ~(0x1F << 20)) == expected  # a T32 instruction: CV is 0
    assert sysreg_esr(name, bits=32, read=read, rt=rt, half=half) == esr


@pytest.mark.parametrize(
    ("esr", "name", "read", "rt", "rt2"),
    [
        (0x13E00404, "TTBR0_EL1", False, 0, 1),
        (0x13E10404, "TTBR1_EL1", False, 0, 1),
        (0x13E00C45, "TTBR0_EL1", True, 2, 3),
        (0x13E11545, "TTBR1_EL1", True, 10, 5),
    ],
)
def test_mcrr_and_mrrc(esr: int, name: str, read: bool, rt: int, rt2: int) -> None:
    assert decode(esr) == SysRegTrap(name, read, rt, rt2, False, None)
    assert sysreg_esr(name, bits=32, read=read, rt=rt, rt2=rt2) == esr


def test_mcrr_takes_r0_unless_told() -> None:
    assert sysreg_esr("TTBR1_EL1", bits=32) == 0x13E10004


@pytest.mark.parametrize(
    ("esr", "rt2"),
    [
        (0x62300402, None),  # S3_0_C1_C1_0
        (0x62200400, None),  # op0 2
        (0x62304400, None),  # op1 1
        (0x62360800, None),  # op2 3: TCR2_EL1
        (0x0FE20400, None),  # ACTLR
        (0x0FE04400, None),  # opc1 1
        (0x13E20404, 1),  # opc1 2 of CRm 2
        (0x13E00406, 1),  # opc1 0 of CRm 3
    ],
)
def test_other_registers_have_no_name(esr: int, rt2: int | None) -> None:
    assert decode(esr) == SysRegTrap(None, False, 0, rt2, False, None)


SET_WAY = [
    ("isw", 64, 0x62141C0C), ("csw", 64, 0x62141C14), ("cisw", 64, 0x62141C1C),
    ("isw", 32, 0x0FE41C0C), ("csw", 32, 0x0FE41C14), ("cisw", 32, 0x0FE41C1C),
]  # fmt: skip


@pytest.mark.parametrize("rt", [0, 11])
@pytest.mark.parametrize(("op", "bits", "esr"), SET_WAY)
def test_set_way(op: str, bits: int, esr: int, rt: int) -> None:
    esr += 0x20 * rt
    assert decode(esr) == SysRegTrap(None, False, rt, None, True, None)
    assert set_way_esr(op, bits=bits, rt=rt) == esr
    if op == "cisw" and bits == 64:
        assert set_way_esr(rt=rt) == esr
    # A read, another op2, op1, CRm or CRn, and in AArch64 state another op0, are something else.
    for bit in (0, 17, 14, 1, 10, *([20, 21] if bits == 64 else [])):
        near = decode(esr ^ 1 << bit)
        assert isinstance(near, SysRegTrap)
        assert not near.set_way, bit


def test_no_other_transfer_is_set_way() -> None:
    """Every op0, op1, CRn, CRm, op2 and direction."""
    fields = [field for field in range(1 << 22) if not field >> 5 & 0x1F]
    found = [f for f in fields if decode(0x62000000 | f).set_way]
    assert found == [0x141C0C, 0x141C14, 0x141C1C]
    named = {decode(0x62000000 | f).name for f in fields} - {None}
    assert named == VM_REGISTERS


@pytest.mark.parametrize(
    ("esr", "expected"),
    [
        (0x5A000012, Other(0x16, 0x12)),  # HVC #0x12
        (0x07E00001, Other(0x01, 0x1E00001)),  # WFE
        (0x96000010, Other(0x25, 0x10)),  # a data abort of EL2 itself
        (0x86000007, Other(0x21, 0x07)),
        (0x17E00404, Other(0x05, 0x1E00404)),  # CP14
        (0, Other(0, 0)),
        (2**64 - 1, Other(0x3F, 0x1FFFFFF)),
    ],
)
def test_others(esr: int, expected: Other) -> None:
    assert decode(esr) == expected


@given(st.integers(0, 2**64 - 1))
def test_every_value_decodes(esr: int) -> None:
    found = decode(esr)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "x"
    classes = {0x20: Abort, 0x24: Abort, 0x03: SysRegTrap, 0x04: SysRegTrap, 0x18: SysRegTrap}
    assert type(found) is classes.get(esr >> 26 & 0x3F, Other)


# ---- Addresses ----


@pytest.mark.parametrize(
    ("ipa", "far", "register"),
    [
        (0x4008_1234, 0xFFFF_8000_1000_0234, 0x40_0810),
        (0, 0xFFFF_FFFF_FFFF_F000, 0),
        (0xFF_FFFF_FFFF, 0xC000_0FFF, 0xFFFF_FFF0),  # all of AArch32's HPFAR
        (0xFFFF_FFFF_F001, 0x001, 0xFF_FFFF_FFF0),  # 48 bits: FIPA in 39:4
        (0xF_FFFF_FFFF_F001, 0x001, 0xFFF_FFFF_FFF0),  # 52 bits: 43:4
        (0xFF_FFFF_FFFF_FABC, 0xABC, 0xFFFF_FFFF_FFF0),
    ],
)
def test_fault_ipa(ipa: int, far: int, register: int) -> None:
    assert hpfar(ipa) == register
    assert fault_ipa(far, register) == ipa
    # NS, and the bits that are reserved, are no address.
    assert fault_ipa(far, register | 1 << 63 | 0x7FFF << 48 | 0xF) == ipa


@given(st.integers(0, 2**56 - 1), st.integers(0, 2**52 - 1))
def test_fault_ipa_there_and_back(ipa: int, page: int) -> None:
    assert fault_ipa(page << 12 | ipa & 0xFFF, hpfar(ipa)) == ipa


# ---- Injection ----


@pytest.mark.parametrize(
    ("kind", "bits", "far", "el1", "el0"),
    [
        ("undefined", 64, None, 0x02000000, 0x02000000),
        ("data-abort", 64, 0xFFFF_0000_0000_1234, 0x96000010, 0x92000010),
        ("data-abort", 64, None, 0x96000410, 0x92000410),
        ("instruction-abort", 64, 0, 0x86000010, 0x82000010),
        ("instruction-abort", 64, None, 0x86000410, 0x82000410),
        ("serror", 64, None, 0xBE000000, 0xBE000000),
        ("undefined", 32, None, 0, 0),
        ("data-abort", 32, 0xC000_1234, 0x210, 0x210),
        ("data-abort", 32, None, 0x10210, 0x10210),
        ("instruction-abort", 32, 0, 0x210, 0x210),
        ("instruction-abort", 32, None, 0x10210, 0x10210),
        ("serror", 32, None, 0x211, 0x211),
    ],
)
def test_inject(kind: str, bits: int, far: int | None, el1: int, el0: int) -> None:
    assert inject(kind, bits=bits, far=far) == Injected(kind, el1, far)
    assert inject(kind, bits=bits, far=far, from_el0=True) == Injected(kind, el0, far)


# ---- Arguments ----


@pytest.mark.parametrize("integer", [np.uint32, np.int64, np.uint64])
def test_numpy_integers(integer: type) -> None:
    assert decode(integer(0x0FE41C1C)) == decode(0x0FE41C1C)
    found = decode(np.uint64(0x93C08047))
    assert found == decode(0x93C08047)
    assert type(found.srt) is int
    assert type(found.size) is int
    made = [
        abort_esr(TRANSLATION, integer(3), isv=True, size=integer(8), srt=integer(2)),
        sysreg_esr("MAIR_EL1", rt=integer(2)),
        set_way_esr(rt=integer(2)),
        hpfar(integer(0x4008_1000)),
        fault_ipa(integer(0x123), integer(0x400810)),
        inject("data-abort", bits=64, far=integer(1)).far,
    ]
    assert made == [0x93C28007, 0x62302844, 0x62141C5C, 0x400810, 0x40081123, 1]
    assert {type(value) for value in made} == {int}


@pytest.mark.parametrize("value", [True, False, np.True_, 1.0, np.float64(4), "0x92000007", None])
@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("esr", decode),
        ("ipa", hpfar),
        ("far", lambda value: fault_ipa(value, 0)),
        ("hpfar", lambda value: fault_ipa(0, value)),
        ("rt", lambda value: sysreg_esr("SCTLR_EL1", rt=value)),
        ("rt", lambda value: set_way_esr(rt=value)),
        ("srt", lambda value: abort_esr(TRANSLATION, 3, isv=True, srt=value)),
    ],
)
def test_no_integer(argument: str, call, value: object) -> None:
    with pytest.raises(TypeError, match=rf"^{argument} must be an integer, not ") as caught:
        call(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: decode(-1), r"esr must be from 0 to 2\*\*64 - 1, not -0x1"),
        (lambda: decode(2**64), r"esr must be from 0 to 2\*\*64 - 1, not 0x1" + "0" * 16),
        (lambda: decode(np.int64(-5)), "esr must .*, not -0x5"),
        (lambda: hpfar(2**56), "ipa must .*, not 0x1" + "0" * 14),
        (lambda: fault_ipa(-1, 0), "far must .*, not -0x1"),
        (lambda: fault_ipa(0, 2**64), "hpfar must .*, not 0x1"),
        (lambda: abort_esr(FaultKind.NONE, 1), "kind must be a fault, not .*NONE"),
        (lambda: abort_esr(TRANSLATION, 4), "level must .*, not 0x4"),
        (lambda: abort_esr(TRANSLATION, -1), "level must .*, not -0x1"),
        (lambda: abort_esr(PERMISSION, None), "level must be from 0 to 3 for .*, not None"),
        (lambda: abort_esr(TRANSLATION, 3, fetch=True, write=True), "write must be False"),
        (lambda: abort_esr(TRANSLATION, 3, fetch=True, isv=True), "isv must be False"),
        (lambda: abort_esr(TRANSLATION, 3, s1ptw=True, isv=True), "isv must be False"),
        (lambda: abort_esr(TRANSLATION, 3, ea=True), "ea must be False"),
        (lambda: abort_esr(EXTERNAL, 3, fnv=True), "fnv must be False for a fault of level 3"),
        (lambda: abort_esr(TRANSLATION, 3, isv=True, size=3), "size must .*, not 3"),
        (lambda: abort_esr(TRANSLATION, 3, isv=True, size=True), "size must .*, not True"),
        (lambda: abort_esr(TRANSLATION, 3, isv=True, srt=32), "srt must .*, not 0x20"),
        (lambda: sysreg_esr("SCTLR_EL2"), "AArch64 state, not 'SCTLR_EL2' and None"),
        (lambda: sysreg_esr("DACR32_EL2"), "AArch64 state, not 'DACR32_EL2' and None"),
        (lambda: sysreg_esr("MAIR_EL1", half="low"), "AArch64 state, not 'MAIR_EL1' and 'low'"),
        (lambda: sysreg_esr("MAIR_EL1", bits=32), "AArch32 state, not 'MAIR_EL1' and None"),
        (lambda: sysreg_esr("TTBR0_EL1", bits=32, half="high"), "not 'TTBR0_EL1' and 'high'"),
        (lambda: sysreg_esr("SCTLR_EL1", bits=16), "bits must be 32 or 64, not 16"),
        (lambda: sysreg_esr("SCTLR_EL1", rt=32), "rt must .*, not 0x20"),
        (lambda: sysreg_esr("TTBR0_EL1", bits=32, rt2=32), "rt2 must .*, not 0x20"),
        (lambda: sysreg_esr("TTBR0_EL1", rt2=1), "rt2 must be None .*, not 1"),
        (lambda: sysreg_esr("SCTLR_EL1", bits=32, rt2=1), "rt2 must be None .*, not 1"),
        (lambda: set_way_esr("civac"), "op must be one of 'isw', 'csw', 'cisw', not 'civac'"),
        (lambda: set_way_esr(bits=0), "bits must be 32 or 64, not 0"),
        (lambda: set_way_esr(rt=-1), "rt must .*, not -0x1"),
        (lambda: inject("irq", bits=64), "kind must be one of .*, not 'irq'"),
        (lambda: inject("serror", bits=8), "bits must be 32 or 64, not 8"),
        (lambda: inject("data-abort", bits=32, far=2**32), "far must .*, not 0x100000000"),
        (lambda: inject("undefined", bits=64, far=4), "far must be None for 'undefined', not 0x4"),
        (lambda: inject("serror", bits=32, far=4), "far must be None for 'serror', not 0x4"),
    ],
)
def test_out_of_range(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("kind", [1, True, "TRANSLATION", None])
def test_a_kind_is_a_fault_kind(kind: object) -> None:
    with pytest.raises(TypeError, match=rf"kind must be a FaultKind, not {kind!r}"):
        abort_esr(kind, 3)
