"""The pictures: what is drawn, held against a reckoning by page, and that it can be read."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import p2mfast as pf
from p2mfast import plot
from p2mfast.cli import main
from p2mfast.experiment import report
from p2mfast.experiment.replay import Run, replay, to_json
from p2mfast.experiment.trace import TIMELINE_DTYPE, GuestTrace, Kind, load
from p2mfast.plot import flushes, memory

RECORDED = Path(__file__).parent / "data" / "guest_traces"
LONG = (
    "arm=creation-finished,resolve=level,fault_around=18,flush=leaf,budget=9223372036854775807,"
    "defer=true"
)
EXTENT_DTYPE = np.dtype(
    [
        ("gfn", "<u8"), ("mfn", "<u8"), ("nr", "<u8"), ("attrs", "<u8"), ("level", "i1"),
        ("valid", "?"), ("reachable", "?"),
    ]
)  # fmt: skip

# ---- Can it be read? ----


def boxes_of_text(figure: Figure) -> list[tuple[str, Bbox, Text]]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [
        (text.get_text(), text.get_window_extent(canvas.get_renderer()), text)
        for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip()
    ]


def apart(one: Bbox, other: Bbox, slack: float = 0.5) -> bool:
    return (
        one.x1 <= other.x0 + slack
        or other.x1 <= one.x0 + slack
        or one.y1 <= other.y0 + slack
        or other.y1 <= one.y0 + slack
    )


def assert_legible(figure: Figure) -> None:
    """At 100 dots an inch, 800 across: no text beyond the edge, upon another, or upon data."""
    assert figure.dpi * figure.get_figwidth() == 800
    texts = boxes_of_text(figure)
    for words, box, _ in texts:
        assert min(box.x0, box.y0) >= 0, words
        assert box.x1 <= figure.bbox.x1, words
        assert box.y1 <= figure.bbox.y1, words
    for (words, box, _), (others, other, _) in itertools.combinations(texts, 2):
        assert apart(box, other), (words, others)
    for axes in figure.axes:
        inside = set(axes.texts)
        for words, box, text in texts:
            assert text in inside or apart(box, axes.bbox), words
        for legend in figure.legends:
            assert apart(legend.get_window_extent(), axes.bbox)
    for one, other in itertools.combinations(figure.axes, 2):
        assert apart(one.bbox, other.bbox)
    assert min(text.get_fontsize() for _, _, text in texts) >= 7


def words_of(figure: Figure) -> str:
    return "\n".join(words for words, _, _ in boxes_of_text(figure))


def kept(trace: GuestTrace, *policies: str, orders: tuple[int, ...] = (0, 9)) -> list[Run]:
    return [
        replay(trace, pf.Policy.parse(policy), order, keep_runs=True)
        for policy in policies
        for order in orders
    ]


def made_up(flush_count: int, ram_pages: int = 2**15, name: str = "made-up") -> GuestTrace:
    """A guest that touches a page, cleans by set/way and resets its vCPU, again and again."""
    steps = []
    for number in range(flush_count):
        for kind in (Kind.TOUCHED, Kind.SET_WAY, Kind.RESET):
            row = np.zeros((), TIMELINE_DTYPE)
            row["kind"], row["icount"], row["epoch"] = kind, (number + 1) * 10**8, number
            steps.append(row)
    pages = np.arange(flush_count) * 37 % ram_pages
    return GuestTrace(
        name, f"made up $x$ and $y_{{2}}$, {name}", 32, 1, 0x40000, ram_pages,
        (flush_count + 1) * 10**8, np.array(steps, TIMELINE_DTYPE),
        tuple((np.array([0x40000 + page], np.uint64), np.ones(1, np.uint8)) for page in pages),
    )  # fmt: skip


# ---- Replays ----


def epochs_between(trace: GuestTrace, run: Run) -> list[set[int]]:
    """The pages touched before each flush and after the last: the timeline, told off in order."""
    waiting = [(flush.icount, flush.vcpu) for flush in run.flushes]
    sets: list[set[int]] = [set()]
    for entry in trace.timeline:
        if entry["kind"] == Kind.TOUCHED:
            sets[-1] |= set(trace.epochs[entry["epoch"]][0].tolist())
        elif (
            entry["kind"] in (Kind.SET_WAY, Kind.SCTLR)
            and waiting
            and waiting[0] == (entry["icount"], entry["vcpu"])
        ):
            waiting.pop(0)
            sets.append(set())
    assert not waiting
    return sets


def in_cells(pages: set[int], trace: GuestTrace) -> dict[int, float]:
    """Shares of the cells by column: at most 128 columns, each a power of two of pages."""
    size = 1
    while trace.ram_pages > 128 * size:
        size *= 2
    counts = Counter((page - trace.ram_base_gfn) // size for page in pages)
    sizes = {column: min(size, trace.ram_pages - column * size) for column in counts}
    return {column: count / sizes[column] for column, count in counts.items()}


def drawn(mesh: QuadMesh) -> list[dict[int, float]]:
    rows = np.ma.getdata(mesh.get_array()), np.ma.getmaskarray(mesh.get_array())
    return [
        {int(column): float(data[column]) for column in np.flatnonzero(~mask)}
        for data, mask in zip(*rows, strict=True)
    ]


def labelled(figure: Figure, label: str) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() == label]


def meshes(axes: Axes) -> list[QuadMesh]:
    return [artist for artist in axes.collections if isinstance(artist, QuadMesh)]


@pytest.mark.parametrize("name", ["linux-armhf-smp4-2G", "uefi32-smp2-512M-kernel", "odd size"])
def test_cells_agree_with_a_reckoning_by_page(name: str) -> None:
    if name == "odd size":  # no whole number of cells, nor of blocks
        trace, orders = made_up(5, ram_pages=1000), (0,)
    else:
        file = RECORDED / f"{name}.npz"
        trace, orders = load(file if file.exists() else name), (0, 9)
    runs = kept(trace, "arm=never,flush=all", "arm=creation-finished", orders=orders)
    ram = set(range(trace.ram_base_gfn, trace.ram_base_gfn + trace.ram_pages))
    first, *panels = labelled(flushes.draw(runs), "map")
    touched = epochs_between(trace, runs[0])
    (mesh,) = meshes(first)
    assert drawn(mesh) == [in_cells(pages, trace) for pages in touched]
    for run, axes in zip(runs, panels, strict=True):
        there, in_vain = (drawn(mesh) for mesh in meshes(axes))
        assert len(there) == len(in_vain) == len(touched) == len(run.flushes) + 1
        assert (there[-1], in_vain[-1]) == ({}, {})  # the end is no flush
        for row, pages in enumerate(touched[:-1]):
            cleaned = ram
            if run.policy.flush == "harvest":
                blocks = {page >> run.page_order for page in pages}
                cleaned = {page for page in ram if page >> run.page_order in blocks}
            expected, hit = in_cells(cleaned, trace), in_cells(pages, trace)
            assert there[row] == {at: share for at, share in expected.items() if at in hit}
            assert in_vain[row] == {at: share for at, share in expected.items() if at not in hit}
        assert [mesh.get_cmap() for mesh in meshes(axes)] == [flushes.TOUCHED, flushes.IN_VAIN]


def test_a_mesh_lies_where_the_memory_is() -> None:
    trace = made_up(3, ram_pages=1000)
    first, *_ = labelled(flushes.draw(kept(trace, "arm=auto")), "map")
    corners = meshes(first)[0].get_coordinates()
    end = (trace.ram_base_gfn + 1000) << 12
    assert corners[0, :, 0].tolist() == [*range(0x4000_0000, end, 8 << 12), end]
    assert first.get_xlim() == (0x4000_0000, end)
    assert first.get_ylim() == (4, 0)  # the first flush is on top


def test_bars_and_marks() -> None:
    trace = load("linux-armhf-smp4-2G")
    runs = kept(trace, *report.STANDARD_POLICIES)
    touched, *panels = labelled(flushes.draw(runs), "bars")
    counts = [len(pages) for pages in epochs_between(trace, runs[0])]
    assert [bar.get_width() for bar in touched.patches] == counts
    for run, axes in zip(runs, panels, strict=True):
        assert [bar.get_width() for bar in axes.patches] == [flush.pages for flush in run.flushes]
        (marks,) = (artist for artist in axes.collections if isinstance(artist, LineCollection))
        lines = [line.tolist() for line in marks.get_segments()]
        assert lines == [[[n, row], [n, row + 1]] for row, n in enumerate(counts[:-1])]
        assert axes.get_xscale() == "log"
        assert axes.get_xlim()[0] < 1
        assert axes.get_xlim()[1] > max(flush.pages for flush in run.flushes)


def test_what_a_replays_picture_says() -> None:
    trace = load("linux-armhf-smp4-2G")
    runs = kept(trace, *report.STANDARD_POLICIES, LONG)
    figure = flushes.draw(runs)
    words = words_of(figure)
    for text in (trace.name, trace.guest, "4 vCPUs", "a cell is 16 MiB", "guest physical address"):
        assert text in words
    for run in runs:
        assert f"\n4 KiB pages\n{run.pages_cleaned:,} cleaned\n{run.traps:,} traps" in words or (
            run.page_order
        )
        assert str(run.policy) in words
    maps = labelled(figure, "map")
    labels = [label.get_text() for label in maps[0].get_yticklabels()]
    assert labels == [
        f"{number}  {'set/way' if flush.cause == 'set-way' else 'caches'}  {flush.vcpu}"
        f"  {flush.icount / 1e9:.3f}"
        for number, flush in enumerate(runs[0].flushes, 1)
    ] + ["end  4.081"]
    ticks = maps[-1].get_xticks().tolist(), [t.get_text() for t in maps[-1].get_xticklabels()]
    assert ticks == (
        [2**30 * gib for gib in (1, 1.5, 2, 2.5, 3)],
        ["1 GiB", "1.5 GiB", "2 GiB", "2.5 GiB", "3 GiB"],
    )


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param(lambda: kept(made_up(1), "arm=auto", orders=(0,)), id="one flush"),
        pytest.param(lambda: kept(made_up(60), "arm=auto", LONG), id="60 flushes"),
        pytest.param(lambda: kept(made_up(11), "arm=map", orders=(18,)), id="11 flushes"),
        pytest.param(lambda: kept(made_up(2, 1), "arm=map"), id="a page of RAM"),
        pytest.param(lambda: kept(made_up(2, 2**25), "arm=map", orders=(18,)), id="128 GiB"),
        pytest.param(lambda: kept(made_up(1, name="W" * 300), LONG), id="wide words"),
        pytest.param(
            lambda: kept(load("uefi64-smp2-512M-kernel"), "arm=never", "iommu_shared=true"),
            id="no flush",
        ),
        pytest.param(
            lambda: (
                kept(load("linux-armhf-smp4-2G"), *report.STANDARD_POLICIES, LONG, "arm=map")
                + kept(load(RECORDED / "linux-armhf-smp2-512M-hotplug.npz"), LONG, "budget=1")
            ),
            id="six policies, two traces",
        ),
    ],
)
def test_a_replays_picture_can_be_read(runs) -> None:
    assert_legible(flushes.draw(runs()))


def test_every_recorded_boot_can_be_drawn_and_read() -> None:
    for file in sorted(RECORDED.glob("*.npz")):
        assert_legible(flushes.draw(kept(load(file), "arm=creation-finished", orders=(0,))))


def test_without_any_flush_the_picture_says_so() -> None:
    trace = load("uefi64-smp2-512M-kernel")
    figure = flushes.draw(kept(trace, "arm=never"))
    distinct = len(set().union(*(gfns.tolist() for gfns, _ in trace.epochs)))
    assert words_of(figure).count("no flush") == 2
    (bar,) = labelled(figure, "bars")[0].patches
    assert bar.get_width() == distinct < labelled(figure, "bars")[0].get_xlim()[1]


def test_keeping_the_runs_changes_no_result() -> None:
    trace = load("linux-armhf-smp4-512M")
    (with_runs,) = kept(trace, "arm=creation-finished", orders=(0,))
    without = replay(trace, pf.Policy.parse("arm=creation-finished"), 0)
    assert with_runs.flushes == without.flushes
    assert [flush.runs for flush in without.flushes] == [None] * 9
    assert [int(flush.runs["nr"].sum()) for flush in with_runs.flushes] == [
        flush.pages for flush in without.flushes
    ]
    one, other = (json.loads(json.dumps(to_json([run], run.cost))) for run in (with_runs, without))
    del one["runs"][0]["wall_s"], other["runs"][0]["wall_s"]
    assert one == other
    with pytest.raises(ValueError, match="keep_runs"):
        flushes.draw([without])
    with pytest.raises(ValueError, match="no run"):
        flushes.draw([])


# ---- Guest memory ----


def extents_of(p2m: pf.P2M) -> np.ndarray:
    """Leaves of equal state, coalesced, as an image's extents are."""
    words = p2m.entries()
    leaves = words[(words["level"] == 3) | (words["raw"] & np.uint64(2) == 0)]
    leaves = leaves[np.argsort(leaves["gfn"], kind="stable")]
    rows: list[list[int]] = []
    for level, gfn, raw in zip(*(leaves[n].tolist() for n in ("level", "gfn", "raw")), strict=True):
        entry = p2m.get_entry(gfn)
        mfn, nr = raw >> 12 & (1 << 36) - 1, 1 << 9 * (3 - level)
        state = [raw & ~0xFFFFFFFFF003, level, raw & 1, entry.reachable]
        last = rows[-1] if rows else None
        if last and last[3:] == state and [last[n] + last[2] for n in (0, 1)] == [gfn, mfn]:
            last[2] += nr
        else:
            rows.append([gfn, mfn, nr, *state])
    return np.array([tuple(row) for row in rows], EXTENT_DTYPE)


def extents(*rows: tuple[int, int], type: int = 1, level: int = 3) -> np.ndarray:
    table = np.zeros(len(rows), EXTENT_DTYPE)
    table["gfn"], table["nr"] = zip(*rows, strict=True)
    table["attrs"], table["level"] = type << 55, level
    table["valid"] = table["reachable"] = True
    return table


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
    figure = memory.draw(extents_of(dom0()), 40, "dom0")
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
    figure = memory.draw(table, 48, "every $type$ in $1 \n" + "W" * 200)
    (cells,) = shown(figure)
    assert cells[0, 0, :31:2].tolist() == list(range(16))
    assert (cells[0, 0, 1:31:2] == memory.HOLE).all()
    words = words_of(figure).splitlines()
    for kind in pf.P2MType:
        assert f"{kind.name}: 4 KiB" in words
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


# ---- Files, and the command line ----

MAGIC = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".PNG": b"\x89PNG"}


@pytest.mark.parametrize("suffix", MAGIC)
def test_the_suffix_is_the_format_and_the_bytes_are_the_same_again(
    suffix: str, tmp_path: Path
) -> None:
    runs = kept(made_up(2), "arm=auto", orders=(0,))
    table = extents((0x40000, 512), (0x40400, 3))
    for name in ("one", "two"):
        plot.plot_replay(runs, tmp_path / f"{name}-replay{suffix}")
        plot.plot_image(table, 40, str(tmp_path / f"{name}-image{suffix}"))
    for kind in ("replay", "image"):
        one, two = ((tmp_path / f"{n}-{kind}{suffix}").read_bytes() for n in ("one", "two"))
        assert one.startswith(MAGIC[suffix])
        assert one == two


def test_a_million_extents(tmp_path: Path) -> None:
    table = np.zeros(10**6, EXTENT_DTYPE)
    table["gfn"], table["nr"] = np.arange(10**6) * 3, 2
    table["attrs"], table["level"] = 1 << 55, 3
    table["valid"] = np.arange(10**6) % 2
    figure = memory.draw(table, 40, "a million")
    assert "RAM_RW: 7.629 GiB" in words_of(figure)
    assert "valid, below an armed table: 3.815 GiB" in words_of(figure)


def test_replay_plots_what_it_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Run] = []
    monkeypatch.setattr(plot, "plot_replay", lambda runs, file: seen.extend(runs))
    out = tmp_path / "out.svg"
    assert main(["replay", "linux-armhf-smp4-512M", "--policy", "arm=map", "--plot", str(out)]) == 0
    assert [(str(run.policy), run.page_order) for run in seen] == [("arm=map", 0), ("arm=map", 9)]
    monkeypatch.undo()
    assert main(["replay", "linux-armhf-smp4-512M", "--policy", "arm=map", "--plot", str(out)]) == 0
    text = out.read_text()
    assert text.startswith("<?xml")


@pytest.mark.parametrize(
    ("file", "words"),
    [("out.bmp", "'.bmp'"), ("out", "''"), (".png", "''"), ("no/such/folder/out.png", "no/such")],
)
def test_a_file_that_cannot_be_drawn_is_a_message_and_status_2(
    file: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["replay", "--page-order", "18", "--policy", "arm=map"]
    assert main([*arguments, "--plot", str(tmp_path / file)]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err
    if "folder" not in file:
        assert ".png, .svg, .pdf" in captured.err
        assert not captured.out  # before the work


def test_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "p2mfast\[plot\]"') as caught:
        plot.plot_image(extents((1, 1)), 40, tmp_path / "out.png")
    assert caught.type is plot.MatplotlibMissing
    assert main(["replay", "--plot", str(tmp_path / "out.png")]) == 2
    captured = capsys.readouterr()
    assert 'pip install "p2mfast[plot]"' in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out


def test_matplotlib_is_imported_for_plots_alone(tmp_path: Path) -> None:
    """And pyplot, with its state and its windows, never."""
    code = (
        "import sys, p2mfast.cli as cli\n"
        "assert cli.main(['replay', '--page-order', '18']) == 0\n"
        "assert 'matplotlib' not in sys.modules\n"
        "assert cli.main(['replay', '--page-order', '18', '--plot', 'out.png']) == 0\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "out.png").read_bytes().startswith(MAGIC[".png"])


def test_the_users_settings_are_left_alone_and_change_nothing(tmp_path: Path) -> None:
    runs = kept(made_up(2), "arm=auto", orders=(0,))
    plot.plot_replay(runs, tmp_path / "one.svg")
    mine = {"font.size": 40, "font.family": "monospace", "axes.grid": True, "svg.hashsalt": "mine"}
    with mpl.rc_context(mine):
        before = dict(mpl.rcParams)
        plot.plot_replay(runs, tmp_path / "two.svg")
        assert dict(mpl.rcParams) == before
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
