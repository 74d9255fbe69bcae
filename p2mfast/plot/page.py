"""The sheet that plots are drawn on: a fixed width, laid out in inches from the top.

Placed by hand: a picture may have a hundred panels, for which matplotlib's own layout takes
minutes, and every height is known beforehand.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

Frames = npt.NDArray[np.int64]
"""Frame numbers and counts: signed, so that they can be subtracted."""

WIDTH = 8.0
MARGIN = 0.12
SMALL, NORMAL, LARGE = 7.0, 8.0, 10.0
LINE = 0.15
"""Height of a line of NORMAL text."""
GRAY = "#555555"

_UNITS = {2**10: "KiB", 2**20: "MiB", 2**30: "GiB", 2**40: "TiB"}
_DPI = 150
_MOST_PIXELS = 2**16 - 1  # a side, in Agg


class Page:
    """A figure of the given height, and where things go on it."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
        """Axes whose upper left corner is there."""
        return self.figure.add_axes(
            (
                left / WIDTH,
                1 - (top + height) / self.height,
                width / WIDTH,
                height / self.height,
            ),
            **options,
        )

    def text(self, left: float, top: float, words: str, size: float = NORMAL, **style: Any) -> Text:
        """Words whose upper left corner is there. They come from files: a $ is a $."""
        style = {"va": "top", "ha": "left", "linespacing": 1.25, **style}
        return self.figure.text(
            left / WIDTH, 1 - top / self.height, words, size=size, parse_math=False, **style
        )


def wrap(words: str, size: float = NORMAL) -> list[str]:
    """Lines that fit the page's width; what continues one is indented."""
    room = (WIDTH - 2 * MARGIN) * 72
    font = FontProperties(size=size)
    for characters in range(int(room / size * 2.5), 1, -5):
        lines = textwrap.wrap(words, characters, subsequent_indent="    ")
        if all(
            text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] <= room
            for line in lines
        ):
            break
    return lines


def shades(name: str, lightest: float = 0.3, darkest: float = 0.9) -> Colormap:
    """A part of a colour map that stands out from white."""
    return ListedColormap(mpl.colormaps[name](np.linspace(lightest, darkest, 256)))


def size_in_steps(size: int, step: int) -> str:
    """A size in the unit that suits steps of ``step`` bytes: 2560 MiB by 512 MiB is "2.5 GiB"."""
    unit = max((unit for unit in _UNITS if unit <= 4 * step), default=1)
    return f"{size / unit:.12g} {_UNITS.get(unit, 'B')}"


def cell_pages(gfn: Frames, nr: Frames, edges: Frames) -> Frames:
    """How many pages of the runs lie in each cell, the last ending at the last edge.

    The runs are ascending and disjoint.
    """
    if not len(gfn):
        return np.zeros(len(edges) - 1, np.int64)
    before = np.cumsum(nr) - nr
    # For each edge the last run that starts at or below it, and how much of that lies below.
    at = np.maximum(np.searchsorted(gfn, edges, side="right") - 1, 0)
    below: Frames = before[at] + np.clip(edges - gfn[at], 0, nr[at])
    return np.diff(below)


@contextmanager
def own_settings() -> Iterator[None]:
    """Matplotlib as it comes: the layout is made for its fonts, whatever the user's style is."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["svg.hashsalt"] = "p2mfast"
        yield


def save(figure: Figure, file: str | os.PathLike[str]) -> None:
    """Write it in the format of the file's suffix; the same figure gives the same bytes, under
    :func:`own_settings`."""
    suffix = Path(file).suffix.lower()
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    dpi = min(_DPI, _MOST_PIXELS / figure.get_figheight())
    figure.savefig(file, format=suffix[1:], dpi=dpi, metadata=dates.get(suffix))
