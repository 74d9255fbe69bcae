"""QEMU's MMU at EL2 walks the tables and gets where `translate` says.

AT S12E1R/W of addresses in bulk: output address, memory type and shareability, or fault kind and
level. Then real loads, stores, swaps and fetches of a guest at EL1: where they land, or ESR, FAR
and HPFAR of the abort. This is the oracle for what Unicorn's core cannot show: the whole of a
48-bit space, and address-size faults. How it is done stands in `qemu_mmu`; how the attributes of
both stages combine, in `guests`.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from conformance.guests import ATTR, empty_guest, make_guest
from conformance.qemu_mmu import FRAMES, TABLES, Machine, MissingProgram
from mmu_guest import (
    GIB,
    IPA_BITS,
    KINDS,
    ORDERS,
    PAR_ADDRESS,
    PAR_F,
    PAR_S,
    TYPES,
    Change,
    compare_access,
    compare_all,
    compare_at,
    path,
    spoil,
    u64,
)

import p2mfast as pf

pytestmark = pytest.mark.conformance

FRAME = FRAMES[0] + 0x1234


# ---- The machine ----


@pytest.mark.parametrize(
    ("program", "package"),
    [
        ("qemu-system-aarch64", "qemu-system-arm"),
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ],
)
def test_a_missing_program_is_named(
    monkeypatch: pytest.MonkeyPatch, program: str, package: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None if name == program else name)
    with pytest.raises(MissingProgram, match=f"{program} is not installed.*{package}"):
        Machine("max")


def test_what_qemu_says_is_told() -> None:
    with pytest.raises(RuntimeError, match="QEMU ended.*cortex-z1"):
        Machine("cortex-z1")


def test_a_lost_monitor_is_noticed() -> None:
    """It is made to copy from where there is nothing: an external abort at EL2."""
    with Machine("max") as machine, pytest.raises(RuntimeError, match="took an exception"):
        machine.do("at_read", **{"count": 1, "from": 1 << 47, "to": 1 << 47})


def test_an_abandoned_machine_ends() -> None:
    with Machine("max", idle_seconds=1) as machine:
        time.sleep(2)
        with pytest.raises(RuntimeError, match="QEMU ended"):
            machine.invalidate()


# ---- Maps ----


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_random_maps(machine: Machine, ipa_bits: int, seed: int) -> None:
    """Pages, blocks of 2 MiB and 1 GiB, holes, armed leaves and every type and access, in one root
    table or several, at any frame of 48 bits, in tables of a full space: two million addresses."""
    guest = make_guest(machine, ipa_bits, seed)
    assert min(guest.p2m.stats.mappings[1:]) > 0
    ipas = guest.addresses(50_000)
    assert compare_at(guest, ipas) > 10_000
    assert (guest.inside(ipas) >> u64(ipa_bits - 1)).any()
    for end in ("TRANSLATION", 0), ("TRANSLATION", 3), ("PERMISSION", 3), ("PERMISSION", 2):
        assert guest.seen[end] > 50, end


@pytest.mark.parametrize(("ipa_bits", "pages"), [(40, 70_000), (48, 35_000)])
def test_many_tables(machine: Machine, ipa_bits: int, pages: int) -> None:
    """More tables than are looked up in the shorter pipeline, for pages all over the space."""
    guest = empty_guest(machine, ipa_bits, seed=0)
    gfns = guest.rng.choice(1 << ipa_bits - 21, pages, replace=False).astype(np.uint64)
    gfns = gfns << u64(9) | guest.rng.integers(0, 512, len(gfns), np.uint64)
    guest.p2m.set_entries(gfns, guest.rng.integers(0, 1 << 36, len(gfns), np.uint64))
    assert guest.p2m.stats.tables > 65_536
    guest.attach()
    spans = [(gfn, 1) for gfn in gfns.tolist()]
    assert compare_at(guest, guest.addresses(60_000, spans)) > 60_000
    guest.p2m.harvest()
    guest.p2m.resolve_translation_faults(gfns[::2])
    machine.obey()
    assert compare_at(guest, guest.addresses(60_000, spans)) > 30_000


@pytest.mark.parametrize("order", [*ORDERS, None])
@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_the_end_of_the_space(machine: Machine, ipa_bits: int, order: int | None) -> None:
    """The last bytes of the space, mapped by a page, a block of 2 MiB or 1 GiB, or not at all, and
    addresses beyond it, one for each bit that there is."""
    guest = empty_guest(machine, ipa_bits, seed=0)
    if order is not None:
        first = guest.limit - (1 << order)
        guest.p2m.set_entry(first, 1 << order, guest.frame(GIB, 18))
    guest.attach()
    last = (guest.limit << 12) - 32
    beyond = np.array([1 << bit for bit in range(ipa_bits, machine.pa_range)], np.uint64)
    beyond = np.concatenate([beyond, beyond | u64(last)])
    for kind in KINDS:
        assert compare_access(guest, last, kind) == (order is not None)
    assert compare_at(guest, np.array([last], np.uint64)) == 2 * (order is not None)
    assert compare_at(guest, beyond) == 0
    assert guest.seen["TRANSLATION", 0] >= 2 * len(beyond)
    assert compare_all(guest, beyond) == 0


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_mem_access(machine: Machine, ipa_bits: int) -> None:
    """Restrictions of mem_access over a random map, each access, and their lifting."""
    guest = make_guest(machine, ipa_bits, seed=6)
    guest.p2m.enable_mem_access()
    for access in pf.Access:
        for gfn, nr in (guest.draw(*guest.spans) for _ in range(8)):
            guest.p2m.set_mem_access(gfn, min(nr, 1200), access)
        machine.obey()
        compare_at(guest, guest.addresses(2000))
    assert guest.seen["PERMISSION", 3] > 500
    for gfn, nr in guest.spans:
        guest.p2m.set_mem_access(gfn, nr, pf.Access.RWX)
    guest.p2m.enable_mem_access(False)
    machine.obey()
    assert compare_at(guest, guest.addresses(2000)) > 500


# ---- Attributes ----


@pytest.mark.parametrize("order", ORDERS)
def test_types(machine: Machine, order: int) -> None:
    """Every type with every access, as a page, a block of 2 MiB or of 1 GiB: whether it can be
    read and written, and its memory type and shareability, which are Xen's: Device-nGnRE,
    Non-cacheable, or else Write-Back; Outer Shareable if it is a device's, Inner if it is RAM."""
    guest = empty_guest(machine, 48, seed=order)
    cases = list(itertools.product(TYPES, pf.Access))
    nr = 1 << order
    for i, (mapped, access) in enumerate(cases, 2):
        guest.p2m.set_entry(i * nr, nr, guest.frame(nr, order), mapped, access)
    guest.attach()
    ipas = np.arange(2, len(cases) + 2, dtype=np.uint64) * u64(nr << 12)
    readable = sum(access in (1, 3, 5, 7, 8, 10) for access in pf.Access) * len(TYPES)
    writable = sum(access in (2, 3, 6, 7) for access in pf.Access) * sum(
        not mapped.name.endswith("_RO") for mapped in TYPES
    )
    assert compare_at(guest, ipas, "r") == readable
    assert compare_at(guest, ipas, "w") == writable
    shown = {pf.P2MType.MMIO_DIRECT_DEV: (0x04, 2), pf.P2MType.MMIO_DIRECT_NC: (0x44, 2),
             pf.P2MType.MMIO_DIRECT_C: (0xFF, 2)}  # fmt: skip
    for (mapped, _), par in zip(cases, machine.address_translate(ipas, "r").tolist(), strict=True):
        if not par & PAR_F:
            assert (par >> 56, par >> 7 & 3) == shown.get(mapped, (0xFF, 3)), mapped


@pytest.mark.parametrize("order", ORDERS)
def test_memory_attributes(machine: Machine, order: int) -> None:
    """Every MemAttr that is not reserved with every shareability, in descriptors of ours with these
    bits changed: they show as stage 1's Write-Back, Non-shareable leaves them."""
    guest = empty_guest(machine, 40, seed=order)
    nr = 1 << order
    cases = [(memattr, sh) for memattr in ATTR for sh in (0, 2, 3)]
    for i, (memattr, sh) in enumerate(cases, 1):
        guest.p2m.set_entry(i * nr + GIB, nr, guest.frame(nr, order))
        spoil(guest.p2m, path(guest.p2m, i * nr + GIB)[-1][1], (memattr ^ 0xF) << 2 | (sh ^ 3) << 8)
    guest.attach()
    ipas = np.arange(1, len(cases) + 1, dtype=np.uint64) * u64(nr << 12) + u64(GIB << 12)
    answers = guest.p2m.translate_many(ipas)
    assert [(a >> 2 & 0xF, a >> 8 & 3) for a in answers["attrs"].tolist()] == cases
    assert compare_at(guest, ipas) == 2 * len(cases)


# ---- Tracking ----


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_armed(machine: Machine, ipa_bits: int) -> None:
    """After arming everything faults at the root; path and level resolves make reachable what they
    say, one level a call; a harvest arms again."""
    guest = make_guest(machine, ipa_bits, seed=8, armed=0.1)
    p2m, root = guest.p2m, guest.p2m.root_level
    sample = guest.inside(guest.addresses(64))
    assert compare_at(guest, guest.addresses(500)) > 100
    for arm in (p2m.invalidate_root, p2m.harvest):
        arm()
        machine.obey()
        assert compare_at(guest, sample) == 0
        assert (p2m.translate_many(sample)["level"] == root).all()
        for ipa in guest.inside(guest.addresses(100)).tolist():
            p2m.resolve_translation_fault(ipa >> 12, "path", guest.draw(0, 0, 4, 9, 18))
            machine.obey()
            compare_at(guest, guest.neighbours(ipa, 12, 15, 20, 21, 29, 30))
        for ipa in sample.tolist()[:30]:
            for _ in range(root, 4):
                p2m.resolve_translation_fault(ipa >> 12, "level")
                machine.obey()
                compare_at(guest, guest.neighbours(ipa, 12, 21, 30))
        assert compare_at(guest, guest.addresses(2000)) > 50
        assert all(guest.seen["TRANSLATION", level] for level in range(root, 4))


# ---- Address size ----


def sizes() -> list[tuple[int, int]]:
    """IPA sizes with every smaller VTCR_EL2.PS, but for those that QEMU 7.2 does not walk from
    level 0 (`test_a_large_input`)."""
    pairs = itertools.product(IPA_BITS, (32, 36, 40, 42, 44))
    return [(ipa_bits, pa_bits) for ipa_bits, pa_bits in pairs if ipa_bits < 44 or pa_bits == 44]


@pytest.mark.parametrize(("ipa_bits", "pa_bits"), sizes())
def test_address_size(machine: Machine, ipa_bits: int, pa_bits: int) -> None:
    """An output address beyond VTCR_EL2.PS is an address-size fault of its descriptor's level (Arm
    ARM D8, address size faults): leaves of all three sizes around the limit, then tables too."""
    end = 1 << (pa_bits - 12)
    guest = make_guest(machine, ipa_bits, seed=1, pa_bits=pa_bits, frames=(0, 2 * end))
    whole = next(gfn for gfn, nr in reversed(guest.spans) if nr == GIB)
    guest.apply(Change(whole, GIB, end))
    guest.attach()
    assert compare_at(guest, guest.addresses(10_000)) > 100
    assert all(guest.seen["ADDRESS_SIZE", level] for level in (1, 2, 3)), guest.seen
    for level in range(guest.p2m.root_level, 3):
        before = guest.seen["ADDRESS_SIZE", level]
        tables: dict[int, int] = {}
        for gfn, _ in guest.spans:
            for (at, index), _below in itertools.pairwise(path(guest.p2m, gfn)):
                if at == level:
                    tables.setdefault(index, 1 << int(guest.rng.integers(pa_bits, 48)))
        assert tables, level
        for index, flip in tables.items():
            spoil(guest.p2m, index, flip)
        machine.copy_tables()
        compare_at(guest, guest.addresses(2000))
        assert guest.seen["ADDRESS_SIZE", level] > before + 500, level
        for index, flip in tables.items():
            spoil(guest.p2m, index, flip)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bit", range(32, 48))
def test_address_bits(machine: Machine, bit: int, order: int) -> None:
    """One bit of an output address: it gets through where PS has it, and faults where not."""
    for pa_bits in (32, 36, 40, 42, 44, 48):
        guest = empty_guest(machine, 32, seed=bit, pa_bits=pa_bits)
        guest.p2m.set_entry(GIB, 1 << order, 1 << (bit - 12))
        guest.attach()
        works = compare_at(guest, np.array([GIB << 12 | 0x120], np.uint64))
        assert works == 2 * (bit < pa_bits)
        assert guest.seen["ADDRESS_SIZE", 3 - order // 9] == 2 * (bit >= pa_bits)


# ---- Descriptors that the engine does not write ----


@pytest.mark.parametrize("ipa_bits", IPA_BITS)
def test_descriptors_from_elsewhere(machine: Machine, ipa_bits: int) -> None:
    """Leaves and tables as another hypervisor may leave them: any of valid, MemAttr, S2AP, SH, AF,
    DBM, contiguous, XN, the p2m type and the ignored bits changed, the reserved encoding at level
    3, and address bits below a block's size, which are not looked at."""
    guest = make_guest(machine, ipa_bits, seed=9, armed=0.0)
    spoilt: set[int] = set()
    blocks = set()
    sample = guest.inside(guest.addresses(600))
    for ipa in sample.tolist():
        on_the_way = path(guest.p2m, ipa >> 12)
        level, index = on_the_way[-1] if guest.rng.random() < 0.95 else guest.draw(*on_the_way)
        word = int(guest.p2m.tables.ravel()[index])
        if index in spoilt or not word & 1:
            continue
        bits = [0, *range(2, 11), 10, 6, 7, 51, 52, 54, *range(55, 63)]
        if level == 3:
            bits += [1, 1]
        elif not word & 2:
            # Bit 16 of a block is nT (FEAT_BBM), which says nothing of the address.
            bits += [*range(17, 39 - 9 * level), 12, 13, 14, 15] * 2
            blocks.add(level)
        for _ in range(guest.draw(1, 1, 2)):
            spoil(guest.p2m, index, 1 << guest.draw(*bits))
        spoilt.add(index)
    machine.copy_tables()
    assert len(spoilt) > 50
    assert blocks == {1, 2}
    assert compare_at(guest, np.concatenate([sample, guest.addresses(10_000)])) > 1000
    for fault in "ACCESS_FLAG", "TRANSLATION", "PERMISSION":
        assert guest.seen[fault, 3] > 20, fault


def test_the_access_flag_of_each_level(machine: Machine) -> None:
    """AF clear is a fault of the leaf's level, before a permission fault and after an address-size
    fault."""
    guest = empty_guest(machine, 44, seed=0, pa_bits=44)
    for order in ORDERS:
        for number, (mfn, access) in enumerate(
            [(GIB, pf.Access.RWX), (GIB, pf.Access.N), (1 << 33, pf.Access.RWX)], 1
        ):
            gfn = (order + number) * GIB
            guest.p2m.set_entry(gfn, 1 << order, mfn, access=access)
            spoil(guest.p2m, path(guest.p2m, gfn)[-1][1], 1 << 10)
        guest.attach()
        ipas = np.array([(order + number) * GIB << 12 for number in (1, 2, 3)], np.uint64)
        assert compare_at(guest, ipas) == 0
        level = 3 - order // 9
        assert guest.seen["ACCESS_FLAG", level] == 4
        assert guest.seen["ADDRESS_SIZE", level] == 2


@pytest.mark.parametrize("pa_bits", [32, 36, 40, 42, 44])
def test_a_large_input(machine: Machine, pa_bits: int) -> None:
    """A space larger than VTCR_EL2.PS has bits is fine if PARange has them. QEMU 7.2 takes PS for
    PARange, and faults all addresses at level 0, as is allowed only there."""
    p2m = empty_guest(machine, 48, seed=0, pa_bits=pa_bits).p2m
    p2m.set_entry(9, 1, FRAME % (1 << pa_bits - 12))
    machine.attach(p2m, 1, 48)
    answer = p2m.translate(9 << 12)
    (par,) = map(int, machine.address_translate(np.array([9 << 12], np.uint64), "r"))
    if par & PAR_F:
        assert par & (PAR_S | 0x7F) == PAR_S | 4 << 1 | PAR_F
    else:
        assert par & PAR_ADDRESS == answer.pa


def test_a_block_at_level_0(machine: Machine) -> None:
    """There are none of 512 GiB (Arm ARM D8.3.1): a translation fault of level 0. QEMU before 8.0
    takes it for one."""
    guest = empty_guest(machine, 48, seed=0)
    ipa = 5 << 39 | 0x12_3456_7000
    guest.p2m.set_entry(ipa >> 12, 1, FRAME)
    (_, index), *_below = path(guest.p2m, ipa >> 12)
    spoil(guest.p2m, index, int(guest.p2m.tables.ravel()[index]) ^ (7 << 39 | 0x7FD | 1 << 55))
    answer = guest.p2m.translate_many([ipa])[0]
    assert (answer["fault"], answer["level"]) == (pf.FaultKind.TRANSLATION, 0)
    guest.attach()
    (par,) = map(int, machine.address_translate(np.array([ipa], np.uint64), "r"))
    if par & PAR_F:
        assert par & (PAR_S | 0x7F) == PAR_S | 4 << 1 | PAR_F
    else:
        assert par & PAR_ADDRESS == ipa ^ (5 ^ 7) << 39


FLIPS = [(0, "r"), (1, "r"), (2, "r"), (6, "r"), (7, "w"), (8, "w"), (10, "r"), (12, "r"),
         (29, "w"), (47, "r")]  # fmt: skip


@pytest.mark.parametrize(("bit", "kind"), FLIPS)
def test_one_wrong_bit_shows(machine: Machine, bit: int, kind: str) -> None:
    """The comparison can fail: in the machine's copy of the tables, one bit of one leaf changed."""
    guest = empty_guest(machine, 48, seed=bit)
    gfn = guest.limit - 9
    guest.p2m.set_entry(gfn, 1, FRAME)
    guest.attach()
    ipas = np.array([gfn << 12], np.uint64)
    assert compare_at(guest, ipas, kind) == 1
    machine.words(TABLES + 8 * path(guest.p2m, gfn)[-1][1])[0] ^= u64(1 << bit)
    with pytest.raises(AssertionError, match="PAR"):
        compare_at(guest, ipas, kind)
