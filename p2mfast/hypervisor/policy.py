"""The choices that the reviewers of Xen's patch asked for, as one value."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Arm = Literal["auto", "creation-finished", "map", "first-set-way", "never"]
Resolve = Literal["path", "level"]
FlushKind = Literal["harvest", "path", "leaf", "all"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "arm": get_args(Arm),
    "resolve": get_args(Resolve),
    "flush": get_args(FlushKind),
}
MAX_FAULT_AROUND = 18

# For explain(): by field, and by value where the choices differ.
_WORDS: dict[str, Any] = {
    "arm": {
        "auto": "32-bit guests at creation, 64-bit ones at their first Set/Way (after Stefano"
        " Stabellini's proposal): 32-bit Linux cleans by Set/Way, 64-bit guests hardly ever do.",
        "creation-finished": "When the domain first runs (Xen's patch): the first flush is cheap,"
        " and every guest pays a trap for the first touch of each page or block.",
        "map": "Entries are written invalid right away (Jan Beulich's question): a hardware walk of"
        " a domain under construction fails, too. Costs what creation-finished costs.",
        "first-set-way": "At the guest's first Set/Way: who never asks pays nothing, and who does"
        " has all its RAM cleaned once.",
        "never": "No tracking: no traps, and every flush cleans what flush says of all RAM.",
    },
    "resolve": {
        "path": "One trap makes a page reachable.",
        "level": "One level a trap (Xen's patch): up to four traps for a page, less work in each.",
    },
    "fault_around": "Pages made reachable by one trap, log2: fewer traps, and more pages to clean"
    " that were not touched.",
    "flush": {
        "harvest": "Collect what is reachable and arm in one step, then clean: a page touched"
        " meanwhile is in this flush or in the next.",
        "path": "Clean what is reachable, then arm: a page that another vCPU touches in between is"
        " forgotten.",
        "leaf": "Clean leaves whose own bit 0 is set, then arm (Xen's patch): below an armed table"
        " they still look valid, so that it cleans nearly everything, and forgets as path does.",
        "all": "Clean all mapped RAM, as Xen did before the patch.",
    },
    "budget": "Units of work between two preemption checks (Xen: 512): 1 a region skipped, 10 a"
    " page cleaned. Smaller answers sooner, and takes longer.",
    "iommu_shared": {
        True: "The IOMMU walks these tables, too, and its faults cannot be fixed up: nothing is"
        " armed, Set/Way injects an undefined instruction (Xen's patch).",
        False: "The IOMMU has tables of its own, or there is none.",
    },
    "defer": {
        True: "Maintenance of TLB and instruction caches waits until the domain first runs (Julien"
        " Grall's other use of the hook).",
        False: "Each mapping is followed by its maintenance.",
    },
}


@dataclass(frozen=True)
class Policy:
    """When to arm a domain's P2M, how to resolve the faults, and what a flush cleans.

    Parameters
    ----------
    arm
        ``creation-finished``: when the domain first runs, as Xen's patch does. ``map``: entries
        are written invalid right away, so that even a hardware walk of a domain under construction
        fails (Jan Beulich's question). ``first-set-way``: nobody pays until somebody asks; the
        first flush cleans all RAM. ``never``: no tracking. ``auto``: 32-bit guests at creation,
        64-bit ones at their first Set/Way (after Stefano Stabellini's proposal).
    resolve
        ``path``: one trap makes a page reachable. ``level``: one level a trap, as Xen.
    fault_around
        Order of the aligned group of pages that one trap makes reachable (0 to 18).
    flush
        ``harvest``: collect what is reachable and arm in one step, then clean. ``path``: clean what
        is reachable, then arm. ``leaf``: clean leaves whose own bit 0 is set, then arm, as Xen.
        ``all``: clean all mapped RAM.
    budget
        Units of work between two preemption checks: 1 a region skipped, 10 a page cleaned.
    iommu_shared
        The tables are the IOMMU's too, and its faults cannot be fixed up: nothing is ever armed,
        whatever ``arm`` says, and a trapped Set/Way injects an undefined-instruction exception.
    defer
        TLB and instruction cache maintenance for what is mapped before the domain first runs is
        put off to one of each then (Julien Grall's other use of the hook); the domain's ``stats``
        count what was saved.

    Raises ValueError or TypeError naming the field and its value.
    """

    arm: Arm = "auto"
    resolve: Resolve = "path"
    fault_around: int = 0
    flush: FlushKind = "harvest"
    budget: int = 512
    iommu_shared: bool = False
    defer: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(
                    f"policy {name} must be one of {', '.join(choices)}, not {value!r}"
                )
        for name, lowest, highest in (("fault_around", 0, MAX_FAULT_AROUND), ("budget", 1, 2**63)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"policy {name} must be an integer, not {value!r}")
            if not lowest <= value <= highest:
                raise ValueError(f"policy {name} must be from {lowest} to {highest}, not {value!r}")
        for name in ("iommu_shared", "defer"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"policy {name} must be a bool, not {getattr(self, name)!r}")

    @classmethod
    def parse(cls, text: str) -> Policy:
        """The policy of a string such as ``"arm=creation-finished,resolve=level,flush=leaf"``.

        Fields left out have their defaults; an empty string is the default policy.
        """
        values: dict[str, object] = {}
        fields = {field.name: field.type for field in dataclasses.fields(cls)}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = (part.strip() for part in item.partition("="))
            name = name.replace("-", "_")
            if not equals or name not in fields:
                raise ValueError(
                    f"policy {text!r}: {item!r} is none of {', '.join(f'{f}=...' for f in fields)}"
                )
            if name in values:
                raise ValueError(f"policy {text!r}: {name} is given twice")
            values[name] = _parse_value(name, value, str(fields[name]), text)
        return cls(**cast("dict[str, Arm]", values))  # type: ignore[arg-type]

    @classmethod
    def from_toml(cls, source: str | Path) -> Policy:
        """The policy of a TOML file (a ``Path``) or text: the fields by name, at the top or in a
        table ``[policy]``.

        Raises ValueError or TypeError naming the field, OSError where the file cannot be read.
        """
        text = source.read_text() if isinstance(source, Path) else source
        try:
            document: dict[str, Any] = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"policy: this is no TOML: {error}") from None
        values = document.get("policy", document)
        if not isinstance(values, dict):
            raise TypeError(f"policy must be a table, not {values!r}")
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"policy {name!r} is none of {', '.join(known)}")
        return cls(**values)

    def explain(self) -> str:
        """What each choice means, who asked for it, and what it trades; a line or more a field."""
        lines = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            words = _WORDS[field.name]
            text = words[value] if isinstance(words, dict) else words
            lines.append(
                f"{field.name} = {str(value).lower() if value in (True, False) else value}"
            )
            lines += textwrap.wrap(text, 80, initial_indent="    ", subsequent_indent="    ")
        if self.iommu_shared:
            lines.append("iommu_shared overrides arm: nothing is armed.")
        return "\n".join(lines)

    def __str__(self) -> str:
        """The string that :meth:`parse` reads; only what differs from the defaults."""
        changed = [
            f"{field.name}={str(value).lower() if isinstance(value, bool) else value}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return ",".join(changed) or "arm=auto"

    def arms_at(self, bits: int) -> Arm:
        """When a guest of this bitness is armed: ``auto`` and ``iommu_shared`` are settled."""
        if self.iommu_shared:
            return "never"
        if self.arm == "auto":
            return "creation-finished" if bits == 32 else "first-set-way"
        return self.arm


def _parse_value(name: str, value: str, kind: str, text: str) -> object:
    if kind == "int":
        try:
            return int(value, 0)
        except ValueError:
            raise ValueError(f"policy {text!r}: {name} must be a number, not {value!r}") from None
    if kind == "bool":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() not in words:
            raise ValueError(f"policy {text!r}: {name} must be true or false, not {value!r}")
        return words[value.lower()]
    return value
