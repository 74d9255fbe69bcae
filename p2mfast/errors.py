"""What can go wrong. Nothing has changed when one of these is raised."""

from __future__ import annotations

from p2mfast.types import FaultKind


class P2MError(Exception):
    """Base of every error that the engine raises about a P2M."""


class OutOfRange(P2MError, ValueError):
    """A GFN, MFN or count beyond what the P2M or a descriptor can hold.

    ``argument`` is the name of the argument, ``value`` what was given.
    """

    def __init__(self, message: str, argument: str = "", value: int | None = None) -> None:
        super().__init__(message)
        self.argument = argument
        self.value = value


class OutOfTables(P2MError, MemoryError):
    """The quota ``max_tables``, or the memory for tables, does not suffice for the request."""


class MappingMismatch(P2MError):
    """``remove_mapping``: RAM other than the MFN given is mapped there (Xen's -EILSEQ)."""


_DFSC_BASE = {
    FaultKind.ADDRESS_SIZE: 0b000000,
    FaultKind.TRANSLATION: 0b000100,
    FaultKind.ACCESS_FLAG: 0b001000,
    FaultKind.PERMISSION: 0b001100,
    FaultKind.EXTERNAL: 0b010100,
}


class Stage2Fault(P2MError):
    """The MMU refuses an access at stage 2.

    ``ipa`` is the byte address, ``level`` that of the descriptor that faulted, ``kind`` a
    :class:`~p2mfast.FaultKind`. ``write`` says that it is the writing that is refused; an access
    that reads as well and could not is a read's fault. ``esr`` and ``hpfar`` are ESR_EL2 and
    HPFAR_EL2 as the exception to EL2 would report them (Arm ARM DDI 0487, D19.2; EC 0x20 for a
    fetch, else 0x24).
    """

    def __init__(
        self, ipa: int, level: int, kind: FaultKind, access: str, write: bool = False
    ) -> None:
        self.ipa = ipa
        self.level = level
        self.kind = kind
        self.access = access
        self.write = write
        super().__init__(
            f"stage-2 {kind.name.lower().replace('_', ' ')} fault at level {level}"
            f" ({access!r} access to ipa {ipa:#x})"
        )

    @property
    def esr(self) -> int:
        """ESR_EL2: EC, IL, WnR, and the fault status code with its level."""
        ec = 0x20 if self.access == "x" else 0x24
        return ec << 26 | 1 << 25 | self.write << 6 | _DFSC_BASE[self.kind] | self.level

    @property
    def hpfar(self) -> int:
        """HPFAR_EL2: the faulting page's frame number in bits 43:4 (FIPA)."""
        return (self.ipa >> 12) << 4


class AddressBeyondSpace(Stage2Fault, OutOfRange):
    """``translate`` of an address beyond the IPA size: a translation fault of level 0 to the MMU,
    and out of range for the P2M."""

    argument = "ipa"

    def __init__(self, ipa: int, access: str) -> None:
        Stage2Fault.__init__(self, ipa, 0, FaultKind.TRANSLATION, access, access == "w")
        self.value = ipa


class OutOfFrames(P2MError, MemoryError):
    """The host has too few free machine frames for the request."""


class OutOfVmids(P2MError):
    """Every VMID of the host is in use."""


class DomainStateError(P2MError):
    """The domain is in no state for the call: dying, or not paused."""


class TraceError(P2MError, ValueError):
    """A file is no recorded guest that this version can replay."""


class ImageError(P2MError, ValueError):
    """No stage-2 tables can be read in a file or a memory: what is wrong with it, and where."""
