"""What a trap to EL2 says of itself (ESR_EL2, HPFAR_EL2), and what EL2 injects in return.

HSR and HPFAR, of a hypervisor in AArch32 state, have the same fields in their 32 bits. Section
numbers are those of the Arm ARM, DDI 0487.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

from p2mfast.arguments import integer
from p2mfast.types import FaultKind

Half = Literal["low", "high"]
SetWayOp = Literal["isw", "csw", "cisw"]
Injection = Literal["undefined", "data-abort", "instruction-abort", "serror"]

# Exception classes (D19.2, ESR_EL2, EC).
_EC_UNKNOWN = 0x00
_EC_CP15 = 0x03
_EC_CP15_64 = 0x04
_EC_SYS64 = 0x18
_EC_FETCH_LOWER = 0x20
_EC_FETCH_SAME = 0x21
_EC_DATA_LOWER = 0x24
_EC_DATA_SAME = 0x25
_EC_SERROR = 0x2F

_IL = 1 << 25
_ISV, _FNV, _EA, _CM, _S1PTW, _WNR = 1 << 24, 1 << 10, 1 << 9, 1 << 8, 1 << 7, 1 << 6
_ALWAYS = 1 << 24 | 0xE << 20  # CV, and COND of an unconditional AArch32 instruction

# DFSC and IFSC: bits 5:2 for the codes whose bits 1:0 are a level, and the one without a level
# (D19.2, ESR_EL2, ISS encoding for an exception from a Data Abort).
_KIND_OF_CODE = {
    0b0000: FaultKind.ADDRESS_SIZE,
    0b0001: FaultKind.TRANSLATION,
    0b0010: FaultKind.ACCESS_FLAG,
    0b0011: FaultKind.PERMISSION,
    0b0101: FaultKind.EXTERNAL,
}
_CODE_OF_KIND = {kind: code for code, kind in _KIND_OF_CODE.items()}
_FSC_EXTERNAL = 0b010000

# The registers whose writes HCR_EL2.TVM traps (D19.2, HCR_EL2): op0, op1, CRn, CRm, op2 (D19.2).
_AARCH64 = {
    "SCTLR_EL1": (3, 0, 1, 0, 0),
    "TTBR0_EL1": (3, 0, 2, 0, 0),
    "TTBR1_EL1": (3, 0, 2, 0, 1),
    "TCR_EL1": (3, 0, 2, 0, 2),
    "AFSR0_EL1": (3, 0, 5, 1, 0),
    "AFSR1_EL1": (3, 0, 5, 1, 1),
    "ESR_EL1": (3, 0, 5, 2, 0),
    "FAR_EL1": (3, 0, 6, 0, 0),
    "MAIR_EL1": (3, 0, 10, 2, 0),
    "AMAIR_EL1": (3, 0, 10, 3, 0),
    "CONTEXTIDR_EL1": (3, 0, 13, 0, 1),
}
_NAME_OF_AARCH64 = {key: name for name, key in _AARCH64.items()}

# The same for AArch32, by the AArch64 register each is mapped to: opc1, CRn, CRm, opc2 (G8.2).
# A half is said where the other half is reached too, by another register or by MCRR.
_CP15: dict[tuple[str, Half | None], tuple[int, int, int, int]] = {
    ("SCTLR_EL1", None): (0, 1, 0, 0),
    ("TTBR0_EL1", "low"): (0, 2, 0, 0),
    ("TTBR1_EL1", "low"): (0, 2, 0, 1),
    ("TCR_EL1", "low"): (0, 2, 0, 2),  # TTBCR
    ("TCR_EL1", "high"): (0, 2, 0, 3),  # TTBCR2
    ("DACR32_EL2", None): (0, 3, 0, 0),
    ("ESR_EL1", None): (0, 5, 0, 0),  # DFSR
    ("IFSR32_EL2", None): (0, 5, 0, 1),
    ("AFSR0_EL1", None): (0, 5, 1, 0),  # ADFSR
    ("AFSR1_EL1", None): (0, 5, 1, 1),  # AIFSR
    ("FAR_EL1", "low"): (0, 6, 0, 0),  # DFAR
    ("FAR_EL1", "high"): (0, 6, 0, 2),  # IFAR
    ("MAIR_EL1", "low"): (0, 10, 2, 0),  # MAIR0, and PRRR
    ("MAIR_EL1", "high"): (0, 10, 2, 1),  # MAIR1, and NMRR
    ("AMAIR_EL1", "low"): (0, 10, 3, 0),
    ("AMAIR_EL1", "high"): (0, 10, 3, 1),
    ("CONTEXTIDR_EL1", None): (0, 13, 0, 1),
}
_NAME_OF_CP15 = {key: name for name, key in _CP15.items()}
_CP15_64 = {"TTBR0_EL1": (0, 2), "TTBR1_EL1": (1, 2)}  # opc1, CRm of MCRR
_NAME_OF_CP15_64 = {key: name for name, key in _CP15_64.items()}

# Set/Way operations: op1, CRn, CRm, op2; op0 is 1 in AArch64 state (C5.3; G8.2 for AArch32).
_SET_WAY = {"isw": (0, 7, 6, 2), "csw": (0, 7, 10, 2), "cisw": (0, 7, 14, 2)}
_SET_WAY_KEYS = frozenset(_SET_WAY.values())


def _check_bits(bits: int) -> None:
    if isinstance(bits, bool) or bits not in (32, 64):
        raise ValueError(f"bits must be 32 or 64, not {bits!r}")


@dataclass(frozen=True)
class Abort:
    """An instruction or data abort from a lower exception level.

    Attributes
    ----------
    fetch : bool
        An instruction abort.
    write : bool
        WnR, except of maintenance: WnR is always 1 there (D19.2, ESR_EL2, WnR) and so tells
        nothing, and neither cache maintenance nor an address translation instruction stores.
    maintenance : bool
        CM: a cache maintenance or address translation instruction; DC ZVA is none, it stores.
    kind : FaultKind or None
        None for another status code (alignment, parity, ...) and for those of levels below 0,
        which no table here has.
    level : int or None
        Of the descriptor that faulted; None where ``kind`` is, and for an external abort that
        was not on a walk.
    s1ptw : bool
        The access was the stage-1 walk's: HPFAR_EL2 says the page of the stage-1 descriptor.
    isv : bool
        The instruction is described by ``size`` (bytes), ``sse`` (it sign-extends), ``srt`` (the
        register, 31 for XZR), ``sf`` (of 64 bits) and ``ar`` (acquire/release), else None.
    fnv : bool
        FAR_EL2 is not valid.
    ea : bool
        EA, the implementation's classification of an external abort.
    il : bool
        A 32-bit instruction, or an abort whose ``isv`` is False.
    fsc : int
        DFSC or IFSC as it stands.
    """

    fetch: bool
    write: bool
    maintenance: bool
    kind: FaultKind | None
    level: int | None
    s1ptw: bool
    isv: bool
    size: int | None
    sse: bool | None
    srt: int | None
    sf: bool | None
    ar: bool | None
    fnv: bool
    ea: bool
    il: bool
    fsc: int

    @property
    def access(self) -> Literal["r", "w", "x"]:
        """What the guest did: "x" for a fetch, "w" for a write, else "r"."""
        if self.fetch:
            return "x"
        return "w" if self.write else "r"


@dataclass(frozen=True)
class SysRegTrap:
    """A trapped MSR, MRS or SYS, or MCR, MRC, MCRR or MRRC of CP15.

    Attributes
    ----------
    name : str or None
        The AArch64 register, for an AArch32 one that which it is mapped to; None unless it is one
        whose writes HCR_EL2.TVM traps.
    read : bool
        The guest reads the register.
    rt, rt2 : int
        The general-purpose registers, 31 for XZR; ``rt2`` is None except of MCRR and MRRC.
    set_way : bool
        DC ISW, CSW or CISW; DCISW, DCCSW or DCCISW.
    half : "low", "high" or None
        The half of the 64-bit register that the AArch32 one is. None is all of it: nothing in
        AArch32 state has the other half of, say, SCTLR_EL1.

    The condition of an AArch32 instruction (CV, COND) is left to the caller.
    """

    name: str | None
    read: bool
    rt: int
    rt2: int | None
    set_way: bool
    half: Half | None


@dataclass(frozen=True)
class Other:
    """Another exception: its class and its syndrome, bits 31:26 and 24:0."""

    ec: int
    iss: int


def decode(esr: int) -> Abort | SysRegTrap | Other:
    """What ESR_EL2 or HSR says (D19.2, ESR_EL2; G8.2, HSR). Bits 63:32 are not looked at."""
    esr = integer("esr", esr, 64)
    ec = esr >> 26 & 0x3F
    iss = esr & 0x1FFFFFF
    if ec in (_EC_FETCH_LOWER, _EC_DATA_LOWER):
        return _decode_abort(iss, fetch=ec == _EC_FETCH_LOWER, il=bool(esr & _IL))
    rt = iss >> 5 & 0x1F
    crm = iss >> 1 & 0xF
    read = bool(iss & 1)
    if ec == _EC_CP15_64:
        name = _NAME_OF_CP15_64.get((iss >> 16 & 0xF, crm))
        return SysRegTrap(name, read, rt, iss >> 10 & 0x1F, False, None)
    key = (iss >> 14 & 7, iss >> 10 & 0xF, crm, iss >> 17 & 7)
    set_way = not read and key in _SET_WAY_KEYS
    if ec == _EC_CP15:
        register, half = _NAME_OF_CP15.get(key, (None, None))
        return SysRegTrap(register, read, rt, None, set_way, half)
    if ec == _EC_SYS64:
        op0 = iss >> 20 & 3
        name = _NAME_OF_AARCH64.get((op0, *key))
        return SysRegTrap(name, read, rt, None, set_way and op0 == 1, None)
    return Other(ec, iss)


def _decode_abort(iss: int, *, fetch: bool, il: bool) -> Abort:
    fsc = iss & 0x3F
    kind = _KIND_OF_CODE.get(fsc >> 2)
    level = None if kind is None else fsc & 3
    if fsc == _FSC_EXTERNAL:
        kind = FaultKind.EXTERNAL
    # Of an instruction abort these bits are reserved.
    isv = not fetch and bool(iss & _ISV)
    maintenance = not fetch and bool(iss & _CM)
    return Abort(
        fetch=fetch,
        write=not fetch and not maintenance and bool(iss & _WNR),
        maintenance=maintenance,
        kind=kind,
        level=level,
        s1ptw=bool(iss & _S1PTW),
        isv=isv,
        size=1 << (iss >> 22 & 3) if isv else None,
        sse=bool(iss >> 21 & 1) if isv else None,
        srt=iss >> 16 & 0x1F if isv else None,
        sf=bool(iss >> 15 & 1) if isv else None,
        ar=bool(iss >> 14 & 1) if isv else None,
        fnv=bool(iss & _FNV),
        ea=bool(iss & _EA),
        il=il,
        fsc=fsc,
    )


# ---- The inverse ----


def abort_esr(
    kind: FaultKind,
    level: int | None,
    *,
    write: bool = False,
    fetch: bool = False,
    s1ptw: bool = False,
    isv: bool = False,
    ea: bool = False,
    size: int = 4,
    srt: int = 0,
    fnv: bool = False,
) -> int:
    """ESR_EL2 of an abort from a lower exception level (D19.2, ESR_EL2).

    ``level`` None is an external abort that was not on a walk. ``size`` (8 being of an X register)
    and ``srt`` are said with ``isv``. Raises ValueError for what no abort reports: a fetch that
    writes, ``isv`` of a fetch or of a stage-1 walk, ``ea`` of another kind than EXTERNAL, ``fnv``
    with a level.
    """
    if not isinstance(kind, FaultKind):
        raise TypeError(f"kind must be a FaultKind, not {kind!r}")
    if kind not in _CODE_OF_KIND:
        raise ValueError(f"kind must be a fault, not {kind!r}")
    if fetch and write:
        raise ValueError("write must be False for a fetch, not True")
    if isv and (fetch or s1ptw):
        raise ValueError("isv must be False for a fetch or a stage-1 walk, not True")
    if ea and kind is not FaultKind.EXTERNAL:
        raise ValueError(f"ea must be False for {kind!r}, not True")
    if fnv and level is not None:
        raise ValueError(f"fnv must be False for a fault of level {level!r}, not True")
    if level is not None:
        fsc = _CODE_OF_KIND[kind] << 2 | integer("level", level, 2)
    elif kind is FaultKind.EXTERNAL:
        fsc = _FSC_EXTERNAL
    else:
        raise ValueError(f"level must be from 0 to 3 for {kind!r}, not None")
    esr = (_EC_FETCH_LOWER if fetch else _EC_DATA_LOWER) << 26 | _IL | fsc
    for flag, bit in ((write, _WNR), (s1ptw, _S1PTW), (ea, _EA), (fnv, _FNV)):
        esr |= bit if flag else 0
    if isv:
        if isinstance(size, bool) or size not in (1, 2, 4, 8):
            raise ValueError(f"size must be 1, 2, 4 or 8, not {size!r}")
        sas = operator.index(size).bit_length() - 1
        esr |= _ISV | sas << 22 | integer("srt", srt, 5) << 16 | (sas == 3) << 15
    return esr


def _transfer(key: tuple[int, int, int, int], rt: int, read: bool) -> int:
    """The part of the syndrome that EC 0x18 and 0x03 share, from op1, CRn, CRm, op2."""
    op1, crn, crm, op2 = key
    rt = integer("rt", rt, 5)
    return op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | bool(read)


def sysreg_esr(
    name: str,
    *,
    bits: int = 64,
    read: bool = False,
    rt: int = 0,
    rt2: int | None = None,
    half: Half | None = None,
) -> int:
    """ESR_EL2 of a trapped access to a register that HCR_EL2.TVM traps the writes of.

    ``bits`` 32 gives the AArch32 register mapped to ``half`` of it: MRC or MCR, or MRRC or MCRR
    for all of TTBR0_EL1 and TTBR1_EL1, which ``rt2`` (0 unless given) is for. Raises ValueError
    for another register or half.
    """
    _check_bits(bits)
    whole_ttbr = bits == 32 and half is None and name in _CP15_64
    if rt2 is not None and not whole_ttbr:
        raise ValueError(f"rt2 must be None except of MCRR and MRRC, not {rt2!r}")
    if whole_ttbr:
        opc1, crm = _CP15_64[name]
        second = integer("rt2", 0 if rt2 is None else rt2, 5)
        iss = _ALWAYS | opc1 << 16 | second << 10
        return _EC_CP15_64 << 26 | _IL | iss | _transfer((0, 0, crm, 0), rt, read)
    if bits == 32 and (name, half) in _CP15:
        return _EC_CP15 << 26 | _IL | _ALWAYS | _transfer(_CP15[name, half], rt, read)
    if bits == 64 and half is None and name in _AARCH64:
        op0, op1, crn, crm, op2 = _AARCH64[name]
        return _EC_SYS64 << 26 | _IL | op0 << 20 | _transfer((op1, crn, crm, op2), rt, read)
    raise ValueError(
        f"name and half must be of a register that HCR_EL2.TVM traps in AArch{bits} state,"
        f" not {name!r} and {half!r}"
    )


def set_way_esr(op: SetWayOp = "cisw", *, bits: int = 64, rt: int = 0) -> int:
    """ESR_EL2 of a trapped DC ISW, CSW or CISW; ``bits`` 32: DCISW, DCCSW or DCCISW."""
    _check_bits(bits)
    if op not in _SET_WAY:
        raise ValueError(f"op must be one of {', '.join(map(repr, _SET_WAY))}, not {op!r}")
    iss = _transfer(_SET_WAY[op], rt, False)
    if bits == 32:
        return _EC_CP15 << 26 | _IL | _ALWAYS | iss
    return _EC_SYS64 << 26 | _IL | 1 << 20 | iss


# ---- Addresses ----


def hpfar(ipa: int) -> int:
    """HPFAR_EL2 for a fault at ``ipa``: IPA[55:12] in bits 47:4, FIPA (D19.2, HPFAR_EL2).

    The value is that of AArch32's HPFAR too (FIPA, bits 31:4, is IPA[39:12]; G8.2, HPFAR).
    """
    return integer("ipa", ipa, 56) >> 12 << 4


def fault_ipa(far: int, hpfar: int) -> int:
    """The IPA that faulted: its page from HPFAR_EL2 or HPFAR, the rest from FAR_EL2 or HDFAR.

    Bits 11:0 are without meaning where the abort has ``s1ptw``, as FAR_EL2 is then the address
    that was being translated, and where it has ``fnv``.
    """
    far = integer("far", far, 64)
    frame = integer("hpfar", hpfar, 64) >> 4 & (1 << 44) - 1  # bit 63 is NS
    return frame << 12 | far & 0xFFF


# ---- Injection ----


@dataclass(frozen=True)
class Injected:
    """An exception for the guest.

    Attributes
    ----------
    kind : "undefined", "data-abort", "instruction-abort" or "serror"
    esr : int
        ESR_EL1 of an AArch64 guest. Of an AArch32 one DFSR, IFSR for an instruction abort, and 0
        for an undefined instruction, which has no status register.
    far : int or None
        FAR_EL1, DFAR or IFAR, where the exception sets it.
    """

    kind: Injection
    esr: int
    far: int | None


# ESR_EL1 of an AArch64 guest, from EL1 and from EL0 (D19.2, ESR_EL1, EC and the ISS encodings):
# 0x10 is a synchronous external abort, not on a walk; the ISS of an SError is uncategorized. IL
# is 1 for every one of them (IL: EC 0, an instruction abort, an SError, a data abort without ISV).
_ESR_EL1: dict[Injection, tuple[int, int]] = {
    "undefined": (_EC_UNKNOWN << 26 | _IL, _EC_UNKNOWN << 26 | _IL),
    "data-abort": (
        _EC_DATA_SAME << 26 | _IL | _FSC_EXTERNAL,
        _EC_DATA_LOWER << 26 | _IL | _FSC_EXTERNAL,
    ),
    "instruction-abort": (
        _EC_FETCH_SAME << 26 | _IL | _FSC_EXTERNAL,
        _EC_FETCH_LOWER << 26 | _IL | _FSC_EXTERNAL,
    ),
    "serror": (_EC_SERROR << 26 | _IL, _EC_SERROR << 26 | _IL),
}

# DFSR and IFSR of an AArch32 guest with Long-descriptor tables: LPAE, bit 9, and STATUS, bits 5:0:
# 0x10 a synchronous external abort, not on a walk (G8.2, DFSR and IFSR), 0x11 an asynchronous
# SError (G8.2, DFSR).
_LPAE = 1 << 9
_FSR: dict[Injection, int] = {
    "undefined": 0,
    "data-abort": _LPAE | 0x10,
    "instruction-abort": _LPAE | 0x10,
    "serror": _LPAE | 0x11,
}
_FSR_FNV = 1 << 16  # G8.2, DFSR and IFSR


def inject(
    kind: Injection, *, bits: int, far: int | None = None, from_el0: bool = False
) -> Injected:
    """What a hypervisor injects into a guest whose EL1 is in AArch32 or AArch64 state (``bits``).

    An abort is a synchronous external one; without ``far`` it says that FAR is not valid (FnV).
    ``from_el0``: the guest was at EL0, which ESR_EL1 tells in the class of an abort and AArch32's
    status registers do not. The status of an AArch32 guest is in the Long-descriptor format
    (TTBCR.EAE 1). Raises ValueError for ``far`` of what sets no FAR.
    """
    if kind not in _ESR_EL1:
        raise ValueError(f"kind must be one of {', '.join(map(repr, _ESR_EL1))}, not {kind!r}")
    _check_bits(bits)
    abort = kind in ("data-abort", "instruction-abort")
    if far is not None:
        far = integer("far", far, bits)
        if not abort:
            raise ValueError(f"far must be None for {kind!r}, not {far:#x}")
    esr = _FSR[kind] if bits == 32 else _ESR_EL1[kind][bool(from_el0)]
    if abort and far is None:
        esr |= _FSR_FNV if bits == 32 else _FNV
    return Injected(kind, esr, far)
