"""A P2M in plain Python, as short and obvious as it can be: what the engine must do.

One page, one word, one level at a time, in dictionaries; no descriptors but in `entries`.
Written from `FORMAT.md` of the recorded Xen sequences and from the Arm ARM, not from the C code.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import p2mfast as pf

ROOTS = {32: (1, 1), 36: (1, 1), 40: (1, 2), 42: (1, 8), 44: (0, 1), 48: (0, 1)}
RAM = {1, 2, 6, 7, 8, 9}
READ_ONLY = {2, 7, 9, 11}
EXECUTABLE = {1, 2}
# By access value; rx2rw starts as rx, n2rwx as n.
ALLOWED = ["", "r", "w", "rw", "x", "rx", "wx", "rwx", "rx", "", "r"]


@dataclass
class Leaf:
    mfn: int
    type: int
    access: int
    valid: bool

    def rights(self) -> set[str]:
        by_type = {"r"} | (set() if self.type in READ_ONLY else {"w"})
        return (by_type | ({"x"} if self.type in EXECUTABLE else set())) & set(ALLOWED[self.access])

    def raw(self, level: int) -> int:
        rights = self.rights()
        memattr, shareability = {3: (1, 2), 4: (5, 2), 5: (15, 2)}.get(self.type, (15, 3))
        return (
            self.valid | (level == 3) << 1 | memattr << 2 | ("r" in rights) << 6
            | ("w" in rights) << 7 | shareability << 8 | 1 << 10 | self.mfn << 12
            | ("x" not in rights) << 54 | self.type << 55
        )  # fmt: skip


@dataclass
class Table:
    valid: bool = True
    words: dict[int, Leaf | Table] = field(default_factory=dict)


def shift(level: int) -> int:
    return 9 * (3 - level)


def next_block(gfn: int, order: int) -> int:
    return (gfn >> order) + 1 << order


class Model:
    def __init__(self, ipa_bits: int, max_tables: int | None = None) -> None:
        self.root_level, self.root_pages = ROOTS[ipa_bits]
        self.limit = 1 << ipa_bits - 12
        self.max_tables = max_tables
        self.root = Table()
        self.lowest: int | None = None
        self.max: int | None = None
        self.shattered = [0, 0, 0, 0]
        self.made = 0  # tables made by the operation under way
        self.mem_access = False
        self.kept: dict[int, int] = {}

    # ---- Walking ----

    def index(self, level: int, gfn: int) -> int:
        return gfn >> shift(level) if level == self.root_level else gfn >> shift(level) & 511

    def find(self, gfn: int) -> tuple[Leaf | None, int, bool]:
        """The leaf, the level where the walk ended, and whether all on the way was valid."""
        table, reachable = self.root, True
        for level in range(self.root_level, 4):
            word = table.words.get(self.index(level, gfn))
            if not isinstance(word, Table):
                return word, level, reachable and word is not None and word.valid
            table, reachable = word, reachable and word.valid
        raise AssertionError("a table below level 3")

    def all_words(self) -> Iterator[tuple[int, int, Leaf | Table]]:
        pending = [(self.root_level, 0, self.root)]
        while pending:
            level, gfn, table = pending.pop()
            for index, word in table.words.items():
                first = gfn + (index << shift(level))
                yield level, first, word
                if isinstance(word, Table):
                    pending.append((level + 1, first, word))

    def tables(self) -> int:
        return sum(isinstance(word, Table) for _, _, word in self.all_words())

    def entries(self) -> list[tuple[int, int, int]]:
        """As the traces have them: table pointers without their address."""
        return sorted(
            (level, gfn, word.raw(level) if isinstance(word, Leaf)
             else 0x0080_0000_0000_07FE | word.valid)
            for level, gfn, word in self.all_words()
        )  # fmt: skip

    def mappings(self) -> list[int]:
        levels = [level for level, _, word in self.all_words() if isinstance(word, Leaf)]
        return [levels.count(level) for level in range(4)]

    # ---- Updates ----

    def check_range(self, gfn: int, nr: int, mfn: int) -> None:
        if nr == 0 and gfn < self.limit:
            raise ValueError
        if gfn + nr > self.limit or gfn == self.limit or mfn + nr > 1 << 36:
            raise pf.OutOfRange("range")

    def set_entry(
        self,
        gfn: int,
        nr: int,
        mfn: int | None,
        type: int,
        access: int,
        armed: bool,
        max_order: int,
    ) -> None:
        self.check_range(gfn, nr, mfn or 0)
        leaf = None if mfn is None else Leaf(mfn, type, access, not armed)
        self.transaction(lambda: self.put_range(gfn, nr, leaf, 18 if leaf is None else max_order))

    def set_entries(
        self, gfns: list[int], mfns: list[int | None], type: int, access: int, armed: bool
    ) -> None:
        if any(gfn >= self.limit for gfn in gfns):
            raise pf.OutOfRange("range")
        leaves = [None if mfn is None else Leaf(mfn, type, access, not armed) for mfn in mfns]

        def put_all() -> None:
            for gfn, leaf in zip(gfns, leaves, strict=True):
                self.put_range(gfn, 1, leaf, 0)

        self.transaction(put_all)

    def remove_mapping(self, gfn: int, nr: int, mfn: int) -> None:
        self.check_range(gfn, nr, mfn)
        at = gfn
        while at < gfn + nr:
            leaf, level, _ = self.find(at)
            order = shift(level)
            if leaf and leaf.type in RAM and leaf.mfn + at % (1 << order) != mfn + at - gfn:
                raise pf.MappingMismatch("mismatch")
            at = next_block(at, order)
        self.transaction(lambda: self.put_range(gfn, nr, None, 18))

    def set_mem_access(self, gfn: int, nr: int, access: int) -> None:
        self.check_range(gfn, nr, 0)

        def change() -> None:
            self.mem_access = True
            for at in range(gfn, gfn + nr):
                leaf, level, _ = self.find(at)
                if leaf:
                    leaf = Leaf(leaf.mfn + at % (1 << shift(level)), leaf.type, access, leaf.valid)
                    self.put(at, 0, leaf)
                    self.keep(at, 1, access)

        self.transaction(change)

    def keep(self, gfn: int, nr: int, access: int) -> None:
        """What is kept of each page while mem_access is on; rwx is what is not kept."""
        if self.mem_access and access == pf.Access.RWX:
            self.kept = {at: a for at, a in self.kept.items() if not gfn <= at < gfn + nr}
        elif self.mem_access:
            self.kept.update(dict.fromkeys(range(gfn, gfn + nr), access))

    def transaction(self, change: Callable[[], None]) -> None:
        """All of it, or nothing if it takes more tables than are left."""
        before = copy.deepcopy(self.__dict__) if self.max_tables is not None else {}
        in_use = self.tables() if self.max_tables is not None else 0
        self.made = 0
        change()
        if self.max_tables is not None and self.made > self.max_tables - in_use:
            self.__dict__ = before
            raise pf.OutOfTables("tables")

    def put_range(self, gfn: int, nr: int, leaf: Leaf | None, max_order: int) -> None:
        self.keep(gfn, nr, leaf.access if leaf else int(pf.Access.RWX))
        if leaf and self.mem_access:
            max_order = 0
        if leaf:
            self.lowest = gfn if self.lowest is None else min(self.lowest, gfn)
            self.max = gfn + nr - 1 if self.max is None else max(self.max, gfn + nr - 1)
        while nr:
            alignment = gfn | nr | (leaf.mfn if leaf else 0)
            order = next(o for o in (18, 9, 0) if o <= max_order and alignment % (1 << o) == 0)
            self.put(gfn, order, leaf)
            gfn, nr = gfn + (1 << order), nr - (1 << order)
            leaf = leaf and Leaf(leaf.mfn + (1 << order), leaf.type, leaf.access, leaf.valid)

    def put(self, gfn: int, order: int, leaf: Leaf | None) -> None:
        table = self.root
        for level in range(self.root_level, 3 - order // 9):
            index = self.index(level, gfn)
            word = table.words.get(index)
            if word is None and leaf is None:
                return
            if not isinstance(word, Table):
                self.made += 1
                word = table.words[index] = Table() if word is None else self.shatter(word, level)
            table = word
        index = self.index(3 - order // 9, gfn)
        table.words.pop(index, None)
        if leaf:
            table.words[index] = leaf

    def shatter(self, leaf: Leaf, level: int) -> Table:
        self.shattered[level] += 1
        step = 1 << shift(level + 1)
        return Table(
            True,
            {i: Leaf(leaf.mfn + i * step, leaf.type, leaf.access, leaf.valid) for i in range(512)},
        )

    def relinquish(self, budget: int | None) -> bool:
        if self.lowest is None or self.max is None:
            return True
        at, passed = self.lowest, 0
        while at <= self.max and (budget is None or passed < max(budget, 1)):
            leaf, level, _ = self.find(at)
            if leaf:
                self.keep(at >> shift(level) << shift(level), 1 << shift(level), 7)
                self.put(at >> shift(level) << shift(level), shift(level), None)
            at, passed = next_block(at, shift(level)), passed + 1
        self.lowest = at
        return at > self.max

    # ---- Looking ----

    def get_entry(self, gfn: int) -> pf.Entry:
        hole = (None, pf.P2MType.INVALID)
        highest = self.max or 0
        if gfn > highest:
            for level in range(self.root_level, 3):
                if gfn >> shift(level) << shift(level) > highest:
                    return pf.Entry(*hole, shift(level), False, False, None)
            return pf.Entry(*hole, 0, False, False, None)
        leaf, level, reachable = self.find(gfn)
        if not leaf:
            return pf.Entry(*hole, shift(level), False, False, None)
        mfn = leaf.mfn + gfn % (1 << shift(level))
        access = pf.Access(self.kept.get(gfn, pf.Access.RWX) if self.mem_access else pf.Access.RWX)
        return pf.Entry(mfn, pf.P2MType(leaf.type), shift(level), leaf.valid, reachable, access)

    def translate(self, ipa: int, access: str, pa_bits: int) -> tuple[str, int, int]:
        """("ok", level, pa) or (kind of fault, level, 0)."""
        gfn, table = ipa >> 12, self.root
        if gfn >= self.limit:
            return "TRANSLATION", 0, 0
        for level in range(self.root_level, 4):
            word = table.words.get(self.index(level, gfn))
            if word is None or not word.valid:
                return "TRANSLATION", level, 0
            if isinstance(word, Leaf):
                break
            table = word
        assert isinstance(word, Leaf)
        if word.mfn << 12 >> pa_bits:
            return "ADDRESS_SIZE", level, 0
        if not set(access) <= word.rights():
            return "PERMISSION", level, 0
        return "ok", level, (word.mfn << 12) + ipa % (1 << 12 + shift(level))

    # ---- Tracking ----

    def invalidate_root(self) -> None:
        for word in self.root.words.values():
            word.valid = False

    def resolve_level(self, gfn: int, order: int) -> bool:
        if gfn > (self.max or 0):
            return False
        table = self.root
        for level in range(self.root_level, 4):
            word = table.words.get(self.index(level, gfn))
            if word is None:
                return False
            if isinstance(word, Table) and word.valid:
                table = word
                continue
            if isinstance(word, Table):
                for child in word.words.values():
                    child.valid = False
            elif level == 3 and order:
                group = gfn >> min(order, 9)
                for index, other in table.words.items():
                    if (gfn >> 9 << 9 | index) >> min(order, 9) == group:
                        other.valid = True
            word.valid = True
            return True
        raise AssertionError("a table below level 3")

    def resolve_path(self, gfn: int, order: int) -> bool:
        if self.find(gfn)[0] is None:
            return False
        at = gfn >> order << order
        end = min(next_block(gfn, order), self.limit)
        while at < end:
            leaf, level, _ = self.find(at)
            if leaf:
                self.make_reachable(at)
            at = next_block(at, shift(level))
        return True

    def make_reachable(self, gfn: int) -> None:
        table = self.root
        for level in range(self.root_level, 4):
            word = table.words[self.index(level, gfn)]
            if not word.valid and isinstance(word, Table):
                for child in word.words.values():
                    child.valid = False
            word.valid = True
            if isinstance(word, Leaf):
                return
            table = word

    def flush(
        self, start: int, end: int, skip: str, budget: int | None
    ) -> tuple[list[tuple[int, int, int]], int, bool]:
        """(pages or blocks to clean as (gfn, mfn, nr), where it ended, whether it is done)."""
        if self.lowest is None:
            return [], 2**64 - 1, True
        at, end = max(start, self.lowest), min(end, (self.max or 0) + 1)
        found, work, first = [], 0, True
        while at < end and (budget is None or work < budget or first):
            first = False
            leaf, boundary, skipped = self.flush_block(at, skip)
            if leaf is None or skipped:
                at, work = boundary, work + 1
                continue
            nr = min(boundary, end) - at if budget is None else 1
            found.append((at, leaf.mfn, nr))
            at, work = at + nr, work + 10 * nr
        return found, at, at >= end

    def flush_block(self, gfn: int, skip: str) -> tuple[Leaf | None, int, bool]:
        """What is at gfn, where it ends, and whether the flush leaves it out."""
        table = self.root
        for level in range(self.root_level, 4):
            word = table.words.get(self.index(level, gfn))
            boundary = next_block(gfn, shift(level))
            if isinstance(word, Table) and (word.valid or skip != "path"):
                table = word
                continue
            if not isinstance(word, Leaf):
                return None, boundary, True
            offset = gfn % (1 << shift(level))
            here = Leaf(word.mfn + offset, word.type, word.access, word.valid)
            return here, boundary, word.type not in RAM or (skip != "none" and not word.valid)
        raise AssertionError("a table below level 3")
