"""Guest memory as its tables map it, as a picture.

The space is huge and its mappings lie far apart, so it is cut into islands, each drawn on a scale
of its own: rows of cells, each cell a power of two of pages. A row has three bands: the p2m type,
the size of the mappings, and whether the guest can reach them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from p2mfast.plot.page import (
    GRAY,
    LARGE,
    LINE,
    MARGIN,
    NORMAL,
    SMALL,
    WIDTH,
    Frames,
    Page,
    cell_pages,
    size_in_steps,
    wrap,
)
from p2mfast.types import P2MType
from p2mfast.units import PAGE_SIZE, format_size

COLUMNS = 64
"""Cells in a row."""
MOST_ISLANDS = 12
MOST_ROWS = 12

_ALL_ROWS = 48  # in the whole picture, unless that leaves an island fewer than 3
_TYPE_SHIFT = 55

# What a cell shows: types 0 to 15, then levels 0 to 3, then the states.
LEVEL_0 = 16
REACHABLE, PARTLY, BELOW_ARMED, ARMED = range(20, 24)
HOLE = 24
# The usual types are Okabe's and Ito's colours; the others are those that the colour-blind can best
# tell from them and from each other.
COLOURS = [
    "#5A4B5A", "#0072B2", "#7CC7F2", "#E69F00", "#F0E442", "#D55E00", "#009E73", "#B4FFB4",
    "#CC79A7", "#9678FF", "#8700F0", "#001E87", "#000000", "#5A2D00", "#3C004B", "#96C369",
    "#4455FF", "#1A1A1A", "#6B6B6B", "#B8B8B8",
    "#00441B", "#5AAE61", "#F7DC6F", "#C51B7D",
    "#F0F0F0",
]  # fmt: skip
_STATES = {
    REACHABLE: "reachable",
    PARTLY: "some of the cell reachable",
    BELOW_ARMED: "valid, below an armed table",
    ARMED: "armed: bit 0 clear",
}
BANDS = (0.46, 0.66, 0.86, 1.0)
"""Where the bands of type, size and state end in a row, and the space to the next."""

_LEFT, _MAP = 1.1, 6.6
_ROW = 0.22


@dataclass(frozen=True)
class Extents:
    """Columns of the extents, and the kind that each is of in each band."""

    gfn: Frames
    nr: Frames
    type: Frames
    level: Frames
    state: Frames

    def part(self, rows: slice) -> Extents:
        """Some of them."""
        return Extents(
            self.gfn[rows], self.nr[rows], self.type[rows], self.level[rows], self.state[rows]
        )

    @property
    def start(self) -> int:
        """The first GFN."""
        return int(self.gfn[0])

    @property
    def end(self) -> int:
        """The GFN after the last."""
        return int(self.gfn[-1] + self.nr[-1])


def read(extents: npt.NDArray[np.void], ipa_bits: int) -> Extents:
    """The columns of an array of extents. Raises ValueError saying what is wrong with it."""
    needed = ["gfn", "nr", "attrs", "level", "valid", "reachable"]
    missing = [name for name in needed if name not in (extents.dtype.names or ())]
    if missing:
        raise ValueError(f"extents lack {', '.join(missing)}: their dtype is {extents.dtype}")
    frames = 1 << (ipa_bits - 12)
    # Unsigned, so that nothing is negative or overflows before it was compared.
    if (extents["gfn"] >= frames).any() or (extents["nr"] > frames).any():
        raise ValueError(f"extents do not lie in a space of {ipa_bits} bits")
    gfn, nr = extents["gfn"].astype(np.int64), extents["nr"].astype(np.int64)
    if (nr < 1).any() or (gfn[1:] < gfn[:-1] + nr[:-1]).any() or (gfn + nr > frames).any():
        raise ValueError(
            f"extents must be ascending, disjoint, not empty, and end within {ipa_bits} bits"
        )
    level = extents["level"].astype(np.int64)
    if ((level < 0) | (level > 3)).any():
        raise ValueError("extents' level must be from 0 to 3")
    kind = extents["attrs"].astype(np.uint64) >> np.uint64(_TYPE_SHIFT) & np.uint64(0xF)
    state = np.where(
        extents["reachable"], REACHABLE, np.where(extents["valid"], BELOW_ARMED, ARMED)
    )
    return Extents(gfn, nr, kind.astype(np.int64), LEVEL_0 + level, state)


def islands(gfn: Frames, nr: Frames) -> list[slice]:
    """Cut the extents where a gap is large beside what is mapped on both sides of it.

    Only gaps that stand out are looked at, so that there are at most MOST_ISLANDS: pages strewn
    evenly are one island. Of these, the relatively smallest first, those are closed again that are
    up to a quarter of what is mapped on the larger side.
    """
    gaps = gfn[1:] - (gfn[:-1] + nr[:-1])
    usual = 0
    if len(gaps) >= MOST_ISLANDS:
        usual = int(np.partition(gaps, -MOST_ISLANDS)[-MOST_ISLANDS])
    starts = [0, *(np.flatnonzero(gaps > 2 * usual) + 1).tolist()]
    while len(starts) > 1:
        mapped = np.add.reduceat(nr, starts)
        ratios = gaps[np.array(starts[1:]) - 1] / np.maximum(mapped[1:], mapped[:-1])
        closest = int(ratios.argmin())
        if ratios[closest] > 0.25:
            break
        del starts[closest + 1]
    return [slice(*pair) for pair in zip(starts, [*starts[1:], len(gfn)], strict=True)]


@dataclass(frozen=True)
class Raster:
    """An island in cells of ``1 << order`` pages; its first row starts at ``gfn``."""

    gfn: int
    order: int
    cells: npt.NDArray[np.int64]
    """By row, band (type, size, state) and column; -1 beyond the island's ends."""


def raster(island: Extents, most_rows: int) -> Raster:
    """Cells as small as fit into so many rows.

    A cell shows what most of its mapped pages are, and is a hole if none is mapped. Where only some
    can be reached it says so: that is what one looks for.
    """
    order = 0
    while _row(island.end - 1, order) - _row(island.start, order) >= most_rows:
        order += 1
    first = _row(island.start, order)
    rows = _row(island.end - 1, order) - first + 1
    edges = (first * COLUMNS + np.arange(rows * COLUMNS + 1)) << order
    kind, _ = _most(island, island.type, edges)
    level, _ = _most(island, island.level, edges)
    state, counts = _most(island, island.state, edges)
    reachable = counts.get(REACHABLE, np.zeros(len(edges) - 1, np.int64))
    mapped = np.sum(list(counts.values()), axis=0)
    state[(reachable > 0) & (reachable < mapped)] = PARTLY
    cells = np.array([kind, level, state])
    cells[:, mapped == 0] = HOLE
    cells[:, (edges[1:] <= island.start) | (edges[:-1] >= island.end)] = -1
    return Raster(
        first * COLUMNS << order, order, cells.reshape(3, rows, COLUMNS).transpose(1, 0, 2)
    )


def _row(gfn: int, order: int) -> int:
    return (gfn >> order) // COLUMNS


def _most(island: Extents, kinds: Frames, edges: Frames) -> tuple[Frames, dict[int, Frames]]:
    """The kind that most pages of each cell are of, and the pages of each kind."""
    counts = {}
    for kind in np.unique(kinds).tolist():
        rows = kinds == kind
        counts[kind] = cell_pages(island.gfn[rows], island.nr[rows], edges)
    return np.array(list(counts))[np.argmax(list(counts.values()), axis=0)], counts


def draw(extents: npt.NDArray[np.void], ipa_bits: int, title: str) -> Figure:
    """The figure: a panel an island, then the colours and how much memory is of each."""
    table = read(extents, ipa_bits)
    parts = [table.part(rows) for rows in islands(table.gfn, table.nr)] if len(table.gfn) else []
    room = max(_ALL_ROWS // max(len(parts), 1), 3)
    # An island of few extents needs no fine raster.
    rasters = [raster(part, min(2 * len(part.gfn), MOST_ROWS, room)) for part in parts]
    heights = [len(picture.cells) * _ROW for picture in rasters]
    heading = wrap(title, LARGE)
    legends = _legends(table, rasters)
    longest = max((len(patches) for _, patches in legends), default=0)
    lines = [f"In a space of {ipa_bits} bits nothing is mapped."]
    if parts:
        lines = [
            f"{_about(int(table.nr.sum()))} of a space of {ipa_bits} bits mapped. Three bands a"
            " row: p2m type, mapping size, state. Cells show what prevails.",
            "A row begins at the IPA to its left; the scale below has the offset in it.",
        ]
    page = Page(
        LINE * (len(heading) * 1.3 + len(lines) + 1 + longest + 1.5)
        + sum(heights)
        + 0.55 * len(parts)
        + 0.3
    )
    top = MARGIN
    page.text(MARGIN, top, "\n".join(heading), LARGE)
    top += len(heading) * LINE * 1.3
    page.text(MARGIN, top, "\n".join(lines), color=GRAY)
    top += LINE * (len(lines) + 1)
    for part, picture, height in zip(parts, rasters, heights, strict=True):
        _draw_island(page, top, part, picture, height)
        top += height + 0.55
    for number, (name, patches) in enumerate(legends):
        page.figure.legend(
            handles=patches,
            title=name,
            loc="upper left",
            bbox_to_anchor=(
                (MARGIN + number * (WIDTH - 2 * MARGIN) / 3) / WIDTH,
                1 - top / page.height,
            ),
            borderaxespad=0,
            fontsize=SMALL,
            title_fontsize=NORMAL,
            alignment="left",
            frameon=False,
            labelspacing=0.35,
        )
    return page.figure


def _draw_island(page: Page, top: float, part: Extents, picture: Raster, height: float) -> None:
    span, mapped = part.end - part.start, int(part.nr.sum())
    cell, row = PAGE_SIZE << picture.order, PAGE_SIZE * COLUMNS << picture.order
    page.text(
        MARGIN,
        top,
        f"{part.start * PAGE_SIZE:#x} to {part.end * PAGE_SIZE:#x}: {_about(span)},"
        f" {_percent(mapped, span)} mapped. A cell is {format_size(cell)}, a row"
        f" {format_size(row)}.",
    )
    axes = page.axes(_LEFT, top + LINE * 1.1, _MAP, height, label="island")
    _draw_cells(axes, picture)
    rows = np.arange(len(picture.cells))
    axes.set_yticks(
        rows + 0.43,
        [f"{picture.gfn * PAGE_SIZE + number * row:#x}" for number in rows.tolist()],
        size=SMALL,
        family="monospace",
    )
    ticks = range(0, COLUMNS + 1, COLUMNS // 4)
    axes.set_xticks(
        ticks, ["+" + size_in_steps(tick * cell, ticks[1] * cell) for tick in ticks], size=SMALL
    )
    axes.tick_params(length=2, pad=2)
    axes.spines[:].set_visible(False)


def _draw_cells(axes: Axes, picture: Raster) -> None:
    rows = len(picture.cells)
    ends = np.array(BANDS)
    bands = np.append(0, (np.arange(rows)[:, np.newaxis] + ends).ravel())
    # A fourth band, of nothing, is the space between two rows.
    spaced = np.concatenate([picture.cells, np.full((rows, 1, COLUMNS), -1)], axis=1)
    axes.pcolormesh(
        np.arange(COLUMNS + 1),
        bands,
        np.ma.masked_equal(spaced.reshape(rows * len(BANDS), COLUMNS), -1),
        cmap=ListedColormap(COLOURS),
        vmin=-0.5,
        vmax=len(COLOURS) - 0.5,
        edgecolors="white",
        linewidth=0.3,
    )
    axes.set_ylim(rows, 0)


def _legends(table: Extents, rasters: list[Raster]) -> list[tuple[str, list[Patch]]]:
    """The kinds that are there, most of them with how much memory is of it."""
    types, levels, states = (
        np.bincount(kinds, table.nr, len(COLOURS)).astype(np.int64)
        for kinds in (table.type, table.level, table.state)
    )
    named = {int(kind): kind.name for kind in P2MType if kind} | {0: "no type"}
    type_patches = [
        _patch(kind, f"{named.get(kind, f'type {kind}')}: {_about(int(types[kind]))}")
        for kind in np.flatnonzero(types).tolist()
    ]
    level_patches = [
        _patch(
            kind,
            f"{format_size(PAGE_SIZE << 9 * (LEVEL_0 + 3 - kind))}: {_about(int(levels[kind]))}",
        )
        for kind in reversed(np.flatnonzero(levels).tolist())
    ]
    seen = {kind for picture in rasters for kind in np.unique(picture.cells).tolist()}
    state_patches = [
        _patch(kind, words + (f": {_about(int(states[kind]))}" if states[kind] else ""))
        for kind, words in _STATES.items()
        if states[kind] or kind in seen
    ]
    if HOLE in seen:
        state_patches.append(_patch(HOLE, "not mapped"))
    legends = [
        ("upper band: p2m type", type_patches),
        ("middle band: mapping size", level_patches),
        ("lower band: state", state_patches),
    ]
    return legends if rasters else []


def _patch(kind: int, words: str) -> Patch:
    return Patch(facecolor=COLOURS[kind], edgecolor=GRAY, linewidth=0.3, label=words)


def _about(pages: int) -> str:
    """An amount of memory, to four digits."""
    size = pages * PAGE_SIZE
    unit = 1 << min(max(size.bit_length() - 1, 10) // 10 * 10, 40)
    return f"{size / unit:.4g} {format_size(unit)[2:]}"


def _percent(part: int, whole: int) -> str:
    """Never 0 % of something, nor all of what is not all."""
    share = part / whole
    if part == whole:
        return "all"
    return "under 1 %" if share < 0.01 else "over 99 %" if share > 0.99 else f"{share * 100:.0f} %"
