"""Unicorn's TLB filled by the engine: for machines without a stage 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import unicorn
from unicorn.unicorn_py3.unicorn import Uc, UcError

from p2mfast._engine import P2M
from p2mfast._unicorn_fill import Fill
from p2mfast.adapters.unicorn.engine import (
    READ_REGISTER,
    Generation,
    add_native_hook,
    flush_tlb,
    start,
)
from p2mfast.adapters.unicorn.state import state_of
from p2mfast.errors import Stage2Fault


def attach_fill(
    uc: Uc,
    p2m: P2M,
    *,
    resolve: bool = True,
    depth: Literal["path", "level"] = "path",
    order: int = 0,
    on_fault: Callable[[Stage2Fault], bool] | None = None,
) -> TlbFill:
    """Have ``p2m`` translate each address of ``uc``, an Arm core, from now on.

    The Uc is set to UC_TLB_VIRTUAL, and its memory must be mapped at machine addresses. Fills are
    answered in C, without the GIL; run it by :meth:`TlbFill.run`.

    Parameters
    ----------
    resolve
        Armed entries are made reachable by the access that finds them, so that ``p2m`` tracks what
        is touched; ``depth`` and ``order`` as of ``P2M.resolve_translation_fault``. Otherwise they
        are faults.
    on_fault
        Called for what is a fault then, with a :class:`~p2mfast.Stage2Fault`, on the thread that
        runs, amidst an instruction. Its ``ipa`` is the first byte of a page of Unicorn's own, which
        are of 1 KiB unless ``uc.ctl_set_page_size`` was called. If it returns True, after a change
        of ``p2m`` say, the address is translated again, once. What it raises comes out of
        :meth:`TlbFill.run`. It must not call ``uc``, but for registers.

    Raises TypeError or ValueError naming the argument, UcError.
    """
    if depth not in ("path", "level"):
        raise ValueError(f"depth must be 'path' or 'level', not {depth!r}")
    if isinstance(order, bool) or not isinstance(order, int):
        raise TypeError(f"order must be an integer, not {order!r}")
    if not 0 <= order <= 18:
        raise ValueError(f"order must be from 0 to 18, not {order!r}")
    if on_fault is not None and not callable(on_fault):
        raise TypeError(f"on_fault must be callable or None, not {on_fault!r}")
    state = state_of(uc)
    fill = Fill(
        p2m,
        resolve=resolve,
        depth=depth,
        order=order,
        on_fault=on_fault,
        read_register=READ_REGISTER,
        pc_register=state.pc_id,
    )
    uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
    hook = add_native_hook(uc, unicorn.UC_HOOK_TLB_FILL, fill.callback, fill.data, fill)
    return TlbFill(uc, fill, hook, state.unreached)


class TlbFill:
    """A Uc whose addresses a P2M translates; made by :func:`attach_fill`.

    Attributes
    ----------
    uc : unicorn.Uc
    p2m : P2M
    """

    def __init__(self, uc: Uc, fill: Fill, hook: int, unreached: int) -> None:
        self.uc = uc
        self.p2m = fill.p2m
        self._fill = fill
        self._hook = hook
        self._unreached = unreached
        self._generation = Generation(fill.p2m)

    @property
    def fills(self) -> int:
        """Pages that Unicorn asked for."""
        return self._fill.fills

    @property
    def resolved(self) -> int:
        """Translation faults of armed entries that were resolved."""
        return self._fill.resolved

    @property
    def faults(self) -> int:
        """Other faults, those that ``on_fault`` has dealt with included."""
        return self._fill.faults

    def run(self, begin: int, until: int | None = None, timeout: int = 0, count: int = 0) -> None:
        """``uc.emu_start`` with these arguments (microseconds, instructions; without ``until`` a
        hook has to stop it), on translations that are as ``p2m`` has them now: the TLB is flushed
        if it was invalidated since the last run.

        A change during a run is seen by fills, not by what is in the TLB: stop the core, run it
        again.

        Raises what ``on_fault`` or another hook raised, Stage2Fault for an access that stage 2
        refuses (the core stands at its instruction), UcError for any other error.
        """
        fill = self._fill
        until = self._unreached if until is None else until
        stale = fill.begin(until)
        if self._generation.moved() or stale:
            self.flush()
        try:
            start(self.uc, begin, until, timeout, count)
        except UcError as error:
            if fill.error is not None:
                raise fill.error from None
            fault = fill.fault
            if fault is None or error.errno != unicorn.UC_ERR_EXCEPTION:
                raise
            raise fault from None
        if fill.error is not None:
            raise fill.error

    def flush(self) -> None:
        """Forget all translations. Not from a hook: stop the core first."""
        flush_tlb(self.uc)

    def detach(self) -> None:
        """Addresses are translated no more; the Uc stays in UC_TLB_VIRTUAL mode."""
        self.uc.hook_del(self._hook)
        self.flush()
