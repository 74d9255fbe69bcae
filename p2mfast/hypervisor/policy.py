"""The choices that the reviewers of Xen's patch asked for, as one value."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, cast, get_args

Arm = Literal["auto", "creation-finished", "map", "first-set-way", "never"]
Resolve = Literal["path", "level"]
FlushKind = Literal["harvest", "path", "leaf", "all"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "arm": get_args(Arm),
    "resolve": get_args(Resolve),
    "flush": get_args(FlushKind),
}
MAX_FAULT_AROUND = 18


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

    Raises ValueError or TypeError naming the field and its value.
    """

    arm: Arm = "auto"
    resolve: Resolve = "path"
    fault_around: int = 0
    flush: FlushKind = "harvest"
    budget: int = 512
    iommu_shared: bool = False

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
        if not isinstance(self.iommu_shared, bool):
            raise TypeError(f"policy iommu_shared must be a bool, not {self.iommu_shared!r}")

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
