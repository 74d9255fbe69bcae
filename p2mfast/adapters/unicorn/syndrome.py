"""What Unicorn shows of an exception.

Unicorn stops at an exception instead of entering the vector at VBAR_EL2, so ESR_EL2 and FAR_EL2
are never written. The core has computed both by then and keeps them in its state; a saved context
is a copy of it. HPFAR_EL2 is written as by the hardware.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import unicorn
from unicorn.unicorn_py3.unicorn import Uc, UcError, uc_version

from p2mfast.adapters.unicorn.memory import MachineMemory
from p2mfast.adapters.unicorn.state import HCR_RW, HCR_VM, SCR_NS_HCE_RW, STATES
from p2mfast.units import PAGE_SIZE

_BASE = 0x78_0000_0000
# HVC with each of these, whose syndrome is known, and a load from each, at two registers' sum, so
# that neither of those is the address that faults.
_NUMBERS = (0x1234, 0xA5C3)
_ADDRESSES = (0x5234_5678, 0xCBA9_8768)


class Place(NamedTuple):
    """Where in a saved context the syndrome (4 bytes) and the faulting address (8) are."""

    esr: int
    far: int


def word(context: Any, offset: int, size: int) -> int:
    """These bytes of a saved context."""
    return int.from_bytes(ctypes.string_at(context.context.value + offset, size), "little")


@cache
def find(arch: int, model: int) -> Place:
    """By provoking exceptions whose syndrome and address are known, on a core of its own.

    Raises RuntimeError where they are not found, or the core has no EL2.
    """
    state = STATES[arch]
    uc = Uc(arch, unicorn.UC_MODE_ARM, model)
    uc.ctl_set_tlb_mode(unicorn.UC_TLB_CPU)
    # A page of code, then a level-1 table that maps its GiB and nothing else; 39 bits.
    memory = MachineMemory(_BASE, 2 * PAGE_SIZE)
    memory.pages.view("<u4")[0, : len(state.probe)] = state.probe
    memory.pages.view("<u8")[1, 0] = _BASE | 0x7FD
    memory.map(uc)
    for name, value in (
        ("SCR_EL3", SCR_NS_HCE_RW),
        ("VTCR_EL2", 0x8004_3559),
        ("VTTBR_EL2", _BASE + PAGE_SIZE),
        ("HCR_EL2", HCR_VM | HCR_RW),
    ):
        uc.reg_write(state.cp_id, (*state.system[name], value))
    uc.reg_write(state.pstate_id, state.reset_pstate)
    context = uc.context_save()

    def stop(uc: Uc, number: int, _: object) -> None:
        uc.context_update(context)
        uc.emu_stop()

    uc.hook_add(unicorn.UC_HOOK_INTR, stop)

    def after(instruction: int, address: int = 0x1000) -> bytes:
        uc.reg_write(state.general[0], address - 0x1000)
        uc.reg_write(state.general[2], 0x1000)
        uc.emu_start(4 * instruction, state.unreached)
        return bytes(context)

    try:
        syndromes = [(after(i), state.hvc_esr | number) for i, number in enumerate(_NUMBERS)]
        addresses = [(after(2, address), address) for address in _ADDRESSES]
    except UcError as error:
        raise RuntimeError(f"this model of core has no EL2 that Unicorn shows: {error}") from error
    return Place(_only_place("<u4", syndromes), _only_place("<u8", addresses))


def _only_place(dtype: str, expected: list[tuple[bytes, int]]) -> int:
    """The only offset at which each of these states holds the value that goes with it."""
    size = np.dtype(dtype).itemsize
    held = [
        np.frombuffer(state[: len(state) // size * size], dtype) == value
        for state, value in expected
    ]
    places = np.logical_and.reduce(held).nonzero()[0]
    if len(places) != 1:
        raise RuntimeError(
            f"Unicorn {uc_version()} does not show the syndrome of an exception"
            f" ({len(places)} places in its state)"
        )
    return int(places[0]) * size
