"""Real accesses of a guest with its own stage 1 on, as every operating system runs: FAR_EL2 is a
virtual address then, HPFAR_EL2 an IPA; and stage 2 may refuse the walk of the guest's own tables
(ESR_EL2.S1PTW), of which HPFAR_EL2 says the table's page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from conformance.guests import Guest, empty_guest
from conformance.qemu_mmu import FRAMES, Machine
from mmu_guest import ESR_ISS_OF_INSTRUCTION, GIB, IPA_BITS, KINDS, compare_access

import p2mfast as pf
from p2mfast.hypervisor.syndrome import Abort, decode

pytestmark = pytest.mark.conformance

ROOT_GFN, LEAVES_GFN = 2, 3  # the guest's tables; they map through stage 2 like all else
ROOT_MFN, LEAVES_MFN = FRAMES[0] + 7, FRAMES[0] + 5
STAGE_1_LEVEL = 2  # of the descriptors in LEAVES_GFN
VA = 5 << 30  # of the GiB that the guest's accesses go to
TABLE, BLOCK = 0x3, 0x701  # stage 1 descriptors: a block of Normal memory, EL1 may do all
S1PTW, WNR, FSC_LEVEL = 1 << 7, 1 << 6, 3


@dataclass
class Stage1:
    """The guest whose VA maps the last GiB of the IPA space, in blocks of 2 MiB, and whose code
    lies in a block of 1 GiB at 0."""

    guest: Guest
    ipa: int

    def va(self, ipa: int) -> int:
        return VA + ipa - self.ipa

    def descriptor(self, ipa: int) -> int:
        """The IPA of the guest's descriptor that maps `ipa`."""
        return (LEAVES_GFN << 12) + 8 * (ipa - self.ipa >> 21)


@pytest.fixture(params=IPA_BITS)
def stage_1(machine: Machine, request: pytest.FixtureRequest) -> Stage1:
    guest = empty_guest(machine, request.param, seed=0)
    guest.p2m.set_entry(ROOT_GFN, 1, ROOT_MFN)
    guest.p2m.set_entry(LEAVES_GFN, 1, LEAVES_MFN)
    first = guest.limit - GIB
    guest.regions = [first]
    guest.apply(*(guest.plan(9, armed=0.0) for _ in range(60)))
    guest.apply(*(guest.plan(0, armed=0.1) for _ in range(60)))
    root = machine.words(ROOT_MFN << 12, 512)
    root[:] = 0
    root[0] = BLOCK
    root[VA >> 30] = LEAVES_GFN << 12 | TABLE
    leaves = np.arange(512, dtype=np.uint64) << np.uint64(21)
    machine.words(LEAVES_MFN << 12, 512)[:] = leaves + np.uint64(first << 12 | BLOCK)
    guest.attach()
    machine.configure_stage_1(ROOT_GFN << 12)
    return Stage1(guest, first << 12)


def test_accesses(stage_1: Stage1) -> None:
    """All kinds of access, by virtual addresses."""
    guest = stage_1.guest
    successes = 0
    for ipa in guest.addresses(500, guest.spans).tolist():
        for kind in KINDS:
            successes += compare_access(guest, ipa, kind, stage_1.va(ipa))
    assert successes > 300
    assert guest.seen["TRANSLATION", 3] > 20
    assert guest.seen["PERMISSION", 3] > 20


def refused_walk(stage_1: Stage1, kind: str, ipa: int) -> Abort:
    """The abort of an access whose stage-1 walk stage 2 refuses; its registers are those of a read
    of the guest's descriptor, but for EC, S1PTW and FAR. WnR is not compared: QEMU says what the
    access does, not the walk. The level should be stage 2's; QEMU 7.2 says stage 1's."""
    guest = stage_1.guest
    abort = guest.machine.access(kind, stage_1.va(ipa)).abort
    with pytest.raises(pf.Stage2Fault) as raised:
        guest.p2m.translate(stage_1.descriptor(ipa), "r")
    assert abort is not None
    ec = 0x20 if kind == "x" else 0x24
    mask = ~(ESR_ISS_OF_INSTRUCTION | WNR | FSC_LEVEL)
    expected = raised.value.esr & 0x3FF_FFFF | ec << 26 | S1PTW
    assert abort.esr & mask == expected & mask
    assert abort.esr & FSC_LEVEL in (raised.value.level, STAGE_1_LEVEL)
    assert abort.far == stage_1.va(ipa)
    assert abort.hpfar == raised.value.hpfar == LEAVES_GFN << 4
    told = decode(abort.esr)
    assert isinstance(told, Abort)
    assert (told.s1ptw, told.kind) == (True, raised.value.kind)
    return told


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_walk(stage_1: Stage1, kind: str) -> None:
    """The guest's table armed, and unreadable; then the walk works again."""
    guest, ipa = stage_1.guest, stage_1.ipa + 0x20_4320
    p2m, machine = guest.p2m, guest.machine
    p2m.set_entry(ipa >> 12, 1, FRAMES[0] + 99)
    machine.obey()
    p2m.set_entry(LEAVES_GFN, 1, LEAVES_MFN, armed=True)
    machine.obey()
    assert refused_walk(stage_1, kind, ipa).kind == pf.FaultKind.TRANSLATION
    p2m.set_entry(LEAVES_GFN, 1, LEAVES_MFN, access=pf.Access.WX)
    machine.obey()
    assert refused_walk(stage_1, kind, ipa).kind == pf.FaultKind.PERMISSION
    p2m.set_entry(LEAVES_GFN, 1, LEAVES_MFN)
    machine.obey()
    assert compare_access(guest, ipa, kind, stage_1.va(ipa))


def test_traps_after_arming(stage_1: Stage1) -> None:
    """After arming, one store takes a trap for each page that it needs, the guest's tables first:
    resolved by HPFAR alone, it then lands in the right frame."""
    guest, ipa = stage_1.guest, stage_1.ipa + 0x20_4320
    p2m, machine = guest.p2m, guest.machine
    p2m.set_entry(ipa >> 12, 1, FRAMES[0] + 99)
    p2m.invalidate_root()
    machine.obey()
    traps = []
    while (abort := machine.access("w", stage_1.va(ipa), 0x1234).abort) is not None:
        told = decode(abort.esr)
        assert isinstance(told, Abort)
        traps.append((abort.hpfar >> 4, told.access, told.s1ptw))
        assert p2m.resolve_translation_fault(abort.hpfar >> 4)
        machine.obey()
    stub = guest.stub_gfn
    assert [(gfn, s1ptw) for gfn, _, s1ptw in traps] == [
        (ROOT_GFN, True),
        (stub, False),
        (LEAVES_GFN, True),
        (ipa >> 12, False),
    ]
    assert traps[1][1] == "x"
    assert traps[3][1] == "w"
    assert machine.words((FRAMES[0] + 99 << 12) + 0x320)[0] == 0x1234
    assert [gfn for gfn, _, _ in p2m.harvest().runs.tolist()] == [
        stub,
        ROOT_GFN,
        LEAVES_GFN,
        ipa >> 12,
    ]
