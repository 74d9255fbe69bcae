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
        for name, value in (("vttbr", vttbr), ("vtcr", vtcr)):
            if value is not None and not 0 <= value < 2**64:
                raise ImageError(f"{name} must be a register of 64 bits, not {value:#x}")
        if pa_bits is not None and pa_bits not in IPA_SIZES:
            raise ImageError(f"pa_bits must be one of {_sizes()}, not {pa_bits}")
        if vtcr is None:
            if ipa_bits not in IPA_SIZES:
                raise ImageError(
                    "give vtcr (VTCR_EL2), or"
                    f" ipa_bits as one of {_sizes()}" + (f", not {ipa_bits}" if ipa_bits else "")
                )
            vtcr = vtcr_of(ipa_bits, pa_bits or 48)
            assert vtcr is not None
        try:
            self._tables = Tables(memory.segments, vttbr, vtcr, pa_bits or 0)
        except LookupError as wrong:
            if wrong.args[0] == "vtcr":
                raise ImageError(
                    f"vtcr {vtcr:#x}: no input size and start level of the 4 KiB granule"
                ) from None
            raise ImageError(
                f"vttbr {vttbr:#x}: the address is not aligned to the root tables"
            ) from None
        self.memory = memory
        self.vttbr = vttbr
        self.vtcr = vtcr
        self.source = source
        if ipa_bits is not None and ipa_bits != self.ipa_bits:
            raise ImageError(f"ipa_bits {ipa_bits}: vtcr {vtcr:#x} says {self.ipa_bits}")
        self._notes = list(notes)
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
    def _scan(self) -> tuple[Array, Array, Array, list[int], int]:
        return self._tables.scan()

    def extents(self) -> Array:
        """Pages that are mapped alike, as far as GFN and MFN go on together: a structured array
        (:data:`~p2mfast.types.EXTENT_DTYPE`: gfn, mfn, nr, attrs, level, valid, reachable),
        ascending. ``attrs`` is the raw descriptor without its address and bits 1:0.

        A table that is reached a second time is entered once only.
        """
        return self._scan[0]

    def tables(self) -> Array:
        """Every table, as it was reached first: a structured array
        (:data:`~p2mfast.types.TABLE_DTYPE`: pa in bytes, gfn, level, valid, reachable)."""
        return self._scan[1]

    @property
    def ignored_words(self) -> int:
        """Descriptors that are not 0 and that neither an MMU nor Xen looks at: bit 0 clear, and no
        p2m type."""
        return self._scan[4]

    def mapped_runs(self) -> Array:
        """All mappings, coalesced where GFN, MFN and type go on: as :meth:`P2M.mapped_runs`."""
        extents = self.extents()
        kind = type_of(extents["attrs"])
        starts = _starts(extents, kind)
        runs = np.empty(len(starts), MAPPED_RUN_DTYPE)
        runs["gfn"], runs["mfn"] = extents["gfn"][starts], extents["mfn"][starts]
        runs["nr"], runs["type"] = _sums(extents["nr"], starts), kind[starts]
        return runs

    def ranges(self) -> Array:
        """The same, coalesced where all attributes go on as well: a structured array
        (:data:`~p2mfast.types.RANGE_DTYPE`: gfn, mfn, nr, attrs, and of the ``nr`` pages how many
        are ``valid``, ``reachable``, and in leaves of level 0 to 3: ``by_level``)."""
        extents = self.extents()
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

    def totals(self) -> list[Total]:
        """Leaves and pages by type, level and state, in that order."""
        extents = self.extents()
        shape = (16, 4, 2, 2)
        key = np.ravel_multi_index(
            (
                type_of(extents["attrs"]).astype(np.intp),
                extents["level"],
                extents["valid"].view(np.uint8),
                extents["reachable"].view(np.uint8),
            ),
            shape,
        )
        # The sums are exact: no space has 2**53 pages.
        pages = np.bincount(key, extents["nr"].astype(np.float64), np.prod(shape)).reshape(shape)
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
    def found(self) -> dict[FindingKind, int]:
        """How many findings there are of each kind that there is."""
        found = {kind: self._scan[3][kind] for kind in FindingKind if kind < len(self._scan[3])}
        found[FindingKind.TRUNCATED] = len(self._notes)
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
        if not 0 <= ipa < 1 << self.ipa_bits:
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
        if not 0 <= ipa < 2**64:
            raise OutOfRange(f"ipa must be from 0 to 2**64 - 1, not {ipa}", "ipa", ipa)
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
        addresses = np.asarray(ipas)
        if addresses.dtype.kind not in "ui":
            raise TypeError(f"ipas must be an array of integers, not of {addresses.dtype}")
        if addresses.ndim != 1:
            raise ValueError(f"ipas must be one-dimensional, not of shape {addresses.shape}")
        return self._tables.translate(np.ascontiguousarray(addresses, np.uint64), _RIGHTS[access])


def _sizes() -> str:
    return ", ".join(map(str, IPA_SIZES))


def _holds(memory: Memory, pa: int) -> bool:
    try:
        memory.read(pa, PAGE_SIZE)
    except ImageError:
        return False
    return True


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
