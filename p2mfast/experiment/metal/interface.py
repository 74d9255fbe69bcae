"""The monitor's interface.h, read: its numbers by name, its structs as NumPy types.

The header keeps to what this reads: numbers in #defines, enums that count from 0, and structs of
``uint64_t`` and arrays of it or of structs before them. So the layout is described once, in C.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_DEFINE = re.compile(r"^[ \t]*#define[ \t]+(\w+)[ \t]+(\S.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Interface:
    """What the header says."""

    numbers: dict[str, int]
    """#defines and enumerators."""
    structs: dict[str, np.dtype[np.void]]

    def __getitem__(self, name: str) -> int:
        return self.numbers[name]

    def name_of(self, prefix: str, value: int) -> str:
        """The enumerator that begins with this prefix and has this value, in Python's words:
        ``name_of("CAUSE_", 1)`` is ``"set-way"``."""
        for name, number in self.numbers.items():
            if name.startswith(prefix) and number == value:
                return name.removeprefix(prefix).lower().replace("_", "-")
        raise ValueError(f"interface.h has no {prefix}... that is {value}")


def read(path: Path) -> Interface:
    """Read the header. Raises ValueError for a form that is not understood."""
    return parse(path.read_text())


def parse(text: str) -> Interface:
    """The same of the header's text."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    numbers: dict[str, int] = {}
    for name, value in _DEFINE.findall(text):
        numbers[name] = _number(name, value)
    structs: dict[str, np.dtype[np.void]] = {}
    for kind, name, body in re.findall(r"\b(enum|struct)\s+(\w+)\s*\{([^}]*)\}\s*;", text):
        if kind == "enum":
            for value, item in enumerate(filter(None, map(str.strip, body.split(",")))):
                if not re.fullmatch(r"\w+", item):
                    raise ValueError(f"interface.h: enum {name}: {item!r} is not understood")
                numbers[item] = value
        else:
            fields = [
                _field(name, field, numbers, structs)
                for field in filter(None, map(str.strip, body.split(";")))
            ]
            structs[name] = np.dtype([part for field in fields for part in field])
    return Interface(numbers, structs)


def _number(name: str, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"interface.h: {name} is no number: {text!r}") from None


def _field(
    struct: str, text: str, numbers: dict[str, int], structs: dict[str, np.dtype[np.void]]
) -> list[tuple[Any, ...]]:
    """``uint64_t a, b[4]`` or ``struct other c[8]``."""
    match = re.fullmatch(r"(uint64_t|struct\s+(\w+))\s+(.*)", text, re.DOTALL)
    if match is None or (match[2] and match[2] not in structs):
        raise ValueError(f"interface.h: struct {struct}: {text!r} is not understood")
    of = structs[match[2]] if match[2] else np.dtype("<u8")
    parts: list[tuple[Any, ...]] = []
    for item in match[3].split(","):
        found = re.fullmatch(r"\s*(\w+)\s*(?:\[(\w+)\])?\s*", item)
        if found is None:
            raise ValueError(f"interface.h: struct {struct}: {text!r} is not understood")
        if found[2] is None:
            parts.append((found[1], of))
        else:
            length = numbers[found[2]] if found[2] in numbers else _number(found[1], found[2])
            parts.append((found[1], of, (length,)))
    return parts
