"""What both ways need of a Uc, beyond its own methods."""

from __future__ import annotations

import ctypes
from typing import Any

import unicorn
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib

from p2mfast._engine import P2M

READ_REGISTER = ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p).value or 0
"""Address of uc_reg_read."""


def flush_tlb(uc: Uc) -> None:
    """Forget all translations, and the code that was translated by them."""
    uc.ctl(unicorn.UC_CTL_TLB_FLUSH, unicorn.UC_CTL_IO_WRITE)


def start(uc: Uc, begin: int, until: int, timeout: int = 0, count: int = 0) -> None:
    """``uc.emu_start``; of an error that Unicorn reports because a hook had raised, the hook's is
    what is raised."""
    try:
        uc.emu_start(begin, until, timeout, count)
    except UcError as error:
        # The binding looks at what its hooks raised only where Unicorn found nothing wrong.
        raised: BaseException | None = uc._hook_exception
        if raised is None:
            raise
        raise raised from error


def add_native_hook(uc: Uc, kind: int, callback: int, data: int, owner: object) -> int:
    """A hook that is a C function at this address, given ``data``; ``uc.hook_del`` takes what is
    returned. ``owner`` lives as long as the hook, or the Uc."""
    handle = ctypes.c_size_t()
    status = uclib.uc_hook_add(
        uc._uch,
        ctypes.byref(handle),
        kind,
        ctypes.c_void_p(callback),
        ctypes.c_void_p(data),
        # Of addresses: all of them.
        ctypes.c_uint64(1),
        ctypes.c_uint64(0),
    )
    if status != unicorn.UC_ERR_OK:
        raise UcError(status)
    keep_alive(uc, handle.value, owner)
    return handle.value


def keep_alive(uc: Uc, key: int, owner: object) -> None:
    """As long as the Uc lives, where the binding keeps its own callbacks by their hooks' handles;
    ``uc.hook_del`` of that number takes it from there."""
    callbacks: dict[int, Any] = uc._callbacks
    callbacks[key] = owner


class Generation:
    """Whether translations that were copied from a P2M are stale.

    By its generation: its events have other readers.
    """

    def __init__(self, p2m: P2M) -> None:
        self._p2m = p2m
        self._seen: int | None = None

    def moved(self) -> bool:
        """Whether there was an invalidation since this was asked last; at first there was."""
        before, self._seen = self._seen, self._p2m.tlb_generation
        return before != self._seen
