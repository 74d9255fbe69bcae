"""Any 64-bit stage-2 descriptor in words.

Layout: Arm ARM DDI 0487, D8.3 (VMSAv8-64 descriptor formats, stage 2, 4 KiB granule, 48-bit
addresses). Bits 58:55 are software's; Xen's p2m type is shown there.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import NamedTuple

from p2mfast.arguments import integer
from p2mfast.types import P2MType

_ADDRESS = 0x0000_FFFF_FFFF_F000
_LEVELS = range(-1, 4)
_BLOCK_LEVELS = (1, 2)
_SIZES = {3: "4 KiB", 2: "2 MiB", 1: "1 GiB", 0: "512 GiB"}
_SH = ("non-shareable", "reserved", "outer shareable", "inner shareable")
_DEVICE = ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")
_CACHEABILITY = ("reserved", "Non-cacheable", "Write-Through", "Write-Back")
_WORDS = {
    "XN": (
        "executable",
        "executable at EL0 only (FEAT_XNX)",
        "not executable",
        "executable at EL1 only (FEAT_XNX)",
    ),
    "SH": _SH,
    "S2AP": ("no access", "read-only", "write-only", "read/write"),
    "AF": ("not accessed: an access faults", "accessed"),
    "valid": ("the MMU faults here", "valid"),
}
_WORDS_IF_SET = {
    "contiguous": "one of a group that a TLB may hold as one",
    "DBM": "hardware sets S2AP[1] on a write",
    "FnXS": "a TLBI without nXS need not wait (FEAT_XS)",
    "PBHA": "the implementation's",
    "RES0": "reserved bits are set",
    "ignored": "",
}


class Field(NamedTuple):
    """Some bits of a descriptor: the highest and the lowest, the architecture's name, their value,
    and what it says."""

    high: int
    low: int
    name: str
    value: int
    words: str

    @property
    def bits(self) -> str:
        """The bits as the architecture writes them: "5:2", "10"."""
        return str(self.high) if self.high == self.low else f"{self.high}:{self.low}"


@dataclass(frozen=True)
class Descriptor:
    """A 64-bit word as an entry of a stage-2 table at ``level`` (-1 to 3).

    ``str()`` gives a line, :meth:`explain` every field.
    """

    raw: int
    level: int

    @property
    def valid(self) -> bool:
        """Bit 0."""
        return bool(self.raw & 1)

    @property
    def type(self) -> int:
        """The p2m type in bits 58:55; 12 to 15 have no name."""
        return self.raw >> 55 & 0xF

    @property
    def kind(self) -> str:
        """ "table", "block", "page", "reserved" (an encoding that maps nothing), "ignored" (bit 0
        clear and no p2m type: neither an MMU nor Xen looks at the rest) or "empty" (all bits 0)."""
        if not self.raw:
            return "empty"
        if not self.valid and not self.type:
            return "ignored"
        if self.raw & 2:
            return "page" if self.level == 3 else "table"
        return "block" if self.level in _BLOCK_LEVELS else "reserved"

    @property
    def armed(self) -> bool:
        """Bit 0 is clear, and its type says that it is mapped all the same."""
        return not self.valid and self.type != 0

    @property
    def address(self) -> int:
        """The byte address in it: of the next table, or of what is mapped."""
        if self.kind == "block":
            return self.raw & _ADDRESS & ~self._below_block
        return self.raw & _ADDRESS

    @property
    def _below_block(self) -> int:
        return (1 << 12 + 9 * (3 - self.level)) - 1

    @property
    def rights(self) -> str:
        """What S2AP and XN allow: "rwx" with a dash for what they do not; "u" and "p" in place of
        "x" where it is for EL0 alone, or EL1 (FEAT_XNX)."""
        read, write = self.raw >> 6 & 1, self.raw >> 7 & 1
        return ("r" if read else "-") + ("w" if write else "-") + "xu-p"[self.raw >> 53 & 3]

    @property
    def memory(self) -> str:
        """MemAttr in words (HCR_EL2.FWB clear)."""
        return memory_words(self.raw >> 2 & 0xF)

    @property
    def shareability(self) -> str:
        """SH in words."""
        return _SH[self.raw >> 8 & 3]

    def __str__(self) -> str:
        if self.kind == "empty":
            return "empty"
        if self.kind == "ignored":
            return "ignored: bit 0 is clear, and there is no p2m type"
        state = "armed " if self.armed else ""
        if self.kind == "table":
            return f"{state}table at {self.address:#x}"
        if self.kind == "reserved":
            return f"{state}reserved encoding: maps nothing at level {self.level}"
        access_flag = "" if self.raw >> 10 & 1 else ", access flag clear"
        return (
            f"{state}{self.kind} of {_SIZES[self.level]} at {self.address:#x}:"
            f" {type_name(self.type)}, {self.rights}, {self.memory}, {self.shareability}"
            f"{access_flag}"
        )

    def fields(self) -> list[Field]:
        """Every bit once, the highest first."""
        if self.kind == "table":
            parts = _TABLE
        elif self.kind in ("block", "page"):
            parts = _leaf_parts(self.level)
        else:
            parts = _OTHER
        return [self._field(high, low, name) for high, low, name in parts]

    def explain(self) -> str:
        """A line for the whole and one for each field."""
        lines = [f"level {self.level}  {self.raw:#018x}  {self}"]
        lines += [
            f"  {field.bits:>5}  {field.name:<10} {_binary(field):<14} {field.words}".rstrip()
            for field in self.fields()
        ]
        return "\n".join(lines)

    def _field(self, high: int, low: int, name: str) -> Field:
        value = self.raw >> low & (1 << high - low + 1) - 1
        return Field(high, low, name, value, self._words(name, value, low))

    def _words(self, name: str, value: int, low: int) -> str:
        if name == "address":
            return f"{value << low:#x}"
        if name == "p2m type":
            return type_name(value)
        if name == "MemAttr":
            return memory_words(value)
        if name == "type":
            return self.kind
        if name == "valid" and self.armed:
            return "the MMU faults here: armed"
        return _WORDS[name][value] if name in _WORDS else _WORDS_IF_SET[name] if value else ""


# What the fields are: (highest bit, lowest, name).
_Parts = tuple[tuple[int, int, str], ...]
_TABLE: _Parts = (
    (63, 59, "RES0"),
    (58, 55, "p2m type"),
    (54, 51, "ignored"),
    (50, 48, "RES0"),
    (47, 12, "address"),
    (11, 2, "ignored"),
    (1, 1, "type"),
    (0, 0, "valid"),
)
_OTHER: _Parts = (
    (63, 59, "ignored"),
    (58, 55, "p2m type"),
    (54, 2, "ignored"),
    (1, 1, "type"),
    (0, 0, "valid"),
)


def _leaf_parts(level: int) -> _Parts:
    low = 12 + 9 * (3 - level)
    return (
        (63, 63, "ignored"),
        (62, 59, "PBHA"),
        (58, 55, "p2m type"),
        (54, 53, "XN"),
        (52, 52, "contiguous"),
        (51, 51, "DBM"),
        (50, 48, "RES0"),
        (47, low, "address"),
        *(((low - 1, 12, "RES0"),) if level < 3 else ()),
        (11, 11, "FnXS"),
        (10, 10, "AF"),
        (9, 8, "SH"),
        (7, 6, "S2AP"),
        (5, 2, "MemAttr"),
        (1, 1, "type"),
        (0, 0, "valid"),
    )


def memory_words(memattr: int) -> str:
    """Stage-2 MemAttr[3:0] in words, with HCR_EL2.FWB clear."""
    outer, inner = memattr >> 2, memattr & 3
    if not outer:
        return _DEVICE[inner]
    if outer == inner:
        return f"Normal {_CACHEABILITY[inner]}"
    return f"Normal, outer {_CACHEABILITY[outer]}, inner {_CACHEABILITY[inner]}"


def type_name(number: int) -> str:
    """A p2m type's name in small letters, "type 13" for one that has none, "no type" for 0: tables
    of hypervisors that leave the bits alone."""
    if number == P2MType.INVALID:
        return "no type"
    try:
        return P2MType(number).name.lower()
    except ValueError:
        return f"type {number}"


def _binary(field: Field) -> str:
    width = field.high - field.low + 1
    return f"0b{field.value:0{width}b}" if width <= 10 else f"{field.value:#x}"


def decode(descriptor: int, level: int) -> Descriptor:
    """A 64-bit descriptor, as it would be read in a stage-2 table at ``level`` (-1 to 3), in words.

    >>> print(decode(0x00800000400007fd, 2))
    block of 2 MiB at 0x40000000: ram_rw, rwx, Normal Write-Back, inner shareable

    Raises OutOfRange for what is no 64-bit number, ValueError for another level, TypeError.
    """
    raw = integer("descriptor", descriptor)
    try:
        number = operator.index(level)
    except TypeError:
        raise TypeError(f"level must be an integer, not {level!r}") from None
    if number not in _LEVELS:
        raise ValueError(f"level must be from -1 to 3, not {level!r}")
    return Descriptor(raw, number)
