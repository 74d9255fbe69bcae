"""One boot: QEMU from its start to its certain end."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from p2mfast.experiment.metal import interface as header
from p2mfast.experiment.metal.guests import Guest, find
from p2mfast.experiment.metal.interface import Interface
from p2mfast.experiment.metal.machine import Setup, check, monitor_base, prepare
from p2mfast.experiment.metal.programs import check_programs, source
from p2mfast.experiment.metal.result import BROUGHT_UP, Memory, MetalRun
from p2mfast.hypervisor.policy import Policy
from p2mfast.units import parse_size

PANICS = (
    "Kernel panic",
    "Unable to handle kernel",
    "Internal error: Oops",
    '"Synchronous Abort" handler',  # U-Boot's
    "### ERROR ###",
)
_POLL_S = 0.02
_LAST_WORDS_S = 1.0
"""What is left to a guest that has panicked, to say more."""

# Becomes QEMU, which is then killed when we end, in whatever way (prctl(2), PR_SET_PDEATHSIG). Not
# a function called between fork and exec: with threads that is not safe.
_END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class MetalError(Exception):
    """A boot that did not come to the guest's power-off; ``console`` is what the guest said."""

    def __init__(self, message: str, console: str) -> None:
        super().__init__(message)
        self.console = console


class Progress(NamedTuple):
    """How far a boot is."""

    state: str
    faults: int
    flushes: int
    line: str
    """The last of the guest's console."""


def load_interface() -> Interface:
    """The monitor's interface.h."""
    return header.read(source("el2_monitor") / "interface.h")


def run(
    guest: str | Guest,
    policy: str | Policy = "",
    vcpus: int = 1,
    memory: int | str = "512M",
    *,
    page_order: int = 0,
    hotplug: int = 0,
    bring_up: bool = False,
    nanoseconds: int = 1,
    options: Iterable[str] = (),
    guests: Path | None = None,
    timeout: float = 600,
    console: Path | None = None,
    amend: Callable[[list[str]], list[str]] = list,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> MetalRun:
    """Boot a guest under the monitor, to its power-off, and say what was measured.

    Parameters
    ----------
    guest
        One of ``guests.GUESTS``, or a :class:`Guest` of your own files.
    policy
        A :class:`Policy` or its string.
    vcpus
        1 to 8. Only with one are instructions counted, or with ``bring_up``.
    memory
        RAM of the machine; the last 16 MiB are the monitor's.
    page_order
        Largest mapping of the guest's RAM: 0, 9 or 18.
    hotplug
        How often the guest takes its secondary CPUs off and on.
    bring_up
        End the boot when Linux says how many CPUs have come up, and count instructions all the
        same.
    nanoseconds
        That an instruction takes by the guest's clock where they are counted: a power of two, up to
        1024.
    options
        Of the monitor, as interface.h calls them: ``"trap-zva"``, ``"no-tlbi"``.
    guests
        The directory of guests (default: the user's cache; what is missing there is fetched).
    timeout
        Seconds for the boot.
    console
        A file for what the guest says.
    amend
        Is given QEMU's command, and returns the one to run: to add a plugin.
    on_progress
        Is told how far it is, 50 times a second.

    Raises
    ------
    MetalError
        The guest or the monitor has panicked, or was not done in time.
    ValueError, TypeError
        Naming the argument and its value.
    OSError
        A program or file is missing.
    """
    interface = load_interface()
    policy = Policy.parse(policy) if isinstance(policy, str) else policy
    chosen = sum(_option(interface, name) for name in set(options))
    check_boot(
        policy,
        vcpus,
        memory,
        page_order=page_order,
        hotplug=hotplug,
        bring_up=bring_up,
        nanoseconds=nanoseconds,
        timeout=timeout,
    )
    if isinstance(guest, str):
        guest = find(guest, guests)
    size = parse_size(memory, "memory")
    setup = Setup(guest, policy, vcpus, size, page_order, hotplug, chosen, bring_up, nanoseconds)
    # RAM is a file without a name: it is gone when QEMU and we are.
    ram = os.memfd_create("ram")
    try:
        os.ftruncate(ram, setup.memory)
        memory_of = mmap.mmap(
            ram,
            interface["MONITOR_BYTES"],
            offset=monitor_base(setup, interface) - interface["RAM_BASE"],
        )
        shared = Memory(interface, memory_of)
        with tempfile.TemporaryDirectory(prefix="p2mfast-metal-") as work:
            command = amend(prepare(setup, interface, Path(work), f"/dev/fd/{ram}"))
            boot = _Boot(Path(work), shared, on_progress)
            try:
                return boot.run(command, ram, setup, timeout)
            finally:
                if console:
                    console.write_text(boot.text())
    finally:
        os.close(ram)


def check_boot(
    policy: Policy,
    vcpus: int,
    memory: int | str,
    *,
    page_order: int,
    hotplug: int,
    bring_up: bool,
    nanoseconds: int,
    timeout: float,
) -> None:
    """Raise what :func:`run` would for these, and for programs that are missing; nothing is
    done."""
    check(
        load_interface(),
        policy,
        vcpus=vcpus,
        memory=parse_size(memory, "memory"),
        page_order=page_order,
        hotplug=hotplug,
        bring_up=bring_up,
        nanoseconds=nanoseconds,
    )
    if not timeout > 0:
        raise ValueError(f"timeout must be more than 0 s, not {timeout!r}")
    check_programs()


def _option(interface: Interface, name: str) -> int:
    known = [n for n in interface.numbers if n.startswith("OPTION_")]
    option = f"OPTION_{name.upper().replace('-', '_')}"
    if option not in known:
        words = (n.removeprefix("OPTION_").lower().replace("_", "-") for n in known)
        raise ValueError(f"options must be of {', '.join(words)}, not {name!r}")
    return interface[option]


class _Boot:
    def __init__(self, work: Path, memory: Memory, tell: Callable[[Progress], None]) -> None:
        self._work = work
        self._memory = memory
        self._tell = tell
        (work / "console").touch()

    def run(self, command: list[str], ram: int, setup: Setup, timeout: float) -> MetalRun:
        started = time.monotonic()
        with (self._work / "qemu.log").open("wb") as log:
            qemu = subprocess.Popen(
                [sys.executable, "-IS", "-c", _END_WITH_PARENT, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[ram],
            )
        try:
            done = BROUGHT_UP if setup.bring_up else None
            self._wait(qemu, started + timeout, timeout, done)
        finally:
            qemu.kill()
            qemu.wait()
        return self._memory.result(setup, self.text(), time.monotonic() - started)

    def text(self) -> str:
        """The guest's console, so far."""
        return (self._work / "console").read_bytes().decode(errors="replace").replace("\r", "")

    def _wait(
        self, qemu: subprocess.Popen[bytes], deadline: float, timeout: float, done: str | None
    ) -> None:
        """Until the guest has said ``done`` or QEMU has ended. Raises MetalError where that is not
        the guest's power-off."""
        while (status := qemu.poll()) is None:
            text = self.text()
            self._progress(text)
            if done and re.search(done, text):
                return
            if any(word in text for word in PANICS):
                deadline = min(deadline, time.monotonic() + _LAST_WORDS_S)
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        text, state = self.text(), self._memory.state
        self._progress(text)
        if state == "panicked":
            raise MetalError(f"the monitor has panicked {self._memory.panic}", text)
        for line in text.splitlines():
            if any(word in line for word in PANICS):
                raise MetalError(f"the guest has panicked: {line.strip()}", text)
        if status is None:
            injected = int(self._memory.report["vcpu"]["injected"].sum())
            words = f"{state}, {injected} exceptions injected" if injected else state
            raise MetalError(f"the guest was not done in {timeout:g} s ({words})", text)
        if state != "powered-off":
            said = (self._work / "qemu.log").read_text(errors="replace").strip()
            raise MetalError(
                f"QEMU ended with status {status}, the guest's state is {state!r}"
                + (f"; QEMU said: {said[-1000:]}" if said else ""),
                text,
            )

    def _progress(self, text: str) -> None:
        report = self._memory.report
        line = text.rstrip().rpartition("\n")[2]
        self._tell(
            Progress(self._memory.state, int(report["faults"]), int(report["flushes"]), line)
        )
