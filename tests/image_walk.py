"""What the tables of an image say, by a walk in plain Python that shares nothing with the engine:
the architecture's rules (Arm ARM DDI 0487, D8.3), and Xen's that a type makes a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

ADDRESS = 0x0000_FFFF_FFFF_F000
Read = Callable[[int], "list[int] | None"]  # the 512 words of the table at a physical address


class Leaf(NamedTuple):
    gfn: int
    mfn: int
    nr: int
    type: int
    attrs: int
    level: int
    valid: bool
    reachable: bool


def leaves(read: Read, root: int, root_level: int, root_pages: int) -> Iterator[Leaf]:
    """Every leaf, ascending. The tables must be a tree."""

    def visit(pa: int, level: int, gfn: int, reachable: bool) -> Iterator[Leaf]:
        order = 9 * (3 - level)
        for index, word in enumerate(read(pa) or []):
            kind = word >> 55 & 0xF
            valid = bool(word & 1)
            first = gfn + (index << order)
            if not valid and not kind:
                continue
            if level < 3 and word & 2:
                yield from visit(word & ADDRESS, level + 1, first, reachable and valid)
            elif (level == 3 and word & 2) or level in (1, 2):
                mfn = (word & ADDRESS) >> 12 + order << order
                attrs = word & ~(ADDRESS | 3)
                yield Leaf(first, mfn, 1 << order, kind, attrs, level, valid, reachable and valid)

    for page in range(root_pages):
        yield from visit(root + 4096 * page, root_level, page << 9 * (4 - root_level), True)


def coalesce(found: Iterator[Leaf]) -> list[tuple[int, int, int, int]]:
    """(gfn, mfn, nr, type), joined where all of them go on."""
    runs: list[list[int]] = []
    for leaf in found:
        if runs:
            gfn, mfn, nr, kind = runs[-1]
            if (gfn + nr, mfn + nr, kind) == (leaf.gfn, leaf.mfn, leaf.type):
                runs[-1][2] += leaf.nr
                continue
        runs.append([leaf.gfn, leaf.mfn, leaf.nr, leaf.type])
    return [tuple(run) for run in runs]
