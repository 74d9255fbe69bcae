"""The machine that QEMU is to be: what lies where in its RAM, and QEMU's command line."""

from __future__ import annotations

import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from p2mfast.experiment.metal.guests import Guest
from p2mfast.experiment.metal.interface import Interface
from p2mfast.experiment.metal.programs import build_monitor, program
from p2mfast.hypervisor.policy import Policy
from p2mfast.units import format_size

MIB = 1 << 20
_TABLE_BYTES = 4096
_BLOCK = 2 * MIB
_LEAST_MEMORY = 128 * MIB
_MOST_ROUNDS = 1000
_SPARE_TABLES = 32
"""For what is not RAM's last level: roots, upper levels, devices."""

HOTPLUG = "p2mfast.hotplug"
"""The word of the command line that the guests' init looks for (tools/tooling/linux.py)."""

KERNEL_32 = 0x4200_0000  # a zImage unpacks itself below
KERNEL_64 = 0x4020_0000
_CPU = "cortex-a57"
_DATE = "2024-01-01"  # for the guest's clock, where nothing may depend on the host's
_NANOSECONDS = tuple(1 << shift for shift in range(11))  # QEMU's -icount shift=
_FLASH_BYTES = 64 * MIB  # each of the board's two, from address 0 on; U-Boot keeps its
_ENVIRONMENT_BYTES = 0x4_0000  # environment in the second


@dataclass(frozen=True)
class Setup:
    """One boot, as asked for; the arguments of :func:`p2mfast.experiment.metal.run`."""

    guest: Guest
    policy: Policy
    vcpus: int = 1
    memory: int = 512 * MIB
    page_order: int = 0
    hotplug: int = 0
    options: int = 0
    bring_up: bool = False
    nanoseconds: int = 1

    @property
    def counted(self) -> bool:
        """Whether QEMU counts instructions exactly, and runs one vCPU at a time for it.

        A 32-bit Linux with several does not come to its end like that (it spins, and the one it
        waits for is not run), but it does bring them up.
        """
        return self.vcpus == 1 or self.bring_up


def check(
    interface: Interface,
    policy: Policy,
    *,
    vcpus: int,
    memory: int,
    page_order: int,
    hotplug: int,
    bring_up: bool,
    nanoseconds: int,
) -> None:
    """Raise ValueError or TypeError naming the argument and its value."""
    for name, value in (
        ("vcpus", vcpus),
        ("page_order", page_order),
        ("hotplug", hotplug),
        ("nanoseconds", nanoseconds),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an integer, not {value!r}")
    if not 1 <= vcpus <= interface["MAX_VCPUS"]:
        raise ValueError(f"vcpus must be from 1 to {interface['MAX_VCPUS']}, not {vcpus}")
    most = _most_memory(interface)
    if memory % _BLOCK or not _LEAST_MEMORY <= memory <= most:
        raise ValueError(
            f"memory must be a multiple of 2 MiB from {format_size(_LEAST_MEMORY)} to"
            f" {format_size(most)} (the monitor's tables hold no more), not {format_size(memory)}"
        )
    if page_order not in (0, 9, 18):
        raise ValueError(f"page_order must be 0, 9 or 18, not {page_order}")
    if not 0 <= hotplug <= _MOST_ROUNDS:
        raise ValueError(f"hotplug must be from 0 to {_MOST_ROUNDS}, not {hotplug}")
    if hotplug and vcpus == 1:
        raise ValueError(f"hotplug={hotplug} needs a second vCPU, and vcpus is 1")
    if bring_up and vcpus == 1:
        raise ValueError("bring_up needs a second vCPU, and vcpus is 1")
    if bring_up and hotplug:
        raise ValueError(f"bring_up ends the boot before hotplug={hotplug} begins")
    if nanoseconds not in _NANOSECONDS:
        raise ValueError(
            f"nanoseconds must be one of {', '.join(map(str, _NANOSECONDS))}, not {nanoseconds}"
        )
    if nanoseconds != 1 and vcpus > 1 and not bring_up:
        raise ValueError(
            f"nanoseconds={nanoseconds}: with vcpus={vcpus} time is the host's, unless bring_up"
        )
    if policy.defer:
        raise ValueError(
            "policy defer=true: the monitor maps its guest before it runs, and defers nothing"
        )


def _most_memory(interface: Interface) -> int:
    tables = (interface["MONITOR_BYTES"] - interface["TABLES_OFFSET"]) // _TABLE_BYTES
    return (tables - _SPARE_TABLES) * _BLOCK + interface["MONITOR_BYTES"]


def monitor_base(setup: Setup, interface: Interface) -> int:
    """Where the monitor's memory begins: the last of RAM."""
    return interface["RAM_BASE"] + setup.memory - interface["MONITOR_BYTES"]


def prepare(setup: Setup, interface: Interface, work: Path, ram: str) -> list[str]:
    """Make the files that QEMU loads, in the directory ``work``; its command line.

    ``ram``: the file that is to be its RAM. The guest's console will be the file ``console`` of
    ``work``.
    """
    base = monitor_base(setup, interface)
    elf = build_monitor(base)
    guest, guest_bytes = setup.guest, base - interface["RAM_BASE"]
    arguments = f"earlycon console=ttyAMA0 panic=-1 {HOTPLUG}={setup.hotplug}"
    tree = _device_tree(setup, work, guest_bytes, arguments)
    initrd, end = _initrd(tree)
    device_tree = _round_up(end, _BLOCK)  # arm64's may not cross a boundary of 2 MiB
    loads = [
        (guest.initrd, initrd),
        (tree, device_tree),
        (guest.kernel, KERNEL_32 if guest.bits == 32 else KERNEL_64),
    ]
    if device_tree + tree.stat().st_size > base:
        raise ValueError(
            f"memory must have room for the initrd of guest {guest.name}, and"
            f" {format_size(setup.memory)} has not"
        )
    values = _parameters(setup, interface, guest_bytes)
    flash: list[str] = []
    if guest.uboot:
        values |= {
            "entry": 0,
            "rom_base": 0,
            "rom_bytes": _round_up(guest.uboot.stat().st_size, _BLOCK),
            # U-Boot looks for it there, where QEMU puts its own when it starts.
            "copy_from": device_tree,
            "copy_to": interface["RAM_BASE"],
            "copy_bytes": tree.stat().st_size,
        }
        commands = f"booti {KERNEL_64:#x} {initrd:#x}:{end - initrd:#x} {device_tree:#x}"
        flash = _flash(guest.uboot, work, arguments, commands)
    else:
        values["entry"] = loads[-1][1]
        values["registers"] = (0, 0xFFFF_FFFF, device_tree, 0) if guest.bits == 32 else (
            device_tree, 0, 0, 0)  # fmt: skip
    parameters = work / "parameters.bin"
    parameters.write_bytes(_packed(interface, values))
    loads.append((parameters, base + interface["PARAMETERS_OFFSET"]))
    command = [
        *(program("qemu-system-aarch64"), "-nodefaults", "-display", "none", "-no-reboot"),
        *("-M", f"{_board(setup)},memory-backend=ram", "-cpu", _CPU),
        *("-smp", str(setup.vcpus), "-m", f"{setup.memory // MIB}M"),
        *("-object", f"memory-backend-file,id=ram,size={setup.memory},mem-path={ram},share=on"),
        *("-accel", "tcg", "-serial", f"file:{_escaped(work / 'console')}", *flash),
        *("-device", f"loader,file={_escaped(elf)},cpu-num=0"),
    ]
    for path, address in loads:
        command += ["-device", f"loader,file={_escaped(path)},addr={address:#x},force-raw=on"]
    if not setup.counted:
        return command
    shift = setup.nanoseconds.bit_length() - 1
    return [*command, "-icount", f"shift={shift},sleep=off", "-rtc", f"base={_DATE},clock=vm"]


def _board(setup: Setup) -> str:
    # Each kind of guest has the interrupt controller that boards of its time have. With ACPI and
    # firmware, QEMU leaves out devices that the device tree names. Without seeds of randomness in
    # that, a boot whose instructions are counted is the same each time.
    gic = 2 if setup.guest.bits == 32 else 3
    return f"virt,virtualization=on,acpi=off,dtb-randomness=off,gic-version={gic}"


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _escaped(path: Path) -> str:
    """As QEMU's options have it: a comma ends a value, unless it is two."""
    return str(path).replace(",", ",,")


def _device_tree(setup: Setup, work: Path, guest_bytes: int, arguments: str) -> Path:
    """QEMU's own for the guest's part of the machine: less RAM, no performance monitors (their
    registers are the monitor's)."""
    tree = work / "guest.dtb"
    done = subprocess.run(
        [
            *(program("qemu-system-aarch64"), "-nodefaults", "-display", "none"),
            *("-M", f"{_board(setup)},dumpdtb={_escaped(tree)}", "-cpu", f"{_CPU},pmu=off"),
            *("-smp", str(setup.vcpus), "-m", f"{guest_bytes // MIB}M"),
            *("-kernel", str(setup.guest.kernel), "-initrd", str(setup.guest.initrd)),
            *("-append", arguments),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not tree.exists():
        raise OSError(f"QEMU makes no device tree: {done.stderr.strip()[-1000:]}")
    return tree


def _initrd(tree: Path) -> tuple[int, int]:
    """Where the device tree says that the initrd begins and ends."""
    data = tree.read_bytes()
    return _property(data, b"linux,initrd-start"), _property(data, b"linux,initrd-end")


def _property(data: bytes, name: bytes) -> int:
    """The number that the one property of this name holds, in a flattened device tree (Devicetree
    Specification, chapter 5)."""
    structure, strings = struct.unpack_from(">II", data, 8)
    offset = data.index(name + b"\0", strings) - strings
    at = structure
    while (token := struct.unpack_from(">I", data, at)[0]) != 9:  # FDT_END
        at += 4
        if token == 1:  # FDT_BEGIN_NODE, and its name
            at = data.index(b"\0", at) + 1
        elif token == 3:  # FDT_PROP: length, name, value
            length, which = struct.unpack_from(">II", data, at)
            value = data[at + 8 : at + 8 + length]
            if which == offset:
                return int.from_bytes(value, "big")
            at += 8 + length
        at = _round_up(at, 4)
    raise OSError(f"QEMU's device tree has no {name.decode()}")


def _flash(uboot: Path, work: Path, arguments: str, commands: str) -> list[str]:
    """U-Boot in the first flash, and in the second its environment: a CRC-32, then strings."""
    words = {
        "bootdelay": "0",
        "bootargs": arguments,
        "bootcmd": commands,
        # Leave the initrd and the device tree where they are.
        "initrd_high": "0xffffffffffffffff",
        "fdt_high": "0xffffffffffffffff",
    }
    text = b"".join(f"{name}={value}\0".encode() for name, value in words.items())
    text = text.ljust(_ENVIRONMENT_BYTES - 4, b"\0")
    environment = work / "environment.bin"
    with environment.open("wb") as file:
        file.write(struct.pack("<I", zlib.crc32(text)) + text)
        file.truncate(_FLASH_BYTES)
    return [
        *("-bios", str(uboot)),
        *("-drive", f"if=pflash,index=1,format=raw,file={_escaped(environment)}"),
    ]


def _parameters(
    setup: Setup, interface: Interface, guest_bytes: int
) -> dict[str, int | tuple[int, ...]]:
    policy = setup.policy

    def number(prefix: str, value: str) -> int:
        return interface[prefix + value.upper().replace("-", "_")]

    options = setup.options | (interface["OPTION_COUNT_CYCLES"] if setup.counted else 0)
    return {
        "magic": interface["PARAMETERS_MAGIC"],
        "version": interface["INTERFACE_VERSION"],
        "memory": setup.memory,
        "vcpus": setup.vcpus,
        "guest_bits": setup.guest.bits,
        "guest_bytes": guest_bytes,
        "page_order": setup.page_order,
        "arm": number("ARM_", policy.arms_at(setup.guest.bits)),
        "resolve": number("RESOLVE_", policy.resolve),
        "fault_around": policy.fault_around,
        "flush": number("FLUSH_", policy.flush),
        "budget": policy.budget,
        "iommu_shared": int(policy.iommu_shared),
        "options": options,
    }


def _packed(interface: Interface, values: dict[str, int | tuple[int, ...]]) -> bytes:
    record = np.zeros((), interface.structs["parameters"])
    for name, value in values.items():
        record[name] = value
    return record.tobytes()
