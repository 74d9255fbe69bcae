"""Images in and out of files: which format, and with which registers."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from p2mfast._engine import P2M
from p2mfast.arguments import integer
from p2mfast.errors import ImageError
from p2mfast.image import elf, npz, raw
from p2mfast.image.description import agree, describe, parse, registers
from p2mfast.image.memory import Bytes, Memory, map_file
from p2mfast.image.tables import Finding, FindingKind, Image
from p2mfast.units import PAGE_SIZE

_SUFFIXES = (".json", ".bin", ".elf", ".core", ".npz")


def load(
    path: str | os.PathLike[str],
    *,
    vttbr: int | None = None,
    vtcr: int | None = None,
    ipa_bits: int | None = None,
    pa_bits: int | None = None,
    base: int | None = None,
) -> Image:
    """The tables in a file: an image that :func:`save` wrote, an ``.npz`` of table pages, an ELF
    core of a guest or a host, or raw memory such as QEMU's ``pmemsave`` writes.

    Parameters
    ----------
    path : path
        The file; of a raw image either the ``.json`` or the ``.bin``. It is mapped, not read (an
        ``.npz`` is read).
    vttbr, vtcr, ipa_bits, pa_bits : int, optional
        VTTBR_EL2, and VTCR_EL2 or the IPA size: for files that do not say, and instead of what
        they say.
    base : int, optional
        Physical address of raw memory's first byte.

    Raises
    ------
    ImageError
        Nothing can be read: what is wrong, and where. Faults of the tables themselves, and a file
        that is shorter than it says, are :meth:`Image.findings`.
    OSError
        The file cannot be opened.
    """
    path = Path(path)
    description: dict[str, Any] = {}
    truncated: list[str] = []
    header = raw.header_of(path)
    if header and (base is None or path.suffix == ".json"):
        description, pieces, truncated = raw.read(header)
    else:
        data = map_file(path)
        magic = data[:4].tobytes()
        if magic == npz.MAGIC:
            description, pieces = npz.read(path)
        elif magic == elf.MAGIC:
            pieces, note, truncated = elf.read(data)
            description = parse(note, f"{path}, its note") if note is not None else {}
        else:
            pieces = [(_base(path, base), data)]
            base = None
    if base is not None:
        raise ImageError(f"base {integer('base', base):#x}: {path} says itself where its memory is")
    known = registers(description, str(path))
    if vtcr is not None or ipa_bits is not None:  # the other one is not to contradict it
        known.pop("vtcr", None), known.pop("ipa_bits", None)
    given = {"vttbr": vttbr, "vtcr": vtcr, "ipa_bits": ipa_bits, "pa_bits": pa_bits}
    known |= {name: value for name, value in given.items() if value is not None}
    if "vttbr" not in known:
        raise ImageError(f"{path} does not say where its tables are: give vttbr (VTTBR_EL2)")
    source = description.get("source")
    try:
        image = Image(
            Memory(pieces),
            **known,
            source=source if isinstance(source, str) else "",
            notes=[Finding(FindingKind.TRUNCATED, words) for words in truncated],
        )
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    agree(description, image, str(path))
    return image


def _base(path: Path, base: int | None) -> int:
    if base is None:
        raise ImageError(
            f"{path} is neither an image of tables nor an ELF file: for raw memory give base, the"
            " physical address of its first byte"
        )
    return integer("base", base)


def save(source: P2M | Image, path: str | os.PathLike[str]) -> None:
    """Write all tables of a P2M or an image, by the suffix of ``path``: ``.json`` or ``.bin``, raw
    table pages and a JSON header beside them; ``.elf`` or ``.core``, an ELF core with the tables at
    their physical addresses; ``.npz``. Only tables that are reached are written.

    Raises ImageError for another suffix or for tables that are not there, OSError. Files appear
    whole, under their names, or not at all.
    """
    path = Path(path)
    if not isinstance(source, P2M | Image):
        raise TypeError(f"source must be a P2M or an Image, not {source!r}")
    if path.suffix not in _SUFFIXES:
        raise ImageError(f"{path}: the suffix must be one of {', '.join(_SUFFIXES)}")
    image = source if isinstance(source, Image) else Image.of(source)
    pieces = _pieces(image) if isinstance(source, Image) else image.memory.segments
    description = describe(image)
    if path.suffix == ".npz":
        with _replacing(path) as file:
            npz.write(file, pieces, json.dumps(description))
    elif path.suffix in (".elf", ".core"):
        with _replacing(path) as file:
            elf.write(file, pieces, json.dumps(description).encode())
    else:
        binary = path.with_suffix(".bin")
        header = raw.header(description, pieces, binary.name)
        with _replacing(binary) as file, _replacing(path.with_suffix(".json")) as beside:
            for _, data in pieces:
                file.write(data.data)
            beside.write((json.dumps(header, indent=1) + "\n").encode())


def _pieces(image: Image) -> list[tuple[int, Bytes]]:
    """The pages of every table that was reached, those that follow each other together."""
    pages = np.sort(image.tables()["pa"])
    new = np.flatnonzero(np.diff(pages) != PAGE_SIZE) + 1
    return [
        (int(part[0]), np.concatenate([image.memory.read(int(pa), PAGE_SIZE) for pa in part]))
        for part in np.split(pages, new)
        if len(part)
    ]


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when it is whole."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def qemu_loader(path: str | os.PathLike[str]) -> list[str]:
    """The command-line arguments with which QEMU's generic loader puts the tables of a saved image
    where VTTBR_EL2 will look for them: ``["-device", "loader,file=..."]``.

    Raises ImageError for an ``.npz``, which QEMU cannot read, and for raw pages that do not lie in
    one piece: save those as ``.elf``.
    """
    path = Path(path)
    header = raw.header_of(path)
    if header is None:
        if map_file(path)[:4].tobytes() != elf.MAGIC:
            raise ImageError(f"{path}: QEMU loads an image saved as .elf or .json")
        return ["-device", f"loader,file={_quote(path)}"]
    _, pieces, truncated = raw.read(header)
    if truncated:
        raise ImageError(f"{header}: {truncated[0]}")
    if len(pieces) != 1:
        raise ImageError(f"{header}: {len(pieces)} pieces of memory; save them as .elf")
    binary = header.with_suffix(".bin")
    return ["-device", f"loader,file={_quote(binary)},addr={pieces[0][0]:#x},force-raw=on"]


def _quote(path: Path) -> str:
    """QEMU's options end at a comma, unless there are two."""
    return str(path).replace(",", ",,")
