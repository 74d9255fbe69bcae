"""A replay as a picture: for each trace a panel of what was touched, and one a run of what was
cleaned, flushes downwards and guest physical addresses to the right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from p2mfast.experiment.replay import FlushEvent, Run
from p2mfast.experiment.report import policy_names
from p2mfast.experiment.trace import GuestTrace
from p2mfast.hypervisor.policy import Policy
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
    shades,
    size_in_steps,
    wrap,
)
from p2mfast.units import PAGE_SIZE, format_size

COLUMNS = 128
"""Cells across guest memory, at the most."""

# Two hues that the colour-blind tell apart: something in the cell was touched, or nothing was.
TOUCHED, IN_VAIN = shades("Blues"), shades("Oranges")
BAR = "#888888"

_LEFT, _MAP, _BARS = 1.55, 4.3, 1.7
_RIGHT = WIDTH - _BARS - MARGIN
_GAP = 0.12
_LABELLED_ROW = 0.115  # room for a SMALL label
_ROW = 0.075
_CAUSES = {"set-way": "set/way", "cache-toggle": "caches"}


@dataclass(frozen=True)
class _Cells:
    """Guest memory cut into cells, and a run's flushes over them; the last row is the end."""

    edges: Frames
    touched: Frames
    """A row a flush: pages touched since the one before it. The last row is never flushed."""
    touched_pages: list[int]
    cleaned: Frames


def _edges(trace: GuestTrace) -> Frames:
    order = (trace.ram_pages - 1).bit_length() - COLUMNS.bit_length() + 1
    inner = np.arange(0, trace.ram_pages, 1 << max(order, 0))
    return trace.ram_base_gfn + np.append(inner, trace.ram_pages)


def _cells(run: Run) -> _Cells:
    edges = _edges(run.trace)
    touched = run.touched()
    rows = [np.histogram(gfns.astype(np.int64), edges)[0] for gfns in touched]
    cleaned = [_cleaned(flush, edges) for flush in run.flushes]
    cleaned.append(np.zeros(len(edges) - 1, np.int64))
    return _Cells(edges, np.array(rows), [len(gfns) for gfns in touched], np.array(cleaned))


def _cleaned(flush: FlushEvent, edges: Frames) -> Frames:
    if flush.runs is None:
        raise ValueError("a run to be plotted must have kept its runs: replay(..., keep_runs=True)")
    return cell_pages(flush.runs["gfn"].astype(np.int64), flush.runs["nr"].astype(np.int64), edges)


@dataclass(frozen=True)
class _Block:
    """One trace: its runs, what they did, and how high their panels are."""

    trace: GuestTrace
    runs: list[Run]
    cells: list[_Cells]

    @property
    def reference(self) -> int:
        """The run that shows what was touched: under iommu_shared there is no flush at all."""
        return max(range(len(self.runs)), key=lambda number: len(self.runs[number].flushes))

    @cached_property
    def name(self) -> list[str]:
        return wrap(self.trace.name, LARGE)

    @cached_property
    def heading(self) -> list[str]:
        trace = self.trace
        return wrap(
            f"{trace.guest}: {trace.guest_bits}-bit, {trace.vcpus} vCPU{'s'[: trace.vcpus - 1]},"
            f" {format_size(trace.ram_pages * PAGE_SIZE)} of RAM; a cell is"
            f" {format_size(int(self.pages_a_cell.max()) * PAGE_SIZE)}"
        )

    @property
    def pages_a_cell(self) -> Frames:
        return np.diff(self.cells[0].edges)

    @property
    def panels(self) -> list[float]:
        """Heights: what was touched, then each run."""
        touched = min(max(len(self.cells[self.reference].touched) * _LABELLED_ROW, 0.3), 4.0)
        return [touched] + [min(max(len(cells.cleaned) * _ROW, 0.6), 2.4) for cells in self.cells]

    @property
    def height(self) -> float:
        return (
            LINE * (len(self.name) * 1.3 + len(self.heading) + 1.6)
            + sum(self.panels)
            + _GAP * len(self.runs)
            + 0.65
        )


def draw(runs: Sequence[Run]) -> Figure:
    """The figure: a block a trace, then the policies' meaning and the colours'."""
    if not runs:
        raise ValueError("there is no run to be plotted")
    names = policy_names(list(dict.fromkeys(run.policy for run in runs)))
    blocks = []
    for trace in {id(run.trace): run.trace for run in runs}.values():
        mine = [run for run in runs if run.trace is trace]
        blocks.append(_Block(trace, mine, [_cells(run) for run in mine]))
    key = [line for name, words in names.values() for line in wrap(f"{name}: {words}")]
    page = Page(sum(block.height for block in blocks) + len(key) * LINE + 0.85 + 2 * MARGIN)
    # One scale for all: from a single page of the largest cell to all of it.
    norm = LogNorm(min(1 / max(int(block.pages_a_cell.max()) for block in blocks), 0.1), 1)
    top = MARGIN
    for block in blocks:
        _draw_block(page, top, block, {policy: name for policy, (name, _) in names.items()}, norm)
        top += block.height
    page.text(MARGIN, top, "\n".join(key))
    _draw_colours(page, top + len(key) * LINE + 0.1, norm)
    return page.figure


def _draw_block(
    page: Page, top: float, block: _Block, names: dict[Policy, str], norm: LogNorm
) -> None:
    page.text(MARGIN, top, "\n".join(block.name), LARGE)
    top += len(block.name) * LINE * 1.3
    page.text(MARGIN, top, "\n".join(block.heading), color=GRAY)
    top += LINE * (len(block.heading) + 0.5)
    page.text(MARGIN + 0.2, top, "cause, vCPU, 10⁹ instr.", SMALL)
    page.text(_LEFT, top, "touched by the guest since the flush before")
    page.text(_RIGHT, top, "pages a flush")
    top += LINE * 1.1
    most = max(
        10,
        *(flush.pages for run in block.runs for flush in run.flushes),
        *block.cells[block.reference].touched_pages,
    )
    heights = block.panels
    last = len(block.runs)
    for number, height in enumerate(heights):
        which = number - 1 if number else block.reference
        run, cells = block.runs[which], block.cells[which]
        left = page.axes(_LEFT, top, _MAP, height, label="map")
        right = page.axes(_RIGHT, top, _BARS, height, label="bars", sharey=left)
        if number:
            _draw_cleaned(left, cells, norm)
            _draw_bars(right, cells, run)
            page.text(MARGIN, top, _words(run, names[run.policy]), SMALL)
        else:
            _mesh(left, cells.edges, cells.touched / block.pages_a_cell, norm, TOUCHED)
            _draw_bars(right, cells, None)
        _label_flushes(left, run, height, words=not number)
        _label_addresses(left, block.trace, number == last)
        _label_counts(right, most, number == last)
        top += height + _GAP


def _words(run: Run, name: str) -> str:
    return (
        f"{name}\n{format_size(PAGE_SIZE << run.page_order)} pages\n"
        f"{run.pages_cleaned:,} cleaned\n{run.traps:,} traps"
    )


def _mesh(
    axes: Axes, edges: Frames, shares: npt.NDArray[np.float64], norm: LogNorm, colours: Colormap
) -> None:
    """Cells in the colours of their shares; a share of 0 is left white."""
    axes.pcolormesh(
        edges * PAGE_SIZE,
        np.arange(len(shares) + 1),
        np.ma.masked_equal(shares, 0),
        norm=norm,
        cmap=colours,
    )
    axes.set_ylim(len(shares), 0)


def _draw_cleaned(axes: Axes, cells: _Cells, norm: LogNorm) -> None:
    shares = cells.cleaned / np.diff(cells.edges)
    _mesh(axes, cells.edges, np.where(cells.touched > 0, shares, 0), norm, TOUCHED)
    _mesh(axes, cells.edges, np.where(cells.touched > 0, 0, shares), norm, IN_VAIN)
    if len(shares) == 1:
        axes.text(
            0.5, 0.5, "no flush", size=SMALL, transform=axes.transAxes, ha="center", va="center"
        )


def _draw_bars(axes: Axes, cells: _Cells, run: Run | None) -> None:
    """Bars of pages cleaned, and a mark where those touched end; without a run the mark alone."""
    axes.set_xscale("log")
    rows = np.arange(len(cells.touched_pages))
    if run:
        pages = [flush.pages for flush in run.flushes]
        axes.barh(rows[:-1] + 0.5, pages, height=0.8, color=BAR)
    else:
        axes.barh(rows + 0.5, cells.touched_pages, height=0.8, color=TOUCHED(0.6))
    flushed = rows[:-1] if run else rows
    axes.vlines(np.array(cells.touched_pages)[flushed], flushed, flushed + 1, "black", lw=1.3)


def _label_flushes(axes: Axes, run: Run, height: float, words: bool) -> None:
    """A label a flush, or every so many, and one for what came after the last."""
    rows = len(run.flushes) + 1
    step = math.ceil(_LABELLED_ROW * rows / height - 1e-6)
    shown = [*range(0, rows - step, step), rows - 1]
    labels = [str(row + 1) for row in shown[:-1]] + ["end"]
    if words:
        labels = [
            f"{row + 1}  {_CAUSES[flush.cause]}  {flush.vcpu}  {flush.icount / 1e9:.3f}"
            for row, flush in ((row, run.flushes[row]) for row in shown[:-1])
        ] + [f"end  {run.trace.instructions / 1e9:.3f}"]
    axes.set_yticks([row + 0.5 for row in shown], labels, size=SMALL)
    axes.tick_params(axis="y", length=2, pad=2)


def _label_addresses(axes: Axes, trace: GuestTrace, shown: bool) -> None:
    start, size = trace.ram_base_gfn * PAGE_SIZE, trace.ram_pages * PAGE_SIZE
    step = max(1 << size.bit_length() - 3, PAGE_SIZE)
    ticks = range(-(-start // step) * step, start + size + 1, step)
    axes.set_xlim(start, start + size)
    axes.set_xticks(ticks, [size_in_steps(tick, step) for tick in ticks], size=SMALL)
    axes.tick_params(axis="x", length=3, labelbottom=shown)
    if shown:
        axes.set_xlabel("guest physical address", size=NORMAL)


def _label_counts(axes: Axes, most: int, shown: bool) -> None:
    axes.set_xlim(0.7, most * 1.6)
    ticks = {1: "1", 10**2: "100", 10**4: "10 k", 10**6: "1 M", 10**8: "100 M"}
    inside = [tick for tick in ticks if tick <= most]
    axes.set_xticks(inside, [ticks[tick] for tick in inside], size=SMALL)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", length=3, labelbottom=shown)
    axes.tick_params(axis="y", left=False, labelleft=False)
    axes.grid(axis="x", color="#dddddd", lw=0.5)
    axes.set_axisbelow(True)
    if shown:
        axes.set_xlabel("pages (log)", size=NORMAL)


def _draw_colours(page: Page, top: float, norm: LogNorm) -> None:
    """Two colour bars and the marks of the bars."""
    ticks = [tick for tick in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0) if norm(tick) >= 0]
    for number, (words, colours) in enumerate(
        (
            ("share of a cell touched, or cleaned\nwhere something in it was touched", TOUCHED),
            ("share of a cell cleaned\nthough nothing in it was touched", IN_VAIN),
        )
    ):
        left = MARGIN + number * 2.7
        page.text(left, top, words, SMALL)
        axes = page.axes(left + 0.1, top + 0.32, 2.1, 0.12, label="colours")
        bar = page.figure.colorbar(
            ScalarMappable(norm, colours), cax=axes, orientation="horizontal"
        )
        bar.set_ticks(
            ticks, labels=[f"{tick:.4%}".rstrip("0%").rstrip(".") + " %" for tick in ticks]
        )
        bar.minorticks_off()
        axes.tick_params(labelsize=SMALL, length=2)
    page.figure.legend(
        handles=[
            Patch(color=BAR, label="pages cleaned in a flush"),
            Patch(color=TOUCHED(0.6), label="pages touched before it"),
            Line2D(
                [], [], color="black", marker="|", ls="", ms=9, mew=1.3, label="the same, as a mark"
            ),
        ],
        loc="upper left",
        bbox_to_anchor=((MARGIN + 5.5) / WIDTH, 1 - top / page.height),
        borderaxespad=0,
        fontsize=SMALL,
        frameon=False,
    )
