"""Table pages in an .npz: ``meta`` (JSON), ``page_pa`` u8 [n], ``page`` u8 [n, 512]."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from p2mfast.errors import ImageError
from p2mfast.image.description import parse
from p2mfast.image.memory import Bytes

MAGIC = b"PK\x03\x04"
_WORDS = 512


def read(path: Path) -> tuple[dict[str, Any], list[tuple[int, Bytes]]]:
    """(description, memory) of a file that can be opened. Raises ImageError."""
    try:
        _refuse_a_bomb(path)
        with np.load(path, allow_pickle=False) as arrays:
            meta, page_pa, page = (
                np.asarray(arrays[name])  # of a member that is no array NumPy gives the bytes
                for name in ("meta", "page_pa", "page")
            )
    except ImageError:
        raise
    except Exception as error:  # of a broken file NumPy and zipfile raise nearly everything
        raise ImageError(
            f"{path} cannot be read as an .npz of table pages: {error or type(error).__name__}"
        ) from None
    if meta.dtype.kind not in "US" or meta.ndim != 0:
        raise ImageError(f"{path}: meta must be one string")
    _require(path, "page_pa", page_pa, (len(page),) if page.ndim else ())
    _require(path, "page", page, (len(page), _WORDS) if page.ndim else ())
    if (page_pa % np.uint64(8 * _WORDS)).any():
        raise ImageError(f"{path}: page_pa must be multiples of 4 KiB")
    order = np.argsort(page_pa, kind="stable")
    page_pa, page = page_pa[order], np.ascontiguousarray(page[order])
    return parse(meta.item(), str(path)), _join(page_pa, page)


def _refuse_a_bomb(path: Path) -> None:
    """A small file can unpack to more than any memory."""
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory // 2:
        raise ImageError(
            f"{path} unpacks to {size >> 20} MiB, more than half of this machine's memory; as .elf"
            " or .json it would be mapped, not read"
        )


def _require(path: Path, name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != np.uint64 or array.shape != shape or not shape:
        raise ImageError(
            f"{path}: page_pa and page must be uint64 of shapes (n,) and (n, {_WORDS}), {name} is"
            f" {array.dtype} of shape {array.shape}"
        )


def _join(page_pa: npt.NDArray[Any], page: npt.NDArray[Any]) -> list[tuple[int, Bytes]]:
    """Pages that follow each other become one piece."""
    if not len(page_pa):
        return []
    new = np.flatnonzero(np.diff(page_pa) != 8 * _WORDS) + 1
    starts = [0, *new.tolist()]
    ends = [*new.tolist(), len(page_pa)]
    return [
        (int(page_pa[start]), page[start:end].reshape(-1).view(np.uint8))
        for start, end in zip(starts, ends, strict=True)
    ]


def write(file: IO[bytes], pieces: list[tuple[int, Bytes]], meta: str) -> None:
    """An .npz of these pieces, whose lengths are multiples of 4 KiB."""
    page_pa = [
        pa + 8 * _WORDS * np.arange(len(data) // (8 * _WORDS), dtype=np.uint64)
        for pa, data in pieces
    ]
    pages = [data.reshape(-1, 8 * _WORDS) for _, data in pieces]
    np.savez_compressed(
        file,
        meta=np.array(meta),
        page_pa=np.concatenate(page_pa),
        page=np.concatenate(pages).view("<u8"),
    )
