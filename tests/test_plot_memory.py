"""Guest memory as a picture: each cell against a reckoning by page, and that it can be read."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pictures import assert_legible, extents, labelled, meshes, words_of

import p2mfast as pf
from p2mfast import plot
from p2mfast.image import Image
from p2mfast.plot import memory
from p2mfast.types import EXTENT_DTYPE


def shown(figure: Figure) -> list[np.ndarray]:
    """What the islands' cells show: rows, bands, columns; -1 where nothing is drawn."""
    panels = [meshes(axes) for axes in labelled(figure, "island")]
    arrays = [np.ma.filled(mesh.get_array(), -1).astype(int) for (mesh,) in panels]
    return [array.reshape(-1, 4, memory.COLUMNS) for array in arrays]


def dom0() -> pf.P2M:
    """Laid out as Xen maps a dom0: devices low, an interrupt controller, RAM, windows far up."""
    p2m = pf.P2M()
    p2m.set_entry(0x0, 0x8000, 0x0, type=pf.P2MType.MMIO_DIRECT_C)
    p2m.set_entry(0x8010, 0x10, 0x8040, type=pf.P2MType.MMIO_DIRECT_DEV)
    p2m.set_entry(0x10000, 0x2F000, 0x10000, type=pf.P2MType.MMIO_DIRECT_C)
    p2m.set_entry(0x60000, 0x20000, 0x160000)
    p2m.set_entry(0x61E04, 1, 0x99999, type=pf.P2MType.RAM_RO)
    p2m.set_entry(0x4010000, 0x10000, 0x4010000, type=pf.P2MType.MMIO_DIRECT_C)
    p2m.set_entry(0x8000000, 0x8000000, 0x8000000, type=pf.P2MType.MMIO_DIRECT_C)
    p2m.invalidate_root()
    for gfn in (0x60003, 0x61E04, 0x9000000):
        assert p2m.resolve_translation_fault(gfn)
    return p2m


def test_a_dom0_is_drawn_as_four_islands() -> None:
    figure = memory.draw(Image.of(dom0()).extents(), 40, "dom0")
    low, ram, window, high = shown(figure)
    titles = [words for words in words_of(figure).splitlines() if words.startswith("0x")]
    assert [title for title in titles if " to " in title] == [
        "0x0 to 0x3f000000: 1008 MiB, 87 % mapped. A cell is 4 MiB, a row 256 MiB.",
        "0x60000000 to 0x80000000: 512 MiB, all mapped. A cell is 1 MiB, a row 64 MiB.",
        "0x4010000000 to 0x4020000000: 256 MiB, all mapped. A cell is 2 MiB, a row 128 MiB.",
        "0x8000000000 to 0x10000000000: 512 GiB, all mapped. A cell is 2 GiB, a row 128 GiB.",
    ]
    axes = labelled(figure, "island")[1]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        f"{at:#x}" for at in range(0x6000_0000, 0x8000_0000, 0x400_0000)
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "+0 MiB", "+16 MiB", "+32 MiB", "+48 MiB", "+64 MiB",
    ]  # fmt: skip
    assert (low[0, 0, :32] == pf.P2MType.MMIO_DIRECT_C).all()
    assert low[0, :3, 32].tolist() == [pf.P2MType.MMIO_DIRECT_DEV, 19, memory.BELOW_ARMED]
    assert (low[0, :3, 33:] == memory.HOLE).all()
    assert (low[-1, :3, 60:] == -1).all()  # beyond the island's end
    assert (ram[:, 0] == pf.P2MType.RAM_RW).all()  # the one page of another type is outnumbered
    # Two blocks of 2 MiB, the second never touched; one in pages, one of which was touched.
    here, there, part = memory.REACHABLE, memory.ARMED, memory.PARTLY
    assert ram[0, 1:3, :4].tolist() == [[18] * 4, [here, here, there, there]]
    assert ram[0, 1:3, 30:32].tolist() == [[19, 19], [part, there]]
    assert (window[:, 2] == memory.BELOW_ARMED).all()
    assert set(np.unique(high[:, 2])) <= {memory.REACHABLE, memory.ARMED, memory.PARTLY}
    assert (high[:, 1] == 17).all()
    for words in ("RAM_RW: 512 MiB", "RAM_RO: 4 KiB", "MMIO_DIRECT_DEV: 64 KiB", "1 GiB: 512 GiB"):
        assert words in words_of(figure)
    assert_legible(figure)


@st.composite
def layouts(draw: st.DrawFn) -> np.ndarray:
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 7, 300, 5000]), min_size=1, max_size=12))
    rows, at = [], draw(st.integers(0, 100))
    for gap in gaps:
        nr = draw(st.sampled_from([1, 2, 63, 64, 200, 1000]))
        at += gap
        rows.append((at, nr))
        at += nr
    table = extents(*rows)
    for row in table:
        row["attrs"] |= draw(st.integers(0, 15)) << 55
        row["level"] = draw(st.integers(1, 3))
        row["valid"] = draw(st.booleans())
        row["reachable"] = row["valid"] and draw(st.booleans())
    return table


@settings(deadline=None, max_examples=60)
@given(layouts(), st.integers(1, 12))
def test_rasters_agree_with_a_reckoning_by_page(table: np.ndarray, most_rows: int) -> None:
    read = memory.read(table, 40)
    pages: dict[int, tuple[int, int, int]] = {}
    for row in table:
        state = memory.ARMED
        if row["valid"]:
            state = memory.REACHABLE if row["reachable"] else memory.BELOW_ARMED
        kind = (int(row["attrs"]) >> 55 & 15, memory.LEVEL_0 + int(row["level"]), state)
        pages |= dict.fromkeys(range(row["gfn"], row["gfn"] + row["nr"]), kind)
    start, end = min(pages), max(pages) + 1
    picture = memory.raster(read, most_rows)
    size = 1 << picture.order
    row_pages = size * memory.COLUMNS
    assert picture.gfn == start // row_pages * row_pages
    rows = len(picture.cells)
    assert picture.gfn + (rows - 1) * row_pages < end <= picture.gfn + rows * row_pages
    assert rows <= most_rows
    if size > 1:  # no smaller cells would do
        assert (end - 1) // (row_pages // 2) - start // (row_pages // 2) >= most_rows
    for row, column in itertools.product(range(rows), range(memory.COLUMNS)):
        first = picture.gfn + (row * memory.COLUMNS + column) * size
        bands = picture.cells[row, :, column].tolist()
        inside = [pages[page] for page in range(first, first + size) if page in pages]
        if first >= end or first + size <= start:
            assert bands == [-1, -1, -1]
        elif not inside:
            assert bands == [memory.HOLE] * 3
        else:
            for band, kinds in zip(bands, zip(*inside, strict=True), strict=True):
                counts = Counter(kinds)
                if 0 < counts[memory.REACHABLE] < len(inside):
                    assert band == memory.PARTLY
                else:
                    assert counts[band] == max(counts.values())


@settings(deadline=None, max_examples=60)
@given(layouts())
def test_islands_are_all_the_extents_in_order(table: np.ndarray) -> None:
    read = memory.read(table, 40)
    parts = memory.islands(read.gfn, read.nr)
    assert [row for part in parts for row in range(part.start, part.stop)] == [*range(len(table))]
    assert all(part.start < part.stop for part in parts)
    assert len(parts) <= memory.MOST_ISLANDS


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([(0, 100), (125, 10)], 1),  # a quarter of the larger side
        ([(0, 100), (126, 10)], 2),
        ([(0, 10), (36, 100)], 2),
        ([(0, 100), (125, 50), (212, 10)], 1),  # joined, they reach further
        ([(0, 100), (126, 50), (179, 10)], 2),
        ([(0, 8), (1 << 20, 8), (1 << 27, 8)], 3),
        ([(number << 20, 1) for number in range(100)], 1),  # strewn evenly
        ([(number * number << 10, 1) for number in range(100)], 1),  # and nearly so
        ([(number << 20, 1) for number in range(100)] + [(1 << 27, 1)], 2),
    ],
)
def test_where_islands_are_cut(rows: list[tuple[int, int]], parts: int) -> None:
    table = extents(*rows)
    read = memory.read(table, 40)
    assert len(memory.islands(read.gfn, read.nr)) == parts
    figure = memory.draw(table, 40, "islands")
    assert len(labelled(figure, "island")) == parts
    assert_legible(figure)


def test_every_type_has_its_name_and_a_colour_of_its_own() -> None:
    table = extents(*((gfn, 1) for gfn in range(0, 32, 2)))
    table["attrs"] = np.arange(16, dtype=np.uint64) << np.uint64(55)
    figure = memory.draw(table, 48, r"$\nonsense{$ " + "\n" + "W" * 200)
    (cells,) = shown(figure)
    assert cells[0, 0, :31:2].tolist() == list(range(16))
    assert (cells[0, 0, 1:31:2] == memory.HOLE).all()
    words = words_of(figure).splitlines()
    for kind in list(pf.P2MType)[1:]:
        assert f"{kind.name}: 4 KiB" in words
    assert "no type: 4 KiB" in words
    for number in (12, 13, 14, 15):
        assert f"type {number}: 4 KiB" in words
    assert_legible(figure)
    legend = figure.legends[0]
    assert [patch.get_facecolor()[:3] for patch in legend.get_patches()] == [
        to_rgb(colour) for colour in memory.COLOURS[:16]
    ]


@pytest.mark.parametrize("band", [range(16), range(16, 20), range(20, 24)])
def test_the_colour_blind_can_tell_the_colours(band: range) -> None:
    """Distances in CIELAB as seen without one kind of cones (Machado, Oliveira, Fernandes 2009,
    severity 1), from each other and from what is not mapped."""
    sights = [
        np.eye(3),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]],
    ]  # fmt: skip
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    colours = np.array([to_rgb(memory.COLOURS[kind]) for kind in (*band, memory.HOLE)])
    light = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    for sight in sights:
        xyz = np.clip(light @ np.transpose(sight), 0, 1) @ np.transpose(to_xyz)
        xyz /= (0.9505, 1, 1.089)
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        x, y, z = f.T
        lab = np.transpose([116 * y - 16, 500 * (x - y), 200 * (y - z)])
        for one, other in itertools.combinations(range(len(lab)), 2):
            assert np.linalg.norm(lab[one] - lab[other]) > 15, (one, other)


def test_an_empty_space_is_said_to_be_empty() -> None:
    figure = memory.draw(np.zeros(0, EXTENT_DTYPE), 40, "nobody")
    assert words_of(figure) == "nobody\nIn a space of 40 bits nothing is mapped."
    assert_legible(figure)


def test_as_many_islands_as_there_can_be() -> None:
    rows = [(number << 30, 512 << number) for number in range(12)]
    figure = memory.draw(extents(*rows), 48, "twelve")
    assert len(labelled(figure, "island")) == 12
    assert_legible(figure)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.zeros(1, [("gfn", "u8"), ("nr", "u8")]), "attrs, level, valid, reachable"),
        (extents((5, 1), (5, 1)), "ascending"),
        (extents((5, 2), (6, 1)), "disjoint"),
        (extents((9, 1), (6, 1)), "ascending"),
        (extents((5, 0)), "not empty"),
        (extents((2**28, 1)), "40 bits"),
        (extents((2**28 - 1, 2)), "40 bits"),
        (extents((2**64 - 1, 1)), "40 bits"),
        (extents((1, 2**64 - 1)), "40 bits"),
        (extents((1, 1), level=4), "level"),
        (extents((1, 1), level=-1), "level"),
    ],
)
def test_extents_that_are_none(table: np.ndarray, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        plot.plot_image(table, 40, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_million_extents() -> None:
    table = np.zeros(10**6, EXTENT_DTYPE)
    table["gfn"], table["nr"] = np.arange(10**6) * 3, 2
    table["attrs"], table["level"] = 1 << 55, 3
    table["valid"] = np.arange(10**6) % 2
    figure = memory.draw(table, 40, "a million")
    assert "RAM_RW: 7.629 GiB" in words_of(figure)
    assert "valid, below an armed table: 3.815 GiB" in words_of(figure)
