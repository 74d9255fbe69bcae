"""The rules of the monitor at EL2 (examples/el2_monitor/{rules,syndrome,inject}.c), as a library of
this machine's: the C is pure, so that it can be held against the Python and against real cores.
"""

from __future__ import annotations

import ctypes
import enum
import re
import shutil
import subprocess
from ctypes import Structure, c_bool, c_int, c_uint, c_uint64
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("rules", "syndrome", "inject")
MONITOR = ROOT / "examples/el2_monitor"


def _enum(name: str, header: str, prefix: str) -> type[enum.IntEnum]:
    """An enum of the C's, without its prefix."""
    found = re.search(rf"enum {name} {{(.*?)}};", (MONITOR / header).read_text(), re.S)
    assert found, name
    words = re.findall(r"\w+", re.sub(r"/\*.*?\*/", "", found[1], flags=re.S))
    assert all(word.startswith(prefix) for word in words), words
    return enum.IntEnum(name, [word.removeprefix(prefix) for word in words], start=0)


VmRegister = _enum("vm_register", "syndrome.h", "VM_")
Kind = _enum("access_kind", "syndrome.h", "ACCESS_")
Part = _enum("access_part", "syndrome.h", "PART_")
Action = _enum("abort_action", "rules.h", "ABORT_")
Injection = _enum("injection", "rules.h", "INJECT_")

CAUSES = tuple(
    None if cause.name == "NONE" else cause.name.lower().replace("_", "-")
    for cause in _enum("flush_cause", "interface.h", "CAUSE_")
)
"""enum flush_cause, as a VCpu says it."""
INJECTIONS = ("undefined", "data-abort", "instruction-abort", "serror")
"""enum injection, as syndrome.py says it."""


class RegisterAccess(Structure):
    _fields_ = (
        ("kind", c_int),
        ("name", c_int),
        ("part", c_int),
        ("read", c_bool),
        ("rt", c_uint),
        ("rt2", c_uint),
    )


class Abort(Structure):
    _fields_ = (
        ("fault", c_int),
        ("level", c_int),
        ("access", c_uint),
        ("fetch", c_bool),
        ("maintenance", c_bool),
        ("stage1_walk", c_bool),
        ("far_valid", c_bool),
        ("far", c_uint64),
        ("gpa", c_uint64),
    )


class RulesVcpu(Structure):
    _fields_ = (("traps_vm_registers", c_bool), ("pending", c_int))


STATE = ("pc", "pstate", "sctlr", "vbar", "tcr", "elr", "spsr", "esr", "ifsr", "far")


class GuestState(Structure):
    _fields_ = tuple((name, c_uint64) for name in STATE)


class Injected(Structure):
    _fields_ = (("kind", c_int), ("far_valid", c_bool), ("far", c_uint64))


class Rules:
    """The library's functions, with Python's arguments."""

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc")
        assert compiler, "the monitor's rules need a C compiler (`cc`, of gcc or clang)"
        library = directory / "rules.so"
        subprocess.run(
            [compiler, "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
             f"-I{ROOT / 'csrc/include'}", "-o", library,
             *(MONITOR / f"{name}.c" for name in SOURCES)],
            check=True,
        )  # fmt: skip
        self._c = ctypes.CDLL(str(library))
        self._c.decode_register_access.restype = RegisterAccess
        self._c.decode_register_access.argtypes = (c_uint64,)
        self._c.written_value.restype = c_uint64
        self._c.decode_abort.restype = Abort
        for name in ("condition_holds", "rules_caches_on", "rules_set_way"):
            getattr(self._c, name).restype = c_bool

    def register_access(self, esr: int) -> RegisterAccess:
        access: RegisterAccess = self._c.decode_register_access(esr)
        return access

    def written_value(self, access: RegisterAccess, old: int, rt: int, rt2: int) -> int:
        value = self._c.written_value(
            ctypes.byref(access), c_uint64(old), c_uint64(rt), c_uint64(rt2)
        )
        return int(value)

    def condition_holds(self, esr: int, spsr: int) -> bool:
        return bool(self._c.condition_holds(c_uint64(esr), c_uint64(spsr)))

    def skip(self, esr: int, elr: int, spsr: int) -> tuple[int, int]:
        """ELR_EL2 and SPSR_EL2 behind the instruction."""
        registers = c_uint64(elr), c_uint64(spsr)
        self._c.skip_instruction(c_uint64(esr), *map(ctypes.byref, registers))
        return registers[0].value, registers[1].value

    def abort(self, esr: int, far: int, hpfar: int, bits: int) -> Abort:
        abort: Abort = self._c.decode_abort(
            c_uint64(esr), c_uint64(far), c_uint64(hpfar), c_uint(bits)
        )
        return abort

    def action(self, abort: Abort, now: int) -> enum.IntEnum:
        return Action(self._c.rules_abort(ctypes.byref(abort), c_int(now)))

    def injection(self, abort: Abort) -> enum.IntEnum:
        return Injection(self._c.rules_injection(ctypes.byref(abort)))

    def caches_on(self, sctlr: int) -> bool:
        return bool(self._c.rules_caches_on(c_uint64(sctlr)))

    def reset(self, vcpu: RulesVcpu) -> None:
        self._c.rules_reset(ctypes.byref(vcpu))

    def set_way(self, vcpu: RulesVcpu, iommu_shared: bool) -> bool:
        return bool(self._c.rules_set_way(ctypes.byref(vcpu), c_bool(iommu_shared)))

    def vm_register_written(self, vcpu: RulesVcpu, were_on: bool, are_on: bool) -> None:
        self._c.rules_vm_register_written(ctypes.byref(vcpu), c_bool(were_on), c_bool(are_on))

    def flushed(self, vcpu: RulesVcpu) -> None:
        self._c.rules_flushed(ctypes.byref(vcpu))

    def inject(
        self, bits: int, kind: int, address: int | None = None, **state: int
    ) -> dict[str, int]:
        """The guest's state behind the exception; the address is an abort's, if it has one."""
        guest = GuestState(**state)
        exception = Injected(kind, address is not None, address or 0)
        function = self._c.inject_aarch32 if bits == 32 else self._c.inject_aarch64
        function(ctypes.byref(guest), ctypes.byref(exception))
        return {name: getattr(guest, name) for name in STATE}
