"""ELF cores: memory at its physical addresses, as QEMU's dump-guest-memory, Xen's and crash's tools
have it. Ours carry the registers in a note as well."""

from __future__ import annotations

from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from p2mfast.errors import ImageError
from p2mfast.image.memory import Bytes

MAGIC = b"\x7fELF"

_IDENT = [("ident", "S16"), ("type", "<u2"), ("machine", "<u2"), ("version", "<u4")]
_TAIL = [
    ("flags", "<u4"),
    ("ehsize", "<u2"),
    ("phentsize", "<u2"),
    ("phnum", "<u2"),
    ("shentsize", "<u2"),
    ("shnum", "<u2"),
    ("shstrndx", "<u2"),
]
_HEADERS = {
    1: np.dtype([*_IDENT, ("entry", "<u4"), ("phoff", "<u4"), ("shoff", "<u4"), *_TAIL]),
    2: np.dtype([*_IDENT, ("entry", "<u8"), ("phoff", "<u8"), ("shoff", "<u8"), *_TAIL]),
}
_PROGRAM_HEADERS = {
    1: np.dtype(
        [
            ("type", "<u4"),
            ("offset", "<u4"),
            ("vaddr", "<u4"),
            ("paddr", "<u4"),
            ("filesz", "<u4"),
            ("memsz", "<u4"),
            ("flags", "<u4"),
            ("align", "<u4"),
        ]
    ),
    2: np.dtype(
        [
            ("type", "<u4"),
            ("flags", "<u4"),
            ("offset", "<u8"),
            ("vaddr", "<u8"),
            ("paddr", "<u8"),
            ("filesz", "<u8"),
            ("memsz", "<u8"),
            ("align", "<u8"),
        ]
    ),
}
# Of a section header, where the number of program headers is when it does not fit in 16 bits.
_SH_INFO = {1: 28, 2: 44}
_SECTION_BYTES = 64

_ET_CORE = 4
_EM_AARCH64 = 183
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM = 0xFFFF
_NOTE_NAME = b"p2mfast\0"
_NOTE_TYPE = 1
_PAGE = 4096

# More than any dump has, and few enough to be read in a moment.
_MOST_PROGRAM_HEADERS = 1 << 20
_NOTES_LOOKED_AT = 64


class Core(NamedTuple):
    """What an ELF file holds: its memory, our note where it has one, and what is cut off."""

    pieces: list[tuple[int, Bytes]]
    note: bytes | None
    truncated: list[str]


def read(data: Bytes) -> Core:
    """The PT_LOAD segments of a little-endian ELF file, 32- or 64-bit, of any machine.

    What a segment has beyond the file's end is left out and told. Raises ImageError.
    """
    ident = data[:16].tobytes()
    if len(ident) < 16 or ident[4] not in _HEADERS:
        raise ImageError("an ELF file that is neither 32- nor 64-bit")
    if ident[5] != 1:
        raise ImageError("an ELF file that is not little-endian")
    headers = _program_headers(data, ident[4])
    core = Core([], _find_note(data, headers[headers["type"] == _PT_NOTE]), [])
    for header in headers[(headers["type"] == _PT_LOAD) & (headers["filesz"] > 0)]:
        pa, offset, size = (int(header[name]) for name in ("paddr", "offset", "filesz"))
        there = max(0, min(size, len(data) - offset))
        if there < size:
            core.truncated.append(
                f"the file ends {size - there:#x} bytes early: of the memory at {pa:#x}"
                f" {there:#x} of {size:#x} bytes are there"
            )
        core.pieces.append((pa, data[offset : offset + there]))
    return core


def _program_headers(data: Bytes, bits: int) -> npt.NDArray[Any]:
    layout, entry = _HEADERS[bits], _PROGRAM_HEADERS[bits]
    if len(data) < layout.itemsize:
        raise ImageError("the file ends inside its ELF header")
    header = data[: layout.itemsize].view(layout)[0]
    count, offset = int(header["phnum"]), int(header["phoff"])
    if count == _PN_XNUM:
        at = int(header["shoff"]) + _SH_INFO[bits]
        if at + 4 > len(data):
            raise ImageError("the file ends before the section that counts its program headers")
        count = int(data[at : at + 4].view("<u4")[0])
    if count > _MOST_PROGRAM_HEADERS:
        raise ImageError(f"{count} program headers are more than any dump has")
    if count and int(header["phentsize"]) != entry.itemsize:
        raise ImageError(f"program headers of {int(header['phentsize'])} bytes")
    if offset + count * entry.itemsize > len(data):
        raise ImageError(f"the file ends before its {count} program headers do")
    return data[offset : offset + count * entry.itemsize].view(entry)


def _find_note(data: Bytes, headers: npt.NDArray[Any]) -> bytes | None:
    """Ours, which is the first of its segment."""
    for offset in headers["offset"][:_NOTES_LOOKED_AT].tolist():
        head = data[offset : offset + 12 + len(_NOTE_NAME)].tobytes()
        if len(head) == 12 + len(_NOTE_NAME) and head[12:] == _NOTE_NAME:
            sizes = np.frombuffer(head[:12], "<u4").tolist()
            if sizes[0] == len(_NOTE_NAME) and sizes[2] == _NOTE_TYPE:
                return data[offset + len(head) : offset + len(head) + sizes[1]].tobytes()
    return None


def write(file: IO[bytes], pieces: list[tuple[int, Bytes]], note: bytes) -> None:
    """An ELF core for AArch64 of these pieces, whose lengths are multiples of 4 KiB."""
    body = np.array([len(_NOTE_NAME), len(note), _NOTE_TYPE], "<u4").tobytes() + _NOTE_NAME
    body += note.ljust(_align(len(note), 4), b"\0")
    layout, entry = _HEADERS[2], _PROGRAM_HEADERS[2]
    count = len(pieces) + 1
    extended = count >= _PN_XNUM
    after = layout.itemsize + count * entry.itemsize
    headers = np.zeros(count, entry)
    headers["type"] = _PT_LOAD
    headers[0] = (_PT_NOTE, 0, after, 0, 0, len(body), 0, 4)
    offset = _align(after + len(body) + (_SECTION_BYTES if extended else 0), _PAGE)
    for row, (pa, data) in zip(headers[1:], pieces, strict=True):
        row["offset"], row["paddr"], row["vaddr"] = offset, pa, pa
        row["filesz"] = row["memsz"] = len(data)
        row["flags"], row["align"] = 6, _PAGE  # readable and writable
        offset += len(data)
    header = np.zeros(1, layout)
    header["ident"] = MAGIC + bytes([2, 1, 1])
    header["type"], header["machine"], header["version"] = _ET_CORE, _EM_AARCH64, 1
    header["phoff"] = header["ehsize"] = layout.itemsize
    header["phentsize"], header["phnum"] = entry.itemsize, min(count, _PN_XNUM)
    section = np.zeros(_SECTION_BYTES if extended else 0, np.uint8)
    if extended:
        header["shoff"], header["shentsize"], header["shnum"] = after + len(body), 64, 1
        section[_SH_INFO[2] : _SH_INFO[2] + 4] = np.array([count], "<u4").view(np.uint8)
    head = header.tobytes() + headers.tobytes() + body + section.tobytes()
    file.write(head.ljust(_align(len(head), _PAGE), b"\0"))
    for _, data in pieces:
        file.write(data.data)


def _align(size: int, to: int) -> int:
    return -(-size // to) * to
