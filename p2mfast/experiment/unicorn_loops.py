"""What a fill of Unicorn's TLB costs; loops for :mod:`p2mfast.experiment.loops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import unicorn
from unicorn import arm64_const as arm64
from unicorn.unicorn_py3.unicorn import Uc

from p2mfast._engine import P2M
from p2mfast._unicorn_fill import IDENTITY
from p2mfast.adapters.unicorn import attach_fill
from p2mfast.adapters.unicorn.engine import add_native_hook, flush_tlb
from p2mfast.experiment.loops import Case, Goal

_BASE = 1 << 30
_PAGES = 4096
_READ_PAGES = (
    0xF9400003,  # ldr x3, [x0]
    0x8B010000,  # add x0, x0, x1
    0xF1000442,  # subs x2, x2, #1
    0x54FFFFA1,  # b.ne to the ldr
)


class _Machine:
    """A core without a stage 1, and RAM where the P2M has it: at the guest's own addresses. Hooks
    are put into it in turn, so that nothing but they differ."""

    def __init__(self, order: int) -> None:
        self.uc = Uc(unicorn.UC_ARCH_ARM64, unicorn.UC_MODE_ARM, arm64.UC_CPU_ARM64_MAX)
        self.uc.ctl_set_page_size(4096)
        self.uc.ctl_set_tlb_mode(unicorn.UC_TLB_VIRTUAL)
        self.uc.mem_map(_BASE, (_PAGES + 1) * 4096)
        self.uc.mem_write(_BASE, np.array(_READ_PAGES, "<u4").tobytes())
        self.p2m = P2M(40)
        self.p2m.set_entry(_BASE >> 12, _PAGES + 512, _BASE >> 12, max_order=order)
        self.fills = 0

    def touch(self, run: Callable[[int, int], None]) -> None:
        """Read a word of each page."""
        for register, value in enumerate((_BASE + 4096, 4096, _PAGES)):
            self.uc.reg_write(arm64.UC_ARM64_REG_X0 + register, value)
        run(_BASE, _BASE + 4 * len(_READ_PAGES))

    def touch_with(self, hook: int) -> None:
        """With nothing in the TLB, and this hook."""
        flush_tlb(self.uc)
        self.touch(self.uc.emu_start)
        self.uc.hook_del(hook)
        flush_tlb(self.uc)

    def fill(self) -> None:
        """By the adapter, as its users do."""
        attached = attach_fill(self.uc, self.p2m)
        self.touch(attached.run)
        attached.detach()
        self.fills = attached.fills


def fill(order: int) -> Case:
    """Of a guest whose mappings are of this order, against a hook that looks nothing up."""
    machine = _Machine(order)

    def identity() -> None:
        machine.touch_with(add_native_hook(machine.uc, unicorn.UC_HOOK_TLB_FILL, IDENTITY, 0, None))

    return Case(
        "fill", _PAGES, machine.fill, "identity", _PAGES, identity, Goal(ratio=1.1),
        right=lambda: machine.fills > _PAGES, rounds=25,
    )  # fmt: skip


def fill_from_python(order: int) -> Case:
    """By a hook in Python, against the one in C."""
    machine = _Machine(order)
    seen: set[int] = set()

    def hook(_: Uc, address: int, access: int, entry: Any, data: object) -> bool:
        seen.add(address)
        entry.paddr, entry.perms = machine.p2m.translate(address).pa, 7
        return True

    def python() -> None:
        machine.touch_with(machine.uc.hook_add(unicorn.UC_HOOK_TLB_FILL, hook))

    return Case(
        "fill", _PAGES, python, "C", _PAGES, machine.fill,
        right=lambda: len(seen) == _PAGES + 1,
    )  # fmt: skip
