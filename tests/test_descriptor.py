"""decode(): what a descriptor says, bit by bit."""

from __future__ import annotations

import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2mfast as pf
from p2mfast import descriptor as module


@given(st.integers(0, 2**64 - 1), st.integers(-1, 3))
def test_every_bit_is_in_one_field(raw: int, level: int) -> None:
    fields = pf.decode(raw, level).fields()
    assert fields[0].high == 63
    assert fields[-1].low == 0
    assert all(above.low == below.high + 1 for above, below in pairwise(fields))
    assert sum(field.value << field.low for field in fields) == raw
    assert all(0 <= field.value < 1 << field.high - field.low + 1 for field in fields)
    words = pf.decode(raw, level).explain()
    assert words.count("\n") == len(fields)
    assert f"{raw:#018x}" in words


MEMORY = {
    pf.P2MType.MMIO_DIRECT_DEV: ("Device-nGnRE", "outer shareable"),
    pf.P2MType.MMIO_DIRECT_NC: ("Normal Non-cacheable", "outer shareable"),
    pf.P2MType.MMIO_DIRECT_C: ("Normal Write-Back", "outer shareable"),
}
EXECUTABLE = {pf.P2MType.RAM_RW, pf.P2MType.RAM_RO}
READ_ONLY = {
    pf.P2MType.RAM_RO,
    pf.P2MType.MAP_FOREIGN_RO,
    pf.P2MType.GRANT_MAP_RO,
    pf.P2MType.IOMMU_MAP_RO,
}


@pytest.mark.parametrize("kind", list(pf.P2MType)[1:])
@pytest.mark.parametrize(("order", "level"), [(0, 3), (9, 2), (18, 1)])
@pytest.mark.parametrize("armed", [False, True])
def test_the_leaves_that_the_engine_makes(
    kind: pf.P2MType, order: int, level: int, armed: bool
) -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(1 << 18, 1 << order, 3 << 18, kind, armed=armed)
    raw = int(p2m.entries()[-1]["raw"])
    leaf = pf.decode(raw, level)
    assert (leaf.kind, leaf.address) == ("page" if level == 3 else "block", 3 << 30)
    assert (leaf.valid, leaf.armed) == (not armed, armed)
    rights = "r" + ("-" if kind in READ_ONLY else "w") + ("x" if kind in EXECUTABLE else "-")
    assert leaf.rights == rights
    assert (leaf.memory, leaf.shareability) == MEMORY.get(
        kind, ("Normal Write-Back", "inner shareable")
    )
    line = str(leaf)
    assert line.startswith("armed " if armed else leaf.kind)
    assert f"at {3 << 30:#x}: {kind.name.lower()}, {rights}, {leaf.memory}" in line


def test_the_pointers_that_the_engine_makes() -> None:
    p2m = pf.P2M(48)
    p2m.set_entry(0, 1, 0)
    p2m.invalidate_root()
    tables = p2m.table_base_mfn
    for level, _, raw in p2m.entries()[["level", "gfn", "raw"]].tolist()[:3]:
        pointer = pf.decode(raw, level)
        assert pointer.kind == "table"
        assert pointer.armed == (level == 0)
        assert tables < pointer.address >> 12 < tables + len(p2m.tables)


@pytest.mark.parametrize(
    ("raw", "level", "line"),
    [
        (0, 2, "empty"),
        (0xFC, 3, "ignored: bit 0 is clear, and there is no p2m type"),
        (0x1_0000_0003, 0, "table at 0x100000000"),
        (0x1_0000_0003, -1, "table at 0x100000000"),
        (0x0080_0000_0000_0001, 3, "reserved encoding: maps nothing at level 3"),
        (0x0080_0000_0000_0000, 0, "armed reserved encoding: maps nothing at level 0"),
        (
            0x0680_0000_4000_0445,
            2,
            "block of 2 MiB at 0x40000000: type 13, r-x, Device-nGnRE, non-shareable",
        ),
        (
            0x0040_0000_1234_5103,
            3,
            "page of 4 KiB at 0x12345000: no type, ---, Device-nGnRnE, reserved, access flag clear",
        ),
        (
            0x0080_0000_0000_06FD & ~(0xF << 2) | 0b1101 << 2,
            1,
            "block of 1 GiB at 0x0: ram_rw, rwx, Normal, outer Write-Back, inner Non-cacheable,"
            " outer shareable",
        ),
    ],
)
def test_descriptors_of_others(raw: int, level: int, line: str) -> None:
    assert str(pf.decode(raw, level)) == line


def test_what_reserved_and_new_bits_are_called() -> None:
    words = pf.decode(0x0080_0000_4000_07FD | 5 << 48 | 1 << 52 | 3 << 53 | 1 << 13, 2).explain()
    lines = {line.split()[0]: line for line in words.splitlines()[1:]}
    assert "RES0" in lines["50:48"]
    assert "reserved bits are set" in lines["50:48"]
    assert "reserved bits are set" in lines["20:12"]
    assert "contiguous" in lines["52"]
    assert "executable at EL1 only (FEAT_XNX)" in lines["54:53"]


def test_wrong_arguments_are_named() -> None:
    for raw in (-1, 2**64):
        with pytest.raises(pf.OutOfRange, match=r"descriptor must be from 0 to 2\*\*64 - 1"):
            pf.decode(raw, 3)
    for level in (-2, 4):
        with pytest.raises(ValueError, match=rf"level must be from -1 to 3, not {level}"):
            pf.decode(0, level)
    for arguments, name in (
        ((1.5, 3), "descriptor"),
        ((0, "3"), "level"),
        ((True, 3), "descriptor"),
    ):
        with pytest.raises(TypeError, match=f"{name} must be an integer"):
            pf.decode(*arguments)
    assert pf.decode(np.uint64(3), np.int8(0)).kind == "table"


def test_the_docstring_is_true() -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0
