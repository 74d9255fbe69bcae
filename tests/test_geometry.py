"""Geometry, VTCR_EL2 and VTTBR_EL2 against the Arm ARM (DDI 0487, D8.2 and D19.2) and real Xen."""

from __future__ import annotations

import pytest

import p2mfast as pf

PS = {32: 0, 36: 1, 40: 2, 42: 3, 44: 4, 48: 5}


@pytest.mark.parametrize("pa_bits", PS)
@pytest.mark.parametrize(
    ("ipa_bits", "level", "pages"),
    [(32, 1, 1), (36, 1, 1), (40, 1, 2), (42, 1, 8), (44, 0, 1), (48, 0, 1)],
)
def test_registers(ipa_bits: int, level: int, pages: int, pa_bits: int) -> None:
    p2m = pf.P2M(ipa_bits, pa_bits=pa_bits, vmid=7)
    assert (p2m.root_level, p2m.root_pages) == (level, pages)
    # One root table resolves 9 bits above its level's entries; the rest is concatenated.
    entry_bits = 12 + 9 * (3 - level)
    assert max(1, 1 << max(0, ipa_bits - entry_bits - 9)) == pages
    vtcr = p2m.vtcr
    assert vtcr & 0x3F == 64 - ipa_bits  # T0SZ
    assert vtcr >> 6 & 3 == {2: 0, 1: 1, 0: 2}[level]  # SL0, 4 KiB granule
    assert vtcr >> 8 & 3 == 1  # IRGN0: Write-Back, Write-Allocate
    assert vtcr >> 10 & 3 == 1  # ORGN0
    assert vtcr >> 12 & 3 == 3  # SH0: inner shareable
    assert vtcr >> 14 & 3 == 0  # TG0: 4 KiB
    assert vtcr >> 16 & 7 == PS[pa_bits]
    assert vtcr >> 19 & 1 == 0  # VS: 8-bit VMIDs
    assert vtcr >> 31 & 1 == 1  # RES1
    assert p2m.vttbr >> 48 == 7
    root = p2m.vttbr & (2**48 - 1)
    assert root % (pages * 4096) == 0
    assert root >> 12 == p2m.table_base_mfn
    assert root >> pa_bits == 0


def test_vtcr_is_what_a_real_xen_wrote() -> None:
    """Xen 4.17 on arm64 with 40 bits of IPA and PA (real_p2m/README.md: VTCR 0x80023558)."""
    assert pf.P2M(40, pa_bits=40).vtcr == 0x80023558


def test_a_16_bit_vmid_sets_vs() -> None:
    p2m = pf.P2M(vmid=0xABCD)
    assert p2m.vtcr >> 19 & 1 == 1
    assert p2m.vttbr >> 48 == 0xABCD


def test_table_base_is_where_it_was_asked_for() -> None:
    p2m = pf.P2M(42, table_base_mfn=0x1234_5678)
    p2m.set_entry(0, 1, 5)
    assert p2m.table_base_mfn == 0x1234_5678
    assert p2m.vttbr & (2**48 - 1) == 0x1234_5678 << 12
    pointer = int(p2m.tables[0, 0])
    assert pointer & 0xFFFF_FFFF_F000 == (0x1234_5678 + 8) << 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ipa_bits": 39}, "ipa_bits.*39"),
        ({"ipa_bits": 2**40}, "ipa_bits"),
        ({"ipa_bits": -1}, "ipa_bits.*-1"),
        ({"pa_bits": 52}, "pa_bits.*52"),
        ({"vmid": 65536}, "vmid.*65536"),
        ({"vmid": -1}, "vmid.*-1"),
        ({"max_tables": -1}, "max_tables.*-1"),
        ({"table_base_mfn": 1}, "table_base_mfn.*1"),  # two root pages must be aligned to two
        ({"table_base_mfn": 1 << 36}, "table_base_mfn"),
        ({"table_base_mfn": 1 << 28, "pa_bits": 40}, "table_base_mfn"),
        ({"table_base_mfn": 2**64 - 1}, "table_base_mfn"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pf.P2M(**arguments)


@pytest.mark.parametrize("name", ["ipa_bits", "pa_bits", "vmid", "max_tables", "table_base_mfn"])
@pytest.mark.parametrize("value", ["40", 40.0, True])
def test_arguments_of_the_wrong_type_are_named(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        pf.P2M(**{name: value})
