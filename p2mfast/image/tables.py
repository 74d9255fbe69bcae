"""An image: registers that lead to tables in a physical memory, and everything that is there."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from p2mfast._engine import P2M
from p2mfast._image import Tables, vtcr_of
from p2mfast.arguments import integer, integers
from p2mfast.errors import AddressBeyondSpace, ImageError, OutOfRange, Stage2Fault
from p2mfast.image.memory import Memory
from p2mfast.types import (
    MAPPED_RUN_DTYPE,
    RANGE_DTYPE,
    Attributes,
    FaultKind,
    Translation,
    type_of,
)
from p2mfast.units import PAGE_SIZE

Array = npt.NDArray[Any]

IPA_SIZES = (32, 36, 40, 42, 44, 48)
MOST_LISTED = 1000
"""Findings of each kind that are listed; all are counted."""
_BRIEF = 1 << 16  # extents, where a few will do
_MOST_LETTERS = 200
_RIGHTS = {"r": 1, "w": 2, "rw": 3, "x": 4, "rx": 5, "wx": 6, "rwx": 7}


class FindingKind(enum.IntEnum):
    """Structural faults of tables. The first six are csrc/image.h's."""

    OUTSIDE = 1
    TWICE = 2
    LOOP = 3
    MISALIGNED = 4
    RESERVED = 5
    ENCODING = 6
    TRUNCATED = 7


_MESSAGES = {
    FindingKind.OUTSIDE: "the table at {address:#x} is not in the image",
    FindingKind.TWICE: "the table at {address:#x} is reached a second time",
    FindingKind.LOOP: "the table at {address:#x} leads here: a loop",
    FindingKind.MISALIGNED: "a block at {address:#x}, not aligned to its size",
    FindingKind.RESERVED: "reserved bits are set",
    FindingKind.ENCODING: "a reserved encoding: bit 1 is clear where there are no blocks",
}


@dataclass(frozen=True)
class Finding:
    """A structural fault: the descriptor ``value``, word ``index`` of the table at physical
    address ``table``, which speaks of pages from ``gfn`` on at ``level``.

    Of a root table that is not there, ``value`` and ``table`` are its own address. A file that is
    TRUNCATED has no descriptor: all of these are None.
    """

    kind: FindingKind
    message: str
    level: int | None = None
    gfn: int | None = None
    table: int | None = None
    index: int | None = None
    value: int | None = None

    def __str__(self) -> str:
        if self.table is None:
            return self.message
        if self.value == self.table:
            return f"root table: {self.message}"
        return (
            f"level {self.level}, gfn {self.gfn:#x}, word {self.index} of the table at"
            f" {self.table:#x} ({self.value:#018x}): {self.message}"
        )


class Total(NamedTuple):
    """Leaves of one type, level and state. ``reachable`` asks for bit 0 of every descriptor on
    the way, ``valid`` for the leaf's own."""

    type: int
    level: int
    valid: bool
    reachable: bool
    leaves: int
    pages: int


@dataclass(frozen=True)
class WalkStep:
    """One descriptor on the way to an address. ``descriptor`` is None where the table is not in
    the image."""

    level: int
    table: int
    index: int
    descriptor: int | None


class Image:
    """Stage-2 tables in a physical memory, as VTTBR_EL2 and VTCR_EL2 lead to them.

    Parameters
    ----------
    memory : Memory
        What was dumped. It is not copied, and may be hostile.
    vttbr : int
        VTTBR_EL2 (or AArch32's VTTBR): the root table's address; VMID and CnP are ignored.
    vtcr : int, optional
        VTCR_EL2 (or AArch32's VTCR): input size, start level, output size.
    ipa_bits : int, optional
        Instead of ``vtcr``, with the start level that Xen gives each size: 32, 36, 40, 42, 44, 48.
    pa_bits : int, optional
        VTCR_EL2.PS, where it is not ``vtcr``'s.
    source : str
        Where it is from, in words.
    notes : iterable of Finding
        What the reader of a file found.

    Raises
    ------
    ImageError
        Registers that no 4 KiB granule has; a VTTBR that is not aligned to its root tables, or
        leads to none that is in the memory.

    Everything found is computed once and kept: make a new Image of memory that has changed.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        vttbr: int,
        vtcr: int | None = None,
        ipa_bits: int | None = None,
        pa_bits: int | None = None,
        source: str = "",
        notes: Iterable[Finding] = (),
    ) -> None:
        vttbr = integer("vttbr", vttbr)
        if pa_bits is not None and integer("pa_bits", pa_bits) not in IPA_SIZES:
            raise ImageError(f"pa_bits must be one of {_sizes()}, not {pa_bits}")
        if ipa_bits is not None:
            ipa_bits = integer("ipa_bits", ipa_bits)
        if vtcr is None:
            vtcr = _vtcr_for(ipa_bits, pa_bits)
        elif not integer("vtcr", vtcr) >> 31 & 1:
            raise ImageError(f"vtcr {vtcr:#x}: bit 31 is clear, which is 1 in every VTCR")
        try:
            self._tables = Tables(memory.segments, vttbr, vtcr, pa_bits or 0)
        except LookupError as wrong:
            if wrong.args[0] == "vtcr":
                raise ImageError(
                    f"vtcr {vtcr:#x}: no input size and start level of the 4 KiB granule"
                ) from None
            raise ImageError(
                f"vttbr {vttbr:#x}: the address must be aligned to the root tables, 4 KiB times"
                " their number"
            ) from None
        self.memory = memory
        self.vttbr = vttbr
        self.vtcr = vtcr
        self.source = printable(source)
        if ipa_bits is not None and ipa_bits != self.ipa_bits:
            raise ImageError(f"ipa_bits {ipa_bits}: vtcr {vtcr:#x} says {self.ipa_bits}")
        notes = list(notes)
        self._notes, self._noted = notes[:MOST_LISTED], len(notes)
        self._require_root()

    @classmethod
    def of(cls, p2m: P2M) -> Image:
        """A consistent copy of a live P2M's tables."""
        rows = p2m.copy_tables()
        data = rows.reshape(-1).view(np.uint8)
        image = cls(
            Memory([(p2m.table_base_mfn * PAGE_SIZE, data)]),
            vttbr=p2m.vttbr,
            vtcr=p2m.vtcr,
            pa_bits=p2m.pa_bits,
            source="p2mfast",
        )
        # Frames that were given back hold what no walk sees.
        unused = np.ones(len(rows), np.bool_)
        unused[(image.tables()["pa"] // PAGE_SIZE - p2m.table_base_mfn).astype(np.int64)] = False
        rows[unused] = 0
        return image

    def _require_root(self) -> None:
        pages = range(self._tables.root, self._tables.root + self.root_pages * PAGE_SIZE, PAGE_SIZE)
        if not any(_holds(self.memory, pa) for pa in pages):
            raise ImageError(
                f"vttbr {self.vttbr:#x}: the root table at {self._tables.root:#x} is not in the"
                f" image, which has {self.memory.describe()}"
            )

    def __repr__(self) -> str:
        return (
            f"Image(vttbr={self.vttbr:#x}, vtcr={self.vtcr:#x}, ipa_bits={self.ipa_bits}):"
            f" {self.memory.describe()}"
        )

    def _repr_html_(self) -> str:
        from p2mfast.image.notebook import html_of  # noqa: PLC0415 - stands above this file

        return html_of(self, self.source or "stage-2 tables")

    # ---- Geometry ----

    @property
    def ipa_bits(self) -> int:
        """Size of the guest's physical address space."""
        return self._tables.ipa_bits

    @property
    def pa_bits(self) -> int:
        """Size of the machine's."""
        return self._tables.pa_bits

    @property
    def root_level(self) -> int:
        """Level of the root tables."""
        return self._tables.root_level

    @property
    def root_pages(self) -> int:
        """Number of concatenated root tables."""
        return self._tables.root_pages

    # ---- What is there ----

    @functools.cached_property
    def _whole(self) -> Any:
        return self._tables.scan(2**64 - 1)

    @functools.cached_property
    def _scan(self) -> Any:
        """The same, but of very many extents only the first: enough for totals and findings."""
        return self.__dict__.get("_whole") or self._tables.scan(_BRIEF)

    @property
    def _is_whole(self) -> bool:
        return len(self._scan[0]) == int(self._scan[6][0])

    def extents(self) -> Array:
        """Pages that are mapped alike, as far as GFN and MFN go on together: a structured array
        (:data:`~p2mfast.types.EXTENT_DTYPE`: gfn, mfn, nr, attrs, level, valid, reachable),
        ascending. ``attrs`` is the raw descriptor without its address and bits 1:0.

        A table that is reached a second time is entered once only.
        """
        found: Array = self._scan[0] if self._is_whole else self._whole[0]
        return found

    def tables(self) -> Array:
        """Every table, as it was reached first: a structured array
        (:data:`~p2mfast.types.TABLE_DTYPE`: pa in bytes, gfn, level, valid, reachable)."""
        found: Array = self._scan[1]
        return found

    @property
    def ignored_words(self) -> int:
        """Descriptors that are not 0 and that neither an MMU nor Xen looks at: bit 0 clear, and no
        p2m type."""
        return int(self._scan[4])

    @property
    def range_count(self) -> int:
        """How many :meth:`ranges` there are."""
        return int(self._scan[6][1])

    def mapped_runs(self) -> Array:
        """All mappings, coalesced where GFN, MFN and type go on: as :meth:`P2M.mapped_runs`."""
        extents = self.extents()
        kind = type_of(extents["attrs"])
        starts = _starts(extents, kind)
        runs = np.empty(len(starts), MAPPED_RUN_DTYPE)
        runs["gfn"], runs["mfn"] = extents["gfn"][starts], extents["mfn"][starts]
        runs["nr"], runs["type"] = _sums(extents["nr"], starts), kind[starts]
        return runs

    def ranges(self, most: int | None = None) -> Array:
        """The same, coalesced where all attributes go on as well: a structured array
        (:data:`~p2mfast.types.RANGE_DTYPE`: gfn, mfn, nr, attrs, and of the ``nr`` pages how many
        are ``valid``, ``reachable``, and in leaves of level 0 to 3: ``by_level``).

        ``most``: only so many, the first ones, which a large image has ready sooner.
        """
        if most is None or self._is_whole:
            return _ranges(self.extents())[:most]
        first = _ranges(self._scan[0])[:-1]  # the last one may go on
        return first[:most] if len(first) >= most else _ranges(self.extents())[:most]

    def totals(self) -> list[Total]:
        """Leaves and pages by type, level and state, in that order."""
        pages = self._scan[7]
        return [
            Total(kind, level, bool(valid), bool(reachable), n >> 9 * (3 - level), n)
            for kind, level, valid, reachable in np.argwhere(pages).tolist()
            for n in [int(pages[kind, level, valid, reachable])]
        ]

    def findings(self) -> list[Finding]:
        """Structural faults; empty when the tables are sound. Of each kind a thousand are listed,
        :attr:`found` counts all of them."""
        return self._notes + [self._finding(row) for row in self._scan[2]]

    @property
    def pages_beyond_output(self) -> int:
        """How many pages are mapped to addresses of more than :attr:`pa_bits`, at which an MMU has
        an address size fault."""
        return int(self._scan[5])

    @property
    def found(self) -> dict[FindingKind, int]:
        """How many findings there are of each kind that there is."""
        found = {kind: self._scan[3][kind] for kind in FindingKind if kind < len(self._scan[3])}
        found[FindingKind.TRUNCATED] = self._noted
        return {kind: n for kind, n in found.items() if n}

    def check(self) -> list[str]:
        """The findings in words, as :meth:`P2M.check`."""
        return [str(finding) for finding in self.findings()]

    def _finding(self, row: Any) -> Finding:
        kind = FindingKind(int(row["kind"]))
        value = int(row["value"])
        address = value & 0x0000_FFFF_FFFF_F000
        return Finding(
            kind,
            _MESSAGES[kind].format(address=address),
            int(row["level"]),
            int(row["gfn"]),
            int(row["table"]),
            int(row["index"]),
            value,
        )

    # ---- One address ----

    def walk(self, ipa: int) -> list[WalkStep]:
        """The descriptors on the way to byte address ``ipa``, valid or not, as Xen follows them.

        Raises OutOfRange for an address beyond the IPA size.
        """
        if integer("ipa", ipa) >> self.ipa_bits:
            raise OutOfRange(
                f"ipa {ipa:#x} is beyond the {self.ipa_bits}-bit IPA space", "ipa", ipa
            )
        return [
            WalkStep(
                int(step["level"]),
                int(step["table"]),
                int(step["index"]),
                int(step["descriptor"]) if step["inside"] else None,
            )
            for step in self._tables.walk(ipa >> 12)
        ]

    def translate(self, ipa: int, access: str = "r") -> Translation:
        """The MMU's view, as :meth:`P2M.translate`. A table that is not in the image is an external
        abort on the walk."""
        ipa = integer("ipa", ipa)
        result = self.translate_many(np.array([ipa], np.uint64), access)[0]
        fault = FaultKind(int(result["fault"]))
        if ipa >> self.ipa_bits:
            raise AddressBeyondSpace(ipa, access)
        if fault:
            readable = "r" not in access or not self.translate_many([ipa], "r")[0]["fault"]
            raise Stage2Fault(
                ipa, int(result["level"]), fault, access, write="w" in access and readable
            )
        return Translation(int(result["pa"]), int(result["level"]), Attributes(result["attrs"]))

    def translate_many(self, ipas: npt.ArrayLike, access: str = "r") -> Array:
        """The same for an array of byte addresses: as :meth:`P2M.translate_many`."""
        if access not in _RIGHTS:
            raise ValueError(f"access must be one of {', '.join(_RIGHTS)}, not {access!r}")
        return self._tables.translate(integers("ipas", ipas), _RIGHTS[access])


def _sizes() -> str:
    return ", ".join(map(str, IPA_SIZES))


def _holds(memory: Memory, pa: int) -> bool:
    try:
        memory.read(pa, PAGE_SIZE)
    except ImageError:
        return False
    return True


def _vtcr_for(ipa_bits: int | None, pa_bits: int | None) -> int:
    if ipa_bits is None:
        raise ImageError(f"give vtcr (VTCR_EL2), or ipa_bits as one of {_sizes()}")
    vtcr = vtcr_of(ipa_bits, pa_bits or 48) if ipa_bits in IPA_SIZES else None
    if vtcr is None:
        raise ImageError(f"ipa_bits must be one of {_sizes()}, not {ipa_bits}")
    return vtcr


def printable(text: str) -> str:
    """A line that a terminal shows and does not obey: what comes with a dump may be hostile."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text[:_MOST_LETTERS])
    return line + ("..." if len(text) > _MOST_LETTERS else "")


def _ranges(extents: Array) -> Array:
    nr = extents["nr"]
    starts = _starts(extents, extents["attrs"])
    ranges = np.empty(len(starts), RANGE_DTYPE)
    for name in ("gfn", "mfn", "attrs"):
        ranges[name] = extents[name][starts]
    ranges["nr"] = _sums(nr, starts)
    for name in ("valid", "reachable"):
        ranges[name] = _sums(nr * extents[name], starts)
    for level in range(4):
        ranges["by_level"][:, level] = _sums(nr * (extents["level"] == level), starts)
    return ranges


def _starts(extents: Array, key: Array) -> Array:
    """Where in the extents a new run begins: GFN, MFN or the key do not go on."""
    if not len(extents):
        return np.empty(0, np.int64)
    new = np.ones(len(extents), np.bool_)
    new[1:] = key[1:] != key[:-1]
    for name in ("gfn", "mfn"):
        new[1:] |= extents[name][1:] != extents[name][:-1] + extents["nr"][:-1]
    return new.nonzero()[0]


def _sums(values: Array, starts: Array) -> Array:
    return np.add.reduceat(values, starts) if len(starts) else np.empty(0, np.uint64)
