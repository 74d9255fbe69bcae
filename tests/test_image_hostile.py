"""Images that are broken, cut off or made to harm: a clear finding or an ImageError, never a crash,
a hang, or a byte read outside of what was dumped. The scan is fuzzed in tests/c/test_image.c, too.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import p2mfast as pf
from p2mfast.image import FindingKind, Image, Memory

BASE = 0x4000_0000
VTCR = 0x80023558  # 40 bits, two root tables at level 1
TABLE = 0x0080_0000_0000_07FF  # a pointer, less its address
BLOCK = 0x0080_0000_0000_07FD
PAGE = 0x0080_0000_0000_07FF
PAGES = 8


class Tables:
    """Two root tables and six others, by hand."""

    def __init__(self) -> None:
        self.words = np.zeros((PAGES, 512), np.uint64)

    @staticmethod
    def at(row: int) -> int:
        return BASE + 4096 * row

    def put(self, row: int, index: int, word: int) -> None:
        self.words[row, index] = word

    def link(self, row: int, index: int, target: int) -> None:
        self.put(row, index, TABLE | self.at(target))

    def image(self) -> Image:
        memory = Memory([(BASE, self.words.reshape(-1).view(np.uint8))])
        return Image(memory, vttbr=BASE, vtcr=VTCR)

    def findings(self) -> list[tuple[FindingKind, int, int, int, int, int]]:
        """Each with where it is: kind, level, gfn, row, index, descriptor."""
        return [
            (f.kind, f.level, f.gfn, (f.table - BASE) // 4096, f.index, f.value)
            for f in self.image().findings()
        ]


@pytest.fixture
def tables() -> Tables:
    """One page, by way of tables 0, 2 and 3."""
    tables = Tables()
    tables.link(0, 1, 2)
    tables.link(2, 3, 3)
    tables.put(3, 5, PAGE | 0x12345000)
    assert tables.findings() == []
    return tables


GFN = (1 << 18) + (3 << 9)


# ---- Every structural fault by itself ----


def test_a_table_outside_the_image(tables: Tables) -> None:
    tables.link(2, 4, PAGES)
    word = TABLE | tables.at(PAGES)
    assert tables.findings() == [(FindingKind.OUTSIDE, 2, GFN + 512, 2, 4, word)]
    assert tables.image().mapped_runs().tolist() == [(GFN + 5, 0x12345, 1, 1)]
    step = tables.image().walk(GFN + 512 << 12)[-1]
    assert (step.level, step.descriptor) == (3, None)
    with pytest.raises(pf.Stage2Fault) as raised:
        tables.image().translate(GFN + 512 << 12)
    assert (raised.value.kind, raised.value.level) == (pf.FaultKind.EXTERNAL, 3)


def test_a_table_that_is_reached_twice(tables: Tables) -> None:
    tables.link(2, 4, 3)
    word = TABLE | tables.at(3)
    assert tables.findings() == [(FindingKind.TWICE, 2, GFN + 512, 2, 4, word)]
    assert tables.image().translate(GFN + 512 + 5 << 12).pa == 0x12345000  # the MMU does not mind


def test_a_pointer_to_the_other_root_table_is_no_loop(tables: Tables) -> None:
    tables.link(2, 4, 1)
    word = TABLE | tables.at(1)
    assert tables.findings() == [(FindingKind.TWICE, 2, GFN + 512, 2, 4, word)]


@pytest.mark.parametrize("target", [0, 2])
def test_a_loop(tables: Tables, target: int) -> None:
    tables.link(2, 4, target)
    word = TABLE | tables.at(target)
    assert tables.findings() == [(FindingKind.LOOP, 2, GFN + 512, 2, 4, word)]


def test_a_table_that_points_to_itself(tables: Tables) -> None:
    tables.link(0, 2, 4)
    for index in range(512):
        tables.link(4, index, 4)
    found = tables.findings()
    assert [(kind, row, index) for kind, _, _, row, index, _ in found] == [
        (FindingKind.LOOP, 4, index) for index in range(512)
    ]


def test_tables_that_all_point_at_each_other(tables: Tables) -> None:
    for row in range(PAGES):
        for index in range(512):
            tables.link(row, index, index % PAGES)
    image = tables.image()
    assert len(image.tables()) <= PAGES
    assert image.found.keys() <= {FindingKind.LOOP, FindingKind.TWICE}
    # The tables at level 3 hold pages, whatever they were meant for.
    level3 = int((image.tables()["level"] == 3).sum())
    assert int(image.mapped_runs()["nr"].sum()) == 512 * level3
    assert sum(image.found.values()) == 512 * (PAGES - level3) - (PAGES - 2)


@pytest.mark.parametrize(
    ("row", "index", "word", "level", "gfn"),
    [
        (2, 9, BLOCK | 0x4010_0000, 2, (1 << 18) + (9 << 9)),
        (2, 9, BLOCK | 0x4000_1000, 2, (1 << 18) + (9 << 9)),
        (1, 0, BLOCK | 0x4020_0000, 1, 512 << 18),
        (2, 9, (BLOCK | 0x4000_1000) & ~1, 2, (1 << 18) + (9 << 9)),
    ],
)
def test_a_misaligned_block(
    tables: Tables, row: int, index: int, word: int, level: int, gfn: int
) -> None:
    tables.put(row, index, word)
    assert tables.findings() == [(FindingKind.MISALIGNED, level, gfn, row, index, word)]
    run = [run for run in tables.image().mapped_runs().tolist() if run[0] == gfn]
    assert run == [(gfn, 0x4000_0000 >> 12, 1 << 9 * (3 - level), 1)]


@pytest.mark.parametrize("bit", [48, 49, 50])
@pytest.mark.parametrize("row", [2, 3])
def test_reserved_bits_of_a_leaf(tables: Tables, row: int, bit: int) -> None:
    word = (BLOCK if row == 2 else PAGE) | 0x4000_0000 | 1 << bit
    tables.put(row, 9, word)
    ((kind, level, _, found_row, index, value),) = tables.findings()
    assert (kind, level, found_row, index) == (FindingKind.RESERVED, row, row, 9)
    assert value == word


@pytest.mark.parametrize("bit", [48, 49, 50, 59, 60, 61, 62, 63])
def test_reserved_bits_of_a_table_pointer(tables: Tables, bit: int) -> None:
    word = TABLE | tables.at(3) | 1 << bit
    tables.put(2, 3, word)
    assert tables.findings() == [(FindingKind.RESERVED, 2, GFN, 2, 3, word)]
    assert tables.image().mapped_runs().tolist() == [(GFN + 5, 0x12345, 1, 1)]


@pytest.mark.parametrize("bit", [11, 51, 52, 53, 59, 60, 61, 62, 63])
def test_bits_of_a_leaf_that_mean_something_elsewhere_are_no_fault(
    tables: Tables, bit: int
) -> None:
    tables.put(3, 5, PAGE | 0x12345000 | 1 << bit)
    assert tables.findings() == []
    assert tables.image().extents()[0]["attrs"] >> np.uint64(bit) & np.uint64(1)


@pytest.mark.parametrize("word", [BLOCK | 0x4000_0000, (BLOCK | 0x4000_0000) & ~1])
def test_a_page_with_bit_1_clear(tables: Tables, word: int) -> None:
    tables.put(3, 7, word)
    assert tables.findings() == [(FindingKind.ENCODING, 3, GFN + 7, 3, 7, word)]
    assert tables.image().mapped_runs().tolist() == [(GFN + 5, 0x12345, 1, 1)]


def test_a_block_at_level_0() -> None:
    words = np.zeros(512, np.uint64)
    words[3] = BLOCK
    memory = Memory([(BASE, words.view(np.uint8))])
    (finding,) = Image(memory, vttbr=BASE, vtcr=0x80053590).findings()
    assert (finding.kind, finding.level, finding.gfn) == (FindingKind.ENCODING, 0, 3 << 27)


def test_a_run_of_faults_is_told_one_by_one(tables: Tables) -> None:
    for index in range(16, 32):
        tables.put(2, index, BLOCK | 0x4000_1000 + (index << 21) | 1 << 50)
    found = tables.findings()
    assert len(found) == 32
    assert {(kind, index) for kind, _, _, _, index, _ in found} == {
        (kind, index)
        for kind in (FindingKind.MISALIGNED, FindingKind.RESERVED)
        for index in range(16, 32)
    }
    assert all(value == int(tables.words[row, index]) for *_, row, index, value in found)


def test_addresses_do_not_run_over_their_field(tables: Tables) -> None:
    """The page behind the last one a descriptor can hold is no continuation of it."""
    tables.put(3, 6, PAGE | 0xFFFF_FFFF_F000)
    tables.put(3, 7, (PAGE | 0xFFFF_FFFF_F000) + 0x1000)
    runs = tables.image().mapped_runs().tolist()
    assert runs[1:] == [(GFN + 6, (1 << 36) - 1, 1, 1), (GFN + 7, 0, 1, 1)]
    assert [row[0] for row in tables.findings()] == [FindingKind.RESERVED]


def test_below_an_armed_table_a_run_of_pages_is_not_reachable(tables: Tables) -> None:
    tables.link(2, 4, 4)
    for index in range(512):
        tables.put(3, index, PAGE | 0x1000_0000 + 4096 * index)
        tables.put(4, index, PAGE | 0x1020_0000 + 4096 * index)
    tables.words[2, 4] &= np.uint64(2**64 - 2)
    extents = tables.image().extents()
    assert extents[["gfn", "nr"]].tolist() == [(GFN, 512), (GFN + 512, 512)]
    assert extents["valid"].tolist() == [True, True]
    assert extents["reachable"].tolist() == [True, False]
    assert tables.image().mapped_runs().tolist() == [(GFN, 0x10000, 1024, 1)]
    assert tables.image().ranges()["reachable"].tolist() == [512]


def test_what_is_neither_valid_nor_of_a_type_is_counted_only(tables: Tables) -> None:
    tables.put(3, 8, 0xFF << 2)
    tables.put(0, 8, TABLE & ~1 & ~(0xF << 55) | BASE)
    image = tables.image()
    assert image.findings() == []
    assert image.ignored_words == 2
    assert image.mapped_runs().tolist() == [(GFN + 5, 0x12345, 1, 1)]


def test_tables_without_p2m_types_are_read_as_they_are(tables: Tables) -> None:
    """As KVM writes them: bit 0 alone says that something is there."""
    tables.words[tables.words != 0] &= np.uint64(~(0xF << 55) & 2**64 - 1)
    tables.put(3, 6, PAGE & ~(0xF << 55) | 0x12346000 | 13 << 55)
    image = tables.image()
    assert image.mapped_runs().tolist() == [(GFN + 5, 0x12345, 1, 0), (GFN + 6, 0x12346, 1, 13)]
    assert image.findings() == []


def test_of_each_kind_a_thousand_are_listed_and_all_are_counted(tables: Tables) -> None:
    for row in (4, 5, 6):
        tables.link(0, row, row)
        for index in range(512):
            tables.put(row, index, TABLE | 0x9_0000_0000)
    image = tables.image()
    assert len(image.findings()) == 1000
    assert image.found == {FindingKind.OUTSIDE: 3 * 512}


def test_a_root_table_that_is_cut_off(tables: Tables) -> None:
    data = tables.words.reshape(-1).view(np.uint8)
    memory = Memory([(BASE, data[:4096]), (BASE + 8192, data[8192:])])
    image = Image(memory, vttbr=BASE, vtcr=VTCR)
    (finding,) = image.findings()
    assert (finding.kind, finding.value) == (FindingKind.OUTSIDE, BASE + 4096)
    assert str(finding) == "root table: the table at 0x40001000 is not in the image"
    assert image.mapped_runs().tolist() == [(GFN + 5, 0x12345, 1, 1)]


@pytest.mark.parametrize("end", [1, 8, 4095, 4096 * 3 - 1, 4096 * 3, 4096 * 4 - 8])
def test_memory_that_ends_inside_a_table(tables: Tables, end: int) -> None:
    data = tables.words.reshape(-1).view(np.uint8)[:end].copy()
    memory = Memory([(BASE, data)])
    if end < 4096:
        with pytest.raises(pf.ImageError, match=r"root table at 0x40000000 is not in the image"):
            Image(memory, vttbr=BASE, vtcr=VTCR)
        return
    found = Image(memory, vttbr=BASE, vtcr=VTCR).findings()
    assert {finding.kind for finding in found} == {FindingKind.OUTSIDE}


def test_memory_that_is_none() -> None:
    zeros = np.zeros(1 << 14, np.uint8)
    for data, error in (
        (np.broadcast_to(np.zeros(1, np.uint8), 1 << 30), ValueError),
        (zeros[::-1], ValueError),
        (zeros[::2], ValueError),
        (zeros.reshape(4, -1), ValueError),
        (zeros.view(np.uint64), TypeError),
        ([0, 0], TypeError),
    ):
        with pytest.raises(error, match=r"memory\[1\] must be"):
            Memory([(0, zeros), (1 << 20, data)])
    for pa in (1.5, None, True):
        with pytest.raises(TypeError, match=r"memory\[0\]'s address must be an integer"):
            Memory([(pa, zeros)])
    assert len(Memory([(0, bytes(8192))])) == 8192


@pytest.mark.parametrize("cuts", [[0x2800], [0x2001, 0x2FFF], [0x2400, 0x2800, 0x2C00, 0x3800]])
@pytest.mark.parametrize("overlap", [0, 0x100])
def test_tables_that_lie_in_several_pieces(tables: Tables, cuts: list[int], overlap: int) -> None:
    data = tables.words.reshape(-1).view(np.uint8)
    ends = [*cuts, len(data)]
    pieces = [
        (BASE + max(start - overlap, 0), data[max(start - overlap, 0) : end])
        for start, end in zip([0, *cuts], ends, strict=True)
    ]
    image = Image(Memory(pieces), vttbr=BASE, vtcr=VTCR)
    assert image.findings() == []
    assert image.mapped_runs().tolist() == tables.image().mapped_runs().tolist()
    assert len(image.memory) == len(data)


def test_a_million_extents_are_counted_before_they_are_listed() -> None:
    """What is wanted of a large image first takes no list of all of it."""
    rng = np.random.default_rng(5)
    p2m = pf.P2M(40)
    gfns = np.arange(1 << 18, dtype=np.uint64)
    p2m.set_entries(gfns, rng.permutation(1 << 18).astype(np.uint64))
    image = Image.of(p2m)
    first = image.ranges(200)
    assert (image.range_count, len(first)) == (len(p2m.mapped_runs()), 200)
    assert "_whole" not in vars(image)
    assert image.totals() == [(1, 3, True, True, 1 << 18, 1 << 18)]
    assert (first == image.ranges()[:200]).all()
    assert len(image.ranges()) == image.range_count


def test_pages_beyond_the_output_size_are_counted() -> None:
    p2m = pf.P2M(40, pa_bits=36, table_base_mfn=0)
    p2m.set_entry(0, 1 << 18, (1 << 24) - (1 << 18))
    p2m.set_entry(1 << 18, 1000, (1 << 24) - 10)
    image = Image.of(p2m)
    assert image.pages_beyond_output == 990
    assert image.findings() == []


# ---- Files ----


def save_all(directory: Path) -> list[Path]:
    p2m = pf.P2M(40)
    p2m.set_entry(0x40000, 1 << 10, 0x80000)
    p2m.set_entry(0x40003, 1, 0x99999)
    for suffix in (".json", ".elf", ".npz"):
        pf.image.save(p2m, directory / f"whole{suffix}")
    return [directory / name for name in ("whole.json", "whole.bin", "whole.elf", "whole.npz")]


def ends_well(path: Path) -> Image | None:
    """The image, looked at from all sides, or None where there is an ImageError that names what is
    wrong."""
    try:
        image = pf.image.load(path)
    except pf.ImageError as error:
        assert str(error)
        return None
    image.findings()
    image.ranges()
    image.totals()
    for ipa in (0, 0x4000_3000, (1 << image.ipa_bits) - 1):
        image.walk(ipa)
        image.translate_many([ipa])
    return image


@pytest.mark.parametrize("which", ["whole.json", "whole.bin", "whole.elf", "whole.npz"])
def test_a_file_that_is_cut_off_anywhere(which: str, tmp_path: Path) -> None:
    save_all(tmp_path)
    whole = (tmp_path / which).read_bytes()
    expected = pf.image.load(tmp_path / which).extents().tolist()
    ends = sorted({*range(0, min(len(whole), 700)), *range(0, len(whole), 251)})
    for end in ends:
        (tmp_path / which).write_bytes(whole[:end])
        image = ends_well(tmp_path / which)
        if image is None:
            continue
        told = {finding.kind for finding in image.findings()} & {FindingKind.TRUNCATED}
        assert told or image.extents().tolist() == expected, end
    (tmp_path / which).write_bytes(whole)
    assert ends_well(tmp_path / which).findings() == []


@settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_with_any_bytes_changed(data: st.DataObject, tmp_path_factory) -> None:
    directory = _whole(tmp_path_factory)
    name = data.draw(st.sampled_from(["whole.json", "whole.bin", "whole.elf", "whole.npz"]))
    whole = (directory / name).read_bytes()
    changed = bytearray(whole)
    try:
        for _ in range(data.draw(st.integers(1, 6))):
            near = st.integers(0, min(len(whole), 512) - 1)
            at = data.draw(near | st.integers(0, len(whole) - 1))
            piece = data.draw(st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8))
            changed[at : at + len(piece)] = piece
        (directory / name).write_bytes(changed)
        ends_well(directory / name)
    finally:
        (directory / name).write_bytes(whole)


_DIRECTORY: list[Path] = []


def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not _DIRECTORY:
        _DIRECTORY.append(tmp_path_factory.mktemp("images"))
        save_all(_DIRECTORY[0])
    return _DIRECTORY[0]


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_JSON = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)
_ADDRESSES = st.sampled_from([0, 1, 4096, 0x80_0000_0000, 2**63, 2**64 - 1, 2**64, -1, "0x1000"])


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["format", "version", "vttbr", "vtcr", "ipa_bits", "pa_bits", "file", "segments"]
        ),
        _JSON
        | _ADDRESSES
        | st.lists(
            st.dictionaries(st.sampled_from(["pa", "offset", "bytes"]), _ADDRESSES | _JSON),
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_header_that_says_anything(tmp_path_factory, changes: dict) -> None:
    directory = _whole(tmp_path_factory)
    header = json.loads((directory / "whole.json").read_text()) | changes
    other = directory / "other.json"
    other.write_text(json.dumps(header))
    ends_well(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, r'"format" is not "p2mfast-table-image"'),
        ({"version": 2}, r'"version" is 2, not 1'),
        ({"vttbr": "x"}, r'"vttbr" must be an unsigned 64-bit number, not \'x\''),
        ({"vttbr": None}, r"does not say where its tables are: give vttbr"),
        ({"vtcr": True}, r'"vtcr" must be an unsigned 64-bit number'),
        ({"file": "../../etc/passwd"}, r'"file" must name a file beside it'),
        ({"file": "/etc/passwd"}, r'"file" must name a file beside it'),
        ({"file": None}, r'"file" must name a file beside it'),
        ({"root_pages": 3}, r'"root_pages" is 3, VTCR says 2'),
        ({"version": True}, r'"version" is True, not 1'),
        ({"pa_bits": 41}, r"whole.json: pa_bits must be one of"),
        ({"segments": {}}, r'"segments" must be a list'),
        ({"segments": [1]}, r'"segments" must be a list of objects'),
        ({"segments": [{"pa": 0, "offset": -1, "bytes": 1}]}, r'"offset" must be an unsigned'),
        ({"file": "missing"}, r'"file": .*No such file'),
        ({"file": "a\0b"}, r'"file": embedded null byte'),
        ({"segments": []}, r"is not in the image, which has no memory at all"),
    ],
)
def test_what_is_wrong_with_a_header_is_named(change: dict, message: str, tmp_path: Path) -> None:
    save_all(tmp_path)
    header = json.loads((tmp_path / "whole.json").read_text()) | change
    (tmp_path / "whole.json").write_text(json.dumps(header))
    with pytest.raises(pf.ImageError, match=message):
        pf.image.load(tmp_path / "whole.json")


def test_what_a_file_says_of_itself_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    save_all(tmp_path)
    header = json.loads((tmp_path / "whole.json").read_text())
    header["source"] = "\x1b[2J\ud800\nNo findings" + "x" * 100_000
    (tmp_path / "whole.json").write_text(json.dumps(header))
    source = pf.image.load(tmp_path / "whole.json").source
    assert source.startswith("?[2J??No findingsxxx")
    assert len(source) < 300


def test_either_name_of_a_raw_image_with_other_registers(tmp_path: Path) -> None:
    save_all(tmp_path)
    for name in ("whole.json", "whole.bin"):
        image = pf.image.load(tmp_path / name, ipa_bits=40, vttbr=0x80_0000_0000)
        assert image.vttbr == 0x80_0000_0000
    with pytest.raises(pf.ImageError, match=r"base 0x0: .*whole\.json says itself"):
        pf.image.load(tmp_path / "whole.json", base=0)


def test_json_that_is_too_deep_or_none(tmp_path: Path) -> None:
    for text in ("[" * 200_000, "{", "", "\xff", "null"):
        (tmp_path / "x.json").write_text(text, encoding="latin-1")
        (tmp_path / "x.bin").write_bytes(bytes(4096))
        with pytest.raises(pf.ImageError):
            pf.image.load(tmp_path / "x.json")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("hello")
    for name, message in (
        ("pipe", "is not a regular file"),
        ("", "is not a regular file"),
        ("empty", "is empty"),
        ("text", "for raw memory give base"),
    ):
        with pytest.raises(pf.ImageError, match=message):
            pf.image.load(tmp_path / name, vttbr=0, ipa_bits=40)
    with pytest.raises(FileNotFoundError):
        pf.image.load(tmp_path / "missing")


def test_a_base_where_the_file_says_it(tmp_path: Path) -> None:
    for path in save_all(tmp_path)[2:]:
        with pytest.raises(pf.ImageError, match=r"base 0x1000: .* says itself"):
            pf.image.load(path, base=0x1000)
    with pytest.raises(pf.OutOfRange, match=r"base must be from 0 to 2\*\*64 - 1"):
        pf.image.load(tmp_path / "whole.bin", vttbr=0, ipa_bits=40, base=1 << 64)
    with pytest.raises(pf.ImageError, match=r"are beyond 52 bits of address"):
        pf.image.load(tmp_path / "whole.bin", vttbr=0, ipa_bits=40, base=(1 << 64) - 4096)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"meta": np.array("{}")},
        {"meta": np.array(3), "page_pa": np.zeros(1, "u8"), "page": np.zeros((1, 512), "u8")},
        {"page_pa": np.zeros(2, "u8")},
        {"page_pa": np.zeros(1, "f8")},
        {"page_pa": np.array(3, "u8")},
        {"page_pa": np.full(1, 4095, "u8")},
        {"page": np.zeros((1, 511), "u8")},
        {"page": np.array(3, "u8")},
        {"page": np.array([[object()] * 512], object)},
        {"page": np.zeros((0, 512), "u8"), "page_pa": np.zeros(0, "u8")},
    ],
)
def test_an_npz_of_something_else(members: dict, tmp_path: Path) -> None:
    save_all(tmp_path)
    with np.load(tmp_path / "whole.npz") as arrays:
        whole = dict(arrays) if len(members) == 1 and "meta" not in members else {}
    path = tmp_path / "other.npz"
    if "page" in members and members["page"].shape == (0, 512):
        with np.load(tmp_path / "whole.npz") as arrays:
            whole = dict(arrays)
    np.savez(path, **(whole | members))
    with pytest.raises(pf.ImageError):
        pf.image.load(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("meta.npy", "page_pa.npy", "page.npy"):
            head = b"{'descr': 1, 'fortran_order': False, 'shape': (1,)}".ljust(117) + b"\n"
            archive.writestr(name, b"\x93NUMPY\x01\x00\x76\x00" + head)
    (tmp_path / "x.npz").write_bytes(buffer.getvalue())
    with pytest.raises(pf.ImageError, match=r"cannot be read as an \.npz of table pages"):
        pf.image.load(tmp_path / "x.npz")


@pytest.mark.parametrize("which", ["meta.npy", "page_pa.npy", "page.npy"])
def test_an_npz_whose_members_are_no_arrays(which: str, tmp_path: Path) -> None:
    save_all(tmp_path)
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, b"no array" if name == which else data)
    with pytest.raises(pf.ImageError):
        pf.image.load(tmp_path / "x.npz")


def test_an_npz_whose_header_numpy_trips_over(tmp_path: Path) -> None:
    """NumPy raises tokenize.TokenError for this one."""
    save_all(tmp_path)
    path = tmp_path / "x.npz"
    header = b"{'descr': '<u8', 'fortran_order': Faer': '".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("meta.npy", "page_pa.npy", "page.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00\x76\x00" + header)
    with pytest.raises(pf.ImageError, match=r"cannot be read as an \.npz"):
        pf.image.load(path)


def test_an_npz_that_unpacks_to_more_than_there_is_memory(tmp_path: Path) -> None:
    """The archive's directory says 2 TiB of a member that has a few bytes."""
    path = tmp_path / "x.npz"
    pf.image.save(pf.P2M(40), path)
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path, "a", allowZip64=True) as archive:
        member = archive.getinfo("page.npy")
        member.file_size = 2 << 40
        archive.writestr("more", b"")  # writes the directory anew
    assert path.read_bytes() != whole
    with pytest.raises(pf.ImageError, match=r"unpacks to 2097\d\d\d MiB, more than half"):
        pf.image.load(path)


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    save_all(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    p2m = pf.P2M(40)
    with pytest.raises(pf.ImageError, match=r"the suffix must be one of"):
        pf.image.save(p2m, tmp_path / "whole.txt")
    with pytest.raises(FileNotFoundError):
        pf.image.save(p2m, tmp_path / "missing" / "x.elf")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OSError, match="folder"):
        pf.image.save(p2m, tmp_path / "folder.json")
    assert not (tmp_path / "folder.bin").exists()
    (tmp_path / "folder.json").rmdir()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
