"""Images: tables of a real Xen, of random P2Ms, through every format and back."""

from __future__ import annotations

import json
import re
import resource
import struct
from collections import Counter
from pathlib import Path

import image_walk
import numpy as np
import pytest

import p2mfast as pf
from p2mfast.image import Image, Memory

REAL = Path(__file__).parent / "data" / "real_p2m"
DUMPS = ("xen_dom0_p2m", "xen_armhf_dom0_p2m", "xen_arm64_n1_dom0_p2m")
VTCR = 0x80023558  # 40 bits, two root tables at level 1
SIZES = (32, 36, 40, 42, 44, 48)


def real(name: str) -> tuple[dict, np.ndarray, np.ndarray]:
    with np.load(REAL / f"{name}.npz") as arrays:
        return json.loads(str(arrays["meta"])), arrays["page_pa"], arrays["page"]


def section(name: str) -> str:
    """What the dumps' README, written with them, says of one."""
    text = (REAL / "README.md").read_text()
    return text.split(f"## {name}.npz")[1].split("## ")[0]


def reader(image: Image) -> image_walk.Read:
    def read(pa: int) -> list[int]:
        return image.memory.read(pa, 4096).view("<u8").tolist()

    return read


def leaves(image: Image) -> list[image_walk.Leaf]:
    root = image.vttbr & 0x0000_FFFF_FFFF_F000
    return list(image_walk.leaves(reader(image), root, image.root_level, image.root_pages))


def expand(image: Image) -> list[image_walk.Leaf]:
    """The extents as single leaves."""
    found = []
    for extent in image.extents():
        gfn, mfn, nr, attrs, level, valid, reachable = (value.item() for value in extent)
        size = 1 << 9 * (3 - level)
        assert nr % size == 0
        found += [
            image_walk.Leaf(
                gfn + i, mfn + i, size, attrs >> 55 & 0xF, attrs, level, valid, reachable
            )
            for i in range(0, nr, size)
        ]
    return found


def random_p2m(seed: int, ipa_bits: int) -> pf.P2M:
    """Everything that a P2M can hold, in a few islands; armed and touched again."""
    rng = np.random.default_rng([seed, ipa_bits])
    p2m = pf.P2M(ipa_bits, vmid=int(rng.integers(1 << 16)))
    limit = 1 << ipa_bits - 12
    islands = [0, limit - (1 << 19), *rng.integers(0, limit - (1 << 19), 3).tolist()]
    for _ in range(60):
        order = int(rng.choice([0, 0, 9, 18]))
        gfn = int(rng.choice(islands)) + int(rng.integers(0, 1 << 18)) >> order << order
        nr = int(rng.integers(1, 4)) << order if order < 18 else 1 << 18
        if gfn + nr > limit:
            continue
        kind = pf.P2MType(int(rng.integers(1, 12)))
        mfn = None if rng.random() < 0.2 else int(rng.integers(0, 1 << 30)) >> order << order
        p2m.set_entry(gfn, nr, mfn, kind, pf.Access(int(rng.integers(11))), rng.random() < 0.2)
    p2m.invalidate_root()
    mapped = p2m.mapped_runs()
    p2m.resolve_translation_faults(rng.choice(mapped["gfn"], len(mapped) // 2 + 1))
    return p2m


# ---- Real tables ----


@pytest.mark.parametrize("name", DUMPS)
def test_a_real_dump_gives_the_ranges_that_its_readme_lists(name: str) -> None:
    image = pf.image.load(REAL / f"{name}.npz")
    listed = re.findall(r"^ {4}(0x\w+) +(0x\w+) +(0x\w+) +(\d+)$", section(name), re.M)
    found = [
        (int(gfn) << 12, int(mfn) << 12, int(nr) << 12, int(kind))
        for gfn, mfn, nr, kind in image.mapped_runs()
    ]
    assert found == [(*(int(value, 16) for value in row[:3]), int(row[3])) for row in listed]
    assert len(found) > 10
    assert image.findings() == []


@pytest.mark.parametrize("name", DUMPS)
def test_a_real_dump_has_the_leaves_and_pointers_that_its_readme_counts(name: str) -> None:
    image = pf.image.load(REAL / f"{name}.npz")
    words = " ".join(section(name).split())
    counted = re.findall(r"(\d+)/L(\d)/([01]) (\d+)", words)
    found = Counter()
    for total in image.totals():
        found[total.type, total.level, int(total.valid)] += total.leaves
    assert found == {(int(t), int(level), int(bit)): int(n) for t, level, bit, n in counted}
    pages, all_leaves = re.search(r"(\d+) table pages, ([\d,]+) leaves", words).groups()
    assert len(image.tables()) == int(pages)
    assert sum(found.values()) == int(all_leaves.replace(",", ""))
    pointers = image.tables()[image.tables()["level"] > image.root_level]
    clear, set_ = re.search(r"(\d+) with bit 0 clear, (\d+) set", words).groups()
    assert (~pointers["valid"]).sum() == int(clear)
    assert pointers["valid"].sum() == int(set_)


@pytest.mark.parametrize("name", DUMPS)
def test_a_real_dump_agrees_with_a_walk_in_plain_python(name: str) -> None:
    image = pf.image.load(REAL / f"{name}.npz")
    assert expand(image) == leaves(image)


@pytest.mark.parametrize("name", DUMPS)
def test_a_real_dump_has_the_geometry_that_was_recorded_with_it(name: str) -> None:
    meta, _, page = real(name)
    image = pf.image.load(REAL / f"{name}.npz")
    assert image.source == meta["source"]
    assert (image.ipa_bits, image.root_level) == (meta["ipa_bits"], meta["start_level"])
    assert image.root_pages == meta["root_pages"]
    # The cores' own sizes; AArch32's VTCR does not say.
    assert image.pa_bits == (48 if "neoverse-n1" in image.source else 40)
    assert len(image.memory) == page.nbytes


def changed(name: str, change) -> Image:
    """A real dump, its tables changed by change(words of the table at a physical address)."""
    meta, page_pa, page = real(name)
    tables = dict(zip(page_pa.tolist(), page, strict=True))
    change(meta["vttbr"] & 0x0000_FFFF_FFFF_F000, tables)
    pieces = [(pa, words.view(np.uint8)) for pa, words in tables.items()]
    return Image(Memory(pieces), vttbr=meta["vttbr"], vtcr=meta["vtcr"])


def test_a_block_below_the_second_root_table_is_found() -> None:
    def change(root: int, tables: dict[int, np.ndarray]) -> None:
        tables[root + 4096][511] = 0x0080_0012_4000_07FD

    before = pf.image.load(REAL / f"{DUMPS[1]}.npz")
    image = changed(DUMPS[1], change)
    assert image.mapped_runs()[-1].tolist() == (1023 << 18, 0x12_4000_0000 >> 12, 1 << 18, 1)
    assert image.mapped_runs()[:-1].tolist() == before.mapped_runs().tolist()
    rows = pf.image.difference(before, image)
    assert rows["gfn"].tolist() == [1023 << 18]
    assert rows["mapped"].tolist() == [[False, True]]


def test_another_type_amid_a_run_divides_it() -> None:
    before = pf.image.load(REAL / f"{DUMPS[0]}.npz")
    gfn = 0x20000000 >> 12  # amid 752 MiB of mmio_direct_c, in pages
    table, index = [(step.table, step.index) for step in before.walk(gfn << 12)][-1]

    def change(root: int, tables: dict[int, np.ndarray]) -> None:
        tables[table][index] ^= np.uint64((5 ^ 3) << 55)

    image = changed(DUMPS[0], change)
    run = next(run for run in before.mapped_runs().tolist() if run[0] <= gfn < run[0] + run[2])
    expected = [
        (run[0], run[1], gfn - run[0], 5),
        (gfn, run[1] + gfn - run[0], 1, 3),
        (gfn + 1, run[1] + gfn + 1 - run[0], run[2] - (gfn + 1 - run[0]), 5),
    ]
    runs = before.mapped_runs().tolist()
    at = runs.index(run)
    assert image.mapped_runs().tolist() == runs[:at] + expected + runs[at + 1 :]
    assert image.findings() == []


# ---- Any tables ----


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ipa_bits", SIZES)
def test_tables_of_a_p2m_agree_with_it_and_with_a_walk_in_plain_python(
    ipa_bits: int, seed: int
) -> None:
    p2m = random_p2m(seed, ipa_bits)
    image = Image.of(p2m)
    assert image.mapped_runs().tolist() == p2m.mapped_runs().tolist()
    assert (image.ipa_bits, image.root_level) == (p2m.ipa_bits, p2m.root_level)
    assert (image.root_pages, image.pa_bits) == (p2m.root_pages, p2m.pa_bits)
    assert image.findings() == []
    assert expand(image) == leaves(image)
    assert image_walk.coalesce(iter(leaves(image))) == image.mapped_runs().tolist()
    assert len(image.tables()) == p2m.stats.tables + p2m.root_pages
    by_level = Counter()
    for total in image.totals():
        by_level[total.level] += total.leaves
    assert tuple(by_level[level] for level in range(4)) == p2m.stats.mappings


@pytest.mark.parametrize("ipa_bits", SIZES)
def test_ranges_and_totals_agree_with_a_walk_in_plain_python(ipa_bits: int) -> None:
    image = Image.of(random_p2m(7, ipa_bits))
    ranges: list[list] = []
    for leaf in leaves(image):
        last = ranges[-1] if ranges else None
        if not last or (last[0] + last[2], last[1] + last[2], last[3]) != (
            leaf.gfn,
            leaf.mfn,
            leaf.attrs,
        ):
            last = [leaf.gfn, leaf.mfn, 0, leaf.attrs, 0, 0, [0, 0, 0, 0]]
            ranges.append(last)
        last[2] += leaf.nr
        last[4] += leaf.nr * leaf.valid
        last[5] += leaf.nr * leaf.reachable
        last[6][leaf.level] += leaf.nr
    found = image.ranges()
    assert [(*row.tolist()[:6], row["by_level"].tolist()) for row in found] == [
        tuple(row) for row in ranges
    ]
    counted = Counter((leaf.type, leaf.level, leaf.valid, leaf.reachable) for leaf in leaves(image))
    assert {total[:4]: total.leaves for total in image.totals()} == counted
    assert all(t.pages == t.leaves << 9 * (3 - t.level) for t in image.totals())


@pytest.mark.parametrize("ipa_bits", SIZES)
def test_an_image_translates_as_its_p2m(ipa_bits: int) -> None:
    p2m = random_p2m(1, ipa_bits)
    image = Image.of(p2m)
    rng = np.random.default_rng(ipa_bits)
    runs = p2m.mapped_runs()
    gfns = np.concatenate([runs["gfn"], runs["gfn"] + runs["nr"] - 1, runs["gfn"] + runs["nr"]])
    beyond = rng.integers(1 << ipa_bits, 1 << 62, 50)
    anywhere = rng.integers(0, 1 << ipa_bits, 500)
    ipas = np.concatenate([gfns << 12 | 0x123, beyond.astype("u8"), anywhere.astype("u8")])
    for access in ("r", "w", "x", "rw", "rx", "wx", "rwx"):
        mine, theirs = image.translate_many(ipas, access), p2m.translate_many(ipas, access)
        assert mine.tolist() == theirs.tolist()
    assert len(set(p2m.translate_many(ipas)["fault"].tolist())) > 1
    for ipa in rng.choice(ipas, 60).tolist():
        for access in ("r", "w", "rw", "x"):
            assert outcome(image, ipa, access) == outcome(p2m, ipa, access)


def outcome(tables, ipa: int, access: str):
    try:
        return tables.translate(ipa, access)
    except pf.Stage2Fault as fault:
        return type(fault), fault.ipa, fault.level, fault.kind, fault.esr, fault.hpfar


def test_a_walk_shows_each_descriptor_and_stops_where_there_is_none() -> None:
    p2m = pf.P2M(48)
    p2m.set_entry(0x12345, 1, 0x999)
    p2m.invalidate_root()
    steps = Image.of(p2m).walk(0x12345_678)
    words = {(level, gfn): raw for level, gfn, raw in p2m.entries()[["level", "gfn", "raw"]]}
    assert [step.level for step in steps] == [0, 1, 2, 3]
    for step in steps:
        order = 9 * (3 - step.level)
        assert step.descriptor == words[step.level, 0x12345 >> order << order]
        assert step.index == 0x12345 >> order & 511
    assert [s.table for s in steps[1:]] == [s.descriptor & 0xFFFF_FFFF_F000 for s in steps[:-1]]
    assert [step.descriptor for step in Image.of(p2m).walk(1 << 39)] == [0]
    with pytest.raises(pf.OutOfRange, match=r"ipa 0x1000000000000 is beyond"):
        Image.of(p2m).walk(1 << 48)


# ---- Formats ----


@pytest.mark.parametrize("suffix", [".json", ".bin", ".elf", ".core", ".npz"])
@pytest.mark.parametrize("ipa_bits", SIZES)
def test_a_p2m_through_a_file_and_back(ipa_bits: int, suffix: str, tmp_path: Path) -> None:
    p2m = random_p2m(2, ipa_bits)
    path = tmp_path / f"guest{suffix}"
    pf.image.save(p2m, path)
    image = pf.image.load(path)
    assert same_tables(image, Image.of(p2m))
    assert (image.vttbr, image.vtcr, image.pa_bits) == (p2m.vttbr, p2m.vtcr, p2m.pa_bits)
    written = sorted(name.name for name in tmp_path.iterdir())
    assert written == (["guest.bin", "guest.json"] if suffix in (".json", ".bin") else [path.name])


def same_tables(first: Image, second: Image) -> bool:
    """Every word of every table, at the same addresses."""
    pages = [np.sort(image.tables()["pa"]) for image in (first, second)]
    return pages[0].tolist() == pages[1].tolist() and all(
        (first.memory.read(pa, 4096) == second.memory.read(pa, 4096)).all()
        for pa in pages[0].tolist()
    )


@pytest.mark.parametrize("suffix", [".json", ".elf", ".npz"])
@pytest.mark.parametrize("name", DUMPS)
def test_a_real_dump_through_a_file_and_back(name: str, suffix: str, tmp_path: Path) -> None:
    image = pf.image.load(REAL / f"{name}.npz")
    pf.image.save(image, tmp_path / f"copy{suffix}")
    again = pf.image.load(tmp_path / f"copy{suffix}")
    assert same_tables(again, image)
    assert again.source == image.source
    assert again.pa_bits == image.pa_bits


def test_frames_that_were_given_back_are_not_written(tmp_path: Path) -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0x40000, 1, 0x123)
    p2m.set_entry(0x80000, 1, 0x456)
    p2m.set_entry(0x40000, 1 << 9, None)
    pf.image.save(p2m, tmp_path / "guest.json")
    words = np.fromfile(tmp_path / "guest.bin", "<u8")
    assert np.count_nonzero(words) == len(p2m.entries())
    assert pf.image.load(tmp_path / "guest.bin").mapped_runs().tolist() == [(0x80000, 0x456, 1, 1)]


def raw_memory(name: str, path: Path, base: int, size: int) -> dict[str, int]:
    """A file as QEMU's pmemsave would write it, with holes where there is no table."""
    meta, page_pa, page = real(name)
    with path.open("wb") as file:
        file.truncate(size)
        for pa, words in zip(page_pa.tolist(), page, strict=True):
            file.seek(pa - base)
            file.write(words.tobytes())
    return {"vttbr": meta["vttbr"], "vtcr": meta["vtcr"], "base": base}


@pytest.mark.parametrize("name", DUMPS)
def test_raw_memory_with_its_registers(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pmem"
    registers = raw_memory(name, path, 0x4000_0000, 2 << 30)
    image = pf.image.load(path, **registers)
    expected = pf.image.load(REAL / f"{name}.npz")
    assert image.extents().tolist() == expected.extents().tolist()
    registers["ipa_bits"] = expected.ipa_bits
    del registers["vtcr"]
    by_size = pf.image.load(path, **registers)
    assert by_size.extents().tolist() == expected.extents().tolist()


def test_sixteen_gib_of_memory_are_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "pmem"
    registers = raw_memory(DUMPS[0], path, 0x4000_0000, 16 << 30)
    before = resource.getrusage(resource.RUSAGE_SELF)
    image = pf.image.load(path, **registers)
    assert len(image.mapped_runs()) == 14
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_maxrss - before.ru_maxrss < 64 << 10  # KiB
    assert after.ru_inblock - before.ru_inblock < 1 << 16  # of 512 bytes


def elf32(pieces: list[tuple[int, bytes]], skew: int = 0) -> bytes:
    """A 32-bit ELF core, by hand: as a dump of a 32-bit machine."""
    head = 52 + 32 * len(pieces) + skew
    header = (
        b"\x7fELF\1\1\1"
        + bytes(9)
        + struct.pack("<HHIIIIIHHHHHH", 4, 40, 1, 0, 52, 0, 0, 52, 32, len(pieces), 0, 0, 0)
    )
    offset, table, body = head, b"", b""
    for pa, data in pieces:
        table += struct.pack("<8I", 1, offset, 0, pa, len(data), len(data), 6, 4096)
        offset += len(data)
        body += data
    return header + table + bytes(skew) + body


@pytest.mark.parametrize("skew", [0, 1, 4, 8])
def test_a_32_bit_elf_core_whose_memory_lies_anywhere_in_the_file(
    skew: int, tmp_path: Path
) -> None:
    meta, page_pa, page = real(DUMPS[1])
    pieces = [(pa, words.tobytes()) for pa, words in zip(page_pa.tolist(), page, strict=True)]
    path = tmp_path / "core"
    path.write_bytes(elf32(pieces, skew))
    image = pf.image.load(path, vttbr=meta["vttbr"], vtcr=meta["vtcr"])
    expected = pf.image.load(REAL / f"{DUMPS[1]}.npz")
    assert image.extents().tolist() == expected.extents().tolist()


def test_pages_that_a_core_has_twice_are_taken_once(tmp_path: Path) -> None:
    meta, page_pa, page = real(DUMPS[1])
    pieces = [(pa, words.tobytes()) for pa, words in zip(page_pa.tolist(), page, strict=True)]
    path = tmp_path / "core"
    path.write_bytes(elf32(pieces + pieces[::7]))
    image = pf.image.load(path, vttbr=meta["vttbr"], vtcr=meta["vtcr"])
    assert image.findings() == []
    assert len(image.tables()) == len(page_pa)


def test_more_pieces_than_an_elf_header_counts(tmp_path: Path) -> None:
    """The number of segments does not fit in 16 bits."""
    p2m = pf.P2M(40)
    p2m.set_entry(0, 1, 0)
    tables = p2m.copy_tables()
    pieces = [(p2m.table_base_mfn << 12, tables.reshape(-1).view(np.uint8))]
    filler = np.zeros(8, np.uint8)
    pieces += [(2 * i * 4096, filler) for i in range(70_000)]
    from p2mfast.image import elf  # noqa: PLC0415

    path = tmp_path / "core"
    with path.open("wb") as file:
        elf.write(file, pieces, b"{}")
    core = elf.read(np.fromfile(path, np.uint8))
    assert len(core.pieces) == len(pieces)
    image = Image(Memory(core.pieces), vttbr=p2m.vttbr, vtcr=p2m.vtcr)
    assert image.mapped_runs().tolist() == [(0, 0, 1, 1)]


def test_the_arguments_that_put_tables_into_qemu(tmp_path: Path) -> None:
    p2m = pf.P2M(40, table_base_mfn=0x50000)
    p2m.set_entry(0, 1 << 18, 1 << 18)
    plain, odd = tmp_path / "a.json", tmp_path / "a,b.elf"
    pf.image.save(p2m, plain)
    pf.image.save(p2m, odd)
    loader = f"loader,file={tmp_path}/a.bin,addr=0x50000000,force-raw=on"
    assert pf.image.qemu_loader(plain) == ["-device", loader]
    assert pf.image.qemu_loader(odd) == ["-device", f"loader,file={tmp_path}/a,,b.elf"]
    scattered = pf.image.load(REAL / f"{DUMPS[0]}.npz")
    pf.image.save(scattered, plain)
    with pytest.raises(pf.ImageError, match=r"8 pieces of memory; save them as \.elf"):
        pf.image.qemu_loader(plain)
    with pytest.raises(pf.ImageError, match=r"QEMU loads an image saved as"):
        pf.image.qemu_loader(REAL / f"{DUMPS[0]}.npz")


# ---- Registers ----


@pytest.mark.parametrize(
    ("vtcr", "expected"),
    [
        (0x80023558, (40, 1, 2, 40)),
        (0x80003558, (40, 1, 2, 40)),  # AArch32, S set: 32 - ipa_bits is -8
        (0x80003540, (32, 1, 1, 40)),  # AArch32, T0SZ 0
        (0x80003500, (32, 2, 4, 40)),  # the same from level 2
        (0x80003507, (25, 2, 1, 40)),  # AArch32, T0SZ 7
        (0x80053590, (48, 0, 1, 48)),
        (0x80053594, (44, 0, 1, 48)),
        (0x80053559, (39, 1, 1, 48)),  # KVM's for 39 bits
        (0x80053555, (43, 1, 16, 48)),
        (0x80013560, (32, 1, 1, 36)),
        (0x8002351E, (34, 2, 16, 40)),
    ],
)
def test_what_vtcr_says(vtcr: int, expected: tuple[int, int, int, int]) -> None:
    memory = Memory([(0, np.zeros(16 * 4096, np.uint8))])
    image = Image(memory, vttbr=0, vtcr=vtcr)
    assert (image.ipa_bits, image.root_level, image.root_pages, image.pa_bits) == expected


@pytest.mark.parametrize(
    "vtcr",
    [
        0x80023559 | 1 << 14,  # 64 KiB granule
        0x80023558 | 1 << 32,  # LPA2
        0x800235D8,  # SL0 3
        0x80023548,  # neither AArch32's input size nor AArch64's
        0x80023510,  # 48 bits from level 2
        0x80023554 & ~0xC0,  # 44 bits from level 2
        0x80053594 + 0x14,  # 24 bits
        0x80053550,  # 48 bits from level 1
        0x80003547,  # AArch32, 25 bits from level 1: there is nothing to look up
    ],
)
def test_a_vtcr_that_the_4_kib_granule_has_not(vtcr: int) -> None:
    memory = Memory([(0, np.zeros(16 * 4096, np.uint8))])
    with pytest.raises(pf.ImageError, match=rf"vtcr {vtcr:#x}: no input size"):
        Image(memory, vttbr=0, vtcr=vtcr)


def test_wrong_registers_are_named() -> None:
    memory = Memory([(0x4000_0000, np.zeros(4 * 4096, np.uint8))])
    cases = [
        ({"vttbr": 1 << 64, "ipa_bits": 40}, r"vttbr must be from 0 to 2\*\*64 - 1"),
        ({"vttbr": -1, "ipa_bits": 40}, "vttbr must be from 0 .* not -0x1"),
        ({"vttbr": 0x4000_0000, "vtcr": 0x23558}, "vtcr 0x23558: bit 31 is clear"),
        ({"vttbr": 0x4000_0000}, "give vtcr"),
        ({"vttbr": 0x4000_0000, "ipa_bits": 41}, "ipa_bits must be one of .* not 41"),
        ({"vttbr": 0x4000_0000, "ipa_bits": 40, "pa_bits": 41}, "pa_bits must be one of"),
        ({"vttbr": 0x4000_0000, "ipa_bits": 0}, "ipa_bits must be one of .* not 0"),
        ({"vttbr": 0x4000_1000, "ipa_bits": 40}, "vttbr 0x40001000: the address must be aligned"),
        ({"vttbr": 0x4000_0800, "ipa_bits": 48}, "vttbr 0x40000800: the address must be aligned"),
        ({"vttbr": 0x5000_0000, "ipa_bits": 40}, "root table at 0x50000000 is not in the image"),
        (
            {"vttbr": 0x4000_0000, "vtcr": VTCR, "ipa_bits": 48},
            "ipa_bits 48: vtcr .* says 40",
        ),
    ]
    for registers, message in cases:
        with pytest.raises((pf.ImageError, pf.OutOfRange), match=message):
            Image(memory, **registers)
    for name, value in (("vttbr", 1.5), ("vttbr", "x"), ("vtcr", True), ("ipa_bits", "40")):
        with pytest.raises(TypeError, match=f"{name} must be an integer, not {value!r}"):
            Image(memory, **{"vttbr": 0x4000_0000, "ipa_bits": 40, name: value})


def test_wrong_arguments_of_an_image_are_named() -> None:
    image = Image.of(pf.P2M(40))
    for call, name in ((image.walk, "ipa"), (image.translate, "ipa")):
        for value in (1.5, "x", None, True):
            with pytest.raises(TypeError, match=f"{name} must be an integer"):
                call(value)
        with pytest.raises(pf.OutOfRange, match="ipa must be from 0"):
            call(-1)
    with pytest.raises(pf.OutOfRange, match=r"ipas\[1\] must not be negative: -1"):
        image.translate_many([0, -1])
    assert len(image.translate_many([])) == 0
    with pytest.raises(TypeError, match="ipas must be an array of integers"):
        image.translate_many([0.5])
    with pytest.raises(ValueError, match="access must be one of"):
        image.translate_many([0], "q")
    with pytest.raises(TypeError, match="source must be a P2M or an Image, not 5"):
        pf.image.save(5, "x.elf")
    with pytest.raises(TypeError, match="second must be an Image, not None"):
        pf.image.difference(image, None)


# ---- Differences ----


@pytest.mark.parametrize("seed", range(4))
def test_differences_agree_with_a_comparison_page_by_page(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(2):
        p2m = pf.P2M(32)
        p2m.set_entry(0x1000, 2048, 0x40000)
        for _ in range(12):
            gfn = 0x1000 + int(rng.integers(2048))
            mfn = rng.choice([None, gfn + 0x3F000, int(rng.integers(1 << 20))])
            p2m.set_entry(gfn, int(rng.integers(1, 40)), mfn, rng.choice([1, 2]))
        p2m.invalidate_root()
        p2m.resolve_translation_faults(rng.integers(0x1000, 0x1800, 20).astype("u8"))
        images.append(Image.of(p2m))

    def facts(image: Image) -> dict[int, tuple]:
        return {
            int(row["gfn"]) + i: (int(row["mfn"]) + i, *row.tolist()[3:])
            for row in image.extents()
            for i in range(int(row["nr"]))
        }

    first, second = map(facts, images)
    expected = {
        gfn: (first.get(gfn), second.get(gfn))
        for gfn in first.keys() | second.keys()
        if first.get(gfn) != second.get(gfn)
    }
    found = {}
    for row in pf.image.difference(*images):
        for i in range(int(row["nr"])):
            sides = [
                (
                    int(row["mfn"][side]) + i,
                    *(row[name][side].item() for name in ("attrs", "level", "valid", "reachable")),
                )
                if row["mapped"][side]
                else None
                for side in range(2)
            ]
            found[int(row["gfn"]) + i] = tuple(sides)
    assert found == expected
    assert expected
    assert not len(pf.image.difference(images[0], images[0]))


def test_an_image_of_a_p2m_stays_as_it_was() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0, 512, 0x1000, max_order=0)
    image = Image.of(p2m)
    p2m.set_entry(0, 512, None)
    assert image.mapped_runs().tolist() == [(0, 0x1000, 512, 1)]
