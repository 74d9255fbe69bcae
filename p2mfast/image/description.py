"""What is said of an image beside its memory: the registers, in the JSON of a raw image's header,
of an .npz and of a note in an ELF core."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from p2mfast.errors import ImageError
from p2mfast.image.tables import Image

FORMAT = "p2mfast-table-image"
VERSION = 1
_MOST_BYTES = 1 << 24
_REGISTERS = ("vttbr", "vtcr", "ipa_bits", "pa_bits")


def describe(image: Image) -> dict[str, Any]:
    """The description that goes with an image's tables."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": image.source,
        "vttbr": image.vttbr,
        "vtcr": image.vtcr,
        "ipa_bits": image.ipa_bits,
        "pa_bits": image.pa_bits,
        "start_level": image.root_level,
        "root_pages": image.root_pages,
    }


def parse(text: bytes | str, where: str) -> dict[str, Any]:
    """A description that somebody wrote. Raises ImageError naming what is wrong with it."""
    if len(text) > _MOST_BYTES:
        raise ImageError(f"{where}: {len(text)} bytes are no description of an image")
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{where}: not JSON ({error})") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise ImageError(f'{where}: "format" is not "{FORMAT}"')
    if type(description.get("version")) is not int or description["version"] != VERSION:
        raise ImageError(f'{where}: "version" is {description.get("version")!r}, not {VERSION}')
    for name in _REGISTERS:
        if description.get(name) is not None:
            integer(description, name, where)
    return description


def agree(description: dict[str, Any], image: Image, where: str) -> None:
    """What it says of the root tables must be what the registers say."""
    for name, value in (("start_level", image.root_level), ("root_pages", image.root_pages)):
        if description.get(name) is not None and integer(description, name, where) != value:
            raise ImageError(f'{where}: "{name}" is {description[name]}, VTCR says {value}')


def integer(values: dict[str, Any], name: str, where: str) -> int:
    """values[name] as an unsigned 64-bit number, given as one or as a string such as "0x1000"."""
    value = values.get(name)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = int(value, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**64:
        raise ImageError(f'{where}: "{name}" must be an unsigned 64-bit number, not {value!r:.40}')
    return value


def registers(description: dict[str, Any], where: str) -> dict[str, int]:
    """Those that the description has."""
    return {
        name: integer(description, name, where)
        for name in _REGISTERS
        if description.get(name) is not None
    }
