"""`p2mfast metal`, all but the boots: what the monitor is told, what is read from its memory, how a
boot may end, the table, the errors. `metal_parts` has the QEMU that is none."""

from __future__ import annotations

import itertools
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import fetch_guest
import numpy as np
import pytest
from metal_parts import DONE, INITRD, INTERFACE, FakeQemu, Monitor, fake_make, guest, install
from rich.console import Console
from tooling import linux

from p2mfast.cli import main
from p2mfast.experiment import metal, trace
from p2mfast.experiment.cost import CostModel
from p2mfast.experiment.metal import interface, machine, programs, report
from p2mfast.experiment.replay import replay
from p2mfast.hypervisor.policy import Policy

ROOT = Path(__file__).parent.parent
HEADER = ROOT / "examples" / "el2_monitor" / "interface.h"
MIB = 1 << 20
ORDINARY = "arm=creation-finished"


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQemu:
    fake = install(tmp_path, monkeypatch)
    fake.set()
    return fake


# ---- interface.h ----


def test_the_interface_is_as_the_compiler_has_it(tmp_path: Path) -> None:
    found = interface.read(HEADER)
    lines = [f'printf("{n} %lld\\n", (long long){n});' for n in found.numbers]
    expected = [f"{name} {value}" for name, value in found.numbers.items()]
    for name, fields in found.structs.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        expected.append(f"{name} {fields.itemsize}")
        for field in fields.names or ():
            place = f"struct {name}, {field}"
            size = f"sizeof(((struct {name} *)0)->{field})"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({place}), {size});')
            kind, offset = (fields.fields or {})[field][:2]
            expected.append(f"{name}.{field} {offset} {kind.itemsize}")
    source = tmp_path / "interface.c"
    source.write_text(
        f'#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n#include "{HEADER}"\n'
        "int main(void)\n{\n" + "\n".join(lines) + "\n}\n"
    )
    subprocess.run(["cc", "-Wall", "-Werror", "-o", tmp_path / "a.out", source], check=True)
    said = subprocess.run([tmp_path / "a.out"], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == expected


def test_nothing_of_the_interface_is_left_out() -> None:
    """By plain words: each #define but the guard, each struct, each enum's first and last."""
    words = HEADER.read_text().split()
    defines = {b for a, b in itertools.pairwise(words) if a == "#define"}
    found = interface.read(HEADER)
    assert defines - set(found.numbers) == {"EL2_MONITOR_INTERFACE_H"}
    structs = {b for a, b, c in zip(words, words[1:], words[2:], strict=False)
               if a == "struct" and c == "{"}  # fmt: skip
    assert structs == set(found.structs)
    assert found.name_of("STATE_", found["STATE_POWERED_OFF"]) == "powered-off"
    assert found["FLUSH_HARVEST"] == 0
    assert found.name_of("CAUSE_", found["CAUSE_CACHE_TOGGLE"]) == "cache-toggle"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#define A (1 << 3)\n", "A is no number: '(1 << 3)'"),
        ("enum a { A = 3 };", "enum a: 'A = 3' is not understood"),
        ("struct a { uint32_t b; };", "struct a: 'uint32_t b' is not understood"),
        ("struct a { uint64_t *b; };", "is not understood"),
        ("struct a { struct b c; };", "is not understood"),
        ("struct a { uint64_t b[N]; };", "b is no number: 'N'"),
    ],
)
def test_other_forms_are_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="interface.h") as error:
        interface.parse(text)
    assert said in str(error.value)


def test_forms_that_are_understood() -> None:
    text = """
    #define N 2 /* of them,
                   #define M 9 */
    enum e { A, /* first */ B, };
    struct s { uint64_t a, b[N]; /* c; */ };
    struct t { struct s s[0x3]; uint64_t z; };
    """
    found = interface.parse(text)
    assert found.numbers == {"N": 2, "A": 0, "B": 1}
    assert found.structs["s"] == np.dtype([("a", "<u8"), ("b", "<u8", (2,))])
    assert found.structs["t"].itemsize == 3 * 24 + 8
    with pytest.raises(ValueError, match="no A"):
        found.name_of("A", 7)


# ---- What the monitor is told ----


def test_a_32_bit_boot(qemu: FakeQemu, tmp_path: Path) -> None:
    metal.run(guest(tmp_path, 32), ORDINARY, memory="1G")
    monitor = 0x4000_0000 + 1024 * MIB - 16 * MIB
    device_tree = 0x4840_0000  # the next 2 MiB behind the initrd
    assert qemu.addresses() == {
        "initrd.gz": INITRD[0],
        "guest.dtb": device_tree,
        "kernel": 0x4200_0000,
        "parameters.bin": monitor + INTERFACE["PARAMETERS_OFFSET"],
    }
    words = qemu.command
    assert f"{words}".count(f"monitor-{monitor:#x}.elf,cpu-num=0") == 1
    assert words[words.index("-icount") + 1] == "shift=0,sleep=off"
    assert words[words.index("-smp") + 1] == "1"
    assert "gic-version=2" in words[words.index("-M") + 1]
    tree = qemu.tree_command
    assert tree[tree.index("-m") + 1] == f"{1024 - 16}M"
    assert "pmu=off" in tree[tree.index("-cpu") + 1]
    told = qemu.parameters()
    assert told["magic"] == int.from_bytes(b"pfmsel21", "little")
    assert told["memory"] == 1024 * MIB
    assert told["guest_bytes"] == monitor - 0x4000_0000
    assert told["guest_bits"] == 32
    assert told["entry"] == 0x4200_0000
    assert told["registers"].tolist() == [0, 0xFFFF_FFFF, device_tree, 0]
    assert told["options"] == INTERFACE["OPTION_COUNT_CYCLES"]
    assert (told["rom_bytes"], told["copy_bytes"]) == (0, 0)


def test_a_64_bit_boot_with_several_vcpus(qemu: FakeQemu, tmp_path: Path) -> None:
    metal.run(guest(tmp_path, 64), vcpus=4, page_order=9, hotplug=3, options=["trap-zva"])
    words = qemu.command
    assert "-icount" not in words
    assert words[words.index("-smp") + 1] == "4"
    assert "gic-version=3" in words[words.index("-M") + 1]
    assert qemu.addresses()["kernel"] == 0x4020_0000
    tree = qemu.tree_command
    assert tree[tree.index("-smp") + 1] == "4"
    assert f"{linux.HOTPLUG}=3" in tree[tree.index("-append") + 1]
    told = qemu.parameters()
    assert told["registers"].tolist() == [0x4840_0000, 0, 0, 0]
    assert (told["guest_bits"], told["entry"], told["vcpus"]) == (64, 0x4020_0000, 4)
    assert told["page_order"] == 9
    assert told["options"] == INTERFACE["OPTION_TRAP_ZVA"]


def test_uboot(qemu: FakeQemu, tmp_path: Path) -> None:
    metal.run(guest(tmp_path, 64, uboot=True))
    told, tree = qemu.parameters(), qemu.loaded("guest.dtb")
    assert (told["entry"], told["rom_base"]) == (0, 0)
    assert told["rom_bytes"] == 4 * MIB  # 3 MiB of it, to the next 2
    assert told["copy_from"] == qemu.addresses()["guest.dtb"]
    assert (told["copy_to"], told["copy_bytes"]) == (0x4000_0000, len(tree))
    assert qemu.command[qemu.command.index("-bios") + 1].endswith("u-boot.bin")
    environment = qemu.loaded("environment.bin")
    assert len(environment) == 64 * MIB
    checksum, text = struct.unpack("<I", environment[:4])[0], environment[4:0x4_0000]
    assert checksum == zlib.crc32(text)
    words = dict(item.split(b"=", 1) for item in text.split(b"\0\0")[0].split(b"\0"))
    assert words[b"bootcmd"] == b"booti 0x40200000 %#x:%#x 0x48400000" % (
        INITRD[0], INITRD[1] - INITRD[0])  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "bits", "expected"),
    [
        ("", 32, ("ARM_CREATION_FINISHED", "RESOLVE_PATH", 0, "FLUSH_HARVEST", 512, 0)),
        ("", 64, ("ARM_FIRST_SET_WAY", "RESOLVE_PATH", 0, "FLUSH_HARVEST", 512, 0)),
        ("arm=never,flush=all", 32, ("ARM_NEVER", "RESOLVE_PATH", 0, "FLUSH_ALL", 512, 0)),
        ("arm=map,resolve=level,flush=leaf,budget=7", 32,
         ("ARM_MAP", "RESOLVE_LEVEL", 0, "FLUSH_LEAF", 7, 0)),
        ("arm=map,fault-around=4,flush=path,iommu-shared=yes", 64,
         ("ARM_NEVER", "RESOLVE_PATH", 4, "FLUSH_PATH", 512, 1)),
    ],
)  # fmt: skip
def test_policies(
    qemu: FakeQemu, tmp_path: Path, policy: str, bits: int, expected: tuple[str | int, ...]
) -> None:
    metal.run(guest(tmp_path, bits), policy)
    names = ("arm", "resolve", "fault_around", "flush", "budget", "iommu_shared")
    told = qemu.parameters()
    assert [told[name] for name in names] == [
        INTERFACE[value] if isinstance(value, str) else value for value in expected
    ]


def test_the_command_can_be_amended(qemu: FakeQemu, tmp_path: Path) -> None:
    metal.run(guest(tmp_path, 32), amend=lambda command: [*command, "-plugin", "p.so"])
    assert qemu.command[-2:] == ["-plugin", "p.so"]


def test_the_guests_are_those_that_can_be_fetched() -> None:
    assert tuple(fetch_guest.GUESTS) == metal.GUESTS
    assert f" {linux.HOTPLUG}=*)" in linux.INIT.replace("in ", " ")
    assert machine.HOTPLUG == linux.HOTPLUG


# ---- What is read from its memory ----


def measured(monitor: Monitor) -> None:
    """Three flushes of a boot."""
    monitor.report["cycles"], monitor.report["ticks"] = 3_000_000, 187_500
    monitor.report["arm_cycles"], monitor.report["tables"] = 5_000, 249
    cpu = monitor.report["vcpu"][0]
    cpu["resolved"], cpu["resolve_cycles"], cpu["monitor_cycles"] = 40, 16_000, 600_000
    cpu["set_ways"], cpu["set_way_cycles"] = 10, 2_000
    monitor.flush([(0x40000, 0x40000, 30)], pages=30, cause=1, cycles=9_000, collect_cycles=3_000,
                  ticks=5, started_cycles=1_000_000, started=62_500)  # fmt: skip
    monitor.flush([], pages=0, cause=2, cycles=3_000, collect_cycles=3_000, ticks=1)
    monitor.flush([(0x40100, 0x40100, 2), (0x40200, 0x40200, 8)], pages=10, cause=1, cycles=7_000,
                  collect_cycles=4_000, ticks=625, faults=40)  # fmt: skip
    monitor.faults[:2] = [(0x40000, 1), (0x40001, 2)]
    monitor.report["faults"] = 2


def test_a_result(qemu: FakeQemu, tmp_path: Path) -> None:
    measured(qemu.monitor)
    qemu.set()
    run = metal.run(guest(tmp_path, 32), ORDINARY, memory="256M")
    assert [(f.cause, f.pages, len(f.runs)) for f in run.flushes] == [
        ("set-way", 30, 1), ("cache-toggle", 0, 0), ("set-way", 10, 2)]  # fmt: skip
    assert run.flushes[2].runs["gfn"].tolist() == [0x40100, 0x40200]
    assert run.flushes[0].icount == 1_000_000
    assert (run.set_way_flushes, run.pages_cleaned, run.worst_flush_pages) == (2, 40, 30)
    assert run.worst_flush_instructions == 9_000
    assert run.worst_flush_ms == pytest.approx(0.01)  # 625 ticks of 16 ns
    assert run.tracking_instructions == 16_000 + 5_000 + 10_000
    assert run.monitor_instructions == 600_000
    assert run.guest_pages == 240 * MIB // 4096
    assert run.faults["gfn"].tolist() == [0x40000, 0x40001]
    assert (run.traps, run.cpus_online, run.failed_cpus) == (40, (1,), ())
    assert (run.bring_up_ms, run.flushes_lost, run.console) == (None, 0, DONE)


def test_nothing_is_counted_with_two_vcpus(qemu: FakeQemu, tmp_path: Path) -> None:
    measured(qemu.monitor)
    cpu = qemu.monitor.report["vcpu"][1]
    cpu["on_ticks"], cpu["caches_on_ticks"], cpu["resolved"] = 1_000, 63_500, 2
    qemu.monitor.report["vcpu"][2]["resolved"] = 100  # there is no such vCPU
    qemu.console = "CPU1: failed to come online\r\np2mfast: CPUs online: 1\r\n" + DONE
    qemu.set()
    run = metal.run(guest(tmp_path, 32), ORDINARY, vcpus=2)
    assert run.bring_up_ms == pytest.approx(1.0)
    assert (run.failed_cpus, run.cpus_online) == ((1,), (1, 1))
    assert (run.instructions, run.tracking_instructions, run.flushes[0].icount) == (None,) * 3
    assert len(run.cpus) == 2
    assert run.console == qemu.console.replace("\r", "")


def test_a_bring_up_ends_the_boot_and_counts(qemu: FakeQemu, tmp_path: Path) -> None:
    measured(qemu.monitor)
    qemu.monitor.end("RUNNING")
    qemu.console = "CPU1: failed to come online\nsmp: Brought up 1 node, 1 CPU\n"
    qemu.seconds = 60
    qemu.set()
    a_guest = guest(tmp_path, 32)
    run = metal.run(a_guest, ORDINARY, vcpus=2, bring_up=True, nanoseconds=4, timeout=30)
    assert qemu.command[qemu.command.index("-icount") + 1] == "shift=2,sleep=off"
    assert qemu.parameters()["options"] == INTERFACE["OPTION_COUNT_CYCLES"]
    assert (run.failed_cpus, run.bring_up_words) == ((1,), "CPU1: failed to come online")
    # The counter of cycles counts nanoseconds.
    assert run.flushes[0].instructions == 9_000 // 4
    assert run.tracking_instructions == (16_000 + 5_000 + 3_000 + 3_000 + 4_000) // 4
    assert ended(qemu)


def test_a_log_that_is_full(qemu: FakeQemu, tmp_path: Path) -> None:
    most = INTERFACE["FLUSHES_MAX"]
    qemu.monitor.flushes["pages"] = 1
    qemu.monitor.report["flushes"] = most + 5
    qemu.monitor.report["faults"] = INTERFACE["FAULTS_MAX"] + 1
    qemu.set()
    run = metal.run(guest(tmp_path, 32))
    assert (len(run.flushes), run.flushes_lost) == (most, 5)
    assert len(run.faults) == INTERFACE["FAULTS_MAX"]


def test_json_has_what_a_replays_has(qemu: FakeQemu, tmp_path: Path) -> None:
    measured(qemu.monitor)
    qemu.set()
    document = metal.to_json([metal.run(guest(tmp_path, 32), ORDINARY)])
    assert json.loads(json.dumps(document)) == document
    replayed = replay(trace.load(trace.DEFAULT_TRACE), Policy.parse(ORDINARY), 9).to_json()
    run = document["runs"][0]
    assert set(run) - set(replayed) == {"measured"}
    assert set(replayed) < set(run)
    assert set(replayed["flushes"][0]) < set(run["flushes"][0])
    assert run["modelled_worst_ms"] == CostModel().flush_ms(30, arms=True)
    assert run["measured"]["per_fault"] == 400
    assert run["measured"]["per_set_way"] == 200
    assert run["measured"]["per_page_cleaned"] == (6_000 + 0 + 3_000) / 40
    assert run["measured"]["per_vm_register"] is None


# ---- How a boot may end ----


def ended(qemu: FakeQemu) -> bool:
    return not Path(f"/proc/{qemu.pid}").exists()


def test_the_monitor_panics(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.monitor.end("PANICKED")
    qemu.monitor.report["panic"] = [1, 0x9600_0045, 0x5F00_1234, 0xDEAD]
    qemu.set()
    with pytest.raises(metal.MetalError) as error:
        metal.run(guest(tmp_path, 32))
    assert str(error.value) == (
        "the monitor has panicked on vCPU 1: ESR_EL2 0x96000045, ELR_EL2 0x5f001234, FAR_EL2 0xdead"
    )


@pytest.mark.parametrize("seconds", [0, 60])
def test_the_guest_panics(qemu: FakeQemu, tmp_path: Path, seconds: int) -> None:
    qemu.monitor.end("RUNNING")
    qemu.console = "[ 1.0] Kernel panic - not syncing: no init\nmore\n"
    qemu.seconds = seconds
    qemu.set()
    started = time.monotonic()
    with pytest.raises(metal.MetalError, match=r"guest has panicked: .*no init") as error:
        metal.run(guest(tmp_path, 32), timeout=50)
    assert time.monotonic() - started < 40
    assert error.value.console == qemu.console
    assert ended(qemu)


def test_time_is_up(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.monitor.end("RUNNING")
    qemu.seconds = 60
    qemu.set()
    kept, seen = tmp_path / "kept", []
    started = time.monotonic()
    with pytest.raises(metal.MetalError, match=r"not done in 1 s \(running\)"):
        metal.run(guest(tmp_path, 32), timeout=1, console=kept, on_progress=seen.append)
    assert ended(qemu)
    assert time.monotonic() - started < 40
    assert kept.read_text() == DONE
    assert seen[-1] == ("running", 0, 0, "reboot: Power down")


def test_qemu_fails(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.monitor.end("RUNNING")
    qemu.status, qemu.said = 3, "no such board"
    qemu.set()
    with pytest.raises(metal.MetalError, match="status 3.*'running'.*no such board"):
        metal.run(guest(tmp_path, 32))


def test_an_interruption_ends_qemu(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.seconds = 60
    qemu.set()

    def interrupt(progress: metal.Progress) -> None:
        if progress.line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        metal.run(guest(tmp_path, 32), on_progress=interrupt)
    assert ended(qemu)


def test_qemu_does_not_outlive_us(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.seconds = 60
    qemu.set()
    guest(tmp_path, 32)
    words = ["--kernel", "kernel", "--initrd", "initrd.gz", "--bits", "32"]
    with subprocess.Popen(
        [sys.executable, "-c", f"from p2mfast.cli import main; main(['metal', *{words}])"],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "command.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        assert not ended(qemu)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while not ended(qemu) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ended(qemu)


# ---- The table ----


def test_the_table(qemu: FakeQemu, tmp_path: Path) -> None:
    measured(qemu.monitor)
    qemu.set()
    a_guest = guest(tmp_path, 32)
    runs = [
        metal.run(a_guest, policy, page_order=order)
        for policy in (ORDINARY, "arm=never,flush=all")
        for order in (0, 9)
    ]
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_runs(console, runs)
    text = console.export_text()
    rows = [line.split() for line in text.splitlines()]
    assert ["p2mfast's", "4", "KiB", "2+1", "40", "30", "40", "0.0", "0.0%", "0.0", "1.03%"] in rows
    assert ["2", "MiB", "2+1", "40", "30", "40", "0.0", "0.0%", "0.0", "0.00%"] in rows
    assert "496 MiB of RAM (126,976 pages)" in text
    assert "at 1 ns an instruction" in text
    assert "…" not in text


def test_the_table_of_several_vcpus(qemu: FakeQemu, tmp_path: Path) -> None:
    measured(qemu.monitor)
    cpu = qemu.monitor.report["vcpu"][1]
    cpu["on_ticks"], cpu["caches_on_ticks"] = 1_000, 63_500
    qemu.monitor.flushes["pages"][:3] = [1_044_480, 1_044_480, 10_000_000]
    qemu.monitor.flushes[0]["ticks"] = 62_500_000
    qemu.monitor.report["vcpu"][0]["resolved"] = 50_000
    qemu.set()
    runs = [metal.run(guest(tmp_path, 32), "arm=never,flush=all", vcpus=2, memory="4G")]
    qemu.console = "CPU1: failed to come online\n" + DONE
    qemu.set()
    runs.append(metal.run(guest(tmp_path, 32), ORDINARY, vcpus=2, memory="4G", hotplug=1))
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    report.print_runs(console, runs)
    text = console.export_text()
    rows = [line.split() for line in text.splitlines()]
    figures = ["4", "KiB", "2+1", "12,088,960", "10,000,000", "50,000", "1,000.0", "100.0%"]
    assert ["no", "tracking", *figures, "1.0"] in rows
    assert ["p2mfast's", *figures, "failed"] in rows
    assert "at 1 ns" not in text
    assert "…" not in text


# ---- The command line, and what is refused ----


def command_line(directory: Path, *words: str) -> int:
    guest(directory, 32)
    files = ["--kernel", f"{directory}/kernel", "--initrd", f"{directory}/initrd.gz"]
    return main(["metal", *files, "--bits", "32", *words])


def test_the_command(qemu: FakeQemu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert command_line(tmp_path, "--json", str(out)) == 0
    runs = json.loads(out.read_text())["runs"]
    assert [run["page_order"] for run in runs] == [0, 9] * 4
    assert "no tracking" in capsys.readouterr().out


def test_a_failed_boot_is_told_and_ends_in_1(
    qemu: FakeQemu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    qemu.monitor.end("RESET")
    qemu.set()
    out = tmp_path / "out.json"
    words = ("--policy", ORDINARY, "--page-order", "9", "--json", str(out))
    assert command_line(tmp_path, *words) == 1
    said = capsys.readouterr().err
    assert "p2mfast: arm=creation-finished, page order 9: QEMU ended with status 0" in said
    assert "    | reboot: Power down" in said
    assert json.loads(out.read_text())["runs"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--guest", "amiga"), "guest must be one of linux-armhf, linux-arm64, uboot-arm64, not"),
        (("--vcpus", "0"), "vcpus must be from 1 to 8, not 0"),
        (("--vcpus", "9"), "vcpus must be from 1 to 8, not 9"),
        (("--memory", "126M"), "from 128 MiB to 4560 MiB (the monitor's tables hold no more), not"),
        (("--memory", "513M"), "memory must be a multiple of 2 MiB"),
        (("--memory", "4562M"), "not 4562 MiB"),
        (("--memory", "much"), "memory must be a size like '512MiB' or '2G', not 'much'"),
        (("--policy", "defer=true"), "policy defer=true: "),
        (("--hotplug", "1"), "hotplug=1 needs a second vCPU"),
        (("--vcpus", "2", "--hotplug", "-1"), "hotplug must be from 0 to 1000, not -1"),
        (("--bring-up",), "bring_up needs a second vCPU, and vcpus is 1"),
        (("--vcpus", "2", "--hotplug", "1", "--bring-up"), "before hotplug=1 begins"),
        (("--nanoseconds", "3"), "nanoseconds must be one of 1, 2, 4, "),
        (("--vcpus", "2", "--nanoseconds", "2"), "nanoseconds=2: with vcpus=2 time is the host's"),
        (("--timeout", "0"), "timeout must be more than 0 s, not 0.0"),
        (("--timeout", "nan"), "timeout must be more than 0 s, not nan"),
        (("--json", "/nowhere/at/all"), "there is no directory /nowhere/at"),
        (("--json", "/"), "--json /: is a directory"),
        (("--console", "/"), "--console /: is a directory"),
        (("--bits", "32"), "--bits: there must be --kernel and --initrd, too"),
        (("--kernel", "k", "--initrd", "i", "--bits", "16"), "bits must be 32 or 64, not 16"),
        (("--kernel", "k", "--initrd", "i", "--bits", "32"), "there is no file"),
        (("--guest", "linux-armhf", "--guests", "/nowhere"), "--to /nowhere fetches it"),
        (
            ("--guest", "linux-armhf", "--kernel", "k", "--initrd", "i", "--bits", "32"),
            "--guest linux-armhf and --kernel exclude each other",
        ),
    ],
)
def test_refusals(
    qemu: FakeQemu, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert main(["metal", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (qemu.place / "dumpdtb.json").exists()


def test_refusals_from_python(qemu: FakeQemu, tmp_path: Path) -> None:
    a_guest = guest(tmp_path, 32)
    for arguments, said in (
        ({"page_order": 1}, "page_order must be 0, 9 or 18, not 1"),
        ({"options": ["fast"]}, "options must be of trap-zva, no-tlbi, count-cycles, not 'fast'"),
    ):
        with pytest.raises(ValueError, match=said):
            metal.run(a_guest, **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="vcpus must be an integer, not True"):
        metal.run(a_guest, vcpus=True)
    with pytest.raises(ValueError, match="memory must have room for the initrd"):
        metal.run(a_guest, memory="128M")  # QEMU has it at 129 MiB


def test_a_kernel_of_the_other_kind(qemu: FakeQemu, tmp_path: Path) -> None:
    a_guest = guest(tmp_path, 32)
    with pytest.raises(ValueError, match="kernel is no uncompressed Image"):
        metal.Guest("g", 64, "G", a_guest.kernel, a_guest.initrd)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("qemu-system-aarch64", "qemu-system-arm"),
        ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        ("make", "make"),
    ],
)
def test_a_missing_program(
    qemu: FakeQemu, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, package: str
) -> None:
    (tmp_path / "bin" / name).unlink()
    assert command_line(tmp_path) == 2
    assert capsys.readouterr().err == (
        f"p2mfast: {name} is not installed; in Debian: apt-get install --no-install-recommends"
        f" {package}\n"
    )


def test_fetching_without_apt(qemu: FakeQemu, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metal", "--guest", "linux-arm64"]) == 2
    assert "p2mfast: apt-get is not installed" in capsys.readouterr().err


def test_a_monitor_that_does_not_build(
    qemu: FakeQemu, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_make(tmp_path / "bin", fail="main.c:1: no")
    assert command_line(tmp_path) == 2
    said = capsys.readouterr().err
    assert "p2mfast: the monitor does not build" in said
    assert "main.c:1: no" in said


# ---- The sources in the package ----


def test_the_package_has_the_sources() -> None:
    """And they are the tree's: of a wheel copies, of an editable install links."""
    for place, original in (
        ("el2_monitor", "examples/el2_monitor"),
        ("csrc", "csrc"),
        ("tools/tooling", "tools/tooling"),
    ):
        there = [
            path for path in (ROOT / original).rglob("*") if path.suffix in (".c", ".h", ".py")
        ]
        assert there
        for path in there:
            copy = programs.source(place) / path.relative_to(ROOT / original)
            assert copy.read_bytes() == path.read_bytes()
    assert programs.source("tools/fetch_guest.py").exists()
    with pytest.raises(FileNotFoundError, match="install it"):
        programs.source("tools/fetch_giants.py")


def test_objects_are_kept_by_what_they_are_made_of(
    qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "src"
    for name in ("el2_monitor", "csrc"):
        (sources / name).mkdir(parents=True)
    code = sources / "csrc" / "p2m.c"
    code.write_text("int a;\n")
    monkeypatch.setattr(programs, "SOURCES", sources)
    first, other = programs.build_monitor(0x5F00_0000), programs.build_monitor(0x7F00_0000)
    assert (first.parent, first.name) == (other.parent, "monitor-0x5f000000.elf")
    assert first.is_relative_to(tmp_path / "cache")
    code.write_text("int b;\n")
    assert programs.build_monitor(0x5F00_0000).parent != first.parent
