"""Pictures of replays: what is drawn against a reckoning by page, and that it can be read.

Also the files of all pictures, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh
from pictures import assert_legible, extents, labelled, meshes, words_of

import p2mfast as pf
from p2mfast import plot
from p2mfast.cli import main
from p2mfast.experiment import report
from p2mfast.experiment.replay import Run, replay, to_json
from p2mfast.experiment.trace import TIMELINE_DTYPE, GuestTrace, Kind, load
from p2mfast.plot import flushes

RECORDED = Path(__file__).parent / "data" / "guest_traces"
LONG = (
    "arm=creation-finished,resolve=level,fault_around=18,flush=leaf,budget=9223372036854775807,"
    "defer=true"
)
WIDE = r"$\nonsense{$ " + "W" * 300


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
        pytest.param(
            lambda: kept(made_up(1, name=r"$\nonsense{$ " + "W" * 300), LONG), id="wide words"
        ),
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
