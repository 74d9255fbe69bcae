"""`p2mfast.adapters.unicorn.attach`: what whole guests (`test_guest_code`) do not show of it."""

from __future__ import annotations

import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import unicorn
from emulator_parts import (
    ACCESSES,
    BITS,
    FIRST,
    HOLE,
    MFN,
    RAM,
    RAM_PAGES,
    SUM,
    fault_of,
    machine_memory,
    number,
    put,
)
from guest_machine import MEMORY_PA, core_of
from unicorn import arm64_const as arm64

import p2mfast as pf
from p2mfast.adapters.unicorn import (
    Call,
    Core,
    GuestError,
    GuestException,
    MachineMemory,
    attach,
)
from p2mfast.hypervisor.syndrome import inject

# ---- The core walks the tables itself: a P2M without a domain ----


class Walker:
    """A P2M alone under a core."""

    def __init__(self, bits: int, **options: Any) -> None:
        self.bits, self.memory = bits, machine_memory()
        self.p2m = pf.P2M(40)
        self.uc = core_of(bits)
        self.memory.map(self.uc)
        self.core = attach(self.uc, self.p2m, **options)
        self.p2m.set_entry(FIRST, RAM_PAGES, MFN, max_order=0)  # its tables come after attach
        self.core.reset()

    def run(self, words: tuple[int, ...], *arguments: int, until: int | None = None) -> Call | None:
        put(self.memory, MEMORY_PA, words)
        for i, value in enumerate(arguments):
            self.core.set_register(i, value)
        return self.core.run(RAM, until, max_traps=1000)

    def sum(self, ipa: int, nr: int, stride: int = 4096) -> int:
        call = self.run(SUM[self.bits], ipa, stride, nr, 0, 0)
        assert call is not None
        assert call[:2] == ("hvc", 0)
        return self.core.register(4)


@BITS
def test_a_p2m_without_a_domain_tracks(bits: int) -> None:
    walker = Walker(bits)
    for first, nr in ((100, 50), (1500, 30)):
        walker.p2m.invalidate_root()
        total = walker.sum(RAM + (first << 12), nr)
        assert total == sum(number(MFN + first + i) for i in range(nr))
        assert walker.p2m.harvest().runs["gfn"].tolist() == [FIRST, FIRST + first]
    assert walker.core.traps == 51 + 31 + 2
    assert pf.EventKind.TLB_INVALIDATE in walker.p2m.drain_events()["kind"]


@BITS
@pytest.mark.parametrize("kind", ["r", "w", "x"])
def test_its_faults_are_the_embedders(bits: int, kind: str) -> None:
    seen: list[pf.Stage2Fault] = []
    walker = Walker(bits)
    walker.p2m.set_entry(FIRST + 7, 1, MFN + 7, access=pf.Access.N)
    for ipa in (HOLE, RAM + 0x7000):
        expected = fault_of(partial(walker.p2m.translate, ipa, kind))[1:5]
        call = partial(walker.run, ACCESSES[bits, kind], ipa)
        walker.core.on_fault = None
        assert fault_of(call)[:5] == (ipa, *expected)
        walker.core.on_fault = lambda fault: bool(seen.append(fault))
        assert fault_of(call)[:5] == (ipa, *expected)

    def on_fault(fault: pf.Stage2Fault) -> bool:
        walker.p2m.set_entry(fault.ipa >> 12, 1, MFN + 9)
        return True

    walker.core.on_fault = on_fault
    put(walker.memory, MEMORY_PA + 0x9000, ACCESSES[bits, "r"][1:] * 2)
    until = HOLE + 4 if kind == "x" else RAM + 4
    assert walker.run(ACCESSES[bits, kind], HOLE, until=until) is None
    assert walker.core.pc == until
    assert [fault.ipa for fault in seen] == [HOLE, RAM + 0x7000]


@BITS
def test_a_hook_stops_it(bits: int) -> None:
    walker = Walker(bits)
    walker.uc.hook_add(
        unicorn.UC_HOOK_CODE, lambda uc, *_: uc.emu_stop(), begin=RAM + 8, end=RAM + 8
    )
    assert walker.run(SUM[bits], RAM, 4096, 3) is None
    assert (walker.core.pc, walker.core.traps) == (RAM + 8, 0)


@BITS
def test_what_a_hook_raised_is_more_than_what_unicorn_says(bits: int) -> None:
    """Memory that is not there, and a hook for it that fails."""
    walker = Walker(bits)
    walker.p2m.set_entry(FIRST + 3, 1, 0x7000)
    with pytest.raises(unicorn.UcError) as raised:
        walker.sum(RAM + 0x3000, 1)
    assert raised.value.errno == unicorn.UC_ERR_READ_UNMAPPED
    walker.uc.hook_add(unicorn.UC_HOOK_MEM_READ_UNMAPPED, lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        walker.sum(RAM + 0x3000, 1)
    assert walker.sum(RAM + 0x4000, 1) == number(MFN + 4)


@BITS
def test_a_detached_core(bits: int) -> None:
    """Its addresses are the machine's, and the tables' place is free."""
    walker = Walker(bits)
    assert walker.sum(RAM + 0x1000, 2) == number(MFN + 1) + number(MFN + 2)
    walker.core.detach()
    walker.uc.mem_map(walker.p2m.table_base_mfn << 12, 4096)
    walker.core.set_register(0, MEMORY_PA + 0x2000)
    put(walker.memory, MEMORY_PA, ACCESSES[bits, "r"])
    walker.uc.emu_start(MEMORY_PA, MEMORY_PA + 4)
    assert walker.core.register(1) & 0xFFFF_FFFF == number(MFN + 2)


# ---- A domain's vCPU ----

EXAMPLE = Path(__file__).parent.parent / "examples" / "unicorn" / "guest.py"

IDENTIFY = {  # CTR; CSSELR written (1), and read; CCSIDR; CLIDR; HVC
    32: (0xEE100F30, 0xE3A05001, 0xEE405F10, 0xEE501F10, 0xEE302F10, 0xEE303F30, 0xE1400070),
    64: (0xD53B0020, 0xD2800025, 0xD51A0005, 0xD53A0001, 0xD5390002, 0xD5390023, 0xD4000002),
}
SIGNED = {  # ldrsb w1, [x0]; ldrsh x2, [x0, #2]; ldrb w3, [x0, #4]; hvc #0
    32: (0xE1D010D0, 0xE1D020F2, 0xE5D03004, 0xE1400070),
    64: (0x39C00001, 0x79800402, 0x39401003, 0xD4000002),
}
SVC = {32: (0xEF000007, 0xE1400070), 64: (0xD40000E1, 0xD4000002)}  # svc #7; hvc #0


def domain_core(bits: int, **options: Any) -> tuple[pf.Domain, Core, MachineMemory]:
    host = pf.Host("32MiB")
    domain = host.create_domain("8MiB", bits=bits, page_order=0)
    memory, uc = MachineMemory(MEMORY_PA, host.memory), core_of(bits)
    memory.map(uc)
    core = attach(uc, domain, **options)
    core.reset()
    domain.unpause()
    return domain, core, memory


def load(domain: pf.Domain, memory: MachineMemory, gpa: int, words: tuple[int, ...]) -> None:
    mfn = domain.p2m.get_entry(gpa >> 12).mfn
    assert mfn is not None
    put(memory, mfn << 12 | gpa & 0xFFF, words)


@BITS
def test_cache_identification(bits: int) -> None:
    """All that HCR_EL2.TID2 traps: the geometry that the guest is shown."""
    cache = pf.CacheGeometry(line=32, ways=2, sets=16)
    domain, core, memory = domain_core(bits, cache=cache)
    load(domain, memory, RAM, IDENTIFY[bits])
    call = core.run(RAM)
    assert call is not None
    ctr, selected, ccsidr, clidr = call.arguments
    assert (ctr >> 16 & 0xF, ctr >> 31) == (3, 1)  # DminLine: log2 of words; bit 31 is RES1
    assert (selected, ccsidr, clidr & 7, clidr >> 24 & 7) == (1, cache.ccsidr, 3, 1)
    shown, core.cache = call.arguments, None
    call = core.run(RAM)
    assert call is not None
    assert call.arguments[2] != shown[2]  # its own


@BITS
def test_emulated_loads_are_extended(bits: int) -> None:
    domain, core, memory = domain_core(bits)
    load(domain, memory, RAM, SIGNED[bits])
    domain.emulate(HOLE, 4096, lambda access: core.load(access, 0xFFFF_8181))
    core.set_register(0, HOLE)
    for i in (1, 2, 3):
        core.set_register(i, (1 << bits) - 1)
    call = core.run(RAM)
    assert call is not None
    wide = 0xFFFF_FFFF_FFFF_8181 if bits == 64 else 0xFFFF_8181
    assert call.arguments[1:] == (0xFFFF_FF81, wide, 0x81)


@BITS
def test_ram_that_comes_later(bits: int) -> None:
    """And the tables that it needs."""
    domain, core, memory = domain_core(bits)
    load(domain, memory, RAM, SUM[bits])
    for gpa in (0x8000_0000, 0x5000_0000):
        domain.populate(gpa >> 12, 16)
        load(domain, memory, gpa, (gpa >> 20,))
        for i, value in enumerate((gpa, 4096, 2, 0, 0)):
            core.set_register(i, value)
        core.run(RAM, max_traps=100)
        assert core.register(4) == gpa >> 20


@BITS
def test_the_guests_own_exceptions(bits: int) -> None:
    seen: list[GuestException] = []
    domain, core, memory = domain_core(bits)
    load(domain, memory, RAM, SVC[bits])
    with pytest.raises(GuestError, match="syndrome"):
        core.run(RAM)
    core.on_exception = lambda exception: not seen.append(exception)
    assert core.run(RAM) is not None
    assert [exception.esr for exception in seen] == [
        (0x11 if bits == 32 else 0x15) << 26 | 1 << 25 | 7
    ]


def test_a_fault_of_stage_1_is_none_of_stage_2() -> None:
    """At EL0 both have the same exception class."""
    seen: list[GuestException] = []
    domain, core, memory = domain_core(64, on_exception=lambda e: bool(seen.append(e)))
    load(domain, memory, RAM, ACCESSES[64, "r"])
    core.uc.reg_write(arm64.UC_ARM64_REG_PSTATE, 0x3C0)
    core.set_register(0, 1 << 60)  # beyond any address
    with pytest.raises(GuestError):
        core.run(RAM, max_traps=10)
    assert [exception.esr >> 26 for exception in seen] == [0x24]
    assert (seen[0].far, domain.stats.aborts) == (1 << 60, {})


VECTOR64 = (0xD5385200, 0xD5384001, 0xD5386002, 0xD40000A2)  # mrs x0, esr_el1; spsr; far; hvc #5


@pytest.mark.parametrize(
    ("pstate", "vector"), [(0x3C5, 0x200), (0x3C4, 0), (0x8000_03C0, 0x400)], ids=["1h", "1t", "0t"]
)
@pytest.mark.parametrize("kind", ["data-abort", "serror"])
def test_injected_by_where_it_comes_from(pstate: int, vector: int, kind: str) -> None:
    domain, core, memory = domain_core(64)
    load(domain, memory, RAM, ACCESSES[64, "r"])
    core.uc.reg_write(arm64.UC_ARM64_REG_PSTATE, pstate)
    core.write("VBAR_EL1", RAM + 0x2000)
    at = RAM + 0x2000 + vector + (0x180 if kind == "serror" else 0)
    load(domain, memory, at, VECTOR64)
    core.set_register(0, HOLE)
    if kind == "serror":
        core.inject(inject("serror", bits=64))
        call = core.run()
        esr = 0x2F << 26 | 1 << 25
    else:
        call = core.run(RAM)
        esr = (0x25 if pstate & 0xC else 0x24) << 26 | 1 << 25 | 0x10
        assert call is not None
        assert call.arguments[2] == HOLE
    assert call is not None
    assert (call.number, call.arguments[:2]) == (5, (esr, pstate))


def test_thumb_code() -> None:
    """Its instructions are of 2 and 4 bytes, and its undefined ones return nearer."""
    seen: list[tuple[bool, int, int]] = []
    domain, core, memory = domain_core(32)

    def device(access: pf.MmioAccess) -> None:
        seen.append((access.write, access.gpa - HOLE, access.size))
        if access.write:
            assert core.stored(access) == 5
        else:
            core.load(access, 0x1234)

    domain.emulate(HOLE, 4096, device)
    # movs r3, #5; strb r3, [r0, #1]; ldr r1, [r0, #4]; str.w r3, [r0, #8]
    # mcr p15, 0, r4, c7, c6, 2 (DCISW); udf #1; hvc #9
    load(domain, memory, RAM, (0x7043_2305, 0xF8C0_6841, 0xEE07_3008, 0xDE01_4F56, 0x8009_F7E0))
    core.set_register(0, HOLE)
    with pytest.raises(GuestError, match=f"{RAM + 14:#x}"):
        core.run(RAM | 1, max_traps=10)
    assert seen == [(True, 1, 1), (False, 4, 4), (True, 8, 4)]
    assert (domain.stats.set_way_traps, core.register(1)) == (1, 0x1234)
    core.write("VBAR_EL1", RAM + 0x2000)
    load(domain, memory, RAM + 0x2004, (0xE1B0F00E,))  # movs pc, lr
    core.on_exception = lambda _: not core.inject(inject("undefined", bits=32))
    call = core.run(max_traps=10)
    assert call is not None
    assert (call.number, core.pc) == (9, RAM + 20)


@BITS
def test_a_crash(bits: int) -> None:
    domain, core, memory = domain_core(bits)
    load(domain, memory, RAM, SUM[bits])
    domain.p2m.set_mem_access(FIRST + 1, 1, pf.Access.X)
    domain.mem_access.required = True
    core.set_register(0, RAM + 4096)
    with pytest.raises(GuestError, match="crashed"):
        core.run(RAM)
    assert domain.crashed


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    """It turns its caches on untrapped: what ends a batch of Set/Way has to know."""
    runpy.run_path(str(EXAMPLE))["main"]()
    assert "102 of 65,536 cleaned" in capsys.readouterr().out
