"""`p2mfast inspect`, as a user calls it."""

from __future__ import annotations

import html.parser
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import p2mfast as pf
from p2mfast.cli import main
from p2mfast.image import Image
from p2mfast.image.report import size_words

REAL = Path(__file__).parent / "data" / "real_p2m"
DOM0 = str(REAL / "xen_dom0_p2m.npz")
ARMHF = str(REAL / "xen_armhf_dom0_p2m.npz")


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """An image whose second level-1 entry points outside."""
    p2m = pf.P2M(40)
    p2m.set_entry(0, 1, 0x1234)
    pf.image.save(p2m, tmp_path / "damaged.json")
    words = np.fromfile(tmp_path / "damaged.bin", "<u8")
    words[1] = 0x0080_0012_3456_77FF
    words.tofile(tmp_path / "damaged.bin")
    return str(tmp_path / "damaged.json")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = main(["inspect", *arguments])
    return status, capsys.readouterr().out


def test_the_map_of_a_real_dump(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = printed(capsys, DOM0)
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    for run in pf.image.load(DOM0).mapped_runs():
        row = next(row for row in rows if row[:1] == [f"{int(run['gfn']) << 12:#x}"])
        assert row[1] == f"{int(run['mfn']) << 12:#x}"
        assert " ".join(row[2:4]) == size_words(int(run["nr"]))
        assert row[4] == pf.P2MType(int(run["type"])).name.lower()
    assert "386 tables; of 384 pointers to them 7 are valid, 377 armed" in out
    assert "No findings: the tables are sound." in out
    assert max(map(len, out.splitlines())) <= 80
    assert result_keys(capsys) >= {"pa_bits", "root_level", "root_pages", "pointers", "ranges"}
    assert "…" not in out


def result_keys(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return set(json.loads(printed(capsys, DOM0, "--json")[1]))


def test_json_has_the_contracts_keys(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = printed(capsys, DOM0, "--json")
    result = json.loads(out)
    image = pf.image.load(DOM0)
    assert status == 0
    assert (result["version"], result["tables"], result["findings"]) == (1, 386, [])
    assert [tuple(run[key] for key in ("gfn", "mfn", "nr", "type")) for run in result["runs"]] == [
        run.tolist() for run in image.mapped_runs()
    ]
    assert set(result["runs"][0]) == {"gfn", "mfn", "nr", "type"}
    assert sum(total["pages"] for total in result["totals"]) == int(image.mapped_runs()["nr"].sum())


def test_findings_end_in_status_1(damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = printed(capsys, damaged)
    assert status == 1
    assert "1 finding:" in out
    assert "level 1, gfn 0x40000, word 1 of the table at 0x8000000000" in out
    assert "the table at 0x1234567000 is not in the image" in out
    status, out = printed(capsys, damaged, "--json")
    assert status == 1
    (finding,) = json.loads(out)["findings"]
    assert (finding["kind"], finding["level"], finding["gfn"]) == ("outside", 1, 0x40000)
    assert finding["value"] == 0x0080_0012_3456_77FF


def test_a_walk(damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = printed(capsys, DOM0, "--walk", "0x40200010")
    assert status == 0
    for step in pf.image.load(DOM0).walk(0x40200010):
        assert f"word {step.index} of the table at {step.table:#x}" in out
        assert pf.decode(step.descriptor, step.level).explain() in out
    assert " read: 0xbffb2010\nwrite: 0xbffb2010\nfetch: 0xbffb2010\n" in out
    status, out = printed(capsys, ARMHF, "--walk", "0")
    assert "read: stage-2 translation fault at level 2" in out
    status, out = printed(capsys, damaged, "--walk", "0x40000000")
    assert status == 1
    assert "level 2  not in the image" in out
    assert "read: stage-2 external fault at level 2" in out
    status, out = printed(capsys, damaged, "--walk", "0x40000000", "--json")
    assert status == 1
    steps = json.loads(out)["walk"]
    assert [step["descriptor"] for step in steps] == [0x0080_0012_3456_77FF, None]
    assert sum(field["value"] << field["low"] for field in steps[0]["fields"]) == (
        0x0080_0012_3456_77FF
    )
    assert json.loads(out)["mmu"]["read"] == "stage-2 external fault at level 2"


def test_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0x40000, 512, 0x80000)
    pf.image.save(p2m, tmp_path / "before.elf")
    p2m.set_entry(0x40003, 1, 0x99999, armed=True)
    pf.image.save(p2m, tmp_path / "after.npz")
    before, after = str(tmp_path / "before.elf"), str(tmp_path / "after.npz")
    status, out = printed(capsys, before, "--diff", after)
    assert status == 1
    assert "2 MiB in 3 ranges differ" in out
    assert "0x40003000, 4 KiB\n  - 0x80003000 ram_rw rwx WB ISH 2M reachable\n" in out
    assert "  + 0x99999000 ram_rw rwx WB ISH 4K armed\n" in out
    status, out = printed(capsys, before, "--diff", after, "--json")
    rows = json.loads(out)["differences"]
    assert [(row["gfn"], row["nr"]) for row in rows] == [
        (0x40000, 3),
        (0x40003, 1),
        (0x40004, 508),
    ]
    assert printed(capsys, before, "--diff", before) == (0, "No differences.\n")


def test_what_is_broken_is_told_by_a_difference_too(
    damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = printed(capsys, damaged, "--diff", damaged)
    assert status == 1
    assert (
        out.splitlines()
        == ["No differences."] + [f"{damaged}: 1 findings; not all of it may be compared"] * 2
    )
    status, out = printed(capsys, damaged, "--diff", damaged, "--json")
    assert (status, json.loads(out)["findings"]) == (1, [1, 1])


def test_a_raw_dump_beside_an_image_that_says_everything_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    p2m = pf.P2M(40, table_base_mfn=0x40000)
    p2m.set_entry(0x40000, 512, 0x80000)
    pf.image.save(p2m, tmp_path / "tables.elf")
    dump = tmp_path / "memory"
    dump.write_bytes(p2m.copy_tables().tobytes())
    registers = ["--vttbr", hex(p2m.vttbr), "--vtcr", hex(p2m.vtcr), "--base", "0x40000000"]
    arguments = [str(dump), *registers, "--diff", str(tmp_path / "tables.elf")]
    assert printed(capsys, *arguments) == (0, "No differences.\n")
    arguments = [str(tmp_path / "tables.elf"), *registers[:4], "--diff", str(dump)]
    assert main(["inspect", *arguments]) == 2
    assert "give base" in capsys.readouterr().err
    two = [str(dump), *registers, "--diff", str(dump), "--diff-vttbr", hex(p2m.vttbr | 5 << 48)]
    assert printed(capsys, *two) == (0, "No differences.\n")
    with pytest.raises(SystemExit):
        main(["inspect", str(dump), "--walk", "0", "--diff", str(dump)])


def test_addresses_are_never_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p2m = pf.P2M(48)
    last = (1 << 36) - 1
    p2m.set_entry(last, 1, last - 1, pf.P2MType.MMIO_DIRECT_DEV)
    pf.image.save(p2m, tmp_path / "wide.elf")
    _, out = printed(capsys, str(tmp_path / "wide.elf"))
    words = f"{last << 12:#x} {last - 1 << 12:#x} 4 KiB mmio_direct_dev rw- nGnRE OSH".split()
    assert any(line.split()[:8] == words for line in out.splitlines())


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    """As `p2mfast inspect ... | head`: no words about it."""
    p2m = pf.P2M(40)
    gfns = np.arange(20_000, dtype=np.uint64)
    p2m.set_entries(gfns, gfns * 7)
    pf.image.save(p2m, tmp_path / "many.elf")
    command = [sys.executable, "-m", "p2mfast", "inspect", "--all", str(tmp_path / "many.elf")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout.readline() == os.fsencode(tmp_path / "many.elf") + b"\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_names_that_no_encoding_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.elf"
    pf.image.save(pf.P2M(40), tmp_path / "plain.elf")
    os.rename(tmp_path / "plain.elf", name)
    status, out = printed(capsys, os.fsdecode(name))
    assert status == 0
    assert "caf?.elf" in out


def test_many_ranges_are_cut_short_unless_all_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    p2m = pf.P2M(40)
    gfns = np.arange(300, dtype=np.uint64)
    p2m.set_entries(gfns, gfns * 7)
    path = str(tmp_path / "many.json")
    pf.image.save(p2m, path)
    _, out = printed(capsys, path)
    assert "... and 100 ranges more (--all, or --json)" in out
    assert out.count("ram_rw") == 200 + 1
    assert len(pf.image.load(path).ranges()) == 300
    _, out = printed(capsys, path, "--all")
    assert out.count("ram_rw") == 300 + 1
    _, out = printed(capsys, path, "--json")
    assert len(json.loads(out)["runs"]) == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "No such file or directory: 'missing'"),
        ([DOM0, "--base", "0x1000"], "base 0x1000: "),
        ([DOM0, "--vttbr", "0x123000"], "the address must be aligned to the root tables"),
        ([DOM0, "--vttbr", "0x120000"], "the root table at 0x120000 is not in the image"),
        ([DOM0, "--ipa-bits", "41"], "ipa_bits must be one of 32, 36, 40, 42, 44, 48, not 41"),
        ([DOM0, "--walk", "0x10000000000"], "ipa 0x10000000000 is beyond the 40-bit IPA space"),
        ([__file__], "for raw memory give base"),
        ([__file__, "--base", "0"], "give vttbr (VTTBR_EL2)"),
    ],
)
def test_a_users_mistake_is_named_and_ends_in_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("p2mfast: ")
    assert message in captured.err


def test_a_number_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["inspect", DOM0, "--walk", "here"])
    assert raised.value.code == 2
    assert "'here' is no number (0x... for hexadecimal)" in capsys.readouterr().err


def test_a_picture_beside_the_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "map.png"
    status, out = printed(capsys, DOM0, "--plot", str(picture))
    assert status == 0
    assert "No findings" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", DOM0, "--plot", str(tmp_path / "map.bmp")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "'.bmp' is none of .png, .svg, .pdf" in captured.err


# ---- Notebooks ----


class Elements(html.parser.HTMLParser):
    """Checks that tags nest; gathers the rows' cells and the strip's titles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs) -> None:
        if tag == "br":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.titles += [value for name, value in attrs if name == "title"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1].append(data)


def test_a_p2m_in_a_notebook() -> None:
    p2m = pf.P2M(40)
    p2m.set_entry(0x40000, 1024, 0x80000)
    p2m.set_entry(0x40005, 1, 7)
    p2m.invalidate_root()
    p2m.resolve_translation_fault(0x40003)
    shown = Elements(p2m._repr_html_())
    assert shown.rows[1] == [
        *("0x40000000", "0x80000000", "20 KiB", "ram_rw", "rwx", "WB ISH", "4K", "20.0%")
    ]
    assert len(shown.rows) == 1 + 3
    assert shown.titles[1] == "0x40005000: 4 KiB of ram_rw, reachable: none"
    assert p2m.resolve_translation_fault(0x40003)  # looking has changed nothing


def test_an_image_with_many_ranges_and_findings_in_a_notebook(damaged: str) -> None:
    assert "<b>1 findings</b>" in pf.image.load(damaged)._repr_html_()
    p2m = pf.P2M(40)
    gfns = np.arange(300, dtype=np.uint64)
    p2m.set_entries(gfns, gfns * 7)
    image = Image.of(p2m)
    image.source = "<script>&"
    text = image._repr_html_()
    assert len(Elements(text).rows) == 1 + 20
    assert "and 280 ranges more" in text
    assert "<script" not in text
    assert Elements(pf.P2M()._repr_html_()).rows[1:] == []
