"""Stage-2 tables in a RAM image: where they start, which pages they are, what they map.

The fields of VTTBR_EL2 and VTCR_EL2, of VTTBR and VTCR in AArch32, and of the descriptors are those
of the Arm ARM (DDI 0487), for the 4 KiB granule.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from xen_dump import DumpError

Words = NDArray[np.uint64]

ADDRESS = 0x0000_FFFF_FFFF_F000
VALID, TABLE = 1 << 0, 1 << 1  # at level 3 the second means "page"
TYPE_SHIFT, TYPE_MASK = 55, 0xF  # Xen's p2m type, in bits that are software's
RAM_RW = 1


class Root(NamedTuple):
    """What VTTBR and VTCR say."""

    vttbr: int
    vtcr: int
    base: int
    ipa_bits: int
    level: int
    pages: int

    @classmethod
    def decode(cls, arch: str, vttbr: int, vtcr: int) -> Root:
        """From the registers of AArch64 (`arch` "arm64") or AArch32 ("armhf")."""
        sl0 = vtcr >> 6 & 3
        if arch == "arm64":
            ipa_bits = 64 - (vtcr & 0x3F)
            if vtcr >> 14 & 3:
                raise DumpError(f"VTCR_EL2 {vtcr:#x}: a granule other than 4 KiB")
        else:
            ipa_bits = 32 - ((vtcr & 0xF ^ 8) - 8)  # T0SZ is signed
        level = 2 - sl0
        # The root resolves what the levels below it do not; beyond 9 bits by more tables.
        concatenated = ipa_bits - 12 - 9 * (4 - level)
        if level < 0 or not -9 < concatenated <= 4:
            raise DumpError(f"VTCR {vtcr:#x}: {ipa_bits} bits from level {level} is reserved")
        return cls(vttbr, vtcr, vttbr & ADDRESS, ipa_bits, level, 1 << max(concatenated, 0))


class Leaves(NamedTuple):
    """All blocks and pages, ascending: arrays of equal length."""

    ipa: Words
    raw: Words
    level: Words

    @property
    def type(self) -> Words:
        """Xen's p2m types."""
        return self.raw >> np.uint64(TYPE_SHIFT) & np.uint64(TYPE_MASK)

    @property
    def size(self) -> Words:
        """In bytes."""
        return np.uint64(1) << (np.uint64(39) - np.uint64(9) * self.level)

    @property
    def pa(self) -> Words:
        """Output addresses."""
        return self.raw & np.uint64(ADDRESS) & ~(self.size - np.uint64(1))


class Tables(NamedTuple):
    """The tables of one VTTBR."""

    root: Root
    page_pa: Words
    page: Words
    leaves: Leaves
    pointers: tuple[int, int]
    """Table descriptors with bit 0 clear, and set."""


def walk(root: Root, ram: Words, ram_base: int) -> Tables:
    """Follow all tables from the root, whether valid or armed.

    `ram`: the machine's memory from physical address `ram_base` on, as words.
    """
    pages: dict[int, Words] = {}
    found: list[tuple[Words, Words, Words]] = []
    pointers = [0, 0]
    level = root.level
    span = 1 << 39 - 9 * level
    frontier = [(root.base + 4096 * i, i * 512 * span) for i in range(root.pages)]
    while frontier:
        below: list[tuple[int, int]] = []
        for pa, ipa in frontier:
            if pa in pages:
                raise DumpError(f"the table at {pa:#x} is linked twice: not a tree of tables")
            words = pages[pa] = _page(ram, ram_base, pa)
            types = words >> np.uint64(TYPE_SHIFT) & np.uint64(TYPE_MASK)
            # Xen arms an entry by clearing bit 0: then its type says that it is there.
            present = (types != 0) | (words & np.uint64(VALID) != 0)
            is_table = present & (words & np.uint64(TABLE) != 0) & (level < 3)
            for index in np.flatnonzero(is_table).tolist():
                word = int(words[index])
                pointers[word & VALID] += 1
                below.append((word & ADDRESS, ipa + index * span))
            at = np.flatnonzero(present & ~is_table)
            ipas = at.astype(np.uint64) * np.uint64(span) + np.uint64(ipa)
            found.append((ipas, words[at], np.full(len(at), level, np.uint64)))
        frontier, level, span = below, level + 1, span >> 9
    leaves = Leaves(*map(np.concatenate, zip(*found, strict=True)))
    order = np.argsort(leaves.ipa)
    addresses = sorted(pages)
    return Tables(
        root,
        np.array(addresses, np.uint64),
        np.stack([pages[pa] for pa in addresses]),
        Leaves(*(array[order] for array in leaves)),
        (pointers[0], pointers[1]),
    )


def _page(ram: Words, ram_base: int, pa: int) -> Words:
    first = (pa - ram_base) // 8
    if not 0 <= first <= len(ram) - 512:
        raise DumpError(f"a table at {pa:#x} is not in RAM")
    return np.array(ram[first : first + 512])


def mapped_ram(tables: Tables) -> int:
    """Bytes of RAM (ram_rw) that are mapped."""
    return int(tables.leaves.size[tables.leaves.type == RAM_RW].sum())


def save(path: Path, tables: Tables, source: str) -> None:
    """Write a table image."""
    meta = {
        "format": "p2mfast-table-image",
        "version": 1,
        "source": source,
        "vttbr": tables.root.vttbr,
        "vtcr": tables.root.vtcr,
        "ipa_bits": tables.root.ipa_bits,
        "start_level": tables.root.level,
        "root_pages": tables.root.pages,
    }
    with path.open("wb") as file:
        np.savez_compressed(
            file, meta=np.array(json.dumps(meta)), page_pa=tables.page_pa, page=tables.page
        )


def describe(tables: Tables) -> str:
    """Registers, counts, and the mappings as coalesced ranges."""
    root, leaves = tables.root, tables.leaves
    lines = [
        f"VTTBR {root.vttbr:#x}, VTCR {root.vtcr:#x}: tables at {root.base:#x},"
        f" {root.ipa_bits}-bit IPA, start at level {root.level}, root tables: {root.pages}",
        f"{len(tables.page_pa)} table pages, {len(leaves.ipa)} leaves; table entries:"
        f" {tables.pointers[0]} with bit 0 clear, {tables.pointers[1]} set",
        "leaves by type/level/bit 0: " + ", ".join(_counts(leaves)),
        "",
        f"{'ipa':12} {'pa':12} {'size':12} type",
    ]
    for ipa, pa, size, type_ in ranges(leaves):
        lines.append(f"{ipa:<#12x} {pa:<#12x} {size:<#12x} {type_}")
    return "\n".join(lines)


def _counts(leaves: Leaves) -> list[str]:
    keys = np.stack([leaves.type, leaves.level, leaves.raw & np.uint64(VALID)])
    kinds, counts = np.unique(keys, axis=1, return_counts=True)
    return [
        f"{kind[0]}/L{kind[1]}/{kind[2]} {count}"
        for kind, count in zip(kinds.T.tolist(), counts.tolist(), strict=True)
    ]


def ranges(leaves: Leaves) -> list[tuple[int, int, int, int]]:
    """(IPA, PA, size, type) of runs that are contiguous on both sides, of one type."""
    ipa, pa, size, types = leaves.ipa, leaves.pa, leaves.size, leaves.type
    breaks = (
        (ipa[1:] != ipa[:-1] + size[:-1])
        | (pa[1:] != pa[:-1] + size[:-1])
        | (types[1:] != types[:-1])
    )
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1]).astype(np.intp)
    sizes = np.add.reduceat(size, first)
    columns = (ipa[first], pa[first], sizes, types[first])
    return list(zip(*(column.tolist() for column in columns), strict=True))
