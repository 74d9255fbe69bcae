"""Sizes as people write them."""

from __future__ import annotations

import re

PAGE_SIZE = 4096

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_size(value: str | int, name: str) -> int:
    """Bytes of "512MiB", "2G", "4096" or an int; a positive multiple of 4 KiB.

    Raises ValueError or TypeError naming ``name`` and the value.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"{name} must be a number of bytes or a string like '2GiB', not {value!r}")
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+)\s*([KMGT]?)(?:i?B)?\s*", value, re.IGNORECASE)
        if not match:
            raise ValueError(f"{name} must be a size like '512MiB' or '2G', not {value!r}")
        size = int(match[1]) * _UNITS[match[2].upper()]
    else:
        size = value
    if size <= 0 or size % PAGE_SIZE:
        raise ValueError(f"{name} must be a positive multiple of 4 KiB, not {value!r}")
    return size


def format_size(size: int) -> str:
    """The largest unit that divides it: "2 GiB", "512 MiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        scale = _UNITS[unit[0]]
        if size and size % scale == 0:
            return f"{size // scale} {unit}"
    return f"{size} B"
