"""What the raw descriptors of a live P2M say, read from `tables` alone by the architecture's rules
(Arm ARM DDI 0487, D8): an MMU's walk of everything, without the engine's help."""

from __future__ import annotations

import p2mfast as pf

RAM_TYPES = {1, 2, 6, 7, 8, 9}
ADDRESS = 0x0000_FFFF_FFFF_F000


def reachable_ram(p2m: pf.P2M) -> list[tuple[int, int, int]]:
    """(gfn, mfn, nr) of every RAM page or block that an MMU can get to, ascending."""
    tables = p2m.tables
    base = p2m.table_base_mfn
    root_row = ((p2m.vttbr & ADDRESS) >> 12) - base
    found = []

    def visit(row: int, level: int, gfn: int) -> None:
        order = 9 * (3 - level)
        words = tables[row]
        for index in words.nonzero()[0].tolist():
            word = int(words[index])
            first = gfn + (index << order)
            if not word & 1:
                continue
            if level < 3 and word & 2:
                visit(((word & ADDRESS) >> 12) - base, level + 1, first)
            elif word >> 55 & 0xF in RAM_TYPES:
                found.append((first, (word & ADDRESS) >> 12, 1 << order))

    for page in range(p2m.root_pages):
        visit(root_row + page, p2m.root_level, page << 9 * (4 - p2m.root_level))
    return found


def coalesce(blocks: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Blocks whose GFN and MFN go on together become one run."""
    runs: list[tuple[int, int, int]] = []
    for gfn, mfn, nr in blocks:
        if runs and sum(runs[-1][::2]) == gfn and runs[-1][1] + runs[-1][2] == mfn:
            runs[-1] = (*runs[-1][:2], runs[-1][2] + nr)
        else:
            runs.append((gfn, mfn, nr))
    return runs
