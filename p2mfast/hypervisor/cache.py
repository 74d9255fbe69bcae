"""The shape of a data cache, as Set/Way operations see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheGeometry:
    """One level of data or unified cache (Arm ARM DDI 0487, D19.2, CCSIDR_EL1).

    Parameters
    ----------
    line : int
        Bytes of a line: a power of two from 16 to 2048.
    ways, sets : int
        How many of each.

    Raises TypeError or ValueError naming the argument.
    """

    line: int = 64
    ways: int = 4
    sets: int = 256

    def __post_init__(self) -> None:
        for name, most in (("line", 2048), ("ways", 1024), ("sets", 32768)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not 1 <= value <= most:
                raise ValueError(f"{name} must be from 1 to {most}, not {value!r}")
        if self.line < 16 or self.line & (self.line - 1):
            raise ValueError(f"line must be a power of two from 16 to 2048, not {self.line!r}")

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self.line * self.ways * self.sets

    @property
    def set_way_operations(self) -> int:
        """Set/Way operations that cleaning all of it takes: what a batch traps without
        HCR_EL2.TSW's shortcut."""
        return self.ways * self.sets

    @property
    def ccsidr(self) -> int:
        """CCSIDR_EL1 in its 32-bit format."""
        return (self.sets - 1) << 13 | (self.ways - 1) << 3 | (self.line.bit_length() - 5)
