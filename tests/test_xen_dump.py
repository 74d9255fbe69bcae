"""tools/xen_dump against the two dumps that were made without it, and a plain walker of our own."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from xen_dump import DumpError, gdb, machine, tables

REAL = Path(__file__).parent / "data" / "real_p2m"
DUMPS = {
    "arm64": (REAL / "xen_dom0_p2m.npz", 0x4000_0000, 2 << 30),
    "armhf": (REAL / "xen_armhf_dom0_p2m.npz", 0x4000_0000, 1 << 30),
}


class Dump:
    def __init__(self, arch: str, tmp: Path) -> None:
        path, self.base, size = DUMPS[arch]
        with np.load(path) as data:
            self.meta = json.loads(str(data["meta"]))
            self.page_pa, self.page = data["page_pa"], data["page"]
        self.rows = dict(zip(self.page_pa.tolist(), self.page.tolist(), strict=True))
        self.ram = np.memmap(tmp / "ram", np.uint64, "w+", shape=(size // 8,))
        for pa, page in zip(self.page_pa.tolist(), self.page, strict=True):
            self.ram[(pa - self.base) // 8 :][:512] = page
        self.root = tables.Root.decode(arch, self.meta["vttbr"], self.meta["vtcr"])
        self.found = tables.walk(self.root, self.ram, self.base)


@pytest.fixture(scope="module", params=sorted(DUMPS))
def dump(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dump:
    return Dump(request.param, tmp_path_factory.mktemp("ram"))


def test_all_pages_of_the_dump_and_no_others_are_found(dump: Dump) -> None:
    np.testing.assert_array_equal(dump.found.page_pa, dump.page_pa)
    np.testing.assert_array_equal(dump.found.page, dump.page)


def test_the_image_written_is_the_image_read(dump: Dump, tmp_path: Path) -> None:
    tables.save(tmp_path / "out.npz", dump.found, dump.meta["source"])
    with np.load(tmp_path / "out.npz") as data:
        assert set(data) == {"meta", "page_pa", "page"}
        assert json.loads(str(data["meta"])) == dump.meta
        assert data["page_pa"].dtype == data["page"].dtype == np.uint64
        np.testing.assert_array_equal(data["page"], dump.page)


def lookup(dump: Dump, ipa: int) -> tuple[int, int] | None:
    """(PA, type) of an address: one descriptor a level, armed ones as well."""
    level = dump.meta["start_level"]
    table = (dump.meta["vttbr"] & 0xFFFF_FFFF_F000) + (ipa >> 39 << 12)
    while True:
        shift = 39 - 9 * level
        word = dump.rows[table][ipa >> shift & 511]
        if not word & 1 and not word >> 55 & 15:
            return None
        address = word & 0xFFFF_FFFF_F000
        if level == 3 or not word & 2:
            return address >> shift << shift | ipa & (1 << shift) - 1, word >> 55 & 15
        table, level = address, level + 1


def test_ranges_say_what_a_plain_walk_says(dump: Dump) -> None:
    ranges = tables.ranges(dump.found.leaves)
    assert ranges == sorted(ranges)
    rng = random.Random(1)
    for ipa, pa, size, type_ in ranges:
        for offset in (0, size - 1, rng.randrange(size)):
            assert lookup(dump, ipa + offset) == (pa + offset, type_)
        for outside in (ipa - 1, ipa + size):  # maximal
            if 0 <= outside < 1 << 40:
                assert lookup(dump, outside) != (pa + outside - ipa, type_)
    for _ in range(300):
        ipa = rng.randrange(1 << rng.choice((28, 32, 40)))
        inside = any(start <= ipa < start + size for start, _, size, _ in ranges)
        assert (lookup(dump, ipa) is not None) == inside


def test_dom0s_memory_is_mapped(dump: Dump) -> None:
    expected = 512 if dump.meta["source"].startswith("Xen 4.17.7 arm64") else 256
    assert tables.mapped_ram(dump.found) == (expected << 20) + 4096


def test_a_range_has_one_type_and_blocks_lose_low_bits() -> None:
    ram = np.zeros(512, np.uint64)
    ram[0] = 1 << 55 | 0x8000_0000 | 1 << 12 | 1  # a block of 1 GiB, bit 12 is no address there
    ram[1] = 5 << 55 | 0xC000_0000 | 1
    ram[2] = 5 << 55 | 0x1_0000_0000  # armed
    root = tables.Root(0x4000_0000, 0, 0x4000_0000, 39, 1, 1)
    found = tables.walk(root, ram, 0x4000_0000)
    assert tables.ranges(found.leaves) == [
        (0, 0x8000_0000, 1 << 30, 1),
        (1 << 30, 0xC000_0000, 2 << 30, 5),
    ]


def test_a_loop_of_tables_is_refused(tmp_path: Path) -> None:
    ram = np.zeros(1024, np.uint64)
    ram[0] = 0x4000_0003
    root = tables.Root(0x4000_0000, 0, 0x4000_0000, 40, 1, 2)
    with pytest.raises(DumpError, match="twice"):
        tables.walk(root, ram, 0x4000_0000)


def test_a_table_outside_ram_is_refused() -> None:
    root = tables.Root(0x3FFF_F000, 0, 0x3FFF_F000, 40, 1, 1)
    with pytest.raises(DumpError, match="not in RAM"):
        tables.walk(root, np.zeros(1024, np.uint64), 0x4000_0000)


@pytest.mark.parametrize(
    ("arch", "vtcr", "bits", "level", "pages"),
    [
        ("arm64", 64 - 40 | 1 << 6, 40, 1, 2),
        ("arm64", 64 - 44 | 2 << 6, 44, 0, 1),
        ("arm64", 64 - 32 | 1 << 6, 32, 1, 1),
        ("arm64", 64 - 34 | 0 << 6, 34, 2, 16),
        ("armhf", 0x10 | 8 | 1 << 6, 40, 1, 2),  # T0SZ -8
        ("armhf", 0 | 1 << 6, 32, 1, 1),
        ("armhf", 7 | 0 << 6, 25, 2, 1),
    ],
)
def test_roots(arch: str, vtcr: int, bits: int, level: int, pages: int) -> None:
    root = tables.Root.decode(arch, 1 << 48 | 0x4000_0000, vtcr)
    assert (root.ipa_bits, root.level, root.pages) == (bits, level, pages)
    assert root.base == 0x4000_0000


@pytest.mark.parametrize("vtcr", [64 - 40, 0, 64 - 40 | 3 << 6, 64 - 40 | 1 << 6 | 1 << 14])
def test_reserved_roots(vtcr: int) -> None:
    with pytest.raises(DumpError):
        tables.Root.decode("arm64", 0x4000_0000, vtcr)


# ---- Sparse copies ----


def test_a_sparse_copy_is_equal_and_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        file.truncate(64 << 20)
        for at in (0, 5 << 20, (5 << 20) + 70_000, (64 << 20) - 1):
            file.seek(at)
            file.write(b"x")
        file.seek(20 << 20)
        file.write(bytes(8 << 20))  # zeros that take space
    machine.sparse_copy(source, target)
    assert source.read_bytes() == target.read_bytes()
    assert target.stat().st_blocks * 512 < 1 << 20
    with source.open("r+b") as file:
        file.truncate(65 << 20)  # ends in a hole
    machine.sparse_copy(source, target)
    assert source.read_bytes() == target.read_bytes()
    odd = tmp_path / "c"
    odd.write_bytes(b"a" * 70_001)
    machine.sparse_copy(odd, target)
    assert target.read_bytes() == odd.read_bytes()


# ---- The gdb client against a stub of our own ----

ANNEXES = {
    "target.xml": '<?xml version="1.0"?><target><xi:include href="core.xml"/>'
    '<xi:include href="sys.xml"/></target>',
    "core.xml": "<feature>" + "".join(f'<reg name="x{i}" bitsize="64"/>' for i in range(34)),
    "sys.xml": '<feature><!-- }#$* --><reg name="A" bitsize="64" regnum="70"/>'
    '<reg name="VTTBR" bitsize="64"/>',
}


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "gdb"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        cpu, buffer = "", b""
        while data := connection.recv(4096):
            buffer += data
            buffer = buffer.lstrip(b"+")
            while b"#" in buffer and len(buffer) >= buffer.index(b"#") + 3:
                end = buffer.index(b"#")
                packet, sent = buffer[1:end], int(buffer[end + 1 : end + 3], 16)
                buffer = buffer[end + 3 :].lstrip(b"+")
                assert sum(packet) & 0xFF == sent
                command = packet.decode()
                if command.startswith("qXfer"):
                    _, _, _, annex, span = command.split(":")
                    offset, size = (int(x, 16) for x in span.split(","))
                    size = min(size, 50)  # in pieces
                    text = ANNEXES[annex]
                    part = ("l" if offset + size >= len(text) else "m") + text[offset:][:size]
                elif command.startswith("Hg"):
                    cpu, part = command[2:], "OK"
                elif command == "p47":  # 71
                    part = {"01": "8877665544332211", "02": "0100000000000000"}[cpu]
                else:
                    part = {"qfThreadInfo": "m01", "qsThreadInfo": "m02"}.get(command, "")
                    if command == "qsThreadInfo" and stub_state["asked"]:
                        part = "l"
                    stub_state["asked"] = command == "qsThreadInfo"
                escaped = "".join("}" + chr(ord(c) ^ 0x20) if c in "#$}*" else c for c in part)
                answer = escaped.encode()
                connection.sendall(b"+$T05thread:01;#07$" + answer + b"#%02x" % (sum(answer) & 255))

    stub_state = {"asked": False}
    threading.Thread(target=serve, daemon=True).start()
    yield path
    server.close()


def test_registers_are_found_by_name_and_read_of_each_cpu(stub: Path) -> None:
    with gdb.Gdb(stub, timeout=5) as client:
        assert client.cpus() == ["01", "02"]
        assert client.register("VTTBR", "01") == 0x1122334455667788
        assert client.register("VTTBR", "02") == 1
        with pytest.raises(DumpError, match="no register VTCR"):
            client.register("VTCR", "01")
        with pytest.raises(DumpError, match="does not tell A"):
            client.register("A", "01")
